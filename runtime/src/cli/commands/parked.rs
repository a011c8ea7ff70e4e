//! `dpc parked`: objects out of the flow, and what becomes of them.

use dpc_core::ids::ObjectId;
use dpc_proto::v1;
use dpc_proto::v1::parked_selection::By;
use serde::Serialize;

use super::object::{LIST_ENTRIES_MAX, note_more, print_objects};
use crate::cli::confirm::confirm;
use crate::cli::connect::{Effect, Node, NodeArgs, of_refused};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Progress;

/// The most ids of one request.
const IDS_MAX: usize = 1_000;

/// What to do with parked objects.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ParkedCommand {
    /// List parked objects with the reasons.
    #[command(after_help = "Example:\n  dpc parked ls --type acme.Order")]
    Ls(LsArgs),
    /// Put parked objects back into the flow, with their failed deliveries forgotten.
    #[command(after_help = "Example:\n  dpc parked redrive --type acme.Order")]
    Redrive(SelectArgs),
    /// End parked objects without success.
    #[command(after_help = "Example:\n  dpc parked discard 0192f0c1-7a5e-7cc3-98a4-3f1c2d3e4f50")]
    Discard(SelectArgs),
}

/// Chooses parked objects to list.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only objects of this type, or of a prefix such as `acme.orders.*`.
    #[arg(long = "type", value_name = "TYPE")]
    object_type: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Chooses parked objects to do something with.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("selection").required(true).args(["ids", "object_type", "all"]))]
pub(crate) struct SelectArgs {
    /// The objects' ids.
    #[arg(value_name = "ID")]
    ids: Vec<ObjectId>,
    /// All of this type.
    #[arg(long = "type", value_name = "TYPE")]
    object_type: Option<String>,
    /// All there are; asks first.
    #[arg(long)]
    all: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Clone, Copy)]
enum Verb {
    Redrive,
    Discard,
}

impl Verb {
    fn imperative(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Discard => "discard",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Redrive => "redriven",
            Self::Discard => "discarded",
        }
    }
}

/// What one call did.
struct Step {
    count: u64,
    refused: Vec<v1::Refused>,
    more: bool,
}

/// What became of one id.
#[derive(Serialize)]
struct ShownItem<'a> {
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Failure>,
}

/// What became of a type, or of all.
#[derive(Serialize)]
struct ShownCount {
    status: &'static str,
    count: u64,
}

pub(crate) async fn run(command: ParkedCommand, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        ParkedCommand::Ls(args) => ls(args, output).await,
        ParkedCommand::Redrive(args) => select(Verb::Redrive, args, output).await,
        ParkedCommand::Discard(args) => select(Verb::Discard, args, output).await,
    }
}

async fn ls(args: LsArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    let object_type = args.object_type.unwrap_or_default();
    let request = v1::ListParkedRequest { r#type: object_type, limit: Some(LIST_ENTRIES_MAX) };
    let answer = node.answer(Effect::Reads, node.operator().list_parked(request)).await?;
    let count = answer.objects.len();
    print_objects(answer.objects, output)?;
    note_more(answer.more, count, "--type", output);
    Ok(Exit::Done)
}

async fn select(verb: Verb, args: SelectArgs, output: &mut Output) -> Result<Exit, Failure> {
    if args.all {
        confirm(&format!("{} every parked object", verb.imperative()), args.yes)?;
    }
    let node = args.node.connect().await?;
    if !args.ids.is_empty() {
        return by_id(verb, &node, &args.ids, output).await;
    }
    let by = args.object_type.map_or(By::All(true), By::Type);
    in_bulk(verb, &node, by, output).await
}

async fn by_id(
    verb: Verb,
    node: &Node,
    ids: &[ObjectId],
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    for ids in ids.chunks(IDS_MAX) {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let by = By::Ids(v1::ObjectIds { ids: ids.clone() });
        let failures: Vec<Option<Failure>> = match step(verb, node, by).await {
            Ok(step) => by_position(ids.len(), &step.refused),
            // The refusal of a single id is the status of the call.
            Err(failure) if ids.len() == 1 => vec![Some(failure)],
            Err(failure) => return Err(failure),
        };
        for (id, failure) in ids.iter().zip(&failures) {
            exit = exit.worst(failure.as_ref().map_or(Exit::Done, |failure| failure.exit));
            print_item(verb, id, failure.as_ref(), output)?;
        }
    }
    Ok(exit)
}

fn by_position(count: usize, refused: &[v1::Refused]) -> Vec<Option<Failure>> {
    let mut failures = vec![None; count];
    for refused in refused {
        let position = refused.position.and_then(|position| usize::try_from(position).ok());
        // A refusal without a position is of the request as a whole.
        match position.and_then(|position| failures.get_mut(position)) {
            Some(failure) => *failure = Some(of_refused(refused)),
            None => failures.fill(Some(of_refused(refused))),
        }
    }
    failures
}

fn print_item(
    verb: Verb,
    id: &str,
    failure: Option<&Failure>,
    output: &mut Output,
) -> Result<(), Failure> {
    let status = match failure.map(|failure| failure.exit) {
        None => verb.done(),
        Some(Exit::NotDone) => "refused",
        Some(_) => "unknown",
    };
    if output.is_json() {
        output.json(&ShownItem { id, status, error: failure })?;
    } else if failure.is_none() {
        output.text(&format!("{status} {id}"))?;
    }
    if let Some(failure) = failure {
        let message = format!("{id}: {}", failure.message);
        output.failure(&Failure { message, ..failure.clone() });
    }
    Ok(())
}

async fn in_bulk(verb: Verb, node: &Node, by: By, output: &mut Output) -> Result<Exit, Failure> {
    let (mut count, mut progress) = (0, Progress::new(verb.done(), None));
    let ended = loop {
        match step(verb, node, by.clone()).await {
            Ok(step) => {
                count += step.count;
                progress.advance(step.count, output);
                if !step.more {
                    break Ok(Exit::Done);
                }
            }
            Err(failure) => break Err(failure),
        }
    };
    progress.finish(output);
    if output.is_json() {
        output.json(&ShownCount { status: verb.done(), count })?;
    } else {
        output.text(&format!("{} {count}", verb.done()))?;
    }
    ended
}

async fn step(verb: Verb, node: &Node, by: By) -> Result<Step, Failure> {
    let selection = Some(v1::ParkedSelection { by: Some(by) });
    match verb {
        Verb::Redrive => {
            let request = v1::RedriveParkedRequest { selection };
            let answer =
                node.answer(Effect::Changes, node.operator().redrive_parked(request)).await?;
            Ok(Step { count: answer.redriven, refused: answer.refused, more: answer.more })
        }
        Verb::Discard => {
            let request = v1::DiscardParkedRequest { selection };
            let answer =
                node.answer(Effect::Changes, node.operator().discard_parked(request)).await?;
            Ok(Step { count: answer.discarded, refused: answer.refused, more: answer.more })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, captured};

    fn refused(position: Option<u32>) -> v1::Refused {
        let error = v1::Error {
            code: 9,
            reason: "NOT_PARKED".into(),
            message: "it is not parked".into(),
            ..v1::Error::default()
        };
        v1::Refused { position, error: Some(error), ..v1::Refused::default() }
    }

    #[test]
    fn refusals_go_to_their_ids() {
        let reasons = |failures: Vec<Option<Failure>>| {
            failures.into_iter().map(|f| f.map(|f| f.reason)).collect::<Vec<_>>()
        };
        let not_parked = Some("NOT_PARKED".to_owned());
        assert_eq!(reasons(by_position(2, &[refused(Some(1))])), [None, not_parked.clone()]);
        let all = [not_parked.clone(), not_parked];
        assert_eq!(reasons(by_position(2, &[refused(None)])), all);
    }

    #[test]
    fn each_id_gets_a_line() {
        let (mut output, out, err) = captured::output(Format::Json);
        print_item(Verb::Redrive, "a", None, &mut output).expect("written");
        let failure = of_refused(&refused(Some(0)));
        print_item(Verb::Redrive, "b", Some(&failure), &mut output).expect("written");
        assert_eq!(
            out.text(),
            "{\"id\":\"a\",\"status\":\"redriven\"}\n\
             {\"id\":\"b\",\"status\":\"refused\",\"error\":{\"code\":\"FAILED_PRECONDITION\",\
             \"reason\":\"NOT_PARKED\",\"message\":\"it is not parked\"}}\n"
        );
        assert!(err.text().starts_with("error: b: it is not parked [NOT_PARKED]\n"));
    }
}
