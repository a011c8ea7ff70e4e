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
use super::hashes::Hashes;
use super::snapshot::Slice;
use crate::core::Core;
use crate::effect::{Effect, Record};
use crate::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use crate::input::Input;
use crate::names::Name;
use crate::object::Hash16;
use crate::time::{Mono, Now, Wall};

/// The version of the layout. Whoever changes a type that is recorded raises it.
pub const RECORDING_FORMAT: u32 = 1;

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
    /// A call had no effects and took no hashes.
    Quiet,
    /// The hashes that a call took, how many effects it had, and the hash of them.
    Outcome(Vec<Hash16>, u32, u64),
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

/// Writes down the calls of one core.
#[derive(Debug, Default)]
pub struct Tape {
    last: Now,
    chunk: Chunk,
    scratch: Vec<u8>,
}

/// Events that belong together on the disk.
#[derive(Debug, Default)]
pub struct Chunk {
    events: Vec<u8>,
    /// Records that were read: where they belong in the events, and what comes before their bytes.
    /// Leaving out what they carry is left to whoever writes the chunk.
    read: Vec<(usize, Step, RecordNumber, Bytes)>,
    read_bytes: usize,
}

impl Tape {
    /// A new segment begins: its times do not build on those before.
    pub fn begin_segment(&mut self) {
        assert!(self.chunk.len() == 0, "the chunk before is taken first");
        self.last = Now::default();
    }

    /// A snapshot begins: of this moment, between two calls.
    pub fn snapshot(&mut self, core: &mut Core) {
        core.hashes = Hashes::Noted(Vec::new());
        self.chunk.write(&Event::Snapshot(core.begin_snapshot().into()));
    }

    /// The snapshot goes on by about `budget` bytes. Says whether it is whole.
    pub fn slice(&mut self, core: &mut Core, budget: usize) -> bool {
        match core.next_slice(budget) {
            Some(slices) => self.chunk.write(&Event::Slices(slices)),
            None => {
                self.chunk.write(&Event::Whole);
                return true;
            }
        }
        false
    }

    /// Core is about to handle an input. What clients carry stays out.
    pub fn call(&mut self, now: Now, input: &Input) {
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

    /// Core has handled an input with these effects.
    pub fn outcome(&mut self, core: &mut Core, effects: &[Effect]) {
        let Hashes::Noted(noted) = &mut core.hashes else {
            unreachable!("what is recorded begins with a snapshot")
        };
        if effects.is_empty() && noted.is_empty() {
            return self.chunk.write(&Event::Quiet);
        }
        let count = u32::try_from(effects.len()).expect("effects are bounded");
        let hash = hash_effects(effects, &mut self.scratch);
        self.chunk.write(&EventRef::Outcome(noted, count, hash));
        noted.clear();
    }

    /// A record was asked for.
    pub fn take(&mut self, now: Now, record: Option<&Record>) {
        let step = self.step(now);
        self.chunk.write(&Event::Take(step));
        let Some(record) = record else { return self.chunk.write(&Event::Quiet) };
        let bytes = u32::try_from(record.bytes.len()).expect("records are bounded");
        let hash = crate::record::hash_of(&record.bytes);
        self.chunk.write(&Event::Taken(record.number, bytes, record.fingerprint(), hash));
    }

    /// What has been written since the last time.
    pub fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    /// Takes what has been written.
    pub fn take_chunk(&mut self) -> Chunk {
        std::mem::take(&mut self.chunk)
    }

    fn step(&mut self, now: Now) -> Step {
        let step = Step::between(self.last, now);
        self.last = now;
        step
    }
}

/// The events of the hot path, without moving or cloning anything.
#[derive(Serialize)]
#[allow(dead_code, reason = "the variants keep the numbers of `Event`")]
enum EventRef<'a> {
    Handle(Step, &'a Input),
    Loaded(Step, RecordNumber, &'a ElidedRecord),
    Take(Step),
    Quiet,
    Outcome(&'a [Hash16], u32, u64),
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

    /// The bytes for the disk, framed.
    pub fn seal(&self) -> Vec<u8> {
        let mut out = vec![0; CHUNK_HEAD_BYTES];
        let mut at = 0;
        for (place, step, number, record) in &self.read {
            out.extend_from_slice(&self.events[at..*place]);
            at = *place;
            // Core stops the node over a record that cannot be read, so the tape ends here.
            let Ok(elided) = ElidedRecord::of(record) else { continue };
            write(&EventRef::Loaded(*step, *number, &elided), &mut out);
        }
        out.extend_from_slice(&self.events[at..]);
        frame(out)
    }

    fn write(&mut self, event: &impl Serialize) {
        write(event, &mut self.events);
    }
}

/// The start of a segment's file.
pub fn seal_head(program: &str, head: &SegmentHead) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&RECORDING_FORMAT.to_le_bytes());
    out.extend_from_slice(&u16::try_from(program.len()).expect("a short text").to_le_bytes());
    out.extend_from_slice(program.as_bytes());
    let mut chunk = vec![0; CHUNK_HEAD_BYTES];
    write(head, &mut chunk);
    out.extend(frame(chunk));
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

fn frame(mut out: Vec<u8>) -> Vec<u8> {
    let content = &out[CHUNK_HEAD_BYTES..];
    let length = u32::try_from(content.len()).expect("chunks are bounded");
    let hash = xxh3_64(content);
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[4..CHUNK_HEAD_BYTES].copy_from_slice(&hash.to_le_bytes());
    out
}
