//! The fence in time (R6): whoever has not proved for `self_fence_after` that it still owns its
//! lane delivers nothing, because somebody else may own it by now.
//!
//! Only conditional writes of the lane's head are proof, counted from the moment they were sent:
//! commits, and renewals by an owner that has nothing to commit but something to lose. Heartbeats
//! and reads prove nothing. The clock is the driver's monotonic one, which has to count the time a
//! machine was suspended.
//!
//! Without proof nothing is delivered, no transfer is answered for, and no lease is called lost
//! (R5); what is settled is written, and answered by its commit. A lane whose store has no other
//! user needs no proof.

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::effect::{Answer, Effect, Effects};
use crate::ids::Epoch;
use crate::input::{Input, LeaseRef, Lessee, ReplyTo};
use crate::planted::{Bug, planted};
use crate::refusal::{Code, Refusal};
use crate::time::{Mono, Span};
use crate::timers::Timer;
use crate::transfer::InState;

/// A renewal is asked for when the time has passed divided by this.
const RENEW_AT: u64 = 4;

/// How far ownership is proved.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fence {
    after: Span,
    /// When the last head write was sent of which it is known that it succeeded.
    proved: Option<Mono>,
    /// When the renewal that is under way was asked for.
    renewing: Option<Mono>,
}

impl Fence {
    pub(crate) fn new(after: Span) -> Self {
        Self { after, proved: None, renewing: None }
    }

    fn until(&self) -> Mono {
        self.proved.map_or(Mono(0), |proved| proved + self.after)
    }
}

impl Core {
    /// Until when deliveries may be handed to their streams: the driver looks at its clock at that
    /// moment, too, and drops what comes later. `None` if nobody else can own the lane.
    pub fn deliver_until(&self) -> Option<Mono> {
        self.fence.as_ref().map(Fence::until)
    }

    /// Whether another owner has taken the lane: this core answers nothing any more.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Whether this owner is known to be the owner now.
    pub(crate) fn owns_surely(&self) -> bool {
        let surely = |fence: &Fence| self.now.mono < fence.until();
        planted(Bug::ProofNotNeeded) || self.fence.as_ref().is_none_or(surely)
    }

    /// The same, before something that needs it. Without proof it is asked for.
    pub(crate) fn prove(&mut self, fx: &mut Effects) -> bool {
        let proved = self.owns_surely();
        if !proved {
            self.ask_renewal(fx);
        }
        proved
    }

    fn ask_renewal(&mut self, fx: &mut Effects) {
        let now = self.now.mono;
        if let Some(fence) = &mut self.fence
            && fence.renewing.is_none()
        {
            fence.renewing = Some(now);
            fx.push(Effect::Renew);
        }
    }

    /// A head write that was sent then has succeeded.
    pub(crate) fn on_proof(&mut self, sent: Mono) {
        let Some(fence) = &mut self.fence else { return };
        fence.proved = fence.proved.max(Some(sent));
        if fence.renewing.is_some_and(|asked| asked <= sent) {
            fence.renewing = None;
        }
        let next = Span(fence.after.0 / RENEW_AT);
        self.arm_once(next, Timer::Fence);
    }

    pub(crate) fn handle_renewed(&mut self) {
        let renewing = self.fence.as_mut().and_then(|fence| fence.renewing.take());
        if let Some(sent) = renewing {
            self.on_proof(sent);
        }
    }

    /// An owner that is idle and has leases, ready objects or transfers in doubt renews the head.
    pub(crate) fn on_fence_due(&mut self, fx: &mut Effects) {
        let Some(fence) = &self.fence else { return };
        let due = fence.proved.map_or(Mono(0), |at| at + Span(fence.after.0 / RENEW_AT));
        if due > self.now.mono {
            return self.arm_once(due - self.now.mono, Timer::Fence);
        }
        let held = self.transfers.incoming.values().any(|i| i.state != InState::Taken);
        let depends = self.leases.len() > 0
            || held
            || !self.transfers.outgoing.is_empty()
            || self.queues.waiting().next().is_some();
        if depends {
            self.ask_renewal(fx);
        }
    }

    /// Another owner has the lane (R1): nothing is answered for it any more.
    pub(crate) fn fence_off(&mut self, epoch: Epoch, fx: &mut Effects) {
        if planted(Bug::FenceIgnored) {
            return;
        }
        if !std::mem::replace(&mut self.fenced, true) {
            fx.push(Effect::Fenced(epoch));
        }
    }

    /// What a fenced core says: to peers nothing; of a settle that nobody here can tell; to
    /// everything else that it was not done.
    pub(crate) fn answer_fenced(&self, input: &Input, fx: &mut Effects) {
        let (to, answer) = match input {
            Input::Settle(to, ..)
            | Input::Transaction(to, ..)
            | Input::Begin(to, ..)
            | Input::Extend(to, ..) => (*to, cannot_tell()),
            Input::Push(to, _)
            | Input::Subscribe(to, _)
            | Input::Unsubscribe(to, ..)
            | Input::Take(to, _)
            | Input::Operator(to, _) => (*to, Answer::Refused(Box::new(fenced()))),
            _ => return,
        };
        fx.push(Effect::Reply { to, answer, after: None });
    }

    /// R5: without proof of ownership no lease is called lost. Answers *unknown*, and says so, if a
    /// request names one that is not known here.
    pub(crate) fn cannot_judge(
        &mut self,
        to: ReplyTo,
        lessee: Lessee,
        leases: impl IntoIterator<Item = LeaseRef>,
        fx: &mut Effects,
    ) -> bool {
        if self.owns_surely() {
            return false;
        }
        let lost = |lease| {
            let found = self.find_lease(lessee, lease);
            found.is_err_and(|refusal| refusal.reason == "LEASE_LOST")
        };
        let unknown = leases.into_iter().any(lost);
        if unknown {
            self.ask_renewal(fx);
            self.reply(to, cannot_tell(), fx);
        }
        unknown
    }

    /// What a peer last knew of this lane: a higher epoch is another owner's, if the store is one
    /// that others can claim. (Of a lane on its own disk it is a restored copy, R4.)
    pub(crate) fn see_own_epoch(&mut self, epoch: Epoch, fx: &mut Effects) -> bool {
        let other = self.fence.is_some() && epoch > self.lane.epoch;
        if other {
            self.fence_off(epoch, fx);
        }
        other
    }
}

fn cannot_tell() -> Answer {
    Answer::Unknown(
        "this node cannot prove that it still owns the lease's lane; ask again, or wait for the redelivery".into(),
    )
}

fn fenced() -> Refusal {
    Refusal::new(
        Code::Unavailable,
        "FENCED",
        "another node has taken over this node's lane; it stops and comes back with a new one",
    )
}
