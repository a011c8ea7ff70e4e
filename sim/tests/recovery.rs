//! R8: a log that ends after any of its records gives, replayed, the state that the running core
//! had there, whether it is replayed from its last checkpoint or from its first record.

use dpc_core::names::TypeName;
use dpc_core::time::Span;
use dpc_core::{Core, Limits};
use rand_core::Rng;
use rand_pcg::Pcg64Mcg;
use sim::world::{Mode, Plan, Wish, World};

fn world(seed: u64) -> World {
    let mut plan = Plan::story(seed);
    plan.trace = false;
    plan.limits = Limits {
        window_objects: 4,
        record_target_bytes: 2_000,
        part_bytes: 12_000,
        carry_slack_bytes: 2_000,
        failed_deliveries: 2,
        backoff_max: Span::secs(1),
        ..Limits::default()
    };
    World::new(plan)
}

/// Compares whenever everything that a core has written is committed.
fn compare(world: &mut World, compared: &mut u64, seed: u64) {
    for node in 0..world.nodes().len() {
        let quiet = world.nodes()[node].core().is_some_and(Core::is_all_committed);
        if quiet {
            *compared += 1;
            if let Err(what) = world.compare_with_recovered(node) {
                panic!("seed {seed} at {}: {what}", world.now());
            }
        }
    }
}

#[test]
fn every_prefix_of_a_log_recovers_to_what_ran() {
    let (mut compared, mut checkpoints, mut cuts) = (0, 0, 0);
    for seed in 0..6 {
        let mut world = world(seed);
        let (a, b) = (world.add_node(), world.add_node());
        world.link(a, b);
        let mut rng = Pcg64Mcg::new(u128::from(seed) << 1 | 1);
        let types = ["img", "doc.text", "sound"];
        let names = types.map(|t| TypeName::from_type_url(t).expect("valid"));
        for node in [a, b] {
            for (pattern, credit) in [("img", 2), ("doc.*", 1), ("*", 3)] {
                let (pattern, processor) = (pattern.to_owned(), format!("p{credit}"));
                let mode = Mode::Any(names.to_vec());
                let lease = Some(Span::secs(2));
                world.subscribe(Wish { node, pattern, processor, credit, mode, lease });
            }
        }
        for i in 0..120u64 {
            let ty = types[(rng.next_u64() % 3) as usize];
            let node = [a, b][(rng.next_u64() % 2) as usize];
            world.push_text(node, ty, &"x".repeat((rng.next_u64() % 300) as usize));
            let until = world.now() + Span::millis(1 + i % 40);
            while world.step(until) {
                compare(&mut world, &mut compared, seed);
            }
        }
        world.run_for(Span::secs(130));
        compare(&mut world, &mut compared, seed);
        assert_eq!(world.broken(), None, "seed {seed}");
        checkpoints += world.coverage.get("checkpoint written");
        cuts += world.coverage.get("log truncated");
    }
    assert!(compared > 1_000, "only {compared} states were compared");
    assert!(checkpoints > 10 && cuts > 5, "{checkpoints} checkpoints, {cuts} cuts");
}
