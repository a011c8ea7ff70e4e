//! The clients of a round: they push, receive and settle in every way there is, and note all of it.

mod consume;
mod plan;
mod produce;
mod take;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dpc_client::{Client, Delivered, Error, LeaseToken, Object, Options, Receipt, Uuid, Verb};
use tokio::task::JoinSet;

use crate::dice::Dice;
use crate::fleet::Place;
use crate::history::{
    Answer, Call, Delivery, Event, History, Made, Outcome, Settle, Verb as Word, content_of,
};

pub(crate) use self::consume::finish;

/// Pushed objects are of these types, and may emit and advance to any.
const TYPES: [&str; 4] = ["chaos.v1.A", "chaos.v1.B", "chaos.v1.C", "chaos.v1.D"];

/// Emitted objects are of these, and emit nothing, so that a round has an end.
const EMITTED_TYPES: [&str; 2] = ["chaos.v1.emitted.E", "chaos.v1.emitted.F"];

/// Short enough for a lease to run out within a fault.
const LEASE: Duration = Duration::from_secs(5);

/// A client gives up so soon, so that unknown outcomes are common.
const PATIENCE: Duration = Duration::from_secs(5);

/// Settles kept to be repeated after the round: those without an answer, and some of the others.
const REPEATS_MAX: usize = 20_000;

/// An object to be pushed or emitted.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    id: Uuid,
    ty: &'static str,
    payload: Bytes,
    delay: Option<Duration>,
    expires_in: Option<Duration>,
}

impl Thing {
    fn draw(dice: &mut Dice, types: &[&'static str]) -> Self {
        let id = Uuid::now_v7();
        let ty = dice.pick(types);
        let size = if dice.percent(2) { 60_000 } else { dice.order_of(8, 1_000) };
        let mut payload = vec![0; usize::try_from(size).expect("small")];
        dice.fill(&mut payload);
        Self { id, ty, payload: payload.into(), delay: None, expires_in: None }
    }

    fn object(&self) -> Object {
        let mut object = Object::new(self.ty, self.payload.clone()).id(self.id);
        if let Some(delay) = self.delay {
            object = object.delay(delay);
        }
        if let Some(span) = self.expires_in {
            object = object.expires_in(span);
        }
        object
    }

    fn made(&self) -> Made {
        Made {
            id: self.id.to_string(),
            ty: self.ty.to_owned(),
            content: content_of(&self.payload),
            expires: self.expires_in.is_some(),
        }
    }
}

/// A settle that can be repeated by its token.
#[derive(Clone, Debug)]
pub(crate) struct Repeat {
    pub(crate) call: u64,
    pub(crate) node: String,
    token: LeaseToken,
    verb: Verb,
    emits: Vec<Thing>,
    line: Settle,
}

/// What all clients of a round share.
pub(crate) struct Shared {
    pub(crate) history: History,
    pub(crate) places: Vec<Place>,
    /// Nobody pushes any more, and whatever is received is finalised.
    finishing: AtomicBool,
    stop: AtomicBool,
    repeats: Mutex<Vec<Repeat>>,
}

impl Shared {
    fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Settles to be repeated: the outcome must be the same, or is learnt that way.
    pub(crate) fn repeats(&self) -> Vec<Repeat> {
        self.repeats.lock().expect("nobody panics while holding it").clone()
    }

    fn keep(&self, repeat: Repeat) {
        let mut repeats = self.repeats.lock().expect("nobody panics while holding it");
        if repeats.len() < REPEATS_MAX {
            repeats.push(repeat);
        }
    }
}

/// A client with its name, and the nodes it uses.
#[derive(Clone)]
pub(crate) struct Actor {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) uses: Vec<String>,
    pub(crate) shared: Arc<Shared>,
}

impl Actor {
    /// A client of these nodes, by way of their proxies.
    fn new(name: String, at: &[&Place], shared: &Arc<Shared>, resend_elsewhere: bool) -> Self {
        let addresses: Vec<_> = at.iter().map(|place| place.clients.as_str()).collect();
        let options = Options::new()
            .give_up_after(PATIENCE)
            .answer_timeout(PATIENCE)
            .connect_timeout(Duration::from_secs(2))
            .backoff(Duration::from_millis(20), Duration::from_millis(500))
            .resend_elsewhere(resend_elsewhere);
        let client = Client::connect(addresses, options).expect("good addresses");
        let uses = at.iter().map(|place| place.name.clone()).collect();
        Self { client, name, uses, shared: shared.clone() }
    }

    /// A client of one node, past its proxy, with the patience of somebody who cleans up.
    pub(crate) fn direct(name: &str, place: &Place, shared: &Arc<Shared>) -> Self {
        let client = Client::connect([&place.direct], Options::new()).expect("a good address");
        let (name, uses) = (format!("{name}-{}", place.name), vec![place.name.clone()]);
        Self { client, name, uses, shared: shared.clone() }
    }

    fn history(&self) -> &History {
        &self.shared.history
    }

    /// The lines of a call of this client.
    fn call(&self, at_nodes: Vec<String>, settles: Vec<Settle>, objects: Vec<Made>) -> Call {
        Call {
            client: self.name.clone(),
            uses: self.uses.clone(),
            at_nodes,
            settles,
            objects,
            ..Call::default()
        }
    }

    fn note_delivery(&self, processor: &str, delivered: &Delivered) {
        let line = Delivery::of(&self.name, processor, delivered);
        self.history().note(Event::Delivery(line));
    }

    /// Notes the intent to push an object.
    fn note_push(&self, thing: &Thing) -> u64 {
        self.history().call(self.call(self.uses.clone(), vec![], vec![thing.made()]))
    }

    /// Notes what came of a push.
    fn note_pushed(&self, call: u64, pushed: &Result<Receipt, Error>) -> Outcome {
        let mut answer = Answer::of(call, pushed);
        if let Ok(receipt) = pushed {
            answer.already = receipt.stored.status == dpc_client::PushStatus::AlreadyExists;
            answer.node = Some(receipt.stored.node.to_string());
        }
        let outcome = answer.outcome;
        self.history().note(Event::Answer(answer));
        outcome
    }

    /// Notes what came of a settle, and remembers it to be repeated: always if its outcome is
    /// unknown, now and then otherwise.
    fn note_settled(&self, repeat: Repeat, result: &Result<(), Error>, sample: bool) -> Outcome {
        let answer = Answer::of(repeat.call, result);
        let outcome = answer.outcome;
        self.history().note(Event::Answer(answer));
        let decisive = matches!(repeat.line.verb, Word::Finalise | Word::Advance | Word::Reject);
        if outcome == Outcome::Unknown || (outcome == Outcome::Done && sample && decisive) {
            self.shared.keep(repeat);
        }
        outcome
    }

    /// Repeats a settle by its token.
    pub(crate) async fn repeat(&self, repeat: &Repeat) {
        let emits = repeat.emits.iter().map(Thing::made).collect();
        let settles = vec![repeat.line.clone()];
        let call = Call {
            repeats: Some(repeat.call),
            ..self.call(vec![repeat.node.clone()], settles, emits)
        };
        let call = self.history().call(call);
        let result = self.settle_by_token(repeat).await;
        self.history().note(Event::Answer(Answer::of(call, &result)));
    }

    async fn settle_by_token(&self, repeat: &Repeat) -> Result<(), Error> {
        let settle = self.client.settle(repeat.token).verb(repeat.verb.clone());
        repeat.emits.iter().fold(settle, |settle, thing| settle.emit(thing.object())).await
    }
}

/// The clients of a round at work.
pub(crate) struct Work {
    pub(crate) shared: Arc<Shared>,
    producers: JoinSet<()>,
    consumers: JoinSet<()>,
}

impl Work {
    /// Starts them: at each node a producer, two consumers and a taker, and one producer that goes
    /// where it is let in. `rate` is the number of new objects a second, of all producers together.
    pub(crate) fn start(history: History, places: Vec<Place>, seed: u64, rate: u64) -> Self {
        let shared = Arc::new(Shared {
            history,
            places: places.clone(),
            finishing: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            repeats: Mutex::default(),
        });
        let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
        let share = Duration::from_secs(1).mul_f64((places.len() + 1) as f64 / rate as f64);
        for place in &places {
            let actor = |kind: &str| {
                let name = format!("{kind}-{}", place.name);
                (Actor::new(name.clone(), &[place], &shared, false), Dice::of(seed, &name))
            };
            let (producer, dice) = actor("producer");
            producers.spawn(produce::run(producer, share, dice));
            for kind in ["consumer-1", "consumer-2"] {
                let (consumer, dice) = actor(kind);
                consumers.spawn(consume::run(consumer, dice));
            }
            let (taker, dice) = actor("taker");
            consumers.spawn(take::run(taker, dice));
        }
        let all: Vec<_> = places.iter().collect();
        let roaming = Actor::new("roaming".to_owned(), &all, &shared, true);
        producers.spawn(produce::run(roaming, share, Dice::of(seed, "roaming")));
        Self { shared, producers, consumers }
    }

    /// Ends the producers, when each of their pushes has its outcome.
    pub(crate) async fn stop_producing(&mut self) {
        self.shared.finishing.store(true, Ordering::Relaxed);
        while let Some(ended) = self.producers.join_next().await {
            ended.expect("no producer panics");
        }
    }

    /// Ends the consumers, when each of their settles has its outcome.
    pub(crate) async fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.consumers.join_next().await {
            ended.expect("no consumer panics");
        }
    }
}
