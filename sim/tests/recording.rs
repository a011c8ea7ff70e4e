//! The flight recorder: what was recorded happens again, effect by effect and record by record.

use dpc_core::recording::{Agreement, Played, Replay, TapeBounds};
use sim::recorder::{PROGRAM, Recording, record_line};
use sim::swarm::{self, Options};

/// Small cuts: snapshots are under way most of the time, an entry or two behind each input.
const TINY: TapeBounds = TapeBounds { segment_bytes: 20_000, chunk_bytes: 512, slice_bytes: 24 };

/// As a node has them, in small.
const ROOMY: TapeBounds =
    TapeBounds { segment_bytes: 200_000, chunk_bytes: 8_192, slice_bytes: 4_096 };

#[derive(Debug, Default)]
struct Seen {
    calls: usize,
    compared: usize,
    effects: usize,
    records: usize,
    segments: usize,
    too_short: usize,
}

/// Replays a recording and holds every call, effect and state against what really was.
fn replay(recording: &Recording, seen: &mut Seen) {
    let mut replay = Replay::new(recording.bytes.clone(), PROGRAM);
    let mut told = recording.told.iter();
    while let Some(played) = replay.play_next().expect("it can be read") {
        match played {
            Played::Segment(_) => seen.segments += 1,
            Played::Begun(_) => {}
            Played::Compared(Some(same)) => {
                assert!(same, "the state at a later snapshot");
                seen.compared += 1;
            }
            Played::Compared(None) => {}
            Played::Call(call) => {
                let number = call.number;
                assert_eq!(call.agreement, Agreement::Same, "call {number}: {:?}", call.input);
                let record = call.record.as_ref().map(record_line);
                let effects = call.effects.iter().map(ToString::to_string);
                let lines: Vec<String> = effects.chain(record.clone()).collect();
                let expected = told.next().expect("it was recorded");
                assert_eq!(&lines, expected, "call {number}: {:?}", call.input);
                seen.calls += 1;
                seen.effects += call.effects.len();
                seen.records += usize::from(record.is_some());
            }
        }
    }
    let Some(core) = replay.core() else {
        // The life ended before its first snapshot was whole.
        assert_eq!(told.len(), recording.told.len(), "nothing was replayed");
        return seen.too_short += 1;
    };
    core.check();
    assert_eq!(told.len(), 0, "every call was replayed");
}

#[test]
fn every_core_of_a_swarm_does_the_same_again() {
    let mut seen = Seen::default();
    for seed in 0..24 {
        let bounds = if seed % 2 == 0 { TINY } else { ROOMY };
        let (report, recordings) = swarm::record(seed, &Options::default(), bounds);
        assert_eq!(report.broken, None, "seed {seed}");
        assert!(!recordings.is_empty(), "seed {seed}");
        for recording in &recordings {
            replay(recording, &mut seen);
        }
    }
    println!("{seen:?}");
    assert!(seen.calls > 20_000 && seen.effects > 20_000 && seen.records > 2_000, "{seen:?}");
    assert!(seen.segments > 200 && seen.compared > 50, "{seen:?}");
}

#[test]
fn recording_changes_nothing() {
    for seed in [3, 17] {
        let (recorded, _) = swarm::record(seed, &Options::default(), TINY);
        let plain = swarm::run(seed, &Options::default());
        assert_eq!((recorded.steps, recorded.simulated), (plain.steps, plain.simulated));
        assert_eq!(recorded.coverage.to_string(), plain.coverage.to_string());
    }
}
