//! Ids that core asks for: the index on the disk answers, or the records of their part of the log do.

use bytes::Bytes;
use dpc_core::ids::{Loc, ObjectId, RecordNumber};
use dpc_core::shared::SharedLane;
use dpc_core::store::StoreError;

use super::{Completed, Driver, Halt};
use crate::edge::Index;
use crate::unread::{Known, Unread};

/// Records that are read at once for ids that the index does not hold: appends wait behind them.
const UNREAD_BYTES: usize = 1 << 20;

impl<S: SharedLane, I: Index> Driver<S, I> {
    /// Asks the index, or waits for the records of the part if the index does not hold it.
    pub(super) fn look_up(&mut self, part: u64, id: ObjectId) {
        if self.edges.unread.keeps(part, id) {
            return self.read_unread();
        }
        let done = self.done(move |loc| Completed::LookedUp(part, id, loc));
        self.edges.index.look_up(part, id, done);
    }

    /// Answers what was asked of a part, as the index would.
    fn answer(&self, part: u64, id: ObjectId, loc: Option<Loc>) {
        self.done(move |loc| Completed::LookedUp(part, id, loc))(Ok(loc));
    }

    /// Reads on for the ids of a part, if somebody waits for them.
    fn read_unread(&mut self) {
        if let Some((part, from)) = self.edges.unread.next_read() {
            let done = self.done(move |records| Completed::Unread(part, records));
            self.edges.store.read(from, UNREAD_BYTES, done);
        }
    }

    /// The index has no answer for an id of a part: the part's records are read for who asked.
    pub(super) fn read_lost(&mut self, part: u64, id: ObjectId, error: &StoreError) {
        let mut parts = self.core.finished_parts().into_iter();
        let Some((_, first, end)) = parts.find(|(number, ..)| *number == part) else {
            // The log was cut meanwhile: nothing is known of it any more.
            return self.answer(part, id, None);
        };
        if self.edges.unread.lose(&Unread { part, first: first.max(self.first), end }) {
            tracing::warn!(part, %error, "its ids are read from the log again");
        }
        self.look_up(part, id);
    }

    /// Records of a part whose ids somebody waits for.
    pub(super) fn take_unread(
        &mut self,
        part: u64,
        records: &[(RecordNumber, Bytes)],
    ) -> Result<(), Halt> {
        let core = &self.core;
        let known = self.edges.unread.take(part, records, |at| core.is_needed(at))?;
        if let Some(Known { ids, answers }) = known {
            self.edges.index.put(ids);
            answers.into_iter().for_each(|(id, loc)| self.answer(part, id, loc));
        }
        self.read_unread();
        Ok(())
    }

    /// The log is cut below a part: its ids go, and who asked for one is told that nothing is known.
    pub(super) fn cut_ids(&mut self, below: u64) {
        self.edges.index.truncate(below);
        for (part, id) in self.edges.unread.truncate(below) {
            self.answer(part, id, None);
        }
    }
}
