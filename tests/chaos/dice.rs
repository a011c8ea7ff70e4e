//! The random numbers of a round: one seed, and a stream of its own for everyone who draws.

use std::time::Duration;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// A stream of random numbers.
pub(crate) struct Dice(Pcg64Mcg);

impl Dice {
    /// The stream of a purpose: a further draw for one purpose leaves all others as they were.
    pub(crate) fn of(seed: u64, purpose: &str) -> Self {
        let salt = blake3::hash(purpose.as_bytes());
        let salt: [u8; 8] = salt.as_bytes()[..8].try_into().expect("a hash has 32 bytes");
        Self(Pcg64Mcg::seed_from_u64(seed ^ u64::from_le_bytes(salt)))
    }

    /// A number below a bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// An index of something that has so many.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("below a usize")
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// A span of so many milliseconds.
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// A length between two bounds, as likely to be of one order of magnitude as of another.
    pub(crate) fn order_of(&mut self, low: u64, high: u64) -> u64 {
        let doublings = (high / low.max(1)).max(1).ilog2();
        let floor = low << self.below(u64::from(doublings) + 1);
        self.between(floor.min(high), (2 * floor).min(high))
    }

    /// Bytes without a pattern.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}
