//! The flight recorder of a running node: the driver's side.
//!
//! Every call of core goes onto a tape, which a thread of its own writes to `data_dir/recorder`.
//! Nothing waits for it: when the disk is too slow for [`BUFFERED_BYTES_MAX`], what was not taken
//! is dropped and a new recording begins, and when it cannot be written at all the node runs on
//! without.

mod disk;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use dpc_core::recording::{Tape, TapeBounds};
use dpc_core::{Core, Effect, Input, Now, Record};
use tokio::sync::oneshot;

pub(crate) use disk::Section;
use disk::{Disk, Job};

/// Bytes that wait for the disk at most.
const BUFFERED_BYTES_MAX: u64 = 8 << 20;

/// Segments that the budget is divided into: what is dropped at once is one of them.
const SEGMENTS: u64 = 8;

/// Bytes that gather before they go to the disk.
const CHUNK_BYTES: usize = 64 << 10;

/// How much of a snapshot is written behind each input: a few microseconds.
const SLICE_BYTES: usize = 4 << 10;

/// How much of it is written at once when a dump waits for its end and nothing else is to be done.
const IDLE_SLICE_BYTES: usize = 256 << 10;

/// A shorter segment would be nothing but its snapshot.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Where a node records, and how much.
#[derive(Clone, Debug)]
pub struct RecorderPlace {
    /// The folder.
    pub dir: PathBuf,
    /// Bytes on the disk at most, besides one recording kept of a panic.
    pub bytes: u64,
    /// Free bytes of the disk that are left to the node's data: with less, the recorder gives back
    /// what it has and is off.
    pub reserve: u64,
}

/// What the metrics page says of the recorder.
#[derive(Debug, Default)]
pub(crate) struct RecorderCounts {
    /// Bytes on the disk now.
    pub(crate) stored: AtomicU64,
    /// Bytes that were dropped because the disk was too slow.
    pub(crate) dropped: AtomicU64,
    /// Whether calls are recorded.
    pub(crate) on: AtomicBool,
    buffered: AtomicU64,
}

/// The driver's side. Dropped by a panic, it still hands over what it has.
pub(crate) struct Recorder {
    segment_bytes: u64,
    tape: Option<Tape>,
    jobs: mpsc::Sender<Job>,
    counts: Arc<RecorderCounts>,
    /// Nothing is recorded until the disk has caught up.
    behind: bool,
    asked: tokio::sync::mpsc::UnboundedReceiver<oneshot::Sender<Vec<Section>>>,
    /// Who waits for a dump, until the snapshot is whole.
    waiting: Vec<oneshot::Sender<Vec<Section>>>,
}

/// The side of those who ask for a recording.
#[derive(Clone)]
pub(crate) struct RecorderHandle {
    ask: tokio::sync::mpsc::UnboundedSender<oneshot::Sender<Vec<Section>>>,
    jobs: mpsc::Sender<Job>,
    pub(crate) counts: Arc<RecorderCounts>,
}

/// Opens the recorder's folder and starts its thread.
///
/// # Errors
///
/// Fails when the folder cannot be made or read.
pub(crate) fn open(place: &RecorderPlace) -> std::io::Result<(Recorder, RecorderHandle)> {
    let counts = Arc::new(RecorderCounts::default());
    let (jobs, queue) = mpsc::channel();
    let disk = Disk::open(place, Arc::clone(&counts))?;
    // It ends when nobody is left who could tell it anything.
    std::thread::Builder::new().name("dpc-recorder".to_owned()).spawn(move || disk.run(&queue))?;
    counts.on.store(true, Ordering::Relaxed);
    let (ask, asked) = tokio::sync::mpsc::unbounded_channel();
    let recorder = Recorder {
        segment_bytes: (place.bytes / SEGMENTS).max(SEGMENT_BYTES_MIN),
        tape: None,
        jobs: jobs.clone(),
        counts: Arc::clone(&counts),
        behind: false,
        asked,
        waiting: Vec::new(),
    };
    Ok((recorder, RecorderHandle { ask, jobs, counts }))
}

impl Recorder {
    /// Core has been started: from here on its calls are recorded.
    pub(crate) fn begin(&mut self, core: &mut Core) {
        let bounds = TapeBounds {
            segment_bytes: usize::try_from(self.segment_bytes).unwrap_or(usize::MAX),
            chunk_bytes: CHUNK_BYTES,
            slice_bytes: SLICE_BYTES,
        };
        self.tape = Some(Tape::new(core, bounds));
    }

    /// Core is about to handle an input.
    pub(crate) fn call(&mut self, now: Now, input: &Input) {
        if let Some(tape) = self.recording() {
            tape.call(now, input);
        }
    }

    /// Core has handled it.
    pub(crate) fn outcome(&mut self, core: &mut Core, effects: &[Effect]) {
        if self.behind {
            return self.catch_up(core);
        }
        if let Some(tape) = &mut self.tape {
            tape.outcome(core, effects);
            self.ship(core);
        }
    }

    /// A record was asked for.
    pub(crate) fn take(&mut self, now: Now, record: Option<&Record>) {
        if let Some(tape) = self.recording() {
            tape.take(now, record);
        }
    }

    /// Waits until somebody wants the recording, or until there is something to do for those who
    /// do. Then [`Recorder::serve`] is due.
    pub(crate) async fn asked(&mut self) {
        if self.waiting.is_empty() {
            match self.asked.recv().await {
                Some(asker) => self.waiting.push(asker),
                // The node goes on for as long as it is told to.
                None => std::future::pending().await,
            }
        }
    }

    /// Goes on with a snapshot that a dump waits for, and answers when it is whole.
    pub(crate) fn serve(&mut self, core: &mut Core) {
        if self.behind {
            self.catch_up(core);
        }
        if !self.behind
            && let Some(tape) = &mut self.tape
        {
            if !tape.copy_on(core, IDLE_SLICE_BYTES) {
                return self.ship(core);
            }
            tape.end_chunk();
        }
        self.ship(core);
        for asker in self.waiting.drain(..) {
            // Without its thread nobody answers, and whoever asked hears that.
            let _ended = self.jobs.send(Job::Dump(asker));
        }
    }

    fn recording(&mut self) -> Option<&mut Tape> {
        if self.behind { None } else { self.tape.as_mut() }
    }

    fn catch_up(&mut self, core: &mut Core) {
        let waits = self.counts.buffered.load(Ordering::Relaxed);
        if waits <= BUFFERED_BYTES_MAX / 4
            && let Some(tape) = &mut self.tape
        {
            self.behind = false;
            tape.begin_run(core);
        }
    }

    /// Hands full chunks to the thread, or drops them when too much waits there.
    fn ship(&mut self, core: &mut Core) {
        let Some(tape) = &mut self.tape else { return };
        let chunks = tape.take_full();
        if chunks.is_empty() {
            return;
        }
        if !self.counts.on.load(Ordering::Relaxed) {
            // The disk refuses: core is not to take copies for nobody.
            self.tape = None;
            return core.cancel_snapshot();
        }
        let bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let buffered = &self.counts.buffered;
        if buffered.load(Ordering::Relaxed) + bytes > BUFFERED_BYTES_MAX {
            self.counts.dropped.fetch_add(bytes, Ordering::Relaxed);
            self.behind = true;
            tracing::warn!("the disk is too slow for the flight recorder: it begins anew");
            return core.cancel_snapshot();
        }
        buffered.fetch_add(bytes, Ordering::Relaxed);
        for chunk in chunks {
            let _ended = self.jobs.send(Job::Chunk(chunk));
        }
    }
}

impl Drop for Recorder {
    /// What has been recorded up to the end, a panic's call included, goes to the disk.
    fn drop(&mut self) {
        let Some(tape) = &mut self.tape else { return };
        tape.end_chunk();
        for chunk in tape.take_full() {
            self.counts.buffered.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            let _ended = self.jobs.send(Job::Chunk(chunk));
        }
    }
}

impl RecorderHandle {
    /// The recording as it is now, as sections of files; empty when there is none.
    pub(crate) async fn dump(&self) -> Vec<Section> {
        let (answer, answered) = oneshot::channel();
        // Without its driver or its thread there is nothing to hand out.
        let _ended = self.ask.send(answer);
        answered.await.unwrap_or_default()
    }

    /// The driver has ended by a bug: its recording becomes a file of its own.
    pub(crate) async fn keep(&self) -> Option<PathBuf> {
        let (answer, answered) = oneshot::channel();
        let _ended = self.jobs.send(Job::Keep(answer));
        answered.await.ok().flatten()
    }
}
