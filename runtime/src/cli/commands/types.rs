//! `dpc type`: what a node knows of each type.

use dpc_proto::v1;
use serde::Serialize;

use super::object::PAGE_ENTRIES_MAX;
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
    demand_elsewhere: u32,
    no_demand: bool,
    #[serde(skip)]
    oldest_text: String,
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
            oldest_text: oldest.map_or_else(|| "-".to_owned(), rough),
        }
    }
}

pub(crate) async fn run(command: TypeCommand, output: &mut Output) -> Result<Exit, Failure> {
    let TypeCommand::Ls(args) = command;
    let node = args.node.connect().await?;
    let limit = Some(PAGE_ENTRIES_MAX);
    let mut request = v1::ListTypesRequest { limit, ..v1::ListTypesRequest::default() };
    let mut first = true;
    loop {
        let answer =
            node.answer(Effect::Reads, node.operator().list_types(request.clone())).await?;
        print_types(answer.types, first, output)?;
        if answer.next_page_token.is_empty() {
            return Ok(Exit::Done);
        }
        request.page_token = answer.next_page_token;
        first = false;
    }
}

fn print_types(types: Vec<v1::TypeInfo>, first: bool, output: &mut Output) -> Result<(), Failure> {
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
            shown.demand_elsewhere.to_string(),
            if shown.no_demand { "no demand".to_owned() } else { String::new() },
        ]);
    }
    if first { output.table(&table) } else { output.table(&table.without_headings()) }
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
        print_types(vec![info.clone()], true, &mut output).expect("written");
        assert_eq!(
            out.text(),
            "{\"type\":\"acme.Order\",\"ready\":7,\"leased\":0,\"delayed\":0,\"parked\":0,\
             \"oldest_age\":61.5,\"subscribers\":0,\"demand_elsewhere\":0,\"no_demand\":true}\n"
        );
        let (mut output, out, _) = captured::output(Format::Text);
        print_types(vec![info], true, &mut output).expect("written");
        assert_eq!(
            out.text(),
            "TYPE        READY  LEASED  DELAYED  PARKED  OLDEST  SUBSCRIBERS  ELSEWHERE  ALARM\n\
             acme.Order      7       0        0       0  1m1s              0          0  no demand\n"
        );
    }
}
