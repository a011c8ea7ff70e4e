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
        let mint = Mint { generator: Pcg64Mcg::new(u128::from_le_bytes(seed)), last: None };
        let mint = Mutex::new(mint);
        Self::new(move || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            mint.lock().expect("making an id cannot panic").next(millis)
        })
    }
}

/// The ids of one millisecond follow one another, as RFC 9562 has it in section 6.2, method 2. A node tells such
/// ids from each other in a byte, in its log and in its index, where one that is all random takes eleven.
struct Mint {
    generator: Pcg64Mcg,
    last: Option<Uuid>,
}

impl Mint {
    fn next(&mut self, millis: u64) -> Uuid {
        let last = self.last.map(|last| last.as_u128());
        let id = match last.filter(|last| last >> 80 == u128::from(millis)) {
            Some(last) => Uuid::from_u128(last + 1),
            None => {
                let [a, b] = [(); 2].map(|()| self.generator.next_u64());
                let mut random = [0; 10];
                random[..2].copy_from_slice(&a.to_le_bytes()[..2]);
                // The highest of the 62 bits that are counted is free, so counting stays within them.
                random[2..].copy_from_slice(&(b >> 3).to_be_bytes());
                uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
            }
        };
        self.last = Some(id);
        id
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
    fn ids_of_a_millisecond_follow_one_another() {
        let mut mint = Mint { generator: Pcg64Mcg::new(1), last: None };
        let ids: Vec<_> = [7, 7, 7, 8, 7].map(|millis| mint.next(millis).as_u128()).into();
        assert_eq!(ids[1..3], [ids[0] + 1, ids[0] + 2]);
        assert_eq!(ids.iter().map(|id| id >> 80).collect::<Vec<_>>(), [7, 7, 7, 8, 7]);
        let tails: BTreeSet<_> = ids.iter().map(|id| id & u128::from(u64::MAX)).collect();
        assert_eq!(tails.len(), 5, "another millisecond begins elsewhere");
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
