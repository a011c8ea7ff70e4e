//! `dpc subscribe`: receives objects, works on them and settles them.

mod deliver;
mod exec;
mod take;

use dpc_client::Verb;

use crate::cli::connect::NodeArgs;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::Period;

/// The reason of a rejection: which command was at work is all that is known.
const REJECT_REASON: &str = "rejected by `dpc subscribe --settle reject`";

/// Subscribes to types.
#[derive(Debug, clap::Args)]
pub(crate) struct SubscribeArgs {
    /// Types, prefixes (`acme.orders.*`) or `*` for every type.
    #[arg(value_name = "TYPE", required = true)]
    pub(crate) types: Vec<String>,
    /// The name under which the work is shared.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) processor: String,
    /// The most unsettled deliveries, from 1 to 65536 [default: the node's].
    #[arg(long, value_name = "N")]
    pub(crate) credit: Option<u32>,
    /// End after so many deliveries.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End when nothing was delivered for so long.
    #[arg(long, value_name = "D")]
    pub(crate) idle_exit: Option<Period>,
    /// How to settle each delivery once it is printed; none leaves the lease to run out.
    #[arg(long, value_name = "VERB", default_value = "finalise")]
    pub(crate) settle: SettleArg,
    /// Run a command for each object, the payload on its stdin, DPC_ID, DPC_TYPE and DPC_DELIVERY
    /// in its environment, its stdout to stderr. Exit 0 finalises, 75 releases without blame,
    /// anything else releases as failed. As many run at once as there is credit [default: 1].
    #[arg(long, value_name = "CMD", conflicts_with = "settle")]
    pub(crate) exec: Option<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// How to settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SettleArg {
    /// The object is done for good.
    #[value(alias = "finalize")]
    Finalise,
    /// The object goes on, to other processors.
    Advance,
    /// The object goes back to its place.
    Release,
    /// The object is parked.
    Reject,
    /// The lease runs out.
    None,
}

impl SettleArg {
    /// The settle; nothing if the lease is to run out.
    fn verb(self) -> Option<Verb> {
        match self {
            Self::Finalise => Some(Verb::Finalise),
            Self::Advance => Some(Verb::Advance(None)),
            Self::Release => Some(Verb::Release(None)),
            Self::Reject => Some(Verb::Reject(REJECT_REASON.to_owned())),
            Self::None => None,
        }
    }
}

pub(crate) async fn run(args: SubscribeArgs, output: &mut Output) -> Result<Exit, Failure> {
    match (&args.exec, args.settle.verb()) {
        (Some(command), _) => exec::run(&args, command, output).await,
        (None, Some(verb)) => deliver::run(&args, verb, output).await,
        // A session gives its leases back when it ends. Only what is taken without one runs out.
        (None, None) => take::run(&args, output).await,
    }
}

/// Waits until nothing has come for as long as asked; for ever if that was not asked.
async fn idle(idle_exit: Option<Period>) {
    match idle_exit {
        Some(period) => tokio::time::sleep(period.0).await,
        None => std::future::pending().await,
    }
}
