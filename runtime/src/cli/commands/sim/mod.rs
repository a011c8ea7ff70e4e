//! `dpc sim`: the promises under every fault, from seeds that replay anywhere. The simulator is the
//! library `sim`; here are its arguments, its threads, and its words.

mod fleet;
mod meta;
mod ranges;
mod replay;
mod report;
mod run;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// What to simulate.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SimCommand {
    /// Run seeds and check every promise.
    ///
    /// A seed draws nodes, links, limits, clients and faults; the run does everything at once for a
    /// while, then heals and has to come to an end. The same seed does the same on every machine.
    #[command(
        after_help = "Examples:\n  dpc sim run --seeds 0..1000\n  dpc sim run --seed 7 --trace"
    )]
    Run(run::RunArgs),
    /// Check that a seed does the same in two processes, line by line.
    #[command(after_help = "Example:\n  dpc sim meta --seed 7")]
    Meta(meta::MetaArgs),
    /// Let a recorded node do everything again, and print its decisions.
    ///
    /// FILE comes from `dpc record dump`, or was kept by a node that panicked. Each input is a line,
    /// its consequences stand below it; what differs from the recording is marked with `!`. With
    /// `--set` it is told what would have been with another limit.
    #[command(
        after_help = "Examples:\n  dpc sim replay a.dpcrec --last 50\n  dpc sim replay a.dpcrec --set limits.max_hops=2"
    )]
    Replay(replay::ReplayArgs),
}

pub(crate) async fn run(command: SimCommand, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        SimCommand::Run(args) => run::run(&args, output).await,
        SimCommand::Meta(args) => meta::run(&args, output).await,
        SimCommand::Replay(args) => replay::run(&args, output),
    }
}
