//! Starts nodes and talks to them as clients do.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpc_core::Limits;
use dpc_core::names::Name;
use dpc_core::store::Claimed;
use dpc_proto::google::protobuf::Any;
use dpc_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Streaming;
use tonic::transport::Channel;
use v1::cloud_service_client::CloudServiceClient;
use v1::operator_service_client::OperatorServiceClient;

use crate::edge::{Clock, OsEntropy, TcpDial, TcpListen};
use crate::history::{History, HistoryOptions};
use crate::node::{self, Bounds, Chance, Data, NodeError, Order, Ready, Reports, Setup, Sockets};
use crate::store::{Embedded, IndexDb, Options, disk_free};

/// How long a test waits for what must come.
const WAIT: Duration = Duration::from_secs(20);

/// A running node.
pub(crate) struct TestNode {
    pub(crate) ready: Ready,
    order: watch::Sender<Order>,
    running: JoinHandle<Result<(), NodeError>>,
    history: Arc<Mutex<Option<History>>>,
}

/// Starts a node on the data in `dir`.
pub(crate) async fn start(name: &str, dir: &Path, peers: &[String]) -> TestNode {
    start_at(name, dir, peers, "127.0.0.1:0").await
}

/// Starts a node whose node port is known before.
pub(crate) async fn start_at(name: &str, dir: &Path, peers: &[String], nodes: &str) -> TestNode {
    start_with(name, dir, peers, nodes, Limits::default()).await
}

/// Starts a node with other bounds.
pub(crate) async fn start_with(
    name: &str,
    dir: &Path,
    peers: &[String],
    nodes: &str,
    limits: Limits,
) -> TestNode {
    let (store, lane) = Embedded::open(dir, &Options::default()).expect("opens");
    let index = IndexDb::open(&dir.join("index"), lane).expect("opens");
    let listen = async |at: &str| TcpListen(TcpListener::bind(at).await.expect("binds"));
    let sockets = Sockets {
        clients: listen("127.0.0.1:0").await,
        nodes: listen(nodes).await,
        admin: listen("127.0.0.1:0").await,
        dialer: TcpDial,
    };
    let setup = Setup {
        name: Name::new("node_name", name).expect("valid"),
        lane,
        limits,
        peers: peers.to_vec(),
        bounds: Bounds { connections: 64, ..Bounds::default() },
        store: "embedded",
        durability: v1::Durability::Synced,
        disk_reserve: 0,
        recorder: None,
    };
    let dir = dir.to_owned();
    let free_dir = dir.clone();
    let free = Box::new(move || disk_free(&free_dir).ok());
    let (parts, rescued) = (Vec::new(), Vec::new());
    let data = Data { store, index, parts, free, shared: None, rescued };
    let chance = Chance { clock: Clock::of_machine(), entropy: Box::new(|| Box::new(OsEntropy)) };
    let kept = Arc::new(Mutex::new(None));
    let opened = Arc::clone(&kept);
    let open_history = Box::new(move |claimed: &Claimed, reports: Reports| {
        let (history, stands) =
            History::open(&dir, lane, claimed.last, HistoryOptions::default(), reports)
                .map_err(|error| NodeError::History(error.to_string()))?;
        let handle = history.handle();
        *opened.lock().expect("not poisoned") = Some(history);
        Ok(Some((handle, stands)))
    });
    let (order, orders) = watch::channel(Order::Run);
    let (tell, told) = oneshot::channel();
    let ready = move |ready: &Ready| drop(tell.send(ready.clone()));
    let running =
        tokio::spawn(node::run(setup, data, sockets, chance, open_history, orders, ready));
    let ready = within(told).await.expect("starts");
    TestNode { ready, order, running, history: kept }
}

impl TestNode {
    pub(crate) async fn cloud(&self) -> CloudServiceClient<Channel> {
        CloudServiceClient::new(self.channel().await)
    }

    pub(crate) async fn desk(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel().await)
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.ready.addresses.clients));
        endpoint.expect("an address").connect().await.expect("connects")
    }

    pub(crate) fn order(&self, order: Order) {
        self.order.send_replace(order);
    }

    /// Waits for the node's end.
    pub(crate) async fn ended(self) -> Result<(), NodeError> {
        let result = within(self.running).await.expect("no panic");
        let history = self.history.lock().expect("not poisoned").take();
        if let Some(history) = history {
            history.close();
        }
        result
    }

    /// Drains and stops it.
    pub(crate) async fn stop(self) {
        self.order(Order::Stop);
        self.ended().await.expect("stops well");
    }

    /// A page of the admin port.
    pub(crate) async fn page(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket =
            tokio::net::TcpStream::connect(&self.ready.addresses.admin).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("writes");
        let mut page = String::new();
        within(socket.read_to_string(&mut page)).await.expect("reads");
        page
    }
}

/// A session as a client has it.
pub(crate) struct TestSession {
    requests: mpsc::Sender<v1::SessionRequest>,
    responses: Streaming<v1::SessionResponse>,
    seq: u64,
    pub(crate) opened: v1::SessionOpened,
    deliveries: Vec<v1::Delivery>,
}

impl TestSession {
    pub(crate) async fn open(node: &TestNode) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let response = node.cloud().await.session(outgoing).await.expect("opens");
        let mut responses = response.into_inner();
        let first = within(responses.message()).await.expect("reads").expect("there");
        let Some(v1::session_response::Response::Opened(opened)) = first.response else {
            panic!("{first:?}");
        };
        Self { requests, responses, seq: 0, opened, deliveries: Vec::new() }
    }

    /// Sends an item and waits for its answer.
    pub(crate) async fn ask(&mut self, item: v1::session_item::Item) -> Result<(), v1::Error> {
        self.seq += 1;
        let item = v1::SessionItem { seq: self.seq, item: Some(item) };
        self.requests.send(v1::SessionRequest { items: vec![item] }).await.expect("open");
        loop {
            let response = self.next().await.expect("the stream goes on");
            match response {
                v1::session_response::Response::Answers(answers) => {
                    if let Some(refused) = answers.refused.first() {
                        assert_eq!(refused.seq, self.seq);
                        return Err(refused.error.clone().expect("said"));
                    }
                    if answers.done.iter().any(|d| (d.first_seq..=d.last_seq).contains(&self.seq)) {
                        return Ok(());
                    }
                }
                v1::session_response::Response::Deliveries(more) => {
                    self.deliveries.extend(more.items);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, pattern: &str) {
        self.subscribe_with(pattern, 16).await;
    }

    pub(crate) async fn subscribe_with(&mut self, pattern: &str, credit: u32) {
        let subscribe = v1::Subscribe {
            subscription: 1,
            pattern: pattern.to_owned(),
            credit: Some(credit),
            ..v1::Subscribe::default()
        };
        self.ask(v1::session_item::Item::Subscribe(subscribe)).await.expect("subscribes");
    }

    pub(crate) async fn finalise(&mut self, lease: u64) -> Result<(), v1::Error> {
        let settlement = v1::Settlement {
            leases: vec![lease],
            verb: Some(v1::settlement::Verb::Finalise(v1::Finalise {})),
            ..v1::Settlement::default()
        };
        self.ask(v1::session_item::Item::Settle(settlement)).await
    }

    pub(crate) async fn delivery(&mut self) -> v1::Delivery {
        loop {
            if !self.deliveries.is_empty() {
                return self.deliveries.remove(0);
            }
            match self.next().await.expect("the stream goes on") {
                v1::session_response::Response::Deliveries(more) => {
                    self.deliveries.extend(more.items);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next response, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<v1::session_response::Response> {
        let message = within(self.responses.message()).await;
        message.ok().flatten().map(|message| message.response.expect("said"))
    }
}

/// An object of a type.
pub(crate) fn object(ty: &str, text: &str) -> v1::Object {
    let entity = Any {
        type_url: format!("type.googleapis.com/{ty}"),
        value: text.as_bytes().to_vec().into(),
    };
    v1::Object { entity: Some(entity), ..v1::Object::default() }
}

/// Pushes one object by a call; its id.
pub(crate) async fn push(node: &TestNode, object: v1::Object) -> String {
    let mut cloud = node.cloud().await;
    let response = cloud.push(v1::PushRequest { objects: vec![object] }).await.expect("stored");
    let response = response.into_inner();
    assert_eq!(response.ok[0].status(), v1::PushStatus::Stored);
    response.ok[0].ids[0].clone()
}

/// Waits until the condition holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + WAIT;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, future).await.expect("in time")
}
