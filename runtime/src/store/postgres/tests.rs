//! The contract's suite against a real server, and what only a server that fails can show.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use dpc_core::names::Name;
use dpc_core::record::{Header, hash_of, seal};
use dpc_core::shared::{InboxRow, SharedLane, SharedStore};
use dpc_core::time::Wall;
use sim::contract::{self, Harness};
use sim::contract_shared;

use uuid::Uuid;

use super::super::Seat;
use super::*;
use crate::failover::take_own_lane;
use crate::history::shared::contract as history_contract;
use server::Postgres as Server;

mod inbox;

#[path = "../../../../tests/support/postgres.rs"]
#[allow(unreachable_pub, dead_code, reason = "whole-system tests use it, too")]
pub(super) mod server;

/// Longer than anything takes on a busy machine.
const WAIT: Duration = Duration::from_secs(90);

pub(super) fn start() -> Option<Arc<Server>> {
    Server::start().map(Arc::new)
}

pub(super) fn options(server: &Server) -> PostgresOptions {
    let patience = Duration::from_secs(60);
    PostgresOptions { url: server.url.clone(), tls: None, create_tables: true, patience }
}

/// Each process has an incarnation of its own.
pub(super) fn fresh() -> Incarnation {
    static STARTS: AtomicU64 = AtomicU64::new(1 << 63);
    Incarnation(STARTS.fetch_add(1, Ordering::Relaxed))
}

/// A process that uses the server.
fn process(server: &Server, patience: Duration) -> PostgresDatabase {
    process_of(server, fresh(), patience)
}

fn process_of(server: &Server, incarnation: Incarnation, patience: Duration) -> PostgresDatabase {
    database(PostgresOptions { patience, ..options(server) }, incarnation)
}

pub(super) fn database(options: PostgresOptions, incarnation: Incarnation) -> PostgresDatabase {
    let name = Name::new("node", "test").expect("valid");
    let owner = Owner { incarnation, name, address: "127.0.0.1:1".into() };
    PostgresDatabase::open(options, owner).expect("the address is good")
}

fn fresh_lane() -> LaneId {
    LaneId(*Uuid::now_v7().as_bytes())
}

/// The store of a lane, to be claimed from whoever owns it now.
fn open(process: &mut PostgresDatabase, lane: LaneId) -> Postgres {
    let began = std::time::Instant::now();
    let row = loop {
        let (tx, rx) = channel();
        process.head(lane, Box::new(move |row| drop(tx.send(row))));
        match rx.recv_timeout(WAIT).expect("an answer comes") {
            Ok(row) => break row,
            // Who asks while the server is away has to ask again.
            Err(error) => assert!(began.elapsed() < WAIT, "it cannot be read: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    process.lane(lane, row.map(|row| (row.owner.incarnation, row.epoch)))
}

struct Lanes {
    server: Arc<Server>,
    lane: LaneId,
}

impl Harness for Lanes {
    type Store = Postgres;

    fn lane(&self) -> LaneId {
        self.lane
    }

    fn open(&mut self) -> Result<Postgres, StoreError> {
        Ok(open(&mut process(&self.server, WAIT), self.lane))
    }

    fn wait<T>(&mut self, _store: &mut Postgres, answer: &Receiver<T>) -> T {
        answer.recv_timeout(WAIT).expect("an answer comes")
    }

    /// The processes die at once and the server recovers from its own log, as after a power cut
    /// whose disk has kept what was synced.
    fn power_cut(&mut self) -> bool {
        self.server.order("kill");
        self.server.order("start");
        true
    }
}

struct Processes {
    server: Arc<Server>,
}

impl contract_shared::Harness for Processes {
    type Store = PostgresDatabase;

    fn process(&mut self, incarnation: Incarnation) -> PostgresDatabase {
        process_of(&self.server, incarnation, WAIT)
    }

    fn wait<T>(&mut self, _process: &mut PostgresDatabase, answer: &Receiver<T>) -> T {
        answer.recv_timeout(WAIT).expect("an answer comes")
    }

    fn wait_lane<T>(&mut self, _lane: &mut Postgres, answer: &Receiver<T>) -> T {
        answer.recv_timeout(WAIT).expect("an answer comes")
    }
}

fn ask<T: Send + 'static>(store: &mut Postgres, request: impl FnOnce(&mut Postgres, Done<T>)) -> T {
    send(store, request).recv_timeout(WAIT).expect("an answer comes")
}

fn send<T: Send + 'static>(
    store: &mut Postgres,
    request: impl FnOnce(&mut Postgres, Done<T>),
) -> Receiver<T> {
    let (tx, rx) = channel();
    // Whoever has stopped waiting has dropped the receiver.
    request(store, Box::new(move |answer| drop(tx.send(answer))));
    rx
}

fn claim(store: &mut Postgres) -> Claimed {
    ask(store, |store, done| store.claim(done)).expect("claims")
}

/// Owns a lane and appends to it.
struct Claimant {
    store: Postgres,
    lane: LaneId,
    incarnation: Incarnation,
    claimed: Claimed,
}

impl Claimant {
    fn new(server: &Server, lane: LaneId) -> Self {
        Self::with(server, lane, WAIT)
    }

    fn with(server: &Server, lane: LaneId, patience: Duration) -> Self {
        let mut process = process(server, patience);
        let incarnation = process.owner.incarnation;
        let mut store = open(&mut process, lane);
        let claimed = claim(&mut store);
        Self { store, lane, incarnation, claimed }
    }

    fn send(&mut self, what: u64) -> Receiver<Appended> {
        self.send_taking(what, Vec::new())
    }

    fn next_record(&mut self, what: u64) -> (RecordNumber, Bytes) {
        let Claimed { epoch, last, last_hash, .. } = self.claimed;
        let header = Header {
            lane: self.lane,
            epoch,
            number: last.next(),
            wall: Wall(what),
            previous: last_hash,
            checkpoint: RecordNumber(0),
            entries: 0,
        };
        let record = seal(&header, &what.to_le_bytes());
        (self.claimed.last, self.claimed.last_hash) = (last.next(), hash_of(&record));
        (last.next(), record)
    }

    /// The same, with rows of the inbox that go with it.
    fn send_taking(&mut self, what: u64, rows: Vec<InboxRow>) -> Receiver<Appended> {
        let Claimed { epoch, .. } = self.claimed;
        let (number, record) = self.next_record(what);
        send(&mut self.store, |store, done| store.append_taking(epoch, number, record, rows, done))
    }

    /// The inbox, as this owner sees it.
    fn inbox(&self, server: &Server) -> PostgresInbox {
        let place = (self.lane, self.claimed.epoch);
        PostgresInbox::open(&options(server), place, self.incarnation).expect("the address is good")
    }

    fn append(&mut self, what: u64) -> Appended {
        self.send(what).recv_timeout(WAIT).expect("an answer comes")
    }
}

#[test]
fn the_postgres_store_keeps_the_contract() {
    let Some(server) = start() else { return };
    contract::check(1, |_| Lanes { server: Arc::clone(&server), lane: fresh_lane() });
}

#[test]
fn the_postgres_store_keeps_the_contract_of_a_shared_store() {
    let Some(server) = start() else { return };
    contract_shared::check(1, |_| {
        run_sql(&server, "DROP SCHEMA IF EXISTS dpc CASCADE");
        Processes { server: Arc::clone(&server) }
    });
}

#[test]
fn the_tables_of_histories_keep_their_contract() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let process = process(&server, WAIT);
    history_contract::suite(&*process.history().expect("a thread"), lane);
    run_sql(
        &server,
        "UPDATE dpc.history_row SET expires = now() - interval '1 s'; \
         UPDATE dpc.history_part SET expires = now() - interval '1 s'",
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let left = runtime.block_on(async {
        let config = parse(&server.url, None).expect("good");
        let client = session::connect(&config).await.expect("connects");
        history::sweep(&client).await.expect("sweeps");
        let count =
            "SELECT (SELECT count(*) FROM dpc.history_row) + count(*) FROM dpc.history_part";
        client.query_one(count, &[]).await.expect("counts").get::<_, i64>(0)
    });
    assert_eq!(left, 0, "what is over is removed");
}

#[test]
fn tables_of_the_first_version_are_brought_up_to_date_and_their_owners_fenced() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let mut owner = Claimant::new(&server, lane);
    assert_eq!(owner.append(1), Appended::Committed);
    let epoch = owner.claimed.epoch;
    drop(owner);
    run_sql(
        &server,
        "DROP TABLE dpc.beat; DELETE FROM dpc.schema_version; \
         INSERT INTO dpc.schema_version (version) VALUES (1); ALTER TABLE dpc.lane_head \
         DROP COLUMN owner, DROP COLUMN address, DROP COLUMN state, DROP COLUMN began; \
         DROP TABLE dpc.history_part, dpc.history_row; \
         DROP TABLE dpc.inbox, dpc.inbox_id, dpc.settled; DROP FUNCTION dpc.dpc_settle, dpc.dpc_push, dpc.new_id, dpc.refuse, \
         dpc.refuse_over, dpc.check_headers, dpc.check_time",
    );
    let options = PostgresOptions { create_tables: false, ..options(&server) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(postgres_tables(&options, false));
    assert!(refused.is_err_and(|error| error.to_string().contains("dpc store init")));
    let made = runtime.block_on(postgres_tables(&options, true)).expect("upgrades");
    assert_eq!(made, Tables { version: 4, made: true });
    let owner = Claimant::new(&server, lane);
    assert_eq!(owner.claimed.last, RecordNumber(1), "nothing is lost");
    assert_eq!(owner.claimed.epoch, epoch.next().next(), "and its owner of before is fenced");
}

#[test]
fn an_owner_whose_lane_was_claimed_by_another_is_fenced_and_says_so() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    let mut old = Claimant::new(&server, lane);
    assert_eq!(old.append(1), Appended::Committed);
    let mut new = Claimant::new(&server, lane);
    assert_eq!(new.claimed.last, RecordNumber(1));
    assert_eq!(new.append(2), Appended::Committed);
    let fenced = StoreError::Fenced { epoch: new.claimed.epoch };
    assert_eq!(old.append(3), Appended::DefinitelyNot(fenced.clone()));
    let read = ask(&mut old.store, |store, done| store.read(RecordNumber(1), 1, done));
    assert_eq!(read, Err(fenced), "a fenced owner answers nothing");
    assert_eq!(new.append(4), Appended::Committed);
}

/// What a duellist has tried: the record's hash and how its append ended.
type Tried = Vec<([u8; 16], Appended)>;

/// Takes a lane that others want, too.
fn take_by_force(server: &Server, lane: LaneId) -> Claimant {
    loop {
        let mut process = process(server, WAIT);
        let incarnation = process.owner.incarnation;
        let mut store = open(&mut process, lane);
        if let Ok(claimed) = ask(&mut store, |store, done| store.claim(done)) {
            return Claimant { store, lane, incarnation, claimed };
        }
    }
}

/// Takes the lane again and again and appends to it until it is lost, or the duel is over.
fn duel(
    server: &Server,
    lane: LaneId,
    over: &AtomicBool,
    fenced: &AtomicUsize,
    salt: u64,
) -> Tried {
    let mut tried = Vec::new();
    let mut what = salt;
    while !over.load(Ordering::Relaxed) {
        let mut owner = take_by_force(server, lane);
        for _ in 0..8 {
            what += 2;
            let answer = owner.append(what);
            let lost = answer != Appended::Committed;
            let refused = matches!(answer, Appended::DefinitelyNot(_));
            fenced.fetch_add(usize::from(refused), Ordering::Relaxed);
            tried.push((owner.claimed.last_hash, answer));
            if lost {
                break;
            }
        }
    }
    tried
}

#[test]
fn owners_that_take_a_lane_from_each_other_while_the_server_dies_make_no_fork() {
    let Some(server) = start() else { return };
    let lane = fresh_lane();
    drop(Claimant::new(&server, lane));
    let (over, fenced) = (AtomicBool::new(false), AtomicUsize::new(0));
    let tried: Vec<Tried> = std::thread::scope(|scope| {
        let duellists = [0, 1].map(|salt| {
            let (server, over, fenced) = (&server, &over, &fenced);
            scope.spawn(move || duel(server, lane, over, fenced, salt))
        });
        // A duel in which nobody was fenced has shown nothing.
        let mut kills = 0;
        while kills < 3 || fenced.load(Ordering::Relaxed) < 3 {
            kills += 1;
            server.order("kill");
            server.order("start");
            // The duel goes on for as long as this owner waits for its turn.
            let mut third = take_by_force(&server, lane);
            while third.append(1 << 40) == Appended::Committed {}
        }
        over.store(true, Ordering::Relaxed);
        duellists.map(|duellist| duellist.join().expect("no panic")).into()
    });
    let mut last = Claimant::new(&server, lane);
    let (mut there, mut from) = (BTreeSet::new(), RecordNumber(1));
    while from <= last.claimed.last {
        let some = ask(&mut last.store, |store, done| store.read(from, 1 << 20, done));
        for (number, record) in some.expect("the log is whole and linked") {
            there.insert(hash_of(&record));
            from = number.next();
        }
    }
    for (hash, answer) in tried.into_iter().flatten() {
        match answer {
            Appended::Committed => assert!(there.contains(&hash), "a lost record"),
            Appended::DefinitelyNot(error) => {
                assert!(!there.contains(&hash), "a phantom record: {error}");
            }
            Appended::Unknown(_) => {}
        }
    }
    assert!(there.len() > 20, "{} records", there.len());
}

#[test]
fn appends_go_on_when_the_server_dies_and_comes_back() {
    let Some(server) = start() else { return };
    let mut owner = Claimant::new(&server, fresh_lane());
    for round in 0..3 {
        assert_eq!(owner.append(round * 10), Appended::Committed);
        server.order("kill");
        let under_way = owner.send(round * 10 + 1);
        server.order("start");
        assert_eq!(under_way.recv_timeout(WAIT).expect("an answer comes"), Appended::Committed);
    }
    let records = ask(&mut owner.store, |store, done| store.read(RecordNumber(1), 1 << 20, done));
    assert_eq!(records.expect("reads").len(), 6, "each record is there once");
}

#[test]
fn an_append_outlasts_a_server_that_is_stopped_for_longer_than_an_answer_may_take() {
    let Some(server) = start() else { return };
    let mut owner = Claimant::new(&server, fresh_lane());
    assert_eq!(owner.append(1), Appended::Committed);
    server.order("pause");
    let under_way = owner.send(2);
    let early = under_way.recv_timeout(session::ANSWER_MAX + Duration::from_secs(1));
    assert!(early.is_err(), "nothing can have been committed: {early:?}");
    server.order("resume");
    assert_eq!(under_way.recv_timeout(WAIT).expect("an answer comes"), Appended::Committed);
    assert_eq!(owner.append(3), Appended::Committed, "the first try changed nothing afterwards");
}

#[test]
fn an_outage_longer_than_the_patience_is_told_as_it_is() {
    let Some(server) = start() else { return };
    let mut owner = Claimant::with(&server, fresh_lane(), Duration::from_millis(300));
    server.order("kill");
    let answer = owner.append(1);
    assert!(
        matches!(
            &answer,
            Appended::Unknown(StoreError::Io(_)) | Appended::DefinitelyNot(StoreError::Io(_))
        ),
        "{answer:?}"
    );
    server.order("start");
    let again = owner.append(2);
    assert!(matches!(again, Appended::DefinitelyNot(_)), "nothing works until the next claim");
    assert_eq!(claim(&mut owner.store).last, RecordNumber(0));
}

#[test]
fn damage_is_named_and_never_served() {
    let Some(server) = start() else { return };
    let mut owner = Claimant::new(&server, fresh_lane());
    for n in 1..=5 {
        assert_eq!(owner.append(n), Appended::Committed);
    }
    let damage = [
        ("UPDATE dpc.lane_log SET record = set_byte(record, 30, 255) WHERE number = 3", 3),
        ("DELETE FROM dpc.lane_log WHERE number = 2", 2),
        ("DELETE FROM dpc.lane_log WHERE number = 5", 5),
    ];
    for (sql, number) in damage {
        run_sql(&server, sql);
        let read = ask(&mut owner.store, |store, done| store.read(RecordNumber(number), 1, done));
        let Err(StoreError::Damaged { place, .. }) = read else { panic!("{read:?}") };
        assert!(place.ends_with(&format!("record {number}")), "{place}");
    }
    let claimed = ask(&mut owner.store, |store, done| store.claim(done));
    assert!(matches!(claimed, Err(StoreError::Damaged { .. })), "a shortened log: {claimed:?}");
}

/// A node that starts, with its own folder.
fn take(
    server: &Server,
    folder: &Path,
    name: Option<&str>,
) -> Result<(LaneId, Claimed), StoreError> {
    let mut process = process(server, WAIT);
    let mut seat = Seat::open(folder, "postgres").expect("opens");
    let name = name.map(|name| Name::new("node", name).expect("valid"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let own = take_own_lane(&mut process, &mut seat, "postgres", name.as_ref(), WAIT);
    runtime.block_on(own).map(|own| (seat.lane(), own.claimed))
}

#[test]
fn a_node_takes_its_own_lane_again_unless_another_has_it() {
    let Some(server) = start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let (lane, first) = take(&server, folder, Some("test")).expect("a new lane");
    let (again, second) = take(&server, folder, Some("test")).expect("its own");
    assert_eq!((again, second.epoch), (lane, first.epoch.next()));
    let (again, _) = take(&server, folder, Some("renamed")).expect("its own under another name");
    assert_eq!(again, lane);
    let copy = tempfile::tempdir().expect("a folder");
    let copy = copy.path();
    for file in ["FORMAT", "CLAIMED"] {
        std::fs::copy(folder.join(file), copy.join(file)).expect("copies");
    }
    assert_eq!(take(&server, copy, Some("renamed")).expect("a copy").0, lane);
    assert_ne!(take(&server, folder, None).expect("fenced by its copy").0, lane);
    let (lane, _) = take(&server, copy, Some("renamed")).expect("its own");
    let folder = copy;
    // Somebody else, by another name, has claimed it.
    drop(Claimant::new(&server, lane));
    let (other, claimed) = take(&server, folder, Some("a")).expect("a new one");
    assert_ne!(other, lane);
    assert_eq!(claimed.epoch, Epoch(1));
    assert_eq!(take(&server, folder, Some("a")).expect("that one from now on").0, other);
    let retire = format!("UPDATE dpc.lane_head SET state = 'retired' WHERE lane = '{other}'");
    run_sql(&server, &retire);
    assert_ne!(take(&server, folder, Some("a")).expect("a new one").0, other);
    for sql in ["UPDATE dpc.lane_head SET epoch = 0", "DELETE FROM dpc.lane_head"] {
        run_sql(&server, sql);
        let refused = take(&server, folder, Some("a"));
        assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{sql}: {refused:?}");
    }
}

pub(super) fn run_sql(server: &Server, sql: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = parse(&server.url, None).expect("good");
        let client = session::connect(&config).await.expect("connects");
        client.batch_execute(sql).await.expect("runs");
    });
}

#[test]
fn addresses_that_cannot_be_used_are_refused() {
    for (url, why) in [
        ("postgresql://host:port/x", "no address of Postgres"),
        ("postgresql://h/x?sslmode=require", "store.tls_ca"),
    ] {
        let patience = Duration::from_secs(1);
        let options = PostgresOptions { url: url.into(), tls: None, create_tables: true, patience };
        let name = Name::new("node", "test").expect("valid");
        let owner = Owner { incarnation: Incarnation(1), name, address: "".into() };
        let error = PostgresDatabase::open(options, owner);
        let error = error.err().expect("refused").to_string();
        assert!(error.contains(why), "{error}");
    }
}
