//! What the contract's suite does not ask for: where records lie, and what is taken for one.

use std::fs;

use dpc_core::ids::Epoch;
use dpc_core::record::{Header, seal};
use dpc_core::time::Wall;
use tempfile::TempDir;

use super::*;

const LANE: LaneId = LaneId([4; 16]);

/// Room for about four of the records below.
const SMALL: Options = Options { segment_bytes: 8 << 10 };

/// A log and what is known of it outside.
struct Fixture {
    dir: TempDir,
    log: Log,
    records: Vec<Bytes>,
    first: RecordNumber,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::open(dir.path(), LANE, RecordNumber(1), &SMALL).expect("opens");
        let mut new = Self { dir, log, records: Vec::new(), first: RecordNumber(1) };
        assert_eq!(new.log.find_end((RecordNumber(0), [0; 16]), 1), Ok(vec![]));
        new
    }

    fn of(records: u64) -> Self {
        let mut new = Self::new();
        (0..records).for_each(|_| new.append(2_000));
        new
    }

    fn last(&self) -> (RecordNumber, Hash) {
        let hash = self.records.last().map_or([0; 16], |record| hash_of(record));
        (RecordNumber(self.records.len() as u64), hash)
    }

    fn next(&self, bytes: usize) -> Bytes {
        let (last, previous) = self.last();
        let header = Header {
            lane: LANE,
            epoch: Epoch(1),
            number: last.next(),
            wall: Wall(0),
            previous,
            checkpoint: RecordNumber(0),
            entries: 0,
        };
        seal(&header, &vec![u8::try_from(last.0 % 251).expect("small"); bytes])
    }

    fn append(&mut self, bytes: usize) {
        let (number, record) = (self.last().0.next(), self.next(bytes));
        self.log.make_room(number, record.len()).expect("there is room");
        self.log.put(number, &record).expect("it is written");
        self.records.push(record);
    }

    fn forget(&mut self, below: u64) {
        self.first = RecordNumber(below);
        self.log.forget(self.first);
    }

    /// Closes the log and opens it again, as it was when record `acknowledged` was the last of HEAD.
    fn reopen_at(self, acknowledged: usize) -> (Self, Result<Vec<Bytes>, StoreError>) {
        let Self { dir, log, records, first } = self;
        drop(log);
        let hash = acknowledged.checked_sub(1).map_or([0; 16], |last| hash_of(&records[last]));
        let log = Log::open(dir.path(), LANE, first, &SMALL).expect("opens");
        let mut again = Self { dir, log, records, first };
        let found = again.log.find_end((RecordNumber(acknowledged as u64), hash), 2);
        (again, found)
    }

    fn reopen(self) -> Self {
        let all = self.records.len();
        let (again, found) = self.reopen_at(all);
        assert_eq!(found, Ok(vec![]));
        again
    }

    /// The segments in use, by the numbers of their files.
    fn segments(&self) -> Vec<u64> {
        self.log.segments.iter().map(|segment| segment.sequence).collect()
    }

    fn path_of(&self, segment: u64) -> PathBuf {
        segment::path_of(self.dir.path(), segment)
    }

    /// Every record that is kept is found, from each of them on.
    fn check(&mut self) {
        for from in self.first.0..=self.last().0.0 {
            let mut reader = self.log.reader(RecordNumber(from)).unwrap().expect("it has a place");
            for expected in &self.records[usize::try_from(from).unwrap() - 1..] {
                assert_eq!(reader.next(&mut self.log).unwrap().as_ref(), Some(expected));
            }
        }
    }
}

fn place_of(error: &StoreError) -> (&str, &str) {
    match error {
        StoreError::Damaged { place, what } => (place, what),
        other => panic!("refused as {other}"),
    }
}

#[test]
fn records_are_found_from_anywhere_in_any_segment() {
    let mut log = Fixture::new();
    for bytes in [10, 9_000, 0, 2_000, 2_000, 2_000, 2_000, 20_000, 5, 5, 5] {
        log.append(bytes);
    }
    log.check();
    // The long ones have a segment of their own.
    assert_eq!(log.segments(), [1, 2, 3, 4, 5, 6]);
    let mut log = log.reopen();
    log.check();
    log.append(100);
    log.check();
    assert_eq!(log.log.get(RecordNumber(13)), Ok(None));
}

#[test]
fn many_small_records_are_found_by_the_noted_ones() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 256 << 10 };
    let log = Log::open(dir.path(), LANE, RecordNumber(1), &options).unwrap();
    let mut log = Fixture { dir, log, records: Vec::new(), first: RecordNumber(1) };
    log.log.find_end((RecordNumber(0), [0; 16]), 1).unwrap();
    (0..1_000).for_each(|_| log.append(30));
    for number in [1, 2, 129, 130, 500, 999, 1_000] {
        let found = log.log.get(RecordNumber(number)).unwrap();
        assert_eq!(found.as_ref(), Some(&log.records[usize::try_from(number).unwrap() - 1]));
    }
    assert_eq!(log.log.get(RecordNumber(1_001)), Ok(None));
}

/// Whoever reads on sees what was written since.
#[test]
fn a_reader_that_was_kept_does_not_see_what_stood_there_before() {
    let mut log = Fixture::of(2);
    for number in 1..20 {
        let mut reader = log.log.reader(RecordNumber(number)).unwrap().expect("it has a place");
        let found = reader.next(&mut log.log).unwrap();
        assert_eq!(found.as_ref(), Some(&log.records[usize::try_from(number).unwrap() - 1]));
        log.log.keep(reader);
        log.append(700);
    }
}

#[test]
fn a_record_that_was_cut_off_is_none_and_is_written_over() {
    for cut in [1, 79, 80, 81, 1_000, 2_095] {
        for at_start in [false, true] {
            let mut log = Fixture::of(if at_start { 3 } else { 4 });
            let torn = log.next(2_000);
            log.log.make_room(log.last().0.next(), if at_start { 8 << 10 } else { 2_096 }).unwrap();
            let (file, end) = log.log.tail.as_ref().unwrap();
            file.write_all_at(&torn[..cut], *end).unwrap();
            let mut log = log.reopen();
            log.check();
            log.append(500);
            log.append(500);
            log.check();
            log.reopen().check();
        }
    }
}

#[test]
fn what_is_whole_behind_head_is_taken_in_up_to_a_bound() {
    for behind in 0..=3 {
        let log = Fixture::of(9);
        let (mut log, found) = log.reopen_at(9 - behind);
        match behind {
            3 => {
                let error = found.unwrap_err();
                let (place, what) = place_of(&error);
                assert!(place.ends_with("record 9") && what.contains("3 records behind HEAD"));
            }
            _ => {
                assert_eq!(found.unwrap(), log.records[9 - behind..]);
                log.append(10);
                log.check();
            }
        }
    }
}

#[test]
fn a_damaged_record_behind_head_is_refused_if_another_follows_it() {
    // Of the records behind HEAD: which one is damaged, and how many there are.
    // In its magic, its lane, its number, its body, its hash.
    let places = [0, 10, 33, 500, 2_090].map(|at| [(8, 9, at), (9, 9, at), (12, 13, at)]);
    for (damaged, last, at_byte) in places.into_iter().flatten() {
        let mut log = Fixture::of(last);
        let reader = log.log.reader(RecordNumber(damaged)).unwrap().expect("it has a place");
        let (path, at) = (reader.file.path.clone(), reader.at);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff], at + at_byte).unwrap();
        let before = fs::read(&path).unwrap();
        let (log, found) = log.reopen_at(usize::try_from(damaged).unwrap() - 1);
        if damaged == last {
            assert_eq!(found, Ok(vec![]), "it cannot be told from one that was cut off");
        } else {
            let error = found.unwrap_err();
            let (place, what) = place_of(&error);
            assert!(place.ends_with(&format!("record {damaged}")), "{place}");
            assert!(what.contains(&format!("record {last} is there")), "{what}");
        }
        assert!(fs::read(&path).unwrap() == before, "opening has changed nothing");
        drop(log);
    }
}

#[test]
fn segments_of_forgotten_records_are_used_again_and_never_read() {
    let mut log = Fixture::of(6);
    for _ in 0..12 {
        for _ in 0..5 {
            // What stands in a segment from before is often longer than what is written over it.
            log.append(if log.records.len().is_multiple_of(3) { 2_000 } else { 300 });
        }
        let below = log.last().0.0 - 3;
        log.forget(below);
        log.check();
        log = log.reopen();
        log.check();
    }
    let files = segment::list(log.dir.path()).unwrap();
    assert!(files.len() < 12, "space is given back: {files:?}");
}

#[test]
fn a_segment_that_is_missing_or_begins_with_nothing_is_named() {
    let log = Fixture::of(12);
    let segments = log.segments();
    assert!(segments.len() > 3);
    let path = log.path_of(segments[1]);
    let Fixture { dir, log, .. } = log;
    drop(log);
    let refused = |path: &Path| {
        let error = Log::open(dir.path(), LANE, RecordNumber(1), &SMALL).err().expect("refused");
        assert_eq!(place_of(&error).0, path.display().to_string());
    };
    let content = fs::read(&path).unwrap();
    fs::write(&path, [&[0][..], &content[1..]].concat()).unwrap();
    refused(&path);
    fs::remove_file(&path).unwrap();
    refused(&path);
    fs::write(&path, content).unwrap();
    Log::open(dir.path(), LANE, RecordNumber(1), &SMALL).map(drop).expect("it is whole again");
}

#[test]
fn a_damaged_segment_that_is_forgotten_does_not_matter() {
    let log = Fixture::of(12);
    let segments = log.segments();
    let first = log.log.segments[2].first;
    let path = log.path_of(segments[1]);
    let Fixture { dir, log, .. } = log;
    drop(log);
    fs::write(&path, "nothing").unwrap();
    Log::open(dir.path(), LANE, first, &SMALL).map(drop).expect("nobody asks for it");
}

#[test]
fn a_record_of_a_newer_format_is_not_nothing() {
    let mut log = Fixture::of(6);
    let reader = log.log.reader(RecordNumber(6)).unwrap().expect("it has a place");
    let (path, at) = (reader.file.path.clone(), reader.at);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[99], at + 4).unwrap();
    let (_log, found) = log.reopen_at(5);
    let text = found.unwrap_err().to_string();
    assert!(text.contains("format 99 is newer"), "{text}");
}

/// HEAD was set back, or is another log's.
#[test]
fn a_log_that_head_does_not_know_is_refused() {
    let mut log = Fixture::of(12);
    log.forget(9);
    let (_log, found) = log.reopen_at(0);
    let error = found.unwrap_err();
    assert!(place_of(&error).1.contains("is there"), "{error}");
}

/// Of a record longer than a segment the first bytes were written, and another one follows.
#[test]
fn a_long_record_that_was_cut_off_at_the_beginning_of_a_segment_is_written_over() {
    let mut log = Fixture::of(4);
    let torn = log.next(20_000);
    log.log.make_room(log.last().0.next(), torn.len()).unwrap();
    let (file, end) = log.log.tail.as_ref().unwrap();
    file.write_all_at(&torn[..3_000], *end).unwrap();
    let mut log = log.reopen();
    log.append(30_000);
    log.append(10);
    log.check();
    log.reopen().check();
}

#[test]
fn a_log_may_begin_anywhere() {
    let mut log = Fixture::of(3);
    let (last, hash) = log.last();
    log.records.truncate(0);
    let dir = tempfile::tempdir().unwrap();
    let mut elsewhere = Log::open(dir.path(), LANE, last.next(), &SMALL).unwrap();
    assert_eq!(elsewhere.find_end((last, hash), 1), Ok(vec![]));
    let header = Header {
        lane: LANE,
        epoch: Epoch(1),
        number: last.next(),
        wall: Wall(0),
        previous: hash,
        checkpoint: RecordNumber(0),
        entries: 0,
    };
    let record = seal(&header, b"first here");
    elsewhere.make_room(last.next(), record.len()).unwrap();
    elsewhere.put(last.next(), &record).unwrap();
    drop(elsewhere);
    // HEAD of the record is not there yet.
    let mut again = Log::open(dir.path(), LANE, last.next(), &SMALL).unwrap();
    assert_eq!(again.find_end((last, hash), 1), Ok(vec![record.clone()]));
    assert_eq!(again.get(last.next()), Ok(Some(record)));
}
