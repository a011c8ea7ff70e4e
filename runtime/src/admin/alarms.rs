//! What a node needs a person for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use dpc_core::time::{Span, Wall};
use dpc_proto::v1;

use crate::wire::timestamp;

/// Alarms kept apart; more of them add nothing to what a person has to do.
const ALARMS_MAX: usize = 1_000;

/// The alarms that stand.
#[derive(Default)]
pub(crate) struct Alarms {
    standing: Mutex<Standing>,
}

/// Alarms by their reason and by what they are about.
type Standing = BTreeMap<(&'static str, String), Alarm>;

struct Alarm {
    text: String,
    since: Wall,
    /// It is over then, unless it is raised again before.
    until: Wall,
}

impl Alarms {
    /// Raises an alarm that stands until it is cleared. True if it did not stand before.
    pub(crate) fn raise(&self, reason: &'static str, about: &str, text: String, now: Wall) -> bool {
        self.insert(reason, about, text, now, Wall(u64::MAX))
    }

    /// Raises an alarm about something that repeats itself as long as it lasts: it stands until it
    /// is cleared or has not been raised again for a while. True if it did not stand before.
    pub(crate) fn raise_for(
        &self,
        reason: &'static str,
        about: &str,
        text: String,
        now: Wall,
        span: Span,
    ) -> bool {
        self.insert(reason, about, text, now, now + span)
    }

    /// What the alarm was about is over.
    pub(crate) fn clear(&self, reason: &'static str, about: &str) {
        self.lock().remove(&(reason, about.to_owned()));
    }

    /// All that stand.
    pub(crate) fn list(&self, now: Wall) -> Vec<v1::Alarm> {
        let mut standing = self.lock();
        standing.retain(|_, alarm| alarm.until >= now);
        let alarms = standing.iter().map(|((reason, _), alarm)| v1::Alarm {
            reason: (*reason).to_owned(),
            text: alarm.text.clone(),
            since: Some(timestamp(alarm.since)),
        });
        alarms.collect()
    }

    /// How many stand, by reason.
    pub(crate) fn counts(&self, now: Wall) -> BTreeMap<&'static str, u64> {
        let mut standing = self.lock();
        standing.retain(|_, alarm| alarm.until >= now);
        let mut counts = BTreeMap::new();
        for (reason, _) in standing.keys() {
            *counts.entry(*reason).or_insert(0) += 1;
        }
        counts
    }

    fn insert(
        &self,
        reason: &'static str,
        about: &str,
        text: String,
        now: Wall,
        until: Wall,
    ) -> bool {
        let mut standing = self.lock();
        let key = (reason, about.to_owned());
        if let Some(known) = standing.get_mut(&key) {
            (known.text, known.until) = (text, until);
            return false;
        }
        if standing.len() < ALARMS_MAX {
            standing.insert(key, Alarm { text, since: now, until });
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().expect("nobody panics while holding it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_stands_until_it_is_cleared_or_not_repeated() {
        let alarms = Alarms::default();
        assert!(alarms.raise("NO_DEMAND", "t", "1 waits".to_owned(), Wall(5)));
        assert!(!alarms.raise("NO_DEMAND", "t", "2 wait".to_owned(), Wall(9)));
        let list = alarms.list(Wall(u64::MAX - 1));
        assert_eq!((list.len(), list[0].text.as_str()), (1, "2 wait"));
        assert_eq!(list[0].since, Some(timestamp(Wall(5))));
        alarms.raise_for("SAME", "a", String::new(), Wall(0), Span::millis(10));
        assert!(!alarms.raise_for("SAME", "a", String::new(), Wall(5), Span::millis(10)));
        assert_eq!(alarms.counts(Wall(15)), [("NO_DEMAND", 1), ("SAME", 1)].into());
        assert_eq!(alarms.counts(Wall(16)), [("NO_DEMAND", 1)].into());
        alarms.clear("NO_DEMAND", "t");
        assert!(alarms.list(Wall(16)).is_empty());
    }
}
