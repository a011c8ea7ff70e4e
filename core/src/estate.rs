//! Adoption (R8): the core of a lane whose node is gone, run in another process until the lane is
//! empty. It takes nothing new and wants nothing. What is ready flows to where demand is by the
//! ordinary handoff. What is delayed or parked has no demand to follow: its heir, the lane of the
//! adopting process, takes it over as it is, by the same handoff (an *estate*). Transfers in doubt
//! are answered under the old lane's id. When nothing is left the lane is retired.
//!
//! Objects of an estate stay on their shelves until MOVED is committed; nobody else touches them
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalogue::{Kind, Shelf};
use crate::core::Core;
use crate::decision::{Decision, Step};
use crate::effect::{Answer, Effect, Effects};
use crate::hold::Meeting;
use crate::ids::{LaneId, LinkId, Loc};
use crate::input::{Input, Operator, ReplyTo};
use crate::lane::entry_bytes;
use crate::limits::{OFFER_BYTES_MAX, OFFER_OBJECTS_MAX, PATH_MAX};
use crate::loads::Purpose;
use crate::mesh::who;
use crate::message::{Estate, Message, OfferRefused};
use crate::names::Name;
use crate::object::Object;
use crate::planted::{Bug, planted};
use crate::record::{EndRef, Ending, Entry, How, Standing, TransferId};
use crate::refusal::{Code, Refusal};
use crate::time::{Mono, Span, Wall};
use crate::timers::Timer;
use crate::transfer::{Held, InState, Incoming, REFUSED_PAUSE};

/// What a core knows of adoptions.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Estates {
    /// This core's lane was adopted, for this lane of the adopting process.
    heir: Option<LaneId>,
    /// Lanes that this process has adopted: their estates are taken.
    from: BTreeSet<LaneId>,
    /// What is offered and not decided: nobody else touches it.
    locked: BTreeSet<Loc>,
    /// A record is being read.
    loading: bool,
    /// The heir has refused: no other offer before this.
    rests_until: Mono,
    retiring: bool,
    /// Lanes whose owners are asked about settles and cannot be reached, until when they are sought.
    sought: BTreeMap<LaneId, Mono>,
}

/// How long the owner of a lane is sought for a settle that could not be passed on to it.
const SEEK: Span = Span::secs(60);

/// The most lanes that are sought for settles.
const SOUGHT_MAX: usize = 64;

/// One object of an estate at its sender.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Legacy {
    at: Loc,
    shelf: Shelf,
    object: Object,
    reason: Option<Arc<str>>,
}

impl Estates {
    pub(crate) fn new(heir: Option<LaneId>) -> Self {
        Self { heir, ..Self::default() }
    }

    /// Whether an entry is offered to the heir and not decided.
    pub(crate) fn is_locked(&self, at: Loc) -> bool {
        !self.locked.is_empty() && self.locked.contains(&at)
    }
}

impl Core {
    /// Whether this core runs the lane of a node that is gone.
    pub fn is_adopted(&self) -> bool {
        self.estates.heir.is_some()
    }

    /// The lanes with which a transfer is in doubt, or that a settle was to be passed on to, and to
    /// which no link is up: whoever knows their owners dials them, or says [`Input::LaneRetired`].
    pub fn lanes_in_doubt(&self) -> BTreeSet<LaneId> {
        let mut lanes = self.transfers.lanes_in_doubt();
        let sought = self.estates.sought.iter().filter(|(_, until)| **until > self.now.mono);
        lanes.extend(sought.map(|(lane, _)| *lane));
        lanes.retain(|lane| self.mesh.link_to(*lane).is_none());
        lanes
    }

    /// A settle was answered *unknown* because there is no way to the lane of its lease. Its owner is
    /// looked for, so that the next try is told.
    pub(crate) fn seek_owner(&mut self, lane: LaneId) {
        let now = self.now.mono;
        let sought = &mut self.estates.sought;
        sought.retain(|_, until| *until > now);
        if sought.len() < SOUGHT_MAX {
            sought.insert(lane, now + SEEK);
        }
    }

    /// This process has adopted a lane, or has done with it.
    pub(crate) fn handle_adopts(&mut self, lane: LaneId, runs: bool) {
        if runs {
            self.estates.from.insert(lane);
        } else {
            self.estates.from.remove(&lane);
        }
    }

    /// A lane was empty, with every MOVED of it taken, when it was retired (R8): what is still held
    /// from it was never moved, and what was moved to it had been taken.
    pub(crate) fn handle_lane_retired(&mut self, lane: LaneId) {
        self.estates.sought.remove(&lane);
        let held = self.transfers.incoming.iter();
        let held = held.filter(|(id, i)| id.sender == lane && i.state == InState::Held);
        for id in held.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.on_abort(id);
        }
        let at = self.now.wall;
        for id in self.transfers.untaken_of(lane) {
            self.transfers.set_taken(id, at);
            self.lane.write(&Entry::Taken { transfer: id, at });
        }
    }

    /// What people may not do to an adopted lane: it only answers questions.
    pub(crate) fn refuse_adopted(&self, to: ReplyTo, order: &Operator, fx: &mut Effects) -> bool {
        let asks = matches!(
            order,
            Operator::Inspect(_)
                | Operator::List { .. }
                | Operator::Types
                | Operator::Subscriptions
                | Operator::Nodes
        );
        let refused = self.is_adopted() && !asks;
        if refused {
            let refusal = Refusal::new(
                Code::FailedPrecondition,
                "LANE_ADOPTED",
                "this lane was adopted; its objects move on by themselves, order it of the node that has them then",
            );
            self.reply(to, Answer::Refused(Box::new(refusal)), fx);
        }
        refused
    }

    /// One step on an adopted lane's way to its end, after each input.
    pub(crate) fn tend_estate(&mut self, fx: &mut Effects) {
        let Some(heir) = self.estates.heir else { return };
        self.give_next(heir, fx);
        self.try_retire(fx);
    }

    /// Reads the next record with something delayed or parked, if the heir can be offered it.
    fn give_next(&mut self, heir: LaneId, fx: &mut Effects) {
        let e = &self.estates;
        let busy = e.loading || !e.locked.is_empty() || e.rests_until > self.now.mono;
        if busy || self.link_for_estate(heir).is_none() {
            return;
        }
        let waits = |t: &crate::queues::Type| t.delayed + t.parked > 0;
        if !self.queues.types().any(|(_, t)| waits(t)) {
            return;
        }
        let next =
            self.catalogue.iter().find(|(_, page)| page.has_kind([Kind::Delayed, Kind::Parked]));
        if let Some((record, _)) = next {
            let record = *record;
            self.estates.loading = true;
            self.load(record, Purpose::Estate, fx);
        }
    }

    /// The heir's link, when it may take one more offer.
    fn link_for_estate(&self, heir: LaneId) -> Option<LinkId> {
        self.mesh.link_to(heir).filter(|link| self.transfers.has_room(*link, 1))
    }

    pub(crate) fn on_estate_loaded(&mut self, entries: &[(Loc, Entry)], fx: &mut Effects) {
        self.estates.loading = false;
        let heir = self.estates.heir;
        let Some(link) = heir.and_then(|heir| self.link_for_estate(heir)) else { return };
        let (mut legacies, mut bytes) = (Vec::new(), 0);
        for (at, entry) in entries {
            let Entry::Object { standing, object, .. } = entry else { continue };
            let Some(shelf) = self.catalogue.shelf_of(*at) else { continue };
            let reason = match (shelf, standing) {
                (Shelf::Parked(_), Standing::Parked(r) | Standing::HeldParked(_, r)) => {
                    Some(r.clone())
                }
                (Shelf::Delayed(_), _) => None,
                _ => continue,
            };
            let weight = object.weight();
            let full = legacies.len() == OFFER_OBJECTS_MAX || bytes + weight > OFFER_BYTES_MAX;
            if full && !legacies.is_empty() {
                break;
            }
            bytes += weight;
            legacies.push(Legacy { at: *at, shelf, object: (**object).clone(), reason });
        }
        if !legacies.is_empty() {
            self.offer_estate(link, legacies, fx);
        }
    }

    fn offer_estate(&mut self, link: LinkId, legacies: Vec<Legacy>, fx: &mut Effects) {
        let objects: Vec<_> =
            legacies.iter().map(|l| Arc::new(self.as_inherited(&l.object))).collect();
        let reasons = (0u32..).zip(&legacies).filter_map(|(i, l)| Some((i, l.reason.clone()?)));
        let parked: Vec<(u32, Arc<str>)> = reasons.collect();
        self.estates.locked.extend(legacies.iter().map(|l| l.at));
        let bytes = objects.iter().map(|object| object.weight()).sum();
        let id = self.begin_offer(link, None, Vec::new(), legacies, None, bytes);
        let estate = Estate { transfer: id, objects, parked };
        fx.push(Effect::send(link, Message::Estate(estate), None));
    }

    /// The object as its heir holds it. It follows the demand that it followed before.
    fn as_inherited(&self, object: &Object) -> Object {
        let mut object = object.clone();
        object.moves += 1;
        if object.path.len() == PATH_MAX {
            object.path.remove(0);
        }
        object.path.push(self.name.clone());
        object
    }

    /// What was offered and not taken stays where it is.
    pub(crate) fn keep_legacies(&mut self, legacies: &[Legacy]) {
        for legacy in legacies {
            self.estates.locked.remove(&legacy.at);
            if let Shelf::Delayed(_) = legacy.shelf {
                let due = legacy.object.not_before.unwrap_or(self.now.wall);
                self.watch_page(due, legacy.at.record);
            }
        }
    }

    /// The heir refuses what it is offered: it has a moment.
    pub(crate) fn rest_estate(&mut self) {
        self.estates.rests_until = self.now.mono + REFUSED_PAUSE;
        self.arm_once(REFUSED_PAUSE, Timer::Estate);
    }

    /// The heir holds an estate, but for what it refused: the move is written.
    pub(crate) fn on_estate_accepted(
        &mut self,
        link: LinkId,
        n: u64,
        refused: &[(u32, OfferRefused)],
        fx: &mut Effects,
    ) {
        let out = self.transfers.outgoing.get_mut(&n).expect("the caller found it");
        let (id, peer) = (out.id, out.peer.clone());
        let is_refused = |i: u32| refused.iter().any(|(p, _)| *p == i);
        let (back, moving): (Vec<_>, Vec<_>) =
            (0u32..).zip(std::mem::take(&mut out.estate)).partition(|(i, _)| is_refused(*i));
        let back: Vec<Legacy> = back.into_iter().map(|(_, legacy)| legacy).collect();
        let moving: Vec<Legacy> = moving.into_iter().map(|(_, legacy)| legacy).collect();
        if !back.is_empty() {
            self.keep_legacies(&back);
            self.rest_estate();
        }
        if moving.is_empty() {
            self.transfers.outgoing.remove(&n);
            self.stir_crowded();
            return fx.push(Effect::send(link, Message::Abort(id), None));
        }
        self.write_estate_moved(n, id, peer, moving);
        let after = Some(self.lane.urge());
        fx.push(Effect::send(link, Message::Release(id), after));
    }

    /// The commit point: the ends and MOVED, in one record.
    fn write_estate_moved(&mut self, n: u64, id: TransferId, receiver: Name, moving: Vec<Legacy>) {
        let bytes: usize = moving.iter().map(|l| 400 + l.object.marks.len() * 80).sum();
        self.lane.reserve_group(bytes + 128 + moving.len() * 12);
        moving.iter().for_each(|legacy| self.end_legacy(id, legacy));
        let moved = moving.iter().map(|l| (l.at, l.object.id, l.object.moves));
        let moved: Vec<_> = moved.collect();
        self.write_moved_mark(n, id, receiver, &moved).estate = moving;
    }

    fn end_legacy(&mut self, id: TransferId, legacy: &Legacy) {
        let Legacy { at: was, shelf, object, .. } = legacy;
        assert_eq!(self.catalogue.shelf_of(*was), Some(*shelf), "what is offered is locked");
        let (ending, at_wall) = (Ending::Moved(id), self.now.wall);
        let at = self.lane.write_end(EndRef::of(object, *was, &ending, None, at_wall));
        let ty = self.queues.intern(&object.entity.ty);
        self.queues.ty_mut(ty).books.moved_out += 1;
        self.unshelve(*was, *shelf);
        self.catalogue.put(*was, Shelf::Shadow, *was);
        self.catalogue.put(at, Shelf::Ended, at);
        self.remembered.note(object.id, at);
        self.remembered.note_end(at_wall, at.record);
        self.estates.locked.remove(was);
    }

    /// The lane of an adopted core of this process gives what is delayed or parked.
    pub(crate) fn on_estate(&mut self, link: LinkId, estate: Estate, fx: &mut Effects) {
        let id = estate.transfer;
        if let Err(reason) = self.check_transfer(link, id) {
            return self.decline(link, id, reason, fx);
        }
        if self.said_again(link, id, fx) {
            return;
        }
        if !self.estates.from.contains(&id.sender) {
            return self.decline(link, id, OfferRefused::NoDemand, fx);
        }
        if let Err(reason) = self.check_objects(&estate.objects) {
            return self.decline(link, id, reason, fx);
        }
        let missing = self.unresolved(estate.objects.iter().map(|o| o.id));
        if !missing.is_empty() {
            let again = Input::Peer(link, Message::Estate(estate));
            return self.stall_quietly(missing, again, fx);
        }
        if !self.may_meet(&estate.objects, fx) {
            return self.decline(link, id, OfferRefused::NotNow, fx);
        }
        self.hold_estate(link, &estate, fx);
    }

    fn hold_estate(&mut self, link: LinkId, estate: &Estate, fx: &mut Effects) {
        let id = estate.transfer;
        self.make_way(&estate.objects, fx);
        let reasons = estate.parked.iter().map(|(_, reason)| reason.len()).sum::<usize>();
        let bytes: usize = estate.objects.iter().map(|object| entry_bytes(object)).sum();
        self.lane.reserve_group(bytes + reasons + estate.objects.len() * 64);
        let peer = self.mesh.link(link).expect("checked").name.clone();
        let (mut items, mut refused, mut kept_out) = (Vec::new(), Vec::new(), false);
        for (i, object) in (0u32..).zip(estate.objects.iter()) {
            let reason = estate.parked.iter().find(|(p, _)| *p == i).map(|(_, r)| r.clone());
            match self.meet(object) {
                Meeting::Fresh(before) => {
                    items.push(self.hold_legacy(id, Object::clone(object), reason, before, &peer));
                }
                Meeting::Duplicate => {
                    kept_out = true;
                    self.keep_out(id, object, fx);
                }
                Meeting::NotNow => refused.push((i, OfferRefused::NotNow)),
            }
        }
        if items.is_empty() && !kept_out {
            return self.decline_each(link, id, refused, fx);
        }
        let record = self.lane.urge();
        let incoming = Incoming { state: InState::Holding(record), items, key: None };
        self.transfers.incoming.insert(id, incoming);
        let message = Message::Accept { transfer: id, refused };
        fx.push(Effect::send(link, message, Some(record)));
    }

    /// Writes one object as held. It waits on its shelf: nobody here asked for it.
    fn hold_legacy(
        &mut self,
        id: TransferId,
        mut object: Object,
        reason: Option<Arc<str>>,
        before: Option<Loc>,
        peer: &Name,
    ) -> Held {
        let ty = self.queues.intern(&object.entity.ty);
        let queue = self.queue_for(ty, &object.handled);
        if let Some(chase) = &object.chase {
            self.see_generation(chase.generation.counter);
        }
        let parked = reason.is_some();
        self.inherit(&mut object, before);
        let standing = match reason {
            Some(reason) => Standing::HeldParked(id, reason),
            None => Standing::Held(id),
        };
        let at = self.lane.write_object(How::Received, before, None, &standing, &object);
        self.catalogue.put(at, Shelf::Held, at);
        self.queues.ty_mut(ty).held += 1;
        self.remembered.note(object.id, at);
        let who = Some(who(peer));
        let decision = Decision::new(self.now.wall, Step::Receive, who);
        self.decide(decision, (object.id, object.moves));
        Held { id: object.id, at, place: at, queue, before, due: object.not_before, parked }
    }

    /// Where what is held goes when it is released.
    pub(crate) fn shelf_after(&self, held: &Held) -> Shelf {
        let ty = self.queues.get(held.queue).ty;
        match held.due {
            _ if held.parked => Shelf::Parked(ty),
            Some(due) if due > self.now.wall => Shelf::Delayed(ty),
            _ => Shelf::Ready(held.queue),
        }
    }

    /// What is held is released from its shelf to where it belongs. Says where that is.
    pub(crate) fn shelve_released(&mut self, held: &Held) -> Shelf {
        let shelf = self.shelf_after(held);
        match shelf {
            Shelf::Parked(ty) => {
                self.catalogue.put(held.at, shelf, held.place);
                self.queues.ty_mut(ty).parked += 1;
            }
            Shelf::Delayed(ty) => {
                self.catalogue.put(held.at, shelf, held.place);
                self.queues.ty_mut(ty).delayed += 1;
                self.watch_page(held.due.unwrap_or(Wall(0)), held.at.record);
            }
            _ => {
                self.shelve_ready(held.queue, held.at, held.place);
                self.watch_page(self.now.wall, held.at.record);
            }
        }
        shelf
    }

    /// An adopted lane in which nothing is left, and of which every MOVED is taken, is retired.
    fn try_retire(&mut self, fx: &mut Effects) {
        if self.estates.retiring || self.memory.len() > 0 || !self.transfers.are_all_decided() {
            return;
        }
        let looked_at = !planted(Bug::RetiredWithObjects);
        let waits = |(ty, t): (_, &crate::queues::Type)| {
            let inert = if looked_at { t.delayed + t.parked } else { 0 };
            self.queues.ready(ty) + inert + t.held + t.writing > 0
        };
        if self.queues.types().any(waits) {
            return;
        }
        self.write_decisions();
        if !self.is_all_committed() {
            // What rides along is written before the lane ends.
            if self.lane.has_riders() {
                self.lane.urge();
            }
            return;
        }
        self.estates.retiring = true;
        fx.push(Effect::Retire);
    }
}
