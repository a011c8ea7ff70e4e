//! What the flight recorder costs on the thread of core: the same load on a core with a tape and on
//! one without, in turn. `cargo run --profile sim -p dpc-core --example recorder_cost`
//!
//! Every object is pushed, delivered and finalised, 64 in a record, with a backlog of 10,000 others
//! in memory, so that snapshots have something to copy. What the recorder's own thread does beside
//! it (leaving out contents, checksums, writing) is timed apart. Times are the thread's own on its
//! CPU, so that a busy machine does not count; Linux tells them.

use std::time::Duration;

use dpc_core::recording::TapeBounds;

#[path = "../benches/bare/mod.rs"]
mod bare;

use bare::{Around, Bare, GROUP};

/// Objects of one round.
const OBJECTS: u64 = 100_000;

/// Objects that wait all the time.
const BACKLOG: u64 = 10_000;

/// What is beside core's thread is done so often in a row: once is over before Linux has looked at
/// the time.
const SEALINGS: u32 = 20;

/// Bytes of a payload.
const BYTES: usize = 512;

/// Pairs of rounds.
const ROUNDS: usize = 9;

/// As a node of the default configuration has them.
const BOUNDS: TapeBounds =
    TapeBounds { segment_bytes: 32 << 20, chunk_bytes: 64 << 10, slice_bytes: 4 << 10 };

/// The time of one round, and of what the recorder's thread would do with it.
fn round(recorded: bool) -> (Duration, Duration, usize) {
    let around = Around { bytes: BYTES, backlog: BACKLOG, ..Around::default() };
    let mut bench = Bare::new(around, recorded.then_some(BOUNDS));
    bench.chunks.clear();
    let began = on_cpu();
    for _ in 0..OBJECTS / GROUP {
        bench.group();
    }
    let took = on_cpu() - began;
    let began = on_cpu();
    let mut bytes = 0;
    for _ in 0..SEALINGS {
        bytes = bench.chunks.iter().map(|chunk| chunk.seal("a program").len()).sum();
    }
    (took, (on_cpu() - began) / SEALINGS, bytes)
}

/// How long this thread has been on a CPU.
fn on_cpu() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let nanos = told.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

fn main() {
    let mut pairs = Vec::new();
    let mut sealing = Vec::new();
    let mut size = 0;
    for n in 0..=ROUNDS {
        let (plain, ..) = round(false);
        let (recorded, sealed, bytes) = round(true);
        // The first pair warms up.
        if n > 0 {
            pairs.push((plain, recorded));
            sealing.push(sealed);
            size = bytes;
        }
    }
    let per_object = |d: Duration| d.as_secs_f64() * 1e6 / OBJECTS as f64;
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let plain = median(pairs.iter().map(|(plain, _)| per_object(*plain)).collect());
    let more = median(pairs.iter().map(|(p, r)| per_object(*r) - per_object(*p)).collect());
    let beside = median(sealing.into_iter().map(per_object).collect());
    println!("core without a tape      {plain:.3} us an object");
    let percent = more / plain * 100.0;
    println!(
        "the tape                 {more:.3} us an object more ({percent:.1} % of core alone), median of {ROUNDS} pairs"
    );
    println!("beside, on its thread    {beside:.3} us an object, besides writing");
    println!("recorded                 {} bytes an object", size as u64 / OBJECTS);
}
