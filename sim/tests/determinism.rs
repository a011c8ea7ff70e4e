//! The first test of all: one seed is one run, byte for byte. When it is red nothing else is
//! believed.

use sim::swarm;

#[test]
fn one_seed_is_one_run_and_another_seed_another() {
    for seed in 0..12 {
        let (first, second) = (swarm::run(seed, true), swarm::run(seed, true));
        assert!(first.trace.lines().count() > 20, "seed {seed} tells something");
        assert!(first.trace == second.trace, "seed {seed} tells two stories");
        assert_eq!((first.steps, first.coverage), (second.steps, second.coverage));
        assert!(swarm::run(seed + 1_000, true).trace != first.trace, "seed {seed} says nothing");
    }
}

#[test]
fn a_run_is_the_same_in_another_process() {
    if let Ok(seed) = std::env::var("DPC_TELL") {
        let seed = seed.parse().expect("a number");
        print!("{}", swarm::run(seed, true).trace);
        return;
    }
    let tell = |seed: u64| {
        let this = std::env::current_exe().expect("a test has a file");
        let output = std::process::Command::new(this)
            .args(["--exact", "a_run_is_the_same_in_another_process", "--nocapture"])
            .env("DPC_TELL", seed.to_string())
            .output()
            .expect("the test starts itself");
        assert!(output.status.success(), "the other process ends well");
        let text = String::from_utf8(output.stdout).expect("stories are text");
        // What the test harness says of itself (how long it took) is no part of the story.
        let story: Vec<String> = text
            .lines()
            .filter(|l| l.contains(" > ") || l.contains("s n"))
            .map(str::to_owned)
            .collect();
        assert!(story.len() > 20, "seed {seed} tells something");
        story
    };
    for seed in [3, 4] {
        assert_eq!(tell(seed), tell(seed), "seed {seed}");
    }
    assert_ne!(tell(3), tell(4));
}
