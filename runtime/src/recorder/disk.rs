//! The recorder's thread: segments in a folder, the oldest of which give way.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use dpc_core::recording::{Chunk, SegmentHead};
use tokio::sync::oneshot;

use super::{RecorderCounts, RecorderPlace};
use crate::cli::VERSION;
use crate::store::disk_free;

/// How the files of segments end, and those kept of panics.
const SUFFIX: &str = "dpcrec";

/// How the name of a file starts that was kept of a panic.
const PANIC: &str = "panic-";

/// What the thread is told.
pub(super) enum Job {
    /// More of the recording.
    Chunk(Chunk),
    /// The recording is wanted.
    Dump(oneshot::Sender<Vec<Section>>),
    /// The recording is to be kept: core has panicked.
    Keep(oneshot::Sender<Option<PathBuf>>),
}

/// A file of the recording and how much of it counts.
#[derive(Debug)]
pub(crate) struct Section {
    /// Open, so that it can be read although the recorder removes it.
    pub(crate) file: File,
    /// Its first so many bytes.
    pub(crate) bytes: u64,
}

/// The segments.
pub(super) struct Disk {
    dir: PathBuf,
    budget: u64,
    reserve: u64,
    counts: Arc<RecorderCounts>,
    /// The files, oldest first, those of earlier starts of the node included.
    segments: VecDeque<Segment>,
    writing: Option<File>,
}

struct Segment {
    path: PathBuf,
    bytes: u64,
    /// None for a file of an earlier start.
    head: Option<SegmentHead>,
}

impl Disk {
    pub(super) fn open(place: &RecorderPlace, counts: Arc<RecorderCounts>) -> io::Result<Self> {
        fs::create_dir_all(&place.dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&place.dir)? {
            let entry = entry?;
            let (path, meta) = (entry.path(), entry.metadata()?);
            let is_kept = entry.file_name().to_string_lossy().starts_with(PANIC);
            if path.extension().is_some_and(|suffix| suffix == SUFFIX) && !is_kept {
                let modified = meta.modified()?;
                found.push((
                    modified,
                    path.clone(),
                    Segment { path, bytes: meta.len(), head: None },
                ));
            }
        }
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let segments = found.into_iter().map(|(.., segment)| segment).collect();
        let disk = Self {
            dir: place.dir.clone(),
            budget: place.bytes,
            reserve: place.reserve,
            counts,
            segments,
            writing: None,
        };
        disk.count();
        Ok(disk)
    }

    /// Runs until nobody is left who could tell it anything.
    pub(super) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Chunk(chunk) => {
                    if self.counts.on.load(Ordering::Relaxed)
                        && let Err(error) = self.write(&chunk)
                    {
                        self.give_up(&error.to_string());
                    }
                    self.counts.buffered.fetch_sub(chunk.len() as u64, Ordering::Relaxed);
                }
                // Whoever asked may be gone.
                Job::Dump(answer) => drop(answer.send(self.sections())),
                Job::Keep(answer) => drop(answer.send(self.keep())),
            }
        }
    }

    fn write(&mut self, chunk: &Chunk) -> io::Result<()> {
        if let Some(head) = chunk.begins() {
            self.begin(head)?;
        }
        let bytes = chunk.seal(VERSION);
        // A disk that cannot say how full it is is found full by the write.
        let free = disk_free(&self.dir).unwrap_or(u64::MAX);
        if free.saturating_sub(bytes.len() as u64) < self.reserve {
            return Err(io::Error::other(format!(
                "{free} bytes of the disk are free, and limits.disk_reserve is left to the node's data"
            )));
        }
        let Some(file) = &mut self.writing else { return Ok(()) };
        file.write_all(&bytes)?;
        let segment = self.segments.back_mut().expect("the one that is being written");
        segment.bytes += bytes.len() as u64;
        let too_large = segment.bytes > self.budget / 2;
        self.make_room();
        self.count();
        if too_large {
            return Err(io::Error::other(
                "a snapshot of the node takes more than half of limits.recorder_bytes; raise it",
            ));
        }
        Ok(())
    }

    fn begin(&mut self, head: &SegmentHead) -> io::Result<()> {
        let name = format!(
            "{}-{:016x}-{:04}-{:06}.{SUFFIX}",
            head.lane.short(),
            head.incarnation.0,
            head.run,
            head.number
        );
        let path = self.dir.join(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        self.writing = Some(file);
        self.segments.push_back(Segment { path, bytes: 0, head: Some(head.clone()) });
        Ok(())
    }

    /// Removes the oldest segments. The one that is written stays, and the whole one before it.
    fn make_room(&mut self) {
        while self.stored() > self.budget && self.segments.len() > 2 {
            let oldest = self.segments.pop_front().expect("more than two");
            remove(&oldest.path);
        }
    }

    fn stored(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn count(&self) {
        self.counts.stored.store(self.stored(), Ordering::Relaxed);
    }

    /// The node runs on without a recorder.
    fn give_up(&mut self, why: &str) {
        self.counts.on.store(false, Ordering::Relaxed);
        self.writing = None;
        tracing::warn!("the flight recorder is off until the next start: {why}");
        for segment in self.segments.drain(..) {
            remove(&segment.path);
        }
        self.count();
    }

    /// The segments of the last unbroken recording, oldest first.
    fn latest(&self) -> impl Iterator<Item = &Segment> {
        let run = |segment: &Segment| segment.head.as_ref().map(|h| (h.incarnation, h.run));
        let last = self.segments.back().and_then(run);
        self.segments.iter().filter(move |segment| last.is_some() && run(segment) == last)
    }

    fn sections(&self) -> Vec<Section> {
        let open = |segment: &Segment| {
            let file = File::open(&segment.path)?;
            Ok(Section { file, bytes: segment.bytes })
        };
        let sections: io::Result<Vec<Section>> = self.latest().map(open).collect();
        sections.unwrap_or_else(|error| {
            tracing::warn!("the flight recorder cannot be read: {error}");
            Vec::new()
        })
    }

    /// Makes one file of the last recording: its first segment takes in the others, so that hardly
    /// any more room is needed. The file kept before gives way.
    fn keep(&mut self) -> Option<PathBuf> {
        self.writing = None;
        let paths: Vec<PathBuf> = self.latest().map(|segment| segment.path.clone()).collect();
        let (first, others) = paths.split_first()?;
        let path =
            self.dir.join(first.file_name().map_or_else(
                || PANIC.to_owned(),
                |name| format!("{PANIC}{}", name.to_string_lossy()),
            ));
        let kept = self.join(first, others, &path);
        self.segments.retain(|segment| segment.path.exists());
        self.count();
        match kept {
            Ok(()) => Some(path),
            Err(error) => {
                tracing::warn!("the recording could not be put into one file: {error}");
                None
            }
        }
    }

    fn join(&self, first: &Path, others: &[PathBuf], to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PANIC) {
                remove(&entry.path());
            }
        }
        fs::rename(first, to)?;
        let mut whole = OpenOptions::new().append(true).open(to)?;
        for other in others {
            io::copy(&mut File::open(other)?, &mut whole)?;
            remove(other);
        }
        whole.sync_data()
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("the flight recorder cannot remove {}: {error}", path.display());
    }
}
