//! The torture of lanes ([`super::super::torture`]) in a server that is killed, restarted at once, and
//! whose processes stand still now and then, all of them or some.
//!
//! `cargo test -p runtime --lib postgres::torture` takes seconds; with `DPC_LONG=1` five minutes.

use dpc_core::record::hash_of;
use dpc_core::shared::SharedStore;

use super::super::testing::ask;
use super::super::torture::dice::Dice;
use super::super::torture::{Lanes, Torture};
use super::tests::server::Postgres as Server;
use super::tests::{database, fresh, options, run_sql, start};
use super::*;

/// The port that a server listens on unless it is told otherwise.
const PORT: u16 = 5432;

/// As nodes have it.
fn careful(options: &PostgresOptions, lane: LaneId) -> Result<Box<dyn Store>, StoreError> {
    let (mut process, from) = owner_of(options, lane)?;
    Ok(Box::new(process.lane(lane, from)))
}

/// A process that may take the lane, and from whom.
fn owner_of(
    options: &PostgresOptions,
    lane: LaneId,
) -> Result<(PostgresDatabase, Option<(Incarnation, Epoch)>), StoreError> {
    let mut process = database(options.clone(), fresh());
    let row = ask(&mut process, |process, done| process.head(lane, done))?;
    Ok((process, row.map(|row| (row.owner.incarnation, row.epoch))))
}

/// The same without owner and epoch in the condition of an append: only the number is there.
fn careless(options: &PostgresOptions, lane: LaneId) -> Result<Box<dyn Store>, StoreError> {
    let (process, from) = owner_of(options, lane)?;
    let way = parse(&options.url, None)?;
    let (me, patience) = (process.owner.clone(), options.patience);
    let (changes, changes_in) = mpsc::channel(QUEUE_COUNT_MAX);
    let thread = on_a_thread("dpc-store", async move || {
        let session = Session::new(way.clone());
        let keeper = Keeper { lane: Lane::of(lane), session, patience, me, from };
        work_carelessly(keeper, (way, false), changes_in).await;
    })?;
    Ok(Box::new(Postgres { changes: Some(changes), reads: None, thread: Some(thread) }))
}

async fn work_carelessly(
    mut keeper: Keeper,
    tables: (Way, bool),
    mut changes: mpsc::Receiver<Change>,
) {
    while let Some(change) = changes.recv().await {
        let error = keeper.lane.borrow().error();
        match (change, error) {
            (Change::Claim(done), _) => done(claim(&mut keeper, &tables).await),
            (Change::Append(epoch, number, record, _, done), None) => {
                done(append_carelessly(&mut keeper, epoch, number, record).await);
            }
            (change, error) => change.refuse(error.unwrap_or_else(dead)),
        }
    }
}

/// Whoever owns the lane now is put into the condition: that is as good as nobody.
async fn append_carelessly(
    keeper: &mut Keeper,
    epoch: Epoch,
    number: RecordNumber,
    record: Bytes,
) -> Appended {
    let tip = keeper.lane.borrow().tip;
    if let Err(error) = tip.admit(epoch, number, &record) {
        return Appended::DefinitelyNot(error);
    }
    let found = match keeper.session.open().await {
        Ok(open) => head::read(&open.client, tip.lane).await.ok().flatten(),
        Err(_) => None,
    };
    let (owner, there) =
        found.map_or((keeper.me.incarnation, epoch), |row| (row.owner.incarnation, row.epoch));
    let me = std::mem::replace(&mut keeper.me.incarnation, owner);
    let hash = hash_of(&record);
    let answer = keeper.append_at_last(there, number, &hash, (&record, &[])).await;
    keeper.me.incarnation = me;
    let answer = match answer {
        // Somebody else's record stands there: an owner knows that it was fenced.
        Appended::DefinitelyNot(StoreError::Damaged { .. }) => {
            Appended::DefinitelyNot(StoreError::Fenced { epoch: there })
        }
        answer => answer,
    };
    let mut lane = keeper.lane.borrow_mut();
    match &answer {
        Appended::Committed => (lane.tip.last, lane.tip.last_hash) = (number, hash),
        Appended::DefinitelyNot(error) | Appended::Unknown(error) => {
            lane.failed = Some(error.clone());
        }
    }
    answer
}

fn by(options: &PostgresOptions, address: &str, patience: Duration) -> PostgresOptions {
    let url = format!("postgresql://dpc@{address}/dpc");
    PostgresOptions { url, patience, ..options.clone() }
}

fn torture(
    server: &Server,
    lanes: Lanes<PostgresOptions>,
    check: impl FnOnce(&Torture<'_, PostgresOptions>),
) {
    // A loopback address of its own: the port is that of the socket.
    let [_, .., a, b, c] = uuid::Uuid::now_v7().into_bytes();
    let host = format!("127.{}.{b}.{c}", a | 128);
    run_sql(server, &format!("ALTER SYSTEM SET listen_addresses = '{host}'"));
    server.order("restart");
    let fault = |dice: &mut Dice| match dice.index(6) {
        0 => {
            server.order("kill");
            server.order("start");
        }
        1 => server.order("restart"),
        all => {
            server.order(if all < 4 { "pause" } else { "stall" });
            std::thread::sleep(dice.millis(50, 1_200));
            server.order("resume");
        }
    };
    let (options, target) = (options(server), format!("{host}:{PORT}"));
    check(&Torture { options, target, by: &by, lanes, careful, fault: &fault });
}

#[test]
fn owners_that_take_a_lane_from_each_other_lose_nothing_and_never_fork_it() {
    let Some(server) = start() else { return };
    torture(&server, careful, |torture| torture.assert_nothing_is_lost());
}

#[test]
fn without_owner_and_epoch_in_the_condition_the_torture_finds_a_fork() {
    let Some(server) = start() else { return };
    torture(&server, careless, |torture| torture.assert_a_fork_is_found());
}
