//! The full stack on a simulated network: the real runtime, transport, protobuf and client library
//! on many hosts, whose edges alone are simulated. Without arguments it is a test; `cargo sim` gives
//! it seeds. See docs/simulation.md.
#![forbid(unsafe_code)]

mod client;
mod disk;
mod net;
mod node;
mod receiver;
mod telling;
mod wires;
mod world;
mod swarm;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let seed: u64 = args[1].parse().unwrap();
    let run = || swarm::run(seed);
    let report = match args.get(2).map(String::as_str) {
        Some(level) => telling::with(level.parse().unwrap(), std::io::stdout(), run),
        None => run(),
    };
    eprintln!("{report:#?}");
}
