//! `dpc node`: the node that is asked, its neighbours, and taking nodes out of service.

use dpc_proto::v1;
use serde::Serialize;

use super::object::print_pairs;
use crate::cli::confirm::confirm;
use crate::cli::connect::{Effect, NodeArgs};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{Colour, Output};
use crate::cli::show::{durability_name, link_name, time};
use crate::cli::table::Table;

/// What to do with nodes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NodeCommand {
    /// List this node and its neighbours with links, distances, demand and rates.
    #[command(after_help = "Example:\n  dpc node ls --node 127.0.0.1:50051")]
    Ls(AskArgs),
    /// Print everything about the node, alarms last.
    #[command(after_help = "Example:\n  dpc node show -o json")]
    Show(AskArgs),
    /// Stop pushes and deliveries, and hand objects to peers that want them. The node stays up.
    #[command(after_help = "Example:\n  dpc node drain --wait")]
    Drain(DrainArgs),
    /// End a drain: the node takes pushes and delivers again.
    #[command(after_help = "Example:\n  dpc node resume")]
    Resume(AskArgs),
    /// Give up a node that is lost for ever.
    #[command(after_help = "Example:\n  dpc node forget node-b --reclaim")]
    Forget(ForgetArgs),
}

/// Asks a node.
#[derive(Debug, clap::Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Drains a node.
#[derive(Debug, clap::Args)]
pub(crate) struct DrainArgs {
    /// End only when the drain has ended.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Gives up a node.
#[derive(Debug, clap::Args)]
pub(crate) struct ForgetArgs {
    /// The lost node's name.
    #[arg(value_name = "NAME")]
    name: String,
    /// Bring back the objects it may have had, as possible duplicates; asks first.
    #[arg(long)]
    reclaim: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Serialize)]
struct ShownNode {
    node: String,
    lane: String,
    #[serde(rename = "self")]
    is_self: bool,
    link: &'static str,
    distance: u32,
    demand: Vec<String>,
    sent_per_s: f64,
    received_per_s: f64,
    #[serde(skip_serializing_if = "String::is_empty")]
    addr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    in_doubt: u64,
}

impl From<v1::NodeInfo> for ShownNode {
    fn from(info: v1::NodeInfo) -> Self {
        Self {
            link: link_name(info.link()),
            node: info.node,
            lane: info.lane,
            is_self: info.self_,
            distance: info.distance,
            demand: info.demand,
            sent_per_s: info.sent_per_s,
            received_per_s: info.received_per_s,
            addr: info.addr,
            problem: info.problem,
            in_doubt: info.in_doubt,
        }
    }
}

#[derive(Serialize)]
struct ShownDetails {
    node: String,
    lane: String,
    epoch: u64,
    incarnation: u64,
    version: String,
    started_at: Option<String>,
    clients: String,
    nodes: String,
    admin: String,
    store: String,
    durability: &'static str,
    draining: bool,
    ready: u64,
    leased: u64,
    delayed: u64,
    parked: u64,
    in_transit: u64,
    sessions: u32,
    last_record: u64,
    alarms: Vec<ShownAlarm>,
    limits: Option<ShownLimits>,
}

#[derive(Serialize)]
struct ShownAlarm {
    reason: String,
    text: String,
    since: Option<String>,
}

#[derive(Serialize)]
struct ShownLimits {
    payload_bytes: u64,
    headers: u32,
    header_bytes: u32,
    items: u32,
    message_bytes: u64,
    window: u32,
    credit: u32,
    transaction_items: u32,
    transaction_bytes: u64,
}

#[derive(Serialize)]
struct ShownDrain {
    drained: bool,
    leased: u64,
    staying: u64,
}

#[derive(Serialize)]
struct ShownForget {
    node: String,
    reclaimed: u64,
}

#[derive(Serialize)]
struct ShownResume {
    resumed: bool,
}

pub(crate) async fn run(command: NodeCommand, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        NodeCommand::Ls(args) => ls(args, output).await,
        NodeCommand::Show(args) => show(args, output).await,
        NodeCommand::Drain(args) => drain(args, output).await,
        NodeCommand::Resume(args) => resume(args, output).await,
        NodeCommand::Forget(args) => forget(args, output).await,
    }
}

async fn ls(args: AskArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    let answer =
        node.answer(Effect::Reads, node.operator().list_nodes(v1::ListNodesRequest {})).await?;
    print_nodes(answer.nodes, output)?;
    Ok(Exit::Done)
}

fn print_nodes(nodes: Vec<v1::NodeInfo>, output: &mut Output) -> Result<(), Failure> {
    let shown: Vec<_> = nodes.into_iter().map(ShownNode::from).collect();
    if output.is_json() {
        return shown.iter().try_for_each(|shown| output.json(shown));
    }
    let mut table =
        Table::new(&["node", "lane", "link", "distance", "sent/s", "received/s", "demand"]);
    for shown in shown {
        let link = match (shown.is_self, shown.problem) {
            (true, _) => "self".to_owned(),
            (false, Some(problem)) => format!("{}: {problem}", shown.link),
            (false, None) => shown.link.to_owned(),
        };
        // A neighbour that was never reached has no name yet, but an address.
        let name = if shown.node.is_empty() { shown.addr } else { shown.node };
        table.row([
            name,
            shown.lane.chars().take(8).collect(),
            link,
            shown.distance.to_string(),
            format!("{:.1}", shown.sent_per_s),
            format!("{:.1}", shown.received_per_s),
            shown.demand.join(" "),
        ]);
    }
    output.table(&table)
}

async fn show(args: AskArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    let answer =
        node.answer(Effect::Reads, node.operator().show_node(v1::ShowNodeRequest {})).await?;
    let shown = shown_details(answer);
    if output.is_json() {
        output.json(&shown)?;
    } else {
        print_details(&shown, output)?;
    }
    Ok(Exit::Done)
}

fn shown_details(answer: v1::ShowNodeResponse) -> ShownDetails {
    let alarms = answer.alarms.iter().map(|alarm| ShownAlarm {
        reason: alarm.reason.clone(),
        text: alarm.text.clone(),
        since: alarm.since.and_then(time),
    });
    ShownDetails {
        durability: durability_name(answer.durability()),
        alarms: alarms.collect(),
        limits: answer.limits.map(shown_limits),
        node: answer.node,
        lane: answer.lane,
        epoch: answer.epoch,
        incarnation: answer.incarnation,
        version: answer.version,
        started_at: answer.started_at.and_then(time),
        clients: answer.clients,
        nodes: answer.nodes,
        admin: answer.admin,
        store: answer.store,
        draining: answer.draining,
        ready: answer.ready,
        leased: answer.leased,
        delayed: answer.delayed,
        parked: answer.parked,
        in_transit: answer.in_transit,
        sessions: answer.sessions,
        last_record: answer.last_record,
    }
}

fn shown_limits(limits: v1::Limits) -> ShownLimits {
    ShownLimits {
        payload_bytes: limits.payload_bytes,
        headers: limits.headers,
        header_bytes: limits.header_bytes,
        items: limits.items,
        message_bytes: limits.message_bytes,
        window: limits.window,
        credit: limits.credit,
        transaction_items: limits.transaction_items,
        transaction_bytes: limits.transaction_bytes,
    }
}

fn print_details(shown: &ShownDetails, output: &mut Output) -> Result<(), Failure> {
    let state = if shown.draining { "draining" } else { "serving" };
    let objects = format!(
        "{} ready, {} leased, {} delayed, {} parked, {} in transit",
        shown.ready, shown.leased, shown.delayed, shown.parked, shown.in_transit
    );
    let lines = [
        ("node", shown.node.clone()),
        ("state", state.to_owned()),
        ("lane", format!("{} epoch {}, record {}", shown.lane, shown.epoch, shown.last_record)),
        ("incarnation", shown.incarnation.to_string()),
        ("version", shown.version.clone()),
        ("started at", shown.started_at.clone().unwrap_or_else(|| "-".to_owned())),
        ("clients", shown.clients.clone()),
        ("nodes", shown.nodes.clone()),
        ("admin", shown.admin.clone()),
        ("store", format!("{}, an OK means {}", shown.store, shown.durability)),
        ("objects", objects),
        ("sessions", shown.sessions.to_string()),
    ];
    print_pairs(&lines, output)?;
    for alarm in &shown.alarms {
        let since = alarm.since.as_deref().unwrap_or("-");
        let reason = output.paint(Colour::Yellow, &alarm.reason);
        output.text(&format!("alarm {reason} since {since}: {}", alarm.text))?;
    }
    Ok(())
}

async fn drain(args: DrainArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    if args.wait && !output.is_json() {
        output.note("draining; Ctrl-C stops the waiting, not the drain");
    }
    let request = v1::DrainNodeRequest { wait: args.wait };
    let answer = node.answer(Effect::Changes, node.operator().drain_node(request)).await?;
    let shown =
        ShownDrain { drained: answer.drained, leased: answer.leased, staying: answer.staying };
    if output.is_json() {
        output.json(&shown)?;
    } else {
        let state = if shown.drained { "drained" } else { "draining" };
        let ShownDrain { leased, staying, .. } = shown;
        output.text(&format!(
            "{state}: {leased} leases are open, {staying} objects stay, as no peer wants them"
        ))?;
    }
    // Whoever waited wants to know whether the node can be stopped without ending leases.
    Ok(if args.wait && !answer.drained { Exit::NotDone } else { Exit::Done })
}

async fn resume(args: AskArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    node.answer(Effect::Changes, node.operator().resume_node(v1::ResumeNodeRequest {})).await?;
    if output.is_json() {
        output.json(&ShownResume { resumed: true })?;
    } else {
        output.text("the node takes pushes and delivers again")?;
    }
    Ok(Exit::Done)
}

async fn forget(args: ForgetArgs, output: &mut Output) -> Result<Exit, Failure> {
    if args.reclaim {
        let what = format!(
            "forget {} and bring back what it may have had (if it is not really gone, objects are \
             processed twice)",
            args.name
        );
        confirm(&what, args.yes)?;
    }
    let node = args.node.connect().await?;
    let request = v1::ForgetNodeRequest { name: args.name.clone(), reclaim: args.reclaim };
    let answer = node.answer(Effect::Changes, node.operator().forget_node(request)).await?;
    let shown = ShownForget { node: args.name, reclaimed: answer.reclaimed };
    if output.is_json() {
        output.json(&shown)?;
    } else {
        output.text(&format!(
            "forgot {}: it is refused from now on, {} objects came back",
            shown.node, shown.reclaimed
        ))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, captured};

    fn nodes() -> Vec<v1::NodeInfo> {
        let lane = "0a1b2c3d-0000-0000-0000-000000000000";
        vec![
            v1::NodeInfo {
                node: "a".into(),
                lane: lane.into(),
                self_: true,
                link: v1::LinkState::Up.into(),
                demand: vec!["t".into()],
                ..v1::NodeInfo::default()
            },
            v1::NodeInfo {
                link: v1::LinkState::Down.into(),
                distance: 1,
                sent_per_s: 1.25,
                addr: "10.0.0.2:40051".into(),
                problem: Some("refused".into()),
                ..v1::NodeInfo::default()
            },
        ]
    }

    #[test]
    fn nodes_have_the_promised_keys() {
        let (mut output, out, _) = captured::output(Format::Json);
        print_nodes(nodes(), &mut output).expect("written");
        let first = out.text().lines().next().expect("a line").to_owned();
        assert_eq!(
            first,
            r#"{"node":"a","lane":"0a1b2c3d-0000-0000-0000-000000000000","self":true,"link":"up","distance":0,"demand":["t"],"sent_per_s":0.0,"received_per_s":0.0,"in_doubt":0}"#
        );
    }

    #[test]
    fn a_neighbour_without_a_name_is_shown_by_its_address() {
        let (mut output, out, _) = captured::output(Format::Text);
        print_nodes(nodes(), &mut output).expect("written");
        let text = out.text();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("a               0a1b2c3d  self"), "{text}");
        assert!(lines[2].starts_with("10.0.0.2:40051            down: refused"), "{text}");
    }

    #[test]
    fn details_are_one_line_of_json_and_alarms_come_last_in_text() {
        let answer = v1::ShowNodeResponse {
            node: "a".into(),
            durability: v1::Durability::Synced.into(),
            alarms: vec![v1::Alarm {
                reason: "NO_DEMAND".into(),
                text: "7 of t".into(),
                since: None,
            }],
            ..v1::ShowNodeResponse::default()
        };
        let shown = shown_details(answer);
        let json = serde_json::to_string(&shown).expect("serialises");
        assert!(json.contains(r#""durability":"synced","draining":false"#), "{json}");
        let (mut output, out, _) = captured::output(Format::Text);
        print_details(&shown, &mut output).expect("written");
        assert!(out.text().ends_with("alarm NO_DEMAND since -: 7 of t\n"), "{}", out.text());
    }
}
