//! `dpc demo` as a person runs it.

mod support;

use std::path::Path;
use std::process::Stdio;

use rand_core::Rng;
use rustix::process::{Pid, Signal, kill_process};
use support::{cli, command, ended, folder, wait_for};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn the_story_is_told_and_ends_well() {
    let ran = cli(&["demo"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for words in ["push ", "why ", "waits for demand", "handoff ", "delivery ", "settled "] {
        assert!(ran.stdout.contains(words), "no {words:?} in:\n{}", ran.stdout);
    }
    assert!(ran.stdout.contains("All 6 objects were handed over, delivered once and finalised."));
    assert!(ran.stdout.contains("What to try next"));
}

#[tokio::test]
async fn a_line_of_three_hands_everything_over_twice() {
    let ran = cli(&["demo", "--nodes", "3"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout.matches("a > b > c").count(), 3, "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("c > b > a").count(), 3, "{}", ran.stdout);
}

#[tokio::test]
async fn kept_nodes_answer_and_go_with_ctrl_c() {
    let mut child = command(&["demo", "--keep", "-o", "json"]).spawn().expect("dpc demo starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
    let kept = loop {
        let line = lines.next_line().await.expect("UTF-8").expect("it keeps its nodes");
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if line["event"] == "keep" {
            break line["text"].as_str().expect("text").to_owned();
        }
    };
    let address = kept.split("--node ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let address = address.expect("it says how to talk to the nodes");
    let ran = cli(&["node", "ls", "--node", address, "-o", "json"]).await;
    assert_eq!((ran.code, ran.lines().len()), (Some(0), 2), "{}", ran.stderr);
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    kill_process(pid.expect("it runs"), Signal::INT).expect("it runs");
    let ran = ended(child).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // The node is gone, and so is its port.
    wait_for("the port to be closed", async || std::net::TcpStream::connect(address).err()).await;
}

#[tokio::test]
async fn a_made_history_agrees_with_git_to_the_line() {
    let seed = support::random().next_u64();
    let folder = folder();
    let repo = folder.path().join("repo");
    let made = support::history::make(&repo, seed, 5_000);
    println!("history seed {seed}: {made:?}");
    assert!(made.merges > 100 && made.renames > 50 && made.binaries > 100, "{made:?}");
    agrees(&repo, "agrees with git to the line: 5000 commits").await;
}

#[tokio::test]
async fn this_repository_agrees_with_git_to_the_line() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let head = ["rev-parse", "--verify", "--quiet", "HEAD"];
    let mut git = std::process::Command::new("git");
    git.arg("-C").arg(&here).args(head).stdout(Stdio::null());
    if !git.status().expect("git runs").success() {
        println!("SKIPPED: this is no git repository with a history");
        return;
    }
    agrees(&here, "agrees with git to the line: ").await;
}

async fn agrees(repo: &Path, words: &str) {
    let ran = cli(&["demo", "--repo", repo.to_str().expect("a path in UTF-8")]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains(words), "no {words:?} in:\n{}", ran.stdout);
    println!("{}", ran.stdout.lines().find(|line| line.starts_with("Done in")).unwrap_or_default());
}

#[tokio::test]
async fn what_is_no_repository_is_said_before_anything_starts() {
    let folder = folder();
    let ran = cli(&["demo", "--repo", folder.path().to_str().expect("UTF-8"), "-o", "json"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(ran.error()["field"], "--repo");
}
