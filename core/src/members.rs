//! Who lives, whose lanes are orphaned, and who takes them over: the membership of nodes that
//! share a store (design: section 6, R6, R8). One machine per process, beside its cores.
//!
//! It beats, reads the tables, and counts on its own clock for how long each other incarnation has
//! shown no new beat. Only successful reads count, and a gap between two of them counts for no
//! more than the usual one, so an observer that was cut off or stopped declares nobody dead, and
//! neither does anybody right after the store was away. Whoever has been silent for `dead_after`
//! and does not answer a direct probe is declared dead, lane by lane, by compare-and-set.
//!
//! A dead lane is claimed by the survivors, the most suitable first by rendezvous hash: each waits
//! one beat longer than the one before it and none waits for another. Two that claim at once are
//! told apart by the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::ids::{Epoch, Incarnation, LaneId};
use crate::shared::{Changed, LaneRow, LaneState, Owner, Table};
use crate::time::{Mono, Span};

/// What a process needs to know of itself and of time.
#[derive(Clone, Debug)]
pub struct Ways {
    /// This process.
    pub me: Incarnation,
    /// How often it beats and reads.
    pub heartbeat: Span,
    /// Silence after which an owner is taken for dead.
    pub dead_after: Span,
    /// Most lanes of others that it runs at once.
    pub adopted_max: usize,
}

/// What it is told.
#[derive(Debug)]
pub enum Heard {
    /// A moment of [`Members::next_wake`] has come, or may have.
    Wake,
    /// A beat has been written, or not.
    Beaten,
    /// The tables have been read, or not.
    Table(Option<Table>),
    /// A probe was answered, or not.
    Probed(Incarnation, bool),
    /// How a verdict ended.
    Declared(LaneId, Changed),
    /// This process runs a lane now, under this epoch.
    Runs(LaneId, Epoch),
    /// A claim came to nothing.
    NotClaimed(LaneId),
    /// This process runs a lane no more.
    Ended(LaneId),
}

/// What follows, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Write this beat, and say [`Heard::Beaten`].
    Beat(u64),
    /// Read the tables, and say [`Heard::Table`].
    Read,
    /// Ask a process directly whether it lives, and say [`Heard::Probed`].
    Probe(Owner),
    /// Declare a lane's owner dead, and say [`Heard::Declared`].
    DeclareDead(LaneId, Incarnation, Epoch),
    /// Claim a lane from this owner at this epoch, and say [`Heard::Runs`] or
    /// [`Heard::NotClaimed`].
    Claim(LaneId, Incarnation, Epoch),
    /// A lane that runs here has another owner, or its owner was declared dead.
    Fenced(LaneId, Epoch),
    /// So many dead lanes wait, and this process runs as many as it may (`ADOPTION_LIMIT`). Zero
    /// ends the alarm.
    TooMany(usize),
}

/// Another process.
#[derive(Debug)]
struct Other {
    beat: u64,
    /// Silence, counted over successful reads.
    quiet: Span,
    probing: bool,
}

/// A dead lane.
#[derive(Debug)]
struct Orphan {
    row: LaneRow,
    /// When this process may claim it.
    turn: Mono,
}

/// The machine.
#[derive(Debug)]
pub struct Members {
    ways: Ways,
    now: Mono,
    beat: u64,
    beat_at: Mono,
    beating: bool,
    read_at: Mono,
    /// When the read under way was sent.
    reading: Option<Mono>,
    /// When the last successful read was sent.
    last_read: Option<Mono>,
    table: Table,
    others: BTreeMap<Incarnation, Other>,
    orphans: BTreeMap<LaneId, Orphan>,
    declaring: BTreeSet<LaneId>,
    claiming: BTreeSet<LaneId>,
    running: BTreeMap<LaneId, Epoch>,
    /// The lane of this process itself.
    own: LaneId,
    alarm: usize,
}

impl Members {
    /// The membership of a process that runs its own lane, at this epoch.
    pub fn new(ways: Ways, own: LaneId, epoch: Epoch, now: Mono) -> Self {
        Self {
            ways,
            now,
            beat: 0,
            beat_at: now,
            beating: false,
            read_at: now,
            reading: None,
            last_read: None,
            table: Table::default(),
            others: BTreeMap::new(),
            orphans: BTreeMap::new(),
            declaring: BTreeSet::new(),
            claiming: BTreeSet::new(),
            running: BTreeMap::from([(own, epoch)]),
            own,
            alarm: 0,
        }
    }

    /// This process has beaten so often before it took part, while it read its lane: others count
    /// only numbers that grow.
    pub fn has_beaten(&mut self, count: u64) {
        self.beat = self.beat.max(count);
    }

    /// When to say [`Heard::Wake`] at the latest.
    pub fn next_wake(&self) -> Mono {
        let beat = (!self.beating).then_some(self.beat_at);
        let read = self.reading.is_none().then_some(self.read_at);
        let free = self.adopted() + self.claiming.len() < self.ways.adopted_max;
        let turns = self.orphans.iter().filter(|(lane, _)| free && !self.claiming.contains(lane));
        let turns = turns.map(|(_, orphan)| orphan.turn);
        beat.into_iter().chain(read).chain(turns).min().unwrap_or(self.now + self.ways.heartbeat)
    }

    /// A lane as the last read of the list had it, which may be old: for whoever is in doubt about
    /// one of its transfers and has to find its owner.
    pub fn lane(&self, lane: LaneId) -> Option<&LaneRow> {
        self.table.lanes.get(&lane)
    }

    /// The lanes that run here.
    pub fn running(&self) -> impl Iterator<Item = LaneId> {
        self.running.keys().copied()
    }

    fn adopted(&self) -> usize {
        self.running.keys().filter(|lane| **lane != self.own).count()
    }

    /// Takes in one thing; what follows is appended to `moves`. `now` never goes back.
    pub fn handle(&mut self, now: Mono, heard: Heard, moves: &mut Vec<Move>) {
        assert!(now >= self.now, "the monotonic clock goes forward");
        self.now = now;
        match heard {
            Heard::Wake => {}
            Heard::Beaten => self.beating = false,
            Heard::Table(table) => self.on_table(table, moves),
            Heard::Probed(other, answered) => self.on_probed(other, answered, moves),
            Heard::Declared(lane, changed) => self.on_declared(lane, &changed),
            Heard::Runs(lane, epoch) => {
                self.claiming.remove(&lane);
                self.orphans.remove(&lane);
                self.running.insert(lane, epoch);
            }
            Heard::NotClaimed(lane) => {
                self.claiming.remove(&lane);
                self.orphans.remove(&lane);
            }
            Heard::Ended(lane) => {
                self.running.remove(&lane);
            }
        }
        self.take_turns(moves);
        self.keep_time(moves);
    }

    fn keep_time(&mut self, moves: &mut Vec<Move>) {
        if !self.beating && self.beat_at <= self.now {
            self.beat += 1;
            (self.beating, self.beat_at) = (true, self.now + self.ways.heartbeat);
            moves.push(Move::Beat(self.beat));
        }
        if self.reading.is_none() && self.read_at <= self.now {
            (self.reading, self.read_at) = (Some(self.now), self.now + self.ways.heartbeat);
            moves.push(Move::Read);
        }
    }

    fn on_table(&mut self, table: Option<Table>, moves: &mut Vec<Move>) {
        let sent = self.reading.take();
        let (Some(table), Some(sent)) = (table, sent) else { return };
        // A longer gap was not watched: it says nothing about the others.
        let usual = self.ways.heartbeat.times(2);
        let passed = self.last_read.map_or(Span::ZERO, |last| (sent - last).min(usual));
        self.last_read = Some(sent);
        self.table = table;
        self.watch_beats(passed, moves);
        let rows: Vec<LaneRow> = self.table.lanes.values().cloned().collect();
        rows.into_iter().for_each(|row| self.look_at(row, moves));
    }

    /// Counts the silence of everybody who owns a lane.
    fn watch_beats(&mut self, passed: Span, moves: &mut Vec<Move>) {
        let owned = self.table.lanes.values().filter(|row| row.state == LaneState::Owned);
        let owners: BTreeMap<Incarnation, &Owner> = owned
            .map(|row| (row.owner.incarnation, &row.owner))
            .filter(|(incarnation, _)| *incarnation != self.ways.me)
            .collect();
        self.others.retain(|incarnation, _| owners.contains_key(incarnation));
        for (incarnation, owner) in owners {
            let beat = self.table.beats.get(&incarnation).copied().unwrap_or(0);
            let fresh = || Other { beat, quiet: Span::ZERO, probing: false };
            let other = self.others.entry(incarnation).or_insert_with(fresh);
            if beat > other.beat {
                (other.beat, other.quiet) = (beat, Span::ZERO);
                continue;
            }
            other.quiet = Span(other.quiet.0 + passed.0);
            if other.quiet >= self.ways.dead_after && !other.probing {
                other.probing = true;
                moves.push(Move::Probe(owner.clone()));
            }
        }
    }

    fn look_at(&mut self, row: LaneRow, moves: &mut Vec<Move>) {
        let mine = row.owner.incarnation == self.ways.me;
        if let Some(epoch) = self.running.get(&row.lane).copied() {
            // The list may be old: only a later state than the one that runs here is news.
            let dead = row.epoch == epoch && mine && row.state == LaneState::Dead;
            if row.epoch > epoch || dead {
                self.running.remove(&row.lane);
                moves.push(Move::Fenced(row.lane, row.epoch));
            }
            return;
        }
        let claiming = self.claiming.contains(&row.lane);
        match row.state {
            // A claim of this process that it had given up has arrived after all.
            LaneState::Owned if mine && !claiming => self.wait_turn(row, Span::ZERO),
            LaneState::Dead if !claiming => {
                let turn = self.ways.heartbeat.times(self.rank(&row));
                self.wait_turn(row, turn);
            }
            _ => {
                self.orphans.remove(&row.lane);
            }
        }
    }

    fn wait_turn(&mut self, row: LaneRow, after: Span) {
        let known = self.orphans.get(&row.lane).is_some_and(|o| o.row.epoch == row.epoch);
        if !known {
            self.orphans.insert(row.lane, Orphan { row, turn: self.now + after });
        }
    }

    /// How many of those who seem to live are more suitable for a lane: the highest hash of lane
    /// and process is first.
    fn rank(&self, row: &LaneRow) -> u64 {
        let score = |process: Incarnation| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&row.lane.0).update(&process.0.to_le_bytes());
            crate::object::first16(&hasher.finalize())
        };
        let mine = score(self.ways.me);
        let living = self.others.iter().filter(|(incarnation, other)| {
            **incarnation != row.owner.incarnation && other.quiet < self.ways.dead_after
        });
        living.filter(|(incarnation, _)| score(**incarnation) > mine).count() as u64
    }

    fn on_probed(&mut self, other: Incarnation, answered: bool, moves: &mut Vec<Move>) {
        let Some(known) = self.others.get_mut(&other) else { return };
        known.probing = false;
        if answered {
            // It lives and cannot beat. Its own fence in time looks after it.
            known.quiet = Span::ZERO;
            return;
        }
        if known.quiet < self.ways.dead_after {
            return; // It has beaten meanwhile.
        }
        let owned = self
            .table
            .lanes
            .values()
            .filter(|row| row.state == LaneState::Owned && row.owner.incarnation == other);
        for row in owned {
            if self.declaring.insert(row.lane) {
                moves.push(Move::DeclareDead(row.lane, other, row.epoch));
            }
        }
    }

    fn on_declared(&mut self, lane: LaneId, changed: &Changed) {
        self.declaring.remove(&lane);
        // Whatever came of it, the next read of the list says what stands there; a verdict that
        // stood need not wait for it.
        if let (Changed::Done, Some(row)) = (changed, self.table.lanes.get(&lane)) {
            let row = LaneRow { state: LaneState::Dead, ..row.clone() };
            let turn = self.ways.heartbeat.times(self.rank(&row));
            self.wait_turn(row, turn);
        }
    }

    /// Claims the orphans whose turn has come, as many as this process may run.
    fn take_turns(&mut self, moves: &mut Vec<Move>) {
        let mut waiting = 0;
        let due: Vec<LaneId> = self
            .orphans
            .iter()
            .filter(|(lane, o)| o.turn <= self.now && !self.claiming.contains(lane))
            .map(|(lane, _)| *lane)
            .collect();
        for lane in due {
            let row = &self.orphans[&lane].row;
            let mine = row.owner.incarnation == self.ways.me;
            let busy = self.adopted() + self.claiming.len();
            if busy >= self.ways.adopted_max && !mine {
                waiting += 1;
                continue;
            }
            let (owner, epoch) = (row.owner.incarnation, row.epoch);
            self.claiming.insert(lane);
            moves.push(Move::Claim(lane, owner, epoch));
        }
        if waiting != self.alarm {
            self.alarm = waiting;
            moves.push(Move::TooMany(waiting));
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beat(n) => write!(f, "beat {n}"),
            Self::Read => write!(f, "read the tables"),
            Self::Probe(owner) => write!(f, "probe {}", owner.name),
            Self::DeclareDead(lane, owner, epoch) => {
                write!(f, "declare dead {owner}, owner of {} at epoch {epoch}", lane.short())
            }
            Self::Claim(lane, owner, epoch) => {
                write!(f, "claim {} from {owner} at epoch {epoch}", lane.short())
            }
            Self::Fenced(lane, epoch) => {
                write!(f, "fenced: {} stands at epoch {epoch}", lane.short())
            }
            Self::TooMany(0) => write!(f, "ADOPTION_LIMIT is over"),
            Self::TooMany(n) => write!(f, "ADOPTION_LIMIT {n} dead lanes wait"),
        }
    }
}

#[cfg(test)]
mod tests;
