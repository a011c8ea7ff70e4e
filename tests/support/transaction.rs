//! Several settles of one stream with emits and pushes, all or nothing: the same on every store.

use dpc_client::proto::v1::ObjectState;
use dpc_client::{Object, Uuid};

use super::Node;

/// Makes a transaction that is refused and one that is done, and looks what is left of both when the
/// node was killed.
pub async fn is_all_or_nothing(node: &mut Node) {
    let client = node.client();
    let (emitted, pushed) = (Uuid::now_v7(), Uuid::now_v7());
    let known = client.push(Object::new("tx.Known", "known")).await.expect("stored").id;
    let mut ids = Vec::new();
    for n in 0..3 {
        let object = Object::new("tx.In", format!("{n}"));
        ids.push(client.push(object).await.expect("stored").id);
    }
    let subscription = client.subscribe(["tx.In"]).credit(3).await.expect("subscribes");
    let mut deliveries = Vec::new();
    while deliveries.len() < 3 {
        deliveries.push(subscription.next().await.expect("no error").expect("a delivery"));
    }
    let transaction = |last: Object| {
        let [a, b, c] = &deliveries[..] else { panic!("three deliveries") };
        subscription
            .transaction()
            .settle(a.finalise().emit(Object::new("tx.Out", "emitted").id(emitted)))
            .settle(b.reject("in a transaction"))
            .settle(c.finalise())
            .push(last)
    };
    let refused = transaction(Object::new("tx.Known", "other content").id(known)).await;
    let refused = refused.expect_err("an id that was pushed with other content");
    assert_eq!(refused.reason(), "ID_REUSED");
    assert_eq!(node.state(emitted).await, None, "nothing of it was done");
    for id in &ids {
        assert_eq!(node.state(*id).await, Some(ObjectState::Leased));
    }
    transaction(Object::new("tx.Out", "pushed").id(pushed)).await.expect("done");
    node.kill();
    node.start_again();
    let mut states = Vec::new();
    for id in ids.iter().chain([&emitted, &pushed]) {
        states.push(node.state(*id).await.expect("it is known"));
    }
    // They were delivered in the order of their pushes.
    let expected = [ObjectState::Final, ObjectState::Parked, ObjectState::Final];
    assert_eq!(states[..3], expected);
    assert_eq!(states[3..], [ObjectState::Ready, ObjectState::Ready], "all of it was done");
    // Nothing is left open for whatever the test looks at next.
    node.json(&["subscribe", "tx.*", "--count", "3"]).await;
}
