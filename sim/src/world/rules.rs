//! What the world tells the checks of rules.

use dpc_core::Answer;
use dpc_core::ids::LinkId;
use dpc_core::input::{Operator, ReplyTo};
use dpc_core::message::Message;
use dpc_core::refusal::Code;

use super::World;
use super::client::Op;

impl World {
    /// Whatever the rules find broken is a broken promise.
    pub(super) fn judge(&mut self) {
        for (rule, what) in self.rules.take_broken() {
            self.checks.fail(rule, what);
        }
    }

    /// The run is over and quiet.
    pub(crate) fn judge_end(&mut self) {
        self.rules.all_explained();
        self.judge();
    }

    /// A node says something over a link.
    pub(super) fn note_said(&mut self, node: usize, link: LinkId, message: &Message) {
        let life = self.nodes[node].life.as_ref().expect("it has just spoken");
        let Some((wire, side)) = life.links.get(&link).copied() else { return };
        let other = self.wires[wire].ends[1 - side];
        let (from, to) = (self.nodes[node].lane, self.nodes[other].lane);
        self.rules.said(from, to, message);
        self.judge();
    }

    /// Something is asked.
    pub(super) fn note_asked(&mut self, op: &Op) {
        match op {
            Op::Settle { token, .. } => self.rules.asked(token),
            Op::Transaction { tokens, .. } => {
                tokens.iter().for_each(|(token, _)| self.rules.asked(token));
            }
            _ => {}
        }
    }

    /// Something is answered.
    pub(super) fn note_answered(&mut self, node: usize, to: ReplyTo, answer: &Answer) {
        match (self.ops.get(&to.request.0), answer) {
            (Some(Op::Settle { token, .. }), Answer::RefusedAt(_, refusal))
                if refusal.reason == "LEASE_LOST" =>
            {
                self.rules.called_lost(token, self.now);
            }
            (Some(Op::Settle { token, .. }), Answer::Done(_)) => {
                self.rules.lease_ended(token.lane, token.n);
            }
            (Some(Op::Transaction { tokens, .. }), Answer::Done(_)) => {
                tokens.iter().for_each(|(t, _)| self.rules.lease_ended(t.lane, t.n));
            }
            (Some(Op::Push(_)), Answer::Refused(refusal))
                if refusal.code == Code::Unavailable && !self.drained.contains(&node) =>
            {
                // P15: only its own drain makes a node refuse a push so.
                let name = &self.nodes[node].name;
                let what = format!("a push at {name} was refused: {}", refusal.message);
                self.checks.fail("P15", what);
            }
            _ => {}
        }
        self.judge();
    }

    /// A person orders something.
    pub(super) fn note_order(&mut self, node: usize, order: &Operator) {
        match order {
            Operator::Drain => self.drained.insert(node),
            Operator::Resume => self.drained.remove(&node),
            _ => false,
        };
    }
}
