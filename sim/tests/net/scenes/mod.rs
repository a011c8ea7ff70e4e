//! Named scenes of what exists only with a real network stack. Each has its own invariant, and ends
//! as every run does: everything comes to rest, and all promises were kept.

mod disks;
mod ends;
mod silence;
mod slowness;
mod ways;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpc_client::proto::v1;
use dpc_client::{Client, Delivery, Error, Object, Options, Receipt, Subscription};
use dpc_core::ids::ObjectId;
use libtest_mimic::Trial;
use tokio::sync::watch;

use crate::client::{object_of, options, push_of};
use crate::closing;
use crate::net::{Net, Plan};
use crate::node::clients_address;
use crate::world::World;

/// Longer than anything takes that goes well.
const SOON: Duration = Duration::from_secs(5);

/// All scenes, as tests.
pub(crate) fn trials() -> Vec<Trial> {
    let all: [(&str, fn()); 16] = [
        ("a_dead_peer_is_noticed_by_its_silence", silence::dead_peer),
        ("a_killed_peer_is_noticed_at_once", silence::killed_peer),
        ("leases_of_a_silent_client_go_to_another", silence::silent_client),
        ("a_one_way_cut_ends_the_link_and_heals", silence::one_way),
        ("a_partition_heals", silence::partition),
        ("a_subscriber_that_does_not_read_is_cut_off", slowness::deaf_subscriber),
        ("control_overtakes_bodies_on_a_slow_link", slowness::slow_link),
        ("a_held_network_loses_nothing", slowness::held),
        ("a_reset_in_the_middle_loses_and_doubles_nothing", ends::resets),
        ("a_push_with_a_lost_answer_is_repeated_once", ends::lost_answer),
        ("a_client_with_a_list_finds_a_node_that_lives", ends::list_of_nodes),
        ("a_drained_node_hands_over_and_ends", ends::drain),
        ("an_object_takes_two_hops", ways::two_hops),
        ("two_that_dial_each_other_keep_one_link", ways::both_dial),
        ("a_failed_sync_stops_the_node_and_no_ok_is_lost", disks::failed_sync),
        ("a_disk_below_its_reserve_refuses_pushes_and_settles_go_on", disks::low),
    ];
    let trial = |(name, scene): (&str, fn())| {
        Trial::test(name, move || {
            scene();
            Ok(())
        })
    };
    all.into_iter().map(trial).collect()
}

/// A network of nodes that dial these peers, with every node up.
fn net(peers: &[&[usize]]) -> Net<'static> {
    net_of(Plan::new(1, peers))
}

fn net_of(plan: Plan) -> Net<'static> {
    let mut net = Net::new(plan);
    net.run_until_up();
    net
}

/// The end of every scene.
fn finish(mut net: Net<'_>) {
    net.heal_all();
    for node in 0..net.plan.peers.len() {
        net.restart(node);
    }
    net.run_until_up();
    closing::converge(&mut net, Duration::from_secs(30));
    assert_eq!(net.broken(), None);
}

/// What a host is to find out.
struct Task<T>(Arc<Mutex<Option<T>>>);

impl<T> Task<T> {
    fn take(&self) -> Option<T> {
        self.0.lock().expect("nobody panics while holding it").take()
    }
}

/// Lets a new host do something, as long as the network is stepped. The host stays.
fn task<'a, T, F, R>(net: &mut Net<'a>, host: &str, run: R) -> Task<T>
where
    T: 'a + 'static,
    F: Future<Output = T> + 'static,
    R: FnOnce(World) -> F + 'a,
{
    let result = Arc::new(Mutex::new(None));
    let (told, world, run) = (Arc::clone(&result), net.world.clone(), Mutex::new(Some(run)));
    net.add_host(host, move || {
        let run = run.lock().expect("nobody panics while holding it").take();
        let (told, world) = (Arc::clone(&told), world.clone());
        let running = run.expect("a task is not started twice")(world);
        async move {
            let result = running.await;
            *told.lock().expect("nobody panics while holding it") = Some(result);
            std::future::pending().await
        }
    });
    Task(result)
}

/// Something that has happened on one side of the simulation and is waited for on the other.
#[derive(Clone)]
struct Sign(watch::Sender<bool>);

impl Sign {
    fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    fn give(&self) {
        self.0.send_replace(true);
    }

    /// A host waits for it.
    async fn given(&self) {
        let waits = self.0.subscribe().wait_for(|given| *given).await.map(drop);
        waits.expect("this sign is there as long as somebody waits for it");
    }
}

/// Steps until a host has given a sign.
fn until(net: &mut Net<'_>, what: &str, sign: &Sign) {
    let given = net.run_until(SOON, |_| *sign.0.borrow());
    assert!(given, "{what}: not in {SOON:?}; {:?}", net.broken());
}

/// Steps until the log of a node says that it has so many objects.
fn until_stored(net: &mut Net<'_>, node: usize, count: usize) {
    let lane = net.world.lock().nodes[node].lane;
    let stored =
        |net: &mut Net<'_>| net.world.lock().checks.model.lane(lane).things().count() >= count;
    assert!(net.run_until(SOON, stored), "{count} objects at n{}; {:?}", node + 1, net.broken());
}

/// Steps until a task is done.
fn wait<T>(net: &mut Net<'_>, within: Duration, what: &str, task: &Task<T>) -> T {
    let mut result = None;
    let done = net.run_until(within, |_| {
        result = task.take();
        result.is_some()
    });
    assert!(done, "{what}: not done in {within:?}; {:?}", net.broken());
    result.expect("just seen")
}

/// A client of these nodes on a host, under quick options changed at will.
fn client_with(
    world: &World,
    host: &str,
    nodes: &[usize],
    change: impl FnOnce(Options) -> Options,
) -> Client {
    let seed = host.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte));
    let names: Vec<_> = nodes.iter().map(|n| world.lock().nodes[*n].name.clone()).collect();
    let addresses = names.iter().map(|name| clients_address(name));
    Client::connect(addresses, change(options(world, host, seed))).expect("the addresses are right")
}

fn client(world: &World, host: &str, nodes: &[usize]) -> Client {
    client_with(world, host, nodes, |options| options)
}

/// Tells the checks of an object that may be pushed at any node, and makes it.
fn object(world: &World, n: u64, ty: &str, text: &str) -> Object {
    let mut id = [0x5c; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let push = push_of(ObjectId(id), ty, text);
    let facts = &mut *world.lock();
    let lanes: Vec<_> = facts.nodes.iter().map(|node| node.lane).collect();
    facts.on_push(&lanes, &push);
    object_of(&push)
}

/// Pushes so many small objects of a type, one after the other.
async fn push_many(
    world: &World,
    client: &Client,
    first: u64,
    count: u64,
    ty: &str,
) -> Vec<Result<Receipt, Error>> {
    let mut receipts = Vec::new();
    for n in first..first + count {
        receipts.push(client.push(object(world, n, ty, "x")).await);
    }
    receipts
}

/// The next delivery, which has to come.
async fn next(subscription: &Subscription) -> Delivery {
    let next = tokio::time::timeout(Duration::from_secs(20), subscription.next());
    let delivery = next.await.expect("a delivery in time").expect("the subscription lives");
    delivery.expect("it is not closed")
}

/// Steps until a node has so many links, and tells how long that took.
fn until_links(net: &mut Net<'_>, node: usize, count: usize, within: Duration) -> Duration {
    let began = net.sim.elapsed();
    let host = format!("asks{}at{}", node + 1, began.as_millis());
    let name = host.clone();
    let asked = task(net, &host, move |world| async move {
        let client = client(&world, &name, &[node]);
        while up(&client).await != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    wait(net, within, &format!("{count} links of n{}", node + 1), &asked);
    net.sim.elapsed() - began
}

/// How many links a node has.
async fn up(client: &Client) -> usize {
    let nodes = client
        .ask(|mut node| async move { node.list_nodes(v1::ListNodesRequest::default()).await })
        .await
        .expect("the node answers");
    nodes.nodes.iter().filter(|n| !n.self_ && n.link() == v1::LinkState::Up).count()
}
