//! The second half of every run: with all faults gone, everything that was acknowledged comes to
//! rest, the books balance, and the nodes drain.

use std::time::Duration;

use dpc_client::Client;
use dpc_client::proto::v1;
use dpc_core::effect::{Books, TypeView};
use dpc_core::names::TypeName;
use dpc_core::record::Standing;
use runtime::node::Order;

use crate::client::options;
use crate::net::Net;
use crate::node::clients_address;
use crate::receiver;
use crate::world::{State, World};

/// Until operators' answers about every node are there, and until drained nodes have ended.
const ENDING: Duration = Duration::from_secs(20);

/// Everything ends, or a check names what does not.
pub(crate) fn converge(net: &mut Net<'_>, within: Duration) {
    if net.broken().is_some() {
        return;
    }
    net.say("one subscriber for everything, and nobody else");
    let (world, seed) = (net.world.clone(), net.plan.seed);
    net.add_host("closer", move || receiver::finish_all(world.clone(), "closer", 0, seed));
    let rests = |net: &mut Net<'_>| net.world.lock().checks.unfinished().is_empty();
    if !net.run_until(within, rests) {
        ask_types(net);
        return name_unfinished(net);
    }
    // Answers and forgets that are still on their way; with nothing to do, nothing more comes.
    net.run_for(Duration::from_secs(1));
    check_books(net);
    drain(net);
    net.world.lock().checks.check_all_kept();
}

/// P11: what does not converge is named, with where it is and what is known of it.
fn name_unfinished(net: &Net<'_>) {
    let facts = &mut *net.world.lock();
    if facts.checks.broken().is_some() {
        return;
    }
    let mut lines = Vec::new();
    for (number, node) in facts.nodes.iter().enumerate() {
        let things = facts.checks.model.lane(node.lane).things();
        for thing in things.filter(|thing| !matches!(thing.standing, Standing::Parked(_))) {
            let (o, standing) = (&thing.object, &thing.standing);
            let (id, ty) = (o.id, &o.entity.ty);
            let types = facts.types.get(&number).into_iter().flatten();
            let seen: Vec<_> = types.filter(|t| t.ty == *ty).collect();
            lines.push(format!(
                "{id} v{} {ty} at {} ({:?}): {standing:?}, deliveries {}, handled by {:?}, chase {:?}; {seen:?}",
                o.version, node.name, node.state, o.deliveries, o.handled, o.chase
            ));
        }
    }
    let what = format!("not at rest: {}", lines.join("; "));
    facts.checks.fail("P11", what);
}

/// Asks every node for its types. False if not all of them answer.
fn ask_types(net: &mut Net<'_>) -> bool {
    let (world, seed) = (net.world.clone(), net.plan.seed);
    net.add_host("operator", move || ask_books(world.clone(), seed));
    let nodes = net.plan.peers.len();
    net.run_until(ENDING, |net| net.world.lock().types.len() == nodes)
}

/// P13, as an operator sees it.
fn check_books(net: &mut Net<'_>) {
    if !ask_types(net) {
        net.world.fail("P13", "no operator's answer about the books".into());
        return;
    }
    let facts = &mut *net.world.lock();
    for (node, types) in std::mem::take(&mut facts.types) {
        facts.checks.check_books(facts.nodes[node].lane, &types);
    }
}

async fn ask_books(world: World, seed: u64) -> turmoil::Result {
    let names: Vec<_> = world.lock().nodes.iter().map(|node| node.name.clone()).collect();
    for (node, name) in names.iter().enumerate() {
        let client = Client::connect([clients_address(name)], options(&world, "operator", seed))?;
        let ask = client
            .ask(|mut node| async move { node.list_types(v1::ListTypesRequest::default()).await });
        let types = ask.await?.types.into_iter().map(view).collect();
        world.lock().types.insert(node, types);
    }
    std::future::pending().await
}

fn view(info: v1::TypeInfo) -> TypeView {
    let b = info.books.unwrap_or_default();
    TypeView {
        ty: TypeName::from_type_url(&info.r#type).expect("the node knows it"),
        ready: info.ready,
        leased: info.leased,
        delayed: info.delayed,
        parked: info.parked,
        offered: info.offered,
        held: info.held,
        oldest_age: None,
        subscribers: info.subscribers,
        demand_elsewhere: info.demand_elsewhere,
        no_demand: info.no_demand,
        books: Books {
            pushed: b.pushed,
            emitted: b.emitted,
            moved_in: b.moved_in,
            advanced_in: b.advanced_in,
            reclaimed: b.reclaimed,
            finalised: b.finalised,
            discarded: b.discarded,
            moved_out: b.moved_out,
            advanced_out: b.advanced_out,
        },
    }
}

/// Every node drains and ends by itself.
fn drain(net: &mut Net<'_>) {
    let nodes = net.plan.peers.len();
    for node in 0..nodes {
        net.order(node, Order::Drain);
    }
    let down = |net: &mut Net<'_>| {
        net.world.lock().nodes.iter().all(|node| matches!(node.state, State::Down))
    };
    if !net.run_until(ENDING, down) && net.broken().is_none() {
        net.world.fail("P11", "a node was told to drain and does not end".into());
    }
}
