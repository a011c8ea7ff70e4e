//! Four nodes in a ring while demand moves from node to node (P10).

mod support;

use std::collections::{BTreeMap, BTreeSet};

use dpc_client::proto::v1::Decision;
use dpc_client::{Object, Uuid, Window};
use rand_core::Rng;
use support::{Node, assert_books_balance, below, folder, long, random, wait_for};

#[tokio::test]
async fn objects_follow_moving_demand_and_never_run_in_circles() {
    let mut random = random();
    let (objects, rounds) = if long() { (4_000, 40) } else { (1_000, 12) };
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);
    let b = Node::linked(folder.path(), "b", &[&a]);
    let c = Node::linked(folder.path(), "c", &[&b]);
    let d = Node::linked(folder.path(), "d", &[&c, &a]);
    let nodes = [a, b, c, d];

    let mut pushed = Vec::new();
    let mut finalised = BTreeSet::new();
    let per_round = objects / rounds;
    let mut at = 0;
    for round in 0..rounds {
        // Pushed anywhere, wanted somewhere else than before.
        let pusher = nodes[below(&mut random, 4)].client().push_stream(Window::default());
        for _ in 0..per_round {
            let sent = pusher.send(Object::new("t.Ring", vec![0; 100])).await;
            pushed.push(sent.expect("the window opens").id);
        }
        at = (at + 1 + below(&mut random, 3)) % 4;
        let credit = 1 + below(&mut random, 64);
        let credit = u32::try_from(credit).expect("small");
        let subscription = nodes[at].client().subscribe(["t.Ring"]).credit(credit).await;
        let subscription = subscription.expect("subscribed");
        pusher.close().await.expect("everything is stored");
        // The demand goes before everything is done, except in the last round.
        let last = round == rounds - 1;
        let enough = if last { pushed.len() } else { finalised.len() + per_round / 2 };
        while finalised.len() < enough {
            let batch = tokio::time::timeout(support::PATIENCE, subscription.next_batch(32)).await;
            let batch = batch.expect("something comes").expect("the session is well");
            // Some go back without blame, to be delivered again.
            let (keep, back): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|_| last || !random.next_u64().is_multiple_of(8));
            let ids: Vec<_> = keep.iter().map(|delivery| delivery.id()).collect();
            subscription.finalise_all(keep).await.expect("settled");
            let release = dpc_client::Verb::Release(None);
            subscription.settle_all(back, &release).await.expect("released");
            for id in ids {
                assert!(finalised.insert(id), "{id} was settled twice");
            }
        }
        subscription.close().await.expect("it ends well");
    }
    assert_eq!(finalised.len(), pushed.len());
    for node in &nodes {
        wait_for("nothing to be left", async || (node.open().await == 0).then_some(())).await;
        for info in node.types().await {
            assert_books_balance(&node.ready.node, &info);
        }
    }
    let mut moved = 0;
    for id in pushed {
        moved += links_of(&nodes, id).await;
    }
    println!("{rounds} rounds, {} objects, {moved} handoffs", finalised.len());
    assert!(moved > 0, "nothing was handed over: the test looked at nothing");
}

/// The handoffs of an object. Within one generation of demand it crosses no link twice in the same
/// direction, and at most `max_hops` (8) links.
async fn links_of(nodes: &[Node], id: Uuid) -> usize {
    let mut crossed = BTreeSet::new();
    let mut per_generation = BTreeMap::<String, usize>::new();
    let mut cross = |node: &Node, offer: Decision| {
        let to = offer.chosen.expect("an offer goes to somebody");
        let generation = offer.generation.expect("an offer follows demand");
        let link = (generation.clone(), node.ready.node.clone(), to);
        assert!(crossed.insert(link.clone()), "{id} crossed {link:?} twice");
        *per_generation.entry(generation).or_default() += 1;
    };
    for node in nodes {
        let decisions = node.decisions(id).await;
        let mut offer = None;
        for decision in decisions {
            match decision.decision.as_str() {
                "offer" => offer = Some(decision),
                "move" => {
                    // The demand that is followed stands in the offer that came to this move.
                    let offer = offer.take().unwrap_or_else(|| panic!("{id}: no offer"));
                    assert_eq!(offer.moves, decision.moves, "{id}: {offer:?} {decision:?}");
                    cross(node, offer);
                }
                _ => {}
            }
        }
    }
    let most = per_generation.values().max().copied().unwrap_or_default();
    assert!(most <= 8, "{id} crossed {most} links for one demand");
    crossed.len()
}
