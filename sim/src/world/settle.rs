//! What clients do with what they were given: settles, transactions, and the odd one twice.

use dpc_core::Input;
use dpc_core::effect::Delivery;
use dpc_core::input::{LeaseRef, Lessee, Settle, Transaction, Verb};
use dpc_core::object::{Push, Token};
use dpc_core::time::Span;

use super::World;
use super::client::{Client, Mode, Op, entity};
use crate::dice::Dice;

impl World {
    /// A client settles one delivery as a mode says.
    pub fn act(&mut self, client: usize, lease: u64, mode: Mode) {
        if !self.clients[client].hand.contains_key(&lease) {
            return;
        }
        let (node, session) = (self.clients[client].node, self.clients[client].session);
        let Some(session) = session else { return };
        let mind = &mut self.clients[client].mind;
        let mode = drawn(mind, mode);
        let emits = mind.below(2);
        if mode == Mode::Hold {
            return;
        }
        if mode == Mode::Begin {
            if self.trace.is_on() {
                let line =
                    format!("{} < session {session} begins lease {lease}", self.nodes[node].name);
                self.trace.input(self.now, line);
            }
            let to = self.ask(Op::Other { node });
            let leases = vec![LeaseRef::Number(lease)];
            return self.feed(node, Input::Begin(to, Lessee::Session(session), leases));
        }
        let delivery = self.clients[client].hand.remove(&lease).expect("it was just there");
        let settle = self.settle_of(LeaseRef::Number(lease), &mode, emits);
        self.send_settle(node, Lessee::Session(session), settle, &delivery);
    }

    /// Deliveries in a client's hands, oldest first.
    pub fn hand(&self, client: usize) -> Vec<u64> {
        self.clients[client].hand.keys().copied().collect()
    }

    /// The clients.
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// Changes what a client does from now on.
    pub fn set_mode(&mut self, client: usize, mode: Mode) {
        self.clients[client].mode = mode;
    }

    /// The settle that a mode says, with one emit and so many more where it emits.
    pub(crate) fn settle_of(&mut self, lease: LeaseRef, mode: &Mode, more: u64) -> Settle {
        let mut emits = Vec::new();
        let verb = match mode {
            Mode::Finalise | Mode::Any(_) | Mode::Hold | Mode::Begin => Verb::Finalise,
            Mode::Release => Verb::Release { delay: Span::ZERO, failed: false },
            Mode::Fail => Verb::Release { delay: Span::ZERO, failed: true },
            Mode::Reject => Verb::Reject("not understood".into()),
            Mode::Handle => Verb::Advance(None),
            Mode::Advance(ty) => Verb::Advance(Some(entity(ty.as_str(), "advanced"))),
            Mode::Emit(ty) => {
                for _ in 0..=more {
                    emits.push(Push::new(Some(self.new_id()), entity(ty.as_str(), "emitted")));
                }
                Verb::Finalise
            }
        };
        Settle::new(vec![lease], verb, emits)
    }

    pub(crate) fn send_settle(
        &mut self,
        node: usize,
        lessee: Lessee,
        settle: Settle,
        delivery: &Delivery,
    ) {
        let token = self.token_of(node, delivery);
        if self.trace.is_on() {
            let line = self.settle_line(node, delivery, &settle);
            self.trace.input(self.now, line);
        }
        self.checks.on_settle(&token, delivery.object.version, &settle);
        let version = delivery.object.version;
        let to = self.ask(Op::Settle { node, token, settle: settle.clone(), version });
        self.feed(node, Input::Settle(to, lessee, settle));
    }

    /// The full token of a delivery.
    pub(crate) fn token_of(&self, node: usize, delivery: &Delivery) -> Token {
        let core = self.nodes[node].core().expect("its delivery is in somebody's hands");
        Token {
            lane: core.lane_id(),
            epoch: delivery.epoch,
            incarnation: core.incarnation(),
            n: delivery.lease,
            object: delivery.object.id,
        }
    }

    /// A client settles several of its deliveries and pushes one object, all or nothing.
    pub fn transact(
        &mut self,
        client: usize,
        leases: &[u64],
        modes: &[Mode],
        push_ty: Option<&str>,
    ) {
        let (node, session) = (self.clients[client].node, self.clients[client].session);
        let Some(session) = session else { return };
        let (mut settles, mut tokens) = (Vec::new(), Vec::new());
        for (lease, mode) in leases.iter().zip(modes) {
            let Some(delivery) = self.clients[client].hand.remove(lease) else { continue };
            let settle = self.settle_of(LeaseRef::Number(*lease), mode, 0);
            let token = self.token_of(node, &delivery);
            self.checks.on_settle(&token, delivery.object.version, &settle);
            tokens.push((token, delivery.object.version));
            settles.push(settle);
        }
        let mut pushes = Vec::new();
        if let Some(ty) = push_ty {
            let id = Some(self.new_id());
            let push = Push::new(id, entity(ty, "transacted"));
            self.checks.on_push(self.nodes[node].lane, &push);
            pushes.push(push);
        }
        if settles.is_empty() && pushes.is_empty() {
            return;
        }
        if self.trace.is_on() {
            let name = &self.nodes[node].name;
            let (n, m) = (settles.len(), pushes.len());
            let line =
                format!("{name} < session {session}: transaction of {n} settles, {m} pushes");
            self.trace.input(self.now, line);
        }
        let transaction = Transaction { settles, pushes };
        self.coverage.add("transaction");
        let op = Op::Transaction { node, tokens, transaction: transaction.clone() };
        let to = self.ask(op);
        self.feed(node, Input::Transaction(to, Lessee::Session(session), transaction));
    }
}

/// What a client does with one delivery.
fn drawn(mind: &mut Dice, mode: Mode) -> Mode {
    let Mode::Any(types) = mode else { return mode };
    let ty = mind.one_of(&types);
    match mind.below(20) {
        0 => Mode::Hold,
        1 => Mode::Begin,
        2 | 3 => Mode::Release,
        4 => Mode::Fail,
        5 => Mode::Reject,
        6 | 7 => Mode::Handle,
        8 | 9 => Mode::Advance(ty),
        10 | 11 => Mode::Emit(ty),
        _ => Mode::Finalise,
    }
}
