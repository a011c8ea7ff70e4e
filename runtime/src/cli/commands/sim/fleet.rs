//! The threads that run seeds. Each world is deterministic by itself, so seeds run side by side;
//! what they came to is told in the order of the seeds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once};
use std::time::Instant;

use sim::swarm::Report;
use tokio::sync::mpsc;

/// How far the threads may be ahead of the first seed that has not been told: a slow seed holds them
/// up rather than filling the memory with reports.
const SEEDS_AHEAD_MAX: u64 = 256;

/// What a seed came to: its report, or the words of a panic outside of any run.
pub(super) type Ended = Result<Report, String>;

/// Which seeds are to run.
#[derive(Clone, Debug)]
pub(super) struct Seeds {
    pub(super) first: u64,
    /// The first that does not run any more.
    pub(super) end: u64,
    /// None is begun from then on.
    pub(super) until: Option<Instant>,
}

/// Which seed is begun next, and how many have been told.
struct Turn {
    next: u64,
    told: u64,
    stopped: bool,
}

/// What the threads share.
struct Desk {
    seeds: Seeds,
    turn: Mutex<Turn>,
    moved: Condvar,
}

impl Desk {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().expect("no thread panics with the lock")
    }

    /// The next seed to run, once it is not too far ahead.
    fn take(&self) -> Option<u64> {
        let mut turn = self.turn();
        loop {
            let late = self.seeds.until.is_some_and(|until| Instant::now() >= until);
            if late || turn.stopped || turn.next >= self.seeds.end {
                return None;
            }
            if turn.next < turn.told + SEEDS_AHEAD_MAX {
                turn.next += 1;
                return Some(turn.next - 1);
            }
            turn = self.moved.wait(turn).expect("no thread panics with the lock");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Turn)) {
        change(&mut self.turn());
        self.moved.notify_all();
    }
}

/// Threads at work. They end with the last seed, or when this is dropped.
pub(super) struct Fleet {
    reports: mpsc::UnboundedReceiver<(u64, Ended)>,
    desk: Arc<Desk>,
    /// What came early, waiting for an earlier seed.
    early: BTreeMap<u64, Ended>,
}

impl Fleet {
    /// Starts so many threads.
    pub(super) fn start(
        seeds: Seeds,
        threads: usize,
        run: impl Fn(u64) -> Report + Send + Sync + 'static,
    ) -> Self {
        // Bounded by SEEDS_AHEAD_MAX.
        let (sender, reports) = mpsc::unbounded_channel();
        let turn = Mutex::new(Turn { next: seeds.first, told: seeds.first, stopped: false });
        let desk = Arc::new(Desk { seeds, turn, moved: Condvar::new() });
        let run = Arc::new(run);
        for _ in 0..threads {
            let (desk, sender, run) = (desk.clone(), sender.clone(), run.clone());
            std::thread::spawn(move || {
                while let Some(seed) = desk.take() {
                    let ended = caught(|| run(seed));
                    if sender.send((seed, ended)).is_err() {
                        return; // Nobody listens any more.
                    }
                }
            });
        }
        Self { reports, desk, early: BTreeMap::new() }
    }

    /// The next seed that has come to its end, in order. `None` when all have.
    pub(super) async fn next(&mut self) -> Option<(u64, Ended)> {
        loop {
            let next = self.desk.turn().told;
            if let Some(ended) = self.early.remove(&next) {
                self.desk.change(|turn| turn.told += 1);
                return Some((next, ended));
            }
            let (seed, ended) = self.reports.recv().await?;
            self.early.insert(seed, ended);
        }
    }

    /// What has ended behind a seed that has not: after a stop, all that there is to tell.
    pub(super) fn rest(mut self) -> BTreeMap<u64, Ended> {
        while let Ok((seed, ended)) = self.reports.try_recv() {
            self.early.insert(seed, ended);
        }
        std::mem::take(&mut self.early)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.desk.change(|turn| turn.stopped = true);
    }
}

thread_local! {
    /// Whether a panic in this thread is an answer, not noise for stderr.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// The words and the place of the last such panic.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From here on the panics that simulated cores end with are kept for the report, with their place.
pub(super) fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                return others(info);
            }
            let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line()));
            let text = format!("{}{}", words(info.payload()), place.unwrap_or_default());
            PANIC.with_borrow_mut(|panic| *panic = Some(text));
        }));
    });
}

/// Does something in which simulated cores may panic.
pub(super) fn quietly<T>(run: impl FnOnce() -> T) -> T {
    QUIET.set(true);
    let done = run();
    QUIET.set(false);
    done
}

/// Does something; its panic is an answer like any other.
pub(super) fn caught(run: impl FnOnce() -> Report) -> Ended {
    let ended = quietly(|| catch_unwind(AssertUnwindSafe(run)));
    let said = PANIC.with_borrow_mut(Option::take);
    match ended {
        Ok(mut report) => {
            if let (Some(broken), Some(said)) = (&mut report.broken, said)
                && broken.starts_with("panic: ")
            {
                *broken = format!("panic: {said}");
            }
            Ok(report)
        }
        Err(panic) => Err(said.unwrap_or_else(|| words(panic.as_ref()))),
    }
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use sim::swarm::Options;

    use super::*;

    fn report(seed: u64) -> Report {
        let (setup, _) = sim::swarm::draw(seed, &Options::default());
        sim::swarm::run_schedule(&setup, &[])
    }

    fn seeds(end: u64) -> Seeds {
        Seeds { first: 0, end, until: None }
    }

    #[tokio::test]
    async fn seeds_are_told_in_their_order_though_one_takes_long() {
        // The first seed ends only after ten others have.
        let ended = AtomicU64::new(0);
        let mut fleet = Fleet::start(seeds(12), 3, move |seed| {
            while seed == 0 && ended.load(Ordering::SeqCst) < 10 {
                std::thread::yield_now();
            }
            ended.fetch_add(1, Ordering::SeqCst);
            report(seed)
        });
        for seed in 0..12 {
            assert_eq!(fleet.next().await.map(|(seed, _)| seed), Some(seed));
        }
        assert!(fleet.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_seed_holds_the_others_up() {
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let (gate, begun) = (Mutex::new(gate), Arc::new(AtomicU64::new(0)));
        let seen = begun.clone();
        let mut fleet = Fleet::start(seeds(SEEDS_AHEAD_MAX + 50), 2, move |seed| {
            begun.fetch_max(seed, Ordering::SeqCst);
            if seed == 0 {
                gate.lock().expect("one thread waits").recv().expect("it opens");
            }
            report(1)
        });
        while seen.load(Ordering::SeqCst) < SEEDS_AHEAD_MAX - 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(seen.load(Ordering::SeqCst), SEEDS_AHEAD_MAX - 1);
        open.send(()).expect("it waits");
        for seed in 0..SEEDS_AHEAD_MAX + 50 {
            assert_eq!(fleet.next().await.map(|(seed, _)| seed), Some(seed));
        }
    }

    #[tokio::test]
    async fn a_panic_is_what_a_seed_came_to() {
        let mut fleet = Fleet::start(seeds(3), 1, |seed| {
            assert!(seed != 1, "seed {seed} is not liked");
            report(seed)
        });
        assert!(fleet.next().await.expect("seed 0").1.is_ok());
        let (seed, ended) = fleet.next().await.expect("seed 1");
        assert_eq!(seed, 1);
        assert!(ended.expect_err("it panicked").starts_with("seed 1 is not liked"));
        assert!(fleet.next().await.expect("seed 2").1.is_ok());
    }
}
