//! One node: ids that only the index on its disk knows.

use std::path::{Path, PathBuf};

use dpc_core::Limits;
use dpc_proto::v1;

use super::TestNode;
use super::harness::{TestSession, object, start_with, until};

/// Objects that end, and ids of one part of the log.
const OBJECTS: u64 = 40;
const PART_IDS: usize = 16;

fn id(n: u64) -> String {
    uuid::Uuid::from_u64_pair(0x0190_0000_0000_7000, 0x8000_0000_0000_0000 | n).to_string()
}

async fn push(node: &TestNode, id: String) -> Result<v1::PushStatus, tonic::Status> {
    let object = v1::Object { id, ..object("acme.Order", "one") };
    let pushed = node.cloud().await.push(v1::PushRequest { objects: vec![object] }).await?;
    Ok(pushed.into_inner().ok[0].status())
}

fn files(index: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(index).expect("a folder");
    let files = listed.map(|entry| entry.expect("an entry").path());
    files.filter(|file| file.extension().is_some_and(|it| it == "ids")).collect()
}

/// Flips a bit of the ids in each file, behind what an open reads.
fn damage(index: &Path) {
    for file in files(index) {
        let mut bytes = std::fs::read(&file).expect("there");
        let at = bytes.len() - 20;
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).expect("written");
    }
}

/// A node whose index holds the ids of some parts.
async fn started(dir: &Path) -> TestNode {
    let limits = Limits { part_ids: PART_IDS, ..Limits::default() };
    let node = start_with("a", dir, &[], "127.0.0.1:0", limits).await;
    let mut session = TestSession::open(&node).await;
    session.subscribe("acme.*").await;
    for n in 0..OBJECTS {
        assert_eq!(push(&node, id(n)).await.expect("stored"), v1::PushStatus::Stored);
        let delivery = session.delivery().await;
        session.finalise(delivery.lease).await.expect("settles");
    }
    let index = dir.join("index");
    until("two parts are in the index", async || files(&index).len() >= 2).await;
    node
}

#[tokio::test]
async fn ids_that_the_index_has_lost_are_read_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    let node = started(dir.path()).await;
    for round in 0..2 {
        let before = files(&index).len();
        damage(&index);
        for n in [0, 1, PART_IDS as u64 + 1] {
            let known = push(&node, id(n)).await.expect("the node goes on");
            assert_eq!(known, v1::PushStatus::AlreadyExists, "object {n}, round {round}");
        }
        until("they are written again", async || files(&index).len() == before).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn an_index_that_cannot_be_written_costs_time_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    let node = started(dir.path()).await;
    std::fs::remove_dir_all(&index).expect("there");
    std::fs::write(&index, "a file where the folder was").expect("written");
    for n in [0, 1, PART_IDS as u64 + 1, 0] {
        let known = push(&node, id(n)).await.expect("the node goes on");
        assert_eq!(known, v1::PushStatus::AlreadyExists, "object {n}");
    }
    node.stop().await;
}
