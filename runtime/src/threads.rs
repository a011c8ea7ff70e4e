//! Which threads go first when there are more of them than processors.

/// How far a thread stands back: it gets a third of what another one gets, so it does not fall behind
/// for ever.
const BACK: i32 = 5;

/// The thread that calls this lets others go first from now on: its work is needed later than what
/// they do for somebody who waits.
///
/// On Linux alone, where the nice value is a thread's own (sched(7)); elsewhere it would be the
/// whole process's.
pub(crate) fn stand_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, BACK) {
        // Everything works without it, and some sandboxes do not allow it.
        tracing::debug!(%error, "a thread keeps its priority");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = BACK;
}
