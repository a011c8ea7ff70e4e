//! What processes have used: processor time, bytes written, memory. Linux tells; elsewhere these
//! figures are left out.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The unit of processor time in `/proc/PID/stat`, the same on every architecture (proc(5),
/// `USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// What was used up to one moment.
pub(super) struct Meter {
    at: Instant,
    nodes: Vec<u32>,
    client_cpu: Option<Duration>,
    nodes_cpu: Option<Duration>,
    written: Option<u64>,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// The time between them.
    pub(super) elapsed: Duration,
    /// Processor time of this process.
    pub(super) client_cpu: Option<Duration>,
    /// Processor time of the nodes.
    pub(super) nodes_cpu: Option<Duration>,
    /// Bytes that the nodes have sent to their disks.
    pub(super) written: Option<u64>,
}

impl Meter {
    /// Begins to measure this process and those nodes.
    pub(super) fn begin(nodes: Vec<u32>) -> Self {
        let own = cpu("self");
        let nodes_cpu = sum(&nodes, |pid| cpu(&pid.to_string()));
        let written = sum(&nodes, written);
        Self { at: Instant::now(), nodes, client_cpu: own, nodes_cpu, written }
    }

    /// What was used since.
    pub(super) fn used(&self) -> Used {
        let now = Self::begin(self.nodes.clone());
        let cpu =
            |now: Option<Duration>, before: Option<Duration>| Some(now?.saturating_sub(before?));
        Used {
            elapsed: now.at - self.at,
            client_cpu: cpu(now.client_cpu, self.client_cpu),
            nodes_cpu: cpu(now.nodes_cpu, self.nodes_cpu),
            written: now.written.zip(self.written).map(|(now, before)| now.saturating_sub(before)),
        }
    }
}

/// Bytes of memory that the nodes hold.
pub(super) fn resident(nodes: &[u32]) -> Option<u64> {
    sum(nodes, |pid| memory(pid, "VmRSS:"))
}

/// The most bytes of memory that one of the nodes has ever held.
pub(super) fn peak(nodes: &[u32]) -> Option<u64> {
    nodes.iter().filter_map(|pid| memory(*pid, "VmHWM:")).max()
}

fn memory(pid: u32, what: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// Bytes that a folder takes on its disk, with everything in it.
pub(super) fn on_disk(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        // Blocks are counted in 512 bytes on every system (stat(2)); a file may hold fewer than its
        // length says.
        bytes += if data.is_dir() { on_disk(&entry.path())? } else { data.blocks() * 512 };
    }
    Ok(bytes)
}

/// The sum over all nodes; nothing if there is none, or one does not tell.
fn sum<T: std::iter::Sum>(nodes: &[u32], of: impl Fn(u32) -> Option<T>) -> Option<T> {
    if nodes.is_empty() {
        return None;
    }
    nodes.iter().map(|pid| of(*pid)).sum()
}

fn cpu(process: &str) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything; behind it, user and system time are fields 14, 15.
    let mut fields = stat[stat.rfind(')')? + 2..].split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(Duration::from_millis(ticks * (1_000 / TICKS_PER_SECOND)))
}

fn written(pid: u32) -> Option<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_charged_to_it() {
        let own = std::process::id();
        let meter = Meter::begin(vec![own]);
        let mut n = 1u64;
        // Two ticks at least, however fast the machine is.
        while meter.used().client_cpu < Some(Duration::from_millis(20)) {
            (0..1_000_000u64).for_each(|i| n = std::hint::black_box(n.wrapping_mul(31) + i));
        }
        let used = meter.used();
        assert!(used.nodes_cpu >= Some(Duration::from_millis(20)), "{used:?}");
        assert!(used.written.is_some());
        // Not compared with each other: other tests of the process take and give memory meanwhile.
        assert!(resident(&[own]) > Some(1 << 20));
        assert!(peak(&[own]) > Some(1 << 20));
        assert!(Meter::begin(Vec::new()).used().nodes_cpu.is_none(), "nobody was measured");
    }
}
