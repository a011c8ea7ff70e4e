//! FORGET: what both sides of decided handoffs need not remember.
//!
//! A sender says up to which number the transfers of its present incarnation are decided and taken. It
//! says so only when nothing of an older incarnation is open, so the receiver drops those altogether.

use crate::core::Core;
use crate::effect::{Effect, Effects};
use crate::ids::{Epoch, Incarnation, LaneId, LinkId};
use crate::message::Message;
use crate::planted::{Bug, planted};
use crate::record::{Entry, TransferId};
use crate::transfer::{InState, Transfers};

impl Core {
    /// Tells the receiver below which number everything is decided and taken. With that it forgets
    /// older incarnations of this lane altogether, so it is said only when nothing of them is open.
    pub(crate) fn say_forget(&mut self, link: LinkId, receiver: LaneId, fx: &mut Effects) {
        let (sender, epoch, incarnation) = (self.lane.id, self.lane.epoch, self.lane.incarnation);
        let nth = |n| TransferId { sender, receiver, epoch, incarnation, n };
        if self.transfers.is_untaken_before(nth(0)) {
            return;
        }
        let mine = |id: &&TransferId| {
            id.receiver == receiver && id.epoch == epoch && id.incarnation == incarnation
        };
        let open = self.transfers.outgoing.values().map(|o| &o.id).filter(mine);
        let untaken = self.transfers.untaken.range(nth(0)..).take(1).filter(mine);
        let lowest = open.chain(untaken).map(|id| id.n).min();
        let below = u64::from(!planted(Bug::ForgottenOneTooFar));
        let through = lowest.map_or(self.transfers.last, |n| n - below);
        if self.transfers.forget_said.get(&receiver).is_none_or(|said| through > *said) {
            self.transfers.forget_said.insert(receiver, through);
            let message = Message::Forget { sender, epoch, incarnation, through };
            // The receiver may forget only what this side remembers as taken.
            let after = self.lane.barrier();
            fx.push(Effect::send(link, message, after));
        }
    }

    /// A sender has nothing open up to a number.
    pub(crate) fn on_forget(
        &mut self,
        sender: LaneId,
        epoch: Epoch,
        incarnation: Incarnation,
        through: u64,
    ) {
        let known =
            self.transfers.forgotten.get(&(sender, epoch, incarnation)).copied().unwrap_or(0);
        if through <= known && !self.transfers.is_anything_older(sender, epoch) {
            return;
        }
        let through = through.max(known);
        self.transfers.forget_through(sender, epoch, incarnation, through);
        self.lane.write(&Entry::Forgotten { sender, epoch, incarnation, through });
    }
}

impl Transfers {
    /// A lane is gone for ever: nothing is answered to it any more.
    pub(crate) fn forget_lane(&mut self, lane: LaneId) {
        self.verdicts.insert(lane);
        self.forgotten.retain(|(sender, ..), _| *sender != lane);
        self.incoming.retain(|id, i| id.sender != lane || i.state != InState::Taken);
    }

    /// Whether a transfer to the same receiver by an older incarnation is not taken.
    fn is_untaken_before(&self, first: TransferId) -> bool {
        let none = TransferId { epoch: Epoch(0), incarnation: Incarnation(0), ..first };
        self.untaken.range(none..first).next().is_some()
    }

    /// Forgets decided transfers of a sender's incarnation, and of older ones all that are taken.
    /// What is in doubt stays until it is decided.
    pub(crate) fn forget_through(
        &mut self,
        sender: LaneId,
        epoch: Epoch,
        incarnation: Incarnation,
        through: u64,
    ) {
        self.forgotten.retain(|(of, older, _), _| *of != sender || *older >= epoch);
        self.forgotten.insert((sender, epoch, incarnation), through);
        self.incoming.retain(|id, i| {
            let same = (id.epoch, id.incarnation) == (epoch, incarnation) && id.n <= through;
            let over = id.sender == sender && (same || id.epoch < epoch);
            !(over && i.state == InState::Taken)
        });
    }

    /// Whether a FORGET of this epoch would end something of an older one.
    pub(crate) fn is_anything_older(&self, sender: LaneId, epoch: Epoch) -> bool {
        let forgotten = self.forgotten.keys().any(|(of, e, _)| *of == sender && *e < epoch);
        let mut incoming = self.incoming.iter().filter(|(id, _)| id.sender == sender);
        forgotten || incoming.any(|(id, i)| id.epoch < epoch && i.state == InState::Taken)
    }

    /// Up to which number transfers of an incarnation are decided and forgotten.
    pub(crate) fn forgotten_through(&self, id: &TransferId) -> u64 {
        let newer =
            |(of, epoch, _): &(LaneId, Epoch, Incarnation)| *of == id.sender && *epoch > id.epoch;
        if self.forgotten.keys().any(newer) {
            return u64::MAX;
        }
        let of = (id.sender, id.epoch, id.incarnation);
        self.forgotten.get(&of).copied().unwrap_or(0)
    }
}
