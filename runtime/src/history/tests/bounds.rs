//! Bytes, time and lag.

use std::path::Path;
use std::sync::mpsc::channel;

use dpc_core::decision::Step;
use dpc_core::ids::RecordNumber;
use dpc_core::names::TypeName;
use dpc_core::record::Entry;
use dpc_core::{Span, Wall};

use super::super::{HistoryOptions, QueryError, Report, folder};
use super::support::{Log, Running, START, decided, pushed};

fn bytes_on_disk(dir: &Path) -> u64 {
    std::fs::metadata(dir.join(folder::FILE)).unwrap().len()
}

#[tokio::test]
async fn the_oldest_goes_when_there_is_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions { bytes: 1 << 20, ..HistoryOptions::default() };
    let running = Running::open(dir.path(), &Log::new(), options.clone());
    let mut largest = 0;
    for round in 0..20 {
        running.write(|log| log.lives(round * 1_000..round * 1_000 + 1_000));
        assert!(running.object(round * 1_000 + 999).await.is_some(), "the newest is kept");
        largest = largest.max(bytes_on_disk(dir.path()));
    }
    assert_eq!(running.object(0).await, None, "the oldest has gone");
    let trace = running.trace(0).await;
    assert!(trace.lines.is_empty());
    assert!(trace.kept_since > START, "it says since when it keeps");
    // Everything that is listed can be looked up, and the other way round.
    let kept = running.object(15_000).await;
    assert!(kept.is_some(), "more than half a part is kept");
    assert_eq!(running.trace(15_000).await.lines.len(), 3);
    let log = running.log.lock().unwrap().clone();
    running.close();
    largest = largest.max(bytes_on_disk(dir.path()));
    assert!(largest <= options.bytes, "{largest} bytes");
    assert!(largest > options.bytes / 2, "the room is used: {largest} bytes");
    let running = Running::open(dir.path(), &log, options);
    assert_eq!(running.object(15_000).await, kept);
    running.close();
}

#[tokio::test]
async fn what_is_too_old_goes_and_its_space_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions { bytes: 8 << 20, ..HistoryOptions::default() };
    let running = Running::open(dir.path(), &Log::new(), options.clone());
    running.write(|log| log.lives(0..20_000));
    assert!(running.object(0).await.is_some());
    let log = running.log.lock().unwrap().clone();
    running.close();
    let before = bytes_on_disk(dir.path());
    let running = Running::open(dir.path(), &log, options.clone());
    let late = Wall(log.wall.0 + Span::secs(25 * 3_600).as_millis());
    running.write(|log| {
        log.wall = late;
        log.lives(20_000..20_008);
        // A part is a twenty-fourth of the time at most.
        log.wall = late + Span::secs(3_600);
        log.lives(20_008..20_016);
    });
    assert!(running.object(20_000).await.is_some());
    assert_eq!(running.object(0).await, None);
    assert_eq!(running.object(19_999).await, None);
    let stats = running.all_stats().await;
    assert!(stats.iter().all(|row| row.minute >= Wall(late.0 - 60_000)), "counts age, too");
    assert_eq!(stats.iter().map(|row| row.counts.finalised).sum::<u64>(), 16);
    running.close();
    let after = bytes_on_disk(dir.path());
    assert!(before > 2 << 20, "{before} bytes");
    assert!(after <= options.bytes / 8, "{after} bytes of {before} are left");
}

#[tokio::test]
async fn counts_are_bounded_whatever_types_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions { bytes: 256 << 10, ..HistoryOptions::default() };
    let running = Running::open(dir.path(), &Log::new(), options.clone());
    for minute in 0..400u64 {
        running.write(|log| {
            log.wall = Wall(START.0 + minute * 60_000);
            let objects: Vec<u64> = (minute * 5..minute * 5 + 5).collect();
            let entries: Vec<_> = objects.iter().map(|&n| pushed(n, log.wall)).collect();
            log.push(&entries);
            log.push(&[decided(log.wall, Step::Wait, &objects)]);
        });
    }
    running.trace(0).await;
    let rows = running.all_stats().await;
    running.close();
    // A part's worth of minutes may come on top before the oldest go.
    assert!(rows.len() < 256 + 5 * 61, "{} rows", rows.len());
    assert!(rows.len() > 128, "{} rows", rows.len());
}

/// More than the reader of records, and the counts of a minute, keep the names of.
#[tokio::test]
async fn each_of_many_types_is_counted_once() {
    const TYPES: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions { bytes: 64 << 20, ..HistoryOptions::default() };
    let running = Running::open(dir.path(), &Log::new(), options);
    for round in 0..3 {
        for first in (0..TYPES).step_by(2_000) {
            running.write(|log| {
                log.wall = START;
                let of_type = |n: u64| {
                    let Entry::Object { mut object, how, was, place, standing } =
                        pushed(round * TYPES + n, log.wall)
                    else {
                        unreachable!("an object")
                    };
                    object.entity.ty = TypeName::from_type_url(&format!("acme.T{n}")).unwrap();
                    Entry::Object { object, how, was, place, standing }
                };
                let entries: Vec<Entry> = (first..first + 2_000).map(of_type).collect();
                log.push(&entries);
            });
        }
    }
    let stats = running.all_stats().await;
    running.close();
    assert_eq!(stats.len() as u64, TYPES);
    assert!(stats.iter().all(|row| row.counts.pushed == 3));
}

#[tokio::test]
async fn too_far_behind_it_keeps_counts_only_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions { lag: 64 << 10, queue: 16 << 10, ..HistoryOptions::default() };
    let (to, wishes) = channel();
    let mut running = Running::open_with(dir.path(), &Log::new(), options, to);
    running.write(|log| log.lives(0..80));
    // Nobody reads the log: what does not fit into the queue waits there.
    running.write(|log| log.lives(80..4_000));
    let lag = running.handle.lag();
    assert!(lag > 256 << 10, "{lag} bytes behind");
    let answer = running.handle.trace(super::support::id(1)).await;
    let last = running.log.lock().unwrap().last();
    assert_eq!(answer, Err(QueryError::Behind { record: last }));
    // Now somebody does.
    let (log, handle) = (running.log.clone(), running.handle.clone());
    std::thread::spawn(move || {
        for (from, bytes) in wishes {
            let log = log.lock().unwrap();
            let records = (from.0..log.next().0).map(RecordNumber);
            let mut left = bytes as i64;
            let records =
                records.map(|number| (number, log.record(number))).take_while(|(_, r)| {
                    left -= r.len() as i64;
                    left > 0
                });
            handle.pulled(Ok(records.collect()));
        }
    });
    running.wait_for(|report| *report == Report::Behind(true));
    running.wait_for(|report| *report == Report::Behind(false));
    running.write(|log| log.lives(4_000..4_080));
    let last = running.log.lock().unwrap().next();
    // Truncation goes on.
    running.wait_for(|report| *report == Report::Stands(last));
    let stats = running.all_stats().await;
    assert_eq!(stats.iter().map(|row| row.counts.finalised).sum::<u64>(), 4_080);
    assert_eq!(stats.iter().map(|row| row.counts.delivered).sum::<u64>(), 4_080);
    assert_eq!(running.object(2_000).await, None);
    assert!(running.trace(2_000).await.detail_dropped);
    assert!(running.object(4_040).await.is_some());
    let trace = running.trace(4_040).await;
    assert_eq!((trace.lines.len(), trace.detail_dropped), (3, false));
    assert_eq!(running.handle.lag(), 0);
    running.close();
}

#[tokio::test]
async fn idle_it_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions { sync: Span::ZERO, ..HistoryOptions::default() };
    let mut running = Running::open(dir.path(), &Log::new(), options);
    running.write(|log| log.lives(0..8));
    let next = running.log.lock().unwrap().next();
    running.wait_for(|report| *report == Report::Stands(next));
    let stamp = |dir: &Path| {
        let path = dir.join(folder::FILE);
        let meta = std::fs::metadata(&path).unwrap();
        (meta.modified().unwrap(), blake3::hash(&std::fs::read(path).unwrap()))
    };
    let before = stamp(dir.path());
    // Questions are no work to sync.
    running.says(0..8).await;
    running.close();
    assert_eq!(stamp(dir.path()), before);
}
