//! The full stack on a simulated network: the real runtime, transport, protobuf and client library
//! on many hosts, whose edges alone are simulated. Without arguments it is a test; `cargo sim` gives
//! it seeds. See docs/simulation.md.
#![forbid(unsafe_code)]

mod client;
mod closing;
mod determinism;
mod disk;
mod net;
mod node;
mod receiver;
mod scenes;
mod seeds;
mod swarm;
mod telling;
mod wires;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    match seeds::Order::from_args(std::env::args().skip(1)) {
        Ok(Some(order)) => order.run(),
        Ok(None) => libtest_mimic::run(&Arguments::from_args(), trials()).exit_code(),
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(2)
        }
    }
}

fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("one_seed_is_one_log_byte_for_byte", determinism::twice),
        Trial::test("another_seed_is_another_log", determinism::other),
        Trial::test("some_seeds_keep_every_promise", seeds::some),
        Trial::test("seeds_that_found_something_keep_every_promise", seeds::kept),
    ];
    trials.extend(scenes::trials());
    trials
}
