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
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalogue::{QueueId, Shelf};
use crate::core::Core;
use crate::decision::{Candidate, Decision, Refused, Step};
use crate::effect::{Effect, Effects};
use crate::estate::Legacy;
use crate::ids::{Epoch, Incarnation, LaneId, LinkId, Loc, ObjectId, RecordNumber};
use crate::limits::OFFERS_MAX;
use crate::memory::{Phase, Slot};
use crate::mesh::who;
use crate::message::{DemandKey, Message, Offer, OfferRefused};
use crate::names::Name;
use crate::object::Object;
use crate::patience::Patience;
use crate::planted::{Bug, planted};
use crate::record::{Ending, Entry, TransferId};
use crate::recording::{SlicedMap, Slices};
use crate::shadows::Shadows;
use crate::time::{Span, Wall};
use crate::timers::Timer;

/// How long what a peer has refused is not offered to it again.
pub(crate) const REFUSED_PAUSE: Span = Span::secs(1);

/// An offer of this incarnation that is not decided.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outgoing {
    pub(crate) id: TransferId,
    pub(crate) link: LinkId,
    pub(crate) peer: Name,
    /// The demand it is for; none for an estate.
    pub(crate) key: Option<DemandKey>,
    pub(crate) slots: Vec<Slot>,
    /// What an adopted lane gives to its heir, instead of slots.
    pub(crate) estate: Vec<Legacy>,
    /// The record that its objects stand in, if it has left before that was durable.
    pub(crate) early: Option<RecordNumber>,
    /// The record that holds MOVED, once ACCEPT has come.
    pub(crate) moving: Option<RecordNumber>,
    /// Bytes of its payloads.
    pub(crate) bytes: u64,
    pub(crate) patience: Patience,
}

/// A committed transfer whose receiver may still need its answer, or whose shadow is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub(crate) receiver: Name,
    pub(crate) shadows: BTreeSet<Loc>,
    pub(crate) taken: Option<Wall>,
}

/// A transfer at the receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incoming {
    pub(crate) state: InState,
    pub(crate) items: Vec<Held>,
    /// The demand it came for; not known after a restart.
    pub(crate) key: Option<DemandKey>,
}

/// How far a transfer has come at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) id: ObjectId,
    pub(crate) at: Loc,
    pub(crate) place: Loc,
    pub(crate) queue: QueueId,
    /// The end of an object of its id that had moved on from here.
    pub(crate) before: Option<Loc>,
    /// It is not to be delivered before.
    pub(crate) due: Option<Wall>,
    /// It is parked, and stays so.
    pub(crate) parked: bool,
}

/// All transfers of a lane.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Transfers {
    pub(crate) outgoing: BTreeMap<u64, Outgoing>,
    #[serde(skip)]
    pub(crate) moved: SlicedMap<TransferId, Moved>,
    pub(crate) incoming: BTreeMap<TransferId, Incoming>,
    /// Up to which number transfers of a sender's incarnation are decided and forgotten.
    pub(crate) forgotten: BTreeMap<(LaneId, Epoch, Incarnation), u64>,
    /// Lanes that were forgotten for ever.
    pub(crate) verdicts: BTreeSet<LaneId>,
    /// Those of `moved` that are not taken: TAKEN costs nothing for all that is kept.
    #[serde(skip)]
    pub(crate) untaken: BTreeSet<TransferId>,
    /// Shadows by place, for carrying.
    #[serde(skip)]
    shadows: Shadows,
    /// Queues that were kept from a demand because its link had all the offers it may have.
    pub(crate) crowded: BTreeSet<QueueId>,
    /// Transfers whose FORGET has been said, by receiver's lane.
    pub(crate) forget_said: BTreeMap<LaneId, u64>,
    pub(crate) last: u64,
}

impl Transfers {
    /// What goes into a snapshot in slices.
    pub(crate) fn slices(&mut self) -> [&mut dyn Slices; 1] {
        [&mut self.moved]
    }

    /// What follows from the slices.
    pub(crate) fn derive(&mut self) {
        for (id, moved) in &self.moved {
            self.shadows.add(*id, moved.shadows.iter().copied());
            if moved.taken.is_none() {
                self.untaken.insert(*id);
            }
        }
    }

    /// The transfer whose shadow stands at a place.
    pub(crate) fn shadow_of(&self, at: Loc) -> Option<TransferId> {
        self.shadows.get(at)
    }

    /// Whether the release of a held transfer has been written and is not durable yet.
    pub(crate) fn is_releasing(&self, transfer: TransferId) -> bool {
        let state = self.incoming.get(&transfer).map(|i| i.state);
        matches!(state, Some(InState::Releasing(_)))
    }

    /// The end of an id that is held is written elsewhere now. Says whether one is.
    pub(crate) fn end_carried(&mut self, at: Loc, to: Loc) -> bool {
        let held = self.incoming.values_mut().flat_map(|i| &mut i.items);
        let mut found = false;
        for held in held.filter(|h| h.before == Some(at)) {
            held.before = Some(to);
            found = true;
        }
        found
    }

    /// Where an object is held under whose id this end was before.
    pub(crate) fn held_after(&self, end: Loc) -> Option<Loc> {
        let held = self.incoming.values().flat_map(|i| &i.items);
        held.filter(|h| h.before == Some(end)).map(|h| h.at).next()
    }

    /// A shadow or a held object is written elsewhere now.
    pub(crate) fn carried(&mut self, at: Loc, to: Loc) {
        if let Some(id) = self.shadows.remove(at) {
            self.shadows.add(id, [to]);
            let moved = self.moved.get_mut(&id).expect("it had the shadow");
            moved.shadows.remove(&at);
            moved.shadows.insert(to);
        }
        for incoming in self.incoming.values_mut().filter(|i| i.state != InState::Taken) {
            incoming.items.iter_mut().filter(|h| h.at == at).for_each(|h| h.at = to);
        }
    }

    /// A held object leaves its transfer, which goes on, if only to be answered. Says for which demand it came.
    pub(crate) fn remove_item(
        &mut self,
        transfer: TransferId,
        id: ObjectId,
    ) -> Option<(Held, Option<DemandKey>)> {
        let incoming = self.incoming.get_mut(&transfer)?;
        let item = incoming.items.iter().position(|held| held.id == id)?;
        Some((incoming.items.remove(item), incoming.key.clone()))
    }

    /// A held object leaves its transfer, which is over when it was the last one.
    pub(crate) fn take_held(&mut self, at: Loc) -> Option<Held> {
        let of = |(id, i): (&TransferId, &Incoming)| {
            i.items.iter().position(|h| h.at == at).map(|item| (*id, item))
        };
        let (id, item) = self.incoming.iter().find_map(of)?;
        let items = &mut self.incoming.get_mut(&id).expect("just found").items;
        let held = items.remove(item);
        if items.is_empty() {
            self.incoming.remove(&id);
        }
        Some(held)
    }

    /// Takes a committed transfer into account.
    pub(crate) fn insert_moved(&mut self, id: TransferId, moved: Moved) {
        self.shadows.add(id, moved.shadows.iter().copied());
        if moved.taken.is_none() {
            self.untaken.insert(id);
        }
        self.moved.insert(id, moved);
    }

    /// The receiver has taken a transfer. Says whether that is new.
    pub(crate) fn set_taken(&mut self, id: TransferId, at: Wall) -> bool {
        let Some(moved) = self.moved.get_mut(&id) else { return false };
        self.untaken.remove(&id);
        moved.taken.replace(at).is_none()
    }

    /// A shadow is alive again under another entry.
    pub(crate) fn drop_shadow(&mut self, at: Loc) {
        if let Some(id) = self.shadows.remove(at) {
            self.moved.get_mut(&id).expect("it had the shadow").shadows.remove(&at);
        }
    }

    fn remove_moved(&mut self, id: &TransferId) -> Option<Moved> {
        let moved = self.moved.remove(id)?;
        self.untaken.remove(id);
        self.shadows.remove_all(&moved.shadows);
        Some(moved)
    }

    /// Transfers in doubt with a peer's lane, both ways.
    pub(crate) fn in_doubt(&self, lane: LaneId) -> u64 {
        let out = self.untaken.iter().filter(|id| id.receiver == lane);
        let held =
            self.incoming.iter().filter(|(id, i)| id.sender == lane && i.state == InState::Held);
        (out.count() + held.count()) as u64
    }

    /// Lanes with which something is in doubt, both ways.
    pub(crate) fn lanes_in_doubt(&self) -> BTreeSet<LaneId> {
        let out = self.untaken.iter().map(|id| id.receiver);
        let held = self.incoming.iter().filter(|(_, i)| i.state == InState::Held);
        out.chain(held.map(|(id, _)| id.sender)).collect()
    }

    /// Transfers to a lane that were moved and are not known as taken.
    pub(crate) fn untaken_of(&self, receiver: LaneId) -> Vec<TransferId> {
        self.untaken.iter().filter(|id| id.receiver == receiver).copied().collect()
    }

    /// Whether nothing is offered, held, or moved and not known as taken.
    pub(crate) fn are_all_decided(&self) -> bool {
        self.outgoing.is_empty()
            && self.untaken.is_empty()
            && self.incoming.values().all(|i| i.state == InState::Taken)
    }

    /// Offers of each link that are not decided, and objects in them.
    pub(crate) fn outstanding(&self) -> BTreeMap<LinkId, (usize, u64)> {
        let mut outstanding = BTreeMap::<LinkId, (usize, u64)>::new();
        for offer in self.outgoing.values() {
            let (offers, objects) = outstanding.entry(offer.link).or_default();
            (*offers, *objects) = (*offers + 1, *objects + offer.slots.len() as u64);
        }
        outstanding
    }

    /// Whether a link may have so many offers more.
    pub(crate) fn has_room(&self, link: LinkId, offers: usize) -> bool {
        self.offers_over(link) + offers <= OFFERS_MAX
    }

    /// Offers of one link that are not decided.
    fn offers_over(&self, link: LinkId) -> usize {
        self.outgoing.values().filter(|offer| offer.link == link).count()
    }
}

impl Core {
    /// Offers objects to a peer, which are in no queue: ready, or being written in the record that the offer is
    /// `early` for. They carry what the receiver will hold: one move more, this node in the path, and the chase as it is
    /// after the link.
    pub(crate) fn offer(
        &mut self,
        link: LinkId,
        key: DemandKey,
        slots: Vec<Slot>,
        objects: Vec<Arc<Object>>,
        early: Option<RecordNumber>,
        fx: &mut Effects,
    ) {
        let n = self.transfers.last + 1;
        for slot in &slots {
            self.set_phase(*slot, Phase::Offered(n));
        }
        let bytes = objects.iter().map(|object| object.weight()).sum();
        let id = self.begin_offer(link, Some(key.clone()), slots, Vec::new(), early, bytes);
        let message = Message::Offer(Offer { transfer: id, key, objects, early: early.is_some() });
        fx.push(Effect::send(link, message, None));
    }

    /// Ends an offer that has not been accepted: its objects are ready again, without a write.
    pub(crate) fn withdraw(&mut self, n: u64, why: Refused) {
        let out = self.transfers.outgoing.remove(&n).expect("the caller found it");
        assert!(out.moving.is_none(), "an accepted offer is decided by its commit");
        self.disarm(out.patience.looked_at, Timer::Offer(n));
        self.stir_crowded();
        for slot in out.slots {
            self.give_back(slot, out.early, &out.peer, why);
        }
        self.keep_legacies(&out.estate);
    }

    /// An object that was offered waits again: for the record that it stands in, if the offer has left
    /// before that was durable and it is not yet.
    fn give_back(&mut self, slot: Slot, early: Option<RecordNumber>, peer: &Name, why: Refused) {
        let object = self.object(slot);
        let (id, moves) = (object.id, object.moves);
        let mut decision = Decision::new(self.now.wall, Step::Withdraw, None);
        decision.candidates = vec![Candidate { who: who(peer), refused: why }];
        self.decide(decision, (id, moves));
        self.set_phase(slot, Phase::Writing);
        if early.is_none_or(|record| self.lane.is_committed(record)) {
            self.make_ready(slot);
        }
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
        self.learn_patience(n);
        self.disarm(self.transfers.outgoing[&n].patience.looked_at, Timer::Offer(n));
        if !self.transfers.outgoing[&n].estate.is_empty() {
            return self.on_estate_accepted(link, n, refused, fx);
        }
        let out_slots =
            std::mem::take(&mut self.transfers.outgoing.get_mut(&n).expect("just found").slots);
        let (peer, early) = {
            let out = &self.transfers.outgoing[&n];
            (out.peer.clone(), out.early)
        };
        let is_refused = |i: usize| refused.iter().any(|(p, _)| *p as usize == i);
        let (mut moving, mut back) = (Vec::new(), Vec::new());
        for (i, slot) in out_slots.into_iter().enumerate() {
            if is_refused(i) { back.push(slot) } else { moving.push(slot) }
        }
        for slot in back {
            self.memory.get_mut(slot).paused_until = self.now.mono + REFUSED_PAUSE;
            let queue = self.memory.get(slot).queue;
            self.look_again(queue, REFUSED_PAUSE);
            self.give_back(slot, early, &peer, Refused::RefusedByPeer);
        }
        if moving.is_empty() {
            // What is paged out forgets that it was refused: the demand rests, too.
            let out = self.transfers.outgoing.remove(&n).expect("just found");
            self.stir_crowded();
            self.rest(link, out.key.as_ref());
            return fx.push(Effect::send(link, Message::Abort(id), None));
        }
        self.write_moved(n, id, peer, moving);
        let after = Some(self.lane.urge()).filter(|_| !planted(Bug::ReleaseBeforeMoved));
        fx.push(Effect::send(link, Message::Release(id), after));
    }

    /// Writes the commit point of a transfer: its ends and MOVED, in one record.
    fn write_moved(&mut self, n: u64, id: TransferId, receiver: Name, slots: Vec<Slot>) {
        let bytes: usize = slots.iter().map(|s| 400 + self.object(*s).marks.len() * 80).sum();
        self.lane.reserve_group(bytes + 128 + slots.len() * 12);
        let mut moved = Vec::with_capacity(slots.len());
        for slot in &slots {
            let at = self.memory.get(*slot).at;
            self.set_phase(*slot, Phase::Moving(n));
            self.end(*slot, Ending::Moved(id), None);
            let object = self.object(*slot);
            moved.push((at, object.id, object.moves));
        }
        self.write_moved_mark(n, id, receiver, &moved).slots = slots;
    }

    /// MOVED itself, behind the ends that it is of: where each object stood, which stays as its shadow, its
    /// id, and its moves. The transfer waits for its commit.
    pub(crate) fn write_moved_mark(
        &mut self,
        n: u64,
        id: TransferId,
        receiver: Name,
        moved: &[(Loc, ObjectId, u32)],
    ) -> &mut Outgoing {
        let decision = Decision::new(self.now.wall, Step::Move, Some(who(&receiver)));
        self.decide_all(decision, moved.iter().map(|(_, id, moves)| (*id, *moves)));
        let shadows: BTreeSet<Loc> = moved.iter().map(|(at, ..)| *at).collect();
        let entry = Entry::Moved {
            transfer: id,
            receiver: receiver.clone(),
            shadows: shadows.iter().copied().collect(),
        };
        let at = self.lane.write(&entry);
        self.transfers.insert_moved(id, Moved { receiver, shadows, taken: None });
        let out = self.transfers.outgoing.get_mut(&n).expect("the caller found it");
        out.moving = Some(at.record);
        out
    }

    pub(crate) fn on_decline(&mut self, id: TransferId, _reason: OfferRefused) {
        let open = self.transfers.outgoing.get(&id.n);
        if open.is_some_and(|o| o.id == id && o.moving.is_none()) {
            self.learn_patience(id.n);
            self.pause(id.n);
            self.withdraw(id.n, Refused::RefusedByPeer);
        }
    }

    /// The peer has refused an offer, or not answered it: it would do the same with the next one,
    /// so it has a moment.
    fn rest(&mut self, link: LinkId, key: Option<&DemandKey>) {
        let until = self.now.mono + REFUSED_PAUSE;
        let Some(key) = key else { return self.rest_estate() };
        if let Some(remote) = self.mesh.link_mut(link).and_then(|l| l.demands.get_mut(key)) {
            remote.paused_until = until;
        }
    }

    pub(crate) fn pause(&mut self, n: u64) {
        let open = &self.transfers.outgoing[&n];
        let (link, key, slot) = (open.link, open.key.clone(), open.slots.first().copied());
        self.rest(link, key.as_ref());
        if let Some(slot) = slot {
            let queue = self.memory.get(slot).queue;
            self.look_again(queue, REFUSED_PAUSE);
        }
    }

    /// What this lane's owner says of one of its transfers (R1): released, wait, or aborted, after
    /// the offer has been ended.
    pub(crate) fn answer_status(&mut self, link: LinkId, id: TransferId, fx: &mut Effects) {
        if id.sender != self.lane.id {
            return;
        }
        if id.epoch > self.lane.epoch {
            return self.fence_off(id.epoch, fx);
        }
        if !self.prove(fx) {
            return; // Neither MOVED nor ABORT: the receiver asks again.
        }
        let open = self.transfers.outgoing.get(&id.n).filter(|o| o.id == id);
        let message = match open.map(|o| o.moving) {
            Some(Some(_)) if planted(Bug::AbortWhileMoving) => Message::Abort(id),
            Some(Some(_)) => Message::Wait(id),
            Some(None) => {
                self.withdraw(id.n, Refused::Timeout);
                Message::Abort(id)
            }
            None if self.transfers.moved.contains_key(&id) => Message::Release(id),
            None => Message::Abort(id),
        };
        fx.push(Effect::send(link, message, None));
    }

    /// The receiver owns the objects durably: the shadow goes after its retention.
    pub(crate) fn on_taken(&mut self, link: LinkId, id: TransferId, fx: &mut Effects) {
        let at = self.now.wall;
        if self.transfers.moved.get(&id).is_none_or(|m| m.taken.is_some()) {
            return;
        }
        self.transfers.set_taken(id, at);
        self.lane.write(&Entry::Taken { transfer: id, at });
        self.say_forget(link, id.receiver, fx);
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
            .filter_map(|(id, m)| {
                let taken =
                    m.taken.or_else(|| planted(Bug::ShadowForgottenUntaken).then_some(Wall(0)))?;
                Some((taken, *id, bytes(self, m)))
            })
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
                if self.catalogue.shelf_of(at) == Some(Shelf::Shadow) {
                    self.catalogue.take(at, Shelf::Shadow);
                }
            }
        }
    }

    /// A link to a lane is up: what is in doubt between the two is taken up again.
    pub(crate) fn resume_transfers(&mut self, link: LinkId, lane: LaneId, fx: &mut Effects) {
        let open =
            |id: &TransferId| self.transfers.outgoing.get(&id.n).is_some_and(|o| o.id == *id);
        let untaken = self.transfers.untaken.iter();
        let untaken: Vec<TransferId> =
            untaken.filter(|id| id.receiver == lane && !open(id)).copied().collect();
        for id in untaken {
            fx.push(Effect::send(link, Message::Release(id), None));
        }
        let held = self
            .transfers
            .incoming
            .iter()
            .filter(|(id, i)| id.sender == lane && i.state == InState::Held);
        let ids: Vec<TransferId> = held.map(|(id, _)| *id).collect();
        for id in ids {
            fx.push(Effect::send(link, Message::Status(id), None));
        }
        self.transfers.forget_said.remove(&lane);
        // A lane in its first epoch that has offered nothing has nothing to be forgotten.
        if self.transfers.last > 0 || self.lane.epoch > Epoch(1) {
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

    /// An offer is over: queues that had to wait for its place may have somewhere to go.
    pub(crate) fn stir_crowded(&mut self) {
        self.stirred.extend(std::mem::take(&mut self.transfers.crowded));
    }

    /// What a committed record decides for transfers.
    pub(crate) fn on_transfers_committed(&mut self, number: RecordNumber) {
        let before = self.transfers.outgoing.len();
        self.transfers.outgoing.retain(|_, o| o.moving.is_none_or(|m| m > number));
        if self.transfers.outgoing.len() < before {
            self.stir_crowded();
        }
        let mut released = Vec::new();
        for incoming in self.transfers.incoming.values_mut() {
            match incoming.state {
                InState::Holding(record) if record <= number => incoming.state = InState::Held,
                InState::Releasing(record) if record <= number => {
                    incoming.state = InState::Taken;
                    released.append(&mut incoming.items);
                }
                _ => {}
            }
        }
        released.iter().for_each(|held| self.release_from_shelf(held));
        if self.transfers.incoming.values().any(|i| i.state == InState::Held) {
            self.arm_once(self.limits.offer_timeout.times(2), Timer::Doubt);
        }
    }
}
