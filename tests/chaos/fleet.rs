//! The nodes of a round, the proxies in front of them and between them, and what faults do to both.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::faults::{Act, Shape, Step, Wire};
use crate::history::{Event, History};
use crate::proxy::{Proxies, Proxy};
use crate::support::Node;
use crate::support::disk::Disk;

/// Short times, so that a round meets many of their ends; the rest is as people run it.
const SETTINGS: [&str; 6] = [
    "limits.backoff_first=100ms",
    "limits.backoff_max=2s",
    "limits.redistribution_delay=1s",
    "limits.keepalive=2s",
    "limits.keepalive_timeout=2s",
    "limits.disk_reserve=32MiB",
];

/// Links that an object crosses for one generation of demand, as nodes have it by default.
pub(crate) const MAX_HOPS: u32 = 8;

/// A node that met a full disk has ended by then.
const DYING: Duration = Duration::from_secs(5);

/// Large enough for a round of five minutes.
const DISK_BYTES: u64 = 768 << 20;

/// What the nemesis has done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Up,
    Stopped,
    Down,
}

/// Node processes with everything around them.
pub(crate) struct Fleet {
    nodes: Vec<Node>,
    is: Vec<Is>,
    /// Nodes whose disk has no room.
    starved: Vec<bool>,
    /// A node that had no space may end of it until it was seen alive after this time.
    excused: Vec<Option<Instant>>,
    links: Vec<Proxy>,
    clients: Vec<Proxy>,
    disks: Vec<Disk>,
    history: History,
    // Last, so that connections end after their nodes.
    _proxies: Proxies,
}

/// Where a node is found.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Through the proxy.
    pub(crate) clients: String,
    /// Past it.
    pub(crate) direct: String,
}

/// The names of so many nodes.
pub(crate) fn names(count: usize) -> Vec<String> {
    (b'a'..=b'z').take(count).map(|letter| char::from(letter).to_string()).collect()
}

impl Fleet {
    /// Starts the nodes, each linked to some that were started before it.
    pub(crate) fn start(
        folder: &Path,
        shape: &Shape,
        disks: Vec<Disk>,
        seed: u64,
        history: History,
    ) -> Self {
        let proxies = Proxies::start();
        let (mut nodes, mut links, mut clients) = (Vec::<Node>::new(), Vec::new(), Vec::new());
        for (index, name) in names(shape.nodes).iter().enumerate() {
            let mut arguments = Vec::new();
            for (_, to) in shape.links.iter().filter(|(from, _)| *from == index) {
                let proxy = proxies.proxy(&nodes[*to].ready.nodes, seed);
                arguments.extend(["--peer".to_owned(), proxy.address.clone()]);
                links.push(proxy);
            }
            arguments
                .extend(SETTINGS.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let data = disks.get(index).map_or(folder, Disk::path).join(name);
            let node = Node::start_at(&data, folder, name, &arguments);
            clients.push(proxies.proxy(&node.ready.clients, seed));
            nodes.push(node);
        }
        let is = vec![Is::Up; nodes.len()];
        let starved = vec![false; nodes.len()];
        let excused = vec![None; nodes.len()];
        Self { nodes, is, starved, excused, links, clients, disks, history, _proxies: proxies }
    }

    /// Disks for so many nodes, or why there are none.
    pub(crate) fn disks(count: usize) -> Result<Vec<Disk>, String> {
        (0..count).map(|_| Disk::mount(DISK_BYTES)).collect()
    }

    /// Where the nodes are.
    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |(node, proxy): (&Node, &Proxy)| Place {
            name: node.ready.node.clone(),
            clients: proxy.address.clone(),
            direct: node.ready.clients.clone(),
        };
        self.nodes.iter().zip(&self.clients).map(place).collect()
    }

    /// Performs a schedule, each step at its time, and heals everything at the end. Blocks.
    pub(crate) fn suffer(&mut self, steps: &[Step], began: Instant, end: Duration) {
        for step in steps {
            self.wait_until(began + Duration::from_millis(step.at_ms));
            self.act(step.act);
        }
        self.wait_until(began + end);
        self.heal();
    }

    /// Waits for the time of a step; a node that ends meanwhile is seen and started again.
    fn wait_until(&mut self, at: Instant) {
        loop {
            self.look_for_dead();
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// A node that has ended by itself: for want of space it may, otherwise it must not.
    fn look_for_dead(&mut self) {
        for index in 0..self.nodes.len() {
            if self.is[index] == Is::Down {
                continue;
            }
            let Some(status) = self.nodes[index].ended() else {
                self.excused[index] = self.excused[index].filter(|until| Instant::now() < *until);
                continue;
            };
            self.is[index] = Is::Down;
            let node = self.nodes[index].ready.node.clone();
            let what = format!("{node} ended by itself: {status}");
            if self.starved[index] || self.excused[index].is_some() {
                self.history.note(Event::Fault { what: format!("{what}, its disk was full") });
            } else {
                self.history.note(Event::Died { node, what });
            }
            self.start_node(index);
        }
    }

    fn start_node(&mut self, index: usize) {
        if self.is[index] == Is::Down && !self.starved[index] {
            self.nodes[index].start_again();
            self.is[index] = Is::Up;
        }
    }

    fn proxy(&self, wire: Wire) -> &Proxy {
        match wire {
            Wire::Link(link) => &self.links[link],
            Wire::Clients(node) => &self.clients[node],
        }
    }

    fn act(&mut self, act: Act) {
        self.history.note(Event::Fault { what: format!("{act:?}") });
        let span = Duration::from_millis;
        match act {
            Act::Cut(wire, ways) => self.proxy(wire).set(|faults| faults.cut = ways),
            Act::Delay(wire, delay, jitter) => self.proxy(wire).set(|faults| {
                (faults.delay, faults.jitter) = (span(delay), span(jitter));
            }),
            Act::Throttle(wire, bytes) => self.proxy(wire).set(|faults| {
                faults.bytes_per_s = (bytes > 0).then_some(bytes);
            }),
            Act::Vanish(wire, end) => self.proxy(wire).set(|faults| faults.vanished[end] += 1),
            Act::Reset(wire) => self.proxy(wire).set(|faults| faults.resets += 1),
            Act::Kill(index) => {
                if self.is[index] != Is::Down {
                    self.nodes[index].kill();
                    self.is[index] = Is::Down;
                }
            }
            Act::Start(index) => self.start_node(index),
            Act::Stumble(index, after) => {
                if self.is[index] == Is::Down && !self.starved[index] {
                    self.nodes[index].stumble(span(after));
                }
            }
            Act::Lose(index) => {
                assert!(self.is[index] == Is::Down, "only what is down loses its data");
                std::fs::remove_dir_all(self.nodes[index].data()).expect("it has a data folder");
            }
            Act::Stop(index) => self.signal(index, Is::Up, Is::Stopped, Signal::STOP),
            Act::Continue(index) => self.signal(index, Is::Stopped, Is::Up, Signal::CONT),
            Act::Fill(index, leave_mib) => {
                self.starved[index] = true;
                self.disks[index].fill(leave_mib << 20);
            }
            Act::Free(index) => self.free(index),
        }
    }

    fn free(&mut self, index: usize) {
        self.disks[index].free();
        self.starved[index] = false;
        self.excused[index] = Some(Instant::now() + DYING);
    }

    fn signal(&mut self, index: usize, from: Is, to: Is, signal: Signal) {
        if self.is[index] == from {
            self.nodes[index].signal(signal);
            self.is[index] = to;
        }
    }

    /// Ends every fault: links pass, disks have room, nodes run.
    fn heal(&mut self) {
        for proxy in self.links.iter().chain(&self.clients) {
            proxy.set(|faults| {
                (faults.cut, faults.bytes_per_s) = ([false; 2], None);
                (faults.delay, faults.jitter) = (Duration::ZERO, Duration::ZERO);
            });
        }
        for index in 0..self.nodes.len() {
            if self.starved[index] {
                self.free(index);
            }
            self.signal(index, Is::Stopped, Is::Up, Signal::CONT);
            self.start_node(index);
        }
        self.history.note(Event::Fault { what: "all faults healed".to_owned() });
    }

    /// Kills every node, and says where its data is.
    pub(crate) fn end(&mut self) -> impl Iterator<Item = (&str, &Path)> {
        for index in 0..self.nodes.len() {
            if self.is[index] != Is::Down {
                self.nodes[index].kill();
                self.is[index] = Is::Down;
            }
        }
        self.nodes.iter().map(|node| (node.ready.node.as_str(), node.data()))
    }

    /// Copies what is on disks that go with the round into a folder that stays.
    pub(crate) fn keep_disks(&self, folder: &Path) {
        for disk in &self.disks {
            let mut copy = std::process::Command::new("cp");
            let status = copy.arg("-a").arg(disk.path()).arg(folder).status();
            if !status.is_ok_and(|status| status.success()) {
                eprintln!("the data on {} could not be kept", disk.path().display());
            }
        }
    }

    /// Nodes that have ended by themselves since the last look.
    pub(crate) fn look(&mut self) {
        self.look_for_dead();
    }
}
