//! A private Cassandra that ends with its test, by `tests/servers/cassandra`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// User and password of the private clusters.
pub const LOGIN: &str = "cassandra";

/// A running cluster.
pub struct Cassandra {
    folder: PathBuf,
    /// Its standard input holds the cluster: when this process ends in whatever way, the cluster
    /// ends, too.
    script: Child,
    /// `HOST:PORT`, comma separated.
    pub contacts: String,
}

impl Cassandra {
    /// Starts a cluster of so many nodes, if what it needs is installed; `tests/run` says so if it
    /// is not.
    pub fn start(nodes: u8) -> Option<Self> {
        Self::start_with(nodes, |_| Vec::new())
    }

    /// The same, with settings of the script: `NET`, `CONFIG` and others. Files that they name may
    /// be in the folder of the cluster, which goes with it.
    pub fn start_with(
        nodes: u8,
        settings: impl FnOnce(&Path) -> Vec<(&'static str, String)>,
    ) -> Option<Self> {
        let found = script().arg("bin").output().expect("the script is there");
        if !found.status.success() {
            println!("nothing was tested: {}", String::from_utf8_lossy(&found.stderr));
            return None;
        }
        // The script deletes it, also when this process cannot.
        let folder = tempfile::Builder::new().prefix("dpc-cassandra-").tempdir().expect("a folder");
        let folder = folder.keep();
        let mut script = script()
            .arg("with")
            .arg(&folder)
            .arg(nodes.to_string())
            .envs(settings(&folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the script runs");
        let mut contacts = String::new();
        let output = script.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut contacts).expect("it prints text");
        let contacts = contacts.trim().to_owned();
        assert!(!contacts.is_empty(), "the cluster does not start: its script says why");
        Some(Self { folder, script, contacts })
    }

    /// The address of a keyspace with as many copies as given.
    pub fn url(&self, keyspace: &str, replication: u8) -> String {
        let contacts = &self.contacts;
        format!("cassandra://{LOGIN}@{contacts}/{keyspace}?replication={replication}")
    }

    /// `kill`, `launch`, `pause` or `resume` of all nodes, or of one.
    pub fn order(&self, what: &str, node: Option<u8>) {
        let mut order = script();
        order.arg(what).arg(&self.folder);
        let done = order.args(node.map(|node| node.to_string())).output().expect("it runs");
        assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Cassandra {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        self.script.wait().expect("the cluster ends");
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/cassandra"))
}
