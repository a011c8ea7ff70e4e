//! HEAD: what the log has to hold, kept outside of it.
//!
//! Two slots of 4 KiB are written in turn, each with a hash over the whole slot, so a torn write
//! leaves the slot before it. A slot says which record was acknowledged last. It is written and
//! synced by a thread of its own as soon as a record is acknowledged, and the next acknowledgement
//! waits for it: HEAD is never more than one record behind what was acknowledged, and two behind
//! what was written; its sync runs beside the record's own, and a log that ends before HEAD has
//! lost records (P16).

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::store::StoreError;

use super::chain::Tip;
use super::{damaged, io_error, needed};
use crate::threads::Joined;

const SLOT_BYTES: usize = 4096;
const HASH_AT: usize = SLOT_BYTES - 32;
const MAGIC: [u8; 8] = *b"dpcHEAD1";

/// The content of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) lane: LaneId,
    /// The epoch of the last claim.
    pub(super) epoch: Epoch,
    /// The first record that is kept.
    pub(super) first: RecordNumber,
    /// The last record that was acknowledged.
    pub(super) last: RecordNumber,
    pub(super) last_hash: [u8; 16],
    /// The log was closed in order: everything in it is synced and nothing is behind HEAD.
    pub(super) clean: bool,
}

/// What a HEAD file said when it was opened.
pub(super) struct Found {
    pub(super) head: Head,
    /// One slot was unreadable: torn by a power cut, or damaged. The other is a record older.
    pub(super) repaired: bool,
    sequence: u64,
}

impl Head {
    /// The end of the log that it speaks of.
    pub(super) fn tip(&self) -> Tip {
        let Self { lane, epoch, first, last, last_hash, clean: _ } = *self;
        Tip { lane, epoch, first, last, last_hash }
    }

    /// Writes the HEAD of a new log, both slots, synced.
    pub(super) fn make(path: &Path, lane: LaneId) -> std::io::Result<()> {
        Self::make_at(
            path,
            Tip {
                lane,
                epoch: Epoch(0),
                first: RecordNumber(1),
                last: RecordNumber(0),
                last_hash: [0; 16],
            },
        )
    }

    /// Writes the HEAD of a log that begins where another one ends, both slots, synced.
    pub(super) fn make_at(path: &Path, tip: Tip) -> std::io::Result<()> {
        let Tip { lane, epoch, first, last, last_hash } = tip;
        let head = Self { lane, epoch, first, last, last_hash, clean: true };
        let mut file = File::create(path)?;
        file.write_all(&head.to_slot(0))?;
        file.write_all(&head.to_slot(1))?;
        file.sync_all()
    }

    /// Reads the newer undamaged slot.
    pub(super) fn read(path: &Path, lane: LaneId) -> Result<Found, StoreError> {
        let bytes = std::fs::read(path).map_err(|error| needed(path, &error))?;
        if bytes.len() != 2 * SLOT_BYTES {
            let what = format!("it has {} bytes instead of {}", bytes.len(), 2 * SLOT_BYTES);
            return Err(damaged(path, what));
        }
        let slots: Vec<_> = bytes.chunks(SLOT_BYTES).filter_map(Self::from_slot).collect();
        let Some((sequence, head)) = slots.iter().copied().max_by_key(|(sequence, _)| *sequence)
        else {
            return Err(damaged(path, "neither slot matches its hash"));
        };
        if head.lane != lane {
            return Err(damaged(path, format!("it belongs to lane {}, not {lane}", head.lane)));
        }
        let repaired = slots.len() < 2;
        if repaired {
            tracing::warn!(file = %path.display(), "one slot does not match its hash; the other is used");
        }
        Ok(Found { head, repaired, sequence })
    }

    fn to_slot(self, sequence: u64) -> Vec<u8> {
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        slot.extend_from_slice(&MAGIC);
        slot.extend_from_slice(&sequence.to_le_bytes());
        slot.extend_from_slice(&self.lane.0);
        slot.extend_from_slice(&self.epoch.0.to_le_bytes());
        slot.extend_from_slice(&self.first.0.to_le_bytes());
        slot.extend_from_slice(&self.last.0.to_le_bytes());
        slot.extend_from_slice(&self.last_hash);
        slot.push(u8::from(self.clean));
        slot.resize(HASH_AT, 0);
        let hash = blake3::hash(&slot);
        slot.extend_from_slice(hash.as_bytes());
        slot
    }

    fn from_slot(slot: &[u8]) -> Option<(u64, Self)> {
        if slot[..8] != MAGIC || blake3::hash(&slot[..HASH_AT]) != slot[HASH_AT..] {
            return None;
        }
        let number = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("8 bytes"));
        let id = |at: usize| slot[at..at + 16].try_into().expect("16 bytes");
        let head = Self {
            lane: LaneId(id(16)),
            epoch: Epoch(number(32)),
            first: RecordNumber(number(40)),
            last: RecordNumber(number(48)),
            last_hash: id(56),
            clean: slot[72] == 1,
        };
        Some((number(8), head))
    }
}

/// Writes HEAD beside the storage thread. Only the newest content counts: what was handed over and
/// not yet begun is replaced.
pub(super) struct HeadWriter {
    shared: Arc<Shared>,
    _thread: Joined,
}

/// Names one handed-over content.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(u64);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wanted: Option<Head>,
    handed: Turn,
    written: Turn,
    failed: Option<StoreError>,
    stop: bool,
}

impl HeadWriter {
    /// Starts the thread for the file that `found` was read from.
    pub(super) fn start(path: PathBuf, found: &Found) -> Result<Self, StoreError> {
        let file = File::options()
            .write(true)
            .open(&path)
            .map_err(|error| StoreError::Refused(format!("{}: {error}", path.display())))?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let (theirs, sequence) = (Arc::clone(&shared), found.sequence);
        let thread = Joined::start("dpc-head", move || theirs.run(&path, &file, sequence))?;
        Ok(Self { shared, _thread: thread })
    }

    /// Hands over what HEAD has to say, without waiting.
    pub(super) fn put(&self, head: Head) -> Turn {
        let mut state = self.shared.lock();
        state.wanted = Some(head);
        state.handed.0 += 1;
        let turn = state.handed;
        // A thread that wakes up while the lock is held would only go to sleep again.
        drop(state);
        self.shared.changed.notify_all();
        turn
    }

    /// Waits until the content of that turn, or a later one, is durable.
    pub(super) fn wait(&self, turn: Turn) -> Result<(), StoreError> {
        let mut state = self.shared.lock();
        while state.written < turn && state.failed.is_none() {
            state = self.shared.changed.wait(state).expect("the lock is not poisoned");
        }
        state.failed.clone().map_or(Ok(()), Err)
    }
}

impl Drop for HeadWriter {
    /// The thread is waited for behind this.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// Writes until told to stop, or until a write fails: a failed sync is never tried again.
    fn run(&self, path: &Path, file: &File, mut sequence: u64) {
        let mut state = self.lock();
        loop {
            if let Some(head) = state.wanted.take() {
                let turn = state.handed;
                drop(state);
                sequence += 1;
                let at = (sequence % 2) * SLOT_BYTES as u64;
                let written =
                    file.write_all_at(&head.to_slot(sequence), at).and_then(|()| file.sync_data());
                state = self.lock();
                match written {
                    Ok(()) => state.written = turn,
                    Err(error) => {
                        tracing::error!(file = %path.display(), %error, "HEAD cannot be written");
                        state.failed = Some(io_error(path, &error));
                    }
                }
                self.changed.notify_all();
            } else if state.stop {
                return;
            } else {
                state = self.changed.wait(state).expect("the lock is not poisoned");
            }
            if state.failed.is_some() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(last: u64) -> Head {
        Head {
            lane: LaneId([3; 16]),
            epoch: Epoch(9),
            first: RecordNumber(4),
            last: RecordNumber(last),
            last_hash: [8; 16],
            clean: false,
        }
    }

    #[test]
    fn a_damaged_slot_falls_back_to_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("HEAD");
        Head::make(&path, head(0).lane).unwrap();
        let found = Head::read(&path, head(0).lane).unwrap();
        let writer = HeadWriter::start(path.clone(), &found).unwrap();
        for last in 10..=11 {
            writer.wait(writer.put(head(last))).unwrap();
        }
        drop(writer);
        let good = std::fs::read(&path).unwrap();
        let found = Head::read(&path, head(0).lane).unwrap();
        assert_eq!((found.head, found.repaired), (head(11), false));
        for bit in (0..good.len() * 8).step_by(37) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            let found = Head::read(&path, head(0).lane).unwrap();
            assert!(found.repaired && found.head.last >= RecordNumber(10), "bit {bit}");
        }
        std::fs::write(&path, &good[..5000]).unwrap();
        let error = Head::read(&path, head(0).lane).err().unwrap().to_string();
        assert!(error.contains("HEAD: it has 5000 bytes"), "{error}");
    }
}
