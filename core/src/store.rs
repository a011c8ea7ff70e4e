//! The contract of a store: what a lane's log needs from whatever keeps it.
//!
//! A store knows records by number and nothing of what is in them. It is asked for four things:
//! `claim`, `append`, `read`, `truncate`. Every answer comes later, through the [`Done`] given with
//! the request, so that a thread, an async driver and a simulation can all implement it. The
//! contract test suite (`sim::contract`) runs against every implementation.
//!
//! Rules for every implementation:
//!
//! - Nothing works before the first `claim`: everything else is [`StoreError::Refused`].
//! - As many appends are in flight at a time as [`Store::appends_max`] says, each with the number one
//!   above the one before, which is the last committed or is in flight itself. Any other number
//!   is definitely not written ([`StoreError::Refused`]), and so is a record above
//!   [`RECORD_BYTES_MAX`]; neither changes anything. They are answered in order; when one is not
//!   committed, none behind it is.
//! - An append under an older epoch than the last claim's is definitely not written
//!   ([`StoreError::Fenced`]); one under a newer epoch is refused.
//! - *Committed* means durable. After *unknown* or a failed sync, the store answers nothing but
//!   errors until it is claimed again (which may need the store to be opened anew); it never
//!   retries a sync.
//! - A store that is dropped drops the answers it still owes: that is a crash of its process.
//! - A row once written under (number, epoch) never changes its content.
//! - `claim` writes the new epoch, then reads, then makes what it read durable, then answers (R3).
//! - What a store cannot prove undamaged it refuses with [`StoreError::Damaged`], naming the place.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, RecordNumber};

/// Called exactly once with the answer, from any thread.
pub type Done<T> = Box<dyn FnOnce(T) + Send>;

/// The largest record a store has to take: the hard limit of a commit, in bytes.
pub const RECORD_BYTES_MAX: usize = 8 << 20;

/// The most bytes one `read` answers with (at least one record is always given).
pub const READ_BYTES_MAX: usize = 16 << 20;

/// What `claim` found, all of it durable (R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The epoch of this claim: higher than any epoch that ever owned the lane.
    pub epoch: Epoch,
    /// The lowest number that is kept; one above `last` if nothing is kept (1 in a new log).
    pub first: RecordNumber,
    /// The highest committed number; zero in a log that never held a record.
    pub last: RecordNumber,
    /// The hash of record `last` ([`crate::record::hash_of`]), also when truncation has forgotten
    /// the record itself; all zeros in a log that never held one.
    pub last_hash: [u8; 16],
}

/// How an append ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The record is durable.
    Committed,
    /// The record is not in the log and never will be.
    DefinitelyNot(StoreError),
    /// Nobody can tell yet: the record may be there, or may appear later.
    Unknown(StoreError),
}

/// Why a store refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Stored data is damaged or missing. `place` names file and position.
    #[error("damaged: {place}: {what}")]
    Damaged {
        /// The file (or table) and the position in it.
        place: String,
        /// What was expected and what was found.
        what: String,
    },
    /// Another owner holds a higher epoch.
    #[error("fenced: the lane has been claimed with epoch {epoch}")]
    Fenced {
        /// The epoch that fenced this owner, as far as it is known.
        epoch: Epoch,
    },
    /// No space is left on the device. The node stops with this message.
    #[error("no space left on the device: {0}")]
    Full(String),
    /// The data folder is in use, not writable, or of a format this program does not know.
    #[error("{0}")]
    Refused(String),
    /// Any other input or output error.
    #[error("input/output: {0}")]
    Io(String),
}

/// A store of one lane. See the module's rules.
pub trait Store {
    /// Takes the lane for this process with a new epoch.
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>);

    /// How many appends may be in flight at a time. A store where a record has to wait for its turn
    /// only at its end takes several.
    fn appends_max(&self) -> usize {
        1
    }

    /// Writes `record` under `number` and makes it durable.
    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>);

    /// Reads committed records in order, from `from` on, at most `bytes_max` together but at least
    /// one if there is one. Above the last number the answer is empty. A number below the first
    /// kept one is [`StoreError::Damaged`]: whoever asks for it misses something.
    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone);

    /// Forgets every record below `below`, and keeps the number and hash of the last one even if
    /// it is forgotten, too. Forgetting less than before changes nothing; forgetting more than
    /// there is is refused. Nothing waits for it, except a caller who asks.
    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>);
}

/// The answer of [`Store::read`]: records with their numbers, ascending and without a gap.
pub type ReadDone = Done<Result<Vec<(RecordNumber, Bytes)>, StoreError>>;
