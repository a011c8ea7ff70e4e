//! What a process asks of the cluster besides its lanes: beats, the list of lanes, verdicts. Its one
//! storage thread does this and the work on every lane, by one session.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::limits::QUEUE_LOADS_MAX;
use dpc_core::shared::{Changed, LaneRow, Owner, Set, SharedStore, Table, Update};
use dpc_core::store::{Done, StoreError};
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::super::remote::{self, Lane, QUEUE_COUNT_MAX, Read, Remote, Requests, dead, full};
use super::super::trouble::Trouble;
use super::head::{Heads, bits, signed, unreadable, unsigned};
use super::history::{self, CassandraHistory};
use super::keeper::Keeper;
use super::reader::{self, Bucket, Reader};
use super::session::Connection;
use super::{Cassandra, CassandraOptions, Way};
use crate::history::shared::{self, HistoryTables};

/// Reads of a lane under way at a time: as many pages as core asks for ahead of one queue.
const READS_AT_ONCE: usize = QUEUE_LOADS_MAX;

/// A process's handle of the cluster. The storage thread ends when it and all lanes are dropped.
pub struct CassandraDatabase {
    owner: Owner,
    asks: mpsc::Sender<Ask>,
    thread: Arc<Thread>,
}

/// The storage thread, which is waited for by whoever drops it last.
pub(super) struct Thread(Option<JoinHandle<()>>);

pub(super) enum Ask {
    Beat(u64, Done<Result<(), StoreError>>),
    Table(Done<Result<Table, StoreError>>),
    Head(LaneId, Done<Result<Option<LaneRow>, StoreError>>),
    Dead(Update, Done<Changed>),
    Lane(LaneId, Option<(Incarnation, Epoch)>, Owner, Requests),
    History(shared::Ask),
}

impl CassandraDatabase {
    /// The cluster as this process uses it. The first connection is made by the first request.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the address cannot be understood, if it names a user and there is
    /// no password, or if a file of TLS cannot be used.
    pub fn open(options: CassandraOptions, owner: Owner) -> Result<Self, StoreError> {
        let way = Way::of(&options)?;
        let CassandraOptions { create_tables, patience, .. } = options;
        let failed = |error: std::io::Error| {
            StoreError::Io(format!("cannot start the storage thread: {error}"))
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (asks, asked) = mpsc::channel(QUEUE_COUNT_MAX);
        let me = owner.incarnation;
        let thread = std::thread::Builder::new().name("dpc-store".into()).spawn(move || {
            let connection = Connection::new(way, create_tables);
            let heads = Heads::new(connection, patience);
            tokio::task::LocalSet::new().block_on(&runtime, run(heads, me, asked));
        });
        let thread = Arc::new(Thread(Some(thread.map_err(failed)?)));
        Ok(Self { owner, asks, thread })
    }

    /// The tables in which histories are kept.
    pub(crate) fn history(&self) -> Arc<dyn HistoryTables> {
        let (asks, thread) = (self.asks.clone(), Arc::clone(&self.thread));
        Arc::new(CassandraHistory { asks, _thread: thread })
    }

    fn ask(&self, ask: Ask) {
        send(&self.asks, ask);
    }
}

/// Asks the storage thread.
pub(super) fn send(asks: &mpsc::Sender<Ask>, ask: Ask) {
    match asks.try_send(ask) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(ask)) => ask.refuse(full()),
        Err(mpsc::error::TrySendError::Closed(ask)) => ask.refuse(dead()),
    }
}

impl Ask {
    fn refuse(self, error: StoreError) {
        match self {
            Self::Beat(_, done) => done(Err(error)),
            Self::Table(done) => done(Err(error)),
            Self::Head(_, done) => done(Err(error)),
            Self::Dead(_, done) => done(Changed::Nothing(error)),
            // Without its requests, whoever asks the lane is told that nobody answers.
            Self::Lane(..) => {}
            Self::History(ask) => ask.refuse(error),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.0.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the storage thread panicked");
        }
    }
}

impl SharedStore for CassandraDatabase {
    type Lane = Cassandra;

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

    fn lane(&mut self, lane: LaneId, from: Option<(Incarnation, Epoch)>) -> Cassandra {
        let (remote, requests) = Remote::new();
        self.ask(Ask::Lane(lane, from, self.owner.clone(), requests));
        Cassandra { remote, _asks: self.asks.clone(), _thread: Arc::clone(&self.thread) }
    }
}

/// Answers requests until nobody can ask any more. Each is answered beside the others.
async fn run(heads: Heads, me: Incarnation, mut asked: mpsc::Receiver<Ask>) {
    while let Some(ask) = asked.recv().await {
        let heads = heads.clone();
        tokio::task::spawn_local(async move {
            match ask {
                // Each of these is tried once: who asks will ask again.
                Ask::Beat(number, done) => {
                    done(beat(&heads, me, number).await.map_err(Trouble::into_error));
                }
                Ask::Table(done) => done(table(&heads).await.map_err(Trouble::into_error)),
                Ask::Head(lane, done) => {
                    let head = heads.read(lane).await.map_err(Trouble::into_error);
                    done(head.map(|standing| standing.map(|standing| standing.row)));
                }
                Ask::Dead(update, done) => done(heads.change(update, 0).await),
                Ask::History(ask) => history::answer(&heads.connection, ask).await,
                Ask::Lane(lane, from, owner, requests) => {
                    work(heads, (lane, from, owner), requests).await;
                }
            }
        });
    }
}

async fn beat(heads: &Heads, me: Incarnation, number: u64) -> Result<(), Trouble> {
    heads.connection.ask(|it| &it.beat, (bits(me), signed(number))).await.map(drop)
}

async fn table(heads: &Heads) -> Result<Table, Trouble> {
    let mut table = Table::default();
    for row in heads.list().await? {
        table.lanes.insert(row.lane, row);
    }
    let answer = heads.connection.ask(|it| &it.beats, ()).await?;
    let rows = answer.into_rows_result().map_err(unreadable)?;
    for row in rows.rows::<(i64, i64)>().map_err(unreadable)? {
        let (owner, number) = row.map_err(unreadable)?;
        table.beats.insert(Incarnation(owner.cast_unsigned()), unsigned(number));
    }
    Ok(table)
}

/// Works on one lane until its store is dropped.
async fn work(
    heads: Heads,
    (lane, from, me): (LaneId, Option<(Incarnation, Epoch)>, Owner),
    requests: Requests,
) {
    let Requests { changes, reads, dropped } = requests;
    let (shared, swept) = (Lane::of(lane), Rc::new(Cell::new(0)));
    let (kept, kept_in) = watch::channel(RecordNumber(0));
    // A lane has a coordinator of its own.
    let heads = Heads::new(heads.connection.clone(), heads.patience);
    let reader = Reader { lane: shared.clone(), heads: heads.clone() };
    let sweep = reader::sweep(lane, heads.connection.clone(), Rc::clone(&swept), kept_in);
    let answer_reads = {
        let reader = reader.clone();
        let read = move |Read(from, bytes_max, done): Read| {
            let reader = reader.clone();
            async move { (done, reader.read(from, bytes_max).await) }
        };
        // They are answered in their order.
        ReceiverStream::new(reads)
            .map(read)
            .buffered(READS_AT_ONCE)
            .for_each(async |(done, records)| done(records))
    };
    let (connection, end) = (heads.connection.clone(), (shared.clone(), Rc::clone(&swept)));
    let mut keeper = Keeper { lane, heads, reader, me, from, swept };
    let change = remote::change(&mut keeper, shared, changes, kept);
    tokio::select! {
        biased;
        // Nobody is there any more: what is under way is decided by the cluster.
        _ = dropped => {}
        ((), (), ()) = async { tokio::join!(change, answer_reads, sweep) } => {}
    }
    let (shared, swept) = end;
    let (retired, last) = (shared.borrow().retired, shared.borrow().tip.last);
    if retired {
        reader::sweep_below(lane, &connection, &swept, Bucket::of(last).next()).await;
    }
}
