//! `dpc serve`: runs a node.

use std::io::IsTerminal;
use std::path::PathBuf;

use dpc_core::store::StoreError;
use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{FlagValue, Log, LogFormat, Sources};
use crate::embedded::{self, Start};
use crate::memory::stay_with_small_pages;
use crate::node::{NodeError, Ready};

/// Runs a node.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The data folder comes from a backup or a copy: serve it under a new lane, its objects as
    /// possible duplicates.
    #[arg(long)]
    pub(crate) restored: bool,
    /// A data folder that was rescued from a node that is gone: run its lane, too, until its objects
    /// have moved on. Give it once for each.
    #[arg(long, value_name = "DIR")]
    pub(crate) adopt: Vec<PathBuf>,
}

/// The layers of the configuration that a command line can add.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file [default: DPC_CONFIG, or ./dpc.toml if present].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The node's name.
    #[arg(long, value_name = "N")]
    node_name: Option<String>,
    /// The folder of the node's data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where clients and operators connect; port 0 picks a free one.
    #[arg(long, value_name = "ADDR")]
    listen_clients: Option<String>,
    /// Where other nodes connect; port 0 picks a free one.
    #[arg(long, value_name = "ADDR")]
    listen_nodes: Option<String>,
    /// Where metrics and health are read; port 0 picks a free one.
    #[arg(long, value_name = "ADDR")]
    listen_admin: Option<String>,
    /// The node port of a neighbour; give it once for each. Replaces the peers of the file.
    #[arg(long, value_name = "ADDR")]
    peer: Vec<String>,
    /// Listen beyond loopback without TLS, on a network you trust.
    #[arg(long)]
    insecure: bool,
    /// Set any key of the configuration: limits.max_hops=4.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// What to read: the file and the environment of the process, then these flags.
    pub(crate) fn sources(&self) -> Sources {
        let sources = Sources::of_process(self.config.clone());
        Sources { set: self.set.clone(), flags: self.flags(), ..sources }
    }

    fn flags(&self) -> Vec<FlagValue> {
        let peers = (!self.peer.is_empty()).then(|| self.peer.join(","));
        let insecure = self.insecure.then(|| "true".to_owned());
        let flags = [
            ("--node-name", "node_name", self.node_name.clone()),
            ("--data-dir", "data_dir", self.data_dir.clone()),
            ("--listen-clients", "listen.clients", self.listen_clients.clone()),
            ("--listen-nodes", "listen.nodes", self.listen_nodes.clone()),
            ("--listen-admin", "listen.admin", self.listen_admin.clone()),
            ("--peer", "peer", peers),
            ("--insecure", "listen.insecure", insecure),
        ];
        let given = flags
            .into_iter()
            .filter_map(|(flag, key, value)| value.map(|value| FlagValue { flag, key, value }));
        given.collect()
    }
}

pub(crate) fn run(args: &ServeArgs, output: &mut Output) -> Result<Exit, Failure> {
    let loaded = match args.config.sources().load() {
        Ok(loaded) => loaded,
        Err(errors) => {
            let failures = Failure::of_config(errors, Exit::Usage);
            failures.iter().for_each(|failure| output.failure(failure));
            return Ok(Exit::Usage);
        }
    };
    let config = loaded.config;
    log_to_stderr(&config.log);
    stay_with_small_pages();
    // One thread for core and its transport: handing work between threads costs more than it gains.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut shown = Ok(());
    let start = Start { restored: args.restored, adopt: args.adopt.clone() };
    let served = runtime.block_on(embedded::serve(&config, &start, |ready| {
        let told = show(ready, output);
        shown = std::mem::replace(&mut shown, Ok(())).and(told);
    }));
    // Nobody waits for tasks that are still open when the node has stopped.
    runtime.shutdown_background();
    shown?;
    served.map_err(|error| failure(&error))?;
    Ok(Exit::Done)
}

/// What scripts wait for, and people read.
#[derive(Serialize)]
struct ShownReady<'a> {
    event: &'static str,
    node: &'a str,
    lane: String,
    clients: &'a str,
    nodes: &'a str,
    admin: &'a str,
    pid: u32,
}

fn show(ready: &Ready, output: &mut Output) -> Result<(), Failure> {
    let (identity, addresses) = (&ready.identity, &ready.addresses);
    let shown = ShownReady {
        event: "ready",
        node: identity.name.as_str(),
        lane: identity.lane.to_string(),
        clients: &addresses.clients,
        nodes: &addresses.nodes,
        admin: &addresses.admin,
        pid: std::process::id(),
    };
    if output.is_json() {
        return output.json(&shown);
    }
    output.text(&format!(
        "node {} is ready: clients {}, nodes {}, admin {} (lane {}, pid {})",
        shown.node, shown.clients, shown.nodes, shown.admin, shown.lane, shown.pid
    ))
}

fn log_to_stderr(log: &Log) {
    let filter = tracing_subscriber::EnvFilter::try_new(&log.level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    // A second subscriber in one process, as in tests, changes nothing.
    let _already_set = match log.format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

fn failure(error: &NodeError) -> Failure {
    let (code, reason) = match error {
        NodeError::Listen { .. } => ("UNAVAILABLE", "PORT_IN_USE"),
        NodeError::Store(StoreError::Damaged { .. }) => ("DATA_LOSS", "DATA_DAMAGED"),
        NodeError::Store(StoreError::Refused(_)) => ("FAILED_PRECONDITION", "DATA_DIR_REFUSED"),
        NodeError::Store(StoreError::Full(_)) => ("RESOURCE_EXHAUSTED", "DISK_FULL"),
        NodeError::Store(StoreError::Fenced { .. }) => ("FAILED_PRECONDITION", "LANE_FENCED"),
        NodeError::Store(StoreError::Io(_)) => ("INTERNAL", "INPUT_OUTPUT"),
        NodeError::History(_) => ("DATA_LOSS", "HISTORY_UNUSABLE"),
        NodeError::Fenced { .. } => ("FAILED_PRECONDITION", "LANE_FENCED"),
        NodeError::Halted(_) => ("INTERNAL", "NODE_HALTED"),
    };
    let failure = Failure::new(Exit::NotDone, code, reason, error.to_string());
    match error {
        NodeError::Listen { key, address, .. } => failure.field(*key).given(address),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_flags_win_and_peers_are_a_list() {
        let args = ConfigArgs {
            node_name: Some("flag".into()),
            peer: vec!["b:1".into(), "c:2".into()],
            insecure: true,
            ..ConfigArgs::default()
        };
        let set = vec!["node_name=set".to_owned(), "peer=z:9".to_owned()];
        let loaded =
            Sources { set, flags: args.flags(), ..Sources::default() }.load().expect("loads");
        assert_eq!(loaded.config.node_name.as_ref().expect("set").as_str(), "flag");
        let peers: Vec<_> = loaded.config.peer.iter().map(|p| p.addr.to_string()).collect();
        assert_eq!(peers, ["b:1", "c:2"]);
        assert!(loaded.config.listen.insecure);
        assert_eq!(loaded.origin("peer").to_string(), "--peer");
    }
}
