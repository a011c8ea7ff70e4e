//! `--settle none`: leases that outlive this process and run out by themselves.

use std::collections::VecDeque;
use std::time::Duration;

use dpc_client::{Client, Taken};
use tokio::time::Instant;

use super::deliver::{Done, print};
use super::{SubscribeArgs, idle};
use crate::cli::client::of_client;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// The length of a lease: the default of nodes, said aloud because the credit is counted by it.
const LEASE: Duration = Duration::from_secs(30);

/// How long the node may wait before it says that there is nothing.
const WAIT: Duration = Duration::from_secs(20);

/// The same when several types take turns.
const WAIT_TURN: Duration = Duration::from_millis(500);

/// The most objects of one take.
const TAKE_COUNT_MAX: usize = 100;

/// Unsettled deliveries if no credit was given, as with a subscription.
const CREDIT_DEFAULT: u32 = 16;

/// Takes and prints until there is enough.
pub(super) async fn run(args: &SubscribeArgs, output: &mut Output) -> Result<Exit, Failure> {
    let client = args.node.receiving_client().await?;
    let mut done = Done::default();
    let ended = work(args, &client, &mut done, output).await;
    output.note(&format!("{}; their leases run out by themselves", done.text()));
    ended
}

async fn work(
    args: &SubscribeArgs,
    client: &Client,
    done: &mut Done,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let credit = args.credit.unwrap_or(CREDIT_DEFAULT) as usize;
    let mut leases = VecDeque::new();
    let mut turn = 0;
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let mut idle = std::pin::pin!(idle(args.idle_exit));
    loop {
        let wanted = done.wanted(args.count);
        if wanted == 0 {
            return Ok(Exit::Done);
        }
        while leases.front().is_some_and(|until| *until <= Instant::now()) {
            leases.pop_front();
        }
        let free = credit.saturating_sub(leases.len());
        let take = take(args, client, turn, wanted.min(free), leases.front().copied());
        let taken = tokio::select! {
            biased;
            _stop = &mut stop => return Ok(Exit::Interrupted),
            taken = take => taken?,
            () = &mut idle => return Ok(Exit::Done),
        };
        turn += 1;
        if taken.is_empty() {
            continue;
        }
        let until = Instant::now() + LEASE;
        for delivered in &taken {
            done.delivered += 1;
            leases.push_back(until);
            print(delivered, output)?;
        }
        idle.set(super::idle(args.idle_exit));
    }
}

/// Takes objects of the type whose turn it is; without free credit, waits until a lease has run out.
async fn take(
    args: &SubscribeArgs,
    client: &Client,
    turn: usize,
    most: usize,
    free_at: Option<Instant>,
) -> Result<Vec<Taken>, Failure> {
    if let (0, Some(free_at)) = (most, free_at) {
        tokio::time::sleep_until(free_at).await;
        return Ok(Vec::new());
    }
    let most = most.clamp(1, TAKE_COUNT_MAX);
    let wait = if args.types.len() == 1 { WAIT } else { WAIT_TURN };
    let pattern = &args.types[turn % args.types.len()];
    let take = client.take(pattern).processor(&args.processor).wait(wait).lease(LEASE);
    let most = u32::try_from(most).expect("at most a hundred");
    take.max(most).await.map_err(|error| of_client(&error))
}
