//! A backlog larger than memory: filled, idle, taken up again after `kill -9`, and drained.

mod support;

use std::time::Instant;

use dpc_client::{Object, Window};
use support::{Node, assert_books_balance, folder, long};

const MEMORY_MIB_MAX: u64 = 512;
const PAYLOAD_BYTES: usize = 200;

#[tokio::test]
async fn many_ready_objects_take_little_memory_and_a_restart_little_time() {
    let objects: u64 = if long() { 2_000_000 } else { 100_000 };
    let folder = folder();
    let mut a = Node::start(folder.path(), "a", &[]);
    let memory = |when: &str, node: &Node| {
        let mib = node.memory_mib();
        println!("{when}: {mib} MiB");
        assert!(mib <= MEMORY_MIB_MAX, "{when}: {mib} MiB");
    };

    let began = Instant::now();
    let pusher = a.client().push_stream(Window::default());
    for n in 0..objects {
        let object = Object::new("t.Backlog", vec![b'x'; PAYLOAD_BYTES]);
        pusher.send(object).await.expect("the window opens");
        if n % (objects / 10) == 0 {
            memory(&format!("filling, {n} objects"), &a);
        }
    }
    pusher.close().await.expect("everything is stored");
    println!("filled in {:?}", began.elapsed());
    memory("idle", &a);
    assert_eq!(a.open().await, objects);

    a.kill();
    let began = Instant::now();
    a.start_again();
    println!("ready again after {:?}", began.elapsed());
    let subscription = a.client().subscribe(["t.Backlog"]).credit(2_000).await;
    let subscription = subscription.expect("subscribed");
    let first = subscription.next().await.expect("the session is well").expect("an object");
    println!("first delivery after {:?} (the aim is 5 s with 2,000,000)", began.elapsed());
    first.finalise().await.expect("settled");
    memory("after the restart", &a);

    let began = Instant::now();
    let mut done = 1;
    while done < objects {
        let batch = tokio::time::timeout(support::PATIENCE, subscription.next_batch(500)).await;
        let batch = batch.expect("something comes").expect("the session is well");
        let before = done;
        done += batch.len() as u64;
        subscription.finalise_all(batch).await.expect("settled");
        if before * 10 / objects < done * 10 / objects {
            memory(&format!("draining, {done} done"), &a);
        }
    }
    println!("drained in {:?}", began.elapsed());
    support::wait_until_done(std::slice::from_ref(&a)).await;
    let info = a.types().await.remove(0);
    assert_books_balance("a", &info);
    assert_eq!(info.books.expect("books").finalised, objects, "each of them once");
}
