//! One node: recovered from its store, driven, served, drained and stopped.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::message::Protocols;
use dpc_core::names::Name;
use dpc_core::record::{entries, mentions, open_header};
use dpc_core::shared::SharedLane;
use dpc_core::store::{Appended, Claimed, READ_BYTES_MAX, Store, StoreError};
use dpc_core::{Core, Limits, PartInfo, Settings};
use dpc_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::driver::{Completed, Disk, Driver, Edges, Halt};
use crate::edge::{Clock, Dial, Entropy, Index, Listen};
use crate::failover::{Host, Randomness, rescue, take_part};
pub use crate::failover::{OpenIndex, Pace, Shared, Stories};
use crate::followed::Followed;
use crate::history::{HistoryHandle, Report};
use crate::inbox;
use crate::link::{Links, keep_dialling};
use crate::recorder::{self, Recorder, RecorderPlace};
use crate::routes;
use crate::serve::{CLIENTS, Connections, NODES, serve_admin, serve_grpc};
pub use crate::service::{Addresses, Bounds, Identity};
use crate::service::{Hub, Phase};
use crate::store::{Embedded, IndexDb};
use crate::unread::{Unread, UnreadParts};

/// What a drain may take longer than its own time until the node stops all the same.
const DRAIN_SLACK: Duration = Duration::from_secs(2);

/// How long connections are given to end when the node stops.
const CONNECTIONS_END: Duration = Duration::from_secs(3);

/// What a node is told to do about its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Go on.
    Run,
    /// Drain, then stop.
    Drain,
    /// Stop now.
    Stop,
}

/// Who a node is and what bounds it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name.
    pub name: Name,
    /// Its lane: the id of its store.
    pub lane: LaneId,
    /// Core's bounds.
    pub limits: Limits,
    /// The node ports of its peers.
    pub peers: Vec<String>,
    /// The bounds of the edges.
    pub bounds: Bounds,
    /// The kind of its store.
    pub store: &'static str,
    /// What an OK means.
    pub durability: v1::Durability,
    /// Free bytes of disk below which pushes are refused.
    pub disk_reserve: u64,
    /// Where it records what goes into core, if it does.
    pub recorder: Option<RecorderPlace>,
}

/// The sockets of a node.
pub struct Sockets<L, D> {
    /// For clients and people.
    pub clients: L,
    /// For nodes.
    pub nodes: L,
    /// For metrics and health.
    pub admin: L,
    /// To other nodes.
    pub dialer: D,
}

impl<L: Listen, D> Sockets<L, D> {
    fn addresses(&self) -> Addresses {
        Addresses {
            clients: self.clients.address(),
            nodes: self.nodes.address(),
            admin: self.admin.address(),
        }
    }
}

/// What a node keeps its data in.
pub struct Data<S, I> {
    /// The log.
    pub store: S,
    /// The id index.
    pub index: I,
    /// What the index holds.
    pub parts: Vec<PartInfo>,
    /// How much room the disk has.
    pub free: Box<dyn FnMut() -> Option<u64> + Send>,
    /// What it shares with other nodes, if its store is shared. The lane has been claimed then.
    pub shared: Option<Shared<S, I>>,
    /// Lanes of rescued disks that it empties.
    pub rescued: Vec<Rescued>,
}

/// The lane of a rescued disk.
pub struct Rescued {
    /// Its folder.
    pub folder: PathBuf,
    /// Its lane.
    pub lane: LaneId,
    /// What the claim found.
    pub claimed: Claimed,
    /// The log.
    pub store: Embedded,
    /// The id index.
    pub index: IndexDb,
    /// What the index holds.
    pub parts: Vec<PartInfo>,
}

/// The clocks and the randomness of a node.
pub struct Chance {
    /// The clocks.
    pub clock: Clock,
    /// Makes a source of randomness.
    pub entropy: Box<dyn FnMut() -> Box<dyn Entropy> + Send>,
}

/// How a history reports.
pub type Reports = Box<dyn FnMut(Report) + Send>;

/// What starts a history once the log is claimed, if the node keeps one. It says below which record
/// everything is durable there.
pub type OpenHistory = Box<
    dyn FnOnce(&Claimed, Reports) -> Result<Option<(HistoryHandle, RecordNumber)>, NodeError>
        + Send,
>;

/// Why a node did not start, or stopped without being told to.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The store refuses, or its data is damaged.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The history cannot be used.
    #[error("{0}")]
    History(String),
    /// A port cannot be opened.
    #[error("cannot listen on {address} ({key}): {problem}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: String,
        /// What the system says.
        problem: std::io::Error,
    },
    /// Another node has taken the lane over. Started again, the node has a new one.
    #[error("fenced: another node has taken over lane {lane}, with epoch {epoch}")]
    Fenced {
        /// The lane.
        lane: LaneId,
        /// The epoch of its new owner, as far as it is known.
        epoch: Epoch,
    },
    /// It cannot go on.
    #[error("the node stopped: {0}")]
    Halted(String),
}

/// A node that listens.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Who it is.
    pub identity: Identity,
    /// Where it listens.
    pub addresses: Addresses,
}

/// Runs a node until it is told to stop, or cannot go on.
///
/// # Errors
///
/// [`NodeError`] says why it did not start, or why it had to stop.
pub async fn run<S, I, L, D>(
    setup: Setup,
    mut data: Data<S, I>,
    sockets: Sockets<L, D>,
    chance: Chance,
    open_history: OpenHistory,
    order: watch::Receiver<Order>,
    ready: impl FnOnce(&Ready),
) -> Result<(), NodeError>
where
    S: SharedLane + Send + 'static,
    I: Index + Send + 'static,
    L: Listen,
    D: Dial,
{
    let Chance { clock, mut entropy } = chance;
    let mut random = entropy();
    let (claimed, incarnation) = match &data.shared {
        Some(shared) => (shared.claimed, shared.incarnation),
        None => (claim(&mut data.store).await?, Incarnation(random.next_u64().max(1))),
    };
    let settings = Settings {
        name: setup.name.clone(),
        lane: setup.lane,
        incarnation,
        seed: random.next_u64(),
        limits: setup.limits.clone(),
        protocols: Protocols::default(),
        fence: data.shared.as_ref().map(|shared| shared.pace.self_fence_after),
        heir: None,
    };
    let recovering = recover(settings, claimed, &mut data.store, data.parts);
    let mut core = match &mut data.shared {
        Some(shared) => shared.beat_during(recovering).await?,
        None => recovering.await?,
    };
    let completed = mpsc::unbounded_channel();
    let history = start_history(open_history, &claimed, &completed.0)?;
    if let Some((_, stands)) = &history {
        core.restore_history(*stands);
    }
    let history = history.map(|(handle, _)| handle);
    let identity = Identity {
        name: setup.name,
        lane: setup.lane,
        epoch: claimed.epoch,
        incarnation,
        started_at: clock.now().wall,
        store: setup.store,
        durability: setup.durability,
    };
    let links = Links::new(&setup.peers);
    let stories = data.shared.as_ref().and_then(|shared| shared.stories.as_ref());
    let told = (history.clone(), stories.map(Stories::finding));
    let (hub, inbox) = Hub::new(identity.clone(), (setup.limits, setup.bounds), clock, links, told);
    let edges = Edges {
        store: data.store,
        index: data.index,
        unread: UnreadParts::default(),
        history: history.map_or(Followed::Nothing, Followed::Now),
        disk: Disk { free: data.free, reserve: setup.disk_reserve },
        completed,
    };
    let (stop, stopped) = watch::channel(false);
    let recorder = open_recorder(&hub, setup.recorder.as_ref());
    let driver = Driver::new(core, Arc::clone(&hub), inbox, edges, &claimed, recorder);
    let driver = tokio::spawn(driver.run(stopped));

    let addresses = sockets.addresses();
    hub.set_addresses(addresses.clone());
    let connections = Connections::at_most(hub.bounds.connections);
    let entropy: Randomness = Arc::new(Mutex::new(entropy));
    let dialer = sockets.dialer.clone();
    let dialling = open_ports(&hub, sockets, &connections, &setup.peers, &entropy);
    tracing::info!(node = %identity.name, lane = %identity.lane, epoch = %identity.epoch, "ready");
    ready(&Ready { identity, addresses });
    let host = Host { hub: Arc::clone(&hub), dialer, random: entropy, stop: stop.subscribe() };
    let mut lanes = run_other_lanes(&host, data.shared, data.rescued, &setup.peers);
    let result = live(&hub, driver, &stop, order).await;
    stop.send_replace(true);
    while lanes.join_next().await.is_some() {}
    drop(dialling);
    if !connections.ended(CONNECTIONS_END).await {
        tracing::info!("connections were still open when the node stopped");
    }
    result
}

/// Starts what follows the log, if anything does. Says below which record everything is durable there.
fn start_history(
    open_history: OpenHistory,
    claimed: &Claimed,
    completed: &mpsc::UnboundedSender<Completed>,
) -> Result<Option<(HistoryHandle, RecordNumber)>, NodeError> {
    let reports = completed.clone();
    let report = move |report| {
        // The driver has ended: nobody waits for reports.
        let _ended = reports.send(Completed::History(report));
    };
    open_history(claimed, Box::new(report))
}

/// Starts what runs the lanes of nodes that are gone.
fn run_other_lanes<S, I, D>(
    host: &Host<D>,
    shared: Option<Shared<S, I>>,
    rescued: Vec<Rescued>,
    peers: &[String],
) -> JoinSet<()>
where
    S: SharedLane + Send + 'static,
    I: Index + Send + 'static,
    D: Dial,
{
    let mut lanes = JoinSet::new();
    if let Some(mut shared) = shared {
        if let Some(inbox) = shared.inbox.take() {
            lanes.spawn(inbox::run(Arc::clone(&host.hub), inbox, host.stop.clone()));
        }
        lanes.spawn(take_part(host.clone(), shared));
    }
    for one in rescued {
        lanes.spawn(rescue(host.clone(), one, peers.to_vec()));
    }
    lanes
}

/// Starts the recorder. A node runs without one rather than not at all.
fn open_recorder(hub: &Hub, place: Option<&RecorderPlace>) -> Option<Recorder> {
    let place = place?;
    match recorder::open(place) {
        Ok((recorder, handle)) => {
            hub.set_recorder(handle);
            Some(recorder)
        }
        Err(error) => {
            let dir = place.dir.display();
            tracing::warn!("the flight recorder is off: it cannot use {dir}: {error}");
            None
        }
    }
}

/// Starts everything that listens and dials. What listens ends with the hub's phase, what dials when
/// what is returned is dropped.
fn open_ports<L: Listen, D: Dial>(
    hub: &Arc<Hub>,
    sockets: Sockets<L, D>,
    connections: &Connections,
    peers: &[String],
    entropy: &Randomness,
) -> JoinSet<()> {
    let Sockets { clients, nodes, admin, dialer } = sockets;
    let (client_routes, client_health) = routes::for_clients(hub);
    let (node_routes, node_health) = routes::for_nodes(hub);
    let spawn = |routes, listener, flow| {
        tokio::spawn(serve_grpc(listener, routes, Arc::clone(hub), connections.clone(), flow));
    };
    spawn(client_routes, clients, CLIENTS);
    spawn(node_routes, nodes, NODES);
    tokio::spawn(serve_admin(admin, Arc::clone(hub), connections.clone()));
    tokio::spawn(routes::show_phase(hub.phase(), vec![client_health, node_health]));
    let mut dialling = JoinSet::new();
    for (at, address) in peers.iter().enumerate() {
        let entropy = (entropy.lock().expect("nobody panics while holding it"))();
        dialling.spawn(keep_dialling(
            Arc::clone(hub),
            dialer.clone(),
            at,
            address.clone(),
            entropy,
        ));
    }
    dialling
}

/// Waits for the order to end, or for the driver's end.
async fn live(
    hub: &Arc<Hub>,
    mut driver: JoinHandle<Result<(), Halt>>,
    stop: &watch::Sender<bool>,
    mut order: watch::Receiver<Order>,
) -> Result<(), NodeError> {
    // A node that cannot go on has no use for orders.
    let halted = tokio::select! {
        biased;
        ended = &mut driver => Some(ended),
        () = ordered(&mut order, Order::Drain) => None,
    };
    if let Some(ended) = halted {
        return end(hub, ended, "it cannot go on").await;
    }
    if *order.borrow() == Order::Drain {
        tracing::info!("draining; a second signal stops at once");
        hub.start_drain().await;
        let mut drained = hub.drained();
        let deadline = hub.limits.drain.to_std() + DRAIN_SLACK;
        let halted = tokio::select! {
            biased;
            ended = &mut driver => Some(ended),
            () = ordered(&mut order, Order::Stop) => None,
            _ = drained.wait_for(Option::is_some) => None,
            () = tokio::time::sleep(deadline) => None,
        };
        if let Some(ended) = halted {
            return end(hub, ended, "it cannot go on").await;
        }
    }
    tracing::info!("stopping");
    stop.send_replace(true);
    let ended = driver.await;
    end(hub, ended, "it was told to").await
}

/// Waits until the order is at least this one. Whoever gives orders and goes away lets the node run.
async fn ordered(order: &mut watch::Receiver<Order>, at_least: Order) {
    if order.wait_for(|order| *order >= at_least).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn end(
    hub: &Hub,
    ended: Result<Result<(), Halt>, tokio::task::JoinError>,
    why: &str,
) -> Result<(), NodeError> {
    hub.end_all(why);
    hub.links.cut_all();
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Halt::Fenced(epoch))) => Err(NodeError::Fenced { lane: hub.identity.lane, epoch }),
        Ok(Err(Halt::Failed(why))) => Err(NodeError::Halted(why)),
        Ok(Err(Halt::Retired)) => unreachable!("only an adopted lane is retired"),
        Err(error) => Err(NodeError::Halted(format!("a bug: {error}{}", kept(hub).await))),
    }
}

/// Keeps the recording of a panic, and says where it is.
async fn kept(hub: &Hub) -> String {
    let Some(recorder) = hub.recorder() else { return String::new() };
    match recorder.keep().await {
        Some(path) => {
            let path = path.display();
            format!("; what led to it is recorded in {path}: dpc sim replay {path} --last 20")
        }
        None => "; the flight recorder has nothing of it".to_owned(),
    }
}

pub(crate) async fn claim<S: Store>(store: &mut S) -> Result<Claimed, StoreError> {
    let (done, answer) = oneshot::channel();
    store.claim(Box::new(move |claimed| drop(done.send(claimed))));
    answered(answer).await
}

pub(crate) async fn read<S: Store>(
    store: &mut S,
    from: RecordNumber,
    bytes_max: usize,
) -> Result<Vec<(RecordNumber, Bytes)>, StoreError> {
    let (done, answer) = oneshot::channel();
    store.read(from, bytes_max, Box::new(move |records| drop(done.send(records))));
    answered(answer).await
}

pub(crate) async fn append<S: Store>(
    store: &mut S,
    epoch: Epoch,
    number: RecordNumber,
    record: Bytes,
) -> Appended {
    let (done, answer) = oneshot::channel();
    let tell = Box::new(move |appended| drop(done.send(appended)));
    store.append(epoch, number, record, tell);
    let gone = || Appended::Unknown(StoreError::Io("the store ended without an answer".into()));
    answer.await.unwrap_or_else(|_| gone())
}

async fn answered<T>(answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer.await.unwrap_or_else(|_| Err(StoreError::Io("the store ended without an answer".into())))
}

/// Puts core together from the index and the log: what the log says is what it knows.
pub(crate) async fn recover<S: Store>(
    settings: Settings,
    claimed: Claimed,
    store: &mut S,
    parts: Vec<PartInfo>,
) -> Result<Core, StoreError> {
    let (mut core, unread) = recover_unread(settings, claimed, store, parts).await?;
    for Unread { part, first, end } in unread {
        tracing::info!(part, "the id index has lost a part: it is built again from the log");
        let ids = ids_of(store, first, end).await?;
        core.restore_ids(part, end, ids);
    }
    Ok(core)
}

/// The same, but for the ids that the index has lost.
pub(crate) async fn recover_unread<S: Store>(
    settings: Settings,
    claimed: Claimed,
    store: &mut S,
    parts: Vec<PartInfo>,
) -> Result<(Core, Vec<Unread>), StoreError> {
    let mut core = Core::new(settings, claimed);
    if claimed.first > claimed.last {
        return Ok((core, Vec::new()));
    }
    let checkpoint = checkpoint(store, claimed.last).await?;
    let from = checkpoint.max(claimed.first);
    let mut indexed = BTreeSet::new();
    for part in parts {
        // Parts behind the checkpoint are built again by the replay.
        if part.end <= checkpoint && part.end > claimed.first {
            indexed.insert(part.part);
            core.restore_part(part);
        }
    }
    let mut next = from;
    while next <= claimed.last {
        let records = read(store, next, READ_BYTES_MAX).await?;
        if records.is_empty() {
            return Err(missing(next, claimed.last));
        }
        for (number, record) in records {
            core.restore(number, &record)?;
            next = number.next();
        }
    }
    let lost = |(part, _, end): &(u64, RecordNumber, RecordNumber)| {
        *end <= checkpoint && !indexed.contains(part)
    };
    let unread = core.finished_parts().into_iter().filter(lost);
    let unread =
        unread.map(|(part, first, end)| Unread { part, first: first.max(claimed.first), end });
    let unread = unread.collect();
    Ok((core, unread))
}

/// Where the checkpoint starts that the last record names; zero if there is none.
async fn checkpoint<S: Store>(
    store: &mut S,
    last: RecordNumber,
) -> Result<RecordNumber, StoreError> {
    let records = read(store, last, 1).await?;
    let (_, record) = records.first().ok_or_else(|| missing(last, last))?;
    let header = open_header(record).map_err(|bad| StoreError::Damaged {
        place: format!("record {last}"),
        what: bad.to_string(),
    })?;
    Ok(header.checkpoint)
}

async fn ids_of<S: Store>(
    store: &mut S,
    first: RecordNumber,
    end: RecordNumber,
) -> Result<Vec<(dpc_core::ids::ObjectId, dpc_core::ids::Loc)>, StoreError> {
    let mut ids = Vec::new();
    let mut next = first;
    while next < end {
        let records = read(store, next, READ_BYTES_MAX).await?;
        if records.is_empty() {
            return Err(missing(next, end));
        }
        for (number, record) in records.into_iter().take_while(|(number, _)| *number < end) {
            let (_, found) = entries(&record).map_err(|bad| StoreError::Damaged {
                place: format!("record {number}"),
                what: bad.to_string(),
            })?;
            ids.extend(mentions(&found));
            next = number.next();
        }
        tokio::task::yield_now().await;
    }
    Ok(ids)
}

fn missing(number: RecordNumber, last: RecordNumber) -> StoreError {
    StoreError::Damaged {
        place: format!("record {number}"),
        what: format!("it is missing; the log goes up to {last}"),
    }
}

/// Whether a node takes and delivers.
pub(crate) fn is_serving(phase: Phase) -> bool {
    phase == Phase::Serving
}
