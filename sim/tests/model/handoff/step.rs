//! What each event does: the protocol, rule by rule.

use super::parts::{
    Backup, Core, Message, Phase, Place, RECEIVER, Record, SENDER, State, Token, Transfer, Who,
};

/// Which rules of protocol.md are kept. One is left out to see that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// R1: a core with a lower epoch than a transfer's does not answer for it, it stops.
    pub(crate) fenced_is_silent: bool,
    /// R1: while MOVED is being committed the answer is WAIT.
    pub(crate) undecided_waits: bool,
    /// R1: before ABORT is said the offer is ended.
    pub(crate) ended_before_abort: bool,
    /// R2: TAKEN is said after the commit that made the object READY.
    pub(crate) taken_after_ready: bool,
    /// R3: a claim fences before it reads.
    pub(crate) fence_before_read: bool,
    /// R3: what a claim has read is made durable before anything is answered from it.
    pub(crate) durable_before_answer: bool,
    /// R4: a lane that came back lower than it was known is refused.
    pub(crate) histories_compared: bool,
    /// P9: a push of an id that is only held is not answered as done before.
    pub(crate) held_is_not_pushed: bool,
    /// R5: only the lane of the lease says LEASE_LOST.
    pub(crate) own_lane_says_lost: bool,
    /// R5: and of its owners only the present one: a token of a higher epoch says who that is.
    pub(crate) present_owner_says_lost: bool,
}

impl Rules {
    /// The protocol as it is.
    pub(crate) const ALL: Self = Self {
        fenced_is_silent: true,
        undecided_waits: true,
        ended_before_abort: true,
        taken_after_ready: true,
        fence_before_read: true,
        durable_before_answer: true,
        histories_compared: true,
        held_is_not_pushed: true,
        own_lane_says_lost: true,
        present_owner_says_lost: true,
    };
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Action {
    /// A client that has had no answer pushes its object where it is held.
    PushAgain(Who, Transfer),
    /// The sender offers an object that is ready, or is being written.
    Offer(Who, u8),
    /// An offer has had no answer for too long.
    Withdraw(Who, u8),
    /// A ready object is delivered to a subscriber.
    Lease(Who, u8),
    /// The lease runs out.
    Expire(Who, u8),
    /// A subscriber's settle, or its repetition, reaches a core.
    Settle(Who, Token),
    /// A receiver in doubt asks.
    Ask(Who, Transfer),
    Hear(Who, Message),
    /// The record of a commit reaches the store, or the fence.
    Write(Who),
    /// The store syncs what was written.
    Sync(usize),
    /// A core hears that its commit is durable.
    Learn(Who),
    /// The lane is claimed by an adopter while its owner lives.
    Adopt(usize),
    /// The owner dies and comes back; what it wrote is still in the machine's cache.
    Restart(usize),
    /// The same, and what was not synced is gone, with everybody who knew of it.
    PowerCut(usize),
    /// A claimant reads before it fences (only without R3).
    ReadEarly(usize),
    Backup(usize),
    Restore(usize),
}

impl State {
    /// The state after an event that is possible now.
    pub(crate) fn after(&self, action: Action, rules: &Rules) -> Self {
        let mut next = self.clone();
        match action {
            Action::PushAgain(who, t) => next.push_again(who, t, rules),
            Action::Offer(who, object) => next.offer(who, object),
            Action::Withdraw(who, object) => next.withdraw(who, object),
            Action::Lease(who, object) => next.lease(who, object),
            Action::Expire(who, object) => next.core_mut(who).set_phase(object, Phase::Rest),
            Action::Settle(who, token) => next.settle(who, token, rules),
            Action::Ask(_, t) => next.said.insert(Message::Status(t)),
            Action::Hear(who, message) => next.hear(who, message, rules),
            Action::Write(who) => next.write(who),
            Action::Sync(lane) => next.stores[lane].sync(),
            Action::Learn(who) => next.learn(who),
            Action::Adopt(lane) => {
                next.zombies[lane] = Some(next.owners[lane]);
                next.claim(lane, rules);
            }
            Action::Restart(lane) => next.claim(lane, rules),
            Action::PowerCut(lane) => {
                next.power_cuts += 1;
                next.stores[lane].tail.clear();
                next.zombies[lane] = None;
                next.claim(lane, rules);
            }
            Action::ReadEarly(lane) => next.early = Some((lane, next.stores[lane].read())),
            Action::Backup(lane) => {
                let image = next.stores[lane].durable;
                next.backup = Some(Backup { lane, image, outdated: false });
            }
            Action::Restore(lane) => next.restore(lane, rules),
        }
        next
    }

    fn push_again(&mut self, who: Who, t: Transfer, rules: &Rules) {
        self.again = true;
        if rules.held_is_not_pushed {
            self.core_mut(who).begin(Record::PushedOver(t));
        } else {
            self.ok[usize::from(t.object)] = true;
        }
    }

    fn offer(&mut self, who: Who, object: u8) {
        let core = self.core_mut(who);
        core.offers += 1;
        let t = Transfer { epoch: core.epoch, n: core.offers, object };
        core.set_phase(object, Phase::Offered(t));
        self.said.insert(Message::Offer(t));
    }

    fn withdraw(&mut self, who: Who, object: u8) {
        let core = self.core_mut(who);
        let Phase::Offered(t) = core.phase(object) else { unreachable!("offers are withdrawn") };
        core.set_phase(object, Phase::Rest);
        self.said.insert(Message::Abort(t));
    }

    fn lease(&mut self, who: Who, object: u8) {
        let core = self.core_mut(who);
        core.leased[usize::from(object)] = true;
        let token = Token { lane: who.lane, epoch: core.epoch, object };
        core.set_phase(object, Phase::Leased(token));
    }

    /// A settle that ends its lease is committed and answered then. Of one that is done the answer
    /// is repeated. Of any other it is LEASE_LOST, from whoever may say so (R5), or *unknown*.
    fn settle(&mut self, who: Who, token: Token, rules: &Rules) {
        let core = self.core_mut(who);
        if core.phase(token.object) == Phase::Leased(token) {
            return core.begin(Record::Settled(token));
        }
        if core.is_settling(token) || core.image.settled.contains(token) {
            return;
        }
        let own_lane = who.lane == token.lane || !rules.own_lane_says_lost;
        let present = core.epoch >= token.epoch || !rules.present_owner_says_lost;
        if own_lane && present {
            self.lied |= self.may_be_settled(token);
        }
    }

    /// Whether a settle is done or can still be done by somebody whose commits succeed.
    fn may_be_settled(&self, token: Token) -> bool {
        let written = self.stores.iter().any(|store| store.read().settled.contains(token));
        let may = |(who, core): (Who, &Core)| self.is_current(who, core) && core.may_settle(token);
        written || self.everyone().any(may)
    }

    fn hear(&mut self, who: Who, message: Message, rules: &Rules) {
        self.note_history(who);
        match message {
            Message::Offer(t) => self.core_mut(who).begin(Record::Held(t)),
            Message::Accept(t) if self.core_mut(who).phase(t.object) == Phase::Offered(t) => {
                self.core_mut(who).begin(Record::Moved(t));
            }
            Message::Accept(t) | Message::Status(t) => self.answer_status(who, t, rules),
            Message::Release(t) => {
                let core = self.core_mut(who);
                let known = core.image.taken.contains(t);
                if !known {
                    core.begin(Record::Ready(t));
                }
                if known || !rules.taken_after_ready {
                    self.said.insert(Message::Taken(t));
                }
            }
            Message::Abort(t) => self.core_mut(who).begin(Record::Aborted(t)),
            Message::Taken(t) => self.core_mut(who).begin(Record::Taken(t)),
        }
    }

    /// Who hears from a lane knows how far that lane has come.
    fn note_history(&mut self, who: Who) {
        if let Some(backup) = &mut self.backup {
            let beyond = backup.image != self.stores[backup.lane].durable;
            backup.outdated |= beyond && backup.lane != who.lane;
        }
    }

    /// What a core of the sender's lane says of a transfer (R1).
    fn answer_status(&mut self, who: Who, t: Transfer, rules: &Rules) {
        let core = self.core_mut(who);
        if t.epoch > core.epoch && rules.fenced_is_silent {
            self.zombies[who.lane] = None;
            return;
        }
        let moving = matches!(core.commit, Some((Record::Moved(m), _)) if m == t);
        if moving && rules.undecided_waits {
            return;
        }
        if core.phase(t.object) == Phase::Offered(t) && rules.ended_before_abort {
            core.set_phase(t.object, Phase::Rest);
        }
        let moved = core.image.moved.contains(t);
        self.said.insert(if moved { Message::Release(t) } else { Message::Abort(t) });
    }

    fn write(&mut self, who: Who) {
        let epoch = self.stores[who.lane].epoch;
        let core = self.core_mut(who);
        let (record, _) = core.commit.expect("there is a commit to write");
        if core.epoch < epoch {
            self.zombies[who.lane] = None; // Fenced: definitely not done, and no owner any more.
            return;
        }
        core.commit = Some((record, true));
        self.stores[who.lane].tail.push(record);
    }

    fn learn(&mut self, who: Who) {
        let core = self.core_mut(who);
        let (record, _) = core.commit.take().expect("there is a commit to learn of");
        core.image.apply(record);
        let (object, message) = match record {
            Record::Pushed(object) => {
                // It may have been offered meanwhile.
                if core.phase(object) == Phase::Writing {
                    core.set_phase(object, Phase::Rest);
                }
                self.ok[usize::from(object)] = true;
                return;
            }
            Record::PushedOver(t) => {
                core.set_phase(t.object, Phase::Rest);
                self.ok[usize::from(t.object)] = true;
                return;
            }
            Record::Held(t) => (t.object, Some(Message::Accept(t))),
            Record::Moved(t) => (t.object, Some(Message::Release(t))),
            Record::Ready(t) => (t.object, Some(Message::Taken(t))),
            Record::Aborted(t) => (t.object, None),
            Record::Settled(token) => (token.object, None),
            Record::Taken(_) => return,
        };
        core.set_phase(object, Phase::Rest);
        if let Some(message) = message {
            self.said.insert(message);
        }
    }

    /// Fence, read, make durable, answer: one step, since between fence and answer nobody can add
    /// anything to the lane, and a power cut there is the same as one before it.
    fn claim(&mut self, lane: usize, rules: &Rules) {
        let store = &mut self.stores[lane];
        store.epoch += 1;
        let image = self.early.take().map_or_else(|| store.read(), |(_, image)| image);
        if rules.durable_before_answer {
            store.sync();
        }
        // What was moved and is not taken is released again.
        image.moved.iter().for_each(|t| self.said.insert(Message::Release(t)));
        self.owners[lane] = Core::new(store.epoch, image);
    }

    /// The lane comes back as it was when the copy was made. All links were lost meanwhile.
    fn restore(&mut self, lane: usize, rules: &Rules) {
        let backup = self.backup.take().expect("there is a copy");
        self.stores[lane].durable = backup.image;
        self.stores[lane].tail.clear();
        self.said = super::set::Set::EMPTY;
        self.rolled_back = Some((lane, backup.outdated && rules.histories_compared));
        self.claim(lane, rules);
    }

    /// Whether an object whose push was answered OK still is where it can be delivered from, or is
    /// done (P1).
    pub(crate) fn is_kept(&self, object: u8) -> bool {
        let [sender, receiver] = [SENDER, RECEIVER].map(|lane| &self.stores[lane].durable);
        let answered = self.ok[usize::from(object)];
        !answered || sender.keeps(object) || receiver.keeps(object)
    }

    /// Whether nobody has an object who could deliver it, unless it is in the log of who was asked to
    /// push it (P2).
    pub(crate) fn is_no_phantom(&self, object: u8) -> bool {
        let pushed = self.stores[SENDER].durable.place(object) != Place::Absent;
        let somebody = self.everyone().any(|(_, core)| core.has(object));
        pushed || !somebody || self.again
    }
}
