//! The test suite that every [`SharedStore`] implementation has to pass, beside [`crate::contract`]
//! for the store of each of its lanes.
//!
//! A case panics at the first broken rule and names it. Nothing here needs a fault: the same suite
//! runs with faults where the harness can make them, because no fault may change what it asks.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::record::{Header, hash_of, seal};
use dpc_core::shared::{Changed, LaneRow, LaneState, SharedLane, SharedStore};
use dpc_core::store::{Appended, Claimed, Done, READ_BYTES_MAX, Store, StoreError};
use dpc_core::time::Wall;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// What the suite needs besides the store itself.
pub trait Harness {
    /// The implementation under test.
    type Store: SharedStore;

    /// A new process with this incarnation.
    fn process(&mut self, incarnation: Incarnation) -> Self::Store;

    /// Waits until an answer of a process has arrived. Panics if it never will.
    fn wait<T>(&mut self, process: &mut Self::Store, answer: &Receiver<T>) -> T;

    /// The same for an answer of a lane's store.
    fn wait_lane<T>(
        &mut self,
        lane: &mut <Self::Store as SharedStore>::Lane,
        answer: &Receiver<T>,
    ) -> T;
}

type Case<H> = fn(&mut Suite<H>);

/// Runs the whole suite. `make` gives a harness with an empty store for the case of that name.
pub fn check<H: Harness>(seed: u64, mut make: impl FnMut(&str) -> H) {
    let cases: [(&str, Case<H>); 8] = [
        ("a new lane", a_new_lane),
        ("a claim fences", a_claim_fences),
        ("claims name what they have seen", claims_name_what_they_have_seen),
        ("one of two claims wins", one_of_two_claims_wins),
        ("a dead owner", a_dead_owner),
        ("a retired lane", a_retired_lane),
        ("beats are seen", beats_are_seen),
        ("takeovers lose nothing", takeovers_lose_nothing),
    ];
    for (name, case) in cases {
        println!("shared store contract: {name}, seed {seed}");
        case(&mut Suite { harness: make(name), rng: Pcg64Mcg::seed_from_u64(seed) });
    }
}

struct Suite<H> {
    harness: H,
    rng: Pcg64Mcg,
}

/// A lane's store as one owner has it.
struct Owned<L> {
    store: L,
    epoch: Epoch,
    last: RecordNumber,
    hash: [u8; 16],
}

type LaneOf<H> = <<H as Harness>::Store as SharedStore>::Lane;

/// The lane that every case begins without.
pub const LANE: LaneId = LaneId([9; 16]);

fn asked<T: Send + 'static>(request: impl FnOnce(Done<T>)) -> Receiver<T> {
    let (tx, rx) = channel();
    // Whoever has stopped waiting has dropped the receiver, which is no fault of the store.
    request(Box::new(move |answer| drop(tx.send(answer))));
    rx
}

impl<H: Harness> Suite<H> {
    fn ask<T: Send + 'static>(
        &mut self,
        process: &mut H::Store,
        request: impl FnOnce(&mut H::Store, Done<T>),
    ) -> T {
        let answer = asked(|done| request(process, done));
        self.harness.wait(process, &answer)
    }

    fn ask_lane<T: Send + 'static>(
        &mut self,
        lane: &mut LaneOf<H>,
        request: impl FnOnce(&mut LaneOf<H>, Done<T>),
    ) -> T {
        let answer = asked(|done| request(lane, done));
        self.harness.wait_lane(lane, &answer)
    }

    /// Asks again what may be repeated, until the store answers.
    fn insist<T: Send + 'static>(
        &mut self,
        process: &mut H::Store,
        request: impl Fn(&mut H::Store, Done<Result<T, StoreError>>),
    ) -> T {
        let mut tries = (0..1_000).map(|_| self.ask(process, &request));
        tries.find_map(Result::ok).expect("the store answers at last")
    }

    fn head(&mut self, process: &mut H::Store) -> Option<LaneRow> {
        self.insist(process, |p, done| p.head(LANE, done))
    }

    fn claim(
        &mut self,
        process: &mut H::Store,
        from: Option<(Incarnation, Epoch)>,
    ) -> Result<Owned<LaneOf<H>>, StoreError> {
        let mut store = process.lane(LANE, from);
        let claimed: Claimed = self.ask_lane(&mut store, Store::claim)?;
        let Claimed { epoch, last, last_hash: hash, .. } = claimed;
        Ok(Owned { store, epoch, last, hash })
    }

    fn next_record(&mut self, of: &Owned<LaneOf<H>>) -> Bytes {
        let mut body = vec![0; 1 + (self.rng.next_u64() % 2_000) as usize];
        self.rng.fill_bytes(&mut body);
        let header = Header {
            lane: LANE,
            epoch: of.epoch,
            number: of.last.next(),
            wall: Wall(1_700_000_000_000),
            previous: of.hash,
            checkpoint: RecordNumber(0),
            entries: 1,
        };
        seal(&header, &body)
    }

    fn append(&mut self, to: &mut Owned<LaneOf<H>>) -> (Bytes, Appended) {
        let record = self.next_record(to);
        let (epoch, number, bytes) = (to.epoch, to.last.next(), record.clone());
        let answer = self.ask_lane(&mut to.store, |s, done| s.append(epoch, number, bytes, done));
        if answer == Appended::Committed {
            (to.last, to.hash) = (number, hash_of(&record));
        }
        (record, answer)
    }

    fn commit(&mut self, to: &mut Owned<LaneOf<H>>) -> Bytes {
        let (record, answer) = self.append(to);
        assert_eq!(answer, Appended::Committed, "the owner commits");
        record
    }

    fn renew(&mut self, of: &mut Owned<LaneOf<H>>) -> Appended {
        let epoch = of.epoch;
        self.ask_lane(&mut of.store, |s, done| s.renew(epoch, done))
    }

    fn retire(&mut self, of: &mut Owned<LaneOf<H>>) -> Appended {
        let epoch = of.epoch;
        self.ask_lane(&mut of.store, |s, done| s.retire(epoch, done))
    }

    fn read_all(&mut self, of: &mut Owned<LaneOf<H>>) -> Vec<(RecordNumber, Bytes)> {
        let (mut found, mut from) = (Vec::new(), RecordNumber(1));
        loop {
            let some = self
                .ask_lane(&mut of.store, |s, done| s.read(from, READ_BYTES_MAX, done))
                .expect("the owner reads");
            let Some((last, _)) = some.last() else { return found };
            from = last.next();
            found.extend(some);
        }
    }
}

fn is_fenced(answer: &Appended) -> bool {
    matches!(answer, Appended::DefinitelyNot(StoreError::Fenced { .. }))
}

fn id(n: u64) -> Incarnation {
    Incarnation(n)
}

fn a_new_lane<H: Harness>(s: &mut Suite<H>) {
    let mut a = s.harness.process(id(1));
    assert_eq!(s.head(&mut a), None, "nothing is there");
    let mut owned = s.claim(&mut a, None).expect("a new lane is made");
    assert_eq!((owned.epoch, owned.last), (Epoch(1), RecordNumber(0)));
    s.commit(&mut owned);
    assert_eq!(s.renew(&mut owned), Appended::Committed);
    s.commit(&mut owned);
    let row = s.head(&mut a).expect("it is there");
    assert_eq!((row.owner.incarnation, row.epoch, row.state), (id(1), Epoch(1), LaneState::Owned));
    assert_eq!((row.number, row.hash, row.began), (owned.last, owned.hash, RecordNumber(0)));
    let again = s.claim(&mut a, None).err();
    assert!(matches!(again, Some(StoreError::Fenced { .. })), "it is not new any more: {again:?}");
}

fn a_claim_fences<H: Harness>(s: &mut Suite<H>) {
    let (mut a, mut b) = (s.harness.process(id(1)), s.harness.process(id(2)));
    let mut old = s.claim(&mut a, None).expect("a new lane");
    let kept: Vec<Bytes> = (0..5).map(|_| s.commit(&mut old)).collect();
    let mut new = s.claim(&mut b, Some((id(1), Epoch(1)))).expect("the claim is good");
    assert_eq!((new.epoch, new.last, new.hash), (Epoch(2), old.last, old.hash));
    let (_, answer) = s.append(&mut old);
    assert!(is_fenced(&answer), "the old owner appends: {answer:?}");
    let answer = s.renew(&mut old);
    assert!(is_fenced(&answer), "the old owner renews: {answer:?}");
    let answer = s.retire(&mut old);
    assert!(is_fenced(&answer), "the old owner retires: {answer:?}");
    let answer = s.ask_lane(&mut old.store, |store, done| store.truncate(RecordNumber(4), done));
    assert!(answer.is_err(), "the old owner truncates: {answer:?}");
    let next = s.commit(&mut new);
    let found: Vec<Bytes> = s.read_all(&mut new).into_iter().map(|(_, b)| b).collect();
    assert_eq!(found, [kept, vec![next]].concat(), "what the old owner committed, and the next");
    let row = s.head(&mut a).expect("it is there");
    assert_eq!((row.owner.incarnation, row.epoch, row.began), (id(2), Epoch(2), old.last));
}

fn claims_name_what_they_have_seen<H: Harness>(s: &mut Suite<H>) {
    let (mut a, mut b) = (s.harness.process(id(1)), s.harness.process(id(2)));
    let mut owned = s.claim(&mut a, None).expect("a new lane");
    for wrong in [(id(1), Epoch(0)), (id(1), Epoch(2)), (id(3), Epoch(1))] {
        let error = s.claim(&mut b, Some(wrong)).err();
        let fenced = matches!(error, Some(StoreError::Fenced { epoch: Epoch(1) }));
        assert!(fenced, "a claim from {wrong:?}: {error:?}");
    }
    s.commit(&mut owned);
    let mut again = s.claim(&mut a, Some((id(1), Epoch(1)))).expect("an owner may claim again");
    assert_eq!(again.epoch, Epoch(2));
    let (_, answer) = s.append(&mut owned);
    assert!(is_fenced(&answer), "an epoch of the past: {answer:?}");
    s.commit(&mut again);
}

fn one_of_two_claims_wins<H: Harness>(s: &mut Suite<H>) {
    let (mut a, mut b, mut c) =
        (s.harness.process(id(1)), s.harness.process(id(2)), s.harness.process(id(3)));
    let mut first = s.claim(&mut a, None).expect("a new lane");
    s.commit(&mut first);
    for round in 0..5 {
        let row = s.head(&mut a).expect("it is there");
        let from = Some((row.owner.incarnation, row.epoch));
        let (mut by_b, mut by_c) = (b.lane(LANE, from), c.lane(LANE, from));
        let (of_b, of_c) = (asked(|d| by_b.claim(d)), asked(|d| by_c.claim(d)));
        let won_b = s.harness.wait_lane(&mut by_b, &of_b).is_ok();
        let won_c = s.harness.wait_lane(&mut by_c, &of_c).is_ok();
        assert!(won_b != won_c, "round {round}: b {won_b}, c {won_c}");
        let row = s.head(&mut a).expect("it is there");
        assert_eq!(row.owner.incarnation, if won_b { id(2) } else { id(3) });
    }
}

fn a_dead_owner<H: Harness>(s: &mut Suite<H>) {
    let (mut a, mut b) = (s.harness.process(id(1)), s.harness.process(id(2)));
    let mut owned = s.claim(&mut a, None).expect("a new lane");
    s.commit(&mut owned);
    for (owner, epoch) in [(id(2), Epoch(1)), (id(1), Epoch(2))] {
        let answer = s.ask(&mut b, |p, done| p.declare_dead(LANE, owner, epoch, done));
        assert!(matches!(answer, Changed::Refused(Some(_))), "not that owner: {answer:?}");
    }
    s.commit(&mut owned);
    let answer = s.ask(&mut b, |p, done| p.declare_dead(LANE, id(1), Epoch(1), done));
    assert_eq!(answer, Changed::Done);
    let (_, answer) = s.append(&mut owned);
    assert!(is_fenced(&answer), "a dead owner appends: {answer:?}");
    let row = s.head(&mut a).expect("it is there");
    assert_eq!((row.state, row.epoch, row.number), (LaneState::Dead, Epoch(1), owned.last));
    let mut new = s.claim(&mut b, Some((id(1), Epoch(1)))).expect("a dead lane is claimed");
    s.commit(&mut new);
}

fn a_retired_lane<H: Harness>(s: &mut Suite<H>) {
    let mut a = s.harness.process(id(1));
    let mut owned = s.claim(&mut a, None).expect("a new lane");
    s.commit(&mut owned);
    assert_eq!(s.retire(&mut owned), Appended::Committed);
    let (_, answer) = s.append(&mut owned);
    assert!(is_fenced(&answer), "a retired lane takes nothing: {answer:?}");
    let error = s.claim(&mut a, Some((id(1), Epoch(1)))).err();
    assert!(matches!(error, Some(StoreError::Refused(_))), "nobody claims it: {error:?}");
    let row = s.head(&mut a).expect("its head stays");
    assert_eq!(row.state, LaneState::Retired);
}

fn beats_are_seen<H: Harness>(s: &mut Suite<H>) {
    let (mut a, mut b) = (s.harness.process(id(1)), s.harness.process(id(2)));
    let owned = s.claim(&mut a, None).expect("a new lane");
    for number in 1..4 {
        s.insist(&mut a, |p, done| p.beat(number, done));
        // Reads promise no freshness, but what was written is seen in the end.
        for look in 0.. {
            let table = s.insist(&mut b, SharedStore::table);
            let lane = table.lanes.get(&LANE).map(|row| row.owner.incarnation);
            if table.beats.get(&id(1)) >= Some(&number) && lane == Some(id(1)) {
                break;
            }
            assert!(look < 1_000, "beat {number} is never seen");
        }
    }
    drop(owned);
}

/// Owners take the lane from each other and commit: each finds everything committed before.
fn takeovers_lose_nothing<H: Harness>(s: &mut Suite<H>) {
    let mut processes: BTreeMap<u64, H::Store> =
        (1..4).map(|n| (n, s.harness.process(id(n)))).collect();
    let first = processes.get_mut(&1).expect("three processes");
    let mut owned = s.claim(first, None).expect("a new lane");
    let mut all = Vec::new();
    for _ in 0..30 {
        for _ in 0..s.rng.next_u64() % 4 {
            let record = s.commit(&mut owned);
            all.push((owned.last, record));
        }
        let next = 1 + s.rng.next_u64() % 3;
        let process = processes.get_mut(&next).expect("three processes");
        let row = s.head(process).expect("it is there");
        let from = (row.owner.incarnation, row.epoch);
        let mut new = s.claim(process, Some(from)).expect("nobody else claims");
        let (_, answer) = s.append(&mut owned);
        assert!(is_fenced(&answer), "the old owner appends: {answer:?}");
        assert_eq!(s.read_all(&mut new), all, "nothing is lost, nothing is new");
        owned = new;
    }
}
