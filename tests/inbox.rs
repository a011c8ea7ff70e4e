//! Pushes and settles inside a caller's own transaction of the database that a mesh is kept in: they
//! come true with the caller's commit, once, whatever dies meanwhile.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dpc_client::proto::v1::ObjectState;
use dpc_client::{LeaseToken, Object, Uuid, sql};
use rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;
use serde_json::Value;
use support::postgres::Postgres as Server;
use support::{Node, below, folder, http_get, wait_until, wait_until_done};
use tokio_postgres::{Client, NoTls, Transaction};

/// Objects pushed while nodes and the server die.
const OBJECTS: usize = 600;

/// Orders that are invoiced meanwhile.
const ORDERS: i64 = 60;

/// Notes of each row that leaves the inbox whether a record was written in the same transaction.
const WITNESS: &str = "\
    CREATE TABLE gone (seq bigint, with_record boolean); \
    CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        INSERT INTO gone SELECT OLD.seq, EXISTS ( \
            SELECT FROM dpc.lane_log l WHERE l.xmin = pg_current_xact_id()::xid); \
        RETURN NULL; \
    END $$; \
    CREATE CONSTRAINT TRIGGER witness AFTER DELETE ON dpc.inbox \
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION witness()";

fn start(folder: &Path, name: &str, server: &Server, more: &[&str]) -> Node {
    let url = format!("store.url={}", server.url);
    let extra = [&["--set", "store.kind=postgres", "--set", &url], more].concat();
    Node::start(folder, name, &extra)
}

async fn connect(server: &Server) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url, NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn wait_until_empty(sql: &Client) {
    wait_until("the inbox to be empty", async || {
        let row = sql.query_one("SELECT count(*) FROM dpc.inbox", &[]).await.expect("counts");
        let left: i64 = row.get(0);
        if left == 0 { Ok(()) } else { Err(format!("{left} rows left")) }
    })
    .await;
}

/// Objects of a type that were ever pushed at a node.
async fn pushed(node: &Node, ty: &str) -> u64 {
    let types = node.types().await;
    types
        .iter()
        .filter(|info| info.r#type == ty)
        .map(|info| info.books.expect("always").pushed)
        .sum()
}

#[tokio::test]
async fn a_push_comes_true_with_the_callers_commit_and_never_without() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let node = start(folder.path(), "p", &server, &[]);
    text(&server.psql("CREATE TABLE orders (number int PRIMARY KEY)"));
    text(&server.psql(WITNESS));
    let undone = text(&server.psql(
        "BEGIN; INSERT INTO orders VALUES (1); SELECT dpc.dpc_push('acme.Order', 'undone'); ROLLBACK",
    ));
    let done = text(&server.psql(
        "BEGIN; INSERT INTO orders VALUES (2); \
         SELECT dpc.dpc_push('acme.Order', 'done', headers => '{\"tenant\": \"acme\"}'); COMMIT",
    ));
    let taken = node.json(&["subscribe", "acme.Order", "--count", "1"]).await;
    assert_eq!((&taken[0]["id"], &taken[0]["data"]), (&done.into(), &"done".into()));
    assert_eq!(taken[0]["headers"]["tenant"], "acme");
    // One that commits late is not passed over by those that came after it.
    let mut sql = connect(&server).await;
    let open = sql.transaction().await.expect("begins");
    open.execute("SELECT dpc.dpc_push('acme.Order', 'late')", &[]).await.expect("pushed");
    for (data, commits) in [("early", None), ("late", Some(open))] {
        match commits {
            None => _ = text(&server.psql("SELECT dpc.dpc_push('acme.Order', 'early')")),
            Some(open) => open.commit().await.expect("commits"),
        }
        let taken = node.json(&["subscribe", "acme.Order", "--count", "1"]).await;
        assert_eq!(taken[0]["data"], data);
    }
    wait_until_done(std::slice::from_ref(&node)).await;
    wait_until_empty(&connect(&server).await).await;
    assert_eq!(text(&server.psql("SELECT number FROM orders")), "2");
    assert_eq!(text(&server.psql("SELECT count(*) FROM gone WHERE with_record")), "3");
    assert_eq!(text(&server.psql("SELECT count(*) FROM gone WHERE NOT with_record")), "0");
    let ran = node.cli(&["object", "get", &undone]).await;
    assert_eq!(ran.code, Some(1), "what was rolled back was never seen: {}", ran.stdout);
}

#[tokio::test]
async fn what_cannot_be_pushed_is_refused_by_name_and_ends_the_transaction() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let _node = start(folder.path(), "p", &server, &[]);
    let sql = connect(&server).await;
    let id = "0192e4a0-0000-7000-8000-000000000001";
    let push = |rest: &str| format!("SELECT dpc.dpc_push({rest})::text");
    let with_id = push(&format!("'a.B', 'x', id => '{id}'"));
    for _ in 0..2 {
        let row = sql.query_one(&with_id, &[]).await.expect("the same again changes nothing");
        assert_eq!(row.get::<_, &str>(0), id);
    }
    let cases = [
        ("'', 'x'", "TYPE_MISSING", "type", None),
        ("'a..B', 'x'", "TYPE_MALFORMED", "type", None),
        ("repeat('a', 256), 'x'", "LIMIT_EXCEEDED", "type", Some(255)),
        ("'a.B', NULL", "PAYLOAD_MISSING", "payload", None),
        ("'a.B', repeat('x', 1048577)::bytea", "LIMIT_EXCEEDED", "payload", Some(1_048_576)),
        ("'a.B', '', headers => '[]'", "HEADERS_MALFORMED", "headers", None),
        ("'a.B', '', headers => '{\"a\": 1}'", "HEADERS_MALFORMED", "headers", None),
        ("'a.B', '', headers => '{\"\": \"\"}'", "HEADER_KEY_MISSING", "headers", None),
        (
            "'a.B', '', headers => jsonb_build_object(repeat('k', 129), '')",
            "LIMIT_EXCEEDED",
            "headers.key",
            Some(128),
        ),
        (
            "'a.B', '', headers => jsonb_build_object('k', repeat('v', 16384))",
            "LIMIT_EXCEEDED",
            "headers",
            Some(16_384),
        ),
        (
            "'a.B', '', headers => (SELECT jsonb_object_agg(n, '') FROM generate_series(1, 65) n)",
            "LIMIT_EXCEEDED",
            "headers",
            Some(64),
        ),
        (
            "'a.B', '', not_before => now() - interval '1 s'",
            "TIME_OUT_OF_RANGE",
            "not_before",
            None,
        ),
        (
            "'a.B', '', expires_at => now() + interval '366 days'",
            "TIME_OUT_OF_RANGE",
            "expires_at",
            Some(31_536_000),
        ),
        (
            "'a.B', '', not_before => now() + interval '2 s', expires_at => now() + interval '1 s'",
            "TIME_OUT_OF_RANGE",
            "expires_at",
            None,
        ),
    ];
    let refused = async |rest: &str| {
        let error = sql.query_one(&push(rest), &[]).await.expect_err(rest);
        let error = error.as_db_error().expect("the server says it").clone();
        let detail: Value = serde_json::from_str(error.detail().expect("a detail")).expect("JSON");
        (error.code().code().to_owned(), detail)
    };
    for (rest, reason, field, limit) in cases {
        let (code, detail) = refused(rest).await;
        let said = (&detail["reason"], &detail["field"], detail["limit"].as_i64());
        assert_eq!(said, (&reason.into(), &field.into(), limit), "{rest}");
        assert_eq!(code, "DPC01", "{rest}");
    }
    let (code, detail) = refused(&format!("'a.B', 'y', id => '{id}'")).await;
    assert_eq!((code.as_str(), &detail["reason"]), ("DPC02", &"ID_REUSED".into()));
}

#[tokio::test]
async fn what_a_node_cannot_take_stays_for_another_and_what_none_can_for_a_person() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let full = start(folder.path(), "full", &server, &["--set", "limits.types=1"]);
    let sql = connect(&server).await;
    full.json(&["push", "x.A", "--data", "the one type that there is room for"]).await;
    let broken = "INSERT INTO dpc.inbox (id, type, payload) VALUES (dpc.new_id(), 'no type', '')";
    sql.batch_execute(broken).await.expect("a mistake that somebody makes");
    for ty in ["x.B", "x.A"] {
        sql.execute("SELECT dpc.dpc_push($1, 'x')", &[&ty]).await.expect("pushed");
    }
    // It came last: so the others have been tried.
    wait_until("the type that has room", async || {
        let taken = pushed(&full, "x.A").await;
        if taken == 2 { Ok(()) } else { Err(taken.to_string()) }
    })
    .await;
    let row = sql.query_one("SELECT count(*) FROM dpc.inbox WHERE type = 'x.B'", &[]).await;
    assert_eq!(row.expect("counts").get::<_, i64>(0), 1, "it waits");
    wait_until("the alarm", async || {
        let page = http_get(&full.ready.admin, "/metrics");
        let raised = page.contains("dpc_alarm{reason=\"INBOX_REFUSED\"} 1");
        if raised { Ok(()) } else { Err("it is not raised".to_owned()) }
    })
    .await;
    let why = "SELECT refused FROM dpc.inbox WHERE type = 'no type'";
    let why: String = sql.query_one(why, &[]).await.expect("it stays").get(0);
    assert!(why.contains("TYPE_MALFORMED"), "{why}");
    let other = start(folder.path(), "other", &server, &[]);
    let mend = "UPDATE dpc.inbox SET type = 'x.Mended', refused = NULL WHERE refused IS NOT NULL";
    sql.batch_execute(mend).await.expect("a person puts it right");
    wait_until_empty(&sql).await;
    assert_eq!((pushed(&other, "x.B").await, pushed(&other, "x.Mended").await), (1, 1));
}

/// Pushes in transactions of several, each again until its commit was answered: the id says that it
/// is the same.
async fn push_in_transactions(server: &Server, ids: &[Uuid]) {
    for some in ids.chunks(8) {
        let once = async || {
            let (mut sql, connection) = tokio_postgres::connect(&server.url, NoTls).await?;
            tokio::spawn(connection);
            let transaction = sql.transaction().await?;
            for id in some {
                let push = "SELECT dpc.dpc_push('t.Load', 'load', $1)";
                transaction.execute(push, &[id]).await?;
            }
            transaction.commit().await
        };
        wait_until("a commit", async || once().await.map_err(|error| error.to_string())).await;
    }
}

#[tokio::test]
async fn rows_become_objects_once_whatever_dies() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let mut a = start(folder.path(), "a", &server, &[]);
    let b = start(folder.path(), "b", &server, &["--peer", &a.ready.nodes]);
    let ids: Vec<Uuid> = (0..OBJECTS).map(|_| Uuid::now_v7()).collect();
    for (round, some) in ids.chunks(OBJECTS / 6).enumerate() {
        let push = push_in_transactions(&server, some);
        let fault = async {
            match round % 3 {
                0 => {}
                1 => {
                    a.kill();
                    a.start_again();
                }
                _ => {
                    server.order("kill");
                    server.order("start");
                }
            }
        };
        tokio::join!(push, fault);
    }
    wait_until_empty(&connect(&server).await).await;
    let (at_a, at_b) = (pushed(&a, "t.Load").await, pushed(&b, "t.Load").await);
    assert_eq!(at_a + at_b, OBJECTS as u64, "a {at_a}, b {at_b}");
    let count = OBJECTS.to_string();
    let taken = b.json(&["subscribe", "t.Load", "--count", &count, "--credit", "100"]).await;
    let taken: BTreeSet<String> =
        taken.iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(taken, ids.iter().map(Uuid::to_string).collect());
    wait_until_done(&[a, b]).await;
}

/// The statements of the documentation, as they stand there.
fn documented() -> Vec<&'static str> {
    let page = include_str!("../docs/transactions.md");
    page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().expect("it ends")).collect()
}

fn tables(server: &Server) -> (String, String) {
    let count = |table: &str| text(&server.psql(&format!("SELECT count(*) FROM {table}")));
    (count("invoices"), count("dpc.settled WHERE outcome = 'done'"))
}

#[tokio::test]
async fn an_order_and_its_invoice_as_the_documentation_has_them() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let node = start(folder.path(), "p", &server, &[]);
    let [create, order, invoice] = documented()[..] else { panic!("three pieces of SQL") };
    text(&server.psql(create));
    text(&server.psql(order));
    let take = ["subscribe", "shop.v1.Order", "--count", "1", "--settle", "none"];
    let taken = node.json(&take).await;
    assert_eq!(taken[0]["data"], "{\"number\": 7}");
    let token = taken[0]["lease"]["token"].as_str().expect("a token");
    let with_token = |sql: &str| format!("\\set token {token}\n{sql}");
    let undone = with_token(&invoice.replace("COMMIT", "ROLLBACK"));
    text(&server.psql(&undone));
    let id: Uuid = taken[0]["id"].as_str().expect("an id").parse().expect("a UUID");
    assert_eq!(
        node.state(id).await,
        Some(ObjectState::Leased),
        "rolled back: nothing has happened"
    );
    text(&server.psql(&with_token(invoice)));
    let invoiced = node.json(&["subscribe", "shop.v1.Invoice", "--count", "1"]).await;
    assert_eq!(invoiced[0]["data"], "{\"order\": 7}");
    wait_until_done(std::slice::from_ref(&node)).await;
    assert_eq!(node.state(id).await, Some(ObjectState::Final));
    wait_until("the outcome", async || {
        let there = tables(&server);
        if there == ("1".into(), "1".into()) { Ok(()) } else { Err(format!("{there:?}")) }
    })
    .await;
    let again = server.psql(&with_token(invoice));
    assert!(!again.status.success(), "whoever had no answer learns that it was done");
    let why = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(why.contains("SETTLED_BEFORE"), "{why}");
    assert_eq!(tables(&server).0, "1");
}

/// Runs a settle and one more row in a transaction that is not committed yet.
async fn settle<'a>(
    sql: &'a mut Client,
    token: LeaseToken,
) -> Result<Transaction<'a>, tokio_postgres::Error> {
    let transaction = sql.transaction().await?;
    transaction.execute("INSERT INTO invoices (of_order, total) VALUES (7, 1)", &[]).await?;
    transaction.execute(sql::SETTLE, &[&token.to_string()]).await?;
    Ok(transaction)
}

fn state(error: &tokio_postgres::Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn of_two_holders_of_an_object_one_commits_whoever_has_lost_the_lease() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let mut node = start(folder.path(), "p", &server, &[]);
    text(&server.psql(documented()[0]));
    let client = node.client();
    let second = Duration::from_secs(1);
    let take = async || {
        let taken = client.take("t.Work").wait(Duration::from_secs(30)).lease(second).await;
        taken.expect("no error").first().expect("it is delivered").token()
    };
    for commits in [true, false] {
        let (mut one, mut other) = (connect(&server).await, connect(&server).await);
        let push = sql::Push::new(Object::new("t.Work", "work").header("k", "v"));
        one.execute(sql::PUSH, &[&push.payload, &push.envelope]).await.expect("pushed");
        let first = settle(&mut one, take().await).await.expect("it holds the lease");
        // That lease runs out, and the object goes to somebody else.
        let token = take().await;
        let end = async {
            if commits { first.commit().await } else { first.rollback().await }.expect("it ends");
        };
        let (settled, ()) = tokio::join!(settle(&mut other, token), end);
        match settled {
            Ok(transaction) if !commits => transaction.commit().await.expect("it is the only one"),
            Err(error) if commits => assert_eq!(state(&error), sql::SETTLED_BEFORE),
            other => panic!("one of the two: {commits} {:?}", other.err()),
        }
        // Whoever gets the object once more finalises it: the work is done.
        while node.open().await > 0 {
            let taken = client.take("t.Work").wait(second / 5).lease(second).await;
            for again in taken.expect("no error") {
                // Should that lease be over, too, the next one does it.
                let _lost = client.settle(again.token()).await;
            }
        }
    }
    assert_eq!(tables(&server).0, "2", "one for each object");

    let mut sql = connect(&server).await;
    client.push(Object::new("t.Work", "more")).await.expect("stored");
    let token = take().await;
    node.kill();
    node.start_again();
    let lost = settle(&mut sql, token).await.err().expect("the lease is of the start before");
    assert_eq!(state(&lost), sql::LEASE_LOST);
    let elsewhere = LeaseToken::try_from(&[7; 56][..]).expect("well formed");
    let refused = settle(&mut sql, elsewhere).await.err().expect("a lane of nobody here");
    assert_eq!(state(&refused), sql::INVALID);
}

/// Works as a subscriber does: the invoice and the order's end in one transaction, some of which
/// take longer than the lease, or are given up.
async fn invoice(client: dpc_client::Client, server: &Server, seed: u64, over: &AtomicBool) {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    while !over.load(Ordering::Relaxed) {
        let take = client.take("t.Order").wait(Duration::from_millis(500)).max(3);
        let Ok(taken) = take.lease(Duration::from_secs(1)).await else { continue };
        for order in taken {
            let work = async {
                let (mut sql, connection) = tokio_postgres::connect(&server.url, NoTls).await?;
                tokio::spawn(connection);
                let transaction = sql.transaction().await?;
                let insert = "INSERT INTO invoices (of_order, total) VALUES ($1::text::int, 1)";
                let number = String::from_utf8_lossy(&order.payload()).into_owned();
                transaction.execute(insert, &[&number]).await?;
                transaction.execute(sql::SETTLE, &[&order.token().to_string()]).await?;
                match below(&mut random, 6) {
                    0 => return transaction.rollback().await,
                    // Longer than the lease: another one gets the object meanwhile.
                    1 => {
                        transaction.execute("SELECT pg_sleep(1.2)", &[]).await?;
                    }
                    _ => {}
                }
                transaction.commit().await
            };
            if work.await.is_err_and(|error| state(&error) == sql::SETTLED_BEFORE) {
                // Should it fail, the next holder does it.
                let _lost = client.settle(order.token()).await;
            }
        }
    }
}

#[tokio::test]
async fn every_order_has_one_invoice_whatever_dies() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let backoff = ["--set", "limits.backoff_first=100ms", "--set", "limits.backoff_max=100ms"];
    let a = start(folder.path(), "a", &server, &backoff);
    let peer = [&["--peer", a.ready.nodes.as_str()], &backoff[..]].concat();
    let mut b = start(folder.path(), "b", &server, &peer);
    text(&server.psql(documented()[0]));
    let push = format!(
        "SELECT dpc.dpc_push('t.Order', n::text::bytea) FROM generate_series(1, {ORDERS}) n"
    );
    text(&server.psql(&push));
    let over = AtomicBool::new(false);
    let b_client = b.client();
    let faults = async {
        for share in [4, 2, 1] {
            wait_until("a share of the invoices", async || {
                let count = "SELECT count(DISTINCT of_order) FROM invoices";
                let done: i64 = connect(&server)
                    .await
                    .query_one(count, &[])
                    .await
                    .expect("the server runs")
                    .get(0);
                if done * share >= ORDERS { Ok(()) } else { Err(done.to_string()) }
            })
            .await;
            match share {
                4 => {
                    b.kill();
                    b.start_again();
                }
                2 => {
                    server.order("kill");
                    server.order("start");
                }
                _ => {}
            }
        }
        wait_until("all to be final", async || {
            let open = a.open().await + b.open().await;
            if open == 0 { Ok(()) } else { Err(format!("{open} are open")) }
        })
        .await;
        over.store(true, Ordering::Relaxed);
    };
    let (one, other) = (a.client(), b_client);
    tokio::join!(faults, invoice(one, &server, 1, &over), invoice(other, &server, 2, &over));
    let counts = "SELECT count(*), count(DISTINCT of_order) FROM invoices";
    assert_eq!(text(&server.psql(counts)), format!("{ORDERS}|{ORDERS}"));
}
