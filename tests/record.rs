//! The flight recorder of real nodes: dumped under load, it replays to the same decisions.

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{Node, folder, wait_for};

/// A decision as both `trace` and `replay` tell it: record, step, who was chosen.
type Decided = (u64, String, Option<String>);

fn decided(line: &Value) -> Decided {
    let text = |key: &str| line[key].as_str().map(str::to_owned);
    let number = line["lane_number"].as_u64().expect("a record's number");
    (number, text("decision").expect("a step"), text("chosen"))
}

#[tokio::test]
async fn a_node_under_load_is_recorded_and_decides_the_same_again() {
    let folder = folder();
    let c = Node::start(folder.path(), "c", &[]);
    let b = Node::linked(folder.path(), "b", &[&c]);
    let to_b = b.ready.nodes.clone();
    let on = ["--peer", &to_b, "--set", "limits.recorder_bytes=64MiB"];
    let mut a = Node::start(folder.path(), "a", &on);
    a.json(&["push", "acme.Before", "--data", "known before the restart"]).await;
    assert_eq!(a.stop(), Some(0));
    a.start_again();

    // The load goes on while the recording is taken: pushed at a, settled at c, two links away.
    let load = async {
        let mut ids = Vec::new();
        for n in 0..60 {
            let data = format!("secret-{n}");
            let header = format!("key={data}");
            let push = ["push", "acme.Load", "--data", &data, "--header", &header];
            ids.push(a.json(&push).await[0]["id"].as_str().expect("an id").to_owned());
        }
        ids
    };
    let work = async { c.json(&["subscribe", "acme.Load", "--count", "60"]).await };
    let early = folder.path().join("early.dpcrec");
    let dump = async {
        wait_for("handoffs", async || (a.metric("dpc_objects_moved_total") > 5.0).then_some(()))
            .await;
        a.cli(&["record", "dump", early.to_str().expect("text")]).await
    };
    let (ids, worked, dumped) = tokio::join!(load, work, dump);
    assert_eq!((worked.len(), dumped.code), (60, Some(0)), "{dumped:?}");
    assert_eq!(replay(&early, &[]).await.0["different"], 0);

    let file = folder.path().join("a.dpcrec");
    let dumped = a.json(&["record", "dump", file.to_str().expect("text")]).await;
    let bytes = std::fs::read(&file).expect("it was written");
    assert_eq!(dumped[0]["bytes"], bytes.len());
    let secret = b"secret-";
    assert!(!bytes.windows(secret.len()).any(|w| w == secret), "what clients carry stays out");

    let (summary, calls) = replay(&file, &[]).await;
    assert_eq!(summary["different"], 0, "{summary}");
    assert_eq!((&summary["node"], &summary["event"]), (&"a".into(), &"replayed".into()));
    assert!(summary["records"].as_u64() > Some(60), "{summary}");

    // What the node itself says of an object's way is what the replay has decided.
    let mut compared = 0;
    for id in &ids {
        let trace = a.json(&["object", "trace", id, "--local"]).await;
        let said: BTreeSet<Decided> = trace.iter().map(decided).collect();
        let again: BTreeSet<Decided> = calls
            .iter()
            .flat_map(|call| call["decisions"].as_array().into_iter().flatten())
            .filter(|d| d["objects"].as_array().is_some_and(|o| o.contains(&id.as_str().into())))
            .map(decided)
            .collect();
        assert!(!said.is_empty() && said == again, "{id}: {said:?} and {again:?}");
        compared += said.len();
    }
    assert!(compared >= 60, "each object was pushed and moved on");

    // With one hop at most, nothing could have gone to c.
    let (what_if, calls) = replay(&file, &["--set", "max_hops=1"]).await;
    assert!(what_if["different"].as_u64() > Some(0), "{what_if}");
    let offers = |call: &&Value| call.to_string().contains("Offer");
    assert_eq!(calls.iter().find(offers), None);
}

#[tokio::test]
async fn what_cannot_be_dumped_or_replayed_says_why() {
    let folder = folder();
    let off = Node::start(folder.path(), "off", &["--set", "limits.recorder_bytes=0B"]);
    let path = folder.path().join("none.dpcrec");
    let file = path.to_str().expect("text");
    let refused = off.cli(&["record", "dump", file, "-o", "json"]).await;
    assert_eq!((refused.code, &refused.error()["reason"]), (Some(1), &"RECORDER_OFF".into()));
    assert!(!path.exists(), "no file where there is no recording");
    std::fs::write(&path, "something else").expect("writes");
    for (arguments, reason) in [
        (["record", "dump", file, "-o", "json"], "FILE_EXISTS"),
        (["sim", "replay", file, "-o", "json"], "NOT_A_RECORDING"),
    ] {
        let ran = support::cli(&arguments).await;
        assert_eq!((ran.code, &ran.error()["reason"]), (Some(1), &reason.into()), "{ran:?}");
    }
}

/// The summary of a replay, and its calls.
async fn replay(file: &std::path::Path, more: &[&str]) -> (Value, Vec<Value>) {
    let file = file.to_str().expect("text");
    let arguments = [&["sim", "replay", file, "-o", "json"], more].concat();
    let ran = support::cli(&arguments).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut lines = ran.lines();
    (lines.pop().expect("a summary"), lines)
}
