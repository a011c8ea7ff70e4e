//! Pushing, against nodes that do what the test says.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod fake;

use std::time::Duration;

use dpc_client::proto::v1;
use dpc_client::{Answered, Client, Object, Outcome, PushStatus, Receipts, Window, reason};
use fake::{Net, error, ok, refused, within};
use tokio::time::Instant;
use tonic::Code;

fn object(text: &str) -> Object {
    Object::new("acme.Order", text.to_owned())
}

/// All answers to so many tickets, in the order they came.
async fn collect(receipts: &mut Receipts, count: u64) -> Vec<Answered> {
    let mut all: Vec<Answered> = Vec::new();
    while all.iter().map(|answered| answered.last - answered.first + 1).sum::<u64>() < count {
        all.extend(within(receipts.next()).await);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn ranges_and_refusals_are_answered_in_their_place() {
    let net = Net::default();
    let mut node = net.node("a");
    let pusher = net.client(&["a"]).push_stream(Window::default());
    let mut handles = Vec::new();
    for i in 0..5 {
        handles.push(pusher.push(object(&i.to_string())).await.unwrap());
    }
    let mut stream = node.push_stream().await;
    let items = stream.take(5).await;
    assert_eq!(items.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let too_large = v1::Error {
        field: Some("entity.value".to_owned()),
        limit: Some(10),
        ..error(Code::InvalidArgument, "LIMIT_EXCEEDED")
    };
    let exists = ok(4, 5, v1::PushStatus::AlreadyExists);
    stream.answer(vec![exists], vec![refused(3, None, too_large)]);
    stream.stored(1, 2);
    let mut results = Vec::new();
    for handle in handles {
        let id = handle.id();
        results.push((id, within(handle).await));
    }
    for (at, status) in
        [(0, PushStatus::Stored), (1, PushStatus::Stored), (3, PushStatus::AlreadyExists)]
    {
        let receipt = results[at].1.as_ref().unwrap();
        assert_eq!((receipt.id, receipt.id), (results[at].0, items[at].1));
        assert_eq!((receipt.stored.status, &*receipt.stored.node), (status, "a"));
    }
    let error = results[2].1.as_ref().unwrap_err();
    assert_eq!(error.outcome(), Outcome::DefinitelyNot);
    assert_eq!((error.reason(), error.limit()), ("LIMIT_EXCEEDED", Some(10)));
    assert_eq!(error.field(), Some("entity.value"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_resends_the_same_ids_to_the_same_lane_and_maps_ranges() {
    let net = Net::default();
    let mut node = net.node("a");
    let pusher = net.client(&["a"]).push_stream(Window::default());
    let mut receipts = pusher.receipts();
    for i in 0..6 {
        pusher.send(object(&i.to_string())).await.unwrap();
    }
    let mut stream = node.push_stream().await;
    let first = stream.take(6).await;
    stream.stored(2, 3);
    let answered = collect(&mut receipts, 2).await;
    assert_eq!((answered[0].first, answered[0].last), (2, 3));

    net.down("a");
    net.up("a");
    let mut stream = node.push_stream().await;
    let again = stream.take(4).await;
    let expected: Vec<_> = [0, 3, 4, 5].iter().map(|at: &usize| first[*at].1).collect();
    assert_eq!(again.iter().map(|(_, id)| *id).collect::<Vec<_>>(), expected);
    assert_eq!(again.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    stream.stored(1, 4);
    let answered = collect(&mut receipts, 4).await;
    let ranges: Vec<_> = answered.iter().map(|answered| (answered.first, answered.last)).collect();
    assert_eq!(ranges, [(1, 1), (4, 6)], "every ticket is named once");
    within(pusher.flush()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_its_node_never_answers_is_unknown_and_what_was_never_sent_is_definitely_not() {
    let net = Net::default();
    let mut a = net.node("a");
    let mut b = net.node("b");
    let pusher = net.client(&["a", "b"]).push_stream(Window::default());
    let sent = pusher.push(object("sent")).await.unwrap();
    let mut stream = a.push_stream().await;
    stream.take(1).await;
    net.down("a");
    net.down("b");
    let before = Instant::now();
    let unsent = async {
        let handle = pusher.push(object("unsent")).await.unwrap();
        handle.await
    };
    let (sent, unsent) = within(async { tokio::join!(sent, unsent) }).await;
    let sent = sent.unwrap_err();
    assert_eq!((sent.outcome(), sent.reason()), (Outcome::Unknown, reason::CONNECTION_LOST));
    let unsent = unsent.unwrap_err();
    assert_eq!(unsent.outcome(), Outcome::DefinitelyNot);
    assert!(unsent.is_unreachable(), "{unsent}");
    assert!(before.elapsed() >= Duration::from_secs(30), "{:?}", before.elapsed());
    assert!(!b.has_push(), "nothing in doubt went to another node");
}

#[tokio::test(start_paused = true)]
async fn another_lane_gets_nothing_that_is_in_doubt_unless_the_caller_wants_it() {
    for elsewhere in [false, true] {
        let net = Net::default();
        let mut a = net.node("a");
        let mut b = net.node("b");
        let options = net.options().resend_elsewhere(elsewhere);
        let client = Client::connect(["a", "b"], options).unwrap();
        let pusher = client.push_stream(Window::default());
        let handle = pusher.push(object("x")).await.unwrap();
        let id = handle.id();
        let mut stream = a.push_stream().await;
        stream.take(1).await;
        net.down("a");
        let serve = async {
            if elsewhere {
                let mut stream = b.push_stream().await;
                assert_eq!(stream.take(1).await, [(1, id)]);
                stream.stored(1, 1);
                std::future::pending::<()>().await;
            }
            loop {
                // The stream is opened, looked at, and left.
                let mut stream = b.push_stream().await;
                assert!(stream.is_ended().await);
            }
        };
        let result =
            tokio::select! { result = within(handle) => result, () = serve => unreachable!() };
        match result {
            Ok(receipt) => assert!(elsewhere && &*receipt.stored.node == "b"),
            Err(error) => {
                assert!(!elsewhere);
                assert_eq!(error.outcome(), Outcome::Unknown);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_window_makes_its_caller_wait() {
    let net = Net::default();
    let mut node = net.node("a");
    let pusher = net.client(&["a"]).push_stream(Window { objects: 3, bytes: 100 });
    for _ in 0..3 {
        pusher.send(object("x")).await.unwrap();
    }
    let mut stream = node.push_stream().await;
    stream.take(3).await;
    let fourth = tokio::spawn({
        let pusher = pusher.clone();
        async move { pusher.send(object("x")).await }
    });
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(!fourth.is_finished(), "three are under way already");
    stream.stored(1, 3);
    within(fourth).await.unwrap().unwrap();
    stream.take(1).await;

    let large = tokio::spawn({
        let pusher = pusher.clone();
        async move { pusher.send(object(&"y".repeat(500))).await }
    });
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(!large.is_finished(), "it does not fit beside another one");
    stream.stored(4, 4);
    within(large).await.unwrap().unwrap();
    stream.take(1).await;
    stream.stored(5, 5);
    within(pusher.flush()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_node_is_asked_again_when_it_says() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let push = tokio::spawn(async move { client.push(object("x")).await });
    let mut stream = node.push_stream().await;
    let id = stream.take(1).await[0].1;
    let before = Instant::now();
    let full = v1::Error {
        retry_after: Some(Duration::from_secs(7).into()),
        ..error(Code::ResourceExhausted, "RESOURCE_EXHAUSTED")
    };
    stream.answer(Vec::new(), vec![refused(1, None, full)]);
    assert_eq!(stream.take(1).await, [(2, id)]);
    assert_eq!(before.elapsed().as_secs(), 7);
    stream.stored(2, 2);
    within(push).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_is_left_for_the_next_one() {
    let net = Net::default();
    let mut a = net.node("a");
    let mut b = net.node("b");
    let client = net.client(&["a", "b"]);
    let push = tokio::spawn(async move { client.push(object("x")).await });
    let mut stream = a.push_stream().await;
    let id = stream.take(1).await[0].1;
    stream.answer(Vec::new(), vec![refused(1, None, error(Code::Unavailable, "DRAINING"))]);
    let mut other = b.push_stream().await;
    assert_eq!(other.take(1).await, [(1, id)]);
    other.stored(1, 1);
    assert_eq!(&*within(push).await.unwrap().unwrap().stored.node, "b");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_take_back_the_doubt_of_an_earlier_try() {
    let net = Net::default();
    let mut a = net.node("a");
    let _b = net.node("b");
    let client = net.client(&["a", "b"]);
    let push = tokio::spawn(async move { client.push(object("x")).await });
    let mut stream = a.push_stream().await;
    stream.take(1).await;
    net.down("a");
    net.down("b");
    net.up("a");
    let mut stream = a.push_stream().await;
    stream.take(1).await;
    stream.answer(Vec::new(), vec![refused(1, None, error(Code::Unavailable, "DRAINING"))]);
    assert!(stream.is_ended().await);
    net.down("a");
    let error = within(push).await.unwrap().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "the first try may have stored it: {error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_owes_answers_and_sends_none_is_left() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let push = tokio::spawn(async move { client.push(object("x")).await });
    let mut silent = node.push_stream().await;
    let first = silent.take(1).await;
    let mut stream = node.push_stream().await;
    assert_eq!(stream.take(1).await, first);
    stream.stored(1, 1);
    within(push).await.unwrap().unwrap();
    // The node hears that nobody reads its answers any more.
    silent.left().await;
}

#[tokio::test(start_paused = true)]
async fn answers_without_a_question_end_the_stream_and_lose_nothing() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let push = tokio::spawn(async move { client.push(object("x")).await });
    let mut confused = node.push_stream().await;
    let first = confused.take(1).await;
    confused.stored(1, u64::MAX);
    let mut stream = node.push_stream().await;
    assert_eq!(stream.take(1).await, first);
    stream.stored(1, 1);
    within(push).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn fail_fast_does_not_wait_for_a_node() {
    let net = Net::default();
    let client = Client::connect(["nobody"], net.options().fail_fast(true)).unwrap();
    let before = Instant::now();
    let error = within(client.push(object("x"))).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert_eq!(error.outcome(), Outcome::DefinitelyNot);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_pusher_still_sends_and_a_closed_one_waits() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let pusher = client.push_stream(Window::default());
    pusher.send(object("x")).await.unwrap();
    drop(pusher);
    let mut stream = node.push_stream().await;
    stream.take(1).await;
    stream.stored(1, 1);
    assert!(stream.is_ended().await);

    let pusher = client.push_stream(Window::default());
    pusher.send(object("x")).await.unwrap();
    pusher.send(object("y")).await.unwrap();
    let close = tokio::spawn(pusher.clone().close());
    let mut stream = node.push_stream().await;
    stream.take(2).await;
    assert!(!close.is_finished());
    assert_eq!(pusher.send(object("z")).await.unwrap_err().reason(), reason::CLOSED);
    let reused = error(Code::InvalidArgument, "ID_REUSED");
    stream.answer(vec![ok(1, 1, v1::PushStatus::Stored)], vec![refused(2, None, reused)]);
    let error = within(close).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "ID_REUSED", "nobody collected receipts: the close tells");
}

#[tokio::test(start_paused = true)]
async fn the_limits_of_the_node_bound_messages_and_what_it_owes() {
    let net = Net::default();
    let mut node = net.node("a");
    let pusher = net.client(&["a"]).push_stream(Window::default());
    for _ in 0..10 {
        pusher.send(object("x")).await.unwrap();
    }
    let mut stream = node.next_push().await;
    let limits = v1::Limits { items: 2, window: 5, ..v1::Limits::default() };
    stream.opened("a", "lane", limits);
    assert_eq!(stream.items().await.len(), 2);
    assert_eq!(stream.items().await.len(), 2);
    assert_eq!(stream.items().await.len(), 1, "five are owed");
    stream.stored(1, 5);
    let rest = stream.take(5).await;
    assert_eq!(rest[0].0, 6);
    stream.stored(6, 10);
    within(pusher.close()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_object_that_no_message_can_hold_is_refused_and_stops_nobody() {
    let net = Net::default();
    let mut node = net.node("a");
    let pusher = net.client(&["a"]).push_stream(Window::default());
    let first = pusher.push(object("x")).await.unwrap();
    let large = pusher.push(object(&"y".repeat(5_000))).await.unwrap();
    let last = pusher.push(object("z")).await.unwrap();
    let mut stream = node.next_push().await;
    stream.opened("a", "lane", v1::Limits { message_bytes: 4_000, ..v1::Limits::default() });
    assert_eq!(stream.take(2).await, [(1, first.id()), (2, last.id())]);
    stream.stored(1, 2);
    within(first).await.unwrap();
    within(last).await.unwrap();
    let error = within(large).await.unwrap_err();
    assert_eq!((error.outcome(), error.limit()), (Outcome::DefinitelyNot, Some(4_000)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_always_ends_is_given_up() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let push = tokio::spawn(async move { client.push(object("x")).await });
    let mut streams = 0;
    let serve = async {
        loop {
            let mut stream = node.push_stream().await;
            stream.take(1).await;
            streams += 1;
        }
    };
    let result =
        tokio::select! { result = within(push) => result.unwrap(), () = serve => unreachable!() };
    assert_eq!(result.unwrap_err().outcome(), Outcome::Unknown);
    assert!((3..100).contains(&streams), "{streams} streams in 30 s");
}
