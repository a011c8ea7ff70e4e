//! The history of a git repository as objects, and the table that is made of them.
//!
//! `repository` runs git, `expand` says what a commit changed, `table` adds it up, `truth` is the
//! same table as `git log` has it. None of them knows of nodes or objects; `objects` is where
//! both meet.

pub(crate) mod expand;
pub(crate) mod objects;
pub(crate) mod repository;
pub(crate) mod table;
#[cfg(test)]
mod tests;
pub(crate) mod truth;

use std::fmt;

/// Who wrote a commit: bytes, because git promises no encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Author {
    pub(crate) name: Vec<u8>,
    pub(crate) email: Vec<u8>,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, email) = (self.name.escape_ascii(), self.email.escape_ascii());
        match (std::str::from_utf8(&self.name), std::str::from_utf8(&self.email)) {
            (Ok(name), Ok(email)) => write!(f, "{name} <{email}>"),
            _ => write!(f, "{name} <{email}>"),
        }
    }
}

/// One commit, as far as the table needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    /// Its name in hexadecimal digits.
    pub(crate) oid: String,
    pub(crate) author: Author,
}

/// What a commit did to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: Vec<u8>,
    pub(crate) added: u64,
    pub(crate) deleted: u64,
}

impl Change {
    /// Reads `added TAB deleted TAB path`. Binary files have dashes for numbers, and no lines.
    fn parse(record: &[u8]) -> Result<Self, GitError> {
        let malformed = || GitError::Malformed { what: record.escape_ascii().to_string() };
        let mut parts = record.splitn(3, |byte| *byte == b'\t');
        let mut part = || parts.next().ok_or_else(malformed);
        let (added, deleted, path) = (part()?, part()?, part()?);
        let lines = |digits: &[u8]| match digits {
            b"-" => Some(0),
            digits => std::str::from_utf8(digits).ok()?.parse().ok(),
        };
        let added = lines(added).ok_or_else(malformed)?;
        let deleted = lines(deleted).ok_or_else(malformed)?;
        Ok(Self { path: path.to_vec(), added, deleted })
    }

    /// What stands after the last dot of the file's own name; nothing for `Makefile` and `.profile`.
    pub(crate) fn extension(&self) -> &[u8] {
        let name = self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        match name.iter().rposition(|byte| *byte == b'.') {
            Some(dot) if dot > 0 => &name[dot + 1..],
            _ => b"",
        }
    }
}

/// Git did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GitError {
    /// There is no git to run.
    #[error("cannot run git ({0}); install git, or leave out --repo")]
    NotRun(#[source] std::io::Error),
    /// Git ended with an error.
    #[error("git {command} failed: {said}")]
    Failed { command: String, said: String },
    /// The repository has no commits.
    #[error("{0} has no commits yet; name a repository with a history")]
    Empty(String),
    /// The pipe to or from git broke.
    #[error("lost the connection to git {command}: {cause}")]
    Pipe { command: String, cause: std::io::Error },
    /// Git said something that is none of its formats.
    #[error("git answered something unexpected: {what}")]
    Malformed { what: String },
}
