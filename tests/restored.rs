//! A copy of a data folder that comes back: its peer refuses it, and `--restored` gives it a new
//! lane with the same objects, flagged as possible duplicates (R4).

mod support;

use support::{Node, folder, wait_for};

#[tokio::test]
async fn a_restored_copy_is_refused_until_it_gets_a_new_lane() {
    let folder = folder();
    let a = Node::start(folder.path(), "a", &[]);
    let mut b = Node::linked(folder.path(), "b", &[&a]);
    let pushed = b.json(&["push", "type.Kept", "--data", "kept"]).await;
    let id = pushed[0]["id"].as_str().expect("an id").to_owned();
    let parked = b.json(&["push", "type.Parked", "--data", "parked"]).await;
    let parked_id = parked[0]["id"].as_str().expect("an id").to_owned();
    let reject = ["subscribe", "type.Parked", "--count", "1", "--settle", "reject"];
    b.json(&reject).await;
    assert_eq!(b.stop(), Some(0));

    // The backup is taken here; the node goes on, and its peer sees it go on.
    let data = folder.path().join("b");
    let backup = folder.path().join("backup");
    copy(&data, &backup);
    b.start_again();
    b.json(&["push", "type.Later", "--data", "later"]).await;
    let lane = b.ready.lane.clone();
    wait_for("b linked", async || linked(&a, "b").await.then_some(())).await;
    assert_eq!(b.stop(), Some(0));
    b.start_again();
    wait_for("b linked again", async || linked(&a, "b").await.then_some(())).await;
    assert_eq!(b.stop(), Some(0));

    // The backup comes back under the old lane: refused on both sides, nothing moves.
    std::fs::remove_dir_all(&data).expect("the old folder is there");
    std::fs::rename(&backup, &data).expect("the backup is there");
    b.start_again();
    // Nothing waits at a, so its only alarm is about the lane.
    wait_for("the alarm", async || (a.metric("dpc_alarm") > 0.0).then_some(())).await;
    assert!(!linked(&a, "b").await);
    assert_eq!(b.stop(), Some(0));

    // With a new lane it is welcome, and everything alive in it is there.
    let port = a.ready.nodes.clone();
    let b = Node::start(folder.path(), "b", &["--restored", "--peer", &port]);
    assert_ne!(b.ready.lane, lane);
    wait_for("the new lane is linked", async || linked(&a, "b").await.then_some(())).await;
    let view = b.json(&["object", "get", &parked_id, "--local"]).await;
    assert_eq!(view[0]["state"], "parked", "{view:?}");
    let taken = a.json(&["subscribe", "type.Kept", "--count", "1"]).await;
    assert_eq!(taken[0]["id"], id.as_str());
    assert_eq!(taken[0]["data"], "kept");
}

async fn linked(node: &Node, peer: &str) -> bool {
    let nodes = node.json(&["node", "ls"]).await;
    nodes.iter().any(|n| n["node"] == peer && n["link"] == "up")
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).expect("a new folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a kind").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}
