//! Who is gone without a word, and who only seems to be.

use std::time::Duration;

use super::{
    SOON, Sign, client, finish, net, next, object, push_many, task, until, until_links,
    until_stored, wait,
};
use crate::net::{Ill, Power};
use crate::node::quick_bounds;

/// A peer loses power: no FIN, no RST. The keepalive, and nothing else, decides that it is gone.
pub(super) fn dead_peer() {
    let mut net = net(&[&[], &[0]]);
    until_links(&mut net, 0, 1, SOON);
    net.kill(1, Power::Cut);
    let took = until_links(&mut net, 0, 0, SOON);
    let bounds = quick_bounds();
    let silence = bounds.keepalive + bounds.keepalive_timeout;
    assert!(took <= silence + Duration::from_millis(100), "noticed after {took:?}");
    assert!(took > bounds.keepalive_timeout / 2, "nothing but a keepalive can tell: {took:?}");
    net.restart(1);
    until_links(&mut net, 0, 1, Duration::from_secs(15));
    finish(net);
}

/// A killed process leaves a system that closes its connections.
pub(super) fn killed_peer() {
    let mut net = net(&[&[], &[0]]);
    until_links(&mut net, 0, 1, SOON);
    net.kill(1, Power::Stays);
    let took = until_links(&mut net, 0, 0, SOON);
    assert!(took < Duration::from_millis(100), "noticed after {took:?}");
    finish(net);
}

/// A subscriber whose network is gone holds an object with a long lease. Its stream ends by the
/// keepalive, and the object goes to another long before the lease would have run out.
pub(super) fn silent_client() {
    let mut net = net(&[&[]]);
    let taken = task(&mut net, "silent", |world| async move {
        let lease = Duration::from_secs(600);
        let client = client(&world, "silent", &[0]);
        let subscription = client.subscribe(["img"]).lease(lease).await.expect("subscribes");
        client.push(object(&world, 1, "img", "x")).await.expect("stored");
        let delivery = next(&subscription).await;
        let id = delivery.id();
        // It goes on to hold both, and to extend the lease.
        tokio::spawn(async move {
            let _held = (subscription, delivery);
            std::future::pending::<()>().await;
        });
        id
    });
    let id = wait(&mut net, SOON, "the first delivery", &taken);
    net.make_ill("silent", "n1", Ill::Cut);
    let again = task(&mut net, "other", move |world| async move {
        let client = client(&world, "other", &[0]);
        let subscription = client.subscribe(["img"]).await.expect("subscribes");
        let delivery = next(&subscription).await;
        assert_eq!((delivery.id(), delivery.delivery()), (id, 2));
        delivery.finalise().await.expect("settles");
    });
    wait(&mut net, SOON, "the second delivery", &again);
    finish(net);
}

/// What one side says is lost, what the other says is not: the link ends on both sides, and is one
/// link again when the network heals.
pub(super) fn one_way() {
    for (from, to) in [("n1", "n2"), ("n2", "n1")] {
        let mut net = net(&[&[], &[0]]);
        until_links(&mut net, 0, 1, SOON);
        net.make_ill(from, to, Ill::CutOneWay);
        until_links(&mut net, 0, 0, SOON);
        until_links(&mut net, 1, 0, SOON);
        net.heal(from, to);
        until_links(&mut net, 0, 1, Duration::from_secs(15));
        until_links(&mut net, 1, 1, SOON);
        finish(net);
    }
}

/// Objects that were pushed on one side of a cut reach the subscriber on the other side of it once
/// the network is well.
pub(super) fn partition() {
    let mut net = net(&[&[], &[0]]);
    until_links(&mut net, 0, 1, SOON);
    let subscribed = Sign::new();
    let told = subscribed.clone();
    let received = task(&mut net, "receiver", |world| async move {
        let client = client(&world, "receiver", &[1]);
        let subscription = client.subscribe(["img"]).await.expect("subscribes");
        told.give();
        let mut ids = std::collections::BTreeSet::new();
        while ids.len() < 40 {
            let delivery = next(&subscription).await;
            delivery.finalise().await.expect("settles");
            assert!(ids.insert(delivery.id()), "settled twice");
        }
    });
    until(&mut net, "a subscription", &subscribed);
    let pushed = task(&mut net, "sender", |world| async move {
        let client = client(&world, "sender", &[0]);
        push_many(&world, &client, 0, 40, "img").await.into_iter().all(|receipt| receipt.is_ok())
    });
    // In the middle of the pushes, with handoffs on their way.
    until_stored(&mut net, 1, 1);
    net.make_ill("n1", "n2", Ill::Cut);
    assert!(wait(&mut net, SOON, "the pushes", &pushed), "the cut is no affair of this client");
    until_links(&mut net, 0, 0, SOON);
    net.heal("n1", "n2");
    wait(&mut net, Duration::from_secs(20), "all objects", &received);
    finish(net);
}
