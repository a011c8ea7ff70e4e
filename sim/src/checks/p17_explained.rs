//! P17: for any object a node's view agrees with its log, says what it waits for, and names each
//! candidate with the reason it was not taken. An id that was answered OK is never unknown.

use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::record::{Ending, Standing};
use dpc_core::view::{State, View, WaitsFor};

use super::Checker;
use crate::coverage::Coverage;

impl Checker {
    /// One answer to `why`. The log may be ahead of core's memory by what is being committed, so the
    /// states of a moment ago count, too.
    pub(crate) fn p17_view(&mut self, lane: LaneId, view: &View, seen: &mut Coverage) {
        seen.add(match view.state {
            State::Ready => "why: ready",
            State::Delayed => "why: delayed",
            State::Leased => "why: leased",
            State::Offered => "why: offered",
            State::Held => "why: held",
            State::Final => "why: final",
            State::Discarded => "why: discarded",
            State::Parked => "why: parked",
            State::Moved => "why: moved",
            State::Unknown => "why: unknown",
        });
        if let Err(what) = self.explains(lane, view) {
            self.fail("P17", format!("{} at {}: {what}", view.id, lane.short()));
        }
    }

    fn explains(&self, lane: LaneId, view: &View) -> Result<(), String> {
        let l = self.model.lane(lane);
        if view.text.is_empty() {
            return Err("nothing is said".into());
        }
        let state = view.state.as_str();
        match view.state {
            _ if self.model.is_lost(lane) => Ok(()),
            State::Unknown if l.knows(view.id) => Err("it is said to be unknown".into()),
            State::Ready | State::Offered | State::Leased if view.object.is_none() => {
                Err(format!("it is {state}, and not shown"))
            }
            State::Ready if view.candidates.is_empty() && view.waits_for != WaitsFor::Disk => {
                Err("it waits, and nobody is named who could take it".into())
            }
            State::Parked if view.reason.is_none() => Err("it is parked for no reason".into()),
            State::Moved if view.moved_to.is_none() => Err("it has moved to nobody".into()),
            State::Leased | State::Delayed if view.until.is_none() => {
                Err(format!("it is {state} until nobody knows when"))
            }
            _ => match view.candidates.iter().find(|(who, why)| who.is_empty() || why.is_empty()) {
                Some((who, _)) => Err(format!("candidate {who} has no reason")),
                None => Ok(()),
            },
        }
    }

    /// In a quiet world: what a node says of an object is what its log says.
    pub(crate) fn p17_state_is_true(&mut self, lane: LaneId, view: &View) {
        let l = self.model.lane(lane);
        let alive = l.alive(view.id).map(|t| match t.standing {
            Standing::Parked(_) => State::Parked,
            Standing::Held(_) | Standing::HeldParked(..) => State::Held,
            Standing::Flowing | Standing::Shadow(_) => State::Ready,
        });
        let ended = l.latest_end(view.id).map(|end| match end.ending {
            Ending::Final => State::Final,
            Ending::Discarded(_) | Ending::Duplicate => State::Discarded,
            Ending::Moved(_) => State::Moved,
        });
        let flows =
            |s: State| matches!(s, State::Ready | State::Delayed | State::Leased | State::Offered);
        let agrees = match alive.or(ended) {
            Some(State::Ready) => flows(view.state),
            Some(state) => view.state == state,
            None => view.state == State::Unknown,
        };
        if !agrees {
            let (said, is) = (view.state.as_str(), alive.or(ended).map(State::as_str));
            let what =
                format!("{} at {} is said to be {said} and is {is:?}", view.id, lane.short());
            self.fail("P17", what);
        }
    }

    /// In a quiet world: what was settled or handed over has its decision in the log.
    pub(crate) fn p17_all_decided(&mut self) {
        let whole = self.model.whole();
        let first = whole.filter_map(|(lane, l)| Some((*lane, l.undecided.first()?.1))).next();
        if let Some((lane, (step, id, _))) = first {
            self.fail("P17", format!("{id} has no decision to {step} at {}", lane.short()));
        }
    }

    /// Ids that a node answered OK for, to be asked about.
    pub(crate) fn p17_answered_ok(&self) -> Vec<(LaneId, ObjectId)> {
        let ok = self.pushes.iter().filter(|(_, pushed)| pushed.ok.is_some());
        let here = ok.filter(|((_, lane), _)| !self.model.is_lost(*lane));
        here.map(|((id, lane), _)| (*lane, *id)).collect()
    }
}
