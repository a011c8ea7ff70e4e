//! Chaos: real node processes behind a fault proxy, clients that note every call and its outcome,
//! and the promises checked over what they noted. `tests/chaos/run` is the command for people,
//! `docs/chaos.md` says what a round is.
//!
//! `cargo test` plays a short round of two sets. The schedule of faults comes from a seed that is
//! printed; what the schedulers of the machine do with it does not.

mod check;
mod dice;
mod drain;
mod faults;
mod fleet;
mod history;
mod options;
mod proxy;
mod round;
#[path = "../support/mod.rs"]
mod support;
mod work;

use std::path::Path;
use std::time::Duration;

use crate::check::sabotage;
use crate::faults::Set;
use crate::fleet::Fleet;
use crate::options::Options;
use crate::round::{Round, play, play_lost_disk};

/// What every round must have seen: a check that has looked at nothing has shown nothing.
const ALWAYS_SEEN: [&str; 14] = [
    "pushes done",
    "deliveries",
    "deliveries after a handoff",
    "finalised",
    "advanced",
    "handled and kept",
    "released",
    "released as failed",
    "rejected",
    "transactions done",
    "objects emitted",
    "a push repeated and known",
    "books looked at",
    "records of the logs folded",
];

#[tokio::test]
async fn promises_hold_under_chaos() {
    let options = Options::from_environment();
    let mut failed = Vec::new();
    for set in options.sets.clone() {
        println!("\nchaos: {}", options.repeat(set));
        let disks = match set.needs_disks().then(|| Fleet::disks(5)).transpose() {
            Ok(disks) => disks.unwrap_or_default(),
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "chaos needs small disks in CI: {why}");
                eprintln!("chaos: no disk is filled, a tmpfs cannot be mounted: {why}");
                if set == Set::DiskFull {
                    assert!(!options.by_hand, "the set {set} needs root");
                    continue;
                }
                Vec::new()
            }
        };
        let round = play(set, &options, disks).await;
        tell(set, &round);
        let bad = complaints(set, &round);
        if bad.is_empty() {
            if !options.keep {
                std::fs::remove_dir_all(&round.folder).expect("the folder of a good round goes");
            }
            continue;
        }
        println!("history, logs and data: {}", round.folder.display());
        bad.iter().take(20).for_each(|what| println!("  {what}"));
        failed.push(format!(
            "{set}: {} complaints, repeat with {}",
            bad.len(),
            options.repeat(set)
        ));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Broken promises, and what the round should have seen and has not.
fn complaints(set: Set, round: &Round) -> Vec<String> {
    let mut bad: Vec<_> = round.verdict.violations.iter().map(ToString::to_string).collect();
    let mut expected = ALWAYS_SEEN.to_vec();
    if set != Set::None {
        expected.push("steps of faults");
    }
    if set == Set::OneNode {
        expected.push("calls of untouched clients");
    }
    for what in expected {
        if round.verdict.count(what) == 0 {
            bad.push(format!("coverage: no {what}"));
        }
    }
    if bad.is_empty() {
        bad = unnoticed(round);
    }
    bad
}

/// Ways to spoil the history of a good round that the checker has not noticed.
fn unnoticed(round: &Round) -> Vec<String> {
    let spoilt = sabotage::spoil(&round.lines);
    let mut bad = Vec::new();
    for spoilt in &spoilt {
        if !spoilt.is_noticed(&check::check(&spoilt.lines)) {
            bad.push(format!("the checker: {}, and no {} is broken", spoilt.how, spoilt.promise));
        }
    }
    if spoilt.len() < 5 {
        bad.push("the checker: the history offers nothing to spoil".to_owned());
    }
    bad
}

fn tell(set: Set, round: &Round) {
    let Round { verdict, lines, parts, .. } = round;
    let seen: Vec<_> = verdict.seen.iter().map(|(what, count)| format!("{count} {what}")).collect();
    let parts: Vec<_> = parts.iter().map(|(name, took)| format!("{name} {took:.1?}")).collect();
    println!("chaos: {set}: {}", seen.join(", "));
    println!("chaos: {set}: {}", parts.join(", "));
    for (when, took) in ["before the first fault", "after it"].iter().zip(&verdict.untouched) {
        let Some(last) = took.len().checked_sub(1) else { continue };
        let [p50, p99, most] =
            [last / 2, last * 99 / 100, last].map(|index| Duration::from_micros(took[index]));
        println!(
            "chaos: {set}: pushes of untouched clients {when}: p50 {p50:.1?}, p99 {p99:.1?}, most {most:.1?}"
        );
    }
    let (lines, violations) = (lines.len(), verdict.violations.len());
    println!("chaos: {set}: {lines} lines of history, {violations} violations");
}

/// A round that is broken on purpose: a node comes back without its data. If nobody noticed, the
/// good rounds would mean nothing.
#[tokio::test]
async fn a_lost_disk_is_noticed() {
    let patience = Duration::from_secs(5);
    let seconds = 4;
    let options = Options { seconds, patience, by_hand: false, ..Options::from_environment() };
    let round = play_lost_disk(&options).await;
    let lost = round.verdict.violations.iter().filter(|violation| violation.promise == "P1");
    println!("chaos: lost-disk: {} objects noticed as lost", lost.clone().count());
    let what = round.verdict.violations.iter().take(5).map(ToString::to_string);
    assert!(lost.count() > 0, "nobody noticed a lost disk: {:?}", what.collect::<Vec<_>>());
    std::fs::remove_dir_all(&round.folder).expect("the folder of the round goes");
}

/// Checks a recorded history again: `DPC_CHAOS_HISTORY=FILE`, or `tests/chaos/run --check FILE`.
#[test]
fn a_recorded_history_is_checked_again() {
    let Some(path) = std::env::var_os("DPC_CHAOS_HISTORY") else { return };
    let path = Path::new(&path);
    let lines = history::read(path);
    let folder = path.parent().expect("a file is in a folder");
    let names = lines.iter().find_map(|line| match &line.event {
        history::Event::Round { nodes, .. } => Some(nodes.as_slice()),
        _ => None,
    });
    let data = names.unwrap_or_default().iter().map(|name| (name.as_str(), folder.join(name)));
    let data: Vec<_> = data.filter(|(_, data)| data.join("FORMAT").exists()).collect();
    // The logs are beside it if the data of every node was kept.
    let logs = (Some(data.len()) == names.map(<[_]>::len))
        .then(|| check::Logs::read(data.iter().map(|(name, data)| (*name, data.as_path()))));
    let verdict = check::check_with(&lines, logs.as_ref());
    for (what, count) in &verdict.seen {
        println!("{count:>9} {what}");
    }
    verdict.violations.iter().take(100).for_each(|violation| println!("{violation}"));
    assert!(verdict.violations.is_empty(), "{} violations", verdict.violations.len());
}
