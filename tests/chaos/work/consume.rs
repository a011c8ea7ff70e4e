//! Clients that subscribe, and settle what they get: one by one, in batches, in transactions, by
//! token elsewhere, too late, or not at all.

use std::sync::Arc;
use std::time::Duration;

use dpc_client::{Delivery, Error, Subscription};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::plan::{Plan, Settling, draw};
use super::{Actor, LEASE, Shared, TYPES, Thing};
use crate::dice::Dice;
use crate::history::{Answer, Event, Outcome};

/// Names under which the work is shared.
const PROCESSORS: [&str; 3] = ["red", "green", "blue"];

/// How long a look for the end of the round may be late.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a subscription may take to end; what it has not answered by then is unknown.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Subscribes again and again, to other types each time, until the round is over.
pub(super) async fn run(actor: Actor, mut dice: Dice) {
    let mut at_work = JoinSet::new();
    while !actor.shared.is_over() {
        let processor = dice.pick(&PROCESSORS);
        let patterns = match dice.below(4) {
            0 => vec!["chaos.v1.*"],
            1 => vec![dice.pick(&TYPES), "chaos.v1.emitted.*"],
            _ => vec![dice.pick(&TYPES)],
        };
        let credit = u32::try_from(dice.order_of(1, 64)).expect("small");
        let opened =
            actor.client.subscribe(patterns).processor(processor).credit(credit).lease(LEASE).await;
        let Ok(subscription) = opened else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        let subscription = Arc::new(subscription);
        let until = Instant::now() + dice.millis(2_000, 15_000);
        let mut seat = Seat { actor: &actor, processor, subscription, dice: &mut dice };
        seat.serve(until, &mut at_work).await;
        let Seat { subscription, .. } = seat;
        // Those at work hold it too: it ends with the last of them.
        if let Some(subscription) = Arc::into_inner(subscription) {
            let _unknown = timeout(END_TIMEOUT, subscription.close()).await;
        }
        while at_work.try_join_next().is_some() {}
    }
    while let Some(ended) = at_work.join_next().await {
        ended.expect("nobody at work panics");
    }
}

struct Seat<'a> {
    actor: &'a Actor,
    processor: &'static str,
    subscription: Arc<Subscription>,
    dice: &'a mut Dice,
}

impl Seat<'_> {
    /// Takes what comes until then, or until the subscription has ended.
    async fn serve(&mut self, until: Instant, at_work: &mut JoinSet<()>) {
        while !self.actor.shared.is_over() && Instant::now() < until {
            match timeout(LOOK_EVERY, self.subscription.next_batch(16)).await {
                Err(_) => {}
                Ok(Ok(batch)) if !batch.is_empty() => self.take_up(batch, at_work),
                Ok(_) => return,
            }
        }
    }

    fn take_up(&mut self, batch: Vec<Delivery>, at_work: &mut JoinSet<()>) {
        for delivery in &batch {
            self.actor.note_delivery(self.processor, delivery);
        }
        let finishing = self.actor.shared.is_finishing();
        match self.dice.below(10) {
            0 if batch.len() > 1 && !finishing => {
                let (actor, subscription) = (self.actor.clone(), self.subscription.clone());
                let dice = self.fork();
                at_work.spawn(transact(actor, subscription, batch, dice));
            }
            1 | 2 => {
                let (actor, subscription) = (self.actor.clone(), self.subscription.clone());
                at_work.spawn(async move { finalise_all(&actor, &subscription, batch).await });
            }
            _ => {
                for delivery in batch {
                    let plan = draw(self.dice, &delivery, finishing);
                    let (actor, dice) = (self.actor.clone(), self.fork());
                    at_work.spawn(work_on(actor, delivery, plan, dice));
                }
            }
        }
    }

    fn fork(&mut self) -> Dice {
        Dice::of(self.dice.below(u64::MAX), "work")
    }
}

/// Works on one delivery for a while, and settles it.
async fn work_on(actor: Actor, delivery: Delivery, plan: Plan, mut dice: Dice) {
    let busy = match dice.below(100) {
        // Longer than the lease, which is extended meanwhile.
        0 => dice.millis(5_000, 8_000),
        1..10 => dice.millis(20, 500),
        _ => Duration::ZERO,
    };
    let until = Instant::now() + busy;
    while !actor.shared.is_finishing() && Instant::now() < until {
        sleep(busy.min(LOOK_EVERY)).await;
    }
    let settling = match plan {
        Plan::Settle(settling) => settling,
        Plan::Abandon => {
            let _token = delivery.abandon();
            return;
        }
        Plan::Drop => return drop(delivery),
    };
    if dice.percent(5) {
        return settle_elsewhere(&actor, delivery, settling, &mut dice).await;
    }
    settle(&actor, &delivery, settling, dice.percent(15)).await;
}

async fn settle(actor: &Actor, delivery: &Delivery, settling: Settling, sample: bool) -> Outcome {
    let line = settling.line(delivery);
    let call = actor.call(vec![delivery.node().to_owned()], vec![line], settling.objects());
    let call = actor.history().call(call);
    let settle = as_settle(delivery, &settling);
    let result = settle.await;
    actor.note_settled(settling.repeat(call, delivery), &result, sample)
}

fn as_settle<'a>(delivery: &'a Delivery, settling: &Settling) -> dpc_client::Settle<'a> {
    use dpc_client::Verb;
    let settle = match &settling.verb {
        Verb::Finalise => delivery.finalise(),
        Verb::Advance(entity) => delivery.advance(entity.clone()),
        Verb::Release(delay) => delivery.release(*delay),
        Verb::Fail(delay) => delivery.fail(*delay),
        Verb::Reject(reason) => delivery.reject(reason.clone()),
    };
    settling.emits.iter().fold(settle, |settle, thing| settle.emit(thing.object()))
}

/// Another client settles it by its token, at any node.
async fn settle_elsewhere(actor: &Actor, delivery: Delivery, settling: Settling, dice: &mut Dice) {
    let places = &actor.shared.places;
    let place = &places[dice.index(places.len())];
    let name = format!("{}-at-{}", actor.name, place.name);
    let mut other = Actor::new(name, &[place], &actor.shared, false);
    // It depends on two nodes: the one that is asked, and the one that gave the lease.
    other.uses.push(delivery.node().to_owned());
    let line = settling.line(&delivery);
    let call = other.call(vec![delivery.node().to_owned()], vec![line], settling.objects());
    let call = other.history().call(call);
    let repeat = settling.repeat(call, &delivery);
    let _token = delivery.abandon();
    let result = other.settle_by_token(&repeat).await;
    other.note_settled(repeat, &result, false);
}

/// Finalises a batch together.
async fn finalise_all(actor: &Actor, subscription: &Subscription, batch: Vec<Delivery>) {
    let mut repeats = Vec::new();
    for delivery in &batch {
        let settling = Settling::finalise();
        let line = settling.line(delivery);
        let call = actor.call(vec![delivery.node().to_owned()], vec![line], vec![]);
        let call = actor.history().call(call);
        repeats.push((delivery.token(), settling.repeat(call, delivery)));
    }
    let refused = match subscription.finalise_all(batch).await {
        Ok(()) => Vec::new(),
        Err(error) => error.refused,
    };
    for (token, repeat) in repeats {
        let error = refused.iter().find(|(delivery, _)| delivery.token() == token);
        let result = error.map_or(Ok(()), |(_, error)| Err(error.clone()));
        actor.note_settled(repeat, &result, false);
    }
}

/// Settles some of a batch, with emits and a push, all or nothing; the rest one by one.
async fn transact(
    actor: Actor,
    subscription: Arc<Subscription>,
    mut batch: Vec<Delivery>,
    mut dice: Dice,
) {
    let rest = batch.split_off(batch.len().min(5));
    let settlings: Vec<_> = batch
        .iter()
        .map(|delivery| match draw(&mut dice, delivery, false) {
            Plan::Settle(settling) => settling,
            Plan::Abandon | Plan::Drop => Settling::finalise(),
        })
        .collect();
    let push = dice.percent(50).then(|| Thing::draw(&mut dice, &TYPES));
    let lines = settlings.iter().zip(&batch).map(|(settling, of)| settling.line(of)).collect();
    let mut objects: Vec<_> = settlings.iter().flat_map(Settling::objects).collect();
    objects.extend(push.iter().map(Thing::made));
    let node = batch[0].node().to_owned();
    let call = actor.history().call(actor.call(vec![node], lines, objects));
    let mut transaction = subscription.transaction();
    for (settling, delivery) in settlings.iter().zip(&batch) {
        transaction = transaction.settle(as_settle(delivery, settling));
    }
    if let Some(push) = &push {
        transaction = transaction.push(push.object());
    }
    let result: Result<(), Error> = transaction.await;
    let answer = Answer::of(call, &result);
    let outcome = answer.outcome;
    actor.history().note(Event::Answer(answer));
    for (settling, delivery) in settlings.into_iter().zip(&batch) {
        match outcome {
            Outcome::Done => {}
            Outcome::Unknown => actor.shared.keep(settling.repeat(call, delivery)),
            // A refusal changes nothing: each can be settled by itself.
            Outcome::Not => {
                settle(&actor, delivery, settling, true).await;
            }
        }
    }
    for delivery in rest {
        settle(&actor, &delivery, Settling::finalise(), false).await;
    }
}

/// Takes everything that is left at a node and finalises it, until the round is over.
pub(crate) async fn finish(actor: Actor) {
    while !actor.shared.is_over() {
        let opened = actor.client.subscribe(["*"]).processor("last").credit(256).await;
        let Ok(subscription) = opened else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        while !actor.shared.is_over() {
            match timeout(LOOK_EVERY, subscription.next_batch(64)).await {
                Err(_) => {}
                Ok(Ok(batch)) if !batch.is_empty() => {
                    for delivery in &batch {
                        actor.note_delivery("last", delivery);
                    }
                    finalise_all(&actor, &subscription, batch).await;
                }
                Ok(_) => break,
            }
        }
        let _unknown = timeout(END_TIMEOUT, subscription.close()).await;
    }
}

/// The clients that clean up, one at each node.
impl Shared {
    /// Their names and nodes.
    pub(crate) fn finishers(self: &Arc<Self>) -> Vec<Actor> {
        self.places.iter().map(|place| Actor::direct("last", place, self)).collect()
    }
}
