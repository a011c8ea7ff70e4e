//! What this node can say of one object: `get` and `why`, as far as this lane knows.

use std::fmt::Write as _;

use crate::catalogue::{QueueId, Shelf};
use crate::core::Core;
use crate::decision::{Candidate, Refused};
use crate::ids::{LaneId, ObjectId};
use crate::lease::Holder;
use crate::memory::{Phase, Slot};
use crate::names::Name;
use crate::object::Object;
use crate::record::{End, Ending, Standing, TransferId};
use crate::resolve::{Known, Stored};
use crate::view::{Ended, State, View, WaitsFor, roughly};

impl Core {
    pub(crate) fn inspect(&self, id: ObjectId) -> View {
        match self.known(id) {
            Known::Absent => {
                let mut view = View::new(id, State::Unknown);
                view.text = format!("{} does not know this object.", self.name);
                view
            }
            Known::InMemory(slot) => self.view_in_memory(slot),
            Known::OnDisk(Stored::Alive { shelf, standing, object, .. }) => {
                self.view_on_disk(*shelf, standing, object)
            }
            Known::OnDisk(Stored::Ended { end, .. }) => self.view_of_end(end),
            Known::NotLookedUp => unreachable!("ids are resolved before"),
        }
    }

    pub(crate) fn view_in_memory(&self, slot: Slot) -> View {
        let live = self.memory.get(slot);
        let mut view = self.view_of(&live.object, State::Ready);
        match live.phase {
            Phase::Writing => {
                view.waits_for = WaitsFor::Disk;
                view.text = format!(
                    "{} is writing its last change; it goes on when that is durable.",
                    self.name
                );
            }
            Phase::Ready => self.explain_waiting(&mut view, live.queue),
            Phase::Delayed(_) => self.explain_delay(&mut view, &live.object),
            Phase::Leased(n) => self.explain_lease(&mut view, n),
            Phase::Offered(n) | Phase::Moving(n) => {
                view.state = State::Offered;
                view.waits_for = WaitsFor::Peer;
                let peer = self.transfers.outgoing.get(&n).map(|o| o.peer.to_string());
                let peer = peer.unwrap_or_else(|| "a peer".to_owned());
                let what = if matches!(live.phase, Phase::Offered(_)) {
                    "offered it to"
                } else {
                    "is handing it to"
                };
                view.text = format!("{} {what} {peer} and waits for the answer.", self.name);
            }
            Phase::Held(ref transfer) => self.explain_held(&mut view, **transfer),
        }
        view
    }

    pub(crate) fn view_on_disk(&self, shelf: Shelf, standing: &Standing, object: &Object) -> View {
        let mut view = self.view_of(object, State::Ready);
        match (shelf, standing) {
            (Shelf::Parked(_), Standing::Parked(reason) | Standing::HeldParked(_, reason)) => {
                view.state = State::Parked;
                view.reason = Some(reason.clone());
                view.text = format!(
                    "Parked at {}: {reason}. It stays until it is redriven (`dpc parked redrive {}`) or discarded.",
                    self.name, object.id
                );
            }
            (Shelf::Delayed(_), _) => self.explain_delay(&mut view, object),
            (Shelf::Held, Standing::Held(transfer) | Standing::HeldParked(transfer, _)) => {
                self.explain_held(&mut view, *transfer);
            }
            (Shelf::Ready(queue), _) => self.explain_waiting(&mut view, queue),
            _ => {
                view.waits_for = WaitsFor::Disk;
                view.text = format!("{} is reading it.", self.name);
            }
        }
        view
    }

    fn view_of(&self, object: &Object, state: State) -> View {
        let mut view = View::new(object.id, state);
        view.came_from = object.path.last().cloned();
        view.object = Some(object.clone());
        view
    }

    fn view_of_end(&self, end: &End) -> View {
        let (state, text) = match &end.ending {
            Ending::Final => {
                let by = end.by.as_ref().map_or(String::new(), |by| format!(" by processor {by}"));
                (State::Final, format!("Finalised at {}{by}; it waits for nothing.", self.name))
            }
            Ending::Discarded(_) | Ending::Duplicate => {
                let reason = end.ending.reason().expect("it ended without success");
                let text = format!("Discarded at {}: {reason}; it waits for nothing.", self.name);
                (State::Discarded, text)
            }
            Ending::Moved(transfer) => {
                let to = self.receiver_of(*transfer);
                (State::Moved, format!("{} handed it to {to}, who owns it now.", self.name))
            }
        };
        let mut view = View::new(end.id, state);
        view.reason = end.ending.reason();
        if let Ending::Moved(transfer) = &end.ending {
            view.moved_to = Some((self.receiver_of(*transfer), transfer.receiver));
        }
        view.text = text;
        view.ended = Some(Ended {
            ty: end.ty.clone(),
            version: end.version,
            by: end.by.clone(),
            at: end.at,
            moves: end.moves,
            size: end.size,
            hash: end.hash,
            pushed_at: end.pushed_at,
        });
        view
    }

    fn receiver_of(&self, transfer: TransferId) -> Name {
        let by_transfer = self.transfers.moved.get(&transfer).map(|m| m.receiver.clone());
        by_transfer.unwrap_or_else(|| self.name_of(transfer.receiver))
    }

    /// The name of a lane's node, or what its id starts with.
    fn name_of(&self, lane: LaneId) -> Name {
        match self.mesh.peers.get(&lane) {
            Some(peer) => peer.name.clone(),
            None => Name::new("node", &lane.short()).expect("eight hexadecimal digits are a name"),
        }
    }

    fn explain_waiting(&self, view: &mut View, queue: QueueId) {
        let candidates = self.why_waiting(queue);
        let (node, ty) = (&self.name, &self.queues.ty(self.queues.get(queue).ty).name);
        view.waits_for = what_waits(&candidates);
        view.text = match view.waits_for {
            WaitsFor::Credit => format!(
                "Ready at {node}. It waits for credit: nobody who may have {ty} now has any left. A settled delivery, more credit, or another subscriber would move it."
            ),
            WaitsFor::Peer => format!(
                "Ready at {node}. It waits for a peer: demand for {ty} elsewhere cannot have it this moment."
            ),
            _ if handled_by_all(&candidates) => format!(
                "Ready at {node}. It waits for another processor: everybody who wants {ty} has handled this version. A subscription under a new processor name would move it."
            ),
            _ => format!(
                "Ready at {node}. It waits for demand: nobody that {node} can reach wants {ty} now. A subscription to it, here or on a linked node, would move it."
            ),
        };
        for candidate in &candidates {
            let _infallible = write!(view.text, " {}: {}.", candidate.who, candidate.refused);
        }
        view.candidates = pairs(&candidates);
    }

    fn explain_delay(&self, view: &mut View, object: &Object) {
        view.state = State::Delayed;
        view.waits_for = if object.failed > 0 { WaitsFor::Backoff } else { WaitsFor::Delay };
        view.until = object.not_before;
        let left = object.not_before.map_or_else(String::new, |t| roughly(t - self.now.wall));
        view.text = if object.failed > 0 {
            let plural = if object.failed == 1 { "y" } else { "ies" };
            format!(
                "Delayed at {} after {} failed deliver{plural}: the next try is in {left}. After {} failures it is parked.",
                self.name, object.failed, self.limits.failed_deliveries
            )
        } else {
            format!("Delayed at {}: it is not to be delivered for another {left}.", self.name)
        };
    }

    fn explain_lease(&self, view: &mut View, n: u64) {
        view.state = State::Leased;
        view.waits_for = WaitsFor::Lease;
        let Some(lease) = self.leases.get(n) else { return };
        let left = lease.until - self.now.mono;
        view.until = Some(self.now.wall + left);
        let who = match lease.holder {
            Holder::Stream(key) => {
                format!(" processor {}, session {} of {}", lease.processor, key.0, self.name)
            }
            Holder::Taker => format!(" a unary receiver at {}", self.name),
        };
        let begun = if lease.begun { ", who has begun to work on it" } else { "" };
        view.text = format!(
            "Leased to{who}{begun}, for another {}. If it is not settled or extended by then it is delivered again.",
            roughly(left)
        );
        view.candidates = vec![(who.trim().to_owned(), "holds the lease".to_owned())];
    }

    fn explain_held(&self, view: &mut View, transfer: TransferId) {
        view.state = State::Held;
        view.waits_for = WaitsFor::Peer;
        let sender = self.name_of(transfer.sender);
        let link = if self.mesh.link_to(transfer.sender).is_some() {
            "is linked"
        } else {
            "cannot be reached now"
        };
        view.text = format!(
            "Held in doubt at {}: {sender} has offered it and has not yet said whether the handoff counts; {sender} {link}. If {sender} is lost for ever, `dpc node forget {sender} --reclaim` here frees it.",
            self.name
        );
        view.candidates =
            vec![(format!("node {sender}"), "has not decided the handoff".to_owned())];
    }
}

fn what_waits(candidates: &[Candidate]) -> WaitsFor {
    let has = |r: &[Refused]| candidates.iter().any(|c| r.contains(&c.refused));
    if has(&[
        Refused::NoCredit,
        Refused::WindowClosed,
        Refused::LocalFirst,
        Refused::MemoryFull,
        Refused::Busy,
    ]) {
        WaitsFor::Credit
    } else if has(&[
        Refused::Crossed,
        Refused::OlderDemand,
        Refused::MaxHops,
        Refused::Damped,
        Refused::AskedBefore,
        Refused::Draining,
    ]) {
        WaitsFor::Peer
    } else {
        WaitsFor::Demand
    }
}

/// Whether its type is wanted, but only by processors that have handled the object.
fn handled_by_all(candidates: &[Candidate]) -> bool {
    candidates.iter().any(|c| c.refused == Refused::Handled)
}

fn pairs(candidates: &[Candidate]) -> Vec<(String, String)> {
    candidates.iter().map(|c| (c.who.to_string(), c.refused.to_string())).collect()
}
