//! Pushes inside a caller's own transaction of the database that a mesh is kept in: they come true
//! with the caller's commit, once, whatever dies meanwhile.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use dpc_client::Uuid;
use serde_json::Value;
use support::postgres::Postgres;
use support::{Node, folder, http_get, wait_until, wait_until_done};
use tokio_postgres::{Client, NoTls};

/// Objects pushed while nodes and the server die.
const OBJECTS: usize = 600;

fn start(folder: &Path, name: &str, server: &Postgres, more: &[&str]) -> Node {
    let url = format!("store.url={}", server.url);
    let extra = [&["--set", "store.kind=postgres", "--set", &url], more].concat();
    Node::start(folder, name, &extra)
}

async fn connect(server: &Postgres) -> Client {
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
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let node = start(folder.path(), "p", &server, &[]);
    server.psql("CREATE TABLE orders (number int PRIMARY KEY)");
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
    wait_until_done(std::slice::from_ref(&node)).await;
    wait_until_empty(&connect(&server).await).await;
    assert_eq!(text(&server.psql("SELECT number FROM orders")), "2");
    let ran = node.cli(&["object", "get", &undone]).await;
    assert_eq!(ran.code, Some(1), "what was rolled back was never seen: {}", ran.stdout);
}

#[tokio::test]
async fn what_cannot_be_pushed_is_refused_by_name_and_ends_the_transaction() {
    let Some(server) = Postgres::start() else { return };
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
    let Some(server) = Postgres::start() else { return };
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
async fn push_in_transactions(server: &Postgres, ids: &[Uuid]) {
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
    let Some(server) = Postgres::start() else { return };
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
