//! `dpc demo`: the acceptance story, told on real node processes.
//!
//! `crate::nodes` starts and ends the processes, `story` is the acceptance story, `pipeline` the one with
//! the history of a git repository. Both talk to the nodes as any program does, through the client
//! crate.

mod history;
mod pipeline;
mod story;

use std::path::Path;

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::stop::Stop;
use crate::nodes::Mesh;

/// The fewest nodes of the story with a repository: one to push at, one to expand, one to count.
const REPO_NODES_MIN: u32 = 3;

/// Objects pass at most one link between two neighbours of the line; the default is less than the
/// longest line.
const HOPS_MIN: u32 = 8;

/// What to do.
pub(crate) struct Plan<'a> {
    /// How many nodes, in a line.
    pub(crate) nodes: u32,
    /// Leave them running until Ctrl-C.
    pub(crate) keep: bool,
    /// The repository to work on.
    pub(crate) repo: Option<&'a Path>,
}

/// Tells the story, and ends every process it started, whatever happens.
pub(crate) async fn run(plan: Plan<'_>, output: &mut Output) -> Result<Exit, Failure> {
    let mut stop = Stop::new()?;
    // A repository that is none is said before anything is started.
    let repository = plan.repo.map(pipeline::open).transpose()?;
    let count = if repository.is_some() { plan.nodes.max(REPO_NODES_MIN) } else { plan.nodes };
    let hops = format!("limits.max_hops={}", count.max(HOPS_MIN));
    let mut mesh = Mesh::new("dpc-demo-", vec![hops])?;
    let told = tokio::select! {
        biased;
        () = stop.asked() => Ok(Exit::Interrupted),
        told = tell(count, &plan, repository, &mut mesh, output) => told,
    };
    let told = match told {
        Ok(Exit::Done) if plan.keep => keep(&mesh, &mut stop, output).await,
        told => told,
    };
    if matches!(told, Ok(Exit::Interrupted)) {
        output.note("interrupted: ending the nodes; nothing stays behind");
    }
    if told.is_err() {
        mesh.show_logs(output);
    }
    let ended = mesh.end().await;
    // What went wrong first explains what went wrong later.
    told.and_then(|exit| ended.map(|()| exit))
}

async fn tell(
    count: u32,
    plan: &Plan<'_>,
    repository: Option<history::repository::Repository>,
    mesh: &mut Mesh,
    output: &mut Output,
) -> Result<Exit, Failure> {
    say(output, "start", &format!("Starting {count} nodes in a line, each a process of its own."))?;
    let mut before: Option<String> = None;
    for _ in 0..count {
        let node = mesh.add().await?;
        let linked = before.map_or(String::new(), |name| format!(", linked to {name}"));
        say(output, "node", &format!("  node {} is ready at {}{linked}", node.name, node.clients))?;
        before = Some(node.name.clone());
    }
    let exit = match repository {
        Some(repository) => pipeline::tell(repository, mesh, output).await?,
        None => story::tell(mesh, output).await?,
    };
    if exit == Exit::Done && !plan.keep {
        next_steps(output)?;
    }
    Ok(exit)
}

fn next_steps(output: &mut Output) -> Result<(), Failure> {
    let lines = [
        "",
        "What to try next:",
        "  dpc demo --keep                 the same, and the nodes stay for you to talk to",
        "  dpc demo --nodes 5              a longer way from one client to the other",
        "  dpc demo --repo .               the history of a git repository, counted by the mesh",
        "  dpc serve                       a node of your own; then, in another terminal:",
        "  dpc push demo.Order --data hi   an object, and",
        "  dpc subscribe demo.Order        somebody who wants it",
    ];
    say(output, "next", &lines.join("\n"))
}

/// Shows how to talk to the nodes, and waits.
async fn keep(mesh: &Mesh, stop: &mut Stop, output: &mut Output) -> Result<Exit, Failure> {
    let mut text = "\nThe nodes stay until Ctrl-C. Talk to them from another terminal:".to_owned();
    for node in mesh.nodes() {
        text.push_str(&format!("\n  {}  --node {}", node.name, node.clients));
        text.push_str(&format!("  metrics http://{}/metrics", node.admin));
    }
    let (first, last) = (mesh.first(), mesh.last());
    text.push_str(&format!(
        "\nFor example:\n  dpc push demo.Note --data hi --node {}",
        first.clients
    ));
    text.push_str(&format!("\n  dpc subscribe demo.Note --node {}", last.clients));
    text.push_str(&format!("\n  dpc node ls --node {}", first.clients));
    say(output, "keep", &text)?;
    stop.asked().await;
    output.note("ending the nodes");
    Ok(Exit::Done)
}

/// One line of the story; with `-o json` an object of its own.
fn say(output: &mut Output, event: &str, text: &str) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Said<'a> {
        event: &'a str,
        text: &'a str,
    }
    if output.is_json() { output.json(&Said { event, text }) } else { output.text(text) }
}
