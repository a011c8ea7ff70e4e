//! `dpc bench`: what nodes do per second, and what that costs.

use crate::bench::{self, Figure, Plan, Where};
use crate::cli::connect::NodeArgs;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::Period;

/// What is measured if nothing is named.
const USUAL: [Figure; 5] =
    [Figure::Push, Figure::Drain, Figure::E2e, Figure::Latency, Figure::Move];

/// Measures nodes of its own in a temporary folder, or with --node running ones.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// What to measure, in this order [default: push drain e2e latency move].
    #[arg(value_name = "FIGURE")]
    pub(crate) figures: Vec<Figure>,
    /// Objects of each figure that counts objects.
    #[arg(long, value_name = "N", default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) objects: u64,
    /// Bytes of a payload.
    #[arg(long, value_name = "B", default_value_t = 200, value_parser = clap::value_parser!(u32).range(8..=16_777_216))]
    pub(crate) size: u32,
    /// Pushes without an answer, of all producers together.
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) window: u32,
    /// Objects pushed and not settled, in e2e; in core, others that wait and that nobody wants.
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(64..=10_000_000))]
    pub(crate) backlog: u32,
    /// Connections that push.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) producers: u16,
    /// Connections that receive and settle.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) subscribers: u16,
    /// Types of the objects, in turn; each subscriber wants all of them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) types: u16,
    /// Objects a second in latency and move-latency.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// How long latency and move-latency measure.
    #[arg(long = "for", value_name = "D", default_value = "5s")]
    pub(crate) span: Period,
    /// Nodes of its own, in a line; move and move-latency take at least two, adopt three.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) nodes: u16,
    /// The store of its own nodes, as `store.kind` names it.
    #[arg(long, value_name = "KIND", default_value = "embedded")]
    pub(crate) store: String,
    /// A setting of its own nodes; give it once for each.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    /// Running nodes were named on the command line. An address in the environment is not enough:
    /// nobody wants to load a cloud by accident.
    #[arg(skip)]
    pub(crate) on_running: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

pub(crate) async fn run(args: BenchArgs, output: &mut Output) -> Result<Exit, Failure> {
    bench::run(&args.into_plan(), output).await
}

impl BenchArgs {
    fn into_plan(self) -> Plan {
        let at = if self.on_running {
            Where::Running(self.node.nodes.iter().map(ToString::to_string).collect())
        } else {
            Where::Own { nodes: self.nodes.into(), store: self.store, settings: self.settings }
        };
        let figures = if self.figures.is_empty() { USUAL.to_vec() } else { self.figures };
        Plan {
            figures,
            objects: self.objects,
            size: self.size as usize,
            window: self.window as usize,
            backlog: self.backlog as usize,
            producers: self.producers.into(),
            subscribers: self.subscribers.into(),
            types: self.types.into(),
            rate: self.rate,
            span: self.span.0,
            at,
        }
    }
}
