//! How much faster than real time a world of five bare cores runs under 100 objects a second in all,
//! half of them handed off: `cargo run --release -p sim --example speed`. Every promise is checked
//! all the while; `check` beside it makes each core check its whole state, too.

use std::time::Instant;

use dpc_core::time::Span;
use sim::world::{Mode, Plan, Wish, World};

/// Simulated time of the measurement.
const SPAN: Span = Span::secs(600);

/// Nodes of the world, in a line.
const NODES: usize = 5;

fn main() {
    let check = std::env::args().any(|arg| arg == "check");
    let mut plan = Plan::story(1);
    plan.trace = false;
    let mut world = World::new(plan);
    world.check_every = if check { 100 } else { 0 };
    for node in 0..NODES {
        world.add_node();
        if node > 0 {
            world.link(node - 1, node);
        }
    }
    for node in 0..NODES {
        // Each node takes its own type, and the type that its left neighbour is given.
        for ty in
            [format!("own{node}"), format!("from{}", node.checked_sub(1).unwrap_or(NODES - 1))]
        {
            world.subscribe(Wish {
                node,
                pattern: ty,
                processor: "default".into(),
                credit: 64,
                mode: Mode::Finalise,
                lease: None,
            });
        }
    }
    world.run_for(Span::secs(1));
    let pushed = run(&mut world);
    assert_eq!(world.broken(), None);
    let moved = world.coverage.get("handoff taken");
    println!("{pushed} objects, {moved} handoffs, {} events", world.steps);
}

#[allow(clippy::disallowed_methods, reason = "this measures the simulator, from outside")]
fn run(world: &mut World) -> u64 {
    let (begun, mut pushed) = (Instant::now(), 0);
    let until = world.now() + SPAN;
    while world.now() < until {
        let node = (pushed / 2 % NODES as u64) as usize;
        let kind = if pushed % 2 == 0 { "own" } else { "from" };
        world.push_text(node, &format!("{kind}{node}"), "a payload of some bytes");
        pushed += 1;
        world.run_for(Span::millis(10));
    }
    world.run_for(Span::secs(1));
    let took = begun.elapsed().as_secs_f64();
    let simulated = (SPAN.0 as f64) / 1e6;
    println!("{simulated} s simulated in {took:.3} s: {:.0} times real time", simulated / took);
    pushed
}
