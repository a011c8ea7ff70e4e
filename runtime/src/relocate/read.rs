//! A lane that is read from its first record to its last, whatever store keeps it, while nobody else
//! can change it.

use std::path::Path;

use dpc_core::ids::LaneId;
use dpc_core::shared::{Owner, SharedStore};
use dpc_core::store::{Claimed, Store, StoreError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{kind_of, owner_of};
use crate::config::{Config, StoreKind};
use crate::embedded::{cassandra_options, postgres_options};
use crate::failover::{OwnLane, take_lane_again};
use crate::node::claim;
use crate::store::portable::Carried;
use crate::store::{CassandraDatabase, Embedded, Options, PostgresDatabase, Seat};

/// What is done with a lane that is read.
pub(super) trait ReadLane {
    /// What comes of it.
    type Done;

    /// Reads a lane that was claimed. `step` is told how far it has come, and sees to it that the
    /// claim stands.
    async fn read<S: Store>(
        self,
        store: &mut S,
        lane: (LaneId, &Claimed),
        step: impl AsyncFnMut(Carried) -> Result<(), StoreError>,
    ) -> Result<Self::Done, StoreError>;
}

/// Claims the lane of a configuration and has it read. It stays as it is.
///
/// # Errors
///
/// [`StoreError::Refused`] if there is no lane, a node serves it, or another node has taken it over;
/// whatever keeps it from being read.
pub(super) async fn read_lane<R: ReadLane>(
    config: &Config,
    reader: R,
    step: impl FnMut(Carried),
) -> Result<R::Done, StoreError> {
    let dir = &config.data_dir;
    if !dir.join("FORMAT").exists() {
        return Err(StoreError::Refused(format!("there is no lane in {}", dir.display())));
    }
    match config.store.kind {
        StoreKind::Embedded => read_embedded(dir, reader, step).await,
        StoreKind::Postgres => {
            let open = |owner| PostgresDatabase::open(postgres_options(config), owner);
            read_shared(config, open, reader, step).await
        }
        StoreKind::Cassandra => {
            let open = |owner| CassandraDatabase::open(cassandra_options(config), owner);
            read_shared(config, open, reader, step).await
        }
    }
}

async fn read_embedded<R: ReadLane>(
    dir: &Path,
    reader: R,
    mut step: impl FnMut(Carried),
) -> Result<R::Done, StoreError> {
    let (mut store, lane) = Embedded::open(dir, &Options::default())?;
    let claimed = claim(&mut store).await?;
    let told = async |carried| {
        step(carried);
        Ok(())
    };
    reader.read(&mut store, (lane, &claimed), told).await
}

async fn read_shared<D: SharedStore, R: ReadLane>(
    config: &Config,
    open: impl FnOnce(Owner) -> Result<D, StoreError>,
    reader: R,
    mut step: impl FnMut(Carried),
) -> Result<R::Done, StoreError> {
    let seat = Seat::open(&config.data_dir, kind_of(config))?;
    let lane = seat.lane();
    let owner = owner_of(config, lane)?;
    let name = owner.name.clone();
    let mut database = open(owner)?;
    let mut beats = Beats::new(config);
    // Whoever owns a lane and does not beat is declared dead, and the lane is gone.
    beats.beat(&mut database).await?;
    let OwnLane { mut store, claimed } =
        take_lane_again(&mut database, &seat, &name, config.store.patience.0).await?;
    let told = async |carried| {
        step(carried);
        beats.beat(&mut database).await
    };
    reader.read(&mut store, (lane, &claimed), told).await
}

/// The beats of a process that owns a lane while it reads it.
struct Beats {
    number: u64,
    every: std::time::Duration,
    last: Option<Instant>,
}

impl Beats {
    fn new(config: &Config) -> Self {
        Self { number: 0, every: config.limits.heartbeat.0, last: None }
    }

    /// Beats if it is time to.
    async fn beat(&mut self, database: &mut impl SharedStore) -> Result<(), StoreError> {
        if self.last.is_some_and(|last| last.elapsed() < self.every) {
            return Ok(());
        }
        self.number += 1;
        self.last = Some(Instant::now());
        let (done, answer) = oneshot::channel();
        database.beat(self.number, Box::new(move |beaten| drop(done.send(beaten))));
        let gone = |_| Err(StoreError::Io("the store ended without an answer".into()));
        answer.await.unwrap_or_else(gone)
    }
}
