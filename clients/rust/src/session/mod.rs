//! Subscribing: one stream that carries deliveries one way and settles the other.

mod answers;
mod delivery;
mod ops;
mod settle;
mod state;
mod task;
mod transaction;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dpc_proto::v1;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::ops::{Content, Group, Op, Target};
use self::state::State;
use crate::connect::Nodes;
use crate::error::Error;
use crate::token::LeaseToken;

pub(crate) use self::delivery::Info;
pub use self::delivery::{Delivered, Delivery, FencingKey, Taken};
pub use self::settle::{BatchError, BatchSettled, Settle, Settled, Verb};
pub use self::transaction::{Commit, Transaction};

/// What subscription, deliveries, body and task share.
pub(crate) struct Session {
    state: Mutex<State>,
    nodes: Arc<Nodes>,
    /// There is something to take, or an end.
    arrived: Notify,
    /// Leases are over.
    lost: Notify,
    /// The task has something to look at.
    work: Notify,
    /// Something was answered.
    answered: Notify,
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not keep the last words from those who wait.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to send: the body sends it, and the task sees to its answer.
    fn wake(&self, state: &mut State) {
        if let Some(body) = state.body.take() {
            body.wake();
        }
        if state.owed == 0 {
            self.work.notify_one();
        }
    }

    fn holds(&self, delivered: &Delivered) -> bool {
        let state = self.lock();
        state.is_current(delivered.info()) && state.leases.contains_key(&delivered.lease())
    }

    fn settle(&self, delivered: &Delivered, content: Content, group: Arc<Group>) {
        let waiter = Some((group, 0));
        let target = Target { lease: delivered.lease(), id: delivered.id(), waiter };
        let mut state = self.lock();
        state.settle(delivered.info(), content, target, Instant::now());
        self.wake(&mut state);
    }

    fn dropped(&self, delivered: &Delivered) {
        let mut state = self.lock();
        state.dropped(delivered);
        self.wake(&mut state);
    }

    fn abandon(&self, delivered: &Delivered) {
        let mut state = self.lock();
        if state.is_current(delivered.info()) {
            state.leases.remove(&delivered.lease());
        }
        self.wake(&mut state);
    }
}

/// A subscription to be: choose, then await it.
///
/// ```no_run
/// # async fn example(client: dpc_client::Client) -> Result<(), dpc_client::Error> {
/// let subscription =
///     client.subscribe(["acme.orders.*"]).processor("billing").credit(64).await?;
/// # Ok(()) }
/// ```
#[must_use = "nothing is subscribed before this is awaited"]
pub struct Subscribe {
    nodes: Arc<Nodes>,
    patterns: Vec<String>,
    processor: Option<String>,
    credit: Option<u32>,
    lease: Option<Duration>,
}

impl Subscribe {
    pub(crate) fn new(nodes: Arc<Nodes>, patterns: Vec<String>) -> Self {
        Self { nodes, patterns, processor: None, credit: None, lease: None }
    }

    /// The name under which the work is shared (`default` if none is given).
    pub fn processor(mut self, name: impl Into<String>) -> Self {
        self.processor = Some(name.into());
        self
    }

    /// The most unsettled deliveries of each pattern, 1 to 65,536 (16 if none is given). Those
    /// that wait in this process count as well.
    pub fn credit(mut self, credit: u32) -> Self {
        self.credit = Some(credit);
        self
    }

    /// How long a lease runs before it is extended or lost, 1 s to 1 h (30 s if none is given).
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    fn plan(&self) -> Vec<v1::Subscribe> {
        let numbered = (1..).zip(&self.patterns);
        let one = |(subscription, pattern): (u64, &String)| v1::Subscribe {
            subscription,
            pattern: pattern.clone(),
            processor: self.processor.clone(),
            credit: self.credit,
            lease: self.lease.map(Into::into),
        };
        numbered.map(one).collect()
    }

    async fn open(self) -> Result<Subscription, Error> {
        if self.patterns.is_empty() {
            return Err(Error::invalid("patterns", "at least one pattern is needed"));
        }
        let state = State::new(self.plan(), self.lease);
        let session = Arc::new(Session {
            state: Mutex::new(state),
            nodes: self.nodes,
            arrived: Notify::new(),
            lost: Notify::new(),
            work: Notify::new(),
            answered: Notify::new(),
        });
        tokio::spawn(task::run(session.clone()));
        // From here on, being dropped ends the task.
        let subscription = Subscription { session };
        subscription.established().await?;
        Ok(subscription)
    }
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscription, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe").field("patterns", &self.patterns).finish_non_exhaustive()
    }
}

/// Receives objects, over one stream that comes back when it is lost.
///
/// Leases do not survive their stream: after a reconnect the deliveries that are held are lost
/// ([`Delivery::is_lost`]), and new ones come. Settles that had no answer are repeated at the same
/// lane by their tokens, and get the answer they would have got.
///
/// Dropping it ends the subscriptions and gives back, without blame, what was not taken yet.
/// Deliveries that are held can still be settled.
pub struct Subscription {
    session: Arc<Session>,
}

impl Subscription {
    async fn established(&self) -> Result<(), Error> {
        loop {
            let answered = self.session.answered.notified();
            {
                let mut state = self.session.lock();
                if state.established {
                    return Ok(());
                }
                if state.ended {
                    return Err(state.failure.take().unwrap_or_else(settle::task_gone));
                }
            }
            answered.await;
        }
    }

    /// Waits for a delivery and begins it. `None`: the subscription is closed. An error is what
    /// ended it, and is told once.
    pub async fn next(&self) -> Result<Option<Delivery>, Error> {
        Ok(self.next_batch(1).await?.pop())
    }

    /// Waits for deliveries and begins all there are, up to so many. Empty: the subscription is
    /// closed.
    pub async fn next_batch(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        // Whoever works in a loop shares the thread with the connection.
        tokio::task::coop::consume_budget().await;
        loop {
            // Made before the look at the state, so that no notice falls between.
            let arrived = self.session.arrived.notified();
            if let Some(batch) = self.take(max.max(1))? {
                return Ok(batch);
            }
            arrived.await;
        }
    }

    fn take(&self, max: usize) -> Result<Option<Vec<Delivery>>, Error> {
        let mut state = self.session.lock();
        let now = Instant::now();
        let mut batch = Vec::with_capacity(max.min(state.buffer.len()));
        while batch.len() < max {
            let Some(delivered) = state.take(now) else { break };
            batch.push(Delivery::new(self.session.clone(), delivered));
        }
        if batch.is_empty() {
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            return Ok((state.closing || state.ended).then_some(batch));
        }
        self.session.wake(&mut state);
        if state.oversleeps() {
            self.session.work.notify_one();
        }
        Ok(Some(batch))
    }

    /// Finalises deliveries of this subscription together. They are on their way at once; the
    /// future tells which were refused.
    pub fn finalise_all(&self, batch: Vec<Delivery>) -> BatchSettled {
        self.settle_all(batch, &Verb::Finalise)
    }

    /// Settles deliveries of this subscription together, in one way.
    pub fn settle_all(&self, batch: Vec<Delivery>, verb: &Verb) -> BatchSettled {
        let (group, answer) = Group::new(batch.len());
        let now = Instant::now();
        let mut state = self.session.lock();
        for (index, delivery) in batch.iter().enumerate() {
            let waiter = Some((group.clone(), index));
            let target = Target { lease: delivery.lease(), id: delivery.id(), waiter };
            if Arc::ptr_eq(delivery.session(), &self.session) {
                let content = Content { verb: verb.clone().into_wire(), emits: Vec::new() };
                state.settle(delivery.info(), content, target, now);
            } else {
                let other = Error::invalid("batch", "the delivery is of another subscription");
                target.answer(Err(other));
            }
        }
        self.session.wake(&mut state);
        drop(state);
        BatchSettled { batch, answer }
    }

    /// Starts a transaction over leases of this subscription.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.session.clone())
    }

    /// Changes the credit of every pattern.
    pub fn set_credit(&self, credit: u32) {
        let mut state = self.session.lock();
        let State { plan, ops, info, .. } = &mut *state;
        for subscribe in plan {
            subscribe.credit = Some(credit);
            if info.is_some() {
                let subscription = subscribe.subscription;
                ops.push_back(Op::SetCredit(v1::SetCredit { subscription, credit }));
            }
        }
        self.session.wake(&mut state);
    }

    /// The name of the node that serves the subscription now; `None` while it is looked for.
    pub fn node(&self) -> Option<Arc<str>> {
        self.session.lock().info.as_ref().map(|info| info.node.clone())
    }

    /// Ends the subscriptions, gives back without blame what was not taken, and waits for the
    /// answers to all settles that are on their way. Deliveries that are held stay valid, and the
    /// stream stays open for them.
    pub async fn close(self) -> Result<(), Error> {
        self.end();
        loop {
            let answered = self.session.answered.notified();
            {
                let mut state = self.session.lock();
                if state.ended || state.is_settled() {
                    return state.failure.take().map_or(Ok(()), Err);
                }
            }
            answered.await;
        }
    }

    fn end(&self) {
        let mut state = self.session.lock();
        state.close();
        self.session.wake(&mut state);
        self.session.work.notify_one();
        self.session.arrived.notify_waiters();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("node", &self.node()).finish_non_exhaustive()
    }
}

/// Reads the prefix of lease tokens.
fn prefix(bytes: &[u8]) -> Result<[u8; crate::token::PREFIX_BYTES], Error> {
    bytes
        .try_into()
        .map_err(|_| Error::malformed_answer(format!("a lease prefix of {} bytes", bytes.len())))
}

/// What an answer to a unary take holds.
pub(crate) fn taken(response: v1::TakeResponse, index: usize) -> Result<Vec<Taken>, Error> {
    let node: Arc<str> = response.node.into();
    let one = |wire: v1::Delivery| {
        let token = LeaseToken::try_from(&wire.token[..])
            .map_err(|error| Error::malformed_answer(error.message()))?;
        let prefix = prefix(&token.as_bytes()[..crate::token::PREFIX_BYTES])?;
        let (node, lane) = (node.clone(), String::new());
        let info = Info { index, node, lane, prefix, epoch: response.epoch };
        Delivered::new(wire, Arc::new(info))
    };
    response.deliveries.into_iter().map(one).collect()
}
