//! Nodes that do what a test says, over connections that a test can cut. Everything is in one
//! process and one runtime, so that paused time works.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dpc_client::proto::google::protobuf::Any;
use dpc_client::proto::v1;
use dpc_client::proto::v1::cloud_service_server::{CloudService, CloudServiceServer};
use dpc_client::{Client, Connector, Options, Uuid};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything a test waits for, and it does not take real time.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(3_600), future).await.expect("it should have happened")
}

type Sender<T> = mpsc::UnboundedSender<T>;
type Receiver<T> = mpsc::UnboundedReceiver<T>;

/// The addresses of the test, and the connections to them.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<BTreeMap<String, Host>>>);

#[derive(Default)]
struct Host {
    accept: Option<Sender<Result<DuplexStream, io::Error>>>,
    cuts: Vec<Arc<Cut>>,
    down: bool,
}

#[derive(Default)]
struct Cut {
    dead: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Net {
    /// Starts a node at this address, with a name and a lane made of it.
    pub fn node(&self, address: &str) -> Node {
        let (accept, incoming) = mpsc::unbounded_channel();
        let (push, pushes) = mpsc::unbounded_channel();
        let (session, sessions) = mpsc::unbounded_channel();
        let (call, calls) = mpsc::unbounded_channel();
        let host = Host { accept: Some(accept), ..Host::default() };
        self.0.lock().unwrap().insert(address.to_owned(), host);
        let service = CloudServiceServer::new(Service { push, session, call });
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(UnboundedReceiverStream::new(incoming));
        tokio::spawn(server);
        Node { name: address.to_owned(), lane: format!("lane-{address}"), pushes, sessions, calls }
    }

    /// Breaks all connections to an address, and refuses new ones until it is up again.
    pub fn down(&self, address: &str) {
        let mut hosts = self.0.lock().unwrap();
        let host = hosts.get_mut(address).unwrap();
        host.down = true;
        for cut in host.cuts.drain(..) {
            cut.dead.store(true, Ordering::SeqCst);
            cut.wakers.lock().unwrap().drain(..).for_each(Waker::wake);
        }
    }

    pub fn up(&self, address: &str) {
        self.0.lock().unwrap().get_mut(address).unwrap().down = false;
    }

    /// Options whose ids and waits are the same in every run.
    pub fn options(&self) -> Options {
        let net = self.clone();
        let connector = Connector::new(tower::service_fn(move |uri: http::Uri| {
            let net = net.clone();
            async move { net.dial(uri.host().unwrap_or_default()) }
        }));
        let next = AtomicU64::new(1);
        Options::new()
            .connector(connector)
            .ids(move || Uuid::from_u128(next.fetch_add(1, Ordering::SeqCst).into()))
    }

    pub fn client(&self, addresses: &[&str]) -> Client {
        Client::connect(addresses, self.options()).unwrap()
    }

    fn dial(&self, address: &str) -> io::Result<Wire> {
        let mut hosts = self.0.lock().unwrap();
        let host = hosts.get_mut(address).filter(|host| !host.down);
        let Some(host) = host else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let cut = Arc::new(Cut::default());
        host.cuts.push(cut.clone());
        host.accept.as_ref().unwrap().send(Ok(theirs)).unwrap();
        Ok(Wire { io: ours, cut })
    }
}

/// A connection that can be cut.
pub struct Wire {
    io: DuplexStream,
    cut: Arc<Cut>,
}

impl Wire {
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        if self.cut.dead.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.cut.wakers.lock().unwrap().push(cx.waker().clone());
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A node whose streams and calls the test answers.
pub struct Node {
    pub name: String,
    pub lane: String,
    pushes: Receiver<PushStream>,
    sessions: Receiver<Session>,
    calls: Receiver<Call>,
}

impl Node {
    /// The next push stream, not opened yet.
    pub async fn next_push(&mut self) -> PushStream {
        within(self.pushes.recv()).await.unwrap()
    }

    /// The next push stream, opened.
    pub async fn push_stream(&mut self) -> PushStream {
        let stream = self.next_push().await;
        stream.opened(&self.name, &self.lane, v1::Limits::default());
        stream
    }

    /// The next session, opened, its subscriptions answered.
    pub async fn session(&mut self) -> (Session, Vec<v1::Subscribe>) {
        let mut session = self.open_session().await;
        let mut subscribed = Vec::new();
        let items = session.items().await;
        for (_, item) in &items {
            match item {
                v1::session_item::Item::Subscribe(subscribe) => subscribed.push(subscribe.clone()),
                other => panic!("expected only subscriptions, got {other:?}"),
            }
        }
        session.done(items[0].0, items[items.len() - 1].0);
        (session, subscribed)
    }

    /// The next session, not opened yet.
    pub async fn next_session(&mut self) -> Session {
        within(self.sessions.recv()).await.unwrap()
    }

    /// The next session, opened.
    pub async fn open_session(&mut self) -> Session {
        let session = self.next_session().await;
        session.opened(&self.name, &self.lane);
        session
    }

    pub async fn call(&mut self) -> Call {
        within(self.calls.recv()).await.unwrap()
    }

    pub fn has_push(&mut self) -> bool {
        !self.pushes.is_empty()
    }
}

/// A unary call that waits for its answer.
pub enum Call {
    Push(v1::PushRequest, oneshot::Sender<Result<v1::PushResponse, Status>>),
    Take(v1::TakeRequest, oneshot::Sender<Result<v1::TakeResponse, Status>>),
    Begin(v1::BeginRequest, oneshot::Sender<Result<v1::BeginResponse, Status>>),
    Extend(v1::ExtendRequest, oneshot::Sender<Result<v1::ExtendResponse, Status>>),
    Settle(v1::SettleRequest, oneshot::Sender<Result<v1::SettleResponse, Status>>),
    Transaction(v1::TransactionRequest, oneshot::Sender<Result<v1::TransactionResponse, Status>>),
}

pub struct PushStream {
    requests: Streaming<dpc_proto::PushStreamRequest>,
    answers: Sender<Result<v1::PushStreamResponse, Status>>,
}

impl PushStream {
    fn send(&self, response: v1::push_stream_response::Response) {
        let message = v1::PushStreamResponse { response: Some(response) };
        self.answers.send(Ok(message)).unwrap();
    }

    pub fn opened(&self, node: &str, lane: &str, limits: v1::Limits) {
        let (node, lane) = (node.to_owned(), lane.to_owned());
        let opened = v1::PushOpened { node, lane, limits: Some(limits) };
        self.send(v1::push_stream_response::Response::Opened(opened));
    }

    /// The next items as (seq, id).
    pub async fn items(&mut self) -> Vec<(u64, Uuid)> {
        let message = within(self.requests.message()).await.unwrap().expect("a message");
        let pair = |item: v1::PushItem| (item.seq, item.object.unwrap().id.parse().unwrap());
        message.items.into_iter().map(pair).collect()
    }

    /// So many items, however they are packed.
    pub async fn take(&mut self, count: usize) -> Vec<(u64, Uuid)> {
        let mut items = Vec::new();
        while items.len() < count {
            items.extend(self.items().await);
        }
        assert_eq!(items.len(), count);
        items
    }

    /// The client has ended its side.
    pub async fn is_ended(&mut self) -> bool {
        within(self.requests.message()).await.unwrap().is_none()
    }

    /// Waits until the client has given the stream up, whatever it says before.
    pub async fn left(&mut self) {
        while let Ok(Some(_)) = within(self.requests.message()).await {}
    }

    pub fn stored(&self, first_seq: u64, last_seq: u64) {
        self.answer(vec![ok(first_seq, last_seq, v1::PushStatus::Stored)], Vec::new());
    }

    pub fn answer(&self, ok: Vec<v1::PushOk>, refused: Vec<v1::Refused>) {
        let answers = v1::PushAnswers { ok, refused };
        self.send(v1::push_stream_response::Response::Answers(answers));
    }
}

pub fn ok(first_seq: u64, last_seq: u64, status: v1::PushStatus) -> v1::PushOk {
    v1::PushOk {
        first_seq,
        last_seq,
        status: status.into(),
        durability: v1::Durability::Synced.into(),
        ids: Vec::new(),
    }
}

pub fn refused(seq: u64, position: Option<u32>, error: v1::Error) -> v1::Refused {
    v1::Refused { seq, position, error: Some(error) }
}

pub fn error(code: tonic::Code, reason: &str) -> v1::Error {
    v1::Error {
        code: code.into(),
        reason: reason.to_owned(),
        message: format!("the test says {reason}"),
        outcome: v1::Outcome::NotDone.into(),
        ..v1::Error::default()
    }
}

pub struct Session {
    requests: Streaming<v1::SessionRequest>,
    answers: Sender<Result<v1::SessionResponse, Status>>,
}

impl Session {
    pub fn send(&self, response: v1::session_response::Response) {
        self.answers.send(Ok(v1::SessionResponse { response: Some(response) })).unwrap();
    }

    pub fn opened(&self, node: &str, lane: &str) {
        self.opened_with(node, lane, v1::Limits::default());
    }

    pub fn opened_with(&self, node: &str, lane: &str, limits: v1::Limits) {
        self.send(v1::session_response::Response::Opened(v1::SessionOpened {
            node: node.to_owned(),
            lane: lane.to_owned(),
            lease_prefix: vec![7; 32].into(),
            epoch: 3,
            limits: Some(limits),
        }));
    }

    /// The items of the next message.
    pub async fn items(&mut self) -> Vec<(u64, v1::session_item::Item)> {
        let message = within(self.requests.message()).await.unwrap().expect("a message");
        message.items.into_iter().map(|item| (item.seq, item.item.unwrap())).collect()
    }

    /// The next item; the test expects no other in its message.
    pub async fn item(&mut self) -> (u64, v1::session_item::Item) {
        let mut items = self.items().await;
        assert_eq!(items.len(), 1, "{items:?}");
        items.remove(0)
    }

    /// The next settlement, after begins, which are answered.
    pub async fn settlement(&mut self) -> (u64, v1::Settlement) {
        loop {
            for (seq, item) in self.items().await {
                match item {
                    v1::session_item::Item::Begin(_) => self.done(seq, seq),
                    v1::session_item::Item::Settle(settlement) => return (seq, settlement),
                    other => panic!("expected a settlement, got {other:?}"),
                }
            }
        }
    }

    /// The client has ended its side.
    pub async fn is_ended(&mut self) -> bool {
        within(self.requests.message()).await.unwrap().is_none()
    }

    /// Waits until the client has given the stream up, whatever it says before.
    pub async fn left(&mut self) {
        while let Ok(Some(_)) = within(self.requests.message()).await {}
    }

    pub fn done(&self, first_seq: u64, last_seq: u64) {
        self.answer(vec![v1::SeqRange { first_seq, last_seq }], Vec::new());
    }

    pub fn refuse(&self, refused: v1::Refused) {
        self.answer(Vec::new(), vec![refused]);
    }

    pub fn answer(&self, done: Vec<v1::SeqRange>, refused: Vec<v1::Refused>) {
        let answers = v1::SessionAnswers { done, refused };
        self.send(v1::session_response::Response::Answers(answers));
    }

    /// Delivers one object for each lease; its id is the lease.
    pub fn deliver(&self, leases: impl IntoIterator<Item = u64>) {
        let deliveries: Vec<_> = leases.into_iter().map(delivery).collect();
        let deliveries = deliveries.into();
        self.send(v1::session_response::Response::Deliveries(deliveries));
    }

    pub fn lease_ended(&self, leases: Vec<u64>) {
        let reason = v1::LeaseEndReason::RanOut.into();
        let ended = v1::LeaseEnded { leases, reason };
        self.send(v1::session_response::Response::LeaseEnded(ended));
    }
}

pub fn delivery(lease: u64) -> v1::Delivery {
    v1::Delivery {
        subscription: 1,
        lease,
        id: Uuid::from_u128(lease.into()).to_string(),
        entity: Some(Any {
            type_url: "type.googleapis.com/acme.Order".to_owned(),
            value: format!("payload {lease}").into(),
        }),
        version: 1,
        delivery: 1,
        hops: 2,
        path: vec!["x".to_owned(), "y".to_owned()],
        ..v1::Delivery::default()
    }
}

struct Service {
    push: Sender<PushStream>,
    session: Sender<Session>,
    call: Sender<Call>,
}

impl Service {
    async fn ask<T, R>(
        &self,
        request: T,
        call: impl FnOnce(T, oneshot::Sender<Result<R, Status>>) -> Call,
    ) -> Result<Response<R>, Status> {
        let (sender, answer) = oneshot::channel();
        self.call.send(call(request, sender)).map_err(|_| Status::internal("test is over"))?;
        answer.await.map_err(|_| Status::internal("test is over"))?.map(Response::new)
    }
}

#[tonic::async_trait]
impl CloudService for Service {
    type PushStreamStream = UnboundedReceiverStream<Result<v1::PushStreamResponse, Status>>;
    type SessionStream = UnboundedReceiverStream<Result<v1::SessionResponse, Status>>;

    async fn push_stream(
        &self,
        request: Request<Streaming<dpc_proto::PushStreamRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        let (answers, receiver) = mpsc::unbounded_channel();
        let stream = PushStream { requests: request.into_inner(), answers };
        self.push.send(stream).map_err(|_| Status::internal("test is over"))?;
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (answers, receiver) = mpsc::unbounded_channel();
        let session = Session { requests: request.into_inner(), answers };
        self.session.send(session).map_err(|_| Status::internal("test is over"))?;
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }

    async fn push(
        &self,
        request: Request<v1::PushRequest>,
    ) -> Result<Response<v1::PushResponse>, Status> {
        self.ask(request.into_inner(), Call::Push).await
    }

    async fn take(
        &self,
        request: Request<v1::TakeRequest>,
    ) -> Result<Response<v1::TakeResponse>, Status> {
        self.ask(request.into_inner(), Call::Take).await
    }

    async fn begin(
        &self,
        request: Request<v1::BeginRequest>,
    ) -> Result<Response<v1::BeginResponse>, Status> {
        self.ask(request.into_inner(), Call::Begin).await
    }

    async fn extend(
        &self,
        request: Request<v1::ExtendRequest>,
    ) -> Result<Response<v1::ExtendResponse>, Status> {
        self.ask(request.into_inner(), Call::Extend).await
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        self.ask(request.into_inner(), Call::Settle).await
    }

    async fn transaction(
        &self,
        request: Request<v1::TransactionRequest>,
    ) -> Result<Response<v1::TransactionResponse>, Status> {
        self.ask(request.into_inner(), Call::Transaction).await
    }
}
