//! Lanes that leave their store: exported and imported as new ones, and moved into a database while
//! clients wait.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::load::{
    Shared, assert_settled_once, client, look, pusher, subscriber, wait_until_settled,
};
use support::postgres::Postgres;
use support::{Node, Ran, by_id, cli, folder, serve_fails, wait_for};

/// Objects that are settled before and after a move.
const STEP: usize = 150;

fn database(server: &Postgres) -> Vec<String> {
    let url = format!("store.url={}", server.url);
    ["--set", "store.kind=postgres", "--set", &url].map(str::to_owned).to_vec()
}

/// `dpc store VERB [FILE] --data-dir DIR …`.
async fn store(verb: &[&str], data: &Path, flags: &[String]) -> Ran {
    let mut all = vec!["store"];
    all.extend(verb);
    all.extend(["-o", "json", "--data-dir", data.to_str().expect("text")]);
    all.extend(flags.iter().map(String::as_str));
    cli(&all).await
}

fn done(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.lines().remove(0)
}

/// Pushes one object of each kind: ready, delayed, parked, final.
async fn fill(node: &Node) -> [String; 4] {
    let push = async |ty: &str, more: &[&str]| {
        let mut all = vec!["push", ty, "--data", ty];
        all.extend(more);
        node.json(&all).await[0]["id"].as_str().expect("an id").to_owned()
    };
    let ready = push("t.Ready", &[]).await;
    let delayed = push("t.Delayed", &["--delay", "10h"]).await;
    let parked = push("t.Parked", &[]).await;
    node.json(&["subscribe", "t.Parked", "--count", "1", "--settle", "reject"]).await;
    let ended = push("t.Final", &[]).await;
    node.json(&["subscribe", "t.Final", "--count", "1"]).await;
    [ready, delayed, parked, ended]
}

/// What is alive of [`fill`] is in a node, and nothing else.
async fn assert_filled(node: &Node, [ready, delayed, parked, _]: &[String; 4]) {
    let listed = node.json(&["object", "ls"]).await;
    let mut listed = by_id(&listed);
    // Where it ended, and only there, it is known by the history.
    listed.retain(|_, object| object["state"] != "final");
    let state = |id: &str| listed[id]["state"].as_str().expect("a state").to_owned();
    assert_eq!([ready, delayed, parked].map(|id| state(id)), ["ready", "delayed", "parked"]);
    assert_eq!(listed.len(), 3, "{listed:?}");
    let got = node.json(&["object", "get", ready, "--local"]).await;
    assert_eq!(got[0]["data"], "t.Ready");
}

#[tokio::test]
async fn what_is_alive_comes_back_from_every_store_as_a_new_lane() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let mut first = Node::start(folder.path(), "first", &[]);
    let ids = fill(&first).await;
    let file = at("a.dpclane");
    let export = async |from: &Path, to: &PathBuf, flags: &[String]| {
        done(&store(&["export", to.to_str().expect("text")], from, flags).await)
    };
    let running = store(&["export", file.to_str().expect("text")], first.data(), &[]).await;
    assert_eq!(running.error()["reason"], "STORE_REFUSED");
    assert!(running.stderr.contains("stop it first"), "{}", running.stderr);
    assert!(!file.exists(), "there is a whole file or none");
    assert_eq!(first.stop(), Some(0));
    let exported = export(first.data(), &file, &[]).await;
    assert_eq!(exported["lane"], first.ready.lane.as_str());

    // Embedded, Postgres, and back. What was exported may go on, too.
    let database = database(&server);
    let (mut from, mut lanes) = (file, vec![first.ready.lane.clone()]);
    for (name, flags) in [("second", &[][..]), ("third", &database), ("fourth", &[])] {
        let import = ["import", from.to_str().expect("text")];
        let imported = done(&store(&import, &at(name), flags).await);
        assert_eq!(imported["from_lane"], lanes.last().expect("one").as_str());
        assert_eq!(imported["objects"], 3);
        let again = store(&import, &at(name), flags).await;
        assert!(again.stderr.contains("an import needs an empty one"), "{}", again.stderr);
        let extra: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut node = Node::start(folder.path(), name, &extra);
        assert_eq!(imported["lane"], node.ready.lane.as_str());
        assert!(!lanes.contains(&node.ready.lane), "a lane of its own");
        assert_filled(&node, &ids).await;
        assert_eq!(node.stop(), Some(0));
        lanes.push(node.ready.lane.clone());
        from = at(&format!("{name}.dpclane"));
        assert_eq!(export(node.data(), &from, flags).await["store"], imported["store"]);
    }
    first.start_again();
    assert_eq!(first.ready.lane, lanes[0]);
    assert_filled(&first, &ids).await;
}

#[tokio::test]
async fn a_lane_moves_to_postgres_while_clients_wait() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let mut node = Node::start(folder.path(), "m", &[]);
    let ids = fill(&node).await;
    let shared = Shared::default();
    let settled = async |count: usize| {
        let what = "deliveries go on";
        wait_for(what, async || look(&shared, |known| known.settled.len() >= count).then_some(()))
            .await;
    };
    let only = client(&[&node]);
    let pusher = pusher(only.clone(), shared.clone());
    let subscriber = subscriber(only, shared.clone());
    settled(STEP).await;
    assert_eq!(node.stop(), Some(0));

    let database = database(&server);
    let flags: Vec<&str> = database.iter().map(String::as_str).collect();
    let hint = serve_fails(node.data(), &flags).await;
    assert!(hint.stderr.contains("dpc store move"), "{}", hint.stderr);
    let moved = done(&store(&["move"], node.data(), &database).await);
    assert_eq!(moved["lane"], node.ready.lane.as_str());
    let gone = serve_fails(node.data(), &[]).await;
    assert_eq!(gone.code, Some(1), "the folder is never served from again: {}", gone.stderr);

    let before = look(&shared, |known| known.settled.len());
    let lane = node.ready.lane.clone();
    node.start_again_with(&flags);
    assert_eq!(node.ready.lane, lane, "it goes on as the same lane");
    settled(before + STEP).await;
    look(&shared, |known| known.stop = true);
    pusher.await.expect("no pusher panics");
    wait_until_settled(&shared).await;
    assert_settled_once(&shared);
    subscriber.abort();
    // What has ended is known still, and pushing it again makes no second object.
    let ended = &ids[3];
    let again = node.json(&["push", "t.Final", "--data", "t.Final", "--id", ended]).await;
    assert_eq!(again[0]["status"], "already_exists");
    let got = node.json(&["object", "get", ended]).await;
    assert_eq!(got[0]["state"], "final");
    let parked = node.json(&["parked", "ls"]).await;
    assert_eq!(parked[0]["id"], ids[2].as_str());
}

#[tokio::test]
async fn a_history_is_made_anew_from_the_lane_whatever_store_keeps_it() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    for (name, flags) in [("own", Vec::new()), ("shared", database(&server))] {
        let extra: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut node = Node::start(folder.path(), name, &extra);
        let ids = fill(&node).await;
        let told = async |node: &Node| {
            let ended = node.json(&["object", "get", &ids[3]]).await.remove(0);
            (ended, node.json(&["object", "trace", &ids[3]]).await)
        };
        let before = told(&node).await;
        assert_eq!(before.0["state"], "final");
        assert!(!before.1.is_empty(), "decisions are known");
        let running = store(&["rebuild-history"], node.data(), &flags).await;
        assert_eq!(running.error()["reason"], "STORE_REFUSED", "{}", running.stderr);
        assert_eq!(node.stop(), Some(0));

        // What is there is worthless: a whole new one takes its place, and it is kept.
        let (history, kept) =
            (node.data().join("history.db"), node.data().join("history.db.before"));
        std::fs::write(&history, "no database").expect("writes");
        let rebuilt = done(&store(&["rebuild-history"], node.data(), &flags).await);
        assert_eq!(rebuilt["lane"], node.ready.lane.as_str());
        assert!(rebuilt["records"].as_u64() > Some(0), "{rebuilt}");
        let again = store(&["rebuild-history"], node.data(), &flags).await;
        assert!(again.stderr.contains("move it away or delete it"), "{}", again.stderr);
        assert_eq!(rebuilt["before"], kept.to_str().expect("text"));
        assert!(rebuilt["kept_since"].is_null(), "the lane is whole: {rebuilt}");
        assert_eq!(std::fs::read(&kept).expect("is kept"), b"no database");
        let made = std::fs::read(&history).expect("the new one is in its place before any start");
        assert!(made.starts_with(b"SQLite format 3"), "{} bytes", made.len());
        assert!(!node.data().join("history.db.rebuilding").exists());

        node.start_again_with(&extra);
        assert_eq!(told(&node).await, before, "it tells the same story");
        assert!(!node.data().join("history.db.damaged-1").exists(), "the new one is sound");
        assert_eq!(node.stop(), Some(0));
    }
    let none = store(&["rebuild-history"], &folder.path().join("nowhere"), &[]).await;
    assert!(none.stderr.contains("there is no lane in"), "{}", none.stderr);
}
