//! `dpc serve`: runs a node.

use std::path::PathBuf;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{FlagValue, Sources};

/// Runs a node.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The data folder comes from a backup or a copy: serve it under a new lane, its objects as
    /// possible duplicates.
    #[arg(long)]
    pub(crate) restored: bool,
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
    match args.config.sources().load() {
        Ok(_loaded) => Err(Failure::not_built("dpc serve")),
        Err(errors) => {
            let failures = Failure::of_config(errors, Exit::Usage);
            failures.iter().for_each(|failure| output.failure(failure));
            Ok(Exit::Usage)
        }
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
