//! Five nodes in a line: pushed at one end, wanted at the other.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use dpc_client::{Object, Window};
use support::{Node, assert_books_balance, folder, holds_for, long, wait_for};

const OBJECTS: u64 = 20_000;
const NODES: [&str; 5] = ["a", "b", "c", "d", "e"];
const COUNTERS: [&str; 2] = ["dpc_link_messages_total", "dpc_link_payload_bytes_total"];

#[tokio::test]
async fn everything_travels_to_the_far_end_and_nothing_moves_without_demand() {
    let folder = folder();
    let mut nodes: Vec<Node> = Vec::new();
    for name in NODES {
        let peer: Vec<&Node> = nodes.last().into_iter().collect();
        let node = Node::linked(folder.path(), name, &peer);
        nodes.push(node);
    }
    // The links are up when every node sees its neighbours.
    for (index, node) in nodes.iter().enumerate() {
        let neighbours = if index == 0 || index == NODES.len() - 1 { 1 } else { 2 };
        wait_for("the links to be up", async || {
            let up = node.json(&["node", "ls"]).await;
            let up = up.iter().filter(|line| line["link"] == "up" && line["self"] == false);
            (up.count() == neighbours).then_some(())
        })
        .await;
    }

    let pusher = nodes[0].client().push_stream(Window::default());
    for n in 0..OBJECTS {
        pusher.send(Object::new("t.Line", n.to_string())).await.expect("the window opens");
    }
    pusher.close().await.expect("everything is stored");

    stands_still(&nodes).await;
    assert_eq!(nodes[0].open().await, OBJECTS, "nobody wants it, so it stays");

    let subscription = nodes[4].client().subscribe(["t.Line"]).credit(1_000).await;
    let subscription = subscription.expect("subscribed");
    let mut finalised: BTreeMap<_, u32> = BTreeMap::new();
    while (finalised.len() as u64) < OBJECTS {
        let batch = tokio::time::timeout(support::PATIENCE, subscription.next_batch(256)).await;
        let batch = batch.expect("something comes").expect("the session is well");
        for delivery in &batch {
            assert_eq!((delivery.hops(), delivery.origin()), (4, "a"));
        }
        let ids: Vec<_> = batch.iter().map(|delivery| delivery.id()).collect();
        subscription.finalise_all(batch).await.expect("every settle of a live lease is done");
        ids.into_iter().for_each(|id| *finalised.entry(id).or_default() += 1);
    }
    assert!(finalised.values().all(|times| *times == 1), "an object was settled twice");
    subscription.close().await.expect("it ends well");

    for node in &nodes {
        wait_for("nothing to be left", async || (node.open().await == 0).then_some(())).await;
        let types = node.types().await;
        let line = types.iter().find(|info| info.r#type == "t.Line").expect("it was here");
        assert_books_balance(&node.ready.node, line);
        let books = line.books.expect("a type has books");
        let (pushed, finalised) = match node.ready.node.as_str() {
            "a" => (OBJECTS, 0),
            "e" => (0, OBJECTS),
            _ => (0, 0),
        };
        assert_eq!((books.pushed, books.finalised), (pushed, finalised));
    }
    // Demand that is gone leaves silence behind as well.
    stands_still(&nodes).await;
}

/// Once the counters of the links stand still, they do so for a while.
async fn stands_still(nodes: &[Node]) {
    let counters = || {
        let of = |node: &Node| COUNTERS.map(|name| node.metric(name));
        nodes.iter().map(of).collect::<Vec<_>>()
    };
    // What was on its way when the look began is not what this is about.
    let mut before = counters();
    wait_for("the links to be silent", async || {
        let now = counters();
        (std::mem::replace(&mut before, now.clone()) == now).then_some(())
    })
    .await;
    let still = counters();
    let span = Duration::from_secs(if long() { 30 } else { 4 });
    holds_for(span, async || assert_eq!(counters(), still, "a silent mesh sends nothing")).await;
}
