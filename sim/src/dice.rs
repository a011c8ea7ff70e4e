//! Seeded draws. Every purpose has a stream of its own, salted, so that drawing more or less for one
//! purpose leaves what is drawn for all others as it was.

use dpc_core::time::Span;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// One stream of draws.
#[derive(Clone, Debug)]
pub struct Dice(Pcg64Mcg);

impl Dice {
    /// The stream of a seed for one purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let salt = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(Pcg64Mcg::seed_from_u64(seed ^ salt))
    }

    /// A number below `below`, or zero.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0.next_u64() % below.max(1)
    }

    /// An index into something of this length.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// One of several.
    pub fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())].clone()
    }

    /// True so many times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A span from `least` on, shorter than `most`.
    pub fn span(&mut self, least: Span, most: Span) -> Span {
        Span(least.0 + self.below(most.0.saturating_sub(least.0)))
    }
}
