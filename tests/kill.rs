//! `kill -9` at random moments during pushes, handoffs and settles.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpc_client::proto::v1::ObjectState;
use dpc_client::{Client, Object, Options, Outcome, Uuid};
use rand_core::SeedableRng;
use rand_pcg::Pcg64Mcg;
use support::{Node, assert_books_balance, below, folder, long, random, wait_for};
use tokio::task::JoinHandle;

/// What the clients know.
#[derive(Default)]
struct Known {
    /// Pushes that were answered OK.
    stored: BTreeSet<Uuid>,
    /// Pushes whose outcome nobody knows.
    unknown: BTreeSet<Uuid>,
    /// Settles that were answered OK, by object.
    settled: BTreeMap<Uuid, u32>,
    stop: bool,
}

type Shared = Arc<Mutex<Known>>;

fn look<T>(shared: &Shared, look: impl FnOnce(&mut Known) -> T) -> T {
    look(&mut shared.lock().expect("nobody panics while holding it"))
}

fn client(node: &Node) -> Client {
    let patient = Options::new().give_up_after(Duration::from_secs(60));
    let options = patient.backoff(Duration::from_millis(20), Duration::from_millis(200));
    Client::connect([&node.ready.clients], options).expect("a good address")
}

/// Pushes for as long as the rounds last, a few at a time.
fn pusher(node: &Node, object_type: &'static str, shared: Shared) -> JoinHandle<()> {
    let client = client(node);
    tokio::spawn(async move {
        while !look(&shared, |known| known.stop) {
            let push = async || {
                let id = Uuid::now_v7();
                let pushed = client.push(Object::new(object_type, vec![7; 300]).id(id)).await;
                look(&shared, |known| match pushed {
                    Ok(_) => known.stored.insert(id),
                    Err(error) if error.outcome() == Outcome::Unknown => known.unknown.insert(id),
                    // Definitely not done: nobody must ever see it.
                    Err(_) => false,
                });
            };
            tokio::join!(push(), push(), push(), push());
        }
    })
}

/// Settles in all ways until it is aborted.
fn subscriber(node: &Node, seed: u64, shared: Shared) -> JoinHandle<()> {
    let client = client(node);
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    tokio::spawn(async move {
        loop {
            let Ok(subscription) = client.subscribe(["t.*"]).credit(64).await else { continue };
            while let Ok(batch) = subscription.next_batch(16).await {
                if batch.is_empty() {
                    break;
                }
                for delivery in batch {
                    let id = delivery.id();
                    match below(&mut random, 20) {
                        0 => drop(delivery.release(None).await),
                        1 => drop(delivery.fail(Some(Duration::ZERO)).await),
                        _ => {
                            if delivery.finalise().await.is_ok() {
                                look(&shared, |known| *known.settled.entry(id).or_default() += 1);
                            } else {
                                let _token = delivery.abandon();
                            }
                        }
                    }
                }
            }
        }
    })
}

#[tokio::test]
async fn nothing_that_was_answered_ok_is_lost_or_settled_twice() {
    let mut random = random();
    let rounds = if long() { 25 } else { 8 };
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);
    let b = Node::linked(folder.path(), "b", &[&a]);
    let c = Node::linked(folder.path(), "c", &[&b, &a]);
    let mut nodes = [a, b, c];
    let shared = Shared::default();
    let mut pushers = Vec::new();
    let mut subscribers = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let object_type = ["t.A", "t.B", "t.C"][index];
        pushers.push(pusher(node, object_type, shared.clone()));
    }
    // Demand at two of three: whatever the third one gets is handed over.
    for (seed, index) in [(1, 1), (2, 2)] {
        subscribers.push(subscriber(&nodes[index], seed, shared.clone()));
    }
    for round in 0..rounds {
        // A random moment is a random number of answers away.
        let target = look(&shared, |known| known.stored.len() + known.settled.len())
            + 20
            + below(&mut random, 400);
        wait_for("answers to go on coming", async || {
            let now = look(&shared, |known| known.stored.len() + known.settled.len());
            (now >= target).then_some(())
        })
        .await;
        let victim = below(&mut random, 3);
        nodes[victim].kill();
        // Every other time the others go on for a while without it.
        if below(&mut random, 2) == 0 {
            let target = look(&shared, |known| known.stored.len()) + below(&mut random, 40);
            wait_for("the others to go on", async || {
                (look(&shared, |known| known.stored.len()) >= target).then_some(())
            })
            .await;
        }
        nodes[victim].start_again();
        println!("round {round}: killed {}", nodes[victim].ready.node);
    }
    look(&shared, |known| known.stop = true);
    for pusher in pushers {
        pusher.await.expect("no pusher panics");
    }
    support::wait_until_done(&nodes).await;
    subscribers.into_iter().for_each(|subscriber| subscriber.abort());
    check(&nodes, &shared).await;
}

async fn check(nodes: &[Node; 3], shared: &Shared) {
    let (stored, settled, unknown) =
        look(shared, |known| (known.stored.clone(), known.settled.clone(), known.unknown.len()));
    println!("{} stored, {unknown} unknown, {} settled", stored.len(), settled.len());
    assert!(stored.len() > 100 && !settled.is_empty(), "the test looked at too little");
    let twice: Vec<_> = settled.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "settled twice: {twice:?}");
    let mut finalised = 0;
    let (mut came, mut went) = (0, 0);
    for node in nodes {
        for info in node.types().await {
            assert_books_balance(&node.ready.node, &info);
            let books = info.books.expect("a type has books");
            finalised += books.finalised;
            came += books.moved_in;
            went += books.moved_out;
        }
    }
    assert_eq!(came, went, "what one node handed over, another one took");
    assert!(came > 0, "nothing was handed over");
    let settled_ok = settled.len() as u64;
    assert!(finalised >= settled_ok, "{finalised} finalised, {settled_ok} answered OK");
    states(nodes, &stored).await;
}

/// Every object that was answered OK is final or parked, in one place.
async fn states(nodes: &[Node; 3], stored: &BTreeSet<Uuid>) {
    for id in stored {
        let mut found = Vec::new();
        for node in nodes {
            found.extend(node.state(*id).await);
        }
        let ends = |state: &&ObjectState| matches!(state, ObjectState::Final | ObjectState::Parked);
        assert_eq!(found.iter().filter(ends).count(), 1, "{id} is {found:?}");
        let moved = found.iter().filter(|state| **state == ObjectState::Moved).count();
        assert_eq!(moved + 1, found.len(), "{id} is {found:?}");
    }
}
