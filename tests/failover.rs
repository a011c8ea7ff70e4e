//! Nodes over one Postgres of which one is lost for ever, or stopped and comes back; and the disk
//! of a lost node that another one takes in.

mod support;

use std::path::Path;
use std::time::Duration;

use dpc_client::Object;
use rustix::process::Signal;
use support::load::{
    Shared, assert_settled_once, client, look, pusher, subscriber, wait_until_settled,
};
use support::postgres::Postgres;
use support::{Node, folder, serve_fails, wait_for, wait_until};
use tokio_postgres::NoTls;

/// Objects that wait in the node that is lost.
const BACKLOG: usize = 400;

/// Large objects that have ended in the node that is lost: more than a part of the log, less than a part of
/// the history, so that nothing of them is in the store yet.
const OLD: usize = 28;

/// A node over the server, with times at which a test does not wait long.
fn start(folder: &Path, name: &str, server: &Postgres, peers: &[&Node]) -> Node {
    let url = format!("store.url={}", server.url);
    let mut extra = vec!["--set", "store.kind=postgres", "--set", &url];
    let times = ["limits.heartbeat=200ms", "limits.dead_after=3s", "limits.self_fence_after=2s"];
    extra.extend(times.iter().flat_map(|time| ["--set", time]));
    extra.extend(peers.iter().flat_map(|peer| ["--peer", peer.ready.nodes.as_str()]));
    Node::start(folder, name, &extra)
}

/// Owner, epoch and state of a lane, as the list of lanes has them.
async fn lane(server: &Postgres, lane: &str) -> (String, i64, String) {
    let (client, connection) = tokio_postgres::connect(&server.url, NoTls).await.expect("connects");
    tokio::spawn(connection);
    let ask = format!("SELECT node, epoch, state FROM dpc.lane_head WHERE lane = '{lane}'");
    let row = client.query_one(&ask, &[]).await.expect("the lane is in the list");
    (row.get(0), row.get(1), row.get(2))
}

async fn wait_until_retired(server: &Postgres, id: &str) {
    wait_until_lane(server, id, "be empty and retired", |_, state| state == "retired").await;
}

/// Waits until a lane has such an epoch and state, and says who owns it then.
async fn wait_until_lane(
    server: &Postgres,
    id: &str,
    what: &str,
    is: impl Fn(i64, &str) -> bool,
) -> String {
    wait_until(&format!("the lane to {what}"), async || {
        let (owner, epoch, state) = lane(server, id).await;
        if is(epoch, &state) {
            Ok(owner)
        } else {
            Err(format!("{state} by {owner}, epoch {epoch}"))
        }
    })
    .await
}

#[tokio::test]
async fn what_a_node_held_that_is_lost_for_ever_is_delivered_by_the_others() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let mut a = start(folder.path(), "a", &server, &[]);
    let b = start(folder.path(), "b", &server, &[&a]);
    let c = start(folder.path(), "c", &server, &[&a, &b]);
    let shared = Shared::default();
    let only_a = client(&[&a]);
    let old = only_a.push(Object::new("t.Old", "old")).await.expect("stored").id;
    // In the log's first part nothing lives any more.
    for _ in 0..OLD {
        only_a.push(Object::new("t.Old", vec![b'x'; 900_000])).await.expect("stored");
    }
    a.json(&["subscribe", "t.Old", "--count", &(OLD + 1).to_string()]).await;
    let parked = only_a.push(Object::new("p.Parked", "parked")).await.expect("stored").id;
    a.json(&["subscribe", "p.Parked", "--count", "1", "--settle", "reject"]).await;
    let delayed = Object::new("t.Later", "later").delay(Duration::from_secs(4));
    let delayed = only_a.push(delayed).await.expect("stored").id;
    let backlog = (0..BACKLOG).map(|n| Object::new("t.Load", format!("{n}"))).collect();
    let receipts = only_a.push_all(backlog).await.expect("answered").into_iter();
    let backlog: Vec<_> = receipts.map(|receipt| receipt.expect("stored").id).collect();
    let first = backlog[0];
    look(&shared, |known| known.stored.extend(backlog));
    look(&shared, |known| known.stored.insert(delayed));

    let pushers = [client(&[&a, &b, &c]), client(&[&c, &b])].map(|c| pusher(c, shared.clone()));
    let subscribers = [client(&[&b, &c]), client(&[&c, &b])].map(|c| subscriber(c, shared.clone()));
    wait_for("deliveries under load", async || {
        look(&shared, |known| known.settled.len() > BACKLOG / 8).then_some(())
    })
    .await;
    a.kill();
    wait_until_retired(&server, &a.ready.lane).await;
    look(&shared, |known| known.stop = true);
    for pusher in pushers {
        pusher.await.expect("no pusher panics");
    }
    wait_until_settled(&shared).await;
    assert_settled_once(&shared);
    subscribers.into_iter().for_each(|subscriber| subscriber.abort());

    // Whoever adopted the lane has taken in what nobody subscribes to.
    let (adopter, ..) = lane(&server, &a.ready.lane).await;
    let adopter = if adopter == "b" { &b } else { &c };
    let parked = parked.to_string();
    let listed = adopter.json(&["parked", "ls"]).await;
    assert!(listed.iter().any(|line| line["id"] == parked.as_str()), "{listed:?}");
    adopter.json(&["parked", "redrive", &parked]).await;
    let taken = adopter.json(&["subscribe", "p.Parked", "--count", "1"]).await;
    assert_eq!(taken[0]["id"], parked.as_str());

    for other in [&b, &c] {
        other.knows_the_story(old, "a").await;
    }
    // What has moved on is told with the steps that it took there.
    for other in [&b, &c] {
        let trace = other.trace(first).await;
        assert!(trace.complete, "{trace:?}");
        let first = trace.decisions.first().map(|decision| decision.node.as_str());
        assert_eq!(first, Some("a"), "{trace:?}");
    }
}

/// What a neighbour of the adopter wants does not pass through the adopter's own lane.
#[tokio::test]
async fn an_adopted_lane_is_linked_to_the_neighbours_of_its_adopter() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let mut a = start(folder.path(), "a", &server, &[]);
    let b = start(folder.path(), "b", &server, &[&a]);
    let c = start(folder.path(), "c", &server, &[&a, &b]);
    a.json(&["push", "t.Kept", "--data", "kept"]).await;
    a.kill();
    let adopted = |epoch, state: &str| epoch > 1 && state == "owned";
    let adopter = wait_until_lane(&server, &a.ready.lane, "be adopted", adopted).await;
    let (host, other, name) = if adopter == "b" { (&b, &c, "c") } else { (&c, &b, "b") };
    wait_until("the adopted lane to be counted", async || {
        let (lanes, left) = (host.metric("dpc_adopted_lanes"), host.metric("dpc_adopted_objects"));
        if (lanes, left) == (1.0, 1.0) {
            Ok(())
        } else {
            Err(format!("{lanes} lanes, {left} left"))
        }
    })
    .await;
    let guest = format!("{adopter}.{}", &a.ready.lane[..8]);
    wait_until("a link of the other node to the adopted lane", async || {
        let nodes = other.json(&["node", "ls"]).await;
        let linked = nodes.iter().any(|node| node["node"] == *guest && node["link"] == "up");
        if linked { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    let taken = other.json(&["subscribe", "t.Kept", "--count", "1"]).await;
    assert_eq!(taken[0]["path"], serde_json::json!([guest, name]), "{taken:?}");
    wait_until_retired(&server, &a.ready.lane).await;
    wait_until("no adopted lane to be counted", async || {
        let lanes = host.metric("dpc_adopted_lanes");
        if lanes == 0.0 { Ok(()) } else { Err(format!("{lanes} lanes")) }
    })
    .await;
}

#[tokio::test]
async fn a_node_that_was_stopped_is_fenced_and_comes_back_with_a_new_lane() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let mut a = start(folder.path(), "a", &server, &[]);
    let b = start(folder.path(), "b", &server, &[&a]);
    let shared = Shared::default();
    let only_a = client(&[&a]);
    for n in 0..20 {
        let receipt = only_a.push(Object::new("t.Load", format!("{n}"))).await.expect("stored");
        look(&shared, |known| known.stored.insert(receipt.id));
    }
    // One of them is being worked on when the node stops, and nobody wants another one.
    let held = a.json(&["subscribe", "t.Load", "--count", "1", "--settle", "none"]).await;
    let token = held[0]["lease"]["token"].as_str().expect("a token").to_owned();
    let unwanted = a.json(&["push", "s.Unwanted", "--data", "unwanted"]).await;
    a.signal(Signal::STOP);
    let working = subscriber(client(&[&b]), shared.clone());
    wait_until_settled(&shared).await;
    a.signal(Signal::CONT);
    let lane = wait_until("the node to come back", async || {
        let nodes = a.cli(&["node", "ls", "-o", "json"]).await;
        let lines = if nodes.code == Some(0) { nodes.lines() } else { Vec::new() };
        let own = lines.iter().find(|line| line["self"] == true);
        let lane = own.and_then(|own| own["lane"].as_str()).map(str::to_owned);
        lane.filter(|lane| *lane != a.ready.lane).ok_or_else(|| format!("{nodes:?}"))
    })
    .await;
    assert!(a.ended().is_none(), "the process goes on");
    assert!(a.log().contains("fenced: another node has taken over lane"), "it says so");
    assert!(a.log().contains(&a.ready.lane), "and names the lane");
    wait_until("the zombie's lease to be told lost", async || {
        let late = a.cli(&["settle", &token, "finalise", "-o", "json"]).await;
        // Until its lane's new owner is found nobody may say what became of it.
        assert!(matches!(late.code, Some(1 | 3)), "it settles nothing: {late:?}");
        if late.stderr.contains("LEASE_LOST") { Ok(()) } else { Err(late.stderr) }
    })
    .await;
    assert_settled_once(&shared);
    let taken = b.json(&["subscribe", "s.Unwanted", "--count", "1"]).await;
    assert_eq!(taken[0]["id"], unwanted[0]["id"]);
    wait_until_retired(&server, &a.ready.lane).await;

    // It works again, and the next start finds the new lane its own.
    let pushed = a.json(&["push", "t.Load", "--data", "again"]).await;
    let id = pushed[0]["id"].as_str().expect("an id").parse().expect("a UUID");
    look(&shared, |known| known.stored.insert(id));
    wait_until_settled(&shared).await;
    working.abort();
    a.kill();
    a.start_again();
    assert_eq!(a.ready.lane, lane);
}

#[tokio::test]
async fn a_node_that_restarts_in_time_keeps_its_lane() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let mut a = start(folder.path(), "a", &server, &[]);
    let b = start(folder.path(), "b", &server, &[&a]);
    let lane_of_a = a.ready.lane.clone();
    let pushed = a.json(&["push", "t.Kept", "--data", "kept"]).await;
    for _ in 0..3 {
        a.kill();
        a.start_again();
        assert_eq!(a.ready.lane, lane_of_a);
    }
    let taken = b.json(&["subscribe", "t.Kept", "--count", "1"]).await;
    assert_eq!(taken[0]["id"], pushed[0]["id"]);
    assert_eq!(lane(&server, &lane_of_a).await.0, "a");
}

#[tokio::test]
async fn nobody_is_declared_dead_because_the_store_was_away() {
    let Some(server) = Postgres::start() else { return };
    let folder = folder();
    let a = start(folder.path(), "a", &server, &[]);
    let b = start(folder.path(), "b", &server, &[&a]);
    // Beats of both are in the list before it is lost.
    for node in [&a, &b] {
        node.json(&["push", "t.Before", "--data", "before"]).await;
    }
    server.order("pause");
    let says = async |node: &Node, what: &str| {
        wait_until(what, async || {
            let log = node.log();
            if log.contains(what) { Ok(()) } else { Err(log) }
        })
        .await;
    };
    // That is said after longer than `dead_after`.
    says(&a, "the list of lanes cannot be read").await;
    says(&b, "the list of lanes cannot be read").await;
    server.order("resume");
    says(&a, "the list of lanes can be read again").await;
    says(&b, "the list of lanes can be read again").await;
    for node in [&a, &b] {
        let pushed = node.json(&["push", "t.After", "--data", "after"]).await;
        assert_eq!(pushed[0]["status"], "stored");
        let (owner, epoch, state) = lane(&server, &node.ready.lane).await;
        assert_eq!((owner.as_str(), epoch, state.as_str()), (&*node.ready.node, 1, "owned"));
    }
    let taken = b.json(&["subscribe", "t.*", "--count", "4"]).await;
    assert_eq!(taken.len(), 4, "what both of them hold is delivered");
}

#[tokio::test]
async fn a_rescued_disk_is_emptied_by_another_node_and_never_served_again() {
    let folder = folder();
    let mut lost = Node::start(folder.path(), "lost", &[]);
    let push = async |what: &str, more: &[&str]| {
        let mut all = vec!["push", what, "--data", what];
        all.extend(more);
        lost.json(&all).await[0]["id"].as_str().expect("an id").to_owned()
    };
    let parked = push("p.Parked", &[]).await;
    lost.json(&["subscribe", "p.Parked", "--count", "1", "--settle", "reject"]).await;
    let (ready, delayed) = (push("t.Ready", &[]).await, push("t.Later", &["--delay", "2s"]).await);
    let disk = folder.path().join("lost");
    let adopt = ["--adopt", disk.to_str().expect("text")];
    let refused = serve_fails(&folder.path().join("x"), &adopt).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("is locked by another process"), "{}", refused.stderr);
    lost.kill();

    let mut host = Node::start(folder.path(), "host", &adopt);
    for (what, id) in [("t.Ready", &ready), ("t.Later", &delayed)] {
        let taken = host.json(&["subscribe", what, "--count", "1"]).await;
        assert_eq!((&taken[0]["id"], &taken[0]["data"]), (&id.as_str().into(), &what.into()));
    }
    wait_for("the disk to be empty", async || disk.join("RETIRED").exists().then_some(())).await;
    wait_until("the node to say so", async || {
        let log = host.log();
        if log.contains("is empty and can be deleted") { Ok(()) } else { Err(log) }
    })
    .await;
    let listed = host.json(&["parked", "ls"]).await;
    assert_eq!((listed.len(), &listed[0]["id"]), (1, &parked.as_str().into()));

    let refused = serve_fails(&disk, &[]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("retired"), "{}", refused.stderr);
    // Started again as before, the node goes on with its own.
    host.kill();
    host.start_again();
    assert!(host.log().contains("is empty already"), "{}", host.log());
    assert_eq!(host.json(&["parked", "ls"]).await.len(), 1);
}
