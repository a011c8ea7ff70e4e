use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::names::Name;
use dpc_core::record::{Header, hash_of, seal};
use dpc_core::shared::{Owner, SharedStore};
use dpc_core::store::{Appended, Claimed, Store, StoreError};
use dpc_core::time::{Mono, Span, Wall};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::contract::{self, Fault};
use crate::contract_shared;

const LANE: LaneId = LaneId([9; 16]);

fn owner(n: u64) -> Owner {
    let name = Name::new("node", &format!("n{n}")).expect("a valid name");
    Owner { incarnation: Incarnation(n), name, address: format!("{n}").into() }
}

fn some_faults() -> Rates {
    Rates {
        lost_applied: 6,
        lost_never: 6,
        lost_later: 6,
        contention: 6,
        unavailable: 6,
        stale: 30,
    }
}

/// A lane's store as the contract of all stores sees it: each opening is a new process.
struct OneLane {
    db: SharedDb,
    now: Mono,
    lives: u64,
}

impl OneLane {
    fn new(seed: u64, rates: Rates) -> Self {
        let db = SharedDb::new(seed);
        db.set_rates(rates);
        Self { db, now: Mono(0), lives: 0 }
    }
}

impl contract::Harness for OneLane {
    type Store = SimLane;

    fn lane(&self) -> LaneId {
        LANE
    }

    fn open(&mut self) -> Result<SimLane, StoreError> {
        self.lives += 1;
        // The store that gave up had 45 s for it.
        self.now = self.now + Span::secs(60);
        let from = self.db.head(LANE, self.now).map(|row| (row.owner.incarnation, row.epoch));
        let mut process = SimShared::new(&self.db, 0, owner(self.lives), self.now);
        Ok(process.lane(LANE, from))
    }

    fn wait<T>(&mut self, store: &mut SimLane, answer: &Receiver<T>) -> T {
        loop {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            self.now = self.now.max(store.next_due().expect("an answer is owed"));
            store.complete_until(self.now);
        }
    }

    /// Everything acknowledged is held by a quorum: there is nothing to lose.
    fn power_cut(&mut self) -> bool {
        true
    }

    /// An answer is lost for good only if the store is out of reach for as long as a client
    /// asks again.
    fn inject(&mut self, _store: &mut SimLane, fault: Fault) -> bool {
        let until = self.now + Span::secs(50);
        match fault {
            Fault::UnknownNever => {
                self.db.force_then_cut(&[Fate::Fine, Fate::LostNever], 0, until);
            }
            Fault::UnknownLater => {
                let later = Fate::LostLater(Span::secs(7));
                self.db.force_then_cut(&[Fate::Fine, later], 0, until);
            }
            Fault::SyncFails | Fault::Full => return false,
        }
        true
    }
}

#[test]
fn a_lane_of_the_shared_store_keeps_the_contract_of_stores() {
    for seed in 0..10 {
        contract::check(seed, |_| OneLane::new(seed, Rates::default()));
    }
}

struct Processes {
    db: SharedDb,
    now: Mono,
    count: usize,
}

impl contract_shared::Harness for Processes {
    type Store = SimShared;

    fn process(&mut self, incarnation: Incarnation) -> SimShared {
        self.count += 1;
        SimShared::new(&self.db, self.count, owner(incarnation.0), self.now)
    }

    fn wait<T>(&mut self, process: &mut SimShared, answer: &Receiver<T>) -> T {
        loop {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            process.complete_until(self.now);
            self.now = self.now.max(process.next_due().unwrap_or(self.now));
        }
    }

    fn wait_lane<T>(&mut self, lane: &mut SimLane, answer: &Receiver<T>) -> T {
        loop {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            lane.complete_until(self.now);
            self.now = self.now.max(lane.next_due().unwrap_or(self.now));
        }
    }
}

#[test]
fn the_shared_store_keeps_its_contract() {
    for seed in 0..20 {
        contract_shared::check(seed, |_| {
            let db = SharedDb::new(seed);
            // Lost answers, contention and ghosts change nothing that the contract asks for.
            if seed % 2 == 1 {
                db.set_rates(some_faults());
            }
            Processes { db, now: Mono(0), count: 0 }
        });
    }
}

/// Owners that take one lane from each other at random while all of them write, under every fault:
/// what was answered is compared with what is there in the end.
struct Duel {
    db: SharedDb,
    now: Mono,
    rng: Pcg64Mcg,
    owners: Vec<Contender>,
    /// Every append that was answered, with the record.
    answered: Vec<(RecordNumber, Bytes, Appended)>,
    lives: u64,
}

struct Contender {
    store: SimLane,
    claim: Option<Receiver<Result<Claimed, StoreError>>>,
    append: Option<(RecordNumber, Bytes, Receiver<Appended>)>,
    at: Option<(Epoch, RecordNumber, [u8; 16])>,
}

impl Duel {
    fn new(seed: u64) -> Self {
        let db = SharedDb::new(seed);
        db.set_rates(some_faults());
        let rng = Pcg64Mcg::seed_from_u64(seed ^ 0x6475_656c);
        Self { db, now: Mono(0), rng, owners: Vec::new(), answered: Vec::new(), lives: 0 }
    }

    fn run(&mut self, rounds: u64) -> Result<(), String> {
        self.enter();
        for _ in 0..rounds {
            self.now = self.now + Span::millis(1 + self.rng.next_u64() % 300);
            if self.rng.next_u64().is_multiple_of(60) || self.owners.is_empty() {
                self.enter();
            }
            if self.rng.next_u64().is_multiple_of(40) {
                let until = self.now + Span::secs(self.rng.next_u64() % 8);
                self.db.cut((self.rng.next_u64() % 4) as usize, until);
            }
            (0..self.owners.len()).for_each(|i| self.step(i));
            self.owners.retain(|c| c.claim.is_some() || c.at.is_some());
        }
        self.db.heal();
        self.check()
    }

    /// A new process wants the lane, whoever has it.
    fn enter(&mut self) {
        self.lives += 1;
        let from = self.db.head(LANE, self.now).map(|row| (row.owner.incarnation, row.epoch));
        let process = (self.lives % 4) as usize;
        let mut process = SimShared::new(&self.db, process, owner(self.lives), self.now);
        let mut store = process.lane(LANE, from);
        let (tx, rx) = channel();
        store.claim(Box::new(move |answer| drop(tx.send(answer))));
        self.owners.push(Contender { store, claim: Some(rx), append: None, at: None });
    }

    fn step(&mut self, i: usize) {
        let c = &mut self.owners[i];
        c.store.complete_until(self.now);
        if let Some(answer) = c.claim.as_ref().and_then(|rx| rx.try_recv().ok()) {
            c.claim = None;
            c.at = answer.ok().map(|found| (found.epoch, found.last, found.last_hash));
        }
        if let Some(answer) = c.append.as_ref().and_then(|(_, _, rx)| rx.try_recv().ok()) {
            let (number, record, _) = c.append.take().expect("just seen");
            c.at = match (&answer, c.at) {
                (Appended::Committed, Some((epoch, ..))) => Some((epoch, number, hash_of(&record))),
                _ => None,
            };
            self.answered.push((number, record, answer));
        }
        if let (Some((epoch, last, previous)), None) = (c.at, &c.append) {
            let number = last.next();
            let body = (self.lives << 32 | self.rng.next_u64() >> 32).to_le_bytes();
            let record = record(epoch, number, previous, &body);
            let (tx, rx) = channel();
            let sent = record.clone();
            c.store.append(epoch, number, sent, Box::new(move |answer| drop(tx.send(answer))));
            c.append = Some((number, record, rx));
        }
    }

    /// P1, P6, P8 for the bare log.
    fn check(&mut self) -> Result<(), String> {
        // Whatever was still on its way has arrived by then.
        let head = self.db.head(LANE, self.now + Span::secs(60)).expect("it was made").number;
        let (first, records) = self.db.contents(LANE);
        let there: BTreeMap<RecordNumber, Bytes> = records.into_iter().collect();
        if there.len() as u64 != head.0 || first != RecordNumber(1) {
            return Err(format!("a fork: {} records of {head} are linked", there.len()));
        }
        let mut highest = Epoch(0);
        for (at, (_, number, epoch)) in (1..).zip(self.db.published()) {
            if number.0 != at {
                return Err(format!("P6: record {number} was published as number {at}"));
            }
            if epoch < highest {
                return Err(format!("P6: {number} at epoch {epoch} after one at {highest}"));
            }
            highest = epoch;
        }
        for (number, record, answer) in &self.answered {
            let is_there = there.get(number) == Some(record);
            match answer {
                Appended::Committed if !is_there => {
                    return Err(format!("P1: {number} was committed and is not there"));
                }
                Appended::DefinitelyNot(_) if is_there => {
                    return Err(format!("P8: {number} was definitely not done and is there"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn record(epoch: Epoch, number: RecordNumber, previous: [u8; 16], body: &[u8]) -> Bytes {
    let header = Header {
        lane: LANE,
        epoch,
        number,
        wall: Wall(1),
        previous,
        checkpoint: RecordNumber(0),
        entries: 1,
    };
    seal(&header, body)
}

#[test]
fn competing_owners_make_no_fork_and_are_told_the_truth() {
    let (mut committed, mut refused, mut unknown, mut ghosts) = (0, 0, 0, 0);
    for seed in 0..40 {
        let mut duel = Duel::new(seed);
        duel.run(1_500).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        for (_, _, answer) in &duel.answered {
            match answer {
                Appended::Committed => committed += 1,
                Appended::DefinitelyNot(_) => refused += 1,
                Appended::Unknown(_) => unknown += 1,
            }
        }
        ghosts += duel.db.ghosts();
    }
    println!("{committed} committed, {refused} refused, {unknown} unknown, {ghosts} ghosts");
    assert!(committed > 1_000 && refused > 100 && ghosts > 100, "the duels were empty");
}

/// Can the check fail? Without owner and epoch in the condition an old owner commits after a claim.
#[test]
fn a_condition_without_owner_and_epoch_is_found() {
    let broken = (0..40).find_map(|seed| {
        let mut duel = Duel::new(seed);
        duel.db.plant(Planted::NoOwnerInCondition);
        duel.run(1_500).err()
    });
    let broken = broken.expect("forty duels without a fence break a promise");
    println!("{broken}");
}
