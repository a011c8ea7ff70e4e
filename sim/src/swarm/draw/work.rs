//! What clients and people do.

use dpc_core::ids::ObjectId;
use dpc_core::input::{Operator, Which};
use dpc_core::names::TypeName;
use dpc_core::object::{Entity, Push};
use dpc_core::time::{Mono, Span};

use super::super::action::{Action, Pushed};
use super::Draw;
use crate::world::{BadEmits, Forgery, Mode, Wish, World, object_id};

/// The types that objects have.
const TYPES: [&str; 5] = ["img", "doc.text", "doc.pdf", "doc.pdf.signed", "sound"];

/// What subscriptions ask for.
const PATTERNS: [&str; 7] = ["img", "doc.text", "doc.pdf", "doc.*", "doc.pdf.*", "sound", "*"];

/// The processors.
const PROCESSORS: [&str; 3] = ["default", "blue", "red"];

fn type_name(ty: &str) -> TypeName {
    TypeName::from_type_url(ty).expect("a valid type")
}

impl Draw<'_> {
    pub(super) fn work(&mut self) {
        let (subscribe, leave, client) =
            (self.dice.one_of(&[2, 6]), self.dice.one_of(&[1, 5]), self.dice.one_of(&[2, 10]));
        let weights = [30, subscribe, leave, client];
        let mut moments: Vec<Mono> = (0..self.setup.actions).map(|_| self.moment()).collect();
        moments.sort_unstable();
        let (mut pushed, mut clients) = (Vec::new(), 0);
        for at in moments {
            let mut left = self.dice.below(weights.iter().sum());
            let mut what = 0;
            while left >= weights[what] {
                left -= weights[what];
                what += 1;
            }
            match what {
                0 => self.pushes(at, &mut pushed),
                1 => self.subscribe(at, &mut clients),
                2 if clients > 0 => self.leave(at, clients),
                3 if clients > 0 => self.client(at, clients),
                _ => self.take(at),
            }
        }
    }

    fn pushes(&mut self, at: Mono, pushed: &mut Vec<(usize, Push)>) {
        for _ in 0..1 + self.dice.below(4) {
            let node = self.node();
            if self.dice.chance(16) && !pushed.is_empty() {
                self.push_again(at, node, pushed);
                continue;
            }
            let ty = self.dice.one_of(&TYPES);
            let size = self.dice.one_of(&[1, 1, 10, 300, 3_000]);
            let delay = self.dice.chance(8).then(|| Span::millis(1 + self.dice.below(90_000)));
            let expires = self.dice.chance(7).then(|| {
                Span(1_000 + self.dice.below(40_000_000) + delay.map_or(0, |d: Span| d.0))
            });
            let id = object_id(pushed.len() as u64 + 1);
            let push = World::timed_push(id, ty, &"x".repeat(size), delay, expires);
            pushed.push((node, push.clone()));
            let retries = self.dice.below(4) as u32;
            let retry_at = if self.dice.chance(20) { self.node() } else { node };
            self.at(at, Action::Push { node, push, how: Pushed::New, retries, retry_at });
        }
    }

    fn push_again(&mut self, at: Mono, elsewhere: usize, pushed: &[(usize, Push)]) {
        let (before, mut push) = self.dice.one_of(pushed);
        let node = if self.dice.chance(50) { elsewhere } else { before };
        let how = if self.dice.chance(50) {
            let entity = Entity { payload: "something else".into(), ..push.entity().clone() };
            push = Push::new(push.id, entity).timed(push.not_before, push.expires_at);
            Pushed::Changed
        } else if node == before {
            Pushed::Again
        } else {
            Pushed::Elsewhere
        };
        self.at(at, Action::Push { node, push, how, retries: 0, retry_at: node });
    }

    fn subscribe(&mut self, at: Mono, clients: &mut usize) {
        let types = TYPES.map(type_name).to_vec();
        let mode = match self.dice.below(4) {
            0 => Mode::Finalise,
            1 => Mode::Hold,
            _ => Mode::Any(types),
        };
        let wish = Wish {
            node: self.node(),
            pattern: self.dice.one_of(&PATTERNS).to_owned(),
            processor: self.dice.one_of(&PROCESSORS).to_owned(),
            credit: self.dice.one_of(&[1, 2, 5, 100]),
            mode,
            lease: self.dice.chance(50).then(|| Span::millis(1_000 + self.dice.below(4_000))),
        };
        self.at(at, Action::Subscribe { client: *clients, wish });
        *clients += 1;
    }

    fn leave(&mut self, at: Mono, clients: usize) {
        let client = self.dice.index(clients);
        let action = match self.dice.below(3) {
            0 => Action::Unsubscribe(client),
            1 => Action::Leave(client),
            _ => Action::Reconnect(client),
        };
        self.at(at, action);
    }

    fn client(&mut self, at: Mono, clients: usize) {
        let client = self.dice.index(clients);
        match self.dice.below(6) {
            0 | 1 => self.take(at),
            2 => {
                let credit = self.dice.one_of(&[1, 3, 50]);
                self.at(at, Action::Credit(client, credit));
            }
            3 => self.at(at, Action::SubscribeAgain(client)),
            _ => {
                let modes = (0..1 + self.dice.below(3)).map(|_| self.settle_mode()).collect();
                let push = self.dice.chance(50).then_some("doc.text");
                self.at(at, Action::Transact { client, modes, push });
            }
        }
    }

    fn settle_mode(&mut self) -> Mode {
        match self.dice.below(4) {
            0 => Mode::Release,
            1 => Mode::Emit(type_name("img")),
            2 => Mode::Handle,
            _ => Mode::Finalise,
        }
    }

    fn take(&mut self, at: Mono) {
        let action = Action::Take {
            node: self.node(),
            pattern: self.dice.one_of(&PATTERNS),
            processor: self.dice.one_of(&PROCESSORS),
            count: 1 + self.dice.below(4) as u32,
            mode: if self.dice.chance(50) { Mode::Finalise } else { Mode::Hold },
        };
        self.at(at, action);
    }

    /// What clients do that are in error, or mean harm.
    pub(super) fn clients(&mut self) {
        for _ in 0..self.some(&[2, 10, 30]) {
            let at = self.moment();
            let client = self.dice.index(8);
            if self.dice.chance(70) {
                let action = self.misuse(client);
                self.at(at, action);
                continue;
            }
            let first = self.dice.one_of(&[
                Mode::Finalise,
                Mode::Release,
                Mode::Emit(type_name("sound")),
                Mode::Handle,
            ]);
            let second = self.dice.chance(50).then_some(Mode::Reject);
            self.at(at, Action::SettleTwice { client, first, second });
        }
    }

    fn misuse(&mut self, client: usize) -> Action {
        let (node, ago) = (self.node(), self.dice.index(64));
        match self.dice.below(7) {
            0 => Action::SettleOld { node, ago },
            1 => Action::SettleMixed { node, ago },
            2 => {
                use Forgery::{Epoch, Incarnation, Lane, Number};
                let how = self.dice.one_of(&[Number, Epoch, Incarnation, Lane]);
                Action::SettleForged { node, ago, how }
            }
            3 => Action::SettleOfOther(client, self.dice.index(8)),
            4 => {
                use BadEmits::{Reused, TooLarge, Twice};
                Action::BadEmits(client, self.dice.one_of(&[TooLarge, Twice, Reused]))
            }
            5 => Action::BadSubscribe(client),
            _ => Action::Extend(client),
        }
    }

    /// An id that was pushed a while before a moment, as far as that can be told from here.
    fn recent_id(&mut self, at: Mono) -> ObjectId {
        let about = at.0 / (self.setup.span.0 / self.setup.actions).max(1);
        object_id(1 + about.saturating_sub(self.dice.below(20)))
    }

    pub(super) fn operators(&mut self) {
        for _ in 0..self.some(&[2, 6]) {
            let (at, node) = (self.moment(), self.node());
            let id = self.recent_id(at);
            let order = match self.dice.below(8) {
                0 => Operator::Redrive(Which::All),
                1 => Operator::Drain,
                2 | 3 => Operator::Resume,
                4 => Operator::List { pattern: None, state: None, since: None, limit: 20 },
                5 => Operator::Discard(id),
                6 => Operator::Inspect(id),
                _ => Operator::Subscriptions,
            };
            self.at(at, Action::Operate(node, order));
        }
    }
}
