//! Nodes whose lanes are in Cassandra: an OK outlives node and cluster, a lane never has two owners
//! that commit, and dpc and Cassandra both lose a node of three while clients work.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpc_client::{Client, Object, Options, Outcome, Uuid};
use scylla::client::session_builder::SessionBuilder;
use support::cassandra::{Cassandra, LOGIN};
use support::load::{
    Shared, assert_settled_once, client, load, look, pusher, subscriber, wait_until_settled,
};
use support::transaction::is_all_or_nothing;
use support::{Node, cli, folder, long, wait_for, wait_until, wait_until_done};

/// Objects in one round of pushes.
const ROUND: usize = 40;

/// Settles between two faults.
const STEP: usize = 150;

fn flags(cluster: &Cassandra, copies: u8) -> [String; 4] {
    let url = cluster.url("dpc", copies);
    ["--set".into(), "store.kind=cassandra".into(), "--set".into(), format!("store.url={url}")]
}

fn start(folder: &Path, name: &str, flags: &[String], more: &[&str]) -> Node {
    let extra: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Node::start(folder, name, &extra)
}

async fn store(verb: &str, flags: &[String]) -> support::Ran {
    let mut all = vec!["store", verb, "-o", "json"];
    all.extend(flags.iter().map(String::as_str));
    cli(&all).await
}

/// One node of Cassandra is enough for what one node of dpc promises.
#[tokio::test]
async fn an_ok_outlives_node_and_cluster() {
    let Some(cluster) = Cassandra::start(1) else { return };
    let flags = flags(&cluster, 1);
    let missing = store("check", &flags).await;
    assert_eq!(missing.code, Some(1), "{}", missing.stderr);
    assert!(missing.stderr.contains("dpc store init"), "{}", missing.stderr);
    assert_eq!(store("init", &flags).await.lines()[0]["made"], true);
    assert_eq!(store("init", &flags).await.lines()[0]["made"], false);
    let checked = &store("check", &flags).await.lines()[0];
    assert_eq!((&checked["store"], &checked["schema"]), (&"cassandra".into(), &1.into()));

    let folder = folder();
    let mut node = start(folder.path(), "c", &flags, &[]);
    let pushed = node.json(&["push", "type.Kept", "--data", "kept"]).await;
    assert_eq!(pushed[0]["status"], "stored");
    assert_eq!(pushed[0]["durability"], "quorum");
    let lane = node.ready.lane.clone();
    node.kill();
    // What can be built again is built again.
    for derived in ["index", "history"] {
        let path = folder.path().join("c").join(derived);
        if path.exists() {
            std::fs::remove_dir_all(&path).expect("it goes");
        }
    }
    node.start_again();
    assert_eq!(node.ready.lane, lane);
    let taken = node.json(&["subscribe", "type.Kept", "--count", "1"]).await;
    assert_eq!((&taken[0]["id"], &taken[0]["data"]), (&pushed[0]["id"], &"kept".into()));
    let got = node.json(&["object", "get", pushed[0]["id"].as_str().expect("an id")]).await;
    assert_eq!(got[0]["state"], "final");
    is_all_or_nothing(&mut node).await;

    let mut stored = push(&node, ROUND).await;
    cluster.order("kill", None);
    let launched = tokio::task::spawn_blocking(move || {
        cluster.order("launch", None);
        cluster
    });
    stored.extend(push(&node, ROUND).await);
    let _running = launched.await.expect("it comes back");
    node.kill();
    node.start_again();
    let count = stored.len().to_string();
    let taken = node.json(&["subscribe", "type.Load", "--count", &count, "--credit", "100"]).await;
    let mut times = BTreeMap::new();
    for line in &taken {
        *times.entry(line["id"].as_str().expect("an id").to_owned()).or_insert(0) += 1;
    }
    let once = stored.into_iter().map(|id| (id, 1)).collect();
    assert_eq!(times, once, "what was answered OK, once each");
    wait_until_done(&[node]).await;
}

/// Pushes objects all at once. Each push has to end in an OK.
async fn push(node: &Node, count: usize) -> BTreeSet<String> {
    let client = node.client();
    let waiting: Vec<_> = (0..count)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.push(Object::new("type.Load", format!("{n}"))).await })
        })
        .collect();
    let mut stored = BTreeSet::new();
    for push in waiting {
        let receipt = push.await.expect("no panic").expect("it outlasts the fault");
        stored.insert(receipt.id.to_string());
    }
    assert_eq!(stored.len(), count, "each has an id of its own");
    stored
}

/// A second process on a copy of the folder takes the lane; the first one commits nothing more, says
/// so, and goes on with another lane.
#[tokio::test]
async fn a_lane_has_one_owner_that_commits() {
    let Some(cluster) = Cassandra::start(1) else { return };
    let flags = flags(&cluster, 1);
    let (folder, other) = (folder(), folder());
    let first = start(folder.path(), "c", &flags, &[]);
    let pushed = first.json(&["push", "type.Kept", "--data", "kept"]).await;
    let copy = other.path().join("c");
    std::fs::create_dir(&copy).expect("a folder");
    for file in ["FORMAT", "CLAIMED"] {
        std::fs::copy(folder.path().join("c").join(file), copy.join(file)).expect("copies");
    }
    let second = start(other.path(), "c", &flags, &[]);
    assert_eq!(second.ready.lane, first.ready.lane);
    wait_until("the first one to say that it is fenced", async || {
        let log = first.log();
        let said = log.contains("fenced: another node has taken over lane");
        if said { Ok(()) } else { Err(log) }
    })
    .await;
    let taken = second.json(&["subscribe", "type.Kept", "--count", "1"]).await;
    assert_eq!(taken[0]["id"], pushed[0]["id"]);
    wait_for("the first one to work again, with a lane of its own", async || {
        let push = first.cli(&["push", "type.New", "--data", "new", "-o", "json"]).await;
        (push.code == Some(0)).then_some(())
    })
    .await;
}

/// Clients that push, and clients that settle.
const PUSHERS: usize = 16;

/// Settles of each of so many seconds.
async fn rates(shared: &Shared, seconds: usize) -> Vec<usize> {
    let count = || look(shared, |known| known.settled.len());
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.tick().await;
    let (mut rates, mut before) = (Vec::new(), count());
    for _ in 0..seconds {
        every.tick().await;
        let now = count();
        rates.push(now - before);
        before = now;
    }
    rates
}

/// After five seconds beside a node of three that stands still, at least half is done of what was done
/// before. Rates say something on a machine that does nothing else: `DPC_LONG=1` measures them.
#[tokio::test]
async fn a_node_that_stands_still_costs_less_than_half() {
    if !long() {
        return println!("nothing was tested: rates are measured with DPC_LONG=1");
    }
    let Some(cluster) = Cassandra::start(3) else { return };
    let flags = flags(&cluster, 3);
    let folder = folder();
    let nodes = ["a", "b", "c"].map(|name| start(folder.path(), name, &flags, &[]));
    let shared = Shared::default();
    // As many settle as push, each one object after the other, or a backlog would be left behind.
    let at = |n: usize| client(&[&nodes[n % nodes.len()]]);
    let pushers: Vec<_> = (0..PUSHERS).map(|n| pusher(at(n), shared.clone())).collect();
    let subscribers: Vec<_> = (0..PUSHERS).map(|n| subscriber(at(n), shared.clone())).collect();
    let middle = |rates: &[usize]| {
        let mut sorted = rates.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    for paused in 1..=3 {
        let before = rates(&shared, 15).await;
        cluster.order("pause", Some(paused));
        let beside = rates(&shared, 20).await;
        cluster.order("resume", Some(paused));
        println!("node {paused}: {before:?} settled each second before, {beside:?} beside it");
        let (before, beside) = (middle(&before[5..]), middle(&beside[5..]));
        assert!(beside * 2 >= before, "node {paused}: {beside} a second, {before} before");
    }
    look(&shared, |known| known.stop = true);
    for pusher in pushers {
        pusher.await.expect("no pusher panics");
    }
    wait_until_settled(&shared).await;
    assert_settled_once(&shared);
    subscribers.into_iter().for_each(|subscriber| subscriber.abort());
}

/// The state of a lane, as the list of lanes has it.
async fn state(cluster: &Cassandra, lane: &str) -> String {
    let contacts: Vec<&str> = cluster.contacts.split(',').collect();
    let session = SessionBuilder::new().known_nodes(contacts).user(LOGIN, LOGIN).build().await;
    let ask = format!("SELECT state FROM dpc.lane_head WHERE lane = {lane}");
    let answer = session.expect("connects").query_unpaged(ask, ()).await.expect("it answers");
    answer.into_rows_result().expect("rows").first_row::<(String,)>().expect("the lane is there").0
}

/// A push that cannot be answered OK: without a quorum nothing is committed. Its id.
async fn push_in_vain(node: &Node) -> Uuid {
    let span = Duration::from_secs(2);
    let impatient = Options::new().answer_timeout(span).give_up_after(span);
    let impatient = Client::connect([&node.ready.clients], impatient).expect("a good address");
    let id = Uuid::now_v7();
    let error = impatient.push(load(id)).await.expect_err("no quorum, no OK");
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    id
}

/// Three nodes of dpc over three of Cassandra: of the latter one is killed and comes back, another one
/// stands still for a while, two are killed and come back; then one of the former is lost for ever.
#[tokio::test]
async fn three_and_three_lose_one_each_and_nothing_else() {
    let Some(cluster) = Cassandra::start(3).map(Arc::new) else { return };
    let flags = flags(&cluster, 3);
    let folder = folder();
    let times = ["limits.heartbeat=500ms", "limits.dead_after=10s", "limits.self_fence_after=8s"];
    // Two nodes of Cassandra take as long to come back as the machine is busy.
    let times = [&times[..], &["store.patience=10m"]].concat();
    let times: Vec<&str> = times.iter().flat_map(|time| ["--set", time]).collect();
    let mut a = start(folder.path(), "a", &flags, &times);
    let b = start(folder.path(), "b", &flags, &[&times[..], &["--peer", &a.ready.nodes]].concat());
    let peers = ["--peer", &a.ready.nodes, "--peer", &b.ready.nodes];
    let c = start(folder.path(), "c", &flags, &[&times[..], &peers].concat());
    let old = client(&[&a]).push(Object::new("t.Old", "old")).await.expect("stored").id;
    a.json(&["subscribe", "t.Old", "--count", "1"]).await;
    let shared = Shared::default();
    let pushers = [client(&[&a, &b, &c]), client(&[&c, &b])].map(|c| pusher(c, shared.clone()));
    let subscribers = [client(&[&b, &c]), client(&[&c, &b])].map(|c| subscriber(c, shared.clone()));
    let goes_on = async |what: &str| {
        let (before, began) = (look(&shared, |known| known.settled.len()), Instant::now());
        wait_until(what, async || {
            let settled = look(&shared, |known| known.settled.len()) - before;
            if settled >= STEP { Ok(()) } else { Err(format!("{settled} settled")) }
        })
        .await;
        println!("{what}: {STEP} settled in {:?}", began.elapsed());
    };
    goes_on("work before any fault").await;
    let order = async |what: &'static str, node: Option<u8>| {
        // The clients go on meanwhile.
        let cluster = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || cluster.order(what, node)).await.expect("done");
    };
    order("kill", Some(2)).await;
    goes_on("work beside a dead node of Cassandra").await;
    order("launch", Some(2)).await;
    goes_on("work after its return").await;
    order("pause", Some(3)).await;
    goes_on("work beside a node of Cassandra that stands still").await;
    order("resume", Some(3)).await;
    goes_on("work after it goes on").await;
    order("kill", Some(1)).await;
    order("kill", Some(2)).await;
    let unheard = push_in_vain(&b).await;
    // Those that live are left alone.
    order("launch", None).await;
    goes_on("work after two nodes of Cassandra were away").await;
    client(&[&b]).push(load(unheard)).await.expect("the same push again is answered");
    look(&shared, |known| known.stored.insert(unheard));
    a.kill();
    wait_until("the lane of the lost node to be empty and retired", async || {
        let state = state(&cluster, &a.ready.lane).await;
        if state == "retired" { Ok(()) } else { Err(state) }
    })
    .await;
    look(&shared, |known| known.stop = true);
    for pusher in pushers {
        pusher.await.expect("no pusher panics");
    }
    wait_until_settled(&shared).await;
    assert_settled_once(&shared);
    subscribers.into_iter().for_each(|subscriber| subscriber.abort());
    for other in [&b, &c] {
        other.knows_the_story(old, "a").await;
    }
}
