//! What the world looks at by itself as time goes on: each core's own invariants and usage, what is
//! delivered, and whether anybody is starved.

use dpc_core::Span;
use dpc_core::effect::Delivery;
use dpc_core::ids::SessionId;
use dpc_core::message::Message;

use super::World;
use crate::checks::{Held, Idle};

/// After its clock was set, a node may wait so long for a time that it had begun to wait for.
const CLOCK_SETTLES: Span = Span::secs(75);

/// Who was given something so lately is not idle: it is served, one thing after the other.
const NOT_FED: Span = Span::secs(2);

impl World {
    /// Each running core checks itself, and what it uses is compared with its limits.
    pub(super) fn look_inside(&mut self) {
        for node in &self.nodes {
            if let Some(core) = node.core() {
                core.check();
                self.checks.p14_within_limits(core);
            }
        }
    }

    /// Something is delivered to a stream, or to somebody without one.
    pub(super) fn check_delivery(
        &mut self,
        node: usize,
        session: Option<SessionId>,
        delivery: &Delivery,
    ) {
        let lane = self.nodes[node].lane;
        let (lease, epoch, until) = (delivery.lease, delivery.epoch, delivery.until);
        let settling = false;
        let held = Held { lease, epoch, session, settling, until, at: self.now };
        self.checks.on_delivery(lane, delivery, held, &mut self.coverage);
        let token = self.token_of(node, delivery);
        self.remember_token(token, delivery.object.version);
    }

    /// P12: nothing waits beside an idle subscriber for it.
    pub(super) fn look_for_starved(&mut self) {
        for node in 0..self.nodes.len() {
            let (lane, wall) = (self.nodes[node].lane, self.now_of(node).wall);
            let idle = self.can_deliver(node).then(|| self.idle_at(node));
            self.checks.p12_idle_beside_work(lane, idle.as_deref(), self.now, wall);
        }
    }

    /// P12: who is idle here is asked before any peer.
    pub(super) fn check_asked_first(&mut self, node: usize, message: &Message) {
        let Message::Offer(offer) = message else { return };
        let lane = self.nodes[node].lane;
        // Who holds something may have used up the memory for that.
        if self.can_deliver(node) && self.checks.leases_held(lane, self.now) == 0 {
            let idle = self.idle_at(node);
            self.checks.p12_offered_past(lane, &idle, &offer.objects);
        }
    }

    fn can_deliver(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        let clock_settles = n.clock_set.is_some_and(|at| self.now - at < CLOCK_SETTLES);
        let held = self.checks.leases_held(n.lane, self.now);
        n.is_up()
            && !n.is_paused()
            && !n.draining
            && !clock_settles
            && n.disk.stalled_until(self.now).is_none()
            && self.reaches_store(node)
            && held < self.plan.limits.leases as usize
    }

    /// Subscriptions at a node with free credit.
    fn idle_at(&self, node: usize) -> Vec<Idle> {
        let lane = self.nodes[node].lane;
        let here = self.clients.iter().filter(|c| c.node == node && c.subscribed);
        here.filter_map(|c| {
            if self.now - c.fed_at < NOT_FED {
                return None;
            }
            let held = self.checks.leases_of(lane, c.session?, self.now);
            let idle = || Idle { pattern: c.pattern.clone(), processor: c.processor.clone() };
            (held < c.credit as usize).then(idle)
        })
        .collect()
    }
}
