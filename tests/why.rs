//! `dpc object why` in every state that a person may ask about.

mod support;

use dpc_client::{Object, Window};
use serde_json::Value;
use support::{Node, below, folder, random, wait_for};

/// Asserts what `why` says, and that its words name these things.
fn says(why: &Value, state: &str, waits_for: &str, words: &[&str]) {
    assert_eq!((&why["state"], &why["waits_for"]), (&state.into(), &waits_for.into()), "{why}");
    let text = why["text"].as_str().expect("text");
    for word in words {
        assert!(text.to_lowercase().contains(&word.to_lowercase()), "no {word:?} in: {text}");
    }
    // One paragraph: sentences, not a dump.
    assert!(!text.contains('\n') && text.len() < 1_000 && text.ends_with('.'), "{text}");
}

async fn push(node: &Node, object_type: &str) -> String {
    let receipt = node.client().push(Object::new(object_type, "x")).await.expect("stored");
    receipt.id.to_string()
}

#[tokio::test]
async fn at_one_node() {
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);

    let waiting = push(&a, "w.Nobody").await;
    says(&a.why(&waiting).await, "ready", "demand", &["a", "demand", "w.Nobody"]);

    let later = a.json(&["push", "w.Later", "--delay", "1h"]).await[0]["id"].clone();
    let why = a.why(later.as_str().expect("an id")).await;
    says(&why, "delayed", "delay", &["a"]);
    assert!(why["until"].is_string(), "{why}");

    let subscribe = a.client().subscribe(["w.Work"]).processor("mailer").credit(1);
    let subscription = subscribe.await.expect("subscribed");
    let first = push(&a, "w.Work").await;
    let delivery = subscription.next().await.expect("well").expect("an object");
    let why = a.why(&first).await;
    says(&why, "leased", "lease", &["mailer"]);
    assert!(why["until"].is_string(), "by whom and until when: {why}");

    let second = push(&a, "w.Work").await;
    let why = a.why(&second).await;
    says(&why, "ready", "credit", &["credit"]);
    let candidates = why["candidates"].as_array().expect("candidates");
    assert!(candidates.iter().any(|c| c["refused"] == "no credit left"), "{why}");

    delivery.fail(None).await.expect("settled");
    let why = a.why(&first).await;
    says(&why, "delayed", "backoff", &["failed"]);
    assert!(why["until"].is_string(), "{why}");

    let delivery = subscription.next().await.expect("well").expect("the second one");
    assert_eq!(delivery.id().to_string(), second);
    delivery.reject("no such customer").await.expect("settled");
    says(&a.why(&second).await, "parked", "nothing", &["no such customer", "redrive"]);

    let third = push(&a, "w.Work").await;
    loop {
        let delivery = subscription.next().await.expect("well").expect("an object");
        delivery.finalise().await.expect("settled");
        if delivery.id().to_string() == third {
            break;
        }
    }
    says(&a.why(&third).await, "final", "nothing", &["mailer"]);

    let unknown = a.cli(&["object", "why", "01a20bea-0000-7000-8000-000000000000"]).await;
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(1), ""));
}

#[tokio::test]
async fn handed_off_and_followed() {
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);
    let b = Node::linked(folder.path(), "b", &[&a]);
    let subscription = b.client().subscribe(["w.Far"]).processor("far").await.expect("subscribed");
    let id = push(&a, "w.Far").await;
    let delivery = subscription.next().await.expect("well").expect("an object");
    let here = a.json(&["object", "why", &id, "--local"]).await.remove(0);
    says(&here, "moved", here["waits_for"].as_str().expect("waits"), &["b"]);
    assert_eq!(here["owner"], "b", "{here}");
    let there = a.why(&id).await;
    says(&there, "leased", "lease", &["far"]);
    assert_eq!((&there["node"], &there["complete"]), (&"b".into(), &true.into()), "{there}");
    delivery.finalise().await.expect("settled");
    says(&a.why(&id).await, "final", "nothing", &["b", "far"]);
}

#[tokio::test]
async fn held_in_doubt() {
    let folder = folder();
    let mut a = Node::start(folder.path(), "a", &[]);
    let b = Node::linked(folder.path(), "b", &[&a]);
    let subscription = b.client().subscribe(["w.Doubt"]).credit(2_000).await.expect("subscribed");
    let work = async {
        while let Ok(batch) = subscription.next_batch(50).await {
            let _lost = subscription.finalise_all(batch).await;
        }
    };
    tokio::select! {
        () = work => panic!("the subscription ended"),
        () = doubt(&mut a, &b) => {}
    }
}

/// A sender that dies between its offer and its word leaves the receiver in doubt. Which moment
/// that is nobody knows from outside, so it dies until it was the right one.
async fn doubt(a: &mut Node, b: &Node) {
    let mut random = random();
    for attempt in 0.. {
        assert!(attempt < 100, "no handoff was caught half-way");
        let pusher = a.client().push_stream(Window::default());
        let target = delivered(b) + 20.0 + below(&mut random, 100) as f64;
        for n in 0..2_000 {
            pusher.send(Object::new("w.Doubt", n.to_string())).await.expect("the window opens");
        }
        wait_for("handoffs to go on", async || (delivered(b) >= target).then_some(())).await;
        a.kill();
        drop(pusher);
        let held = b.json(&["object", "ls", "--state", "held", "--limit", "1"]).await;
        if let Some(held) = held.first() {
            let id = held["id"].as_str().expect("an id");
            let why = b.json(&["object", "why", id, "--local"]).await.remove(0);
            says(&why, "held", "peer", &["a"]);
            println!("attempt {attempt}: {}", why["text"]);
            break;
        }
        a.start_again();
    }
    // The doubt ends when the sender is back.
    a.start_again();
    wait_for("the doubt to end", async || {
        let held = b.json(&["object", "ls", "--state", "held", "--limit", "1"]).await;
        held.is_empty().then_some(())
    })
    .await;
}

fn delivered(node: &Node) -> f64 {
    node.metric("dpc_objects_delivered_total")
}
