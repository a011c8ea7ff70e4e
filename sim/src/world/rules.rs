//! What the world tells the checks of rules.

use dpc_core::Answer;
use dpc_core::ids::LinkId;
use dpc_core::input::{Operator, ReplyTo};
use dpc_core::message::Message;

use super::World;
use super::client::Op;

impl World {
    /// A node says something over a link.
    pub(super) fn note_said(&mut self, node: usize, link: LinkId, message: &Message) {
        let life = self.nodes[node].life.as_ref().expect("it has just spoken");
        let Some((wire, side)) = life.links.get(&link).copied() else { return };
        let other = self.wires[wire].ends[1 - side];
        let (from, to) = (self.nodes[node].lane, self.nodes[other].lane);
        self.checks.said(from, to, message);
        self.check_asked_first(node, message);
    }

    /// Something is answered.
    pub(super) fn note_answered(&mut self, node: usize, to: ReplyTo, answer: &Answer) {
        match (self.ops.get(&to.request.0), answer) {
            (Some(Op::Settle { token, .. }), Answer::RefusedAt(_, refusal))
                if refusal.reason == "LEASE_LOST" =>
            {
                self.checks.r5_called_lost(token, self.now);
            }
            (Some(Op::Push(_)), Answer::Refused(refusal)) => {
                let n = &self.nodes[node];
                self.checks.p15_push_refused(&n.name, refusal, n.draining);
            }
            _ => {}
        }
    }

    /// A person orders something.
    pub(super) fn note_order(&mut self, node: usize, order: &Operator) {
        match order {
            Operator::Drain => self.nodes[node].draining = true,
            Operator::Resume => self.nodes[node].draining = false,
            _ => {}
        }
    }
}
