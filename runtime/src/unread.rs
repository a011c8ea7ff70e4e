//! Finished parts of the log whose ids the index does not hold: nobody has read those of an adopted lane,
//! and a file of the index may be damaged, or could not be written. What the lane holds is given away
//! without them; only who asks for an id that may be there, as a repeated settle does, has to wait until
//! the records of that part have been read, and is answered from these. Then the index gets its ids,
//! as it has those of every part.

use std::collections::BTreeMap;

use bytes::Bytes;
use dpc_core::effect::PartIds;
use dpc_core::ids::{Loc, ObjectId, RecordNumber};
use dpc_core::record::{entries, mentions};

/// A finished part of the log whose ids the index does not hold: its records are read for them.
pub(crate) struct Unread {
    pub(crate) part: u64,
    pub(crate) first: RecordNumber,
    /// The first record behind it.
    pub(crate) end: RecordNumber,
}

/// See the module.
#[derive(Default)]
pub(crate) struct UnreadParts {
    parts: BTreeMap<u64, Part>,
    /// The part of which records are being read: one at a time.
    reading: Option<u64>,
}

struct Part {
    end: RecordNumber,
    /// Where to read on.
    next: RecordNumber,
    /// What was read so far, in the order of the log.
    mentions: Vec<(ObjectId, Loc)>,
    /// Who waits for it.
    waiting: Vec<ObjectId>,
}

/// A part that has been read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its ids in order, for the index. There may be none.
    pub(crate) ids: PartIds,
    /// Those that were asked for meanwhile, and where they were mentioned.
    pub(crate) answers: Vec<(ObjectId, Option<Loc>)>,
}

impl UnreadParts {
    /// Nothing of these has been read.
    pub(crate) fn of(unread: Vec<Unread>) -> Self {
        let parts = unread.into_iter().map(|unread| (unread.part, Part::of(&unread))).collect();
        Self { parts, ..Self::default() }
    }

    /// The index has no answer for ids of a part: its records are read for them. Says whether that is new.
    pub(crate) fn lose(&mut self, unread: &Unread) -> bool {
        let is_new = !self.has(unread.part);
        if is_new {
            self.parts.insert(unread.part, Part::of(unread));
        }
        is_new
    }

    /// Whether a part is one of these.
    pub(crate) fn has(&self, part: u64) -> bool {
        self.parts.contains_key(&part)
    }

    /// Keeps a question for an id until its part has been read, if it has not been yet.
    pub(crate) fn keeps(&mut self, part: u64, id: ObjectId) -> bool {
        self.parts.get_mut(&part).map(|part| part.waiting.push(id)).is_some()
    }

    /// The part to read on, and where, if somebody waits and nothing is being read.
    pub(crate) fn next_read(&mut self) -> Option<(u64, RecordNumber)> {
        if self.reading.is_some() {
            return None;
        }
        let (number, part) = self.parts.iter().rev().find(|(_, part)| !part.waiting.is_empty())?;
        self.reading = Some(*number);
        Some((*number, part.next))
    }

    /// Records of the part that is being read. Says what is known when they were the last ones; only
    /// mentions count that `stands` says still count.
    ///
    /// # Errors
    ///
    /// Which record cannot be understood, or is missing.
    pub(crate) fn take(
        &mut self,
        number: u64,
        records: &[(RecordNumber, Bytes)],
        stands: impl Fn(Loc) -> bool,
    ) -> Result<Option<Known>, String> {
        self.reading = None;
        // It was cut off meanwhile: whoever waited has been answered.
        let Some(part) = self.parts.get_mut(&number) else { return Ok(None) };
        if records.is_empty() {
            return Err(format!("record {} is missing", part.next));
        }
        for (at, record) in records.iter().filter(|(at, _)| *at < part.end) {
            let (_, found) = entries(record).map_err(|bad| format!("record {at}: {bad}"))?;
            part.mentions.extend(mentions(&found));
            part.next = at.next();
        }
        if part.next < part.end {
            return Ok(None);
        }
        let Part { end, mut mentions, waiting, .. } =
            self.parts.remove(&number).expect("just looked at");
        mentions.retain(|(_, at)| stands(*at));
        let ids = PartIds::of(number, end, mentions);
        let place = |id| ids.ids.binary_search_by_key(&id, |(id, _)| *id).ok();
        let answer = |id| (id, place(id).map(|at| ids.ids[at].1));
        let answers = waiting.into_iter().map(answer).collect();
        Ok(Some(Known { ids, answers }))
    }

    /// The log is cut below a part. Gives what was asked for there: nothing is known of it any more.
    pub(crate) fn truncate(&mut self, below: u64) -> Vec<(u64, ObjectId)> {
        let kept = self.parts.split_off(&below);
        let gone = std::mem::replace(&mut self.parts, kept);
        let of = |(number, part): (u64, Part)| part.waiting.into_iter().map(move |id| (number, id));
        gone.into_iter().flat_map(of).collect()
    }
}

impl Part {
    fn of(unread: &Unread) -> Self {
        let Unread { part: _, first, end } = *unread;
        Self { end, next: first, mentions: Vec::new(), waiting: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
