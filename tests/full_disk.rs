//! A device that is really full: a small tmpfs, filled through the store until the kernel says
//! ENOSPC. Nothing is acknowledged then, and what was acknowledged is there once there is room.
//!
//! Mounting needs root. Without it the test says that it was skipped, and in CI that is a failure.

mod support;

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::record::{Header, hash_of, seal};
use dpc_core::store::{Appended, Claimed, Done, Store, StoreError};
use dpc_core::time::Wall;
use runtime::store::{Embedded, Options, disk_free};
use support::disk::Disk;

const DISK_BYTES: u64 = 24 << 20;

/// Put on the disk before the store, to make room afterwards.
const BALLAST_BYTES: usize = 4 << 20;

fn ask<T: Send + 'static>(store: &mut Embedded, request: impl FnOnce(&mut Embedded, Done<T>)) -> T {
    let (tx, rx) = channel();
    request(store, Box::new(move |answer| tx.send(answer).expect("someone waits")));
    rx.recv_timeout(Duration::from_secs(60)).expect("the store answers")
}

fn options(segment_bytes: u64) -> Options {
    Options { segment_bytes }
}

fn record(lane: LaneId, claimed: &Claimed) -> Bytes {
    let number = claimed.last.next();
    let header = Header {
        lane,
        epoch: claimed.epoch,
        number,
        wall: Wall(1),
        previous: claimed.last_hash,
        checkpoint: RecordNumber(0),
        entries: 0,
    };
    let mut body = vec![0; 60_000];
    blake3::Hasher::new().update(&number.0.to_le_bytes()).finalize_xof().fill(&mut body);
    seal(&header, &body)
}

/// Appends until something else than an acknowledgement is the answer.
fn fill(
    store: &mut Embedded,
    lane: LaneId,
    claimed: &mut Claimed,
    records: &mut Vec<Bytes>,
) -> Appended {
    loop {
        let record = record(lane, claimed);
        let (epoch, number, sent) = (claimed.epoch, claimed.last.next(), record.clone());
        match ask(store, |store, done| store.append(epoch, number, sent, done)) {
            Appended::Committed => {
                claimed.last = number;
                claimed.last_hash = hash_of(&record);
                records.push(record);
            }
            other => return other,
        }
    }
}

fn error_of(answer: &Appended) -> &StoreError {
    match answer {
        Appended::Committed => panic!("committed on a full disk"),
        Appended::DefinitelyNot(error) | Appended::Unknown(error) => error,
    }
}

/// Opens, claims, and reads back every record that was acknowledged.
fn reopen(path: &Path, options: &Options, records: &mut Vec<Bytes>) -> (Embedded, LaneId, Claimed) {
    let (mut store, lane) = Embedded::open(path, options).expect("opens with room");
    let claimed = ask(&mut store, |store, done| store.claim(done)).expect("claims with room");
    let mut from = RecordNumber(1);
    let mut found = Vec::new();
    while from <= claimed.last {
        let read = ask(&mut store, |store, done| store.read(from, 1 << 20, done)).expect("reads");
        from = RecordNumber(from.0 + read.len() as u64);
        found.extend(read.into_iter().map(|(_, record)| record));
    }
    let acknowledged = records.len();
    assert!(found.len() <= acknowledged + 1, "one append was under way");
    assert!(found[..acknowledged] == records[..], "what was acknowledged is there");
    *records = found;
    (store, lane, claimed)
}

/// The next segment finds no room.
#[test]
fn a_disk_full_of_segments_loses_nothing() {
    fill_and_reopen(&options(512 << 10));
}

/// Each record needs a segment of its own, whose room is not set aside: its write is cut off.
#[test]
fn a_disk_that_is_full_in_the_middle_of_a_record_loses_nothing() {
    fill_and_reopen(&options(4 << 10));
}

fn fill_and_reopen(options: &Options) {
    let disk = match Disk::mount(DISK_BYTES) {
        Ok(disk) => disk,
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "full_disk cannot run in CI: {why}");
            eprintln!("full_disk: SKIPPED, a tmpfs cannot be mounted: {why}");
            return;
        }
    };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST_BYTES]).expect("room for the ballast");
    let path = disk.path().join("data");
    let (mut store, lane) = Embedded::open(&path, options).expect("opens");
    let mut claimed = ask(&mut store, |store, done| store.claim(done)).expect("claims");
    let mut records = Vec::new();
    let answer = fill(&mut store, lane, &mut claimed, &mut records);
    println!("full_disk: {} records, then {answer:?}", records.len());
    let text = error_of(&answer).to_string();
    assert!(matches!(error_of(&answer), StoreError::Full(_)), "{text}");
    assert!(text.contains("no space left on the device"), "{text}");
    assert!(records.len() > 50, "the disk held something: {}", records.len());
    assert!(disk_free(&path).expect("asked") < 1 << 20, "the disk is full");
    // It stays so, even with room: what failed is never tried again.
    std::fs::remove_file(&ballast).expect("removed");
    let again = fill(&mut store, lane, &mut claimed, &mut records);
    assert!(matches!(again, Appended::DefinitelyNot(StoreError::Full(_))), "{again:?}");
    drop(store);

    let (mut store, lane, mut claimed) = reopen(&path, options, &mut records);
    // There is room for a while, then the disk is full a second time.
    let before = records.len();
    let answer = fill(&mut store, lane, &mut claimed, &mut records);
    assert!(matches!(error_of(&answer), StoreError::Full(_)), "{answer:?}");
    assert!(records.len() > before, "the room that was made is used");
    drop(store);
    reopen(&path, options, &mut records);
}
