//! The history in tables that nodes share: what ended is found there, the log is kept until it is, and
//! whoever goes on with a lane tells nothing twice.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use dpc_core::Span;
use dpc_core::ids::RecordNumber;
use dpc_core::store::StoreError;

use super::super::shared::finding::{Finding, Lanes, Story};
use super::super::shared::{SharedHistory, contract};
use super::super::{HistoryOptions, Report};
use super::memory::Memory;
use super::support::{LANE, Log, Running, id, name};

/// Small parts, so that there are several.
fn options() -> HistoryOptions {
    HistoryOptions { part_log: 200 << 10, ..HistoryOptions::default() }
}

fn open(dir: &Path, log: &Log, options: HistoryOptions, tables: &Arc<Memory>) -> Running {
    let tables = SharedHistory { tables: tables.clone(), node: name("a") };
    Running::open_shared(dir, (log, RecordNumber(1)), options, Some(tables))
}

/// Everything has been told.
fn conclude(running: &mut Running) {
    running.handle.conclude();
    let next = running.log.lock().unwrap().next();
    running.wait_for(|report| *report == Report::Stands(next));
}

async fn stories(tables: &Arc<Memory>, n: u64) -> Result<Vec<Story>, StoreError> {
    let finding = Finding { tables: tables.clone(), time: HistoryOptions::default().time };
    let now = super::support::START;
    finding.stories(id(n), &Lanes::Except(BTreeSet::new()), now).await
}

async fn story(tables: &Arc<Memory>, n: u64) -> Story {
    let found = stories(tables, n).await.unwrap();
    assert_eq!(found.len(), 1, "one lane knows object {n}");
    found.into_iter().next().unwrap()
}

/// The tables tell of these objects what the history does.
async fn tell_the_same(tables: &Arc<Memory>, running: &Running, ids: std::ops::Range<u64>) {
    for n in ids.step_by(97) {
        let (story, trace) = (story(tables, n).await, running.trace(n).await);
        assert_eq!((story.lane, &*story.node), (LANE, "a"));
        assert_eq!(story.end, running.object(n).await, "object {n}");
        assert!(story.end.is_some() && story.whole);
        assert_eq!((story.lines, story.dropped), (trace.lines, trace.dropped), "object {n}");
    }
}

#[test]
fn tables_in_memory_keep_the_contract() {
    contract::suite(&Memory::default(), LANE);
}

#[tokio::test]
async fn what_ended_is_found_in_the_tables() {
    let (dir, tables) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let mut running = open(dir.path(), &Log::new(), options(), &tables);
    running.write(|log| log.lives(0..5_000));
    conclude(&mut running);
    tables.with(|it| {
        assert!(it.parts.len() > 4, "{} parts", it.parts.len());
        // The tables are asked for each day in turn: not for all since 1970.
        assert!(it.asked_since > Some(super::support::START), "{:?}", it.asked_since);
        // A write costs a database as much as thousands of bytes: several rows go together.
        assert!(it.writes < 15 * it.parts.len() as u32, "{} writes", it.writes);
    });
    tell_the_same(&tables, &running, 0..5_000).await;
    assert_eq!(stories(&tables, 5_000).await, Ok(Vec::new()), "nobody knows that one");
    let finding = Finding { tables: tables.clone(), time: options().time };
    let (only, except) = (Lanes::Only(LANE), Lanes::Except([LANE].into()));
    assert_eq!(finding.stories(id(7), &only, super::support::START).await.unwrap().len(), 1);
    assert_eq!(finding.stories(id(7), &except, super::support::START).await, Ok(Vec::new()));
    running.close();
}

#[tokio::test]
async fn the_log_is_kept_until_the_tables_have_it() {
    let (dir, tables) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    tables.with(|it| it.failures = 3);
    let mut running = open(dir.path(), &Log::new(), options(), &tables);
    running.write(|log| log.lives(0..3_000));
    conclude(&mut running);
    assert_eq!(tables.with(|it| it.failed), 3);
    let next = running.log.lock().unwrap().next();
    let stands = running.seen().iter().filter_map(|report| match report {
        Report::Stands(number) => Some(*number),
        Report::Wants { .. } | Report::Behind(_) => None,
    });
    let stands: Vec<RecordNumber> = stands.collect();
    assert!(stands.is_sorted() && stands.len() > 2, "{stands:?}");
    let told: BTreeSet<RecordNumber> =
        tables.with(|it| it.parts.values().map(|part| part.next).collect());
    for number in stands.iter().filter(|number| number.0 > 0) {
        assert!(told.contains(number) || *number == next, "{number} was in no table");
    }
    tell_the_same(&tables, &running, 0..3_000).await;
    running.close();
}

#[tokio::test]
async fn a_part_is_sent_when_it_is_durable() {
    let (dir, tables) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let options = HistoryOptions { sync: Span::secs(24 * 3_600), ..HistoryOptions::default() };
    let running = open(dir.path(), &Log::new(), options.clone(), &tables);
    running.write(|log| log.lives(0..80));
    assert!(running.object(79).await.is_some());
    let log = running.log.lock().unwrap().clone();
    running.close();

    // All of it is durable; the part that holds it is closed before a later record, and is not.
    let mut running = open(dir.path(), &log, options.clone(), &tables);
    running.write(|log| {
        log.wall = log.wall + Span(options.time.0 / 24);
        log.lives(80..88);
    });
    assert!(running.object(87).await.is_some());
    for n in 0..20 {
        // Each is a turn of the history's thread, which could send something.
        assert!(!running.trace(n).await.lines.is_empty());
    }
    assert_eq!(tables.with(|it| (it.parts.len(), it.writes)), (0, 0));
    conclude(&mut running);
    assert_eq!(tables.with(|it| it.parts.len()), 2);
    tell_the_same(&tables, &running, 0..88).await;
    running.close();
}

#[tokio::test]
async fn beyond_the_lag_the_log_is_let_go_and_it_is_said() {
    let (dir, tables) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    tables.with(|it| it.failures = u32::MAX);
    let few = HistoryOptions { lag: 400 << 10, ..options() };
    let mut running = open(dir.path(), &Log::new(), few, &tables);
    // Piece by piece, or the queue itself is the lag.
    let write = async |running: &Running, rounds: std::ops::Range<u64>| {
        for round in rounds {
            running.write(|log| log.lives(round * 200..round * 200 + 200));
            running.object(round * 200).await;
        }
    };
    write(&running, 0..20).await;
    running.wait_for(|report| *report == Report::Behind(true));
    tables.with(|it| it.failures = 0);
    let mut rounds = 20;
    while tables.with(|it| it.parts.is_empty()) {
        write(&running, rounds..rounds + 1).await;
        rounds += 1;
    }
    conclude(&mut running);
    running.wait_for(|report| *report == Report::Behind(false));
    assert!(running.object(0).await.is_some(), "its own disk knows");
    assert_eq!(stories(&tables, 0).await, Ok(Vec::new()), "the tables do not");
    tell_the_same(&tables, &running, rounds * 200 - 200..rounds * 200).await;
    running.close();
}

#[tokio::test]
async fn whoever_goes_on_with_the_lane_begins_where_the_tables_end() {
    let (dir, tables) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let mut running = open(dir.path(), &Log::new(), options(), &tables);
    running.write(|log| log.lives(0..3_000));
    // Not the last part, which is open.
    running.wait_for(|report| matches!(report, Report::Stands(number) if number.0 > 500));
    let log = running.log.lock().unwrap().clone();
    running.kill();
    let finding = Finding { tables: tables.clone(), time: options().time };
    let from = finding.told_until(LANE, super::support::START).await.unwrap().unwrap();
    assert!(from > RecordNumber(500) && from < log.next());
    let (written, dir) = (tables.with(|it| it.writes), tempfile::tempdir().unwrap());
    let to = SharedHistory { tables: tables.clone(), node: name("b") };
    let mut heir = Running::open_shared(dir.path(), (&log, from), options(), Some(to));
    conclude(&mut heir);
    assert!(tables.with(|it| it.writes) < written + 15, "only what was missing");
    let all = tempfile::tempdir().unwrap();
    let whole = Running::open(all.path(), &log, HistoryOptions::default());
    for n in (0..3_000).step_by(61) {
        let (story, trace) = (story(&tables, n).await, whole.trace(n).await);
        assert_eq!(story.end, whole.object(n).await);
        assert_eq!(story.lines, trace.lines, "object {n}");
    }
    heir.close();
    whole.close();
}

#[tokio::test]
async fn a_history_made_anew_tells_nothing_twice() {
    let (dir, tables) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let mut running = open(dir.path(), &Log::new(), options(), &tables);
    running.write(|log| log.lives(0..2_000));
    conclude(&mut running);
    let log = running.log.lock().unwrap().clone();
    running.close();
    // The tables forget which parts they have, as if their rows had been written and not named.
    let forgotten = tables.with(|it| std::mem::take(&mut it.parts));
    let (dir, other) = (tempfile::tempdir().unwrap(), options().part_log / 3 * 2);
    let options = HistoryOptions { part_log: other, ..options() };
    let mut again = open(dir.path(), &log, options, &tables);
    conclude(&mut again);
    tables.with(|it| it.parts.extend(forgotten));
    tell_the_same(&tables, &again, 0..2_000).await;
    again.close();
}

#[tokio::test]
async fn the_oldest_parts_go_when_there_are_too_many() {
    let (dir, tables) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let few = HistoryOptions { bytes: 512 << 10, sync: Span::millis(5), ..options() };
    let mut running = open(dir.path(), &Log::new(), few.clone(), &tables);
    for round in 0..10 {
        running.write(|log| log.lives(round * 2_000..round * 2_000 + 2_000));
        running.object(round * 2_000).await;
    }
    conclude(&mut running);
    let bytes: u64 = tables.with(|it| it.parts.values().map(|part| part.bytes).sum());
    assert!(bytes <= few.bytes && bytes > few.bytes / 2, "{bytes} bytes");
    let rows: usize =
        tables.with(|it| it.rows.values().flat_map(|rows| rows.values()).map(Vec::len).sum());
    assert_eq!(bytes, rows as u64, "their rows have gone, too");
    assert_eq!(stories(&tables, 0).await, Ok(Vec::new()));
    tell_the_same(&tables, &running, 19_000..20_000).await;
    running.close();
}

#[tokio::test]
async fn damage_in_the_tables_is_found() {
    let (dir, tables) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()));
    let mut running = open(dir.path(), &Log::new(), options(), &tables);
    running.write(|log| log.lives(0..100));
    conclude(&mut running);
    running.close();
    assert!(stories(&tables, 50).await.is_ok());
    let keys: Vec<_> = tables.with(|it| it.rows.keys().copied().collect());
    assert_eq!(keys.len(), 3, "decisions, ends and a page");
    for key in keys {
        for bit in [0, 1_000] {
            let flip = |it: &mut super::memory::Tables| {
                it.rows.get_mut(&key).unwrap().values_mut().next().unwrap()[bit / 8] ^= 1;
            };
            tables.with(flip);
            let found = stories(&tables, 50).await;
            assert!(matches!(found, Err(StoreError::Damaged { .. })), "{key:?} bit {bit}");
            tables.with(flip);
        }
        let rows = tables.with(|it| it.rows.remove(&key).unwrap());
        // A part may be let go while it is read: what is left of it is told, and not as the whole.
        let found = stories(&tables, 50).await.unwrap();
        assert!(found.iter().all(|story| !story.whole), "{found:?}");
        tables.with(|it| it.rows.insert(key, rows));
    }
}
