//! Files for the records to come, made and taken away beside the appends.
//!
//! A segment that is used again lies on the disk already: what is written over it changes nothing
//! that the file system keeps a journal of, so its sync waits for nobody else's files. A file that
//! is new, or deleted, does: hence both happen on a thread of their own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use dpc_core::store::StoreError;

use super::super::io_error;
use super::segment::path_of;
use crate::files::{remove, sync_folder};
use crate::threads::Joined;

/// How many segments are kept to be used again: as many as go at once when a part of the log ends
/// at full load, at 8 MiB each.
const STOCK_COUNT_MAX: usize = 8;

/// How long they are kept while nobody writes.
const STOCK_TIME: Duration = Duration::from_secs(5);

/// A segment that is ready to be written to.
pub(super) struct Spare {
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
}

enum Job {
    Make(u64),
    /// Nothing in them is needed any more.
    TakeAway(Vec<PathBuf>),
}

/// The thread that makes segments and takes them away. Dropping this finishes what was asked for.
pub(super) struct Spares {
    /// There are at most one segment to make and those of the log to take away.
    jobs: Sender<Job>,
    made: Receiver<Result<Spare, StoreError>>,
    _thread: Joined,
}

impl Spares {
    pub(super) fn start(log: &Path, segment_bytes: u64) -> Result<Self, StoreError> {
        let (jobs, queue) = channel();
        let (finished, made) = channel();
        let mut maker = Maker { log: log.to_owned(), segment_bytes, stock: Vec::new() };
        let thread = Joined::start("dpc-segments", move || maker.run(&queue, &finished))?;
        Ok(Self { jobs, made, _thread: thread })
    }

    /// Asks for the segment of that sequence number.
    pub(super) fn order(&self, sequence: u64) {
        self.send(Job::Make(sequence));
    }

    /// Waits for the segment that was asked for.
    pub(super) fn wait(&self) -> Result<Spare, StoreError> {
        let died = |_| StoreError::Io("the thread that makes segments has died".into());
        self.made.recv().map_err(died)?
    }

    /// Gives segments away in which nothing is needed any more.
    pub(super) fn take_away(&self, segments: Vec<PathBuf>) {
        if !segments.is_empty() {
            self.send(Job::TakeAway(segments));
        }
    }

    fn send(&self, job: Job) {
        // If the thread has died then `wait` says so; a segment too many is found at the next start.
        drop(self.jobs.send(job));
    }
}

struct Maker {
    log: PathBuf,
    segment_bytes: u64,
    /// Segments to be used again, under the names that they had.
    stock: Vec<PathBuf>,
}

impl Maker {
    fn run(&mut self, queue: &Receiver<Job>, finished: &Sender<Result<Spare, StoreError>>) {
        loop {
            // While nothing is kept there is nothing to wake up for.
            let job = match self.stock.is_empty() {
                true => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => queue.recv_timeout(STOCK_TIME),
            };
            match job {
                Ok(Job::Make(sequence)) => {
                    if finished.send(self.make(sequence)).is_err() {
                        return;
                    }
                }
                Ok(Job::TakeAway(segments)) => {
                    segments.into_iter().for_each(|segment| self.take_away(segment));
                }
                Err(RecvTimeoutError::Timeout) => self.stock.drain(..).for_each(|s| remove(&s)),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take_away(&mut self, segment: PathBuf) {
        let usual = fs::metadata(&segment).is_ok_and(|found| found.len() == self.segment_bytes);
        if usual && self.stock.len() < STOCK_COUNT_MAX {
            self.stock.push(segment);
        } else {
            remove(&segment);
        }
    }

    /// Makes a segment, or takes the one that an earlier process has made and not used.
    fn make(&mut self, sequence: u64) -> Result<Spare, StoreError> {
        let path = path_of(&self.log, sequence);
        let there = path.exists();
        match self.open(&path, there) {
            Ok(file) => Ok(Spare { sequence, path, file }),
            Err(error) => {
                if !there {
                    remove(&path);
                }
                Err(io_error(&path, &error))
            }
        }
    }

    fn open(&mut self, path: &Path, there: bool) -> std::io::Result<File> {
        if !there && let Some(used) = self.stock.pop() {
            fs::rename(used, path)?;
        }
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() < self.segment_bytes {
            set_aside(&file, self.segment_bytes)?;
            file.sync_all()?;
        }
        sync_folder(&self.log)?;
        Ok(file)
    }
}

/// Gives a file its room on the disk, so that no append finds the disk full.
fn set_aside(file: &File, bytes: u64) -> std::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // Some file systems cannot: there the file grows with each append.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}
