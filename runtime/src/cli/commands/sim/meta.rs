//! `dpc sim meta`: one seed in two processes that start at different seconds, compared line by line
//! while they run, so that neither story is ever held as a whole. Another seed has to tell another
//! story. While this fails, nothing else that the simulator says means anything.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use sim::swarm::Profile;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Progress;

/// So far apart the two processes start: whatever looks at a clock sees another second.
const APART: Duration = Duration::from_millis(1_100);

/// Lines before the first difference that are shown.
const CONTEXT_LINES: usize = 3;

/// Compares a seed with itself.
#[derive(Debug, clap::Args)]
pub(crate) struct MetaArgs {
    /// The seed.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// The kinds of faults, as in `dpc sim run`.
    #[arg(long, value_name = "P", default_value_t = Profile::All)]
    profile: Profile,
}

#[derive(Serialize)]
struct Line<'a> {
    seed: u64,
    same: bool,
    lines: u64,
    other_differs: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<&'a Difference>,
}

/// The first line in which two stories part.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Difference {
    line: u64,
    before: Vec<String>,
    first: String,
    second: String,
}

/// What a comparison found.
#[derive(Debug, PartialEq, Eq)]
struct Compared {
    lines: u64,
    difference: Option<Difference>,
    /// Of the first story.
    hash: blake3::Hash,
}

pub(super) async fn run(args: &MetaArgs, output: &mut Output) -> Result<Exit, Failure> {
    let Some(other) = args.seed.checked_add(1).filter(|other| *other < u64::MAX) else {
        return Err(Failure::usage(format!("--seed {} is too high", args.seed))
            .field("--seed")
            .limit(u64::MAX - 2)
            .given(args.seed.to_string()));
    };
    tokio::select! {
        biased;
        _stop = tokio::signal::ctrl_c() => {
            output.note("interrupted: the comparison was not finished");
            Ok(Exit::Interrupted)
        }
        told = compare(args, other, output) => told,
    }
}

async fn compare(args: &MetaArgs, other: u64, output: &mut Output) -> Result<Exit, Failure> {
    let mut first = Story::begin(args.seed, args.profile)?;
    tokio::time::sleep(APART).await;
    let mut second = Story::begin(args.seed, args.profile)?;
    let mut progress = Progress::new("lines compared", None);
    let compared =
        in_lockstep(&mut first.text, &mut second.text, || progress.advance(1, output)).await?;
    progress.finish(output);
    if compared.difference.is_none() {
        first.end().await?;
        second.end().await?;
    }
    let mut third = Story::begin(other, args.profile)?;
    let hash = hash_of(&mut third.text).await?;
    third.end().await?;
    tell(args.seed, other, &compared, compared.hash != hash, output)
}

fn tell(
    seed: u64,
    other: u64,
    compared: &Compared,
    other_differs: bool,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let Compared { lines, difference, .. } = compared;
    let (lines, same) = (*lines, difference.is_none());
    if output.is_json() {
        let difference = difference.as_ref();
        output.json(&Line { seed, same, lines, other_differs, difference })?;
    } else if let Some(difference) = difference {
        output.text(&format!("seed {seed} tells two stories; they part in line {}:", lines))?;
        difference.before.iter().try_for_each(|line| output.text(&format!("    {line}")))?;
        output.text(&format!("  1 {}", difference.first))?;
        output.text(&format!("  2 {}", difference.second))?;
    } else {
        output.text(&format!("seed {seed}: {lines} lines, the same in two processes"))?;
        let verb = if other_differs { "tells another story" } else { "tells the same story" };
        output.text(&format!("seed {other} {verb}"))?;
    }
    let failed = |reason: &str, message: String| {
        Err(Failure::new(Exit::NotDone, "FAILED_PRECONDITION", reason, message))
    };
    if !same {
        return failed("NOT_DETERMINISTIC", format!("seed {seed} is not the same twice"));
    }
    if !other_differs {
        return failed("SEED_IGNORED", format!("seeds {seed} and {other} are the same"));
    }
    Ok(Exit::Done)
}

/// A process that tells the story of a seed.
struct Story {
    process: Child,
    text: BufReader<ChildStdout>,
}

impl Story {
    fn begin(seed: u64, profile: Profile) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        let (seed, profile) = (seed.to_string(), profile.to_string());
        let mut process = Command::new(program)
            .args(["sim", "run", "--trace", "--seed", &seed, "--profile", &profile])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let text = BufReader::new(process.stdout.take().expect("it is a pipe"));
        Ok(Self { process, text })
    }

    /// Waits for its end. A seed that breaks a promise is as good as another one here.
    async fn end(mut self) -> Result<(), Failure> {
        let status = self.process.wait().await?;
        if matches!(status.code(), Some(0 | 1)) {
            return Ok(());
        }
        let what = format!("a process of the comparison ended with {status}");
        Err(Failure::local("CHILD_FAILED", what))
    }
}

/// Reads two stories side by side up to their end or to the first line in which they part.
async fn in_lockstep(
    first: &mut (impl AsyncBufReadExt + Unpin),
    second: &mut (impl AsyncBufReadExt + Unpin),
    mut each: impl FnMut(),
) -> Result<Compared, Failure> {
    let (mut a, mut b, mut lines) = (Vec::new(), Vec::new(), 0);
    let mut before = VecDeque::with_capacity(CONTEXT_LINES);
    let mut hasher = blake3::Hasher::new();
    loop {
        a.clear();
        b.clear();
        first.read_until(b'\n', &mut a).await?;
        second.read_until(b'\n', &mut b).await?;
        if a.is_empty() && b.is_empty() {
            return Ok(Compared { lines, difference: None, hash: hasher.finalize() });
        }
        lines += 1;
        hasher.update(&a);
        if a != b {
            let before = before.into_iter().collect();
            let (first, second) = (shown(&a), shown(&b));
            let difference = Some(Difference { line: lines, before, first, second });
            return Ok(Compared { lines, difference, hash: hasher.finalize() });
        }
        if before.len() == CONTEXT_LINES {
            before.pop_front();
        }
        before.push_back(shown(&a));
        each();
    }
}

async fn hash_of(text: &mut (impl AsyncBufReadExt + Unpin)) -> Result<blake3::Hash, Failure> {
    let (mut line, mut hasher) = (Vec::new(), blake3::Hasher::new());
    while text.read_until(b'\n', &mut line).await? > 0 {
        hasher.update(&line);
        line.clear();
    }
    Ok(hasher.finalize())
}

fn shown(line: &[u8]) -> String {
    if line.is_empty() {
        return "(the end)".to_owned();
    }
    String::from_utf8_lossy(line).trim_end_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, captured};

    async fn compared(a: &str, b: &str) -> Compared {
        in_lockstep(&mut a.as_bytes(), &mut b.as_bytes(), || ()).await.expect("memory can be read")
    }

    #[tokio::test]
    async fn stories_are_compared_line_by_line_and_the_first_difference_is_shown() {
        let story = "one\ntwo\nthree\nfour\nfive\n";
        let same = compared(story, story).await;
        assert_eq!((same.lines, &same.difference), (5, &None));
        assert_eq!(same.hash, hash_of(&mut story.as_bytes()).await.expect("read"));
        let parts = compared(story, "one\ntwo\nthree\nfour\nsix\n").await;
        let difference = Difference {
            line: 5,
            before: ["two", "three", "four"].map(str::to_owned).to_vec(),
            first: "five".to_owned(),
            second: "six".to_owned(),
        };
        assert_eq!(parts.difference, Some(difference));
        let shorter = compared(story, "one\ntwo\n").await.difference.expect("they differ");
        assert_eq!((shorter.line, shorter.second.as_str()), (3, "(the end)"));
        let line_end = compared("one\n", "one").await;
        assert!(line_end.difference.is_some(), "a lost line end is a difference");
    }

    #[tokio::test]
    async fn each_outcome_has_its_words_and_its_exit() {
        let (same, parts) = (compared("a\n", "a\n").await, compared("a\nb\n", "a\nc\n").await);
        let (mut output, out, _) = captured::output(Format::Text);
        assert_eq!(tell(1, 2, &same, true, &mut output), Ok(Exit::Done));
        let failure = tell(1, 2, &same, false, &mut output).expect_err("a seed must matter");
        assert_eq!((failure.exit, failure.reason.as_str()), (Exit::NotDone, "SEED_IGNORED"));
        let failure = tell(1, 2, &parts, true, &mut output).expect_err("they differ");
        assert_eq!((failure.exit, failure.reason.as_str()), (Exit::NotDone, "NOT_DETERMINISTIC"));
        assert_eq!(
            out.text(),
            "seed 1: 1 lines, the same in two processes\nseed 2 tells another story\n\
             seed 1: 1 lines, the same in two processes\nseed 2 tells the same story\n\
             seed 1 tells two stories; they part in line 2:\n    a\n  1 b\n  2 c\n"
        );
        let (mut output, out, _) = captured::output(Format::Json);
        tell(1, 2, &parts, true, &mut output).expect_err("they differ");
        assert_eq!(
            out.text(),
            "{\"seed\":1,\"same\":false,\"lines\":2,\"other_differs\":true,\"difference\":\
             {\"line\":2,\"before\":[\"a\"],\"first\":\"b\",\"second\":\"c\"}}\n"
        );
    }
}
