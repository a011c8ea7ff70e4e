//! Which threads go first when there are more of them than processors.

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
