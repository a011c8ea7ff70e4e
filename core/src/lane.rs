//! The lane as core writes it: the open record, those that wait for the store, and the tickets.
//!
//! A ticket is the number of the record an entry goes into. The record that is open now always has
//! a number, so whatever is written can be waited for at once.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::decision::Decision;
use crate::effect::Record;
use crate::ids::{Birth, Epoch, Incarnation, LaneId, Loc, ObjectId, RecordNumber};
use crate::object::{Hash16, Object};
use crate::planted::{Bug, planted};
use crate::record::{
    EndRef, Entry, HASH_BYTES, HEADER_BYTES, Header, How, Standing, Words, Writer, write_decision,
    write_end, write_object,
};
use crate::store::{Claimed, RECORD_BYTES_MAX};
use crate::time::{Mono, Now};

/// The log's writing end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) epoch: Epoch,
    pub(crate) incarnation: Incarnation,
    open: Draft,
    closed: VecDeque<Draft>,
    /// Taken by the driver and not committed: number, bytes, and when.
    taken: VecDeque<(RecordNumber, u64, Mono)>,
    committed: RecordNumber,
    /// The hash of the last record that was sealed.
    hash: Hash16,
    /// The hash of the last record that was committed.
    committed_hash: Hash16,
    taken_hashes: VecDeque<Hash16>,
    checkpoint: RecordNumber,
    uncommitted: u64,
    /// Everything written goes into the open record, whatever its size.
    grouped: bool,
    /// Bytes at which the open record is closed.
    target: usize,
    /// Of the hashes by which a record knows its strings.
    #[serde(skip)]
    seed: u64,
    /// Bytes of the record before the open one, but at most the target.
    #[serde(skip)]
    needed: usize,
    /// The table of strings of a record that has been sealed, for one that is opened.
    #[serde(skip)]
    words: Option<Words>,
}

/// A record that is being written.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Draft {
    number: RecordNumber,
    writer: Writer,
    entries: u32,
    /// Somebody waits for it.
    urgent: bool,
}

/// A record that has been closed and sealed: its number, bytes and entries, for the catalogue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed {
    pub(crate) number: RecordNumber,
    pub(crate) bytes: u32,
    pub(crate) entries: u32,
}

impl Sealed {
    /// What its entries take.
    pub(crate) fn body_bytes(&self) -> u64 {
        u64::from(self.bytes) - (HEADER_BYTES + HASH_BYTES) as u64
    }
}

impl Lane {
    pub(crate) fn new(
        id: LaneId,
        claimed: Claimed,
        incarnation: Incarnation,
        target: usize,
        seed: u64,
    ) -> Self {
        let writer = Writer::default().with_seed(seed);
        Self {
            id,
            epoch: claimed.epoch,
            incarnation,
            open: Draft { number: claimed.last.next(), writer, ..Draft::default() },
            closed: VecDeque::new(),
            taken: VecDeque::new(),
            committed: claimed.last,
            hash: claimed.last_hash,
            committed_hash: claimed.last_hash,
            taken_hashes: VecDeque::new(),
            checkpoint: RecordNumber(0),
            uncommitted: 0,
            grouped: false,
            target,
            seed,
            needed: 0,
            words: None,
        }
    }

    /// The number of the open record: the ticket of what is written now.
    pub(crate) fn ticket(&self) -> RecordNumber {
        self.open.number
    }

    /// The last committed record, with its hash.
    pub(crate) fn committed(&self) -> (RecordNumber, Hash16) {
        (self.committed, self.committed_hash)
    }

    pub(crate) fn is_committed(&self, number: RecordNumber) -> bool {
        number <= self.committed
    }

    /// Of the hashes by which what this lane writes knows its strings.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Bytes written and not committed.
    pub(crate) fn uncommitted(&self) -> u64 {
        self.uncommitted
    }

    pub(crate) fn set_checkpoint(&mut self, number: RecordNumber) {
        self.checkpoint = number;
    }

    pub(crate) fn checkpoint(&self) -> RecordNumber {
        self.checkpoint
    }

    /// Makes room for entries of about `bytes` that must stand in one record.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        if self.grouped {
            return;
        }
        if self.open.entries > 0 && self.open.writer.len() + bytes > self.target {
            let full = self.open_next();
            self.closed.push_back(full);
        }
    }

    /// Whether entries that belong together are being written.
    pub(crate) fn is_grouped(&self) -> bool {
        self.grouped
    }

    /// The same for many entries of which each was reckoned at its largest: together they are far less.
    /// A record that is nearly full is closed before them, another one may grow beyond the target. By
    /// their reckoned size alone offers would stand in half-empty records, each with a commit to pay.
    pub(crate) fn reserve_group(&mut self, bytes: usize) {
        let fits = self.open.writer.len() + bytes < RECORD_BYTES_MAX / 2;
        self.reserve(if fits { bytes.min(self.target / 8) } else { bytes });
    }

    /// Opens the next record and gives the one before. It begins with the larger of what the last two
    /// needed, and a sixteenth: under load those with objects and those with ends take turns, and grow
    /// without being copied.
    fn open_next(&mut self) -> Draft {
        let needed = self.open.writer.len().min(self.target);
        let room = needed.max(std::mem::replace(&mut self.needed, needed));
        let room = (room + room / 16).min(self.target);
        let words = self.words.take().unwrap_or_else(|| Words::with_seed(self.seed));
        let next = Draft {
            number: self.open.number.next(),
            writer: Writer::with_capacity(room).with_words(words),
            entries: 0,
            urgent: false,
        };
        std::mem::replace(&mut self.open, next)
    }

    /// Starts a group of entries of about `bytes` together that must stand in one record: until
    /// [`Lane::end_group`] nothing that is written makes room for itself alone (P4).
    pub(crate) fn begin_group(&mut self, bytes: usize) {
        self.reserve(bytes);
        self.grouped = true;
    }

    /// Ends a group.
    pub(crate) fn end_group(&mut self) {
        assert!(self.grouped, "a group ends once");
        self.grouped = false;
    }

    /// Writes an entry and says where it stands.
    pub(crate) fn write(&mut self, entry: &Entry) -> Loc {
        self.write_with(|w, here| entry.encode(w, here))
    }

    /// Writes an end without taking its object apart.
    pub(crate) fn write_end(&mut self, end: EndRef<'_>) -> Loc {
        self.write_with(|w, _| write_end(w, end))
    }

    /// Writes a decision, which its caller keeps.
    pub(crate) fn write_decision(&mut self, decision: &Decision, objects: &[(ObjectId, u32)]) {
        self.write_with(|w, _| write_decision(w, decision, objects));
    }

    /// Writes an object's entry without taking it apart.
    pub(crate) fn write_object(
        &mut self,
        how: How,
        was: Option<Loc>,
        place: Option<Loc>,
        standing: &Standing,
        object: &Object,
    ) -> Loc {
        self.write_with(|w, here| write_object(w, how, was, place, standing, object, here))
    }

    /// The birth of an object whose first entry is written next.
    pub(crate) fn birth(&self) -> Birth {
        let loc = Loc { record: self.open.number, position: self.open.entries };
        Birth { lane: self.id, epoch: self.epoch, loc }
    }

    fn write_with(&mut self, encode: impl FnOnce(&mut Writer, Birth)) -> Loc {
        let here = self.birth();
        let before = self.open.writer.len();
        encode(&mut self.open.writer, here);
        self.open.entries += 1;
        self.uncommitted += (self.open.writer.len() - before) as u64;
        here.loc
    }

    /// Somebody waits for the open record.
    pub(crate) fn urge(&mut self) -> RecordNumber {
        self.open.urgent = true;
        self.open.number
    }

    /// The record that everything written so far is durable with, or `None` if it is already.
    pub(crate) fn barrier(&mut self) -> Option<RecordNumber> {
        if self.open.entries > 0 {
            return Some(self.urge());
        }
        let last = RecordNumber(self.open.number.0 - 1);
        Some(last).filter(|n| !self.is_committed(*n))
    }

    /// Whether something has been written that nobody waits for.
    pub(crate) fn has_riders(&self) -> bool {
        self.open.entries > 0
    }

    /// Whether a record is full: it will not grow while the one before is written.
    pub(crate) fn has_full(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Whether somebody waits for the open record.
    fn is_urged(&self) -> bool {
        self.open.urgent && self.has_riders()
    }

    /// Whether a record is under way, or waited for.
    pub(crate) fn is_writing(&self) -> bool {
        self.is_urged() || self.has_full() || !self.taken.is_empty()
    }

    /// The next record for the store, if somebody waits for it.
    pub(crate) fn take(&mut self, now: Now) -> Option<(Record, Sealed)> {
        let mut draft = match self.closed.pop_front() {
            Some(draft) => draft,
            None if self.is_urged() => self.open_next(),
            None => return None,
        };
        let header = Header {
            lane: self.id,
            epoch: if planted(Bug::FirstEpochWritten) { Epoch(1) } else { self.epoch },
            number: draft.number,
            wall: now.wall,
            previous: if planted(Bug::RecordsNotLinked) { [0; 16] } else { self.hash },
            checkpoint: self.checkpoint,
            entries: draft.entries,
        };
        self.taken.push_back((draft.number, draft.writer.len() as u64, now.mono));
        self.words = Some(draft.writer.take_words());
        let (bytes, carried) = draft.writer.seal(&header);
        self.hash = crate::record::hash_of(&bytes);
        self.taken_hashes.push_back(self.hash);
        let sealed = Sealed {
            number: draft.number,
            bytes: u32::try_from(bytes.len()).expect("records are bounded"),
            entries: draft.entries,
        };
        Some((Record { number: draft.number, bytes, carried }, sealed))
    }

    /// Records that the store has and has not answered.
    pub(crate) fn taken(&self) -> impl Iterator<Item = RecordNumber> + '_ {
        self.taken.iter().map(|(number, ..)| *number)
    }

    /// The record that was taken last had this hash where its contents were known.
    pub(crate) fn set_last_hash(&mut self, hash: Hash16) {
        self.hash = hash;
        *self.taken_hashes.back_mut().expect("a record has just been taken") = hash;
    }

    /// The store has made a record durable. Says when it was taken.
    pub(crate) fn commit(&mut self, number: RecordNumber) -> Mono {
        let (taken, bytes, since) =
            self.taken.pop_front().expect("only taken records are committed");
        assert_eq!(taken, number, "records are committed in order");
        self.committed = number;
        self.committed_hash = self.taken_hashes.pop_front().expect("one hash a record");
        self.uncommitted -= bytes;
        since
    }
}

/// Bytes of one mark in an entry, at most.
pub(crate) const MARK_BYTES: usize = 80;

/// Bytes of an object's entry besides payload and headers, at most: for [`Lane::reserve`].
pub(crate) fn entry_bytes(object: &Object) -> usize {
    256 + object.entity.payload.len()
        + object.entity.headers.as_packed().len()
        + object.marks.len() * MARK_BYTES
        + object.handled.len() * 65
        + object.path.len() * 65
        + object.chase.as_ref().map_or(0, |c| 32 + c.crossed.len() * 16)
        + object.entity.ty.as_str().len()
}
