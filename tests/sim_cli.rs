//! `dpc sim` as people and scripts use it: the promises in a simulated world, without any node.

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{cli, command, ended};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn seeds_are_run_and_summed_up() {
    let ran = cli(&["sim", "run", "--seeds", "0..6"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stderr, "", "no progress when piped");
    assert!(ran.stdout.contains("\n6 seeds kept every promise: "), "{}", ran.stdout);
    assert!(ran.stdout.contains(" times faster than real time\n"), "{}", ran.stdout);
    assert!(ran.stdout.contains("\nhandoff taken "), "the table of coverage: {}", ran.stdout);
}

#[tokio::test]
async fn one_seed_tells_the_same_story_again_and_another_one_another() {
    let story = async |seed: &str| {
        let ran = cli(&["sim", "run", "--seed", seed, "--trace"]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stdout
    };
    let (first, again, other) = (story("4").await, story("4").await, story("5").await);
    assert!(first == again, "the same seed, the same words");
    assert!(first != other, "another seed, other words");
    assert!(first.lines().count() > 200, "{first}");
    assert!(first.contains("seed 4 (") && first.contains(") kept every promise\n"), "{first}");
}

#[tokio::test]
async fn a_part_of_a_seed_is_run_by_the_numbers_of_its_actions() {
    let run = async |only: &str| {
        let ran = cli(&["sim", "run", "--seed", "4", "--only", only, "-o", "json"]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.lines().remove(0)
    };
    let (some, none) = (run("0..10,12").await, run("none").await);
    assert_eq!((&some["actions"], &none["actions"]), (&11.into(), &0.into()));
    assert!(some["events"].as_u64() > none["events"].as_u64(), "{some} {none}");
}

#[tokio::test]
async fn a_seed_is_the_same_in_two_processes_in_different_seconds() {
    let ran = cli(&["sim", "meta", "--seed", "4", "-o", "json"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let line = &ran.lines()[0];
    assert_eq!((&line["same"], &line["other_differs"]), (&true.into(), &true.into()), "{line}");
    assert!(line["lines"].as_u64().is_some_and(|lines| lines > 200), "{line}");
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_field_and_limit() {
    let refused = async |arguments: &[&str]| {
        let mut all = vec!["sim", "run", "-o", "json"];
        all.extend(arguments);
        let ran = cli(&all).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
        ran.error()
    };
    let error = refused(&["--seeds", "9..3"]).await;
    assert_eq!((&error["field"], &error["given"]), (&"--seeds".into(), &"9..3".into()), "{error}");
    assert_eq!(error["limit"], "A below B", "{error}");
    let error = refused(&["--nodes", "65"]).await;
    assert_eq!((&error["field"], &error["limit"]), (&"--nodes".into(), &"1 to 64".into()));
    let error = refused(&["--profile", "fire"]).await;
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("partitions"), "the profiles that there are: {error}");
}

#[tokio::test]
async fn ctrl_c_ends_with_the_summary() {
    let run = ["sim", "run", "--minutes", "10", "-o", "json"];
    let mut child = command(&run).spawn().expect("dpc runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = lines.next_line().await.expect("readable").expect("a seed has ended");
    assert!(first.contains(r#""event":"seed""#), "{first}");
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    kill_process(pid.expect("it runs"), Signal::INT).expect("it runs");
    let mut last = first;
    while let Some(line) = lines.next_line().await.expect("readable") {
        last = line;
    }
    let ran = ended(child).await;
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(ran.stderr.starts_with("interrupted: "), "{}", ran.stderr);
    let summary: Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!((&summary["event"], &summary["interrupted"]), (&"summary".into(), &true.into()));
    assert!(summary["seeds"].as_u64().is_some_and(|seeds| seeds > 0), "{summary}");
}
