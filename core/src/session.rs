//! Sessions and subscriptions: who wants what here, and what goes to them.

use std::sync::Arc;

use crate::catalogue::QueueId;
use crate::core::Core;
use crate::decision::{Decision, Step};
use crate::effect::{Answer, Effect, Effects};
use crate::ids::{SessionId, SubscriptionId};
use crate::input::{ReplyTo, Subscribe};
use crate::lease::{Holder, is_of};
use crate::message::DemandKey;
use crate::names::{Name, Pattern};
use crate::planted::{Bug, planted};
use crate::refusal::{Code, Refusal};
use crate::subscriptions::{GroupId, SubKey, may_take};
use crate::time::Span;
use crate::timers::Timer;

/// Deliveries to one group before the next group has its turn.
const TURN: usize = 64;

impl Core {
    pub(crate) fn handle_open_session(&mut self, session: SessionId) {
        let before = self.subs.sessions.insert(session, crate::subscriptions::Session::default());
        assert!(before.is_none(), "the edge numbers sessions");
    }

    pub(crate) fn handle_close_session(&mut self, session: SessionId, fx: &mut Effects) {
        let Some(closed) = self.subs.sessions.get(&session) else { return };
        let subs = closed.subs.clone();
        let leases: Vec<u64> = self.leases_of(session).collect();
        for sub in subs {
            self.end_subscription((session, sub));
        }
        for n in leases {
            self.lose_lease(n, fx);
        }
        self.subs.sessions.remove(&session);
    }

    pub(crate) fn handle_subscribe(&mut self, to: ReplyTo, s: Subscribe, fx: &mut Effects) {
        if let Err(refusal) = self.check_subscribe(&s) {
            return self.refuse(to, refusal, fx);
        }
        let key: SubKey = (s.session, s.subscription);
        let lease = s.lease.unwrap_or(self.limits.lease);
        let demand = DemandKey::new(s.pattern, s.processor);
        let existing = self.subs.subs.get(&key).map(|sub| sub.group);
        match existing {
            Some(group) if self.subs.group(group).key == demand => {
                self.subs.set_credit(key, s.credit);
                self.subs.subs.get_mut(&key).expect("just found").lease = lease;
                self.hungry.note(group);
                self.window_may_grow(group);
            }
            Some(_) => {
                let message = "the stream has a subscription of this number for something else";
                let refusal = Refusal::invalid("subscription", "SUBSCRIPTION_REUSED", message);
                return self.refuse(to, refusal.given(s.subscription), fx);
            }
            None => {
                let group = self.group_for(&demand);
                self.subs.add(key, group, s.credit, lease, self.now.wall);
                self.hungry.note(group);
                self.window_may_grow(group);
            }
        }
        self.reply(to, Answer::Done(1), fx);
    }

    /// The leases that a session holds, in the order in which they were given.
    pub(crate) fn leases_of(&self, session: SessionId) -> impl Iterator<Item = u64> + '_ {
        let given = self.subs.sessions[&session].leases.iter();
        given.filter(move |n| self.leases.get(*n).is_some_and(|lease| is_of(lease, session)))
    }

    fn check_subscribe(&self, s: &Subscribe) -> Result<(), Refusal> {
        if !self.subs.sessions.contains_key(&s.session) {
            return Err(Refusal::new(
                Code::FailedPrecondition,
                "SESSION_CLOSED",
                "the stream has ended",
            ));
        }
        check_credit(s.credit, self.limits.credit_max)?;
        check_lease(s.lease, self.limits.lease_min, self.limits.lease_max)?;
        let known = self.subs.subs.contains_key(&(s.session, s.subscription));
        let limit = self.limits.subscriptions;
        if !known && self.subs.subs.len() >= limit as usize {
            return Err(Refusal::exhausted(
                "subscriptions",
                u64::from(limit),
                format!("the node has {limit} subscriptions; use another node"),
            ));
        }
        Ok(())
    }

    /// The group of a demand; a new one is new demand.
    pub(crate) fn group_for(&mut self, key: &DemandKey) -> GroupId {
        if let Some(group) = self.subs.find(key) {
            return group;
        }
        let group = self.subs.create_group(key.clone());
        for queue in self.queues_matching(&key.pattern, &key.processor) {
            self.queues.get_mut(queue).groups.push(group);
            if !self.queues.get(queue).is_empty() {
                self.subs.group_mut(group).ready.insert(queue);
                self.stirred.note(queue);
            }
        }
        self.demand_appears(group);
        group
    }

    /// Queues of a pattern that a processor may take from.
    pub(crate) fn queues_matching(&self, pattern: &Pattern, processor: &Name) -> Vec<QueueId> {
        self.queues
            .matching(pattern)
            .flat_map(|ty| self.queues.ty(ty).queues.values().copied())
            .filter(|queue| may_take(processor, &self.queues.get(*queue).handled))
            .collect()
    }

    pub(crate) fn handle_unsubscribe(
        &mut self,
        to: ReplyTo,
        session: SessionId,
        subscription: SubscriptionId,
        fx: &mut Effects,
    ) {
        let known = self.subs.subs.contains_key(&(session, subscription));
        if !known {
            let message = "the stream has no subscription of this number";
            let refusal = Refusal::invalid("subscription", "SUBSCRIPTION_UNKNOWN", message);
            return self.refuse(to, refusal.given(subscription), fx);
        }
        self.end_subscription((session, subscription));
        self.reply(to, Answer::Done(1), fx);
    }

    fn end_subscription(&mut self, key: SubKey) {
        if let Some((group, true)) = self.subs.remove(key)
            && !self.takes.hold(group)
        {
            self.end_group(group);
        }
    }

    /// The last subscription of a demand has gone.
    pub(crate) fn end_group(&mut self, group: GroupId) {
        let key = self.subs.group(group).key.clone();
        for queue in self.queues_matching(&key.pattern, &key.processor) {
            self.queues.get_mut(queue).groups.retain(|g| *g != group);
            if !self.queues.get(queue).is_empty() {
                self.stirred.note(queue);
            }
        }
        self.starved.remove(&group);
        self.subs.remove_group(group);
        self.mark_demand(key);
    }

    /// Gives ready objects to groups with free credit, a turn each until nothing more can move.
    pub(crate) fn feed_groups(&mut self, fx: &mut Effects) {
        if self.draining.is_some() {
            return self.hungry.clear();
        }
        if self.hungry.is_empty() || !self.prove(fx) {
            return;
        }
        while !self.hungry.is_empty() {
            // In turn, so that when the node's leases are scarce nobody takes them all.
            let mut hungry = self.hungry.take();
            hungry.retain(|group| self.subs.stands(*group));
            let last = hungry.partition_point(|group| Some(*group) <= self.last_fed);
            hungry.rotate_left(last);
            for &group in &hungry {
                if self.feed_group(group, fx) {
                    self.hungry.note(group);
                }
            }
            self.hungry.give_back(hungry);
        }
    }

    /// One turn of a group. Says whether it could go on.
    fn feed_group(&mut self, group: GroupId, fx: &mut Effects) -> bool {
        for _ in 0..TURN {
            if !self.subs.can_take(group) {
                return false;
            }
            if self.leases_are_full() {
                self.starved.insert(group);
                return false;
            }
            let Some(queue) = self.next_queue(group, fx) else { return false };
            let Some(slot) = self.queues.get(queue).window.first() else {
                unreachable!("next_queue finds a queue with something in memory")
            };
            self.take_ready(slot);
            let next = self.subs.next_free(group, self.now.mono);
            let (key, span) = next.expect("can_take was asked");
            let processor = self.subs.group(group).key.processor.clone();
            let delivery = self.lease(slot, Holder::Stream(key), processor, span);
            self.last_fed = Some(group);
            self.note_delivery(group, delivery.object.id, delivery.object.moves);
            fx.push(Effect::Deliver(key.0, delivery));
            self.want_page(queue, 0, fx);
        }
        true
    }

    /// The next queue, after the last one, that a group can be given something from now.
    pub(crate) fn next_queue(&mut self, group: GroupId, fx: &mut Effects) -> Option<QueueId> {
        let g = self.subs.group(group);
        let cursor = g.cursor;
        let mut on_disk = Vec::new();
        let found = g.ready.iter_after(cursor).take(64).find(|queue| {
            let empty = self.queues.get(*queue).window.is_empty();
            if empty {
                on_disk.push(*queue);
            }
            !empty
        });
        for queue in on_disk {
            self.want_page(queue, 0, fx);
        }
        if let Some(queue) = found {
            self.subs.group_mut(group).cursor = queue;
        }
        found
    }

    /// Whether no further lease may be given now, whoever wants one.
    pub(crate) fn leases_are_full(&self) -> bool {
        self.leases_left() == 0
    }

    /// How many leases may still be given.
    pub(crate) fn leases_left(&self) -> u64 {
        if self.memory.leased_bytes >= self.limits.leased_bytes {
            return 0;
        }
        let limit = if planted(Bug::LeasesWithoutLimit) { u32::MAX } else { self.limits.leases };
        u64::from(limit).saturating_sub(self.leases.len() as u64)
    }

    /// Records a delivery.
    pub(crate) fn note_delivery(&mut self, group: GroupId, id: crate::ids::ObjectId, moves: u32) {
        let (who, at) = (&self.subs.group(group).who, self.now.wall);
        // One after the other goes to the same group: most are one more object of the last decision.
        match self.decisions.last_mut() {
            Some((last, objects)) if last.is_just(at, Step::Deliver, who) => {
                objects.push((id, moves))
            }
            _ => self.decide(Decision::new(at, Step::Deliver, Some(Arc::clone(who))), (id, moves)),
        }
    }

    /// A group's advert has waited long enough for a demand that flapped.
    pub(crate) fn on_show(&mut self, group: GroupId) {
        if self.subs.stands(group) {
            self.subs.group_mut(group).hidden_until = None;
            let key = self.subs.group(group).key.clone();
            self.mark_demand(key);
        }
    }

    /// Sets a timer for a queue to be looked at again.
    pub(crate) fn look_again(&mut self, queue: QueueId, after: Span) {
        self.arm_once(after, Timer::Queue(queue));
    }
}

/// Credit 0 and credit over the limit are refused. State is unchanged.
fn check_credit(credit: u32, max: u32) -> Result<(), Refusal> {
    if credit == 0 {
        let message = "credit is 0: nothing could be delivered; use at least 1";
        return Err(Refusal {
            limit: Some(1),
            ..Refusal::invalid("credit", "CREDIT_OUT_OF_RANGE", message).given(0)
        });
    }
    if credit > max {
        return Err(Refusal {
            reason: "CREDIT_OUT_OF_RANGE",
            ..Refusal::over("credit", u64::from(max), u64::from(credit), "deliveries")
        });
    }
    Ok(())
}

/// A lease outside its bounds is refused. State is unchanged.
pub(crate) fn check_lease(lease: Option<Span>, min: Span, max: Span) -> Result<(), Refusal> {
    let Some(lease) = lease else { return Ok(()) };
    if lease < min || lease > max {
        return Err(Refusal {
            limit: Some((if lease < min { min } else { max }).0 / 1_000_000),
            ..Refusal::invalid(
                "lease",
                "LEASE_OUT_OF_RANGE",
                format!("a lease lasts from {min} to {max}"),
            )
            .given(lease)
        });
    }
    Ok(())
}
