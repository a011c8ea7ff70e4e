//! What people and scripts ask of a node and order it to do.

use std::collections::BTreeSet;

use crate::catalogue::Shelf;
use crate::core::Core;
use crate::effect::{
    Answer, Effect, Effects, LeaseEnd, NodeView, Note, SubscriptionView, TypeView,
};
use crate::ids::{ObjectId, RecordNumber};
use crate::input::{Input, ListState, Operator, ReplyTo, Which};
use crate::lease::Holder;
use crate::limits::LIST_MAX;
use crate::memory::{Phase, Slot};
use crate::record::Ending;
use crate::refusal::{Code, Refusal};
use crate::resolve::{Known, Stored};
use crate::scan::{Chosen, Listing, Work};
use crate::timers::Timer;

/// Most scans that people have ordered at once.
pub(crate) const SCANS_MAX: usize = 32;

impl Core {
    pub(crate) fn handle_operator(&mut self, to: ReplyTo, order: Operator, fx: &mut Effects) {
        let ids: Vec<ObjectId> = match &order {
            Operator::Inspect(id) | Operator::Discard(id) => vec![*id],
            Operator::Redrive(Which::Ids(ids)) | Operator::DiscardParked(Which::Ids(ids)) => {
                ids.clone()
            }
            _ => Vec::new(),
        };
        let missing = self.unresolved(ids);
        if !missing.is_empty() {
            return self.stall(to, missing, Input::Operator(to, order), fx);
        }
        if self.refuse_adopted(to, &order, fx) {
            return;
        }
        match order {
            Operator::Inspect(id) => {
                let view = self.inspect(id);
                self.reply(to, Answer::View(Box::new(view)), fx);
            }
            Operator::List { pattern, state, since, limit } => {
                let limit = limit.min(LIST_MAX) as usize;
                let listing = Listing { to, pattern, state, since, limit, found: Vec::new() };
                self.list(listing, fx);
            }
            Operator::Redrive(which) => self.order_parked(to, which, Work::Redrive, fx),
            Operator::DiscardParked(which) => self.order_parked(to, which, Work::Discard, fx),
            Operator::Discard(id) => self.discard(to, id, fx),
            Operator::Types => self.reply(to, Answer::Types(self.type_views()), fx),
            Operator::Subscriptions => {
                self.reply(to, Answer::Subscriptions(self.subscription_views()), fx);
            }
            Operator::Nodes => self.reply(to, Answer::Nodes(self.node_views()), fx),
            Operator::Drain => self.drain(to),
            Operator::Resume => self.resume(to, fx),
            Operator::Forget { name, reclaim } => self.forget_node(to, &name, reclaim, fx),
            Operator::ConfirmClock => {
                self.trust_clock(fx);
                self.look_at_wall(self.now.wall);
                self.reply(to, Answer::Done(1), fx);
            }
        }
    }

    /// Work over parked objects: each id must be parked, types and all are what is parked now.
    fn order_parked(
        &mut self,
        to: ReplyTo,
        which: Which,
        work: impl FnOnce(Chosen) -> Work,
        fx: &mut Effects,
    ) {
        if let Err(refusal) = self.check_scans() {
            return self.refuse(to, refusal, fx);
        }
        let (ty, ids) = match which {
            Which::All => (None, None),
            Which::Type(name) => match self.queues.type_id(&name) {
                Some(ty) => (Some(ty), None),
                None => return self.reply(to, Answer::Done(0), fx),
            },
            Which::Ids(ids) => (None, Some(ids)),
        };
        let records: BTreeSet<RecordNumber> = match &ids {
            Some(ids) => {
                let mut records = BTreeSet::new();
                for id in ids {
                    match self.parked_at(*id) {
                        Ok(record) => records.insert(record),
                        Err(refusal) => return self.refuse(to, refusal, fx),
                    };
                }
                records
            }
            None => self
                .records_with(|s| matches!(s, Shelf::Parked(t) if ty.is_none_or(|ty| ty == t)))
                .into_iter()
                .collect(),
        };
        let ids = ids.map(|ids| ids.into_iter().collect());
        self.start_scan(work(Chosen { to, ty, ids, done: 0 }), records, fx);
    }

    fn parked_at(&self, id: ObjectId) -> Result<RecordNumber, Refusal> {
        match self.known(id) {
            Known::OnDisk(Stored::Alive { at, shelf: Shelf::Parked(_), .. }) => Ok(at.record),
            Known::Absent => Err(not_found(id)),
            _ => Err(Refusal::new(
                Code::FailedPrecondition,
                "NOT_PARKED",
                "the object is not parked; `dpc object why` says where it is",
            )
            .given(id)),
        }
    }

    pub(crate) fn check_scans(&self) -> Result<(), Refusal> {
        if self.scans.len() >= SCANS_MAX {
            let message =
                "too many listings and orders over many objects are under way; retry in a moment";
            return Err(Refusal::exhausted("orders", SCANS_MAX as u64, message));
        }
        Ok(())
    }

    /// Ends one live object without success, wherever it waits here. A lease on it is lost.
    fn discard(&mut self, to: ReplyTo, id: ObjectId, fx: &mut Effects) {
        match self.known(id) {
            Known::Absent => return self.refuse(to, not_found(id), fx),
            Known::OnDisk(Stored::Ended { .. }) => return self.refuse(to, not_alive(id), fx),
            Known::OnDisk(Stored::Alive { .. }) | Known::InMemory(_) => {}
            Known::NotLookedUp => unreachable!("ids are resolved before"),
        }
        let slot = if let Some(slot) = self.memory.by_id(id)
            && let Phase::Leased(n) = self.memory.get(slot).phase
        {
            self.take_back(slot, n, fx);
            slot
        } else if let Some(slot) = self.pick_up(id) {
            slot
        } else {
            return self.refuse(to, busy(id), fx);
        };
        self.lane.reserve(2_048);
        self.end(slot, Ending::Discarded("discarded by a person".into()), None);
        self.reply_durable(to, Answer::Done(1), fx);
    }

    /// Ends a lease whose object a person discards. Its holder is told.
    fn take_back(&mut self, slot: Slot, n: u64, fx: &mut Effects) {
        let lease = self.end_lease(n, false);
        if let Holder::Stream((session, _)) = lease.holder {
            fx.push(Effect::LeaseEnded { session, lease: n, reason: LeaseEnd::Discarded });
        }
        self.set_phase(slot, Phase::Writing);
    }

    /// Objects in memory first, then a walk over the shelves.
    fn list(&mut self, mut listing: Listing, fx: &mut Effects) {
        if let Err(refusal) = self.check_scans() {
            return self.refuse(listing.to, refusal, fx);
        }
        let mut in_memory: Vec<_> = self.memory.iter().collect();
        in_memory.sort_unstable_by_key(|(_, live)| live.object.id);
        for (slot, live) in in_memory {
            let state = match live.phase {
                Phase::Ready | Phase::Writing => ListState::Ready,
                Phase::Delayed(_) => ListState::Delayed,
                Phase::Leased(_) => ListState::Leased,
                Phase::Offered(_) | Phase::Moving(_) => ListState::Offered,
                Phase::Held(_) => ListState::Held,
            };
            if listing.found.len() >= listing.limit {
                break;
            }
            let at_home = self.catalogue.shelf_of(live.at) == Some(Shelf::Memory);
            if at_home && listing.wants_state(state, &live.object) {
                listing.found.push(self.view_in_memory(slot));
            }
        }
        let wanted = match listing.state {
            Some(ListState::Leased | ListState::Offered) => Vec::new(),
            _ => self.records_with(|s| {
                matches!(s, Shelf::Ready(_) | Shelf::Delayed(_) | Shelf::Parked(_) | Shelf::Held)
            }),
        };
        self.start_scan(Work::List(listing), wanted, fx);
    }

    fn type_views(&self) -> Vec<TypeView> {
        let now = self.now.mono;
        self.queues
            .types()
            .map(|(id, t)| {
                let queues = || t.queues.values().map(|q| (*q, self.queues.get(*q)));
                let in_memory = queues().filter_map(|(q, _)| self.waiting_since(q));
                let on_disk = queues()
                    .filter_map(|(q, _)| self.catalogue.rest(q).next())
                    .filter_map(|record| self.catalogue.page(record))
                    .map(|page| self.now.wall - page.wall);
                let subscribers: usize =
                    self.subs.matching(t).iter().map(|g| self.subs.group(*g).subs.len()).sum();
                let elsewhere = self.mesh.is_wanted(t);
                TypeView {
                    ty: t.name.clone(),
                    ready: self.queues.ready(id) + t.writing,
                    leased: t.leased,
                    delayed: t.delayed,
                    parked: t.parked,
                    offered: t.offered,
                    held: t.held,
                    oldest_age: in_memory.map(|since| now - since).chain(on_disk).max(),
                    subscribers: u32::try_from(subscribers).unwrap_or(u32::MAX),
                    demand_elsewhere: elsewhere,
                    no_demand: t.no_demand,
                    books: t.books,
                }
            })
            .collect()
    }

    fn subscription_views(&self) -> Vec<SubscriptionView> {
        self.subs
            .subs
            .iter()
            .map(|((session, subscription), sub)| {
                let key = &self.subs.group(sub.group).key;
                SubscriptionView {
                    session: *session,
                    subscription: *subscription,
                    pattern: key.pattern.clone(),
                    processor: key.processor.clone(),
                    credit: sub.credit,
                    in_flight: sub.in_flight,
                    delivered: sub.delivered,
                    settled: sub.settled,
                    last_seen: sub.last_seen,
                }
            })
            .collect()
    }

    fn node_views(&self) -> Vec<NodeView> {
        let own_demand = self
            .subs
            .groups()
            .map(|(_, g)| (g.key.pattern.clone(), g.key.processor.clone(), 0))
            .collect();
        let mut views = vec![NodeView {
            name: self.name.clone(),
            lane: self.lane.id,
            is_self: true,
            up: true,
            link: None,
            protocol: self.mesh.newest_protocol(),
            draining: self.draining.is_some(),
            demand: own_demand,
            sent: 0,
            received: 0,
            in_doubt: 0,
        }];
        let mut seen = BTreeSet::new();
        for (id, l) in self.mesh.links() {
            seen.insert(l.lane);
            let demand = l
                .demands
                .iter()
                .map(|(k, r)| (k.pattern.clone(), k.processor.clone(), r.demand.distance + 1))
                .collect();
            views.push(NodeView {
                name: l.name.clone(),
                lane: l.lane,
                is_self: false,
                up: true,
                link: Some(id),
                protocol: l.protocol,
                draining: false,
                demand,
                sent: l.sent_objects,
                received: l.received_objects,
                in_doubt: self.transfers.in_doubt(l.lane),
            });
        }
        let forgotten = &self.transfers.verdicts;
        let away =
            |p: &&crate::record::PeerSeen| !seen.contains(&p.lane) && !forgotten.contains(&p.lane);
        for peer in self.mesh.peers.by_age().filter(away) {
            views.push(NodeView {
                name: peer.name.clone(),
                lane: peer.lane,
                is_self: false,
                up: false,
                link: None,
                protocol: 0,
                draining: false,
                demand: Vec::new(),
                sent: 0,
                received: 0,
                in_doubt: self.transfers.in_doubt(peer.lane),
            });
        }
        views
    }

    /// Takes nothing new; what peers want goes to them; leases have their time.
    fn drain(&mut self, to: ReplyTo) {
        self.drain_waiters.push(to);
        if self.draining.is_some() {
            return;
        }
        // Else the next start reads that part's records again.
        self.go_on_ending(true);
        let until = self.now.mono + self.limits.drain;
        self.draining = Some(until);
        self.arm(until, Timer::Drain);
        self.on_drain_changed();
    }

    fn resume(&mut self, to: ReplyTo, fx: &mut Effects) {
        if let Some(until) = self.draining.take() {
            self.disarm(until, Timer::Drain);
            // Demand that comes back is new demand: what was handed over meanwhile may return.
            for group in self.subs.groups().map(|(id, _)| id).collect::<Vec<_>>() {
                self.renew_demand(group);
                self.hungry.note(group);
            }
            self.on_drain_changed();
            self.answer_drained(fx);
        }
        self.reply(to, Answer::Done(1), fx);
    }

    fn on_drain_changed(&mut self) {
        let keys: Vec<_> = self.subs.groups().map(|(_, g)| g.key.clone()).collect();
        for key in keys {
            self.stir_matching(&key);
            self.mark_demand(key);
        }
        for key in self.mesh.remote_keys() {
            self.stir_matching(&key);
        }
    }

    /// A drain is over when no lease and no offer is left, and nothing that a peer wants.
    pub(crate) fn check_drained(&mut self, fx: &mut Effects) {
        if self.draining.is_none() || self.drain_waiters.is_empty() {
            return;
        }
        if self.leases.len() > 0 || !self.transfers.outgoing.is_empty() {
            return;
        }
        let wanted =
            self.queues.types().any(|(ty, t)| self.queues.ready(ty) > 0 && self.mesh.is_wanted(t));
        if wanted {
            return;
        }
        if self.lane.has_riders() {
            // What rides along is written before the node may stop.
            self.lane.urge();
        } else {
            self.answer_drained(fx);
        }
    }

    pub(crate) fn on_drain_over(&mut self, fx: &mut Effects) {
        self.answer_drained(fx);
    }

    fn answer_drained(&mut self, fx: &mut Effects) {
        if self.drain_waiters.is_empty() {
            return;
        }
        let leases = self.leases.len() as u64;
        let ready = self.queues.types().map(|(ty, _)| self.queues.ready(ty)).sum();
        fx.push(Effect::Note(Note::Drained { leases, ready }));
        for to in std::mem::take(&mut self.drain_waiters) {
            self.reply(to, Answer::Done(leases + ready), fx);
        }
    }
}

fn not_found(id: ObjectId) -> Refusal {
    Refusal::new(
        Code::NotFound,
        "OBJECT_UNKNOWN",
        "no object of this id is known here; it was pushed elsewhere, or has ended and been forgotten",
    )
    .given(id)
}

fn not_alive(id: ObjectId) -> Refusal {
    Refusal::new(
        Code::FailedPrecondition,
        "NOT_ALIVE",
        "the object has ended here, or moved on; `dpc object get` says where",
    )
    .given(id)
}

fn busy(id: ObjectId) -> Refusal {
    Refusal::new(
        Code::FailedPrecondition,
        "NOT_NOW",
        "the object is being written or handed to a peer; retry in a moment",
    )
    .given(id)
}
