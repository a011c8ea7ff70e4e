//! Nodes whose lanes are in Postgres: an OK outlives node and server, objects move between such a
//! node and an embedded one, and a configuration that cannot work is refused with what to do.

mod support;

use std::collections::BTreeSet;

use dpc_client::Object;
use support::postgres::Postgres;
use support::transaction::is_all_or_nothing;
use support::{Node, cli, folder, wait_for, wait_until_done};

/// Objects pushed while the server dies.
const OBJECTS: usize = 400;

fn flags(server: &Postgres) -> [String; 4] {
    [
        "--set".into(),
        "store.kind=postgres".into(),
        "--set".into(),
        format!("store.url={}", server.url),
    ]
}

fn start(folder: &std::path::Path, name: &str, server: &Postgres, more: &[&str]) -> Node {
    let flags = flags(server);
    let extra: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Node::start(folder, name, &extra)
}

#[tokio::test]
async fn an_ok_outlives_the_node_and_its_own_disk_keeps_only_who_it_is() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let mut node = start(folder.path(), "p", &server, &[]);
    let pushed = node.json(&["push", "type.Kept", "--data", "kept"]).await;
    assert_eq!(pushed[0]["status"], "stored");
    assert_eq!(pushed[0]["durability"], "committed");
    let lane = node.ready.lane.clone();
    node.kill();
    // What can be built again is built again.
    for derived in ["index", "history"] {
        let path = folder.path().join("p").join(derived);
        if path.exists() {
            std::fs::remove_dir_all(&path).expect("it goes");
        }
    }
    node.start_again();
    assert_eq!(node.ready.lane, lane);
    let taken = node.json(&["subscribe", "type.Kept", "--count", "1"]).await;
    assert_eq!(taken[0]["id"], pushed[0]["id"]);
    assert_eq!(taken[0]["data"], "kept");
    let got = node.json(&["object", "get", pushed[0]["id"].as_str().expect("an id")]).await;
    assert_eq!(got[0]["state"], "final");
    is_all_or_nothing(&mut node).await;
}

#[tokio::test]
async fn pushes_go_on_when_the_server_dies_and_every_ok_is_kept() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let mut node = start(folder.path(), "p", &server, &[]);
    let client = node.client();
    let mut stored = BTreeSet::new();
    for round in 0..OBJECTS / 20 {
        if round % 7 == 3 {
            server.order("kill");
        }
        let waiting: Vec<_> = (0..20)
            .map(|n| {
                let push = Object::new("type.Load", format!("{round}-{n}"));
                let client = client.clone();
                tokio::spawn(async move { client.push(push).await })
            })
            .collect();
        if round % 7 == 3 {
            server.order("start");
        }
        for push in waiting {
            let receipt = push.await.expect("no panic").expect("it outlasts the server's restart");
            assert!(stored.insert(receipt.id.to_string()), "an id of its own");
        }
    }
    node.kill();
    node.start_again();
    let count = OBJECTS.to_string();
    let taken = node.json(&["subscribe", "type.Load", "--count", &count, "--credit", "100"]).await;
    let taken: BTreeSet<String> =
        taken.iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(taken, stored, "what was answered OK, once each");
    wait_until_done(&[node]).await;
}

#[tokio::test]
async fn objects_move_between_a_node_on_postgres_and_an_embedded_one() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let embedded = Node::start(folder.path(), "e", &[]);
    let port = embedded.ready.nodes.clone();
    let mut node = start(folder.path(), "p", &server, &["--peer", &port]);
    let there = node.json(&["push", "type.There", "--data", "to the embedded one"]).await;
    let back = embedded.json(&["push", "type.Back", "--data", "to postgres"]).await;
    let taken = embedded.json(&["subscribe", "type.There", "--count", "1"]).await;
    assert_eq!((&taken[0]["id"], &taken[0]["hops"]), (&there[0]["id"], &1.into()));
    let taken = node.json(&["subscribe", "type.Back", "--count", "1"]).await;
    assert_eq!((&taken[0]["id"], &taken[0]["hops"]), (&back[0]["id"], &1.into()));
    node.kill();
    node.start_again();
    let id = there[0]["id"].as_str().expect("an id");
    let trace = node.json(&["object", "trace", id, "--local"]).await;
    assert!(!trace.is_empty(), "the move is remembered by the database's lane");
    wait_for("the link", async || {
        let nodes = embedded.json(&["node", "ls"]).await;
        nodes.iter().any(|n| n["node"] == "p" && n["link"] == "up").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_store_that_cannot_work_is_refused_with_what_to_do() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let flags = flags(&server);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let store = async |verb: &str| {
        let mut all = vec!["store", verb, "-o", "json"];
        all.extend(&flags);
        cli(&all).await
    };
    let missing = store("check").await;
    assert_eq!(missing.code, Some(1), "{}", missing.stderr);
    assert!(missing.stderr.contains("dpc store init"), "{}", missing.stderr);
    assert_eq!(store("init").await.lines()[0]["made"], true);
    assert_eq!(store("init").await.lines()[0]["made"], false);
    assert_eq!(store("check").await.lines()[0]["schema"], 4);

    // A folder belongs to the store that its lane is kept in.
    let mut node = Node::start(folder.path(), "x", &[]);
    assert_eq!(node.stop(), Some(0));
    let data = folder.path().join("x");
    let mut serve = vec!["serve", "--data-dir", data.to_str().expect("text")];
    serve.extend(["--listen-clients", "127.0.0.1:0", "--listen-nodes", "127.0.0.1:0"]);
    serve.extend(["--listen-admin", "127.0.0.1:0"]);
    serve.extend(&flags);
    let refused = cli(&serve).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("kept in store \"embedded\""), "{}", refused.stderr);
}
