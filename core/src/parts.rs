//! The log's parts: where one ends, when the oldest can go, and when its survivors are carried
//! forward.
//!
//! A part ends with a checkpoint, so a restart reads one checkpoint and at most one part. Only a
//! prefix of the log is ever deleted: when nothing in the oldest part is alive, it goes; when the
//! dead bytes of the whole log pass the live ones by a slack, what is alive in the oldest part is
//! written again. When little else is written for a while, the log is tidied: much less that is
//! dead is tolerated then, and least when nothing is (ADR 0028, ADR 0035).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::effect::{Effect, Effects};
use crate::ids::RecordNumber;
use crate::limits::Limits;
use crate::record::Entry;
use crate::remember::Remembered;
use crate::tally::Tally;
use crate::time::{Mono, Span, Wall};

/// How often housekeeping on wall time looks around at the latest.
const WALL_TICK: Span = Span::secs(60);

/// When little was written for so long, nobody is held up by the log being tidied.
const QUIET: Span = Span::secs(10);

/// Bytes in such a span that are little.
const QUIET_BYTES: u64 = 4 << 20;

/// How often an idle log is tidied thoroughly, at most: each time what is alive may be written again, whatever
/// little is dead beside it.
const THOROUGH: Span = Span::secs(3_600);

/// Bytes of a checkpoint's piece.
const PIECE_BYTES: usize = 1 << 20;

/// One part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) number: u64,
    pub(crate) first: RecordNumber,
    pub(crate) bytes: u64,
}

/// All parts, oldest first; the last one is being written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Parts {
    parts: VecDeque<Part>,
    /// A checkpoint being committed: its first and last record.
    pending: Option<(RecordNumber, RecordNumber)>,
    /// What a truncation waits for, and where it cuts.
    cutting: Option<(RecordNumber, RecordNumber, u64)>,
    cut: RecordNumber,
    /// The first record that the store kept at the start.
    kept: RecordNumber,
    /// The history holds everything below, synced.
    history: RecordNumber,
    /// The last checkpoint's size: large ones are made less often.
    checkpoint_bytes: u64,
    /// The bytes written in spans of [`QUIET`] by those who use the log.
    used: Tally,
    /// Bytes of the records to come that nobody has asked for: what is carried, and checkpoints.
    unasked: u64,
    /// The tidying under way, with the last part that it goes over.
    tidying: Option<(Tidying, u64)>,
    /// Dead bytes that the last tidying of each kind left: none of them go by tidying again.
    untidy: [u64; 2],
    /// When the last thorough one began.
    thorough_at: Option<Mono>,
}

/// How much that is dead a tidying leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Tidying {
    /// While little is written: what is alive is not written again and again for the little that each new
    /// object leaves dead.
    Usual,
    /// When nothing is written any more.
    Thorough,
}

impl Tidying {
    /// Of the slack that is tolerated while the log is in use, and of the live bytes, what may be dead:
    /// these shares of both.
    fn shares(self) -> (u64, u64) {
        match self {
            Self::Usual => (4, 8),
            Self::Thorough => (64, 64),
        }
    }
}

impl Parts {
    pub(crate) fn new(first: RecordNumber) -> Self {
        Self {
            parts: VecDeque::from([Part { number: 0, first, bytes: 0 }]),
            pending: None,
            cutting: None,
            cut: first,
            kept: first,
            history: RecordNumber(u64::MAX),
            checkpoint_bytes: 0,
            used: Tally::default(),
            unasked: 0,
            tidying: None,
            untidy: [0; 2],
            thorough_at: None,
        }
    }

    /// Where the history stands when this core starts.
    pub(crate) fn restore_history(&mut self, number: RecordNumber) {
        self.history = number;
    }

    /// The first record that the store keeps.
    pub(crate) fn kept(&self) -> RecordNumber {
        self.kept
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter()
    }

    pub(crate) fn current(&self) -> Part {
        *self.parts.back().expect("there is always a part being written")
    }

    /// The core starts: it counts as used for a while.
    pub(crate) fn begin_use(&mut self, now: Mono) {
        self.used = Tally::begun(now, QUIET_BYTES);
    }

    /// So much will be written that nobody has asked for.
    pub(crate) fn note_unasked(&mut self, bytes: u64) {
        self.unasked += bytes;
    }

    /// A record with so many bytes of entries was closed: what of it is not unasked, somebody has asked for.
    pub(crate) fn note_use(&mut self, bytes: u64, now: Mono) {
        let used = bytes.saturating_sub(self.unasked);
        self.unasked = self.unasked.saturating_sub(bytes);
        self.used.add(used, QUIET, now);
    }

    /// Whether anything was written of late.
    fn is_used(&self, now: Mono) -> bool {
        self.used.of_late(QUIET, now) > 0
    }

    /// Whether little was written of late.
    fn is_quiet(&self, now: Mono) -> bool {
        self.used.of_late(QUIET, now) < QUIET_BYTES
    }

    pub(crate) fn grow(&mut self, bytes: u64) {
        self.parts.back_mut().expect("there is always a part being written").bytes += bytes;
    }

    pub(crate) fn is_full(&self, remembered: &Remembered, limits: &Limits) -> bool {
        let enough = limits.part_bytes.max(4 * self.checkpoint_bytes);
        self.pending.is_none()
            && (self.current().bytes >= enough || remembered.recent_len() >= limits.part_ids)
    }

    pub(crate) fn restore(&mut self, parts: Vec<Part>) {
        self.cut = parts[0].first;
        self.parts = parts.into();
    }

    /// A checkpoint of so many bytes was found, during a replay.
    pub(crate) fn restore_checkpoint(&mut self, bytes: u64) {
        self.checkpoint_bytes = bytes;
    }

    /// Starts a new part at a record, during a replay.
    pub(crate) fn begin(&mut self, first: RecordNumber) {
        let number = self.current().number + 1;
        self.parts.push_back(Part { number, first, bytes: 0 });
    }

    pub(crate) fn end_of(&self, part: u64) -> Option<RecordNumber> {
        let i = self.parts.iter().position(|p| p.number == part)?;
        self.parts.get(i + 1).map(|next| next.first)
    }

    /// The part that holds a record.
    fn of(&self, record: RecordNumber) -> Option<Part> {
        let behind = self.parts.partition_point(|p| p.first <= record);
        behind.checked_sub(1).map(|i| self.parts[i])
    }

    /// Bytes from a part on.
    fn bytes_from(&self, part: u64) -> u64 {
        self.parts.iter().filter(|p| p.number >= part).map(|p| p.bytes).sum()
    }

    /// Whether the oldest part with something alive should be carried because the log is to be
    /// tidied: so many bytes from it on are dead, beside so many that would stay. Tidying goes over
    /// each part once, and begins again only when more is dead than the last time left.
    fn should_tidy(
        &mut self,
        oldest: Part,
        (dead, packed): (u64, u64),
        slack: u64,
        now: Mono,
    ) -> bool {
        // Tidying makes parts, and each ends with a checkpoint.
        let made = 4 * self.checkpoint_bytes;
        let tolerated = |how: Tidying| {
            let (of_slack, of_packed) = how.shares();
            slack / of_slack + packed / of_packed + made
        };
        self.untidy = self.untidy.map(|left| left.min(dead));
        if let Some((how, last)) = self.tidying {
            if oldest.number <= last && dead > tolerated(how) {
                return true;
            }
            self.end_tidying(dead);
            return false;
        }
        let begins = [Tidying::Usual, Tidying::Thorough].into_iter().find(|how| {
            self.may_tidy(*how, now) && dead > tolerated(*how) + self.untidy[*how as usize]
        });
        let Some(how) = begins else { return false };
        self.tidying = Some((how, self.current().number - 1));
        if how == Tidying::Thorough {
            self.thorough_at = Some(now);
        }
        true
    }

    fn may_tidy(&self, how: Tidying, now: Mono) -> bool {
        match how {
            Tidying::Usual => self.is_quiet(now),
            Tidying::Thorough => {
                !self.is_used(now) && self.thorough_at.is_none_or(|at| now - at >= THOROUGH)
            }
        }
    }

    /// The tidying under way, if there is one, is over, and leaves so much dead.
    fn end_tidying(&mut self, dead: u64) {
        if let Some((how, _)) = self.tidying.take() {
            self.untidy[Tidying::Usual as usize] = dead;
            if how == Tidying::Thorough {
                self.untidy[how as usize] = dead;
            }
        }
    }
}

impl Core {
    /// Ends the part that is being written: its ids go to the index, a checkpoint follows.
    pub(crate) fn finish_part(&mut self) {
        self.lane.reserve(usize::MAX / 2);
        let first = self.lane.ticket();
        let part = self.parts.current().number;
        self.begin_to_end(part, first);
        self.parts.begin(first);
        let bytes = self.encode_checkpoint();
        self.parts.checkpoint_bytes = bytes.len() as u64;
        let before = self.lane.uncommitted();
        let of = u32::try_from(bytes.len().div_ceil(PIECE_BYTES)).expect("checkpoints are bounded");
        for index in 0..of {
            let start = index as usize * PIECE_BYTES;
            let piece = bytes.slice(start..bytes.len().min(start + PIECE_BYTES));
            self.lane.reserve(piece.len());
            let layout = crate::checkpoint::LAYOUT;
            self.lane.write(&Entry::Checkpoint { index, of, piece, layout });
        }
        self.parts.note_unasked(self.lane.uncommitted() - before);
        let last = self.lane.urge();
        self.lane.reserve(usize::MAX / 2);
        self.parts.pending = Some((first, last));
    }

    /// The part that is being written ends before `first`. Its ids are those that are remembered, and
    /// those of objects in memory, which are remembered when they leave it.
    pub(crate) fn begin_to_end(&mut self, part: u64, first: RecordNumber) {
        self.go_on_ending(true);
        let begin = self.parts.current().first;
        let live = self.memory.iter().map(|(_, live)| (live.object.id, live.at));
        let written_here = live.filter(|(_, at)| at.record >= begin);
        self.remembered.begin_to_end(part, first, written_here);
    }

    /// Goes on with the part that is ending, by a step or as far as it goes. When all of its ids are ready
    /// and its records are durable, they go to the index: what that says of a part, the log must say.
    pub(crate) fn go_on_ending(&mut self, all: bool) {
        let Some(end) = self.remembered.ending_before() else { return };
        if let Some(part) = self.remembered.go_on_ending(all)
            && self.lane.is_committed(RecordNumber(end.0 - 1))
        {
            self.resolving.part_ended(part, |id| self.remembered.in_former(id).is_some());
            self.later.push(Effect::IndexPart(Box::new(self.remembered.end_part())));
        }
    }

    /// What a committed record makes possible: a checkpoint counts, a cut may be made.
    pub(crate) fn on_truncation_committed(&mut self, number: RecordNumber, fx: &mut Effects) {
        if let Some((first, last)) = self.parts.pending
            && number >= last
        {
            self.parts.pending = None;
            self.lane.set_checkpoint(first);
        }
        if let Some((wait, below, part)) = self.parts.cutting
            && number >= wait
        {
            self.parts.cutting = None;
            self.parts.cut = below;
            self.remembered.drop_below(part);
            fx.push(Effect::Truncate { below, part });
        }
    }

    pub(crate) fn handle_history_stands(&mut self, number: RecordNumber, fx: &mut Effects) {
        self.parts.history = number;
        self.tend_log(fx);
    }

    /// Gives up the oldest parts when nothing in them is needed.
    pub(crate) fn tend_log(&mut self, _fx: &mut Effects) {
        if self.parts.parts.len() < 2 || self.parts.cutting.is_some() {
            return;
        }
        let needed = self.first_needed();
        while self.parts.parts.len() > 1 && self.parts.parts[1].first <= needed {
            self.parts.parts.pop_front();
        }
        let oldest = self.parts.parts[0];
        if oldest.first > self.parts.cut {
            // What was carried forward out of the part is durable with the open record at the
            // latest.
            let wait =
                if self.lane.has_riders() { self.lane.urge() } else { self.lane.committed().0 };
            if self.lane.is_committed(wait) {
                self.parts.cut = oldest.first;
                self.remembered.drop_below(oldest.number);
                let (below, part) = (oldest.first, oldest.number);
                return self.later.push(Effect::Truncate { below, part });
            }
            self.parts.cutting = Some((wait, oldest.first, oldest.number));
        }
    }

    /// The first record that something still needs.
    fn first_needed(&self) -> RecordNumber {
        let cut = self.parts.cut;
        let alive = self.catalogue.first_from(cut).unwrap_or_else(|| self.lane.ticket());
        let read = self.loads.lowest().unwrap_or(alive);
        alive.min(self.lane.checkpoint()).min(self.parts.history).min(read)
    }

    /// Carries the survivors of the oldest part that has any forward when the log holds too much
    /// that is dead, or too many records with a little in them.
    fn consider_carrying(&mut self, fx: &mut Effects) {
        let Some(oldest) = self.oldest_with_survivors() else { return };
        if self.scans.is_carrying() {
            return;
        }
        let (all, live) = (self.parts.bytes_from(oldest.number), self.catalogue.live_bytes());
        if all > 2 * live + self.limits.carry_slack_bytes
            || self.pages_are_many()
            || self.should_tidy(oldest)
        {
            self.carry_part(oldest, fx);
        }
    }

    /// The survivors of a part are written anew. While the log is tidied the next part follows.
    pub(crate) fn on_carried(&mut self, fx: &mut Effects) {
        self.catalogue.recount();
        if self.parts.tidying.is_none() {
            return;
        }
        match self.oldest_with_survivors() {
            Some(oldest) if self.should_tidy(oldest) => self.carry_part(oldest, fx),
            Some(_) => {}
            // All that is alive stands in the part that is being written.
            None => self.parts.end_tidying(0),
        }
    }

    /// The oldest finished part with something alive in it.
    fn oldest_with_survivors(&self) -> Option<Part> {
        let alive = self.catalogue.first_from(self.parts.cut)?;
        self.parts.of(alive).filter(|part| part.number < self.parts.current().number)
    }

    fn should_tidy(&mut self, oldest: Part) -> bool {
        let packed = self.catalogue.packed_bytes();
        let dead = self.parts.bytes_from(oldest.number).saturating_sub(packed);
        let slack = self.limits.carry_slack_bytes;
        self.parts.should_tidy(oldest, (dead, packed), slack, self.now.mono)
    }

    fn carry_part(&mut self, part: Part, fx: &mut Effects) {
        let end = self.parts.end_of(part.number).expect("a later part stands behind it");
        self.start_carry(end, fx);
    }

    /// Housekeeping on wall time.
    pub(crate) fn on_wall(&mut self, fx: &mut Effects) {
        self.forget_old_ends();
        self.forget_old_shadows();
        self.expire_in_memory(fx);
        self.scan_due(fx);
        self.scan_old_parked(fx);
        self.catalogue.recount();
        self.consider_carrying(fx);
        let in_use = self.parts.parts.len() > 1 && self.parts.is_used(self.now.mono);
        let mut next = self.now.wall + if in_use { QUIET } else { WALL_TICK };
        for at in [
            self.due_pages.first().map(|(at, _)| *at),
            self.expiring.first().map(|(at, _)| *at).filter(|_| self.clock_is_trusted()),
        ]
        .into_iter()
        .flatten()
        {
            next = next.min(at.max(Wall(self.now.wall.0 + 1)));
        }
        self.look_at_wall(next);
    }

    /// The last checkpoint may name ends and shadows in records that have been cut off since: they
    /// had been forgotten, or carried forward, before the cut.
    pub(crate) fn drop_cut_pages(&mut self) {
        use crate::catalogue::Shelf;
        let kept = self.parts.kept();
        let cut: Vec<_> =
            self.catalogue.iter().map(|(n, _)| *n).take_while(|n| *n < kept).collect();
        for record in cut {
            self.catalogue.take_all(record, Shelf::Ended);
            self.catalogue.take_all(record, Shelf::Shadow);
            self.remembered.drop_ends(record);
        }
    }

    fn forget_old_ends(&mut self) {
        let before = Wall(self.now.wall.0.saturating_sub(self.limits.idempotency.as_millis()));
        while let Some(record) = self.remembered.next_forgotten(before, self.limits.idempotency_ids)
        {
            self.catalogue.take_all(record, crate::catalogue::Shelf::Ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: u64 = 96 << 20;
    const LIVE: u64 = 80 << 20;

    fn parts() -> (Parts, Part) {
        let mut parts = Parts::new(RecordNumber(1));
        parts.begin(RecordNumber(100));
        let oldest = parts.parts[0];
        (parts, oldest)
    }

    fn seconds(n: u64) -> Mono {
        Mono(0) + Span::secs(n)
    }

    #[test]
    fn less_may_be_dead_when_nothing_is_written_any_more() {
        let (mut parts, oldest) = parts();
        parts.note_use(1 << 20, seconds(100));
        let mut tidies = |dead, at| parts.should_tidy(oldest, (dead, LIVE), SLACK, at);
        assert!(!tidies(30 << 20, seconds(101)), "a little was written, and a little is dead");
        assert!(tidies(40 << 20, seconds(101)), "much is dead");
        assert!(!tidies(30 << 20, seconds(102)), "and now it is not");
        assert!(tidies(30 << 20, seconds(130)), "nothing is written any more");
        assert!(tidies(4 << 20, seconds(131)), "it goes on");
        assert!(!tidies(2 << 20, seconds(132)), "until little is dead");
        assert!(!tidies(20 << 20, seconds(3_000)), "once an hour is enough");
        assert!(tidies(20 << 20, seconds(3_800)));
    }

    #[test]
    fn tidying_comes_to_rest_whatever_it_leaves() {
        let (mut parts, oldest) = parts();
        let last = Part { number: oldest.number + 1, ..oldest };
        let hours = |n: u64| seconds(n * 3_600);
        let mut tidies = |part, dead, at| parts.should_tidy(part, (dead, LIVE), SLACK, at);
        assert!(tidies(oldest, 30 << 20, hours(1)));
        assert!(!tidies(last, 30 << 20, hours(1)), "it went over each part");
        for n in 2..9 {
            // What it wrote is counted, and a little is dead more.
            assert!(!tidies(last, 32 << 20, hours(n)), "after {n} hours");
        }
        assert!(tidies(oldest, 34 << 20, hours(9)), "more is dead");
    }

    #[test]
    fn a_tidying_that_leaves_nothing_to_carry_is_over() {
        let (mut parts, oldest) = parts();
        assert!(parts.should_tidy(oldest, (50 << 20, LIVE), SLACK, seconds(100)));
        parts.end_tidying(0);
        assert!(parts.tidying.is_none());
        assert!(parts.should_tidy(oldest, (50 << 20, LIVE), SLACK, seconds(110)), "another one");
    }

    #[test]
    fn what_nobody_asked_for_is_not_use() {
        let (mut parts, _) = parts();
        parts.note_unasked(300);
        parts.note_use(100, seconds(10));
        parts.note_use(200, seconds(10));
        assert!(!parts.is_used(seconds(11)));
        parts.note_use(1, seconds(11));
        assert!(parts.is_used(seconds(12)) && !parts.is_used(seconds(40)));
    }
}
