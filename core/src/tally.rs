//! How much was counted of late, in constant space.

use serde::{Deserialize, Serialize};

use crate::time::{Mono, Span};

/// Counts in spans of one length, which whoever counts names each time: in the present one, and in
/// the one before.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// When the present span began.
    since: Mono,
    present: u64,
    before: u64,
}

impl Tally {
    /// A span that begins now, with so much counted in it.
    pub(crate) fn begun(now: Mono, present: u64) -> Self {
        Self { since: now, present, before: 0 }
    }

    /// Counts so much. A span that is over gives way to one that begins now.
    pub(crate) fn add(&mut self, n: u64, span: Span, now: Mono) {
        if now - self.since >= span {
            *self = Self { since: now, present: 0, before: self.last(span, now) };
        }
        self.present = self.present.saturating_add(n);
    }

    /// What was counted in the last span that is over.
    pub(crate) fn last(&self, span: Span, now: Mono) -> u64 {
        match now - self.since {
            age if age < span => self.before,
            age if age < span.times(2) => self.present,
            _ => 0,
        }
    }

    /// What was counted in that and since.
    pub(crate) fn of_late(&self, span: Span, now: Mono) -> u64 {
        let present = if now - self.since < span { self.present } else { 0 };
        self.last(span, now).saturating_add(present)
    }
}
