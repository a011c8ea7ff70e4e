//! The contract's suite, and what only a real folder can show.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use dpc_core::record::{Header, seal};
use dpc_core::time::Wall;
use sim::contract::{self, Harness};
use tempfile::TempDir;

use super::*;

struct Folders {
    dir: TempDir,
    lane: LaneId,
}

impl Folders {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let (_, lane) = Embedded::open(dir.path(), &small()).expect("a new folder opens");
        Self { dir, lane }
    }
}

/// Small segments, so that a test fills several.
fn small() -> Options {
    Options { segment_bytes: 64 << 10 }
}

impl Harness for Folders {
    type Store = Embedded;

    fn lane(&self) -> LaneId {
        self.lane
    }

    fn open(&mut self) -> Result<Embedded, StoreError> {
        let (store, lane) = Embedded::open(self.dir.path(), &small())?;
        assert_eq!(lane, self.lane, "a folder keeps its lane");
        Ok(store)
    }

    fn wait<T>(&mut self, _store: &mut Embedded, answer: &Receiver<T>) -> T {
        answer.recv_timeout(Duration::from_secs(60)).expect("an answer comes")
    }
}

#[test]
fn the_embedded_store_keeps_the_contract() {
    contract::check(1, |_| Folders::new());
}

fn refusal(path: &Path) -> String {
    match Embedded::open(path, &small()) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(StoreError::Refused(text)) => text,
        Err(other) => panic!("refused as {other:?}"),
    }
}

#[test]
fn folders_that_cannot_be_used_are_refused() {
    let folders = Folders::new();
    let path = folders.dir.path();
    let (store, _) = Embedded::open(path, &small()).unwrap();
    let text = refusal(path);
    let pid = std::process::id();
    assert!(
        text.ends_with(&format!("is locked by another process (pid {pid}): stop it first")),
        "{text}"
    );
    drop(store);

    let format = path.join("FORMAT");
    let good = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, good.replace("format 2", "format 3")).unwrap();
    let text = refusal(path);
    assert!(text.contains("format 3") && text.contains("newer dpc"), "{text}");

    let (body, _) = good.rsplit_once("check ").unwrap();
    let body = body.replace("format 2", "format 1");
    let check = blake3::hash(body.as_bytes()).to_hex();
    std::fs::write(&format, format!("{body}check {check}\n")).unwrap();
    let text = refusal(path);
    assert!(text.contains("format 1") && text.contains("`dpc store export`"), "{text}");

    std::fs::remove_file(&format).unwrap();
    let missing = Embedded::open(path, &small()).err().unwrap();
    assert!(matches!(missing, StoreError::Damaged { .. }), "{missing:?}");
    std::fs::write(&format, good).unwrap();
    Embedded::open(path, &small()).unwrap();

    let text = refusal(&format.join("below-a-file"));
    assert!(text.contains("cannot be opened for writing"), "{text}");
}

#[test]
fn a_folder_that_was_never_finished_is_made_anew() {
    let folders = Folders::new();
    let path = folders.dir.path();
    std::fs::rename(path.join("FORMAT"), path.join("FORMAT.new")).unwrap();
    std::fs::write(path.join("HEAD"), "half").unwrap();
    let (_, lane) = Embedded::open(path, &small()).unwrap();
    assert_ne!(lane, folders.lane);
}

fn ask<T: Send + 'static>(store: &mut Embedded, request: impl FnOnce(&mut Embedded, Done<T>)) -> T {
    let (tx, rx) = std::sync::mpsc::channel();
    request(store, Box::new(move |answer| tx.send(answer).expect("someone waits")));
    rx.recv_timeout(Duration::from_secs(60)).expect("an answer comes")
}

fn fill(store: &mut Embedded, lane: LaneId, records: u64, body: usize) {
    let mut claimed = ask(store, |store, done| store.claim(done)).unwrap();
    extend(store, lane, &mut claimed, records, body);
}

/// Appends to a log that was claimed, and keeps its end.
fn extend(store: &mut Embedded, lane: LaneId, claimed: &mut Claimed, records: u64, body: usize) {
    for number in (claimed.last.0 + 1..).take(usize::try_from(records).unwrap()) {
        let header = Header {
            lane,
            epoch: claimed.epoch,
            number: RecordNumber(number),
            wall: Wall(0),
            previous: claimed.last_hash,
            checkpoint: RecordNumber(0),
            entries: 0,
        };
        let mut bytes = vec![0; body];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let record = seal(&header, &bytes);
        (claimed.last, claimed.last_hash) = (RecordNumber(number), hash_of(&record));
        let answer = ask(store, |store, done| {
            store.append(claimed.epoch, RecordNumber(number), record, done);
        });
        assert_eq!(answer, Appended::Committed);
    }
}

/// The log as a process that was killed leaves it: copied while the store is open.
#[test]
fn a_killed_process_leaves_a_log_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, lane) = Embedded::open(dir.path(), &Options::default()).unwrap();
    fill(&mut store, lane, 50, 10_000);
    let copy = tempfile::tempdir().unwrap();
    copy_folder(dir.path(), copy.path());
    let (mut killed, _) = Embedded::open(copy.path(), &small()).unwrap();
    let claimed = ask(&mut killed, |store, done| store.claim(done)).unwrap();
    assert_eq!(claimed.last, RecordNumber(50));
}

/// Found by `tests/chaos/run kill`: the process died when a record was acknowledged whose HEAD was
/// still on its way, and the next one was in the log; the folder was refused as damaged.
#[test]
fn a_killed_process_may_leave_two_records_behind_head() {
    for (behind, torn, good) in [(2, false, true), (3, false, false), (3, true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, lane) = Embedded::open(dir.path(), &Options::default()).unwrap();
        let mut claimed = ask(&mut store, |store, done| store.claim(done)).unwrap();
        extend(&mut store, lane, &mut claimed, 50, 100);
        let head = dir.path().join("HEAD");
        while Head::read(&head, lane).map_or(RecordNumber(0), |f| f.head.last) < claimed.last {
            std::thread::yield_now();
        }
        let mut head = std::fs::read(&head).unwrap();
        if torn {
            // The slot that is not the newest: the next write would have gone there.
            let older = if slot_sequence(&head, 0) < slot_sequence(&head, 1) { 0 } else { 4096 };
            head[older + 100] ^= 1;
        }
        extend(&mut store, lane, &mut claimed, behind, 100);
        let copy = tempfile::tempdir().unwrap();
        copy_folder(dir.path(), copy.path());
        std::fs::write(copy.path().join("HEAD"), head).unwrap();
        let (mut killed, _) = Embedded::open(copy.path(), &small()).unwrap();
        let found = ask(&mut killed, |store, done| store.claim(done));
        match found {
            Ok(found) => assert!(good && found.last == claimed.last, "{behind}: {found:?}"),
            Err(error) => {
                let text = error.to_string();
                assert!(!good && text.contains("3 records behind HEAD"), "{behind}: {text}");
            }
        }
    }
}

fn slot_sequence(head: &[u8], slot: usize) -> u64 {
    let at = slot * 4096 + 8;
    u64::from_le_bytes(head[at..at + 8].try_into().unwrap())
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}
