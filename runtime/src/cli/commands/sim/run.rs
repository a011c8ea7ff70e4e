//! `dpc sim run`: seeds on all cores, what they came to in order, and a summary.

use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sim::swarm::{self, Options, Profile, Report, Setup, Step};

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

/// How a schedule is run: by the swarm, except in tests.
type Runner = Arc<dyn Fn(&Setup, &[Step]) -> Report + Send + Sync>;

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
    run_with(args, Arc::new(swarm::run_schedule), output).await
}

async fn run_with(args: &RunArgs, runner: Runner, output: &mut Output) -> Result<Exit, Failure> {
    let (options, seeds, jobs) = (args.options()?, args.seeds()?, args.jobs()?);
    fleet::keep_panics();
    match &args.only {
        Some(only) => run_part(seeds.first, &options, only, &runner, output),
        None => run_seeds(args, &options, seeds, jobs, runner, output).await,
    }
}

/// A part of one seed's schedule, as a shrink has left it.
fn run_part(
    seed: u64,
    options: &Options,
    only: &Only,
    runner: &Runner,
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
    told.tell(&case, fleet::caught(|| runner(&setup, &steps)), output)?;
    told.finish(None, output)
}

/// Seeds side by side, told in their order until the last one or Ctrl-C.
async fn run_seeds(
    args: &RunArgs,
    options: &Options,
    seeds: fleet::Seeds,
    jobs: usize,
    runner: Runner,
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
    let (drawn, run) = (options.clone(), runner.clone());
    let mut fleet = Fleet::start(seeds, jobs, move |seed| {
        let (setup, schedule) = swarm::draw(seed, &drawn);
        run(&setup, &schedule)
    });
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
        shrink(&told, options, &runner, &mut stop, output).await?;
    }
    told.finish(Some(jobs), output)
}

/// Cuts the first failures down to the few actions that matter.
async fn shrink(
    told: &Told,
    options: &Options,
    runner: &Runner,
    stop: &mut (impl Future<Output = std::io::Result<()>> + Unpin),
    output: &mut Output,
) -> Result<(), Failure> {
    for (seed, broken) in told.broken().iter().take(SHRINKS_MAX).cloned().collect::<Vec<_>>() {
        let options = Options { trace: false, ..options.clone() };
        let (sender, shrunk) = tokio::sync::oneshot::channel();
        let run = runner.clone();
        std::thread::spawn(move || {
            let (setup, schedule) = swarm::draw(seed, &options);
            let cut = || sim::shrink::shrink_run(&setup, &schedule, &broken, &*run);
            let shrunk = fleet::quietly(cut);
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
        match shrunk {
            Some((of, Some(shrunk))) => told.shrunk(seed, of, &shrunk, output)?,
            Some((_, None)) => output.note(&format!(
                "seed {seed} does not break it again: see whether `dpc sim meta --seed {seed}` holds"
            )),
            None => {
                output.note(&format!("what seed {seed} needs to break it was not found out"));
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;
    use sim::swarm::Action;

    use super::*;
    use crate::cli::output::{Format, captured};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn args(line: &str) -> RunArgs {
        Line::parse_from(line.split(' ')).run
    }

    /// A bug planted for these tests: a run in which a process is paused breaks P7. One in which
    /// nobody ever subscribes stops the core.
    fn planted(setup: &Setup, steps: &[Step]) -> Report {
        let mut report = swarm::run_schedule(setup, steps);
        let subscribes = |step: &Step| matches!(step.action, Action::Subscribe { .. });
        assert!(setup.seed != 1 || steps.iter().any(subscribes), "nobody subscribes");
        if steps.iter().any(|step| matches!(step.action, Action::Pause(_))) {
            report.broken = Some("P7: two owners".into());
        }
        report
    }

    async fn run_planted(line: &str, format: Format) -> (Exit, String, String) {
        let (mut output, out, err) = captured::output(format);
        let exit = run_with(&args(line), Arc::new(planted), &mut output).await;
        (exit.expect("the arguments are good"), out.text(), err.text())
    }

    async fn refused(line: &str) -> Failure {
        let (mut output, _, _) = captured::output(Format::Text);
        let ended = run_with(&args(line), Arc::new(planted), &mut output).await;
        ended.expect_err("out of range")
    }

    /// The first seed of a profile that pauses a process.
    fn seed_with_a_pause() -> u64 {
        let options = Options { profile: Profile::Pauses, ..Options::default() };
        let pauses = |step: &Step| matches!(step.action, Action::Pause(_));
        let found = (0..100).find(|seed| swarm::draw(*seed, &options).1.iter().any(pauses));
        found.expect("the profile has its name for a reason")
    }

    #[tokio::test]
    async fn a_broken_promise_is_told_with_the_way_back_and_with_what_is_needed() {
        let seed = seed_with_a_pause();
        let line = format!("x --profile pauses --nodes 2 --seeds {seed}..{}", seed + 1);
        let (exit, out, err) = run_planted(&line, Format::Text).await;
        assert_eq!(exit, Exit::NotDone, "{out}");
        assert!(out.contains(&format!("seed {seed} (2 nodes, ")), "{out}");
        assert!(out.contains("simulated): P7: two owners\n"), "{out}");
        let replay = format!("again: dpc sim run --seed {seed} --profile pauses --nodes 2");
        assert!(out.contains(&format!("  {replay} --trace\n")), "{out}");
        assert!(out.contains("actions break it, all of them needed:\n"), "{out}");
        let shrunk = out.lines().rfind(|line| line.contains(&replay)).expect("told twice");
        assert!(shrunk.contains(" --only "), "{out}");
        assert!(out.contains("1 of 1 seeds broke a promise: "), "{out}");
        assert_eq!(err, "error: 1 of 1 seeds broke a promise [PROMISE_BROKEN]\n");

        // The one action that is left breaks it by itself; without it nothing is broken.
        let only =
            shrunk.rsplit_once("--only ").expect("it names actions").1.trim_end_matches(" --trace");
        assert!(only.parse::<usize>().is_ok(), "one action is enough: {only}");
        let line = format!("x --profile pauses --nodes 2 --seed {seed} --only ");
        let (exit, out, _) = run_planted(&format!("{line}{only}"), Format::Text).await;
        assert_eq!(exit, Exit::NotDone);
        assert!(out.contains("1 action, "), "{out}");
        let (exit, out, _) = run_planted(&format!("{line}none"), Format::Text).await;
        assert_eq!(exit, Exit::Done);
        assert!(out.contains("kept every promise"), "{out}");
    }

    #[tokio::test]
    async fn json_has_a_line_for_each_seed_in_order_and_a_summary() {
        let (exit, out, _) =
            run_planted("x --profile none --seeds 0..5 --jobs 2", Format::Json).await;
        assert_eq!(exit, Exit::Done);
        let lines: Vec<Value> =
            out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let seeds: Vec<_> = lines[..5].iter().map(|line| line["seed"].as_u64()).collect();
        assert_eq!(seeds, (0..5).map(Some).collect::<Vec<_>>());
        assert!(lines[..5].iter().all(|l| l["event"] == "seed" && l["kept"] == true), "{out}");
        let summary = &lines[5];
        assert_eq!((&summary["event"], &summary["seeds"]), (&"summary".into(), &5.into()));
        let sum = lines[..5].iter().filter_map(|line| line["events"].as_u64()).sum::<u64>();
        assert_eq!(summary["events"].as_u64(), Some(sum));
        assert!(summary["seeds_per_s"].is_number() && summary["coverage"]["hello"].is_number());
    }

    #[tokio::test]
    async fn a_panic_is_a_violation_of_its_seed_and_the_others_go_on() {
        let line = "x --seed 1 --profile none --only none";
        let (exit, out, _) = run_planted(line, Format::Json).await;
        assert_eq!(exit, Exit::NotDone);
        assert!(out.contains(r#""broken":"panic: nobody subscribes (runtime/src/cli"#), "{out}");
        let replay = r#""replay":"dpc sim run --seed 1 --profile none --only none""#;
        assert!(out.contains(replay), "{out}");
    }

    #[tokio::test]
    async fn numbers_out_of_range_are_refused_with_their_limit() {
        let cases = [
            ("--seeds 9..3", "--seeds", "A below B", "9..3"),
            ("--nodes 0", "--nodes", "1 to 64", "0"),
            ("--nodes 65", "--nodes", "1 to 64", "65"),
            ("--minutes 0", "--minutes", "1 to 10080", "0"),
            ("--jobs 9999", "--jobs", "1 to 1024", "9999"),
        ];
        for (flags, field, limit, given) in cases {
            let failure = refused(&format!("x {flags}")).await;
            let details = &failure.details;
            assert_eq!(failure.exit, Exit::Usage);
            assert_eq!(details.field.as_deref(), Some(field), "{flags}");
            assert_eq!(details.limit.as_deref(), Some(limit), "{flags}");
            assert_eq!(details.given.as_deref(), Some(given), "{flags}");
        }
        let failure = refused("x --seed 3 --only 3,99999").await;
        assert_eq!(failure.details.field.as_deref(), Some("--only"));
        assert!(failure.details.limit.is_some(), "{failure:?}");
    }
}
