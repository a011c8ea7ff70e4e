//! What callers have pushed inside their own transactions of the database, on its way into core
//! (R9): rows are taken a few at a time, pushed as any client pushes, and gone with the record that
//! holds them. The caller's commit was the OK, so nothing here may lose a row; what core cannot take
//! now stays in the database, for this node or another one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dpc_core::ids::ObjectId;
use dpc_core::input::ReplyTo;
use dpc_core::names::TypeName;
use dpc_core::object::{Entity, Headers, Push, Time};
use dpc_core::refusal::{Code, Refusal};
use dpc_core::shared::InboxRow;
use dpc_core::store::StoreError;
use dpc_core::time::{Span, Wall};
use dpc_core::{Answer, Input, Limits};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::service::{Call, Hub, OF_INBOX, Phase};
use crate::store::{Decided, PostgresInbox, Row};

/// How often a node looks without having been told: a notification may be lost with a connection,
/// and rows of a node that died are told by nobody.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a node rests that could not take everything, or could not ask.
const REST: Duration = Duration::from_millis(500);

/// How often ids are forgotten whose time is over, and rows counted that wait for a person.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Takes from the inbox until the node ends.
pub(crate) async fn run(hub: Arc<Hub>, inbox: PostgresInbox, mut stop: watch::Receiver<bool>) {
    let call = hub.call_as(OF_INBOX);
    let mut taker = Taker { hub, inbox, call, tidied: None };
    tokio::select! {
        biased;
        // Whoever could say stop and is gone has no use for more objects.
        _gone = stop.wait_for(|stop| *stop) => {}
        ended = taker.run() => tracing::debug!("the inbox is left: {ended}"),
    }
}

struct Taker {
    hub: Arc<Hub>,
    inbox: PostgresInbox,
    call: Call,
    tidied: Option<Instant>,
}

/// How a look at the inbox has ended.
enum Look {
    /// All rows became objects; there may be more.
    Took,
    /// There was nothing.
    Nothing,
    /// Some rows stay for now.
    Rest,
}

impl Taker {
    /// Ends when core has ended.
    async fn run(&mut self) -> Status {
        let mut phase = self.hub.phase();
        let mut out_of_reach = false;
        loop {
            // A node that drains takes nothing new.
            if phase.wait_for(|phase| *phase == Phase::Serving).await.is_err() {
                return Status::cancelled("the node has ended");
            }
            let look = match self.look().await {
                Err(ended) => return ended,
                Ok(look) => look,
            };
            match &look {
                Err(error) if !out_of_reach => {
                    tracing::warn!(
                        "the database's inbox cannot be asked, and is asked again: {error}"
                    );
                }
                Ok(_) if out_of_reach => tracing::info!("the database's inbox is back"),
                _ => {}
            }
            out_of_reach = look.is_err();
            match look {
                Ok(Look::Took) => {}
                Ok(Look::Nothing) => {
                    tokio::select! {
                        biased;
                        () = self.inbox.news() => {}
                        () = sleep(LOOK_EVERY) => {}
                    }
                }
                Ok(Look::Rest) | Err(_) => sleep(REST).await,
            }
        }
    }

    /// Takes some rows and waits until all of them are decided. The outer error is core's end.
    async fn look(&mut self) -> Result<Result<Look, StoreError>, Status> {
        if self.tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
            match self.inbox.tidy(self.hub.limits.idempotency).await {
                Ok(refused) => self.tell_refused(refused),
                Err(error) => return Ok(Err(error)),
            }
            self.tidied = Some(Instant::now());
        }
        let rows = match self.inbox.take().await {
            Ok(rows) if rows.is_empty() => return Ok(Ok(Look::Nothing)),
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        let decided = self.push(rows).await?;
        for (row, why) in &decided.refused {
            tracing::error!(row = row.0, "a row of the inbox cannot become an object: {why}");
            // They are counted with the next look.
            self.tidied = None;
        }
        let rests = !decided.back.is_empty();
        let written = self.inbox.decide(&decided).await;
        Ok(written.map(|()| if rests { Look::Rest } else { Look::Took }))
    }

    /// Pushes rows and gathers the answers.
    async fn push(&mut self, rows: Vec<Row>) -> Result<Decided, Status> {
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

    fn tell_refused(&self, refused: Option<(u64, String)>) {
        let (reason, about) = ("INBOX_REFUSED", "dpc.inbox");
        let Some((count, why)) = refused else {
            return self.hub.alarms.clear(reason, about);
        };
        let text = format!(
            "{count} rows of dpc.inbox cannot become objects, the first because {why}; put them \
             right and set refused to NULL, or delete them"
        );
        self.hub.alarms.raise(reason, about, text, self.hub.clock.now().wall);
    }
}

/// What an answer of core means for a row.
fn decide(decided: &mut Decided, (row, id): (InboxRow, ObjectId), answer: Answer) {
    match answer {
        // Its record is durable, and the row went with it.
        Answer::Pushed { already: false, .. } => {}
        Answer::Pushed { already: true, .. } => decided.known.push(row),
        Answer::Refused(refusal) => match refusal.code {
            Code::ResourceExhausted | Code::Unavailable => {
                tracing::debug!(row = row.0, %id, "a row of the inbox has to wait: {refusal}");
                decided.back.push(row);
            }
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::DataLoss => {
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
    Ok(Push { id: Some(row.id), entity, not_before, expires_at })
}
