//! Clients that push and settle while nodes and servers fail, and what they know of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpc_client::{Client, Object, Options, Outcome, Uuid};
use tokio::task::JoinHandle;

use super::{Node, wait_until};

/// What the clients know.
#[derive(Default)]
pub struct Known {
    /// Objects that were answered OK.
    pub stored: BTreeSet<Uuid>,
    /// Settles that were answered OK, by object.
    pub settled: BTreeMap<Uuid, u32>,
    /// Pushers end.
    pub stop: bool,
}

pub type Shared = Arc<Mutex<Known>>;

/// Reads or changes what is known.
pub fn look<T>(shared: &Shared, look: impl FnOnce(&mut Known) -> T) -> T {
    look(&mut shared.lock().expect("nobody panics while holding it"))
}

/// A client of some nodes, which goes on at the next one where one is gone.
pub fn client(nodes: &[&Node]) -> Client {
    let options = Options::new().backoff(Duration::from_millis(20), Duration::from_millis(200));
    let addresses = nodes.iter().map(|node| node.ready.clients.clone());
    Client::connect(addresses, options).expect("good addresses")
}

/// Settles whatever comes until it is aborted.
pub fn subscriber(client: Client, shared: Shared) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let Ok(subscription) = client.subscribe(["t.*"]).credit(16).await else { continue };
            while let Ok(Some(delivery)) = subscription.next().await {
                let id = delivery.id();
                if delivery.finalise().await.is_ok() {
                    look(&shared, |known| *known.settled.entry(id).or_default() += 1);
                } else {
                    let _token = delivery.abandon();
                }
            }
        }
    })
}

/// What pushers push.
pub fn load(id: Uuid) -> Object {
    Object::new("t.Load", vec![7; 300]).id(id)
}

/// Pushes until it is told to stop. Where one node is gone it goes on at the next.
pub fn pusher(client: Client, shared: Shared) -> JoinHandle<()> {
    tokio::spawn(async move {
        while !look(&shared, |known| known.stop) {
            let id = Uuid::now_v7();
            match client.push(load(id)).await {
                Ok(_) => {
                    look(&shared, |known| known.stored.insert(id));
                }
                Err(error) => assert_eq!(error.outcome(), Outcome::Unknown, "{error}"),
            }
        }
    })
}

/// Waits until everything that was answered OK is settled.
pub async fn wait_until_settled(shared: &Shared) {
    wait_until("everything that was answered OK to be settled", async || {
        look(shared, |known| {
            let left: Vec<_> =
                known.stored.iter().filter(|id| !known.settled.contains_key(id)).collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{} of {} are left: {:?}", left.len(), known.stored.len(), left[0]))
            }
        })
    })
    .await;
}

/// No object was settled twice.
pub fn assert_settled_once(shared: &Shared) {
    let twice = look(shared, |known| {
        let twice = known.settled.iter().filter(|(_, times)| **times > 1);
        twice.map(|(id, _)| *id).collect::<Vec<_>>()
    });
    assert!(twice.is_empty(), "settled twice: {twice:?}");
}
