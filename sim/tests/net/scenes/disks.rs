//! Disks that fail under the full stack.

use std::time::Duration;

use dpc_client::{Outcome, PushStatus};
use sim::contract::Fault;

use super::{SOON, client, finish, net, next, object, push_many, task, wait};
use crate::world::State;

/// A sync fails: the node stops, and says OK to nothing that it had not synced. After its start a
/// push without an answer is repeated, whichever way the record went.
pub(super) fn failed_sync() {
    let mut net = net(&[&[]]);
    let pushed = task(&mut net, "sender", |world| async move {
        let long = |options: dpc_client::Options| options.give_up_after(Duration::from_secs(20));
        let client = super::client_with(&world, "sender", &[0], long);
        push_many(&world, &client, 0, 5, "img").await;
        world.lock().nodes[0].disk.fail_next(Fault::SyncFails);
        client.push(object(&world, 9, "img", "x")).await
    });
    let down =
        |net: &mut crate::net::Net<'_>| matches!(net.world.lock().nodes[0].state, State::Down);
    assert!(net.run_until(SOON, down), "the node stops by itself");
    assert_eq!(net.world.lock().coverage.get("stopped by its store"), 1);
    net.run_for(Duration::from_secs(1));
    assert!(pushed.take().is_none(), "nobody can answer now");
    net.restart(0);
    let receipt = wait(&mut net, SOON, "the repeated push", &pushed).expect("stored");
    // The record was written and not synced; power was not lost, so recovery has found it.
    assert_eq!(receipt.stored.status, PushStatus::AlreadyExists);
    finish(net);
}

/// A disk below its reserve: pushes are refused and nothing else; when there is room again, pushes
/// are taken again.
pub(super) fn low() {
    let mut net = net(&[&[]]);
    let done = task(&mut net, "client", |world| async move {
        let client = client(&world, "client", &[0]);
        let subscription = client.subscribe(["img"]).await.expect("subscribes");
        client.push(object(&world, 1, "img", "x")).await.expect("stored");
        let delivery = next(&subscription).await;
        world.lock().nodes[0].free = 0;
        // The node looks at its room now and then.
        let mut pushed = 1;
        let refused = loop {
            pushed += 1;
            match client.push(object(&world, pushed, "img", "x")).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.outcome(), Outcome::DefinitelyNot, "{refused}");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
        delivery.finalise().await.expect("settles go on");
        world.lock().nodes[0].mend_disk();
        // The harness bounds how long this may take.
        while client.push(object(&world, pushed + 1, "img", "x")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    wait(&mut net, Duration::from_secs(20), "the story", &done);
    finish(net);
}
