//! What a core uses of everything that is bounded (P14), as numbers with their limits.

use crate::core::Core;
use crate::lease::SETTLED_MAX;
use crate::limits::{
    ADVERTS_MAX, LOADS_MAX, OBJECT_COST_BYTES, OFFERS_MAX, PEERS_MAX, RESOLVING_MAX,
};
use crate::mesh::PASSES_MAX;
use crate::operator::SCANS_MAX;
use crate::store::RECORD_BYTES_MAX;

/// Least bytes of an object in a record: what bounds the objects of a page.
const ENTRY_BYTES_MIN: usize = 64;

/// One bounded thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// What it is, with its unit.
    pub name: &'static str,
    /// How much of it is used.
    pub value: u64,
    /// How much of it may be used. Where a limit is looked at before something is taken in, what is
    /// taken in then comes on top of it and is counted here.
    pub limit: u64,
}

impl Core {
    /// Everything bounded. Its cost grows with the number of queues and links, not of objects.
    pub fn usage(&self) -> Vec<Gauge> {
        let gauge = |name, value: usize, limit: u64| Gauge { name, value: value as u64, limit };
        let l = &self.limits;
        let object = l.payload_bytes + l.headers_bytes + OBJECT_COST_BYTES;
        let page =
            (l.record_target_bytes / ENTRY_BYTES_MIN) as u64 + u64::from(l.transaction_items);
        let window = self.queues.iter().map(|q| q.window.len()).max().unwrap_or(0);
        let waiting = l.window_objects.max(l.transit as usize);
        let offers = self.transfers.outstanding();
        let offers = offers.values().map(|(offers, _)| *offers).max().unwrap_or(0);
        let adverts = self.mesh.links().map(|(_, link)| link.demands.len()).max().unwrap_or(0);
        let leased = Gauge {
            name: "bytes of leased objects",
            value: self.memory.leased_bytes,
            limit: l.leased_bytes + object,
        };
        let uncommitted = Gauge {
            name: "bytes that wait to be committed",
            value: self.lane.uncommitted(),
            limit: l.uncommitted_bytes + 2 * RECORD_BYTES_MAX as u64,
        };
        vec![
            leased,
            uncommitted,
            gauge("leases", self.leases.len(), l.leases.into()),
            gauge("subscriptions", self.subs.subs.len(), l.subscriptions.into()),
            gauge("types", self.queues.types_len(), 2 * u64::from(l.types)),
            gauge("objects of one queue in memory", window, waiting as u64 + page),
            gauge("pages being read", self.loads.pages().len(), LOADS_MAX as u64),
            gauge(
                "requests that wait for an id",
                self.resolving.stalled_len(),
                RESOLVING_MAX as u64,
            ),
            gauge("orders under way", self.scans.len(), SCANS_MAX as u64),
            gauge("offers of one link", offers, OFFERS_MAX as u64),
            gauge("adverts of one link", adverts, ADVERTS_MAX as u64),
            gauge("settles passed on", self.mesh.passes(), PASSES_MAX as u64),
            gauge("settles remembered by number", self.leases.settled_len(), SETTLED_MAX as u64),
            gauge("peers remembered", self.mesh.peers.len(), PEERS_MAX as u64),
        ]
    }
}
