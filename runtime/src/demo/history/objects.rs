//! The history as typed objects.
//!
//! A commit is one object that walks through the pipeline: `Commit` becomes `CountedCommit` when it
//! is expanded, and emits one `FileChange` for each file. Every id follows from the commit, so
//! that whatever is repeated is the same object again.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Author, Change};

/// What a transaction may hold is limited in items; one is the settle itself.
const EMITS_COUNT_MAX: usize = 900;

/// And in bytes: room is left for what an object carries besides its payload.
const EMITS_BYTES_MAX: usize = 2 << 20;

/// What an object costs in a transaction besides its path and author.
const EMIT_OVERHEAD_BYTES: usize = 256;

/// A commit to expand.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Commit {
    /// Its name in hexadecimal digits.
    #[prost(string, tag = "1")]
    pub(crate) oid: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) author_name: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) author_email: Vec<u8>,
    /// Files that earlier versions of this object have emitted: a commit with more files than fit
    /// into one transaction is expanded in several.
    #[prost(uint64, tag = "4")]
    pub(crate) emitted: u64,
}

/// A commit whose files are emitted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct CountedCommit {
    #[prost(string, tag = "1")]
    pub(crate) oid: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) author_name: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) author_email: Vec<u8>,
    /// How many files it changed: so many `FileChange` objects there are.
    #[prost(uint64, tag = "4")]
    pub(crate) files: u64,
}

/// A file that a commit changed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct FileChange {
    #[prost(string, tag = "1")]
    pub(crate) oid: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) author_name: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) author_email: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) path: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub(crate) added: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) deleted: u64,
    /// The first file of its commit with its extension.
    #[prost(bool, tag = "7")]
    pub(crate) first_of_extension: bool,
}

macro_rules! named {
    ($($message:ident),*) => {$(
        impl prost::Name for $message {
            const NAME: &'static str = stringify!($message);
            const PACKAGE: &'static str = "dpc.demo";
        }
    )*};
}

named!(Commit, CountedCommit, FileChange);

impl Commit {
    /// The object of a commit.
    pub(crate) fn new(commit: super::Commit) -> Self {
        let super::Commit { oid, author } = commit;
        Self { oid, author_name: author.name, author_email: author.email, emitted: 0 }
    }

    /// What it becomes when all of its files are emitted.
    fn counted(&self, files: u64) -> CountedCommit {
        let Self { oid, author_name, author_email, .. } = self.clone();
        CountedCommit { oid, author_name, author_email, files }
    }
}

impl CountedCommit {
    pub(crate) fn author(&self) -> Author {
        Author { name: self.author_name.clone(), email: self.author_email.clone() }
    }
}

impl FileChange {
    pub(crate) fn author(&self) -> Author {
        Author { name: self.author_name.clone(), email: self.author_email.clone() }
    }
}

/// What one settle of a commit does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expansion {
    /// The next entity of the commit.
    pub(crate) next: Next,
    /// The objects to emit with it.
    pub(crate) emits: Vec<(Uuid, FileChange)>,
}

/// What a commit becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There are more files than fit: it is a commit again, with what it has emitted.
    Again(Commit),
    /// All of its files are emitted.
    Counted(CountedCommit),
}

/// The part of an expansion that is due, and fits into one transaction.
pub(crate) fn expansion(commit: &Commit, changes: &[Change]) -> Expansion {
    let total = changes.len();
    let from = usize::try_from(commit.emitted).unwrap_or(total).min(total);
    let mut extensions: BTreeSet<&[u8]> = changes[..from].iter().map(Change::extension).collect();
    let (mut emits, mut bytes) = (Vec::new(), 0);
    for (index, change) in changes.iter().enumerate().skip(from) {
        let names = commit.author_name.len() + commit.author_email.len() + change.path.len();
        bytes += names + EMIT_OVERHEAD_BYTES;
        // One always fits: paths and names are far smaller than a transaction.
        if emits.len() == EMITS_COUNT_MAX || (bytes > EMITS_BYTES_MAX && !emits.is_empty()) {
            break;
        }
        let file = FileChange {
            oid: commit.oid.clone(),
            author_name: commit.author_name.clone(),
            author_email: commit.author_email.clone(),
            path: change.path.clone(),
            added: change.added,
            deleted: change.deleted,
            first_of_extension: extensions.insert(change.extension()),
        };
        emits.push((file_id(&commit.oid, index), file));
    }
    let done = from + emits.len();
    let next = if done < total {
        Next::Again(Commit { emitted: done as u64, ..commit.clone() })
    } else {
        Next::Counted(commit.counted(total as u64))
    };
    Expansion { next, emits }
}

/// The id of a commit's object.
pub(crate) fn commit_id(oid: &str) -> Uuid {
    id_of(&format!("commit {oid}"))
}

fn file_id(oid: &str, index: usize) -> Uuid {
    id_of(&format!("file {index} of {oid}"))
}

fn id_of(name: &str) -> Uuid {
    let hash = blake3::hash(name.as_bytes());
    let bytes = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    uuid::Builder::from_custom_bytes(*bytes).into_uuid()
}
