//! Pushing and settling, as a program does that wants to be fast.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use dpc_client::proto::v1::{ShowNodeRequest, operator_service_client::OperatorServiceClient};
use dpc_client::{BatchSettled, Client, Durability, Error, Object, Subscription, Window};
use futures_util::future::try_join_all;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::plan::{Plan, Stage};
use crate::cli::client::of_client;
use crate::cli::failure::Failure;

/// Deliveries that are settled together, at most.
const BATCH: usize = 512;

/// Batches of a subscriber that wait for their answers.
const BATCHES_OPEN: usize = 64;

/// The most that a subscription takes.
const CREDIT_MAX: usize = 65_536;

/// The least that a program asks for which wants to be fast: as many as a node gives to one
/// subscription before the next one has its turn.
const CREDIT_MIN: usize = 128;

/// Places in the backlog that a producer takes at a time.
const PLACES: u32 = 64;

/// The durability of one object, which also opens the connection.
pub(super) async fn durability(stage: &Stage) -> Result<&'static str, Failure> {
    let client = stage.pushing()?;
    let object = Object::new(format!("{}.first", stage.types()[0]), Bytes::new());
    let receipt = client.push(object).await.map_err(|error| of_client(&error))?;
    Ok(match receipt.stored.durability {
        Durability::Synced => "synced",
        Durability::Committed => "committed",
        Durability::Quorum => "quorum",
        Durability::Unstated => "unstated",
    })
}

/// Places for objects that are pushed and not settled.
pub(super) type Room = Arc<Semaphore>;

/// Clients that push, each with its connection open.
pub(super) async fn producers(plan: &Plan, stage: &Stage) -> Result<Vec<Client>, Failure> {
    let one = |_| async move {
        let client = stage.pushing()?;
        let show = |mut node: OperatorServiceClient<_>| async move {
            node.show_node(ShowNodeRequest::default()).await
        };
        client.ask(show).await.map_err(|error| of_client(&error))?;
        Ok(client)
    };
    try_join_all((0..plan.producers).map(one)).await
}

/// Pushes all objects of the plan over all producers; each is durable when this returns.
pub(super) async fn push(
    plan: &Plan,
    stage: &Stage,
    producers: &[Client],
    room: Option<&Room>,
    pushed: &Arc<AtomicU64>,
) -> Result<(), Failure> {
    let share = plan.objects / producers.len() as u64;
    let rest = plan.objects % producers.len() as u64;
    let payloads = Payloads::of(plan.size);
    let producers = producers.iter().zip(0..).map(|(client, n)| {
        let objects = share + u64::from(n < rest);
        let producer = Producer {
            types: stage.types().to_vec(),
            payloads: payloads.clone(),
            first: n * share,
            window: Window { objects: (plan.window / plan.producers).max(1), bytes: 64 << 20 },
            room: room.cloned(),
            pushed: Arc::clone(pushed),
        };
        let client = client.clone();
        async move { producer.run(&client, objects).await.map_err(|error| of_client(&error)) }
    });
    all_of(producers).await
}

/// Runs each in a task of its own, until all have ended or one has failed: so each is woken by itself, and
/// shares the thread with the others as the connections do.
async fn all_of<F>(tasks: impl Iterator<Item = F>) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let mut tasks: JoinSet<_> = tasks.collect();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(())
}

struct Producer {
    types: Vec<String>,
    payloads: Payloads,
    /// Which of them is its first: what producers push at the same moment differs, too.
    first: u64,
    window: Window,
    room: Option<Room>,
    pushed: Arc<AtomicU64>,
}

impl Producer {
    async fn run(self, client: &Client, objects: u64) -> Result<(), Error> {
        let pusher = client.push_stream(self.window);
        let mut types = self.types.iter().cycle();
        let mut places = 0;
        for n in 0..objects {
            if let Some(room) = &self.room {
                if places == 0 {
                    places = PLACES.min(u32::try_from(objects - n).unwrap_or(PLACES));
                    room.acquire_many(places).await.expect("never closed").forget();
                }
                places -= 1;
            }
            let ty = types.next().expect("a plan has a type");
            pusher.send(Object::new(ty, self.payloads.nth(self.first + n))).await?;
            self.pushed.fetch_add(1, Ordering::Relaxed);
        }
        pusher.close().await
    }
}

/// Bytes that do not pack well, as those of real objects do not.
pub(super) fn payload(size: usize) -> Bytes {
    let mut hash = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; size];
    hash.fill(&mut bytes);
    bytes.into()
}

/// Payloads one after the other, of which none is like those around it: a store that packs what lies
/// together finds nothing in them. Clones share their bytes.
#[derive(Clone)]
struct Payloads {
    pool: Bytes,
    size: usize,
}

impl Payloads {
    /// Bytes after which payloads come again: more than a record has.
    const POOL_BYTES: usize = 4 << 20;

    fn of(size: usize) -> Self {
        Self { pool: payload(Self::POOL_BYTES + size), size }
    }

    fn nth(&self, n: u64) -> Bytes {
        let at = (n as usize).wrapping_mul(self.size) % Self::POOL_BYTES;
        self.pool.slice(at..at + self.size)
    }
}

/// What subscribers have done so far.
#[derive(Default)]
pub(super) struct Settled {
    count: AtomicU64,
    all: AtomicU64,
    done: Notify,
    first: OnceLock<Instant>,
}

impl Settled {
    /// So many are to be settled.
    pub(super) fn of(all: u64) -> Arc<Self> {
        Arc::new(Self { all: all.into(), ..Self::default() })
    }

    /// How many have been settled, each with its answer.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// When the first one was delivered, if one was.
    pub(super) fn first(&self) -> Option<Instant> {
        self.first.get().copied()
    }

    fn add(&self, more: usize) {
        let before = self.count.fetch_add(more as u64, Ordering::Relaxed);
        if before + more as u64 >= self.all.load(Ordering::Relaxed) {
            self.done.notify_waiters();
        }
    }

    /// Waits until all are.
    async fn complete(&self) {
        loop {
            let done = self.done.notified();
            if self.count() >= self.all.load(Ordering::Relaxed) {
                return;
            }
            done.await;
        }
    }
}

/// Subscribes as often as the plan says.
pub(super) async fn subscribe(plan: &Plan, stage: &Stage) -> Result<Vec<Subscription>, Failure> {
    subscribe_by(plan, stage, || stage.receiving()).await
}

/// The same, by clients of other nodes.
pub(super) async fn subscribe_by(
    plan: &Plan,
    stage: &Stage,
    client: impl Fn() -> Result<Client, Failure>,
) -> Result<Vec<Subscription>, Failure> {
    let client = &client;
    let credit = (plan.backlog / plan.subscribers / plan.types).clamp(CREDIT_MIN, CREDIT_MAX);
    let credit = u32::try_from(credit).expect("clamped");
    let one = |_| async move {
        let subscribe = client()?.subscribe(stage.types());
        let subscribed = subscribe.processor("bench").credit(credit).await;
        subscribed.map_err(|error| of_client(&error))
    };
    try_join_all((0..plan.subscribers).map(one)).await
}

/// Finalises whatever comes until all of it is done.
pub(super) async fn settle(
    subscriptions: Vec<Subscription>,
    settled: &Arc<Settled>,
    room: Option<&Room>,
) -> Result<(), Failure> {
    all_of(subscriptions.into_iter().map(|subscription| {
        let (settled, room) = (Arc::clone(settled), room.cloned());
        async move {
            let result = settle_one(&subscription, &settled, room.as_ref()).await;
            result.map_err(|error| of_client(&error))
        }
    }))
    .await
}

async fn settle_one(
    subscription: &Subscription,
    settled: &Settled,
    room: Option<&Room>,
) -> Result<(), Error> {
    let mut open = VecDeque::new();
    loop {
        tokio::select! {
            // What has been delivered comes first: its answers come by themselves.
            biased;
            batch = subscription.next_batch(BATCH) => {
                let batch = batch?;
                settled.first.get_or_init(Instant::now);
                let count = batch.len();
                open.push_back((count, subscription.finalise_all(batch)));
                if open.len() > BATCHES_OPEN {
                    answered(&mut open, settled, room).await?;
                }
            }
            result = answered(&mut open, settled, room), if !open.is_empty() => result?,
            () = settled.complete() => return Ok(()),
        }
    }
}

/// Waits for the answer to the oldest batch.
async fn answered(
    open: &mut VecDeque<(usize, BatchSettled)>,
    settled: &Settled,
    room: Option<&Room>,
) -> Result<(), Error> {
    let (count, answer) = open.front_mut().expect("the caller has looked");
    let count = *count;
    let result = answer.await;
    open.pop_front();
    if let Err(error) = result {
        let (_, first) = error.refused.into_iter().next().expect("at least one");
        return Err(first);
    }
    if let Some(room) = room {
        room.add_permits(count);
    }
    settled.add(count);
    Ok(())
}
