//! What checks and swarms ask of a world, and the stranger things they do to it.

use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::input::{LeaseRef, Lessee, Operator};
use dpc_core::{Answer, Input, Limits};

use super::{Mode, World};

/// Milliseconds after which a log that is being written has come to rest, when nothing else goes on.
const LOG_REST_MS: u64 = 60_000;

impl super::Node {
    /// Whether its process is paused.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }
}

impl World {
    /// The limits of every node.
    pub fn plan_limits(&self) -> &Limits {
        &self.plan.limits
    }

    /// From now on clients need so long before they settle.
    pub fn set_think(&mut self, think: dpc_core::Span) {
        (self.plan.think, self.plan.think_spread) = (think, dpc_core::Span(1));
    }

    /// Writes a line into the story.
    pub fn say(&mut self, what: &str) {
        self.trace.headline(self.now, what);
    }

    /// A node is told whether its disk is below its reserve.
    pub fn tell_disk(&mut self, node: usize, low: bool) {
        if !self.nodes[node].is_paused() {
            self.feed(node, Input::Disk { low });
        }
    }

    /// A client subscribes on its stream again, after having ended the subscription there.
    pub fn subscribe_again(&mut self, client: usize) {
        self.unsubscribe(client);
        self.clients[client].wants = true;
        let credit = self.clients[client].credit;
        self.set_credit(client, credit);
        self.on_reconnect(client);
    }

    /// A client settles a delivery, and once more: the same way, or differently.
    pub fn settle_twice(&mut self, client: usize, lease: u64, first: Mode, second: Option<Mode>) {
        let Some(delivery) = self.clients[client].hand.remove(&lease) else { return };
        let (node, session) = (self.clients[client].node, self.clients[client].session);
        let Some(session) = session.filter(|_| !self.nodes[node].is_paused()) else { return };
        let settle = self.settle_of(LeaseRef::Number(lease), &first, 0);
        let again = match second {
            None => settle.clone(),
            Some(mode) => self.settle_of(LeaseRef::Number(lease), &mode, 0),
        };
        let lessee = Lessee::Session(session);
        self.send_settle(node, lessee, settle, &delivery);
        if self.nodes[node].is_up() {
            self.send_settle(node, lessee, again, &delivery);
        }
    }

    /// A client at a node settles the object that it holds; nothing if nobody there holds it.
    pub fn act_on(&mut self, node: usize, id: ObjectId, mode: Mode) -> Option<()> {
        let held = self.clients.iter().enumerate().filter(|(_, c)| c.node == node);
        let (client, lease) = held
            .flat_map(|(i, c)| c.hand.iter().map(move |(lease, d)| (i, *lease, d)))
            .find_map(|(i, lease, d)| (d.object.id == id).then_some((i, lease)))?;
        self.act(client, lease, mode);
        Some(())
    }

    /// The checks at the end of a story: the books of every running node balance, and a core
    /// recovered from its log equals it.
    pub fn end_of_story(&mut self) -> Result<(), String> {
        self.trace.mute();
        self.run_for(dpc_core::Span::secs(3));
        for node in (0..self.nodes.len()).filter(|n| self.nodes[*n].is_up()).collect::<Vec<_>>() {
            self.answers.clear();
            self.operate(node, Operator::Types);
            let lane = self.nodes[node].lane;
            match self.answers.pop() {
                Some(Answer::Types(types)) => self.checks.p13_books_balance(lane, &types),
                _ => return Err(format!("{} did not answer for its types", lane.short())),
            }
            self.compare_with_recovered(node)?;
        }
        self.broken().map_or(Ok(()), |what| Err(what.to_owned()))
    }

    /// Why an object has not come to its end, in the words of the node that has it.
    pub fn explain_stuck(&mut self, lane: LaneId, id: ObjectId) -> String {
        let node = self.node_of(lane).expect("every lane has its node");
        let name = self.nodes[node].name.clone();
        self.answers.clear();
        self.operate(node, Operator::Inspect(id));
        self.run_for(dpc_core::Span::secs(1));
        let text = match self.answers.last() {
            Some(Answer::View(view)) => view.text.clone(),
            _ => "no answer".into(),
        };
        let left = self.checks.unfinished().len();
        format!("P11: {id} is stuck at {name}, {left} in all: {text}")
    }

    /// A log is tidied when nothing else goes on: that has to come to its end, too.
    fn let_log_rest(&mut self, node: usize) -> Result<(), String> {
        for _ in 0..LOG_REST_MS {
            match self.nodes[node].core() {
                Some(core) if core.is_writing() => self.run_for(dpc_core::Span::millis(1)),
                _ => return Ok(()),
            }
        }
        Err(format!("P11: the log of {} is written without end", self.nodes[node].name))
    }

    /// A core recovered from the log must stand where the running one stands, once the log rests.
    pub fn compare_with_recovered(&mut self, node: usize) -> Result<(), String> {
        self.let_log_rest(node)?;
        let twin = self.recovered_twin(node).digest();
        let core = self.nodes[node].core().expect("it runs");
        let live = core.digest();
        if live == twin {
            return Ok(());
        }
        let name = &self.nodes[node].name;
        let differ = |a: &str, b: &str| {
            let there: std::collections::BTreeSet<&str> = b.lines().collect();
            let only = a.lines().filter(|l| !there.contains(l)).take(6);
            only.collect::<Vec<_>>().join(" | ")
        };
        Err(format!(
            "R8: {name} recovered differs from {name} live; live only: {}; recovered only: {}",
            differ(&live, &twin),
            differ(&twin, &live)
        ))
    }
}
