//! The log itself: records one behind the other in files of a fixed size, the segments.
//!
//! ```text
//! log/000000000041.seg   records 9,014 to 9,377
//! log/000000000042.seg   records from 9,378 on; new ones are written behind the last
//! log/000000000043.seg   spare: made ahead, not yet in use
//! ```
//!
//! A segment holds records and nothing else. A record says itself whose it is, which one, and how
//! long, and its hash proves it ([`dpc_core::record`]); so the files need no format of their own. What
//! stands behind the last record of a segment is nothing: room that was set aside, a record whose
//! writing was cut off, or what was there when the file served before. It is told from records by
//! their numbers, which only grow, and at the end of the log, where anything may have been cut off,
//! by hash and chain as well.
//!
//! Opening a log changes nothing in it. Where it ends is found by [`Log::find_end`], which HEAD
//! tells how far it has to reach (P16): whatever is in doubt is refused and left as it is.
//!
//! An append is one write and one sync, in room that was set aside before ([`spares`]).

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::record::{HEADER_BYTES, computed_hash, hash_of, length_of, open};
use dpc_core::store::StoreError;

use super::{damaged, io_error};
use segment::{Segment, SegmentReader};
use spares::{Spare, Spares};

mod segment;
mod spares;
#[cfg(test)]
mod tests;

/// How the log lies on the disk.
#[derive(Clone, Debug)]
pub struct Options {
    /// The size of a segment. Space is given back by whole segments, and about two of them are set
    /// aside for records to come. A longer record gets a segment of its own.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20 }
    }
}

/// The hash of a record.
type Hash = [u8; 16];

/// Where a record begins: in which of the segments, and at which byte.
type Place = (usize, u64);

/// The log of a lane. One thread owns it.
pub(super) struct Log {
    path: PathBuf,
    lane: LaneId,
    segment_bytes: u64,
    /// Those that hold records, oldest first.
    segments: VecDeque<Segment>,
    /// Those whose records were forgotten before the log was opened.
    forgotten: Vec<PathBuf>,
    /// The last segment and where its next record goes; nothing before [`Log::find_end`], and in a
    /// log that holds no record.
    tail: Option<(File, u64)>,
    spares: Spares,
    /// A spare was asked for and has not been taken.
    ordered: bool,
    /// The record behind the last one that was read, and where it stands: whoever reads on need not
    /// look for it.
    cursor: Option<Reader>,
}

impl Log {
    /// Opens the log at `path`, of which the records from `first` on are kept.
    pub(super) fn open(
        path: &Path,
        lane: LaneId,
        first: RecordNumber,
        options: &Options,
    ) -> Result<Self, StoreError> {
        let (segments, unused) = segments_of(path, lane, first)?;
        let mut log = Self {
            path: path.to_owned(),
            lane,
            segment_bytes: options.segment_bytes,
            segments,
            forgotten: Vec::new(),
            tail: None,
            spares: Spares::start(path, options.segment_bytes)?,
            ordered: false,
            cursor: None,
        };
        log.forgotten = log.below(first);
        log.check_gaps()?;
        // More than the next one are left if one was taken and nothing written to it.
        let next = log.next_sequence();
        if unused.is_some_and(|lowest| lowest != next) {
            return Err(damaged(&segment::path_of(path, next), "it is missing"));
        }
        Ok(log)
    }

    /// Segments are numbered without a gap.
    fn check_gaps(&self) -> Result<(), StoreError> {
        let pairs = self.segments.iter().zip(self.segments.iter().skip(1));
        for (segment, next) in pairs {
            let expected = segment.sequence + 1;
            if next.sequence != expected {
                return Err(damaged(&segment::path_of(&self.path, expected), "it is missing"));
            }
        }
        Ok(())
    }

    /// Takes the segments out that hold nothing from `first` on. The last one stays.
    fn below(&mut self, first: RecordNumber) -> Vec<PathBuf> {
        let mut taken = Vec::new();
        while self.segments.get(1).is_some_and(|next| next.first <= first) {
            taken.extend(self.segments.pop_front().map(|segment| segment.path));
        }
        taken
    }

    /// Finds the end of the log: it goes on from `last`, the record that HEAD knows as the last one,
    /// for as long as records are whole and linked, which are `behind_max` at most. Returns those
    /// behind `last`, which are durable then: an earlier process may have written them and failed to
    /// sync.
    pub(super) fn find_end(
        &mut self,
        (last, last_hash): (RecordNumber, Hash),
        behind_max: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        let Some(mut reader) = self.behind(last, last_hash)? else {
            if let Some(segment) = self.segments.front() {
                let what = format!("it is missing, and record {} is there", segment.first);
                return Err(self.damaged(last, what));
            }
            // Nothing has ever been written, or nothing since the lane came from elsewhere: the first
            // record need not wait for its segment.
            self.order();
            return Ok(Vec::new());
        };
        let (mut found, mut hash) = (Vec::new(), last_hash);
        let mut places = Vec::new();
        while let Some((place, record)) = reader.next_linked(self, hash)? {
            hash = hash_of(&record);
            places.push(place);
            found.push(record);
            if found.len() > behind_max {
                let number = RecordNumber(last.0 + found.len() as u64);
                let what =
                    format!("it lies {} records behind HEAD: HEAD is not this log's", found.len());
                return Err(reader.damaged(number, what));
            }
        }
        self.check_nothing_follows(&mut reader)?;
        self.write_again(&places, &found)?;
        let segment = &self.segments[reader.segment];
        let file = File::options().write(true).open(&segment.path);
        self.tail = Some((file.map_err(|error| io_error(&segment.path, &error))?, reader.at));
        // Segments behind it hold nothing: a record that a crash cut off at their beginning.
        self.segments.truncate(reader.segment + 1);
        Ok(found)
    }

    /// A reader that stands behind the record `last`, whose hash must be `hash`.
    fn behind(&mut self, last: RecordNumber, hash: Hash) -> Result<Option<Reader>, StoreError> {
        if let Some(at) = self.segments.iter().position(|it| it.first == last.next()) {
            return Ok(Some(Reader::at_start(self, at)?));
        }
        let Some(mut reader) = self.reader(last)? else { return Ok(None) };
        let found = reader.next(self)?;
        Ok(found.filter(|record| open(record).is_ok() && hash_of(record) == hash).map(|_| reader))
    }

    /// A record that was only begun is the last thing in a log. If one stands behind it that is
    /// linked to it, or in a later segment, then it was whole once.
    fn check_nothing_follows(&self, reader: &mut Reader) -> Result<(), StoreError> {
        let expected = reader.expected;
        if let Some(next) = self.segments.get(reader.segment + 1) {
            let what = format!("it is not whole, and record {} is there", next.first);
            return Err(reader.damaged(expected, what));
        }
        if reader.is_followed(self)? {
            let what = format!("it is not whole, and record {} is there", expected.next());
            return Err(reader.damaged(expected, what));
        }
        Ok(())
    }

    /// Pages whose sync once failed may be clean in memory and missing on the device: writing them
    /// again is the only way to know.
    fn write_again(&self, places: &[Place], records: &[Bytes]) -> Result<(), StoreError> {
        for ((segment, at), record) in places.iter().zip(records) {
            let path = &self.segments[*segment].path;
            let write = || {
                let file = File::options().write(true).open(path)?;
                file.write_all_at(record, *at)?;
                file.sync_all()
            };
            write().map_err(|error| io_error(path, &error))?;
        }
        Ok(())
    }

    /// Turns to a new segment if a record of that length does not fit into the last one. Nothing of
    /// it is written yet.
    pub(super) fn make_room(
        &mut self,
        number: RecordNumber,
        length: usize,
    ) -> Result<(), StoreError> {
        // A segment that holds nothing yet takes any record.
        let fits = |(_, end): &(File, u64)| *end == 0 || end + length as u64 <= self.segment_bytes;
        if self.tail.as_ref().is_some_and(fits) {
            return Ok(());
        }
        self.turn_over(number)
    }

    /// Writes one record behind the last and makes it durable. There is room for it.
    pub(super) fn put(&mut self, number: RecordNumber, record: &[u8]) -> Result<(), StoreError> {
        let (segment, tail) = (self.segments.back_mut(), self.tail.as_mut());
        let (segment, (file, end)) = segment.zip(tail).expect("room was made");
        let written = file.write_all_at(record, *end).and_then(|()| file.sync_data());
        written.map_err(|error| io_error(&segment.path, &error))?;
        segment.mark(number, *end);
        *end += record.len() as u64;
        // What it has read ahead stood there before.
        let last = self.segments.len() - 1;
        self.cursor.take_if(|cursor| cursor.segment == last);
        if *end > self.segment_bytes / 2 {
            self.order();
        }
        Ok(())
    }

    /// Goes on in a new segment, which begins with record `first`.
    fn turn_over(&mut self, first: RecordNumber) -> Result<(), StoreError> {
        self.order();
        self.ordered = false;
        let made = self.spares.wait().or_else(|error| {
            // It was asked for a while ago: there may be room by now.
            tracing::warn!(log = %self.path.display(), %error, "a segment is asked for again");
            self.spares.order(self.next_sequence());
            self.spares.wait()
        });
        let Spare { sequence, path, file } = made?;
        self.segments.push_back(Segment::new(sequence, path, first));
        self.tail = Some((file, 0));
        Ok(())
    }

    fn order(&mut self) {
        if !self.ordered {
            self.spares.order(self.next_sequence());
            self.ordered = true;
        }
    }

    /// The sequence number of the segment behind the last: that one stays, whatever is forgotten.
    fn next_sequence(&self) -> u64 {
        self.segments.back().map_or(0, |last| last.sequence) + 1
    }

    /// Makes everything durable that was ever written.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        match (&self.tail, self.segments.back()) {
            (Some((file, _)), Some(segment)) => {
                file.sync_all().map_err(|error| io_error(&segment.path, &error))
            }
            _ => Ok(()),
        }
    }

    /// Whatever stands as record `number`, unchecked; nothing if nothing does.
    pub(super) fn get(&mut self, number: RecordNumber) -> Result<Option<Bytes>, StoreError> {
        match self.reader(number)? {
            Some(mut reader) => reader.next(self),
            None => Ok(None),
        }
    }

    /// A reader that stands at record `number`, if the log has a place for it: those before it in the
    /// same segment have to be there.
    pub(super) fn reader(&mut self, number: RecordNumber) -> Result<Option<Reader>, StoreError> {
        match self.cursor.take() {
            Some(cursor) if cursor.expected == number && self.holds(&cursor) => {
                return Ok(Some(cursor));
            }
            _ => {}
        }
        let above = self.segments.partition_point(|segment| segment.first <= number);
        let Some(segment) = above.checked_sub(1) else { return Ok(None) };
        let mut reader = Reader::at_start(self, segment)?;
        (reader.expected, reader.at) = self.segments[segment].mark_before(number);
        while reader.expected < number {
            if !reader.skip(self)? {
                let what = format!("it is missing, and record {number} should follow");
                return Err(reader.damaged(reader.expected, what));
            }
        }
        Ok(Some(reader))
    }

    /// Keeps a reader for whoever reads on.
    pub(super) fn keep(&mut self, reader: Reader) {
        self.cursor = Some(reader);
    }

    fn holds(&self, cursor: &Reader) -> bool {
        self.segments.get(cursor.segment).is_some_and(|it| it.path == cursor.file.path)
    }

    /// Gives back the space of segments that hold nothing but records below `below`, which nobody
    /// asks for any more.
    pub(super) fn forget(&mut self, below: RecordNumber) {
        self.cursor = None;
        let mut taken = std::mem::take(&mut self.forgotten);
        taken.extend(self.below(below));
        self.spares.take_away(taken);
    }

    /// The place of a record, as errors name it.
    pub(super) fn damaged(&self, number: RecordNumber, what: impl Into<String>) -> StoreError {
        let above = self.segments.partition_point(|segment| segment.first <= number);
        let segment = above.checked_sub(1).and_then(|at| self.segments.get(at));
        let path = segment.map_or(&self.path, |segment| &segment.path);
        place(path, number, what)
    }
}

fn place(path: &Path, number: RecordNumber, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { place: format!("{}, record {number}", path.display()), what: what.into() }
}

/// The segments of a log that hold records, and the lowest sequence number of those behind them that
/// hold none yet. What was forgotten before `first` may be damaged.
fn segments_of(
    path: &Path,
    lane: LaneId,
    first: RecordNumber,
) -> Result<(VecDeque<Segment>, Option<u64>), StoreError> {
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let mut unused: Option<(u64, PathBuf)> = None;
    for (sequence, file) in segment::list(path)? {
        let found = SegmentReader::open(&file)?.start(0, lane)?;
        let last = segments.back().map_or(RecordNumber(0), |last| last.first);
        let found = found.map(|(header, _)| header.number).filter(|number| *number > last);
        match (found, &unused) {
            (Some(number), Some((_, unused))) if number > first => {
                let what =
                    format!("it does not begin with a record, and a later one with {number}");
                return Err(damaged(unused, what));
            }
            (Some(number), _) => {
                unused = None;
                segments.push_back(Segment::new(sequence, file, number));
            }
            (None, _) => unused = unused.or(Some((sequence, file))),
        }
    }
    Ok((segments, unused.map(|(sequence, _)| sequence)))
}

/// Goes through the records of a log in their order.
pub(super) struct Reader {
    /// Which of the log's segments.
    segment: usize,
    file: SegmentReader,
    /// Where the next record begins, and which one that is.
    at: u64,
    expected: RecordNumber,
}

impl Reader {
    fn at_start(log: &Log, segment: usize) -> Result<Self, StoreError> {
        let it = &log.segments[segment];
        Ok(Self { segment, file: SegmentReader::open(&it.path)?, at: 0, expected: it.first })
    }

    /// The next record, unchecked but for lane and number; nothing if none stands where it should.
    pub(super) fn next(&mut self, log: &mut Log) -> Result<Option<Bytes>, StoreError> {
        let Some(length) = self.length(log)? else { return Ok(None) };
        let bytes = self.file.bytes(self.at, length)?;
        if bytes.len() < length {
            return Ok(None);
        }
        let record = Bytes::copy_from_slice(bytes);
        self.step(log, length);
        Ok(Some(record))
    }

    /// The next record if it is whole and linked to the one of that hash, and its place.
    fn next_linked(
        &mut self,
        log: &mut Log,
        previous: Hash,
    ) -> Result<Option<(Place, Bytes)>, StoreError> {
        let Some(length) = self.length(log)? else { return Ok(None) };
        let record = Bytes::copy_from_slice(self.file.bytes(self.at, length)?);
        match open(&record) {
            Ok((header, _)) if header.previous == previous => {}
            _ => return Ok(None),
        }
        let place = (self.segment, self.at);
        self.step(log, length);
        Ok(Some((place, record)))
    }

    /// Whether a record was begun behind what may have been one, and linked to it, by what that says of
    /// its hash or by what it is: a record is begun only when the one before it is durable. What the
    /// damage has hit of the first one does not matter, unless it was its length.
    fn is_followed(&mut self, log: &Log) -> Result<bool, StoreError> {
        let Ok(length) = length_of(self.file.bytes(self.at, HEADER_BYTES)?) else {
            return Ok(false);
        };
        let record = self.file.bytes(self.at, length)?;
        let hashes: [Option<Hash>; 2] = [record.last_chunk().copied(), Some(computed_hash(record))];
        let next = self.file.start(self.at + length as u64, log.lane)?;
        Ok(next.is_some_and(|(header, _)| {
            header.number == self.expected.next() && hashes.contains(&Some(header.previous))
        }))
    }

    /// Goes beyond the next record without reading it. Says whether there is one.
    fn skip(&mut self, log: &mut Log) -> Result<bool, StoreError> {
        let length = self.length(log)?;
        if let Some(length) = length {
            self.step(log, length);
        }
        Ok(length.is_some())
    }

    /// Goes to the next record, which may be in the next segment. Its length, if something like it
    /// begins there.
    pub(super) fn length(&mut self, log: &Log) -> Result<Option<usize>, StoreError> {
        // What stands behind the last record of a segment is nothing, whatever it looks like.
        let next = self.segment + 1;
        if log.segments.get(next).is_some_and(|next| next.first == self.expected) {
            *self = Self::at_start(log, next)?;
        }
        let start = self.file.start(self.at, log.lane)?;
        Ok(start.filter(|(header, _)| header.number == self.expected).map(|(_, length)| length))
    }

    fn step(&mut self, log: &mut Log, length: usize) {
        log.segments[self.segment].mark(self.expected, self.at);
        self.at += length as u64;
        self.expected = self.expected.next();
    }

    /// Names the place where it stands.
    pub(super) fn damaged(&self, number: RecordNumber, what: impl Into<String>) -> StoreError {
        place(&self.file.path, number, what)
    }
}
