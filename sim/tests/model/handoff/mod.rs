//! A handoff between two lanes as a model that is searched exhaustively: the rules R1-R5 of
//! protocol.md, and the promises that they keep. docs/model.md says what is left out.

mod heal;
mod parts;
mod set;
mod step;

use stateright::{Model, Property};

use parts::{
    Backup, Core, Image, Message, NAMES, OBJECTS_MAX, Phase, Place, RECEIVER, Record, SENDER,
    State, Store, Token, Who,
};
use set::Set;
pub(crate) use step::{Action, Rules};

/// How much may happen in one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) objects: u8,
    /// Whether their pushes are still being written when all begins: one object.
    pub(crate) fresh: bool,
    /// How often each lane may be claimed again after the first time.
    pub(crate) claims: [u8; 2],
    /// Whether it may be claimed while its owner lives.
    pub(crate) adopted: [bool; 2],
    pub(crate) power_cuts: u8,
    /// Offers of one owner.
    pub(crate) offers: u8,
    /// Whether there is a subscriber at each lane.
    pub(crate) subscribers: [bool; 2],
    /// The lane that may come back from a copy of itself.
    pub(crate) restored: Option<usize>,
}

/// The model: rules and bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handoff {
    pub(crate) rules: Rules,
    pub(crate) bounds: Bounds,
}

impl Model for Handoff {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let pushed = if self.bounds.fresh { Place::Absent } else { Place::Ready };
        let images = [Image::new(pushed), Image::new(Place::Absent)];
        let mut owners = images.map(|image| Core::new(1, image));
        if self.bounds.fresh {
            owners[SENDER].begin(Record::Pushed(0));
        }
        vec![State {
            stores: images.map(|image| Store { epoch: 1, durable: image, tail: Vec::new() }),
            owners,
            ok: [!self.bounds.fresh; OBJECTS_MAX],
            again: false,
            zombies: [None, None],
            said: Set::EMPTY,
            lied: false,
            power_cuts: 0,
            early: None,
            backup: self.copy_without_pushes(),
            rolled_back: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (who, core) in state.everyone() {
            self.actions_of(state, who, core, actions);
        }
        let linked = state.rolled_back.is_none_or(|(_, refused)| !refused);
        for message in state.said.iter().filter(|_| linked) {
            for (who, core) in state.everyone() {
                if who.lane == message.to() && is_heard(state, core, message) {
                    actions.push(Action::Hear(who, message));
                }
            }
        }
        for lane in [SENDER, RECEIVER] {
            self.faults_of(state, lane, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(state.after(action, &self.rules))
    }

    fn format_action(&self, action: &Action) -> String {
        tell(action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("P1 every object is kept", |m, s: &State| m.all(|o| s.is_kept(o))),
            Property::always("P2 nothing is delivered that never was", |m, s: &State| {
                s.rolled_back.is_some() || m.all(|o| s.is_no_phantom(o))
            }),
            Property::always("P3 one settle commits", |m, s: &State| {
                s.rolled_back.is_some() || s.again || m.all(|o| committed_settles(s, o) <= 1)
            }),
            Property::always("P7 one owner", |m, s: &State| {
                s.rolled_back.is_some() || s.again || m.all(|o| owners_of(s, o) <= 1)
            }),
            Property::always("P8 what was denied is not done", |_, s: &State| {
                s.rolled_back.is_some() || !s.lied
            }),
            Property::always("R1 a transfer is decided once", |_, s| is_decided_once(s)),
            Property::always("P11 when all heals it ends", |m, s: &State| {
                s.heals(m.bounds.objects, &m.rules)
            }),
            Property::sometimes("an object is moved and settled", |_, s: &State| {
                s.stores[RECEIVER].durable.settled != Set::EMPTY
            }),
        ]
    }
}

impl Handoff {
    /// A copy of the sender that is older than the pushes.
    fn copy_without_pushes(&self) -> Option<Backup> {
        let lane = self.bounds.restored.filter(|lane| *lane == SENDER)?;
        Some(Backup { lane, image: Image::new(Place::Absent), outdated: false })
    }

    fn all(&self, holds: impl Fn(u8) -> bool) -> bool {
        (0..self.bounds.objects).all(holds)
    }

    fn actions_of(&self, state: &State, who: Who, core: &Core, actions: &mut Vec<Action>) {
        for object in 0..self.bounds.objects {
            match core.phase(object) {
                Phase::Rest if core.is_ready(object) => {
                    if who.lane == SENDER && core.offers < self.bounds.offers {
                        actions.push(Action::Offer(who, object));
                    }
                    let leased = core.leased[usize::from(object)];
                    if self.bounds.subscribers[who.lane] && !leased {
                        actions.push(Action::Lease(who, object));
                    }
                }
                Phase::Rest => {
                    let held = core.holds(object);
                    actions.extend(held.map(|t| Action::Ask(who, t)));
                    let silent = !state.ok[usize::from(object)] && !state.again;
                    let may_push = silent && core.commit.is_none();
                    actions.extend(held.filter(|_| may_push).map(|t| Action::PushAgain(who, t)));
                }
                Phase::Offered(_) => actions.push(Action::Withdraw(who, object)),
                Phase::Leased(_) => actions.push(Action::Expire(who, object)),
                Phase::Writing if core.is_fresh(object) && core.offers < self.bounds.offers => {
                    actions.push(Action::Offer(who, object));
                }
                Phase::Writing => {}
            }
        }
        for token in self.tokens_of_interest(state) {
            let begins = core.phase(token.object) == Phase::Leased(token);
            if !begins || core.commit.is_none() {
                actions.push(Action::Settle(who, token));
            }
        }
        match core.commit {
            Some((_, false)) => actions.push(Action::Write(who)),
            Some((record, true)) if !state.stores[who.lane].tail.contains(&record) => {
                actions.push(Action::Learn(who));
            }
            _ => {}
        }
    }

    /// Leases whose settle is done or may be done: of any other one LEASE_LOST is no lie, whoever
    /// says it, and nothing follows from it.
    fn tokens_of_interest(&self, state: &State) -> impl Iterator<Item = Token> {
        let settled = state.stores.iter().fold(Set::EMPTY, |all, s| all.union(s.read().settled));
        let leased = state.everyone().flat_map(|(_, core)| {
            (0..self.bounds.objects).filter_map(|object| match core.phase(object) {
                Phase::Leased(token) => Some(token),
                _ => None,
            })
        });
        let mut tokens = settled;
        leased.for_each(|token| tokens.insert(token));
        tokens.iter()
    }

    fn faults_of(&self, state: &State, lane: usize, actions: &mut Vec<Action>) {
        let b = &self.bounds;
        let store = &state.stores[lane];
        if !store.tail.is_empty() {
            actions.push(Action::Sync(lane));
        }
        if store.epoch > b.claims[lane] {
            return;
        }
        if state.power_cuts < b.power_cuts {
            actions.push(Action::PowerCut(lane));
        }
        let early = state.early.as_ref().is_some_and(|(l, _)| *l == lane);
        if !self.rules.fence_before_read && !early {
            actions.push(Action::ReadEarly(lane));
        } else if b.adopted[lane] {
            // An owner that has died is one that does nothing any more.
            actions.push(Action::Adopt(lane));
        } else {
            actions.push(Action::Restart(lane));
        }
        if b.restored == Some(lane) && state.rolled_back.is_none() {
            if state.backup.is_none() {
                actions.push(Action::Backup(lane));
            } else if self.survives_restore(state, lane) {
                actions.push(Action::Restore(lane));
            }
        }
    }

    /// A copy that destroys the only place of an object by coming back is outside of P1. The other
    /// lane has an object for good only if it is not about to give it away.
    fn survives_restore(&self, state: &State, lane: usize) -> bool {
        let other = 1 - lane;
        let giving = |core: &Core| matches!(core.commit, Some((r, _)) if r.gives_away());
        let giving = state.everyone().any(|(who, core)| who.lane == other && giving(core));
        let copy = state.backup.as_ref().expect("there is a copy").image;
        let store = &state.stores[other];
        let there = |o| store.durable.keeps(o) && store.read().keeps(o) && !giving;
        self.all(|object| copy.keeps(object) || there(object))
    }
}

/// Whether a message means anything to a core now. While a commit is under way, what needs another
/// one waits outside.
fn is_heard(state: &State, core: &Core, message: Message) -> bool {
    let idle = core.commit.is_none();
    match message {
        Message::Offer(t) => {
            let free = core.image.place(t.object) == Place::Absent;
            idle && free && core.phase(t.object) == Phase::Rest
        }
        Message::Accept(t) => idle || core.phase(t.object) != Phase::Offered(t),
        Message::Release(t) => {
            let again = core.image.taken.contains(t) && !state.said.contains(Message::Taken(t));
            again || idle && core.holds(t.object) == Some(t)
        }
        Message::Abort(t) => idle && core.holds(t.object) == Some(t),
        Message::Taken(t) => idle && core.image.moved.contains(t),
        Message::Status(_) => true,
    }
}

/// The settles of an object that have been written in either lane.
fn committed_settles(state: &State, object: u8) -> usize {
    let all = state.stores.iter().fold(Set::EMPTY, |all, s| all.union(s.read().settled));
    all.iter().filter(|token| token.object == object).count()
}

/// The cores whose commits still succeed and that would deliver an object.
fn owners_of(state: &State, object: u8) -> usize {
    let has = |(who, core): &(Who, &Core)| state.is_current(*who, core) && core.has(object);
    state.everyone().filter(has).count()
}

/// Both verdicts may have been said of one transfer only when the first one has been carried out
/// and forgotten.
fn is_decided_once(state: &State) -> bool {
    let taken = state.stores[RECEIVER].read().taken;
    state.said.iter().all(|message| match message {
        Message::Release(t) => taken.contains(t) || !state.said.contains(Message::Abort(t)),
        _ => true,
    })
}

/// An event as a line of a story.
fn tell(action: &Action) -> String {
    let object = |o: &u8| format!("object {}", o + 1);
    match action {
        Action::PushAgain(who, t) => format!("{} is pushed again at {who:?}", object(&t.object)),
        Action::Offer(who, o) => format!("{who:?} offers {}", object(o)),
        Action::Withdraw(who, o) => format!("{who:?} withdraws its offer of {}", object(o)),
        Action::Lease(who, o) => format!("{who:?} delivers {} to a subscriber", object(o)),
        Action::Expire(who, o) => format!("{who:?}: the lease of {} runs out", object(o)),
        Action::Settle(who, token) => format!("{who:?} is asked to settle lease {token:?}"),
        Action::Ask(who, t) => format!("{who:?} asks STATUS {t:?}"),
        Action::Hear(who, message) => format!("{who:?} hears {message:?}"),
        Action::Write(who) => format!("{who:?} writes its record"),
        Action::Sync(lane) => format!("lane {} is synced", NAMES[*lane]),
        Action::Learn(who) => format!("{who:?} hears that its commit is durable"),
        Action::Adopt(lane) => format!("lane {} is claimed by an adopter", NAMES[*lane]),
        Action::Restart(lane) => format!("{} dies and claims its lane again", NAMES[*lane]),
        Action::PowerCut(lane) => format!("{} loses power and claims its lane again", NAMES[*lane]),
        Action::ReadEarly(lane) => {
            format!("a claimant of lane {} reads before it fences", NAMES[*lane])
        }
        Action::Backup(lane) => format!("lane {} is copied", NAMES[*lane]),
        Action::Restore(lane) => format!("lane {} comes back from its copy", NAMES[*lane]),
    }
}
