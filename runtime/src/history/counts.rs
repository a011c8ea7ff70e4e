//! Counts by minute and type: gathered in memory, added to the database at every sync.

use dpc_core::Wall;
use dpc_core::decision::Step;
use dpc_core::names::TypeName;
use dpc_core::record::{Ending, Entry, How};

use super::book::Book;
use super::db::DbResult;
use super::pack::{Packer, Unpacker};
use super::rows::{Counts, MINUTE, StatsQuery, StatsRow};

impl Book {
    /// Counts what happened in an entry. What is only carried forward has been counted before.
    pub(super) fn count(&mut self, wall: Wall, entry: &Entry) {
        let (ty, field, n): (_, Field, _) = match entry {
            Entry::Object { how, object, .. } => {
                let Some(field) = arrival(*how) else { return };
                (Some(&object.entity.ty), field, 1)
            }
            Entry::End(end) if end.was.is_some() => {
                let field: Field = match end.ending {
                    Ending::Final => |c| &mut c.finalised,
                    Ending::Discarded(_) => |c| &mut c.discarded,
                    Ending::Moved(_) => |c| &mut c.moved,
                    Ending::Duplicate => |c| &mut c.duplicates,
                };
                (Some(&end.ty), field, 1)
            }
            Entry::Duplicate { ty, .. } => (Some(ty), |c| &mut c.duplicates, 1),
            Entry::Decision { decision, objects } if decision.step == Step::Deliver => {
                (None, |c| &mut c.delivered, objects.len() as u64)
            }
            _ => return,
        };
        let key = (minute(wall), ty.cloned());
        *field(self.counts.entry(key).or_default()) += n;
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
        if self.counts.is_empty() {
            return Ok(());
        }
        self.db.begin()?;
        for ((minute, ty), mut counts) in std::mem::take(&mut self.counts) {
            let ty = ty.as_ref().map_or("", TypeName::as_str);
            match self.db.stats(minute, ty)? {
                Some(body) => counts.add(&self.unpack_counts(minute, &body)?),
                None => *self.state.minutes.entry(minute).or_default() += 1,
            }
            let mut p = Packer::default();
            counts.fields().for_each(|n| p.int(n));
            self.db.set_stats(minute, ty, p.finish())?;
        }
        Ok(())
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

/// One row of counts for so many bytes of the database, at most.
const BYTES_PER_ROW: u64 = 1_024;
