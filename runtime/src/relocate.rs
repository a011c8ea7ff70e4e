//! What `dpc store export`, `import`, `move` and `rebuild-history` do with the lane of a
//! configuration. The node must not run: its folder is locked while it does, and locked here.

mod read;

use dpc_core::ids::{Incarnation, LaneId};
use dpc_core::shared::Owner;
use dpc_core::store::{Claimed, Store, StoreError};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::{Config, StoreKind};
use crate::edge::{Clock, Entropy, OsEntropy};
use crate::embedded::{
    advertised, cassandra_options, history_options, limits, postgres_options, setup,
};
use crate::history::{HistoryError, Rebuilding, Rebuilt};
use crate::node::NodeError;
use crate::store::portable::{self, Carried, Imported, Moved, Piece, carry};
use crate::store::{CassandraIntake, PostgresIntake};
use read::{ReadLane, read_lane};

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
/// As of [`read_lane`]; whatever keeps it from being written.
pub(crate) async fn export(
    config: &Config,
    to: impl AsyncWrite + Unpin,
    step: impl FnMut(Carried),
) -> Result<Exported, StoreError> {
    read_lane(config, ToFile { to, kind: kind_of(config) }, step).await
}

struct ToFile<W> {
    to: W,
    kind: &'static str,
}

impl<W: AsyncWrite + Unpin> ReadLane for ToFile<W> {
    type Done = Exported;

    async fn read<S: Store>(
        self,
        store: &mut S,
        (lane, claimed): (LaneId, &Claimed),
        step: impl AsyncFnMut(Carried) -> Result<(), StoreError>,
    ) -> Result<Exported, StoreError> {
        let carried = portable::export(store, (lane, self.kind), claimed, self.to, step).await?;
        Ok(Exported { lane, carried })
    }
}

/// A history that was made anew, of the lane that was read for it.
pub(crate) struct HistoryRebuilt {
    pub(crate) lane: LaneId,
    pub(crate) carried: Carried,
    pub(crate) rebuilt: Rebuilt,
}

/// Makes the history of a configuration's data folder anew from the lane.
///
/// # Errors
///
/// As of [`read_lane`]; [`StoreError::Refused`] if a history of before an earlier rebuild is still
/// kept; [`StoreError::Io`] if the new one cannot be written. The one that was there
/// is as it was then.
pub(crate) async fn rebuild_history(
    config: &Config,
    step: impl FnMut(Carried),
) -> Result<HistoryRebuilt, StoreError> {
    Rebuilding::check(&config.data_dir).map_err(no_history)?;
    read_lane(config, ToHistory(config), step).await
}

fn no_history(error: HistoryError) -> StoreError {
    match error {
        HistoryError::Kept { .. } => StoreError::Refused(error.to_string()),
        HistoryError::Unusable { .. } | HistoryError::Newer { .. } => {
            StoreError::Io(error.to_string())
        }
    }
}

struct ToHistory<'a>(&'a Config);

impl ReadLane for ToHistory<'_> {
    type Done = HistoryRebuilt;

    async fn read<S: Store>(
        self,
        store: &mut S,
        (lane, claimed): (LaneId, &Claimed),
        step: impl AsyncFnMut(Carried) -> Result<(), StoreError>,
    ) -> Result<HistoryRebuilt, StoreError> {
        let (dir, options) = (&self.0.data_dir, history_options(self.0));
        let mut history =
            Rebuilding::begin(dir, lane, claimed.last, options).map_err(no_history)?;
        let take = async |records: Piece| {
            for (number, record) in records {
                history.take(number, &record).map_err(no_history)?;
            }
            Ok(())
        };
        let carried = carry(store, claimed, take, step).await?;
        let rebuilt = history.finish().map_err(no_history)?;
        Ok(HistoryRebuilt { lane, carried, rebuilt })
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
