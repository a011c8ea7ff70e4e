//! Runs many seeds, or tells one.
//!
//! Each of many seeds runs in a process of its own. The order in which tokio drops the tasks of a
//! killed host comes from a counter of the whole process, so a seed that ran beside or after others
//! would not be the one that `--seed` shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use tracing::Level;

use crate::swarm::{self, Report};
use crate::{determinism, telling};

/// The seeds of `cargo test`.
const SOME: Range<u64> = 0..20;

/// A range of at least so many seeds has to have seen everything that is named.
const MANY: u64 = 300;

/// What has to occur in [`SOME`]: a set of runs without it would prove less than it seems.
const NAMED: &[&str] = &[
    "advanced",
    "an object with hops was delivered",
    "an object with two hops was delivered",
    "checkpoint written",
    "connections reset",
    "cut",
    "cut one way",
    "delivered",
    "delivered again",
    "disk stalled",
    "emitted",
    "held",
    "id index lost",
    "id looked up in the index",
    "id pushed again",
    "killed",
    "lease lost",
    "operator answered",
    "power cut",
    "push answered as known",
    "push refused",
    "push with unknown outcome",
    "restarted",
    "settle refused",
    "settle repeated and answered the same",
    "settle with unknown outcome",
    "settled by token",
    "several hops for one demand",
    "stopped as ordered",
    "stopped by its store",
    "subscription closed",
    "subscription dropped",
    "taken without a stream",
    "transaction done",
    "transfers forgotten",
    "work begun",
];

/// What has to occur besides in many seeds.
const NAMED_OF_MANY: &[&str] = &[
    "carried forward",
    "client killed",
    "disk below its reserve",
    "end carried forward",
    "handled and kept",
    "held copy dropped",
    "log truncated",
    "nothing failed",
    "operator not answered",
    "shadow carried forward",
    "subscription not opened",
    "take not answered",
    "transaction refused",
    "transaction with unknown outcome",
];

const USAGE: &str =
    "cargo sim [--seeds A..B | --seed S [--trace [LEVEL]]] | TEST [libtest's flags]";

/// What the command line asks for besides tests.
pub(crate) enum Order {
    /// These seeds, over all processors.
    Many(Range<u64>),
    /// One seed, with its log.
    One(u64, Level),
    /// One seed as the determinism test tells it.
    Tell(u64),
    /// One seed, whose report another process reads.
    Report(u64),
}

/// Asks this program to run a seed and to write its report.
const REPORT: &str = "--report";

impl Order {
    /// Reads the command line; `None` if it is for the test runner.
    pub(crate) fn from_args(args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let args: Vec<String> = args.collect();
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let number =
            |text: &str| text.parse().map_err(|_| format!("`{text}` is not a number; {USAGE}"));
        Ok(Some(match words[..] {
            ["--seeds", range] => {
                let (a, b) = range.split_once("..").ok_or_else(|| USAGE.to_owned())?;
                Self::Many(number(a)?..number(b)?)
            }
            ["--seed", seed] => {
                let seed = number(seed)?;
                Self::Many(seed..seed + 1)
            }
            ["--seed", seed, "--trace"] => Self::One(number(seed)?, Level::INFO),
            ["--seed", seed, "--trace", level] => {
                let level = level.parse().map_err(|_| format!("`{level}` is not a level; {USAGE}"));
                Self::One(number(seed)?, level?)
            }
            [determinism::TELL, seed] => Self::Tell(number(seed)?),
            [REPORT, seed] => Self::Report(number(seed)?),
            _ => return Ok(None),
        }))
    }

    /// Does it.
    pub(crate) fn run(self) -> ExitCode {
        match self {
            Self::Many(seeds) => {
                let many = seeds.end.saturating_sub(seeds.start) >= MANY;
                let all = run(&seeds.collect::<Vec<_>>());
                all.print();
                let missing = if many { all.missing(&[NAMED, NAMED_OF_MANY]) } else { Vec::new() };
                if !missing.is_empty() {
                    println!("never occurred: {missing:?}");
                }
                ExitCode::from(u8::from(!missing.is_empty() || !all.failed.is_empty()))
            }
            Self::One(seed, level) => {
                let report = telling::with(level, std::io::stdout(), || swarm::run(seed));
                println!("{}\n{:?} of simulated time", report.coverage, report.simulated);
                match report.broken {
                    Some(what) => println!("seed {seed}: {what}"),
                    None => return ExitCode::SUCCESS,
                }
                ExitCode::FAILURE
            }
            Self::Tell(seed) => {
                determinism::tell(seed);
                ExitCode::SUCCESS
            }
            Self::Report(seed) => {
                print!("{}", written(&swarm::run(seed)));
                ExitCode::SUCCESS
            }
        }
    }
}

/// The seeds of `cargo test`.
pub(crate) fn some() -> Result<(), Failed> {
    let all = run(&SOME.collect::<Vec<_>>());
    all.print();
    let missing = all.missing(&[NAMED]);
    if !missing.is_empty() {
        return Err(format!("never occurred: {missing:?}").into());
    }
    all.verdict()
}

/// The seeds that found something once.
pub(crate) fn kept() -> Result<(), Failed> {
    let lines = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let seed = |line: &str| {
        let (seed, _what) = line.split_once(' ').ok_or_else(|| format!("no sentence: {line}"))?;
        seed.parse::<u64>().map_err(|_| format!("no seed: {line}"))
    };
    let all = run(&lines.map(seed).collect::<Result<Vec<_>, _>>()?);
    all.print();
    all.verdict()
}

/// A report as text: each count, the simulated time, and what was broken at the end.
fn written(report: &Report) -> String {
    let mut text = String::new();
    for (name, count) in report.coverage.table() {
        writeln!(text, "saw {count} {name}").expect("a string takes everything");
    }
    let micros = report.simulated.as_micros();
    writeln!(text, "simulated {micros}").expect("a string takes everything");
    if let Some(what) = &report.broken {
        writeln!(text, "broken {what}").expect("a string takes everything");
    }
    text
}

/// What a set of runs gave.
#[derive(Default)]
struct All {
    seen: BTreeMap<String, u64>,
    failed: Vec<u64>,
    runs: u64,
    simulated: Duration,
    real: Duration,
}

impl All {
    /// Adds a report as it was written. An error says why it is none.
    fn add(&mut self, seed: u64, report: &str) -> Result<(), String> {
        let mut whole = false;
        for line in report.lines() {
            let (what, rest) = line.split_once(' ').ok_or_else(|| format!("a report: {line}"))?;
            match (what, rest.split_once(' ')) {
                ("saw", Some((count, name))) => {
                    let count: u64 = count.parse().map_err(|_| format!("a count: {line}"))?;
                    *self.seen.entry(name.to_owned()).or_default() += count;
                }
                ("simulated", _) => {
                    let micros = rest.parse().map_err(|_| format!("a time: {line}"))?;
                    self.simulated += Duration::from_micros(micros);
                    whole = true;
                }
                ("broken", _) => {
                    println!("seed {seed}: {rest}\n  {}", again(seed));
                    self.failed.push(seed);
                }
                _ => return Err(format!("a report: {line}")),
            }
        }
        if whole { Ok(()) } else { Err("a report that ends too soon".to_owned()) }
    }

    /// What never occurred, of what these lists name.
    fn missing(&self, lists: &[&[&'static str]]) -> Vec<&'static str> {
        let names = lists.iter().copied().flatten().copied();
        names.filter(|name| self.seen.get(*name).is_none_or(|count| *count == 0)).collect()
    }

    fn verdict(&self) -> Result<(), Failed> {
        match self.failed.as_slice() {
            [] => Ok(()),
            failed => Err(format!("{} seeds broke a promise: {failed:?}", failed.len()).into()),
        }
    }

    fn print(&self) {
        let (simulated, real) = (self.simulated.as_secs_f64(), self.real.as_secs_f64());
        for (name, count) in self.seen.iter().filter(|(_, count)| **count > 0) {
            println!("{name:<42}{count:>10}");
        }
        println!(
            "{} seeds, {} of them failed; {simulated:.0} s of simulated time in {real:.0} s",
            self.runs,
            self.failed.len(),
        );
    }
}

/// The command that shows one seed again.
fn again(seed: u64) -> String {
    format!("cargo sim --seed {seed} --trace")
}

/// Runs seeds on every processor, each in a process of its own.
#[expect(clippy::disallowed_methods, reason = "how long the machine takes is told to people only")]
fn run(seeds: &[u64]) -> All {
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let all = Mutex::new(All::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&seed) = seeds.get(at) else { return };
                    let report = reported(seed);
                    let mut all = all.lock().expect("nobody panics while holding it");
                    all.runs += 1;
                    if let Err(problem) = report.and_then(|report| all.add(seed, &report)) {
                        println!("seed {seed}: {problem}\n  {}", again(seed));
                        all.failed.push(seed);
                    }
                }
            });
        }
    });
    let mut all = all.into_inner().expect("nobody panicked while holding it");
    all.failed.sort_unstable();
    all.real = began.elapsed();
    all
}

/// The report of a seed from its process, or why there is none.
fn reported(seed: u64) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = Command::new(program).args([REPORT, &seed.to_string()]).output();
    let child = child.map_err(|error| error.to_string())?;
    if !child.status.success() {
        return Err(format!("{}: {}", child.status, String::from_utf8_lossy(&child.stderr)));
    }
    String::from_utf8(child.stdout).map_err(|error| error.to_string())
}
