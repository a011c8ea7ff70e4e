//! The store of lanes in Postgres: records are rows, the head is a row that only its owner moves.
//!
//! ```text
//! dpc.lane_head   lane → owner, epoch, state, first and last record, hash of the last
//! dpc.lane_log    (lane, number) → record
//! dpc.beat        process → the number of its last beat
//! dpc.history_part, dpc.history_row   what ended and what was decided (`crate::history::shared`)
//! dpc.inbox       what callers have pushed inside their own transactions, until a record holds it
//! ```
//!
//! A process has one [`PostgresDatabase`], and a [`Postgres`] for each lane that it runs. A lane's
//! thread holds three connections: one changes the lane, one reads it, one deletes what is not kept
//! any more. Each is made again after a fault. An append whose answer was lost is sent again, which
//! is safe because it can succeed only once (see [`keeper`]); only after `patience` is it given up
//! as *unknown*.

mod bare;
mod database;
mod head;
mod history;
mod inbox;
mod intake;
mod keeper;
mod reader;
mod schema;
mod session;

use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::shared::{InboxRow, Owner, Set, SharedLane};
use dpc_core::store::{Appended, Claimed, Done, ReadDone, Store, StoreError};
use tokio::sync::{mpsc, watch};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

pub(crate) use bare::postgres_bare;
pub use database::PostgresDatabase;
pub use inbox::PostgresInbox;
pub(crate) use inbox::{Decided, Row};
pub(crate) use intake::PostgresIntake;

use super::tls::TlsFiles;
use super::trouble::{Patience, Trouble};
use keeper::{Keeper, Lane};
use reader::Reader;
use session::{Session, Way};

/// The most requests that wait for a thread. A caller that goes beyond is refused.
const QUEUE_COUNT_MAX: usize = 1024;

/// How a database is reached.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgresql://…`, or `key=value` pairs, as every client of Postgres takes it.
    pub url: String,
    /// TLS, where it is asked for.
    pub tls: Option<TlsFiles>,
    /// Make the tables if they are not there.
    pub create_tables: bool,
    /// How long an outage may last before the node gives up.
    pub patience: Duration,
}

/// The store of one lane in Postgres. Dropping it ends its connections: what was under way then is
/// decided by the server.
pub struct Postgres {
    changes: Option<mpsc::Sender<Change>>,
    reads: Option<mpsc::Sender<Read>>,
    thread: Option<JoinHandle<()>>,
}

enum Change {
    Claim(Done<Result<Claimed, StoreError>>),
    /// A record, and the rows of the inbox that go with it.
    Append(Epoch, RecordNumber, Bytes, Vec<InboxRow>, Done<Appended>),
    Truncate(RecordNumber, Done<Result<(), StoreError>>),
    /// [`Set::Renew`] or [`Set::Retire`].
    Head(Epoch, Set, Done<Appended>),
}

struct Read(RecordNumber, usize, ReadDone);

impl Postgres {
    fn new(
        (way, create_tables): (Way, bool),
        patience: Duration,
        me: Owner,
        lane: LaneId,
        from: Option<(Incarnation, Epoch)>,
    ) -> Self {
        let (changes, changes_in) = mpsc::channel(QUEUE_COUNT_MAX);
        let (reads, reads_in) = mpsc::channel(QUEUE_COUNT_MAX);
        let thread = on_a_thread("dpc-store", async move || {
            let shared = Lane::of(lane);
            let session = Session::new(way.clone());
            let keeper = Keeper { lane: shared, session, patience, me, from };
            work(keeper, (way, create_tables), changes_in, reads_in).await;
        });
        // Without its thread the store answers every request with that.
        let thread = thread.map_err(|error| tracing::error!("{error}")).ok();
        Self { changes: Some(changes), reads: Some(reads), thread }
    }

    fn change(&self, change: Change) {
        let changes = self.changes.as_ref().expect("open until dropped");
        match changes.try_send(change) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(change)) => change.refuse(full()),
            Err(mpsc::error::TrySendError::Closed(change)) => change.refuse(dead()),
        }
    }
}

/// Runs something on a thread and a runtime of its own.
fn on_a_thread(
    name: &str,
    work: impl AsyncFnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let failed =
        |error: std::io::Error| StoreError::Io(format!("cannot start a storage thread: {error}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let run = move || tokio::task::LocalSet::new().block_on(&runtime, work());
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(failed)
}

/// Reads the address of a database, and the files of TLS to it.
///
/// # Errors
///
/// [`StoreError::Refused`] says what is wrong with them.
pub(crate) fn parse(url: &str, tls: Option<&TlsFiles>) -> Result<Way, StoreError> {
    let mut config: Config = url.parse().map_err(|error| {
        StoreError::Refused(format!("store.url is no address of Postgres: {error}"))
    })?;
    let refused = |why: &str| Err(StoreError::Refused(why.into()));
    let local = |host: &Host| matches!(host, Host::Unix(_));
    match tls {
        None if config.get_ssl_mode() == SslMode::Require => {
            return refused(
                "store.url asks for TLS (sslmode=require): name the authority of the server's \
                 certificate in store.tls_ca",
            );
        }
        Some(_) if config.get_hosts().iter().any(local) => {
            return refused("store.tls_ca is set, and there is no TLS on a local socket");
        }
        Some(_) => drop(config.ssl_mode(SslMode::Require)),
        None => {}
    }
    let tls = tls.map(TlsFiles::read).transpose()?.map(MakeRustlsConnect::new);
    // As every client of Postgres does it; a password in the configuration would be shown with it.
    if let Ok(password) = std::env::var("PGPASSWORD") {
        config.password(password);
    }
    config.application_name("dpc").keepalives_idle(Duration::from_secs(10));
    Ok(Way { config, tls })
}

/// The tables of a database, as they were found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Their version.
    pub version: i32,
    /// Whether they were made just now.
    pub made: bool,
}

/// Checks that a database commits durably and has dpc's tables, which `create` makes if they are
/// not there.
///
/// # Errors
///
/// [`StoreError`] if the database cannot be reached, has no tables, or has those of another version.
pub async fn postgres_tables(
    options: &PostgresOptions,
    create: bool,
) -> Result<Tables, StoreError> {
    let way = parse(&options.url, options.tls.as_ref())?;
    ready(&way, create).await.map_err(Trouble::into_error)
}

async fn ready(way: &Way, create: bool) -> Result<Tables, Trouble> {
    let mut client = session::connect(way).await?;
    let made = create && schema::create(&mut client).await?;
    let version = schema::check(schema::version(&client).await?).map_err(Trouble::Refused)?;
    Ok(Tables { version, made })
}

fn full() -> StoreError {
    StoreError::Refused(format!("{QUEUE_COUNT_MAX} requests wait for the storage thread already"))
}

fn dead() -> StoreError {
    StoreError::Io("the storage thread has died".into())
}

impl Change {
    fn refuse(self, error: StoreError) {
        match self {
            Self::Claim(done) => done(Err(error)),
            Self::Append(.., done) | Self::Head(.., done) => {
                done(Appended::DefinitelyNot(error));
            }
            Self::Truncate(_, done) => done(Err(error)),
        }
    }
}

impl Store for Postgres {
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>) {
        self.change(Change::Claim(done));
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>) {
        self.append_taking(epoch, number, record, Vec::new(), done);
    }

    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        let reads = self.reads.as_ref().expect("open until dropped");
        match reads.try_send(Read(from, bytes_max, done)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(read)) => (read.2)(Err(full())),
            Err(mpsc::error::TrySendError::Closed(read)) => (read.2)(Err(dead())),
        }
    }

    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>) {
        self.change(Change::Truncate(below, done));
    }
}

impl SharedLane for Postgres {
    fn renew(&mut self, epoch: Epoch, done: Done<Appended>) {
        self.change(Change::Head(epoch, Set::Renew, done));
    }

    fn retire(&mut self, epoch: Epoch, done: Done<Appended>) {
        self.change(Change::Head(epoch, Set::Retire, done));
    }

    fn append_taking(
        &mut self,
        epoch: Epoch,
        number: RecordNumber,
        record: Bytes,
        rows: Vec<InboxRow>,
        done: Done<Appended>,
    ) {
        self.change(Change::Append(epoch, number, record, rows, done));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        (self.changes, self.reads) = (None, None);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the storage thread panicked");
        }
    }
}

/// Answers requests until the store is dropped.
async fn work(
    keeper: Keeper,
    tables: (Way, bool),
    changes: mpsc::Receiver<Change>,
    mut reads: mpsc::Receiver<Read>,
) {
    let lane = keeper.lane.borrow().tip.lane;
    let (kept, kept_in) = watch::channel(RecordNumber(0));
    let way = tables.0.clone();
    let janitor = reader::forget(lane, Session::new(way.clone()), kept_in);
    let janitor = tokio::task::spawn_local(janitor);
    let patience = keeper.patience;
    let mut reader = Reader { lane: keeper.lane.clone(), session: Session::new(way), patience };
    let reader = tokio::task::spawn_local(async move {
        while let Some(Read(from, bytes_max, done)) = reads.recv().await {
            done(reader.read(from, bytes_max).await);
        }
    });
    change(keeper, &tables, changes, kept).await;
    // A read that waits for the database, or a deletion, is not waited for.
    reader.abort();
    janitor.abort();
}

async fn change(
    mut keeper: Keeper,
    tables: &(Way, bool),
    mut changes: mpsc::Receiver<Change>,
    kept: watch::Sender<RecordNumber>,
) {
    while let Some(change) = changes.recv().await {
        match change {
            Change::Claim(done) => {
                let claimed = claim(&mut keeper, tables).await;
                if let Ok(claimed) = &claimed {
                    kept.send_replace(claimed.first);
                }
                done(claimed);
            }
            change => {
                let error = keeper.lane.borrow().error();
                match error {
                    Some(error) => change.refuse(error),
                    None => after_claim(&mut keeper, change, &kept).await,
                }
            }
        }
    }
}

async fn claim(keeper: &mut Keeper, tables: &(Way, bool)) -> Result<Claimed, StoreError> {
    let mut patience = Patience::of(keeper.patience);
    loop {
        match ready(&tables.0, tables.1).await {
            Ok(_) => return keeper.claim().await,
            Err(Trouble::Refused(error)) => return Err(error),
            Err(Trouble::NotSent(why) | Trouble::Lost(why)) => {
                tracing::warn!("the database is not reached yet: {why}");
                if !patience.wait().await {
                    return Err(StoreError::Io(why));
                }
            }
        }
    }
}

async fn after_claim(keeper: &mut Keeper, change: Change, kept: &watch::Sender<RecordNumber>) {
    match change {
        Change::Claim(_) => unreachable!("handled by the caller"),
        Change::Append(epoch, number, record, rows, done) => {
            done(keeper.append(epoch, number, record, &rows).await);
        }
        Change::Head(epoch, set, done) => done(keeper.renew_or_retire(epoch, set).await),
        Change::Truncate(below, done) => {
            let cut = keeper.truncate(below).await;
            if cut.is_ok() {
                kept.send_replace(keeper.lane.borrow().tip.first);
            }
            done(cut);
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
#[cfg(test)]
mod torture;
