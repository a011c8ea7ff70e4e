//! P11 without stateright's `eventually`: from every state one fault-free, fair run is followed to
//! its end. That run is not the only one, but each of its steps stays possible until it is taken,
//! and every state is a start.

use super::parts::{Phase, Place, RECEIVER, SENDER, State, Who};
use super::step::{Action, Rules};

/// Rounds in which everything that can happen happens. A handoff takes fewer than six.
const ROUNDS_MAX: usize = 12;

impl State {
    /// Whether every object ends when there are no more faults: fenced owners are gone, messages
    /// arrive and subscribers settle. What R4 keeps apart is for a person.
    ///
    /// A state with a commit under way is as good as the one after that commit.
    pub(crate) fn heals(&self, objects: u8, rules: &Rules) -> bool {
        let committing = self.owners.iter().any(|core| core.commit.is_some());
        if committing || self.rolled_back.is_some() || self.early.is_some() {
            return true;
        }
        let mut state = Self { zombies: [None, None], ..self.clone() };
        for _ in 0..ROUNDS_MAX {
            if state.is_over(objects) {
                return true;
            }
            for lane in [SENDER, RECEIVER] {
                state = state.round(lane, objects, rules);
            }
        }
        state.is_over(objects)
    }

    fn is_over(&self, objects: u8) -> bool {
        let settled = |o| self.stores.iter().any(|s| s.durable.place(o) == Place::Settled);
        let is_nowhere = |o| self.stores.iter().all(|s| s.durable.place(o) == Place::Absent);
        let never_was = |o: u8| !self.ok[usize::from(o)] && is_nowhere(o);
        (0..objects).all(|o| settled(o) || never_was(o))
    }

    /// Everything that one owner can do now.
    fn round(mut self, lane: usize, objects: u8, rules: &Rules) -> Self {
        let who = Who { lane, zombie: false };
        for object in 0..objects {
            let core = &self.owners[lane];
            let action = match (core.phase(object), core.image.place(object)) {
                (Phase::Rest, Place::Ready) => Action::Lease(who, object),
                (Phase::Rest, Place::Held(t)) => Action::Ask(who, t),
                (Phase::Leased(token), _) => Action::Settle(who, token),
                (Phase::Offered(_), _) => Action::Withdraw(who, object),
                _ => continue,
            };
            self = self.after(action, rules).commit(who, rules);
        }
        for message in self.said.iter() {
            if message.to() == lane && super::is_heard(&self, &self.owners[lane], message) {
                self = self.after(Action::Hear(who, message), rules).commit(who, rules);
            }
        }
        self
    }

    /// The commit under way, if there is one, becomes durable and known.
    fn commit(self, who: Who, rules: &Rules) -> Self {
        if self.owners[who.lane].commit.is_none() {
            return self;
        }
        let written = self.after(Action::Write(who), rules);
        written.after(Action::Sync(who.lane), rules).after(Action::Learn(who), rules)
    }
}
