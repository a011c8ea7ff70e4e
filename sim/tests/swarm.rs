//! Seeded random runs of many worlds. `DPC_SEEDS=a..b` chooses the seeds, `DPC_TRACE=1` writes the
//! story of each to the standard output.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sim::coverage::Coverage;
use sim::swarm;

/// What has to occur in the default seeds: a set of runs without it would prove less than it seems.
const NAMED: [&str; 46] = [
    "abort",
    "advanced",
    "an object with hops was delivered",
    "carried forward",
    "checkpoint written",
    "decline",
    "delivered again",
    "discarded",
    "drained",
    "duplicate kept out",
    "emitted",
    "end carried forward",
    "expired and parked",
    "forget",
    "handled and kept",
    "handoff taken",
    "held copy dropped",
    "id index lost",
    "id looked up in the index",
    "id pushed again",
    "id pushed at two nodes",
    "index part rebuilt",
    "killed while a record was on its way",
    "killed with effects in the gate",
    "lease ran out",
    "link refused",
    "log truncated",
    "no-demand alarm",
    "no-demand alarm ended",
    "poison parked",
    "push repeated after a crash",
    "record loaded from disk",
    "redriven",
    "refresh asked",
    "rejected and parked",
    "restarted from a checkpoint",
    "settle refused",
    "settle repeated and answered the same",
    "several hops for one demand",
    "shadow carried forward",
    "status asked",
    "stopped by its store",
    "taken without a stream",
    "transaction",
    "windows",
    "work begun",
];

/// How to run one seed again.
fn again(seed: u64) -> String {
    format!(
        "DPC_SEEDS={seed}..{} DPC_TRACE=1 cargo test -p sim --test swarm -- --nocapture",
        seed + 1
    )
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("DPC_SEEDS") else { return 0..150 };
    let (a, b) = text.split_once("..").expect("DPC_SEEDS=a..b");
    a.parse().expect("a number")..b.parse().expect("a number")
}

#[test]
fn every_seed_keeps_every_promise() {
    let trace = std::env::var("DPC_TRACE").is_ok();
    let (mut coverage, mut failed, mut steps) = (Coverage::default(), Vec::new(), 0);
    for seed in seeds() {
        let run = catch_unwind(AssertUnwindSafe(|| swarm::run(seed, trace)));
        let Ok(report) = run else {
            println!("seed {seed} panicked\n  {}", again(seed));
            failed.push(seed);
            continue;
        };
        if trace {
            println!("{}", report.trace);
        }
        coverage.merge(&report.coverage);
        steps += report.steps;
        if let Some(broken) = report.broken {
            println!("seed {seed}: {broken}\n  {}", again(seed));
            failed.push(seed);
        }
    }
    println!("{steps} events\n{coverage}");
    if std::env::var("DPC_SEEDS").is_err() {
        let missing = coverage.missing(&NAMED);
        assert!(missing.is_empty(), "never occurred: {missing:?}");
    }
    assert!(failed.is_empty(), "{} seeds broke a promise: {failed:?}", failed.len());
}
