//! Connections and nodes that end, with work under way.

use std::collections::BTreeSet;
use std::time::Duration;

use dpc_client::PushStatus;
use dpc_core::ids::ObjectId;
use runtime::node::Order;

use super::{
    SOON, Sign, client, client_with, finish, net, next, object, push_many, task, until,
    until_links, until_stored, wait,
};
use crate::net::{Ill, Net, Power};
use crate::world::State;

/// Every connection is reset again and again, in the middle of streams, while objects are pushed,
/// handed over and settled.
pub(super) fn resets() {
    const COUNT: u64 = 120;
    let mut net = net(&[&[], &[0]]);
    until_links(&mut net, 0, 1, SOON);
    let received = task(&mut net, "receiver", |world| async move {
        let client = client(&world, "receiver", &[1]);
        let subscription = client.subscribe(["img"]).await.expect("subscribes");
        let (mut ids, mut lost) = (BTreeSet::new(), 0);
        while ids.len() < COUNT as usize {
            let delivery = next(&subscription).await;
            match delivery.finalise().await {
                Ok(()) => assert!(ids.insert(delivery.id()), "settled twice"),
                Err(error) => lost += u32::from(error.is_lease_lost()),
            }
        }
        lost
    });
    let pushed = task(&mut net, "sender", |world| async move {
        let client = client(&world, "sender", &[0]);
        let receipts = push_many(&world, &client, 0, COUNT, "img").await;
        receipts.into_iter().map(|receipt| receipt.expect("stored").stored.status).collect()
    });
    let mut resets = 0;
    let mut statuses: Option<Vec<PushStatus>> = None;
    while statuses.is_none() {
        net.run_for(Duration::from_millis(70));
        for (a, b) in [("n1", "n2"), ("sender", "n1"), ("receiver", "n2")] {
            resets += net.world.wires.reset(a, b);
        }
        assert!(net.sim.elapsed() < Duration::from_secs(60), "the pushes do not come to an end");
        statuses = pushed.take();
    }
    assert!(resets > 20, "only {resets} connections were reset");
    wait(&mut net, Duration::from_secs(30), "all objects", &received);
    finish(net);
}

/// The answer to a push is lost with the way back. The library sends it again under its id, and
/// learns that it is stored; there is one object.
pub(super) fn lost_answer() {
    let mut net = net(&[&[]]);
    let (first, cut) = (Sign::new(), Sign::new());
    let (answered, deaf) = (first.clone(), cut.clone());
    let pushed = task(&mut net, "sender", |world| async move {
        let client = client(&world, "sender", &[0]);
        client.push(object(&world, 1, "img", "first")).await.expect("stored");
        answered.give();
        deaf.given().await;
        client.push(object(&world, 2, "img", "second")).await
    });
    until(&mut net, "an answer to the first push", &first);
    net.make_ill("n1", "sender", Ill::CutOneWay);
    cut.give();
    until_stored(&mut net, 0, 2);
    let given_up = |net: &mut Net<'_>| net.world.wires.count("sender", "n1") == 0;
    assert!(net.run_until(SOON, given_up), "the connection is silent, and is given up");
    net.heal("n1", "sender");
    let receipt = wait(&mut net, SOON, "the second answer", &pushed).expect("stored");
    assert_eq!(receipt.stored.status, PushStatus::AlreadyExists, "it was sent twice");
    let id = ObjectId(*receipt.id.as_bytes());
    let lane = net.world.lock().nodes[0].lane;
    assert!(net.world.lock().checks.model.lane(lane).flowing(id).is_some());
    finish(net);
}

/// The first node of a client's list is down, then all but the first.
pub(super) fn list_of_nodes() {
    let mut net = net(&[&[], &[0]]);
    until_links(&mut net, 0, 1, SOON);
    net.kill(0, Power::Cut);
    let pushed = task(&mut net, "sender", |world| async move {
        let client = client(&world, "sender", &[0, 1]);
        let first = client.push(object(&world, 1, "img", "x")).await.expect("stored");
        let subscription = client.subscribe(["img"]).await.expect("subscribes");
        next(&subscription).await.finalise().await.expect("settles");
        first.stored.node
    });
    assert_eq!(&*wait(&mut net, Duration::from_secs(20), "a push", &pushed), "n2");
    net.restart(0);
    until_links(&mut net, 0, 1, Duration::from_secs(20));
    net.kill(1, Power::Stays);
    let pushed = task(&mut net, "again", |world| async move {
        let quick = |options: dpc_client::Options| options.fail_fast(true);
        let client = client_with(&world, "again", &[1, 0], quick);
        client.push(object(&world, 2, "img", "x")).await.expect("stored").stored.node
    });
    assert_eq!(&*wait(&mut net, Duration::from_secs(20), "a push", &pushed), "n1");
    finish(net);
}

/// A node drains: what waits goes to its peer, who has a subscriber; the client with a list goes
/// there, too; the node ends by itself.
pub(super) fn drain() {
    let mut net = net(&[&[], &[0]]);
    until_links(&mut net, 0, 1, SOON);
    let (first, drained, some) = (Sign::new(), Sign::new(), Sign::new());
    let (answered, gone, settled) = (first.clone(), drained.clone(), some.clone());
    let pushed = task(&mut net, "sender", |world| async move {
        let client = client(&world, "sender", &[0, 1]);
        let first = push_many(&world, &client, 0, 50, "img").await;
        assert!(first.iter().all(|receipt| receipt.is_ok()));
        answered.give();
        gone.given().await;
        let later = push_many(&world, &client, 50, 10, "img").await;
        later.into_iter().map(|receipt| receipt.expect("stored").stored.node.to_string()).collect()
    });
    until(&mut net, "answers to the first pushes", &first);
    let received = task(&mut net, "receiver", |world| async move {
        let client = client(&world, "receiver", &[1]);
        let subscription = client.subscribe(["img"]).await.expect("subscribes");
        for n in 0..60 {
            if n == 10 {
                settled.give();
            }
            // So slow that most of them wait still when the node is told to drain.
            tokio::time::sleep(Duration::from_millis(20)).await;
            next(&subscription).await.finalise().await.expect("settles");
        }
    });
    until(&mut net, "some settles", &some);
    net.order(0, Order::Drain);
    let down = |net: &mut Net<'_>| matches!(net.world.lock().nodes[0].state, State::Down);
    assert!(net.run_until(Duration::from_secs(10), down), "the node ends by itself");
    drained.give();
    let nodes: BTreeSet<String> = wait(&mut net, SOON, "later pushes", &pushed);
    assert_eq!(nodes, BTreeSet::from(["n2".to_owned()]));
    wait(&mut net, SOON, "all objects", &received);
    finish(net);
}
