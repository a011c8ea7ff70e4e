//! `dpc type`: what a node knows of each type.

use dpc_proto::v1;
use serde::Serialize;

use super::object::{LIST_ENTRIES_MAX, note_more};
use crate::cli::connect::{Effect, NodeArgs};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::show::span;
use crate::cli::table::Table;
use crate::cli::times::{rough, seconds};

/// What to do with types.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum TypeCommand {
    /// List the types a node has objects or demand of.
    #[command(after_help = "Example:\n  dpc type ls --node 127.0.0.1:50051")]
    Ls(LsArgs),
}

/// Lists types.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only this type, or those of a prefix such as `acme.orders.*`.
    #[arg(long = "type", value_name = "TYPE")]
    object_type: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Serialize)]
struct ShownType {
    #[serde(rename = "type")]
    name: String,
    ready: u64,
    leased: u64,
    delayed: u64,
    parked: u64,
    oldest_age: Option<serde_json::Number>,
    subscribers: u32,
    demand_elsewhere: bool,
    no_demand: bool,
    offered: u64,
    held: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    books: Option<ShownBooks>,
    #[serde(skip)]
    oldest_text: String,
}

/// What came and went since the lane exists.
#[derive(Serialize)]
struct ShownBooks {
    pushed: u64,
    emitted: u64,
    moved_in: u64,
    advanced_in: u64,
    reclaimed: u64,
    finalised: u64,
    discarded: u64,
    moved_out: u64,
    advanced_out: u64,
}

impl From<v1::Books> for ShownBooks {
    fn from(books: v1::Books) -> Self {
        Self {
            pushed: books.pushed,
            emitted: books.emitted,
            moved_in: books.moved_in,
            advanced_in: books.advanced_in,
            reclaimed: books.reclaimed,
            finalised: books.finalised,
            discarded: books.discarded,
            moved_out: books.moved_out,
            advanced_out: books.advanced_out,
        }
    }
}

impl From<v1::TypeInfo> for ShownType {
    fn from(info: v1::TypeInfo) -> Self {
        let oldest = info.oldest_age.and_then(span);
        Self {
            name: info.r#type,
            ready: info.ready,
            leased: info.leased,
            delayed: info.delayed,
            parked: info.parked,
            oldest_age: oldest.map(seconds),
            subscribers: info.subscribers,
            demand_elsewhere: info.demand_elsewhere,
            no_demand: info.no_demand,
            offered: info.offered,
            held: info.held,
            books: info.books.map(Into::into),
            oldest_text: oldest.map_or_else(|| "-".to_owned(), rough),
        }
    }
}

pub(crate) async fn run(command: TypeCommand, output: &mut Output) -> Result<Exit, Failure> {
    let TypeCommand::Ls(args) = command;
    let node = args.node.connect().await?;
    let object_type = args.object_type.unwrap_or_default();
    let request = v1::ListTypesRequest { r#type: object_type, limit: Some(LIST_ENTRIES_MAX) };
    let answer = node.answer(Effect::Reads, node.operator().list_types(request)).await?;
    let count = answer.types.len();
    print_types(answer.types, output)?;
    note_more(answer.more, count, "--type", output);
    Ok(Exit::Done)
}

fn print_types(types: Vec<v1::TypeInfo>, output: &mut Output) -> Result<(), Failure> {
    let shown: Vec<_> = types.into_iter().map(ShownType::from).collect();
    if output.is_json() {
        return shown.iter().try_for_each(|shown| output.json(shown));
    }
    let mut table = Table::new(&[
        "type",
        "ready",
        "leased",
        "delayed",
        "parked",
        "oldest",
        "subscribers",
        "elsewhere",
        "alarm",
    ]);
    for shown in shown {
        table.row([
            shown.name,
            shown.ready.to_string(),
            shown.leased.to_string(),
            shown.delayed.to_string(),
            shown.parked.to_string(),
            shown.oldest_text,
            shown.subscribers.to_string(),
            if shown.demand_elsewhere { "yes".to_owned() } else { "no".to_owned() },
            if shown.no_demand { "no demand".to_owned() } else { String::new() },
        ]);
    }
    output.table(&table)
}

#[cfg(test)]
mod tests {
    use dpc_proto::google::protobuf::Duration;

    use super::*;
    use crate::cli::output::{Format, captured};

    #[test]
    fn a_type_has_the_promised_keys_and_a_row() {
        let info = v1::TypeInfo {
            r#type: "acme.Order".into(),
            ready: 7,
            oldest_age: Some(Duration { seconds: 61, nanos: 500_000_000 }),
            no_demand: true,
            ..v1::TypeInfo::default()
        };
        let (mut output, out, _) = captured::output(Format::Json);
        print_types(vec![info.clone()], &mut output).expect("written");
        assert_eq!(
            out.text(),
            "{\"type\":\"acme.Order\",\"ready\":7,\"leased\":0,\"delayed\":0,\"parked\":0,\
             \"oldest_age\":61.5,\"subscribers\":0,\"demand_elsewhere\":false,\"no_demand\":true,\"offered\":0,\"held\":0}\n"
        );
        let (mut output, out, _) = captured::output(Format::Text);
        print_types(vec![info], &mut output).expect("written");
        assert_eq!(
            out.text(),
            "TYPE        READY  LEASED  DELAYED  PARKED  OLDEST  SUBSCRIBERS  ELSEWHERE  ALARM\n\
             acme.Order      7       0        0       0  1m1s              0  no         no demand\n"
        );
    }
}
