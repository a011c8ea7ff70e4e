//! `dpc sim run`: seeds on all cores, what they came to in order, and a summary.

use std::num::NonZero;
use std::time::{Duration, Instant};

use sim::swarm::{self, Options, Profile, Report};

use super::fleet::{self, Fleet};
use super::ranges::{Only, SEEDS_MAX, Seeds};
use super::report::{Case, Told};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Progress;

/// The seeds of `dpc sim run` without a choice.
const SEEDS_DEFAULT: u64 = 1_000;

/// Most nodes of one run.
const NODES_MAX: u64 = 64;

/// Longest time for fresh seeds: a week.
const MINUTES_MAX: u64 = 7 * 24 * 60;

/// Most threads.
const JOBS_MAX: u64 = 1_024;

/// Failures that are cut down; what all others come from is most likely the same.
const SHRINKS_MAX: usize = 3;

/// Runs seeds.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// One seed.
    #[arg(long, value_name = "S", conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// The seeds from A on, below B; 0..1000 if none are named.
    #[arg(long, value_name = "A..B", conflicts_with = "minutes")]
    seeds: Option<Seeds>,
    /// Fresh seeds for so many minutes.
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// So many nodes, instead of a number that each seed draws.
    #[arg(long, value_name = "N")]
    nodes: Option<u64>,
    /// The kinds of faults: all, none, partitions, crashes, pauses, clocks, disk, damage, clients.
    #[arg(long, value_name = "P", default_value_t = Profile::All)]
    profile: Profile,
    /// Of the seed's actions only these, such as 3,17..20; or none.
    #[arg(long, value_name = "LIST", requires = "seed")]
    only: Option<Only>,
    /// Tell the story of the seed: each input of each node, and what followed from it.
    #[arg(short = 'v', long, requires = "seed")]
    trace: bool,
    /// Threads; as many as the machine has cores if not given.
    #[arg(long, value_name = "N")]
    jobs: Option<u64>,
}

impl RunArgs {
    fn options(&self) -> Result<Options, Failure> {
        let nodes = self.nodes.map(|n| checked("--nodes", n, NODES_MAX)).transpose()?;
        let nodes = nodes.map(|n| usize::try_from(n).expect("few nodes"));
        Ok(Options { profile: self.profile, nodes, trace: self.trace, ..Options::default() })
    }

    fn seeds(&self) -> Result<fleet::Seeds, Failure> {
        let range = match (self.seed, &self.seeds, self.minutes) {
            (Some(seed), ..) if seed == u64::MAX => {
                return Err(Failure::usage(format!("--seed {seed} is too high"))
                    .field("--seed")
                    .limit(u64::MAX - 1)
                    .given(seed.to_string()));
            }
            (Some(seed), ..) => seed..seed + 1,
            (_, Some(seeds), _) => seeds.check()?,
            (_, _, Some(minutes)) => {
                checked("--minutes", minutes, MINUTES_MAX)?;
                let first = fresh_seed()?;
                first..first + SEEDS_MAX
            }
            _ => 0..SEEDS_DEFAULT,
        };
        let until = self.minutes.map(|m| Instant::now() + Duration::from_secs(60 * m));
        Ok(fleet::Seeds { first: range.start, end: range.end, until })
    }

    fn jobs(&self) -> Result<usize, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        match self.jobs {
            None => Ok(cores),
            Some(jobs) => Ok(usize::try_from(checked("--jobs", jobs, JOBS_MAX)?).expect("few")),
        }
    }
}

/// A number from 1 to a limit.
fn checked(flag: &'static str, given: u64, most: u64) -> Result<u64, Failure> {
    if (1..=most).contains(&given) {
        return Ok(given);
    }
    let what = format!("{flag} {given} is out of range: from 1 to {most}");
    let limit = format!("1 to {most}");
    Err(Failure::usage(what).field(flag).limit(limit).given(given.to_string()))
}

/// A seed that nobody has chosen.
fn fresh_seed() -> Result<u64, Failure> {
    let seed = getrandom::u32().map_err(|e| Failure::local("NO_ENTROPY", e.to_string()))?;
    Ok(u64::from(seed))
}

pub(super) async fn run(args: &RunArgs, output: &mut Output) -> Result<Exit, Failure> {
    let (options, seeds, jobs) = (args.options()?, args.seeds()?, args.jobs()?);
    fleet::keep_panics();
    if let Some(only) = &args.only {
        return run_part(args.seed.expect("clap asks for it"), &options, only, output);
    }
    let drawn = options.clone();
    run_with(args, &options, seeds, jobs, move |seed| swarm::run(seed, &drawn), output).await
}

/// A part of one seed's schedule, as a shrink has left it.
fn run_part(
    seed: u64,
    options: &Options,
    only: &Only,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let (setup, schedule) = swarm::draw(seed, options);
    if let Some(last) = only.last().filter(|last| *last >= schedule.len()) {
        let what = format!("--only {only}: seed {seed} has no action {last}");
        let limit = schedule.len().saturating_sub(1);
        return Err(Failure::usage(what).field("--only").limit(limit).given(only.to_string()));
    }
    let steps: Vec<_> = schedule.into_iter().filter(|step| only.has(step.n)).collect();
    let mut told = Told::new(options, true);
    let case = Case { seed, only: Some(only.clone()) };
    told.tell(&case, fleet::caught(|| swarm::run_schedule(&setup, &steps)), output)?;
    told.finish(None, output)
}

/// Runs seeds with `run`, which is the swarm's own except in tests.
async fn run_with(
    args: &RunArgs,
    options: &Options,
    seeds: fleet::Seeds,
    jobs: usize,
    run: impl Fn(u64) -> Report + Send + Sync + 'static,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let mut told = Told::new(options, args.seed.is_some());
    let mut progress = match args.minutes {
        Some(minutes) => Progress::timed("seeds run", Duration::from_secs(60 * minutes)),
        None => Progress::new("seeds run", Some(seeds.end - seeds.first)),
    };
    let left = seeds.end - seeds.first;
    let timed = seeds.until.is_some();
    let jobs = jobs.min(usize::try_from(left).unwrap_or(usize::MAX));
    let mut fleet = Fleet::start(seeds, jobs, run);
    let interrupted = loop {
        let ended = tokio::select! {
            biased;
            _stop = &mut stop => break true,
            ended = fleet.next() => ended,
        };
        let Some((seed, ended)) = ended else { break false };
        told.tell(&Case { seed, only: None }, ended, output)?;
        progress.advance(1, output);
    };
    progress.finish(output);
    if interrupted {
        for (seed, ended) in fleet.rest() {
            told.tell(&Case { seed, only: None }, ended, output)?;
        }
        let of = if timed { None } else { Some(left) };
        told.interrupted(of, output);
    } else {
        shrink(&mut told, options, &mut stop, output).await?;
    }
    told.finish(Some(jobs), output)
}

/// Cuts the first failures down to the few actions that matter.
async fn shrink(
    told: &mut Told,
    options: &Options,
    stop: &mut (impl Future<Output = std::io::Result<()>> + Unpin),
    output: &mut Output,
) -> Result<(), Failure> {
    for (seed, broken) in told.broken().iter().take(SHRINKS_MAX).cloned().collect::<Vec<_>>() {
        let (options, words) = (Options { trace: false, ..options.clone() }, broken.clone());
        let (sender, shrunk) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let (setup, schedule) = swarm::draw(seed, &options);
            let shrunk = sim::shrink::shrink_run(&setup, &schedule, &words);
            // Nobody may be left to be told.
            let _gone = sender.send((schedule.len(), shrunk));
        });
        output.progress(&format!("seed {seed}: which of its actions are needed?"));
        let shrunk = tokio::select! {
            biased;
            _stop = &mut *stop => None,
            shrunk = shrunk => shrunk.ok(),
        };
        output.progress("");
        let Some((of, shrunk)) = shrunk else {
            output.note("the failure was not cut down");
            return Ok(());
        };
        told.shrunk(seed, of, &shrunk, output)?;
    }
    Ok(())
}
