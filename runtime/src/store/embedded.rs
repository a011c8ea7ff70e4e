//! The store that a node uses by itself: one storage thread that owns folder, log and HEAD.
//!
//! An append is one write and one sync of the log. HEAD follows on its own thread while the caller
//! packs the next record (see [`super::head`]). After a write or sync that failed, nothing is tried
//! again: every later request gets that error, and the node stops.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::record::hash_of;
use dpc_core::shared::SharedLane;
use dpc_core::store::{Appended, Claimed, Done, READ_BYTES_MAX, ReadDone, Store, StoreError};

pub use super::log::Options;

use super::folder::{EMBEDDED, Folder, is_retired};
use super::head::{Head, HeadWriter, Turn};
use super::log::Log;
use crate::threads::Joined;

/// The most requests that wait for the storage thread. A caller that goes beyond is refused.
const QUEUE_COUNT_MAX: usize = 1024;

/// How many records a killed process may leave behind HEAD: the last one that was acknowledged, whose
/// HEAD was still on its way, and the next one, which was written and waited for that HEAD.
const BEHIND_MAX: usize = 2;

/// The embedded store of one lane. Dropping it finishes what was asked for and closes the folder.
pub struct Embedded {
    requests: SyncSender<Request>,
    _thread: Joined,
}

enum Request {
    Claim(Done<Result<Claimed, StoreError>>),
    Append(Epoch, RecordNumber, Bytes, Done<Appended>),
    Read(RecordNumber, usize, ReadDone),
    Scrub(RecordNumber, usize, Done<Result<RecordNumber, StoreError>>),
    Truncate(RecordNumber, Done<Result<(), StoreError>>),
    Retire(Epoch, Done<Appended>),
}

impl Embedded {
    /// Opens the data folder at `path`, and makes it first if it is not there.
    ///
    /// Everything that can be refused without reading the log is refused here; damage at the end of
    /// the log is found by the first `claim`.
    pub fn open(path: &Path, options: &Options) -> Result<(Self, LaneId), StoreError> {
        Self::start(path, options, |path| Folder::open(path, EMBEDDED))
    }

    /// Opens the data folder at `path` so that its lane can be moved to another store.
    pub(super) fn open_to_move(path: &Path) -> Result<(Self, LaneId), StoreError> {
        Self::start(path, &Options::default(), Folder::open_to_move)
    }

    fn start(
        path: &Path,
        options: &Options,
        open: fn(&Path) -> Result<Folder, StoreError>,
    ) -> Result<(Self, LaneId), StoreError> {
        let (requests, queue) = sync_channel(QUEUE_COUNT_MAX);
        let (opened, answer) = sync_channel(1);
        let (path, options) = (path.to_owned(), options.clone());
        let work = move || match open(&path).and_then(|folder| Keeper::open(folder, &options)) {
            Ok(keeper) => {
                let told = opened.send(Ok(keeper.folder.lane));
                told.expect("open waits for this");
                keeper.run(&queue);
            }
            Err(error) => opened.send(Err(error)).expect("open waits for this"),
        };
        let store = Self { requests, _thread: Joined::start("dpc-store", work)? };
        match answer.recv() {
            Ok(lane) => Ok((store, lane?)),
            Err(_) => Err(StoreError::Io("the storage thread died while it opened".into())),
        }
    }

    /// Checks the records from `from` on as reading them would, at most `bytes_max` together, and
    /// answers with the number to go on from: one above the last when everything was checked. It
    /// goes by steps so that appends are never held up for longer than one of them.
    pub fn scrub(
        &mut self,
        from: RecordNumber,
        bytes_max: usize,
        done: Done<Result<RecordNumber, StoreError>>,
    ) {
        self.send(Request::Scrub(from, bytes_max, done));
    }

    fn send(&mut self, request: Request) {
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request)) => request.refuse(StoreError::Refused(format!(
                "{QUEUE_COUNT_MAX} requests wait for the storage thread already"
            ))),
            Err(TrySendError::Disconnected(request)) => {
                request.refuse(StoreError::Io("the storage thread has died".into()));
            }
        }
    }
}

impl Request {
    fn refuse(self, error: StoreError) {
        match self {
            Self::Claim(done) => done(Err(error)),
            Self::Append(_, _, _, done) | Self::Retire(_, done) => {
                done(Appended::DefinitelyNot(error));
            }
            Self::Read(_, _, done) => done(Err(error)),
            Self::Scrub(_, _, done) => done(Err(error)),
            Self::Truncate(_, done) => done(Err(error)),
        }
    }
}

impl Store for Embedded {
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>) {
        self.send(Request::Claim(done));
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>) {
        self.send(Request::Append(epoch, number, record, done));
    }

    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        self.send(Request::Read(from, bytes_max, done));
    }

    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>) {
        self.send(Request::Truncate(below, done));
    }
}

impl SharedLane for Embedded {
    /// Nobody else can own a lane whose folder is locked.
    fn renew(&mut self, _epoch: Epoch, done: Done<Appended>) {
        done(Appended::Committed);
    }

    /// Marks the folder: it is not opened again.
    fn retire(&mut self, epoch: Epoch, done: Done<Appended>) {
        self.send(Request::Retire(epoch, done));
    }
}

/// What the storage thread owns. The fields are dropped in this order: the lock goes last.
struct Keeper {
    log: Log,
    head_writer: HeadWriter,
    /// What HEAD says, or will say when `turn` is written.
    head: Head,
    turn: Turn,
    /// How many records may lie behind HEAD.
    behind_max: usize,
    claimed: bool,
    failed: Option<StoreError>,
    /// The last record of the last read, to check that the next one is linked to it.
    read_to: Option<(RecordNumber, [u8; 16])>,
    folder: Folder,
}

impl Keeper {
    fn open(folder: Folder, options: &Options) -> Result<Self, StoreError> {
        let found = Head::read(&folder.head(), folder.lane)?;
        let log = Log::open(&folder.log(), folder.lane, found.head.first, options)?;
        Ok(Self {
            log,
            head_writer: HeadWriter::start(folder.head(), &found)?,
            head: found.head,
            turn: Turn::default(),
            // The older slot is one record older.
            behind_max: if found.repaired { BEHIND_MAX + 1 } else { BEHIND_MAX },
            claimed: false,
            failed: None,
            read_to: None,
            folder,
        })
    }

    /// Answers requests until the last sender is gone, then closes in order.
    fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            match (request, self.error()) {
                (Request::Claim(done), _) => done(self.claim()),
                (request, Some(error)) => request.refuse(error),
                (Request::Append(epoch, number, record, done), None) => {
                    let answer = self.append(epoch, number, record);
                    let committed = answer == Appended::Committed;
                    done(answer);
                    if committed {
                        self.turn = self.head_writer.put(self.head);
                    }
                }
                (Request::Read(from, bytes_max, done), None) => {
                    done(self.read(from, bytes_max.min(READ_BYTES_MAX)));
                }
                (Request::Scrub(from, bytes_max, done), None) => {
                    let read = self.read(from, bytes_max.min(READ_BYTES_MAX));
                    done(read.map(|records| RecordNumber(from.0 + records.len() as u64)));
                }
                (Request::Truncate(below, done), None) => done(self.truncate(below)),
                (Request::Retire(epoch, done), None) => done(self.retire(epoch)),
            }
        }
        if let Err(error) = self.close()
            && !is_retired(&self.folder.path)
        {
            tracing::warn!(folder = %self.folder.path.display(), %error, "not closed in order");
        }
    }

    fn error(&self) -> Option<StoreError> {
        match &self.failed {
            None if !self.claimed => Some(StoreError::Refused("claim the lane first".into())),
            failed => failed.clone(),
        }
    }

    /// Remembers the first failure: from then on everything gets it.
    fn fail(&mut self, error: StoreError) -> StoreError {
        tracing::error!(folder = %self.folder.path.display(), %error, "the store has failed");
        self.failed.get_or_insert(error).clone()
    }

    fn claim(&mut self) -> Result<Claimed, StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.try_claim().map_err(|error| self.fail(error))
    }

    /// R3: the new epoch is written, then the end of the log is read, then made durable, then
    /// answered.
    fn try_claim(&mut self) -> Result<Claimed, StoreError> {
        self.head.epoch = self.head.epoch.next();
        self.head.clean = false;
        self.write_head()?;
        self.check_end()?;
        self.log.sync()?;
        // From here on HEAD is known as it is in memory: at most one record has no answer.
        self.behind_max = 1;
        self.write_head()?;
        // What was forgotten goes when nothing is in doubt any more.
        self.log.forget(self.head.first);
        self.claimed = true;
        let Head { epoch, first, last, last_hash, .. } = self.head;
        Ok(Claimed { epoch, first, last, last_hash })
    }

    fn write_head(&mut self) -> Result<(), StoreError> {
        self.turn = self.head_writer.put(self.head);
        self.head_writer.wait(self.turn)
    }

    /// Compares the end of the log with HEAD, and takes in what lies behind it.
    fn check_end(&mut self) -> Result<(), StoreError> {
        let Head { first, last, .. } = self.head;
        if first <= last {
            let lowest = self.log.get(first)?;
            self.check(first, lowest.as_ref(), None)?;
            let acknowledged = self.log.get(last)?;
            self.check(last, acknowledged.as_ref(), None)?;
        }
        for record in self.log.find_end((last, self.head.last_hash), self.behind_max)? {
            self.head.last = self.head.last.next();
            self.head.last_hash = hash_of(&record);
        }
        Ok(())
    }

    fn check(
        &self,
        number: RecordNumber,
        record: Option<&Bytes>,
        previous: Option<[u8; 16]>,
    ) -> Result<(), StoreError> {
        let checked = self.head.tip().check(number, record, previous);
        checked.map_err(|what| self.log.damaged(number, what))
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes) -> Appended {
        if let Err(error) = self.head.tip().admit(epoch, number, &record) {
            return Appended::DefinitelyNot(error);
        }
        let last_hash = hash_of(&record);
        if let Err(error) = self.log.make_room(number, record.len()) {
            return Appended::DefinitelyNot(self.fail(error));
        }
        let written = self.log.put(number, &record);
        // HEAD of the record before has been on its way since that was acknowledged.
        let written = written.and_then(|()| self.head_writer.wait(self.turn));
        if let Err(error) = written {
            return Appended::Unknown(self.fail(error));
        }
        self.head.last = number;
        self.head.last_hash = last_hash;
        Appended::Committed
    }

    fn read(
        &mut self,
        from: RecordNumber,
        bytes_max: usize,
    ) -> Result<Vec<(RecordNumber, Bytes)>, StoreError> {
        if from < self.head.first {
            let what = format!("it was truncated, the first record is {}", self.head.first);
            return Err(self.log.damaged(from, what));
        }
        if from > self.head.last {
            return Ok(Vec::new());
        }
        let mut previous =
            self.read_to.filter(|(number, _)| number.next() == from).map(|(_, hash)| hash);
        let mut records = Vec::new();
        let mut left = bytes_max;
        let mut expected = from;
        let Some(mut reader) = self.log.reader(from)? else {
            return Err(self.check(from, None, None).expect_err("nothing is no record"));
        };
        while expected <= self.head.last {
            let length = reader.length(&self.log)?;
            if length.is_some_and(|length| length > left) && !records.is_empty() {
                break;
            }
            let record = reader.next(&mut self.log)?;
            self.check(expected, record.as_ref(), previous)?;
            let record = record.expect("it was just checked");
            left = left.saturating_sub(record.len());
            previous = Some(hash_of(&record));
            records.push((expected, record));
            expected = expected.next();
        }
        self.log.keep(reader);
        self.read_to = previous.map(|hash| (RecordNumber(expected.0 - 1), hash));
        Ok(records)
    }

    fn truncate(&mut self, below: RecordNumber) -> Result<(), StoreError> {
        self.head.tip().may_truncate(below)?;
        if below <= self.head.first {
            return Ok(());
        }
        // HEAD first: nothing is taken from the log that HEAD still counts on.
        // Both slots, so that a slot lost later does not bring back a number that is gone.
        self.head.first = below;
        for _ in 0..2 {
            self.write_head().map_err(|error| self.fail(error))?;
        }
        self.log.forget(below);
        Ok(())
    }

    fn retire(&mut self, epoch: Epoch) -> Appended {
        if epoch != self.head.epoch {
            let why = format!("epoch {epoch} does not own the lane, {} does", self.head.epoch);
            return Appended::DefinitelyNot(StoreError::Refused(why));
        }
        match self.folder.retire() {
            Ok(()) => {
                self.failed = Some(StoreError::Refused("the lane is retired".into()));
                Appended::Committed
            }
            Err(error) => Appended::Unknown(self.fail(error)),
        }
    }

    fn close(&mut self) -> Result<(), StoreError> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        self.log.sync()?;
        self.head.clean = true;
        self.write_head()
    }
}

#[cfg(test)]
mod tests;
