//! Handoff between two lanes: the sender decides, presumed abort (design: section 5, R1–R3).
//!
//! ```text
//! sender                            receiver
//! READY → OFFERED      OFFER  ──▶   HELD is written
//! MOVED is written  ◀──  ACCEPT     (after HELD is durable)
//! (commit point)       RELEASE ──▶  READY is written
//! shadow may go     ◀──  TAKEN      (after READY is durable)
//!                      FORGET ──▶   records of the transfer may go
//! ```
//!
//! Between ACCEPT and the commit of MOVED a transfer is undecided: STATUS gets WAIT. Everything
//! else that this incarnation does not know as moved is aborted, and the offer is ended first.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::{QueueId, Shelf};
use crate::core::{Core, Timer};
use crate::decision::{Candidate, Decision, Refused, Step};
use crate::effect::{Effect, Effects, Note};
use crate::ids::{Epoch, Incarnation, LaneId, LinkId, Loc, ObjectId, RecordNumber};
use crate::input::Input;
use crate::lane::entry_bytes;
use crate::memory::{Phase, Slot, Then};
use crate::message::{DemandKey, Message, Offer, OfferRefused};
use crate::names::Name;
use crate::object::Object;
use crate::record::{End, Ending, Entry, How, Standing, TransferId};
use crate::resolve::{Known, Stored};
use crate::time::{Mono, Span, Wall};

/// How long a receiver in doubt waits before it asks again.
const DOUBT: Span = Span::secs(1);

/// An offer of this incarnation that is not decided.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: TransferId,
    pub(crate) link: LinkId,
    pub(crate) peer: Name,
    pub(crate) slots: Vec<Slot>,
    /// The record that holds MOVED, once ACCEPT has come.
    pub(crate) moving: Option<RecordNumber>,
    deadline: Mono,
}

/// A committed transfer whose receiver may still need its answer, or whose shadow is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) receiver: Name,
    pub(crate) shadows: BTreeSet<Loc>,
    pub(crate) taken: Option<Wall>,
}

/// A transfer at the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) state: InState,
    pub(crate) items: Vec<Held>,
    /// The demand it came for; not known after a restart.
    pub(crate) key: Option<DemandKey>,
}

/// How far a transfer has come at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InState {
    /// HELD is being committed.
    Holding(RecordNumber),
    /// Held durably: in doubt until the sender says.
    Held,
    /// READY is being committed.
    Releasing(RecordNumber),
    /// Taken: kept until FORGET, so that a repeated RELEASE is known.
    Taken,
}

/// One held object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: ObjectId,
    pub(crate) at: Loc,
    pub(crate) place: Loc,
    pub(crate) queue: QueueId,
}

/// All transfers of a lane.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    pub(crate) outgoing: BTreeMap<u64, Outgoing>,
    pub(crate) moved: BTreeMap<TransferId, Moved>,
    pub(crate) incoming: BTreeMap<TransferId, Incoming>,
    /// Up to which number transfers of a sender's incarnation are decided and forgotten.
    pub(crate) forgotten: BTreeMap<(LaneId, Epoch, Incarnation), u64>,
    /// Lanes that were forgotten for ever.
    pub(crate) verdicts: BTreeSet<LaneId>,
    /// Shadows by place, for carrying.
    shadows: BTreeMap<Loc, TransferId>,
    /// Transfers whose FORGET has been said, by receiver's lane.
    forget_said: BTreeMap<LaneId, u64>,
    last: u64,
}

impl Transfers {
    pub(crate) fn shadow_of(&self, at: Loc) -> Option<TransferId> {
        self.shadows.get(&at).copied()
    }

    /// A shadow or a held object is written elsewhere now.
    pub(crate) fn carried(&mut self, at: Loc, to: Loc) {
        if let Some(transfer) = self.shadows.remove(&at) {
            self.shadows.insert(to, transfer);
            if let Some(moved) = self.moved.get_mut(&transfer) {
                moved.shadows.remove(&at);
                moved.shadows.insert(to);
            }
        }
        for incoming in self.incoming.values_mut().filter(|i| i.state != InState::Taken) {
            incoming.items.iter_mut().filter(|h| h.at == at).for_each(|h| h.at = to);
        }
    }

    /// Takes a committed transfer into account.
    pub(crate) fn insert_moved(&mut self, id: TransferId, moved: Moved) {
        for at in &moved.shadows {
            self.shadows.insert(*at, id);
        }
        self.moved.insert(id, moved);
    }

    fn remove_moved(&mut self, id: &TransferId) -> Option<Moved> {
        let moved = self.moved.remove(id)?;
        moved.shadows.iter().for_each(|at| {
            self.shadows.remove(at);
        });
        Some(moved)
    }

    /// Transfers in doubt with a peer's lane, both ways.
    pub(crate) fn in_doubt(&self, lane: LaneId) -> u64 {
        let out = self.moved.iter().filter(|(id, m)| id.receiver == lane && m.taken.is_none());
        let held =
            self.incoming.iter().filter(|(id, i)| id.sender == lane && i.state == InState::Held);
        (out.count() + held.count()) as u64
    }

    /// Objects in offers of a link that are not decided.
    pub(crate) fn outstanding(&self, link: LinkId) -> (usize, u64) {
        let of = self.outgoing.values().filter(|o| o.link == link);
        of.fold((0, 0), |(n, objects), o| (n + 1, objects + o.slots.len() as u64))
    }
}

impl Core {
    /// Offers objects, ready and out of their queue, to a peer. They carry what the receiver will
    /// hold: one move more, this node in the path, and the chase as it is after the link.
    pub(crate) fn offer(
        &mut self,
        link: LinkId,
        key: DemandKey,
        slots: Vec<Slot>,
        objects: Vec<Object>,
        fx: &mut Effects,
    ) {
        self.transfers.last += 1;
        let n = self.transfers.last;
        let l = self.mesh.link(link).expect("offers go over links that are up");
        let (receiver, peer) = (l.lane, l.name.clone());
        let (sender, epoch, incarnation) = (self.lane.id, self.lane.epoch, self.lane.incarnation);
        let id = TransferId { sender, receiver, epoch, incarnation, n };
        for slot in &slots {
            self.set_phase(*slot, Phase::Offered(n));
        }
        let deadline = self.now.mono + self.limits.offer_timeout;
        self.arm(deadline, Timer::Offer(n));
        let out = Outgoing { id, link, peer, slots, moving: None, deadline };
        self.transfers.outgoing.insert(n, out);
        let message = Message::Offer(Offer { transfer: id, key, objects: objects.into() });
        fx.push(Effect::Send { link, message, after: None });
    }

    pub(crate) fn on_offer_timeout(&mut self, n: u64, fx: &mut Effects) {
        let Some(out) = self.transfers.outgoing.get(&n) else { return };
        if out.moving.is_none() && out.deadline <= self.now.mono {
            let (link, id) = (out.link, out.id);
            self.withdraw(n, Refused::Timeout);
            fx.push(Effect::Send { link, message: Message::Abort(id), after: None });
        }
    }

    /// Ends an offer that has not been accepted: its objects are ready again, without a write.
    pub(crate) fn withdraw(&mut self, n: u64, why: Refused) {
        let out = self.transfers.outgoing.remove(&n).expect("the caller found it");
        assert!(out.moving.is_none(), "an accepted offer is decided by its commit");
        self.disarm(out.deadline, Timer::Offer(n));
        for slot in out.slots {
            self.give_back(slot, &out.peer, why);
        }
    }

    /// An object that was offered waits again.
    fn give_back(&mut self, slot: Slot, peer: &Name, why: Refused) {
        let object = self.object(slot);
        let (id, moves) = (object.id, object.moves);
        let mut decision = Decision::new(self.now.wall, Step::Withdraw, None);
        decision.candidates = vec![Candidate { who: format!("node {peer}").into(), refused: why }];
        self.decide(decision, (id, moves));
        self.set_phase(slot, Phase::Writing);
        self.make_ready(slot);
    }

    /// The peer holds what it did not refuse: the move is written.
    pub(crate) fn on_accept(
        &mut self,
        link: LinkId,
        id: TransferId,
        refused: &[(u32, OfferRefused)],
        fx: &mut Effects,
    ) {
        let n = id.n;
        let current = self.transfers.outgoing.get(&n).is_some_and(|o| o.id == id);
        if !current {
            // Decided before, or of an offer that has been withdrawn.
            return self.answer_status(link, id, fx);
        }
        if self.transfers.outgoing[&n].moving.is_some() {
            return;
        }
        self.timers_disarm_offer(n);
        let out_slots =
            std::mem::take(&mut self.transfers.outgoing.get_mut(&n).expect("just found").slots);
        let peer = self.transfers.outgoing[&n].peer.clone();
        let is_refused = |i: usize| refused.iter().any(|(p, _)| *p as usize == i);
        let (mut moving, mut back) = (Vec::new(), Vec::new());
        for (i, slot) in out_slots.into_iter().enumerate() {
            if is_refused(i) { back.push(slot) } else { moving.push(slot) }
        }
        for slot in back {
            self.give_back(slot, &peer, Refused::RefusedByPeer);
        }
        if moving.is_empty() {
            self.transfers.outgoing.remove(&n);
            return fx.push(Effect::Send { link, message: Message::Abort(id), after: None });
        }
        self.write_moved(n, id, peer, moving);
        let after = Some(self.lane.urge());
        fx.push(Effect::Send { link, message: Message::Release(id), after });
    }

    /// Writes the commit point of a transfer: its ends and MOVED, in one record.
    fn write_moved(&mut self, n: u64, id: TransferId, receiver: Name, slots: Vec<Slot>) {
        let bytes: usize = slots.iter().map(|s| 400 + self.object(*s).marks.len() * 80).sum();
        self.lane.reserve(bytes + 128 + slots.len() * 12);
        let mut shadows = BTreeSet::new();
        for slot in &slots {
            shadows.insert(self.memory.get(*slot).at);
            self.set_phase(*slot, Phase::Moving(n));
            self.end(*slot, Ending::Moved(id), None);
            let object = self.object(*slot);
            let (object_id, moves) = (object.id, object.moves);
            let who = Some(format!("node {receiver}").into());
            self.decide(Decision::new(self.now.wall, Step::Move, who), (object_id, moves));
        }
        let entry = Entry::Moved {
            transfer: id,
            receiver: receiver.clone(),
            shadows: shadows.iter().copied().collect(),
        };
        let at = self.lane.write(&entry);
        let out = self.transfers.outgoing.get_mut(&n).expect("the caller found it");
        (out.moving, out.slots) = (Some(at.record), slots);
        self.transfers.insert_moved(id, Moved { receiver, shadows, taken: None });
    }

    fn timers_disarm_offer(&mut self, n: u64) {
        let deadline = self.transfers.outgoing[&n].deadline;
        self.disarm(deadline, Timer::Offer(n));
    }

    pub(crate) fn on_decline(&mut self, id: TransferId, _reason: OfferRefused) {
        let open = self.transfers.outgoing.get(&id.n);
        if open.is_some_and(|o| o.id == id && o.moving.is_none()) {
            self.withdraw(id.n, Refused::RefusedByPeer);
        }
    }

    /// What this lane's owner says of one of its transfers (R1): released, wait, or aborted, after
    /// the offer has been ended.
    pub(crate) fn answer_status(&mut self, link: LinkId, id: TransferId, fx: &mut Effects) {
        if id.sender != self.lane.id {
            return;
        }
        if id.epoch > self.lane.epoch {
            return fx.push(Effect::Stop(format!(
                "fenced: a peer knows epoch {} of this lane, this node has {}",
                id.epoch, self.lane.epoch
            )));
        }
        let open = self.transfers.outgoing.get(&id.n).filter(|o| o.id == id);
        let message = match open.map(|o| o.moving) {
            Some(Some(_)) => Message::Wait(id),
            Some(None) => {
                self.withdraw(id.n, Refused::Timeout);
                Message::Abort(id)
            }
            None if self.transfers.moved.contains_key(&id) => Message::Release(id),
            None => Message::Abort(id),
        };
        fx.push(Effect::Send { link, message, after: None });
    }

    /// The receiver owns the objects durably: the shadow goes after its retention.
    pub(crate) fn on_taken(&mut self, link: LinkId, id: TransferId, fx: &mut Effects) {
        let at = self.now.wall;
        match self.transfers.moved.get_mut(&id) {
            Some(moved) if moved.taken.is_none() => moved.taken = Some(at),
            _ => return,
        }
        self.lane.write(&Entry::Taken { transfer: id, at });
        self.say_forget(link, id.receiver, fx);
    }

    /// Tells the receiver below which number everything is decided and taken.
    fn say_forget(&mut self, link: LinkId, receiver: LaneId, fx: &mut Effects) {
        let (epoch, incarnation) = (self.lane.epoch, self.lane.incarnation);
        let mine = |id: &&TransferId| {
            id.receiver == receiver && id.epoch == epoch && id.incarnation == incarnation
        };
        let open = self.transfers.outgoing.values().map(|o| &o.id).filter(mine);
        let untaken = self
            .transfers
            .moved
            .iter()
            .filter(|(_, m)| m.taken.is_none())
            .map(|(id, _)| id)
            .filter(mine);
        let lowest = open.chain(untaken).map(|id| id.n).min();
        let through = lowest.map_or(self.transfers.last, |n| n - 1);
        let said = self.transfers.forget_said.entry(receiver).or_default();
        if through > *said {
            *said = through;
            let sender = self.lane.id;
            let message = Message::Forget { sender, epoch, incarnation, through };
            // The receiver may forget only what this side remembers as taken.
            let after = Some(self.lane.ticket());
            self.lane.urge();
            fx.push(Effect::Send { link, message, after });
        }
    }

    /// Shadows of taken transfers go after their retention, or when they are too many.
    pub(crate) fn forget_old_shadows(&mut self) {
        let before = self.now.wall.0.saturating_sub(self.limits.shadow_retention.as_millis());
        let bytes = |core: &Self, m: &Moved| -> u64 {
            let pages = m.shadows.iter().filter_map(|at| core.catalogue.page(at.record));
            pages.map(|p| u64::from(p.bytes) / u64::from(p.entries.max(1))).sum()
        };
        let mut taken: Vec<(Wall, TransferId, u64)> = self
            .transfers
            .moved
            .iter()
            .filter_map(|(id, m)| Some((m.taken?, *id, bytes(self, m))))
            .collect();
        taken.sort_unstable();
        let mut kept: u64 = taken.iter().map(|(_, _, b)| b).sum();
        for (at, id, bytes) in taken {
            if at.0 >= before && kept <= self.limits.shadow_bytes {
                break;
            }
            kept -= bytes;
            let moved = self.transfers.remove_moved(&id).expect("just seen");
            for at in moved.shadows {
                self.catalogue.take(at, Shelf::Shadow);
            }
        }
    }

    /// A peer offers objects.
    pub(crate) fn on_offer(&mut self, link: LinkId, offer: Offer, fx: &mut Effects) {
        let id = offer.transfer;
        let known = self.mesh.link(link).is_some_and(|l| l.lane == id.sender);
        let fresh = id.n > self.forgotten_through(&id);
        if !known || id.receiver != self.lane.id || !fresh {
            return self.decline(link, id, OfferRefused::Stale, fx);
        }
        if let Some(incoming) = self.transfers.incoming.get(&id) {
            // Said again after a lost answer.
            if incoming.state == InState::Held {
                fx.push(Effect::Send { link, message: Message::Status(id), after: None });
            }
            return;
        }
        self.mesh.count_received(link, &offer.key, offer.objects.len() as u64);
        if let Err(reason) = self.check_offer(link, &offer) {
            self.mark_demand(offer.key.clone());
            return self.decline(link, id, reason, fx);
        }
        let missing = self.unresolved(offer.objects.iter().map(|o| o.id));
        if !missing.is_empty() {
            self.mesh.uncount_received(link, &offer.key, offer.objects.len() as u64);
            return self.stall_quietly(missing, Input::Peer(link, Message::Offer(offer)), fx);
        }
        self.hold(link, offer, fx);
    }

    fn decline(&self, link: LinkId, transfer: TransferId, reason: OfferRefused, fx: &mut Effects) {
        let message = Message::Decline { transfer, reason };
        fx.push(Effect::Send { link, message, after: None });
    }

    fn forgotten_through(&self, id: &TransferId) -> u64 {
        let sender = (id.sender, id.epoch, id.incarnation);
        self.transfers.forgotten.get(&sender).copied().unwrap_or(0)
    }

    fn check_offer(&self, link: LinkId, offer: &Offer) -> Result<(), OfferRefused> {
        if self.draining.is_some()
            || self.disk_low
            || self.lane.uncommitted() > self.limits.uncommitted_bytes
        {
            return Err(OfferRefused::NotNow);
        }
        if self.subs.find(&offer.key).is_none() && !self.mesh.has_demand_beyond(link, &offer.key) {
            return Err(OfferRefused::NoDemand);
        }
        let bytes: usize = offer.objects.iter().map(entry_bytes).sum();
        let fits = bytes < crate::store::RECORD_BYTES_MAX - 65_536;
        let mut ids = BTreeSet::new();
        let sound = offer.objects.iter().all(|o| {
            ids.insert(o.id)
                && o.entity.check(&self.limits).is_ok()
                && self.check_type(&o.entity.ty).is_ok()
        });
        if fits && sound && !offer.objects.is_empty() {
            Ok(())
        } else {
            Err(OfferRefused::Malformed)
        }
    }

    /// Writes the offered objects as held, in one record, and accepts after its commit. A second
    /// object of an id that is here is accepted and kept out.
    fn hold(&mut self, link: LinkId, offer: Offer, fx: &mut Effects) {
        let id = offer.transfer;
        let bytes: usize = offer.objects.iter().map(entry_bytes).sum();
        self.lane.reserve(bytes + offer.objects.len() * 64);
        let peer = self.mesh.link(link).expect("checked").name.clone();
        let mut items = Vec::new();
        for object in offer.objects.iter() {
            if self.is_duplicate(object) {
                self.keep_out(id, object, fx);
                continue;
            }
            items.push(self.hold_one(id, object.clone(), &peer));
        }
        let record = self.lane.urge();
        let key = Some(offer.key);
        let incoming = Incoming { state: InState::Holding(record), items, key };
        self.transfers.incoming.insert(id, incoming);
        let message = Message::Accept { transfer: id, refused: Vec::new() };
        fx.push(Effect::Send { link, message, after: Some(record) });
    }

    fn hold_one(&mut self, id: TransferId, mut object: Object, peer: &Name) -> Held {
        let ty = self.queues.intern(&object.entity.ty);
        let queue = self.queue_for(ty, &object.handled);
        if let Some(chase) = &object.chase {
            self.see_generation(chase.generation.counter);
        }
        let standing = Standing::Held(id);
        let at = self.lane.write_object(How::Received, None, None, &standing, &mut object);
        self.catalogue.put(at, Shelf::Memory, at);
        let decision =
            Decision::new(self.now.wall, Step::Receive, Some(format!("node {peer}").into()));
        self.decide(decision, (object.id, object.moves));
        let object_id = object.id;
        let slot = self.admit(object, at, at, queue);
        self.set_phase(slot, Phase::Held(id));
        self.memory.when_committed(at.record, slot, Then::Hold);
        Held { id: object_id, at, place: at, queue }
    }

    /// Whether an offered object meets another of its id: alive here, or ended here with another
    /// birth, or done here for good. An object that comes back is no duplicate.
    fn is_duplicate(&self, object: &Object) -> bool {
        match self.known(object.id) {
            Known::Absent => false,
            Known::InMemory(slot) => {
                !matches!(self.memory.get(slot).phase, Phase::Moving(_))
                    || self.object(slot).birth != object.birth
            }
            Known::OnDisk(Stored::Alive { .. }) => true,
            Known::OnDisk(Stored::Ended { end, .. }) => !returns(end, object),
            Known::NotLookedUp => unreachable!("offers are resolved before they are held"),
        }
    }

    fn keep_out(&mut self, transfer: TransferId, object: &Object, fx: &mut Effects) {
        let ty = self.queues.intern(&object.entity.ty);
        self.lane.write(&Entry::Duplicate {
            transfer,
            id: object.id,
            ty: object.entity.ty.clone(),
        });
        let books = &mut self.queues.ty_mut(ty).books;
        books.moved_in += 1;
        books.discarded += 1;
        self.decide(Decision::new(self.now.wall, Step::Duplicate, None), (object.id, object.moves));
        fx.push(Effect::Note(Note::Duplicate(object.id)));
    }

    /// The sender has committed: what is held becomes ready with the next record.
    pub(crate) fn on_release(&mut self, link: LinkId, id: TransferId, fx: &mut Effects) {
        let through = self.forgotten_through(&id);
        let Some(incoming) = self.transfers.incoming.get_mut(&id) else {
            let message = if id.n <= through {
                Message::Taken(id)
            } else {
                fx.push(Effect::Note(Note::TransferUnknown(id.to_string())));
                Message::TransferUnknown(id)
            };
            return fx.push(Effect::Send { link, message, after: None });
        };
        match incoming.state {
            InState::Held | InState::Holding(_) => {}
            InState::Releasing(record) => {
                return fx.push(Effect::Send {
                    link,
                    message: Message::Taken(id),
                    after: Some(record),
                });
            }
            InState::Taken => {
                return fx.push(Effect::Send { link, message: Message::Taken(id), after: None });
            }
        }
        let at = self.lane.write(&Entry::Released { transfer: id });
        self.lane.urge();
        incoming.state = InState::Releasing(at.record);
        let (items, key) = (incoming.items.clone(), incoming.key.clone());
        self.release_items(&items, at.record, key.as_ref());
        // TAKEN only after READY is durable (R2).
        fx.push(Effect::Send { link, message: Message::Taken(id), after: Some(at.record) });
    }

    /// Held objects flow once the record is committed: those in memory now, others from disk.
    fn release_items(&mut self, items: &[Held], record: RecordNumber, key: Option<&DemandKey>) {
        for held in items {
            let ty = self.queues.get(held.queue).ty;
            self.queues.ty_mut(ty).books.moved_in += 1;
            match self.memory.by_id(held.id) {
                Some(slot) if self.memory.get(slot).at == held.at => {
                    self.set_phase(slot, Phase::Writing);
                    if let Some(key) = key {
                        self.begin_transit(slot, key);
                    }
                    self.memory.when_committed(record, slot, Then::Flow);
                }
                _ => {
                    self.unshelve(held.at, Shelf::Held);
                    self.queues.ty_mut(ty).held -= 1;
                    self.shelve_ready(held.queue, held.at, held.place);
                    self.watch_page(self.now.wall, held.at.record);
                    self.stir(held.queue);
                }
            }
        }
    }

    /// The sender has ended the offer: what is held is gone.
    pub(crate) fn on_abort(&mut self, id: TransferId) {
        let Some(incoming) = self.transfers.incoming.get(&id) else { return };
        if !matches!(incoming.state, InState::Held | InState::Holding(_)) {
            return;
        }
        self.lane.write(&Entry::Aborted { transfer: id });
        let incoming = self.transfers.incoming.remove(&id).expect("just found");
        for held in incoming.items {
            match self.memory.by_id(held.id) {
                Some(slot) if self.memory.get(slot).at == held.at => {
                    self.memory.cancel(held.at.record, slot);
                    self.forget_in_memory(slot);
                    self.catalogue.take(held.at, Shelf::Memory);
                }
                _ => {
                    self.unshelve(held.at, Shelf::Held);
                    let ty = self.queues.get(held.queue).ty;
                    self.queues.ty_mut(ty).held -= 1;
                }
            }
        }
    }

    pub(crate) fn on_wait(&mut self) {
        self.arm_once(DOUBT, Timer::Doubt);
    }

    /// Asks the owners of all lanes in doubt how their transfers ended.
    pub(crate) fn on_doubt(&mut self, fx: &mut Effects) {
        let held = self.transfers.incoming.iter().filter(|(_, i)| i.state == InState::Held);
        let ids: Vec<TransferId> = held.map(|(id, _)| *id).collect();
        for id in &ids {
            if let Some(link) = self.mesh.link_to(id.sender) {
                fx.push(Effect::Send { link, message: Message::Status(*id), after: None });
            }
        }
        if !ids.is_empty() {
            self.arm_once(self.limits.offer_timeout.times(2), Timer::Doubt);
        }
    }

    /// A link to a lane is up: what is in doubt between the two is taken up again.
    pub(crate) fn resume_transfers(&mut self, link: LinkId, lane: LaneId, fx: &mut Effects) {
        let open =
            |id: &TransferId| self.transfers.outgoing.get(&id.n).is_some_and(|o| o.id == *id);
        let untaken: Vec<TransferId> = self
            .transfers
            .moved
            .iter()
            .filter(|(id, m)| id.receiver == lane && m.taken.is_none() && !open(id))
            .map(|(id, _)| *id)
            .collect();
        for id in untaken {
            fx.push(Effect::Send { link, message: Message::Release(id), after: None });
        }
        let held = self
            .transfers
            .incoming
            .iter()
            .filter(|(id, i)| id.sender == lane && i.state == InState::Held);
        let ids: Vec<TransferId> = held.map(|(id, _)| *id).collect();
        for id in ids {
            fx.push(Effect::Send { link, message: Message::Status(id), after: None });
        }
        self.transfers.forget_said.remove(&lane);
        self.say_forget_on_resume(link, lane, fx);
    }

    fn say_forget_on_resume(&mut self, link: LinkId, lane: LaneId, fx: &mut Effects) {
        if self.transfers.last > 0 {
            self.say_forget(link, lane, fx);
        }
    }

    /// A link is gone: offers that were not accepted come back at once.
    pub(crate) fn withdraw_all(&mut self, link: LinkId) {
        let open =
            self.transfers.outgoing.iter().filter(|(_, o)| o.link == link && o.moving.is_none());
        let ns: Vec<u64> = open.map(|(n, _)| *n).collect();
        for n in ns {
            self.withdraw(n, Refused::LinkLost);
        }
    }

    pub(crate) fn on_forget(
        &mut self,
        sender: LaneId,
        epoch: Epoch,
        incarnation: Incarnation,
        through: u64,
    ) {
        let known =
            self.transfers.forgotten.get(&(sender, epoch, incarnation)).copied().unwrap_or(0);
        if through <= known {
            return;
        }
        self.transfers.forget_through(sender, epoch, incarnation, through);
        self.lane.write(&Entry::Forgotten { sender, epoch, incarnation, through });
    }

    /// What a committed record decides for transfers.
    pub(crate) fn on_transfers_committed(&mut self, number: RecordNumber) {
        self.transfers.outgoing.retain(|_, o| o.moving.is_none_or(|m| m > number));
        for incoming in self.transfers.incoming.values_mut() {
            match incoming.state {
                InState::Holding(record) if record <= number => incoming.state = InState::Held,
                InState::Releasing(record) if record <= number => {
                    incoming.state = InState::Taken;
                    incoming.items = Vec::new();
                }
                _ => {}
            }
        }
        if self.transfers.incoming.values().any(|i| i.state == InState::Held) {
            self.arm_once(self.limits.offer_timeout.times(2), Timer::Doubt);
        }
    }
}

impl Transfers {
    /// Forgets decided transfers of a sender's incarnation. Older incarnations of the sender are
    /// kept as long as something of them is in doubt.
    pub(crate) fn forget_through(
        &mut self,
        sender: LaneId,
        epoch: Epoch,
        incarnation: Incarnation,
        through: u64,
    ) {
        self.forgotten.insert((sender, epoch, incarnation), through);
        self.incoming.retain(|id, i| {
            let same = (id.sender, id.epoch, id.incarnation) == (sender, epoch, incarnation);
            !(same && id.n <= through && i.state == InState::Taken)
        });
    }
}

/// Whether an offered object is the one that moved on from here, coming back.
fn returns(end: &End, object: &Object) -> bool {
    matches!(end.ending, Ending::Moved(_)) && end.birth == object.birth && object.moves > end.moves
}
