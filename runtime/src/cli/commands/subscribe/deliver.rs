//! Prints each delivery and settles it in one way.

use std::collections::BTreeMap;

use dpc_client::{BatchError, Delivered, Delivery, Subscription, Verb};
use jiff::Timestamp;
use serde::Serialize;

use super::{SubscribeArgs, idle};
use crate::cli::client::{of_client, settled_word};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::payload::Payload;

/// Deliveries that are settled together.
const BATCH_COUNT_MAX: usize = 256;

/// A delivery as a JSON line.
#[derive(Serialize)]
struct ShownDelivery<'a> {
    id: String,
    #[serde(rename = "type")]
    object_type: &'a str,
    version: u32,
    delivery: u32,
    failed_deliveries: u32,
    #[serde(flatten)]
    payload: Payload,
    headers: &'a BTreeMap<String, String>,
    origin: &'a str,
    hops: u32,
    path: &'a [String],
    pushed_at: Option<String>,
    lease: ShownLease,
    node: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    possible_duplicate: bool,
}

#[derive(Serialize)]
struct ShownLease {
    token: String,
    until: Option<String>,
}

fn time(at: Option<std::time::SystemTime>) -> Option<String> {
    at.and_then(|at| Timestamp::try_from(at).ok()).map(|at| at.to_string())
}

/// Prints a delivery as a result.
pub(super) fn print(delivered: &Delivered, output: &mut Output) -> Result<(), Failure> {
    let payload = Payload::of(&delivered.payload());
    if output.is_json() {
        let until = time(delivered.lease_until());
        return output.json(&ShownDelivery {
            id: delivered.id().to_string(),
            object_type: delivered.object_type(),
            version: delivered.version(),
            delivery: delivered.delivery(),
            failed_deliveries: delivered.failed_deliveries(),
            payload,
            headers: delivered.headers(),
            origin: delivered.origin(),
            hops: delivered.hops(),
            path: delivered.path(),
            pushed_at: time(delivered.pushed_at()),
            lease: ShownLease { token: delivered.token().to_string(), until },
            node: delivered.node(),
            possible_duplicate: delivered.is_possible_duplicate(),
        });
    }
    let data = match &payload {
        Payload::Text(text) => text.chars().flat_map(shown).collect(),
        Payload::Bytes(base64) => format!("base64 {base64}"),
    };
    let again = match delivered.delivery() {
        0 | 1 => String::new(),
        n => format!(" (delivery {n})"),
    };
    let way = match delivered.path() {
        [] => String::new(),
        path => format!(" via {}", path.join(" > ")),
    };
    let (id, object_type) = (delivered.id(), delivered.object_type());
    output.text(&format!("{id}  {object_type}{again}{way}  {data}"))
}

/// A character as a terminal shows it and does not obey it.
fn shown(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

/// What a subscriber has done so far.
#[derive(Default)]
pub(super) struct Done {
    pub(super) delivered: u64,
    pub(super) settled: BTreeMap<&'static str, u64>,
    pub(super) exit: Exit,
}

impl Done {
    /// How many more are wanted, and fit into a batch.
    pub(super) fn wanted(&self, count: Option<u64>) -> usize {
        let left = count.map_or(u64::MAX, |count| count.saturating_sub(self.delivered));
        usize::try_from(left).unwrap_or(usize::MAX).min(BATCH_COUNT_MAX)
    }

    pub(super) fn settled(&mut self, verb: &Verb, count: u64) {
        *self.settled.entry(settled_word(verb)).or_default() += count;
    }

    /// A settle failed; the others go on.
    pub(super) fn failed(&mut self, failure: &Failure, output: &mut Output) {
        output.failure(failure);
        self.exit = self.exit.worst(failure.exit);
    }

    /// The summary on stderr.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} delivered", self.delivered);
        for (word, count) in &self.settled {
            text.push_str(&format!(", {count} {word}"));
        }
        text
    }
}

/// Why the subscriber ends.
enum End {
    /// It has what it wanted, or nothing came any more, or the node ended the subscription.
    Enough,
    /// Ctrl-C.
    Stopped,
}

/// Prints and settles until there is enough.
pub(super) async fn run(
    args: &SubscribeArgs,
    verb: Verb,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let subscription = subscribe(args, args.credit).await?;
    let mut done = Done::default();
    let ended = work(args, &subscription, &verb, &mut done, output).await;
    // What was delivered and not taken goes back without blame.
    let closed = subscription.close().await.map_err(|error| of_client(&error));
    output.note(&done.text());
    match ended? {
        End::Stopped => Ok(Exit::Interrupted),
        End::Enough => closed.map(|()| done.exit),
    }
}

/// Opens the subscription.
pub(super) async fn subscribe(
    args: &SubscribeArgs,
    credit: Option<u32>,
) -> Result<Subscription, Failure> {
    let client = args.node.receiving_client().await?;
    let mut subscribe = client.subscribe(args.types.clone()).processor(&args.processor);
    if let Some(credit) = credit {
        subscribe = subscribe.credit(credit);
    }
    subscribe.await.map_err(|error| of_client(&error))
}

async fn work(
    args: &SubscribeArgs,
    subscription: &Subscription,
    verb: &Verb,
    done: &mut Done,
    output: &mut Output,
) -> Result<End, Failure> {
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let wanted = done.wanted(args.count);
        if wanted == 0 {
            return Ok(End::Enough);
        }
        let batch = tokio::select! {
            // Ctrl-C first: deliveries may never stop coming.
            biased;
            _stop = &mut stop => return Ok(End::Stopped),
            batch = subscription.next_batch(wanted) => batch.map_err(|error| of_client(&error))?,
            () = idle(args.idle_exit) => return Ok(End::Enough),
        };
        if batch.is_empty() {
            return Ok(End::Enough);
        }
        done.delivered += batch.len() as u64;
        if let Err(failure) = batch.iter().try_for_each(|delivery| print(delivery, output)) {
            // Nobody has seen them, and that is not their fault.
            give_back(subscription, batch, done, output).await;
            return Err(failure);
        }
        settle(subscription, batch, verb, done, output).await;
    }
}

async fn settle(
    subscription: &Subscription,
    batch: Vec<Delivery>,
    verb: &Verb,
    done: &mut Done,
    output: &mut Output,
) {
    let count = batch.len() as u64;
    let refused = match subscription.settle_all(batch, verb).await {
        Ok(()) => Vec::new(),
        Err(BatchError { refused }) => refused,
    };
    done.settled(verb, count - refused.len() as u64);
    for (delivery, error) in refused {
        let mut failure = of_client(&error);
        failure.message = format!("{} was not settled: {}", delivery.id(), failure.message);
        done.failed(&failure, output);
        // Whatever became of it, it is not this process that gives it back.
        let _token = delivery.abandon();
    }
}

/// Releases deliveries without blame.
pub(super) async fn give_back(
    subscription: &Subscription,
    batch: Vec<Delivery>,
    done: &mut Done,
    output: &mut Output,
) {
    settle(subscription, batch, &Verb::Release(None), done, output).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(
            "a\x1b[2J\n\u{e4}".chars().flat_map(shown).collect::<String>(),
            "a\\u{1b}[2J\\nä"
        );
    }

    #[test]
    fn no_more_than_wanted_is_taken() {
        let mut done = Done::default();
        assert_eq!(done.wanted(None), BATCH_COUNT_MAX);
        done.delivered = 5;
        assert_eq!((done.wanted(Some(7)), done.wanted(Some(5))), (2, 0));
        done.settled(&Verb::Finalise, 4);
        done.settled(&Verb::Release(None), 1);
        assert_eq!(done.text(), "5 delivered, 4 finalised, 1 released");
    }
}
