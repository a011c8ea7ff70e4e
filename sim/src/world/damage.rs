//! Disks that are damaged, lost or put back, and what people do about it: a new disk, a backup with
//! `--restored`, and `forget --reclaim` at the neighbours.

use std::collections::BTreeSet;

use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::input::Operator;
use dpc_core::record::{Entry, entries};
use dpc_core::store::{Appended, Store, StoreError};
use dpc_core::{Core, Effects, Input};

use super::life::{Answered, Said, claim, read_all, wait};
use super::{Power, World, lane_id};
use crate::store::{Damage, SimDisk, SimStore};

impl World {
    /// Damages a committed record on a node's disk, wherever the process stands.
    pub fn damage(&mut self, node: usize, kind: Damage, permille: u64) {
        let Some(number) = self.nodes[node].disk.damage(kind, permille) else { return };
        let line = format!("record {number} of {} is damaged: {kind:?}", self.nodes[node].name);
        self.trace.headline(self.now, &line);
        self.coverage.add(match kind {
            Damage::Flip => "bit flipped",
            Damage::Misplace => "record misplaced",
            Damage::Lose => "record lost",
            Damage::CutTail => "log cut",
        });
    }

    /// Keeps a copy of a node's disk.
    pub fn back_up(&mut self, node: usize) {
        self.nodes[node].backup = Some(self.nodes[node].disk.backup());
    }

    /// Puts a node's disk back to its backup and starts it, as if nothing had happened: what it did
    /// since is undone, and its peers may have heard of it.
    pub fn put_back(&mut self, node: usize) {
        let Some(backup) = self.nodes[node].backup.clone() else { return };
        self.kill(node, Power::Cut);
        let line = format!("the disk of {} is put back to an old state", self.nodes[node].name);
        self.trace.headline(self.now, &line);
        self.coverage.add("old state put back");
        self.checks.p16_lost(self.nodes[node].lane);
        self.nodes[node].disk.restore(&backup);
        self.nodes[node].index.clear();
        self.restart(node);
    }

    /// A node's disk is gone. It starts with an empty one: the same name, a new lane.
    pub fn replace_disk(&mut self, node: usize) {
        self.kill(node, Power::Cut);
        let line = format!("{} lost its disk and gets a new one", self.nodes[node].name);
        self.trace.headline(self.now, &line);
        self.coverage.add("disk lost");
        self.new_lane(node);
        self.restart(node);
    }

    /// Stops a node, gives its objects a new lane (`dpc serve --restored`) and starts it. False if
    /// its disk cannot be read.
    pub fn renew(&mut self, node: usize) -> bool {
        self.kill(node, Power::Stays);
        let old = self.nodes[node].disk.clone();
        let said = Said::default();
        let mut store = old.open(self.now);
        let Ok((source, records)) = self.read_old(node, &mut store, &said) else { return false };
        self.trace.headline(self.now, &format!("{} is restored", self.nodes[node].name));
        self.coverage.add("restored with a new lane");
        self.new_lane(node);
        self.take_over(node, &source, &records);
        self.restart(node);
        true
    }

    /// Neighbours forget what a node was before, and bring back copies of what it had.
    pub fn forget_lost(&mut self, node: usize) {
        let name = self.nodes[node].name.clone();
        for other in (0..self.nodes.len()).filter(|n| *n != node) {
            let order = Operator::Forget { name: name.clone(), reclaim: true };
            self.operate(other, order);
        }
    }

    /// The old lane is lost; an empty disk of another takes its place.
    fn new_lane(&mut self, node: usize) {
        self.checks.p16_lost(self.nodes[node].lane);
        self.nodes[node].lanes += 1;
        // The lanes of a node are far enough apart for any number of nodes.
        let lane = lane_id(node + 1 + 0x1_0000 * self.nodes[node].lanes);
        let salt = (node as u64 + 1) << 32 | self.nodes[node].lanes as u64;
        self.nodes[node].disk = SimDisk::new(self.plan.seed ^ salt, lane);
        self.nodes[node].lane = lane;
        self.nodes[node].index.clear();
        self.nodes[node].backup = None;
        self.checks.add_lane(lane);
    }

    fn read_old(
        &self,
        node: usize,
        store: &mut SimStore,
        said: &Said,
    ) -> Result<(Core, Vec<(RecordNumber, bytes::Bytes)>), StoreError> {
        let claimed = claim(store, said)?;
        let records = read_all(store, said, claimed.first)?;
        let mut core = Core::new(self.settings(node), claimed);
        let from = super::life::replayed_from(&records, claimed.first);
        for (number, bytes) in records.iter().filter(|(n, _)| *n >= from) {
            core.restore(*number, bytes)?;
        }
        Ok((core, records))
    }

    /// What lives in an old lane is written into the new one, flagged.
    fn take_over(&mut self, node: usize, source: &Core, old: &[(RecordNumber, bytes::Bytes)]) {
        self.nodes[node].lives += 1;
        let said = Said::default();
        let mut store = self.nodes[node].disk.open(self.now);
        let claimed = claim(&mut store, &said).expect("an empty disk");
        let mut target = Core::new(self.settings(node), claimed);
        let now = self.now_of(node);
        let mut fx = Effects::new();
        target.start(now, &mut fx);
        for (record, positions) in source.survivors() {
            let positions: BTreeSet<u32> = positions.into_iter().collect();
            let (_, bytes) =
                old.iter().find(|(n, _)| *n == record).expect("survivors are in the log");
            let (_, entries) = entries(bytes).expect("the store checked it");
            for (at, entry) in entries {
                if let Entry::Object { standing, object, .. } = entry
                    && positions.contains(&at.position)
                {
                    target.bring_back(now, &standing, *object, &mut fx);
                }
            }
        }
        while let Some(record) = target.take_record(now) {
            let to = said.clone();
            let number = record.number;
            let answer = move |answer| {
                to.lock().expect("one thread").push_back(Answered::Appended(number, answer));
            };
            store.append(claimed.epoch, number, record.bytes.clone(), Box::new(answer));
            let Answered::Appended(_, Appended::Committed) = wait(&mut store, &said) else {
                unreachable!("an empty disk takes records")
            };
            self.committed_aside(node, number, &record.bytes);
            target.handle(now, Input::Committed(number), &mut fx);
        }
    }

    fn committed_aside(&mut self, node: usize, number: RecordNumber, bytes: &bytes::Bytes) {
        let lane: LaneId = self.nodes[node].lane;
        self.checks.on_committed(lane, number, bytes, &mut self.coverage);
    }

    /// What an operator does about nodes whose disks are damaged, or were put back: whoever does not
    /// start gets its backup or a new disk, whoever runs on an old state a new lane. Says of whom
    /// neighbours must forget what they were.
    pub fn mend(&mut self) -> Vec<usize> {
        let mut mended = Vec::new();
        for node in 0..self.nodes.len() {
            let refused = !self.nodes[node].is_up() && self.nodes[node].refused;
            let old = self.nodes[node].is_up() && self.checks.model.is_lost(self.nodes[node].lane);
            if !refused && !old {
                continue;
            }
            let backup = self.nodes[node].backup.clone();
            if let Some(backup) = backup.filter(|_| refused) {
                self.checks.p16_lost(self.nodes[node].lane);
                self.nodes[node].disk.restore(&backup);
            }
            if self.nodes[node].disk.damaged().is_empty() && self.renew(node) {
                mended.push(node);
                continue;
            }
            self.replace_disk(node);
            mended.push(node);
        }
        mended
    }

    /// Every disk is read from its first record to its last: what is damaged must be refused.
    pub fn read_all_disks(&mut self) {
        for node in 0..self.nodes.len() {
            let damaged = self.nodes[node].disk.damaged();
            if damaged.is_empty() {
                continue;
            }
            self.kill(node, Power::Stays);
            self.restart(node);
            if self.nodes[node].is_up() {
                self.checks.p16_unnoticed(self.nodes[node].lane, &damaged);
            }
        }
    }
}
