//! Who has a row of the inbox, and when it goes, against a real server.

use super::*;

/// Takes what there is for an owner.
fn take_rows(inbox: &mut PostgresInbox) -> Vec<InboxRow> {
    // Its connection ends with the runtime, and the next one is made by the next look.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rows = runtime.block_on(async {
        let began = std::time::Instant::now();
        loop {
            match inbox.take().await {
                Ok(rows) => break rows,
                // Whoever asks while the server is away has to ask again.
                Err(error) => assert!(began.elapsed() < WAIT, "it cannot be asked: {error}"),
            }
        }
    });
    rows.iter().map(|row| row.row).collect()
}

fn push_rows(server: &Server, count: u32, payload: &str) {
    let push = format!("SELECT dpc.dpc_push('a.B', {payload}) FROM generate_series(1, {count})");
    run_sql(server, &push);
}

fn count(server: &Server, what: &str) -> i64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = parse(&server.url, None).expect("good");
        let client = session::connect(&config).await.expect("connects");
        client.query_one(what, &[]).await.expect("counts").get(0)
    })
}

const ROWS: &str = "SELECT count(*) FROM dpc.inbox";

#[test]
fn a_row_is_its_takers_until_the_lane_has_another_owner() {
    let Some(server) = start() else { return };
    let (mut a, mut b) =
        (Claimant::new(&server, fresh_lane()), Claimant::new(&server, fresh_lane()));
    push_rows(&server, 3, "'x'");
    let (mut of_a, mut of_b) = (a.inbox(&server), b.inbox(&server));
    let rows = take_rows(&mut of_a);
    assert_eq!(rows.len(), 3);
    assert!(take_rows(&mut of_b).is_empty(), "nobody else takes them");
    assert_eq!(take_rows(&mut of_a), rows, "what is not decided comes again");
    let gone = a.send_taking(1, vec![rows[0]]).recv_timeout(WAIT).expect("an answer comes");
    assert_eq!(gone, Appended::Committed);
    assert_eq!(take_rows(&mut of_a), rows[1..], "one went with its record");
    // What an owner has no right to is not removed, whatever it says.
    let others = b.send_taking(1, vec![rows[1]]).recv_timeout(WAIT).expect("an answer comes");
    assert_eq!((others, count(&server, ROWS)), (Appended::Committed, 2));

    let heir = Claimant::new(&server, a.lane);
    assert_eq!(take_rows(&mut of_b), rows[1..], "the owner that had them was replaced");
    let late = a.send_taking(2, rows[1..].to_vec()).recv_timeout(WAIT).expect("an answer comes");
    let fenced = StoreError::Fenced { epoch: heir.claimed.epoch };
    assert_eq!((late, count(&server, ROWS)), (Appended::DefinitelyNot(fenced), 2));
    assert!(take_rows(&mut of_a).is_empty(), "a fenced owner takes nothing");
    let gone = b.send_taking(2, rows[1..].to_vec()).recv_timeout(WAIT).expect("an answer comes");
    assert_eq!((gone, count(&server, ROWS)), (Appended::Committed, 0));
}

#[test]
fn rows_of_an_owner_that_was_declared_dead_are_free() {
    let Some(server) = start() else { return };
    let (a, b) = (Claimant::new(&server, fresh_lane()), Claimant::new(&server, fresh_lane()));
    push_rows(&server, 1, "'x'");
    assert_eq!(take_rows(&mut a.inbox(&server)).len(), 1);
    run_sql(&server, &format!("UPDATE dpc.lane_head SET state = 'dead' WHERE lane = '{}'", a.lane));
    assert_eq!(take_rows(&mut b.inbox(&server)).len(), 1);
    assert!(take_rows(&mut a.inbox(&server)).is_empty());
}

#[test]
fn rows_go_with_their_record_or_stay_when_the_server_dies_under_the_commit() {
    let Some(server) = start() else { return };
    let mut owner = Claimant::new(&server, fresh_lane());
    let mut inbox = owner.inbox(&server);
    for round in 0..3 {
        push_rows(&server, 2, "'x'");
        let rows = take_rows(&mut inbox);
        assert_eq!(rows.len(), 2);
        server.order("kill");
        let under_way = owner.send_taking(round, rows);
        server.order("start");
        assert_eq!(under_way.recv_timeout(WAIT).expect("an answer comes"), Appended::Committed);
        assert_eq!(count(&server, ROWS), 0, "sent again, and done once");
    }
    drop((owner, inbox));
    // One that is given up: whether the record is there is found out by the next owner.
    for round in 0..3 {
        let mut owner = Claimant::with(&server, fresh_lane(), Duration::from_millis(200));
        push_rows(&server, 1, "'x'");
        let rows = take_rows(&mut owner.inbox(&server));
        assert_eq!(rows.len(), 1);
        let under_way = owner.send_taking(round, rows);
        server.order("kill");
        let answer = under_way.recv_timeout(WAIT).expect("an answer comes");
        server.order("start");
        let heir = Claimant::new(&server, owner.lane);
        let there = heir.claimed.last == RecordNumber(1);
        let left = take_rows(&mut heir.inbox(&server)).len();
        assert_eq!(left, usize::from(!there), "the record and no row, or the row: {answer:?}");
        run_sql(&server, "DELETE FROM dpc.inbox");
    }
}

#[test]
fn a_look_takes_so_many_rows_and_so_many_bytes_and_writes_nothing_if_there_are_none() {
    let Some(server) = start() else { return };
    let owner = Claimant::new(&server, fresh_lane());
    let mut inbox = owner.inbox(&server);
    let assigned = "SELECT (pg_snapshot_xmax(pg_current_snapshot()))::text::bigint";
    let before = count(&server, assigned);
    for _ in 0..5 {
        assert!(take_rows(&mut inbox).is_empty());
    }
    assert_eq!(count(&server, assigned), before, "no transaction has written: nothing was synced");
    push_rows(&server, 300, "'x'");
    assert_eq!(take_rows(&mut inbox).len(), 256);
    run_sql(&server, "DELETE FROM dpc.inbox");
    push_rows(&server, 6, "convert_to(repeat('x', 1048576), 'UTF8')");
    assert_eq!(take_rows(&mut inbox).len(), 4, "4 MiB together");
    run_sql(&server, "DELETE FROM dpc.inbox");
}
