//! The simulated network with its hosts, and what can be done to them between two steps.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use dpc_core::ids::LaneId;
use dpc_core::{Limits, Mono};
use runtime::node::{Bounds, Order};
use sim::store::SimDisk;
use tokio::sync::watch;
use turmoil::Sim;

use crate::client::{self, Habits};
use crate::node;
use crate::world::{NodeFacts, State, World};

/// What is fixed before a run begins.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) limits: Limits,
    pub(crate) bounds: Bounds,
    /// The peers that each node dials, by number.
    pub(crate) peers: Vec<Vec<usize>>,
    /// The least and the longest way of a segment.
    pub(crate) latency: (Duration, Duration),
    pub(crate) tick: Duration,
}

impl Plan {
    /// Nodes that dial these peers, over a quick network, with limits that fit into seconds.
    pub(crate) fn new(seed: u64, peers: &[&[usize]]) -> Self {
        Self {
            seed,
            limits: quick_limits(),
            bounds: node::quick_bounds(),
            peers: peers.iter().map(|peers| peers.to_vec()).collect(),
            latency: (Duration::from_millis(1), Duration::from_millis(5)),
            tick: Duration::from_millis(1),
        }
    }
}

/// Limits at which everything that waits for time happens within seconds.
pub(crate) fn quick_limits() -> Limits {
    use dpc_core::Span;
    Limits {
        lease: Span::millis(2_000),
        lease_min: Span::millis(500),
        failed_deliveries: 4,
        backoff_first: Span::millis(100),
        backoff_max: Span::millis(1_500),
        redistribution_delay: Span::millis(500),
        spill_after: Span::millis(200),
        offer_timeout: Span::millis(500),
        drain: Span::millis(3_000),
        part_bytes: 24 << 10,
        part_ids: 200,
        carry_slack_bytes: 24 << 10,
        record_target_bytes: 4 << 10,
        window_objects: 16,
        pages: 64,
        ..Limits::default()
    }
}

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    /// The process is killed: the system closes its connections.
    Stays,
    /// The machine loses power: nobody hears of it, and what was not synced may be lost.
    Cut,
}

/// The hosts and the network between them.
pub(crate) struct Net<'a> {
    pub(crate) sim: Sim<'a>,
    pub(crate) world: World,
    pub(crate) plan: Plan,
    hosts: Vec<String>,
    /// Pairs of hosts whose network is not well.
    ill: BTreeMap<(String, String), Ill>,
}

/// What the network between two hosts does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ill {
    /// It loses everything.
    Cut,
    /// It loses what the first says to the second.
    CutOneWay,
    /// It keeps everything back, and loses nothing.
    Held,
}

impl<'a> Net<'a> {
    /// A network with the nodes of a plan, all starting.
    pub(crate) fn new(plan: Plan) -> Self {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(plan.seed)
            .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .tick_duration(plan.tick)
            .min_message_latency(plan.latency.0)
            .max_message_latency(plan.latency.1)
            .tcp_capacity(4_096)
            .enable_random_order()
            .simulation_duration(Duration::from_secs(3_600));
        let world = World::new(plan.limits.max_hops);
        let mut net =
            Self { sim: builder.build(), world, plan, hosts: Vec::new(), ill: BTreeMap::new() };
        for number in 0..net.plan.peers.len() {
            net.add_node(number);
        }
        for number in 0..net.plan.peers.len() {
            net.start_node(number);
        }
        net
    }

    fn add_node(&mut self, number: usize) {
        let lane = LaneId(std::array::from_fn(|i| {
            let mixed = (self.plan.seed ^ (number as u64 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if i == 15 { number as u8 + 1 } else { mixed.to_le_bytes()[i % 8] }
        }));
        let facts = &mut *self.world.lock();
        facts.checks.add_lane(lane);
        facts.nodes.push(NodeFacts {
            name: format!("n{}", number + 1),
            lane,
            peers: self.plan.peers[number].clone(),
            limits: self.plan.limits.clone(),
            disk: SimDisk::new(self.plan.seed ^ (number as u64 + 1) << 40, lane),
            index: Default::default(),
            free: u64::MAX,
            lives: 0,
            state: State::Starting,
            order: watch::Sender::new(Order::Run),
            failures: 0,
        });
    }

    fn start_node(&mut self, number: usize) {
        let (world, seed) = (self.world.clone(), self.plan.seed);
        let bounds = self.plan.bounds.clone();
        let name = self.name(number);
        self.hosts.push(name.clone());
        self.sim.host(name, move || node::live(world.clone(), number, seed, bounds.clone()));
    }

    /// Adds a host on which a client lives by its habits.
    pub(crate) fn add_client(&mut self, habits: Habits) {
        let world = self.world.clone();
        self.hosts.push(habits.name.clone());
        let name = habits.name.clone();
        self.sim.host(name, move || client::live(world.clone(), habits.clone()));
    }

    /// Adds a host that runs this once.
    pub(crate) fn add_host<F>(&mut self, name: &str, run: impl Fn() -> F + 'a)
    where
        F: Future<Output = turmoil::Result> + 'static,
    {
        self.hosts.push(name.to_owned());
        self.sim.host(name, run);
    }

    /// The name of a node.
    pub(crate) fn name(&self, node: usize) -> String {
        self.world.lock().nodes[node].name.clone()
    }

    /// One tick. What ended by itself meanwhile is taken off the network.
    pub(crate) fn step(&mut self) {
        crate::telling::set_time(self.sim.elapsed());
        if let Err(error) = crate::telling::stepping(|| self.sim.step()) {
            self.world.fail("P14", format!("a host failed: {error}"));
        }
        for node in 0..self.plan.peers.len() {
            let state = self.world.lock().nodes[node].state.clone();
            if let State::Ended(how) = state {
                self.on_end(node, how);
            }
        }
    }

    fn on_end(&mut self, node: usize, how: Result<(), String>) {
        let name = self.name(node);
        self.sim.crash(name.as_str());
        let facts = &mut *self.world.lock();
        let excused = facts.nodes[node].was_failed();
        let ordered = *facts.nodes[node].order.borrow() != Order::Run;
        facts.nodes[node].state = State::Down;
        match how {
            Ok(()) if ordered => facts.coverage.add("stopped as ordered"),
            Ok(()) => facts.checks.fail("P14", format!("{name} stopped without an order")),
            Err(_) if excused => facts.coverage.add("stopped by its store"),
            Err(why) => facts.checks.fail("P16", format!("{name} stopped: {why}")),
        }
    }

    /// Steps for a while.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let until = self.sim.elapsed() + span;
        while self.sim.elapsed() < until && self.world.lock().checks.broken().is_none() {
            self.step();
        }
    }

    /// Steps until something holds. False if it does not within the span.
    pub(crate) fn run_until(
        &mut self,
        span: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let until = self.sim.elapsed() + span;
        loop {
            if holds(self) {
                return true;
            }
            if self.sim.elapsed() >= until || self.world.lock().checks.broken().is_some() {
                return false;
            }
            self.step();
        }
    }

    /// Steps until all nodes serve.
    pub(crate) fn run_until_up(&mut self) {
        let all =
            |net: &mut Self| net.world.lock().nodes.iter().all(|n| matches!(n.state, State::Up));
        assert!(self.run_until(Duration::from_secs(20), all), "the nodes start");
    }

    /// Whether a node has a process.
    pub(crate) fn is_running(&self, node: usize) -> bool {
        matches!(self.world.lock().nodes[node].state, State::Starting | State::Up)
    }

    /// Ends the process of a node.
    pub(crate) fn kill(&mut self, node: usize, power: Power) {
        if !self.is_running(node) {
            return;
        }
        let name = self.name(node);
        self.say(&format!(
            "{name} {}",
            if power == Power::Cut { "loses power" } else { "is killed" }
        ));
        if power == Power::Cut {
            // Its last words must not leave: a machine without power closes no connection.
            self.each_other(&name, |sim, other| sim.partition(name.as_str(), other));
        }
        self.sim.crash(name.as_str());
        if power == Power::Cut {
            self.each_other(&name, |sim, other| sim.repair(name.as_str(), other));
            let ill = self.ill.clone();
            let his = ill.iter().filter(|((a, b), _)| *a == name || *b == name);
            his.for_each(|((a, b), ill)| self.apply(a, b, *ill));
            self.world.lock().nodes[node].disk.power_cut();
        }
        self.world.lock().nodes[node].state = State::Down;
        self.world.saw(if power == Power::Cut { "power cut" } else { "killed" });
    }

    /// Starts the process of a node again.
    pub(crate) fn restart(&mut self, node: usize) {
        if self.is_running(node) {
            return;
        }
        let name = self.name(node);
        self.say(&format!("{name} starts again"));
        self.world.lock().nodes[node].state = State::Starting;
        self.sim.bounce(name.as_str());
        self.world.saw("restarted");
    }

    /// Makes the network between two hosts ill, or worse than it was.
    pub(crate) fn make_ill(&mut self, a: &str, b: &str, ill: Ill) {
        self.heal(a, b);
        self.say(&format!("between {a} and {b} the network is {ill:?}"));
        self.apply(a, b, ill);
        self.ill.insert((a.to_owned(), b.to_owned()), ill);
        self.world.saw(match ill {
            Ill::Cut => "cut",
            Ill::CutOneWay => "cut one way",
            Ill::Held => "held",
        });
    }

    fn apply(&self, a: &str, b: &str, ill: Ill) {
        match ill {
            Ill::Cut => self.sim.partition(a, b),
            Ill::CutOneWay => self.sim.partition_oneway(a, b),
            Ill::Held => self.sim.hold(a, b),
        }
    }

    /// The network between two hosts is well again.
    pub(crate) fn heal(&mut self, a: &str, b: &str) {
        for pair in [(a.to_owned(), b.to_owned()), (b.to_owned(), a.to_owned())] {
            if let Some(ill) = self.ill.remove(&pair) {
                self.say(&format!("between {a} and {b} the network is well again"));
                match ill {
                    Ill::Cut | Ill::CutOneWay => self.sim.repair(a, b),
                    Ill::Held => self.sim.release(a, b),
                }
            }
        }
    }

    /// All of the network is well again.
    pub(crate) fn heal_all(&mut self) {
        let pairs: Vec<_> = self.ill.keys().cloned().collect();
        pairs.iter().for_each(|(a, b)| self.heal(a, b));
    }

    /// Tells a node to drain or to stop.
    pub(crate) fn order(&mut self, node: usize, order: Order) {
        self.say(&format!("{} is told to {order:?}", self.name(node)));
        self.world.lock().nodes[node].order.send_replace(order);
    }

    fn each_other(&self, name: &str, act: impl Fn(&Sim<'_>, &str)) {
        self.hosts.iter().filter(|host| *host != name).for_each(|host| act(&self.sim, host));
    }

    /// A line of the story.
    pub(crate) fn say(&self, what: &str) {
        crate::telling::set_time(self.sim.elapsed());
        tracing::info!(target: "story", "--- {what}");
    }

    /// The time by which the disks live.
    pub(crate) fn now(&self) -> Mono {
        Mono(u64::try_from(self.sim.elapsed().as_micros()).expect("a short simulation"))
    }

    /// The first broken promise.
    pub(crate) fn broken(&self) -> Option<String> {
        self.world.lock().checks.broken().map(str::to_owned)
    }
}
