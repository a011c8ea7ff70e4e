//! What a process asks of the database besides its lanes: beats, the list of lanes, verdicts.

use std::sync::Arc;
use std::time::Duration;

use dpc_core::ids::{Epoch, Incarnation, LaneId};
use dpc_core::shared::{Changed, LaneRow, Owner, Set, SharedStore, Table, Update};
use dpc_core::store::{Done, StoreError};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::super::trouble::Trouble;
use super::head::{self, COLUMNS, bits, counted, row_of};
use super::history::PostgresHistory;
use super::session::{Session, Way, within};
use super::{Postgres, PostgresOptions, QUEUE_COUNT_MAX, dead, full, on_a_thread, parse, ready};
use crate::history::shared::HistoryTables;

/// How often, in beats, rows are removed that nobody needs any more.
const SWEEP_EVERY: u64 = 1_000;

/// A process's handle of the database. Dropping it ends its connection.
pub struct PostgresDatabase {
    way: Way,
    create_tables: bool,
    patience: Duration,
    pub(super) owner: Owner,
    asks: mpsc::Sender<Ask>,
}

enum Ask {
    Beat(u64, Done<Result<(), StoreError>>),
    Table(Done<Result<Table, StoreError>>),
    Head(LaneId, Done<Result<Option<LaneRow>, StoreError>>),
    Dead(Update, Done<Changed>),
}

impl PostgresDatabase {
    /// The database as this process uses it. The first connection is made by the first request.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the address cannot be understood, or asks for what is not built.
    pub fn open(options: PostgresOptions, owner: Owner) -> Result<Self, StoreError> {
        let PostgresOptions { url, tls, create_tables, patience } = options;
        let way = parse(&url, tls.as_ref())?;
        let (asks, asked) = mpsc::channel(QUEUE_COUNT_MAX);
        let client = Client {
            session: Session::new(way.clone()),
            way: way.clone(),
            owner: owner.incarnation,
            tables: Tables::Unseen { create: create_tables },
        };
        on_a_thread("dpc-members", async move || client.run(asked).await)?;
        Ok(Self { way, create_tables, patience, owner, asks })
    }

    /// The tables in which histories are kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if there is no thread for them.
    pub(crate) fn history(&self) -> Result<Arc<dyn HistoryTables>, StoreError> {
        Ok(Arc::new(PostgresHistory::open(self.way.clone(), self.create_tables)?))
    }

    fn ask(&self, ask: Ask) {
        match self.asks.try_send(ask) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(ask)) => ask.refuse(full()),
            Err(mpsc::error::TrySendError::Closed(ask)) => ask.refuse(dead()),
        }
    }
}

impl Ask {
    fn refuse(self, error: StoreError) {
        match self {
            Self::Beat(_, done) => done(Err(error)),
            Self::Table(done) => done(Err(error)),
            Self::Head(_, done) => done(Err(error)),
            Self::Dead(_, done) => done(Changed::Nothing(error)),
        }
    }
}

impl SharedStore for PostgresDatabase {
    type Lane = Postgres;

    fn beat(&mut self, number: u64, done: Done<Result<(), StoreError>>) {
        self.ask(Ask::Beat(number, done));
    }

    fn table(&mut self, done: Done<Result<Table, StoreError>>) {
        self.ask(Ask::Table(done));
    }

    fn head(&mut self, lane: LaneId, done: Done<Result<Option<LaneRow>, StoreError>>) {
        self.ask(Ask::Head(lane, done));
    }

    fn declare_dead(
        &mut self,
        lane: LaneId,
        owner: Incarnation,
        epoch: Epoch,
        done: Done<Changed>,
    ) {
        let update = Update { lane, owner, epoch, number: None, set: Set::Dead };
        self.ask(Ask::Dead(update, done));
    }

    fn lane(&mut self, lane: LaneId, from: Option<(Incarnation, Epoch)>) -> Postgres {
        let tables = (self.way.clone(), self.create_tables);
        Postgres::new(tables, self.patience, self.owner.clone(), lane, from)
    }
}

/// Whether the tables are known to be there.
enum Tables {
    Unseen { create: bool },
    Ready,
}

struct Client {
    session: Session,
    way: Way,
    owner: Incarnation,
    tables: Tables,
}

impl Client {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        while let Some(ask) = asked.recv().await {
            match ask {
                Ask::Beat(number, done) => {
                    let beaten = self.beat(number).await;
                    done(self.checked(beaten));
                }
                Ask::Table(done) => {
                    let table = self.table().await;
                    done(self.checked(table));
                }
                Ask::Head(lane, done) => {
                    let head = self.head(lane).await;
                    done(self.checked(head));
                }
                Ask::Dead(update, done) => {
                    // It may take long, and beats must not wait for it.
                    let mut session = Session::new(self.way.clone());
                    tokio::task::spawn_local(async move {
                        done(head::change(&mut session, update).await);
                    });
                }
            }
        }
    }

    /// Each request is tried once: who asks will ask again.
    fn checked<T>(&mut self, answer: Result<T, Trouble>) -> Result<T, StoreError> {
        answer.map_err(|trouble| {
            if !matches!(trouble, Trouble::Refused(_)) {
                self.session.leave();
            }
            trouble.into_error()
        })
    }

    async fn open(&mut self) -> Result<&tokio_postgres::Client, Trouble> {
        if let Tables::Unseen { create } = self.tables {
            ready(&self.way, create).await?;
            self.tables = Tables::Ready;
        }
        Ok(&self.session.open().await?.client)
    }

    async fn beat(&mut self, number: u64) -> Result<(), Trouble> {
        let owner = bits(self.owner);
        let client = self.open().await?;
        let beat = "INSERT INTO dpc.beat (owner, number) VALUES ($1, $2) ON CONFLICT (owner) \
                    DO UPDATE SET number = excluded.number, written = now()";
        let signed = i64::try_from(number).expect("beats are counted one by one");
        within(client.execute(beat, &[&owner, &signed])).await?;
        if number % SWEEP_EVERY == 1 {
            sweep(client).await?;
        }
        Ok(())
    }

    async fn table(&mut self) -> Result<Table, Trouble> {
        let client = self.open().await?;
        let lanes = format!("SELECT {COLUMNS} FROM dpc.lane_head h");
        let mut table = Table::default();
        for row in within(client.query(&lanes, &[])).await? {
            let row = row_of(&row).map_err(Trouble::Refused)?;
            table.lanes.insert(row.lane, row);
        }
        let beats = "SELECT b.owner, b.number FROM dpc.beat b";
        for row in within(client.query(beats, &[])).await? {
            let owner = Incarnation(row.get::<_, i64>(0).cast_unsigned());
            table.beats.insert(owner, counted(&row, 1));
        }
        Ok(table)
    }

    async fn head(&mut self, lane: LaneId) -> Result<Option<LaneRow>, Trouble> {
        head::read(self.open().await?, lane).await
    }
}

/// Removes the beats of processes that own nothing, and the records of lanes that were retired a day
/// ago. Their heads stay (R8).
async fn sweep(client: &tokio_postgres::Client) -> Result<(), Trouble> {
    let beats = "DELETE FROM dpc.beat b WHERE b.written < now() - interval '1 day' \
                 AND NOT EXISTS (SELECT FROM dpc.lane_head h WHERE h.owner = b.owner)";
    within(client.execute(beats, &[])).await?;
    let retired = "SELECT h.lane FROM dpc.lane_head h WHERE h.state = 'retired' \
                   AND h.claimed < now() - interval '1 day' \
                   AND EXISTS (SELECT FROM dpc.lane_log l WHERE l.lane = h.lane)";
    for row in within(client.query(retired, &[])).await? {
        let lane: Uuid = row.get(0);
        let some = "DELETE FROM dpc.lane_log WHERE lane = $1 AND number IN \
                    (SELECT number FROM dpc.lane_log WHERE lane = $1 ORDER BY number LIMIT 256)";
        while within(client.execute(some, &[&lane])).await? > 0 {}
    }
    Ok(())
}
