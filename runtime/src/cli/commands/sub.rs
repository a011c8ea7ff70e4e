//! `dpc sub ls`: the subscriptions of a node.

use dpc_proto::v1;
use serde::Serialize;

use super::object::{LIST_ENTRIES_MAX, note_more};
use crate::cli::connect::{Effect, NodeArgs};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::show::time;
use crate::cli::table::Table;

/// Lists subscriptions.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only this type, or those of a prefix such as `acme.orders.*`.
    #[arg(long = "type", value_name = "TYPE")]
    object_type: Option<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Serialize)]
struct ShownSubscription {
    #[serde(rename = "type")]
    pattern: String,
    processor: String,
    credit: u32,
    in_flight: u32,
    delivered: u64,
    settled: u64,
    last_seen: Option<String>,
    session: u64,
    subscription: u64,
}

impl From<v1::SubscriptionInfo> for ShownSubscription {
    fn from(info: v1::SubscriptionInfo) -> Self {
        Self {
            pattern: info.r#type,
            processor: info.processor,
            credit: info.credit,
            in_flight: info.in_flight,
            delivered: info.delivered,
            settled: info.settled,
            last_seen: info.last_seen.and_then(time),
            session: info.session,
            subscription: info.subscription,
        }
    }
}

pub(crate) async fn ls(args: LsArgs, output: &mut Output) -> Result<Exit, Failure> {
    let node = args.node.connect().await?;
    let pattern = args.object_type.unwrap_or_default();
    let request = v1::ListSubscriptionsRequest { r#type: pattern, limit: Some(LIST_ENTRIES_MAX) };
    let answer = node.answer(Effect::Reads, node.operator().list_subscriptions(request)).await?;
    let count = answer.subscriptions.len();
    print_subscriptions(answer.subscriptions, output)?;
    note_more(answer.more, count, "--type", output);
    Ok(Exit::Done)
}

fn print_subscriptions(
    subscriptions: Vec<v1::SubscriptionInfo>,
    output: &mut Output,
) -> Result<(), Failure> {
    let shown: Vec<_> = subscriptions.into_iter().map(ShownSubscription::from).collect();
    if output.is_json() {
        return shown.iter().try_for_each(|shown| output.json(shown));
    }
    let mut table = Table::new(&[
        "session",
        "type",
        "processor",
        "credit",
        "in flight",
        "delivered",
        "settled",
        "last seen",
    ]);
    for shown in shown {
        table.row([
            format!("{}.{}", shown.session, shown.subscription),
            shown.pattern,
            shown.processor,
            shown.credit.to_string(),
            shown.in_flight.to_string(),
            shown.delivered.to_string(),
            shown.settled.to_string(),
            shown.last_seen.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    output.table(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, captured};

    #[test]
    fn a_subscription_has_the_promised_keys() {
        let info = v1::SubscriptionInfo {
            r#type: "acme.*".into(),
            processor: "p".into(),
            credit: 16,
            in_flight: 2,
            delivered: 9,
            settled: 7,
            session: 3,
            subscription: 1,
            ..v1::SubscriptionInfo::default()
        };
        let (mut output, out, _) = captured::output(Format::Json);
        print_subscriptions(vec![info], &mut output).expect("written");
        assert_eq!(
            out.text(),
            "{\"type\":\"acme.*\",\"processor\":\"p\",\"credit\":16,\"in_flight\":2,\
             \"delivered\":9,\"settled\":7,\"last_seen\":null,\"session\":3,\"subscription\":1}\n"
        );
    }
}
