//! What seeds came to, for eyes and for scripts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use sim::coverage::Coverage;
use sim::shrink::Shrunk;
use sim::swarm::{Options, Report, Step};

use super::fleet::Ended;
use super::ranges::Only;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::{Colour, Output};
use crate::cli::table::Table;
use crate::cli::times::{rough, seconds};

/// Failures that are told one by one; of more the number is told.
const TOLD_MAX: usize = 20;

/// What was run: a seed, or a part of its actions.
pub(super) struct Case {
    pub(super) seed: u64,
    pub(super) only: Option<Only>,
}

/// What has been told so far.
pub(super) struct Told {
    options: Options,
    /// One seed was asked for: its own line says everything.
    one: bool,
    began: Instant,
    seeds: u64,
    interrupted: bool,
    broken: Vec<(u64, String)>,
    sums: Sums,
}

#[derive(Default)]
struct Sums {
    events: u64,
    objects: u64,
    deliveries: u64,
    simulated: Duration,
    coverage: Coverage,
}

#[derive(Serialize)]
struct SeedLine<'a> {
    event: &'static str,
    seed: u64,
    kept: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<&'a str>,
    nodes: usize,
    actions: usize,
    events: u64,
    objects: u64,
    deliveries: u64,
    simulated: serde_json::Number,
}

#[derive(Serialize)]
struct StoryLine<'a> {
    event: &'static str,
    text: &'a str,
}

#[derive(Serialize)]
struct ShrunkLine<'a> {
    event: &'static str,
    seed: u64,
    actions: usize,
    minimal: bool,
    kept: Vec<String>,
    replay: &'a str,
}

#[derive(Serialize)]
struct SummaryLine {
    event: &'static str,
    seeds: u64,
    violations: usize,
    interrupted: bool,
    events: u64,
    objects: u64,
    deliveries: u64,
    simulated: serde_json::Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed: Option<serde_json::Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seeds_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times_real_time: Option<u64>,
    coverage: BTreeMap<&'static str, u64>,
}

impl Told {
    /// Nothing yet.
    pub(super) fn new(options: &Options, one: bool) -> Self {
        Self {
            options: options.clone(),
            one,
            began: Instant::now(),
            seeds: 0,
            interrupted: false,
            broken: Vec::new(),
            sums: Sums::default(),
        }
    }

    /// The seeds that broke a promise, with the words.
    pub(super) fn broken(&self) -> &[(u64, String)] {
        &self.broken
    }

    /// Tells what a seed came to. In text a good one is told in the summary only.
    pub(super) fn tell(
        &mut self,
        case: &Case,
        ended: Ended,
        output: &mut Output,
    ) -> Result<(), Failure> {
        self.seeds += 1;
        let replay = self.replay(case);
        match ended {
            Ok(report) => {
                self.sums.add(&report);
                self.tell_report(&report, &replay, output)?;
                if let Some(broken) = report.broken {
                    self.broken.push((case.seed, broken));
                }
            }
            Err(panic) => {
                let broken = format!("panic: {panic}");
                self.tell_broken(case.seed, "", &broken, &replay, output)?;
                self.broken.push((case.seed, broken));
            }
        }
        Ok(())
    }

    fn tell_report(
        &self,
        report: &Report,
        replay: &str,
        output: &mut Output,
    ) -> Result<(), Failure> {
        if output.is_json() {
            for text in report.trace.lines() {
                output.json(&StoryLine { event: "story", text })?;
            }
            return output.json(&SeedLine {
                event: "seed",
                seed: report.seed,
                kept: report.broken.is_none(),
                broken: report.broken.as_deref(),
                replay: report.broken.as_ref().map(|_| replay),
                nodes: report.nodes,
                actions: report.actions,
                events: report.steps,
                objects: report.objects,
                deliveries: report.deliveries,
                simulated: seconds(simulated(report)),
            });
        }
        output.raw(report.trace.as_bytes())?;
        let made = made_of(report);
        match &report.broken {
            Some(broken) => self.tell_broken(report.seed, &made, broken, replay, output),
            None if self.one => {
                output.text(&format!("seed {}{made} kept every promise", report.seed))
            }
            None => Ok(()),
        }
    }

    fn tell_broken(
        &self,
        seed: u64,
        made: &str,
        broken: &str,
        replay: &str,
        output: &mut Output,
    ) -> Result<(), Failure> {
        if output.is_json() {
            let line = serde_json::json!({
                "event": "seed", "seed": seed, "kept": false, "broken": broken, "replay": replay,
            });
            return output.json(&line);
        }
        if self.broken.len() >= TOLD_MAX {
            return Ok(());
        }
        let broken = output.paint(Colour::Red, broken);
        output.text(&format!("seed {seed}{made}: {broken}"))?;
        output.text(&format!("  again: {replay} --trace"))
    }

    /// The command that runs a case again.
    fn replay(&self, case: &Case) -> String {
        let mut line = format!("dpc sim run --seed {}", case.seed);
        if self.options.profile != sim::swarm::Profile::default() {
            line.push_str(&format!(" --profile {}", self.options.profile));
        }
        if let Some(nodes) = self.options.nodes {
            line.push_str(&format!(" --nodes {nodes}"));
        }
        if let Some(only) = &case.only {
            line.push_str(&format!(" --only {only}"));
        }
        line
    }

    /// Tells which actions of a failing seed are needed.
    pub(super) fn shrunk(
        &self,
        seed: u64,
        actions: usize,
        shrunk: &Shrunk<Step>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let only: Only = shrunk.kept.iter().map(|step| step.n).collect();
        let replay = self.replay(&Case { seed, only: Some(only) });
        let kept: Vec<String> = shrunk.kept.iter().map(ToString::to_string).collect();
        if output.is_json() {
            let (event, minimal, replay) = ("shrunk", shrunk.minimal, &replay);
            return output.json(&ShrunkLine { event, seed, actions, minimal, kept, replay });
        }
        let rest = if shrunk.minimal { "all of them needed" } else { "perhaps not all needed" };
        let n = kept.len();
        output.text(&format!("seed {seed}: {n} of its {actions} actions break it, {rest}:"))?;
        kept.iter().try_for_each(|step| output.text(&format!("  {step}")))?;
        output.text(&format!("  again: {replay} --trace"))
    }

    /// Ctrl-C: says what was done and what not.
    pub(super) fn interrupted(&mut self, of: Option<u64>, output: &mut Output) {
        self.interrupted = true;
        let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
        output.note(&format!("interrupted: {}{of} seeds were run, the rest was not", self.seeds));
    }

    /// The summary. Without `threads` it is free of anything that two runs would not share.
    pub(super) fn finish(
        self,
        threads: Option<usize>,
        output: &mut Output,
    ) -> Result<Exit, Failure> {
        let threads = threads.filter(|_| !self.one);
        let elapsed = self.began.elapsed();
        if output.is_json() {
            output.json(&self.summary(threads.map(|_| elapsed)))?;
        } else {
            self.finish_text(threads.map(|n| (n, elapsed)), output)?;
        }
        let (broken, seeds) = (self.broken.len(), self.seeds);
        let exit = if broken > 0 {
            let message = match self.one {
                true => "the seed broke a promise".to_owned(),
                false => format!("{broken} of {seeds} seeds broke a promise"),
            };
            let code = "FAILED_PRECONDITION";
            output.failure(&Failure::new(Exit::NotDone, code, "PROMISE_BROKEN", message));
            Exit::NotDone
        } else {
            Exit::Done
        };
        Ok(if self.interrupted { exit.worst(Exit::Interrupted) } else { exit })
    }

    fn summary(&self, elapsed: Option<Duration>) -> SummaryLine {
        let sums = &self.sums;
        SummaryLine {
            event: "summary",
            seeds: self.seeds,
            violations: self.broken.len(),
            interrupted: self.interrupted,
            events: sums.events,
            objects: sums.objects,
            deliveries: sums.deliveries,
            simulated: seconds(sums.simulated),
            elapsed: elapsed.map(seconds),
            seeds_per_s: elapsed
                .map(|e| (self.seeds as f64 / e.as_secs_f64() * 10.0).round() / 10.0),
            times_real_time: elapsed.map(|e| times(sums.simulated, e)),
            coverage: sums.coverage.table().into_iter().collect(),
        }
    }

    fn finish_text(
        &self,
        run: Option<(usize, Duration)>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let sums = &self.sums;
        let mut table = Table::new(&["what occurred", "times"]);
        for (name, times) in sums.coverage.table() {
            table.row([name.to_owned(), times.to_string()]);
        }
        output.table(&table)?;
        let Some((threads, elapsed)) = run else { return Ok(()) };
        let (seeds, broken) = (self.seeds, self.broken.len());
        output.text("")?;
        let verdict = match broken {
            0 => format!("{seeds} seeds kept every promise"),
            _ => format!("{broken} of {seeds} seeds broke a promise"),
        };
        output.text(&format!(
            "{verdict}: {} objects, {} deliveries, {} events",
            sums.objects, sums.deliveries, sums.events
        ))?;
        output.text(&format!(
            "{} on {threads} threads, {:.1} seeds/s; {} simulated, {} times faster than real time",
            rough(elapsed),
            seeds as f64 / elapsed.as_secs_f64(),
            rough(sums.simulated),
            times(sums.simulated, elapsed)
        ))
    }
}

impl Sums {
    fn add(&mut self, report: &Report) {
        self.events += report.steps;
        self.objects += report.objects;
        self.deliveries += report.deliveries;
        self.simulated += simulated(report);
        self.coverage.merge(&report.coverage);
    }
}

fn simulated(report: &Report) -> Duration {
    Duration::from_micros(report.simulated.0)
}

/// How many times faster than real time.
fn times(simulated: Duration, elapsed: Duration) -> u64 {
    (simulated.as_secs_f64() / elapsed.as_secs_f64().max(f64::EPSILON)) as u64
}

/// What a run was made of, in brackets.
fn made_of(report: &Report) -> String {
    let s = |n: usize| if n == 1 { "" } else { "s" };
    format!(
        " ({} node{}, {} action{}, {} events, {} simulated)",
        report.nodes,
        s(report.nodes),
        report.actions,
        s(report.actions),
        report.steps,
        rough(simulated(report))
    )
}
