//! The test suite that every [`Store`] implementation has to pass.
//!
//! [`check`] runs every case against a fresh store made by the caller. A case panics at the first
//! broken rule and names it. What a store cannot do (lose power, fail a sync on demand) its
//! [`Harness`] declines, and that case then checks what is left; everything else is the same for
//! the simulated store, the embedded one, and the ones that follow.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::record::{HASH_BYTES, HEADER_BYTES, Header, hash_of, seal};
use dpc_core::store::{
    Appended, Claimed, Done, READ_BYTES_MAX, RECORD_BYTES_MAX, Store, StoreError,
};
use dpc_core::time::Wall;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// What the suite needs besides the store itself: the world around it.
pub trait Harness {
    /// The implementation under test.
    type Store: Store;

    /// The lane that the records belong to.
    fn lane(&self) -> LaneId;

    /// Opens the store on the data it left behind. The store opened before has been dropped.
    fn open(&mut self) -> Result<Self::Store, StoreError>;

    /// Waits until an answer has arrived. Panics if it never will.
    fn wait<T>(&mut self, store: &mut Self::Store, answer: &Receiver<T>) -> T;

    /// Loses what is not durable, as pulling the plug does. The store has been dropped. Answers
    /// false if it cannot.
    fn power_cut(&mut self) -> bool {
        false
    }

    /// Makes the next append end as `fault` says. Answers false if it cannot.
    fn inject(&mut self, _store: &mut Self::Store, _fault: Fault) -> bool {
        false
    }
}

/// What can go wrong with one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device fails the sync: nobody knows what is on it.
    SyncFails,
    /// The device is full.
    Full,
    /// The answer is lost and the record never appears.
    UnknownNever,
    /// The answer is lost and the record appears later, unless a claim comes first.
    UnknownLater,
}

type Case<H> = fn(Lane<H>);

/// Runs the whole suite. `make` gives a harness with an empty store for the case of that name.
pub fn check<H: Harness>(seed: u64, mut make: impl FnMut(&str) -> H) {
    let cases: [(&str, Case<H>); 13] = [
        ("empty claim", empty_claim),
        ("nothing before a claim", nothing_before_a_claim),
        ("append and read back", append_and_read_back),
        ("numbers follow each other", numbers_follow_each_other),
        ("several at a time", several_at_a_time),
        ("epochs grow", epochs_grow),
        ("other epochs are fenced", other_epochs_are_fenced),
        ("reads are bounded", reads_are_bounded),
        ("truncation", truncation),
        ("limits", limits),
        ("claim is durable", claim_is_durable),
        ("faults", faults),
        ("long run", long_run),
    ];
    for (name, case) in cases {
        println!("store contract: {name}, seed {seed}");
        case(Lane::new(make(name), seed));
    }
}

/// The store under test beside a model of what it has to hold.
struct Lane<H: Harness> {
    harness: H,
    store: Option<H::Store>,
    rng: Pcg64Mcg,
    epoch: Epoch,
    first: RecordNumber,
    last: RecordNumber,
    last_hash: [u8; 16],
    records: BTreeMap<RecordNumber, Bytes>,
}

impl<H: Harness> Lane<H> {
    fn new(harness: H, seed: u64) -> Self {
        let mut lane = Self {
            harness,
            store: None,
            rng: Pcg64Mcg::seed_from_u64(seed),
            epoch: Epoch(0),
            first: RecordNumber(1),
            last: RecordNumber(0),
            last_hash: [0; 16],
            records: BTreeMap::new(),
        };
        lane.open();
        lane
    }

    fn open(&mut self) {
        self.store = None;
        self.store = Some(self.harness.open().expect("an undamaged store opens"));
    }

    /// Sends one request and waits for its answer.
    fn ask<T: Send + 'static>(&mut self, request: impl FnOnce(&mut H::Store, Done<T>)) -> T {
        let answer = self.send(request);
        let store = self.store.as_mut().expect("open");
        self.harness.wait(store, &answer)
    }

    /// Sends one request and does not wait.
    fn send<T: Send + 'static>(
        &mut self,
        request: impl FnOnce(&mut H::Store, Done<T>),
    ) -> Receiver<T> {
        let (tx, rx) = channel();
        let store = self.store.as_mut().expect("open");
        // Whoever has stopped waiting has dropped the receiver, which is no fault of the store.
        request(store, Box::new(move |answer| drop(tx.send(answer))));
        rx
    }

    fn claim(&mut self) -> Result<Claimed, StoreError> {
        self.ask(|store, done| store.claim(done))
    }

    /// Claims, and compares all of the answer and all of the log with the model.
    fn claim_and_compare(&mut self) {
        let claimed = self.claim().expect("an undamaged store is claimed");
        assert!(claimed.epoch > self.epoch, "epochs only grow: {claimed:?} after {}", self.epoch);
        self.epoch = claimed.epoch;
        let expected = Claimed {
            epoch: claimed.epoch,
            first: self.first,
            last: self.last,
            last_hash: self.last_hash,
        };
        assert_eq!(claimed, expected, "a claim says what is there");
        self.compare();
    }

    fn append(&mut self, record: Bytes) -> Appended {
        let (epoch, number) = (self.epoch, self.last.next());
        self.ask(|store, done| store.append(epoch, number, record, done))
    }

    /// Appends the next record, which has to succeed.
    fn commit(&mut self, body_bytes: usize) {
        let record = self.next_record(body_bytes);
        assert_eq!(self.append(record.clone()), Appended::Committed, "the next record commits");
        self.take(record);
    }

    /// The model learns that the next record is there.
    fn take(&mut self, record: Bytes) {
        self.last = self.last.next();
        self.last_hash = hash_of(&record);
        self.records.insert(self.last, record);
    }

    fn next_record(&mut self, body_bytes: usize) -> Bytes {
        let mut body = vec![0; body_bytes];
        self.rng.fill_bytes(&mut body);
        let header = Header {
            lane: self.harness.lane(),
            epoch: self.epoch,
            number: self.last.next(),
            wall: Wall(1_700_000_000_000 + self.last.0),
            previous: self.last_hash,
            checkpoint: RecordNumber(0),
            entries: 1,
        };
        seal(&header, &body)
    }

    fn read(
        &mut self,
        from: RecordNumber,
        bytes_max: usize,
    ) -> Result<Vec<(RecordNumber, Bytes)>, StoreError> {
        self.ask(|store, done| store.read(from, bytes_max, done))
    }

    fn truncate(&mut self, below: RecordNumber) -> Result<(), StoreError> {
        let answer = self.ask(|store, done| store.truncate(below, done));
        if answer.is_ok() && below > self.first {
            self.first = below;
            self.records = self.records.split_off(&below);
        }
        answer
    }

    /// Reads the whole log and compares it with the model, byte by byte.
    fn compare(&mut self) {
        let mut found = BTreeMap::new();
        let mut from = self.first;
        loop {
            let bytes_max = usize::try_from(self.rng.next_u64() % 300_000).expect("small");
            let batch = self.read(from, bytes_max).expect("an undamaged log reads");
            if batch.is_empty() {
                break;
            }
            check_batch(from, bytes_max, &batch);
            from = RecordNumber(from.0 + batch.len() as u64);
            found.extend(batch);
        }
        assert_eq!(from, self.last.next(), "the log ends where it has to");
        for (number, record) in &self.records {
            assert!(found.get(number) == Some(record), "record {number} reads back byte by byte");
        }
        assert_eq!(found.len(), self.records.len(), "nothing else is there");
    }

    fn reopen(&mut self) {
        self.open();
        self.claim_and_compare();
    }
}

fn check_batch(from: RecordNumber, bytes_max: usize, batch: &[(RecordNumber, Bytes)]) {
    for (expected, (number, _)) in (from.0..).zip(batch) {
        assert_eq!(number.0, expected, "records come in order and without a gap");
    }
    let bytes: usize = batch.iter().map(|(_, record)| record.len()).sum();
    assert!(bytes <= bytes_max || batch.len() == 1, "{bytes} bytes, {bytes_max} were asked for");
}

fn refused(answer: &Appended) -> bool {
    matches!(answer, Appended::DefinitelyNot(StoreError::Refused(_)))
}

fn empty_claim<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    assert_eq!(lane.read(RecordNumber(1), READ_BYTES_MAX), Ok(Vec::new()));
    lane.reopen();
}

fn nothing_before_a_claim<H: Harness>(mut lane: Lane<H>) {
    let record = lane.next_record(10);
    let answer = lane.append(record);
    assert!(refused(&answer), "append before a claim: {answer:?}");
    let answer = lane.read(RecordNumber(1), 1);
    assert!(matches!(answer, Err(StoreError::Refused(_))), "read before a claim: {answer:?}");
    let answer = lane.truncate(RecordNumber(1));
    assert!(matches!(answer, Err(StoreError::Refused(_))), "truncate before a claim: {answer:?}");
    lane.claim_and_compare();
}

fn append_and_read_back<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    for body in [0, 1, 100, 4_000, 65_536, 200_000] {
        lane.commit(body);
        lane.compare();
    }
    for _ in 0..3 {
        lane.reopen();
        lane.commit(500);
    }
    lane.reopen();
}

fn numbers_follow_each_other<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    for _ in 0..3 {
        lane.commit(50);
        for wrong in [0, lane.last.0, lane.last.0 + 2, u64::MAX] {
            let (epoch, record) = (lane.epoch, lane.next_record(50));
            let answer =
                lane.ask(|store, done| store.append(epoch, RecordNumber(wrong), record, done));
            assert!(refused(&answer), "number {wrong} after {}: {answer:?}", lane.last);
        }
        lane.compare();
    }
    lane.reopen();
}

/// As many as the store takes, each sent before the one before is answered. One that does not follow
/// them is refused and changes nothing for those that do.
fn several_at_a_time<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    for _ in 0..10 {
        let mut answers = Vec::new();
        for _ in 0..lane.store.as_ref().expect("open").appends_max() {
            let body = usize::try_from(lane.rng.next_u64() % 100_000).expect("small");
            let (epoch, number, record) = (lane.epoch, lane.last.next(), lane.next_record(body));
            let next = record.clone();
            answers.push((true, lane.send(|store, done| store.append(epoch, number, next, done))));
            lane.take(record);
        }
        let (epoch, wrong, record) =
            (lane.epoch, RecordNumber(lane.last.0 + 2), lane.next_record(50));
        answers.push((false, lane.send(|store, done| store.append(epoch, wrong, record, done))));
        for (follows, answer) in answers {
            let store = lane.store.as_mut().expect("open");
            match lane.harness.wait(store, &answer) {
                Appended::Committed if follows => {}
                answer => assert!(!follows && refused(&answer), "{answer:?}"),
            }
        }
        lane.compare();
    }
    lane.reopen();
}

fn epochs_grow<H: Harness>(mut lane: Lane<H>) {
    for _ in 0..3 {
        lane.claim_and_compare();
        lane.claim_and_compare();
        lane.commit(20);
        lane.open();
    }
    lane.claim_and_compare();
}

fn other_epochs_are_fenced<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    lane.commit(20);
    let old = lane.epoch;
    lane.claim_and_compare();
    let (new, number, record) = (lane.epoch, lane.last.next(), lane.next_record(20));
    let stale = record.clone();
    let answer = lane.ask(|store, done| store.append(old, number, stale, done));
    assert_eq!(answer, Appended::DefinitelyNot(StoreError::Fenced { epoch: new }));
    let early = record.clone();
    let answer = lane.ask(|store, done| store.append(new.next(), number, early, done));
    assert!(refused(&answer), "an epoch that nobody claimed: {answer:?}");
    lane.compare();
    assert_eq!(lane.append(record.clone()), Appended::Committed);
    lane.take(record);
    lane.reopen();
}

fn reads_are_bounded<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    for _ in 0..40 {
        let body = usize::try_from(lane.rng.next_u64() % 3_000).expect("small");
        lane.commit(body);
    }
    for from in 1..=40 {
        let one = lane.read(RecordNumber(from), 0).expect("reads");
        check_batch(RecordNumber(from), 0, &one);
        assert_eq!(one.len(), 1, "at least one record is given");
        let some = lane.read(RecordNumber(from), 10_000).expect("reads");
        check_batch(RecordNumber(from), 10_000, &some);
        let next = RecordNumber(from + some.len() as u64);
        let bytes: usize = some.iter().map(|(_, record)| record.len()).sum();
        assert!(
            lane.records.get(&next).is_none_or(|record| bytes + record.len() > 10_000),
            "a read gives what fits"
        );
    }
    for above in [41, 42, u64::MAX] {
        assert_eq!(lane.read(RecordNumber(above), 1), Ok(Vec::new()), "nothing above the end");
    }
    let below = lane.read(RecordNumber(0), 1);
    assert!(matches!(below, Err(StoreError::Damaged { .. })), "there is no record 0: {below:?}");
}

fn truncation<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    for _ in 0..50 {
        lane.commit(2_000);
    }
    for below in [1, 10, 10, 5, 30] {
        assert_eq!(lane.truncate(RecordNumber(below)), Ok(()));
        lane.compare();
        let gone = lane.read(RecordNumber(lane.first.0 - 1), 1);
        assert!(matches!(gone, Err(StoreError::Damaged { .. })), "below the first: {gone:?}");
    }
    lane.reopen();
    let beyond = RecordNumber(lane.last.0 + 2);
    let answer = lane.truncate(beyond);
    assert!(matches!(answer, Err(StoreError::Refused(_))), "below {beyond}: {answer:?}");
    lane.commit(10);
    assert_eq!(lane.truncate(lane.last.next()), Ok(()), "a whole log can be forgotten");
    lane.reopen();
    lane.commit(10);
    lane.reopen();
}

fn limits<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    let largest = RECORD_BYTES_MAX - HEADER_BYTES - HASH_BYTES;
    lane.commit(largest);
    let mut larger = lane.next_record(largest).to_vec();
    larger.push(0);
    let answer = lane.append(Bytes::from(larger));
    assert!(refused(&answer), "a record above the limit: {answer:?}");
    lane.commit(1);
    lane.reopen();
}

/// R3: once a claim has answered, no power cut takes back what it said, also if the record before
/// it was written and never synced.
fn claim_is_durable<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    for round in 0..12 {
        for _ in 0..round % 3 {
            lane.commit(300);
        }
        // One append is under way when the process dies, or the machine.
        let record = lane.next_record(700);
        let (epoch, number, sent) = (lane.epoch, lane.last.next(), record.clone());
        let answer = lane.send(|store, done| store.append(epoch, number, sent, done));
        lane.store = None;
        let acknowledged = answer.try_recv() == Ok(Appended::Committed);
        if round % 2 == 0 {
            lane.harness.power_cut();
        }
        lane.open();
        let claimed = lane.claim().expect("claims after a crash");
        assert!(!acknowledged || claimed.last == number, "an acknowledged record is there");
        if claimed.last == number {
            lane.take(record);
        }
        lane.epoch = claimed.epoch;
        assert_eq!((claimed.last, claimed.last_hash), (lane.last, lane.last_hash));
        // Power goes before anything else is written.
        lane.store = None;
        lane.harness.power_cut();
        lane.open();
        lane.claim_and_compare();
    }
}

fn faults<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    for fault in [Fault::SyncFails, Fault::Full, Fault::UnknownNever, Fault::UnknownLater] {
        for _ in 0..5 {
            fault_once(&mut lane, fault);
        }
    }
}

fn fault_once<H: Harness>(lane: &mut Lane<H>, fault: Fault) {
    lane.commit(100);
    let store = lane.store.as_mut().expect("open");
    if !lane.harness.inject(store, fault) {
        return;
    }
    let record = lane.next_record(900);
    let answer = lane.append(record.clone());
    let unknown = match answer {
        Appended::Committed => panic!("{fault:?} was answered as committed"),
        Appended::DefinitelyNot(_) => false,
        Appended::Unknown(_) => true,
    };
    let again = lane.append(record.clone());
    assert!(matches!(again, Appended::DefinitelyNot(_)), "{fault:?}, then append: {again:?}");
    let read = lane.read(lane.first, 1);
    assert!(read.is_err(), "{fault:?}, then read: {read:?}");
    let truncated = lane.ask(|store, done| store.truncate(RecordNumber(1), done));
    assert!(truncated.is_err(), "{fault:?}, then truncate: {truncated:?}");
    lane.open();
    let claimed = lane.claim().expect("claims after a fault");
    if claimed.last == lane.last.next() {
        assert!(unknown, "{fault:?} was answered definitely not, and the record is there");
        lane.take(record);
    }
    lane.epoch = claimed.epoch;
    lane.store = None;
    lane.harness.power_cut();
    lane.reopen();
}

fn long_run<H: Harness>(mut lane: Lane<H>) {
    lane.claim_and_compare();
    for _ in 0..400 {
        match lane.rng.next_u64() % 40 {
            0 => lane.reopen(),
            1 => lane.claim_and_compare(),
            2 => {
                lane.store = None;
                lane.harness.power_cut();
                lane.reopen();
            }
            3 => {
                let span = lane.last.0 + 1 - lane.first.0;
                let below = RecordNumber(lane.first.0 + lane.rng.next_u64() % (span + 1));
                assert_eq!(lane.truncate(below), Ok(()));
            }
            4 => lane.compare(),
            _ => {
                let body = usize::try_from(lane.rng.next_u64() % 20_000).expect("small");
                lane.commit(body);
            }
        }
    }
    lane.reopen();
}
