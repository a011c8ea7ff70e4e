//! The figures of docs/scale.md.
//!
//! `cargo run --release -p sim --example scale -- mesh NODES TYPES tree:10|ring|web:2 [OBJECTS]`
//! `cargo run --release -p sim --example scale -- pace SECONDS`

#![allow(clippy::disallowed_methods, reason = "it measures what a simulation costs")]

use std::io::Write;
use std::time::Instant;

use dpc_core::time::Span;
use sim::scale::{Mesh, Shape};
use sim::world::{Mode, Plan, Traffic, Wish, World};

#[path = "../../runtime/src/allocator.rs"]
mod allocator;

/// As `dpc` has it.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["mesh", nodes, types, shape] => mesh(number(nodes), number(types), shape, 0),
        ["mesh", nodes, types, shape, objects] => {
            mesh(number(nodes), number(types), shape, number(objects));
        }
        ["pace", seconds] => pace(number(seconds)),
        _ => eprintln!("usage: scale mesh NODES TYPES SHAPE [OBJECTS] | scale pace SECONDS"),
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn shape(text: &str) -> Shape {
    match text.split_once(':') {
        Some(("tree", below)) => Shape::Tree(number(below)),
        Some(("web", links)) => Shape::Web(number(links)),
        _ if text == "ring" => Shape::Ring,
        _ => panic!("not a shape: {text}"),
    }
}

/// What demand costs in a mesh, with so many objects that wait.
fn mesh(nodes: usize, types: usize, how: &str, objects: usize) {
    let began = Instant::now();
    let mut mesh = Mesh::new(nodes, shape(how), 1);
    let empty = resident();
    println!("{nodes} nodes, {how}: {} links, {}", mesh.world.wires().len(), mib(empty));
    mesh.subscribe(types, |n| {
        eprint!("\r{n} types, {} ", mib(resident()));
        std::io::stderr().flush().expect("stderr is there");
    });
    eprintln!();
    let told = mesh.world.traffic;
    println!("{types} types with one subscriber each: {told:?}");
    let bytes = resident() - empty;
    let adverts = told.adverts.max(1);
    println!("  {} more, {} B for each advert told and heard", mib(bytes), bytes / adverts);
    if objects > 0 {
        mesh.push_backlog(objects as u64);
        println!("{} objects wait, {}", mesh.waiting(), mib(resident()));
    }
    println!("idle for 10 minutes: {:?}", mesh.idle(Span::secs(600)));
    for ty in [1, (types / 2) | 1] {
        let [left, back] = mesh.leave_and_return(ty);
        println!("a subscriber leaves: {}; comes back: {}", said(left), said(back));
    }
    println!("the last node's link breaks and comes back: {}", said(mesh.break_and_heal()));
    println!("{} at the peak, {:.1?}", mib(peak()), began.elapsed());
}

fn said(traffic: Traffic) -> String {
    let Traffic { messages, adverts, windows, refreshes, .. } = traffic;
    format!("{adverts} adverts, {windows} windows, {refreshes} refreshes in {messages} messages")
}

/// How fast time passes for five nodes under 100 objects a second, half of them handed off.
fn pace(seconds: usize) {
    for (burst, every) in [(1, Span::millis(10)), (10, Span::millis(100))] {
        for checked in [true, false] {
            pace_of(seconds, burst, every, checked);
        }
    }
}

/// Each client pushes so many objects at a time at its node, one client after the other.
fn pace_of(seconds: usize, burst: usize, every: Span, checked: bool) {
    let mut world = five();
    if !checked {
        world.checks.turn_off();
    }
    world.run_for(Span::secs(2));
    let (began, before) = (Instant::now(), world.checks.deliveries());
    for turn in 0..seconds * 100 / burst {
        let what = if turn / 5 % 2 == 0 { "local" } else { "remote" };
        let ty = format!("{what}.Type{}", turn % 5);
        for _ in 0..burst {
            let text = "the payload of an object, 50 bytes of text or so..";
            world.push_text(turn % 5, &ty, text);
        }
        world.run_for(every);
    }
    let took = began.elapsed();
    world.run_for(Span::secs(5));
    assert_eq!(world.checks.broken(), None);
    let objects = (seconds * 100) as u64;
    assert_eq!(world.checks.deliveries() - before, objects, "everything is delivered once");
    println!(
        "{burst} at once every {every}, {}: {objects} objects, {} handoffs, {seconds} s in {took:.2?}: {:.0} times faster, {:.1} µs an object",
        if checked { "every promise checked" } else { "without checks" },
        world.coverage.get("taken"),
        seconds as f64 / took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / objects as f64,
    );
}

/// A ring of five nodes; each type has a subscriber at its node or at the next one.
fn five() -> World {
    let mut world = World::new(Plan { trace: false, ..Plan::story(1) });
    world.check_every = 0;
    (0..5).for_each(|_| {
        world.add_node();
    });
    for node in 0..5 {
        world.link(node, (node + 1) % 5);
        for (what, at) in [("local", node), ("remote", (node + 1) % 5)] {
            let (pattern, processor) = (format!("{what}.Type{node}"), "default".to_owned());
            let (mode, lease) = (Mode::Finalise, None);
            world.subscribe(Wish { node: at, pattern, processor, credit: 256, mode, lease });
        }
    }
    world
}

/// A line of this process's status, in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

fn resident() -> u64 {
    status("VmRSS")
}

fn peak() -> u64 {
    status("VmHWM")
}

fn mib(bytes: u64) -> String {
    format!("{} MiB resident", bytes >> 20)
}
