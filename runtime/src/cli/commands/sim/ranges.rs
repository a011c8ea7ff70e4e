//! Seeds and actions as people type them: `7`, `0..1000`, `3,17..20`.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::cli::failure::Failure;

/// Most seeds of one command.
pub(super) const SEEDS_MAX: u64 = 1_000_000_000;

/// Most actions of one run that can be named.
const ACTIONS_MAX: usize = 1_000_000;

/// Seeds from the first on, below the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seeds(pub(super) Range<u64>);

impl Seeds {
    /// Refuses a range that is empty or too long.
    pub(super) fn check(&self) -> Result<Range<u64>, Failure> {
        let Range { start, end } = self.0;
        let wrong = |what: String, limit: &str| {
            let given = format!("{start}..{end}");
            Err(Failure::usage(what).field("--seeds").limit(limit).given(given))
        };
        if start >= end {
            let what = format!("--seeds {start}..{end} holds no seed: A..B runs A and all below B");
            return wrong(what, "A below B");
        }
        if end - start > SEEDS_MAX {
            let what = format!("--seeds {start}..{end} are more than {SEEDS_MAX} seeds");
            return wrong(what, &SEEDS_MAX.to_string());
        }
        Ok(self.0.clone())
    }
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
        range.map(Self).ok_or_else(|| "accepted: A..B, such as 0..1000".to_owned())
    }
}

/// Numbers of actions of a schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Only(BTreeSet<usize>);

impl Only {
    pub(super) fn has(&self, action: usize) -> bool {
        self.0.contains(&action)
    }

    /// The highest number.
    pub(super) fn last(&self) -> Option<usize> {
        self.0.last().copied()
    }
}

impl FromIterator<usize> for Only {
    fn from_iter<T: IntoIterator<Item = usize>>(actions: T) -> Self {
        Self(actions.into_iter().collect())
    }
}

impl FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = || "accepted: numbers of actions, such as 3,17..20; or none".to_owned();
        let mut actions = BTreeSet::new();
        if text == "none" {
            return Ok(Self(actions));
        }
        for part in text.split(',') {
            let (a, b) = match part.split_once("..") {
                Some((a, b)) => (a.parse().ok(), b.parse().ok()),
                None => {
                    (part.parse().ok(), part.parse::<usize>().ok().map(|n| n.saturating_add(1)))
                }
            };
            let (Some(a), Some(b)) = (a, b) else { return Err(accepted()) };
            if b > ACTIONS_MAX {
                return Err(format!("accepted: numbers of actions below {ACTIONS_MAX}"));
            }
            actions.extend(a..b);
        }
        Ok(Self(actions))
    }
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for n in &self.0 {
            match ranges.last_mut() {
                Some(range) if range.end == *n => range.end += 1,
                _ => ranges.push(*n..n + 1),
            }
        }
        let texts = ranges.iter().map(|r| match r.len() {
            1 => r.start.to_string(),
            _ => format!("{}..{}", r.start, r.end),
        });
        let text = texts.collect::<Vec<_>>().join(",");
        f.write_str(if text.is_empty() { "none" } else { &text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range() {
        assert_eq!("0..20".parse(), Ok(Seeds(0..20)));
        for bad in ["", "7", "a..b", "1..", "..2", "1...3", "-1..2"] {
            let error = bad.parse::<Seeds>().expect_err(bad);
            assert!(error.contains("0..1000"), "{error}");
        }
    }

    #[test]
    fn a_range_without_seeds_and_one_too_long_are_refused_with_the_limit() {
        let cases = [(9, 3, "A below B"), (3, 3, "A below B"), (0, u64::MAX, "1000000000")];
        for (start, end, limit) in cases {
            let failure = Seeds(start..end).check().expect_err("refused");
            assert_eq!(failure.details.field.as_deref(), Some("--seeds"));
            assert_eq!(failure.details.limit.as_deref(), Some(limit));
            assert_eq!(failure.details.given, Some(format!("{start}..{end}")));
        }
        assert_eq!(Seeds(0..1).check(), Ok(0..1));
    }

    #[test]
    fn actions_are_numbers_and_ranges_and_print_as_they_are_typed() {
        for text in ["3", "3,17..20", "0..2,5,7..9", "none"] {
            assert_eq!(text.parse::<Only>().expect(text).to_string(), text);
        }
        let only: Only = "3,17..20".parse().expect("good");
        let all: Vec<usize> = (0..30).filter(|n| only.has(*n)).collect();
        assert_eq!((all, only.last()), (vec![3, 17, 18, 19], Some(19)));
        for bad in ["", "x", "3,", "1..x", "0..99999999999"] {
            bad.parse::<Only>().expect_err(bad);
        }
    }
}
