//! A simulated store: a disk that outlives crashes, and stores opened on it that answer later.
//!
//! Time is virtual. A request is queued with a delay drawn from the disk's seed; the world asks
//! [`SimStore::next_due`] when something will happen and calls [`SimStore::complete_until`] before
//! anything else it does at a moment, so that a request made then counts from it. The same seed and
//! the same calls give the same answers.
//!
//! A crash drops the [`SimStore`] and keeps the [`SimDisk`]: a record that was on its way is then,
//! by seed, not written, written but not synced, or durable without anyone knowing.
//! [`SimDisk::power_cut`] afterwards loses, tears or keeps what was not synced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::record::{hash_of, open};
use dpc_core::store::{
    Appended, Claimed, Done, READ_BYTES_MAX, RECORD_BYTES_MAX, ReadDone, Store, StoreError,
};
use dpc_core::time::{Mono, Span};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

pub use damage::Damage;

use crate::contract::Fault;

mod damage;

/// One answer takes at least this long.
pub const DELAY_MIN: Span = Span(50);

/// One answer takes less than this much longer than [`DELAY_MIN`], plus its place in the queue.
pub const DELAY_SPREAD: Span = Span(1_500);

/// A simulated disk with the log of one lane. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Disk>>);

#[derive(Clone)]
struct Disk {
    lane: LaneId,
    rng: Pcg64Mcg,
    /// The highest epoch that claimed the lane.
    epoch: Epoch,
    first: RecordNumber,
    /// The last record that was ever acknowledged, and its hash.
    head: RecordNumber,
    head_hash: [u8; 16],
    rows: BTreeMap<RecordNumber, Row>,
    late: Vec<Late>,
    fault: Option<Fault>,
    /// Appends that a fault or want of room has spoilt so far.
    failures: u64,
    /// The next read fails.
    read_fails: bool,
    bytes_max: u64,
    stalled_until: Mono,
    /// Committed records that were damaged.
    damaged: BTreeSet<RecordNumber>,
    /// What becomes of the record that is on its way at the next crash; by seed, if none is said.
    fate: Option<Fate>,
}

/// What a crash leaves of a record that was on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Lost,
    /// Written, and lost with the power if nobody syncs it.
    Unsynced,
    /// Durable without anyone knowing.
    Synced,
}

#[derive(Clone)]
struct Row {
    bytes: Bytes,
    synced: bool,
}

/// A write whose answer was lost and that arrives by itself, unless a claim comes first.
#[derive(Clone)]
struct Late {
    due: Mono,
    epoch: Epoch,
    number: RecordNumber,
    bytes: Bytes,
}

/// A store opened on a [`SimDisk`]. Dropping it is a crash.
pub struct SimStore {
    disk: SimDisk,
    now: Mono,
    queue: VecDeque<(Mono, Op)>,
    claimed: bool,
    failed: Option<StoreError>,
}

enum Op {
    Claim(Done<Result<Claimed, StoreError>>),
    Append(Epoch, RecordNumber, Bytes, Done<Appended>),
    Read(RecordNumber, usize, ReadDone),
    Truncate(RecordNumber, Done<Result<(), StoreError>>),
}

impl SimDisk {
    /// A new disk with an empty log of `lane`.
    pub fn new(seed: u64, lane: LaneId) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            lane,
            rng: Pcg64Mcg::seed_from_u64(seed),
            epoch: Epoch(0),
            first: RecordNumber(1),
            head: RecordNumber(0),
            head_hash: [0; 16],
            rows: BTreeMap::new(),
            late: Vec::new(),
            fault: None,
            failures: 0,
            read_fails: false,
            bytes_max: u64::MAX,
            stalled_until: Mono(0),
            damaged: BTreeSet::new(),
            fate: None,
        })))
    }

    /// Another disk with the same content.
    pub fn copied(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }

    /// Puts the content of a copy back. What is wrong with the machine stays as it is, and nothing
    /// is on its way any more. No store may be open on it.
    pub fn become_copy_of(&self, copy: &Self) {
        let copy = copy.lock();
        let disk = &mut *self.lock();
        (disk.lane, disk.epoch, disk.first) = (copy.lane, copy.epoch, copy.first);
        (disk.head, disk.head_hash) = (copy.head, copy.head_hash);
        (disk.rows, disk.damaged) = (copy.rows.clone(), copy.damaged.clone());
        disk.late.clear();
    }

    /// Decides what the next crash leaves of the record that is on its way, and what the next loss
    /// of power leaves of a record that was not synced: nothing.
    pub fn decide(&self, fate: Fate) {
        self.lock().fate = Some(fate);
    }

    /// Opens a store on the disk. More than one may be open: an owner that was declared dead and
    /// lives still has its own.
    pub fn open(&self, now: Mono) -> SimStore {
        SimStore { disk: self.clone(), now, queue: VecDeque::new(), claimed: false, failed: None }
    }

    /// The lane on the disk.
    pub fn lane(&self) -> LaneId {
        self.lock().lane
    }

    /// The first number kept and every committed record from it on.
    pub fn contents(&self) -> (RecordNumber, Vec<(RecordNumber, Bytes)>) {
        let disk = self.lock();
        let committed = disk.rows.iter().filter(|(number, _)| **number <= disk.head);
        (disk.first, committed.map(|(number, row)| (*number, row.bytes.clone())).collect())
    }

    /// Pulls the plug: by seed, each record that was not synced is lost, torn, or kept.
    pub fn power_cut(&self) {
        let disk = &mut *self.lock();
        disk.late.clear();
        if disk.fate == Some(Fate::Unsynced) {
            return disk.rows.retain(|_, row| row.synced);
        }
        let rng = &mut disk.rng;
        disk.rows.retain(|_, row| row.synced || !rng.next_u64().is_multiple_of(3));
        for row in disk.rows.values_mut().filter(|row| !row.synced) {
            if rng.next_u64().is_multiple_of(2) {
                let whole = draw(rng, row.bytes.len());
                let block = [1, 512, 4_096][draw(rng, 3)];
                row.bytes.truncate(whole / block * block);
            }
        }
    }

    /// Makes the next append end this way.
    pub fn fail_next(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// Appends that a fault or want of room has spoilt so far.
    pub fn failures(&self) -> u64 {
        self.lock().failures
    }

    /// Makes the next read fail.
    pub fn fail_next_read(&self) {
        self.lock().read_fails = true;
    }

    /// No fault waits any more, there is room, and nothing is stalled.
    pub fn forget_faults(&self) {
        let disk = &mut *self.lock();
        (disk.fault, disk.read_fails, disk.stalled_until) = (None, false, Mono(0));
        disk.bytes_max = u64::MAX;
    }

    /// Leaves room for so many bytes more; none lifts the limit.
    pub fn leave_room(&self, left: Option<u64>) {
        let disk = &mut *self.lock();
        let held = disk.held_bytes();
        disk.bytes_max = left.map_or(u64::MAX, |left| held + left);
    }

    /// Limits the bytes that the disk holds; `u64::MAX` lifts the limit.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.lock().bytes_max = bytes_max;
    }

    /// Answers nothing before `until`.
    pub fn stall(&self, until: Mono) {
        self.lock().stalled_until = until;
    }

    /// Until when it answers nothing, if it is stalled now.
    pub fn stalled_until(&self, now: Mono) -> Option<Mono> {
        Some(self.lock().stalled_until).filter(|until| *until > now)
    }

    /// Flips one bit of a stored record, drawn from the seed. False if the record is not there.
    pub fn flip(&self, number: RecordNumber) -> bool {
        let disk = &mut *self.lock();
        let Some(row) = disk.rows.get_mut(&number) else { return false };
        let mut bytes = row.bytes.to_vec();
        let bit = draw(&mut disk.rng, bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        row.bytes = Bytes::from(bytes);
        true
    }

    /// Loses a stored record, synced or not. False if the record is not there.
    pub fn lose(&self, number: RecordNumber) -> bool {
        self.lock().rows.remove(&number).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("whoever held the disk did not panic")
    }
}

fn draw(rng: &mut Pcg64Mcg, below: usize) -> usize {
    usize::try_from(rng.next_u64() % below.max(1) as u64).expect("below a usize")
}

impl Disk {
    /// The highest number written, acknowledged or not.
    fn end(&self) -> RecordNumber {
        self.rows.last_key_value().map_or(self.head, |(number, _)| self.head.max(*number))
    }

    /// R3: the epoch first, then what is there is checked, then made durable, then answered.
    fn claim(&mut self) -> Result<Claimed, StoreError> {
        self.epoch = self.epoch.next();
        self.late.clear();
        let tail = self.head.next();
        if self.rows.get(&tail).is_some_and(|row| open(&row.bytes).is_err() && !row.synced) {
            self.rows.remove(&tail);
        }
        if self.rows.contains_key(&tail) {
            self.check(tail)?;
            let row = self.rows.get_mut(&tail).expect("just found");
            row.synced = true;
            self.head_hash = hash_of(&row.bytes);
            self.head = tail;
        } else if self.head >= self.first {
            self.check(self.head)?;
        }
        assert_eq!(self.end(), self.head, "one append is in flight at a time");
        Ok(Claimed {
            epoch: self.epoch,
            first: self.first,
            last: self.head,
            last_hash: self.head_hash,
        })
    }

    /// Checks one record: its frame, lane and number, and its link to the record before it.
    fn check(&self, number: RecordNumber) -> Result<Bytes, StoreError> {
        let damaged = |what: String| StoreError::Damaged {
            place: format!("simulated disk, record {number}"),
            what,
        };
        let row = self.rows.get(&number).ok_or_else(|| damaged("it is missing".into()))?;
        let (header, _) = open(&row.bytes).map_err(|bad| damaged(bad.to_string()))?;
        if (header.lane, header.number) != (self.lane, number) {
            return Err(damaged(format!("it is record {} of {}", header.number, header.lane)));
        }
        let previous = RecordNumber(number.0 - 1);
        let linked = match self.rows.get(&previous) {
            Some(before) => header.previous == hash_of(&before.bytes),
            None if previous == self.head => header.previous == self.head_hash,
            None => true,
        };
        if number == self.head && hash_of(&row.bytes) != self.head_hash {
            return Err(damaged("it is not the record that was acknowledged".into()));
        }
        if linked { Ok(row.bytes.clone()) } else { Err(damaged("its chain is broken".into())) }
    }

    /// Why an append cannot be, or nothing.
    fn refusal(&self, epoch: Epoch, number: RecordNumber, record: &Bytes) -> Option<StoreError> {
        let refused = |why: String| Some(StoreError::Refused(why));
        if epoch < self.epoch {
            return Some(StoreError::Fenced { epoch: self.epoch });
        }
        if epoch > self.epoch {
            return refused(format!("epoch {epoch} was never claimed"));
        }
        if number != self.end().next() {
            return refused(format!("record {number} does not follow record {}", self.end()));
        }
        let bytes = record.len();
        if bytes > RECORD_BYTES_MAX {
            return refused(format!("a record of {bytes} B, the limit is {RECORD_BYTES_MAX} B"));
        }
        None
    }

    /// Whether a record has no room. A disk without a limit is not counted: an append costs the
    /// same with one record as with a million.
    fn is_full(&self, record: usize) -> bool {
        if self.bytes_max == u64::MAX {
            return false;
        }
        self.held_bytes().saturating_add(record as u64) > self.bytes_max
    }

    fn write(&mut self, number: RecordNumber, bytes: Bytes, synced: bool) {
        self.rows.insert(number, Row { bytes, synced });
    }

    fn append(&mut self, now: Mono, epoch: Epoch, number: RecordNumber, record: Bytes) -> Appended {
        if let Some(why) = self.refusal(epoch, number, &record) {
            return Appended::DefinitelyNot(why);
        }
        let full = self.is_full(record.len()).then_some(Fault::Full);
        let lost = || StoreError::Io("the answer of the store was lost".into());
        let fault = full.or_else(|| self.fault.take());
        self.failures += u64::from(fault.is_some());
        match fault {
            None => {
                self.head_hash = hash_of(&record);
                self.write(number, record, true);
                self.head = number;
                Appended::Committed
            }
            Some(Fault::SyncFails) => {
                self.write(number, record, false);
                Appended::Unknown(StoreError::Io("the sync failed".into()))
            }
            Some(Fault::Full) => {
                let why = StoreError::Full("the simulated disk is full".into());
                if self.rng.next_u64().is_multiple_of(2) {
                    return Appended::DefinitelyNot(why);
                }
                let torn = record.slice(..draw(&mut self.rng, record.len()));
                self.write(number, torn, false);
                Appended::Unknown(why)
            }
            Some(Fault::UnknownNever) => Appended::Unknown(lost()),
            Some(Fault::UnknownLater) => {
                let due = now + self.delay();
                self.late.push(Late { due, epoch, number, bytes: record });
                Appended::Unknown(lost())
            }
        }
    }

    /// Bytes of all records kept.
    fn held_bytes(&self) -> u64 {
        self.rows.values().map(|row| row.bytes.len() as u64).sum()
    }

    fn read(
        &mut self,
        from: RecordNumber,
        bytes_max: usize,
    ) -> Result<Vec<(RecordNumber, Bytes)>, StoreError> {
        if std::mem::take(&mut self.read_fails) {
            return Err(StoreError::Io("the device cannot read".into()));
        }
        if from < self.first {
            return Err(StoreError::Damaged {
                place: format!("simulated disk, record {from}"),
                what: format!("it was truncated, the first record is {}", self.first),
            });
        }
        let mut found = Vec::new();
        let mut left = bytes_max.min(READ_BYTES_MAX);
        for number in (from.0..=self.head.0).map(RecordNumber) {
            let record = self.check(number)?;
            if record.len() > left && !found.is_empty() {
                break;
            }
            left = left.saturating_sub(record.len());
            found.push((number, record));
        }
        Ok(found)
    }

    fn truncate(&mut self, below: RecordNumber) -> Result<(), StoreError> {
        if below > self.head.next() {
            return Err(StoreError::Refused(format!(
                "cannot forget below {below}: the last record is {}",
                self.head
            )));
        }
        self.first = self.first.max(below);
        self.rows = self.rows.split_off(&self.first);
        Ok(())
    }

    /// A late write arrives: the fence lets it pass only if nothing has happened since.
    fn arrive(&mut self, late: Late) {
        if self.refusal(late.epoch, late.number, &late.bytes).is_none() {
            self.write(late.number, late.bytes, true);
        }
    }

    fn delay(&mut self) -> Span {
        Span(DELAY_MIN.0 + self.rng.next_u64() % DELAY_SPREAD.0)
    }
}

impl SimStore {
    /// When the next thing happens on its own, if anything is under way.
    pub fn next_due(&self) -> Option<Mono> {
        let disk = self.disk.lock();
        let late = disk.late.iter().map(|late| late.due);
        let answer = self.queue.front().map(|(due, _)| (*due).max(disk.stalled_until));
        late.chain(answer).min()
    }

    /// Lets everything happen that is due by `now`, in order, and answers it.
    pub fn complete_until(&mut self, now: Mono) {
        while let Some(due) = self.next_due().filter(|due| *due <= now) {
            self.now = self.now.max(due);
            if !self.let_late_arrive(due) {
                let (_, op) = self.queue.pop_front().expect("it is due");
                self.perform(op);
            }
        }
        self.now = self.now.max(now);
    }

    /// Whether a late write was due at this moment; it has arrived.
    fn let_late_arrive(&self, due: Mono) -> bool {
        let mut disk = self.disk.lock();
        let Some(at) = disk.late.iter().position(|late| late.due == due) else { return false };
        let late = disk.late.remove(at);
        disk.arrive(late);
        true
    }

    fn perform(&mut self, op: Op) {
        let mut disk = self.disk.lock();
        let error = match &self.failed {
            None if !self.claimed => Some(StoreError::Refused("claim the lane first".into())),
            failed => failed.clone(),
        };
        // Answers are given with the disk unlocked: a receiver may ask the next thing at once.
        match (op, error) {
            (Op::Claim(done), _) => {
                let answer = disk.claim();
                drop(disk);
                self.failed = answer.as_ref().err().cloned();
                self.claimed = true;
                done(answer);
            }
            (Op::Append(_, _, _, done), Some(error)) => done(Appended::DefinitelyNot(error)),
            (Op::Append(epoch, number, record, done), None) => {
                let answer = disk.append(self.now, epoch, number, record);
                drop(disk);
                match &answer {
                    Appended::Committed
                    | Appended::DefinitelyNot(StoreError::Refused(_) | StoreError::Fenced { .. }) =>
                        {}
                    Appended::DefinitelyNot(error) | Appended::Unknown(error) => {
                        self.failed = Some(error.clone());
                    }
                }
                done(answer);
            }
            (Op::Read(_, _, done), Some(error)) => done(Err(error)),
            (Op::Read(from, bytes_max, done), None) => {
                let answer = disk.read(from, bytes_max);
                drop(disk);
                done(answer);
            }
            (Op::Truncate(_, done), Some(error)) => done(Err(error)),
            (Op::Truncate(below, done), None) => {
                let answer = disk.truncate(below);
                drop(disk);
                done(answer);
            }
        }
    }

    fn enqueue(&mut self, op: Op) {
        let due = self.now + self.disk.lock().delay();
        let due = self.queue.back().map_or(due, |(before, _)| due.max(*before));
        self.queue.push_back((due, op));
    }
}

impl Store for SimStore {
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>) {
        self.enqueue(Op::Claim(done));
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>) {
        self.enqueue(Op::Append(epoch, number, record, done));
    }

    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        self.enqueue(Op::Read(from, bytes_max, done));
    }

    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>) {
        self.enqueue(Op::Truncate(below, done));
    }
}

impl Drop for SimStore {
    /// The process dies. What it had asked for may have reached the disk.
    fn drop(&mut self) {
        if self.failed.is_some() || !self.claimed {
            return;
        }
        let disk = &mut *self.disk.lock();
        for (_, op) in self.queue.drain(..) {
            let Op::Append(epoch, number, record, _) = op else { continue };
            let fates = [Fate::Lost, Fate::Unsynced, Fate::Synced];
            let drawn = fates[usize::try_from(disk.rng.next_u64() % 3).expect("below three")];
            let fate = disk.fate.unwrap_or(drawn);
            if fate == Fate::Lost || disk.refusal(epoch, number, &record).is_some() {
                return;
            }
            disk.write(number, record, fate == Fate::Synced);
            return;
        }
    }
}

#[cfg(test)]
mod tests;
