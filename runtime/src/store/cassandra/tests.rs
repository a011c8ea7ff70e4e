//! The contract's suite against a real cluster, and what only a cluster that fails can show.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use dpc_core::ids::{Incarnation, LaneId};
use dpc_core::names::Name;
use dpc_core::record::hash_of;
use dpc_core::shared::{Changed, Owner, Set, SharedStore, Update};
use sim::contract::{self, Harness};
use sim::contract_shared;

use super::super::portable::move_lane;
use super::super::remote::{Keep, Lane, tip};
use super::super::testing::{Log, WAIT, ask, embedded_lane, fresh_lane, next_record};
use super::head::{Heads, uuid};
use super::keeper::Keeper;
use super::reader::Reader;
use super::session::ANSWER_MAX;
use super::*;
use crate::history::shared::contract as history_contract;
pub(super) use server::Cassandra as Server;

#[path = "../../../../tests/support/cassandra.rs"]
#[allow(dead_code, unreachable_pub, reason = "whole-system tests use it, too")]
mod server;

/// How often the contract's suite cuts the power for real: a node takes seconds to start.
const POWER_CUT_EVERY: u32 = 8;

/// The one node that all of these tests use, one after the other: some of them kill it. It takes
/// clients with TLS and without.
pub(super) fn start() -> Option<MutexGuard<'static, Server>> {
    static SERVER: OnceLock<Option<Mutex<Server>>> = OnceLock::new();
    let start = || Server::start_with(1, tls_tests::settings).map(Mutex::new);
    let server = SERVER.get_or_init(start).as_ref()?;
    // A test that has failed says so itself.
    Some(server.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(super) fn options(server: &Server) -> CassandraOptions {
    CassandraOptions {
        url: server.url("dpc", 1),
        password: Some(server::LOGIN.into()),
        tls: None,
        create_tables: true,
        patience: Duration::from_secs(60),
    }
}

fn owner(incarnation: Incarnation) -> Owner {
    let name = Name::new("node", "test").expect("valid");
    Owner { incarnation, name, address: "127.0.0.1:1".into() }
}

/// Each process has an incarnation of its own.
pub(super) fn somebody() -> Owner {
    static STARTS: AtomicU64 = AtomicU64::new(1 << 63);
    owner(Incarnation(STARTS.fetch_add(1, Ordering::Relaxed)))
}

/// A process that uses the cluster.
pub(super) fn process(options: CassandraOptions) -> CassandraDatabase {
    CassandraDatabase::open(options, somebody()).expect("the address is good")
}

/// The store of a lane, to be claimed from whoever owns it now, by a process of its own.
fn open(options: CassandraOptions, lane: LaneId) -> Cassandra {
    let mut process = process(options);
    let began = std::time::Instant::now();
    let row = loop {
        match ask(&mut process, |process, done| process.head(lane, done)) {
            // It is asked once; who needs the answer asks again.
            Err(StoreError::Io(_)) if began.elapsed() < WAIT => {}
            row => break row.expect("it can be read"),
        }
    };
    process.lane(lane, row.map(|row| (row.owner.incarnation, row.epoch)))
}

fn own(server: &Server, lane: LaneId) -> Log<Cassandra> {
    Log::claim(lane, open(options(server), lane))
}

pub(super) fn connection(options: &CassandraOptions) -> Connection {
    Connection::new(Way::of(options).expect("good"), options.create_tables)
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// Runs statements as somebody who can do everything.
fn run(server: &Server, statements: &[String]) {
    block_on(async {
        let open = connection(&options(server)).open().await.expect("connects");
        for statement in statements {
            open.link.session.query_unpaged(statement.as_str(), ()).await.expect(statement);
        }
    });
}

struct Lanes<'a> {
    server: &'a Server,
    lane: LaneId,
    power_cuts: u32,
}

impl Harness for Lanes<'_> {
    type Store = Cassandra;

    fn lane(&self) -> LaneId {
        self.lane
    }

    fn open(&mut self) -> Result<Cassandra, StoreError> {
        Ok(open(options(self.server), self.lane))
    }

    fn wait<T>(&mut self, _store: &mut Cassandra, answer: &Receiver<T>) -> T {
        answer.recv_timeout(WAIT).expect("an answer comes")
    }

    /// The process dies at once and recovers from its commit log.
    fn power_cut(&mut self) -> bool {
        self.power_cuts += 1;
        let real = self.power_cuts % POWER_CUT_EVERY == 1;
        if real {
            self.server.order("kill", None);
            self.server.order("launch", None);
        }
        real
    }
}

#[test]
fn the_cassandra_store_keeps_the_contract() {
    let Some(server) = start() else { return };
    contract::check(1, |_| Lanes { server: &server, lane: fresh_lane(), power_cuts: 0 });
}

struct Processes<'a>(&'a Server);

impl contract_shared::Harness for Processes<'_> {
    type Store = CassandraDatabase;

    fn process(&mut self, incarnation: Incarnation) -> CassandraDatabase {
        CassandraDatabase::open(options(self.0), owner(incarnation)).expect("the address is good")
    }

    fn wait<T>(&mut self, _process: &mut CassandraDatabase, answer: &Receiver<T>) -> T {
        answer.recv_timeout(WAIT).expect("an answer comes")
    }

    fn wait_lane<T>(&mut self, _lane: &mut Cassandra, answer: &Receiver<T>) -> T {
        answer.recv_timeout(WAIT).expect("an answer comes")
    }
}

#[test]
fn the_shared_contract_is_kept() {
    let Some(server) = start() else { return };
    contract_shared::check(1, |_| {
        let lane = uuid(contract_shared::LANE);
        run(
            &server,
            &[
                format!("DELETE FROM dpc.lane_head WHERE lane = {lane} IF EXISTS"),
                format!("DELETE FROM dpc.lane_log WHERE lane = {lane} AND bucket = 0"),
            ],
        );
        Processes(&server)
    });
}

#[test]
fn the_tables_of_histories_keep_their_contract() {
    let Some(server) = start() else { return };
    let process = process(options(&server));
    history_contract::suite(&*process.history(), fresh_lane());
}

#[test]
fn tables_of_before_the_history_are_added_to() {
    let Some(server) = start() else { return };
    let options = CassandraOptions { url: server.url("before_history", 1), ..options(&server) };
    let way = Way::of(&options).expect("good");
    let found = block_on(async {
        let link = session::connect(&way).await.expect("connects");
        let made = schema::create_without_history(&link, &way.address).await;
        made.expect("they are made");
        (cassandra_tables(&options, false).await, cassandra_tables(&options, true).await)
    });
    assert!(found.0.is_err_and(|error| error.to_string().contains("dpc store init")));
    assert_eq!(found.1, Ok(Tables { version: 1, made: false }));
    let process = process(options);
    history_contract::suite(&*process.history(), fresh_lane());
}

#[test]
fn an_owner_whose_lane_was_claimed_by_another_is_fenced_and_says_so() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let mut old = own(&server, lane);
    assert_eq!(old.append(1), Appended::Committed);
    let mut new = own(&server, lane);
    assert_eq!(new.claimed.last, RecordNumber(1));
    assert_eq!(new.append(2), Appended::Committed);
    let fenced = StoreError::Fenced { epoch: new.claimed.epoch };
    assert_eq!(old.append(3), Appended::DefinitelyNot(fenced.clone()));
    assert_eq!(old.read(1), Err(fenced), "a fenced owner answers nothing");
    assert_eq!(new.append(4), Appended::Committed);
    assert_eq!(new.read(1).expect("reads").len(), 3, "what the fenced one wrote is not there");
}

#[test]
fn appends_go_on_when_the_cluster_dies_and_comes_back() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let mut owner = own(&server, lane);
    assert_eq!(owner.append(1), Appended::Committed);
    server.order("kill", None);
    let under_way = owner.send(2);
    server.order("launch", None);
    assert_eq!(under_way.recv_timeout(WAIT).expect("an answer comes"), Appended::Committed);
    assert_eq!(owner.append(3), Appended::Committed);
    assert_eq!(owner.read(1).expect("reads").len(), 3, "each record is there once");
}

#[test]
fn an_append_outlasts_a_cluster_that_is_stopped_for_longer_than_an_answer_may_take() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let mut owner = own(&server, lane);
    assert_eq!(owner.append(1), Appended::Committed);
    server.order("pause", None);
    let under_way = owner.send(2);
    let early = under_way.recv_timeout(ANSWER_MAX + Duration::from_secs(1));
    server.order("resume", None);
    assert!(early.is_err(), "nothing can have been committed: {early:?}");
    assert_eq!(under_way.recv_timeout(WAIT).expect("an answer comes"), Appended::Committed);
    assert_eq!(owner.append(3), Appended::Committed, "the first try changed nothing afterwards");
}

#[test]
fn an_outage_longer_than_the_patience_is_told_as_it_is() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let short = CassandraOptions { patience: Duration::from_secs(2), ..options(&server) };
    let mut owner = Log::claim(lane, open(short, lane));
    server.order("kill", None);
    let answer = owner.append(1);
    server.order("launch", None);
    assert!(
        matches!(
            &answer,
            Appended::Unknown(StoreError::Io(_)) | Appended::DefinitelyNot(StoreError::Io(_))
        ),
        "{answer:?}"
    );
    let again = owner.append(2);
    assert!(matches!(again, Appended::DefinitelyNot(_)), "nothing works until the next claim");
    drop(owner);
    assert_eq!(own(&server, lane).claimed.last, RecordNumber(0));
}

#[test]
fn what_was_written_and_never_published_is_not_part_of_the_log() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let mut owner = own(&server, lane);
    let (id, epoch) = (uuid(lane), owner.claimed.epoch);
    let left = |number: u64, epoch: u64| {
        format!(
            "INSERT INTO dpc.lane_log (lane, bucket, number, epoch, part, parts, record) \
             VALUES ({id}, 0, {number}, {epoch}, 0, 1, 0x00ff)"
        )
    };
    // By an owner before, and by this one for what it never acknowledged.
    run(&server, &[left(1, 0), left(2, 0), left(3, epoch.0)]);
    for what in 1..=2 {
        assert_eq!(owner.append(what), Appended::Committed);
    }
    assert_eq!(owner.read(1).expect("reads").len(), 2);
    drop(owner);
    let mut next = own(&server, lane);
    assert_eq!(next.claimed.last, RecordNumber(2));
    assert_eq!(next.append(3), Appended::Committed);
    assert_eq!(next.read(1).expect("reads").len(), 3);
}

#[test]
fn old_records_go_by_whole_buckets() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let mut owner = own(&server, lane);
    let last = 64 * 2 + 10;
    for what in 1..=last {
        assert_eq!(owner.append(what), Appended::Committed);
    }
    let below = RecordNumber(64 * 2 + 5);
    assert_eq!(ask(&mut owner.store, |store, done| store.truncate(below, done)), Ok(()));
    let rows = |bucket: u64| {
        let id = uuid(lane);
        let count =
            format!("SELECT count(*) FROM dpc.lane_log WHERE lane = {id} AND bucket = {bucket}");
        block_on(async {
            let open = connection(&options(&server)).open().await.expect("connects");
            let counted = open.link.session.query_unpaged(count, ()).await.expect("counts");
            let rows = counted.into_rows_result().expect("rows");
            rows.first_row::<(i64,)>().expect("a count").0
        })
    };
    let began = std::time::Instant::now();
    while rows(0) + rows(1) > 0 {
        assert!(began.elapsed() < WAIT, "nobody drops the buckets");
    }
    assert_eq!(rows(2), 11, "a bucket that is still needed is whole");
    assert_eq!(owner.read(below.0).expect("reads").len(), 6);
    drop(owner);
    let mut next = own(&server, lane);
    assert_eq!((next.claimed.first, next.claimed.last), (below, RecordNumber(last)));
    assert_eq!(next.append(0), Appended::Committed);
}

#[test]
fn damage_is_named_and_never_served() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let mut owner = own(&server, lane);
    let (id, epoch) = (uuid(lane), owner.claimed.epoch);
    for n in 1..=5 {
        assert_eq!(owner.append(n), Appended::Committed);
    }
    let row = |number: u64| format!("WHERE lane = {id} AND bucket = 0 AND number = {number}");
    let damage = [
        (
            format!(
                "UPDATE dpc.lane_log SET record = 0x0badbad0 {} AND epoch = {epoch} AND part = 0",
                row(3)
            ),
            3,
        ),
        (format!("DELETE FROM dpc.lane_log {}", row(2)), 2),
        (format!("DELETE FROM dpc.lane_log {}", row(5)), 5),
    ];
    for (statement, number) in damage {
        run(&server, &[statement]);
        let read = ask(&mut owner.store, |store, done| store.read(RecordNumber(number), 1, done));
        let Err(StoreError::Damaged { place, .. }) = read else { panic!("{read:?}") };
        assert!(place.ends_with(&format!("record {number}")), "{place}");
    }
    let claimed = ask(&mut owner.store, |store, done| store.claim(done));
    assert!(matches!(claimed, Err(StoreError::Damaged { .. })), "a shortened log: {claimed:?}");
}

/// A keeper without its thread, whose steps can be taken one by one.
fn keeper_of(server: &Server, lane: LaneId, from: Option<(Incarnation, Epoch)>) -> Keeper {
    let heads = Heads::new(connection(&options(server)), Duration::from_secs(60));
    let reader = Reader { lane: Lane::of(lane), heads: heads.clone() };
    Keeper { lane, heads, reader, me: somebody(), from, swept: Default::default() }
}

/// An update whose answer was lost, and then another owner: what the head says decides.
#[test]
fn unknown_and_then_fenced_is_found_out_by_reading() {
    let Some(server) = start() else { return };
    for (published, then_appended) in [(true, false), (true, true), (false, false), (false, true)] {
        let lane = fresh_lane();
        block_on(async {
            let mut old = keeper_of(&server, lane, None);
            let claimed = old.claim().await.expect("claims");
            let record = next_record(lane, &claimed, b"in doubt");
            let (number, hash) = (claimed.last.next(), hash_of(&record));
            old.write(claimed.epoch, number, &record).await.expect("writes");
            let update = Update {
                lane,
                owner: old.me(),
                epoch: claimed.epoch,
                number: Some(claimed.last),
                set: Set::Publish { number, hash },
            };
            if published {
                assert_eq!(old.update(update.clone()).await, Changed::Done);
            }
            let mut new = keeper_of(&server, lane, Some((old.me(), claimed.epoch)));
            let claimed = new.claim().await.expect("claims");
            assert_eq!(claimed.last == number, published);
            if then_appended {
                let record = next_record(lane, &claimed, b"the next owner's");
                let (next, hash) = (claimed.last.next(), hash_of(&record));
                new.write(claimed.epoch, next, &record).await.expect("writes");
                let set = Set::Publish { number: next, hash };
                let (owner, number) = (new.me(), Some(claimed.last));
                let update = Update { lane, owner, epoch: claimed.epoch, number, set };
                assert_eq!(new.update(update).await, Changed::Done);
                let tip = tip(lane, &Claimed { last: next, last_hash: hash, ..claimed });
                new.reader.check_last(&tip).await.expect("the head names the new one's");
            }
            // The answer was lost, so the update is sent again.
            let mut attempt = dpc_core::shared::Attempt::new(update, dpc_core::Mono(0));
            let lost = dpc_core::shared::Tried::Lost(StoreError::Io("no answer".into()));
            attempt.on_tried(dpc_core::Mono(0), lost);
            let tried = old.heads.try_once(&attempt.update, 0).await;
            let next = attempt.on_tried(dpc_core::Mono(1), tried);
            let dpc_core::shared::Next::Answer(answer) = next else { panic!("{next:?}") };
            match published {
                true => assert_eq!(answer, Changed::Done),
                false => assert!(matches!(answer, Changed::Refused(Some(_))), "{answer:?}"),
            }
        });
    }
}

#[test]
fn nodes_that_make_the_tables_together_make_them_once() {
    let Some(server) = start() else { return };
    let options = CassandraOptions { url: server.url("together", 1), ..options(&server) };
    let made: Vec<bool> = block_on(async {
        let one = async || connection(&options).tables().await.expect("the tables are there");
        let all = futures_util::future::join_all((0..6).map(|_| one())).await;
        all.into_iter().map(|tables| tables.made).collect()
    });
    assert_eq!(made.iter().filter(|made| **made).count(), 1, "one says that it made them");
    let lane = fresh_lane();
    assert_eq!(Log::claim(lane, open(options, lane)).append(1), Appended::Committed);
}

#[test]
fn what_cannot_work_is_refused_at_once_with_what_to_do() {
    let Some(server) = start() else { return };
    let good = options(&server);
    let refused = |options: &CassandraOptions| {
        let tables = cassandra_tables(options, false);
        block_on(tables).expect_err("refused").to_string()
    };
    drop(own(&server, fresh_lane()));
    let other = CassandraOptions { url: server.url("nothing_here", 1), ..good.clone() };
    assert!(refused(&other).contains("dpc store init"));
    let other = CassandraOptions { url: good.url.clone() + "&consistency=quorum", ..good.clone() };
    assert!(refused(&other).contains("could both own a lane"));
    let other = CassandraOptions { url: good.url.clone() + "&dc=east", ..good.clone() };
    assert!(refused(&other).contains("no data centre east"), "{}", refused(&other));
    let other = CassandraOptions { password: None, ..good.clone() };
    assert!(refused(&other).contains("CASSANDRA_PASSWORD is not set"));
    let wrong = CassandraOptions { password: Some("wrong".into()), ..good };
    assert!(refused(&wrong).contains("are incorrect"), "{}", refused(&wrong));
    let claimed = ask(&mut process(wrong), |process, done| process.head(fresh_lane(), done));
    assert!(matches!(claimed, Err(StoreError::Refused(_))), "no patience helps: {claimed:?}");
}

#[test]
fn a_lane_that_moved_here_goes_on_where_it_was() {
    let Some(server) = start() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    // More than one bucket, and records of several parts in the last one.
    let lane = embedded_lane(dir.path(), 66, 700 << 10, 63);
    let mut to = CassandraIntake::open(options(&server)).expect("the address is good");
    let whose = |_| Ok(somebody());
    let moved = move_lane(dir.path(), &mut to, ("cassandra", "here"), whose, |_| {});
    let moved = block_on(moved).expect("moves");
    assert_eq!((moved.lane, moved.carried.records), (lane, 4));
    let mut log = own(&server, lane);
    assert_eq!((log.claimed.first.0, log.claimed.last.0), (63, 66));
    for number in 63..=66 {
        let read = log.read(number).expect("is sound");
        assert_eq!(read[0].0.0, number);
    }
    assert_eq!(log.append(1), Appended::Committed);
}
