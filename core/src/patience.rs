//! How long an offer waits for its answer: a slow link needs time for what it carries, and nobody
//! here who is idle is kept waiting for that.

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::decision::Refused;
use crate::effect::{Effect, Effects};
use crate::estate::Legacy;
use crate::ids::{LinkId, RecordNumber};
use crate::limits::LINK_BYTES_PER_MS_MIN;
use crate::memory::Slot;
use crate::message::{DemandKey, Message};
use crate::planted::{Bug, planted};
use crate::record::TransferId;
use crate::time::{Mono, Span};
use crate::timers::Timer;
use crate::transfer::Outgoing;

/// How many times `offer_timeout` an offer over a slow link waits at most.
const PATIENCE_MAX: u64 = 64;

/// The time of one offer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Patience {
    /// How long it waits for its answer in all.
    pub(crate) span: Span,
    /// The end of that.
    pub(crate) until: Mono,
    /// When its timer goes off next: then, or before.
    pub(crate) looked_at: Mono,
}

impl Core {
    /// Gives an offer its id and its time, by the bytes of its payloads.
    pub(crate) fn begin_offer(
        &mut self,
        link: LinkId,
        key: Option<DemandKey>,
        slots: Vec<Slot>,
        estate: Vec<Legacy>,
        early: Option<RecordNumber>,
        bytes: u64,
    ) -> TransferId {
        self.transfers.last += 1;
        let n = self.transfers.last;
        let l = self.mesh.link(link).expect("offers go over links that are up");
        let (receiver, peer, learned) = (l.lane, l.name.clone(), l.patience);
        let (sender, epoch, incarnation) = (self.lane.id, self.lane.epoch, self.lane.incarnation);
        let id = TransferId { sender, receiver, epoch, incarnation, n };
        // It goes out behind the others of its link. Without that time a slow link would be offered
        // the same large objects again and again, and never move one.
        let before = self.transfers.outgoing.values().filter(|o| o.link == link);
        let ahead: u64 = before.map(|o| o.bytes).sum();
        let transport = Span::millis((ahead + bytes) / LINK_BYTES_PER_MS_MIN);
        // What even that underestimates, the link has learned.
        let span = Span(learned.0 + transport.0);
        let until = self.now.mono + span;
        let looked_at = self.next_look(until);
        self.arm(looked_at, Timer::Offer(n));
        let patience = Patience { span, until, looked_at };
        let out =
            Outgoing { id, link, peer, key, slots, estate, early, moving: None, bytes, patience };
        self.transfers.outgoing.insert(n, out);
        id
    }

    /// An offer that waits for long is looked at each `offer_timeout`.
    fn next_look(&self, until: Mono) -> Mono {
        until.min(self.now.mono + self.limits.offer_timeout)
    }

    pub(crate) fn on_offer_timer(&mut self, n: u64, fx: &mut Effects) {
        let Some(out) = self.transfers.outgoing.get(&n) else { return };
        let Patience { span, until, looked_at } = out.patience;
        if out.moving.is_some() || looked_at > self.now.mono {
            return;
        }
        if until <= self.now.mono {
            return self.lose_patience(n, span, fx);
        }
        if self.keeps_somebody_waiting(out) {
            return self.take_offer_back(n, Refused::LocalFirst, fx);
        }
        let next = self.next_look(until);
        self.transfers.outgoing.get_mut(&n).expect("just found").patience.looked_at = next;
        self.arm(next, Timer::Offer(n));
    }

    /// Whether somebody here could have one of its objects at once (P12).
    fn keeps_somebody_waiting(&self, out: &Outgoing) -> bool {
        let waited_for = |slot: &Slot| {
            let queue = self.memory.get(*slot).queue;
            self.queues.get(queue).groups.iter().any(|group| self.subs.can_take(*group))
        };
        self.draining.is_none() && !self.leases_are_full() && out.slots.iter().any(waited_for)
    }

    fn lose_patience(&mut self, n: u64, span: Span, fx: &mut Effects) {
        let link = self.transfers.outgoing[&n].link;
        let longer = span.times(2).min(self.limits.offer_timeout.times(PATIENCE_MAX));
        if let Some(l) = self.mesh.link_mut(link) {
            l.patience = l.patience.max(longer);
        }
        self.pause(n);
        self.take_offer_back(n, Refused::Timeout, fx);
    }

    /// Ends an offer that is open, and says so.
    pub(crate) fn take_offer_back(&mut self, n: u64, why: Refused, fx: &mut Effects) {
        let (link, id) = (self.transfers.outgoing[&n].link, self.transfers.outgoing[&n].id);
        if !planted(Bug::AbortOfOpenOffer) {
            self.withdraw(n, why);
        }
        fx.push(Effect::send(link, Message::Abort(id), None));
    }

    /// An offer was answered: from now on its link waits between two and four times as long as that
    /// took.
    pub(crate) fn learn_patience(&mut self, n: u64) {
        let Some(out) = self.transfers.outgoing.get(&n) else { return };
        let left = (out.patience.until - self.now.mono).0;
        let took = Span(out.patience.span.0 - left.min(out.patience.span.0));
        let (least, link) = (self.limits.offer_timeout, out.link);
        if let Some(l) = self.mesh.link_mut(link) {
            l.patience = l.patience.min(took.times(4)).max(took.times(2)).max(least);
        }
    }
}
