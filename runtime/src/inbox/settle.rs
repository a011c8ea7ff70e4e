//! Objects that callers have finalised inside their own transactions: the owner of their leases' lane
//! does it, by the token, as for anybody who holds it.

use std::collections::BTreeMap;

use dpc_core::input::{LeaseRef, Lessee, ReplyTo, Settle, Verb};
use dpc_core::object::Token;
use dpc_core::store::StoreError;
use dpc_core::{Answer, Input};
use tonic::Status;

use super::{Look, Taker};

/// What the database says of an object whose settle was applied.
const DONE: &str = "done";

impl Taker {
    /// Finalises what these tokens are for, and writes what became of it. A settle that was applied
    /// before, and not noted, gets the same answer again (P3).
    pub(super) async fn settle(
        &mut self,
        tokens: Vec<Token>,
    ) -> Result<Result<Look, StoreError>, Status> {
        if tokens.is_empty() {
            return Ok(Ok(Look::Nothing));
        }
        let leases = tokens.iter().map(|token| LeaseRef::Token(*token)).collect();
        let settle = Settle::new(leases, Verb::Finalise, Vec::new());
        let to = ReplyTo { request: self.call.request, seq: 0 };
        let bytes = size_of_val(tokens.as_slice());
        self.hub.feed(vec![Input::Settle(to, Lessee::Bearer, settle)], bytes).await;
        let mut lost = BTreeMap::new();
        loop {
            match self.call.next().await?.1 {
                Answer::RefusedAt(at, refusal) => {
                    lost.insert(at as usize, refusal.reason);
                }
                Answer::Done(_) => break,
                Answer::Refused(refusal) => {
                    tracing::debug!("settles of the inbox have to wait: {refusal}");
                    return Ok(Ok(Look::Rest));
                }
                Answer::Unknown(why) => {
                    tracing::debug!("settles of the inbox have to wait: {why}");
                    return Ok(Ok(Look::Rest));
                }
                other => unreachable!("core answers a settle with {other}"),
            }
        }
        let outcome = |at: usize| lost.get(&at).copied().unwrap_or(DONE);
        let outcomes = tokens.iter().enumerate().map(|(at, token)| (token.object, outcome(at)));
        let noted = self.inbox.note_settled(outcomes).await;
        Ok(noted.map(|()| Look::Took))
    }
}
