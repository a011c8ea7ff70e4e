//! What the embedded store does on this machine: appends a second at two sizes, and the space that
//! truncation gives back. `cargo run --release -p runtime --example store_speed [FOLDER]`

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::record::{Header, hash_of, seal};
use dpc_core::store::{Appended, Claimed, Done, Store};
use dpc_core::time::Wall;
use runtime::store::{Embedded, Options};

fn main() {
    let base = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    for (bytes, seconds) in [(4 << 10, 4), (64 << 10, 6)] {
        append_for(Path::new(&base), bytes, Duration::from_secs(seconds));
    }
}

fn ask<T: Send + 'static>(store: &mut Embedded, request: impl FnOnce(&mut Embedded, Done<T>)) -> T {
    let (tx, rx) = channel();
    request(store, Box::new(move |answer| tx.send(answer).expect("someone waits")));
    rx.recv().expect("an answer comes")
}

fn append_for(base: &Path, bytes: usize, span: Duration) {
    let dir = tempfile::tempdir_in(base).expect("a folder");
    let (mut store, lane) = Embedded::open(dir.path(), &Options::default()).expect("opens");
    let mut claimed = ask(&mut store, |store, done| store.claim(done)).expect("claims");
    let mut body = vec![0; bytes - 96];
    blake3::Hasher::new().finalize_xof().fill(&mut body);
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < span {
        times.push(append(&mut store, lane, &mut claimed, &body));
    }
    let took = start.elapsed();
    let rate = times.len() as f64 / took.as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_micros();
    println!(
        "{bytes} B records: {rate:.0}/s ({:.0} MB/s), append p50 {} µs, p99 {} µs, p99.9 {} µs, max {} µs",
        rate * bytes as f64 / 1e6,
        at(0.5),
        at(0.99),
        at(0.999),
        times.last().expect("some").as_micros(),
    );
    give_back(dir.path(), store, lane, claimed, &body);
}

fn append(store: &mut Embedded, lane: LaneId, claimed: &mut Claimed, body: &[u8]) -> Duration {
    let (epoch, number) = (claimed.epoch, claimed.last.next());
    let header = Header {
        lane,
        epoch: claimed.epoch,
        number,
        wall: Wall(1),
        previous: claimed.last_hash,
        checkpoint: RecordNumber(0),
        entries: 0,
    };
    let record = seal(&header, body);
    claimed.last_hash = hash_of(&record);
    claimed.last = number;
    let before = Instant::now();
    let answer = ask(store, |store, done| store.append(epoch, number, record, done));
    assert_eq!(answer, Appended::Committed);
    before.elapsed()
}

/// Truncates most of the log, goes on appending for a while, and looks at the space in between.
fn give_back(dir: &Path, mut store: Embedded, lane: LaneId, mut claimed: Claimed, body: &[u8]) {
    let held = (claimed.last.0 * body.len() as u64) >> 20;
    println!("  {} records, {held} MiB, on disk {} MiB", claimed.last, disk_mib(dir));
    let below = RecordNumber(claimed.last.0 * 9 / 10);
    let start = Instant::now();
    ask(&mut store, |store, done| store.truncate(below, done)).expect("truncates");
    println!("  truncated 9 of 10 in {:?}: on disk {} MiB at once", start.elapsed(), disk_mib(dir));
    let more = (48 << 20) / body.len();
    for _ in 0..more {
        append(&mut store, lane, &mut claimed, body);
    }
    println!("  after 48 MiB more {} MiB", disk_mib(dir));
    drop(store);
    println!("  closed {} MiB", disk_mib(dir));
    let start = Instant::now();
    let (mut store, _) = Embedded::open(dir, &Options::default()).expect("opens");
    ask(&mut store, |store, done| store.claim(done)).expect("claims");
    println!("  opened and claimed in {:?}, on disk {} MiB", start.elapsed(), disk_mib(dir));
}

fn disk_mib(dir: &Path) -> u64 {
    fn blocks(dir: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let entries = std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry"));
        entries
            .filter_map(|entry| match entry.metadata() {
                Ok(meta) if meta.is_dir() => Some(blocks(&entry.path())),
                Ok(meta) => Some(meta.blocks()),
                Err(_) => None,
            })
            .sum()
    }
    (blocks(dir) * 512) >> 20
}
