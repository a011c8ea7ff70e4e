//! What the nodes have at the end, against what was answered.

use super::Verdict;
use super::story::{Fate, Story};
use crate::history::{Standing, State, Verb};

/// P1, P4, P7, P8 and P3 for every object that anybody ever wanted to make.
pub(super) fn check(story: &Story<'_>, verdict: &mut Verdict) {
    for id in story.makers.keys() {
        let states = story.states.get(id).map(Vec::as_slice).unwrap_or_default();
        check_there(story, id, states, verdict);
        for state in states {
            check_state(story, id, state, verdict);
        }
    }
    for id in story.states.keys().filter(|id| !story.makers.contains_key(*id)) {
        verdict.fail("P2", format!("{id} is known and was never pushed or emitted"));
    }
}

/// An object whose making was done is in one place; one whose making was not done is in none.
fn check_there(story: &Story<'_>, id: &str, states: &[&State], verdict: &mut Verdict) {
    let makers = &story.makers[id];
    let is = |fate: Fate| move |(place, _): &(usize, _)| story.units[*place].fate == fate;
    let done = makers.iter().find(|maker| is(Fate::Done)(maker));
    let emitted = |place: usize| !story.units[place].call.settles.is_empty();
    let owners: Vec<_> = states
        .iter()
        .filter(|state| !matches!(state.state, Standing::Moved | Standing::Held))
        .collect();
    let births = story.births(id);
    if let (Some((place, _)), []) = (done, &owners[..]) {
        let call = story.units[*place].call.call;
        let (promise, what) = if emitted(*place) { ("P4", "emitted") } else { ("P1", "pushed") };
        verdict
            .fail(promise, format!("{id} was {what} by call {call}, which was done, and is gone"));
    }
    if makers.iter().all(is(Fate::Not)) && !states.is_empty() {
        let promise = if makers.iter().any(|(place, _)| emitted(*place)) { "P4" } else { "P8" };
        verdict.fail(promise, format!("{id} is {states:?}, and all that made it failed"));
    }
    if owners.len() > births.len().max(1) {
        verdict.fail("P7", format!("{id} was made at {births:?} and is {owners:?}"));
    }
    if births.len() > 1 {
        verdict.saw("ids that may be at several nodes");
    }
}

/// How an object stands must have come from something.
fn check_state(story: &Story<'_>, id: &str, state: &State, verdict: &mut Verdict) {
    let node = &state.node;
    match state.state {
        Standing::Final => {
            verdict.saw("objects final");
            if !was_settled(story, id, Verb::Finalise) {
                verdict.fail("P3", format!("{id} is final at {node}, and nobody finalised it"));
            }
        }
        Standing::Parked => {
            verdict.saw("objects parked");
            let reason = state.reason.as_deref().unwrap_or_default();
            let expires = || story.makers[id].iter().any(|(_, made)| made.expires);
            let explained = match reason {
                "expired" => expires(),
                failed if failed.ends_with("failed deliveries") => true,
                _ => was_settled(story, id, Verb::Reject),
            };
            if !explained {
                verdict.fail("P3", format!("{id} is parked at {node} as `{reason}`: by whom?"));
            }
        }
        // Of two objects of one id the second is recorded as a duplicate where they meet.
        Standing::Discarded if story.births(id).len() > 1 => verdict.saw("duplicates discarded"),
        Standing::Discarded => {
            let reason = state.reason.as_deref().unwrap_or_default();
            verdict.fail("P1", format!("{id} was discarded at {node}: {reason}"));
        }
        Standing::Held => {
            verdict.fail("P11", format!("{id} is held at {node} after everything was healed"));
        }
        Standing::Live => verdict.saw("objects live"),
        Standing::Moved => verdict.saw("objects moved"),
    }
    let ended = matches!(state.state, Standing::Live | Standing::Parked);
    if ended && is_final_for_sure(story, id, &state.origin) {
        verdict.fail("P1", format!("{id} was finalised and is {:?} at {node}", state.state));
    }
}

/// Some delivery of the object was settled so, or may have been.
fn was_settled(story: &Story<'_>, id: &str, verb: Verb) -> bool {
    lives(story, id).any(|(_, received)| {
        let settles = story.settles.get(received.delivery.token.as_str()).into_iter().flatten();
        settles.into_iter().any(|(place, index)| {
            let unit = &story.units[*place];
            unit.fate != Fate::Not && unit.call.settles[*index].verb == verb
        })
    })
}

fn is_final_for_sure(story: &Story<'_>, id: &str, origin: &str) -> bool {
    lives(story, id).filter(|(of, _)| *of == origin).any(|(_, received)| {
        let settles = story.settles.get(received.delivery.token.as_str()).into_iter().flatten();
        settles.into_iter().any(|(place, index)| {
            let unit = &story.units[*place];
            unit.fate == Fate::Done && unit.call.settles[*index].verb == Verb::Finalise
        })
    })
}

/// The deliveries of every life of an id, with its origin.
fn lives<'s>(
    story: &'s Story<'_>,
    id: &'s str,
) -> impl Iterator<Item = (&'s str, &'s super::story::Received<'s>)> {
    let origins = story.nodes.iter();
    origins.flat_map(move |origin| {
        let life = story.lives.get(&(id, *origin)).into_iter().flatten();
        life.map(move |received| (*origin, received))
    })
}
