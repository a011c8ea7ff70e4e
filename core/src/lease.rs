//! Leases: the right of one session to settle one object for a while.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::effect::{Answer, Delivery, Effect, Effects, LeaseEnd, Note};
use crate::ids::{ObjectId, SessionId};
use crate::input::{LeaseRef, Lessee, ReplyTo};
use crate::memory::{Phase, Slot};
use crate::names::Name;
use crate::object::{Hash16, Token};
use crate::planted::{Bug, planted};
use crate::record::Entry;
use crate::recording::{Lookup, SlicedSlab, SlicedVec, Slices};
use crate::refusal::{Code, Refusal};
use crate::sifted::Sifted;
use crate::subscriptions::SubKey;
use crate::time::{Mono, Span};
use crate::timers::Timer;

/// Settles remembered by number, for repeats on the same stream: that of a lease at least until as
/// many later ones have been given.
pub(crate) const SETTLED_MAX: usize = 65_536;

/// Ends of leases that are settled already, tolerated in the list of a span.
const ENDS_SLACK: usize = 1_024;

/// One lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) slot: Slot,
    pub(crate) holder: Holder,
    /// The processor: a subscription may end before its leases do.
    pub(crate) processor: Name,
    pub(crate) until: Mono,
    pub(crate) span: Span,
    pub(crate) begun: bool,
}

/// Who holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Holder {
    /// A subscription of a stream. It may end before its leases do; the next one of its number
    /// on the stream takes them over.
    Stream(SubKey),
    /// A unary receive: whoever has the token.
    Taker,
}

/// All leases of this incarnation.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Leases {
    live: Live,
    last: u64,
    #[serde(skip)]
    ends: BTreeMap<Span, Ends>,
    /// Settles by the number of their lease: one has the place of the [`SETTLED_MAX`]th before it.
    #[serde(skip)]
    settled: SlicedVec<Option<Settled>>,
    settled_len: usize,
}

/// The leases that stand.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Live {
    leases: SlicedSlab<(u64, Lease)>,
    #[serde(skip)]
    by_number: Lookup<u64, u32>,
}

/// When the leases of one span end, with their numbers. Time goes forward, so the one given or extended
/// last ends last. What has been settled or extended since has fallen.
type Ends = Sifted<(Mono, u64), ENDS_SLACK>;

/// A settle, remembered by the number of its lease.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Settled {
    lease: u64,
    content: Hash16,
}

impl Leases {
    pub(crate) fn new(seed: u64) -> Self {
        let live = Live { by_number: Lookup::with_seed(seed), ..Live::default() };
        Self { live, ..Self::default() }
    }

    /// What goes into a snapshot in slices.
    pub(crate) fn slices(&mut self) -> [&mut dyn Slices; 2] {
        [self.live.leases.slices(), &mut self.settled]
    }

    /// What follows from the slices. `None` if they do not fit what is known of them.
    pub(crate) fn derive(&mut self) -> Option<()> {
        self.live.by_number = Lookup::of(self.live.leases.iter().map(|(at, (n, _))| (*n, at)))?;
        let leases = self.live.sorted();
        let mut order: Vec<_> = leases.iter().map(|(n, l)| (l.until, *n, l.span)).collect();
        order.sort_unstable();
        for (until, n, span) in order {
            self.ends.entry(span).or_default().add((until, n), |_| true);
        }
        self.live.leases.fits().then_some(())
    }

    pub(crate) fn len(&self) -> usize {
        self.live.leases.len()
    }

    pub(crate) fn get(&self, n: u64) -> Option<&Lease> {
        self.live.get(n)
    }

    /// All leases, by number.
    pub(crate) fn sorted(&self) -> Vec<(u64, &Lease)> {
        self.live.sorted()
    }

    /// Adds a lease, and says whether it is the only one of its span.
    fn give(&mut self, n: u64, lease: Lease) -> bool {
        let ends = self.ends.entry(lease.span).or_default();
        ends.add((lease.until, n), |(until, n)| stands(&self.live, n, until));
        let only = ends.standing() == 1;
        self.live.insert(n, lease);
        only
    }

    /// Moves the end of a lease.
    fn extend(&mut self, n: u64, until: Mono) {
        let lease = self.live.get_mut(n).expect("the caller found it");
        lease.until = until;
        let ends = self.ends.get_mut(&lease.span).expect("the lease was noted");
        ends.add_again((until, n), |(until, n)| stands(&self.live, n, until));
    }

    /// Takes a lease away, and says whether it was the last of its span.
    fn end(&mut self, n: u64) -> (Lease, bool) {
        let lease = self.live.remove(n).expect("the caller found it");
        let ends = self.ends.get_mut(&lease.span).expect("the lease was noted");
        ends.fall();
        let last = ends.standing() == 0;
        if last {
            self.ends.remove(&lease.span);
        }
        (lease, last)
    }

    /// The next lease of a span to end, and when.
    fn next_end(&mut self, span: Span) -> Option<(Mono, u64)> {
        self.ends.get_mut(&span)?.first(|(until, n)| stands(&self.live, n, until))
    }

    /// Remembers a settle by its lease's number, so that a repeat on the stream is known.
    pub(crate) fn note_settled(&mut self, n: u64, content: Hash16) {
        if planted(Bug::SettleForgotten) {
            return;
        }
        let at = place_of_settle(n);
        while self.settled.len() <= at {
            self.settled.push(None);
        }
        self.settled_len += usize::from(self.settled[at].is_none());
        self.settled[at] = Some(Settled { lease: n, content });
    }

    /// How many settles are remembered by number.
    pub(crate) fn settled_len(&self) -> usize {
        self.settled_len
    }

    /// The content of the settle that ended a lease, if it is remembered by number.
    pub(crate) fn settled(&self, n: u64) -> Option<Hash16> {
        let settled = self.settled.get(place_of_settle(n))?.as_ref()?;
        (settled.lease == n).then_some(settled.content)
    }
}

impl Live {
    fn get(&self, n: u64) -> Option<&Lease> {
        self.by_number.get(&n).map(|place| &self.leases.get(*place).1)
    }

    fn get_mut(&mut self, n: u64) -> Option<&mut Lease> {
        self.by_number.get(&n).map(|place| &mut self.leases.get_mut(*place).1)
    }

    fn insert(&mut self, n: u64, lease: Lease) {
        let before = self.by_number.insert(n, self.leases.insert((n, lease)));
        assert!(before.is_none(), "a number is given once");
    }

    fn remove(&mut self, n: u64) -> Option<Lease> {
        let place = self.by_number.remove(&n)?;
        Some(self.leases.remove(place).1)
    }

    /// All of them, by number.
    fn sorted(&self) -> Vec<(u64, &Lease)> {
        let mut all: Vec<_> = self.leases.iter().map(|(_, (n, lease))| (*n, lease)).collect();
        all.sort_unstable_by_key(|(n, _)| *n);
        all
    }
}

/// Whether a lease is there still and ends then.
fn stands(live: &Live, n: u64, until: Mono) -> bool {
    live.get(n).is_some_and(|lease| lease.until == until)
}

fn place_of_settle(n: u64) -> usize {
    usize::try_from(n % SETTLED_MAX as u64).expect("below a usize")
}

impl Core {
    /// Gives a ready object, already out of its queue, to somebody.
    pub(crate) fn lease(
        &mut self,
        slot: Slot,
        holder: Holder,
        processor: Name,
        span: Span,
    ) -> Delivery {
        self.leases.last += 1;
        let n = self.leases.last;
        let until = self.now.mono + span;
        self.set_phase(slot, Phase::Leased(n));
        let live = self.memory.get_mut(slot);
        live.object_mut().deliveries += 1;
        live.dirty = true;
        let object = Arc::clone(&live.object);
        let lease = Lease { slot, holder, processor, until, span, begun: false };
        if self.leases.give(n, lease) {
            // One deadline stands for all leases of a span, that of the first to end when it was set:
            // most leases are settled before theirs, and it costs them nothing.
            self.arm_once(span, Timer::Lease(span));
        }
        let subscription = match holder {
            Holder::Stream((session, subscription)) => {
                let of = self.subs.sessions.get_mut(&session).expect("deliveries need one");
                let stands = |n| self.leases.get(n).is_some_and(|lease| is_of(lease, session));
                of.hold(n, self.now.mono, stands);
                subscription
            }
            Holder::Taker => crate::ids::SubscriptionId(0),
        };
        let until_wall = self.now.wall + span;
        let first = planted(Bug::FirstEpochForEver);
        let epoch = if first { crate::ids::Epoch(1) } else { self.lane.epoch };
        Delivery { subscription, lease: n, until, until_wall, epoch, object }
    }

    /// The full token of a lease of this incarnation.
    pub(crate) fn token(&self, n: u64, object: ObjectId) -> Token {
        let (lane, epoch, incarnation) = (self.lane.id, self.lane.epoch, self.lane.incarnation);
        Token { lane, epoch, incarnation, n, object }
    }

    /// Ends a lease. Credit is free at once. The object is in nobody's hands then.
    pub(crate) fn end_lease(&mut self, n: u64, settled: bool) -> Lease {
        let (lease, last) = self.leases.end(n);
        if last {
            self.disarm_once(Timer::Lease(lease.span));
        }
        while let Some(group) = self.starved.pop_first() {
            self.hungry.note(group);
            self.window_may_grow(group);
        }
        if let Holder::Stream(key) = lease.holder {
            if let Some(session) = self.subs.sessions.get_mut(&key.0) {
                session.let_go(settled, self.now.mono);
            }
            if let Some(group) = self.subs.free_one(key, settled, self.now.wall) {
                self.hungry.note(group);
                self.window_may_grow(group);
            }
        }
        lease
    }

    /// Finds a lease that somebody names and may use.
    pub(crate) fn find_lease(&self, lessee: Lessee, lease: LeaseRef) -> Result<u64, Refusal> {
        match (lease, lessee) {
            (LeaseRef::Number(_), Lessee::Bearer) => Err(Refusal::invalid(
                "leases",
                "TOKEN_MISSING",
                "outside a stream a lease is named by its full token",
            )),
            (LeaseRef::Number(n), Lessee::Session(session)) => self.find_by_number(session, n),
            (LeaseRef::Token(token), lessee) => self.find_by_token(lessee, token),
        }
    }

    fn find_by_number(&self, session: SessionId, n: u64) -> Result<u64, Refusal> {
        match self.leases.get(n) {
            Some(lease) if is_of(lease, session) => Ok(n),
            Some(_) => Err(other_stream(n)),
            None if n == 0 || n > self.leases.last => Err(Refusal::invalid(
                "leases",
                "LEASE_UNKNOWN",
                "no lease of this number was ever given",
            )
            .given(n)),
            None => Err(lease_lost()),
        }
    }

    fn find_by_token(&self, lessee: Lessee, token: Token) -> Result<u64, Refusal> {
        let here = self.token(token.n, token.object);
        let lease = if token == here { self.leases.get(token.n) } else { None };
        match (lease, lessee) {
            (Some(lease), _) if self.object(lease.slot).id != token.object => Err(lease_lost()),
            (Some(lease), Lessee::Session(session)) if !is_of(lease, session) => {
                Err(other_stream(token.n))
            }
            (Some(_), _) => Ok(token.n),
            (None, _) => Err(lease_lost()),
        }
    }

    pub(crate) fn handle_begin(
        &mut self,
        to: ReplyTo,
        lessee: Lessee,
        leases: &[LeaseRef],
        fx: &mut Effects,
    ) {
        if self.cannot_judge(to, lessee, leases.iter().copied(), fx) {
            return;
        }
        let mut begun = Vec::new();
        let done = self.for_each_lease(to, lessee, leases, fx, |core, n| {
            let lease = core.leases.live.get_mut(n).expect("found above");
            if !lease.begun {
                lease.begun = true;
                begun.push(core.memory.get(lease.slot).at);
            }
        });
        if !begun.is_empty() {
            self.lane.reserve(begun.len() * 12);
            self.lane.write(&Entry::Begun(begun));
        }
        self.reply(to, Answer::Done(done), fx);
    }

    pub(crate) fn handle_extend(
        &mut self,
        to: ReplyTo,
        lessee: Lessee,
        leases: &[LeaseRef],
        fx: &mut Effects,
    ) {
        if self.cannot_judge(to, lessee, leases.iter().copied(), fx) {
            return;
        }
        let mut shortest: Option<Span> = None;
        let done = self.for_each_lease(to, lessee, leases, fx, |core, n| {
            let span = core.leases.get(n).expect("found above").span;
            shortest = Some(shortest.map_or(span, |s| s.min(span)));
            let until = core.now.mono + span;
            if planted(Bug::LeasesOverlap) {
                return;
            }
            core.leases.extend(n, until);
        });
        let answer = match shortest {
            Some(span) => Answer::Extended(done, self.now.wall + span),
            None => Answer::Done(0),
        };
        self.reply(to, answer, fx);
    }

    /// Does something for each lease that is found; each other one is refused by itself.
    fn for_each_lease(
        &mut self,
        to: ReplyTo,
        lessee: Lessee,
        leases: &[LeaseRef],
        fx: &mut Effects,
        mut act: impl FnMut(&mut Self, u64),
    ) -> u64 {
        let mut done = 0;
        for (i, lease) in leases.iter().enumerate() {
            match self.find_lease(lessee, *lease) {
                Ok(n) => {
                    act(self, n);
                    done += 1;
                }
                Err(refusal) => {
                    let i = u32::try_from(i).expect("requests are bounded");
                    self.reply(to, Answer::RefusedAt(i, Box::new(refusal)), fx);
                }
            }
        }
        done
    }

    /// Leases of a span may have ended.
    pub(crate) fn on_leases_due(&mut self, span: Span, fx: &mut Effects) {
        while let Some((until, n)) = self.leases.next_end(span) {
            if until > self.now.mono {
                return self.arm_once(until - self.now.mono, Timer::Lease(span));
            }
            self.expire_lease(n, fx);
            if planted(Bug::LaterLeasesStay) {
                return;
            }
        }
    }

    fn expire_lease(&mut self, n: u64, fx: &mut Effects) {
        let lease = self.leases.get(n).expect("it is the next to end");
        if let Holder::Stream((session, _)) = lease.holder {
            fx.push(Effect::LeaseEnded { session, lease: n, reason: LeaseEnd::Expired });
        }
        self.lose_lease(n, fx);
    }

    /// A lease ends without a settle: a begun one is a failure of the object, others are not.
    pub(crate) fn lose_lease(&mut self, n: u64, fx: &mut Effects) {
        let lease = self.end_lease(n, false);
        let id = self.object(lease.slot).id;
        fx.push(Effect::Note(Note::LeaseLost(id)));
        if lease.begun {
            self.set_phase(lease.slot, Phase::Writing);
            return self.count_failure(lease.slot, Span::ZERO, fx);
        }
        self.set_phase(lease.slot, Phase::Writing);
        self.make_ready(lease.slot);
    }
}

pub(crate) fn is_of(lease: &Lease, session: SessionId) -> bool {
    matches!(lease.holder, Holder::Stream((s, _)) if s == session)
}

/// The lease is not valid any more. State is unchanged.
pub(crate) fn lease_lost() -> Refusal {
    Refusal::new(
        Code::FailedPrecondition,
        "LEASE_LOST",
        "the lease has ended: it ran out, its stream was lost, or it was settled differently; the object is or will be delivered again",
    )
}

fn other_stream(n: u64) -> Refusal {
    Refusal {
        field: Some("leases"),
        ..Refusal::new(
            Code::FailedPrecondition,
            "LEASE_OF_OTHER_STREAM",
            "the lease belongs to another stream; settle it there",
        )
        .given(n)
    }
}
