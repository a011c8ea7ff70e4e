//! A settle whose lease another lane gave, on its way to that lane's owner and back (R5).

use crate::core::Core;
use crate::effect::{Answer, Effect, Effects};
use crate::ids::LinkId;
use crate::input::{Input, ReplyTo};
use crate::lease::lease_lost;
use crate::mesh::{Asker, PASS_TIMEOUT, PASSES_MAX};
use crate::message::{Message, PassedAnswer};
use crate::object::{Hash16, Token};
use crate::record::Ending;
use crate::resolve::{Known, Stored};
use crate::timers::Timer;

impl Core {
    /// Passes a settle on to the owner of its lease's lane. Says whether there is a way.
    pub(crate) fn pass_settle(
        &mut self,
        to: ReplyTo,
        token: Token,
        content: Hash16,
        fx: &mut Effects,
    ) -> bool {
        let hops = self.limits.max_hops;
        self.pass_on(Asker::Client(to), hops, token, content, None, fx)
    }

    fn pass_on(
        &mut self,
        asker: Asker,
        hops: u32,
        token: Token,
        content: Hash16,
        not: Option<LinkId>,
        fx: &mut Effects,
    ) -> bool {
        let direct = self.mesh.link_to(token.lane);
        let Some(link) = direct.or_else(|| self.way_of(token)).filter(|l| Some(*l) != not) else {
            return false;
        };
        if self.mesh.asks.len() >= PASSES_MAX || hops == 0 {
            return false;
        }
        self.mesh.last_ask += 1;
        let ask = self.mesh.last_ask;
        let until = self.now.mono + PASS_TIMEOUT;
        self.mesh.asks.insert(ask, (asker, until));
        self.arm(until, Timer::Pass(ask));
        let message = Message::PassSettle { ask, hops_left: hops - 1, token, content };
        fx.push(Effect::send(link, message, None));
        true
    }

    /// The neighbour that knows more of a lease's object than this node: the one that it was handed
    /// to, or else the one that it came from. The caller has had the object looked up.
    fn way_of(&self, token: Token) -> Option<LinkId> {
        let object = match self.known(token.object) {
            Known::InMemory(slot) => self.object(slot),
            Known::OnDisk(Stored::Alive { object, .. }) => object,
            Known::OnDisk(Stored::Ended { end, .. }) => {
                return match &end.ending {
                    Ending::Moved(transfer) => self.mesh.link_to(transfer.receiver),
                    Ending::Final | Ending::Discarded(_) | Ending::Duplicate => None,
                };
            }
            Known::Absent | Known::NotLookedUp => return None,
        };
        let last = object.path.last()?;
        self.mesh.links().find(|(_, l)| l.name == *last).map(|(id, _)| id)
    }

    pub(crate) fn on_pass_settle(
        &mut self,
        link: LinkId,
        ask: u64,
        hops_left: u32,
        token: Token,
        content: Hash16,
        fx: &mut Effects,
    ) {
        let missing = self.unresolved([token.object]);
        if !missing.is_empty() && self.resolving.is_full() {
            let message = Message::PassedSettle { ask, answer: PassedAnswer::Unknown };
            return fx.push(Effect::send(link, message, None));
        }
        if !missing.is_empty() {
            let message = Message::PassSettle { ask, hops_left, token, content };
            return self.stall_quietly(missing, Input::Peer(link, message), fx);
        }
        let answer = self.owner_answer(token, content);
        let asker = Asker::Link(link, ask);
        let passed = answer == PassedAnswer::Unknown
            && self.pass_on(asker, hops_left, token, content, Some(link), fx);
        if !passed {
            let message = Message::PassedSettle { ask, answer };
            // Both answers that say what was done tell of what is written, which may be open still.
            let after = self.lane.barrier().filter(|_| answer != PassedAnswer::Unknown);
            fx.push(Effect::send(link, message, after));
        }
    }

    pub(crate) fn on_passed_settle(&mut self, ask: u64, answer: PassedAnswer, fx: &mut Effects) {
        let Some((asker, until)) = self.mesh.asks.remove(&ask) else { return };
        self.disarm(until, Timer::Pass(ask));
        match asker {
            Asker::Link(link, ask) => {
                let message = Message::PassedSettle { ask, answer };
                fx.push(Effect::send(link, message, None));
            }
            Asker::Client(to) => {
                let answer = match answer {
                    PassedAnswer::Done => Answer::Done(1),
                    PassedAnswer::LeaseLost => Answer::RefusedAt(0, Box::new(lease_lost())),
                    PassedAnswer::Unknown => Answer::Unknown(
                        "the node that gave the lease could not be asked; ask it, or wait for the redelivery".into(),
                    ),
                };
                self.reply(to, answer, fx);
            }
        }
    }

    pub(crate) fn on_pass_over(&mut self, ask: u64, fx: &mut Effects) {
        self.on_passed_settle(ask, PassedAnswer::Unknown, fx);
    }
}
