//! The contract's suite against a real server, and what only a server that fails can show.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use dpc_core::record::{Header, hash_of, seal};
use dpc_core::time::Wall;
use sim::contract::{self, Harness};
use tempfile::TempDir;

use super::*;
use server::Postgres as Server;

#[path = "../../../../tests/support/postgres.rs"]
#[allow(unreachable_pub, reason = "whole-system tests use it, too")]
mod server;

/// Longer than anything takes on a busy machine.
const WAIT: Duration = Duration::from_secs(90);

fn start() -> Option<Arc<Server>> {
    Server::start().map(Arc::new)
}

fn options(server: &Server) -> PostgresOptions {
    PostgresOptions {
        url: server.url.clone(),
        create_tables: true,
        patience: Duration::from_secs(60),
        node: "test".into(),
    }
}

/// A node's folder, which goes with the test.
struct Node(TempDir);

impl Node {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn seat(&self) -> Seat {
        Seat::open(self.0.path()).expect("opens")
    }

    /// The same lane in another folder, as a copy of this one has it.
    fn copy(&self) -> Self {
        let copy = Self::new();
        let format = "FORMAT";
        std::fs::copy(self.0.path().join(format), copy.0.path().join(format)).expect("copies");
        copy
    }
}

struct Lanes {
    server: Arc<Server>,
    node: Node,
}

impl Harness for Lanes {
    type Store = Postgres;

    fn lane(&self) -> LaneId {
        Node::copy(&self.node).seat().lane()
    }

    fn open(&mut self) -> Result<Postgres, StoreError> {
        Postgres::open(Seat::open(self.node.0.path())?, options(&self.server))
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
struct Owner {
    store: Postgres,
    lane: LaneId,
    claimed: Claimed,
}

impl Owner {
    fn new(server: &Server, node: &Node) -> Self {
        Self::with(node, options(server))
    }

    fn with(node: &Node, options: PostgresOptions) -> Self {
        let seat = node.seat();
        let lane = seat.lane();
        let mut store = Postgres::open(seat, options).expect("the address is good");
        let claimed = claim(&mut store);
        Self { store, lane, claimed }
    }

    fn send(&mut self, what: u64) -> Receiver<Appended> {
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
        send(&mut self.store, |store, done| store.append(epoch, last.next(), record, done))
    }

    fn append(&mut self, what: u64) -> Appended {
        self.send(what).recv_timeout(WAIT).expect("an answer comes")
    }
}

#[test]
fn the_postgres_store_keeps_the_contract() {
    let Some(server) = start() else { return };
    contract::check(1, |_| {
        let node = Node::new();
        drop(node.seat());
        Lanes { server: Arc::clone(&server), node }
    });
}

#[test]
fn an_owner_whose_lane_was_claimed_by_another_is_fenced_and_says_so() {
    let Some(server) = start() else { return };
    let node = Node::new();
    let mut old = Owner::new(&server, &node);
    assert_eq!(old.append(1), Appended::Committed);
    let copy = node.copy();
    let mut new = Owner::new(&server, &copy);
    assert_eq!(new.claimed.last, RecordNumber(1));
    assert_eq!(new.append(2), Appended::Committed);
    let fenced = StoreError::Fenced { epoch: new.claimed.epoch };
    assert_eq!(old.append(3), Appended::DefinitelyNot(fenced.clone()));
    let read = ask(&mut old.store, |store, done| store.read(RecordNumber(1), 1, done));
    assert_eq!(read, Err(fenced), "a fenced owner answers nothing");
    assert_eq!(new.append(4), Appended::Committed);
}

#[test]
fn appends_go_on_when_the_server_dies_and_comes_back() {
    let Some(server) = start() else { return };
    let node = Node::new();
    let mut owner = Owner::new(&server, &node);
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
    let node = Node::new();
    let mut owner = Owner::new(&server, &node);
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
    let patience = Duration::from_millis(300);
    let options = PostgresOptions { patience, ..options(&server) };
    let node = Node::new();
    let mut owner = Owner::with(&node, options);
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
    let node = Node::new();
    let mut owner = Owner::new(&server, &node);
    for n in 1..=5 {
        assert_eq!(owner.append(n), Appended::Committed);
    }
    let damage = [
        ("UPDATE dpc.lane_log SET record = set_byte(record, 90, 255) WHERE number = 3", 3),
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
    drop(owner);
    for sql in ["UPDATE dpc.lane_head SET epoch = 0", "DELETE FROM dpc.lane_head"] {
        run_sql(&server, sql);
        let mut store = Postgres::open(node.seat(), options(&server)).expect("the address is good");
        let claimed = ask(&mut store, |store, done| store.claim(done));
        assert!(matches!(claimed, Err(StoreError::Damaged { .. })), "{sql}: {claimed:?}");
    }
}

fn run_sql(server: &Server, sql: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = parse(&server.url).expect("good");
        let client = session::connect(&config).await.expect("connects");
        client.batch_execute(sql).await.expect("runs");
    });
}

#[test]
fn addresses_that_cannot_be_used_are_refused() {
    for (url, why) in [
        ("postgresql://host:port/x", "no address of Postgres"),
        ("postgresql://h/x?sslmode=require", "not built yet"),
    ] {
        let options = PostgresOptions {
            url: url.into(),
            create_tables: true,
            patience: Duration::from_secs(1),
            node: String::new(),
        };
        let node = Node::new();
        let error = Postgres::open(node.seat(), options);
        let error = error.err().expect("refused").to_string();
        assert!(error.contains(why), "{error}");
    }
}
