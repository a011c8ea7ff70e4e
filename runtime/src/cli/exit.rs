//! How the process ends.

use std::process::ExitCode;

/// The outcome of a command. Of several outcomes the worst counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    #[default]
    Done,
    /// Definitely not done, and why is known.
    NotDone,
    /// The command line or the configuration is wrong.
    Usage,
    /// The connection was lost after sending: done or not, nobody here knows.
    Unknown,
    /// No node could be reached; nothing was sent.
    Unreachable,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotDone => 1,
            Self::Usage => 2,
            Self::Unknown => 3,
            Self::Unreachable => 4,
            Self::Interrupted => 130,
        }
    }

    /// The worse of two outcomes: unknown, then unreachable, then not done. What stops the whole
    /// command, wrong usage or Ctrl-C, outweighs what became of its parts.
    pub(crate) fn worst(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotDone => 1,
            Self::Unreachable => 2,
            Self::Unknown => 3,
            Self::Usage => 4,
            Self::Interrupted => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_outcome_counts() {
        let order = [
            Exit::Done,
            Exit::NotDone,
            Exit::Unreachable,
            Exit::Unknown,
            Exit::Usage,
            Exit::Interrupted,
        ];
        for (i, a) in order.into_iter().enumerate() {
            for (j, b) in order.into_iter().enumerate() {
                assert_eq!(a.worst(b), order[i.max(j)]);
            }
        }
        assert_eq!(order.map(Exit::number), [0, 1, 4, 3, 2, 130]);
    }
}
