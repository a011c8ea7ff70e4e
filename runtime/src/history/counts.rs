//! Counts by minute and type: gathered in memory, added to the database at every sync.

use std::collections::HashMap;

use dpc_core::Wall;
use dpc_core::decision::Step;
use dpc_core::ids::Loc;
use dpc_core::names::TypeName;
use dpc_core::record::{Ending, Entry, Glance, How};

use super::book::Book;
use super::db::DbResult;
use super::pack::{Packer, Unpacker};
use super::rows::{Counts, MINUTE, StatsQuery, StatsRow};

/// What happened in a minute, by type, and is not in the database yet. Records that are read with one
/// vocabulary share their type names, so a type is known by where its name stands in memory.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// A type stands here twice if its name stands twice in memory, which is kept here with it.
    types: Vec<(TypeName, Counts)>,
    /// Which of them the name at an address in memory is.
    found: HashMap<usize, usize>,
    /// The one that was counted last.
    last: usize,
    /// Deliveries, which are counted for all types together.
    delivered: u64,
}

impl Tally {
    /// How many types it knows.
    pub(super) fn len(&self) -> usize {
        self.types.len()
    }

    /// Counts what happened in an entry. What is only carried forward has been counted before.
    pub(super) fn count(&mut self, glance: &Glance) {
        match glance {
            Glance::Object { how, ty } => {
                if let Some(field) = arrival(*how) {
                    *field(self.of(ty)) += 1;
                }
            }
            Glance::Other(Entry::End(end)) if end.was.is_some() => {
                let counts = self.of(&end.ty);
                *match end.ending {
                    Ending::Final => &mut counts.finalised,
                    Ending::Discarded(_) => &mut counts.discarded,
                    Ending::Moved(_) => &mut counts.moved,
                    Ending::Duplicate => &mut counts.duplicates,
                } += 1;
            }
            Glance::Other(Entry::Duplicate { ty, .. }) => self.of(ty).duplicates += 1,
            Glance::Other(Entry::Decision { decision, objects })
                if decision.step == Step::Deliver =>
            {
                self.delivered += objects.len() as u64;
            }
            Glance::Other(_) => {}
        }
    }

    fn of(&mut self, ty: &TypeName) -> &mut Counts {
        let address = |ty: &TypeName| ty.as_str().as_ptr().addr();
        let is_last =
            self.types.get(self.last).is_some_and(|(last, _)| address(last) == address(ty));
        if !is_last {
            self.last = *self.found.entry(address(ty)).or_insert_with(|| {
                self.types.push((ty.clone(), Counts::default()));
                self.types.len() - 1
            });
        }
        &mut self.types[self.last].1
    }

    /// Whether nothing was counted since it was written.
    fn is_written(&self) -> bool {
        self.delivered == 0 && self.types.iter().all(|(_, counts)| *counts == Counts::default())
    }

    /// Takes what was counted. The types stay known: those of the next records are nearly always the same.
    fn take(&mut self) -> Vec<(Option<TypeName>, Counts)> {
        let delivered =
            Counts { delivered: std::mem::take(&mut self.delivered), ..Counts::default() };
        let of_types = self.types.iter_mut().map(|(ty, c)| (Some(ty.clone()), std::mem::take(c)));
        let all = of_types.chain([(None, delivered)]);
        all.filter(|(_, counts)| *counts != Counts::default()).collect()
    }
}

impl Book {
    /// Adds what happened in a record of that time.
    pub(super) fn add_counts(&mut self, wall: Wall, glances: &[(Loc, Glance)]) {
        let tally = self.counts.entry(minute(wall)).or_default();
        glances.iter().for_each(|(_, glance)| tally.count(glance));
    }

    /// Counts by minute and type, in order.
    pub(super) fn stats(&mut self, query: &StatsQuery) -> DbResult<Vec<StatsRow>> {
        self.write_counts()?;
        let mut all = Vec::new();
        let (from, to) = (minute(query.from), minute(query.to));
        let minutes = self.state.minutes.range(from..).take_while(|(minute, _)| **minute <= to);
        for (&minute, &rows) in minutes {
            for (ty, body) in self.db.stats_of(minute, rows)? {
                let counts = self.unpack_counts(minute, &body)?;
                let ty = Some(ty.as_str()).filter(|ty| !ty.is_empty());
                if query.ty.as_ref().is_some_and(|wanted| ty != Some(wanted.as_str())) {
                    continue;
                }
                let place = || format!("table stats minute {minute}");
                let bad = |_| self.db.damaged(&place(), "a type's name");
                let ty = ty.map(TypeName::from_type_url).transpose().map_err(bad)?;
                all.push(StatsRow { minute: Wall(minute * MINUTE.as_millis()), ty, counts });
            }
        }
        Ok(all)
    }

    /// Adds the counts in memory to those in the database.
    pub(super) fn write_counts(&mut self) -> DbResult<()> {
        if self.counts.values().all(Tally::is_written) {
            return Ok(());
        }
        self.db.begin()?;
        let mut all = std::mem::take(&mut self.counts);
        for (minute, tally) in &mut all {
            for (ty, counts) in tally.take() {
                self.add_to_stats(*minute, ty.as_ref().map_or("", TypeName::as_str), counts)?;
            }
        }
        // Only the newest minute goes on.
        let newest = all.pop_last().filter(|(_, tally)| tally.len() < TYPES_KNOWN_MAX);
        self.counts.extend(newest);
        Ok(())
    }

    fn add_to_stats(&mut self, minute: u64, ty: &str, mut counts: Counts) -> DbResult<()> {
        match self.db.stats(minute, ty)? {
            Some(body) => counts.add(&self.unpack_counts(minute, &body)?),
            None => *self.state.minutes.entry(minute).or_default() += 1,
        }
        let mut p = Packer::default();
        counts.fields().for_each(|n| p.int(n));
        self.db.set_stats(minute, ty, p.finish())
    }

    /// Lets the oldest minutes go until they are neither too old nor too many.
    pub(super) fn retain_counts(&mut self, oldest: Wall) -> DbResult<()> {
        self.write_counts()?;
        let rows_max = (self.options.bytes / BYTES_PER_ROW).max(1);
        let mut kept: u64 = self.state.minutes.values().sum();
        while let Some((&first, &rows)) = self.state.minutes.first_key_value() {
            if first >= minute(oldest) && kept <= rows_max {
                break;
            }
            self.db.remove_stats(first, rows)?;
            self.state.minutes.remove(&first);
            kept -= rows;
        }
        Ok(())
    }

    fn unpack_counts(&self, minute: u64, body: &[u8]) -> DbResult<Counts> {
        let mut u = Unpacker::new(body);
        let mut counts = Counts::default();
        for field in counts.fields_mut() {
            // A row of an earlier program has fewer counts.
            if u.is_done() {
                break;
            }
            *field = u
                .int()
                .map_err(|bad| self.db.damaged(&format!("table stats minute {minute}"), bad.0))?;
        }
        Ok(counts)
    }
}

fn minute(wall: Wall) -> u64 {
    wall.0 / MINUTE.as_millis()
}

/// One of the counts.
type Field = fn(&mut Counts) -> &mut u64;

/// What is counted when an object comes to stand so.
fn arrival(how: How) -> Option<Field> {
    Some(match how {
        How::Pushed => |c| &mut c.pushed,
        How::Emitted => |c| &mut c.emitted,
        How::Advanced => |c| &mut c.advanced,
        How::Received => |c| &mut c.received,
        How::Returned => |c| &mut c.returned,
        How::Parked => |c| &mut c.parked,
        How::Redriven => |c| &mut c.redriven,
        How::Reclaimed => |c| &mut c.reclaimed,
        How::Carried => return None,
    })
}

/// With more types than these a tally that was written is begun anew.
const TYPES_KNOWN_MAX: usize = 4_096;

/// One row of counts for so many bytes of the database, at most.
const BYTES_PER_ROW: u64 = 1_024;
