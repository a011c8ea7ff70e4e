//! What a node needs a person for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use dpc_core::time::Wall;
use dpc_proto::v1;

use crate::wire::timestamp;

/// Alarms kept apart; more of them add nothing to what a person has to do.
const ALARMS_MAX: usize = 1_000;

/// The alarms that stand.
#[derive(Default)]
pub(crate) struct Alarms {
    standing: Mutex<Standing>,
}

/// Text and beginning of each alarm, by its reason and by what it is about.
type Standing = BTreeMap<(&'static str, String), (String, Wall)>;

impl Alarms {
    /// Raises an alarm, or brings the text of one that stands up to date.
    pub(crate) fn raise(&self, reason: &'static str, about: &str, text: String, now: Wall) {
        let mut standing = self.lock();
        let key = (reason, about.to_owned());
        if let Some((known, _)) = standing.get_mut(&key) {
            *known = text;
        } else if standing.len() < ALARMS_MAX {
            standing.insert(key, (text, now));
        }
    }

    /// What the alarm was about is over.
    pub(crate) fn clear(&self, reason: &'static str, about: &str) {
        self.lock().remove(&(reason, about.to_owned()));
    }

    /// All that stand.
    pub(crate) fn list(&self) -> Vec<v1::Alarm> {
        let standing = self.lock();
        let alarms = standing.iter().map(|((reason, _), (text, since))| v1::Alarm {
            reason: (*reason).to_owned(),
            text: text.clone(),
            since: Some(timestamp(*since)),
        });
        alarms.collect()
    }

    /// How many stand, by reason.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (reason, _) in self.lock().keys() {
            *counts.entry(*reason).or_insert(0) += 1;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().expect("nobody panics while holding it")
    }
}
