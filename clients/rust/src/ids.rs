//! Where ids come from, and the waits between tries.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand_core::Rng;
use rand_pcg::Pcg64Mcg;
use uuid::Uuid;

/// Makes the ids of objects that have none.
#[derive(Clone)]
pub(crate) struct Ids(Arc<dyn Fn() -> Uuid + Send + Sync>);

impl Ids {
    pub(crate) fn new(source: impl Fn() -> Uuid + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    pub(crate) fn next(&self) -> Uuid {
        (self.0)()
    }

    /// Waits are varied by the same source, so that a caller who fixes the ids fixes everything.
    pub(crate) fn backoff(&self, first: Duration, max: Duration) -> Backoff {
        let (high, low) = self.next().as_u64_pair();
        Backoff {
            first,
            max,
            next: first,
            jitter: Pcg64Mcg::new((u128::from(high) << 64) | u128::from(low)),
        }
    }
}

impl Default for Ids {
    /// UUIDs of version 7. The generator is seeded once: a system call for each object would cost
    /// more than the rest of its push.
    fn default() -> Self {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).expect("the system has a source of randomness");
        let generator = Mutex::new(Pcg64Mcg::new(u128::from_le_bytes(seed)));
        Self::new(move || {
            let (a, b) = {
                let mut generator = generator.lock().expect("drawing a number cannot panic");
                (generator.next_u64(), generator.next_u64())
            };
            let mut random = [0; 10];
            random[..8].copy_from_slice(&a.to_le_bytes());
            random[8..].copy_from_slice(&b.to_le_bytes()[..2]);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
        })
    }
}

/// Waits that double, varied so that many clients do not come back at once.
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
    jitter: Pcg64Mcg,
}

impl Backoff {
    /// The next wait; not shorter than what a node asked for.
    pub(crate) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let percent = 80 + u32::try_from(self.jitter.next_u64() % 41).expect("below 41");
        let wait = self.next * percent / 100;
        self.next = (self.next * 2).min(self.max);
        asked.map_or(wait, |asked| asked.max(wait))
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_version_seven_and_differ() {
        let ids = Ids::default();
        let many: BTreeSet<_> = (0..10_000).map(|_| ids.next()).collect();
        assert_eq!(many.len(), 10_000);
        assert!(many.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn waits_double_up_to_their_limit_and_respect_the_node() {
        let mut backoff = Ids::new(|| Uuid::from_u128(9))
            .backoff(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<_> = (0..8).map(|_| backoff.wait(None).as_millis()).collect();
        assert!((80..=120).contains(&waits[0]), "{waits:?}");
        assert!((160..=240).contains(&waits[1]), "{waits:?}");
        assert!((800..=1_200).contains(&waits[7]), "{waits:?}");
        assert_eq!(backoff.wait(Some(Duration::from_secs(7))), Duration::from_secs(7));
    }
}
