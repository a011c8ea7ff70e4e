//! Seeded random runs of many worlds. `DPC_SEEDS=a..b` chooses the seeds, `DPC_PROFILE=disk` what
//! may happen, `DPC_TRACE=1` writes the story of each to the standard output.

use sim::coverage::Coverage;
use sim::swarm::{self, Options};

/// Seeds that are run when none are chosen.
const SEEDS: std::ops::Range<u64> = 0..300;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("DPC_SEEDS") else { return SEEDS };
    let (a, b) = text.split_once("..").expect("DPC_SEEDS=a..b");
    a.parse().expect("a number")..b.parse().expect("a number")
}

fn options() -> Options {
    let profile = std::env::var("DPC_PROFILE").unwrap_or_else(|_| "all".into());
    let profile = profile.parse().expect("the name of a profile");
    Options { profile, trace: std::env::var("DPC_TRACE").is_ok(), ..Options::default() }
}

/// Runs one seed; says whether it kept every promise.
fn kept(seed: u64, options: &Options, coverage: &mut Coverage) -> bool {
    let report = swarm::run(seed, options);
    if options.trace {
        println!("{}", report.trace);
    }
    coverage.merge(&report.coverage);
    let Some(broken) = report.broken else { return true };
    println!("seed {seed}: {broken}\n  dpc sim run {}", report.again);
    false
}

#[test]
fn every_seed_keeps_every_promise() {
    let (options, mut coverage) = (options(), Coverage::default());
    let failed: Vec<u64> = seeds().filter(|seed| !kept(*seed, &options, &mut coverage)).collect();
    println!("{coverage}");
    if std::env::var("DPC_SEEDS").is_err() {
        let missing = coverage.missing();
        assert!(missing.is_empty(), "never occurred: {missing:?}");
    }
    assert!(failed.is_empty(), "{} seeds broke a promise: {failed:?}", failed.len());
}

/// Seeds that broke a promise once: each line of `seeds.txt` is a seed, a profile and what it was.
#[test]
fn seeds_that_failed_once_keep_every_promise_now() {
    let mut failed = Vec::new();
    for line in include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#')) {
        let (seed, rest) = line.split_once(' ').expect("a seed, a profile, and a sentence");
        let (profile, why) = rest.split_once(' ').expect("a profile and a sentence");
        let profile = profile.parse().expect("the name of a profile");
        let options = Options { profile, ..Options::default() };
        if !kept(seed.parse().expect("a number"), &options, &mut Coverage::default()) {
            failed.push(format!("{seed}: {why}"));
        }
    }
    assert!(failed.is_empty(), "broken again: {failed:#?}");
}
