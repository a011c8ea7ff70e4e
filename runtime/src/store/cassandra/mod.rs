//! The store of lanes in Cassandra or ScyllaDB: records are rows that are written ahead, the head is
//! a row that only its owner moves.
//!
//! ```text
//! lane_head   lane → owner, epoch, state, first and last record, hash of the last
//! lane_log    (lane, bucket), number, epoch, part → record
//! beat        process → the number of its last beat
//! history_part, history_row   what ended and what was decided (`crate::history::shared`)
//! ```
//!
//! A process has one [`CassandraDatabase`], and a [`Cassandra`] for each lane that it runs. All of
//! its requests are made by one thread and one session, whose connections to the nodes of the
//! cluster are made again after a fault. A record is written by plain quorum writes, and then
//! published by one conditional update of the head ([`head`]). An update whose outcome nobody knows
//! is sent again until it is known; only after `patience` is it given up as *unknown*.

mod address;
mod bare;
mod database;
mod head;
mod history;
mod intake;
mod keeper;
mod reader;
mod schema;
mod session;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{Epoch, RecordNumber};
use dpc_core::shared::SharedLane;
use dpc_core::store::{Appended, Claimed, Done, ReadDone, Store, StoreError};
use scylla::client::session::TlsContext;
use tokio::sync::mpsc;

use super::Tables;
use super::remote::Remote;
use super::tls::TlsFiles;
use super::trouble::Trouble;
pub(crate) use address::{ACCEPTED, Address};
pub(crate) use bare::cassandra_bare;
pub use database::CassandraDatabase;
use database::Thread;
pub(crate) use intake::CassandraIntake;
use session::Connection;

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub struct CassandraOptions {
    /// `cassandra://…`: see docs/stores.md.
    pub url: String,
    /// The password of the user that the address names, if it names one.
    pub password: Option<String>,
    /// TLS, and whom to trust and what to show; without it there is none.
    pub tls: Option<TlsFiles>,
    /// Make the keyspace and the tables if they are not there.
    pub create_tables: bool,
    /// How long an outage may last before the node gives up.
    pub patience: Duration,
}

/// The store of one lane in Cassandra. Dropping it is a crash of its process: what was under way
/// then is decided by the cluster.
pub struct Cassandra {
    remote: Remote,
    /// The storage thread lives as long as somebody can ask it.
    _asks: mpsc::Sender<database::Ask>,
    _thread: Arc<Thread>,
}

/// The password as operators give it: in the configuration it would be shown with it.
pub fn cassandra_password() -> Option<String> {
    std::env::var("CASSANDRA_PASSWORD").ok()
}

/// What every connection to a cluster needs to know.
pub(super) struct Way {
    pub(super) address: Address,
    password: Option<String>,
    tls: Option<TlsContext>,
}

impl Way {
    /// Reads the address and the files.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the address cannot be understood, if it names a user and there is
    /// no password, or if a file of TLS cannot be used.
    fn of(options: &CassandraOptions) -> Result<Self, StoreError> {
        let address = Address::parse(&options.url)?;
        let password = options.password.clone();
        if address.needs_password() && password.is_none() {
            let why = "store.url names a user, and CASSANDRA_PASSWORD is not set";
            return Err(StoreError::Refused(why.into()));
        }
        let tls = options.tls.as_ref().map(TlsFiles::read).transpose()?;
        Ok(Self { address, password, tls: tls.map(|tls| Arc::new(tls).into()) })
    }
}

/// Checks that a cluster has dpc's tables, which `create` makes if they are not there.
///
/// # Errors
///
/// [`StoreError`] if the cluster cannot be reached, has no tables, those of another version, or
/// those of nodes that fence their lanes by another quorum.
pub async fn cassandra_tables(
    options: &CassandraOptions,
    create: bool,
) -> Result<Tables, StoreError> {
    Connection::new(Way::of(options)?, create).tables().await.map_err(Trouble::into_error)
}

impl Store for Cassandra {
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>) {
        self.remote.claim(done);
    }

    fn appends_max(&self) -> usize {
        self.remote.appends_max()
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>) {
        self.remote.append(epoch, number, record, done);
    }

    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        self.remote.read(from, bytes_max, done);
    }

    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>) {
        self.remote.truncate(below, done);
    }
}

impl SharedLane for Cassandra {
    fn renew(&mut self, epoch: Epoch, done: Done<Appended>) {
        self.remote.renew(epoch, done);
    }

    fn retire(&mut self, epoch: Epoch, done: Done<Appended>) {
        self.remote.retire(epoch, done);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
#[cfg(test)]
mod torture;
