//! The figures, one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;

use super::load::{self, Settled};
use super::meter::{Meter, Used, on_disk, resident};
use super::plan::{Plan, Stage};
use super::{adopt, core, driver, latency};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::stop::Stop;
use crate::nodes::Mesh;

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Parts of a fill whose rates are compared.
const FILL_PARTS: u64 = 10;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Figure {
    /// Objects pushed and answered as durable, nobody subscribed.
    Push,
    /// A backlog delivered, settled and answered.
    Drain,
    /// Objects pushed, delivered, settled and answered, all at once.
    E2e,
    /// From push to delivery at a rate that is kept (--rate).
    Latency,
    /// A backlog of the first node settled at the last one.
    Move,
    /// From a push at the first node to the delivery at the last one, at that rate.
    MoveLatency,
    /// A growing backlog: whether its end is as fast as its begin, and what it holds.
    Fill,
    /// A backlog of a node that is killed, delivered and settled by the two others over the same
    /// database.
    Adopt,
    /// The state machine alone: no disk, no network.
    Core,
    /// The database of the store by its driver alone: packed records (Cassandra) or batches of rows
    /// (Postgres) of the size of a node's records.
    Driver,
}

/// What one figure has shown.
pub(super) struct Measured {
    pub(super) figure: Figure,
    /// How durable an object was before it was answered.
    pub(super) durability: Option<&'static str>,
    /// The nodes it ran on.
    pub(super) nodes: usize,
    pub(super) what: What,
}

/// Its values.
pub(super) enum What {
    /// Objects, and what they took.
    Rate { objects: u64, unit: &'static str, used: Used },
    /// Waits, in nanoseconds.
    Waits { waits: Histogram<u64>, rate: u32 },
    /// A backlog.
    Backlog {
        objects: u64,
        used: Used,
        /// Objects a second in its first tenth, and in its last.
        first: f64,
        last: f64,
        /// Bytes of memory of the nodes, when it is full.
        resident: Option<u64>,
        /// Bytes on their disks.
        disk: Option<u64>,
    },
    /// A backlog of a dead node.
    Adopted {
        objects: u64,
        /// From its end to the first delivery by another one.
        first: Duration,
        /// From there until everything was settled.
        used: Used,
        /// The most bytes of memory that one of the others ever held.
        peak: Option<u64>,
    },
}

impl Figure {
    /// Its name, as it is typed and printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Drain => "drain",
            Self::E2e => "e2e",
            Self::Latency => "latency",
            Self::Move => "move",
            Self::MoveLatency => "move-latency",
            Self::Fill => "fill",
            Self::Adopt => "adopt",
            Self::Core => "core",
            Self::Driver => "driver",
        }
    }

    /// The fewest nodes that it makes sense on.
    fn nodes_min(self) -> usize {
        match self {
            Self::Core | Self::Driver => 0,
            Self::Move | Self::MoveLatency => 2,
            Self::Adopt => 3,
            Self::Push | Self::Drain | Self::E2e | Self::Latency | Self::Fill => 1,
        }
    }
}

/// Measures one figure on nodes of its own, which are ended, or on those of the plan. Nothing if it
/// was stopped.
pub(super) async fn run(
    figure: Figure,
    plan: &Plan,
    stop: &mut Stop,
    output: &mut Output,
) -> Result<Option<Measured>, Failure> {
    if figure == Figure::Core {
        let (objects, used) = core::measure(plan);
        let what = What::Rate { objects, unit: "transitions/s", used };
        return Ok(Some(Measured { figure, durability: None, nodes: 0, what }));
    }
    if figure == Figure::Driver {
        let (objects, used) = tokio::select! {
            biased;
            measured = driver::measure(plan) => measured?,
            () = stop.asked() => return Ok(None),
        };
        let what = What::Rate { objects, unit: "objects/s", used };
        return Ok(Some(Measured { figure, durability: None, nodes: 0, what }));
    }
    let adopts = figure == Figure::Adopt;
    if adopts {
        adopt::check(plan)?;
    }
    let mut stage = plan.stage(figure.nodes_min(), adopts).await?;
    let result = tokio::select! {
        // What has been measured counts, even if the signal came at the same moment.
        biased;
        measured = on_stage(figure, plan, &mut stage, output) => measured.map(Some),
        () = stop.asked() => Ok(None),
    };
    if let (Err(_), Some(mesh)) = (&result, &stage.mesh) {
        mesh.show_logs(output);
    }
    let ended = stage.end().await;
    // What went wrong first explains what went wrong later.
    result.and_then(|measured| ended.map(|()| measured))
}

async fn on_stage(
    figure: Figure,
    plan: &Plan,
    stage: &mut Stage,
    output: &mut Output,
) -> Result<Measured, Failure> {
    let durability = Some(load::durability(stage).await?);
    let what = match figure {
        Figure::Push => push(plan, stage, output).await?,
        Figure::Drain | Figure::Move => drain(plan, stage, output).await?,
        Figure::E2e => end_to_end(plan, stage, output).await?,
        Figure::Latency | Figure::MoveLatency => {
            let waits = latency::measure(plan, stage, plan.rate).await?;
            What::Waits { waits, rate: plan.rate }
        }
        Figure::Fill => fill(plan, stage, output).await?,
        Figure::Adopt => adopt::measure(plan, stage, output).await?,
        Figure::Core | Figure::Driver => unreachable!("it runs on no stage"),
    };
    let nodes = stage.mesh.as_ref().map_or(0, |mesh| mesh.nodes().len());
    Ok(Measured { figure, durability, nodes, what })
}

pub(super) async fn push(plan: &Plan, stage: &Stage, output: &mut Output) -> Result<What, Failure> {
    let producers = load::producers(plan, stage).await?;
    let meter = Meter::begin(stage.pids());
    let pushed = Arc::default();
    let pushing = load::push(plan, stage, &producers, None, &pushed);
    watched("pushed", plan.objects, || pushed.load(Ordering::Relaxed), pushing, output).await?;
    Ok(What::Rate { objects: plan.objects, unit: "objects/s", used: meter.used() })
}

async fn drain(plan: &Plan, stage: &Stage, output: &mut Output) -> Result<What, Failure> {
    push(plan, stage, output).await?;
    let meter = Meter::begin(stage.pids());
    let settled = Settled::of(plan.objects);
    let settling = async {
        let subscriptions = load::subscribe(plan, stage).await?;
        load::settle(subscriptions, &settled, None).await
    };
    watched("settled", plan.objects, || settled.count(), settling, output).await?;
    Ok(What::Rate { objects: plan.objects, unit: "objects/s", used: meter.used() })
}

async fn end_to_end(plan: &Plan, stage: &Stage, output: &mut Output) -> Result<What, Failure> {
    let subscriptions = load::subscribe(plan, stage).await?;
    let producers = load::producers(plan, stage).await?;
    let meter = Meter::begin(stage.pids());
    let room = Arc::new(Semaphore::new(plan.backlog));
    let (settled, pushed) = (Settled::of(plan.objects), Arc::default());
    let both = async {
        let pushing = load::push(plan, stage, &producers, Some(&room), &pushed);
        let settling = load::settle(subscriptions, &settled, Some(&room));
        tokio::try_join!(pushing, settling)
    };
    watched("settled", plan.objects, || settled.count(), both, output).await?;
    Ok(What::Rate { objects: plan.objects, unit: "objects/s", used: meter.used() })
}

async fn fill(plan: &Plan, stage: &Stage, output: &mut Output) -> Result<What, Failure> {
    let producers = load::producers(plan, stage).await?;
    let meter = Meter::begin(stage.pids());
    let part = Plan { objects: (plan.objects / FILL_PARTS).max(1), ..plan.clone() };
    let pushed = Arc::new(AtomicU64::new(0));
    let mut rates = Vec::new();
    for _ in 0..FILL_PARTS {
        let began = Instant::now();
        let pushing = load::push(&part, stage, &producers, None, &pushed);
        let done = || pushed.load(Ordering::Relaxed);
        watched("pushed", plan.objects, done, pushing, output).await?;
        rates.push(part.objects as f64 / began.elapsed().as_secs_f64());
    }
    let (first, last) = (rates[0], rates[rates.len() - 1]);
    let objects = part.objects * FILL_PARTS;
    let (used, resident) = (meter.used(), resident(&stage.pids()));
    let nodes = stage.mesh.as_ref().map(Mesh::nodes);
    // A file may go while it is looked at: then there is no figure.
    let disk = nodes.and_then(|nodes| nodes.iter().map(|node| on_disk(&node.folder).ok()).sum());
    Ok(What::Backlog { objects, used, first, last, resident, disk })
}

/// Waits for work, and shows how far it is.
pub(super) async fn watched<T>(
    what: &'static str,
    all: u64,
    done: impl Fn() -> u64,
    work: impl Future<Output = Result<T, Failure>>,
    output: &mut Output,
) -> Result<T, Failure> {
    let mut progress = Progress::new(what, Some(all));
    let mut work = std::pin::pin!(work);
    let mut shown = 0;
    let result = loop {
        match tokio::time::timeout(LOOK_EVERY, work.as_mut()).await {
            Ok(result) => break result,
            Err(_) => {
                let now = done();
                progress.advance(now - shown, output);
                shown = now;
            }
        }
    };
    progress.finish(output);
    result
}
