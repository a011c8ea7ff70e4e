//! Nodes and their lives: how a process starts from its disk, and the two ways it dies.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dpc_core::effect::PartIds;
use dpc_core::ids::{Epoch, Incarnation, LaneId, LinkId, RecordNumber};
use dpc_core::message::Protocols;
use dpc_core::names::Name;
use dpc_core::record;
use dpc_core::store::{Appended, Claimed, READ_BYTES_MAX, Store, StoreError};
use dpc_core::{Core, Effect, Effects, Input, Mono, Now, PartInfo, Record, Settings};

use super::faults::{Clock, Doom};
use super::shared::{AnyStore, SELF_FENCE_AFTER};
use super::{CrashPoint, Event, World};
use crate::dice::Dice;
use crate::recorder::Recorder;
use crate::store::{SimDisk, SimStore};

/// One node: what outlives its process, and the process if it runs.
pub struct Node {
    /// Its name in stories, `n1` for the first.
    pub name: Name,
    /// The name that it says it has.
    pub(crate) says: Name,
    /// The versions of the link protocol that its program speaks.
    pub(crate) speaks: Protocols,
    /// A copy of its disk that a person has made.
    pub(crate) backup: Option<SimDisk>,
    /// How often its objects got a new lane.
    pub(crate) renewals: usize,
    /// Its lane.
    pub lane: LaneId,
    /// Its disk.
    pub disk: SimDisk,
    /// Its id index: parts of the log, never synced.
    pub(crate) index: BTreeMap<u64, PartIds>,
    pub(crate) life: Option<Life>,
    /// The node whose process runs it, for the core of an adopted lane.
    pub host: Option<usize>,
    /// It never comes back.
    pub(crate) gone: bool,
    /// Counts its starts; the incarnation.
    pub(crate) lives: u64,
    pub(crate) links: u64,
    pub(crate) sessions: u64,
    pub(crate) clock: Clock,
    pub(crate) doom: Option<Doom>,
    /// Its store refused its disk when it was last to start.
    pub(crate) refused: bool,
    /// It was told to take nothing new.
    pub(crate) draining: bool,
    /// When its clock was last put wrong or right.
    pub(crate) clock_set: Option<Mono>,
    fate: Dice,
    /// Since when it is stopped.
    pub(crate) paused: Option<Mono>,
    pub(crate) deferred: Vec<Event>,
}

/// A running process.
pub(crate) struct Life {
    pub(crate) core: Core,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) store: AnyStore,
    pub(crate) said: Said,
    pub(crate) epoch: Epoch,
    pub(crate) committed: RecordNumber,
    /// The records that are being appended, in order.
    pub(crate) appending: VecDeque<(RecordNumber, Bytes)>,
    /// The head is to be renewed, or the lane retired, when nothing else is on its way.
    pub(crate) renew: bool,
    pub(crate) retire: bool,
    /// One of these is on its way.
    pub(crate) head_asked: bool,
    /// Effects that wait for a commit, in order.
    pub(crate) gate: VecDeque<(RecordNumber, Effect)>,
    /// Which end of which wire each link is.
    pub(crate) links: BTreeMap<LinkId, (usize, usize)>,
    pub(crate) wake_at: Option<Mono>,
    pub(crate) store_at: Option<Mono>,
}

/// Answers of a store, in order.
pub(crate) type Said = Arc<Mutex<VecDeque<Answered>>>;

/// One answer of a store.
pub(crate) enum Answered {
    Claimed(Result<Claimed, StoreError>),
    Appended(RecordNumber, Appended),
    Read(Result<Vec<(RecordNumber, Bytes)>, StoreError>),
    Truncated(Result<(), StoreError>),
    Head { retired: bool, answer: Appended },
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// The process dies; what it wrote stays.
    Stays,
    /// The machine loses power: what was not synced may be lost or torn.
    Cut,
}

impl Life {
    /// Tells core something. With a recorder its effects are new ones.
    pub(crate) fn handle(&mut self, now: Now, input: Input, fx: &mut Effects) {
        if let Some(recorder) = &mut self.recorder {
            recorder.call(now, &input);
        }
        self.core.handle(now, input, fx);
        if let Some(recorder) = &mut self.recorder {
            recorder.outcome(&mut self.core, fx);
        }
    }

    /// The next record, if none is on its way, or if it is full and the store takes one more.
    pub(crate) fn take_record(&mut self, now: Now) -> Option<Record> {
        if self.head_asked || !self.core.may_append(self.appending.len(), self.store.appends_max())
        {
            return None;
        }
        let record = self.core.take_record(now);
        if let Some(recorder) = &mut self.recorder {
            recorder.take(now, record.as_ref());
        }
        record
    }
}

impl Node {
    /// Its core, while it runs.
    pub fn core(&self) -> Option<&Core> {
        self.life.as_ref().map(|l| &l.core)
    }

    /// Whether its process runs.
    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }
}

impl World {
    /// Adds a node and starts it.
    pub fn add_node(&mut self) -> usize {
        let n = self.nodes.len();
        let lane = self.fresh_lane(n);
        let name = Name::new("node", &format!("n{}", n + 1)).expect("a valid name");
        self.push_node(name, lane);
        self.checks.add_lane(lane);
        self.boot(n);
        n
    }

    pub(crate) fn push_node(&mut self, name: Name, lane: LaneId) -> usize {
        let n = self.nodes.len();
        let disk = SimDisk::new(self.plan.seed ^ (n as u64 + 1) << 32, lane);
        self.put_node(name.clone(), name, disk);
        n
    }

    /// A node that has never run, with its disk.
    pub(crate) fn put_node(&mut self, name: Name, says: Name, disk: SimDisk) {
        let n = self.nodes.len();
        self.nodes.push(Node {
            name,
            says,
            speaks: Protocols::default(),
            backup: None,
            renewals: 0,
            lane: disk.lane(),
            disk,
            index: BTreeMap::new(),
            life: None,
            host: None,
            gone: false,
            lives: 0,
            links: 0,
            sessions: 0,
            clock: Clock::default(),
            doom: None,
            refused: false,
            draining: false,
            clock_set: None,
            fate: Dice::new(self.plan.seed, &format!("node {n}")),
            paused: None,
            deferred: Vec::new(),
        });
    }

    /// Starts a dead node from its disk.
    pub fn restart(&mut self, node: usize) {
        if self.runs(node) || self.nodes[node].host.is_some() || self.nodes[node].gone {
            return;
        }
        self.trace.headline(self.now, &format!("{} starts again", self.nodes[node].name));
        self.boot(node);
        self.come_back(node);
    }

    /// Links and clients find a node again.
    pub(crate) fn come_back(&mut self, node: usize) {
        let wires: Vec<usize> = self.wires_of(node).collect();
        for wire in wires {
            self.after(self.plan.latency, Event::Dial { wire });
        }
        for client in 0..self.clients.len() {
            if self.clients[client].node == node {
                self.after(self.plan.latency, Event::Reconnect { client });
            }
        }
    }

    pub(crate) fn boot(&mut self, node: usize) {
        if self.shared.is_some() {
            return self.start_process(node);
        }
        if let Some(at) = self.nodes[node].disk.stalled_until(self.now) {
            // It waits for its disk.
            return self.at(at, Event::Restart { node });
        }
        self.nodes[node].refused = false;
        self.nodes[node].lives += 1;
        let said = Said::default();
        let mut store = self.nodes[node].disk.open(self.now);
        let claimed = match claim(&mut store, &said) {
            Ok(claimed) => claimed,
            Err(error) => return self.does_not_start(node, &error),
        };
        let lane = self.nodes[node].lane;
        self.checks.p06_claimed(lane, claimed.epoch);
        self.checks.p16_not_cut(lane, claimed.last);
        if self.dies_at(node, CrashPoint::Starting) {
            return;
        }
        let records = match read_all(&mut store, &said, claimed.first) {
            Ok(records) => records,
            Err(error) => return self.does_not_start(node, &error),
        };
        let mut life = self.new_life(node, &records, AnyStore::Disk(store), claimed);
        self.checks.p06_recovered(lane, claimed.epoch);
        let mut fx = Effects::new();
        life.core.start(self.now_of(node), &mut fx);
        life.recorder = self.recording.map(|bounds| Recorder::new(&mut life.core, bounds));
        self.nodes[node].life = Some(life);
        self.perform(node, fx);
        self.pump(node);
    }

    /// A process with a core recovered from these records.
    pub(crate) fn new_life(
        &mut self,
        node: usize,
        records: &[(RecordNumber, Bytes)],
        store: AnyStore,
        claimed: Claimed,
    ) -> Life {
        let (core, loaded) = self.recover(node, records, claimed);
        self.coverage.add_if("index part rebuilt", loaded);
        Life {
            core,
            recorder: None,
            store,
            said: Said::default(),
            epoch: claimed.epoch,
            committed: claimed.last,
            appending: VecDeque::new(),
            renew: false,
            retire: false,
            head_asked: false,
            gate: VecDeque::new(),
            links: BTreeMap::new(),
            wake_at: None,
            store_at: None,
        }
    }

    /// What a process says when its store does not let it begin, and ends.
    fn does_not_start(&mut self, node: usize, error: &StoreError) {
        let line = format!("{} does not start: {error}", self.nodes[node].name);
        self.trace.headline(self.now, &line);
        if let StoreError::Damaged { .. } = error {
            self.coverage.add("damage refused at the start");
            self.nodes[node].refused = true;
            let (lane, damaged) = (self.nodes[node].lane, self.nodes[node].disk.damaged());
            return self.checks.p16_refused(lane, error, &damaged);
        }
        self.coverage.add("a read failed at the start");
    }

    /// Builds a core from a disk: index parts, then the log from the last checkpoint on.
    fn recover(
        &mut self,
        node: usize,
        records: &[(RecordNumber, Bytes)],
        claimed: Claimed,
    ) -> (Core, bool) {
        let lane = self.nodes[node].lane;
        for (number, bytes) in records {
            self.checks.on_committed(lane, *number, bytes, &mut self.coverage);
        }
        self.checks.on_claimed(lane);
        let from = replayed_from(records, claimed.first);
        self.coverage.add_if("restarted from a checkpoint", from > claimed.first);
        let settings = self.settings(node);
        let mut core = Core::new(settings, claimed);
        for part in self.nodes[node].index.values() {
            core.restore_part(info(part));
        }
        for (number, bytes) in records.iter().filter(|(n, _)| *n >= from) {
            core.restore(*number, bytes).expect("the log fits together");
        }
        let mut rebuilt = false;
        for (part, first, end) in core.finished_parts() {
            let kept = self.nodes[node].index.get(&part).is_some_and(|p| p.end == end);
            if kept {
                continue;
            }
            rebuilt = true;
            let range = records.iter().filter(|(n, _)| *n >= first && *n < end);
            let ids = range.flat_map(|(_, bytes)| {
                let (_, entries) = record::entries(bytes).expect("the store checked it");
                record::mentions(&entries).collect::<Vec<_>>()
            });
            core.restore_ids(part, end, ids.collect());
        }
        (core, rebuilt)
    }

    pub(crate) fn settings(&self, node: usize) -> Settings {
        let n = &self.nodes[node];
        let process = n.host.unwrap_or(node);
        let shared = self.shared.is_some();
        let incarnation = if shared { (process as u64 + 1) << 32 | n.lives } else { n.lives };
        Settings {
            name: n.says.clone(),
            lane: n.lane,
            protocols: n.speaks,
            incarnation: Incarnation(incarnation),
            seed: self.plan.seed ^ (node as u64) << 8 ^ n.lives << 40,
            limits: self.plan.limits.clone(),
            fence: shared.then_some(SELF_FENCE_AFTER),
            heir: n.host.map(|host| self.nodes[host].lane),
        }
    }

    /// What is left of a life is its recording.
    pub(crate) fn bury(&mut self, mut life: Life) {
        self.recordings.extend(life.recorder.take().map(Recorder::end));
    }

    /// Ends a node's process.
    pub fn kill(&mut self, node: usize, power: Power) {
        if let Some(host) = self.nodes[node].host {
            return self.kill(host, power);
        }
        self.end_process(node);
        let Some(life) = self.nodes[node].life.take() else { return };
        let verb = if power == Power::Cut { "loses power" } else { "is killed" };
        self.trace.headline(self.now, &format!("{} {verb}", self.nodes[node].name));
        self.coverage.add_if("killed while a record was on its way", !life.appending.is_empty());
        self.coverage.add_if("killed with effects in the gate", !life.gate.is_empty());
        self.bury(life);
        if power == Power::Cut {
            self.nodes[node].disk.power_cut();
        }
        if self.nodes[node].fate.chance(self.plan.lose_index_percent) {
            self.lose_index(node);
        }
        self.nodes[node].deferred.clear();
        self.nodes[node].paused = None;
        self.drop_links(node, power);
        self.nodes[node].draining = false;
        self.checks.p05_died(self.nodes[node].lane);
        self.forget_sessions(node);
        self.forget_ops(node);
    }

    /// The id index of a node that does not run is gone: it was never synced.
    pub(crate) fn lose_index(&mut self, node: usize) {
        self.nodes[node].index.clear();
        self.coverage.add("id index lost");
    }

    /// A core recovered from a node's log as it is, beside the one that runs.
    pub fn recovered_twin(&mut self, node: usize) -> Core {
        self.recovered_at(node, RecordNumber(u64::MAX), false)
    }

    /// A core recovered from a node's log as if it ended with the record `end`: from the last
    /// checkpoint before it, or from the first record that is kept.
    pub(super) fn recovered_at(&self, node: usize, end: RecordNumber, whole: bool) -> Core {
        let (first, mut records) = match &self.shared {
            Some(shared) => shared.db.contents(self.nodes[node].lane),
            None => self.nodes[node].disk.contents(),
        };
        records.retain(|(number, _)| *number <= end);
        let last = records.last();
        let claimed = Claimed {
            epoch: self.nodes[node].life.as_ref().map_or(Epoch(1), |l| l.epoch),
            first,
            last: last.map_or(RecordNumber(first.0 - 1), |(n, _)| *n),
            last_hash: last.map_or([0; 16], |(_, bytes)| record::hash_of(bytes)),
        };
        let from = if whole { first } else { replayed_from(&records, first) };
        let mut core = Core::new(self.settings(node), claimed);
        for (number, bytes) in records.iter().filter(|(n, _)| *n >= from) {
            core.restore(*number, bytes).expect("the log fits together");
        }
        core
    }

    /// Tells a core something, unless its process has ended.
    pub(crate) fn feed(&mut self, node: usize, input: Input) {
        let now = self.now_of(node);
        let Some(life) = self.nodes[node].life.as_mut() else { return };
        let mut fx = self.spare.pop().unwrap_or_default();
        life.handle(now, input, &mut fx);
        self.perform(node, fx);
        self.pump(node);
    }
}

pub(crate) fn info(part: &PartIds) -> PartInfo {
    PartInfo {
        part: part.part,
        end: part.end,
        min: part.ids.first().expect("a part has ids").0,
        max: part.ids.last().expect("a part has ids").0,
        filter: part.filter.clone(),
        count: part.ids.len() as u64,
    }
}

/// The first record that a recovery replays: where the last checkpoint starts.
fn replayed_from(records: &[(RecordNumber, Bytes)], first: RecordNumber) -> RecordNumber {
    let checkpoint = records
        .last()
        .map(|(_, bytes)| record::open_header(bytes).expect("the store checked it").checkpoint);
    checkpoint.filter(|c| c.0 > 0).unwrap_or(first).max(first)
}

pub(super) fn claim(store: &mut SimStore, said: &Said) -> Result<Claimed, StoreError> {
    let to = said.clone();
    store.claim(Box::new(move |answer| {
        to.lock().expect("one thread").push_back(Answered::Claimed(answer));
    }));
    match wait(store, said) {
        Answered::Claimed(answer) => answer,
        _ => unreachable!("only a claim was asked for"),
    }
}

/// Records with their numbers.
type Records = Vec<(RecordNumber, Bytes)>;

pub(super) fn read_all(
    store: &mut SimStore,
    said: &Said,
    first: RecordNumber,
) -> Result<Records, StoreError> {
    let (mut records, mut from) = (Vec::new(), first);
    loop {
        let to = said.clone();
        let answer = move |answer| {
            to.lock().expect("one thread").push_back(Answered::Read(answer));
        };
        store.read(from, READ_BYTES_MAX, Box::new(answer));
        let Answered::Read(answer) = wait(store, said) else {
            unreachable!("only a read was asked for")
        };
        let some = answer?;
        let Some((last, _)) = some.last() else { return Ok(records) };
        from = last.next();
        records.extend(some);
    }
}

pub(super) fn wait(store: &mut SimStore, said: &Said) -> Answered {
    loop {
        if let Some(answer) = said.lock().expect("one thread").pop_front() {
            return answer;
        }
        let due = store.next_due().expect("an answer is owed");
        store.complete_until(due);
    }
}
