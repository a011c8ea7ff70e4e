//! Disks that are damaged, lost or put back, and what people do about it: a new disk, a backup with
//! `--restored`, and `forget --reclaim` at the neighbours.

use dpc_core::input::Operator;

use super::{Power, World};
use crate::store::Damage;

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

    /// Puts a node's disk back to its backup and starts it, as if nothing had happened.
    pub fn put_back(&mut self, node: usize) {
        if self.nodes[node].backup.is_none() {
            return;
        }
        self.kill(node, Power::Cut);
        let line = format!("the disk of {} is put back to an old state", self.nodes[node].name);
        self.trace.headline(self.now, &line);
        self.coverage.add("old state put back");
        self.put_backup_back(node);
        self.restart(node);
    }

    /// A node's disk is gone. It starts with an empty one: the same name, a new lane.
    pub fn replace_disk(&mut self, node: usize) {
        self.kill(node, Power::Cut);
        let line = format!("{} lost its disk and gets a new one", self.nodes[node].name);
        self.trace.headline(self.now, &line);
        self.coverage.add("disk lost");
        self.empty_disk(node);
        self.restart(node);
    }

    /// Stops a node, gives its objects a new lane (`dpc serve --restored`) and starts it. False if
    /// its disk cannot be read: it is stopped then.
    fn renew(&mut self, node: usize) -> bool {
        self.kill(node, Power::Stays);
        if self.renew_lane(node).is_err() {
            return false;
        }
        self.trace.headline(self.now, &format!("{} is restored", self.nodes[node].name));
        self.coverage.add("restored with a new lane");
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
            if refused {
                self.put_backup_back(node);
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
