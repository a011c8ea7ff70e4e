//! The receiver's half of a handoff: HELD, READY, and what it asks when it is in doubt. The whole
//! protocol is drawn in `transfer.rs`.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::catalogue::Shelf;
use crate::core::Core;
use crate::decision::{Decision, Refused, Step};
use crate::effect::{Effect, Effects, Note};
use crate::ids::{LinkId, Loc, ObjectId, RecordNumber};
use crate::input::Input;
use crate::lane::{MARK_BYTES, entry_bytes};
use crate::limits::{GENERATION_JUMP_MAX, HANDLED_MAX, MARKS_MAX, PATH_MAX};
use crate::memory::{Phase, Then};
use crate::message::{DemandKey, Message, Offer, OfferRefused};
use crate::object::Object;
use crate::planted::{Bug, planted};
use crate::record::{End, Ending, Entry, How, Standing, TransferId};
use crate::resolve::{Known, Stored};
use crate::time::Span;
use crate::timers::Timer;
use crate::transfer::{Held, InState, Incoming};

/// How long a receiver in doubt waits before it asks again.
const DOUBT: Span = Span::secs(1);

/// How long READY waits for a record that somebody waits for. The sender keeps its shadow, and this node
/// its doubt after a crash, for so long.
const READY_ALONG: Span = Span::millis(20);

/// Bytes of a duplicate's entry, at most.
pub(crate) const KEPT_OUT_BYTES: usize = 512;

/// Most crossed lanes that an offered object may carry, whatever `max_hops` its sender has.
const CROSSED_MAX: usize = 256;

impl Core {
    /// A peer offers objects.
    pub(crate) fn on_offer(&mut self, link: LinkId, offer: Offer, fx: &mut Effects) {
        let id = offer.transfer;
        if let Err(reason) = self.check_transfer(link, id) {
            return self.decline(link, id, reason, fx);
        }
        if self.said_again(link, id, fx) {
            return;
        }
        self.mesh.count_received(link, &offer.key, offer.objects.len() as u64);
        self.window_was_used(link, &offer.key);
        if let Err(reason) = self.check_offer(link, &offer) {
            self.mark_demand(offer.key.clone());
            return self.decline(link, id, reason, fx);
        }
        // Nearly always nothing is known of any of them.
        let are_new = offer.objects.iter().all(|o| matches!(self.known(o.id), Known::Absent));
        if !are_new {
            let missing = self.unresolved(offer.objects.iter().map(|o| o.id));
            if !missing.is_empty() {
                self.mesh.uncount_received(link, &offer.key, offer.objects.len() as u64);
                return self.stall_quietly(missing, Input::Peer(link, Message::Offer(offer)), fx);
            }
            if !self.may_meet(&offer.objects, fx) {
                self.mark_demand(offer.key);
                return self.decline(link, id, OfferRefused::NotNow, fx);
            }
            if !offer.early {
                self.make_way(&offer.objects, fx);
            }
        }
        self.hold(link, offer, are_new, fx);
    }

    /// A transfer of this link's lane to this one, and not one of those that are forgotten.
    pub(crate) fn check_transfer(&self, link: LinkId, id: TransferId) -> Result<(), OfferRefused> {
        let known = self.mesh.link(link).is_some_and(|l| l.lane == id.sender);
        let fresh = id.n > self.transfers.forgotten_through(&id);
        if known && id.receiver == self.lane.id && fresh {
            Ok(())
        } else {
            Err(OfferRefused::Stale)
        }
    }

    /// Whether an offer was said again after a lost answer.
    pub(crate) fn said_again(&self, link: LinkId, id: TransferId, fx: &mut Effects) -> bool {
        let Some(incoming) = self.transfers.incoming.get(&id) else { return false };
        if incoming.state == InState::Held {
            fx.push(Effect::send(link, Message::Status(id), None));
        }
        true
    }

    /// Whether a copy of an offered object is here whose handoff is not decided. It may be the
    /// same object under an offer that is about to be aborted: kept out as a duplicate now, it
    /// would be lost with that copy.
    fn is_undecided(&self, object: &Object) -> bool {
        match self.known(object.id) {
            Known::InMemory(slot) => {
                matches!(self.memory.get(slot).phase, Phase::Held(_) | Phase::Moving(_))
            }
            Known::OnDisk(Stored::Alive { shelf, .. }) => *shelf == Shelf::Held,
            _ => false,
        }
    }

    /// Whether offered objects, whose ids have been looked up, may meet what is here: nothing of it is undecided.
    ///
    /// This node's own offers of other objects of these ids are ended for that: where such a one has been offered to it may
    /// have been kept out for the very object that comes ([`Core::keep_out_held`]), and each would end for the
    /// other. One that leaves memory by that has to be looked up before it is met.
    pub(crate) fn may_meet(&mut self, objects: &[Arc<Object>], fx: &mut Effects) -> bool {
        if objects.iter().any(|object| self.is_undecided(object)) {
            return false;
        }
        for object in objects {
            let Some(slot) = self.memory.by_id(object.id) else { continue };
            let live = self.memory.get(slot);
            if let Phase::Offered(n) = live.phase
                && live.object.birth != object.birth
            {
                self.take_offer_back(n, Refused::Met, fx);
            }
        }
        self.unresolved(objects.iter().map(|o| o.id)).is_empty()
    }

    pub(crate) fn decline(
        &self,
        link: LinkId,
        transfer: TransferId,
        reason: OfferRefused,
        fx: &mut Effects,
    ) {
        let message = Message::Decline { transfer, reason };
        fx.push(Effect::send(link, message, None));
    }

    fn check_offer(&self, link: LinkId, offer: &Offer) -> Result<(), OfferRefused> {
        let objects = self.check_objects(&offer.objects);
        if objects == Err(OfferRefused::NotNow) {
            return objects;
        }
        if self.subs.find(&offer.key).is_none() && !self.mesh.has_demand_beyond(link, &offer.key) {
            return Err(OfferRefused::NoDemand);
        }
        objects
    }

    /// What can be said of offered objects whatever the demand.
    pub(crate) fn check_objects(&self, objects: &[Arc<Object>]) -> Result<(), OfferRefused> {
        if self.draining.is_some()
            || self.disk_low
            || self.resolving.is_full()
            || self.lane.uncommitted() > self.limits.uncommitted_bytes
        {
            return Err(OfferRefused::NotNow);
        }
        // Each may take over the marks of another one of its id.
        let bytes: usize = objects.iter().map(|o| entry_bytes(o) + MARKS_MAX * MARK_BYTES).sum();
        let fits = bytes < crate::store::RECORD_BYTES_MAX - 65_536;
        let mut ids: Vec<ObjectId> = objects.iter().map(|o| o.id).collect();
        ids.sort_unstable();
        let are_different = ids.windows(2).all(|two| two[0] != two[1]);
        let sound = objects.iter().all(|o| {
            o.entity.check(&self.limits).is_ok()
                && self.is_bounded(o)
                && self.check_type(&o.entity.ty).is_ok()
        });
        if fits && are_different && sound && !objects.is_empty() {
            Ok(())
        } else {
            Err(OfferRefused::Malformed)
        }
    }

    /// What an object carries besides its payload stays within what this node would write.
    fn is_bounded(&self, o: &Object) -> bool {
        let chase_is_sound = o.chase.as_ref().is_none_or(|c| {
            let counter_max = self.generation().saturating_add(GENERATION_JUMP_MAX);
            c.crossed.len() <= CROSSED_MAX && c.generation.counter <= counter_max
        });
        chase_is_sound
            && o.entity.headers.as_packed().len() as u64
                <= self.limits.headers_bytes + 8 * u64::from(self.limits.headers)
            && o.path.len() <= PATH_MAX
            && o.marks.len() <= MARKS_MAX
            && o.handled.len() <= HANDLED_MAX
            && o.handled.is_sorted()
    }

    /// Writes the offered objects as held, in one record, and accepts after its commit. A second
    /// object of an id that is here is accepted and kept out. If they `are_new`, nothing is known of any
    /// of their ids, and none is looked up.
    fn hold(&mut self, link: LinkId, offer: Offer, are_new: bool, fx: &mut Effects) {
        let id = offer.transfer;
        let bytes: usize = offer.objects.iter().map(|object| entry_bytes(object)).sum();
        self.lane.reserve_group(bytes + offer.objects.len() * 64);
        let peer = Arc::clone(&self.mesh.link(link).expect("checked").who);
        let count = offer.objects.len();
        let (mut items, mut received) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut refused, mut kept_out) = (Vec::new(), false);
        for (i, object) in offer.objects.into_iter().enumerate() {
            let meeting = if are_new { Meeting::Fresh(None) } else { self.meet(&object) };
            match meeting {
                Meeting::Fresh(before) => {
                    received.push((object.id, object.moves));
                    items.push(self.hold_one(id, object, before));
                }
                Meeting::Duplicate => {
                    kept_out = true;
                    self.keep_out(id, &object, fx);
                }
                Meeting::NotNow => {
                    let i = u32::try_from(i).expect("offers are bounded");
                    refused.push((i, OfferRefused::NotNow));
                }
            }
        }
        if !received.is_empty() {
            let decision = Decision::new(self.now.wall, Step::Receive, Some(peer));
            self.decide_all(decision, received);
        }
        // What does not stay uses no credit: it is granted again.
        if kept_out || !refused.is_empty() {
            self.mark_demand(offer.key.clone());
        }
        if items.is_empty() && !kept_out {
            return self.decline_each(link, id, refused, fx);
        }
        let record = self.lane.urge();
        let key = Some(offer.key);
        let incoming = Incoming { state: InState::Holding(record), items, key };
        self.transfers.incoming.insert(id, incoming);
        let message = Message::Accept { transfer: id, refused };
        let after = Some(record).filter(|_| !planted(Bug::AcceptBeforeHeld));
        fx.push(Effect::send(link, message, after));
    }

    /// Nothing of an offer is held: there is nothing to wait for.
    pub(crate) fn decline_each(
        &self,
        link: LinkId,
        transfer: TransferId,
        refused: Vec<(u32, OfferRefused)>,
        fx: &mut Effects,
    ) {
        let message = Message::Accept { transfer, refused };
        fx.push(Effect::send(link, message, None));
    }

    fn hold_one(&mut self, id: TransferId, mut object: Arc<Object>, before: Option<Loc>) -> Held {
        let ty = self.queues.intern(&object.entity.ty);
        let queue = self.queue_for(ty, &object.handled);
        if let Some(chase) = &object.chase {
            self.see_generation(chase.generation.counter);
        }
        if before.is_some() {
            self.inherit(Arc::make_mut(&mut object), before);
        }
        let standing = Standing::Held(id);
        let at = self.lane.write_object(How::Received, before, None, &standing, &object);
        self.catalogue.put(at, Shelf::Memory, at);
        let (object_id, due) = (object.id, object.not_before);
        if planted(Bug::BooksAtHeld) {
            self.queues.ty_mut(ty).books.moved_in += 1;
        }
        let slot = self.admit(object, at, at, queue);
        self.set_phase(slot, Phase::Held(Box::new(id)));
        self.memory.when_committed(at.record, slot, Then::Hold);
        Held { id: object_id, at, place: at, queue, before, due, parked: false }
    }

    /// What rests here under the ids of offered objects, and was born later, ends in their favour.
    /// Otherwise they might wait outside for ever: for what is parked, delayed for a year, or wanted
    /// by nobody any more. They are held when they are offered again.
    ///
    /// What is offered, and not early, is durable at its owner, so one object of the id is left whatever
    /// becomes of the offer; and as only a later birth ever ends for an earlier one, the first is never lost.
    pub(crate) fn make_way(&mut self, objects: &[Arc<Object>], fx: &mut Effects) {
        for object in objects {
            if !self.is_met_by_first(object) {
                continue;
            }
            let Some(slot) = self.pick_up(object.id) else { continue };
            let (id, moves) = (object.id, self.object(slot).moves);
            self.lane.reserve(2_048);
            self.end(slot, Ending::Duplicate, None);
            self.decide(Decision::new(self.now.wall, Step::Duplicate, None), (id, moves));
            fx.push(Effect::Note(Note::Duplicate(id)));
        }
    }

    /// Whether another object is alive here under the id of an offered one, which precedes it.
    fn is_met_by_first(&self, object: &Object) -> bool {
        match self.known(object.id) {
            Known::InMemory(slot) => precedes(object, self.object(slot)),
            Known::OnDisk(Stored::Alive { object: here, .. }) => precedes(object, here),
            _ => false,
        }
    }

    /// An object that comes where another one of its id has been takes over what is remembered of
    /// that one's settles: its end will be forgotten.
    pub(crate) fn inherit(&self, object: &mut Object, before: Option<Loc>) {
        if before.is_some()
            && let Known::OnDisk(Stored::Ended { end, .. }) = self.known(object.id)
            && end.birth != object.birth
        {
            object.inherit_marks(&end.marks);
        }
    }

    /// What an offered object meets here under its id.
    ///
    /// Of two objects of one id that are both alive only the one of the later birth may be kept
    /// out, so that the first one survives wherever they cross. The first one waits outside as long
    /// as the other one is in somebody's hands; what rests has made way before. What has moved on
    /// from here, or has made way, has not been met.
    pub(crate) fn meet(&self, object: &Object) -> Meeting {
        match self.known(object.id) {
            Known::Absent => Meeting::Fresh(None),
            // It goes in a moment, and is in memory until then.
            Known::InMemory(slot) if matches!(self.memory.get(slot).phase, Phase::Moving(_)) => {
                Meeting::NotNow
            }
            Known::InMemory(slot) => meet_alive(object, self.object(slot)),
            Known::OnDisk(Stored::Alive { object: here, .. }) => meet_alive(object, here),
            Known::OnDisk(Stored::Ended { at, end }) if may_come(end, object) => {
                Meeting::Fresh(Some(*at))
            }
            Known::OnDisk(Stored::Ended { .. }) => Meeting::Duplicate,
            Known::NotLookedUp => unreachable!("offers are resolved before they are held"),
        }
    }

    /// An id that had moved on from here is alive here again: its old end says nothing any more.
    pub(crate) fn forget_end(&mut self, before: Option<Loc>) {
        if let Some(at) = before
            && self.catalogue.shelf_of(at) == Some(Shelf::Ended)
        {
            self.catalogue.take(at, Shelf::Ended);
            self.remembered.drop_end(at.record);
        }
    }

    pub(crate) fn keep_out(&mut self, transfer: TransferId, object: &Object, fx: &mut Effects) {
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

    /// The copy that is all that is known of an id here, and that its sender may never have had: it was offered
    /// early, before anything of it was durable, and is held. A push or an emit of the id is not answered as done
    /// before, then: when the copy is aborted nothing would be left of either. It is a new object, and the copy is kept
    /// out, as it would be if it came now (P9: two objects until they meet).
    ///
    /// Only the first offer of an object that was pushed by itself, that nobody has had and that has no times, is ever early.
    /// After a restart it is not known which of those were: all such copies count.
    pub(crate) fn held_under(&self, id: ObjectId) -> Option<(TransferId, Held)> {
        if planted(Bug::HeldCountsAsPushed) {
            return None;
        }
        let (at, transfer, object) = match self.known(id) {
            Known::InMemory(slot) => {
                let live = self.memory.get(slot);
                let Phase::Held(transfer) = &live.phase else { return None };
                (live.at, **transfer, &*live.object)
            }
            Known::OnDisk(Stored::Alive {
                at, standing: Standing::Held(transfer), object, ..
            }) => (*at, *transfer, &**object),
            _ => return None,
        };
        let was_had = object.moves > 1 || object.deliveries > 0 || object.possible_duplicate;
        if was_had || object.has_times() {
            return None;
        }
        let incoming = self.transfers.incoming.get(&transfer)?;
        let is_undecided = matches!(incoming.state, InState::Holding(_) | InState::Held);
        let held = incoming.items.iter().find(|held| held.at == at)?;
        (is_undecided && held.before.is_none()).then(|| (transfer, held.clone()))
    }

    /// Keeps out what is held under the id of a new object ([`Core::held_under`]), with an entry in its record.
    ///
    /// Here an earlier object ends for a later one, which [`Core::make_way`] never does. It does so only if its sender
    /// commits MOVED, and until then nothing ends for it there ([`Core::may_meet`]).
    pub(crate) fn keep_out_held(&mut self, id: ObjectId) {
        let Some((transfer, held)) = self.held_under(id) else { return };
        let object = match self.known(id) {
            Known::OnDisk(Stored::Alive { object, .. }) => Arc::new(Object::clone(object)),
            Known::InMemory(slot) => Arc::clone(&self.memory.get(slot).object),
            _ => unreachable!("it is held"),
        };
        self.drop_held(&held);
        let (_, key) = self.transfers.remove_item(transfer, id).expect("it is held");
        // It uses no credit: that is granted again.
        if let Some(key) = key {
            self.mark_demand(key);
        }
        let mut fx = Effects::new();
        self.keep_out(transfer, &object, &mut fx);
        self.later.append(&mut fx);
    }

    /// A held object is gone, from memory or from its shelf.
    fn drop_held(&mut self, held: &Held) {
        if self.held_out_of_memory(held).is_none() {
            self.unshelve_held(held);
        }
    }

    /// Takes a held object out of memory, if it is there.
    pub(crate) fn held_out_of_memory(&mut self, held: &Held) -> Option<Arc<Object>> {
        let slot =
            self.memory.by_id(held.id).filter(|slot| self.memory.get(*slot).at == held.at)?;
        self.memory.cancel(held.at.record, slot);
        self.catalogue.take(held.at, Shelf::Memory);
        Some(self.forget_in_memory(slot).object)
    }

    /// A held object leaves its shelf.
    pub(crate) fn unshelve_held(&mut self, held: &Held) {
        self.unshelve(held.at, Shelf::Held);
        let ty = self.queues.get(held.queue).ty;
        self.queues.ty_mut(ty).held -= 1;
    }

    /// The sender has committed: what is held becomes ready with the next record.
    pub(crate) fn on_release(&mut self, link: LinkId, id: TransferId, fx: &mut Effects) {
        let through = self.transfers.forgotten_through(&id);
        let Some(incoming) = self.transfers.incoming.get_mut(&id) else {
            let message = if id.n <= through {
                Message::Taken(id)
            } else {
                fx.push(Effect::Note(Note::TransferUnknown(id.to_string())));
                Message::TransferUnknown(id)
            };
            return fx.push(Effect::send(link, message, None));
        };
        let is_held = incoming.state == InState::Held;
        match incoming.state {
            InState::Held | InState::Holding(_) => {}
            InState::Releasing(record) => {
                return fx.push(Effect::send(link, Message::Taken(id), Some(record)));
            }
            InState::Taken => {
                return fx.push(Effect::send(link, Message::Taken(id), None));
            }
        }
        let at = self.lane.write(&Entry::Released { transfer: id });
        incoming.state = InState::Releasing(at.record);
        let (items, key) = (incoming.items.clone(), incoming.key.clone());
        if self.release_items(&items, key.as_ref(), (!is_held).then_some(at.record)) {
            // Nobody waits for it: what is delivered of it is settled in the same record, mostly.
            self.arm_once(READY_ALONG, Timer::Riders);
        } else {
            self.lane.urge();
        }
        // TAKEN only after READY is durable (R2).
        let after = Some(at.record).filter(|_| !planted(Bug::TakenBeforeReady));
        fx.push(Effect::send(link, Message::Taken(id), after));
    }

    /// Held objects flow: those in memory at once, others from disk with the commit of READY. HELD is durable
    /// here and MOVED there, so this lane owns them whatever becomes of READY: if that is lost, the sender is asked
    /// and releases them again. Only what was released before HELD was durable waits for `record`. Says whether all of
    /// them flow.
    fn release_items(
        &mut self,
        items: &[Held],
        key: Option<&DemandKey>,
        record: Option<RecordNumber>,
    ) -> bool {
        let mut all_flow = record.is_none();
        for held in items {
            let ty = self.queues.get(held.queue).ty;
            if !planted(Bug::BooksAtHeld) {
                self.queues.ty_mut(ty).books.moved_in += 1;
            }
            self.forget_end(held.before);
            match self.memory.by_id(held.id) {
                Some(slot) if self.memory.get(slot).at == held.at => {
                    self.set_phase(slot, Phase::Writing);
                    if let Some(key) = key {
                        self.begin_transit(slot, key);
                    }
                    match record {
                        None => self.flow(slot),
                        Some(record) => {
                            self.memory.when_committed(record, slot, Then::FlowAtCommit);
                        }
                    }
                }
                // From its shelf it becomes ready with the commit, too.
                _ => all_flow = false,
            }
        }
        all_flow
    }

    /// The record that made a held object ready is durable: from its shelf it joins its queue.
    pub(crate) fn release_from_shelf(&mut self, held: &Held) {
        if self.catalogue.shelf_of(held.at) != Some(Shelf::Held) {
            return;
        }
        self.unshelve_held(held);
        if let Shelf::Ready(queue) = self.shelve_released(held) {
            self.stir(queue);
        }
    }

    /// The sender has ended the offer: what is held is gone.
    pub(crate) fn on_abort(&mut self, id: TransferId) {
        let Some(incoming) = self.transfers.incoming.get(&id) else { return };
        let over = !matches!(incoming.state, InState::Held | InState::Holding(_));
        if over || planted(Bug::AbortIgnored) {
            return;
        }
        self.lane.write(&Entry::Aborted { transfer: id });
        let incoming = self.transfers.incoming.remove(&id).expect("just found");
        if let Some(key) = incoming.key {
            self.mark_demand(key);
        }
        for held in incoming.items {
            if let Some(before) = held.before {
                self.remembered.note(held.id, before);
            }
            self.drop_held(&held);
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
                fx.push(Effect::send(link, Message::Status(*id), None));
            }
        }
        if !ids.is_empty() {
            self.arm_once(self.limits.offer_timeout.times(2), Timer::Doubt);
        }
    }
}

/// What an offered object meets under its id.
pub(crate) enum Meeting {
    /// Nothing that is alive; perhaps the end of one that moved on, there.
    Fresh(Option<Loc>),
    /// One that makes it a duplicate, to be accepted and kept out.
    Duplicate,
    /// One that is alive and may go on or end: it has to wait outside.
    NotNow,
}

fn meet_alive(object: &Object, here: &Object) -> Meeting {
    if precedes(here, object) { Meeting::Duplicate } else { Meeting::NotNow }
}

/// Whether of two objects of one id the first one is to be kept, and the second one kept out: the
/// one of the earlier birth; of copies of one object the certain one, then the one that has come
/// farther. Two certain copies are none of this: one of them waits for a decision.
fn precedes(first: &Object, second: &Object) -> bool {
    let rank = |o: &Object| (o.birth, o.possible_duplicate, Reverse(o.moves));
    rank(first) < rank(second) && (first.birth != second.birth || second.possible_duplicate)
}

/// Whether an object may come although one of its id has ended here: if that one has moved on, and
/// this one is another, or the same one on its way back; or if that one has made way for it.
fn may_come(end: &End, object: &Object) -> bool {
    match &end.ending {
        Ending::Moved(_) => end.birth != object.birth || object.moves > end.moves,
        Ending::Duplicate => {
            let farther = !object.possible_duplicate || object.moves > end.moves;
            object.birth < end.birth || object.birth == end.birth && farther
        }
        Ending::Final | Ending::Discarded(_) => {
            planted(Bug::SecondBirthAccepted) && end.birth != object.birth
        }
    }
}
