//! Scenarios that are too long for a script: many objects, and what they must not cost.

use dpc_core::Limits;
use dpc_core::time::Span;
use sim::world::{Mode, Plan, Wish, World};

fn world(limits: Limits) -> World {
    let mut plan = Plan::story(7);
    plan.trace = false;
    plan.limits = limits;
    let mut world = World::new(plan);
    // A core's own checks look at everything that is in memory.
    world.check_every = 10_007;
    world.add_node();
    world
}

fn subscriber(credit: u32) -> Wish {
    Wish {
        node: 0,
        pattern: "img".into(),
        processor: "default".into(),
        credit,
        mode: Mode::Finalise,
        lease: None,
    }
}

/// A subscriber with credit 1,000 that needs 10 ms an object works a backlog of 100,000 off: leases
/// begin when an object is handed out, so none runs out while it waits, and nothing comes twice.
#[test]
fn hundred_thousand_in_a_backlog() {
    const OBJECTS: u64 = 100_000;
    let mut world = world(Limits { lease: Span::secs(1), ..Limits::default() });
    for i in 0..OBJECTS {
        world.push_text(0, "img", "a small job");
        if i % 1_000 == 0 {
            world.run_for(Span::millis(5));
        }
    }
    world.run_for(Span::secs(1));
    assert_eq!(world.checks.deliveries(), 0);
    world.set_think(Span::millis(10));
    world.subscribe(subscriber(1_000));
    world.run_for(Span::secs(30));
    assert_eq!(world.broken(), None);
    assert_eq!(world.checks.unfinished(), [], "all of it is done");
    assert_eq!(world.checks.deliveries(), OBJECTS, "each was delivered once");
    assert_eq!(world.coverage.get("lease ran out"), 0);
    assert!(
        world.coverage.get("record loaded from disk") > 10,
        "the backlog was larger than memory"
    );
}

/// What 400 deliveries cost behind so many objects that have ended: events, and records read.
fn cost_behind(ended: u64) -> (u64, u64) {
    let mut world = world(Limits {
        window_objects: 64,
        part_bytes: 200_000,
        carry_slack_bytes: 400_000,
        ..Limits::default()
    });
    let client = world.subscribe(subscriber(256));
    for i in 0..ended {
        world.push_text(0, "img", "it ends at once");
        if i % 100 == 0 {
            world.run_for(Span::millis(20));
        }
    }
    world.run_for(Span::secs(130));
    assert_eq!(world.checks.unfinished(), []);
    world.leave(client);
    for _ in 0..400 {
        world.push_text(0, "img", "waits among the ended");
        world.run_for(Span::millis(2));
    }
    let loads = |world: &World| world.coverage.get("record loaded from disk");
    let (steps, loaded) = (world.steps, loads(&world));
    world.subscribe(subscriber(256));
    world.run_for(Span::secs(2));
    assert_eq!(world.checks.unfinished(), []);
    assert_eq!(world.checks.deliveries(), ended + 400);
    assert_eq!(world.broken(), None);
    (world.steps - steps, loads(&world) - loaded)
}

/// What has ended costs nothing when something is taken: neither records read nor steps.
#[test]
fn tombstones_cost_nothing() {
    let (few_steps, few_loads) = cost_behind(0);
    let (many_steps, many_loads) = cost_behind(20_000);
    assert!(few_loads > 0, "what waits is on disk");
    assert!(
        many_loads <= few_loads + 2,
        "{few_loads} records read, {many_loads} behind ended ones"
    );
    assert!(
        many_steps <= few_steps + few_steps / 10,
        "{few_steps} steps, {many_steps} behind ended ones"
    );
}
