//! A node on this machine: its data folder, its ports, its signals.

use std::sync::Arc;

use dpc_core::effect::PartIds;
use dpc_core::ids::{LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::names::Name;
use dpc_core::store::{Claimed, Done, Store, StoreError};
use dpc_core::{Limits, PartInfo, Span};
use dpc_proto::v1;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::config::{Address, Config, StoreKind};
use crate::edge::{Clock, Index, OsEntropy, TcpDial, TcpListen};
use crate::history::{History, HistoryOptions};
use crate::node::{self, Bounds, Chance, Data, NodeError, Order, Ready, Reports, Setup, Sockets};
use crate::recorder::RecorderPlace;
use crate::store::{Embedded, IndexDb, Options, Part, Postgres, PostgresOptions, Seat, disk_free};

/// Runs the node of a configuration until a signal ends it. A restored data folder gets a new lane
/// first.
///
/// # Errors
///
/// [`NodeError`] says why it did not start, or why it had to stop.
pub async fn serve(
    config: &Config,
    restored: bool,
    ready: impl FnOnce(&Ready),
) -> Result<(), NodeError> {
    // Ports come first: whoever asks for one that is taken learns of it before anything is touched.
    let sockets = Sockets {
        clients: listen("listen.clients", &config.listen.clients).await?,
        nodes: listen("listen.nodes", &config.listen.nodes).await?,
        admin: listen("listen.admin", &config.listen.admin).await?,
        dialer: TcpDial,
    };
    if config.store.kind == StoreKind::Postgres {
        return serve_postgres(config, restored, sockets, ready).await;
    }
    if restored {
        let name = Name::new("node_name", "restored").expect("a valid name");
        let clock = Clock::of_machine();
        crate::restored::renew(&config.data_dir, name, limits(config), || clock.now()).await?;
    } else {
        crate::restored::check(&config.data_dir)?;
    }
    let (store, lane) = Embedded::open(&config.data_dir, &Options::default())?;
    let dir = config.data_dir.clone();
    let free = Box::new(move || disk_free(&dir).ok());
    run(config, setup(config, lane)?, (store, free), sockets, ready).await
}

/// Runs a node whose lane is in Postgres. What its folder holds can be built again from the lane,
/// except for which lane it is.
async fn serve_postgres(
    config: &Config,
    restored: bool,
    sockets: Sockets<TcpListen, TcpDial>,
    ready: impl FnOnce(&Ready),
) -> Result<(), NodeError> {
    if restored {
        return Err(StoreError::Refused(
            "--restored is for a data folder with an embedded store; a lane in Postgres that was \
             restored from a backup needs a new data_dir, and its objects stay behind"
                .into(),
        )
        .into());
    }
    let seat = Seat::open(&config.data_dir)?;
    let setup = Setup {
        store: "postgres",
        durability: v1::Durability::Committed,
        ..setup(config, seat.lane())?
    };
    let options = PostgresOptions {
        url: config.store.url.clone().expect("a checked configuration has it"),
        create_tables: config.store.create_tables,
        patience: config.store.patience.0,
        node: setup.name.to_string(),
    };
    let store = Postgres::open(seat, options)?;
    // The disk under the lane is the database's own: it refuses when it is full.
    let free = Box::new(|| None);
    run(config, setup, (store, free), sockets, ready).await
}

/// Runs a node on a store, with index and history on the node's own disk.
async fn run<S: Store + Send + 'static>(
    config: &Config,
    setup: Setup,
    (store, free): (S, Box<dyn FnMut() -> Option<u64> + Send>),
    sockets: Sockets<TcpListen, TcpDial>,
    ready: impl FnOnce(&Ready),
) -> Result<(), NodeError> {
    let lane = setup.lane;
    let mut index = IndexDb::open(&config.data_dir.join("index"), lane)?;
    let parts = parts_of(&mut index).await?;
    let data = Data { store, index, parts, free };
    let chance = Chance { clock: Clock::of_machine(), entropy: Box::new(|| Box::new(OsEntropy)) };
    let opened = Arc::new(std::sync::Mutex::new(None));
    let open_history = {
        let (config, opened) = (config.clone(), Arc::clone(&opened));
        Box::new(move |claimed: &Claimed, reports: Reports| {
            let (history, stands) = history(&config, lane, claimed.last, reports)?;
            let handle = history.handle();
            *opened.lock().expect("nobody panics while holding it") = Some(history);
            Ok(Some((handle, stands)))
        })
    };
    let order = orders()?;
    let result = node::run(setup, data, sockets, chance, open_history, order, ready).await;
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
        // Sizes of work that say nothing to an operator; simulations make them small.
        ..Limits::default()
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
    (bytes > 0).then(|| RecorderPlace { dir: config.data_dir.join("recorder"), bytes })
}

fn history(
    config: &Config,
    lane: LaneId,
    last: RecordNumber,
    reports: Reports,
) -> Result<(History, RecordNumber), NodeError> {
    let options = HistoryOptions {
        bytes: config.history.bytes.0,
        time: Span::from(config.history.time.0),
        lag: config.history.lag.0,
        ..HistoryOptions::default()
    };
    History::open(&config.data_dir, lane, last, options, reports)
        .map_err(|error| NodeError::History(error.to_string()))
}

async fn listen(key: &'static str, address: &Address) -> Result<TcpListen, NodeError> {
    let text = address.to_string();
    match TcpListener::bind(&text).await {
        Ok(listener) => Ok(TcpListen(listener)),
        Err(problem) => Err(NodeError::Listen { key, address: text, problem }),
    }
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
