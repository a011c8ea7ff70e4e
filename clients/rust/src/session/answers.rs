//! What a session makes of the messages of the node.

use std::time::Duration;

use dpc_proto::v1;
use tokio::time::Instant;

use super::delivery::Delivered;
use super::ops::{Content, Op, SettleOp, Target, TransactionOp};
use super::state::State;
use crate::error::{Error, Outcome};

/// When and how long refusals are tried again.
pub(super) struct Retry<'a> {
    pub(super) now: Instant,
    pub(super) patience: Duration,
    pub(super) wait: &'a mut dyn FnMut(&Error) -> Duration,
}

impl State {
    /// Deliveries arrive. An error is a node that makes no sense.
    pub(super) fn delivered(
        &mut self,
        deliveries: Vec<v1::Delivery>,
        now: Instant,
    ) -> Result<(), Error> {
        let Some(info) = self.info.clone() else { return Ok(()) };
        for wire in deliveries {
            self.buffer.push_back((now, Delivered::new(wire, info.clone())?));
        }
        if self.closing || self.draining {
            self.release_buffer();
        }
        Ok(())
    }

    /// The node ended leases.
    pub(super) fn lease_ended(&mut self, leases: &[u64]) {
        for lease in leases {
            self.leases.remove(lease);
        }
        // Few leases run out before the application sees them; the buffer is searched only then.
        self.buffer.retain(|(_, delivered)| !leases.contains(&delivered.lease()));
    }

    /// Takes in the answers of a message. An error is a node that makes no sense.
    pub(super) fn answered(
        &mut self,
        answers: v1::SessionAnswers,
        retry: &mut Retry<'_>,
    ) -> Result<(), Error> {
        self.progress = retry.now;
        // Parts first: they come no later than the answer to their whole.
        for refused in answers.refused {
            let position = self.position(refused.seq)?;
            let part = refused.position;
            let error = Error::from_wire(refused.error, part);
            self.refused(position, part, error, retry)?;
        }
        for range in answers.done {
            let (first, last) = (self.position(range.first_seq)?, self.position(range.last_seq)?);
            for position in first..=last {
                if let Some(op) = self.take_pending(position) {
                    self.done(op);
                }
            }
        }
        while self.pending.front().is_some_and(Option::is_none) {
            self.pending.pop_front();
            self.base += 1;
        }
        Ok(())
    }

    fn position(&self, seq: u64) -> Result<usize, Error> {
        let end = self.base + self.pending.len() as u64;
        if seq < self.base || seq >= end {
            let message = format!("the node answered item {seq}, which was not waiting");
            return Err(Error::malformed_answer(message));
        }
        Ok(usize::try_from(seq - self.base).expect("fewer items than memory"))
    }

    fn take_pending(&mut self, position: usize) -> Option<Op> {
        let op = self.pending[position].take();
        self.owed -= usize::from(op.is_some());
        op
    }

    fn done(&mut self, op: Op) {
        match op {
            Op::Subscribe(_) => {
                self.subscribed += 1;
                self.established |= self.subscribed == self.plan.len();
            }
            Op::Settle(op) => {
                let current = self.is_current(&op.info);
                for target in op.targets.into_iter().flatten() {
                    if current {
                        self.leases.remove(&target.lease);
                    }
                    target.answer(Ok(()));
                }
            }
            Op::Transaction(op) => {
                for lease in op.leases() {
                    self.leases.remove(&lease);
                }
                op.answer(Ok(()));
            }
            Op::SetCredit(_) | Op::Unsubscribe(_) | Op::Begin(_) | Op::Extend(_) => {}
        }
    }

    fn refused(
        &mut self,
        position: usize,
        part: Option<u32>,
        error: Error,
        retry: &mut Retry<'_>,
    ) -> Result<(), Error> {
        let part = part.and_then(|part| usize::try_from(part).ok());
        let bad_part =
            || Error::malformed_answer(format!("the node refused {part:?} of an item without it"));
        match (self.pending[position].as_mut(), part) {
            (Some(Op::Settle(op)), Some(part)) => {
                let target = op.targets.get_mut(part).ok_or_else(bad_part)?.take();
                let Some(target) = target else { return Ok(()) };
                let single = op.single(target);
                self.settle_refused(single, &error, retry);
            }
            (Some(Op::Begin(leases) | Op::Extend(leases)), Some(part)) => {
                let lease = *leases.get(part).ok_or_else(bad_part)?;
                if error.is_lease_lost() {
                    self.leases.remove(&lease);
                } else {
                    tracing::debug!(lease, %error, "the node refused to begin or extend a lease");
                }
            }
            _ => {
                if let Some(op) = self.take_pending(position) {
                    self.refused_whole(op, error, retry);
                }
            }
        }
        Ok(())
    }

    fn refused_whole(&mut self, op: Op, error: Error, retry: &mut Retry<'_>) {
        match op {
            Op::Settle(mut op) => {
                let targets = std::mem::take(&mut op.targets);
                for target in targets.into_iter().flatten() {
                    let single = op.single(target);
                    self.settle_refused(single, &error, retry);
                }
            }
            Op::Transaction(op) => self.transaction_refused(op, error, retry),
            Op::Subscribe(_) => {
                self.failure.get_or_insert(error);
            }
            Op::Begin(leases) | Op::Extend(leases) if error.is_lease_lost() => {
                for lease in leases {
                    self.leases.remove(&lease);
                }
            }
            Op::SetCredit(_) | Op::Unsubscribe(_) | Op::Begin(_) | Op::Extend(_) => {
                tracing::warn!(%error, "the node refused a request of the session");
            }
        }
    }

    /// A request that is not even sent: it would end the stream for all others.
    pub(super) fn refused_here(&mut self, op: Op, error: Error, now: Instant) {
        let mut wait = |_: &Error| Duration::ZERO;
        let mut retry = Retry { now, patience: Duration::ZERO, wait: &mut wait };
        self.refused_whole(op, error, &mut retry);
    }

    /// One lease was not settled.
    fn settle_refused(&mut self, mut op: SettleOp, error: &Error, retry: &mut Retry<'_>) {
        op.doubt |= error.outcome() == Outcome::Unknown;
        let mut error = error.clone();
        if error.is_transient() {
            let since = *op.since.get_or_insert(retry.now);
            let at = retry.now + (retry.wait)(&error);
            if at < since + retry.patience {
                self.delayed.push((at, op));
                return;
            }
            error = error.give_up(op.doubt, retry.patience);
        }
        let current = self.is_current(&op.info);
        let info = op.info.clone();
        for target in op.targets.into_iter().flatten() {
            if current && self.still_held(target.lease, &error) {
                // Nobody is left to settle it in another way.
                let content = Content::release(true);
                let again = Target { lease: target.lease, id: target.id, waiter: None };
                self.queue_settle(SettleOp::new(info.clone(), content, again, false));
            }
            target.answer(Err(error.clone()));
        }
    }

    fn transaction_refused(&mut self, mut op: TransactionOp, error: Error, retry: &mut Retry<'_>) {
        op.doubt |= error.outcome() == Outcome::Unknown;
        if error.is_transient() {
            // Repeated by its tokens, which is the same transaction.
            op.since.get_or_insert(retry.now);
            self.orphan_transactions.push(op);
            return;
        }
        self.transaction_over(&op, &error);
        op.answer(Err(error));
    }

    /// A transaction was refused for good: its leases are as they were, but for a lost culprit.
    pub(super) fn transaction_over(&mut self, op: &TransactionOp, error: &Error) {
        if !self.is_current(&op.info) {
            return;
        }
        let culprit = error.position().and_then(|at| usize::try_from(at).ok());
        for (at, (_, target)) in op.settlements.iter().enumerate() {
            let lost = error.is_lease_lost() && culprit == Some(at);
            if lost {
                self.leases.remove(&target.lease);
            } else if self.let_go(target.lease) {
                let content = Content::release(true);
                let again = Target { lease: target.lease, id: target.id, waiter: None };
                self.queue_settle(SettleOp::new(op.info.clone(), content, again, false));
            }
        }
    }

    /// After a refusal: whether the lease has to be given back, because nobody holds it.
    fn still_held(&mut self, lease: u64, error: &Error) -> bool {
        if error.is_lease_lost() {
            self.leases.remove(&lease);
            return false;
        }
        self.let_go(lease)
    }

    fn let_go(&mut self, lease: u64) -> bool {
        let Some(held) = self.leases.get_mut(&lease) else { return false };
        if held.dropped {
            // A second refusal ends it: the lease runs out by itself.
            self.leases.remove(&lease);
            return true;
        }
        held.settling = false;
        if !held.begun {
            // It was to be over at once.
            self.begins.push(lease);
        }
        false
    }

    /// Puts what is due again back into the queue.
    pub(super) fn requeue_due(&mut self, now: Instant) {
        let mut i = 0;
        while i < self.delayed.len() {
            if self.delayed[i].0 <= now {
                let (_, op) = self.delayed.swap_remove(i);
                self.ops.push_back(Op::Settle(op));
            } else {
                i += 1;
            }
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.iter().map(|(at, _)| *at).min()
    }
}
