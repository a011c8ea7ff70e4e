//! A client without a stream: it takes objects and settles them by their tokens.

use std::time::Duration;

use dpc_client::Taken;
use tokio::time::sleep;

use super::plan::{Plan, Settling, draw};
use super::{Actor, TYPES};
use crate::dice::Dice;
use crate::history::{Answer, Event, Outcome};

/// The name it takes objects for.
const PROCESSOR: &str = "taker";

/// Takes a few now and then, until the round is over.
pub(super) async fn run(actor: Actor, mut dice: Dice) {
    while !actor.shared.is_over() {
        let pattern = if dice.percent(50) { "chaos.v1.*" } else { dice.pick(&TYPES) };
        let max = u32::try_from(dice.between(1, 8)).expect("small");
        let taken = actor
            .client
            .take(pattern)
            .processor(PROCESSOR)
            .max(max)
            .wait(dice.millis(0, 500))
            .lease(Duration::from_secs(2))
            .await;
        let Ok(taken) = taken else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        for one in &taken {
            actor.note_delivery(PROCESSOR, one);
        }
        if dice.percent(20) && taken.len() > 1 {
            transact(&actor, &taken, &mut dice).await;
            continue;
        }
        for one in &taken {
            settle(&actor, one, &mut dice).await;
        }
        sleep(dice.millis(0, 300)).await;
    }
}

async fn settle(actor: &Actor, taken: &Taken, dice: &mut Dice) {
    let settling = match draw(dice, taken, actor.shared.is_finishing()) {
        Plan::Settle(settling) => settling,
        // Nothing gives it back but its time.
        Plan::Abandon | Plan::Drop => return,
    };
    let line = settling.line(taken);
    let call = actor.call(vec![taken.node().to_owned()], vec![line], settling.objects());
    let call = actor.history().call(call);
    let repeat = settling.repeat(call, taken);
    let result = actor.settle_by_token(&repeat).await;
    actor.note_settled(repeat, &result, dice.percent(15));
}

async fn transact(actor: &Actor, taken: &[Taken], dice: &mut Dice) {
    let settlings: Vec<_> = taken
        .iter()
        .map(|one| match draw(dice, one, actor.shared.is_finishing()) {
            Plan::Settle(settling) => settling,
            Plan::Abandon | Plan::Drop => Settling::finalise(),
        })
        .collect();
    let lines = settlings.iter().zip(taken).map(|(settling, of)| settling.line(of)).collect();
    let objects = settlings.iter().flat_map(Settling::objects).collect();
    let call = actor.call(vec![taken[0].node().to_owned()], lines, objects);
    let call = actor.history().call(call);
    let mut transaction = actor.client.transaction();
    for (settling, one) in settlings.iter().zip(taken) {
        let emits = settling.emits.iter().map(super::Thing::object).collect();
        transaction = transaction.settle(one.token(), settling.verb.clone(), emits);
    }
    let answer = Answer::of(call, &transaction.await);
    let outcome = answer.outcome;
    actor.history().note(Event::Answer(answer));
    if outcome == Outcome::Unknown {
        for (settling, one) in settlings.into_iter().zip(taken) {
            actor.shared.keep(settling.repeat(call, one));
        }
    }
}
