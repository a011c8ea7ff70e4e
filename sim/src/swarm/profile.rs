//! Which kinds of things may happen in a run, by name.

use std::fmt;
use std::str::FromStr;

/// A family of actions. Each has its own stream of draws: leaving one out changes no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Pushes, subscriptions, settles: what clients do that mean well.
    Work,
    /// What clients do that do not: forged tokens, settles that come twice or too late, bad emits.
    Clients,
    /// What people order.
    Operators,
    /// Links: cut, one way, held, throttled, broken.
    Network,
    /// Processes that die, at any step of a commit, and come back.
    Crashes,
    /// Processes that are stopped for a while and go on.
    Pauses,
    /// Wall clocks that jump and drift.
    Clocks,
    /// Disks that fail, fill up, stall.
    Disk,
    /// Disks that are damaged, lost or put back to an old state.
    Damage,
    /// A store that the nodes share: lost answers, ghosts, stale reads, processes cut off from it,
    /// and nodes that are gone for ever.
    Store,
}

/// Every family, in the order in which actions of one moment happen.
pub const FAMILIES: [Family; 10] = [
    Family::Work,
    Family::Clients,
    Family::Operators,
    Family::Network,
    Family::Crashes,
    Family::Pauses,
    Family::Clocks,
    Family::Disk,
    Family::Damage,
    Family::Store,
];

/// A named choice of families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Any family, each drawn to exist or not.
    #[default]
    All,
    /// Work only.
    None,
    /// Work and links that fail.
    Partitions,
    /// Work and processes that die.
    Crashes,
    /// Work and processes that are stopped for a while.
    Pauses,
    /// Work and wall clocks that jump.
    Clocks,
    /// Work and disks that fail.
    Disk,
    /// Work and disks that are damaged or lost.
    Damage,
    /// Work and clients that misbehave.
    Clients,
    /// Work, and nodes over a store that they share, which die and are replaced.
    Shared,
}

/// Every profile.
pub const PROFILES: [Profile; 10] = [
    Profile::All,
    Profile::None,
    Profile::Partitions,
    Profile::Crashes,
    Profile::Pauses,
    Profile::Clocks,
    Profile::Disk,
    Profile::Damage,
    Profile::Clients,
    Profile::Shared,
];

impl Profile {
    /// The name people type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::None => "none",
            Self::Partitions => "partitions",
            Self::Crashes => "crashes",
            Self::Pauses => "pauses",
            Self::Clocks => "clocks",
            Self::Disk => "disk",
            Self::Damage => "damage",
            Self::Clients => "clients",
            Self::Shared => "shared",
        }
    }

    /// How likely a family exists in a run of this profile, in percent.
    pub(super) fn likely(self, family: Family) -> u64 {
        let named = match self {
            Self::All => {
                return match family {
                    Family::Work => 100,
                    Family::Clients | Family::Operators | Family::Crashes => 60,
                    Family::Network => 60,
                    Family::Disk => 40,
                    Family::Pauses | Family::Clocks => 25,
                    Family::Damage => 12,
                    // The nodes of these runs have disks of their own.
                    Family::Store => 0,
                };
            }
            Self::None => Family::Work,
            Self::Partitions => Family::Network,
            Self::Crashes => Family::Crashes,
            Self::Pauses => Family::Pauses,
            Self::Clocks => Family::Clocks,
            Self::Disk => Family::Disk,
            Self::Damage => Family::Damage,
            Self::Clients => Family::Clients,
            Self::Shared => Family::Store,
        };
        if family == named || family == Family::Work { 100 } else { 0 }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = PROFILES.into_iter().find(|p| p.as_str() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = PROFILES.iter().map(|p| p.as_str()).collect();
            format!("there is no profile {text}; there are {}", names.join(", "))
        })
    }
}
