//! What the tables of every store that nodes share have to do.

use std::sync::mpsc::channel;
use std::time::Duration;

use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::store::{Done, StoreError};
use dpc_core::{Span, Wall};

use super::{Ask, HistoryTables, PartKey, PartRow, ROW_BYTES_MAX, Row, RowKind};
use crate::edge::wall_of_machine;

const KEEP: Span = Span::secs(3_600);

/// Runs the suite, for a lane that the tables know nothing of.
pub(crate) fn suite(tables: &dyn HistoryTables, lane: LaneId) {
    let now = wall_of_machine();
    finds_the_highest_key_that_is_not_above(tables, lane);
    names_parts_of_a_time(tables, lane, now);
    removes_a_part_and_no_other(tables, lane, now);
}

fn finds_the_highest_key_that_is_not_above(tables: &dyn HistoryTables, lane: LaneId) {
    let (part, other) = (PartKey([1; 16]), PartKey([2; 16]));
    let key = |n: u64| n.to_be_bytes().to_vec();
    for (n, body) in [(10, vec![1]), (20, vec![2; ROW_BYTES_MAX]), (300, vec![3])] {
        write(tables, Row { lane, part, kind: RowKind::Ended, key: key(n), body });
    }
    // Again, and rows that stand nearby.
    write(tables, Row { lane, part, kind: RowKind::Ended, key: key(10), body: vec![1] });
    write(tables, Row { lane, part, kind: RowKind::Decided, key: key(15), body: vec![4] });
    write(tables, Row { lane, part: other, kind: RowKind::Ended, key: key(16), body: vec![5] });
    let find = |kind, n: u64| {
        ask(tables, |done| Ask::Find(lane, part, kind, key(n), done)).expect("it answers")
    };
    assert_eq!(find(RowKind::Ended, 9), None);
    assert_eq!(find(RowKind::Ended, 10), Some((key(10), vec![1])));
    assert_eq!(find(RowKind::Ended, 19), Some((key(10), vec![1])));
    assert_eq!(find(RowKind::Ended, 299), Some((key(20), vec![2; ROW_BYTES_MAX])));
    assert_eq!(find(RowKind::Ended, u64::MAX), Some((key(300), vec![3])));
    assert_eq!(find(RowKind::Decided, 14), None);
    assert_eq!(find(RowKind::Decided, 300), Some((key(15), vec![4])));
    assert_eq!(find(RowKind::Page, 300), None);
}

fn names_parts_of_a_time(tables: &dyn HistoryTables, lane: LaneId, now: Wall) {
    let hours = |n: u64| Wall(now.0 - n * 3_600_000);
    let rows = [row(lane, 3, hours(30)), row(lane, 4, hours(20)), row(lane, 5, hours(0))];
    for row in [&rows[0], &rows[1], &rows[2], &rows[2]] {
        ask(tables, |done| Ask::Close(row.clone(), KEEP, done)).expect("it is named");
    }
    assert_eq!(parts(tables, lane, hours(31)), rows);
    assert_eq!(parts(tables, lane, hours(20)), rows[1..]);
    assert_eq!(parts(tables, lane, hours(1)), rows[2..]);
}

fn removes_a_part_and_no_other(tables: &dyn HistoryTables, lane: LaneId, now: Wall) {
    let (gone, stays) = (row(lane, 6, now), row(lane, 7, now));
    for PartRow { part, .. } in [&gone, &stays] {
        let key = vec![0; 16];
        write(tables, Row { lane, part: *part, kind: RowKind::Page, key, body: vec![1] });
    }
    for row in [&gone, &stays] {
        ask(tables, |done| Ask::Close(row.clone(), KEEP, done)).expect("it is named");
    }
    ask(tables, |done| Ask::Drop(gone.clone(), done)).expect("it is removed");
    ask(tables, |done| Ask::Drop(gone.clone(), done)).expect("it may be removed again");
    let left = parts(tables, lane, now);
    assert!(left.contains(&stays) && !left.contains(&gone), "{left:?}");
    let find = |part| ask(tables, |done| Ask::Find(lane, part, RowKind::Page, vec![9; 16], done));
    assert_eq!(find(gone.part), Ok(None));
    assert!(matches!(find(stays.part), Ok(Some(_))));
}

fn row(lane: LaneId, n: u8, last_wall: Wall) -> PartRow {
    PartRow {
        lane,
        part: PartKey([n; 16]),
        node: "a".into(),
        first: RecordNumber(u64::from(n)),
        next: RecordNumber(u64::from(n) * 1_000),
        whole: n != 4,
        first_wall: Wall(last_wall.0 - 60_000),
        last_wall,
        bytes: u64::from(n),
    }
}

/// The parts of a lane since then, in order.
fn parts(tables: &dyn HistoryTables, lane: LaneId, since: Wall) -> Vec<PartRow> {
    let mut rows = ask(tables, |done| Ask::Parts(since, done)).expect("it answers");
    rows.retain(|row| row.lane == lane && row.last_wall >= since);
    rows.sort_by_key(|row| row.next);
    rows
}

fn write(tables: &dyn HistoryTables, row: Row) {
    ask(tables, |done| Ask::Write(row, KEEP, done)).expect("it is written");
}

fn ask<T: Send + 'static>(
    tables: &dyn HistoryTables,
    ask: impl FnOnce(Done<Result<T, StoreError>>) -> Ask,
) -> Result<T, StoreError> {
    let (to, answer) = channel();
    tables.ask(ask(Box::new(move |answered| to.send(answered).expect("it is waited for"))));
    answer.recv_timeout(Duration::from_secs(60)).expect("it answers")
}
