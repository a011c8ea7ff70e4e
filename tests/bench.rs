//! `dpc bench` as people and scripts use it. What a figure is worth is not asserted, only that it is
//! measured, and what was measured with it.

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::postgres::Postgres;
use support::{cli, command, ended, wait_for};
use tokio::io::{AsyncBufReadExt, BufReader};

/// A short run of some figures: its lines.
async fn measured(figures: &[&str], options: &[&str]) -> Vec<Value> {
    let ran = cli(&[&["bench", "-o", "json"], figures, options].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.lines()
}

fn of<'a>(lines: &'a [Value], figure: &str) -> &'a Value {
    let found = lines.iter().find(|line| line["figure"] == figure);
    found.unwrap_or_else(|| panic!("no {figure} in {lines:?}"))
}

fn value(lines: &[Value], figure: &str) -> f64 {
    of(lines, figure)["value"].as_f64().expect("a number")
}

#[tokio::test]
async fn every_rate_comes_with_its_durability_and_its_cost() {
    let figures = ["push", "drain", "e2e", "move", "core"];
    let lines = measured(&figures, &["--objects", "3000", "--types", "3"]).await;
    for figure in figures {
        assert!(value(&lines, figure) > 0.0, "{figure}");
        let params = &of(&lines, figure)["params"];
        assert_eq!((&params["size"], &params["types"]), (&200.into(), &3.into()), "{params}");
        let durable = if figure == "core" { Value::Null } else { "synced".into() };
        assert_eq!(params["durability"], durable, "{params}");
    }
    assert_eq!(of(&lines, "move")["params"]["nodes"], 2);
    assert_eq!(of(&lines, "core")["unit"], "transitions/s");
    if cfg!(target_os = "linux") {
        assert!(value(&lines, "e2e.cpu_node") > 0.0 && value(&lines, "e2e.cpu_client") > 0.0);
        assert!(value(&lines, "push.written") > 200.0, "at least the payload was written");
    }
}

/// More than one page of a queue, and more than all offers of a link may hold at once.
#[tokio::test]
async fn a_backlog_of_many_pages_moves_whole() {
    let lines = measured(&["move"], &["--objects", "20000", "--size", "16"]).await;
    assert_eq!(of(&lines, "move")["params"]["objects"], 20_000);
}

#[tokio::test]
async fn waits_are_told_as_quantiles_and_a_backlog_by_what_it_holds() {
    let options = ["--for", "1s", "--rate", "200", "--objects", "2000", "--nodes", "2"];
    let lines = measured(&["move-latency", "fill"], &options).await;
    let [p50, p99] = ["move-latency.p50", "move-latency.p99"].map(|name| value(&lines, name));
    assert!(0.0 < p50 && p50 <= p99, "{lines:?}");
    assert_eq!(of(&lines, "move-latency.p50")["params"]["rate"], 200);
    assert!(value(&lines, "fill.disk") > 200.0, "{lines:?}");
}

/// In one run, as they are compared; a figure does not work on what an earlier one has left.
#[tokio::test]
async fn nodes_over_a_database_are_measured_beside_its_driver() {
    let Some(server) = Postgres::start() else { return };
    let url = format!("store.url={}", server.url);
    let options = ["--store", "postgres", "--set", &url, "--objects", "3000"];
    let lines = measured(&["driver", "push", "e2e"], &options).await;
    for (figure, durable) in
        [("driver", Value::Null), ("push", "committed".into()), ("e2e", "committed".into())]
    {
        assert!(value(&lines, figure) > 0.0, "{figure}");
        assert_eq!(of(&lines, figure)["params"]["durability"], durable, "{figure}");
    }
    // Batches are whole, of 256 KiB.
    assert_eq!(of(&lines, "driver")["params"]["objects"], 3 * (262_144 / 200));
}

#[tokio::test]
async fn a_signal_ends_the_bench_and_its_nodes() {
    let arguments = ["bench", "latency", "push", "--for", "600s", "--set", "node_name=here"];
    let mut child = command(&arguments).spawn().expect("dpc bench starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
    let first = lines.next_line().await.expect("UTF-8").expect("it says what it does");
    assert!(first.contains("objects of 200 B"), "{first}");
    let bench = child.id().expect("it runs");
    let node = wait_for("its node", async || child_of(bench)).await;
    kill_process(pid(bench), Signal::TERM).expect("it runs");
    let ran = ended(child).await;
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert!(ran.stderr.contains("interrupted in figure latency"), "{}", ran.stderr);
    assert!(rustix::process::test_kill_process(pid(node)).is_err(), "its node has ended");
}

fn pid(id: u32) -> Pid {
    i32::try_from(id).ok().and_then(Pid::from_raw).expect("a process")
}

/// A process that another one has started.
fn child_of(parent: u32) -> Option<u32> {
    let of = |entry: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let after = stat[stat.rfind(')')? + 2..].split_whitespace().nth(1)?.parse::<u32>().ok()?;
        (after == parent).then(|| entry.file_name().to_str()?.parse().ok())?
    };
    std::fs::read_dir("/proc").ok()?.flatten().find_map(of)
}

#[tokio::test]
async fn what_cannot_be_measured_is_refused() {
    let ran = cli(&["bench", "speed"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("push, drain, e2e"), "{}", ran.stderr);
    let ran = cli(&["bench", "push", "--node", "127.0.0.1:1"]).await;
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    let ran = cli(&["bench", "driver"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("--store postgres"), "{}", ran.stderr);
    let ran = cli(&["bench", "push", "--store", "stone"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("store.kind"), "{}", ran.stderr);
}
