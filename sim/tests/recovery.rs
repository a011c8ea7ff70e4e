//! R8: a log that ends after any of its records gives, replayed, the state that the running core
//! had there, whether it is replayed from its last checkpoint or from its first record; and so it is
//! when it is cut behind every record.

use dpc_core::names::TypeName;
use dpc_core::time::Span;
use dpc_core::{Core, Limits};
use rand_core::Rng;
use rand_pcg::Pcg64Mcg;
use sim::world::{Mode, Plan, Wish, World};

const TYPES: [&str; 3] = ["img", "doc.text", "sound"];

fn limits() -> Limits {
    Limits {
        window_objects: 4,
        record_target_bytes: 2_000,
        part_bytes: 12_000,
        carry_slack_bytes: 2_000,
        failed_deliveries: 2,
        backoff_max: Span::secs(1),
        ..Limits::default()
    }
}

/// Two linked nodes with subscribers that do a bit of everything.
fn world(seed: u64, limits: Limits) -> World {
    let mut plan = Plan::story(seed);
    plan.trace = false;
    plan.limits = limits;
    let mut world = World::new(plan);
    let nodes = [world.add_node(), world.add_node()];
    world.link(nodes[0], nodes[1]);
    let names = TYPES.map(|t| TypeName::from_type_url(t).expect("valid"));
    for node in nodes {
        for (pattern, credit) in [("img", 2), ("doc.*", 1), ("*", 3)] {
            let (pattern, processor) = (pattern.to_owned(), format!("p{credit}"));
            let mode = Mode::Any(names.to_vec());
            let lease = Some(Span::secs(2));
            world.subscribe(Wish { node, pattern, processor, credit, mode, lease });
        }
    }
    world
}

fn push_one(world: &mut World, rng: &mut Pcg64Mcg) {
    let ty = TYPES[(rng.next_u64() % 3) as usize];
    let node = (rng.next_u64() % 2) as usize;
    world.push_text(node, ty, &"x".repeat((rng.next_u64() % 300) as usize));
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

/// Lets time pass, comparing after every event.
fn run(world: &mut World, span: Span, compared: &mut u64, seed: u64) {
    let until = world.now() + span;
    while world.step(until) {
        compare(world, compared, seed);
    }
}

#[test]
fn every_prefix_of_a_log_recovers_to_what_ran() {
    let (mut compared, mut checkpoints, mut cuts) = (0, 0, 0);
    for seed in 0..6 {
        let mut world = world(seed, limits());
        let mut rng = Pcg64Mcg::new(u128::from(seed) << 1 | 1);
        for i in 0..120u64 {
            push_one(&mut world, &mut rng);
            run(&mut world, Span::millis(1 + i % 40), &mut compared, seed);
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

/// Not only where the core was at rest: after each record that it has ever written.
#[test]
fn a_log_that_ends_anywhere_says_one_thing() {
    let (mut prefixes, mut checkpoints) = (0, 0);
    for seed in 0..4 {
        let whole = Limits { carry_slack_bytes: u64::MAX / 4, ..limits() };
        let mut world = world(seed, whole);
        let mut rng = Pcg64Mcg::new(u128::from(seed) << 1 | 1);
        for i in 0..120u64 {
            push_one(&mut world, &mut rng);
            world.run_for(Span::millis(1 + i % 40));
        }
        world.run_for(Span::secs(10));
        assert_eq!(world.broken(), None, "seed {seed}");
        for node in 0..2 {
            prefixes += world.check_prefixes(node).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
        checkpoints += world.coverage.get("checkpoint written");
    }
    assert!(prefixes > 1_000 && checkpoints > 10, "{prefixes} prefixes, {checkpoints} checkpoints");
}

/// Every record that names an object ends a part, and whatever is alive is carried out of the oldest
/// one, so that the log is cut behind almost every record.
#[test]
fn a_log_that_is_truncated_after_every_record_recovers() {
    let (mut compared, mut cuts, mut carried) = (0, 0, 0);
    for seed in 0..3 {
        let shortest = Limits { part_bytes: 1, part_ids: 1, carry_slack_bytes: 0, ..limits() };
        let mut world = world(seed, shortest);
        let mut rng = Pcg64Mcg::new(u128::from(seed) << 1 | 1);
        for i in 0..60u64 {
            push_one(&mut world, &mut rng);
            // Housekeeping looks at the log each minute.
            run(&mut world, Span::millis(60_100 + i % 40), &mut compared, seed);
        }
        assert_eq!(world.broken(), None, "seed {seed}");
        cuts += world.coverage.get("log truncated");
        carried += world.coverage.get("carried forward");
        carried += world.coverage.get("end carried forward");
    }
    assert!(compared > 1_000, "only {compared} states were compared");
    assert!(cuts > 300 && carried > 300, "{cuts} cuts, {carried} entries carried");
}
