//! The life of each object as its deliveries and settles tell it: a state machine, driven in the
//! order of the fencing keys.

use std::collections::BTreeSet;

use super::Verdict;
use super::story::{Birth, Fate, Received, Story, Unit};
use crate::history::{Delivery, Settle, Verb};

/// What is known of an object at some point of its life.
#[derive(Default)]
struct Life<'a> {
    version: u32,
    /// Why it cannot be delivered any more.
    over: Option<&'static str>,
    /// Processors that have handled this version and keep it in the flow.
    handled: BTreeSet<&'a str>,
    /// Calls without a known outcome that may have ended this version.
    doubts: Vec<(usize, &'a Settle)>,
    /// What the version is, if the advance that made it is known.
    entity: Option<(&'a str, &'a str)>,
}

/// P2, P3, P5, P8 for every life. What a later delivery tells of calls without an answer is
/// written into their fates.
pub(super) fn check(story: &mut Story<'_>, verdict: &mut Verdict) {
    let lives = std::mem::take(&mut story.lives);
    for (birth, life) in &lives {
        check_pushed(story, *birth, &life[0], verdict);
        check_order(story, *birth, life, verdict);
        walk(story, *birth, life, verdict);
    }
    story.lives = lives;
}

/// P2, P8: what is delivered was pushed or emitted there, by a call that is not known as not done.
fn check_pushed(
    story: &Story<'_>,
    (id, origin): Birth<'_>,
    first: &Received<'_>,
    verdict: &mut Verdict,
) {
    let makers = story.makers.get(id).map(Vec::as_slice).unwrap_or_default();
    let mut here = makers
        .iter()
        .filter(|(place, _)| story.units[*place].call.at_nodes.iter().any(|node| node == origin));
    let fate = |(place, _): &(usize, _)| story.units[*place].fate;
    if here.clone().next().is_none() {
        verdict.fail("P2", format!("{id} was delivered, and never pushed or emitted at {origin}"));
    } else if here.clone().all(|maker| fate(maker) == Fate::Not) {
        verdict.fail("P8", format!("{id} was delivered, and all that made it at {origin} failed"));
    } else if first.delivery.version == 1 {
        let same = here.any(|maker| {
            fate(maker) != Fate::Not
                && maker.1.ty == first.delivery.ty
                && maker.1.content == first.delivery.content
        });
        if !same {
            verdict.fail("P2", format!("{id} was delivered with a content that nobody gave it"));
        }
    }
}

/// P5: each lease has its own key, and none is settled after a later one was given.
fn check_order(
    story: &Story<'_>,
    (id, _): Birth<'_>,
    life: &[Received<'_>],
    verdict: &mut Verdict,
) {
    let mut received_later = u64::MAX;
    let mut key_later = None;
    for Received { at, delivery } in life.iter().rev() {
        if key_later == Some(delivery.key) {
            verdict.fail("P5", format!("{id} was delivered twice with the key {:?}", delivery.key));
        }
        for (unit, settle) in settles_of(story, delivery) {
            if unit.fate == Fate::Done && unit.asked > received_later {
                let (call, verb, key) = (unit.call.call, settle.verb, delivery.key);
                let what =
                    format!("{id}: call {call} ({verb:?}) settled {key:?} after a later lease");
                verdict.fail("P5", what);
            }
        }
        received_later = received_later.min(*at);
        key_later = Some(delivery.key);
    }
}

fn settles_of<'s, 'a>(
    story: &'s Story<'a>,
    delivery: &Delivery,
) -> impl Iterator<Item = (&'s Unit<'a>, &'a Settle)> {
    let settles = story.settles.get(delivery.token.as_str()).into_iter().flatten();
    settles.map(|(place, index)| {
        let unit = &story.units[*place];
        (unit, &unit.call.settles[*index])
    })
}

/// P3: a version has at most one end, and after the last one there is nothing.
fn walk<'a>(story: &mut Story<'a>, birth: Birth<'a>, life: &[Received<'a>], verdict: &mut Verdict) {
    let mut now = Life { version: 1, ..Life::default() };
    for received in life {
        let delivery = received.delivery;
        verdict.saw("deliveries");
        if delivery.key.0 > 0 {
            verdict.saw("deliveries after a handoff");
        }
        if let Some(why) = now.over {
            let (id, key) = (birth.0, delivery.key);
            let what = format!("{id} was delivered with the key {key:?} after it was {why}");
            verdict.fail("P3", what);
            return;
        }
        if !now.arrive(story, delivery, verdict) {
            return;
        }
        let places = story.settles.get(delivery.token.as_str()).cloned().unwrap_or_default();
        for (place, index) in places {
            let unit = &story.units[place];
            now.apply(place, unit.fate, &unit.call.settles[index], &delivery.processor);
        }
    }
}

impl<'a> Life<'a> {
    /// A delivery tells which of the settles in doubt was done. False: the life makes no sense.
    fn arrive(
        &mut self,
        story: &mut Story<'a>,
        delivery: &'a Delivery,
        verdict: &mut Verdict,
    ) -> bool {
        let doubts = std::mem::take(&mut self.doubts);
        let id = &delivery.id;
        if delivery.version == self.version {
            // It goes on as it was: none of them was done.
            for (place, _) in doubts {
                self.learn(story, place, Fate::Not, verdict);
            }
        } else if delivery.version == self.version + 1 {
            let advances: Vec<_> =
                doubts.iter().filter(|(_, settle)| settle.verb == Verb::Advance).collect();
            let same = advances.iter().find(|(_, settle)| is_next(settle, delivery));
            let Some((place, settle)) = same.copied().copied() else {
                let what = format!("{id} became version {} by no settle", delivery.version);
                verdict.fail("P3", what);
                return false;
            };
            self.begin_version(delivery.version, settle);
            self.learn(story, place, Fate::Done, verdict);
        } else {
            let (was, is) = (self.version, delivery.version);
            verdict.fail("P3", format!("{id} was version {was} and was delivered as version {is}"));
            return false;
        }
        let given = (delivery.ty.as_str(), delivery.content.as_str());
        if self.entity.is_some_and(|entity| entity != given) {
            verdict.fail("P2", format!("{id} was delivered as it never was"));
        }
        if self.handled.contains(delivery.processor.as_str()) {
            let name = &delivery.processor;
            verdict.fail("P3", format!("{id} was delivered to {name}, which has handled it"));
        }
        true
    }

    fn learn(&self, story: &mut Story<'a>, place: usize, fate: Fate, verdict: &mut Verdict) {
        let unit = &mut story.units[place];
        if unit.fate == Fate::Maybe {
            unit.fate = fate;
            verdict.saw("unknown outcomes learnt from a delivery");
        } else if unit.fate != fate {
            let call = unit.call.call;
            verdict.fail("P4", format!("call {call} is {:?} and was {fate:?}", unit.fate));
        }
    }

    fn begin_version(&mut self, version: u32, settle: &'a Settle) {
        self.version = version;
        self.entity = settle.next.as_ref().map(|(ty, content)| (ty.as_str(), content.as_str()));
        self.handled.clear();
    }

    /// What a settle of a lease makes of the object.
    fn apply(&mut self, place: usize, fate: Fate, settle: &'a Settle, processor: &'a str) {
        match (settle.verb, fate) {
            (_, Fate::Not) => {}
            (Verb::Finalise, Fate::Done) => self.over = Some("final"),
            (Verb::Reject, Fate::Done) => self.over = Some("rejected"),
            (Verb::Advance, Fate::Done) => self.begin_version(self.version + 1, settle),
            (Verb::Handled, Fate::Done) => {
                self.handled.insert(processor);
            }
            (Verb::Finalise | Verb::Reject | Verb::Advance, Fate::Maybe) => {
                self.doubts.push((place, settle));
            }
            // Whether they were done cannot be seen from outside.
            (Verb::Release | Verb::Fail, _) | (Verb::Handled, Fate::Maybe) => {}
        }
    }
}

fn is_next(settle: &Settle, delivery: &Delivery) -> bool {
    settle
        .next
        .as_ref()
        .is_some_and(|(ty, content)| *ty == delivery.ty && *content == delivery.content)
}
