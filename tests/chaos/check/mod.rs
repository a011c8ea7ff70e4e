//! The promises, checked over a history: what the clients were told against what they were given
//! and against what the nodes have at the end. Linear in the length of the history, but for sorting.
//!
//! Everything starts from one idea: a call is done as a whole or not at all, so each has one fate
//! ([`story::Fate`]), and all that is seen of it anywhere must agree with that.

mod books;
mod calls;
mod ends;
mod lives;
mod logs;
pub(crate) mod sabotage;
mod story;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{Event, Line};

pub(crate) use self::logs::Logs;
use self::story::Story;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which: P1 to P17.
    pub(crate) promise: &'static str,
    /// How.
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

/// What was found in a history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Broken promises; none is what everybody hopes for.
    pub(crate) violations: Vec<Violation>,
    /// How often what was seen: a check that has looked at nothing has shown nothing.
    pub(crate) seen: BTreeMap<&'static str, u64>,
    /// Microseconds that pushes of untouched clients took, before the first fault and after it.
    pub(crate) untouched: [Vec<u64>; 2],
}

impl Verdict {
    fn fail(&mut self, promise: &'static str, what: impl Into<String>) {
        self.violations.push(Violation { promise, what: what.into() });
    }

    fn saw(&mut self, what: &'static str) {
        self.saw_many(what, 1);
    }

    fn saw_many(&mut self, what: &'static str, count: u64) {
        *self.seen.entry(what).or_default() += count;
    }

    /// How often something was seen.
    pub(crate) fn count(&self, what: &str) -> u64 {
        self.seen.get(what).copied().unwrap_or_default()
    }
}

/// Checks every promise that a history can show.
pub(crate) fn check(lines: &[Line]) -> Verdict {
    check_with(lines, None)
}

/// The same, and the logs of the nodes.
pub(crate) fn check_with(lines: &[Line], logs: Option<&Logs>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut story = Story::read(lines, &mut verdict);
    calls::check_pushes(&story, &mut verdict);
    calls::check_repeats(&story, &mut verdict);
    calls::check_untouched(&story, &mut verdict);
    lives::check(&mut story, &mut verdict);
    ends::check(&story, &mut verdict);
    books::check(&story, &mut verdict);
    if let Some(logs) = logs {
        logs::check(&story, logs, &mut verdict);
    }
    verdict.untouched.iter_mut().for_each(|took| took.sort_unstable());
    for line in lines {
        match &line.event {
            Event::Left { what } => verdict.fail("P11", what),
            Event::Died { what, .. } => verdict.fail("P14", what),
            Event::Fault { .. } => verdict.saw("steps of faults"),
            _ => {}
        }
    }
    verdict
}
