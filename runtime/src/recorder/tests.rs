use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use dpc_core::ids::{Epoch, Incarnation, LaneId, ObjectId, RecordNumber, RequestId};
use dpc_core::input::ReplyTo;
use dpc_core::message::Protocols;
use dpc_core::names::{Name, TypeName};
use dpc_core::object::{Entity, Headers, Push};
use dpc_core::recording::{Agreement, Played, Replay};
use dpc_core::store::Claimed;
use dpc_core::time::{Mono, Wall};
use dpc_core::{Effects, Limits, Settings};

use super::*;
use crate::cli::VERSION;

/// A core on the record, as the driver has it.
struct Bench {
    core: Core,
    recorder: Recorder,
    handle: RecorderHandle,
    at: u64,
}

impl Bench {
    fn new(dir: &Path, bytes: u64) -> Self {
        Self::with_reserve(dir, bytes, 0)
    }

    fn with_reserve(dir: &Path, bytes: u64, reserve: u64) -> Self {
        let name = Name::new("node", "n").expect("valid");
        let settings = Settings {
            name,
            lane: LaneId([7; 16]),
            incarnation: Incarnation(9),
            seed: 3,
            limits: Limits::default(),
            fence: None,
            heir: None,
            protocols: Protocols::default(),
        };
        let claimed = Claimed {
            epoch: Epoch(1),
            first: RecordNumber(1),
            last: RecordNumber(0),
            last_hash: [0; 16],
        };
        let mut core = Core::new(settings, claimed);
        core.start(now(0), &mut Effects::new());
        let place = RecorderPlace { dir: dir.to_owned(), bytes, reserve };
        let (mut recorder, handle) = open(&place).expect("opens");
        recorder.begin(&mut core);
        Self { core, recorder, handle, at: 0 }
    }

    fn handle(&mut self, now: Now, input: Input) {
        self.recorder.call(now, &input);
        let mut effects = Effects::new();
        self.core.handle(now, input, &mut effects);
        self.recorder.outcome(&mut self.core, &effects);
    }

    /// A push, and its record.
    fn push(&mut self) {
        self.at += 1;
        let ty = TypeName::from_type_url("acme.T").expect("valid");
        let entity = Entity { ty, payload: "secret".into(), headers: Headers::default() };
        let mut id = [0; 16];
        id[8..].copy_from_slice(&self.at.to_be_bytes());
        let push = Push::new(Some(ObjectId(id)), entity);
        let to = ReplyTo { request: RequestId(self.at), seq: 0 };
        let now = now(self.at);
        self.handle(now, Input::Push(to, push));
        let record = self.core.take_record(now);
        self.recorder.take(now, record.as_ref());
        let number = record.expect("a push is urgent").number;
        self.handle(now, Input::Committed(number));
    }

    /// The recording as a dump has it.
    async fn dump(&mut self) -> Vec<u8> {
        let handle = self.handle.clone();
        let dump = tokio::spawn(async move { handle.dump().await });
        let serve = async {
            loop {
                self.recorder.asked().await;
                self.recorder.serve(&mut self.core);
            }
        };
        let sections = tokio::select! {
            sections = dump => sections.expect("no panic"),
            () = serve => unreachable!("it serves for ever"),
        };
        let mut whole = Vec::new();
        for mut section in sections {
            let read = std::io::Read::read_to_end(&mut section.file, &mut whole).expect("reads");
            assert_eq!(read as u64, section.bytes);
        }
        whole
    }
}

fn now(ms: u64) -> Now {
    Now { mono: Mono(ms * 1_000), wall: Wall(1_700_000_000_000 + ms) }
}

/// Replays to the end: how many calls were the same, and whether each was.
fn replayed(replay: &mut Replay) -> (u64, bool) {
    let (mut calls, mut same) = (0, true);
    while let Some(played) = replay.play_next().expect("it can be read") {
        match played {
            Played::Call(call) => {
                calls += 1;
                same &= call.agreement == Agreement::Same;
            }
            Played::Compared(compared) => same &= compared != Some(false),
            Played::Segment(_) | Played::Begun(_) => {}
        }
    }
    (calls, same)
}

#[tokio::test]
async fn what_led_to_a_panic_is_kept_and_panics_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::new(dir.path(), 1 << 20);
    (0..50).for_each(|_| bench.push());
    let handle = bench.handle.clone();
    // A clock that goes back is a bug of the driver, so it fails an assertion of core.
    let panic = catch_unwind(AssertUnwindSafe(move || bench.handle(now(1), Input::Wake)));
    assert!(panic.is_err());
    let path = handle.keep().await.expect("it was recorded");
    assert!(path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("panic-")));
    let mut replay = Replay::new(std::fs::read(&path).expect("reads").into(), VERSION);
    let again = catch_unwind(AssertUnwindSafe(|| replayed(&mut replay)));
    let words = *again.expect_err("it panics again").downcast::<&str>().expect("words");
    assert_eq!(words, "the monotonic clock goes forward");
    let playing = replay.playing().expect("a call");
    assert!(playing.unfinished && matches!(playing.input, Some(Input::Wake)));
    assert_eq!(playing.number, 150, "a push, its record and its commit, fifty times");
}

#[tokio::test]
async fn a_recording_stays_within_its_bytes_and_can_be_replayed_from_its_oldest_segment() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::new(dir.path(), 2 << 20);
    (0..12_000).for_each(|_| bench.push());
    let dump = bench.dump().await;
    let stored = bench.handle.counts.stored.load(Ordering::Relaxed);
    assert!(((1 << 20)..=(2 << 20)).contains(&stored), "{stored}");
    assert_eq!(dump.len() as u64, stored);
    assert!(!dump.windows(6).any(|w| w == b"secret"), "what clients carry stays out");
    let (calls, same) = replayed(&mut Replay::new(dump.into(), VERSION));
    assert!(same && calls > 100 && calls < 36_000, "{calls}");
}

#[tokio::test]
async fn a_disk_that_refuses_does_not_stop_the_node() {
    let dir = tempfile::tempdir().expect("a folder");
    let place = dir.path().join("recorder");
    let mut bench = Bench::new(&place, 1 << 20);
    // No further segment can be made.
    std::fs::remove_dir_all(&place).expect("it is there");
    (0..6_000).for_each(|_| bench.push());
    assert!(bench.dump().await.is_empty());
    assert!(!bench.handle.counts.on.load(Ordering::Relaxed));
    bench.push();
}

#[tokio::test]
async fn a_disk_below_its_reserve_gets_the_recorders_room_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut before = Bench::new(dir.path(), 1 << 20);
    (0..3_000).for_each(|_| before.push());
    assert!(!before.dump().await.is_empty());
    drop(before);
    let files = || std::fs::read_dir(dir.path()).expect("it is there").count();
    assert!(files() > 0, "the next start finds them");
    let mut bench = Bench::with_reserve(dir.path(), 1 << 20, u64::MAX);
    (0..3_000).for_each(|_| bench.push());
    assert!(bench.dump().await.is_empty());
    assert!(!bench.handle.counts.on.load(Ordering::Relaxed));
    assert_eq!(files(), 0, "nothing of it takes room");
}
