//! Processes over a shared store: each has a client of it, its membership, its own core, and the
//! cores of lanes that it has adopted. An adopted core is a node of the world of its own, hosted by
//! the process: it dies and stops with it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::members::{Heard, Members, Move, Ways};
use dpc_core::names::Name;
use dpc_core::shared::{LaneRow, LaneState, Owner, SharedLane, SharedStore};
use dpc_core::store::{Appended, Claimed, Done, ReadDone, Store, StoreError};
use dpc_core::time::{Mono, Span};
use dpc_core::{Effects, Input};

use super::life::Power;
use super::{Event, World, lane_id};
use crate::recorder::Recorder;
use crate::shared::{Rates, SharedDb, SimLane, SimShared};
use crate::store::SimStore;

/// Silence on the shared store after which a process is taken for dead.
pub const DEAD_AFTER: Span = Span::secs(10);

/// Without proof of ownership for so long an owner delivers nothing.
pub const SELF_FENCE_AFTER: Span = Span::secs(8);

/// How often processes beat and read.
const HEARTBEAT: Span = Span::secs(1);

/// How long a probe waits for its answer.
const PROBE: Span = Span::millis(500);

/// How long a process rests before it asks again for a lane of its own.
const REST: Span = Span::secs(1);

/// What the processes of a world share.
pub(crate) struct Shared {
    pub(crate) db: SharedDb,
    pub(crate) processes: BTreeMap<usize, Process>,
    /// Lanes given out so far.
    lanes: usize,
    /// Most lanes that one process adopts at once.
    pub(crate) adopted_max: usize,
}

/// A running process.
pub(crate) struct Process {
    life: u64,
    client: SimShared,
    owner: Owner,
    said: Said,
    members: Option<Members>,
    claims: BTreeMap<LaneId, SimLane>,
    alarm: Option<Mono>,
}

type Said = Arc<Mutex<VecDeque<Word>>>;

enum Word {
    Head(Result<Option<LaneRow>, StoreError>),
    Claimed(LaneId, Result<Claimed, StoreError>),
    Heard(Heard),
}

/// The store of a node's lane: on its own disk, or in the shared database.
pub(crate) enum AnyStore {
    Disk(SimStore),
    Lane(Box<SimLane>),
}

impl AnyStore {
    pub(crate) fn next_due(&self) -> Option<Mono> {
        match self {
            Self::Disk(store) => store.next_due(),
            Self::Lane(store) => store.next_due(),
        }
    }

    pub(crate) fn complete_until(&mut self, now: Mono) {
        match self {
            Self::Disk(store) => store.complete_until(now),
            Self::Lane(store) => store.complete_until(now),
        }
    }

    pub(crate) fn shared(&mut self) -> Option<&mut SimLane> {
        match self {
            Self::Disk(_) => None,
            Self::Lane(store) => Some(store),
        }
    }
}

impl Store for AnyStore {
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>) {
        match self {
            Self::Disk(store) => store.claim(done),
            Self::Lane(store) => store.claim(done),
        }
    }

    fn appends_max(&self) -> usize {
        match self {
            Self::Disk(store) => store.appends_max(),
            Self::Lane(store) => store.appends_max(),
        }
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>) {
        match self {
            Self::Disk(store) => store.append(epoch, number, record, done),
            Self::Lane(store) => store.append(epoch, number, record, done),
        }
    }

    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        match self {
            Self::Disk(store) => store.read(from, bytes_max, done),
            Self::Lane(store) => store.read(from, bytes_max, done),
        }
    }

    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>) {
        match self {
            Self::Disk(store) => store.truncate(below, done),
            Self::Lane(store) => store.truncate(below, done),
        }
    }
}

impl World {
    /// From here on the nodes keep their lanes in one shared store.
    pub fn share_store(&mut self, adopted_max: usize) -> SharedDb {
        assert!(self.nodes.is_empty(), "the store comes before the nodes");
        let db = SharedDb::new(self.plan.seed ^ 0x7368_6172_6564);
        let processes = BTreeMap::new();
        self.shared = Some(Shared { db: db.clone(), processes, lanes: 0, adopted_max });
        db
    }

    /// The shared store meets each request with faults at these rates.
    pub fn set_store_rates(&mut self, rates: Rates) {
        if let Some(shared) = &self.shared {
            shared.db.set_rates(rates);
        }
        self.trace.headline(self.now, &format!("the store: {rates}"));
    }

    /// A process is cut off from the shared store for so long.
    pub fn cut_from_store(&mut self, node: usize, span: Span) {
        let until = self.now + span;
        if let Some(shared) = &self.shared {
            shared.db.cut(node, until);
        }
        let line = format!("{} is cut off from the store for {span}", self.nodes[node].name);
        self.trace.headline(self.now, &line);
    }

    /// Whether a node's process can use its store, and its core may deliver by what it has proved.
    pub(crate) fn reaches_store(&self, node: usize) -> bool {
        let Some(shared) = &self.shared else { return true };
        let process = self.nodes[node].host.unwrap_or(node);
        let until = self.nodes[node].core().and_then(dpc_core::Core::deliver_until);
        !shared.db.is_cut(process, self.now) && until.is_none_or(|until| until > self.now)
    }

    /// A process dies and never comes back.
    pub fn lose_for_ever(&mut self, node: usize) {
        self.kill(node, Power::Stays);
        self.nodes[node].gone = true;
        self.coverage.add("a node was gone for ever");
    }

    /// Whether a node is gone for ever, or was the core of an adopted lane that has ended.
    pub fn is_over(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        n.gone || (n.host.is_some() && !n.is_up())
    }

    /// A lane id that was never used.
    pub(crate) fn fresh_lane(&mut self, node: usize) -> LaneId {
        match &mut self.shared {
            None => lane_id(node + 1),
            Some(shared) => {
                shared.lanes += 1;
                lane_id(shared.lanes)
            }
        }
    }

    /// The nodes that a process runs besides its own: cores of adopted lanes.
    pub fn guests(&self, host: usize) -> Vec<usize> {
        let hosted = |n: &usize| self.nodes[*n].host == Some(host) && self.nodes[*n].is_up();
        (0..self.nodes.len()).filter(hosted).collect()
    }

    /// Whether a node's process runs, with its core or on its way to one.
    pub fn runs(&self, node: usize) -> bool {
        let process = self.shared.as_ref().is_some_and(|s| s.processes.contains_key(&node));
        process || self.nodes[node].is_up()
    }

    /// Starts the process of a node: it takes its lane, and begins when it has one.
    pub(crate) fn start_process(&mut self, node: usize) {
        self.nodes[node].lives += 1;
        let life = self.nodes[node].lives;
        let incarnation = Incarnation((node as u64 + 1) << 32 | life);
        let (name, address) = (self.nodes[node].name.clone(), node.to_string().into());
        let owner = Owner { incarnation, name, address };
        let now = self.now;
        let shared = self.shared.as_mut().expect("the caller has looked");
        let process = Process {
            life,
            client: SimShared::new(&shared.db, node, owner.clone(), now),
            owner,
            said: Said::default(),
            members: None,
            claims: BTreeMap::new(),
            alarm: None,
        };
        shared.processes.insert(node, process);
        self.ask_for_own_lane(node);
        self.tend_process(node);
    }

    fn ask_for_own_lane(&mut self, node: usize) {
        let lane = self.nodes[node].lane;
        let Some(process) = self.process(node) else { return };
        let to = process.said.clone();
        let said = move |row| to.lock().expect("one thread").push_back(Word::Head(row));
        process.client.head(lane, Box::new(said));
    }

    /// The process of a node is gone, and everything in it.
    pub(crate) fn end_process(&mut self, node: usize) {
        if let Some(shared) = &mut self.shared {
            shared.processes.remove(&node);
        }
        for guest in self.guests(node) {
            self.end_core(guest, "ends with its process");
        }
    }

    /// One core ends, its process goes on.
    pub(crate) fn end_core(&mut self, node: usize, why: &str) {
        let Some(life) = self.nodes[node].life.take() else { return };
        self.trace.headline(self.now, &format!("{} {why}", self.nodes[node].name));
        self.bury(life);
        self.nodes[node].deferred.clear();
        self.nodes[node].paused = None;
        self.drop_links(node, Power::Stays);
        self.checks.p05_died(self.nodes[node].lane);
        self.forget_sessions(node);
        self.forget_ops(node);
    }

    fn process(&mut self, node: usize) -> Option<&mut Process> {
        self.shared.as_mut()?.processes.get_mut(&node)
    }

    pub(crate) fn on_process(&mut self, node: usize, life: u64) {
        let now = self.now;
        let Some(process) = self.process(node).filter(|p| p.life == life) else { return };
        if process.alarm.is_none_or(|at| at > now) {
            return; // An earlier one was set after it, and has taken its place.
        }
        process.alarm = None;
        if let Some(members) = &process.members
            && members.next_wake() <= now
        {
            process.said.lock().expect("one thread").push_back(Word::Heard(Heard::Wake));
        }
        self.tend_process(node);
    }

    /// Hands on what the store has said to a process, and sets its alarm clock.
    fn tend_process(&mut self, node: usize) {
        loop {
            let now = self.now;
            let Some(process) = self.process(node) else { return };
            process.client.complete_until(now);
            process.claims.values_mut().for_each(|claim| claim.complete_until(now));
            let word = process.said.lock().expect("one thread").pop_front();
            match word {
                Some(Word::Head(row)) => self.on_head(node, row),
                Some(Word::Claimed(lane, claimed)) => self.on_claimed(node, lane, claimed),
                Some(Word::Heard(heard)) => self.hear(node, heard),
                None => break,
            }
        }
        self.arm_process(node);
    }

    fn arm_process(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = self.process(node) else { return };
        let claims = process.claims.values().filter_map(SimLane::next_due);
        let wake = process.members.as_ref().map(Members::next_wake);
        let due = claims.chain(wake).chain(process.client.next_due()).min();
        let Some(at) = due.map(|at| at.max(now)) else { return };
        if process.alarm.is_none_or(|set| at < set) {
            process.alarm = Some(at);
            let life = process.life;
            self.at(at, Event::Process { node, life });
        }
    }

    /// A process that starts has read who owns its lane: it claims it again, or takes a new one if
    /// somebody else has it.
    fn on_head(&mut self, node: usize, row: Result<Option<LaneRow>, StoreError>) {
        let Ok(row) = row else {
            let life = self.nodes[node].lives;
            return self.after(REST, Event::AskForLane { node, life });
        };
        let name = self.nodes[node].name.clone();
        let from = match row {
            None => None,
            Some(row) if row.owner.name == name && row.state != LaneState::Retired => {
                self.coverage.add("a node took its own lane again");
                Some((row.owner.incarnation, row.epoch))
            }
            Some(_) => {
                let lane = self.fresh_lane(node);
                self.nodes[node].lane = lane;
                self.nodes[node].index.clear();
                self.checks.add_lane(lane);
                self.coverage.add("a node came back with a new lane");
                let line = format!("{name} comes back with the new lane {}", lane.short());
                self.trace.headline(self.now, &line);
                None
            }
        };
        let lane = self.nodes[node].lane;
        self.claim_lane(node, lane, from);
    }

    fn claim_lane(&mut self, node: usize, lane: LaneId, from: Option<(Incarnation, Epoch)>) {
        let Some(process) = self.process(node) else { return };
        let mut claim = process.client.lane(lane, from);
        let to = process.said.clone();
        claim.claim(Box::new(move |claimed| {
            to.lock().expect("one thread").push_back(Word::Claimed(lane, claimed));
        }));
        process.claims.insert(lane, claim);
    }

    fn on_claimed(&mut self, node: usize, lane: LaneId, claimed: Result<Claimed, StoreError>) {
        let process = self.process(node).expect("it has asked");
        let store = process.claims.remove(&lane).expect("it has claimed");
        let own = process.members.is_none();
        match claimed {
            Ok(claimed) => {
                let store = AnyStore::Lane(Box::new(store));
                if own {
                    self.begin_process(node, store, claimed);
                } else {
                    self.adopt(node, lane, store, claimed);
                }
            }
            Err(error) if own => {
                let line = format!("{} has no lane yet: {error}", self.nodes[node].name);
                self.trace.headline(self.now, &line);
                let life = self.nodes[node].lives;
                self.after(REST, Event::AskForLane { node, life });
            }
            Err(_) => {
                self.coverage.add("a claim came to nothing");
                self.hear(node, Heard::NotClaimed(lane));
            }
        }
    }

    pub(crate) fn on_ask_for_lane(&mut self, node: usize, life: u64) {
        if self.process(node).is_some_and(|p| p.life == life && p.members.is_none()) {
            self.ask_for_own_lane(node);
            self.tend_process(node);
        }
    }

    /// A process has its lane: its core begins, and it takes part.
    fn begin_process(&mut self, node: usize, store: AnyStore, claimed: Claimed) {
        let now = self.now;
        let lane = self.nodes[node].lane;
        let shared = self.shared.as_mut().expect("it has a store");
        let adopted_max = shared.adopted_max;
        let process = shared.processes.get_mut(&node).expect("it runs");
        let ways = Ways {
            me: process.owner.incarnation,
            heartbeat: HEARTBEAT,
            dead_after: DEAD_AFTER,
            adopted_max,
        };
        process.members = Some(Members::new(ways, lane, claimed.epoch, now));
        self.begin_core(node, store, claimed);
        self.come_back(node);
    }

    /// The core of a dead node's lane begins in this process, linked to its own core.
    fn adopt(&mut self, host: usize, lane: LaneId, store: AnyStore, claimed: Claimed) {
        let name = format!("{}.{}", self.nodes[host].name, lane.short());
        let line = format!("{} adopts lane {}", self.nodes[host].name, lane.short());
        self.trace.headline(self.now, &line);
        self.coverage.add("a lane was adopted");
        let guest = self.push_node(Name::new("node", &name).expect("a valid name"), lane);
        self.nodes[guest].host = Some(host);
        self.nodes[guest].lives = self.nodes[host].lives;
        self.hear(host, Heard::Runs(lane, claimed.epoch));
        self.feed(host, Input::Adopts { lane, runs: true });
        self.begin_core(guest, store, claimed);
        self.link(guest, host);
    }

    fn hear(&mut self, node: usize, heard: Heard) {
        let now = self.now;
        let table = matches!(heard, Heard::Table(Some(_)));
        let Some(members) = self.process(node).and_then(|p| p.members.as_mut()) else { return };
        let mut moves = Vec::new();
        members.handle(now, heard, &mut moves);
        for what in moves {
            self.make_move(node, what);
        }
        if table {
            self.look_for_lanes(node);
        }
        self.arm_process(node);
    }

    fn make_move(&mut self, node: usize, what: Move) {
        if self.trace.is_on() && !matches!(what, Move::Beat(_) | Move::Read) {
            self.trace.headline(self.now, &format!("{}: {what}", self.nodes[node].name));
        }
        let Some(process) = self.process(node) else { return };
        let to = process.said.clone();
        let say = move |heard| to.lock().expect("one thread").push_back(Word::Heard(heard));
        match what {
            Move::Beat(n) => process.client.beat(n, Box::new(move |_| say(Heard::Beaten))),
            Move::Read => {
                process.client.table(Box::new(move |table| say(Heard::Table(table.ok()))));
            }
            Move::Probe(owner) => {
                let life = process.life;
                self.after(PROBE, Event::Probed { node, life, owner: Box::new(owner) });
            }
            Move::DeclareDead(lane, owner, epoch) => {
                let done = Box::new(move |changed| say(Heard::Declared(lane, changed)));
                process.client.declare_dead(lane, owner, epoch, done);
            }
            Move::Claim(lane, owner, epoch) => self.claim_lane(node, lane, Some((owner, epoch))),
            Move::Fenced(lane, epoch) => {
                let running = self.running_core(node, lane);
                if let Some(core) = running {
                    self.feed(core, Input::Fenced(epoch));
                }
            }
            Move::TooMany(n) => self.coverage.add_if("adoption limit reached", n > 0),
        }
    }

    /// The node of the world in which a process runs a lane.
    fn running_core(&self, process: usize, lane: LaneId) -> Option<usize> {
        let own = std::iter::once(process);
        own.chain(self.guests(process))
            .find(|n| self.nodes[*n].lane == lane && self.nodes[*n].is_up())
    }

    pub(crate) fn on_probed(&mut self, node: usize, life: u64, owner: &Owner) {
        if self.process(node).is_none_or(|p| p.life != life) {
            return;
        }
        let other: usize = owner.address.parse().expect("addresses are numbers of nodes");
        let same = self.process(other).is_some_and(|p| p.owner.incarnation == owner.incarnation);
        let cut = self.wire_between(node, other).is_some_and(|w| self.wires[w].cut);
        let answered = same && !self.nodes[other].is_paused() && !cut;
        self.coverage.add_if("a silent node answered a probe", answered);
        self.hear(node, Heard::Probed(owner.incarnation, answered));
        self.tend_process(node);
    }

    /// For whatever is in doubt with a lane to which there is no link: its owner stands in the list
    /// of lanes and is dialled, unless the lane is retired.
    fn look_for_lanes(&mut self, process: usize) {
        for core in std::iter::once(process).chain(self.guests(process)) {
            let doubts = self.nodes[core].core().map(dpc_core::Core::lanes_in_doubt);
            for lane in doubts.unwrap_or_default() {
                let members = self.process(process).and_then(|p| p.members.as_ref());
                let Some(row) = members.and_then(|m| m.lane(lane)).cloned() else { continue };
                if row.state == LaneState::Retired {
                    self.coverage.add("in doubt with a retired lane");
                    self.feed(core, Input::LaneRetired(lane));
                    continue;
                }
                let owner: usize = row.owner.address.parse().expect("addresses are numbers");
                let Some(other) = self.running_core(owner, lane) else { continue };
                if self.wire_between(core, other).is_none() && core != other {
                    self.coverage.add("an owner in doubt was found in the list of lanes");
                    self.link(core, other);
                }
            }
        }
    }

    /// The store says that this core's lane has another owner: the core ends. A process whose own
    /// lane is lost ends with it and comes back.
    pub(crate) fn on_fenced(&mut self, node: usize, epoch: Epoch) {
        self.coverage.add("fenced");
        let lane = self.nodes[node].lane;
        let head = self.shared.as_ref().and_then(|s| s.db.head(lane, self.now));
        let mine = self.nodes[node].life.as_ref().map(|l| l.epoch);
        let lost = |h: &LaneRow| Some(h.epoch) > mine || h.state != LaneState::Owned;
        if !head.as_ref().is_some_and(lost) {
            let name = self.nodes[node].name.clone();
            self.checks.fail("R1", format!("{name} is fenced by epoch {epoch}, and owns its lane"));
        }
        match self.nodes[node].host {
            Some(host) => {
                self.end_core(node, "is fenced");
                self.give_up(host, lane);
            }
            None => {
                let line = format!("{} is fenced and ends", self.nodes[node].name);
                self.trace.headline(self.now, &line);
                self.kill(node, Power::Stays);
                self.after(Span::millis(500), Event::Restart { node });
            }
        }
    }

    /// A process has done with an adopted lane.
    fn give_up(&mut self, host: usize, lane: LaneId) {
        self.feed(host, Input::Adopts { lane, runs: false });
        self.hear(host, Heard::Ended(lane));
    }

    /// An adopted lane was empty, and is retired now.
    pub(crate) fn on_retired(&mut self, node: usize) {
        self.coverage.add("a lane was retired");
        let lane = self.nodes[node].lane;
        let host = self.nodes[node].host.expect("only adopted lanes are retired");
        self.checks.on_retired(lane);
        self.end_core(node, "retires its lane");
        self.give_up(host, lane);
    }

    /// Whether a delivery comes from an owner that somebody has taken the lane from, and that has
    /// not noticed yet. It may for as long as its last proof holds (P7), and no longer (R6).
    pub(crate) fn is_stale(&mut self, node: usize, epoch: Epoch) -> bool {
        let Some(shared) = &self.shared else { return false };
        let lane = self.nodes[node].lane;
        let stands = shared.db.head(lane, self.now);
        let stale = stands.is_none_or(|h| h.epoch > epoch || h.state != LaneState::Owned);
        let until = self.nodes[node].core().and_then(dpc_core::Core::deliver_until);
        if until.is_some_and(|until| until <= self.now) {
            let name = self.nodes[node].name.clone();
            self.checks.fail("R6", format!("{name} delivers without proof that it owns its lane"));
        }
        self.coverage.add_if("delivered by an owner that was replaced", stale);
        stale
    }

    /// Renews or retires the head, if that was asked for and nothing else is on its way to it.
    pub(crate) fn pump_head(&mut self, node: usize) {
        let Some(life) = self.nodes[node].life.as_mut() else { return };
        if !life.appending.is_empty() || life.head_asked {
            return;
        }
        let (renew, retire) = (life.renew, life.retire);
        let Some(lane) = life.store.shared().filter(|_| renew || retire) else { return };
        let to = life.said.clone();
        life.head_asked = true;
        let epoch = life.epoch;
        let said = move |answer| {
            let mut to = to.lock().expect("one thread");
            to.push_back(super::life::Answered::Head { retired: retire, answer });
        };
        if retire {
            lane.retire(epoch, Box::new(said));
        } else {
            lane.renew(epoch, Box::new(said));
        }
        (life.renew, life.retire) = (false, false);
    }

    /// Starts a core from a lane's published records.
    fn begin_core(&mut self, node: usize, store: AnyStore, claimed: Claimed) {
        let lane = self.nodes[node].lane;
        let (_, records) = self.shared.as_ref().expect("it has a store").db.contents(lane);
        let mut life = self.new_life(node, &records, store, claimed);
        self.checks.p06_claimed(lane, claimed.epoch);
        self.checks.p06_recovered(lane, claimed.epoch);
        let mut fx = Effects::new();
        life.core.start(self.now_of(node), &mut fx);
        life.recorder = self.recording.map(|bounds| Recorder::new(&mut life.core, bounds));
        self.nodes[node].life = Some(life);
        self.perform(node, fx);
        self.pump(node);
    }
}
