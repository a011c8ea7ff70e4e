//! `--exec`: a command for each object, whose exit code settles it.

use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use dpc_client::{Delivery, Subscription, Verb};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::deliver::{Done, print, subscribe};
use super::{SubscribeArgs, idle};
use crate::cli::client::of_client;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// The exit code that gives the object back without blame: EX_TEMPFAIL of sysexits.
const EXIT_RELEASE: i32 = 75;

/// Runs commands until there is enough.
pub(super) async fn run(
    args: &SubscribeArgs,
    command: &str,
    output: &mut Output,
) -> Result<Exit, Failure> {
    // An object that waits here for its turn could be with another subscriber.
    let credit = args.credit.unwrap_or(1);
    let subscription = subscribe(args, Some(credit)).await?;
    let mut done = Done::default();
    let ended = work(args, command, credit as usize, &subscription, &mut done, output).await;
    let closed = subscription.close().await.map_err(|error| of_client(&error));
    output.note(&done.text());
    match ended? {
        Exit::Done => closed.map(|()| done.exit),
        other => Ok(other),
    }
}

async fn work(
    args: &SubscribeArgs,
    command: &str,
    at_once: usize,
    subscription: &Subscription,
    done: &mut Done,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut running = FuturesUnordered::new();
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let room = at_once.saturating_sub(running.len()).min(done.wanted(args.count));
        if running.is_empty() && done.wanted(args.count) == 0 {
            return Ok(Exit::Done);
        }
        let batch = tokio::select! {
            // Ctrl-C first, then what frees credit.
            biased;
            _stop = &mut stop => {
                // Commands that were cut short did not fail: dropping them ends them.
                output.note(&format!("interrupted: {} commands ended half-way", running.len()));
                return Ok(Exit::Interrupted);
            }
            Some((delivery, ended)) = running.next() => {
                settle(&delivery, ended, done, output).await;
                continue;
            }
            batch = subscription.next_batch(room), if room > 0 => {
                batch.map_err(|error| of_client(&error))?
            }
            () = idle(args.idle_exit), if running.is_empty() => return Ok(Exit::Done),
        };
        if batch.is_empty() {
            return Ok(Exit::Done);
        }
        for delivery in batch {
            done.delivered += 1;
            print(&delivery, output)?;
            running.push(execute(command, delivery));
        }
    }
}

/// Runs the command for one object.
async fn execute(command: &str, delivery: Delivery) -> (Delivery, std::io::Result<ExitStatus>) {
    let guard = GiveBack(Some(delivery));
    let delivery = guard.0.as_ref().expect("given a line above");
    let ended = status(command, delivery).await;
    (guard.take(), ended)
}

/// A delivery that goes back without blame if its command is dropped before it ends.
struct GiveBack(Option<Delivery>);

impl GiveBack {
    fn take(mut self) -> Delivery {
        self.0.take().expect("taken once")
    }
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        if let Some(delivery) = &self.0 {
            // On its way from here on; closing the subscription waits for the answer.
            drop(IntoFuture::into_future(delivery.release(None)));
        }
    }
}

async fn status(command: &str, delivery: &Delivery) -> std::io::Result<ExitStatus> {
    let headers = serde_json::to_string(delivery.headers()).expect("headers are plain data");
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env("DPC_ID", delivery.id().to_string())
        .env("DPC_TYPE", delivery.object_type())
        .env("DPC_VERSION", delivery.version().to_string())
        .env("DPC_DELIVERY", delivery.delivery().to_string())
        .env("DPC_FAILED_DELIVERIES", delivery.failed_deliveries().to_string())
        .env("DPC_ORIGIN", delivery.origin())
        .env("DPC_HOPS", delivery.hops().to_string())
        .env("DPC_TOKEN", delivery.token().to_string())
        .env("DPC_HEADERS", headers)
        .stdin(Stdio::piped())
        // Results are the delivery lines: what commands print must not run into them.
        .stdout(std::io::stderr())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let payload: Bytes = delivery.payload();
    let feed = async move {
        // A command that does not read its stdin is free to do so.
        let _unread = stdin.write_all(&payload).await;
    };
    let ((), status) = tokio::join!(feed, child.wait());
    status
}

/// Settles as the command ended.
async fn settle(
    delivery: &Delivery,
    ended: std::io::Result<ExitStatus>,
    done: &mut Done,
    output: &mut Output,
) {
    let verb = match &ended {
        Ok(status) if status.success() => Verb::Finalise,
        Ok(status) if status.code() == Some(EXIT_RELEASE) => Verb::Release(None),
        Ok(status) => {
            output.note(&format!("{}: the command ended with {status}", delivery.id()));
            Verb::Fail(None)
        }
        Err(error) => {
            // The machine is to blame, not the object.
            let message = format!("{}: cannot run the command: {error}", delivery.id());
            done.failed(&Failure::local("EXEC_FAILED", message), output);
            Verb::Release(None)
        }
    };
    match delivery.settle(verb.clone()).await {
        Ok(()) => done.settled(&verb, 1),
        Err(error) => {
            let mut failure = of_client(&error);
            failure.message = format!("{} was not settled: {}", delivery.id(), failure.message);
            done.failed(&failure, output);
        }
    }
}
