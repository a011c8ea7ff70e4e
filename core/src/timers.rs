//! Deadlines on the monotonic clock, and what happens when they come.

use serde::{Deserialize, Serialize};

use crate::catalogue::QueueId;
use crate::core::Core;
use crate::effect::Effects;
use crate::ids::ObjectId;
use crate::subscriptions::GroupId;
use crate::time::{Mono, Span};

/// When the driver has to call again, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// When, on the monotonic clock.
    pub at: Mono,
    /// For what, as a word for logs and traces.
    pub why: &'static str,
}

/// A deadline on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Timer {
    /// Entries that nobody waits for become a record.
    Riders,
    /// Adverts that gathered are sent.
    Adverts,
    /// Leases of a span run out.
    Lease(Span),
    /// An object's delay is over.
    Delay(ObjectId),
    /// An offer of ours has had no answer.
    Offer(u64),
    /// A receiver in doubt asks again.
    Doubt,
    /// A queue is looked at again: spill, damping, refresh.
    Queue(QueueId),
    /// A unary receive has waited long enough.
    Take(u64),
    /// A unary receive's demand ends.
    Linger(u64),
    /// A passed settle has waited long enough.
    Pass(u64),
    /// A group's advert may be shown.
    Show(GroupId),
    /// A drain has had its time.
    Drain,
    /// An heir may be offered something again.
    Estate,
    /// Ownership of the lane may have to be proved anew.
    Fence,
    /// Housekeeping on wall time: due, expired and forgotten things.
    Wall,
}

impl Core {
    /// When to call again with [`Input::Wake`] at the latest. Early and late calls are harmless.
    pub fn next_wake(&self) -> Option<Wake> {
        if self.owes_effects() {
            return Some(Wake { at: self.now.mono, why: "owed" });
        }
        let (at, timer) = self.timers.first().filter(|_| !self.fenced)?;
        let why = match timer {
            Timer::Riders => "riders",
            Timer::Adverts => "adverts",
            Timer::Lease(_) => "lease",
            Timer::Delay(_) => "delay",
            Timer::Offer(_) => "offer",
            Timer::Doubt => "doubt",
            Timer::Queue(_) => "queue",
            Timer::Take(_) => "take",
            Timer::Linger(_) => "linger",
            Timer::Pass(_) => "pass",
            Timer::Show(_) => "show",
            Timer::Drain => "drain",
            Timer::Estate => "estate",
            Timer::Fence => "fence",
            Timer::Wall => "wall",
        };
        Some(Wake { at: *at, why })
    }

    pub(crate) fn fire_timers(&mut self, fx: &mut Effects) {
        // Nearly every input finds nothing due: it does not even look which comes first.
        while self.timers_from <= self.now.mono {
            let first = self.timers.first().copied();
            let Some((_, timer)) = first.filter(|(at, _)| *at <= self.now.mono) else {
                self.timers_from = first.map_or(Mono(u64::MAX), |(at, _)| at);
                return;
            };
            self.timers.pop_first();
            self.once.remove(&timer);
            match timer {
                Timer::Riders => {
                    self.riders_timed = false;
                    self.write_decisions();
                    if self.lane.has_riders() {
                        self.lane.urge();
                    }
                }
                Timer::Adverts => self.send_adverts(fx),
                Timer::Lease(span) => self.on_leases_due(span, fx),
                Timer::Delay(id) => self.on_delay_over(id),
                Timer::Offer(n) => self.on_offer_timer(n, fx),
                Timer::Doubt => self.on_doubt(fx),
                Timer::Queue(queue) => {
                    self.stirred.note(queue);
                }
                Timer::Take(n) => self.on_take_over(n, fx),
                Timer::Linger(n) => self.on_linger_over(n),
                Timer::Pass(ask) => self.on_pass_over(ask, fx),
                Timer::Show(group) => self.on_show(group),
                Timer::Drain => self.on_drain_over(fx),
                // The step after each input looks at the time.
                Timer::Estate => {}
                Timer::Fence => self.on_fence_due(fx),
                Timer::Wall => {
                    self.wall_at = None;
                    self.on_wall(fx);
                }
            }
        }
    }

    /// Sets a deadline.
    pub(crate) fn arm(&mut self, at: Mono, timer: Timer) {
        self.timers_from = self.timers_from.min(at);
        self.timers.insert((at, timer));
    }

    /// Sets a deadline that many events may ask for: the earliest counts.
    pub(crate) fn arm_once(&mut self, span: Span, timer: Timer) {
        let at = self.now.mono + span;
        match self.once.get(&timer) {
            Some(before) if *before <= at => return,
            Some(before) => {
                let before = *before;
                self.disarm(before, timer);
            }
            None => {}
        }
        self.once.insert(timer, at);
        self.arm(at, timer);
    }

    /// Takes a deadline back.
    pub(crate) fn disarm(&mut self, at: Mono, timer: Timer) {
        self.timers.remove(&(at, timer));
    }

    /// Takes a deadline of [`Core::arm_once`] back, if it is set.
    pub(crate) fn disarm_once(&mut self, timer: Timer) {
        if let Some(at) = self.once.remove(&timer) {
            self.disarm(at, timer);
        }
    }
}
