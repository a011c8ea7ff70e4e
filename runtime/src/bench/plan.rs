//! What a bench is asked to do.

use std::time::Duration;

use dpc_client::{Client, Options, Uuid};

use super::figure::Figure;
use crate::cli::client::of_client;
use crate::cli::failure::Failure;
use crate::nodes::Mesh;

/// The whole plan, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// In the order they run.
    pub(crate) figures: Vec<Figure>,
    /// Objects of each figure that counts objects.
    pub(crate) objects: u64,
    /// Bytes of a payload.
    pub(crate) size: usize,
    /// Pushes without an answer, of all producers together.
    pub(crate) window: usize,
    /// Objects pushed and not settled, where both happen at once; with the bare core, others that wait.
    pub(crate) backlog: usize,
    /// Connections that push.
    pub(crate) producers: usize,
    /// Connections that receive and settle.
    pub(crate) subscribers: usize,
    /// Types that the objects have, in turn.
    pub(crate) types: usize,
    /// Objects a second where time is measured.
    pub(crate) rate: u32,
    /// How long time is measured.
    pub(crate) span: Duration,
    /// The nodes.
    pub(crate) at: Where,
}

/// Whose nodes are measured.
#[derive(Clone, Debug)]
pub(crate) enum Where {
    /// Temporary ones in a line, with these settings.
    Own {
        /// How many; the figures that move objects take at least two.
        nodes: usize,
        /// The store, as it is configured.
        store: String,
        /// As `serve --set` takes them.
        settings: Vec<String>,
    },
    /// Running ones: objects are pushed at the first and received at the last.
    Running(Vec<String>),
}

/// The nodes of one figure, and its own names in the cloud.
pub(super) struct Stage {
    /// Those that this process started.
    pub(super) mesh: Option<Mesh>,
    first: String,
    last: String,
    /// Types of this figure alone, so that nothing of an earlier one is delivered.
    types: Vec<String>,
}

impl Plan {
    /// Starts what a figure needs: so many nodes at least, that adopt dead ones or not.
    pub(super) async fn stage(&self, nodes_min: usize, adopts: bool) -> Result<Stage, Failure> {
        let run = Uuid::now_v7().simple();
        let types = (0..self.types).map(|n| format!("bench.r{run}.T{n}")).collect();
        let (mesh, first, last) = match &self.at {
            Where::Running(nodes) => {
                let end = |node: Option<&String>| node.cloned().unwrap_or_default();
                (None, end(nodes.first()), end(nodes.last()))
            }
            Where::Own { nodes, store, settings } => {
                let mut all = vec![format!("store.kind={store}")];
                if store != "embedded" && !adopts {
                    // The lanes of an earlier figure stay in the database: nobody is to work on
                    // them.
                    all.push("limits.adopted_lanes=0".into());
                }
                all.extend_from_slice(settings);
                let mut mesh = Mesh::new("dpc-bench-", all)?;
                for _ in 0..nodes_min.max(*nodes) {
                    mesh.add().await?;
                }
                let (first, last) = (mesh.first().clients.clone(), mesh.last().clients.clone());
                (Some(mesh), first, last)
            }
        };
        Ok(Stage { mesh, first, last, types })
    }
}

impl Stage {
    /// A client where objects are pushed.
    pub(super) fn pushing(&self) -> Result<Client, Failure> {
        client(&self.first)
    }

    /// A client where objects are received.
    pub(super) fn receiving(&self) -> Result<Client, Failure> {
        client(&self.last)
    }

    /// The types of the objects.
    pub(super) fn types(&self) -> &[String] {
        &self.types
    }

    /// The processes of the nodes, if this one started them.
    pub(super) fn pids(&self) -> Vec<u32> {
        let nodes = self.mesh.iter().flat_map(Mesh::nodes);
        nodes.filter_map(|node| node.pid()).collect()
    }

    /// Ends the nodes. After a failure, what they said last is shown.
    pub(super) async fn end(self) -> Result<(), Failure> {
        match self.mesh {
            Some(mesh) => mesh.end().await,
            None => Ok(()),
        }
    }
}

pub(super) fn client(address: &str) -> Result<Client, Failure> {
    Client::connect([address], Options::new()).map_err(|error| of_client(&error))
}
