//! `dpc demo`: the acceptance story on real node processes.

use std::path::PathBuf;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::demo;

/// Runs the story.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// How many nodes, in a line with the clients at its ends.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub(crate) nodes: u32,
    /// Leave the nodes running until Ctrl-C, and print how to talk to them.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Work on real data: the history of this git repository.
    #[arg(long, value_name = "DIR")]
    pub(crate) repo: Option<PathBuf>,
}

pub(crate) async fn run(args: DemoArgs, output: &mut Output) -> Result<Exit, Failure> {
    let DemoArgs { nodes, keep, repo } = args;
    demo::run(demo::Plan { nodes, keep, repo: repo.as_deref() }, output).await
}
