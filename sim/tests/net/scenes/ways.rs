//! Ways of objects over links.

use std::time::Duration;

use super::{SOON, client, finish, net, next, object, push_many, task, until_links, wait};

/// A line of three nodes: what is pushed at one end is delivered at the other.
pub(super) fn two_hops() {
    let mut net = net(&[&[], &[0], &[1]]);
    until_links(&mut net, 1, 2, SOON);
    let received = task(&mut net, "receiver", |world| async move {
        let client = client(&world, "receiver", &[2]);
        let subscription = client.subscribe(["doc.*"]).await.expect("subscribes");
        for _ in 0..100 {
            let delivery = next(&subscription).await;
            assert_eq!((delivery.hops(), delivery.origin()), (2, "n1"), "{delivery:?}");
            assert_eq!(delivery.path(), ["n1", "n2", "n3"]);
            delivery.finalise().await.expect("settles");
        }
    });
    let pushed = task(&mut net, "sender", |world| async move {
        let client = client(&world, "sender", &[0]);
        push_many(&world, &client, 0, 100, "doc.text").await.iter().all(|receipt| receipt.is_ok())
    });
    assert!(wait(&mut net, Duration::from_secs(20), "the pushes", &pushed));
    wait(&mut net, Duration::from_secs(20), "all objects", &received);
    finish(net);
}

/// Both nodes dial. One link stays, it carries objects both ways, and nobody dials again.
pub(super) fn both_dial() {
    let mut net = net(&[&[1], &[0]]);
    until_links(&mut net, 0, 1, SOON);
    until_links(&mut net, 1, 1, SOON);
    net.run_for(Duration::from_secs(3));
    let connections = net.world.wires.count("n1", "n2");
    let passed = task(&mut net, "both", |world| async move {
        let (here, there) = (client(&world, "both", &[0]), client(&world, "both", &[1]));
        for (n, from, to, ty) in [(1, &here, &there, "img"), (2, &there, &here, "sound")] {
            let subscription = to.subscribe([ty]).await.expect("subscribes");
            from.push(object(&world, n, ty, "x")).await.expect("stored");
            next(&subscription).await.finalise().await.expect("settles");
        }
    });
    wait(&mut net, Duration::from_secs(10), "one object each way", &passed);
    net.run_for(Duration::from_secs(3));
    assert_eq!((connections, net.world.wires.count("n1", "n2")), (1, 1));
    finish(net);
}
