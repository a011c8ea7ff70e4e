//! Threads of their own: how they end with what they belong to, and which go first when there are
//! more of them than processors.

use std::thread::JoinHandle;

use dpc_core::store::StoreError;

/// A thread that is waited for when this is dropped. What tells it to end has to be gone by then: a
/// sender to it stands before this in its struct.
pub(crate) struct Joined(Option<JoinHandle<()>>);

impl Joined {
    /// Starts a thread.
    pub(crate) fn start(
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<Self, StoreError> {
        let started = std::thread::Builder::new().name(name.into()).spawn(work);
        let failed = |error| StoreError::Io(format!("cannot start a thread: {error}"));
        Ok(Self(Some(started.map_err(failed)?)))
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let thread = self.0.take().expect("joined once");
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if thread.join().is_err() {
            tracing::error!(thread = name, "a thread panicked");
        }
    }
}

/// How far a thread stands back: it gets a third of what another one gets, so it does not fall behind
/// for ever.
#[cfg(target_os = "linux")]
const BACK: i32 = 5;

/// The thread that calls this lets others go first from now on: what it does is mostly needed later.
///
/// On Linux alone, where the nice value is a thread's own (sched(7)); elsewhere it would be the
/// whole process's.
pub(crate) fn stand_back() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpriority_process, setpriority_process};
        let set = getpriority_process(None).and_then(|now| setpriority_process(None, now + BACK));
        if let Err(error) = set {
            // Everything works without it, and some sandboxes do not allow it.
            tracing::debug!(%error, "a thread keeps its priority");
        }
    }
}
