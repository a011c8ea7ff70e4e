//! What callers have pushed and settled inside their own transactions of the database, on its way
//! into core (R9): rows are taken a few at a time, pushed as any client pushes, and gone with the
//! record that holds them. The caller's commit was the OK, so nothing here may lose a row; what core
//! cannot take now stays in the database, for this node or another one.

mod push;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use dpc_core::store::StoreError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::service::{Call, Hub, OF_INBOX, Phase};
use crate::store::PostgresInbox;

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

/// How a look at the inbox has ended, the better the later.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// There was nothing.
    Nothing,
    /// Some of it stays for now.
    Rest,
    /// All of it is done; there may be more.
    Took,
}

impl Taker {
    /// Ends when core has ended.
    async fn run(&mut self) -> Status {
        let mut phase = self.hub.phase();
        let mut out_of_reach = false;
        loop {
            // A node that drains takes nothing new, but what it gave out may be settled still.
            let serves = *phase.borrow_and_update() == Phase::Serving;
            let look = match self.look(serves).await {
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

    /// Takes some of what there is and waits until all of it is decided. The outer error is core's
    /// end.
    async fn look(&mut self, serves: bool) -> Result<Result<Look, StoreError>, Status> {
        if self.tidied.is_none_or(|at| at.elapsed() >= TIDY_EVERY) {
            match self.inbox.tidy(self.hub.limits.idempotency).await {
                Ok(refused) => self.tell_refused(refused),
                Err(error) => return Ok(Err(error)),
            }
            self.tidied = Some(Instant::now());
        }
        let settled = match self.inbox.settles().await {
            Ok(tokens) => self.settle(tokens).await?,
            Err(error) => Err(error),
        };
        match settled {
            Ok(settled) if serves => {
                let rows = self.look_at_rows().await?;
                Ok(rows.map(|rows| rows.max(settled)))
            }
            settled => Ok(settled),
        }
    }

    async fn look_at_rows(&mut self) -> Result<Result<Look, StoreError>, Status> {
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
