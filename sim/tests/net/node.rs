//! The process of one node: the real runtime on simulated edges.

use std::future::pending;
use std::time::Duration;

use dpc_core::PartInfo;
use dpc_core::effect::PartIds;
use dpc_core::names::Name;
use dpc_core::time::Wall;
use dpc_proto::v1;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use runtime::edge::{Clock, Entropy};
use runtime::node::{self, Bounds, Chance, Data, NodeError, Order, Setup, Sockets};
use tokio::sync::watch;

use crate::disk::{Log, Parts};
use crate::wires::{Dialler, Port};
use crate::world::{State, World};

/// The port for clients of every node.
pub(crate) const CLIENTS: u16 = 50_051;
/// The port for nodes of every node.
pub(crate) const NODES: u16 = 40_051;
const ADMIN: u16 = 8_080;

/// Free bytes of disk below which a node refuses pushes.
pub(crate) const DISK_RESERVE: u64 = 1 << 20;

/// Runs one life of a node. It does not return: when the node has ended by itself, the harness
/// learns of it from the facts and ends the host, so that its connections close as a system's do.
pub(crate) async fn live(
    world: World,
    number: usize,
    seed: u64,
    bounds: Bounds,
) -> turmoil::Result {
    let ended = run(&world, number, seed, bounds).await;
    tracing::info!(target: "story", "the process ends: {ended:?}");
    world.lock().nodes[number].state = State::Ended(ended.map_err(|error| error.to_string()));
    pending().await
}

async fn run(world: &World, number: usize, seed: u64, bounds: Bounds) -> Result<(), NodeError> {
    let (order, orders) = watch::channel(Order::Run);
    let life = {
        let node = &mut world.lock().nodes[number];
        node.lives += 1;
        node.failures = node.disk.failures();
        (node.state, node.order) = (State::Starting, order);
        node.lives
    };
    let setup = setup(world, number, bounds);
    let name = setup.name.to_string();
    let open = async |port| {
        let opened = Port::open(&world.wires, &name, port).await;
        opened.expect("no other process of this host has the port")
    };
    let sockets = Sockets {
        clients: open(CLIENTS).await,
        nodes: open(NODES).await,
        admin: open(ADMIN).await,
        dialer: Dialler::new(&world.wires, &name),
    };
    let data = data(world, number);
    let chance = chance(seed ^ (number as u64 + 1) << 48 ^ life << 32);
    let told = world.clone();
    let ready = move |_: &node::Ready| told.lock().nodes[number].state = State::Up;
    // A history has a thread and a file of its own; the full stack runs without one.
    let no_history = Box::new(|_: &_, _| Ok(None));
    node::run(setup, data, sockets, chance, no_history, orders, ready).await
}

fn setup(world: &World, number: usize, bounds: Bounds) -> Setup {
    let facts = world.lock();
    let node = &facts.nodes[number];
    let peers = node.peers.iter().map(|peer| format!("{}:{NODES}", facts.nodes[*peer].name));
    Setup {
        name: Name::new("node_name", &node.name).expect("the harness names nodes well"),
        lane: node.lane,
        limits: node.limits.clone(),
        peers: peers.collect(),
        bounds,
        store: "simulated",
        durability: v1::Durability::Synced,
        disk_reserve: DISK_RESERVE,
        recorder: None,
    }
}

fn data(world: &World, number: usize) -> Data<Log, Parts> {
    let (disk, parts) = {
        let node = &world.lock().nodes[number];
        (node.disk.clone(), node.index.values().map(info).collect())
    };
    let room = world.clone();
    Data {
        store: Log::open(&disk, world),
        index: Parts { node: number, world: world.clone() },
        parts,
        free: Box::new(move || Some(room.lock().nodes[number].free)),
        shared: None,
        rescued: Vec::new(),
    }
}

/// Clocks of the simulation, and randomness that the seed fixes.
fn chance(seed: u64) -> Chance {
    let clock = Clock::starting_now(|| {
        let since = turmoil::since_epoch().expect("a host is running");
        Wall(u64::try_from(since.as_millis()).expect("a short simulation"))
    });
    let mut given = 0;
    let entropy = Box::new(move || {
        given += 1;
        Box::new(Seeded(Pcg64Mcg::seed_from_u64(seed ^ given))) as Box<dyn Entropy>
    });
    Chance { clock, entropy }
}

struct Seeded(Pcg64Mcg);

impl Entropy for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

fn info(part: &PartIds) -> PartInfo {
    PartInfo {
        part: part.part,
        end: part.end,
        min: part.ids.first().expect("a part has ids").0,
        max: part.ids.last().expect("a part has ids").0,
        filter: part.filter.clone(),
        count: part.ids.len() as u64,
    }
}

/// Bounds of the edges at which a lost peer is noticed within a second of simulated time.
pub(crate) fn quick_bounds() -> Bounds {
    Bounds {
        connections: 256,
        keepalive: Duration::from_millis(400),
        keepalive_timeout: Duration::from_millis(400),
        follow: Duration::from_secs(1),
        ..Bounds::default()
    }
}

/// Where clients reach a node.
pub(crate) fn clients_address(name: &str) -> String {
    format!("{name}:{CLIENTS}")
}
