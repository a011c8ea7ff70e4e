//! How the kernel gives the process its memory.

/// From now on the process is given memory in pages of the usual size, also where the allocator asks for
/// huge ones. Whoever touches new memory waits until its page is zeroed, and with a page of 2 MiB
/// everything that the thread does waits with it (ADR 0039).
///
/// On Linux alone: nowhere else does an allocator ask for more.
pub(crate) fn stay_with_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        // Everything works without it, and some sandboxes do not allow it.
        tracing::debug!(%error, "the kernel may give huge pages");
    }
}
