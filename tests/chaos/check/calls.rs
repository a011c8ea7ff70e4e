//! What calls were answered: idempotent pushes, repeated settles, untouched clients.

use std::collections::BTreeMap;

use super::Verdict;
use super::story::{Fate, Story, Unit, is_decisive};
use crate::history::{Outcome, Verb};

/// P9: an id that is stored at a node is known there, with its content.
pub(super) fn check_pushes(story: &Story<'_>, verdict: &mut Verdict) {
    // What is stored, by id and node: when that was answered, and the content.
    let mut stored = BTreeMap::<(&str, &str), (u64, (&str, &str))>::new();
    for unit in by_answer(story) {
        let ([made], []) = (&unit.call.objects[..], &unit.call.settles[..]) else { continue };
        let id = made.id.as_str();
        let content = (made.ty.as_str(), made.content.as_str());
        let Some(node) = asked_node(unit) else { continue };
        let before = stored.get(&(id, node)).filter(|(answered, _)| *answered < unit.asked);
        let already = unit.answer.is_some_and(|answer| answer.already);
        match (before, unit.outcome()) {
            (Some((_, known)), Outcome::Done) if *known != content => {
                verdict.fail("P9", format!("{id} was taken at {node} with two contents"));
            }
            (Some(_), Outcome::Done) if !already => {
                verdict.fail("P9", format!("{id} was stored at {node} twice"));
            }
            (Some((_, known)), Outcome::Not) if unit.reason() == "ID_REUSED" => {
                verdict.saw("an id with other content refused");
                if *known == content {
                    verdict.fail("P9", format!("{id} at {node}: its own content was refused"));
                }
            }
            (Some(_), Outcome::Done) => verdict.saw("a push repeated and known"),
            _ => {}
        }
        if unit.outcome() == Outcome::Done
            && let Some(answered) = unit.answered
        {
            verdict.saw("pushes done");
            stored.entry((id, node)).or_insert((answered, content));
        }
    }
}

/// The node that a push was answered by, or the only one that it was sent to.
fn asked_node<'a>(unit: &Unit<'a>) -> Option<&'a str> {
    let answered = unit.answer.and_then(|answer| answer.node.as_deref());
    let [only] = &unit.call.at_nodes[..] else { return answered };
    Some(answered.unwrap_or(only))
}

/// Units in the order in which they were answered: what was known when another one was asked
/// stands before it.
fn by_answer<'s, 'a>(story: &'s Story<'a>) -> Vec<&'s Unit<'a>> {
    let mut units: Vec<_> = story.units.iter().collect();
    units.sort_by_key(|unit| unit.answered.unwrap_or(u64::MAX));
    units
}

/// P3: the same settle again gets the same answer; of a lease at most one settle is done. P4: all
/// settles of a transaction have one fate.
pub(super) fn check_repeats(story: &Story<'_>, verdict: &mut Verdict) {
    for unit in &story.units {
        for (repeat, outcome) in &unit.repeats {
            let decisive = repeat.settles.iter().all(|settle| is_decisive(settle.verb));
            let call = unit.call.call;
            match (unit.outcome(), outcome) {
                (Outcome::Done, Outcome::Done) => verdict.saw("a settle repeated, same answer"),
                (Outcome::Done, Outcome::Not) if decisive => {
                    verdict.fail("P3", format!("call {call} was done; repeated, it was refused"));
                }
                _ => {}
            }
        }
        let fates = unit.repeats.iter().filter(|(repeat, outcome)| {
            *outcome != Outcome::Unknown && repeat.settles.iter().all(|s| is_decisive(s.verb))
        });
        let mut fates: Vec<_> = fates.map(|(_, outcome)| *outcome == Outcome::Done).collect();
        fates.dedup();
        if unit.call.settles.len() > 1 && fates.len() > 1 {
            verdict.fail("P4", format!("call {} was done in part", unit.call.call));
        }
    }
    for (token, settles) in &story.settles {
        let done = settles.iter().filter(|(place, _)| story.units[*place].fate == Fate::Done);
        if done.count() > 1 {
            verdict.fail("P3", format!("the lease {token} was settled twice"));
        }
    }
    for unit in story.units.iter().filter(|unit| unit.outcome() == Outcome::Done) {
        for settle in &unit.call.settles {
            verdict.saw(match settle.verb {
                Verb::Finalise => "finalised",
                Verb::Advance => "advanced",
                Verb::Handled => "handled and kept",
                Verb::Release => "released",
                Verb::Fail => "released as failed",
                Verb::Reject => "rejected",
            });
        }
        if unit.call.settles.len() > 1 {
            verdict.saw("transactions done");
        }
        if !unit.call.settles.is_empty() {
            verdict.saw_many("objects emitted", unit.call.objects.len() as u64);
        }
    }
}

/// Microseconds: where a push takes longer before the first fault, at its 99th percentile, the
/// machine is too busy for the waits of clients and nodes to say anything of faults elsewhere.
const BUSY_US: u64 = 500_000;

/// P15: whoever uses only nodes that no fault touches, sees none.
pub(super) fn check_untouched(story: &Story<'_>, verdict: &mut Verdict) {
    if story.untouched.is_empty() {
        return;
    }
    let mut unknown = Vec::new();
    for unit in &story.units {
        let uses = &unit.call.uses;
        if !uses.iter().all(|node| story.untouched.contains(node.as_str())) {
            continue;
        }
        verdict.saw("calls of untouched clients");
        if let (Some(answered), []) = (unit.answered, &unit.call.settles[..]) {
            let faulty = story.first_fault.is_some_and(|first| unit.asked > first);
            verdict.untouched[usize::from(faulty)].push(answered - unit.asked);
        }
        // Refusals that the client has asked for.
        let own_fault = ["ID_REUSED", "LEASE_LOST"].contains(&unit.reason());
        let good = unit.outcome() == Outcome::Done || (unit.outcome() == Outcome::Not && own_fault);
        // A settle at another node than the lease's: where the two have no link, R5 has it say
        // "unknown", fault or none.
        let elsewhere = !unit.call.settles.is_empty()
            && uses.first().is_some_and(|node| !unit.call.at_nodes.contains(node));
        if unit.outcome() == Outcome::Unknown && elsewhere {
            verdict.saw("settles at a node without a way to the lease's");
        } else if !good {
            let (call, client) = (unit.call.call, &unit.call.client);
            let message = unit.answer.and_then(|a| a.message.as_deref()).unwrap_or_default();
            let what = format!("{client} uses {uses:?}, call {call}: {} {message}", unit.reason());
            match unit.outcome() {
                Outcome::Unknown => unknown.push(what),
                _ => verdict.fail("P15", what),
            }
        }
    }
    let mut quiet = verdict.untouched[0].clone();
    quiet.sort_unstable();
    if quiet.get(quiet.len() * 99 / 100).is_some_and(|took| *took > BUSY_US) {
        return verdict
            .saw_many("unknown outcomes on a machine too busy for P15", unknown.len() as u64);
    }
    unknown.into_iter().for_each(|what| verdict.fail("P15", what));
}
