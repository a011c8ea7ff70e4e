//! `dpc object`: one object, why it is where it is, how it came there; and lists of them.

use dpc_core::ids::ObjectId;
use dpc_proto::{google::protobuf, v1};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::connect::{Effect, NodeArgs, malformed, of_refused};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{Colour, Output};
use crate::cli::payload::Payload;
use crate::cli::show::{ShownCandidate, ShownObject, state_name, time, waits_for_name};
use crate::cli::table::Table;
use crate::cli::times::Since;

/// The most entries of a list that a node gives.
pub(crate) const LIST_ENTRIES_MAX: u32 = 1_000;

/// What to do with objects.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ObjectCommand {
    /// Print the whole object and its state.
    #[command(after_help = "Example:\n  dpc object get 0192f0c1-7a5e-7cc3-98a4-3f1c2d3e4f50")]
    Get(OneArgs),
    /// Say in a paragraph where an object is, what it waits for and what would change that.
    #[command(after_help = "Example:\n  dpc object why 0192f0c1-7a5e-7cc3-98a4-3f1c2d3e4f50")]
    Why(OneArgs),
    /// Print the decisions about an object in order, one line each.
    #[command(
        after_help = "Example:\n  dpc object trace 0192f0c1-7a5e-7cc3-98a4-3f1c2d3e4f50 --local"
    )]
    Trace(OneArgs),
    /// End an object without success.
    #[command(after_help = "Example:\n  dpc object discard 0192f0c1-7a5e-7cc3-98a4-3f1c2d3e4f50")]
    Discard(DiscardArgs),
    /// List the objects a node knows.
    #[command(after_help = "Example:\n  dpc object ls --type acme.Order --state ready --since 1h")]
    Ls(LsArgs),
}

/// Names an object.
#[derive(Debug, clap::Args)]
pub(crate) struct OneArgs {
    /// The object's id.
    #[arg(value_name = "ID")]
    id: ObjectId,
    /// Ask only this node, and follow the object nowhere.
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Names an object to end.
#[derive(Debug, clap::Args)]
pub(crate) struct DiscardArgs {
    /// The object's id.
    #[arg(value_name = "ID")]
    id: ObjectId,
    #[command(flatten)]
    node: NodeArgs,
}

/// Chooses objects.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only objects of this type, or of a prefix such as `acme.orders.*`.
    #[arg(long = "type", value_name = "TYPE")]
    object_type: Option<String>,
    /// Only objects in this state.
    #[arg(long, value_name = "STATE")]
    state: Option<StateArg>,
    /// Only objects pushed since: a duration ago, or an RFC 3339 time.
    #[arg(long, value_name = "D|TIME")]
    since: Option<Since>,
    /// The most objects to list, at most 1000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    #[command(flatten)]
    node: NodeArgs,
}

/// A state of an object.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum StateArg {
    Ready,
    Delayed,
    Leased,
    Offered,
    Held,
    Final,
    Discarded,
    Parked,
    Moved,
}

impl From<StateArg> for v1::ObjectState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Ready => Self::Ready,
            StateArg::Delayed => Self::Delayed,
            StateArg::Leased => Self::Leased,
            StateArg::Offered => Self::Offered,
            StateArg::Held => Self::Held,
            StateArg::Final => Self::Final,
            StateArg::Discarded => Self::Discarded,
            StateArg::Parked => Self::Parked,
            StateArg::Moved => Self::Moved,
        }
    }
}

#[derive(Serialize)]
struct ShownWhy {
    id: String,
    state: &'static str,
    node: String,
    owner: String,
    waits_for: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    text: String,
    candidates: Vec<ShownRefusal>,
    complete: bool,
    asked: Vec<String>,
}

/// A candidate of `why`: `refused` is always there, empty for the chosen one.
#[derive(Serialize)]
struct ShownRefusal {
    who: String,
    refused: String,
}

#[derive(Serialize)]
struct ShownDecision {
    at: Option<String>,
    node: String,
    lane_number: u64,
    moves: u32,
    decision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    candidates: Vec<ShownCandidate>,
}

#[derive(Serialize)]
struct ShownEnd {
    id: String,
    status: &'static str,
}

pub(crate) async fn run(command: ObjectCommand, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        ObjectCommand::Get(args) => get(args, output).await,
        ObjectCommand::Why(args) => why(args, output).await,
        ObjectCommand::Trace(args) => trace(args, output).await,
        ObjectCommand::Discard(args) => discard(args, output).await,
        ObjectCommand::Ls(args) => ls(args, output).await,
    }
}

async fn get(args: OneArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    let request = v1::GetObjectRequest { id: args.id.to_string(), local: args.local };
    let answer = node.answer(Effect::Reads, node.operator().get_object(request)).await?;
    let object = answer.object.ok_or_else(|| malformed("object"))?;
    let object = ShownObject {
        complete: Some(answer.complete),
        asked: Some(answer.asked),
        ..ShownObject::from(object)
    };
    if output.is_json() {
        output.json(&object)?;
    } else {
        print_object(&object, output)?;
    }
    Ok(Exit::Done)
}

fn print_object(object: &ShownObject, output: &mut Output) -> Result<(), Failure> {
    let mut lines = vec![
        ("id", object.id.clone()),
        ("type", object.object_type.clone()),
        ("version", object.version.to_string()),
        ("state", object.state.to_owned()),
        ("owner", object.owner.clone()),
        ("hops", object.hops.to_string()),
    ];
    let living = object.living.as_ref();
    let path = living.filter(|l| !l.path.is_empty()).map(|l| l.path.join(" > "));
    let duplicate = living.filter(|l| l.possible_duplicate).map(|_| "yes".to_owned());
    let deliveries = living.map(|l| format!("{}, {} failed", l.deliveries, l.failed_deliveries));
    let optional = [
        ("origin", living.map(|l| l.origin.clone())),
        ("path", path),
        ("pushed at", object.pushed_at.clone()),
        ("not before", object.not_before.clone()),
        ("expires at", object.expires_at.clone()),
        ("ended at", object.ended_at.clone()),
        ("reason", object.parked_reason.clone()),
        ("settled by", object.settled_by.clone()),
        ("possible duplicate", duplicate),
        ("deliveries", deliveries),
    ];
    lines.extend(optional.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))));
    for (key, value) in living.iter().flat_map(|l| &l.headers) {
        lines.push(("header", format!("{key}={value}")));
    }
    lines.push(("payload", format!("{} B, hash {}", object.payload_size, object.payload_hash)));
    match &object.payload {
        Some(Payload::Text(text)) => lines.push(("data", text.clone())),
        Some(Payload::Bytes(_)) => lines.push(("data", "not text; see it with -o json".to_owned())),
        None => {}
    }
    print_pairs(&lines, output)?;
    note_incomplete(object.complete, object.asked.as_deref(), output);
    Ok(())
}

/// Prints names and values, the values aligned.
pub(crate) fn print_pairs(lines: &[(&str, String)], output: &mut Output) -> Result<(), Failure> {
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in lines {
        let key = output.paint(Colour::Bold, &format!("{key:width$}"));
        output.text(&format!("{key}  {value}"))?;
    }
    Ok(())
}

fn note_incomplete(complete: Option<bool>, asked: Option<&[String]>, output: &mut Output) {
    if complete == Some(false) {
        let asked = asked.unwrap_or_default().join(", ");
        output.note(&format!(
            "incomplete: a node that may know more was not asked or did not answer in time \
             (asked: {asked})"
        ));
    }
}

async fn why(args: OneArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    let request = v1::WhyObjectRequest { id: args.id.to_string(), local: args.local };
    let answer = node.answer(Effect::Reads, node.operator().why_object(request)).await?;
    let why = answer.why.ok_or_else(|| malformed("why"))?;
    let shown = shown_why(why, answer.complete, answer.asked);
    if output.is_json() {
        output.json(&shown)?;
    } else {
        output.text(&shown.text)?;
        for candidate in &shown.candidates {
            let refused = match candidate.refused.as_str() {
                "" => "chosen",
                refused => refused,
            };
            output.text(&format!("  {}: {refused}", candidate.who))?;
        }
        note_incomplete(Some(shown.complete), Some(&shown.asked), output);
    }
    Ok(Exit::Done)
}

fn shown_why(why: v1::ObjectWhy, complete: bool, asked: Vec<String>) -> ShownWhy {
    let candidates = why.candidates.iter();
    let candidates = candidates
        .map(|c| ShownRefusal { who: c.who.clone(), refused: c.refused.clone() })
        .collect();
    ShownWhy {
        state: state_name(why.state()),
        waits_for: waits_for_name(why.waits_for()),
        until: why.until.and_then(time),
        id: why.id,
        node: why.node,
        owner: why.owner,
        text: why.text,
        candidates,
        complete,
        asked,
    }
}

async fn trace(args: OneArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    let request = v1::TraceObjectRequest { id: args.id.to_string(), local: args.local };
    let answer = node.answer(Effect::Reads, node.operator().trace_object(request)).await?;
    for decision in answer.decisions {
        let shown = shown_decision(decision);
        if output.is_json() {
            output.json(&shown)?;
        } else {
            output.text(&decision_line(&shown))?;
        }
    }
    note_incomplete(Some(answer.complete), Some(&answer.asked), output);
    Ok(Exit::Done)
}

fn shown_decision(decision: v1::Decision) -> ShownDecision {
    ShownDecision {
        at: decision.at.and_then(time),
        node: decision.node,
        lane_number: decision.lane_number,
        moves: decision.moves,
        decision: decision.decision,
        chosen: decision.chosen,
        generation: decision.generation,
        candidates: decision.candidates.into_iter().map(Into::into).collect(),
    }
}

fn decision_line(decision: &ShownDecision) -> String {
    let at = decision.at.as_deref().unwrap_or("-");
    let mut line = format!("{at}  {} #{}", decision.node, decision.lane_number);
    line.push_str(&format!("  {}", decision.decision));
    if let Some(chosen) = &decision.chosen {
        line.push_str(&format!(" -> {chosen}"));
    }
    let refused = decision.candidates.iter().filter_map(|candidate| {
        candidate.refused.as_ref().map(|refused| format!("{}: {refused}", candidate.who))
    });
    let refused: Vec<_> = refused.collect();
    if !refused.is_empty() {
        line.push_str(&format!("  (not {})", refused.join("; ")));
    }
    line
}

async fn discard(args: DiscardArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    let id = args.id.to_string();
    let request = v1::DiscardObjectsRequest { ids: vec![id.clone()] };
    let answer = node.answer(Effect::Changes, node.operator().discard_objects(request)).await?;
    if let Some(refused) = answer.refused.first() {
        return Err(of_refused(refused));
    }
    if output.is_json() {
        output.json(&ShownEnd { id, status: "discarded" })?;
    } else {
        output.text(&format!("discarded {id}"))?;
    }
    Ok(Exit::Done)
}

async fn ls(args: LsArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    let since = args.since.map(|since| since.moment(Timestamp::now()));
    let state: v1::ObjectState = args.state.map_or(v1::ObjectState::Unspecified, Into::into);
    let request = v1::ListObjectsRequest {
        r#type: args.object_type.unwrap_or_default(),
        state: state.into(),
        since: since.map(wire_time),
        limit: Some(args.limit),
    };
    let answer = node.answer(Effect::Reads, node.operator().list_objects(request)).await?;
    let count = answer.objects.len();
    print_objects(answer.objects, output)?;
    note_more(answer.more, count, "--type, --state or --since, or raise --limit", output);
    Ok(Exit::Done)
}

/// Says on stderr that a list is not whole.
pub(crate) fn note_more(more: bool, count: usize, how: &str, output: &mut Output) {
    if more {
        output.note(&format!("there are more than these {count}; narrow the list with {how}"));
    }
}

/// Prints objects.
pub(crate) fn print_objects(
    objects: Vec<v1::ObjectInfo>,
    output: &mut Output,
) -> Result<(), Failure> {
    let shown: Vec<_> = objects.into_iter().map(ShownObject::from).collect();
    if output.is_json() {
        return shown.iter().try_for_each(|object| output.json(object));
    }
    let mut table =
        Table::new(&["id", "type", "state", "owner", "size", "failed", "pushed at", ""]);
    for object in shown {
        table.row([
            object.id,
            object.object_type,
            object.state.to_owned(),
            object.owner,
            object.payload_size.to_string(),
            object.living.as_ref().map_or_else(String::new, |l| l.failed_deliveries.to_string()),
            object.pushed_at.unwrap_or_default(),
            object.parked_reason.unwrap_or_default(),
        ]);
    }
    output.table(&table)
}

fn wire_time(at: Timestamp) -> protobuf::Timestamp {
    protobuf::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, captured};

    fn candidate(who: &str, refused: &str) -> v1::Candidate {
        v1::Candidate { who: who.into(), refused: refused.into() }
    }

    #[test]
    fn why_has_the_promised_keys() {
        let why = v1::ObjectWhy {
            id: "i".into(),
            state: v1::ObjectState::Ready.into(),
            node: "a".into(),
            owner: "a".into(),
            waits_for: v1::WaitsFor::Credit.into(),
            text: "It waits.".into(),
            candidates: vec![candidate("p@1", "no credit")],
            ..v1::ObjectWhy::default()
        };
        let shown = shown_why(why, true, vec!["a".into()]);
        assert_eq!(
            serde_json::to_string(&shown).expect("serialises"),
            r#"{"id":"i","state":"ready","node":"a","owner":"a","waits_for":"credit","text":"It waits.","candidates":[{"who":"p@1","refused":"no credit"}],"complete":true,"asked":["a"]}"#
        );
    }

    #[test]
    fn a_decision_has_the_promised_keys_and_reads_as_a_line() {
        let decision = v1::Decision {
            at: Some(protobuf::Timestamp { seconds: 1, nanos: 0 }),
            node: "a".into(),
            lane_number: 7,
            moves: 1,
            decision: "handed off".into(),
            chosen: Some("b".into()),
            candidates: vec![candidate("p@1", "no credit"), candidate("b", "")],
            ..v1::Decision::default()
        };
        let shown = shown_decision(decision);
        assert_eq!(
            serde_json::to_string(&shown).expect("serialises"),
            r#"{"at":"1970-01-01T00:00:01Z","node":"a","lane_number":7,"moves":1,"decision":"handed off","chosen":"b","candidates":[{"who":"p@1","refused":"no credit"},{"who":"b"}]}"#
        );
        assert_eq!(
            decision_line(&shown),
            "1970-01-01T00:00:01Z  a #7  handed off -> b  (not p@1: no credit)"
        );
    }

    #[test]
    fn lists_are_tables_or_lines() {
        let info = v1::ObjectInfo {
            id: "i".into(),
            r#type: "t".into(),
            state: v1::ObjectState::Ready.into(),
            ..v1::ObjectInfo::default()
        };
        let (mut output, out, _) = captured::output(Format::Text);
        print_objects(vec![info.clone(), info.clone()], &mut output).expect("written");
        let text = out.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ID  TYPE  STATE  OWNER  SIZE  FAILED  PUSHED AT");
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].starts_with("i   t     ready"));
        let (mut output, out, _) = captured::output(Format::Json);
        print_objects(vec![info], &mut output).expect("written");
        assert!(out.text().starts_with(r#"{"id":"i","type":"t","version":0,"state":"ready""#));
    }

    #[test]
    fn an_incomplete_answer_is_said_on_stderr() {
        let (mut output, out, err) = captured::output(Format::Text);
        note_incomplete(Some(false), Some(&["a".into(), "b".into()]), &mut output);
        note_incomplete(Some(true), None, &mut output);
        assert_eq!(out.text(), "");
        assert_eq!(err.text().lines().count(), 1);
        assert!(err.text().ends_with("(asked: a, b)\n"));
    }
}
