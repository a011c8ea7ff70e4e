//! Reads the history. Every row is checked against its seal when it is read, and a row that should
//! be there and is not is damage, too: nothing is left out silently.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use dpc_core::Wall;
use dpc_core::ids::ObjectId;
use dpc_core::limits::LIST_MAX;

use super::book::Book;
use super::db::{DbResult, Table};
use super::decided::{self, Decided};
use super::ended;
use super::index::{self, Kind, Known, Ref};
use super::rows::{Finished, List, ListQuery, Trace, TraceLine};

impl Book {
    /// The latest end of an object.
    pub(super) fn object(&mut self, id: ObjectId) -> DbResult<Option<Finished>> {
        self.close_blocks()?;
        self.find_end(id)?.map(|r| self.finished(&r)).transpose()
    }

    /// The decisions for an object, in order, whether it has ended or not.
    pub(super) fn trace(&mut self, id: ObjectId) -> DbResult<Trace> {
        self.close_blocks()?;
        let mut known = Known::default();
        for index in 0..self.parts.len() {
            known.join(self.known_in_part(index, id)?);
        }
        known.join(self.known_in_memory(id));
        let end = known.end().copied().map(|r| self.finished(&r)).transpose()?;
        let mut trace = Trace {
            lines: Vec::new(),
            dropped: known.dropped,
            detail_dropped: self.has_gap(end.as_ref()),
            kept_since: self.state.kept_since,
        };
        let mut block = None;
        for r in known.refs.iter().filter(|r| r.kind == Kind::Decided) {
            trace.lines.push(self.line(r, &mut block)?);
        }
        Ok(trace)
    }

    /// Finished objects, newest first.
    pub(super) fn list(&mut self, query: &ListQuery) -> DbResult<List> {
        self.close_blocks()?;
        let deadline = Instant::now() + LIST_TIME_MAX;
        let limit = query.limit.min(LIST_MAX) as usize;
        let mut list = List { objects: Vec::new(), complete: true };
        let mut seen = HashSet::new();
        for key in self.state.ended.clone().rev() {
            if list.objects.len() >= limit {
                break;
            }
            if Instant::now() > deadline {
                list.complete = false;
                break;
            }
            let body = self.db.row(Table::Ended, key)?;
            let bad = |bad| self.db.bad(Table::Ended, key, bad);
            // An object is pushed before it ends: a block that ended before holds none of them.
            let latest = ended::latest(&body).map_err(bad)?;
            if query.since.is_some_and(|since| latest < since) {
                continue;
            }
            let found = ended::read(&body).map_err(bad)?;
            // An end that was carried forward may be kept twice.
            let found = found.into_iter().rev().filter(|o| matches(query, o));
            let found = found.filter(|o| seen.insert((o.id, o.version, o.at)));
            list.objects.extend(found.take(limit - list.objects.len()));
        }
        Ok(list)
    }

    /// Where the latest end of an object stands.
    pub(super) fn find_end(&mut self, id: ObjectId) -> DbResult<Option<Ref>> {
        if let Some(r) = self.known_in_memory(id).end() {
            return Ok(Some(*r));
        }
        for index in (0..self.parts.len()).rev() {
            if let Some(r) = self.known_in_part(index, id)?.end() {
                return Ok(Some(*r));
            }
        }
        Ok(None)
    }

    fn known_in_memory(&self, id: ObjectId) -> Known {
        Known::gather(self.refs.iter().filter(|r| r.id == id).copied())
    }

    fn known_in_part(&self, index: usize, id: ObjectId) -> DbResult<Known> {
        let Some(page) = self.parts[index].page_of(id) else { return Ok(Known::default()) };
        let body = self.db.row(Table::Page, page)?;
        index::find(&body, id).map_err(|bad| self.db.bad(Table::Page, page, bad))
    }

    fn finished(&self, r: &Ref) -> DbResult<Finished> {
        let bad = |bad| self.db.bad(Table::Ended, r.block, bad);
        let found = ended::read(&self.db.row(Table::Ended, r.block)?).map_err(bad)?;
        let object = found.into_iter().nth(r.item as usize).filter(|object| object.id == r.id);
        object.ok_or_else(|| bad(super::pack::BadRow("an item is missing")))
    }

    /// The line of a reference; neighbouring references share the block that was read last.
    fn line(&self, r: &Ref, block: &mut Option<(u64, Vec<Decided>)>) -> DbResult<TraceLine> {
        let bad = |bad| self.db.bad(Table::Decided, r.block, bad);
        let items = match block {
            Some((key, items)) if *key == r.block => items,
            _ => {
                let body = self.db.row(Table::Decided, r.block)?;
                let items = decided::read(&body).map_err(bad)?;
                &mut block.insert((r.block, items)).1
            }
        };
        let found = items.get(r.item as usize).cloned();
        Ok(found.ok_or_else(|| bad(super::pack::BadRow("an item is missing")))?.line(r.moves))
    }

    /// Whether only counts were kept of a stretch of an object's life, as far as it is known.
    fn has_gap(&self, end: Option<&Finished>) -> bool {
        let (from, to) = end.map_or((Wall(0), Wall(u64::MAX)), |end| (end.pushed_at, end.at));
        self.has_gap_between(from, to)
    }
}

fn matches(query: &ListQuery, object: &Finished) -> bool {
    query.pattern.as_ref().is_none_or(|pattern| pattern.matches(&object.ty))
        && query.since.is_none_or(|since| object.pushed_at >= since)
        && query.outcome.is_none_or(|outcome| object.outcome.kind() == outcome)
}

/// How long a listing searches at most: while it does, nothing is taken in.
const LIST_TIME_MAX: Duration = Duration::from_millis(1_500);
