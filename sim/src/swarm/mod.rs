//! Seeded random runs. A seed draws a [`Setup`] (nodes, links, limits, which kinds of things may
//! happen) and a [`Schedule`] (what happens when, as plain data). The run does all of it at once for
//! a while, then heals and has to come to an end: safety under chaos first, then liveness.
//!
//! Each kind of thing is drawn from a stream of its own, and a schedule may be run in part
//! ([`run_schedule`]), so that a failing run can be cut down to the few actions that matter.

mod action;
mod draw;
mod perform;
mod phases;
mod profile;
mod setup;

use std::panic::{AssertUnwindSafe, catch_unwind};

use dpc_core::recording::TapeBounds;
use dpc_core::time::Span;

pub use action::{Action, Pushed, Schedule, Step};
pub use profile::{FAMILIES, Family, PROFILES, Profile};
pub use setup::{Options, Setup};

use crate::coverage::Coverage;
use crate::recorder::Recording;
use crate::world::World;

/// How one run ended.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Its profile.
    pub profile: Profile,
    /// How many nodes it had.
    pub nodes: usize,
    /// How many actions its schedule had.
    pub actions: usize,
    /// The first broken promise: `P7: …`, or `panic: …` for a failed assertion of the core.
    pub broken: Option<String>,
    /// What occurred.
    pub coverage: Coverage,
    /// Events that happened.
    pub steps: u64,
    /// Simulated time.
    pub simulated: Span,
    /// Objects whose push was answered OK.
    pub objects: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// The story, if it was asked for.
    pub trace: String,
    /// The arguments of `dpc sim run` that run it again.
    pub again: String,
}

/// Draws what a seed does, without running it.
pub fn draw(seed: u64, options: &Options) -> (Setup, Schedule) {
    let setup = Setup::draw(seed, options);
    let schedule = draw::schedule(&setup);
    (setup, schedule)
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Report {
    let (setup, schedule) = draw(seed, options);
    run_schedule(&setup, &schedule)
}

/// Runs a schedule, all of it or what a caller has left of it. The steps are in order of time. A
/// panic of the core ends the run and is reported like a broken promise.
pub fn run_schedule(setup: &Setup, schedule: &[Step]) -> Report {
    finish(phases::Run::new(setup), setup, schedule).0
}

/// Runs one seed and records every core in it, cut like this.
pub fn record(seed: u64, options: &Options, bounds: TapeBounds) -> (Report, Vec<Recording>) {
    let (setup, schedule) = draw(seed, options);
    let mut run = phases::Run::new(&setup);
    run.world().record(bounds);
    let (report, mut run) = finish(run, &setup, &schedule);
    (report, run.world().take_recordings())
}

fn finish<'a>(
    mut run: phases::Run<'a>,
    setup: &Setup,
    schedule: &[Step],
) -> (Report, phases::Run<'a>) {
    let ended = catch_unwind(AssertUnwindSafe(|| run.live(schedule)));
    let broken = match ended {
        Ok(ended) => ended.err(),
        Err(panic) => Some(format!("panic: {}", said(panic.as_ref()))),
    };
    let report = report(setup, schedule.len(), run.world(), broken);
    (report, run)
}

fn report(setup: &Setup, actions: usize, world: &mut World, broken: Option<String>) -> Report {
    Report {
        seed: setup.seed,
        profile: setup.profile,
        nodes: setup.nodes,
        actions,
        broken,
        coverage: world.coverage.clone(),
        steps: world.steps,
        simulated: world.now() - dpc_core::Mono(0),
        objects: world.checks.acknowledged() as u64,
        deliveries: world.checks.deliveries(),
        trace: world.trace.take(),
        again: setup.again(),
    }
}

/// The words of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".into())
}

impl Setup {
    /// The arguments of `dpc sim run` that run this seed again.
    pub fn again(&self) -> String {
        let mut line = format!("--seed {} --profile {}", self.seed, self.profile);
        if let Some(nodes) = self.options.nodes {
            line.push_str(&format!(" --nodes {nodes}"));
        }
        if let Some(minutes) = self.options.minutes {
            line.push_str(&format!(" --minutes {minutes}"));
        }
        line
    }
}
