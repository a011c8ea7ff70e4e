//! The command line: parses it, does what it asks, and ends with the promised exit code.

pub(crate) mod client;
mod commands;
mod confirm;
mod connect;
pub(crate) mod exit;
pub(crate) mod failure;
mod lines;
pub(crate) mod output;
mod payload;
pub(crate) mod progress;
pub(crate) mod show;
pub(crate) mod stop;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod times;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use commands::{
    bench, config, demo, node, object, parked, push, record, serve, settle, sim, store, sub,
    subscribe, types,
};
use exit::Exit;
use failure::Failure;
use output::{Format, Output};

/// The version and the commit it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("DPC_COMMIT"), ")");

/// Distributed Processing Cloud: a mesh of equal nodes that hands each typed object to someone who
/// can process it.
#[derive(Debug, Parser)]
#[command(
    name = "dpc",
    version = VERSION,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example:\n  dpc demo"
)]
struct Cli {
    /// The form of results: text for eyes, json for scripts.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text", global = true)]
    output: Format,
    /// Whom to ask; each verb that asks a node sees it too, wherever it stands.
    #[command(flatten)]
    node: connect::NodeArgs,
    #[command(subcommand)]
    command: Command,
}

/// The verbs that ask no node: `--node` there is a mistake about what they do.
const ASKS_NOBODY: [&str; 6] = ["serve", "demo", "sim", "store", "config", "completion"];

impl Cli {
    /// The definition. `--node` is not offered by the verbs that ask no node.
    fn definition() -> clap::Command {
        ASKS_NOBODY.iter().fold(Self::command(), |cli, name| cli.mut_subcommand(name, hide_node))
    }

    /// Reads a command line.
    fn read<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let mut definition = Self::definition();
        let matches = definition.try_get_matches_from_mut(arguments)?;
        if let Some((name, verb)) = matches.subcommand()
            && ASKS_NOBODY.contains(&name)
            && given(verb, "asked_node")
        {
            let text = format!("`dpc {name}` asks no node, so --node has no meaning there");
            return Err(definition.error(ErrorKind::ArgumentConflict, text));
        }
        let mut cli = Self::from_arg_matches(&matches)?;
        if let Command::Bench(bench) = &mut cli.command {
            bench.on_running = given(&matches, "asked_node");
        }
        Ok(cli)
    }
}

/// Puts a hidden `--node` into a verb, in place of the one that all verbs share.
fn hide_node(verb: clap::Command) -> clap::Command {
    // The shared arguments bring their own words about a verb; the verb's are the right ones.
    let (about, long_about) = (verb.get_about().cloned(), verb.get_long_about().cloned());
    let verb = connect::NodeArgs::augment_args(verb).mut_arg("asked_node", |node| node.hide(true));
    let verb = verb.about(about.unwrap_or_default());
    let verb = if let Some(long) = long_about { verb.long_about(long) } else { verb };
    let nouns: Vec<String> = verb.get_subcommands().map(|v| v.get_name().to_owned()).collect();
    nouns.iter().fold(verb, |verb, name| verb.mut_subcommand(name, hide_node))
}

/// True if the argument stands on the command line, before a verb or behind it.
fn given(matches: &clap::ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
        || matches.subcommand().is_some_and(|(_, verb)| given(verb, id))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    #[command(
        after_help = "Example:\n  dpc serve --node-name a --data-dir ./a --peer 127.0.0.1:40052"
    )]
    Serve(serve::ServeArgs),
    /// Show the whole story on real nodes in a temporary folder.
    #[command(after_help = "Example:\n  dpc demo --nodes 3")]
    Demo(demo::DemoArgs),
    /// Measure what nodes do per second, and what that costs.
    #[command(after_help = "Example:\n  dpc bench e2e latency --size 1000")]
    Bench(bench::BenchArgs),
    /// Push one object, or one for each line of stdin.
    #[command(after_help = "Example:\n  dpc push acme.Order --data '{\"item\":7}' --header k=v")]
    Push(push::PushArgs),
    /// Receive objects, print or process them, and settle them.
    #[command(
        after_help = "Example:\n  dpc subscribe 'acme.orders.*' --processor mailer --exec ./mail.sh"
    )]
    Subscribe(subscribe::SubscribeArgs),
    /// Short for subscribe; and `sub ls` lists the subscriptions of a node.
    #[command(after_help = "Examples:\n  dpc sub acme.Order --count 1\n  dpc sub ls")]
    Sub(SubArgs),
    /// End or keep a lease by its token.
    #[command(after_help = "Example:\n  dpc settle \"$TOKEN\" release --delay 10s")]
    Settle(settle::SettleArgs),
    /// Look at objects, or end one.
    #[command(subcommand, after_help = "Example:\n  dpc object ls --state ready")]
    Object(object::ObjectCommand),
    /// See and redrive objects that are out of the flow.
    #[command(subcommand, after_help = "Example:\n  dpc parked redrive --type acme.Order")]
    Parked(parked::ParkedCommand),
    /// See the types of a node.
    #[command(subcommand, after_help = "Example:\n  dpc type ls")]
    Type(types::TypeCommand),
    /// See nodes and links, drain or forget a node.
    #[command(subcommand, after_help = "Example:\n  dpc node ls")]
    Node(node::NodeCommand),
    /// Check every promise in a simulated world, seed by seed.
    #[command(subcommand, after_help = "Example:\n  dpc sim run --seeds 0..1000")]
    Sim(sim::SimCommand),
    /// Get the flight recorder's recording of a running node.
    #[command(subcommand, after_help = "Example:\n  dpc record dump a.dpcrec")]
    Record(record::RecordCommand),
    /// Prepare and check the database of a store that is not embedded.
    #[command(subcommand, after_help = "Example:\n  dpc store check --config dpc.toml")]
    Store(store::StoreCommand),
    /// See and check the configuration.
    #[command(subcommand, after_help = "Example:\n  dpc config show --origin")]
    Config(config::ConfigCommand),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  dpc completion bash > /etc/bash_completion.d/dpc")]
    Completion(CompletionArgs),
}

/// `sub` is both: short for `subscribe`, and the noun of `sub ls`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct SubArgs {
    #[command(subcommand)]
    command: Option<SubCommand>,
    #[command(flatten)]
    subscribe: subscribe::SubscribeArgs,
}

#[derive(Debug, Subcommand)]
enum SubCommand {
    /// List the subscriptions of a node.
    #[command(after_help = "Example:\n  dpc sub ls --node 127.0.0.1:50051")]
    Ls(sub::LsArgs),
}

#[derive(Debug, clap::Args)]
struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Runs the command line of the process.
pub fn main() -> ExitCode {
    run(std::env::args_os().collect()).into()
}

fn run(arguments: Vec<OsString>) -> Exit {
    let cli = match Cli::read(&arguments) {
        Ok(cli) => cli,
        Err(error) => return misused(&error, &arguments),
    };
    let mut output = Output::of_process(cli.output);
    dispatch(cli.command, &mut output).unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.exit
    })
}

/// What clap has to say: help and version on stdout, wrong usage on stderr.
fn misused(error: &clap::Error, arguments: &[OsString]) -> Exit {
    // Nobody is left to be told when both streams are gone.
    let _gone = error.print();
    if !error.use_stderr() {
        return Exit::Done;
    }
    if asks_for_json(arguments) {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = Failure::usage(message);
        let line = serde_json::to_string(&failure).expect("a failure is plain data");
        eprintln!("{line}");
    }
    Exit::Usage
}

/// True if arguments that clap could not parse ask for JSON all the same.
fn asks_for_json(arguments: &[OsString]) -> bool {
    let texts: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let joined = ["-ojson", "-o=json", "--output=json"];
    texts.iter().any(|text| joined.contains(&text.as_ref()))
        || texts
            .windows(2)
            .any(|two| matches!(two[0].as_ref(), "-o" | "--output") && two[1] == "json")
}

fn dispatch(command: Command, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        Command::Serve(args) => serve::run(&args, output),
        Command::Demo(args) => block_on(demo::run(args, output)),
        Command::Bench(args) => block_on(bench::run(args, output)),
        Command::Push(args) => block_on(push::run(args, output)),
        Command::Subscribe(args) => block_on(subscribe::run(args, output)),
        Command::Sub(SubArgs { command: Some(SubCommand::Ls(args)), .. }) => {
            block_on(sub::ls(args, output))
        }
        Command::Sub(SubArgs { subscribe: args, .. }) => block_on(subscribe::run(args, output)),
        Command::Settle(args) => block_on(settle::run(args, output)),
        Command::Object(command) => block_on(object::run(command, output)),
        Command::Parked(command) => block_on(parked::run(command, output)),
        Command::Type(command) => block_on(types::run(command, output)),
        Command::Node(command) => block_on(node::run(command, output)),
        Command::Sim(command) => block_on(sim::run(command, output)),
        Command::Record(command) => block_on(record::run(command, output)),
        Command::Store(command) => block_on(store::run(command, output)),
        Command::Config(command) => config::run(command, output),
        Command::Completion(args) => complete(args.shell, output),
    }
}

/// Runs a command that asks a node; one thread is plenty for that.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(command);
    // A read of stdin that has nothing to read must not keep the process.
    runtime.shutdown_background();
    result
}

fn complete(shell: Shell, output: &mut Output) -> Result<Exit, Failure> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::definition(), "dpc", &mut script);
    output.raw(&script)?;
    Ok(Exit::Done)
}
