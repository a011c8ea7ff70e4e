//! The stranger things that people and machines do to nodes: two owners of one lane, two nodes of
//! one name, backups, new lanes, programs of another version.

use dpc_core::ids::{Incarnation, ObjectId};
use dpc_core::input::{LeaseRef, Lessee, Operator};
use dpc_core::message::{Message, Protocols};
use dpc_core::names::Name;
use dpc_core::object::Generation;
use dpc_core::record::{Entry, entries};
use dpc_core::store::{Appended, Store, StoreError};
use dpc_core::{Answer, Core, Effect, Effects, Input, Settings};

use super::life::{Answered, Said, claim, read_all, wait};
use super::{Mode, Op, World, lane_id};
use crate::store::{SimDisk, SimStore};

/// How often a node can get a new lane: so many letters follow its name in stories.
const RENEWALS_MAX: usize = 6;

impl World {
    /// Starts a second process on a node's disk while the first one may still live: its claim is
    /// the later one. It is called `n1b` in stories.
    pub fn twin(&mut self, node: usize) -> usize {
        let n = &self.nodes[node];
        let name = Name::new("node", &format!("{}b", n.name)).expect("a valid name");
        let (says, disk, lives) = (n.says.clone(), n.disk.clone(), n.lives);
        self.trace.headline(self.now, &format!("{name} starts on the disk of {says}"));
        self.put_node(name, says, disk);
        let twin = self.nodes.len() - 1;
        // Another incarnation of the same lane, as a random one would be.
        self.nodes[twin].lives = lives + 100;
        self.boot(twin);
        twin
    }

    /// Starts a node with a lane of its own that says it is called like another one.
    pub fn namesake(&mut self, node: usize) -> usize {
        let other = self.nodes.len();
        let name = Name::new("node", &format!("n{}", other + 1)).expect("a valid name");
        let lane = lane_id(other + 1);
        self.checks.add_lane(lane);
        let disk = SimDisk::new(self.plan.seed ^ (other as u64 + 1) << 32, lane);
        self.put_node(name, self.nodes[node].says.clone(), disk);
        self.boot(other);
        other
    }

    /// From its next start on a node's program speaks these versions of the link protocol.
    pub fn set_protocols(&mut self, node: usize, protocols: Protocols) {
        self.nodes[node].speaks = protocols;
    }

    /// A person copies a node's disk.
    pub fn back_up(&mut self, node: usize) {
        let copy = self.nodes[node].disk.copied();
        self.nodes[node].backup = Some(copy);
    }

    /// The disk of a dead node becomes what it was when it was copied: what the node did since is
    /// undone, and others may have heard of it. False without a copy.
    pub fn put_backup_back(&mut self, node: usize) -> bool {
        let n = &mut self.nodes[node];
        assert!(n.life.is_none(), "only a dead node's disk is exchanged");
        let Some(backup) = &n.backup else { return false };
        self.checks.p16_lost(n.lane);
        n.disk.become_copy_of(backup);
        n.index.clear();
        true
    }

    /// Gives a dead node's objects a new lane, as `dpc serve --restored` does, before its next start.
    /// An error if its disk cannot be read; the node is then as it was.
    pub fn renew_lane(&mut self, node: usize) -> Result<(), StoreError> {
        assert!(self.nodes[node].life.is_none(), "only a dead node gets a new lane");
        let said = Said::default();
        let mut store = self.nodes[node].disk.open(self.now);
        let claimed = claim(&mut store, &said)?;
        let records = read_all(&mut store, &said, claimed.first)?;
        let mut source = Core::new(self.settings(node), claimed);
        for (number, bytes) in &records {
            source.restore(*number, bytes)?;
        }
        let disk = self.next_disk(node);
        let (lane, incarnation) = (disk.lane(), Incarnation(1));
        let settings = Settings { lane, incarnation, ..self.settings(node) };
        let mut target = Filling::new(settings, &disk, self.now);
        let now = self.now_of(node);
        target.start(now);
        for (record, positions) in source.survivors() {
            let (_, bytes) = records.iter().find(|(n, _)| *n == record).expect("it was read");
            let (_, entries) = entries(bytes).expect("it was restored");
            for (at, entry) in entries {
                if let Entry::Object { standing, object, .. } = entry
                    && positions.contains(&at.position)
                {
                    let standing = source.survivor_standing(standing);
                    target.core.bring_back(now, &standing, *object, &mut target.fx);
                }
            }
            target.commit(now);
        }
        drop((target, store));
        self.change_disk(node, disk);
        Ok(())
    }

    /// An empty disk with a new lane for a node. In stories the lanes of n2 are n2, n2a, n2b and so
    /// on.
    fn next_disk(&mut self, node: usize) -> SimDisk {
        let n = &mut self.nodes[node];
        n.renewals += 1;
        assert!(n.renewals <= RENEWALS_MAX, "there are no more lanes for a node");
        let number = (node + 1) << 4 | (9 + n.renewals);
        SimDisk::new(self.plan.seed ^ (number as u64) << 32, lane_id(number))
    }

    /// The lane that a node had is lost, and another disk takes its place.
    fn change_disk(&mut self, node: usize, disk: SimDisk) {
        self.checks.p16_lost(self.nodes[node].lane);
        self.checks.add_lane(disk.lane());
        let n = &mut self.nodes[node];
        (n.lane, n.disk, n.backup) = (disk.lane(), disk, None);
        n.index.clear();
    }

    /// A dead node gets an empty disk, with a new lane.
    pub fn empty_disk(&mut self, node: usize) {
        assert!(self.nodes[node].life.is_none(), "only a dead node's disk is exchanged");
        let disk = self.next_disk(node);
        self.change_disk(node, disk);
    }

    /// The latest generation that a node told of its own demand.
    pub(crate) fn told_generation(&self, node: usize) -> Option<Generation> {
        let told = self.trace.ledger.told.iter().filter(|t| t.node == node);
        let own = told.filter_map(|t| t.demand.as_ref()).rfind(|d| d.distance == 0);
        own.map(|d| d.generation)
    }

    /// Somebody settles an object at a node with the token of an earlier delivery.
    ///
    /// # Errors
    ///
    /// If no such lease was given, or nobody is there who could be asked.
    pub fn settle_under(
        &mut self,
        node: usize,
        id: ObjectId,
        (giver, lease): (usize, u64),
        mode: &Mode,
    ) -> Result<(), String> {
        let given = self.trace.ledger.lease(giver, lease).ok_or("no such lease was given")?;
        let (token, delivery) = (given.token, given.delivery.clone());
        if delivery.object.id != id {
            return Err("that lease was for another object".into());
        }
        if !self.nodes[node].is_up() {
            return Err("nobody answers there".into());
        }
        let settle = self.settle_of(LeaseRef::Token(token), mode, 0);
        if self.trace.is_on() {
            let line = self.settle_line(node, &delivery, &settle);
            self.trace.input(self.now, line);
        }
        let version = delivery.object.version;
        self.checks.on_settle(&token, version, &settle);
        let to = self.ask(Op::Settle { node, token, settle: settle.clone(), version });
        self.feed(node, Input::Settle(to, Lessee::Bearer, settle));
        Ok(())
    }

    /// What an operator is answered at once, without a word in the story.
    pub(crate) fn ask_quietly(&mut self, node: usize, order: Operator) -> Result<Answer, String> {
        self.answers.clear();
        let on = self.trace.is_on();
        self.trace.mute();
        self.operate(node, order);
        if on {
            self.trace.unmute();
        }
        self.answers.pop().ok_or_else(|| "it does not answer".into())
    }

    /// Says something to a node over a link as if a peer had said it.
    pub fn say_as(&mut self, from: usize, to: usize, message: Message) -> bool {
        let life = self.nodes[from].life.as_ref();
        let link = life.and_then(|l| {
            let to_it =
                |(_, (wire, side)): &(_, &(usize, usize))| self.wires[*wire].ends[1 - *side] == to;
            l.links.iter().find(to_it).map(|(link, _)| *link)
        });
        link.is_some_and(|link| {
            self.send(from, link, message);
            true
        })
    }
}

/// A new lane that is being filled.
struct Filling {
    core: Core,
    store: SimStore,
    said: Said,
    fx: Effects,
}

impl Filling {
    fn new(settings: Settings, disk: &SimDisk, at: dpc_core::Mono) -> Self {
        let said = Said::default();
        let mut store = disk.open(at);
        let claimed = claim(&mut store, &said).expect("a new disk");
        Self { core: Core::new(settings, claimed), store, said, fx: Effects::new() }
    }

    fn start(&mut self, now: dpc_core::Now) {
        self.core.start(now, &mut self.fx);
        self.commit(now);
    }

    /// Makes everything durable that has been written.
    fn commit(&mut self, now: dpc_core::Now) {
        loop {
            let stopped = self.fx.drain(..).any(|fx| matches!(fx, Effect::Stop(_)));
            assert!(!stopped, "nothing stops a lane that is being filled");
            let Some(record) = self.core.take_record(now) else { return };
            let to = self.said.clone();
            let number = record.number;
            let tell = move |answer| {
                to.lock().expect("one thread").push_back(Answered::Appended(number, answer));
            };
            self.store.append(self.core.epoch(), number, record.bytes, Box::new(tell));
            match wait(&mut self.store, &self.said) {
                Answered::Appended(_, Appended::Committed) => {}
                _ => unreachable!("a new disk takes what it is given"),
            }
            self.core.handle(now, Input::Committed(number), &mut self.fx);
        }
    }
}
