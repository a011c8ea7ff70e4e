//! The simulated disk behind the runtime's log, and an index that is kept in memory.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use dpc_core::effect::PartIds;
use dpc_core::ids::{Epoch, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::shared::SharedLane;
use dpc_core::store::{Appended, Claimed, Done, ReadDone, Store, StoreError};
use dpc_core::time::Mono;
use runtime::edge::Index;
use sim::store::{SimDisk, SimStore};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::world::World;

/// What a disk that fills up has left.
pub(crate) const FULL_SLACK: u64 = 3_000;

/// The time of the simulation, which goes on when hosts do not. The disks live by it.
pub(crate) fn sim_now() -> Mono {
    let elapsed = turmoil::sim_elapsed().expect("a host is running");
    Mono(u64::try_from(elapsed.as_micros()).expect("a short simulation"))
}

/// A store on a simulated disk that answers by the clock of its host. What it commits is told to
/// the checks. Dropping it is a crash of its process.
pub(crate) struct Log {
    store: Arc<Mutex<SimStore>>,
    asked: Arc<Notify>,
    answering: JoinHandle<()>,
    disk: SimDisk,
    world: World,
}

impl Log {
    /// Opens the store of a disk on the host that runs now.
    pub(crate) fn open(disk: &SimDisk, world: &World) -> Self {
        let store = Arc::new(Mutex::new(disk.open(sim_now())));
        let asked = Arc::new(Notify::new());
        let answering = tokio::spawn(answer(Arc::clone(&store), Arc::clone(&asked)));
        Self { store, asked, answering, disk: disk.clone(), world: world.clone() }
    }

    fn ask(&self, ask: impl FnOnce(&mut SimStore)) {
        let mut store = lock(&self.store);
        store.complete_until(sim_now());
        ask(&mut store);
        self.asked.notify_one();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

fn lock(store: &Mutex<SimStore>) -> MutexGuard<'_, SimStore> {
    store.lock().expect("nobody panics while holding it")
}

/// Lets the store answer when it is due.
async fn answer(store: Arc<Mutex<SimStore>>, asked: Arc<Notify>) {
    loop {
        let due = lock(&store).next_due();
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep((due - sim_now()).to_std()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = asked.notified() => {}
            () = wait => {}
        }
        lock(&store).complete_until(sim_now());
    }
}

impl Store for Log {
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>) {
        let (disk, world) = (self.disk.clone(), self.world.clone());
        let told = Box::new(move |claimed: Result<Claimed, StoreError>| {
            if claimed.is_ok() {
                // Recovery may have found what nobody knew to be durable.
                let (_, records) = disk.contents();
                let lane = disk.lane();
                records.iter().for_each(|(number, bytes)| world.committed(lane, *number, bytes));
                world.lock().checks.on_claimed(lane);
            }
            done(claimed);
        });
        self.ask(|store| store.claim(told));
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>) {
        let (lane, world, bytes): (LaneId, _, _) =
            (self.disk.lane(), self.world.clone(), record.clone());
        let told = Box::new(move |appended: Appended| {
            if appended == Appended::Committed {
                world.committed(lane, number, &bytes);
            }
            done(appended);
        });
        self.ask(|store| store.append(epoch, number, record, told));
    }

    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        self.ask(|store| store.read(from, bytes_max, done));
    }

    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>) {
        self.ask(|store| store.truncate(below, done));
    }
}

/// A disk of its own: nobody else can own the lane, and nobody adopts it.
impl SharedLane for Log {
    fn renew(&mut self, _epoch: Epoch, done: Done<Appended>) {
        done(Appended::Committed);
    }

    fn retire(&mut self, _epoch: Epoch, done: Done<Appended>) {
        let error = StoreError::Refused("no lane of a simulated disk is adopted".into());
        done(Appended::DefinitelyNot(error));
    }
}

/// The id index of a node: kept in the world, lost or not when the node ends.
pub(crate) struct Parts {
    pub(crate) node: usize,
    pub(crate) world: World,
}

impl Index for Parts {
    fn put(&mut self, part: PartIds) {
        self.world.lock().nodes[self.node].index.insert(part.part, part.sorted());
    }

    fn look_up(&mut self, part: u64, id: ObjectId, done: Done<Result<Option<Loc>, StoreError>>) {
        let found = {
            let mut facts = self.world.lock();
            facts.coverage.add("id looked up in the index");
            let found = facts.nodes[self.node].index.get(&part).map(|part| {
                let at = part.ids.binary_search_by_key(&id, |(id, _)| *id).ok()?;
                Some(part.ids[at].1)
            });
            found.ok_or_else(|| StoreError::Refused(format!("part {part} is not there")))
        };
        done(found);
    }

    fn truncate(&mut self, part: u64) {
        let mut facts = self.world.lock();
        facts.coverage.add("log truncated");
        facts.nodes[self.node].index.retain(|number, _| *number >= part);
    }
}
