//! Links to peers: who dials, what waits to be sent, what is asked over them.
//!
//! Core speaks in messages; a link carries them in order, but for bodies (offers, and what ends them):
//! they have a stream and a byte window of their own, granted by the receiver, so that everything else
//! overtakes them and never queues behind them (R7).

mod dial;
mod out;
mod peer;
mod rate;
mod serve;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use dpc_core::ids::{LaneId, LinkId};
use dpc_core::message::{LinkRefusal, Message};
use dpc_core::names::Name;
use dpc_proto::v1;
use tokio::sync::watch;

pub(crate) use dial::{dial_lane, keep_dialling, probe};
pub(crate) use peer::Link;
pub(crate) use serve::Mesh;

use rate::Counts;

/// Peers that are counted apart; the others share one line.
const PEERS_COUNTED_MAX: usize = 1_000;

/// The metadata of both calls of a link: what its dialler calls it.
const PAIR: &str = "dpc-link";

/// All links of a node.
pub(crate) struct Links {
    inner: Mutex<Inner>,
    next: AtomicU64,
    /// Counts the ends of links, for diallers that wait for one to end.
    ends: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    links: BTreeMap<LinkId, Arc<Link>>,
    /// The configured peers, in their order.
    dialled: Vec<Dialled>,
    /// Counts of each peer that was ever reached.
    counts: BTreeMap<String, Arc<Counts>>,
}

/// How a link came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The peer has dialled.
    Accepted,
    /// This node has dialled the configured peer with this number.
    Configured(usize),
    /// This node has dialled the owner of a lane that it found in the list of lanes.
    Found,
}

/// A configured peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialled {
    /// Where it is dialled.
    pub(crate) address: String,
    /// Its name, once it was reached.
    pub(crate) name: Option<Name>,
    /// Why there is no link.
    pub(crate) problem: Option<String>,
}

/// What is counted of one peer.
pub(crate) struct PeerCounts {
    pub(crate) peer: String,
    pub(crate) messages_sent: u64,
    pub(crate) messages_received: u64,
    pub(crate) payload_sent: u64,
    pub(crate) payload_received: u64,
}

impl Links {
    /// No links yet, to these peers.
    pub(crate) fn new(addresses: &[String]) -> Self {
        let dialled = addresses
            .iter()
            .map(|address| Dialled {
                address: address.clone(),
                problem: Some("not connected yet".to_owned()),
                ..Dialled::default()
            })
            .collect();
        Self {
            inner: Mutex::new(Inner { dialled, ..Inner::default() }),
            next: AtomicU64::new(1),
            ends: watch::Sender::new(0),
        }
    }

    /// A new link, and what its dialler calls it; core is told of it by its task.
    pub(crate) fn open(&self, origin: Origin, pair: impl FnOnce(LinkId) -> String) -> Arc<Link> {
        let id = LinkId(self.next.fetch_add(1, Ordering::Relaxed));
        let link = Arc::new(Link::new(id, origin, pair(id)));
        self.lock().links.insert(id, Arc::clone(&link));
        link
    }

    /// The link that a peer has dialled and calls so.
    pub(crate) fn paired(&self, pair: &str) -> Option<Arc<Link>> {
        let inner = self.lock();
        let link = inner.links.values().find(|l| l.origin == Origin::Accepted && l.pair == pair);
        link.cloned()
    }

    /// A link is gone.
    pub(crate) fn remove(&self, id: LinkId) {
        let link = self.lock().links.remove(&id);
        if link.is_some_and(|link| link.peer().is_some()) {
            self.ends.send_modify(|count| *count += 1);
        }
    }

    /// Counts the ends of links that had their handshake, to watch.
    pub(crate) fn ends(&self) -> watch::Receiver<u64> {
        self.ends.subscribe()
    }

    /// Core says something to a peer.
    pub(crate) fn send(&self, id: LinkId, message: Message) {
        let link = self.lock().links.get(&id).cloned();
        // A link that has just gone: core learns of it next.
        let Some(link) = link else { return };
        if !link.send(message) {
            tracing::warn!(link = id.0, peer = %link.label(), "the peer does not read: link closed");
        }
    }

    /// Core ends a link; what was sent before goes out first.
    pub(crate) fn close(&self, id: LinkId, refusal: LinkRefusal, redial: bool) {
        let link = self.lock().links.get(&id).cloned();
        if let Some(link) = link {
            link.close(refusal, redial);
        }
    }

    /// The handshake of a link is done.
    pub(crate) fn ready(&self, id: LinkId, name: &Name, lane: LaneId) {
        let mut inner = self.lock();
        let Some(link) = inner.links.get(&id).cloned() else { return };
        let label =
            if inner.counts.len() < PEERS_COUNTED_MAX || inner.counts.contains_key(name.as_str()) {
                name.as_str().to_owned()
            } else {
                "others".to_owned()
            };
        let counts = Arc::clone(inner.counts.entry(label).or_default());
        if let Origin::Configured(at) = link.origin
            && let Some(dialled) = inner.dialled.get_mut(at)
        {
            dialled.name = Some(name.clone());
            dialled.problem = None;
        }
        drop(inner);
        link.ready(name.clone(), lane, counts);
    }

    /// A configured peer is not linked, and why.
    pub(crate) fn problem(&self, at: usize, problem: String) {
        if let Some(dialled) = self.lock().dialled.get_mut(at) {
            dialled.problem = Some(problem);
        }
    }

    /// The configured peers.
    pub(crate) fn dialled(&self) -> Vec<Dialled> {
        self.lock().dialled.clone()
    }

    /// The link with this number.
    pub(crate) fn get(&self, id: LinkId) -> Option<Arc<Link>> {
        self.lock().links.get(&id).cloned()
    }

    /// The links whose handshake is done, with the lanes behind them.
    pub(crate) fn ready_links(&self) -> Vec<(Name, LaneId, Arc<Link>)> {
        let inner = self.lock();
        let links = inner.links.values();
        links.filter_map(|l| l.peer().map(|(name, lane)| (name, lane, Arc::clone(l)))).collect()
    }

    /// Ends all links: the node stops.
    pub(crate) fn cut_all(&self) {
        let links: Vec<Arc<Link>> = self.lock().links.values().cloned().collect();
        for link in links {
            link.cut("the node stops");
        }
    }

    /// What was counted, by peer.
    pub(crate) fn counts(&self) -> Vec<PeerCounts> {
        let inner = self.lock();
        inner.counts.iter().map(|(peer, counts)| counts.totals(peer)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding it")
    }
}

/// Bytes of payload in a message that came.
fn received_payload(message: &v1::LinkMessage) -> u64 {
    use v1::link_message::Message as Wire;
    let offer = match &message.message {
        Some(Wire::Offer(offer)) => Some(offer),
        Some(Wire::Estate(estate)) => estate.offer.as_ref(),
        _ => None,
    };
    let objects = offer.iter().flat_map(|offer| &offer.objects);
    objects.map(|object| object.payload.len() as u64).sum()
}
