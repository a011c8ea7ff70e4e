//! A world of bare cores: nodes with simulated disks, links between them, clients on them, and one
//! virtual clock. Everything random comes from one seed, split into a stream per purpose; whatever
//! happens is one event of one queue, ordered by time and by the order in which it was asked for.

mod ask;
mod client;
mod damage;
mod drive;
mod faults;
mod life;
mod look;
mod misuse;
mod prefixes;
mod rules;
mod settle;
mod shared;
mod strange;
mod traffic;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use dpc_core::ids::{Epoch, LaneId, ObjectId, RecordNumber};
use dpc_core::recording::TapeBounds;
use dpc_core::time::{Mono, Now, Span, Wall};
use dpc_core::{Limits, Wake};

pub use client::{Client, Mode, Op, Pushing, Wish};
pub use faults::CrashPoint;
pub use life::{Node, Power};
pub use misuse::{BadEmits, Forgery};
pub use shared::{DEAD_AFTER, SELF_FENCE_AFTER};
pub use traffic::Traffic;
pub use wire::Wire;

use crate::checks::Checker;
use crate::coverage::Coverage;
use crate::recorder::{Recorder, Recording};
use crate::trace::Trace;

/// Wall time at the start of every world.
pub const START: Wall = Wall(1_700_000_000_000);

/// A fixed point is reached when nothing is due within this time: only far timers are left.
pub const QUIET: Span = Span(2_500_000);

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything random comes from here.
    pub seed: u64,
    /// The limits of every node.
    pub limits: Limits,
    /// Shortest time a message takes over a link.
    pub latency: Span,
    /// What is drawn on top of it.
    pub latency_spread: Span,
    /// How long a side may take to notice that a link was cut.
    pub notice: Span,
    /// How long a client thinks before it settles.
    pub think: Span,
    /// What is drawn on top of it.
    pub think_spread: Span,
    /// Chance in percent that a crash loses the id index.
    pub lose_index_percent: u64,
    /// Whether the story is written down.
    pub trace: bool,
}

impl Plan {
    /// The plan of scripts: default limits, one millisecond a link.
    pub fn story(seed: u64) -> Self {
        Self {
            seed,
            limits: Limits::default(),
            latency: Span::millis(1),
            latency_spread: Span(1),
            notice: Span::millis(20),
            think: Span::millis(10),
            think_spread: Span(1),
            lose_index_percent: 0,
            trace: true,
        }
    }
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A core has asked to be called.
    Wake { node: usize, life: u64 },
    /// A store has something to say.
    Store { node: usize, life: u64 },
    /// Something arrives at one end of a connection.
    Arrive { wire: usize, conn: u64, side: usize, what: Box<wire::Arrival> },
    /// A process reads what has arrived over a link.
    Read { node: usize, life: u64, link: dpc_core::ids::LinkId, what: Box<wire::Arrival> },
    /// Both sides of a connection look whether it is silent.
    Keepalive { wire: usize, conn: u64 },
    /// A dead process starts again.
    Restart { node: usize },
    /// The id index answers.
    LookedUp { node: usize, life: u64, part: u64, id: ObjectId, loc: Option<dpc_core::ids::Loc> },
    /// One end notices that its link is gone.
    Lost { node: usize, life: u64, link: dpc_core::ids::LinkId },
    /// A link is dialled.
    Dial { wire: usize },
    /// A client acts on a delivery.
    Think { node: usize, life: u64, lease: u64 },
    /// A stream has ended.
    HungUp { node: usize, life: u64, session: dpc_core::ids::SessionId },
    /// A client comes back to its node.
    Reconnect { client: usize },
    /// A process that stood still hears what a client wants now.
    Subscribe { client: usize, session: dpc_core::ids::SessionId },
    /// A push without an answer is said again.
    Retry { push: Box<Pushing> },
    /// The store has something to say to a process, or its membership has something to do.
    Process { node: usize, life: u64 },
    /// A process that starts asks again for its lane.
    AskForLane { node: usize, life: u64 },
    /// A probe of another process has been answered, or not.
    Probed { node: usize, life: u64, owner: Box<dpc_core::shared::Owner> },
}

struct Queued {
    at: Mono,
    seq: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// The world.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Mono,
    seq: u64,
    events: BinaryHeap<Reverse<Queued>>,
    pub(crate) nodes: Vec<Node>,
    /// What the nodes share, if their lanes are in one store.
    pub(crate) shared: Option<shared::Shared>,
    pub(crate) wires: Vec<Wire>,
    pub(crate) conns: u64,
    pub(crate) clients: Vec<Client>,
    pub(crate) ops: BTreeMap<u64, Op>,
    pub(crate) requests: u64,
    /// The last object id given out.
    pub(crate) last_id: u64,
    /// The story so far.
    pub trace: Trace,
    /// The promises, checked at every step.
    pub checks: Checker,
    /// Which situations have occurred.
    pub coverage: Coverage,
    /// What nodes have said to each other.
    pub traffic: Traffic,
    /// Events that have happened.
    pub steps: u64,
    /// Every so many steps each live core checks itself; zero for never.
    pub check_every: u64,
    /// Tokens of deliveries, with the versions, the latest last.
    pub(crate) tokens: std::collections::VecDeque<(dpc_core::object::Token, u32)>,
    /// How far each process has heard of each lane in handshakes.
    pub(crate) heard: BTreeMap<(usize, u64, LaneId), (Epoch, RecordNumber)>,
    /// When it is next looked whether anybody is starved.
    look_at: Mono,
    /// What operators were answered, newest last.
    pub answers: Vec<dpc_core::Answer>,
    /// How cores are recorded, if they are.
    pub(crate) recording: Option<TapeBounds>,
    /// Recordings of the lives that have ended.
    pub(crate) recordings: Vec<Recording>,
    /// Lists that effects have been gathered in, empty now: one for each call within another.
    spare: Vec<dpc_core::Effects>,
}

impl World {
    /// An empty world.
    pub fn new(plan: Plan) -> Self {
        Self {
            now: Mono(0),
            seq: 0,
            events: BinaryHeap::new(),
            nodes: Vec::new(),
            shared: None,
            wires: Vec::new(),
            conns: 0,
            clients: Vec::new(),
            ops: BTreeMap::new(),
            requests: 0,
            last_id: 0,
            trace: Trace::new(plan.trace),
            checks: Checker::new(plan.limits.max_hops),
            coverage: Coverage::default(),
            traffic: Traffic::default(),
            steps: 0,
            tokens: std::collections::VecDeque::new(),
            heard: BTreeMap::new(),
            look_at: Mono(0),
            check_every: 1,
            answers: Vec::new(),
            recording: None,
            recordings: Vec::new(),
            spare: Vec::new(),
            plan,
        }
    }

    /// Records every core from here on.
    pub fn record(&mut self, bounds: TapeBounds) {
        self.recording = Some(bounds);
        for life in self.nodes.iter_mut().filter_map(|n| n.life.as_mut()) {
            life.recorder = Some(Recorder::new(&mut life.core, bounds));
        }
    }

    /// The recordings of all lives so far.
    pub fn take_recordings(&mut self) -> Vec<Recording> {
        let living = self.nodes.iter_mut().filter_map(|n| n.life.as_mut()?.recorder.take());
        self.recordings.extend(living.map(Recorder::end));
        std::mem::take(&mut self.recordings)
    }

    /// The time since the world began.
    pub fn now(&self) -> Mono {
        self.now
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The links.
    pub fn wires(&self) -> &[Wire] {
        &self.wires
    }

    /// The true wall time.
    pub fn wall(&self) -> Wall {
        START + (self.now - Mono(0))
    }

    pub(crate) fn now_of(&self, node: usize) -> Now {
        let ahead_ms = self.nodes[node].clock.ahead_ms(self.now);
        Now { mono: self.now, wall: Wall(self.wall().0.saturating_add_signed(ahead_ms)) }
    }

    pub(crate) fn at(&mut self, at: Mono, event: Event) {
        self.seq += 1;
        self.events.push(Reverse(Queued { at: at.max(self.now), seq: self.seq, event }));
    }

    pub(crate) fn after(&mut self, span: Span, event: Event) {
        self.at(self.now + span, event);
    }

    /// Lets the next event happen, if it is due by `until`. Says whether there was one.
    pub fn step(&mut self, until: Mono) -> bool {
        match self.events.peek() {
            Some(Reverse(queued)) if queued.at <= until => {}
            _ => return false,
        }
        let Reverse(queued) = self.events.pop().expect("just seen");
        self.now = queued.at;
        self.steps += 1;
        self.happen(queued.event);
        if self.check_every > 0 && self.steps.is_multiple_of(self.check_every) {
            self.look_inside();
        }
        if self.now >= self.look_at {
            self.look_at = self.now + Span::secs(1);
            self.look_for_starved();
        }
        true
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Span) {
        let until = self.now + span;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs to a fixed point: until nothing but far timers is left, or `limit` has passed. Says
    /// whether it was reached.
    pub fn settle(&mut self, limit: Span) -> bool {
        let limit = self.now + limit;
        loop {
            let next = self.events.peek().map(|Reverse(q)| q.at);
            match next {
                Some(at) if at > limit => return false,
                Some(at) if at <= self.now + QUIET => {
                    self.step(at);
                }
                _ => return true,
            }
        }
    }

    fn happen(&mut self, event: Event) {
        if let Some(node) = self.whose(&event)
            && self.nodes[node].is_paused()
        {
            return self.nodes[node].deferred.push(event);
        }
        match event {
            Event::Wake { node, life } => self.on_wake(node, life),
            Event::Store { node, life } => self.on_store(node, life),
            Event::Arrive { wire, conn, side, what } => self.on_arrive(wire, conn, side, *what),
            Event::Read { node, life, link, what } => self.on_read(node, life, link, *what),
            Event::Keepalive { wire, conn } => self.on_keepalive(wire, conn),
            Event::Restart { node } => self.restart(node),
            Event::LookedUp { node, life, part, id, loc } => {
                if self.is_life(node, life) {
                    self.feed(node, dpc_core::Input::LookedUp { part, id, loc });
                }
            }
            Event::Lost { node, life, link } => self.on_lost(node, life, link),
            Event::Dial { wire } => self.on_dial(wire),
            Event::Think { node, life, lease } => self.on_think(node, life, lease),
            Event::HungUp { node, life, session } => self.on_hung_up(node, life, session),
            Event::Reconnect { client } => self.on_reconnect(client),
            Event::Subscribe { client, session } => self.on_subscribe(client, session),
            Event::Retry { push } => self.send_push(*push),
            Event::Process { node, life } => self.on_process(node, life),
            Event::AskForLane { node, life } => self.on_ask_for_lane(node, life),
            Event::Probed { node, life, owner } => self.on_probed(node, life, &owner),
        }
    }

    fn whose(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Wake { node, .. }
            | Event::Store { node, .. }
            | Event::LookedUp { node, .. }
            | Event::HungUp { node, .. }
            | Event::Read { node, .. }
            | Event::Think { node, .. }
            | Event::Process { node, .. }
            | Event::AskForLane { node, .. }
            | Event::Probed { node, .. }
            | Event::Lost { node, .. } => Some(*node),
            Event::Subscribe { client, .. } => Some(self.clients[*client].node),
            Event::Arrive { .. }
            | Event::Keepalive { .. }
            | Event::Restart { .. }
            | Event::Reconnect { .. }
            | Event::Dial { .. }
            | Event::Retry { .. } => None,
        }
    }

    /// The next wake of a node, for traces.
    pub fn next_wake(&self, node: usize) -> Option<Wake> {
        self.nodes[node].core().and_then(dpc_core::Core::next_wake)
    }

    /// The node of a lane.
    pub fn node_of(&self, lane: LaneId) -> Option<usize> {
        let of = |n: &&Node| n.lane == lane;
        let up = self.nodes.iter().position(|n| of(&n) && n.is_up());
        up.or_else(|| self.nodes.iter().position(|n| of(&n)))
    }

    /// Stops at the first broken promise: what it was.
    pub fn broken(&self) -> Option<&str> {
        self.checks.broken()
    }
}

/// The id of an object whose last digits are `n`.
pub fn object_id(n: u64) -> ObjectId {
    let mut bytes = [0; 16];
    bytes[6] = 0x70;
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    bytes[8] = 0x80;
    ObjectId(bytes)
}

/// The lane of a node whose first digits are its number.
pub(crate) fn lane_id(n: usize) -> LaneId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&u32::try_from(n).expect("few nodes").to_be_bytes());
    bytes[8] = 0x80;
    LaneId(bytes)
}
