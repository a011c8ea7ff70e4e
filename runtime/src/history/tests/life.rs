//! What is kept of an object, from its first decision to its end.

use dpc_core::decision::Step;
use dpc_core::ids::{Epoch, Incarnation, LaneId, Loc, RecordNumber};
use dpc_core::names::Pattern;
use dpc_core::record::{Ending, Entry, TransferId};
use dpc_core::{Span, Wall};

use super::super::book::Book;
use super::super::db::Table;
use super::super::{
    HistoryOptions, ListQuery, Outcome, OutcomeKind, Report, TRACE_FIRST, TRACE_LAST, decided,
    folder,
};
use super::support::{LANE, Log, Running, START, decided as decide, end, id, name, pushed, ty};

#[tokio::test]
async fn an_object_is_traced_while_it_lives_and_after_it_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), &Log::new(), HistoryOptions::default());
    running.write(|log| {
        log.push(&[pushed(1, log.wall), decide(log.wall, Step::Wait, &[1, 2])]);
    });
    let trace = running.trace(1).await;
    assert_eq!(trace.lines.len(), 1);
    let line = &trace.lines[0];
    assert_eq!((line.step, line.lane, line.moves), (Step::Wait, LANE, 0));
    assert_eq!(line.loc, Loc { record: RecordNumber(1), position: 1 });
    assert_eq!(line.candidates[0].who.as_ref(), "peer b");
    assert_eq!(line.generation.unwrap().counter, 9);
    assert_eq!(running.object(1).await, None);

    let was = Loc { record: RecordNumber(1), position: 0 };
    running.write(|log| {
        log.push(&[
            decide(log.wall, Step::Deliver, &[1]),
            end(1, Some(was), Ending::Discarded("no longer wanted".into()), log.wall),
        ]);
    });
    let object = running.object(1).await.unwrap();
    assert_eq!(object.outcome, Outcome::Discarded("no longer wanted".into()));
    assert_eq!((object.ty, object.by, object.size), (ty(1), Some(name("billing")), 100));
    assert_eq!((object.hash, object.version), ([1; 16], 1));
    assert_eq!(object.pushed_at, Wall(object.at.0 - 1_000));
    assert_eq!(object.loc, Loc { record: RecordNumber(2), position: 1 });
    let trace = running.trace(1).await;
    let steps: Vec<Step> = trace.lines.iter().map(|line| line.step).collect();
    assert_eq!(steps, [Step::Wait, Step::Deliver]);
    assert_eq!(trace.lines[1].chosen.as_deref(), Some("subscription billing"));
    assert_eq!((trace.dropped, trace.detail_dropped), (0, false));
    assert_eq!(running.trace(2).await.lines.len(), 1, "the other one still waits");
    running.close();
}

#[tokio::test]
async fn a_moved_object_says_where_it_went() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), &Log::new(), HistoryOptions::default());
    let transfer = |n| TransferId {
        sender: LANE,
        receiver: LaneId([8; 16]),
        epoch: Epoch(1),
        incarnation: Incarnation(3),
        n,
    };
    let was = Some(Loc { record: RecordNumber(1), position: 0 });
    running.write(|log| {
        let mark =
            |n, to| Entry::Moved { transfer: transfer(n), receiver: name(to), shadows: vec![] };
        log.push(&[
            end(1, was, Ending::Moved(transfer(1)), log.wall),
            mark(1, "b"),
            end(2, was, Ending::Moved(transfer(2)), log.wall),
            mark(2, "c"),
        ]);
    });
    for (n, to) in [(1, "b"), (2, "c")] {
        let moved = Outcome::Moved { transfer: transfer(n), receiver: Some(name(to)) };
        assert_eq!(running.object(n).await.unwrap().outcome, moved);
    }
    running.close();
}

#[tokio::test]
async fn a_decision_for_a_group_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), &Log::new(), HistoryOptions::default());
    let group: Vec<u64> = (0..500).collect();
    running.write(|log| {
        log.push(&[decide(log.wall, Step::Wait, &group), decide(log.wall, Step::Deliver, &[3])]);
    });
    for n in [0, 3, 499] {
        assert_eq!(running.trace(n).await.lines[0].step, Step::Wait);
    }
    running.close();
    let path = dir.path().join(folder::FILE);
    let book = Book::open(&path, LANE, RecordNumber(0), HistoryOptions::default()).unwrap();
    let mut stored = Vec::new();
    for key in book.state.decided.clone() {
        stored.extend(decided::read(&book.db.row(Table::Decided, key).unwrap()).unwrap());
    }
    let steps: Vec<Step> = stored.iter().map(|d| d.decision.step).collect();
    assert_eq!(steps, [Step::Wait, Step::Deliver]);
}

#[tokio::test]
async fn an_objects_first_and_last_decisions_are_kept_across_parts() {
    let dir = tempfile::tempdir().unwrap();
    // Small parts: the decisions of one object spread over several.
    let options = HistoryOptions { bytes: 128 << 10, ..HistoryOptions::default() };
    let running = Running::open(dir.path(), &Log::new(), options.clone());
    let count = 3_000;
    for round in 0..count {
        running.write(|log| {
            log.push(&[decide(Wall(START.0 + round), Step::Wait, &[1])]);
        });
    }
    let trace = running.trace(1).await;
    let at: Vec<u64> = trace.lines.iter().map(|line| line.at.0 - START.0).collect();
    let last = count - TRACE_LAST as u64;
    let expected: Vec<u64> = (0..TRACE_FIRST as u64).chain(last..count).collect();
    assert_eq!(at, expected);
    assert_eq!(trace.dropped, count - (TRACE_FIRST + TRACE_LAST) as u64);
    running.close();
    let book = Book::open(&dir.path().join(folder::FILE), LANE, RecordNumber(0), options).unwrap();
    assert!(book.parts.len() > 1, "one part proves nothing: {}", book.parts.len());
}

#[tokio::test]
async fn a_part_whose_closing_is_cut_off_is_closed_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(folder::FILE);
    // One part is full of references only.
    let time = Span::secs(30 * 24 * 3_600);
    let options = HistoryOptions { bytes: 1 << 30, time, ..HistoryOptions::default() };
    let open = || Book::open(&path, LANE, RecordNumber(0), options.clone()).unwrap();
    let mut log = Log::new();
    let was = Some(Loc { record: RecordNumber(1), position: 0 });
    for record in 0..2_200 {
        let objects = record * 120..record * 120 + 120;
        let ends: Vec<_> = objects.map(|n| end(n, was, Ending::Final, log.wall)).collect();
        log.push(&ends);
    }

    let mut book = open();
    let mut records = (1..).map(RecordNumber).zip(log.records.clone());
    let cut_off = loop {
        if book.unsynced() > 0 {
            book.sync().unwrap();
        }
        if book.parts.len() == 1 {
            // Half of the second part's pages find room.
            book.db.limit(book.db.bytes_used().unwrap() + (2 << 20));
        }
        let (number, record) = records.next().expect("the part is full before the log ends");
        if let Err(error) = book.apply(number, &record, true) {
            break error;
        }
    };
    assert!(cut_off.to_string().contains("full"), "{cut_off}");
    drop(book);

    let mut book = open();
    assert_eq!(book.parts.len(), 1);
    let ahead = book.db.row(Table::Page, book.state.pages.end);
    assert!(ahead.is_ok(), "it was written ahead: {ahead:?}");
    let (number, record) = records.next().expect("there are some left");
    book.apply(number, &record, true).unwrap();
    assert_eq!((book.parts.len(), book.durable_parts()), (2, 1), "it waits for a sync");
    book.sync().unwrap();
    assert_eq!(book.durable_parts(), 2);
    drop(book);

    let running = Running::open(dir.path(), &log, options);
    for n in (0..264_000).step_by(3_999) {
        assert!(running.object(n).await.is_some(), "object {n}");
    }
    running.close();
}

#[tokio::test]
async fn replaying_records_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), &Log::new(), HistoryOptions::default());
    running.write(|log| log.lives(0..200));
    let once = running.says(0..200).await;
    assert_eq!(once.objects.iter().filter(|(object, _)| object.is_some()).count(), 200);
    assert!(once.objects.iter().all(|(_, trace)| trace.lines.len() == 3));
    assert_eq!(once.stats.iter().map(|row| row.counts.finalised).sum::<u64>(), 200);
    assert_eq!(once.stats.iter().map(|row| row.counts.pushed).sum::<u64>(), 200);
    assert_eq!(once.stats.iter().map(|row| row.counts.delivered).sum::<u64>(), 200);
    let log = running.log.lock().unwrap().clone();
    for number in 1..log.next().0 {
        running.handle.feed(RecordNumber(number), log.record(RecordNumber(number)));
    }
    assert_eq!(running.says(0..200).await, once);
    running.close();
    // Closed and opened again, it needs nothing more, and says the same.
    let running = Running::open(dir.path(), &log, HistoryOptions::default());
    assert_eq!(running.stands, log.next());
    assert_eq!(running.says(0..200).await, once);
    running.close();
}

#[tokio::test]
async fn killed_at_any_moment_it_goes_on_where_it_was_durable() {
    let dir = tempfile::tempdir().unwrap();
    let often = HistoryOptions { sync: Span::millis(5), ..HistoryOptions::default() };
    let mut log = Log::new();
    let (mut lost, mut kept) = (false, false);
    for round in 0..12 {
        // Odd rounds never reach a sync point, even ones reach many.
        let options = if round % 2 == 0 { often.clone() } else { HistoryOptions::default() };
        let mut running = Running::open(dir.path(), &log, options);
        lost |= running.stands < log.next();
        kept |= running.stands > RecordNumber(1);
        running.write(|log| log.lives(round * 40..round * 40 + 40));
        running.trace(round * 40).await;
        if round % 4 == 0 {
            let last = running.log.lock().unwrap().next();
            running.wait_for(|report| *report == Report::Stands(last));
        }
        log = running.log.lock().unwrap().clone();
        running.kill();
    }
    assert!(lost && kept, "some rounds lose what others keep");
    let running = Running::open(dir.path(), &log, often.clone());
    let said = running.says(0..480).await;
    running.close();
    let fresh = tempfile::tempdir().unwrap();
    let running = Running::open(fresh.path(), &log, often);
    assert_eq!(running.says(0..480).await, said);
    assert!(said.objects.iter().all(|(object, trace)| object.is_some() && trace.lines.len() == 3));
    running.close();
}

#[tokio::test]
async fn what_was_only_carried_forward_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::from(RecordNumber(90));
    let (before, after) = (Wall(START.0 - 5_000), Wall(START.0 + 1_500));
    log.push(&[decide(log.wall, Step::Wait, &[9])]);
    log.push(&[end(1, None, Ending::Final, before)]);
    // Carried again; and one whose end stands in this log, too.
    let was = Some(Loc { record: RecordNumber(91), position: 0 });
    log.push(&[end(1, None, Ending::Final, before), end(2, was, Ending::Final, after)]);
    log.push(&[end(2, None, Ending::Final, after)]);
    let running = Running::open(dir.path(), &log, HistoryOptions::default());
    assert_eq!(running.object(1).await.unwrap().at, before);
    let said = running.says(0..0).await;
    let ids: Vec<_> = said.listed.objects.iter().map(|object| object.id).collect();
    assert_eq!(ids, [id(2), id(1)]);
    assert_eq!(said.stats.iter().map(|row| row.counts.finalised).sum::<u64>(), 1);
    assert_eq!(running.trace(9).await.kept_since, Wall(START.0 + 1_000));
    running.close();
}

#[tokio::test]
async fn a_listing_is_newest_first_and_asks_for_type_time_and_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path(), &Log::new(), HistoryOptions::default());
    running.write(|log| log.lives(0..400));
    let was = Some(Loc { record: RecordNumber(1), position: 0 });
    running.write(|log| {
        log.push(&[end(1_000, was, Ending::Discarded("old".into()), log.wall)]);
    });
    let list = async |query: ListQuery| running.list(query).await;
    let all = list(ListQuery { limit: 5_000, ..ListQuery::default() }).await;
    assert!(all.complete);
    assert_eq!(all.objects.len(), 401);
    assert!(all.objects.is_sorted_by(|a, b| a.loc > b.loc));
    let some = list(ListQuery { limit: 7, ..ListQuery::default() }).await;
    assert_eq!(some.objects, all.objects[..7]);
    let since = all.objects[100].pushed_at;
    for query in [
        ListQuery { pattern: Some(Pattern::from(&ty(3))), limit: 1_000, ..ListQuery::default() },
        ListQuery { since: Some(since), limit: 1_000, ..ListQuery::default() },
        ListQuery { outcome: Some(OutcomeKind::Discarded), limit: 9, ..ListQuery::default() },
        ListQuery { outcome: Some(OutcomeKind::Moved), limit: 9, ..ListQuery::default() },
    ] {
        let expected = all.objects.iter().filter(|object| {
            query.pattern.as_ref().is_none_or(|pattern| pattern.matches(&object.ty))
                && query.since.is_none_or(|since| object.pushed_at >= since)
                && query.outcome.is_none_or(|outcome| object.outcome.kind() == outcome)
        });
        let expected: Vec<_> = expected.cloned().collect();
        assert_eq!(list(query).await.objects, expected);
    }
    running.close();
}
