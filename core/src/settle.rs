//! Settling: how a lease ends by its holder's word. Settle and emits are one commit (P4).

use std::collections::BTreeSet;

use crate::catalogue::Shelf;
use crate::core::Core;
use crate::effect::{Answer, Effects};
use crate::hold::KEPT_OUT_BYTES;
use crate::ids::ObjectId;
use crate::input::{Input, LeaseRef, Lessee, ReplyTo, Settle, Verb};
use crate::lane::entry_bytes;
use crate::lease::lease_lost;
use crate::limits::{HANDLED_MAX, REASON_BYTES_MAX};
use crate::memory::{Phase, Slot, Then};
use crate::message::PassedAnswer;
use crate::names::Name;
use crate::object::{Entity, Hash16, Push, SettleMark, Token};
use crate::planted::{Bug, planted};
use crate::push::PushedBefore;
use crate::record::{EndRef, Ending, How};
use crate::refusal::{Code, Refusal};
use crate::resolve::{Known, Stored};
use crate::store::RECORD_BYTES_MAX;
use crate::time::Span;

mod transaction;

impl Core {
    pub(crate) fn handle_settle(
        &mut self,
        to: ReplyTo,
        lessee: Lessee,
        settle: Settle,
        fx: &mut Effects,
    ) {
        if let Err(refusal) = self.check_settle(&settle) {
            return self.refuse(to, refusal, fx);
        }
        let missing = self.unresolved(self.ids_of_settle(&settle));
        if !missing.is_empty() {
            return self.stall(to, missing, Input::Settle(to, lessee, settle), fx);
        }
        if self.cannot_judge(to, lessee, settle.leases.iter().copied(), fx) {
            return;
        }
        let mut done = 0;
        for (i, lease) in settle.leases.iter().enumerate() {
            let answer = self.settle_one(to, lessee, *lease, &settle, fx);
            match answer {
                Ok(true) => done += 1,
                Ok(false) => return,
                Err(refusal) => {
                    let i = u32::try_from(i).expect("requests are bounded");
                    self.refuse_settle(to, i, refusal, fx);
                }
            }
        }
        self.reply_when_durable(to, Answer::Done(done), fx);
    }

    /// Refuses one settle. What a lease is lost to may be a later settle of the same version that is
    /// not durable yet; a crash would take that back, and the same settle would be answered as done
    /// once more (P3). So this answer waits for it.
    fn refuse_settle(&mut self, to: ReplyTo, i: u32, refusal: Refusal, fx: &mut Effects) {
        let lost = refusal.reason == "LEASE_LOST";
        let answer = Answer::RefusedAt(i, Box::new(refusal));
        if lost { self.reply_when_durable(to, answer, fx) } else { self.reply(to, answer, fx) }
    }

    /// One lease of a settle: `Ok(false)` when somebody else will answer.
    fn settle_one(
        &mut self,
        to: ReplyTo,
        lessee: Lessee,
        lease: LeaseRef,
        settle: &Settle,
        fx: &mut Effects,
    ) -> Result<bool, Refusal> {
        match self.find_lease(lessee, lease) {
            Ok(n) => {
                self.check_against_object(n, settle)?;
                let emits = self.check_emits(&settle.emits)?;
                self.lane.begin_group(self.settle_bytes(n, settle));
                self.apply_settle(n, &settle.verb, settle.content, fx);
                if planted(Bug::EmitsInARecordOfTheirOwn) {
                    self.lane.end_group();
                    self.lane.begin_group(usize::MAX / 2);
                }
                self.apply_emits(&settle.emits, &emits);
                self.lane.end_group();
                Ok(true)
            }
            Err(refusal) if refusal.reason == "LEASE_LOST" => {
                self.repeat_settle(to, lease, settle.content, settle.leases.len(), fx)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// A settle whose lease is gone: the same one as before gets the same answer (P3, R5).
    fn repeat_settle(
        &mut self,
        to: ReplyTo,
        lease: LeaseRef,
        content: Hash16,
        of: usize,
        fx: &mut Effects,
    ) -> Result<bool, Refusal> {
        let token = match lease {
            LeaseRef::Number(n) => {
                return match self.leases.settled(n) {
                    Some(before) if before == content => Ok(true),
                    _ => Err(lease_lost()),
                };
            }
            LeaseRef::Token(token) => token,
        };
        match self.answer_from_marks(token, content) {
            Some(true) => Ok(true),
            Some(false) => Err(lease_lost()),
            None if token.lane == self.lane.id => Err(lease_lost()),
            None if planted(Bug::LostSaidByAnyone) => Err(lease_lost()),
            None if of == 1 => {
                if !self.pass_settle(to, token, content, fx) {
                    // R5: only the owner may say what became of it. It may have been done before.
                    self.seek_owner(token.lane);
                    let why = "the lease was given by another node that cannot be reached from here; ask that node";
                    self.reply(to, Answer::Unknown(why.into()), fx);
                }
                Ok(false)
            }
            None => Err(Refusal::new(
                Code::Unavailable,
                "OWNER_UNREACHABLE",
                "the lease was given by another node; settle it there, or by itself",
            )),
        }
    }

    /// What the marks of an object say of a settle: done before, lost, or nothing.
    pub(crate) fn answer_from_marks(&self, token: Token, content: Hash16) -> Option<bool> {
        let marks: &[SettleMark] = match self.known(token.object) {
            Known::InMemory(slot) => &self.object(slot).marks,
            Known::OnDisk(Stored::Alive { object, .. }) => &object.marks,
            Known::OnDisk(Stored::Ended { end, .. }) => &end.marks,
            Known::Absent | Known::NotLookedUp => return None,
        };
        marks.iter().find(|m| m.token == token).map(|m| m.content == content)
    }

    /// The answer of this lane's owner to a settle that came over a link. It is only asked about:
    /// a lease that has not ended may still be settled by who holds it, and is not lost (R5).
    pub(crate) fn owner_answer(&self, token: Token, content: Hash16) -> PassedAnswer {
        match self.answer_from_marks(token, content) {
            None if self.find_lease(Lessee::Bearer, LeaseRef::Token(token)).is_ok() => {
                PassedAnswer::Unknown
            }
            Some(true) => PassedAnswer::Done,
            Some(false) => PassedAnswer::LeaseLost,
            None if token.lane == self.lane.id && self.owns_surely() => PassedAnswer::LeaseLost,
            None => PassedAnswer::Unknown,
        }
    }

    /// Ids that must be known before a settle is handled.
    fn ids_of_settle(&self, settle: &Settle) -> Vec<ObjectId> {
        let here = |t: &Token| self.leases.get(t.n).is_some() && *t == self.token(t.n, t.object);
        let tokens = settle.leases.iter().filter_map(|lease| match lease {
            LeaseRef::Token(token) if !here(token) => Some(token.object),
            _ => None,
        });
        tokens.chain(settle.emits.iter().filter_map(|e| e.id)).collect()
    }

    /// What can be said of a settle without its lease. State is unchanged.
    fn check_settle(&self, settle: &Settle) -> Result<(), Refusal> {
        if settle.leases.is_empty() {
            return Err(Refusal::invalid("leases", "LEASE_MISSING", "the settle names no lease"));
        }
        if settle.leases.len() > 1 && !settle.emits.is_empty() {
            let message = "emits go with one lease; settle the leases one by one";
            return Err(Refusal::invalid("emits", "EMITS_OF_MANY", message));
        }
        let items = (settle.emits.len() + 1) as u64;
        if items > u64::from(self.limits.transaction_items) {
            return Err(Refusal::over(
                "emits",
                u64::from(self.limits.transaction_items),
                items,
                "items",
            ));
        }
        self.check_together(settle.emits.iter())?;
        match &settle.verb {
            Verb::Release { delay, .. } if *delay > self.limits.horizon => {
                let (limit, given) = (self.limits.horizon.0 / 1_000_000, delay.0 / 1_000_000);
                Err(Refusal {
                    reason: "TIME_OUT_OF_RANGE",
                    ..Refusal::over("delay", limit, given, "seconds")
                })
            }
            Verb::Reject(reason) if reason.len() > REASON_BYTES_MAX => {
                Err(Refusal::over("reason", REASON_BYTES_MAX as u64, reason.len() as u64, "bytes"))
            }
            Verb::Advance(Some(entity)) => entity.check(&self.limits),
            _ => Ok(()),
        }
    }

    /// What depends on the leased object, and what refuses new work: a settle that was done is never
    /// refused for want of room (P3). State is unchanged.
    fn check_against_object(&self, n: u64, settle: &Settle) -> Result<(), Refusal> {
        if let Verb::Advance(entity) = &settle.verb {
            if self.disk_low {
                self.check_open_for_work()?;
            }
            entity.iter().try_for_each(|entity| self.check_type(&entity.ty))?;
        }
        if let Verb::Advance(None) = settle.verb {
            let lease = self.leases.get(n).expect("the caller found it");
            let handled = &self.object(lease.slot).handled;
            if handled.len() >= HANDLED_MAX {
                return Err(Refusal::over(
                    "handled",
                    HANDLED_MAX as u64,
                    handled.len() as u64 + 1,
                    "processors",
                ));
            }
            let limit = 2 * u64::from(self.limits.types);
            if self.queues.len() as u64 >= limit {
                let message = "too many different sets of processors have handled objects here";
                return Err(Refusal::exhausted("handled", limit, message));
            }
        }
        let bytes = self.settle_bytes(n, settle);
        if bytes > RECORD_BYTES_MAX / 2 {
            return Err(Refusal::over("emits", RECORD_BYTES_MAX as u64 / 2, bytes as u64, "bytes"));
        }
        Ok(())
    }

    /// Emits are checked like pushes. Those that were emitted before are left out.
    fn check_emits(&self, emits: &[Push]) -> Result<Vec<bool>, Refusal> {
        let fresh = self.fresh_emits(emits)?;
        for (emit, _) in emits.iter().zip(&fresh).filter(|(_, fresh)| **fresh) {
            emit.check(&self.limits, self.now)?;
            self.check_type(&emit.entity.ty)?;
            if self.disk_low {
                self.check_open_for_work()?;
            }
        }
        Ok(fresh)
    }

    /// Which emits are new, and not repeated.
    fn fresh_emits(&self, emits: &[Push]) -> Result<Vec<bool>, Refusal> {
        if emits.is_empty() {
            // Nearly all settles: it is not even asked for the errors of none.
            return Ok(Vec::new());
        }
        let fresh = |emit: &Push| {
            let Some(id) = emit.id else { return Ok(true) };
            Ok(matches!(self.pushed_before(id, &emit.content)?, PushedBefore::No))
        };
        emits.iter().map(fresh).collect()
    }

    /// Objects that one commit brings in: each id once, and no more new types than there is room
    /// for. State is unchanged.
    fn check_together<'a>(&self, pushes: impl Iterator<Item = &'a Push>) -> Result<(), Refusal> {
        let (mut ids, mut types) = (BTreeSet::new(), BTreeSet::new());
        for push in pushes {
            if let Some(id) = push.id
                && !ids.insert(id)
            {
                let message = "one request names the id twice; give each object its own id";
                return Err(Refusal::invalid("id", "ID_TWICE", message).given(id));
            }
            if self.queues.type_id(&push.entity.ty).is_none() {
                types.insert(&push.entity.ty);
            }
        }
        let limit = self.limits.types as usize;
        if !types.is_empty() && self.queues.types_len() + types.len() > limit {
            let message = format!("the node keeps {limit} types apart and these would be more");
            return Err(Refusal::exhausted("types", limit as u64, message));
        }
        Ok(())
    }

    fn settle_bytes(&self, n: u64, settle: &Settle) -> usize {
        let leased = || {
            let lease = self.leases.get(n).expect("the caller found it");
            entry_bytes(self.object(lease.slot))
        };
        let object = match &settle.verb {
            Verb::Finalise => 256 + 17 * 90,
            Verb::Advance(Some(entity)) => {
                let entity = entity.payload.len() + entity.headers.as_packed().len();
                512 + entity + leased()
            }
            _ => leased() + 1_200,
        };
        object
            + settle
                .emits
                .iter()
                .map(|e| {
                    512 + KEPT_OUT_BYTES
                        + e.entity.payload.len()
                        + e.entity.headers.as_packed().len()
                })
                .sum::<usize>()
    }

    fn apply_emits(&mut self, emits: &[Push], fresh: &[bool]) {
        for (emit, fresh) in emits.iter().zip(fresh) {
            if *fresh {
                let id = emit.id.unwrap_or_else(|| self.new_id());
                self.store(id, emit.clone(), How::Emitted);
            }
        }
    }

    /// Ends the lease and writes what the verb says. Everything has been checked.
    fn apply_settle(&mut self, n: u64, verb: &Verb, content: Hash16, fx: &mut Effects) {
        let lease = self.end_lease(n, true);
        let processor = lease.processor;
        let slot = lease.slot;
        self.set_phase(slot, Phase::Writing);
        let id = self.object(slot).id;
        let token = self.token(n, id);
        self.leases.note_settled(n, content);
        self.memory.get_mut(slot).object_mut().mark(token, content);
        let begun_at = lease.begun.then(|| self.memory.get(slot).at);
        match verb {
            Verb::Finalise => self.end(slot, Ending::Final, Some(processor)),
            Verb::Advance(Some(entity)) => self.advance(slot, entity.clone()),
            Verb::Advance(None) => self.set_handled(slot, processor),
            Verb::Release { delay, failed: true } => self.count_failure(slot, *delay, fx),
            Verb::Release { delay, failed: false } => self.release(slot, *delay),
            Verb::Reject(reason) => self.park(slot, reason.clone(), fx),
        }
        if let Some(at) = begun_at {
            self.blamed.remove(&at);
        }
    }

    fn release(&mut self, slot: Slot, delay: Span) {
        if delay > Span::ZERO {
            self.memory.set_not_before(slot, self.now.wall + delay);
        } else {
            self.memory.get_mut(slot).object_mut().not_before = None;
        }
        self.return_object(slot, How::Returned);
    }

    fn set_handled(&mut self, slot: Slot, name: Name) {
        let object = self.memory.get_mut(slot).object_mut();
        if let Err(i) = object.handled.binary_search(&name)
            && !planted(Bug::HandlingForgotten)
        {
            object.handled.insert(i, name);
        }
        object.not_before = None;
        let handled = object.handled.clone();
        let ty = self.queues.get(self.memory.get(slot).queue).ty;
        self.requeue(slot, self.queues.find(ty, &handled), ty, &handled);
        self.return_object(slot, How::Advanced);
    }

    fn advance(&mut self, slot: Slot, entity: Entity) {
        let old = self.queues.get(self.memory.get(slot).queue).ty;
        let ty = self.queues.intern(&entity.ty);
        let object = self.memory.get_mut(slot).object_mut();
        let changed = object.entity.ty != entity.ty;
        object.entity = entity;
        object.version += 1;
        (object.failed, object.not_before, object.chase) = (0, None, None);
        object.handled.clear();
        if changed {
            let left = u64::from(!planted(Bug::AdvancedOutNotCounted));
            self.queues.ty_mut(old).books.advanced_out += left;
            self.queues.ty_mut(ty).books.advanced_in += 1;
        }
        self.requeue(slot, self.queues.find(ty, &[]), ty, &[]);
        self.return_object(slot, How::Advanced);
    }

    /// Moves an object that is in nobody's hands to another queue's counts.
    fn requeue(
        &mut self,
        slot: Slot,
        found: Option<crate::catalogue::QueueId>,
        ty: crate::catalogue::TypeId,
        handled: &[Name],
    ) {
        let queue = found.unwrap_or_else(|| self.queue_for(ty, handled));
        let live = self.memory.get_mut(slot);
        let before = std::mem::replace(&mut live.queue, queue);
        let before = self.queues.get(before).ty;
        self.queues.ty_mut(before).writing -= 1;
        self.queues.ty_mut(ty).writing += 1;
    }

    /// Writes the end of an object that is in nobody's hands. It leaves memory with the commit.
    pub(crate) fn end(&mut self, slot: Slot, ending: Ending, by: Option<Name>) {
        let live = self.memory.get(slot);
        let (id, was, ty) = (live.object.id, live.at, self.queues.get(live.queue).ty);
        let end = EndRef::of(&live.object, was, &ending, by.as_ref(), self.now.wall);
        let at = self.lane.write_end(end);
        let books = &mut self.queues.ty_mut(ty).books;
        match &ending {
            Ending::Final => books.finalised += 1,
            Ending::Discarded(_) | Ending::Duplicate => books.discarded += 1,
            Ending::Moved(_) => books.moved_out += 1,
        }
        self.catalogue.take(was, Shelf::Memory);
        if matches!(ending, Ending::Moved(_)) {
            self.catalogue.put(was, Shelf::Shadow, was);
        }
        self.catalogue.put(at, Shelf::Ended, at);
        self.blamed.remove(&was);
        self.remembered.note(id, at);
        self.remembered.note_end(self.now.wall, at.record);
        self.memory.when_committed(at.record, slot, Then::Leave);
        self.lane.urge();
    }
}
