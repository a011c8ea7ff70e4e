//! Unary receives: somebody without a stream asks for a few objects and holds them by token.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::effect::{Answer, Effects};
use crate::input::{ReplyTo, Take};
use crate::lease::Holder;
use crate::limits::{TAKE_MAX, TAKE_WAIT_MAX};
use crate::message::DemandKey;
use crate::refusal::Refusal;
use crate::session::check_lease;
use crate::subscriptions::GroupId;
use crate::time::{Mono, Span};
use crate::timers::Timer;

/// One receive that waits.
#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    to: ReplyTo,
    group: GroupId,
    until: Mono,
    count: u32,
    lease: Span,
}

/// All unary receives.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Takes {
    waiting: BTreeMap<u64, Waiting>,
    /// Groups that stand because of receives, with how many receives or lingers hold them.
    held: BTreeMap<GroupId, u32>,
    lingering: BTreeMap<u64, GroupId>,
    last: u64,
}

impl Takes {
    /// Whether a group stands although nobody subscribes to it.
    pub(crate) fn hold(&self, group: GroupId) -> bool {
        self.held.contains_key(&group)
    }

    /// Objects that receives of a group wait for.
    pub(crate) fn wanted(&self, group: GroupId) -> u64 {
        self.waiting.values().filter(|w| w.group == group).map(|w| u64::from(w.count)).sum()
    }
}

impl Core {
    pub(crate) fn handle_take(&mut self, to: ReplyTo, take: Take, fx: &mut Effects) {
        if let Err(refusal) = self.check_take(&take) {
            return self.refuse(to, refusal, fx);
        }
        let key = DemandKey::new(take.pattern, take.processor);
        let group = self.group_for(&key);
        let n = self.takes.last + 1;
        self.takes.last = n;
        *self.takes.held.entry(group).or_default() += 1;
        let until = self.now.mono + take.wait;
        let lease = take.lease.unwrap_or(self.limits.lease);
        self.takes.waiting.insert(n, Waiting { to, group, until, count: take.count, lease });
        self.arm(until, Timer::Take(n));
        self.window_may_grow(group);
    }

    fn check_take(&self, take: &Take) -> Result<(), Refusal> {
        let (count, max) = (u64::from(take.count), u64::from(TAKE_MAX));
        if count == 0 || count > max {
            let message = format!("a receive takes 1 to {max} objects");
            return Err(Refusal {
                limit: Some(max),
                ..Refusal::invalid("max", "LIMIT_EXCEEDED", message).given(count)
            });
        }
        if take.wait > TAKE_WAIT_MAX {
            let (limit, given) = (TAKE_WAIT_MAX.0 / 1_000_000, take.wait.0 / 1_000_000);
            return Err(Refusal::over("wait", limit, given, "seconds"));
        }
        let limit = self.limits.sessions;
        if self.takes.waiting.len() >= limit as usize {
            let message = format!("{limit} receives are waiting; retry in a moment");
            return Err(Refusal::exhausted("sessions", u64::from(limit), message));
        }
        let key = DemandKey::new(take.pattern.clone(), take.processor.clone());
        let limit = self.limits.subscriptions;
        if self.takes.held.len() >= limit as usize && self.subs.find(&key).is_none() {
            let message = "too many different receives; their demand lingers, retry in a moment";
            return Err(Refusal::exhausted("subscriptions", u64::from(limit), message));
        }
        check_lease(take.lease, self.limits.lease_min, self.limits.lease_max)
    }

    /// Gives ready objects to receives that wait, oldest first.
    pub(crate) fn feed_takes(&mut self, fx: &mut Effects) {
        if self.takes.waiting.is_empty() || self.draining.is_some() {
            return;
        }
        let waiting: Vec<(u64, GroupId)> =
            self.takes.waiting.iter().map(|(n, w)| (*n, w.group)).collect();
        for (n, group) in waiting {
            if !self.subs.group(group).ready.is_empty() {
                self.feed_take(n, group, fx);
            }
        }
    }

    fn feed_take(&mut self, n: u64, group: GroupId, fx: &mut Effects) {
        let (count, span) =
            self.takes.waiting.get(&n).map_or((0, Span::ZERO), |w| (w.count, w.lease));
        let mut taken = Vec::new();
        if !self.prove(fx) {
            return;
        }
        while taken.len() < count as usize && !self.leases_are_full() {
            let Some(queue) = self.next_queue(group, fx) else { break };
            let Some(slot) = self.queues.get(queue).window.first() else { break };
            self.take_ready(slot);
            let processor = self.subs.group(group).key.processor.clone();
            let delivery = self.lease(slot, Holder::Taker, processor, span);
            self.note_delivery(group, delivery.object.id, delivery.object.moves);
            taken.push(delivery);
            self.want_page(queue, 0, fx);
        }
        if !taken.is_empty() {
            self.end_take(n, Answer::Taken(taken), fx);
        }
    }

    pub(crate) fn on_take_over(&mut self, n: u64, fx: &mut Effects) {
        if self.takes.waiting.get(&n).is_some_and(|w| w.until <= self.now.mono) {
            if let Some(group) = self.takes.waiting.get(&n).map(|w| w.group) {
                self.feed_take(n, group, fx);
            }
            if self.takes.waiting.contains_key(&n) {
                self.end_take(n, Answer::Taken(Vec::new()), fx);
            }
        }
    }

    /// Answers a receive. Its demand lingers, so that the next one finds what is on its way.
    fn end_take(&mut self, n: u64, answer: Answer, fx: &mut Effects) {
        let waiting = self.takes.waiting.remove(&n).expect("the caller found it");
        self.disarm(waiting.until, Timer::Take(n));
        self.takes.lingering.insert(n, waiting.group);
        self.arm(self.now.mono + self.limits.redistribution_delay, Timer::Linger(n));
        self.reply(waiting.to, answer, fx);
    }

    pub(crate) fn on_linger_over(&mut self, n: u64) {
        let Some(group) = self.takes.lingering.remove(&n) else { return };
        let held = self.takes.held.get_mut(&group).expect("a linger holds its group");
        *held -= 1;
        if *held == 0 {
            self.takes.held.remove(&group);
            if self.subs.group(group).subs.is_empty() {
                self.end_group(group);
            }
        }
    }
}
