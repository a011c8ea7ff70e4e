//! What is done to processes and their clocks: stopped, made to die at a step, put wrong. And the
//! end of all faults.

use std::fmt;

use dpc_core::time::{Mono, Span};

use super::life::Power;
use super::{Event, World};

/// A step in the life of a record at which a process can be made to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// The lane is claimed, nothing is restored yet.
    Starting,
    /// The record is packed, the store has not been given it.
    BeforeAppend,
    /// The record is durable, core has not been told.
    AfterAppend,
    /// Core has been told, nothing that waited for it has left.
    AfterCommit,
    /// Something that waited for it has left, the rest has not.
    AmidEffects,
}

impl CrashPoint {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Starting,
        Self::BeforeAppend,
        Self::AfterAppend,
        Self::AfterCommit,
        Self::AmidEffects,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Starting => "died while it started",
            Self::BeforeAppend => "died before a record was written",
            Self::AfterAppend => "died after a record was written",
            Self::AfterCommit => "died before the effects of a commit",
            Self::AmidEffects => "died amid the effects of a commit",
        }
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "while it starts",
            Self::BeforeAppend => "before it writes a record",
            Self::AfterAppend => "when a record is written, before it knows",
            Self::AfterCommit => "after a commit, before its effects",
            Self::AmidEffects => "amid the effects of a commit",
        })
    }
}

/// A death that waits for its moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doom {
    point: CrashPoint,
    power: Power,
    left: u32,
}

/// A wall clock that is wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// Ahead by so many milliseconds, at `since`.
    ahead_ms: i64,
    /// And further by so many millionths of the time from then on.
    ppm: i64,
    since: Mono,
}

impl Clock {
    /// How far it is ahead of the true time.
    pub(crate) fn ahead_ms(self, now: Mono) -> i64 {
        let run = i64::try_from((now - self.since).as_millis()).expect("runs are short");
        self.ahead_ms + run * self.ppm / 1_000_000
    }
}

impl World {
    /// A pause like SIGSTOP: the node does nothing. Its links stay up until keepalives give them
    /// up, and what comes in meanwhile is handled at the end of it.
    pub fn pause(&mut self, node: usize) {
        if self.nodes[node].life.is_none() || self.nodes[node].is_paused() {
            return;
        }
        self.nodes[node].paused = Some(self.now);
        for guest in self.guests(node) {
            self.nodes[guest].paused = Some(self.now);
        }
        self.trace.headline(self.now, &format!("{} is paused", self.nodes[node].name));
        self.coverage.add("paused");
        let wires: Vec<usize> = self.wires_of(node).collect();
        wires.into_iter().for_each(|wire| self.watch_silence(wire));
    }

    /// The end of a pause.
    pub fn resume_process(&mut self, node: usize) {
        let Some(since) = self.nodes[node].paused.take() else { return };
        self.trace.headline(self.now, &format!("{} goes on", self.nodes[node].name));
        self.coverage.add_if("paused for more than 30 s", self.now - since > Span::secs(30));
        let mut deferred = std::mem::take(&mut self.nodes[node].deferred);
        for guest in self.guests(node) {
            self.nodes[guest].paused = None;
            deferred.append(&mut self.nodes[guest].deferred);
        }
        let heard = |e: &Event| matches!(e, Event::Read { .. } | Event::Think { .. });
        self.coverage.add_if("went on with queued input", deferred.iter().any(heard));
        for event in deferred {
            self.at(self.now, event);
        }
        let wires: Vec<usize> = self.wires_of(node).collect();
        wires.into_iter().for_each(|wire| self.after(Span::millis(100), Event::Dial { wire }));
    }

    /// The process dies when it comes to this point, so many times, and starts again each time.
    pub fn crash_at(&mut self, node: usize, point: CrashPoint, power: Power, times: u32) {
        self.nodes[node].doom = Some(Doom { point, power, left: times });
        if point == CrashPoint::Starting && self.nodes[node].is_up() {
            self.kill(node, power);
            self.after(Span::millis(1), Event::Restart { node });
        }
    }

    /// Whether the process dies here and now.
    pub(crate) fn dies_at(&mut self, node: usize, point: CrashPoint) -> bool {
        let Some(doom) = self.nodes[node].doom.filter(|d| d.point == point) else { return false };
        let left = doom.left - 1;
        self.nodes[node].doom = (left > 0).then_some(Doom { left, ..doom });
        self.coverage.add(point.name());
        self.trace.headline(self.now, &format!("{} dies {point}", self.nodes[node].name));
        self.kill(node, doom.power);
        self.after(Span::millis(1), Event::Restart { node });
        true
    }

    /// The wall clock of a node jumps.
    pub fn jump_clock(&mut self, node: usize, ms: i64) {
        let line = format!("the clock of {} jumps by {ms} ms", self.nodes[node].name);
        self.trace.headline(self.now, &line);
        self.coverage.add(if ms < 0 { "clock jumped back" } else { "clock jumped ahead" });
        self.nodes[node].clock.ahead_ms += ms;
        self.nodes[node].clock_set = Some(self.now);
    }

    /// The wall clock of a node runs too fast by so many millionths, or too slow.
    pub fn drift_clock(&mut self, node: usize, ppm: i64) {
        let line = format!("the clock of {} drifts by {ppm} ppm", self.nodes[node].name);
        self.trace.headline(self.now, &line);
        self.coverage.add("clock drifted");
        let ahead_ms = self.nodes[node].clock.ahead_ms(self.now);
        self.nodes[node].clock = Clock { ahead_ms, ppm, since: self.now };
        self.nodes[node].clock_set = Some(self.now);
    }

    /// The end of all faults of links, disks, clocks and processes. Who is dead stays dead until
    /// somebody starts it.
    pub fn heal_everything(&mut self) {
        if let Some(shared) = &self.shared {
            shared.db.heal();
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.forget_faults();
            self.nodes[node].doom = None;
            self.nodes[node].clock = Clock::default();
            if self.nodes[node].clock_set.is_some() {
                self.nodes[node].clock_set = Some(self.now);
            }
            self.resume_process(node);
        }
        for wire in 0..self.wires.len() {
            self.throttle(wire, Span::ZERO);
            self.slow(wire, Span::ZERO);
            self.let_go(wire);
            self.heal(wire);
        }
    }
}
