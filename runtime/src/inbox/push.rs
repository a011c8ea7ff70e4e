//! Rows of the inbox become pushes.

use std::collections::BTreeMap;

use dpc_core::ids::ObjectId;
use dpc_core::input::ReplyTo;
use dpc_core::names::TypeName;
use dpc_core::object::{Entity, Headers, Push, Time};
use dpc_core::refusal::{Code, Refusal};
use dpc_core::shared::InboxRow;
use dpc_core::time::{Span, Wall};
use dpc_core::{Answer, Input, Limits};
use tonic::Status;

use super::Taker;
use crate::store::{Decided, Row};

impl Taker {
    /// Pushes rows and gathers the answers.
    pub(super) async fn push(&mut self, rows: Vec<Row>) -> Result<Decided, Status> {
        let mut decided = Decided::default();
        let (mut inputs, mut waiting, mut bytes) = (Vec::new(), BTreeMap::new(), 0);
        let wall = self.hub.clock.now().wall;
        for row in rows {
            let (at, id) = (row.row, row.id);
            bytes += row.payload.len();
            match push_of(row, &self.hub.limits, wall) {
                Ok(push) => {
                    let to = ReplyTo { request: self.call.request, seq: at.0 };
                    inputs.push(Input::Push(to, push));
                    waiting.insert(at.0, id);
                }
                Err(refusal) => decided.refused.push((at, refusal.to_string())),
            }
        }
        self.hub.feed(inputs, bytes).await;
        while !waiting.is_empty() {
            let (seq, answer) = self.call.next().await?;
            let id = waiting.remove(&seq).expect("core answers once");
            decide(&mut decided, (InboxRow(seq), id), answer);
        }
        Ok(decided)
    }
}

/// What an answer of core means for a row.
fn decide(decided: &mut Decided, (row, id): (InboxRow, ObjectId), answer: Answer) {
    match answer {
        // Its record is durable, and the row went with it.
        Answer::Pushed { already: false, .. } => {}
        Answer::Pushed { already: true, .. } => decided.known.push(row),
        Answer::Refused(refusal) => match refusal.code {
            Code::ResourceExhausted | Code::Unavailable | Code::DataLoss => {
                tracing::debug!(row = row.0, %id, "a row of the inbox has to wait: {refusal}");
                decided.back.push(row);
            }
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition => {
                decided.refused.push((row, refusal.to_string()));
            }
        },
        other => unreachable!("core answers a push with {other}"),
    }
}

/// The push that a row stands for. Its times were checked when it was pushed: what is over by now is
/// due, or expires at once.
fn push_of(row: Row, limits: &Limits, now: Wall) -> Result<Push, Refusal> {
    let ty = TypeName::from_type_url(&row.ty)?;
    let headers = row.headers.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let headers = Headers::pack(headers, limits)?;
    let entity = Entity { ty, payload: row.payload, headers };
    entity.check(limits)?;
    // Two clocks may differ a little at the far end.
    let from_now = |at: Wall, least: Span| (at - now).max(least).min(limits.horizon);
    let not_before = row.not_before.filter(|at| *at > now);
    let not_before = not_before.map(|at| from_now(at, Span::ZERO));
    let expires_at = row.expires_at.map(|at| from_now(at, Span::millis(1)));
    let (not_before, expires_at) = (not_before.map(Time::In), expires_at.map(Time::In));
    Ok(Push::new(Some(row.id), entity).timed(not_before, expires_at))
}
