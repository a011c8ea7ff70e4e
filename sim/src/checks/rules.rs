//! Rules of protocol.md as single messages and answers show them: R1 and R2 (what is said stands in
//! the log), R4 (generations never fall back), R5 (who says LEASE_LOST), R8 (who is blamed).

use dpc_core::Mono;
use dpc_core::effect::Delivery;
use dpc_core::ids::{Incarnation, LaneId};
use dpc_core::message::Message;
use dpc_core::object::Token;
use dpc_core::record::{Standing, TransferId};

use super::{Checker, Key};

/// The generation counters that a lane has told of its own demand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    incarnation: Incarnation,
    highest: u64,
    /// The highest one of the incarnations before.
    before: u64,
}

impl Checker {
    /// A lane says something to another one.
    pub(crate) fn rules_said(&mut self, from: LaneId, to: LaneId, message: &Message) {
        match message {
            Message::Accept { transfer, refused } if refused.is_empty() => {
                let l = self.model.lane(from);
                if !l.has_held(transfer) {
                    self.fail("R1", format!("{transfer} is accepted and not held durably"));
                }
            }
            Message::Taken(transfer) if !self.model.lane(from).has_released(transfer) => {
                self.fail("R2", format!("{transfer} is called taken and is not ready durably"));
            }
            Message::Forget { sender, epoch, incarnation, through } => {
                let forgotten = |t: &&TransferId| {
                    (t.sender, t.epoch, t.incarnation) == (*sender, *epoch, *incarnation)
                        && t.n <= *through
                };
                let in_doubt = self.model.lane(to).in_doubt().find(forgotten).copied();
                if let Some(transfer) = in_doubt {
                    self.fail("R2", format!("{transfer} is forgotten and still in doubt"));
                }
            }
            Message::Adverts(adverts) => {
                let own = adverts.iter().filter_map(|a| a.demand.as_ref()).map(|d| d.generation);
                let own: Vec<_> = own.filter(|generation| generation.lane == from).collect();
                for generation in own {
                    self.r4_told(from, generation.incarnation, generation.counter);
                }
            }
            _ => {}
        }
    }

    /// A counter of an incarnation is above all that the incarnations before it have told.
    fn r4_told(&mut self, lane: LaneId, incarnation: Incarnation, counter: u64) {
        let told = self.counters.entry(lane).or_default();
        if incarnation != told.incarnation {
            *told = Counters { incarnation, highest: 0, before: told.before.max(told.highest) };
        }
        told.highest = told.highest.max(counter);
        let before = told.before;
        if counter <= before {
            let name = lane.short();
            self.fail("R4", format!("{name} tells generation {counter}, it had told {before}"));
        }
    }

    /// LEASE_LOST was said of a settle that nobody else has asked for: its lease is not valid.
    pub(super) fn r5_lease_is_lost(&mut self, token: &Token, now: Mono) {
        let leased = self.leased.get(&token.lane).into_iter().flatten();
        let valid = |(key, held): &(&Key, &super::Held)| {
            key.0 == token.object && held.lease == token.n && held.until > now
        };
        let alone = self.asked.get(token).is_none_or(|all| all.len() == 1);
        if alone && leased.into_iter().any(|(k, h)| valid(&(k, h))) {
            let what = format!("a lease of {} is called lost while it is valid", token.object);
            self.fail("R5", what);
        }
    }

    /// A process begins where another one has died: what that one had begun to work on has failed.
    pub(crate) fn r8_begun_has_failed(&mut self, lane: LaneId) {
        let l = self.model.lane_mut(lane);
        let begun = std::mem::take(&mut l.begun);
        let alive = begun.iter().filter_map(|at| l.things.get(at));
        let flowing = alive.filter(|thing| thing.standing == Standing::Flowing);
        let owed: Vec<_> = flowing
            .map(|thing| {
                let o = &thing.object;
                ((o.id, o.birth), (o.version, o.failed + 1))
            })
            .collect();
        self.model.owed_failures.extend(owed);
    }

    pub(super) fn r8_failure_is_counted(&mut self, delivery: &Delivery) {
        let o = &delivery.object;
        let owed = self.model.owed_failures.get(&(o.id, o.birth)).copied();
        if let Some((version, failed)) = owed
            && version == o.version
            && o.failed < failed
        {
            let what = format!("{} was begun before a crash and is not blamed for it", o.id);
            self.fail("R8", what);
        }
    }
}
