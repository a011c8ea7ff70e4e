//! What a node whose lane others can claim has beside its core: the moment after which nothing is
//! delivered, and the other lanes that its process runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use dpc_core::ids::LaneId;
use dpc_core::time::Mono;

use super::hub::Hub;
use crate::edge::Clock;

/// The fence in time (R6), where the driver and the streams can see it: a process that was stopped
/// goes on wherever it was, so every delivery looks at the clock when it is handed to its stream.
#[derive(Clone)]
pub(crate) struct Fence {
    clock: Clock,
    until: Arc<AtomicU64>,
}

impl Fence {
    /// One that is open for ever.
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, until: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// Ownership is proved until then; `None` if nobody else can own the lane.
    pub(crate) fn set(&self, until: Option<Mono>) {
        self.until.store(until.map_or(u64::MAX, |until| until.0), Ordering::Relaxed);
    }

    /// Whether something may be delivered at this moment.
    pub(crate) fn is_open(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until == u64::MAX || self.clock.mono().0 < until
    }
}

/// The cores of adopted lanes in this process: links that name their lane are handed to them.
#[derive(Default)]
pub(crate) struct Guests(Mutex<BTreeMap<LaneId, Arc<Hub>>>);

impl Guests {
    pub(crate) fn add(&self, hub: &Arc<Hub>) {
        self.lock().insert(hub.identity.lane, Arc::clone(hub));
    }

    pub(crate) fn remove(&self, lane: LaneId) {
        self.lock().remove(&lane);
    }

    pub(crate) fn get(&self, lane: LaneId) -> Option<Arc<Hub>> {
        self.lock().get(&lane).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Hub>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LaneId, Arc<Hub>>> {
        self.0.lock().expect("nobody panics while holding it")
    }
}
