//! What the tests of stores in databases share.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::record::{Header, hash_of, seal};
use dpc_core::store::{Appended, Claimed, Done, Store, StoreError};
use dpc_core::time::Wall;

use super::{Embedded, Options};

/// Longer than anything takes on a busy machine.
pub(super) const WAIT: Duration = Duration::from_secs(90);

/// A lane that nobody has used.
pub(super) fn fresh_lane() -> LaneId {
    LaneId(*uuid::Uuid::now_v7().as_bytes())
}

/// Sends a request and waits for its answer.
pub(super) fn ask<S: ?Sized, T: Send + 'static>(
    store: &mut S,
    request: impl FnOnce(&mut S, Done<T>),
) -> T {
    send(store, request).recv_timeout(WAIT).expect("an answer comes")
}

/// Sends a request.
pub(super) fn send<S: ?Sized, T: Send + 'static>(
    store: &mut S,
    request: impl FnOnce(&mut S, Done<T>),
) -> Receiver<T> {
    let (tx, rx) = channel();
    // Whoever has stopped waiting has dropped the receiver.
    request(store, Box::new(move |answer| drop(tx.send(answer))));
    rx
}

/// The next record of a lane, with `what` in it.
pub(super) fn next_record(lane: LaneId, claimed: &Claimed, what: &[u8]) -> Bytes {
    let header = Header {
        lane,
        epoch: claimed.epoch,
        number: claimed.last.next(),
        wall: Wall(0),
        previous: claimed.last_hash,
        checkpoint: RecordNumber(0),
        entries: 0,
    };
    seal(&header, what)
}

/// A lane as its owner appends to it.
pub(super) struct Log<S> {
    pub(super) store: S,
    lane: LaneId,
    pub(super) claimed: Claimed,
}

impl<S: Store> Log<S> {
    /// Claims the lane of a store.
    pub(super) fn claim(lane: LaneId, mut store: S) -> Self {
        let claimed = ask(&mut store, |store, done| store.claim(done)).expect("claims");
        Self { store, lane, claimed }
    }

    /// Sends the next record, and counts on it.
    pub(super) fn send(&mut self, what: u64) -> Receiver<Appended> {
        self.send_body(&what.to_le_bytes())
    }

    fn send_body(&mut self, body: &[u8]) -> Receiver<Appended> {
        let record = next_record(self.lane, &self.claimed, body);
        let (epoch, number) = (self.claimed.epoch, self.claimed.last.next());
        (self.claimed.last, self.claimed.last_hash) = (number, hash_of(&record));
        send(&mut self.store, |store, done| store.append(epoch, number, record, done))
    }

    pub(super) fn append(&mut self, what: u64) -> Appended {
        self.send(what).recv_timeout(WAIT).expect("an answer comes")
    }

    fn append_body(&mut self, body: &[u8]) -> Appended {
        self.send_body(body).recv_timeout(WAIT).expect("an answer comes")
    }

    pub(super) fn read(&mut self, from: u64) -> Result<Vec<(RecordNumber, Bytes)>, StoreError> {
        ask(&mut self.store, |store, done| store.read(RecordNumber(from), 1 << 20, done))
    }
}

/// Makes a lane in a folder: so many records of so many bytes, of which those below `first` are
/// forgotten.
pub(super) fn embedded_lane(folder: &Path, records: u64, bytes: usize, first: u64) -> LaneId {
    let (store, lane) = Embedded::open(folder, &Options::default()).expect("a new folder");
    let mut log = Log::claim(lane, store);
    for n in 0..records {
        let body = vec![u8::try_from(n).expect("few records"); bytes];
        assert_eq!(log.append_body(&body), Appended::Committed);
    }
    ask(&mut log.store, |s, done| s.truncate(RecordNumber(first), done)).expect("truncates");
    lane
}
