//! Measures the simulator: small defects are planted in core, one at a time, and the swarm has to
//! find each.
//!
//! ```text
//! cargo run -p sim --profile sim --features planted --bin planted [-- --table | DEFECT...]
//! ```
//!
//! `--table` writes what was measured into docs/planted-bugs.md. It is a program, not a test, so
//! that it is built without the full stack.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpc_core::planted::{Bug, plant};
use sim::swarm::{self, Options, Profile, Report};

/// Most seeds that finding one may take.
const SEEDS_MAX: u64 = 1_000;

/// Most seeds that it may take for half of them.
const MEDIAN_MAX: u64 = 50;

/// Seeds that have to be quiet without a defect, before anything is planted.
const QUIET_SEEDS: u64 = 50;

/// Fewest defects.
const DEFECTS_MIN: usize = 30;

/// Defects of failover: they need nodes over a store that they share.
const SHARED: [Bug; 3] = [Bug::ProofNotNeeded, Bug::FenceIgnored, Bug::RetiredWithObjects];

/// The promises, of which each has to have a defect.
const PROMISES: u32 = 17;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/planted-bugs.md");

/// How a defect was found.
struct Found {
    bug: Bug,
    /// Seeds that were run, or `None` if it was not found.
    seeds: Option<u64>,
    /// What was said.
    said: String,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |bug: &Bug| names.is_empty() || names.contains(&&format!("{bug:?}"));
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(wanted).collect();
    std::panic::set_hook(Box::new(|_| {}));
    for profile in [Profile::All, Profile::Shared] {
        let loud: Vec<u64> = (0..QUIET_SEEDS).filter(|seed| !is_quiet(*seed, profile)).collect();
        if !loud.is_empty() {
            println!("seeds of {profile} are broken without a defect: {loud:?}");
            return ExitCode::FAILURE;
        }
    }
    let found = look_for_all(&bugs);
    if args.iter().any(|arg| arg == "--table") {
        write_table(&rows_of(&found));
    }
    let mut wrong = judge(&found);
    if names.is_empty() {
        wrong.extend(judge_all(&found));
    }
    wrong.iter().for_each(|what| println!("{what}"));
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a seed breaks nothing when nothing is planted.
fn is_quiet(seed: u64, profile: Profile) -> bool {
    let broken = run(seed, profile).broken;
    broken.iter().for_each(|what| println!("seed {seed} of {profile}: {what}"));
    broken.is_none()
}

fn run(seed: u64, profile: Profile) -> Report {
    swarm::run(seed, &Options { profile, ..Options::default() })
}

/// Looks for all defects, on two threads.
fn look_for_all(bugs: &[Bug]) -> Vec<Found> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let one = look_for(*bug);
            let seeds = one.seeds.map_or_else(|| "not found".into(), |n| format!("{n} seeds"));
            println!("{bug:?}: {seeds}; {}", one.said);
            found.lock().expect("nobody panics with it").push(one);
        }
    };
    std::thread::scope(|threads| {
        threads.spawn(work);
        threads.spawn(work);
    });
    let mut found = found.into_inner().expect("all threads have ended");
    found.sort_by_key(|one| one.bug);
    found
}

/// Runs seeds until one of them is broken that is not broken without the defect.
fn look_for(bug: Bug) -> Found {
    let profile = if SHARED.contains(&bug) { Profile::Shared } else { Profile::All };
    for seed in 0..SEEDS_MAX {
        plant(Some(bug));
        let report = run(seed, profile);
        plant(None);
        let Some(said) = report.broken else { continue };
        if is_quiet(seed, profile) {
            return Found { bug, seeds: Some(seed + 1), said };
        }
    }
    Found { bug, seeds: None, said: String::new() }
}

/// What was not found.
fn judge(found: &[Found]) -> Vec<String> {
    let missed = found.iter().filter(|one| one.seeds.is_none());
    missed.map(|one| format!("{:?} was not found in {SEEDS_MAX} seeds", one.bug)).collect()
}

/// What is wrong with the whole: too few, too slow, a promise without a defect, an old table.
fn judge_all(found: &[Found]) -> Vec<String> {
    let mut seeds: Vec<u64> = found.iter().filter_map(|one| one.seeds).collect();
    seeds.sort_unstable();
    let median = seeds.get(seeds.len() / 2).copied().unwrap_or(SEEDS_MAX);
    println!("{} of {} found, the median after {median} seeds", seeds.len(), found.len());
    let mut wrong = Vec::new();
    if found.len() < DEFECTS_MIN {
        wrong.push(format!("there are only {} defects", found.len()));
    }
    if median > MEDIAN_MAX {
        wrong.push(format!("the median is more than {MEDIAN_MAX} seeds"));
    }
    let broken: BTreeSet<&str> = found.iter().map(|one| one.bug.describe().0).collect();
    let promises = (1..=PROMISES).map(|n| format!("P{n}"));
    let without = promises.filter(|promise| !broken.contains(promise.as_str()));
    wrong.extend(without.map(|promise| format!("no defect breaks {promise}")));
    wrong.extend(compare_table(found));
    wrong
}

/// A defect as its row in docs/planted-bugs.md begins.
fn row_of(bug: Bug) -> String {
    let (promise, file, what) = bug.describe();
    format!("| `{bug:?}` | {promise} | `{file}` | {what} | ")
}

/// The rows of docs/planted-bugs.md.
fn rows_of(found: &[Found]) -> String {
    let mut rows =
        String::from("| defect | breaks | in `core/src` | what it does | seeds | found by |\n");
    rows.push_str("|---|---|---|---|---|---|\n");
    for one in found {
        let seeds = one.seeds.map_or_else(|| "none".into(), |n| n.to_string());
        let check = one.said.split(':').next().unwrap_or_default();
        writeln!(rows, "{}{seeds} | {check} |", row_of(one.bug)).expect("strings take everything");
    }
    rows
}

/// Puts the rows in the place of the old ones.
fn write_table(rows: &str) {
    let text = std::fs::read_to_string(TABLE).expect("docs/planted-bugs.md");
    let is_row = |line: &&str| line.starts_with('|');
    let before: Vec<&str> = text.lines().take_while(|line| !is_row(line)).collect();
    let rest = text.lines().skip_while(|line| !is_row(line));
    let after: Vec<&str> = rest.skip_while(is_row).collect();
    let text = format!("{}\n{rows}{}\n", before.join("\n"), after.join("\n"));
    std::fs::write(TABLE, text).expect("docs/planted-bugs.md can be written");
}

/// The table names what there is. Its figures are those of the last time it was written: they move
/// with every change of core and of the swarm.
fn compare_table(found: &[Found]) -> Option<String> {
    let text = std::fs::read_to_string(TABLE).expect("docs/planted-bugs.md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let same = |(row, one): (&&str, &Found)| row.starts_with(&row_of(one.bug));
    let agrees = rows.len() == found.len() && rows.iter().zip(found).all(same);
    (!agrees).then(|| "docs/planted-bugs.md lists other defects; write it anew: --table".into())
}
