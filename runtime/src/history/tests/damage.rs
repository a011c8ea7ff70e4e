//! Flipped bits, cut files, foreign and newer databases: refused or rebuilt, never served.

use std::path::{Path, PathBuf};

use dpc_core::Span;
use dpc_core::ids::RecordNumber;

use super::super::db::Db;
use super::super::pack::Packer;
use super::super::{History, HistoryError, HistoryOptions, Report, folder};
use super::support::{LANE, Log, Running};

fn put_aside(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.contains(".damaged-") && !name.ends_with("-journal")
    });
    found
}

/// Damages copies of a database, one place each, and compares what is said with what was said.
async fn damage_it(checked: u64, rounds: u64, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions {
        bytes: 2 << 20,
        sync: Span::secs(3_600),
        checked,
        ..HistoryOptions::default()
    };
    let mut log = Log::new();
    log.lives(0..1_200);
    let running = Running::open(dir.path(), &log, options.clone());
    let ids = (0..1_200).step_by(49);
    let seven = running.object(7).await;
    assert!(seven.is_some());
    let mut expected = running.says(ids.clone()).await;
    running.close();
    let whole = std::fs::read(dir.path().join(folder::FILE)).unwrap();
    let (mut rebuilt, mut harmless) = (0, 0);
    for round in 0..rounds {
        let random = blake3::hash(&(seed + round).to_le_bytes());
        let place = u64::from_le_bytes(random.as_bytes()[..8].try_into().unwrap());
        let place = (place % whole.len() as u64) as usize;
        let mut damaged = whole.clone();
        if round % 10 == 0 {
            damaged.truncate(place);
        } else {
            damaged[place] ^= 1 << (random.as_bytes()[8] % 8);
        }
        std::fs::write(dir.path().join(folder::FILE), damaged).unwrap();
        let running = Running::open(dir.path(), &log, options.clone());
        let said = running.says(ids.clone()).await;
        assert_eq!(said, expected, "seed {seed} round {round} place {place}");
        // It goes on as if nothing had been.
        running.write(|log| log.lives(5_000..5_008));
        assert!(running.object(5_007).await.is_some(), "seed {seed} round {round} place {place}");
        assert_eq!(running.object(7).await, seven, "seed {seed} round {round} place {place}");
        running.close();
        let aside = put_aside(dir.path());
        assert!(aside.len() <= 1, "{aside:?}");
        if aside.is_empty() {
            harmless += 1;
        } else {
            rebuilt += 1;
            std::fs::remove_file(&aside[0]).unwrap();
        }
    }
    assert!(rebuilt > rounds / 4, "rebuilt {rebuilt}, harmless {harmless}");
    // The comparison can fail.
    expected.objects.swap(0, 1);
    let running = Running::open(dir.path(), &log, options);
    assert_ne!(running.says(ids).await, expected);
    running.close();
}

#[tokio::test]
async fn damage_anywhere_is_found_when_it_opens_or_reads() {
    damage_it(64 << 20, 60, 1).await;
}

#[tokio::test]
async fn damage_in_a_large_database_is_found_where_it_is_read() {
    damage_it(0, 140, 1_000_000).await;
}

#[tokio::test]
async fn a_second_damaged_database_replaces_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new();
    log.lives(0..8);
    for n in 1..=3 {
        std::fs::write(dir.path().join(folder::FILE), format!("no database {n}")).unwrap();
        let running = Running::open(dir.path(), &log, HistoryOptions::default());
        assert_eq!(running.stands, RecordNumber(1));
        assert!(running.object(7).await.is_some());
        running.close();
        let aside = put_aside(dir.path());
        assert_eq!(aside, [dir.path().join(format!("history.db.damaged-{n}"))]);
        assert_eq!(std::fs::read_to_string(&aside[0]).unwrap(), format!("no database {n}"));
    }
}

#[tokio::test]
async fn an_image_taken_at_any_moment_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let options = HistoryOptions { sync: Span::ZERO, ..HistoryOptions::default() };
    let mut running = Running::open(dir.path(), &Log::new(), options.clone());
    let mut images = Vec::new();
    for round in 0..8 {
        running.write(|log| log.lives(round * 60..round * 60 + 60));
        let image = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), image.path().join(entry.file_name())).unwrap();
        }
        images.push(image);
    }
    let log = running.log.lock().unwrap().clone();
    running.wait_for(|report| *report == Report::Stands(log.next()));
    let expected = running.says(0..480).await;
    running.close();
    for image in images {
        let options = HistoryOptions::default();
        let running = Running::open(image.path(), &log, options);
        assert_eq!(running.says(0..480).await, expected);
        running.close();
    }
}

#[tokio::test]
async fn a_rebuild_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), &Log::new(), HistoryOptions::default());
    running.write(|log| log.lives(0..400));
    let expected = running.says(0..400).await;
    running.handle.rebuild();
    assert_eq!(running.says(0..400).await, expected);
    running.close();
    assert!(put_aside(dir.path()).is_empty());
}

#[tokio::test]
async fn a_history_of_another_log_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let (mut long, mut other) = (Log::new(), Log::new());
    long.lives(0..80);
    other.lives(100..116);
    let running = Running::open(dir.path(), &long, HistoryOptions::default());
    assert!(running.object(0).await.is_some());
    running.close();
    // Ahead of the log: seen at once.
    let running = Running::open(dir.path(), &other, HistoryOptions::default());
    assert_eq!(running.stands, RecordNumber(1));
    assert_eq!(running.object(0).await, None);
    assert!(running.object(100).await.is_some());
    running.close();
    assert_eq!(put_aside(dir.path()).len(), 1);
    // Behind it: seen when the next record does not link to what the history has read.
    let running = Running::open(dir.path(), &long, HistoryOptions::default());
    assert!(running.object(0).await.is_some());
    assert_eq!(running.object(100).await, None);
    running.close();
}

#[tokio::test]
async fn another_lane_goes_on_beside_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new();
    log.lives(0..16);
    let running = Running::open(dir.path(), &log, HistoryOptions::default());
    assert!(running.object(3).await.is_some());
    running.close();
    let lane = dpc_core::ids::LaneId([9; 16]);
    let report = Box::new(|_| {});
    let (history, stands) =
        History::open(dir.path(), lane, RecordNumber(0), HistoryOptions::default(), report)
            .unwrap();
    assert_eq!(stands, RecordNumber(1));
    let found = history.handle().object(super::support::id(3)).await.unwrap().unwrap();
    assert_eq!(found.lane, LANE);
    history.close();
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(folder::FILE);
    let db = Db::open(&path, 0).unwrap();
    let mut row = Packer::default();
    row.int(2);
    db.set_state(row.finish()).unwrap();
    drop(db);
    let report = Box::new(|_| {});
    let opened =
        History::open(dir.path(), LANE, RecordNumber(0), HistoryOptions::default(), report);
    let Err(HistoryError::Newer { path: named, found: 2 }) = opened else {
        panic!("{opened:?}");
    };
    assert_eq!(named, path);
    assert!(put_aside(dir.path()).is_empty());
}
