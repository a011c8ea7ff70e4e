//! The stores of a lane: the embedded one, Postgres ([`Postgres`]), and Cassandra ([`Cassandra`]).
//!
//! The embedded store keeps a lane in one folder on the node's own disk.
//!
//! ```text
//! FORMAT   text: version of the layout, lane, when it was made
//! LOCK     held by the process that has the folder open
//! RETIRED  the lane was adopted and is empty: the folder is not opened again
//! HEAD     two slots: the last acknowledged record and its hash, the epoch, the first record kept
//! log/     the records, in segments of a fixed size ([`log`])
//! MOVING   the lane is on its way to a database, and to which
//! importing/ what an import has not finished: no lane is served from it
//! index/   derived and rebuildable: where objects of a large backlog lie ([`IndexDb`])
//! ```
//!
//! HEAD says up to where records were acknowledged, and every record carries number, lane, hash and
//! the hash of the one before: what is damaged or missing is refused with its place (P16), and opening
//! a log changes nothing in it.

mod ahead;
mod cassandra;
mod chain;
mod embedded;
mod folder;
mod head;
mod index;
mod log;
mod pack;
pub(crate) mod portable;
mod postgres;
mod remote;
mod seat;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_tls;
mod tls;
#[cfg(test)]
mod torture;
mod trouble;

use std::path::Path;

use dpc_core::store::StoreError;

pub(crate) use cassandra::{
    ACCEPTED as CASSANDRA_ACCEPTED, Address as CassandraAddress, CassandraIntake, cassandra_bare,
};
pub use cassandra::{
    Cassandra, CassandraDatabase, CassandraOptions, cassandra_password, cassandra_tables,
};
pub use embedded::{Embedded, Options};
pub use folder::is_retired;
pub use index::{IndexDb, Part, PartInfo};
pub(crate) use postgres::{Decided, PostgresIntake, Row, postgres_bare};
pub use postgres::{
    Postgres, PostgresDatabase, PostgresInbox, PostgresOptions, Tables, postgres_tables,
};
pub use seat::Seat;
pub use tls::TlsFiles;

/// How many bytes a process without privileges can still write to the device of `dir`.
pub fn disk_free(dir: &Path) -> Result<u64, StoreError> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|error| StoreError::Io(format!("{}: {error}", dir.display())))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What an input or output error on `path` means.
fn io_error(path: &Path, error: &std::io::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            StoreError::Full(text)
        }
        _ => StoreError::Io(text),
    }
}

/// What an input or output error on `path` means, which has to be there.
fn needed(path: &Path, error: &std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => io_error(path, error),
    }
}

/// Damage at `path`.
fn damaged(path: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { place: path.display().to_string(), what: what.into() }
}
