//! How long objects wait, at a rate that is kept whatever the answers do: a stall is charged to
//! every object that it held up (no coordinated omission).

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dpc_client::{Object, Pusher, Subscription, Window};
use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::load;
use super::plan::{Plan, Stage};
use crate::cli::client::of_client;
use crate::cli::failure::Failure;

/// Before that, connections open and caches fill.
const WARM_UP: Duration = Duration::from_secs(1);

/// Longest wait that is told apart.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long the last objects may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes in front of the payload: when the object was due, in nanoseconds since the begin.
const STAMP: usize = 8;

/// From when an object was due to be pushed until it was delivered, in nanoseconds.
pub(super) async fn measure(
    plan: &Plan,
    stage: &Stage,
    rate: u32,
) -> Result<Histogram<u64>, Failure> {
    let pusher = stage.pushing()?.push_stream(Window::default());
    let subscription = load::subscribe(&Plan { subscribers: 1, ..plan.clone() }, stage).await?;
    let subscription = subscription.into_iter().next().expect("one was asked for");
    let begin = Instant::now();
    let count = ((WARM_UP + plan.span).as_secs_f64() * f64::from(rate)) as u64;
    let pushing = push(plan, stage, &pusher, rate, begin, count);
    let receiving = receive(&subscription, begin, count);
    let patient = tokio::time::timeout(WARM_UP + plan.span + PATIENCE, async {
        tokio::try_join!(pushing, receiving)
    });
    let ((), waits) = patient.await.map_err(|_| {
        Failure::local("BENCH_LATE", "not everything that was pushed was delivered in time")
    })??;
    Ok(waits)
}

async fn push(
    plan: &Plan,
    stage: &Stage,
    pusher: &Pusher,
    rate: u32,
    begin: Instant,
    count: u64,
) -> Result<(), Failure> {
    let filling = load::payload(plan.size.saturating_sub(STAMP));
    let mut types = stage.types().iter().cycle();
    for n in 0..count {
        let mut due = Duration::from_nanos(n * 1_000_000_000 / u64::from(rate));
        if begin.elapsed() < due {
            tokio::time::sleep_until(begin + due).await;
            // The timer is up to a millisecond late by itself: that is not the node's.
            due = begin.elapsed();
        }
        let ty = types.next().expect("a plan has a type");
        let object = Object::new(ty, stamped(due, &filling));
        pusher.send(object).await.map_err(|error| of_client(&error))?;
    }
    pusher.flush().await.map_err(|error| of_client(&error))
}

fn stamped(due: Duration, filling: &Bytes) -> Bytes {
    let mut payload = BytesMut::with_capacity(STAMP + filling.len());
    payload.put_u64(nanos(due));
    payload.put_slice(filling);
    payload.freeze()
}

async fn receive(
    subscription: &Subscription,
    begin: Instant,
    count: u64,
) -> Result<Histogram<u64>, Failure> {
    let mut waits = Histogram::new_with_max(nanos(WAIT_MAX), 3).expect("valid bounds");
    let mut left = count;
    while left > 0 {
        let batch = subscription.next_batch(usize::MAX).await.map_err(|error| of_client(&error))?;
        let now = nanos(begin.elapsed());
        for delivery in &batch {
            let payload = delivery.payload();
            let stamp = payload.first_chunk::<STAMP>().expect("we pushed it");
            let due = u64::from_be_bytes(*stamp);
            if due >= nanos(WARM_UP) {
                waits.saturating_record(now.saturating_sub(due));
            }
        }
        left -= batch.len() as u64;
        // Its answer is not waited for; the last ones are by the end of the subscription.
        drop(subscription.finalise_all(batch));
    }
    Ok(waits)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
