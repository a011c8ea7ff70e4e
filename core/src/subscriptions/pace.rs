//! How fast a session works (ADR 0027).

use serde::{Deserialize, Serialize};

use crate::time::{Mono, Span};

/// Objects that one subscription gets at one moment before the next one of its group has its turn,
/// at most.
pub(super) const ROW_MAX: u64 = 128;

/// A turn is at most so much work of a session, by its own pace: so long an object waits behind others of
/// its turn while another session has nothing to do.
const AHEAD: Span = Span::millis(250);

/// What a session has shown is forgotten when it has settled nothing for so long.
const OF_LATE: Span = Span::secs(1);

/// The pace of a session is what it settles while it has something in hand. The time in which it waits
/// for work is not counted: else a thousand fast sessions, which share what one node can do, would
/// all be slow ones.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pace {
    /// What it has settled since its pace was last measured.
    settled: u64,
    /// How long it had something in hand in that time, until `busy_since`.
    busy: Span,
    /// Since when it has something in hand that is not counted in `busy`.
    busy_since: Option<Mono>,
    /// What it would have settled within [`AHEAD`] when it was last measured.
    measured: u64,
    /// When it last settled something.
    last: Mono,
}

impl Pace {
    /// The session, which had nothing in hand, has got something.
    pub(super) fn begin(&mut self, now: Mono) {
        self.busy_since = Some(now);
    }

    /// It has nothing in hand any more.
    pub(super) fn rest(&mut self, now: Mono) {
        self.busy = self.busy_until(now);
        self.busy_since = None;
    }

    /// It has settled one. What it settles at one moment is measured together.
    pub(super) fn settled(&mut self, now: Mono) {
        if now - self.last > OF_LATE {
            (self.measured, self.settled, self.busy) = (0, 0, Span::ZERO);
        }
        if now > self.last && self.busy >= AHEAD {
            self.measured = within_ahead(self.settled, self.busy);
            self.settled = 0;
            self.busy = Span::ZERO;
        }
        self.busy = self.busy_until(now);
        self.busy_since = Some(now);
        self.settled += 1;
        self.last = now;
    }

    /// How many objects it may get in a row: what it settles within [`AHEAD`], as far as that is known.
    /// Whoever is slow, or has just come, gets one.
    pub(super) fn in_a_row(&self, now: Mono) -> u64 {
        if now - self.last > OF_LATE {
            return 1;
        }
        let busy = self.busy_until(now);
        let pace = if busy >= AHEAD {
            within_ahead(self.settled, busy)
        } else {
            self.measured.max(self.settled)
        };
        pace.clamp(1, ROW_MAX)
    }

    /// Whether it has something in hand.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy_since.is_some()
    }

    fn busy_until(&self, now: Mono) -> Span {
        self.busy + self.busy_since.map_or(Span::ZERO, |since| now - since)
    }
}

/// What so many within a span make within [`AHEAD`].
fn within_ahead(settled: u64, busy: Span) -> u64 {
    settled.saturating_mul(AHEAD.0) / busy.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(0) + Span::millis(ms)
    }

    /// It gets so many at one moment and settles them together at another.
    fn works(pace: &mut Pace, count: u64, from: u64, until: u64) {
        pace.begin(at(from));
        (0..count).for_each(|_| pace.settled(at(until)));
        pace.rest(at(until));
    }

    #[test]
    fn the_time_in_which_it_waits_for_work_is_not_counted() {
        let mut pace = Pace::default();
        assert_eq!(pace.in_a_row(at(0)), 1);
        works(&mut pace, 10, 0, 100);
        assert_eq!(pace.in_a_row(at(110)), 10, "it has settled so many in less");
        works(&mut pace, 10, 900, 1_000);
        works(&mut pace, 30, 1_800, 1_900);
        assert_eq!(pace.in_a_row(at(1_910)), 41, "fifty within 300 ms");
        works(&mut pace, 2, 2_800, 2_810);
        assert_eq!(pace.in_a_row(at(3_810)), 41);
        assert_eq!(pace.in_a_row(at(3_811)), 1, "that was too long ago");
        works(&mut pace, 1, 3_900, 4_100);
        assert_eq!(pace.in_a_row(at(4_100)), 1, "and does not come back");
    }

    #[test]
    fn who_has_become_slow_gets_fewer_while_it_works_and_after() {
        let mut pace = Pace::default();
        works(&mut pace, 30, 0, 250);
        works(&mut pace, 30, 250, 500);
        pace.begin(at(500));
        assert_eq!(pace.in_a_row(at(500)), 30);
        assert_eq!(pace.in_a_row(at(750)), 15);
        assert_eq!(pace.in_a_row(at(1_000)), 10);
        pace.settled(at(3_000));
        assert_eq!(pace.in_a_row(at(3_000)), 1);
    }

    #[test]
    fn what_it_settles_while_it_is_never_without_work_is_measured_again_and_again() {
        let mut pace = Pace::default();
        pace.begin(at(0));
        for ms in (0..2_000).step_by(10) {
            pace.settled(at(ms));
        }
        assert!((24..=26).contains(&pace.in_a_row(at(2_000))), "{pace:?}");
        for ms in 0..500 {
            pace.settled(at(2_000 + ms));
        }
        assert_eq!(pace.in_a_row(at(2_500)), ROW_MAX);
    }
}
