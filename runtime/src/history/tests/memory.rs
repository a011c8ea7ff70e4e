//! The tables in memory, which fail when they are told to.

use std::collections::BTreeMap;
use std::sync::Mutex;

use dpc_core::Wall;
use dpc_core::ids::LaneId;
use dpc_core::store::StoreError;

use super::super::shared::{Ask, HistoryTables, PartKey, PartRow, Row, RowKind};

#[derive(Default)]
pub(super) struct Memory(Mutex<Tables>);

/// Bodies by key.
type Bodies = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
pub(super) struct Tables {
    pub(super) parts: BTreeMap<(LaneId, PartKey), PartRow>,
    pub(super) rows: BTreeMap<(LaneId, PartKey, RowKind), Bodies>,
    /// How many requests fail from now on.
    pub(super) failures: u32,
    /// How many have failed.
    pub(super) failed: u32,
    pub(super) writes: u32,
    /// The earliest time that parts were asked for.
    pub(super) asked_since: Option<Wall>,
}

impl Memory {
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Tables) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl HistoryTables for Memory {
    fn ask(&self, ask: Ask) {
        let mut tables = self.0.lock().unwrap();
        if tables.failures > 0 {
            tables.failures -= 1;
            tables.failed += 1;
            drop(tables);
            return ask.refuse(StoreError::Io("the tables are away".into()));
        }
        match ask {
            Ask::Write(Row { lane, part, kind, key, body }, _, done) => {
                tables.writes += 1;
                tables.rows.entry((lane, part, kind)).or_default().insert(key, body);
                drop(tables);
                done(Ok(()));
            }
            Ask::Close(row, _, done) => {
                tables.parts.insert((row.lane, row.part), row);
                drop(tables);
                done(Ok(()));
            }
            Ask::Parts(since, done) => {
                tables.asked_since = tables.asked_since.min(Some(since)).or(Some(since));
                let rows = tables.parts.values().filter(|row| row.last_wall >= since);
                let rows = rows.cloned().collect();
                drop(tables);
                done(Ok(rows));
            }
            Ask::Find(lane, part, kind, key, done) => {
                let rows = tables.rows.get(&(lane, part, kind));
                let found = rows.and_then(|rows| rows.range(..=key).next_back());
                let found = found.map(|(key, body)| (key.clone(), body.clone()));
                drop(tables);
                done(Ok(found));
            }
            Ask::Drop(row, done) => {
                tables.parts.remove(&(row.lane, row.part));
                tables.rows.retain(|(lane, part, _), _| (*lane, *part) != (row.lane, row.part));
                drop(tables);
                done(Ok(()));
            }
        }
    }
}
