//! Seeded random runs of many worlds. `DPC_SEEDS=a..b` chooses the seeds, `DPC_TRACE=1` writes the
//! story of each to the standard output.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sim::coverage::Coverage;
use sim::swarm;

/// How to run one seed again.
fn again(seed: u64) -> String {
    format!(
        "DPC_SEEDS={seed}..{} DPC_TRACE=1 cargo test -p sim --test swarm -- --nocapture",
        seed + 1
    )
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("DPC_SEEDS") else { return 0..300 };
    let (a, b) = text.split_once("..").expect("DPC_SEEDS=a..b");
    a.parse().expect("a number")..b.parse().expect("a number")
}

#[test]
fn every_seed_keeps_every_promise() {
    let trace = std::env::var("DPC_TRACE").is_ok();
    let (mut coverage, mut failed, mut steps) = (Coverage::default(), Vec::new(), 0);
    for seed in seeds() {
        let run = catch_unwind(AssertUnwindSafe(|| swarm::run(seed, trace)));
        let report = match run {
            Ok(report) => report,
            Err(_) => {
                println!("seed {seed} panicked\n  {}", again(seed));
                failed.push(seed);
                continue;
            }
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
    assert!(failed.is_empty(), "{} seeds broke a promise: {failed:?}", failed.len());
}
