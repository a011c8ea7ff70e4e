//! Recordings of cores in a world: what the flight recorder of a node writes, kept in memory, with
//! the lines of the effects that really were, for a replay to be held against.

use bytes::Bytes;
use dpc_core::recording::{Tape, TapeBounds};
use dpc_core::{Core, Effect, Input, Now, Record};

/// The program that recordings of a world name.
pub const PROGRAM: &str = "simulated";

/// A recording with what it is to repeat.
#[derive(Debug)]
pub struct Recording {
    /// The file.
    pub bytes: Bytes,
    /// What came of each call since it began, one line an effect.
    pub told: Vec<Vec<String>>,
}

/// The recorder of one core.
#[derive(Debug)]
pub(crate) struct Recorder {
    tape: Tape,
    bytes: Vec<u8>,
    told: Vec<Vec<String>>,
}

impl Recorder {
    /// Begins behind the core's start.
    pub(crate) fn new(core: &mut Core, bounds: TapeBounds) -> Self {
        Self { tape: Tape::new(core, bounds), bytes: Vec::new(), told: Vec::new() }
    }

    pub(crate) fn call(&mut self, now: Now, input: &Input) {
        self.tape.call(now, input);
    }

    pub(crate) fn outcome(&mut self, core: &mut Core, effects: &[Effect]) {
        if self.tape.is_recording() {
            self.told.push(effects.iter().map(ToString::to_string).collect());
        }
        self.tape.outcome(core, effects);
    }

    pub(crate) fn take(&mut self, now: Now, record: Option<&Record>) {
        if self.tape.is_recording() {
            self.told.push(record.map(record_line).into_iter().collect());
        }
        self.tape.take(now, record);
    }

    pub(crate) fn end(mut self) -> Recording {
        self.tape.end_chunk();
        for chunk in self.tape.take_full() {
            self.bytes.extend(chunk.seal(PROGRAM));
        }
        Recording { bytes: self.bytes.into(), told: self.told }
    }
}

/// A record in one line.
pub fn record_line(record: &Record) -> String {
    format!(
        "record {} of {} bytes, {:016x}",
        record.number,
        record.bytes.len(),
        record.fingerprint()
    )
}
