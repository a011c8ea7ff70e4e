//! Node processes in a temporary folder, in a line: started one after the other, ended together.
//! The demo and the bench run on them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dpc_client::{Client, Options};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::client::of_client;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// How long a node may take to be ready: far more than it ever needs.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// How long a node may take to end after it was asked.
const END_PATIENCE: Duration = Duration::from_secs(40);

/// How much of a log is shown when something went wrong.
const LOG_LINES_SHOWN: usize = 15;

/// A node that runs.
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Its port for clients.
    pub(crate) clients: String,
    /// Its port for metrics.
    pub(crate) admin: String,
    /// Its data.
    pub(crate) folder: PathBuf,
    nodes: String,
    log: PathBuf,
    process: Child,
}

impl Node {
    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// A client of this node alone.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::connect([&self.clients], Options::new()).map_err(|error| of_client(&error))
    }
}

/// What a node says when it is ready.
#[derive(Deserialize)]
struct Ready {
    node: String,
    clients: String,
    nodes: String,
    admin: String,
}

/// The nodes, and the folder with their data.
pub(crate) struct Mesh {
    folder: TempDir,
    /// Keys and values for every node, as `--set` takes them.
    settings: Vec<String>,
    nodes: Vec<Node>,
}

impl Mesh {
    /// A folder without nodes.
    pub(crate) fn new(prefix: &str, settings: Vec<String>) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir().map_err(|error| {
            Failure::local("TEMPORARY_FOLDER", format!("cannot make a temporary folder: {error}"))
        })?;
        Ok(Self { folder, settings, nodes: Vec::new() })
    }

    /// Starts one more node, linked to the one before.
    pub(crate) async fn add(&mut self) -> Result<&Node, Failure> {
        let name = name_of(self.nodes.len());
        let peer = self.nodes.last().map(|node| node.nodes.as_str());
        let node = start(self.folder.path(), &name, peer, &self.settings).await?;
        self.nodes.push(node);
        Ok(self.last())
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn first(&self) -> &Node {
        self.nodes.first().expect("a node has been started")
    }

    pub(crate) fn last(&self) -> &Node {
        self.nodes.last().expect("a node has been started")
    }

    /// Kills the first node, which is lost for ever with its data.
    pub(crate) async fn kill_first(&mut self) -> Result<(), Failure> {
        let mut node = self.nodes.remove(0);
        node.process.kill().await.map_err(|error| {
            Failure::local("NODE_FAILED", format!("node {} is not killed: {error}", node.name))
        })
    }

    /// What the nodes said last, to explain a failure.
    pub(crate) fn show_logs(&self, output: &mut Output) {
        for node in &self.nodes {
            match std::fs::read_to_string(&node.log) {
                Ok(log) => {
                    let lines: Vec<_> = log.lines().collect();
                    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
                    output.note(&format!("the log of node {} ends with:", node.name));
                    lines[from..].iter().for_each(|line| output.note(&format!("  {line}")));
                }
                Err(error) => output.note(&format!("no log of node {}: {error}", node.name)),
            }
        }
    }

    /// Ends every node in order, and removes the folder.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        let Self { folder, nodes, settings: _ } = self;
        // All are asked before any is waited for: they drain at the same time.
        nodes.iter().for_each(|node| ask_to_end(&node.process));
        let mut late = Vec::new();
        for mut node in nodes {
            match tokio::time::timeout(END_PATIENCE, node.process.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => late.push(format!("node {} ended with {status}", node.name)),
                Ok(Err(error)) => late.push(format!("node {} is lost: {error}", node.name)),
                // Dropping it kills it.
                Err(_) => late.push(format!("node {} did not end when asked", node.name)),
            }
        }
        folder.close().map_err(|error| {
            let message = format!("cannot remove the temporary folder: {error}");
            Failure::local("TEMPORARY_FOLDER", message)
        })?;
        match late.first() {
            None => Ok(()),
            Some(first) => Err(Failure::local("NODE_FAILED", first.clone())),
        }
    }
}

fn ask_to_end(process: &Child) {
    let pid = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // One that has ended by itself cannot be asked any more.
        let _gone = kill_process(pid, Signal::TERM);
    }
}

/// a, b, c…
fn name_of(number: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(number % 26).expect("below 26"));
    if number < 26 { letter.to_string() } else { format!("{letter}{}", number / 26) }
}

async fn start(
    folder: &Path,
    name: &str,
    peer: Option<&str>,
    settings: &[String],
) -> Result<Node, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Failure::local("NODE_NOT_STARTED", format!("cannot start node {name}: {what}: {error}"))
    };
    let program = std::env::current_exe().map_err(|error| failed("this program", &error))?;
    let log = folder.join(format!("{name}.log"));
    let log_file = std::fs::File::create(&log).map_err(|error| failed("its log", &error))?;
    let mut command = Command::new(program);
    command.args(["serve", "-o", "json", "--node-name", name, "--data-dir"]);
    let data = folder.join(name);
    command.arg(&data);
    for port in ["--listen-clients", "--listen-nodes", "--listen-admin"] {
        command.args([port, "127.0.0.1:0"]);
    }
    settings.iter().for_each(|setting| {
        command.args(["--set", setting]);
    });
    if let Some(peer) = peer {
        command.args(["--peer", peer]);
    }
    // Neither a configuration file here nor one of the environment is meant for these nodes.
    let own = std::env::vars_os().map(|(name, _)| name);
    own.filter(|name| name.to_string_lossy().starts_with("DPC_")).for_each(|name| {
        command.env_remove(name);
    });
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file);
    // Ctrl-C is for this process, which ends its nodes in order.
    command.process_group(0).kill_on_drop(true);
    let mut process = command.spawn().map_err(|error| failed("its process", &error))?;
    let stdout = process.stdout.take().expect("stdout is a pipe");
    let mut lines = BufReader::new(stdout).lines();
    let first = tokio::time::timeout(READY_PATIENCE, lines.next_line()).await;
    let Ok(Ok(Some(line))) = first else {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        return Err(failed("it did not become ready", &said.trim()));
    };
    let ready: Ready =
        serde_json::from_str(&line).map_err(|error| failed("what it says is no JSON", &error))?;
    let Ready { node: name, clients, nodes, admin } = ready;
    Ok(Node { name, clients, nodes, admin, folder: data, log, process })
}
