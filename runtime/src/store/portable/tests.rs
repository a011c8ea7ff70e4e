//! Files that are not whole, moves that are cut off, and how much of a lane is in memory at a time.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::names::Name;
use dpc_core::shared::{LaneRow, Owner};
use dpc_core::store::{Appended, Claimed, Done, ReadDone, Store, StoreError};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::embedded::{Embedded, Options};
use super::super::testing::embedded_lane as lane;
use super::frames::FrameReader;
use super::unpack::unpack;
use super::*;
use crate::node::{claim, read};

/// The exported file of the lane in a folder.
async fn exported(folder: &Path) -> Vec<u8> {
    let (mut store, lane) = Embedded::open(folder, &Options::default()).expect("opens");
    let claimed = claim(&mut store).await.expect("claims");
    let mut file = Vec::new();
    let step = async |_| Ok(());
    export(&mut store, (lane, "embedded"), &claimed, &mut file, step).await.expect("is written");
    file
}

/// The records of the lane in a folder, from its first one on.
async fn records(folder: &Path) -> (LaneId, Vec<(RecordNumber, Bytes)>) {
    let (mut store, lane) = Embedded::open(folder, &Options::default()).expect("opens");
    let claimed = claim(&mut store).await.expect("claims");
    (lane, read(&mut store, claimed.first, usize::MAX).await.expect("is sound"))
}

async fn unpacked(file: &[u8]) -> Result<(TempDir, LaneId, Carried), StoreError> {
    let dir = tempfile::tempdir().expect("a folder");
    let place = dir.path().join("unpacked");
    let (lane, carried) = unpack((file, "file"), &place, |_| {}).await?;
    Ok((dir, lane, carried))
}

/// Where frames begin, the end of the file included.
fn borders(file: &[u8]) -> Vec<usize> {
    let mut borders = vec![12];
    while let Some(at) = borders.last().copied().filter(|at| *at < file.len()) {
        let length = u32::from_le_bytes(file[at..at + 4].try_into().expect("4 bytes"));
        borders.push(at + 4 + length as usize + 16);
    }
    borders
}

/// The byte that an error names.
fn place(error: &StoreError) -> usize {
    let StoreError::Damaged { place, .. } = error else { panic!("not damage: {error}") };
    let at = place.strip_prefix("file, byte ").expect("it names file and place");
    at.parse().expect("a number")
}

#[tokio::test]
async fn a_lane_comes_out_of_its_file_as_it_went_in() {
    for (count, first) in [(0, 1), (7, 1), (7, 4), (7, 8)] {
        let dir = tempfile::tempdir().expect("a folder");
        lane(dir.path(), count, 100, first);
        let file = exported(dir.path()).await;
        let (place, _, carried) = unpacked(&file).await.expect("it is whole");
        assert_eq!(carried.records, count + 1 - first, "{count} records from {first}");
        assert_eq!(records(&place.path().join("unpacked")).await, records(dir.path()).await);
    }
}

#[tokio::test]
async fn a_file_that_is_cut_off_anywhere_is_refused_with_the_place() {
    let dir = tempfile::tempdir().expect("a folder");
    lane(dir.path(), 4, 40, 2);
    let file = exported(dir.path()).await;
    let borders = borders(&file);
    assert_eq!(borders.len(), 1 + 1 + 3 + 1, "begin, three records, end");
    let cuts = borders[..borders.len() - 1].iter().flat_map(|b| [b - 1, *b, b + 1, b + 30]);
    for cut in cuts.filter(|cut| *cut < file.len()).chain([0, file.len() - 1]) {
        let error = unpacked(&file[..cut]).await.expect_err("it is not whole");
        let frame = borders.iter().rev().find(|border| **border <= cut).copied().unwrap_or(0);
        assert_eq!(place(&error), frame, "cut at {cut}: {error}");
    }
    let longer: Vec<u8> = file.iter().chain(&file[..12]).copied().collect();
    unpacked(&longer).await.expect_err("something follows its end");
}

/// Reads a file frame by frame, and puts nothing together.
async fn read_frames(file: &[u8]) -> Result<(), StoreError> {
    let mut frames = FrameReader::begin(file, "file").await?;
    while frames.next().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn a_flipped_bit_is_found_where_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    lane(dir.path(), 3, 40, 1);
    let file = exported(dir.path()).await;
    let borders = borders(&file);
    for bit in 0..file.len() * 8 {
        let mut bad = file.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let read =
            if bit % 199 == 0 { unpacked(&bad).await.map(drop) } else { read_frames(&bad).await };
        match read.expect_err("it is damaged") {
            // The version itself.
            StoreError::Refused(text) => assert!((8..12).contains(&(bit / 8)), "{bit}: {text}"),
            error => {
                let frame = borders.iter().rev().find(|b| **b <= bit / 8).copied().unwrap_or(0);
                assert_eq!(place(&error), frame, "bit {bit}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn frames_of_another_file_or_order_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    lane(dir.path(), 3, 40, 1);
    let file = exported(dir.path()).await;
    let b = borders(&file);
    let frames = |order: &[usize]| -> Vec<u8> {
        let frames = order.iter().flat_map(|n| file[b[*n]..b[n + 1]].iter());
        file[..12].iter().chain(frames).copied().collect()
    };
    assert_eq!(frames(&[0, 1, 2, 3, 4]), file);
    for order in [[0, 2, 1, 3, 4].as_slice(), &[0, 1, 3, 4], &[0, 1, 1, 2, 3, 4], &[1, 2, 3, 4]] {
        unpacked(&frames(order)).await.expect_err("they are not as they were written");
    }
}

/// A store that counts the bytes of the records that it has given.
struct Counted(Embedded, Arc<AtomicU64>);

impl Store for Counted {
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>) {
        self.0.claim(done);
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>) {
        self.0.append(epoch, number, record, done);
    }

    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        let given = Arc::clone(&self.1);
        let count = move |read: Result<Vec<(RecordNumber, Bytes)>, StoreError>| {
            let records = read.iter().flatten();
            let bytes: usize = records.map(|(_, record)| record.len()).sum();
            given.fetch_add(bytes as u64, Ordering::Relaxed);
            done(read);
        };
        self.0.read(from, bytes_max, Box::new(count));
    }

    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>) {
        self.0.truncate(below, done);
    }
}

/// The most of a lane that may be in memory: what is read at once, and one record.
const HELD_MAX: u64 = (1 << 20) + (256 << 10);

/// Takes bytes, and compares them with what was given out to make them.
struct Narrow {
    given: Arc<AtomicU64>,
    taken: u64,
}

impl AsyncWrite for Narrow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let some = bytes.len().min(10_000);
        self.taken += some as u64;
        let held = self.given.load(Ordering::Relaxed).saturating_sub(self.taken);
        assert!(held <= HELD_MAX, "{held} bytes were read ahead of what was written");
        Poll::Ready(Ok(some))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Gives bytes, and counts them.
struct Feed<'a> {
    from: &'a [u8],
    given: Arc<AtomicU64>,
}

impl AsyncRead for Feed<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (some, rest) = self.from.split_at(self.from.len().min(into.remaining()).min(10_000));
        into.put_slice(some);
        self.given.fetch_add(some.len() as u64, Ordering::Relaxed);
        self.from = rest;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_lane_is_never_in_memory_as_a_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let id = lane(dir.path(), 48, 200 << 10, 1);
    let given = Arc::new(AtomicU64::new(0));
    let (store, _) = Embedded::open(dir.path(), &Options::default()).expect("opens");
    let mut store = Counted(store, Arc::clone(&given));
    let claimed = claim(&mut store).await.expect("claims");
    let to = Narrow { given: Arc::clone(&given), taken: 0 };
    let step = async |_| Ok(());
    export(&mut store, (id, "embedded"), &claimed, to, step).await.expect("is written");
    assert!(given.load(Ordering::Relaxed) > 4 * HELD_MAX, "the lane is larger than what is held");
    drop(store);

    let file = exported(dir.path()).await;
    let given = Arc::new(AtomicU64::new(0));
    let feed = Feed { from: &file, given: Arc::clone(&given) };
    let place = tempfile::tempdir().expect("a folder");
    let step = |carried: Carried| {
        let held = given.load(Ordering::Relaxed) - carried.bytes;
        assert!(held <= HELD_MAX, "{held} bytes were read ahead of what is durable");
    };
    unpack((feed, "file"), &place.path().join("lane"), step).await.expect("it is whole");
}

#[tokio::test]
async fn an_import_that_was_cut_off_leaves_nothing_to_serve() {
    let dir = tempfile::tempdir().expect("a folder");
    lane(dir.path(), 4, 40, 1);
    let file = exported(dir.path()).await;
    let place = tempfile::tempdir().expect("a folder");
    let made = || (dpc_core::Limits::default(), || dpc_core::Now::default());
    let cut = &file[..file.len() - 60];
    import((cut, "file"), place.path(), made(), |_| {}).await.expect_err("it is not whole");
    let refused = match Embedded::open(place.path(), &Options::default()) {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{:?}", other.map(|(_, lane)| lane)),
    };
    assert!(refused.contains("do it again"), "{refused}");
    // Another one finds its way free: it gets as far as what this lane cannot be, a node's.
    let error = import((&file[..], "file"), place.path(), made(), |_| {}).await;
    let error = error.expect_err("its records hold no entries").to_string();
    assert!(error.contains("record 1"), "{error}");

    std::fs::write(place.path().join("something"), "of value").expect("writes");
    let refused = import((&file[..], "file"), place.path(), made(), |_| {}).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert!(place.path().join("something").exists());
}

/// A database that takes lanes in, and fails where it is told to.
#[derive(Default)]
struct Database {
    records: BTreeMap<RecordNumber, Bytes>,
    head: Option<LaneRow>,
    fails: Option<Fails>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Write,
    Publish,
    /// It has published, and nobody hears of it.
    Answer,
}

impl Intake for Database {
    async fn head(&mut self, _: LaneId) -> Result<Option<LaneRow>, StoreError> {
        Ok(self.head.clone())
    }

    async fn write(
        &mut self,
        _: LaneId,
        _: Epoch,
        records: &[(RecordNumber, Bytes)],
    ) -> Result<(), StoreError> {
        assert_eq!(self.head, None, "nothing is written to a lane that may be served");
        self.records.extend(records.iter().cloned());
        self.fail(Fails::Write)
    }

    async fn publish(&mut self, row: &LaneRow) -> Result<LaneRow, StoreError> {
        self.fail(Fails::Publish)?;
        let row = self.head.get_or_insert_with(|| row.clone()).clone();
        self.fail(Fails::Answer)?;
        Ok(row)
    }
}

impl Database {
    fn fail(&self, at: Fails) -> Result<(), StoreError> {
        let error = Err(StoreError::Io("the database is away".into()));
        if self.fails == Some(at) { error } else { Ok(()) }
    }
}

fn owner(_: LaneId) -> Result<Owner, StoreError> {
    let name = Name::new("node", "mover").expect("valid");
    Ok(Owner { incarnation: Incarnation(7), name, address: "127.0.0.1:1".into() })
}

async fn moved(folder: &Path, to: &mut Database, place: &str) -> Result<Moved, StoreError> {
    move_lane(folder, to, ("postgres", place), owner, |_| {}).await
}

/// Why a node does not serve the lane in a folder, by the store of its configuration.
fn refusals(folder: &Path) -> [Option<StoreError>; 2] {
    let embedded = Embedded::open(folder, &Options::default()).err();
    [embedded, super::super::Seat::open(folder, "postgres").err()]
}

#[tokio::test]
async fn a_move_that_is_cut_off_leaves_one_place_to_serve_from() {
    for fails in [Fails::Write, Fails::Publish, Fails::Answer] {
        let dir = tempfile::tempdir().expect("a folder");
        lane(dir.path(), 5, 40, 2);
        let (_, before) = records(dir.path()).await;
        let mut to = Database { fails: Some(fails), ..Database::default() };
        moved(dir.path(), &mut to, "here").await.expect_err("the database fails");
        let [embedded, postgres] = refusals(dir.path());
        assert!(postgres.is_some(), "{fails:?}: the database is not known to have the lane");
        if fails == Fails::Write {
            assert_eq!(embedded, None, "the folder still has the lane");
        } else {
            assert!(embedded.is_some(), "{fails:?}: the folder was given up");
            let elsewhere = moved(dir.path(), &mut Database::default(), "elsewhere").await;
            let text = elsewhere.expect_err("it may be here already").to_string();
            assert!(text.contains("on its way to postgres here"), "{text}");
        }

        to.fails = None;
        let done = moved(dir.path(), &mut to, "here").await.expect("the database is back");
        let row = to.head.clone().expect("it is published");
        assert_eq!(done.lane, row.lane);
        assert_eq!((row.first, row.number), (RecordNumber(2), RecordNumber(5)), "{fails:?}");
        assert_eq!(to.records.into_iter().collect::<Vec<_>>(), before, "{fails:?}");
        let [embedded, postgres] = refusals(dir.path());
        assert!(embedded.is_some() && postgres.is_none(), "{fails:?}: the database has the lane");
        let seat = super::super::Seat::open(dir.path(), "postgres").expect("opens");
        assert_eq!(seat.claimed(), Ok(Some(row.epoch)), "{fails:?}: the next claim knows the lane");
    }
}

#[tokio::test]
async fn a_copy_of_a_folder_that_was_moved_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    lane(dir.path(), 3, 40, 1);
    let mut to = Database::default();
    moved(dir.path(), &mut to, "here").await.expect("moves");
    let again = moved(dir.path(), &mut to, "here").await.expect_err("it is there").to_string();
    assert!(again.contains("kept in store \"postgres\" already"), "{again}");
    // As it was before the move, from a backup.
    let copy = tempfile::tempdir().expect("a folder");
    for name in ["HEAD", "log"] {
        std::fs::rename(dir.path().join("before-move").join(name), copy.path().join(name))
            .expect("it is kept");
    }
    super::super::folder::sign(copy.path(), to.head.as_ref().expect("published").lane)
        .expect("signs");
    let copied = moved(copy.path(), &mut to, "here").await.expect_err("an older copy").to_string();
    assert!(copied.contains("an older copy"), "{copied}");
}
