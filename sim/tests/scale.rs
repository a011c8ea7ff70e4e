//! What demand costs does not depend on how many objects wait: it is per change, not per object. The
//! figures for large meshes are in docs/scale.md; this is the same at a size for every build.

use dpc_core::time::Span;
use sim::scale::{Mesh, Shape};
use sim::world::Traffic;

const NODES: usize = 60;

const TYPES: usize = 500;

const OBJECTS: u64 = 100_000;

/// What is said about demand when things change, in a mesh with so many objects that wait.
fn said_with(objects: u64) -> Vec<Traffic> {
    let mut mesh = Mesh::new(NODES, Shape::Tree(4), 7);
    mesh.subscribe(TYPES, |_| ());
    mesh.push_backlog(objects);
    assert_eq!(mesh.waiting() as u64, objects, "they wait");
    assert_eq!(mesh.idle(Span::secs(300)), Traffic::default(), "an idle mesh is silent");
    // Types with an odd number have a subscriber and no object that waits for it.
    let mut said: Vec<Traffic> =
        [1, 77, 499].into_iter().flat_map(|ty| mesh.leave_and_return(ty)).collect();
    said.push(mesh.break_and_heal());
    assert_eq!(mesh.world.checks.broken(), None);
    said.into_iter().map(|traffic| Traffic { handshakes: 0, others: 0, ..traffic }).collect()
}

#[test]
fn a_change_of_demand_costs_the_same_with_no_object_and_with_a_hundred_thousand() {
    let (none, many) = (said_with(0), said_with(OBJECTS));
    assert_eq!(none, many);
    let links = NODES as u64 - 1;
    for (i, said) in none[..6].iter().enumerate() {
        let once = Traffic { messages: links, adverts: links, ..Traffic::default() };
        assert_eq!(*said, once, "change {i}: one advert over each link, away from its origin");
    }
    assert!(none[6].adverts > TYPES as u64, "a link that comes back tells all there is: {none:?}");
}
