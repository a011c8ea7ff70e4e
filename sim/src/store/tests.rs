use std::sync::mpsc::Receiver;

use super::*;
use crate::contract::{self, Harness};

struct World {
    disk: SimDisk,
    now: Mono,
}

impl World {
    fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed, LaneId([5; 16])), now: Mono(0) }
    }
}

impl Harness for World {
    type Store = SimStore;

    fn lane(&self) -> LaneId {
        self.disk.lane()
    }

    fn open(&mut self) -> Result<SimStore, StoreError> {
        Ok(self.disk.open(self.now))
    }

    fn wait<T>(&mut self, store: &mut SimStore, answer: &Receiver<T>) -> T {
        loop {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            self.now = store.next_due().expect("an answer is owed");
            store.complete_until(self.now);
        }
    }

    fn power_cut(&mut self) -> bool {
        self.disk.power_cut();
        true
    }

    fn inject(&mut self, _store: &mut SimStore, fault: Fault) -> bool {
        self.disk.fail_next(fault);
        true
    }
}

#[test]
fn the_simulated_store_keeps_the_contract() {
    for seed in 0..20 {
        contract::check(seed, |_| World::new(seed));
    }
}

fn record(disk: &SimDisk, number: u64, previous: [u8; 16]) -> Bytes {
    let header = dpc_core::record::Header {
        lane: disk.lane(),
        epoch: Epoch(1),
        number: RecordNumber(number),
        wall: dpc_core::time::Wall(number),
        previous,
        checkpoint: RecordNumber(0),
        entries: 0,
    };
    dpc_core::record::seal(&header, &number.to_le_bytes())
}

/// Runs a log of ten records in a fresh world and returns when each answer came.
fn ten_records(world: &mut World, store: &mut SimStore) -> Vec<Mono> {
    let (tx, rx) = std::sync::mpsc::channel();
    store.claim(Box::new(move |answer| tx.send(answer).unwrap()));
    world.wait(store, &rx).unwrap();
    let mut previous = [0; 16];
    let append = |number| {
        let record = record(&world.disk, number, previous);
        previous = hash_of(&record);
        let (tx, rx) = std::sync::mpsc::channel();
        store.append(
            Epoch(1),
            RecordNumber(number),
            record,
            Box::new(move |answer| tx.send(answer).unwrap()),
        );
        let due = store.next_due().unwrap();
        store.complete_until(due);
        assert_eq!(rx.try_recv(), Ok(Appended::Committed));
        due
    };
    (1..=10).map(append).collect()
}

#[test]
fn the_same_seed_answers_at_the_same_moments() {
    let run = |seed| {
        let mut world = World::new(seed);
        let mut store = world.open().unwrap();
        ten_records(&mut world, &mut store)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn damage_is_refused_and_names_the_record() {
    for number in 1..=10 {
        for lose in [false, true] {
            let mut world = World::new(number);
            let mut store = world.open().unwrap();
            ten_records(&mut world, &mut store);
            let number = RecordNumber(number);
            assert!(if lose { world.disk.lose(number) } else { world.disk.flip(number) });
            let mut store = world.open().unwrap();
            let (tx, rx) = std::sync::mpsc::channel();
            let error = tx.clone();
            store.claim(Box::new(move |answer| error.send(answer.err()).unwrap()));
            let claim = world.wait(&mut store, &rx);
            store.read(
                RecordNumber(1),
                READ_BYTES_MAX,
                Box::new(move |answer| tx.send(answer.err()).unwrap()),
            );
            let error = world.wait(&mut store, &rx).or(claim).expect("damage is found");
            let place = format!("simulated disk, record {number}");
            assert!(error.to_string().contains(&place), "{error}");
        }
    }
}

#[test]
fn a_full_disk_and_a_stall_are_felt() {
    let mut world = World::new(3);
    let mut store = world.open().unwrap();
    ten_records(&mut world, &mut store);
    world.disk.set_bytes_max(1_000);
    world.disk.stall(Mono(90_000_000));
    let (tx, rx) = std::sync::mpsc::channel();
    let record = record(&world.disk, 11, [0; 16]);
    let send = move |answer| tx.send(answer).unwrap();
    store.append(Epoch(1), RecordNumber(11), record, Box::new(send));
    assert_eq!(store.next_due(), Some(Mono(90_000_000)));
    let answer = world.wait(&mut store, &rx);
    assert!(
        matches!(
            answer,
            Appended::Unknown(StoreError::Full(_)) | Appended::DefinitelyNot(StoreError::Full(_))
        ),
        "{answer:?}"
    );
}
