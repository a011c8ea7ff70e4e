//! Clients: who pushes, subscribes and settles, and what they were told.

use std::collections::BTreeMap;

use bytes::Bytes;
use dpc_core::effect::{Delivery, LeaseEnd};
use dpc_core::ids::{ObjectId, RequestId, SessionId, SubscriptionId};
use dpc_core::input::{LeaseRef, Lessee, Operator, ReplyTo, Settle, Subscribe, Take, Transaction};
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::object::{Entity, Headers, Push, Time, Token};
use dpc_core::time::{Mono, Span};
use dpc_core::{Answer, Input};

use super::{Event, World, object_id};
use crate::dice::Dice;

/// What a client does with what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Finalises it.
    Finalise,
    /// Holds it: the lease runs out, unless somebody settles it by hand.
    Hold,
    /// Begins to work on it and never ends.
    Begin,
    /// Gives it back, not to blame.
    Release,
    /// Gives it back as failed.
    Fail,
    /// Rejects it.
    Reject,
    /// Handles it without ending it.
    Handle,
    /// Turns it into another type.
    Advance(TypeName),
    /// Finalises it and emits one object of another type.
    Emit(TypeName),
    /// Any of these, drawn each time.
    Any(Vec<TypeName>),
}

/// A client with one stream and one subscription; it comes back to its node by itself.
pub struct Client {
    /// Its node.
    pub node: usize,
    /// What it wants.
    pub pattern: Pattern,
    /// As which processor.
    pub processor: Name,
    /// Its credit.
    pub credit: u32,
    /// What it does.
    pub mode: Mode,
    /// Its lease, or the default.
    pub lease: Option<Span>,
    /// Its open stream.
    pub(crate) session: Option<SessionId>,
    /// Whether it wants to be there at all.
    pub(crate) wants: bool,
    /// Its node has taken its subscription, on its present stream.
    pub(crate) subscribed: bool,
    pub(crate) hand: BTreeMap<u64, Delivery>,
    pub(crate) mind: Dice,
    /// When it was last given something.
    pub(crate) fed_at: Mono,
}

/// What a client asks of its node for a subscription.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The node.
    pub node: usize,
    /// The type or prefix.
    pub pattern: String,
    /// The processor.
    pub processor: String,
    /// The credit.
    pub credit: u32,
    /// What it does.
    pub mode: Mode,
    /// Its lease, or the default.
    pub lease: Option<Span>,
}

/// A push that may have to be said again.
#[derive(Clone, Debug)]
pub struct Pushing {
    /// The node.
    pub node: usize,
    /// What.
    pub push: Push,
    /// How often it may still be repeated.
    pub retries: u32,
    /// Where it is repeated.
    pub retry_at: usize,
}

/// A request that waits for its answer.
#[derive(Clone, Debug)]
pub enum Op {
    /// A push.
    Push(Pushing),
    /// A settle of one lease.
    Settle {
        /// The node.
        node: usize,
        /// The lease's token.
        token: Token,
        /// What it was.
        settle: Settle,
        /// The version that was delivered.
        version: u32,
    },
    /// Several settles.
    Transaction {
        /// The node.
        node: usize,
        /// The tokens with the versions.
        tokens: Vec<(Token, u32)>,
        /// What it was.
        transaction: Transaction,
    },
    /// A unary receive.
    Take {
        /// The node.
        node: usize,
        /// What is done with what comes.
        mode: Mode,
    },
    /// A settle that nobody may do.
    Forged {
        /// The node.
        node: usize,
        /// The token of the lease that it named.
        token: Token,
        /// The hash of its content.
        content: dpc_core::object::Hash16,
    },
    /// A lease is to run on.
    Extend {
        /// The node.
        node: usize,
        /// The lease.
        lease: u64,
    },
    /// A client subscribes.
    Subscribe {
        /// The node.
        node: usize,
        /// The client.
        client: usize,
    },
    /// Anything else.
    Other {
        /// The node.
        node: usize,
    },
}

impl Op {
    fn node(&self) -> usize {
        match self {
            Self::Push(Pushing { node, .. })
            | Self::Settle { node, .. }
            | Self::Transaction { node, .. }
            | Self::Take { node, .. }
            | Self::Forged { node, .. }
            | Self::Extend { node, .. }
            | Self::Subscribe { node, .. }
            | Self::Other { node } => *node,
        }
    }
}

/// A type's name.
pub(crate) fn type_name(text: &str) -> TypeName {
    TypeName::from_type_url(text).expect("scripts use valid types")
}

/// A pattern.
pub(crate) fn pattern(text: &str) -> Pattern {
    Pattern::new(text).expect("scripts use valid patterns")
}

/// An entity with a text as its payload.
pub(crate) fn entity(ty: &str, text: &str) -> Entity {
    Entity {
        ty: type_name(ty),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        headers: Headers::default(),
    }
}

impl World {
    pub(crate) fn ask(&mut self, op: Op) -> ReplyTo {
        self.requests += 1;
        self.ops.insert(self.requests, op);
        ReplyTo { request: RequestId(self.requests), seq: 0 }
    }

    /// Leaves ids up to this one to others.
    pub(crate) fn skip_ids(&mut self, last: u64) {
        self.last_id = self.last_id.max(last);
    }

    /// The next unused object id.
    pub fn new_id(&mut self) -> ObjectId {
        self.last_id += 1;
        object_id(self.last_id)
    }

    /// Pushes an object at a node.
    pub fn push(&mut self, node: usize, push: Push, retries: u32) {
        self.send_push(Pushing { node, push, retries, retry_at: node });
    }

    /// A push of a text with the next id.
    pub fn push_text(&mut self, node: usize, ty: &str, text: &str) -> ObjectId {
        let id = self.new_id();
        let push = Push::new(Some(id), entity(ty, text));
        self.push(node, push, 0);
        id
    }

    /// Pushes an object; without an answer it is said again.
    pub fn send_push(&mut self, pushing: Pushing) {
        let node = pushing.node;
        if self.nodes[node].life.is_none() || self.nodes[node].is_paused() {
            return self.say_again(pushing);
        }
        if self.trace.is_on() {
            let line = self.push_line(&pushing);
            self.trace.input(self.now, line);
        }
        self.checks.on_push(self.nodes[node].lane, &pushing.push);
        let push = pushing.push.clone();
        let to = self.ask(Op::Push(pushing));
        self.feed(node, Input::Push(to, push));
    }

    /// A push had no answer: its client may say it again, perhaps elsewhere.
    fn say_again(&mut self, pushing: Pushing) {
        if pushing.retries == 0 {
            return;
        }
        self.coverage.add_if("push repeated elsewhere", pushing.retry_at != pushing.node);
        let (retries, node) = (pushing.retries - 1, pushing.retry_at);
        let again = Pushing { retries, node, ..pushing };
        self.after(Span::secs(1), Event::Retry { push: Box::new(again) });
    }

    /// A client subscribes; it comes back when its node does.
    pub fn subscribe(&mut self, wish: Wish) -> usize {
        self.clients.push(Client {
            node: wish.node,
            pattern: Pattern::new(&wish.pattern).expect("scripts use valid patterns"),
            processor: Name::new("processor", &wish.processor).expect("a valid name"),
            credit: wish.credit,
            mode: wish.mode,
            lease: wish.lease,
            session: None,
            wants: true,
            subscribed: false,
            hand: BTreeMap::new(),
            fed_at: self.now,
            mind: Dice::new(self.plan.seed, &format!("client {}", self.clients.len())),
        });
        let client = self.clients.len() - 1;
        self.on_reconnect(client);
        client
    }

    /// A client's subscription ends; its stream and leases stay.
    pub fn unsubscribe(&mut self, client: usize) {
        (self.clients[client].wants, self.clients[client].subscribed) = (false, false);
        let (node, session) = (self.clients[client].node, self.clients[client].session);
        if let (Some(session), true) = (session, self.nodes[node].is_up()) {
            if self.trace.is_on() {
                let what = &self.clients[client].pattern;
                let line = format!("{} < unsubscribe {what}", self.nodes[node].name);
                self.trace.input(self.now, line);
            }
            let to = self.ask(Op::Other { node });
            self.feed(node, Input::Unsubscribe(to, session, SubscriptionId(1)));
        }
    }

    /// A client's stream ends.
    pub fn leave(&mut self, client: usize) {
        self.clients[client].wants = false;
        self.hang_up(client);
    }

    /// A client that has left comes back.
    pub fn rejoin(&mut self, client: usize) {
        self.clients[client].wants = true;
        self.on_reconnect(client);
    }

    fn hang_up(&mut self, client: usize) {
        let node = self.clients[client].node;
        self.clients[client].hand.clear();
        self.clients[client].subscribed = false;
        let Some(session) = self.clients[client].session.take() else { return };
        let life = self.nodes[node].lives;
        self.at(self.now, Event::HungUp { node, life, session });
    }

    /// The end of a stream reaches its node.
    pub(crate) fn on_hung_up(&mut self, node: usize, life: u64, session: SessionId) {
        if !self.is_life(node, life) {
            return;
        }
        if self.trace.is_on() {
            let line = format!("{} < session {session} ends", self.nodes[node].name);
            self.trace.input(self.now, line);
        }
        self.checks.p05_stream_ended(self.nodes[node].lane, session);
        self.feed(node, Input::CloseSession(session));
    }

    /// A client loses its stream and comes back.
    pub fn reconnect(&mut self, client: usize) {
        self.hang_up(client);
        self.after(Span::millis(50), Event::Reconnect { client });
    }

    pub(crate) fn on_reconnect(&mut self, client: usize) {
        let c = &self.clients[client];
        let node = c.node;
        if !c.wants || c.session.is_some() || !self.nodes[node].is_up() {
            return;
        }
        if self.nodes[node].is_paused() {
            return self.after(Span::secs(1), Event::Reconnect { client });
        }
        self.nodes[node].sessions += 1;
        let session = SessionId(self.nodes[node].sessions);
        self.clients[client].session = Some(session);
        self.feed(node, Input::OpenSession(session));
        self.say_subscribe(client);
    }

    /// Sets a client's credit.
    pub fn set_credit(&mut self, client: usize, credit: u32) {
        self.clients[client].credit = credit;
        if self.clients[client].session.is_some() {
            self.say_subscribe(client);
        }
    }

    fn say_subscribe(&mut self, client: usize) {
        let c = &self.clients[client];
        let node = c.node;
        let Some(session) = c.session else { return };
        if !self.nodes[node].is_up() {
            return;
        }
        if self.nodes[node].is_paused() {
            // It waits in the socket until the process goes on.
            return self.nodes[node].deferred.push(Event::Subscribe { client, session });
        }
        let subscribe = Subscribe {
            session,
            subscription: SubscriptionId(1),
            pattern: c.pattern.clone(),
            processor: c.processor.clone(),
            credit: c.credit,
            lease: c.lease,
        };
        if self.trace.is_on() {
            let who = crate::trace::as_processor(subscribe.processor.as_str());
            let line = format!(
                "{} < session {session} subscribes {}{who}, credit {}",
                self.nodes[node].name, subscribe.pattern, subscribe.credit
            );
            self.trace.input(self.now, line);
        }
        self.checks.p10_wanted(&subscribe.pattern);
        let to = self.ask(Op::Subscribe { node, client });
        self.feed(node, Input::Subscribe(to, subscribe));
    }

    /// What a client said while its node stood still. It may have left since, or come back.
    pub(crate) fn on_subscribe(&mut self, client: usize, session: SessionId) {
        if self.clients[client].wants && self.clients[client].session == Some(session) {
            self.say_subscribe(client);
        }
    }

    /// A unary receive.
    pub fn take(&mut self, node: usize, pattern: &str, processor: &str, count: u32, mode: Mode) {
        let take = Take {
            pattern: Pattern::new(pattern).expect("scripts use valid patterns"),
            processor: Name::new("processor", processor).expect("a valid name"),
            wait: Span::secs(5),
            count,
            lease: None,
        };
        if !self.nodes[node].is_up() || self.nodes[node].is_paused() {
            return;
        }
        if self.trace.is_on() {
            let who = crate::trace::as_processor(take.processor.as_str());
            let line = format!("{} < take {count} of {pattern}{who}", self.nodes[node].name);
            self.trace.input(self.now, line);
        }
        self.checks.p10_wanted(&take.pattern);
        let to = self.ask(Op::Take { node, mode });
        self.feed(node, Input::Take(to, take));
    }

    /// An operator asks or orders something.
    pub fn operate(&mut self, node: usize, order: Operator) {
        if !self.nodes[node].is_up() || self.nodes[node].is_paused() {
            return;
        }
        if self.trace.is_on() {
            let line = crate::trace::order_line(self.nodes[node].name.as_str(), &order);
            self.trace.input(self.now, line);
        }
        self.note_order(node, &order);
        let to = self.ask(Op::Other { node });
        self.feed(node, Input::Operator(to, order));
    }

    pub(crate) fn on_delivery(&mut self, node: usize, session: SessionId, delivery: Delivery) {
        let client = self.clients.iter().position(|c| c.node == node && c.session == Some(session));
        let Some(client) = client else { return };
        let lease = delivery.lease;
        self.coverage.add_if("an object with hops was delivered", delivery.object.moves > 1);
        self.clients[client].fed_at = self.now;
        self.clients[client].hand.insert(lease, delivery);
        if self.clients[client].mode == Mode::Hold {
            return;
        }
        let mind = &mut self.clients[client].mind;
        let think = self.plan.think.0 + mind.below(self.plan.think_spread.0);
        let life = self.nodes[node].lives;
        self.after(Span(think), Event::Think { node, life, lease });
    }

    pub(crate) fn on_lease_ended(
        &mut self,
        node: usize,
        session: SessionId,
        lease: u64,
        reason: LeaseEnd,
    ) {
        let holder = self.clients.iter_mut().find(|c| c.node == node && c.session == Some(session));
        if let Some(client) = holder {
            client.hand.remove(&lease);
        }
        self.coverage.add(match reason {
            LeaseEnd::Expired => "lease ran out",
            LeaseEnd::Discarded => "discarded out of a lease",
        });
    }

    pub(crate) fn on_think(&mut self, node: usize, life: u64, lease: u64) {
        if !self.is_life(node, life) {
            return;
        }
        let held = |c: &Client| c.node == node && c.hand.contains_key(&lease);
        let Some(client) = self.clients.iter().position(held) else { return };
        let mode = self.clients[client].mode.clone();
        self.act(client, lease, mode);
    }

    pub(crate) fn on_answer(&mut self, node: usize, to: ReplyTo, answer: Answer) {
        self.note_answered(node, to, &answer);
        let Some(op) = self.ops.remove(&to.request.0) else {
            return self.checks.fail("P8", format!("answered twice or unasked: {answer}"));
        };
        let lane = self.nodes[node].lane;
        if let Answer::Refused(refusal) | Answer::RefusedAt(_, refusal) = &answer {
            self.coverage.add(refusal.reason);
        }
        // A refusal of one lease comes before the count of those that were done.
        let of_leases = matches!(op, Op::Settle { .. } | Op::Forged { .. } | Op::Extend { .. });
        if matches!(answer, Answer::RefusedAt(..)) && (of_leases || matches!(op, Op::Other { .. }))
        {
            self.ops.insert(to.request.0, Op::Other { node });
        }
        match &op {
            Op::Push(pushing) => self.checks.on_pushed(lane, &pushing.push, &answer),
            Op::Settle { token, settle, version, .. } => {
                let seen = &mut self.coverage;
                self.checks.on_settled(token, *version, settle, &answer, seen);
            }
            Op::Transaction { tokens, transaction, .. } => {
                self.checks.on_transacted(lane, tokens, transaction, &answer);
            }
            Op::Take { mode, .. } => {
                if let Answer::Taken(taken) = &answer {
                    self.on_taken(node, taken, mode.clone());
                }
            }
            Op::Forged { token, content, .. } => self.checks.p03_forged(token, *content, &answer),
            Op::Extend { lease, .. } => {
                if let Answer::Extended(1, until) = answer {
                    self.coverage.add("lease extended");
                    let until = self.now + (until - self.now_of(node).wall);
                    self.checks.p05_extended(lane, *lease, until);
                }
            }
            Op::Subscribe { client, .. } => {
                self.clients[*client].subscribed |= matches!(answer, Answer::Done(_));
                self.answers.push(answer);
            }
            Op::Other { .. } => {
                if let Answer::View(view) = &answer {
                    self.checks.p17_view(lane, view, &mut self.coverage);
                }
                self.answers.push(answer);
            }
        }
    }

    fn on_taken(&mut self, node: usize, taken: &[Delivery], mode: Mode) {
        for delivery in taken {
            // The settle of the one before may have met the end of the process.
            if !self.nodes[node].is_up() {
                return;
            }
            self.coverage.add("taken without a stream");
            self.check_delivery(node, None, delivery);
            if matches!(mode, Mode::Hold | Mode::Begin) {
                continue;
            }
            let token = self.token_of(node, delivery);
            let settle = self.settle_of(LeaseRef::Token(token), &mode, 0);
            self.send_settle(node, Lessee::Bearer, settle, delivery);
        }
    }

    /// The streams of a dead process are gone.
    pub(crate) fn forget_sessions(&mut self, node: usize) {
        for client in self.clients.iter_mut().filter(|c| c.node == node) {
            (client.session, client.subscribed) = (None, false);
            client.hand.clear();
        }
    }

    /// Requests to a dead process are never answered; pushes may be repeated.
    pub(crate) fn forget_ops(&mut self, node: usize) {
        let lost: Vec<u64> =
            self.ops.iter().filter(|(_, op)| op.node() == node).map(|(n, _)| *n).collect();
        for n in lost {
            let op = self.ops.remove(&n).expect("just listed");
            if let Op::Push(pushing) = op {
                self.coverage.add_if("push repeated after a crash", pushing.retries > 0);
                self.say_again(pushing);
            }
        }
    }

    /// A push with a delay or an expiry.
    pub fn timed_push(
        id: ObjectId,
        ty: &str,
        text: &str,
        delay: Option<Span>,
        expires: Option<Span>,
    ) -> Push {
        let (not_before, expires_at) = (delay.map(Time::In), expires.map(Time::In));
        Push::new(Some(id), entity(ty, text)).timed(not_before, expires_at)
    }
}
