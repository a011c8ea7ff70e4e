//! What can be wrong with a configuration. Each says which key, what was given and from where,
//! what is accepted, and what to do next.

use std::fmt;
use std::path::PathBuf;

use super::layers::Origin;

/// One thing that is wrong with a configuration. Nothing was started or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("configuration file {}:{line}: not TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// A `--set` without `=`.
    #[error("--set {given}: accepted: key=value, such as limits.max_hops=4")]
    NotAssignment {
        /// What was given.
        given: String,
    },
    /// A key that does not exist.
    #[error("unknown key {key} ({origin}): the nearest known one is {nearest}")]
    Unknown {
        /// The key, as its origin spells it.
        key: String,
        /// The key it most likely meant, in the same spelling.
        nearest: String,
        /// Where it came from.
        origin: Origin,
    },
    /// A value that does not have the shape of its key's values.
    #[error("{key}: {given} is not accepted ({origin}); accepted: {accepted}")]
    Malformed {
        /// The key.
        key: String,
        /// The value.
        given: String,
        /// What is accepted.
        accepted: String,
        /// Where it came from.
        origin: Origin,
    },
    /// A value outside of its limit.
    #[error("{key}: {given} is out of range ({origin}); the limit is {limit}")]
    OutOfRange {
        /// The key.
        key: String,
        /// The value.
        given: String,
        /// The limit.
        limit: String,
        /// Where it came from.
        origin: Origin,
    },
    /// Two values that cannot hold together.
    #[error(
        "{key}: {given} ({origin}) must be {relation} {other}, which is {other_value} ({other_origin})"
    )]
    Contradiction {
        /// The key.
        key: &'static str,
        /// Its value.
        given: String,
        /// Where it came from.
        origin: Origin,
        /// How it has to relate to the other.
        relation: &'static str,
        /// The other key.
        other: &'static str,
        /// The other's value.
        other_value: String,
        /// Where the other came from.
        other_origin: Origin,
    },
    /// A listener that other machines can reach, without consent.
    #[error(
        "{key}: {given} can be reached from other machines ({origin}) and TLS is not built yet; \
         listen on 127.0.0.1 or [::1], or start with --insecure on a network you trust"
    )]
    NotLoopback {
        /// The key.
        key: &'static str,
        /// The address.
        given: String,
        /// Where it came from.
        origin: Origin,
    },
    /// A key that another one needs.
    #[error("{key} is not set, and {because} needs it ({origin})")]
    Missing {
        /// The key.
        key: &'static str,
        /// The other.
        because: &'static str,
        /// Where the other came from.
        origin: Origin,
    },
}

impl ConfigError {
    /// The reason in UPPER_SNAKE, as scripts read it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "CONFIG_UNREADABLE",
            Self::Syntax { .. } => "CONFIG_SYNTAX",
            Self::NotAssignment { .. } | Self::Malformed { .. } => "CONFIG_MALFORMED",
            Self::Unknown { .. } => "CONFIG_UNKNOWN_KEY",
            Self::OutOfRange { .. } => "CONFIG_OUT_OF_RANGE",
            Self::Contradiction { .. } => "CONFIG_CONTRADICTION",
            Self::Missing { .. } => "CONFIG_MISSING",
            Self::NotLoopback { .. } => "CONFIG_NOT_LOOPBACK",
        }
    }

    /// The key it is about, if it is about one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Unreadable { .. } | Self::Syntax { .. } | Self::NotAssignment { .. } => None,
            Self::Unknown { key, .. }
            | Self::Malformed { key, .. }
            | Self::OutOfRange { key, .. } => Some(key),
            Self::Contradiction { key, .. }
            | Self::Missing { key, .. }
            | Self::NotLoopback { key, .. } => Some(key),
        }
    }

    /// What was given, if that is known.
    #[must_use]
    pub fn given(&self) -> Option<&str> {
        match self {
            Self::Unreadable { .. }
            | Self::Syntax { .. }
            | Self::Unknown { .. }
            | Self::Missing { .. } => None,
            Self::NotAssignment { given }
            | Self::Malformed { given, .. }
            | Self::OutOfRange { given, .. }
            | Self::Contradiction { given, .. }
            | Self::NotLoopback { given, .. } => Some(given),
        }
    }

    /// The limit that was passed, if one was.
    #[must_use]
    pub fn limit(&self) -> Option<&str> {
        match self {
            Self::OutOfRange { limit, .. } => Some(limit),
            Self::Contradiction { other_value, .. } => Some(other_value),
            _ => None,
        }
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
