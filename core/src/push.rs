//! Push: an object enters the lane. The answer waits for its record.

use std::sync::Arc;

use crate::catalogue::Shelf;
use crate::core::Core;
use crate::effect::{Answer, Effect, Effects};
use crate::hold::KEPT_OUT_BYTES;
use crate::ids::{ObjectId, RecordNumber};
use crate::input::{Input, ReplyTo};
use crate::lane::entry_bytes;
use crate::memory::{Slot, Then};
use crate::object::{Hash16, Object, Push};
use crate::planted::{Bug, planted};
use crate::record::{How, Standing};
use crate::refusal::{Code, Refusal};
use crate::resolve::Known;

/// An id that a push names, as this lane knows it.
pub(crate) enum PushedBefore {
    /// Never, or forgotten. It may be held for another node ([`Core::held_under`]).
    No,
    /// With the same content; the answer waits for this record.
    Same(Option<RecordNumber>),
    /// Nobody has looked: the disk has to be asked.
    NotLookedUp,
}

impl Core {
    pub(crate) fn handle_push(&mut self, to: ReplyTo, push: Push, fx: &mut Effects) {
        match self.check_push(&push) {
            Ok(PushedBefore::No) => {}
            Ok(PushedBefore::NotLookedUp) => {
                let id = push.id.expect("only an id is looked up");
                return self.stall(to, vec![id], Input::Push(to, push), fx);
            }
            Ok(PushedBefore::Same(after)) => {
                let id = push.id.expect("an id was pushed before");
                let answer = Answer::Pushed { id, already: true };
                return fx.push(Effect::Reply { to, answer, after });
            }
            Err(refusal) => {
                if planted(Bug::RefusedAndStored) && self.disk_low {
                    let id = push.id.unwrap_or_else(|| self.new_id());
                    if matches!(self.known(id), Known::Absent) {
                        self.store(id, push, How::Pushed);
                        self.lane.urge();
                    }
                }
                return self.refuse(to, refusal, fx);
            }
        }
        let id = push.id.unwrap_or_else(|| self.new_id());
        self.store(id, push, How::Pushed);
        if planted(Bug::OkBeforeCommit) {
            self.lane.urge();
            return self.reply(to, Answer::Pushed { id, already: false }, fx);
        }
        // Made where it goes: an answer that is copied just after it was put together waits until all that
        // the push has written is in the cache.
        let after = Some(self.lane.urge());
        fx.push(Effect::Reply { to, answer: Answer::Pushed { id, already: false }, after });
    }

    /// Whether a push was done before, or else may be taken now. What was done is never refused for
    /// want of room, nor because its time has passed since (P9). State is unchanged.
    pub(crate) fn check_push(&self, push: &Push) -> Result<PushedBefore, Refusal> {
        if let Some(id) = push.id {
            match self.look_for_push(id, &push.content)? {
                PushedBefore::No => {}
                known => return Ok(known),
            }
        }
        push.check(&self.limits, self.now)?;
        self.check_open_for_work()?;
        self.check_type(&push.entity.ty)?;
        Ok(PushedBefore::No)
    }

    /// A type beyond the limit is refused. State is unchanged.
    pub(crate) fn check_type(&self, ty: &crate::names::TypeName) -> Result<(), Refusal> {
        let limit = self.limits.types;
        if self.queues.types_len() >= limit as usize && self.queues.type_id(ty).is_none() {
            return Err(Refusal::exhausted(
                "types",
                u64::from(limit),
                format!("the node keeps {limit} types apart and {ty} would be one more"),
            ));
        }
        Ok(())
    }

    /// Whether an id that has been resolved was pushed here before, and with what content (P9).
    pub(crate) fn pushed_before(
        &self,
        id: ObjectId,
        hash: &Hash16,
    ) -> Result<PushedBefore, Refusal> {
        let found = self.look_for_push(id, hash);
        assert!(!matches!(found, Ok(PushedBefore::NotLookedUp)), "ids are resolved before");
        found
    }

    fn look_for_push(&self, id: ObjectId, hash: &Hash16) -> Result<PushedBefore, Refusal> {
        let (before, after) = match self.known(id) {
            Known::Absent => return Ok(PushedBefore::No),
            Known::InMemory(slot) => {
                let live = self.memory.get(slot);
                (live.object.hash, Some(live.at.record))
            }
            Known::OnDisk(stored) => (stored.hash(), Some(stored.at().record)),
            Known::NotLookedUp => return Ok(PushedBefore::NotLookedUp),
        };
        if before != *hash && !planted(Bug::ContentIgnored) {
            return Err(Refusal::new(
                Code::InvalidArgument,
                "ID_REUSED",
                "the id was pushed before with other content; use a new id",
            )
            .given(id))
            .map_err(|r| Refusal { field: Some("id"), ..r });
        }
        if self.held_under(id).is_some() {
            return Ok(PushedBefore::No);
        }
        Ok(PushedBefore::Same(after.filter(|n| !self.lane.is_committed(*n))))
    }

    /// Writes a new object. It flows when its record is durable. The push has been checked.
    pub(crate) fn store(&mut self, id: ObjectId, push: Push, how: How) -> Slot {
        let is_given = push.id.is_some();
        let (not_before, expires_at) =
            push.check(&self.limits, self.now).expect("checked before anything was changed");
        let ty = self.queues.intern(&push.entity.ty);
        let queue = self.queue_for(ty, &[]);
        let (pushed_at, origin) = (self.now.wall, self.name.clone());
        let mut object = Object::new(id, push.entity, push.content, pushed_at, origin);
        (object.not_before, object.expires_at) = (not_before, expires_at);
        self.lane.reserve(entry_bytes(&object) + KEPT_OUT_BYTES);
        if is_given {
            self.keep_out_held(id);
        }
        object.birth = self.lane.birth();
        let at = self.lane.write_object(how, None, None, &Standing::Flowing, &object);
        let books = &mut self.queues.ty_mut(ty).books;
        match how {
            How::Emitted => books.emitted += 1,
            _ => books.pushed += 1,
        }
        self.catalogue.put(at, Shelf::Memory, at);
        let slot = self.admit(Arc::new(object), at, at, queue);
        if planted(Bug::DeliveredBeforeCommit) {
            self.flow(slot);
            return slot;
        }
        // What stands or falls with a settle is seen by nobody before it stands.
        let alone = how == How::Pushed && !self.lane.is_grouped();
        let then = if alone { Then::Flow } else { Then::FlowAtCommit };
        self.memory.when_committed(at.record, slot, then);
        slot
    }
}
