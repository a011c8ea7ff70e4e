//! How long objects wait, at a rate that is kept whatever the answers do: a stall is charged to
//! every object that it held up (no coordinated omission).

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dpc_client::{Object, Pusher, Subscription, Window};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
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

/// The most ticks a second at which objects are pushed.
const TICKS_MAX: u64 = 1_000;

/// Ticks that wait for a push that is held up.
const TICKS_WAITING_MAX: usize = 1_024;

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
    let (mut metronome, mut pushed) = (Metronome::start(rate, begin)?, 0);
    while pushed < count {
        let (due, objects) = metronome.next(begin).await;
        for _ in 0..objects.min(count - pushed) {
            let ty = types.next().expect("a plan has a type");
            let object = Object::new(ty, stamped(due, &filling));
            pusher.send(object).await.map_err(|error| of_client(&error))?;
            pushed += 1;
        }
    }
    pusher.flush().await.map_err(|error| of_client(&error))
}

/// Says when objects are due: a thread that does nothing but sleep. The timer of a tokio runtime is
/// up to a millisecond late, which at 1,000 a second is as long as the time between two objects.
struct Metronome {
    ticks: mpsc::Receiver<()>,
    rhythm: Rhythm,
    tick: u64,
}

impl Metronome {
    fn start(rate: u32, begin: Instant) -> Result<Self, Failure> {
        let rhythm = Rhythm::of(rate);
        // While the node holds pushes up, ticks wait here: they are charged to it.
        let (sender, ticks) = mpsc::channel(TICKS_WAITING_MAX);
        let sleep = move || {
            for tick in 0.. {
                std::thread::sleep(rhythm.due(tick).saturating_sub(begin.elapsed()));
                if sender.blocking_send(()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("dpc-pace".into()).spawn(sleep)?;
        Ok(Self { ticks, rhythm, tick: 0 })
    }

    /// Waits for the next tick. Says since when its objects are due, and how many they are.
    async fn next(&mut self, begin: Instant) -> (Duration, u64) {
        // Whoever waited for a tick was not held up: what it is late by is the timer's, and that of waking
        // up, and not the node's.
        let waited = self.ticks.is_empty();
        self.ticks.recv().await.expect("the thread lives as long as this");
        let tick = self.tick;
        self.tick += 1;
        let due = if waited { begin.elapsed() } else { self.rhythm.due(tick) };
        (due, self.rhythm.objects(tick))
    }
}

/// At which ticks objects are pushed, and how many at each.
#[derive(Clone, Copy)]
struct Rhythm {
    /// Objects a second.
    rate: u64,
    /// Ticks a second. Above [`TICKS_MAX`] objects a second, several are due with a tick.
    ticks: u64,
}

impl Rhythm {
    fn of(rate: u32) -> Self {
        let rate = u64::from(rate);
        Self { rate, ticks: rate.min(TICKS_MAX) }
    }

    fn due(self, tick: u64) -> Duration {
        Duration::from_nanos(tick * 1_000_000_000 / self.ticks)
    }

    fn objects(self, tick: u64) -> u64 {
        let before = |tick| tick * self.rate / self.ticks;
        before(tick + 1) - before(tick)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_has_its_objects() {
        for rate in [1, 7, 999, 1_000, 1_001, 80_000, 123_457] {
            let rhythm = Rhythm::of(rate);
            assert_eq!(rhythm.due(rhythm.ticks), Duration::from_secs(1), "{rate} a second");
            let in_a_second: u64 = (0..rhythm.ticks).map(|tick| rhythm.objects(tick)).sum();
            assert_eq!(in_a_second, u64::from(rate));
            let most = (0..rhythm.ticks).map(|tick| rhythm.objects(tick)).max();
            assert!(most <= Some(u64::from(rate).div_ceil(TICKS_MAX)), "{rate} a second");
        }
    }
}
