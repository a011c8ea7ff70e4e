//! What the harness knows: the disks and the state of every node, and what the checks say. Hosts
//! and harness share it; all of it runs on one thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use dpc_core::Limits;
use dpc_core::effect::{PartIds, TypeView};
use dpc_core::ids::{LaneId, ObjectId, RecordNumber};
use dpc_core::object::{Hash16, Push, Token};
use runtime::node::Order;
use sim::checks::Checker;
use sim::coverage::Coverage;
use sim::store::SimDisk;
use tokio::sync::watch;

use crate::wires::Wires;

/// The shared state. Clones are the same.
#[derive(Clone)]
pub(crate) struct World {
    facts: Arc<Mutex<Facts>>,
    /// The open connections.
    pub(crate) wires: Wires,
}

/// Everything that is known.
pub(crate) struct Facts {
    /// The promises.
    pub(crate) checks: Checker,
    /// What occurred.
    pub(crate) coverage: Coverage,
    /// The nodes.
    pub(crate) nodes: Vec<NodeFacts>,
    /// The contents that an object was ever given, by a push, an emit or an advance.
    pub(crate) contents: BTreeMap<ObjectId, BTreeSet<Hash16>>,
    /// Where an id was pushed, or may have been.
    pub(crate) pushed_at: BTreeMap<ObjectId, BTreeSet<LaneId>>,
    /// The leases that clients were given.
    pub(crate) heard: BTreeSet<Token>,
    /// What clients have been told and have still to learn.
    pub(crate) phase: Phase,
    /// Clients that have nothing under way any more.
    pub(crate) clients_done: BTreeSet<String>,
    /// What operators were told of the types of a node.
    pub(crate) types: BTreeMap<usize, Vec<TypeView>>,
}

/// How far a run is, for its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Anything may happen.
    Chaos,
    /// Nothing new is begun.
    Closing,
}

/// One node, whether its process runs or not.
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) lane: LaneId,
    /// The numbers of the nodes it dials.
    pub(crate) peers: Vec<usize>,
    pub(crate) limits: Limits,
    pub(crate) disk: SimDisk,
    pub(crate) index: BTreeMap<u64, PartIds>,
    /// Free bytes of its disk, as the system tells them.
    pub(crate) free: u64,
    /// Starts of its process so far.
    pub(crate) lives: u64,
    pub(crate) state: State,
    pub(crate) order: watch::Sender<Order>,
    /// Failures of its disk before this life: a new one is a reason to end.
    pub(crate) failures: u64,
}

/// What the process of a node is doing.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// There is none.
    Down,
    /// It recovers.
    Starting,
    /// It serves.
    Up,
    /// It has ended by itself, and why.
    Ended(Result<(), String>),
}

impl World {
    /// An empty world whose objects may cross so many links for one demand.
    pub(crate) fn new(max_hops: u32) -> Self {
        let facts = Facts {
            checks: Checker::new(max_hops),
            coverage: Coverage::default(),
            nodes: Vec::new(),
            contents: BTreeMap::new(),
            pushed_at: BTreeMap::new(),
            heard: BTreeSet::new(),
            phase: Phase::Chaos,
            clients_done: BTreeSet::new(),
            types: BTreeMap::new(),
        };
        Self { facts: Arc::new(Mutex::new(facts)), wires: Wires::default() }
    }

    /// The facts, for a moment without an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("nobody panics while holding it")
    }

    /// A record of a lane is durable.
    pub(crate) fn committed(&self, lane: LaneId, number: RecordNumber, bytes: &Bytes) {
        let facts = &mut *self.lock();
        facts.checks.on_committed(lane, number, bytes, &mut facts.coverage);
    }

    /// Something occurred that a set of runs has to have seen.
    pub(crate) fn saw(&self, name: &'static str) {
        self.lock().coverage.add(name);
    }

    /// A promise is broken.
    pub(crate) fn fail(&self, promise: &str, what: String) {
        self.lock().checks.fail(promise, what);
    }

    /// How far the run is.
    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase
    }
}

impl NodeFacts {
    /// Bytes of its log.
    pub(crate) fn bytes_held(&self) -> u64 {
        let (_, records) = self.disk.contents();
        records.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Its disk has so many bytes left.
    pub(crate) fn limit_disk(&mut self, left: u64) {
        self.disk.set_bytes_max(self.bytes_held() + left);
    }

    /// Whether its disk has failed since its process began.
    pub(crate) fn was_failed(&self) -> bool {
        self.disk.failures() > self.failures
    }

    /// Its disk is well again, and has room.
    pub(crate) fn mend_disk(&mut self) {
        self.disk.forget_faults();
        self.disk.set_bytes_max(u64::MAX);
        self.free = u64::MAX;
    }
}

impl Facts {
    /// A client is about to push an object at one of these lanes.
    pub(crate) fn on_push(&mut self, lanes: &[LaneId], push: &Push) {
        self.knows(push);
        let id = push.id.expect("the harness chooses ids");
        self.pushed_at.entry(id).or_default().extend(lanes);
        lanes.iter().for_each(|lane| self.checks.on_push(*lane, push));
    }

    /// An object may come into the world with this content.
    pub(crate) fn knows(&mut self, push: &Push) {
        let id = push.id.expect("the harness chooses ids");
        self.contents.entry(id).or_default().insert(push.content_hash());
    }

    /// The node of this name.
    pub(crate) fn node_named(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.iter().find(|node| node.name == name)
    }
}
