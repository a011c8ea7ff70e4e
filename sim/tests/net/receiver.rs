//! The receiving half of a client: subscriptions and takes, and every way to settle.

use std::collections::BTreeMap;
use std::time::Duration;

use dpc_client::{
    Client, Delivered, Delivery, Error, FencingKey, LeaseToken, Object, Outcome, Verb,
};
use dpc_core::Answer;
use dpc_core::ids::ObjectId;
use dpc_core::input::{LeaseRef, Settle, Transaction, Verb as CoreVerb};
use dpc_core::object::{Push, Token};
use dpc_core::time::Span;
use tokio::time::timeout;

use crate::client::{Me, TYPES, entity_of, object_of, options, push_of, refusal};
use crate::world::{Phase, World};

/// What subscriptions ask for.
const PATTERNS: [&str; 6] = ["img", "doc.text", "doc.pdf", "doc.*", "sound", "*"];

/// The processors.
const PROCESSORS: [&str; 3] = ["default", "blue", "red"];

/// Subscribes for a while, and does with each delivery whatever comes to mind.
pub(crate) async fn subscribe(me: Me) {
    let lease = Duration::from_millis(600 + me.draw(2_000));
    let credit = *me.any(&[1, 2, 5, 64]);
    let subscribing = me.client.subscribe([*me.any(&PATTERNS)]);
    let subscribing = subscribing.processor(*me.any(&PROCESSORS)).credit(credit).lease(lease);
    let Ok(Ok(subscription)) = timeout(Duration::from_secs(4), subscribing).await else {
        return me.world.saw("subscription not opened");
    };
    me.world.saw("subscribed");
    let mut keys = BTreeMap::new();
    for _ in 0..3 + me.draw(40) {
        let patience = Duration::from_millis(20 + me.draw(1_200));
        match timeout(patience, subscription.next()).await {
            Ok(Ok(Some(delivery))) => {
                heard(&me.world, &delivery);
                grows(&me, &mut keys, &delivery);
                act(&me, &subscription, delivery).await;
            }
            Ok(Ok(None)) => break,
            Ok(Err(_)) => return me.world.saw("subscription ended by an error"),
            Err(_) if me.world.phase() != Phase::Chaos => break,
            Err(_) => {}
        }
    }
    if me.draw(3) == 0 {
        return me.world.saw("subscription dropped");
    }
    let closed = timeout(Duration::from_secs(6), subscription.close()).await;
    let name = if matches!(closed, Ok(Ok(()))) { "subscription closed" } else { "close in doubt" };
    me.world.saw(name);
}

/// Takes without a stream, and settles by token.
pub(crate) async fn take(me: Me) {
    let wait = Duration::from_millis(me.draw(600));
    let taking = me.client.take(*me.any(&PATTERNS)).processor(*me.any(&PROCESSORS)).wait(wait);
    let Ok(taken) = taking.max(3).lease(Duration::from_secs(1)).await else {
        return me.world.saw("take not answered");
    };
    for delivered in taken {
        me.world.saw("taken without a stream");
        heard(&me.world, &delivered);
        tokio::time::sleep(Duration::from_millis(me.draw(300))).await;
        let plan = Deed::drawn(&me);
        by_token(&me, delivered.token(), delivered.version(), &plan).await;
        if me.draw(3) == 0 {
            by_token(&me, delivered.token(), delivered.version(), &plan).await;
        }
    }
}

/// P2, P4 and P5 of one delivery, as far as a client can see.
fn heard(world: &World, delivered: &Delivered) {
    let facts = &mut *world.lock();
    let id = ObjectId(*delivered.id().as_bytes());
    let text = String::from_utf8_lossy(&delivered.payload()).into_owned();
    let hash = entity_of(delivered.object_type(), &text).hash();
    if !facts.contents.get(&id).is_some_and(|known| known.contains(&hash)) {
        facts.checks.fail("P2", format!("{id} was delivered as nobody ever made it"));
    }
    if !facts.checks.model.lanes().any(|lane| lane.knows(id)) {
        facts.checks.fail("P4", format!("{id} was delivered before it was durable"));
    }
    let token = core_token(delivered.token());
    if !facts.heard.insert(token) {
        facts.checks.fail("P5", format!("{id} was delivered twice under one lease"));
    }
    facts.coverage.add("delivered");
    facts.coverage.add_if("an object with hops was delivered", delivered.hops() > 0);
    facts.coverage.add_if("an object with two hops was delivered", delivered.hops() > 1);
    facts.coverage.add_if("delivered again", delivered.delivery() > 1);
}

/// P5 along one subscription: a later lease of an object has the greater key.
fn grows(me: &Me, keys: &mut BTreeMap<ObjectId, FencingKey>, delivered: &Delivered) {
    let (id, key) = (ObjectId(*delivered.id().as_bytes()), delivered.fencing_key());
    let facts = &mut *me.world.lock();
    // Of one id pushed at two nodes there may be two objects, each with keys of its own.
    let alone = facts.pushed_at.get(&id).is_none_or(|lanes| lanes.len() == 1);
    if let Some(before) = keys.insert(id, key)
        && before >= key
        && alone
    {
        facts.checks.fail("P5", format!("{id} had {before:?}, then {key:?}"));
    }
}

/// One settle to be, as the library takes it and as core has it.
#[derive(Clone)]
struct Deed {
    verb: Verb,
    core: CoreVerb,
    emits: Vec<Push>,
}

impl Deed {
    fn drawn(me: &Me) -> Self {
        let ty = *me.any(&TYPES);
        let plain = |verb, core| Self { verb, core, emits: Vec::new() };
        let back = |failed| CoreVerb::Release { delay: Span::ZERO, failed };
        match me.draw(16) {
            0 | 1 => plain(Verb::Release(None), back(false)),
            2 => plain(Verb::Fail(None), back(true)),
            3 => plain(
                Verb::Reject("not understood".into()),
                CoreVerb::Reject("not understood".into()),
            ),
            4 => plain(Verb::Advance(None), CoreVerb::Advance(None)),
            5 | 6 => {
                let entity = dpc_client::Entity::new(ty, "advanced");
                let core = CoreVerb::Advance(Some(entity_of(ty, "advanced")));
                plain(Verb::Advance(Some(entity)), core)
            }
            7 | 8 => {
                let count = 1 + me.draw(2);
                let emits = (0..count).map(|_| push_of(me.new_id(), ty, "emitted")).collect();
                Self { emits, ..plain(Verb::Finalise, CoreVerb::Finalise) }
            }
            _ => plain(Verb::Finalise, CoreVerb::Finalise),
        }
    }

    fn core(&self, token: Token) -> Settle {
        let leases = vec![LeaseRef::Token(token)];
        Settle::new(leases, self.core.clone(), self.emits.clone())
    }

    fn objects(&self) -> impl Iterator<Item = Object> {
        self.emits.iter().map(object_of)
    }
}

/// Does something with a delivery: settles it, now or later, twice, or not at all.
async fn act(me: &Me, subscription: &dpc_client::Subscription, delivery: Delivery) {
    if me.draw(3) == 0 {
        tokio::time::sleep(Duration::from_millis(me.draw(900))).await;
    }
    match me.draw(24) {
        0 => return me.world.saw("delivery dropped"),
        1 => {
            delivery.abandon();
            return me.world.saw("delivery abandoned");
        }
        2 | 3 => return transact(me, subscription, delivery).await,
        _ => {}
    }
    let deed = Deed::drawn(me);
    let (token, version) = (delivery.token(), delivery.version());
    let core = core_token(token);
    asked(me, core, version, &deed);
    let settle = delivery.settle(deed.verb.clone());
    let settled = deed.objects().fold(settle, dpc_client::Settle::emit).await;
    answered(me, core, version, &deed, &settled);
    if me.draw(8) == 0 {
        by_token(me, token, version, &deed).await;
    }
}

async fn by_token(me: &Me, token: LeaseToken, version: u32, deed: &Deed) {
    let core = core_token(token);
    asked(me, core, version, deed);
    let settle = me.client.settle(token).verb(deed.verb.clone());
    let settled = deed.objects().fold(settle, dpc_client::SettleToken::emit).await;
    answered(me, core, version, deed, &settled);
    me.world.saw("settled by token");
}

/// One settle and one push, both or neither.
async fn transact(me: &Me, subscription: &dpc_client::Subscription, delivery: Delivery) {
    let deed = Deed::drawn(me);
    let (token, version) = (core_token(delivery.token()), delivery.version());
    let push = push_of(me.new_id(), me.any::<&str>(&TYPES), "transacted");
    asked(me, token, version, &deed);
    {
        let facts = &mut *me.world.lock();
        facts.on_push(&[token.lane], &push);
    }
    let settle = delivery.settle(deed.verb.clone());
    let settle = deed.objects().fold(settle, dpc_client::Settle::emit);
    let done = subscription.transaction().settle(settle).push(object_of(&push)).await;
    let facts = &mut *me.world.lock();
    let transaction = Transaction { settles: vec![deed.core(token)], pushes: vec![push] };
    let answer = match &done {
        Ok(()) => Answer::Done(2),
        Err(error) if error.outcome() == Outcome::DefinitelyNot => {
            Answer::Refused(Box::new(refusal(error)))
        }
        Err(_) => return facts.coverage.add("transaction with unknown outcome"),
    };
    facts.coverage.add(if done.is_ok() { "transaction done" } else { "transaction refused" });
    facts.checks.on_transacted(token.lane, &[(token, version)], &transaction, &answer);
}

fn asked(me: &Me, token: Token, version: u32, deed: &Deed) {
    let facts = &mut *me.world.lock();
    for emit in &deed.emits {
        facts.knows(emit);
    }
    if let CoreVerb::Advance(Some(entity)) = &deed.core {
        facts.contents.entry(token.object).or_default().insert(entity.hash());
    }
    facts.checks.on_settle(&token, version, &deed.core(token));
}

fn answered(me: &Me, token: Token, version: u32, deed: &Deed, settled: &Result<(), Error>) {
    let facts = &mut *me.world.lock();
    tracing::info!(target: "story", "settle {token:?} of {} v{version} {:?}: {settled:?}", token.object, deed.core);
    let answer = match settled {
        Ok(()) => Answer::Done(1),
        Err(error) if error.outcome() == Outcome::DefinitelyNot => {
            facts.coverage.add_if("lease lost", error.is_lease_lost());
            Answer::Refused(Box::new(refusal(error)))
        }
        Err(_) => return facts.coverage.add("settle with unknown outcome"),
    };
    facts.coverage.add_if("settled", settled.is_ok());
    let settle = deed.core(token);
    facts.checks.on_settled(&token, version, &settle, &answer, &mut facts.coverage);
}

fn core_token(token: LeaseToken) -> Token {
    Token::from_bytes(token.as_bytes()).expect("the library checked it")
}

/// Takes everything that comes to one node, and finalises it.
pub(crate) async fn finish_all(
    world: World,
    host: &str,
    node: usize,
    seed: u64,
) -> turmoil::Result {
    let address = crate::node::clients_address(&world.lock().nodes[node].name);
    let client = Client::connect([address], options(&world, host, seed ^ 0xc105e))?;
    loop {
        let subscribing = client.subscribe(["*"]).processor("closer").credit(64);
        let subscription = match subscribing.await {
            Ok(subscription) => subscription,
            Err(error) => {
                tracing::info!(target: "story", "the closer is not subscribed: {error}");
                continue;
            }
        };
        while let Ok(batch) = subscription.next_batch(64).await {
            if batch.is_empty() {
                break;
            }
            batch.iter().for_each(|delivery| heard(&world, delivery));
            if let Err(error) = subscription.finalise_all(batch).await {
                tracing::info!(target: "story", "{error}");
            }
        }
    }
}
