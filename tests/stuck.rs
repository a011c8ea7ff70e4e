//! One that is stuck harms nobody else: a subscriber that settles nothing or reads nothing, a peer
//! that accepts a link and never reads, a peer that is paused.

mod support;

use std::time::Duration;

use dpc_client::{Object, Window};
use rustix::process::{Pid, Signal, kill_process};
use support::{Node, command, folder, holds_for, long, wait_until_done};

/// Far above what a node needs for this, far below what it would hoard without bounds.
const MEMORY_MIB_MAX: u64 = 400;

async fn push_many(node: &Node, object_type: &str, count: usize, bytes: usize) {
    let pusher = node.client().push_stream(Window::default());
    for _ in 0..count {
        let object = Object::new(object_type, vec![b'x'; bytes]);
        pusher.send(object).await.expect("the window opens");
    }
    pusher.close().await.expect("everything is stored");
}

async fn finalise(node: &Node, object_type: &str, count: usize) {
    let subscription = node.client().subscribe([object_type]).credit(500).await;
    let subscription = subscription.expect("subscribed");
    let mut done = 0;
    while done < count {
        let batch = tokio::time::timeout(support::PATIENCE, subscription.next_batch(100)).await;
        let batch = batch.expect("something comes").expect("the session is well");
        done += batch.len();
        subscription.finalise_all(batch).await.expect("settled");
    }
    assert_eq!(done, count);
    subscription.close().await.expect("it ends well");
}

fn memory_is_bounded(nodes: &[&Node]) {
    for node in nodes {
        let mib = node.memory_mib();
        assert!(mib <= MEMORY_MIB_MAX, "node {} has {mib} MiB", node.ready.node);
    }
}

#[tokio::test]
async fn stuck_subscribers_stop_nobody() {
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);
    // One that takes and never settles.
    let hoarder = a.client().subscribe(["s.Work"]).credit(50).await.expect("subscribed");
    // One that stops reading with all the credit there is. It waits for a type of its own first,
    // so that it is known to be at work before it is paused.
    let arguments = ["subscribe", "s.Work", "s.Start", "--credit", "65536", "-o", "json"];
    let mut paused = command(&arguments).arg("--node").arg(&a.ready.clients).spawn();
    let paused = paused.as_mut().expect("dpc subscribe starts");
    support::wait_for("the subscriber to subscribe", async || {
        let subs = a.json(&["sub", "ls"]).await;
        (subs.len() == 3).then_some(())
    })
    .await;
    let pid = paused.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let pid = pid.expect("it runs");
    kill_process(pid, Signal::STOP).expect("it runs");

    // More than all buffers on the way to the paused one hold.
    push_many(&a, "s.Work", 60_000, 1_000).await;
    push_many(&a, "s.Other", 5_000, 100).await;
    finalise(&a, "s.Other", 5_000).await;
    memory_is_bounded(&[&a]);

    // Both are gone; what they had is done by somebody else.
    kill_process(pid, Signal::CONT).expect("it is there");
    paused.kill().await.expect("it runs");
    drop(hoarder);
    let subscription = a.client().subscribe(["s.Work"]).credit(1_000).await.expect("subscribed");
    let work = async {
        while let Ok(batch) = subscription.next_batch(200).await {
            subscription.finalise_all(batch).await.expect("settled");
        }
    };
    let nodes = [a];
    tokio::select! {
        () = work => panic!("the subscription ended"),
        () = wait_until_done(&nodes) => {}
    }
    memory_is_bounded(&[&nodes[0]]);
    let types = nodes[0].types().await;
    let work = types.iter().find(|info| info.r#type == "s.Work").expect("it was here");
    assert_eq!(work.books.expect("books").finalised + work.parked, 60_000, "nothing was lost");
}

#[tokio::test]
async fn a_peer_that_never_reads_stops_nobody() {
    let folder = folder();
    // It accepts and is silent.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = silent.accept() {
            kept.push(stream);
        }
    });
    let a = Node::start(folder.path(), "a", &["--peer", &address]);
    let b = Node::linked(folder.path(), "b", &[&a]);
    let (pushed, finalised) =
        tokio::join!(push_many(&a, "s.Far", 5_000, 200), finalise(&b, "s.Far", 5_000));
    let ((), ()) = (pushed, finalised);
    memory_is_bounded(&[&a, &b]);
    wait_until_done(&[a, b]).await;
}

#[tokio::test]
async fn a_paused_peer_stops_nobody_and_loses_nothing() {
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);
    let b = Node::linked(folder.path(), "b", &[&a]);
    let c = Node::linked(folder.path(), "c", &[&a]);
    // Both want the same: what b cannot take, c can.
    let at_b = b.client().subscribe(["s.Both"]).credit(100).await.expect("subscribed");
    let taken = async {
        let mut done = 0_u64;
        while let Ok(batch) = at_b.next_batch(50).await {
            if batch.is_empty() {
                break;
            }
            done += batch.len() as u64;
            // A lease may be lost while its node is paused; the object comes again then.
            let _lost = at_b.finalise_all(batch).await;
        }
        done
    };
    let story = async {
        push_many(&a, "s.Both", 2_000, 200).await;
        b.signal(Signal::STOP);
        let span = Duration::from_secs(if long() { 60 } else { 6 });
        // Pushed and finalised at a and c, all the time, while b says nothing.
        let mut rounds = 0;
        holds_for(span, async || {
            let own = format!("s.Own{}", rounds % 3);
            push_many(&a, &own, 100, 100).await;
            finalise(&c, &own, 100).await;
            push_many(&a, "s.Both", 100, 100).await;
            memory_is_bounded(&[&a, &c]);
            rounds += 1;
        })
        .await;
        b.signal(Signal::CONT);
        println!("{rounds} rounds while b was paused");
        assert!(rounds > 0);
        // Whatever b had is done there or, if the link was given up, elsewhere.
        let nodes = [a, b, c];
        wait_until_done(&nodes).await;
        let (mut pushed, mut finalised) = (0, 0);
        for node in &nodes {
            for info in node.types().await {
                support::assert_books_balance(&node.ready.node, &info);
                let books = info.books.expect("books");
                (pushed, finalised) = (pushed + books.pushed, finalised + books.finalised);
            }
        }
        assert_eq!((pushed, finalised), (2_000 + 200 * rounds, 2_000 + 200 * rounds));
        memory_is_bounded(&nodes.each_ref());
        nodes
    };
    tokio::select! {
        done = taken => panic!("the subscription ended after {done}"),
        nodes = story => drop(nodes),
    }
}
