//! The client: what it can do at once, and what it starts.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dpc_proto::v1;
use dpc_proto::v1::cloud_service_client::CloudServiceClient;
use dpc_proto::v1::operator_service_client::OperatorServiceClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::connect::Nodes;
use crate::error::{Error, Outcome};
use crate::object::Object;
use crate::options::{Options, Window};
use crate::push::{Pusher, Receipt, Stored};
use crate::session::Subscribe;
use crate::token::LeaseToken;
use crate::unary::{SettleToken, Take, TokenTransaction};

/// A client of a cloud: cheap to clone, safe to share, connected when it is first used.
///
/// Several addresses are tried in order; the one that answered last is asked first.
#[derive(Clone)]
pub struct Client {
    nodes: Arc<Nodes>,
    /// The stream of [`Client::push`], opened by its first call.
    pusher: Arc<Mutex<Option<Pusher>>>,
}

impl Client {
    /// A client of the nodes at these addresses (`HOST:PORT`, several may stand in one, with
    /// commas). Nothing is connected yet.
    ///
    /// ```
    /// # use dpc_client::{Client, Options};
    /// let client = Client::connect(["10.0.0.1:50051", "10.0.0.2:50051"], Options::new())?;
    /// # Ok::<(), dpc_client::Error>(())
    /// ```
    pub fn connect<I, A>(addresses: I, options: Options) -> Result<Self, Error>
    where
        I: IntoIterator<Item = A>,
        A: AsRef<str>,
    {
        let nodes = Arc::new(Nodes::new(addresses, options)?);
        Ok(Self { nodes, pusher: Arc::default() })
    }

    /// Collects addresses and options.
    pub fn builder() -> Builder {
        Builder { addresses: Vec::new(), options: Options::new() }
    }

    /// Pushes an object and waits for its receipt. All callers share one stream, so that many of
    /// them at once are as fast as a [`Pusher`].
    pub async fn push(&self, object: Object) -> Result<Receipt, Error> {
        self.pusher().push(object).await?.await
    }

    fn pusher(&self) -> Pusher {
        let mut pusher = self.pusher.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pusher {
            Some(pusher) if !pusher.is_ended() => pusher.clone(),
            _ => pusher.insert(self.push_stream(self.nodes.options.window)).clone(),
        }
    }

    /// Opens a stream of pushes of its own. Must be called within a Tokio runtime.
    pub fn push_stream(&self, window: Window) -> Pusher {
        Pusher::start(self.nodes.clone(), window)
    }

    /// Subscribes to types (`acme.orders.v1.Order`), prefixes (`acme.orders.*`) or everything
    /// (`*`), all over one stream: choose processor, credit and lease, then await it.
    pub fn subscribe<I, P>(&self, patterns: I) -> Subscribe
    where
        I: IntoIterator<Item = P>,
        P: Into<String>,
    {
        let patterns = patterns.into_iter().map(Into::into).collect();
        Subscribe::new(self.nodes.clone(), patterns)
    }

    /// Takes objects without a stream: choose how, then await it.
    pub fn take(&self, pattern: impl Into<String>) -> Take {
        Take::new(self.nodes.clone(), pattern.into())
    }

    /// Settles a lease by its token, whoever received it: choose how, then await it.
    pub fn settle(&self, token: LeaseToken) -> SettleToken {
        SettleToken::new(self.nodes.clone(), token)
    }

    /// Several settles by token, and pushes, all or nothing.
    pub fn transaction(&self) -> TokenTransaction {
        TokenTransaction::new(self.nodes.clone())
    }

    /// Says that work on taken objects starts. The answers stand in the order of the tokens.
    pub async fn begin(&self, tokens: &[LeaseToken]) -> Result<Vec<Result<(), Error>>, Error> {
        let request =
            v1::BeginRequest { begin: Some(v1::Begin { leases: vec![], tokens: wire(tokens) }) };
        let response = unary(&self.nodes, Duration::ZERO, |mut cloud| {
            let request = request.clone();
            async move { cloud.begin(request).await }
        });
        Ok(each(tokens.len(), response.await?.refused))
    }

    /// Keeps leases for their full time from now. The answers stand in the order of the tokens.
    pub async fn extend(&self, tokens: &[LeaseToken]) -> Result<Vec<Result<(), Error>>, Error> {
        let request =
            v1::ExtendRequest { extend: Some(v1::Extend { leases: vec![], tokens: wire(tokens) }) };
        let response = unary(&self.nodes, Duration::ZERO, |mut cloud| {
            let request = request.clone();
            async move { cloud.extend(request).await }
        });
        Ok(each(tokens.len(), response.await?.refused))
    }

    /// Pushes up to 1,000 objects in one call, each stored or refused for itself. The answers
    /// stand in the order of the objects.
    pub async fn push_all(
        &self,
        objects: Vec<Object>,
    ) -> Result<Vec<Result<Receipt, Error>>, Error> {
        let ids = &self.nodes.options.ids;
        let (names, objects): (Vec<_>, Vec<_>) =
            objects.into_iter().map(|object| object.into_wire(ids)).unzip();
        let request = v1::PushRequest { objects };
        let response = unary(&self.nodes, Duration::ZERO, |mut cloud| {
            let request = request.clone();
            async move { cloud.push(request).await }
        })
        .await?;
        let node: Arc<str> = response.node.into();
        let mut answers: Vec<Option<Result<Receipt, Error>>> = vec![None; names.len()];
        for ok in &response.ok {
            for at in ok.first_seq..=ok.last_seq.min(names.len() as u64) {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                if let Some((answer, id)) = answers.get_mut(at).zip(names.get(at)) {
                    *answer = Some(Ok(Receipt { id: *id, stored: Stored::from_wire(ok, &node) }));
                }
            }
        }
        for refused in response.refused {
            let at = refused.position.and_then(|at| usize::try_from(at).ok());
            if let Some(answer) = at.and_then(|at| answers.get_mut(at)) {
                *answer = Some(Err(Error::from_wire(refused.error, refused.position)));
            }
        }
        let missing = || Err(Error::malformed_answer("the node did not answer this object"));
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect())
    }

    /// The generated client of the operator's calls, at the node that answered last.
    pub fn operator(&self) -> OperatorServiceClient<Channel> {
        self.nodes.operator(self.nodes.preferred())
    }

    /// One of the operator's calls, at the first node that can be reached.
    ///
    /// ```no_run
    /// # async fn example(client: dpc_client::Client) -> Result<(), dpc_client::Error> {
    /// # use dpc_client::proto::v1;
    /// let types = client
    ///     .ask(|mut node| async move { node.list_types(v1::ListTypesRequest::default()).await })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn ask<T, F, R>(&self, mut call: F) -> Result<T, Error>
    where
        F: FnMut(OperatorServiceClient<Channel>) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let nodes = &self.nodes;
        let tries = Tries { nodes, only: None, doubt: false, extra: Duration::ZERO };
        tries.run(|node| call(nodes.operator(node))).await
    }

    /// Waits for everything that [`Client::push`] has under way, and ends its stream. Pushers and
    /// subscriptions are closed by themselves.
    pub async fn close(self) -> Result<(), Error> {
        let pusher = self.pusher.lock().unwrap_or_else(PoisonError::into_inner).take();
        match pusher {
            Some(pusher) => pusher.close().await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.nodes.address(self.nodes.preferred());
        f.debug_struct("Client").field("address", &address).finish_non_exhaustive()
    }
}

/// Collects what a client needs.
///
/// ```
/// # use dpc_client::{Client, Options};
/// let client = Client::builder()
///     .address("10.0.0.1:50051")
///     .address("10.0.0.2:50051")
///     .options(Options::new().fail_fast(true))
///     .build()?;
/// # Ok::<(), dpc_client::Error>(())
/// ```
#[must_use]
pub struct Builder {
    addresses: Vec<String>,
    options: Options,
}

impl Builder {
    /// Adds an address.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Sets the options.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The client. Nothing is connected yet.
    pub fn build(self) -> Result<Client, Error> {
        Client::connect(self.addresses, self.options)
    }
}

fn wire(tokens: &[LeaseToken]) -> Vec<bytes::Bytes> {
    tokens.iter().map(|token| token.to_wire()).collect()
}

/// The answers to items of which some were refused.
fn each(count: usize, refused: Vec<v1::Refused>) -> Vec<Result<(), Error>> {
    let mut answers = vec![Ok(()); count];
    for refused in refused {
        let at = refused.position.and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
        if let Some(answer) = answers.get_mut(at) {
            *answer = Err(Error::from_wire(refused.error, refused.position));
        }
    }
    answers
}

/// A call at the first node that can be reached. Once a node may have got it, it is repeated only
/// there. `extra` is how long the node may wait before it answers.
pub(crate) async fn unary<T, F, R>(nodes: &Nodes, extra: Duration, mut call: F) -> Result<T, Error>
where
    F: FnMut(CloudServiceClient<Channel>) -> R,
    R: Future<Output = Result<Response<T>, Status>>,
{
    let tries = Tries { nodes, only: None, doubt: false, extra };
    tries.run(|node| call(nodes.cloud(node))).await
}

/// A call at this node, that repeats an earlier one.
pub(crate) async fn repeat<T, F, R>(
    nodes: &Nodes,
    node: usize,
    doubt: bool,
    mut call: F,
) -> Result<T, Error>
where
    F: FnMut(CloudServiceClient<Channel>) -> R,
    R: Future<Output = Result<Response<T>, Status>>,
{
    let tries = Tries { nodes, only: Some(node), doubt, extra: Duration::ZERO };
    tries.run(|node| call(nodes.cloud(node))).await
}

/// The tries of one call.
struct Tries<'a> {
    nodes: &'a Nodes,
    /// The only node to ask.
    only: Option<usize>,
    /// That node may have done it.
    doubt: bool,
    extra: Duration,
}

impl Tries<'_> {
    async fn run<T, F, R>(mut self, mut call: F) -> Result<T, Error>
    where
        F: FnMut(usize) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let options = &self.nodes.options;
        let (first, longest) = options.backoff;
        let mut backoff = options.ids.backoff(first, longest);
        let began = Instant::now();
        loop {
            let error = match self.round(&mut call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.doubt |= error.outcome() == Outcome::Unknown;
            let hopeless = options.fail_fast && error.is_unreachable() && !self.doubt;
            if !error.is_transient() || hopeless {
                return Err(error);
            }
            let wait = backoff.wait(error.retry_after());
            if began.elapsed() + wait >= options.give_up_after {
                return Err(error.give_up(self.doubt, began.elapsed()));
            }
            sleep(wait).await;
        }
    }

    /// Asks one node after the other until one is reached.
    async fn round<T, F, R>(&mut self, call: &mut F) -> Result<T, Error>
    where
        F: FnMut(usize) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let patience = self.nodes.options.answer_timeout + self.extra;
        let count = if self.only.is_some() { 1 } else { usize::MAX };
        let mut last = None;
        for node in self.nodes.from(self.only.unwrap_or_else(|| self.nodes.preferred())).take(count)
        {
            let error = match timeout(patience, call(node)).await {
                Ok(Ok(answer)) => {
                    self.nodes.prefer(node);
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => Error::from_status(&status),
                Err(_) => Error::connection_lost(format!("no answer within {patience:?}")),
            };
            if !error.is_unreachable() {
                if error.outcome() == Outcome::Unknown {
                    self.only = Some(node);
                }
                return Err(error);
            }
            last = Some(error);
        }
        Err(last.expect("there is at least one address"))
    }
}
