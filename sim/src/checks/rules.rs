//! Rules of protocol.md as single messages and answers show them, from the outside: R1 and R2 (what
//! is said of a transfer stands in the log), R4 (generations never fall back) and R5 (who says
//! LEASE_LOST).

use std::collections::BTreeMap;

use dpc_core::Mono;
use dpc_core::ids::{Epoch, Incarnation, LaneId};
use dpc_core::message::Message;
use dpc_core::object::{Generation, Token};
use dpc_core::record::TransferId;

use super::Checker;

/// The generation counters that a lane has told of its own demand.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    incarnation: Incarnation,
    highest: u64,
    /// The highest one of the incarnations before.
    before: u64,
}

/// What was said before, as far as the rules ask for it.
#[derive(Debug, Default)]
pub(super) struct Said {
    counters: BTreeMap<LaneId, Counters>,
}

impl Checker {
    /// A lane says something to another one.
    pub(crate) fn said(&mut self, from: LaneId, to: LaneId, message: &Message) {
        if self.off {
            return;
        }
        if let Message::Estate(estate) = message {
            self.model.estates.insert(estate.transfer);
        }
        if self.model.is_lost(from) {
            return;
        }
        match message {
            Message::Accept { transfer, refused } if refused.is_empty() => {
                self.r1_accepted(from, *transfer);
            }
            Message::Taken(transfer) if !self.model.lane(from).released.contains(transfer) => {
                self.fail("R2", format!("{transfer} is called taken and is not ready durably"));
            }
            Message::Forget { sender, epoch, incarnation, through } if !self.model.is_lost(to) => {
                self.r2_forgotten(to, (*sender, *epoch, *incarnation), *through);
            }
            Message::Adverts(adverts) => {
                let own = adverts.iter().filter_map(|a| a.demand.as_ref()).map(|d| d.generation);
                own.filter(|g| g.lane == from).for_each(|g| self.r4_told(from, g));
            }
            _ => {}
        }
    }

    /// What is accepted is held, unless the sender has ended its offer meanwhile.
    fn r1_accepted(&mut self, from: LaneId, transfer: TransferId) {
        let lane = self.model.lane(from);
        let known = lane.held.contains_key(&transfer)
            || lane.released.contains(&transfer)
            || lane.aborted.contains(&transfer)
            || lane.kept_out_of(transfer).next().is_some();
        if !known {
            self.fail("R1", format!("{transfer} is accepted and not held durably"));
        }
    }

    /// What may be forgotten is decided at the receiver, too. An offer that was ended is decided,
    /// even if the receiver has not heard of it.
    fn r2_forgotten(&mut self, to: LaneId, of: (LaneId, Epoch, Incarnation), through: u64) {
        let forgotten =
            |t: &&TransferId| (t.sender, t.epoch, t.incarnation) == of && t.n <= through;
        let mut held = self.model.lane(to).held.keys().filter(forgotten);
        let doubt = held.find(|t| self.model.moved.contains_key(*t)).copied();
        if let Some(transfer) = doubt {
            self.fail("R2", format!("{transfer} is forgotten and still in doubt"));
        }
    }

    /// A counter of an incarnation is above all that the incarnations before it have told.
    fn r4_told(&mut self, lane: LaneId, generation: Generation) {
        let told = self.said.counters.entry(lane).or_default();
        if generation.incarnation != told.incarnation {
            let before = told.before.max(told.highest);
            *told = Counters { incarnation: generation.incarnation, highest: 0, before };
        }
        told.highest = told.highest.max(generation.counter);
        let before = told.before;
        if generation.counter <= before {
            self.fail("R4", format!("{generation} is told, and {before} was told before"));
        }
    }

    /// LEASE_LOST was said. If nobody else has asked to settle that lease, it is not valid.
    pub(crate) fn r5_called_lost(&mut self, token: &Token, now: Mono) {
        let asked_once = self.asked.get(token).is_some_and(|all| all.len() == 1);
        if asked_once && self.is_valid(token, now) && !self.model.is_lost(token.lane) {
            let what = format!("a lease of {} is called lost while it is valid", token.object);
            self.fail("R5", what);
        }
    }
}
