//! The history of a round that went well, spoilt in one place. The checker must notice each time:
//! what it says of real histories is worth as much as that.

use std::collections::BTreeSet;

use super::Verdict;
use crate::history::{Answer, Delivery, Event, Line, Outcome, Standing, Verb};

/// A spoilt history, and the promise that it breaks.
pub(crate) struct Spoilt {
    pub(crate) how: &'static str,
    pub(crate) promise: &'static str,
    pub(crate) lines: Vec<Line>,
}

impl Spoilt {
    /// True if the checker has noticed.
    pub(crate) fn is_noticed(&self, verdict: &Verdict) -> bool {
        verdict.violations.iter().any(|violation| violation.promise == self.promise)
    }
}

/// Spoils a history in one place, if it has such a place.
type Way = fn(&mut Vec<Line>) -> Option<()>;

/// Spoils a history in each way that it offers a place for.
pub(crate) fn spoil(lines: &[Line]) -> Vec<Spoilt> {
    let ways: [(&'static str, &'static str, Way); 5] = [
        ("an object is lost", "P1", lose),
        ("a push was never made", "P2", conjure),
        ("a finalised object is delivered again", "P3", deliver_again),
        ("the emits of a settle are lost", "P4", lose_emit),
        ("a refused push was stored", "P8", store_refused),
    ];
    let mut all = Vec::new();
    for (how, promise, way) in ways {
        let mut spoilt = lines.to_vec();
        if way(&mut spoilt).is_some() {
            all.push(Spoilt { how, promise, lines: spoilt });
        }
    }
    all
}

/// Forgets that a node has a pushed object at the end.
fn lose(lines: &mut Vec<Line>) -> Option<()> {
    let id = done_objects(lines, |settles| settles == 0).next()?;
    lines.retain(|line| !matches!(&line.event, Event::State(state) if state.id == id));
    Some(())
}

/// Forgets all calls that made a delivered object.
fn conjure(lines: &mut Vec<Line>) -> Option<()> {
    let id = last_final(lines)?.id;
    lines.retain(|line| match &line.event {
        Event::Call(call) => call.objects.iter().all(|made| made.id != id),
        _ => true,
    });
    Some(())
}

/// Delivers a finalised object once more, with a later lease.
fn deliver_again(lines: &mut Vec<Line>) -> Option<()> {
    let delivery = last_final(lines)?;
    let key = (delivery.key.0, delivery.key.1, delivery.key.2 + 1);
    let token = format!("{}, the next", delivery.token);
    let at = lines.last()?.at;
    lines.push(Line { at, event: Event::Delivery(Delivery { key, token, ..delivery }) });
    Some(())
}

/// Forgets that a node has an emitted object at the end.
fn lose_emit(lines: &mut Vec<Line>) -> Option<()> {
    let id = done_objects(lines, |settles| settles == 1).next()?;
    lines.retain(|line| !matches!(&line.event, Event::State(state) if state.id == id));
    Some(())
}

/// Turns the good answer of a push into a refusal.
fn store_refused(lines: &mut Vec<Line>) -> Option<()> {
    let id = done_objects(lines, |settles| settles == 0).next()?;
    let made = |event: &Event| match event {
        Event::Call(call) if call.objects.iter().any(|made| made.id == id) => Some(call.call),
        _ => None,
    };
    let calls: Vec<_> = lines.iter().filter_map(|line| made(&line.event)).collect();
    for line in lines {
        let Event::Answer(answer) = &mut line.event else { continue };
        if calls.contains(&answer.call) {
            *answer = Answer { outcome: Outcome::Not, node: None, ..answer.clone() };
        }
    }
    Some(())
}

/// Objects of calls that were done, by how many leases the calls end.
fn done_objects(lines: &[Line], settles: impl Fn(usize) -> bool) -> impl Iterator<Item = String> {
    let done: BTreeSet<_> = lines
        .iter()
        .filter_map(|line| match &line.event {
            Event::Answer(answer) if answer.outcome == Outcome::Done => Some(answer.call),
            _ => None,
        })
        .collect();
    let ids = lines.iter().filter_map(|line| match &line.event {
        Event::Call(call) if done.contains(&call.call) && settles(call.settles.len()) => {
            call.objects.first().map(|made| made.id.clone())
        }
        _ => None,
    });
    ids.collect::<Vec<_>>().into_iter()
}

/// The last delivery that was finalised, of an object that is final.
fn last_final(lines: &[Line]) -> Option<Delivery> {
    let (mut done, mut finals) = (BTreeSet::new(), None);
    let mut is_final = BTreeSet::new();
    for line in lines {
        match &line.event {
            Event::Answer(answer) if answer.outcome == Outcome::Done => {
                done.insert(answer.call);
            }
            Event::State(state) if state.state == Standing::Final => {
                is_final.insert(state.id.as_str());
            }
            _ => {}
        }
    }
    let mut tokens = BTreeSet::new();
    for line in lines {
        let Event::Call(call) = &line.event else { continue };
        if done.contains(&call.call) {
            let finalised = call.settles.iter().filter(|settle| settle.verb == Verb::Finalise);
            tokens.extend(finalised.map(|settle| settle.token.as_str()));
        }
    }
    for line in lines {
        let Event::Delivery(delivery) = &line.event else { continue };
        if tokens.contains(delivery.token.as_str()) && is_final.contains(delivery.id.as_str()) {
            finals = Some(delivery.clone());
        }
    }
    finals
}
