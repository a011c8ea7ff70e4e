//! Reading a recording back: segments, chunks, events, in order, every byte checked.

use bytes::{Buf, Bytes};
use xxhash_rust::xxh3::xxh3_64;

use super::snapshot::{BadSnapshot, Slice};
use super::tape::{CHUNK_BYTES_MAX, CHUNK_HEAD_BYTES, Event, MAGIC, RECORDING_FORMAT, SegmentHead};
use crate::core::Core;

/// Why bytes are not a recording that can be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecording {
    /// Something else.
    #[error("not a recording of dpc: it does not start as one does")]
    Magic,
    /// Of another program.
    #[error(
        "format {format}, written by dpc {program}; this is dpc {ours} and reads format {RECORDING_FORMAT} of its own version: replay it with dpc {program}"
    )]
    OtherProgram {
        /// The format.
        format: u32,
        /// The program that wrote it.
        program: String,
        /// This program.
        ours: String,
    },
    /// Damaged or cut in the middle of something.
    #[error("damaged at byte {at}: {what}")]
    Damaged {
        /// Where in the file.
        at: usize,
        /// What was expected.
        what: &'static str,
    },
    /// No segment has a whole snapshot, so there is nowhere to start.
    #[error("it holds no whole snapshot to start from: it ends before the first one was written")]
    NoSnapshot,
    /// A snapshot cannot be used.
    #[error(transparent)]
    Snapshot(#[from] BadSnapshot),
}

/// One event of the tape, in terms of core.
#[derive(Debug)]
pub(super) enum Read {
    Segment(SegmentHead),
    Event(Event),
}

/// Reads events one after the other.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    rest: Bytes,
    at: usize,
    chunk: Bytes,
    program: String,
}

impl Reader {
    /// Reads what `program` may read: what it has written itself.
    pub(super) fn new(recording: Bytes, program: &str) -> Self {
        Self { rest: recording, at: 0, chunk: Bytes::new(), program: program.to_owned() }
    }

    /// The next event; `None` at the end.
    pub(super) fn next_event(&mut self) -> Result<Option<Read>, BadRecording> {
        while self.chunk.is_empty() {
            if self.rest.is_empty() {
                return Ok(None);
            }
            if self.at == 0 || self.rest.starts_with(&MAGIC) {
                return self.segment().map(|head| Some(Read::Segment(head)));
            }
            self.chunk = self.next_chunk()?;
        }
        let before = self.chunk.len();
        let (event, rest) = postcard::take_from_bytes::<Event>(&self.chunk)
            .map_err(|_| self.damaged("an event"))?;
        let used = before - rest.len();
        self.chunk.advance(used);
        Ok(Some(Read::Event(event)))
    }

    fn segment(&mut self) -> Result<SegmentHead, BadRecording> {
        if self.take(MAGIC.len()).ok().as_deref() != Some(&MAGIC) {
            return Err(BadRecording::Magic);
        }
        let format = self.take(4)?.get_u32_le();
        let length = self.take(2)?.get_u16_le();
        let program = String::from_utf8_lossy(&self.take(usize::from(length))?).into_owned();
        if format != RECORDING_FORMAT || program != self.program {
            return Err(BadRecording::OtherProgram { format, program, ours: self.program.clone() });
        }
        let head = self.next_chunk()?;
        postcard::from_bytes(&head).map_err(|_| self.damaged("the head of a segment"))
    }

    fn next_chunk(&mut self) -> Result<Bytes, BadRecording> {
        let mut head = self.take(CHUNK_HEAD_BYTES)?;
        let (length, hash) = (head.get_u32_le() as usize, head.get_u64_le());
        if length > CHUNK_BYTES_MAX {
            return Err(self.damaged("a chunk's length"));
        }
        let chunk = self.take(length)?;
        if xxh3_64(&chunk) != hash {
            return Err(self.damaged("content that matches its hash"));
        }
        Ok(chunk)
    }

    fn take(&mut self, length: usize) -> Result<Bytes, BadRecording> {
        if self.rest.len() < length {
            return Err(self.damaged("more bytes; the file ends in the middle of something"));
        }
        self.at += length;
        Ok(self.rest.split_to(length))
    }

    pub(super) fn damaged(&self, what: &'static str) -> BadRecording {
        BadRecording::Damaged { at: self.at, what }
    }
}

/// A snapshot that is being put together.
#[derive(Debug)]
pub(super) struct Gathering {
    head: Bytes,
    slices: Vec<Slice>,
}

impl Gathering {
    pub(super) fn new(head: Bytes) -> Self {
        Self { head, slices: Vec::new() }
    }

    pub(super) fn add(&mut self, slices: Vec<Slice>) {
        self.slices.extend(slices);
    }

    pub(super) fn core(&self) -> Result<Core, BadSnapshot> {
        Core::from_snapshot(&self.head, &self.slices)
    }
}
