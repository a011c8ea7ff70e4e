//! Single calls, for those who have no use for a stream.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dpc_proto::v1;

use crate::client::unary;
use crate::connect::Nodes;
use crate::error::Error;
use crate::object::Object;
use crate::session::{Taken, Verb, taken};
use crate::token::LeaseToken;

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A take to be: choose, then await it.
#[must_use = "nothing is taken before this is awaited"]
pub struct Take {
    nodes: Arc<Nodes>,
    request: v1::TakeRequest,
    wait: Duration,
}

impl Take {
    pub(crate) fn new(nodes: Arc<Nodes>, pattern: String) -> Self {
        let request = v1::TakeRequest { pattern, ..v1::TakeRequest::default() };
        Self { nodes, request, wait: Duration::ZERO }
    }

    /// The name under which the work is shared (`default` if none is given).
    pub fn processor(mut self, name: impl Into<String>) -> Self {
        self.request.processor = Some(name.into());
        self
    }

    /// How long to wait for the first object, at most 60 s (not at all if not given).
    pub fn wait(mut self, wait: Duration) -> Self {
        self.request.wait = Some(wait.into());
        self.wait = wait;
        self
    }

    /// The most objects, 1 to 100 (1 if not given).
    pub fn max(mut self, max: u32) -> Self {
        self.request.max = Some(max);
        self
    }

    /// How long the leases run, 1 s to 1 h (30 s if not given).
    pub fn lease(mut self, lease: Duration) -> Self {
        self.request.lease = Some(lease.into());
        self
    }

    async fn call(self) -> Result<Vec<Taken>, Error> {
        let Self { nodes, request, wait } = self;
        let response = unary(&nodes, wait, |mut cloud| {
            let request = request.clone();
            async move { cloud.take(request).await }
        });
        taken(response.await?, nodes.preferred())
    }
}

impl IntoFuture for Take {
    type Output = Result<Vec<Taken>, Error>;
    type IntoFuture = Boxed<Vec<Taken>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.call())
    }
}

impl fmt::Debug for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Take").field("pattern", &self.request.pattern).finish_non_exhaustive()
    }
}

/// A settle by token to be: say how, then await it.
///
/// ```no_run
/// # async fn example(client: dpc_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// # use dpc_client::Verb;
/// let token = std::env::args().nth(1).unwrap_or_default().parse()?;
/// client.settle(token).verb(Verb::Reject("no such customer".into())).await?;
/// # Ok(()) }
/// ```
#[must_use = "nothing is settled before this is awaited"]
pub struct SettleToken {
    nodes: Arc<Nodes>,
    settlement: v1::Settlement,
}

impl SettleToken {
    pub(crate) fn new(nodes: Arc<Nodes>, token: LeaseToken) -> Self {
        Self { nodes, settlement: settlement(token, Verb::Finalise) }
    }

    /// How (finalise, if not given).
    pub fn verb(mut self, verb: Verb) -> Self {
        self.settlement.verb = Some(verb.into_wire());
        self
    }

    /// Pushes an object with this settle: both are done, or neither is.
    pub fn emit(mut self, object: Object) -> Self {
        self.settlement.emits.push(object.into_wire(&self.nodes.options.ids).1);
        self
    }

    async fn call(self) -> Result<(), Error> {
        let request = v1::SettleRequest { settlement: Some(self.settlement) };
        let response = unary(&self.nodes, Duration::ZERO, |mut cloud| {
            let request = request.clone();
            async move { cloud.settle(request).await }
        });
        let refused = response.await?.refused.into_iter().next();
        refused.map_or(Ok(()), |refused| Err(Error::from_wire(refused.error, refused.position)))
    }
}

impl IntoFuture for SettleToken {
    type Output = Result<(), Error>;
    type IntoFuture = Boxed<()>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.call())
    }
}

impl fmt::Debug for SettleToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettleToken").finish_non_exhaustive()
    }
}

/// Settles by token, and pushes, that commit together or not at all. Await it to commit it.
#[must_use = "nothing is done before this is awaited"]
pub struct TokenTransaction {
    nodes: Arc<Nodes>,
    transaction: v1::Transaction,
}

impl TokenTransaction {
    pub(crate) fn new(nodes: Arc<Nodes>) -> Self {
        Self { nodes, transaction: v1::Transaction::default() }
    }

    /// Adds a settle, with what it emits.
    pub fn settle(mut self, token: LeaseToken, verb: Verb, emits: Vec<Object>) -> Self {
        let mut settlement = settlement(token, verb);
        let ids = &self.nodes.options.ids;
        settlement.emits = emits.into_iter().map(|object| object.into_wire(ids).1).collect();
        self.transaction.settlements.push(settlement);
        self
    }

    /// Adds an object that belongs to no settle.
    pub fn push(mut self, object: Object) -> Self {
        self.transaction.pushes.push(object.into_wire(&self.nodes.options.ids).1);
        self
    }

    async fn call(self) -> Result<(), Error> {
        let request = v1::TransactionRequest { transaction: Some(self.transaction) };
        let response = unary(&self.nodes, Duration::ZERO, |mut cloud| {
            let request = request.clone();
            async move { cloud.transaction(request).await }
        });
        response.await.map(|_| ())
    }
}

impl IntoFuture for TokenTransaction {
    type Output = Result<(), Error>;
    type IntoFuture = Boxed<()>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.call())
    }
}

impl fmt::Debug for TokenTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenTransaction").finish_non_exhaustive()
    }
}

fn settlement(token: LeaseToken, verb: Verb) -> v1::Settlement {
    v1::Settlement {
        tokens: vec![token.to_wire()],
        verb: Some(verb.into_wire()),
        ..v1::Settlement::default()
    }
}
