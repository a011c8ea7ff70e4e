//! Seeded random runs of the full stack: each draws its nodes, links, limits, clients and faults,
//! lets everything happen at once for a while, then heals, and has to come to an end.

use std::time::Duration;

use dpc_core::Span;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use runtime::node::Order;
use sim::contract::Fault;
use sim::coverage::Coverage;

use crate::client::Habits;
use crate::closing;
use crate::disk::FULL_SLACK;
use crate::net::{Ill, Net, Plan, Power};
use crate::world::{Phase, State};

/// Clients finish what they have under way, at most after giving up and closing.
const CLOSING: Duration = Duration::from_secs(30);

/// From the end of all faults until everything is at rest: a dialler may be in its longest wait.
const CONVERGING: Duration = Duration::from_secs(60);

/// How one run ended.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) broken: Option<String>,
    pub(crate) coverage: Coverage,
    pub(crate) simulated: Duration,
}

/// How likely each fault is in one run, drawn for it.
#[derive(Debug)]
struct Mood {
    kill: u64,
    network: u64,
    disk: u64,
    client: u64,
    order: u64,
    /// Longest time between two faults.
    pace: u64,
}

struct Swarm<'a> {
    net: Net<'a>,
    rng: Pcg64Mcg,
    mood: Mood,
    clients: Vec<String>,
    chaos: Duration,
}

/// Runs one seed.
pub(crate) fn run(seed: u64) -> Report {
    let mut swarm = Swarm::new(seed);
    swarm.live();
    let (broken, simulated) = (swarm.net.broken(), swarm.net.sim.elapsed());
    let coverage = std::mem::take(&mut swarm.net.world.lock().coverage);
    Report { broken, coverage, simulated }
}

impl Swarm<'_> {
    fn new(seed: u64) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed ^ 0x6e65_7400);
        let mut plan = Plan::new(seed, &[]);
        plan.peers = topology(&mut rng);
        let slow = one_of(&mut rng, &[2, 5, 20, 60]);
        plan.latency = (Duration::from_millis(1), Duration::from_millis(slow));
        plan.tick = Duration::from_millis(one_of(&mut rng, &[1, 1, 2]));
        let limits = &mut plan.limits;
        limits.transit = one_of(&mut rng, &[2, 8, 8_192]) as u32;
        limits.window_objects = one_of(&mut rng, &[4, 16, 64]) as usize;
        limits.redistribution_delay = Span::millis(one_of(&mut rng, &[200, 500, 1_000]));
        limits.part_ids = one_of(&mut rng, &[40, 200, 4_000]) as usize;
        let mood = Mood {
            kill: one_of(&mut rng, &[0, 1, 3]),
            network: one_of(&mut rng, &[0, 3, 8]),
            disk: one_of(&mut rng, &[0, 0, 1, 3]),
            client: one_of(&mut rng, &[0, 0, 1]),
            order: one_of(&mut rng, &[0, 0, 1]),
            pace: one_of(&mut rng, &[100, 400, 1_000]),
        };
        let chaos = Duration::from_millis(2_000 + rng.next_u64() % 5_000);
        let mut swarm = Self { net: Net::new(plan), rng, mood, clients: Vec::new(), chaos };
        swarm.add_clients(seed);
        swarm
    }

    fn add_clients(&mut self, seed: u64) {
        let nodes = self.net.plan.peers.len() as u64;
        for i in 0..2 + self.draw(3) {
            let mut known = vec![self.draw(nodes) as usize];
            if self.draw(3) == 0 {
                known.push(self.draw(nodes) as usize);
                known.dedup();
            }
            // The first one does both, so that no run is without work.
            let (pushes, receives) = (i == 0 || self.draw(3) > 0, i == 0 || self.draw(3) > 0);
            let name = format!("c{}", i + 1);
            self.clients.push(name.clone());
            self.net.add_client(Habits {
                name,
                seed: seed ^ (i + 1) << 48,
                nodes: known,
                pace: Duration::from_millis(one_of(&mut self.rng, &[60, 200, 600])),
                pushes,
                receives,
            });
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below.max(1)
    }

    fn any_node(&mut self) -> usize {
        let nodes = self.net.plan.peers.len() as u64;
        self.draw(nodes) as usize
    }

    fn live(&mut self) {
        self.net.run_until_up();
        let until = self.net.sim.elapsed() + self.chaos;
        while self.net.sim.elapsed() < until && self.net.broken().is_none() {
            let wait = 1 + self.draw(self.mood.pace);
            self.net.run_for(Duration::from_millis(wait));
            self.strike();
        }
        self.heal();
        self.close();
        closing::converge(&mut self.net, CONVERGING);
    }

    /// One fault, or the end of one.
    fn strike(&mut self) {
        let m = &self.mood;
        let weights = [m.kill, m.network, m.disk, m.client, m.order];
        let all: u64 = weights.iter().sum();
        if all == 0 {
            return self.net.world.saw("nothing failed");
        }
        let mut at = self.draw(all);
        let mut what = 0;
        while at >= weights[what] {
            at -= weights[what];
            what += 1;
        }
        match what {
            0 => self.kill(),
            1 => self.network(),
            2 => self.disk(),
            3 => self.client(),
            _ => self.order(),
        }
    }

    fn kill(&mut self) {
        let node = self.any_node();
        if !self.net.is_running(node) {
            return self.net.restart(node);
        }
        let power = if self.draw(2) == 0 { Power::Cut } else { Power::Stays };
        self.net.kill(node, power);
        if self.draw(3) == 0 {
            self.net.world.lock().nodes[node].index.clear();
            self.net.world.saw("id index lost");
        }
        if self.draw(2) == 0 {
            self.net.restart(node);
        }
    }

    fn network(&mut self) {
        let node = self.any_node();
        let a = self.net.name(node);
        let other = self.draw(self.net.plan.peers.len() as u64 + self.clients.len() as u64);
        let b = match self.clients.get(other as usize) {
            Some(client) => client.clone(),
            None => self.net.name(other as usize - self.clients.len()),
        };
        if a == b {
            return;
        }
        match self.draw(9) {
            0 | 1 => self.net.make_ill(&a, &b, Ill::Cut),
            2 => self.net.make_ill(&a, &b, Ill::CutOneWay),
            3 => self.net.make_ill(&b, &a, Ill::CutOneWay),
            4 => self.net.make_ill(&a, &b, Ill::Held),
            5 => {
                self.net.say(&format!("the connections of {a} and {b} are reset"));
                if self.net.world.wires.reset(&a, &b) > 0 {
                    self.net.world.saw("connections reset");
                }
            }
            6 => self.net.heal(&a, &b),
            _ => self.net.heal_all(),
        }
    }

    fn disk(&mut self) {
        let node = self.any_node();
        let now = self.net.now();
        let stall = Span::millis(self.draw(2_500));
        let what = self.draw(7);
        self.net.say(&format!("fault {what} of the disk of {}", self.net.name(node)));
        let facts = &mut *self.net.world.lock();
        let nf = &mut facts.nodes[node];
        match what {
            0 => nf.disk.fail_next(Fault::SyncFails),
            1 => nf.disk.fail_next(Fault::UnknownNever),
            2 => nf.disk.fail_next(Fault::UnknownLater),
            3 => nf.limit_disk(FULL_SLACK),
            4 => {
                nf.disk.stall(now + stall);
                facts.coverage.add("disk stalled");
            }
            5 => {
                nf.free = 0;
                facts.coverage.add("disk below its reserve");
            }
            _ => nf.mend_disk(),
        }
    }

    fn client(&mut self) {
        let i = self.draw(self.clients.len() as u64) as usize;
        let name = self.clients[i].clone();
        self.net.say(&format!("{name} dies and starts again"));
        self.net.sim.crash(name.as_str());
        self.net.sim.bounce(name.as_str());
        self.net.world.saw("client killed");
    }

    fn order(&mut self) {
        let node = self.any_node();
        if matches!(self.net.world.lock().nodes[node].state, State::Up) {
            let order = if self.draw(2) == 0 { Order::Drain } else { Order::Stop };
            self.net.order(node, order);
        }
    }

    /// The end of all faults.
    fn heal(&mut self) {
        self.net.say("everything heals");
        self.net.heal_all();
        for node in 0..self.net.plan.peers.len() {
            self.net.world.lock().nodes[node].mend_disk();
        }
        // Who was told to end has the time to do it, and a disk fault its last effect.
        self.net.run_for(Duration::from_secs(6));
        for node in 0..self.net.plan.peers.len() {
            self.net.restart(node);
        }
    }

    /// Clients begin nothing new, and end what they have begun.
    fn close(&mut self) {
        self.net.say("the clients end what they have begun");
        self.net.world.lock().phase = Phase::Closing;
        let clients = self.clients.len();
        let done = |net: &mut Net<'_>| net.world.lock().clients_done.len() == clients;
        if !self.net.run_until(CLOSING, done) && self.net.broken().is_none() {
            let done = self.net.world.lock().clients_done.clone();
            let open = self.clients.iter().filter(|c| !done.contains(*c));
            let open: Vec<_> = open.cloned().collect();
            let what = format!("{} still wait for answers {CLOSING:?} later", open.join(", "));
            self.net.world.fail("P11", what);
        }
    }
}

/// The peers that each of two to five nodes dials.
fn topology(rng: &mut Pcg64Mcg) -> Vec<Vec<usize>> {
    let count = 2 + (rng.next_u64() % 4) as usize;
    let shape = rng.next_u64() % 4;
    let mut peers: Vec<Vec<usize>> = (0..count)
        .map(|node| match (node, shape) {
            (0, _) => Vec::new(),
            (_, 0 | 1) => vec![node - 1],
            (_, 2) => vec![0],
            _ => vec![(rng.next_u64() % node as u64) as usize],
        })
        .collect();
    if shape == 1 && count > 2 {
        peers[0].push(count - 1);
    }
    if rng.next_u64().is_multiple_of(3) {
        // Both dial: one of the two links has to go.
        peers[0].push(1);
        peers[0].dedup();
    }
    peers
}

fn one_of(rng: &mut Pcg64Mcg, of: &[u64]) -> u64 {
    of[(rng.next_u64() % of.len() as u64) as usize]
}
