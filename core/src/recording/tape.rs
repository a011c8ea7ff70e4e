//! What a recording is made of: each call of core with its time and input, what came of it in
//! short, and now and then a snapshot. Written call by call into chunks; read back in order.
//!
//! A recording is a sequence of segments, and each begins with a head of its own, so that one file
//! behind the other is a recording, too. All integers of the frames are little-endian:
//!
//! ```text
//! segment   magic "dpcrec\r\n" | format u32 | program u16 + UTF-8 | chunk with the head | chunks …
//! chunk     length u32 | XXH3 of the content u64 | content: events
//! ```
//!
//! Inside a chunk values are packed by `postcard`, in the layout of this program's types. It names no
//! fields, so only the same format of the same version can read it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::elide::ElidedRecord;
use super::snapshot::Slice;
use crate::core::Core;
use crate::effect::{Effect, Record};
use crate::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use crate::input::Input;
use crate::names::Name;
use crate::object::Hash16;
use crate::time::{Mono, Now, Wall};

/// The version of the layout. Whoever changes a type that is recorded raises it.
pub const RECORDING_FORMAT: u32 = 11;

/// How a segment starts.
pub(super) const MAGIC: [u8; 8] = *b"dpcrec\r\n";

/// Bytes in front of a chunk's content.
pub(super) const CHUNK_HEAD_BYTES: usize = 12;

/// No chunk is longer: a longer one is damage.
pub(super) const CHUNK_BYTES_MAX: usize = 256 << 20;

/// Whose recording a segment is a part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHead {
    /// The node's name.
    pub name: Name,
    /// Its lane.
    pub lane: LaneId,
    /// The lane's epoch.
    pub epoch: Epoch,
    /// The start of the process.
    pub incarnation: Incarnation,
    /// Counts the unbroken recordings of that process: calls are missing between two of them.
    pub run: u32,
    /// The segment's number in its run, from zero.
    pub number: u32,
    /// How many calls the run held before.
    pub calls: u64,
}

/// One thing on the tape.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Event {
    Handle(Step, Box<Input>),
    Loaded(Step, RecordNumber, ElidedRecord),
    Take(Step),
    /// A call had no effects.
    Quiet,
    /// How many effects a call had, and the hash of them.
    Outcome(u32, u64),
    /// A record was taken: its number, size, fingerprint and hash.
    Taken(RecordNumber, u32, u64, Hash16),
    /// A snapshot of this very moment begins.
    Snapshot(Bytes),
    Slices(Vec<Slice>),
    Whole,
}

/// A call's time, as the way from the one before.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Step {
    mono: u64,
    wall: i64,
}

impl Step {
    pub(super) fn between(last: Now, now: Now) -> Self {
        Self {
            mono: now.mono.0.wrapping_sub(last.mono.0),
            wall: now.wall.0.wrapping_sub(last.wall.0) as i64,
        }
    }

    pub(super) fn from(self, last: Now) -> Now {
        Now {
            mono: Mono(last.mono.0.wrapping_add(self.mono)),
            wall: Wall(last.wall.0.wrapping_add(self.wall as u64)),
        }
    }
}

/// Writes down the calls of one core, in segments that each begin with a snapshot.
#[derive(Debug)]
pub struct Tape {
    head: SegmentHead,
    bounds: TapeBounds,
    last: Now,
    /// How many calls the run holds.
    calls: u64,
    /// Bytes of the present segment, without the chunk that is being written.
    bytes: usize,
    stage: Stage,
    chunk: Chunk,
    full: Vec<Chunk>,
    scratch: Vec<u8>,
}

/// How far a segment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is recorded until core can be copied.
    Waiting,
    /// Its snapshot is being written.
    Copying,
    /// Its snapshot is whole.
    Whole,
}

/// How a tape is cut.
#[derive(Clone, Copy, Debug)]
pub struct TapeBounds {
    /// A segment ends at about so many bytes, when its snapshot is whole.
    pub segment_bytes: usize,
    /// A chunk ends at about so many bytes.
    pub chunk_bytes: usize,
    /// So much of a snapshot is written behind each input.
    pub slice_bytes: usize,
}

/// Events that belong together on the disk.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The segment that begins with it.
    begins: Option<SegmentHead>,
    events: Vec<u8>,
    /// Records that were read: where they belong in the events, and what stands before their bytes.
    /// Leaving out what they carry is left to whoever writes the chunk.
    read: Vec<(usize, Step, RecordNumber, Bytes)>,
    read_bytes: usize,
}

impl Tape {
    /// Begins a recording of a core that has been started, between two calls.
    pub fn new(core: &mut Core, bounds: TapeBounds) -> Self {
        let head = SegmentHead {
            name: core.name().clone(),
            lane: core.lane_id(),
            epoch: core.epoch(),
            incarnation: core.incarnation(),
            run: 0,
            number: 0,
            calls: 0,
        };
        let mut tape = Self {
            head,
            bounds,
            last: Now::default(),
            calls: 0,
            bytes: 0,
            stage: Stage::Waiting,
            chunk: Chunk::default(),
            full: Vec::new(),
            scratch: Vec::new(),
        };
        tape.try_begin(core);
        tape
    }

    /// Begins anew behind a gap: what has not been taken yet is dropped.
    pub fn begin_run(&mut self, core: &mut Core) {
        self.head.run += 1;
        (self.head.number, self.calls) = (0, 0);
        self.chunk = Chunk::default();
        self.full.clear();
        core.cancel_snapshot();
        self.stage = Stage::Waiting;
        self.try_begin(core);
    }

    /// Whether calls are recorded: not before core could be copied for the first time.
    pub fn is_recording(&self) -> bool {
        self.stage != Stage::Waiting
    }

    /// Core is about to handle an input. What clients carry stays out.
    pub fn call(&mut self, now: Now, input: &Input) {
        if self.stage == Stage::Waiting {
            return;
        }
        let step = self.step(now);
        match input {
            Input::Loaded(number, record) => {
                let at = self.chunk.events.len();
                self.chunk.read_bytes += record.len();
                self.chunk.read.push((at, step, *number, record.clone()));
            }
            input => self.chunk.write(&EventRef::Handle(step, input)),
        }
    }

    /// Core has handled an input with these effects. A snapshot under way goes on.
    pub fn outcome(&mut self, core: &mut Core, effects: &[Effect]) {
        if self.stage != Stage::Waiting {
            let outcome = if effects.is_empty() {
                Event::Quiet
            } else {
                let count = u32::try_from(effects.len()).expect("effects are bounded");
                Event::Outcome(count, hash_effects(effects, &mut self.scratch))
            };
            self.chunk.write(&outcome);
        }
        self.go_on(core);
    }

    /// Goes on with a snapshot beyond what follows each input, when nothing else is to be done.
    /// Says whether the present one is whole.
    pub fn copy_on(&mut self, core: &mut Core, budget: usize) -> bool {
        if self.stage == Stage::Copying {
            self.copy(core, budget);
        }
        self.stage == Stage::Whole
    }

    /// A record was asked for.
    pub fn take(&mut self, now: Now, record: Option<&Record>) {
        if self.stage == Stage::Waiting {
            return;
        }
        let step = self.step(now);
        self.chunk.write(&Event::Take(step));
        let Some(record) = record else { return self.chunk.write(&Event::Quiet) };
        let bytes = u32::try_from(record.bytes.len()).expect("records are bounded");
        let hash = crate::record::hash_of(&record.bytes);
        self.chunk.write(&Event::Taken(record.number, bytes, record.fingerprint(), hash));
    }

    /// Takes the chunks that are full.
    pub fn take_full(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.full)
    }

    /// Ends the chunk that is being written, so that all is in the full ones.
    pub fn end_chunk(&mut self) {
        if !self.chunk.is_empty() {
            self.bytes += self.chunk.len();
            self.full.push(std::mem::take(&mut self.chunk));
        }
    }

    /// Begins a segment as soon as core's effects are all out.
    fn try_begin(&mut self, core: &mut Core) {
        if !core.can_be_copied() {
            return;
        }
        self.last = Now::default();
        (self.bytes, self.stage) = (0, Stage::Copying);
        self.head.calls = self.calls;
        self.chunk.begins = Some(self.head.clone());
        self.chunk.write(&Event::Snapshot(core.begin_snapshot().into()));
    }

    fn go_on(&mut self, core: &mut Core) {
        if self.stage == Stage::Copying {
            self.copy(core, self.bounds.slice_bytes);
        }
        if self.chunk.len() >= self.bounds.chunk_bytes {
            self.end_chunk();
        }
        let full = self.bytes + self.chunk.len() >= self.bounds.segment_bytes;
        if self.stage == Stage::Whole && full && core.can_be_copied() {
            self.end_chunk();
            self.head.number += 1;
            self.try_begin(core);
        } else if self.stage == Stage::Waiting {
            self.try_begin(core);
        }
    }

    fn copy(&mut self, core: &mut Core, budget: usize) {
        match core.next_slice(budget) {
            Some(slices) => self.chunk.write(&Event::Slices(slices)),
            None => {
                self.chunk.write(&Event::Whole);
                self.stage = Stage::Whole;
            }
        }
    }

    fn step(&mut self, now: Now) -> Step {
        let step = Step::between(self.last, now);
        self.last = now;
        self.calls += 1;
        step
    }
}

/// The events of the hot path, without moving or cloning anything.
#[derive(Serialize)]
#[allow(dead_code, reason = "the variants keep the numbers of `Event`")]
enum EventRef<'a> {
    Handle(Step, &'a Input),
    Loaded(Step, RecordNumber, &'a ElidedRecord),
}

impl Chunk {
    /// Bytes of memory that it holds.
    pub fn len(&self) -> usize {
        self.events.len() + self.read_bytes
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The segment that begins with it, if one does.
    pub fn begins(&self) -> Option<&SegmentHead> {
        self.begins.as_ref()
    }

    /// The bytes for the disk. `program` is this program's version and commit.
    pub fn seal(&self, program: &str) -> Vec<u8> {
        let mut out = self.begins.as_ref().map_or_else(Vec::new, |head| seal_head(program, head));
        let start = out.len();
        out.resize(start + CHUNK_HEAD_BYTES, 0);
        let mut at = 0;
        for (place, step, number, record) in &self.read {
            out.extend_from_slice(&self.events[at..*place]);
            at = *place;
            // Core stops the node over a record that does not decode: the tape ends here as well.
            let Ok(elided) = ElidedRecord::of(record) else { break };
            write(&EventRef::Loaded(*step, *number, &elided), &mut out);
        }
        out.extend_from_slice(&self.events[at..]);
        frame(&mut out, start);
        out
    }

    fn write(&mut self, event: &impl Serialize) {
        write(event, &mut self.events);
    }
}

/// The start of a segment.
fn seal_head(program: &str, head: &SegmentHead) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&RECORDING_FORMAT.to_le_bytes());
    out.extend_from_slice(&u16::try_from(program.len()).expect("a short text").to_le_bytes());
    out.extend_from_slice(program.as_bytes());
    let start = out.len();
    out.resize(start + CHUNK_HEAD_BYTES, 0);
    write(head, &mut out);
    frame(&mut out, start);
    out
}

/// The hash of effects, without what clients carry.
pub(super) fn hash_effects(effects: &[Effect], scratch: &mut Vec<u8>) -> u64 {
    scratch.clear();
    for effect in effects {
        write(effect, scratch);
    }
    xxh3_64(scratch)
}

fn write(value: &impl Serialize, out: &mut Vec<u8>) {
    *out = postcard::to_extend(value, std::mem::take(out))
        .expect("every input and effect can be written");
}

/// Fills in the head of the chunk that starts here and ends with the bytes.
fn frame(out: &mut [u8], start: usize) {
    let (head, content) = out[start..].split_at_mut(CHUNK_HEAD_BYTES);
    let length = u32::try_from(content.len()).expect("chunks are bounded");
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&xxh3_64(content).to_le_bytes());
}
