//! The first test of all: one seed gives one run, byte for byte. While it fails no other result of
//! the simulator means anything.

use std::process::Command;

use sim::swarm::{self, Options};

/// The seeds whose whole stories are compared.
const SEEDS: [u64; 4] = [3, 17, 42, 99];

/// What the child process writes around its stories.
const MARK: &str = "=== the stories ===";

fn told() -> Options {
    Options { trace: true, ..Options::default() }
}

fn stories() -> String {
    SEEDS.iter().map(|seed| swarm::run(*seed, &told()).trace).collect()
}

/// Where two texts part, for a readable failure.
fn first_difference<'a>(a: &'a str, b: &'a str) -> Option<(usize, &'a str, &'a str)> {
    let (mut a, mut b) = (a.lines(), b.lines());
    (1..).find_map(|n| match (a.next(), b.next()) {
        (None, None) => Some(None),
        (x, y) if x != y => Some(Some((n, x.unwrap_or("the end"), y.unwrap_or("the end")))),
        _ => None,
    })?
}

#[test]
fn the_same_seed_gives_the_same_story_twice() {
    let (once, twice) = (stories(), stories());
    assert_eq!(first_difference(&once, &twice), None);
    assert!(once == twice, "they differ in their line ends");
    assert!(once.lines().count() > 1_000, "these stories tell hardly anything");
}

#[test]
fn the_same_seed_gives_the_same_story_in_another_process() {
    let program = std::env::current_exe().expect("this test has a file");
    let child = Command::new(program)
        .args(["--ignored", "--exact", "tell_the_stories", "--nocapture", "--test-threads=1"])
        .output()
        .expect("this test can be started again");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    let said = String::from_utf8(child.stdout).expect("stories are text");
    let told = said.split(MARK).nth(1).expect("the child tells the stories");
    let here = stories();
    assert_eq!(first_difference(&here, told), None);
    assert!(here == told, "they differ in their line ends");
}

#[test]
#[ignore = "what the other process of `the_same_seed_gives_the_same_story_in_another_process` does"]
fn tell_the_stories() {
    print!("{MARK}{}{MARK}", stories());
}

#[test]
fn another_seed_gives_another_story() {
    assert_ne!(swarm::run(SEEDS[0], &told()).trace, swarm::run(SEEDS[1], &told()).trace);
}
