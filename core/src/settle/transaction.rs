//! Transactions: several settles and pushes of which all are done, or none (P4).

use crate::core::Core;
use crate::effect::{Answer, Effects};
use crate::hold::KEPT_OUT_BYTES;
use crate::input::{Input, LeaseRef, Lessee, ReplyTo, Transaction, Verb};
use crate::lease::lease_lost;
use crate::object::Hash16;
use crate::planted::{Bug, planted};
use crate::push::PushedBefore;
use crate::record::How;
use crate::refusal::Refusal;
use crate::store::RECORD_BYTES_MAX;

impl Core {
    pub(crate) fn handle_transaction(
        &mut self,
        to: ReplyTo,
        lessee: Lessee,
        transaction: Transaction,
        fx: &mut Effects,
    ) {
        let settles = &transaction.settles;
        let ids = settles.iter().flat_map(|s| self.ids_of_settle(s));
        let missing = self.unresolved(ids.chain(transaction.pushes.iter().filter_map(|p| p.id)));
        if !missing.is_empty() {
            return self.stall(to, missing, Input::Transaction(to, lessee, transaction), fx);
        }
        let leases: Vec<_> = settles.iter().flat_map(|s| s.leases.iter().copied()).collect();
        if self.cannot_judge(to, lessee, leases, fx) {
            return;
        }
        match self.check_transaction(lessee, &transaction) {
            Err((i, refusal)) => self.refuse_settle(to, i, refusal, fx),
            Ok(None) => {
                let done = transaction.settles.len() as u64;
                self.reply_when_durable(to, Answer::Done(done), fx);
            }
            Ok(Some(bytes)) => {
                self.lane.begin_group(bytes);
                for settle in &transaction.settles {
                    for lease in &settle.leases {
                        let n = self.find_lease(lessee, *lease).expect("checked");
                        self.apply_settle(n, &settle.verb, settle.content, fx);
                        if planted(Bug::TransactionInPieces) {
                            self.lane.end_group();
                            self.lane.begin_group(usize::MAX / 2);
                        }
                    }
                    let fresh = self.fresh_emits(&settle.emits).expect("checked");
                    self.apply_emits(&settle.emits, &fresh);
                }
                for push in transaction.pushes {
                    let before =
                        push.id.map(|id| self.pushed_before(id, &push.content).expect("checked"));
                    if matches!(before, None | Some(PushedBefore::No)) {
                        let id = push.id.unwrap_or_else(|| self.new_id());
                        self.store(id, push, How::Pushed);
                    }
                }
                self.lane.end_group();
                let done = transaction.settles.iter().map(|s| s.leases.len() as u64).sum();
                self.reply_durable(to, Answer::Done(done), fx);
            }
        }
    }

    /// All of a transaction, or the position of what refuses it: its bytes, or `None` when all of
    /// it was done before.
    fn check_transaction(
        &self,
        lessee: Lessee,
        t: &Transaction,
    ) -> Result<Option<usize>, (u32, Refusal)> {
        let items = t.settles.iter().map(|s| s.leases.len() + s.emits.len()).sum::<usize>()
            + t.pushes.len();
        let limit = self.limits.transaction_items;
        let whole = |refusal: Refusal| (0, refusal);
        if items as u64 > u64::from(limit) {
            return Err(whole(Refusal::over(
                "transaction",
                u64::from(limit),
                items as u64,
                "items",
            )));
        }
        if items == 0 {
            return Err(whole(Refusal::invalid(
                "transaction",
                "TRANSACTION_EMPTY",
                "the transaction holds nothing",
            )));
        }
        let emits = t.settles.iter().flat_map(|s| &s.emits);
        self.check_together(emits.chain(&t.pushes)).map_err(whole)?;
        let (mut bytes, mut payload, mut seen, mut repeats) = (0, 0u64, Vec::new(), 0);
        let mut fresh = false;
        for (i, settle) in t.settles.iter().enumerate() {
            let at = |refusal: Refusal| (u32::try_from(i).expect("bounded"), refusal);
            self.check_settle(settle).map_err(at)?;
            for lease in &settle.leases {
                match self.find_lease(lessee, *lease) {
                    Ok(n) if seen.contains(&n) => {
                        return Err(at(Refusal::invalid(
                            "leases",
                            "LEASE_TWICE",
                            "the transaction settles a lease twice",
                        )
                        .given(n)));
                    }
                    Ok(n) => {
                        self.check_against_object(n, settle).map_err(at)?;
                        seen.push(n);
                        bytes += self.settle_bytes(n, settle);
                    }
                    Err(refusal) => {
                        if !self.was_settled_so(*lease, settle.content) {
                            return Err(at(refusal));
                        }
                        assert_eq!(refusal.reason, "LEASE_LOST", "only an ended lease was settled");
                        repeats += 1;
                    }
                }
            }
            self.check_emits(&settle.emits).map_err(at)?;
            payload += settle.emits.iter().map(|e| e.entity.payload.len() as u64).sum::<u64>();
            if let Verb::Advance(Some(entity)) = &settle.verb {
                payload += entity.payload.len() as u64;
            }
        }
        for (i, push) in t.pushes.iter().enumerate() {
            let at =
                |refusal: Refusal| (u32::try_from(t.settles.len() + i).expect("bounded"), refusal);
            match self.check_push(push).map_err(at)? {
                PushedBefore::No => fresh = true,
                PushedBefore::Same(_) => {}
                PushedBefore::NotLookedUp => unreachable!("ids are resolved before"),
            }
            payload += push.entity.payload.len() as u64;
            bytes += 512
                + KEPT_OUT_BYTES
                + push.entity.payload.len()
                + push.entity.headers.as_packed().len();
        }
        if payload > self.limits.transaction_bytes {
            return Err(whole(Refusal::over(
                "transaction",
                self.limits.transaction_bytes,
                payload,
                "bytes",
            )));
        }
        if bytes > RECORD_BYTES_MAX - 4_096 {
            return Err(whole(Refusal::over(
                "transaction",
                RECORD_BYTES_MAX as u64,
                bytes as u64,
                "bytes",
            )));
        }
        match repeats {
            0 => Ok(Some(bytes)),
            // What is new in it was not part of what ended the leases: that was another settle.
            _ if seen.is_empty() && !fresh => Ok(None),
            _ => Err(whole(lease_lost())),
        }
    }

    fn was_settled_so(&self, lease: LeaseRef, content: Hash16) -> bool {
        match lease {
            LeaseRef::Number(n) => self.leases.settled(n) == Some(content),
            LeaseRef::Token(token) => self.answer_from_marks(token, content) == Some(true),
        }
    }
}
