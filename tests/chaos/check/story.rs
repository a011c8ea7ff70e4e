//! A history, sorted by what belongs together.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::history::{Answer, Call, Delivery, Event, Line, Made, Outcome, State, Type, Verb};

/// Whether a call was done, as far as the whole history tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    Not,
    Maybe,
}

/// A call with everything that is known of it. Its repeats count as attempts of it.
#[derive(Debug)]
pub(super) struct Unit<'a> {
    pub(super) call: &'a Call,
    pub(super) asked: u64,
    pub(super) answer: Option<&'a Answer>,
    pub(super) answered: Option<u64>,
    /// Outcomes of repeats, with the settle that was repeated.
    pub(super) repeats: Vec<(&'a Call, Outcome)>,
    pub(super) fate: Fate,
}

impl Unit<'_> {
    pub(super) fn outcome(&self) -> Outcome {
        self.answer.map_or(Outcome::Unknown, |answer| answer.outcome)
    }

    pub(super) fn reason(&self) -> &str {
        self.answer.and_then(|answer| answer.reason.as_deref()).unwrap_or("no answer")
    }
}

/// One life of one id: the same id pushed at two nodes is two lives until they meet.
pub(super) type Birth<'a> = (&'a str, &'a str);

/// A delivery and when it was received.
#[derive(Debug)]
pub(super) struct Received<'a> {
    pub(super) at: u64,
    pub(super) delivery: &'a Delivery,
}

/// A whole history.
#[derive(Debug, Default)]
pub(super) struct Story<'a> {
    pub(super) nodes: Vec<&'a str>,
    pub(super) untouched: BTreeSet<&'a str>,
    pub(super) units: Vec<Unit<'a>>,
    /// The calls that make an object, by its id.
    pub(super) makers: BTreeMap<&'a str, Vec<(usize, &'a Made)>>,
    /// The settles of a lease: the call, and the place in it.
    pub(super) settles: BTreeMap<&'a str, Vec<(usize, usize)>>,
    /// The deliveries of each life, in the order of their fencing keys.
    pub(super) lives: BTreeMap<Birth<'a>, Vec<Received<'a>>>,
    /// What the nodes said at the end, by id.
    pub(super) states: BTreeMap<&'a str, Vec<&'a State>>,
    pub(super) types: Vec<&'a Type>,
    pub(super) first_fault: Option<u64>,
}

impl<'a> Story<'a> {
    pub(super) fn read(lines: &'a [Line], verdict: &mut Verdict) -> Self {
        let mut story = Self::default();
        // A call's number to its place, and a repeat's number to what it repeats.
        let (mut places, mut repeats) = (BTreeMap::new(), BTreeMap::new());
        let mut complete = false;
        for Line { at, event } in lines {
            match event {
                Event::Round { nodes, untouched, .. } => {
                    story.nodes = nodes.iter().map(String::as_str).collect();
                    story.untouched = untouched.iter().map(String::as_str).collect();
                }
                Event::Call(call) => match call.repeats {
                    Some(_) => drop(repeats.insert(call.call, call)),
                    None => {
                        places.insert(call.call, story.units.len());
                        story.add_call(*at, call);
                    }
                },
                Event::Answer(answer) => {
                    if let Some(repeat) = repeats.get(&answer.call) {
                        let original = repeat.repeats.and_then(|call| places.get(&call));
                        match original {
                            Some(place) => {
                                let unit: &mut Unit<'_> = &mut story.units[*place];
                                unit.repeats.push((repeat, answer.outcome));
                            }
                            None => verdict.fail("P2", format!("{repeat:?} repeats nothing")),
                        }
                    } else if let Some(place) = places.get(&answer.call) {
                        let unit = &mut story.units[*place];
                        (unit.answer, unit.answered) = (Some(answer), Some(*at));
                    } else {
                        verdict.fail("P2", format!("an answer to nothing: {answer:?}"));
                    }
                }
                Event::Delivery(delivery) => {
                    let birth = (delivery.id.as_str(), delivery.origin.as_str());
                    let received = Received { at: *at, delivery };
                    story.lives.entry(birth).or_default().push(received);
                }
                Event::State(state) => story.states.entry(&state.id).or_default().push(state),
                Event::Type(of) => story.types.push(of),
                Event::Inventory => complete = true,
                Event::Fault { .. } => {
                    story.first_fault.get_or_insert(*at);
                }
                Event::Died { .. } | Event::Left { .. } => {}
            }
        }
        if !complete {
            verdict.fail("P1", "the nodes were not asked for everything at the end");
        }
        story
            .lives
            .values_mut()
            .for_each(|life| life.sort_by_key(|received| received.delivery.key));
        story.settle_fates(verdict);
        story
    }

    fn add_call(&mut self, at: u64, call: &'a Call) {
        let place = self.units.len();
        for made in &call.objects {
            self.makers.entry(&made.id).or_default().push((place, made));
        }
        for (index, settle) in call.settles.iter().enumerate() {
            self.settles.entry(&settle.token).or_default().push((place, index));
        }
        self.units.push(Unit {
            call,
            asked: at,
            answer: None,
            answered: None,
            repeats: Vec::new(),
            fate: Fate::Maybe,
        });
    }

    fn settle_fates(&mut self, verdict: &mut Verdict) {
        for unit in &mut self.units {
            let done = unit.repeats.iter().any(|(_, outcome)| *outcome == Outcome::Done);
            let not = unit.repeats.iter().any(|(repeat, outcome)| {
                *outcome == Outcome::Not && repeat.settles.iter().all(|s| is_decisive(s.verb))
            });
            unit.fate = match unit.outcome() {
                Outcome::Done => Fate::Done,
                Outcome::Not => Fate::Not,
                Outcome::Unknown if done => Fate::Done,
                Outcome::Unknown if not => Fate::Not,
                Outcome::Unknown => Fate::Maybe,
            };
            let what = match unit.outcome() {
                Outcome::Done => "calls done",
                Outcome::Not => "calls not done",
                Outcome::Unknown => "calls with unknown outcome",
            };
            verdict.saw(what);
            if unit.outcome() == Outcome::Unknown && unit.fate != Fate::Maybe {
                verdict.saw("unknown outcomes learnt by a repeat");
            }
        }
    }

    /// Where an object was made by a call that is not known to have failed.
    pub(super) fn births(&self, id: &str) -> BTreeSet<&'a str> {
        let makers = self.makers.get(id).into_iter().flatten();
        let units = makers.map(|(place, _)| &self.units[*place]);
        units.filter(|unit| unit.fate != Fate::Not).flat_map(birth_nodes).collect()
    }
}

/// The nodes where a call may have made its objects. A client that resends elsewhere may have made
/// one at each, whichever has answered.
pub(super) fn birth_nodes<'a>(unit: &Unit<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    unit.call.at_nodes.iter().map(String::as_str)
}

/// After a settle of this kind the lease is the last one of its version, so that a repeat gets the
/// first answer for as long as the object is remembered (R5), and LEASE_LOST means that it was not
/// done.
pub(super) fn is_decisive(verb: Verb) -> bool {
    matches!(verb, Verb::Finalise | Verb::Advance | Verb::Reject)
}
