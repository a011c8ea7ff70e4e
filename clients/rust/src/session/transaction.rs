//! Several settles and pushes that commit together or not at all.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dpc_proto::v1;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Session;
use super::delivery::Info;
use super::ops::{Content, Target, TransactionOp};
use super::settle::{Settle, task_gone};
use crate::error::Error;
use crate::object::Object;

/// Collects settles of one stream, and pushes. Await it to commit it.
///
/// ```no_run
/// # async fn example(subscription: dpc_client::Subscription) -> Result<(), dpc_client::Error> {
/// # use dpc_client::Object;
/// let (Some(a), Some(b)) = (subscription.next().await?, subscription.next().await?) else {
///     return Ok(());
/// };
/// subscription
///     .transaction()
///     .settle(a.finalise().emit(Object::new("acme.Paid", a.payload())))
///     .settle(b.finalise())
///     .push(Object::new("acme.Audit", "two orders"))
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "nothing is done before this is awaited"]
pub struct Transaction {
    session: Arc<Session>,
    info: Option<Arc<Info>>,
    settlements: Vec<(Content, Target)>,
    pushes: Vec<v1::Object>,
    wrong: Option<Error>,
}

impl Transaction {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self { session, info: None, settlements: Vec::new(), pushes: Vec::new(), wrong: None }
    }

    /// Adds a settle, with what it emits.
    pub fn settle(mut self, settle: Settle<'_>) -> Self {
        let delivery = settle.delivery;
        let mine = Arc::ptr_eq(delivery.session(), &self.session);
        let info = self.info.get_or_insert_with(|| delivery.info().clone());
        if !mine {
            let error = Error::invalid("settlements", "a delivery of another subscription");
            self.wrong.get_or_insert(error);
        } else if !Arc::ptr_eq(info, delivery.info()) {
            let error =
                Error::lease_lost("the deliveries are of two streams, so that some are lost");
            self.wrong.get_or_insert(error);
        } else {
            let target = Target { lease: delivery.lease(), id: delivery.id(), waiter: None };
            self.settlements.push((settle.into_content(), target));
        }
        self
    }

    /// Adds an object that belongs to no settle.
    pub fn push(mut self, object: Object) -> Self {
        self.pushes.push(object.into_wire(&self.session.nodes.options.ids).1);
        self
    }
}

impl IntoFuture for Transaction {
    type Output = Result<(), Error>;
    type IntoFuture = Commit;

    /// From here on the transaction is on its way, whether its answer is awaited or not. A refusal
    /// changes nothing: every lease is as it was, and can be settled otherwise.
    fn into_future(self) -> Commit {
        let (sender, answer) = oneshot::channel();
        let Self { session, info, settlements, pushes, wrong } = self;
        let wrong = wrong.or_else(|| {
            info.is_none().then(|| Error::invalid("settlements", "a transaction needs a settle"))
        });
        let Some(info) = info.filter(|_| wrong.is_none()) else {
            let error = wrong.expect("set when there is no stream");
            // The receiver is in this function.
            let _ = sender.send(Err(error));
            return Commit { answer };
        };
        let op =
            TransactionOp { info, settlements, pushes, answer: sender, doubt: false, since: None };
        let mut state = session.lock();
        state.commit(op, Instant::now());
        session.wake(&mut state);
        session.work.notify_one();
        drop(state);
        Commit { answer }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("settlements", &self.settlements.len())
            .field("pushes", &self.pushes.len())
            .finish_non_exhaustive()
    }
}

/// The answer to a transaction that is on its way.
#[derive(Debug)]
#[must_use = "the answer says whether it was committed"]
pub struct Commit {
    answer: oneshot::Receiver<Result<(), Error>>,
}

impl Future for Commit {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(cx);
        answer.map(|answer| answer.unwrap_or_else(|_| Err(task_gone())))
    }
}
