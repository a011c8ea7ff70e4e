//! A node on this machine: its data folder, its ports, its signals.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dpc_core::effect::PartIds;
use dpc_core::ids::{Incarnation, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::names::Name;
use dpc_core::shared::{Owner, SharedLane, SharedStore};
use dpc_core::store::{Claimed, Done, StoreError};
use dpc_core::{Limits, PartInfo, Span};
use dpc_proto::v1;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::config::{Config, StoreKind};
use crate::edge::{Clock, Entropy, Index, Listen, OsEntropy, TcpDial, TcpListen};
use crate::failover::{OwnLane, take_own_lane};
use crate::history::shared::{HistoryTables, PART_LOG_BYTES, SharedHistory};
use crate::history::{History, HistoryOptions};
use crate::node::{
    self, Addresses, Bounds, Chance, Data, NodeError, Order, Pace, Ready, Reports, Rescued, Setup,
    Shared, Sockets, Stories,
};
use crate::recorder::RecorderPlace;
use crate::store::{
    CassandraDatabase, CassandraOptions, Embedded, IndexDb, Options, Part, PostgresDatabase,
    PostgresInbox, PostgresOptions, Seat, cassandra_password, disk_free, is_retired,
};

/// Bytes after which a part of a lane ends that others may take over: two seconds of reading.
const SHARED_PART_BYTES: u64 = 16 << 20;

/// The folder in a data folder of what the node needs for lanes that it has adopted.
const ADOPTED: &str = "adopted";

/// How long a port that was just given back is waited for.
const PORT_AGAIN: Duration = Duration::from_secs(5);

/// What a person asks for at a start, beyond the configuration.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The data folder comes from a backup or a copy: it gets a new lane first.
    pub restored: bool,
    /// Data folders rescued from nodes that are gone.
    pub adopt: Vec<PathBuf>,
}

/// Runs the node of a configuration until a signal ends it. A node that another one has taken the
/// lane from begins again with a new one; then `ready` is told again.
///
/// # Errors
///
/// [`NodeError`] says why it did not start, or why it had to stop.
pub async fn serve(
    config: &Config,
    start: &Start,
    mut ready: impl FnMut(&Ready),
) -> Result<(), NodeError> {
    // Ports come first: whoever asks for one that is taken learns of it before anything is touched.
    let mut sockets = Sockets {
        clients: listen("listen.clients", &config.listen.clients.to_string()).await?,
        nodes: listen("listen.nodes", &config.listen.nodes.to_string()).await?,
        admin: listen("listen.admin", &config.listen.admin.to_string()).await?,
        dialer: TcpDial,
    };
    let orders = orders()?;
    if config.store.kind == StoreKind::Embedded {
        return serve_embedded(config, start, sockets, orders, ready).await;
    }
    let (mut addresses, mut fenced) = (Addresses::default(), false);
    loop {
        let tell = |told: &Ready| {
            addresses = told.addresses.clone();
            ready(told);
        };
        let ended = match config.store.kind {
            StoreKind::Cassandra => {
                let open = |owner| {
                    let database = CassandraDatabase::open(cassandra_options(config), owner)?;
                    let history = database.history();
                    Ok((database, history))
                };
                let kind = ("cassandra", v1::Durability::Quorum);
                let open = (open, |_: &Seat, _: Incarnation, _: &Claimed| Ok(None));
                serve_shared(config, (start, fenced), kind, open, (sockets, orders.clone()), tell)
                    .await
            }
            StoreKind::Postgres => {
                let open = |owner| {
                    let database = PostgresDatabase::open(postgres_options(config), owner)?;
                    let history = database.history()?;
                    Ok((database, history))
                };
                let inbox = |seat: &Seat, me, claimed: &Claimed| {
                    let options = postgres_options(config);
                    PostgresInbox::open(&options, (seat.lane(), claimed.epoch), me).map(Some)
                };
                let (open, kind) = ((open, inbox), ("postgres", v1::Durability::Committed));
                serve_shared(config, (start, fenced), kind, open, (sockets, orders.clone()), tell)
                    .await
            }
            StoreKind::Embedded => unreachable!("it was served above"),
        };
        let Err(NodeError::Fenced { lane, epoch }) = ended else { return ended };
        tracing::error!(
            "fenced: another node has taken over lane {lane}, with epoch {epoch}; this one comes \
             back as a new incarnation"
        );
        if *orders.borrow() != Order::Run {
            return ended;
        }
        sockets = listen_again(&addresses).await?;
        fenced = true;
    }
}

async fn serve_embedded(
    config: &Config,
    start: &Start,
    sockets: Sockets<TcpListen, TcpDial>,
    orders: watch::Receiver<Order>,
    ready: impl FnOnce(&Ready),
) -> Result<(), NodeError> {
    if start.restored {
        let name = Name::new("node_name", "restored").expect("a valid name");
        let clock = Clock::of_machine();
        crate::restored::renew(&config.data_dir, name, limits(config), || clock.now()).await?;
    } else {
        crate::restored::check(&config.data_dir)?;
    }
    let (store, lane) = Embedded::open(&config.data_dir, &Options::default())?;
    let dir = config.data_dir.clone();
    let free = Box::new(move || disk_free(&dir).ok());
    let setup = setup(config, lane)?;
    let lane = Lane { store, free, shared: None, rescued: rescue(&start.adopt).await? };
    run(config, setup, lane, sockets, orders, ready).await
}

/// How the database is reached, as configured.
pub(crate) fn postgres_options(config: &Config) -> PostgresOptions {
    PostgresOptions {
        url: config.store.url.clone().expect("a checked configuration has it"),
        tls: config.store.tls(),
        create_tables: config.store.create_tables,
        patience: config.store.patience.0,
    }
}

/// How the database is reached, as configured.
pub(crate) fn cassandra_options(config: &Config) -> CassandraOptions {
    CassandraOptions {
        url: config.store.url.clone().expect("a checked configuration has it"),
        password: cassandra_password(),
        tls: config.store.tls(),
        create_tables: config.store.create_tables,
        patience: config.store.patience.0,
    }
}

/// Runs a node whose lane is in a database that nodes share. What its folder holds can be built
/// again from the lane, except for which lane it is.
async fn serve_shared<D>(
    config: &Config,
    (start, fenced): (&Start, bool),
    (kind, durability): (&'static str, v1::Durability),
    (open, open_inbox): (
        impl FnOnce(Owner) -> Result<(D, Arc<dyn HistoryTables>), StoreError>,
        impl FnOnce(&Seat, Incarnation, &Claimed) -> Result<Option<PostgresInbox>, StoreError>,
    ),
    (sockets, orders): (Sockets<TcpListen, TcpDial>, watch::Receiver<Order>),
    ready: impl FnOnce(&Ready),
) -> Result<(), NodeError>
where
    D: SharedStore<Lane: Send> + Send + 'static,
{
    if start.restored {
        return Err(StoreError::Refused(
            "--restored is for a data folder with an embedded store; a lane in a database that was \
             restored from a backup needs a new data_dir, and its objects stay behind"
                .into(),
        )
        .into());
    }
    let mut seat = Seat::open(&config.data_dir, kind)?;
    let setup = Setup { store: kind, durability, ..setup(config, seat.lane())? };
    let owner = Owner {
        incarnation: Incarnation(OsEntropy.next_u64().max(1)),
        name: setup.name.clone(),
        address: advertised(config, &sockets.nodes.address()).into(),
    };
    let incarnation = owner.incarnation;
    let (database, tables) = open(owner)?;
    let name = (!fenced).then_some(&setup.name);
    let patience = config.store.patience.0;
    let (own, mut shared) =
        join(config, Box::new(database), &mut seat, kind, (name, incarnation, patience)).await?;
    shared.stories = Some(Stories {
        to: SharedHistory { tables, node: setup.name.clone() },
        options: history_options(config),
        folder: config.data_dir.join(ADOPTED),
    });
    shared.inbox = open_inbox(&seat, incarnation, &shared.claimed)?;
    let setup = Setup { lane: seat.lane(), ..setup };
    // The disk under the lane is the database's own: it refuses when it is full.
    let free = Box::new(|| None);
    let rescued = rescue(&start.adopt).await?;
    let lane = Lane { store: own, free, shared: Some(shared), rescued };
    run(config, setup, lane, sockets, orders, ready).await
}

/// Takes the node's own lane from a store that it shares, and prepares to take others.
async fn join<S: SharedLane>(
    config: &Config,
    mut store: Box<dyn SharedStore<Lane = S> + Send>,
    seat: &mut Seat,
    kind: &str,
    (name, incarnation, patience): (Option<&Name>, Incarnation, Duration),
) -> Result<(S, Shared<S, IndexDb>), NodeError> {
    let OwnLane { store: own, claimed } =
        take_own_lane(store.as_mut(), seat, kind, name, patience).await?;
    let adopted = config.data_dir.join(ADOPTED);
    remove(&adopted)?;
    let open_index = Box::new(move |lane: LaneId| {
        let place = adopted.join(lane.to_string());
        remove(&place)?;
        IndexDb::open(&place, lane)
    });
    let pace = pace(config);
    let stories = None;
    let shared =
        Shared { store, incarnation, claimed, pace, open_index, stories, beats: 0, inbox: None };
    Ok((own, shared))
}

fn remove(folder: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::Io(format!("{}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

/// Where other nodes reach this one's node port.
pub(crate) fn advertised(config: &Config, listening: &str) -> String {
    match (&config.listen.advertise, listening.parse::<SocketAddr>()) {
        (Some(address), _) => address.to_string(),
        (None, Ok(address)) if address.ip().is_unspecified() => {
            format!("{}:{}", gethostname::gethostname().to_string_lossy(), address.port())
        }
        (None, _) => listening.to_owned(),
    }
}

/// Opens the data folders of nodes that are gone.
async fn rescue(folders: &[PathBuf]) -> Result<Vec<Rescued>, NodeError> {
    let mut rescued = Vec::new();
    for folder in folders {
        if is_retired(folder) {
            tracing::warn!("--adopt: {} is empty already and can be deleted", folder.display());
            continue;
        }
        if !folder.join("FORMAT").exists() {
            let text = format!("--adopt: {} is no data folder of a node", folder.display());
            return Err(StoreError::Refused(text).into());
        }
        let (mut store, lane) = Embedded::open(folder, &Options::default())?;
        let claimed = node::claim(&mut store).await?;
        let mut index = IndexDb::open(&folder.join("index"), lane)?;
        let parts = parts_of(&mut index).await?;
        tracing::info!(%lane, "adopting the lane of {}", folder.display());
        rescued.push(Rescued { folder: folder.clone(), lane, claimed, store, index, parts });
    }
    Ok(rescued)
}

/// A node's lane, and what comes with it.
struct Lane<S> {
    store: S,
    free: Box<dyn FnMut() -> Option<u64> + Send>,
    shared: Option<Shared<S, IndexDb>>,
    rescued: Vec<Rescued>,
}

/// Runs a node on a store, with index and history on the node's own disk.
async fn run<S: SharedLane + Send + 'static>(
    config: &Config,
    setup: Setup,
    own: Lane<S>,
    sockets: Sockets<TcpListen, TcpDial>,
    orders: watch::Receiver<Order>,
    ready: impl FnOnce(&Ready),
) -> Result<(), NodeError> {
    let lane = setup.lane;
    let mut index = IndexDb::open(&config.data_dir.join("index"), lane)?;
    let parts = parts_of(&mut index).await?;
    let Lane { store, free, shared, rescued } = own;
    let data = Data { store, index, parts, free, shared, rescued };
    let chance = Chance { clock: Clock::of_machine(), entropy: Box::new(|| Box::new(OsEntropy)) };
    let opened = Arc::new(std::sync::Mutex::new(None));
    let tables = data.shared.as_ref().and_then(|shared| shared.stories.as_ref());
    let tables = tables.map(|stories| stories.to.clone());
    let open_history = {
        let (config, opened) = (config.clone(), Arc::clone(&opened));
        Box::new(move |claimed: &Claimed, reports: Reports| {
            let (history, stands) = history(&config, lane, claimed.last, tables, reports)?;
            let handle = history.handle();
            *opened.lock().expect("nobody panics while holding it") = Some(history);
            Ok(Some((handle, stands)))
        })
    };
    let result = node::run(setup, data, sockets, chance, open_history, orders, ready).await;
    // What was fed becomes durable there, so that the next start has less to catch up with.
    let history: Option<History> = opened.lock().expect("nobody panics while holding it").take();
    if let Some(history) = history {
        history.close();
    }
    result
}

/// Core's bounds as configured.
pub fn limits(config: &Config) -> Limits {
    let (given, retention) = (&config.limits, &config.retention);
    let span = |period: crate::config::Period| Span::from(period.0);
    Limits {
        lease: span(given.lease_default),
        lease_min: span(given.lease_min),
        lease_max: span(given.lease_max),
        failed_deliveries: given.failed_deliveries,
        backoff_first: span(given.backoff_first),
        backoff_max: span(given.backoff_max),
        backoff_jitter_percent: percent(given.backoff_jitter),
        credit_max: given.credit_max,
        redistribution_delay: span(given.redistribution_delay),
        spill_after: span(given.spill_after),
        max_hops: given.max_hops,
        idempotency: span(given.idempotency),
        idempotency_ids: given.idempotency_ids,
        parked_retention: retention.parked.map(span),
        shadow_retention: span(retention.shadow),
        shadow_bytes: retention.shadow_bytes.0,
        offer_timeout: span(given.offer_timeout),
        drain: span(given.drain),
        payload_bytes: given.payload.0,
        headers: given.headers,
        headers_bytes: given.headers_bytes.0,
        header_key_bytes: u32::try_from(given.header_key.0).unwrap_or(u32::MAX),
        horizon: span(given.horizon),
        transaction_items: given.transaction_items,
        transaction_bytes: given.transaction_bytes.0,
        subscriptions: given.subscriptions,
        sessions: given.sessions,
        types: given.types,
        leases: given.leases,
        window_bytes: given.window_bytes.0,
        leased_bytes: given.leased_bytes.0,
        uncommitted_bytes: given.uncommitted_bytes.0,
        transit: given.transit,
        part_bytes: part_bytes(config.store.kind),
        // Sizes of work that say nothing to an operator; simulations make them small.
        ..Limits::default()
    }
}

/// Whoever takes a lane over reads its last part, and has little time for it in a store that is shared.
fn part_bytes(store: StoreKind) -> u64 {
    match store {
        StoreKind::Embedded => Limits::default().part_bytes,
        StoreKind::Postgres | StoreKind::Cassandra => SHARED_PART_BYTES,
    }
}

/// How the node watches others on its store, as configured.
pub(crate) fn pace(config: &Config) -> Pace {
    let given = &config.limits;
    Pace {
        self_fence_after: Span::from(given.self_fence_after.0),
        heartbeat: Span::from(given.heartbeat.0),
        dead_after: Span::from(given.dead_after.0),
        adopted_max: given.adopted_lanes as usize,
    }
}

/// The edges' bounds as configured.
fn bounds(config: &Config) -> Bounds {
    let given = &config.limits;
    Bounds {
        connections: given.connections,
        credit_default: given.credit_default,
        keepalive: given.keepalive.0,
        keepalive_timeout: given.keepalive_timeout.0,
        follow: given.follow_timeout.0,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100")]
fn percent(fraction: f64) -> u32 {
    (fraction.clamp(0.0, 1.0) * 100.0).round() as u32
}

/// The node's setup as configured.
pub(crate) fn setup(config: &Config, lane: LaneId) -> Result<Setup, NodeError> {
    let host = gethostname::gethostname().to_string_lossy().into_owned();
    let name = config.node_name_or_host(&host, &lane.to_string());
    let name = Name::new("node_name", name.as_str())
        .map_err(|bad| StoreError::Refused(bad.to_string()))?;
    Ok(Setup {
        name,
        lane,
        limits: limits(config),
        peers: config.peer.iter().map(|peer| peer.addr.to_string()).collect(),
        bounds: bounds(config),
        store: "embedded",
        durability: v1::Durability::Synced,
        disk_reserve: config.limits.disk_reserve.0,
        recorder: recorder(config),
    })
}

/// Where the flight recorder writes; with too little room there is none.
fn recorder(config: &Config) -> Option<RecorderPlace> {
    let bytes = config.limits.recorder_bytes.0;
    let reserve = config.limits.disk_reserve.0;
    (bytes > 0).then(|| RecorderPlace { dir: config.data_dir.join("recorder"), bytes, reserve })
}

fn history(
    config: &Config,
    lane: LaneId,
    last: RecordNumber,
    tables: Option<SharedHistory>,
    reports: Reports,
) -> Result<(History, RecordNumber), NodeError> {
    let lane = (lane, last, RecordNumber(1));
    History::open_shared(&config.data_dir, lane, history_options(config), tables, reports)
        .map_err(|error| NodeError::History(error.to_string()))
}

/// The bounds of a history.
pub(crate) fn history_options(config: &Config) -> HistoryOptions {
    HistoryOptions {
        bytes: config.history.bytes.0,
        time: Span::from(config.history.time.0),
        lag: config.history.lag.0,
        part_log: match config.store.kind {
            StoreKind::Embedded => u64::MAX,
            StoreKind::Postgres | StoreKind::Cassandra => PART_LOG_BYTES,
        },
        ..HistoryOptions::default()
    }
}

async fn listen(key: &'static str, address: &str) -> Result<TcpListen, NodeError> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(TcpListen(listener)),
        Err(problem) => Err(NodeError::Listen { key, address: address.to_owned(), problem }),
    }
}

/// Opens the ports again that a node of this process had a moment ago.
async fn listen_again(at: &Addresses) -> Result<Sockets<TcpListen, TcpDial>, NodeError> {
    let again = async |key, address: &str| {
        let began = tokio::time::Instant::now();
        loop {
            match listen(key, address).await {
                Err(_) if began.elapsed() < PORT_AGAIN => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                listening => return listening,
            }
        }
    };
    Ok(Sockets {
        clients: again("listen.clients", &at.clients).await?,
        nodes: again("listen.nodes", &at.nodes).await?,
        admin: again("listen.admin", &at.admin).await?,
        dialer: TcpDial,
    })
}

/// Orders as signals give them: the first SIGTERM or SIGINT drains, the second stops.
fn orders() -> Result<watch::Receiver<Order>, NodeError> {
    let failed =
        |error: std::io::Error| StoreError::Io(format!("cannot wait for signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let (order, orders) = watch::channel(Order::Run);
    tokio::spawn(async move {
        for next in [Order::Drain, Order::Stop] {
            // Either of the two will do, the one that has come first.
            tokio::select! {
                biased;
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            order.send_replace(next);
        }
        // The sender stays: a node whose orders have ended would not know what to do.
        std::future::pending::<()>().await;
    });
    Ok(orders)
}

async fn parts_of(index: &mut IndexDb) -> Result<Vec<PartInfo>, StoreError> {
    let (done, answer) = oneshot::channel();
    index.parts(Box::new(move |parts| drop(done.send(parts))));
    let parts = match answer.await {
        Ok(Ok(parts)) => parts,
        // The index is derived: without it, it is built again.
        Ok(Err(error)) => {
            tracing::warn!("the id index is built again: {error}");
            Vec::new()
        }
        Err(_) => return Err(StoreError::Io("the id index ended without an answer".into())),
    };
    let info = |part: crate::store::PartInfo| PartInfo {
        part: part.part,
        end: part.stands_at.next(),
        min: part.min,
        max: part.max,
        filter: part.filter,
        count: part.count,
    };
    Ok(parts.into_iter().map(info).collect())
}

impl Index for IndexDb {
    fn put(&mut self, part: PartIds) {
        let number = part.part;
        let part = Part {
            part: number,
            stands_at: RecordNumber(part.end.0.saturating_sub(1)),
            entries: part.ids,
            filter: part.filter,
        };
        self.write_part(part, Box::new(move |done| warn_of("written", number, done)));
    }

    fn look_up(&mut self, part: u64, id: ObjectId, done: Done<Result<Option<Loc>, StoreError>>) {
        let first = |locs: Result<Vec<Option<Loc>>, StoreError>| {
            locs.map(|locs| locs.first().copied().flatten())
        };
        self.lookup(vec![(part, id)], Box::new(move |locs| done(first(locs))));
    }

    fn truncate(&mut self, part: u64) {
        self.drop_parts_below(part, Box::new(move |done| warn_of("cut", part, done)));
    }
}

fn warn_of(what: &str, part: u64, done: Result<(), StoreError>) {
    if let Err(error) = done {
        tracing::warn!(part, "the id index was not {what}: {error}");
    }
}
