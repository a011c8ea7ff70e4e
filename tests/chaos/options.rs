//! What a run of rounds is asked to do: `tests/chaos/run` puts its options into the environment.

use std::str::FromStr;
use std::time::Duration;

use crate::faults::Set;
use crate::support::long;

/// A client whose connection was cut without a word needs 30 s to notice, and that is not all.
const PATIENCE: Duration = Duration::from_secs(150);

/// Asked for by a person, and not by `cargo test`.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) sets: Vec<Set>,
    /// How long each set lasts, without the drain.
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    /// New objects a second.
    pub(crate) rate: u64,
    /// Keep the folder of a good round as well.
    pub(crate) keep: bool,
    /// How long everything that waits may take to be settled after all faults have healed.
    pub(crate) patience: Duration,
    /// Every option was given by a person: a fault that cannot be made here is an error.
    pub(crate) by_hand: bool,
}

impl Options {
    /// From the environment; without it a short round of two sets, or of all sets if long.
    pub(crate) fn from_environment() -> Self {
        let by_hand = std::env::var_os("DPC_CHAOS").is_some();
        let sets = match std::env::var("DPC_CHAOS_SETS") {
            Ok(names) if !names.trim().is_empty() => {
                let parse = |name: &str| name.parse().unwrap_or_else(|why: String| panic!("{why}"));
                names.split_whitespace().map(parse).collect()
            }
            _ if by_hand || long() => Set::EVERY.to_vec(),
            // Not `one-node`: on a machine that others use, too, a sync that stalls for seconds at every
            // node cannot be told from a fault that reached beyond its own.
            _ => vec![Set::Kill, Set::All],
        };
        let seconds = if by_hand { 300 } else { 10 };
        Self {
            sets,
            seconds: number("DPC_CHAOS_SECONDS").unwrap_or(seconds),
            // The gate repeats one schedule; rounds by hand look for new ones.
            seed: number("DPC_CHAOS_SEED").unwrap_or_else(|| if by_hand { new_seed() } else { 1 }),
            rate: number("DPC_CHAOS_RATE").unwrap_or(150),
            keep: std::env::var_os("DPC_CHAOS_KEEP").is_some(),
            patience: PATIENCE,
            by_hand,
        }
    }

    /// The command that repeats the schedule of a set.
    pub(crate) fn repeat(&self, set: Set) -> String {
        let Self { seed, seconds, rate, .. } = self;
        format!("tests/chaos/run --seed {seed} --seconds {seconds} --rate {rate} {set}")
    }
}

fn number<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, not a number")))
}

fn new_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::from(now.expect("after 1970").subsec_nanos())
}
