//! Clients that push: new objects, the same ones again, and those whose outcome nobody knows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::{Actor, TYPES, Thing};
use crate::dice::Dice;
use crate::history::Outcome;

/// Pushes of one producer that are under way.
const UNDER_WAY_MAX: usize = 128;

/// How often a push is tried again before it is left as it is.
const TRIES_MAX: u32 = 4;

/// Objects that a producer remembers to push again.
const REMEMBERED_MAX: usize = 200;

/// What the pushes under way report back.
#[derive(Default)]
struct Back {
    /// Objects without a good answer, with the number of tries.
    again: VecDeque<(Thing, u32)>,
    /// Objects that are stored.
    stored: VecDeque<Thing>,
}

struct Producer {
    actor: Actor,
    /// A client of another node, for a push that had no answer here.
    elsewhere: Actor,
    back: Arc<Mutex<Back>>,
    under_way: Arc<Semaphore>,
    dice: Dice,
}

/// Pushes an object every `share`, until the round finishes; then waits for all outcomes.
pub(super) async fn run(actor: Actor, share: Duration, mut dice: Dice) {
    let places = &actor.shared.places;
    let others: Vec<_> = places.iter().filter(|place| !actor.uses.contains(&place.name)).collect();
    // One that uses all of them is elsewhere already.
    let elsewhere = match others.is_empty() {
        true => actor.clone(),
        false => {
            let name = format!("{}-elsewhere", actor.name);
            Actor::new(name, &[dice.pick(&others)], &actor.shared, false)
        }
    };
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut producer = Producer { actor, elsewhere, back: Arc::default(), under_way, dice };
    let mut next = Instant::now();
    while !producer.actor.shared.is_finishing() {
        producer.push_one().await;
        // What a fault has held up is not caught up in one burst.
        next = (next + share).max(Instant::now() - share * 20);
        sleep_until(next).await;
    }
    let all = u32::try_from(UNDER_WAY_MAX).expect("small");
    let _all = producer.under_way.acquire_many(all).await.expect("it is never closed");
}

impl Producer {
    async fn push_one(&mut self) {
        let again = self.back().again.pop_front();
        if let Some((thing, tries)) = again {
            // At the node that may have it, or at another one: then it may be two objects.
            let elsewhere = self.dice.percent(30);
            return self.start(thing, tries, elsewhere).await;
        }
        match self.dice.below(100) {
            0..6 => self.repeat().await,
            6 => self.reuse().await,
            7..9 => self.push_several().await,
            _ => {
                let thing = self.draw();
                self.start(thing, 0, false).await;
            }
        }
    }

    fn back(&self) -> std::sync::MutexGuard<'_, Back> {
        self.back.lock().expect("nobody panics while holding it")
    }

    fn draw(&mut self) -> Thing {
        let mut thing = Thing::draw(&mut self.dice, &TYPES);
        if self.dice.percent(5) {
            thing.delay = Some(self.dice.millis(10, 3_000));
        } else if self.dice.percent(2) {
            thing.expires_in = Some(self.dice.millis(100, 5_000));
        }
        thing
    }

    /// Something that is stored, to be pushed again.
    fn stored(&mut self) -> Option<Thing> {
        let count = self.back().stored.len();
        let index = (count > 0).then(|| self.dice.index(count))?;
        self.back().stored.get(index).cloned()
    }

    /// The same object again: known, and no second one.
    async fn repeat(&mut self) {
        if let Some(thing) = self.stored() {
            self.start(thing, TRIES_MAX, false).await;
        }
    }

    /// The id of a stored object with other content: refused.
    async fn reuse(&mut self) {
        if let Some(stored) = self.stored() {
            let thing = Thing { id: stored.id, ..self.draw() };
            self.start(thing, TRIES_MAX, false).await;
        }
    }

    /// Starts a push, when there is room for it.
    async fn start(&mut self, thing: Thing, tries: u32, elsewhere: bool) {
        let permit = self.under_way.clone().acquire_owned().await.expect("it is never closed");
        let actor = if elsewhere { self.elsewhere.clone() } else { self.actor.clone() };
        let back = self.back.clone();
        tokio::spawn(async move {
            let call = actor.note_push(&thing);
            let pushed = actor.client.push(thing.object()).await;
            let outcome = actor.note_pushed(call, &pushed);
            report(&back, thing, tries, outcome, !elsewhere);
            drop(permit);
        });
    }

    /// Several in one unary call, each with its own answer.
    async fn push_several(&mut self) {
        let permit = self.under_way.clone().acquire_owned().await.expect("it is never closed");
        let things: Vec<_> = (0..5).map(|_| self.draw()).collect();
        let (actor, back) = (self.actor.clone(), self.back.clone());
        tokio::spawn(async move {
            let calls: Vec<_> = things.iter().map(|thing| actor.note_push(thing)).collect();
            let objects = things.iter().map(Thing::object).collect();
            let answers = match actor.client.push_all(objects).await {
                Ok(answers) => answers,
                Err(error) => things.iter().map(|_| Err(error.clone())).collect(),
            };
            for ((thing, call), answer) in things.into_iter().zip(calls).zip(answers) {
                let outcome = actor.note_pushed(call, &answer);
                report(&back, thing, 0, outcome, true);
            }
            drop(permit);
        });
    }
}

fn report(back: &Mutex<Back>, thing: Thing, tries: u32, outcome: Outcome, here: bool) {
    let mut back = back.lock().expect("nobody panics while holding it");
    match outcome {
        Outcome::Done if tries < TRIES_MAX && here => {
            if back.stored.len() == REMEMBERED_MAX {
                back.stored.pop_front();
            }
            back.stored.push_back(thing);
        }
        Outcome::Done => {}
        Outcome::Not | Outcome::Unknown if tries < TRIES_MAX => {
            back.again.push_back((thing, tries + 1));
        }
        Outcome::Not | Outcome::Unknown => {}
    }
}
