//! What `dpc store export`, `import` and `move` do with the lane of a configuration. The node must
//! not run: its folder is locked while it does, and locked here.

use std::path::Path;

use dpc_core::ids::{Incarnation, LaneId};
use dpc_core::shared::{Owner, SharedStore};
use dpc_core::store::StoreError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::{Config, StoreKind};
use crate::edge::{Clock, Entropy, OsEntropy};
use crate::embedded::{advertised, cassandra_options, limits, postgres_options, setup};
use crate::failover::{OwnLane, take_lane_again};
use crate::node::{NodeError, claim};
use crate::store::portable::{self, Carried, Imported, Moved};
use crate::store::{
    CassandraDatabase, CassandraIntake, Embedded, Options, PostgresDatabase, PostgresIntake, Seat,
};

/// A lane that was exported.
pub(crate) struct Exported {
    pub(crate) lane: LaneId,
    pub(crate) carried: Carried,
}

/// The name of a kind of store, as the configuration has it.
pub(crate) fn kind_of(config: &Config) -> &'static str {
    config.store.kind.as_str()
}

/// Writes the lane of a configuration, which stays as it is.
///
/// # Errors
///
/// [`StoreError::Refused`] if there is no lane, a node serves it, or another node has taken it over;
/// whatever keeps it from being read or written.
pub(crate) async fn export(
    config: &Config,
    to: impl AsyncWrite + Unpin,
    step: impl FnMut(Carried),
) -> Result<Exported, StoreError> {
    let dir = &config.data_dir;
    if !dir.join("FORMAT").exists() {
        return Err(StoreError::Refused(format!("there is no lane in {}", dir.display())));
    }
    match config.store.kind {
        StoreKind::Embedded => export_embedded(dir, to, step).await,
        StoreKind::Postgres => {
            let open = |owner| PostgresDatabase::open(postgres_options(config), owner);
            export_shared(config, open, to, step).await
        }
        StoreKind::Cassandra => {
            let open = |owner| CassandraDatabase::open(cassandra_options(config), owner);
            export_shared(config, open, to, step).await
        }
    }
}

async fn export_embedded(
    dir: &Path,
    to: impl AsyncWrite + Unpin,
    mut step: impl FnMut(Carried),
) -> Result<Exported, StoreError> {
    let (mut store, lane) = Embedded::open(dir, &Options::default())?;
    let claimed = claim(&mut store).await?;
    let told = async |carried| {
        step(carried);
        Ok(())
    };
    let carried = portable::export(&mut store, (lane, "embedded"), &claimed, to, told).await?;
    Ok(Exported { lane, carried })
}

async fn export_shared<D: SharedStore>(
    config: &Config,
    open: impl FnOnce(Owner) -> Result<D, StoreError>,
    to: impl AsyncWrite + Unpin,
    mut step: impl FnMut(Carried),
) -> Result<Exported, StoreError> {
    let kind = kind_of(config);
    let seat = Seat::open(&config.data_dir, kind)?;
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
    let carried = portable::export(&mut store, (lane, kind), &claimed, to, told).await?;
    Ok(Exported { lane, carried })
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

/// Makes a new lane for a configuration, of what is alive in a file. Into a database it goes by
/// way of the folder.
///
/// # Errors
///
/// [`StoreError::Refused`] if the folder is not empty; [`StoreError::Damaged`] if the file is not
/// whole; whatever the store refuses. If only the last step into a database failed, the text says
/// so, and [`move_lane`] repeats it.
pub(crate) async fn import(
    config: &Config,
    (from, name): (impl AsyncRead + Unpin, &str),
    step: impl FnMut(Carried),
) -> Result<Imported, StoreError> {
    let dir = &config.data_dir;
    let clock = Clock::of_machine();
    let made = (limits(config), || clock.now());
    let imported = portable::import((from, name), dir, made, step).await?;
    if config.store.kind != StoreKind::Embedded {
        let moved = move_lane(config, |_| {}).await;
        moved.map_err(|error| {
            StoreError::Refused(format!(
                "the lane was imported into {}, and is not in the database yet: {error}; `dpc store \
                 move` takes it there",
                dir.display()
            ))
        })?;
    }
    Ok(imported)
}

/// Moves the embedded lane of a configuration's folder into its database.
///
/// # Errors
///
/// [`StoreError::Refused`] if the configuration has no database, if there is no embedded lane in the
/// folder, or if a node serves it; whatever one of the stores refuses.
pub(crate) async fn move_lane(
    config: &Config,
    step: impl FnMut(Carried),
) -> Result<Moved, StoreError> {
    let (dir, kind) = (&config.data_dir, kind_of(config));
    let place = config.store.url.as_deref().unwrap_or_default();
    let owner = |lane| owner_of(config, lane);
    match config.store.kind {
        StoreKind::Embedded => Err(StoreError::Refused(
            "store.kind is \"embedded\", and a move is from an embedded store into a database: set \
             store.kind and store.url to those of the database"
                .into(),
        )),
        StoreKind::Postgres => {
            let mut to = PostgresIntake::open(&postgres_options(config))?;
            portable::move_lane(dir, &mut to, (kind, place), owner, step).await
        }
        StoreKind::Cassandra => {
            let mut to = CassandraIntake::open(cassandra_options(config))?;
            portable::move_lane(dir, &mut to, (kind, place), owner, step).await
        }
    }
}

/// This process as the owner of a lane, under the name that the node has.
fn owner_of(config: &Config, lane: LaneId) -> Result<Owner, StoreError> {
    let setup = setup(config, lane).map_err(|error| match error {
        NodeError::Store(error) => error,
        other => StoreError::Refused(other.to_string()),
    })?;
    Ok(Owner {
        incarnation: Incarnation(OsEntropy.next_u64().max(1)),
        name: setup.name,
        address: advertised(config, &config.listen.nodes.to_string()).into(),
    })
}
