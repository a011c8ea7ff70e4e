//! Clients that are in error, or mean harm: old and forged tokens, leases of others, emits and
//! subscriptions that cannot be.

use dpc_core::Input;
use dpc_core::ids::{Epoch, Incarnation, SubscriptionId};
use dpc_core::input::{LeaseRef, Lessee, Settle, Subscribe, Verb};
use dpc_core::object::{Push, Token};
use dpc_core::time::Span;

use super::World;
use super::client::{Op, entity};

/// How many tokens of deliveries the world remembers.
const TOKENS_MAX: usize = 64;

/// What of a token is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// Its number.
    Number,
    /// Its epoch.
    Epoch,
    /// Its incarnation.
    Incarnation,
    /// Its lane.
    Lane,
}

/// What is wrong with emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEmits {
    /// One is too large.
    TooLarge,
    /// Two have one id.
    Twice,
    /// One has the id of something else.
    Reused,
}

impl World {
    /// A delivery's token may be tried again later.
    pub(crate) fn remember_token(&mut self, token: Token, version: u32) {
        if self.tokens.len() == TOKENS_MAX {
            self.tokens.pop_front();
        }
        self.tokens.push_back((token, version));
    }

    fn token_ago(&self, ago: usize) -> Option<(Token, u32)> {
        self.tokens.iter().rev().nth(ago % self.tokens.len().max(1)).copied()
    }

    fn settle_by_token(&mut self, node: usize, token: Token, version: u32, forged: bool) {
        if !self.is_awake(node) {
            return;
        }
        let settle = finalise(LeaseRef::Token(token), Vec::new());
        if !forged {
            self.checks.on_settle(&token, version, &settle);
        }
        let op = if forged {
            Op::Forged { node, token, content: settle.content_hash() }
        } else {
            Op::Settle { node, token, settle: settle.clone(), version }
        };
        let to = self.ask(op);
        self.feed(node, Input::Settle(to, Lessee::Bearer, settle));
    }

    fn is_awake(&self, node: usize) -> bool {
        self.nodes[node].is_up() && !self.nodes[node].is_paused()
    }

    /// Somebody settles by a token of long ago, here or elsewhere.
    pub fn settle_old(&mut self, node: usize, ago: usize) {
        let Some((token, version)) = self.token_ago(ago) else { return };
        self.coverage.add("old token settled");
        self.settle_by_token(node, token, version, false);
    }

    /// Somebody settles two things by their tokens at once, given by different nodes if there are
    /// such. One of them may be done, and the other not.
    pub fn settle_mixed(&mut self, node: usize, ago: usize) {
        let Some((first, version)) = self.token_ago(ago) else { return };
        let elsewhere = |(token, _): &&(Token, u32)| token.lane != first.lane;
        let Some((second, other)) = self.tokens.iter().find(elsewhere).copied() else { return };
        if !self.is_awake(node) {
            return;
        }
        self.coverage.add("leases of two nodes settled at once");
        let both = [(first, version), (second, other)];
        let leases = both.iter().map(|(token, _)| LeaseRef::Token(*token)).collect();
        for (token, version) in both {
            self.checks.on_settle(&token, version, &finalise(LeaseRef::Token(token), Vec::new()));
        }
        let settle = Settle::new(leases, Verb::Finalise, Vec::new());
        let to = self.ask(Op::Other { node });
        self.feed(node, Input::Settle(to, Lessee::Bearer, settle));
    }

    /// Somebody settles by a token that nobody was given.
    pub fn settle_forged(&mut self, node: usize, ago: usize, how: Forgery) {
        let Some((mut token, version)) = self.token_ago(ago) else { return };
        match how {
            Forgery::Number => token.n += 1_000_000,
            Forgery::Epoch => token.epoch = Epoch(token.epoch.0 + 1_000),
            Forgery::Incarnation => token.incarnation = Incarnation(token.incarnation.0 + 1_000),
            Forgery::Lane => token.lane.0[15] ^= 0xff,
        }
        self.coverage.add("forged token settled");
        self.settle_by_token(node, token, version, true);
    }

    /// A client names a lease of another stream as its own.
    pub fn settle_of_other(&mut self, client: usize, other: usize) {
        let c = &self.clients[client];
        let (node, Some(session)) = (c.node, c.session) else { return };
        let held = self.clients[other].hand.iter().next();
        let Some((lease, delivery)) = held.filter(|_| self.clients[other].node == node) else {
            return;
        };
        if client == other || !self.is_awake(node) {
            return;
        }
        self.coverage.add("lease of another stream settled");
        let token = self.token_of(node, delivery);
        let settle = finalise(LeaseRef::Number(*lease), Vec::new());
        let to = self.ask(Op::Forged { node, token, content: settle.content_hash() });
        self.feed(node, Input::Settle(to, Lessee::Session(session), settle));
    }

    /// A client settles its oldest delivery with emits that cannot be: nothing is done.
    pub fn bad_emits(&mut self, client: usize, how: BadEmits) {
        let c = &self.clients[client];
        let (node, Some(session)) = (c.node, c.session) else { return };
        let Some((lease, delivery)) = c.hand.iter().next() else { return };
        if !self.is_awake(node) {
            return;
        }
        let (lease, token) = (*lease, self.token_of(node, delivery));
        let payload = vec![b'x'; self.plan.limits.payload_bytes as usize + 1];
        let push = |id, bytes: usize| {
            let mut entity = entity("sound", "emitted badly");
            if bytes > 0 {
                entity.payload = payload[..bytes].to_vec().into();
            }
            Push::new(Some(id), entity)
        };
        let id = self.new_id();
        let emits = match how {
            BadEmits::TooLarge => vec![push(id, payload.len())],
            BadEmits::Twice => vec![push(id, 0), push(id, 0)],
            // The object's own id is in use, with other content.
            BadEmits::Reused => vec![push(token.object, 0)],
        };
        self.coverage.add("bad emits");
        let settle = finalise(LeaseRef::Number(lease), emits);
        let to = self.ask(Op::Forged { node, token, content: settle.content_hash() });
        self.feed(node, Input::Settle(to, Lessee::Session(session), settle));
    }

    /// A client subscribes without credit, and with the number of a subscription that it has.
    pub fn bad_subscribe(&mut self, client: usize) {
        let c = &self.clients[client];
        let (node, Some(session)) = (c.node, c.session) else { return };
        if !self.is_awake(node) {
            return;
        }
        let other = super::client::pattern("nobody.pushes.this");
        let bad = [(c.pattern.clone(), 2, 0, None), (other.clone(), 1, 5, None)];
        let too_short = (other, 3, 5, Some(Span(1)));
        let processor = c.processor.clone();
        for (pattern, number, credit, lease) in bad.into_iter().chain([too_short]) {
            let subscription = SubscriptionId(number);
            let processor = processor.clone();
            let subscribe = Subscribe { session, subscription, pattern, processor, credit, lease };
            let to = self.ask(Op::Other { node });
            self.feed(node, Input::Subscribe(to, subscribe));
        }
    }

    /// A client begins to work on its oldest delivery and extends its lease, as libraries do.
    pub fn extend(&mut self, client: usize) {
        let c = &self.clients[client];
        let (node, Some(session)) = (c.node, c.session) else { return };
        let Some(lease) = c.hand.keys().next().copied().filter(|_| self.is_awake(node)) else {
            return;
        };
        let leases = || vec![LeaseRef::Number(lease)];
        let to = self.ask(Op::Other { node });
        self.feed(node, Input::Begin(to, Lessee::Session(session), leases()));
        if self.nodes[node].is_up() {
            let to = self.ask(Op::Extend { node, lease });
            self.feed(node, Input::Extend(to, Lessee::Session(session), leases()));
        }
    }
}

fn finalise(lease: LeaseRef, emits: Vec<Push>) -> Settle {
    Settle::new(vec![lease], Verb::Finalise, emits)
}
