//! Sessions, against nodes that do what the test says.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod fake;

use std::future::IntoFuture as _;
use std::time::Duration;

use dpc_client::proto::v1;
use dpc_client::proto::v1::session_item::Item;
use dpc_client::proto::v1::settlement::Verb as WireVerb;
use dpc_client::{
    Client, Delivery, Entity, FencingKey, Object, Outcome, Subscription, Verb, reason,
};
use fake::{Call, Net, Node, Session, error, refused, within};
use tokio::time::Instant;
use tonic::Code;

const LEASE: Duration = Duration::from_secs(30);

/// A subscription to one type at this node.
async fn subscribed(client: &Client, node: &mut Node) -> (Subscription, Session) {
    let open = async { client.subscribe(["acme.Order"]).await.unwrap() };
    let (subscription, (session, _)) = within(async { tokio::join!(open, node.session()) }).await;
    (subscription, session)
}

async fn next(subscription: &Subscription) -> Delivery {
    within(subscription.next()).await.unwrap().expect("it is open")
}

fn lease_lost() -> v1::Error {
    error(Code::FailedPrecondition, reason::LEASE_LOST)
}

#[tokio::test(start_paused = true)]
async fn a_subscription_says_what_was_asked_and_a_delivery_what_came() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let subscribe =
        client.subscribe(["acme.Order", "acme.mail.*"]).processor("p").credit(7).lease(LEASE * 2);
    let (subscription, (session, wire)) =
        within(async { tokio::join!(async { subscribe.await.unwrap() }, node.session()) }).await;
    let asked: Vec<_> = wire.iter().map(|s| (s.subscription, s.pattern.as_str())).collect();
    assert_eq!(asked, [(1, "acme.Order"), (2, "acme.mail.*")]);
    assert!(wire.iter().all(|s| s.processor.as_deref() == Some("p") && s.credit == Some(7)));
    assert!(wire.iter().all(|s| s.lease == Some((LEASE * 2).into())));
    session.deliver([9]);
    let delivery = next(&subscription).await;
    assert_eq!(delivery.object_type(), "acme.Order");
    assert_eq!(&delivery.payload()[..], b"payload 9");
    assert_eq!(
        (delivery.origin(), delivery.path(), delivery.pattern()),
        ("a", &["x".to_owned(), "y".to_owned()][..], 0)
    );
    assert_eq!(delivery.fencing_key(), FencingKey { moves: 2, epoch: 3, lease: 9 });
    let token = delivery.token();
    assert_eq!(token.as_bytes()[..32], [7; 32]);
    assert_eq!(token.as_bytes()[32..40], 9_u64.to_be_bytes());
    assert_eq!(token.as_bytes()[40..], *delivery.id().as_bytes());
}

#[tokio::test(start_paused = true)]
async fn only_begun_leases_are_extended_at_a_third_of_their_time() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver([1, 2, 3]);
    let arrived = Instant::now();
    let _one = next(&subscription).await;
    let _two = next(&subscription).await;
    let mut begun = Vec::new();
    while begun.len() < 2 {
        for (seq, item) in session.items().await {
            let Item::Begin(begin) = item else { panic!("expected begins, got {item:?}") };
            begun.extend(begin.leases);
            session.done(seq, seq);
        }
    }
    assert_eq!(begun, [1, 2], "the third one was not taken");
    for round in 1..=3 {
        let (seq, item) = session.item().await;
        let Item::Extend(extend) = item else { panic!("expected an extend, got {item:?}") };
        assert_eq!(extend.leases, [1, 2]);
        session.done(seq, seq);
        let after = arrived.elapsed();
        assert!(after <= LEASE / 3 * round, "{after:?}");
        assert!(after > LEASE / 3 * (round - 1), "{after:?}");
    }
    // By now the third one has run out unseen: it is not handed to the application.
    tokio::time::advance(Duration::from_millis(1)).await;
    session.deliver([4]);
    assert_eq!(next(&subscription).await.token().as_bytes()[39], 4);
}

#[tokio::test(start_paused = true)]
async fn many_settles_of_one_kind_are_one_item() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver(1..=100);
    let mut batch = Vec::new();
    while batch.len() < 100 {
        batch.extend(within(subscription.next_batch(1_000)).await.unwrap());
    }
    let singles = batch.split_off(90);
    let answers: Vec<_> = singles.iter().map(|d| d.finalise().into_future()).collect();
    let rejected = singles[0].settle(Verb::Finalise).await.unwrap_err();
    assert_eq!(rejected.reason(), reason::SETTLE_IN_PROGRESS);
    let all = tokio::spawn(subscription.finalise_all(batch));
    let (seq, settlement) = session.settlement().await;
    assert_eq!(settlement.leases.len(), 100, "{settlement:?}");
    assert_eq!(settlement.verb, Some(WireVerb::Finalise(v1::Finalise {})));
    let position = settlement.leases.iter().position(|lease| *lease == 7).unwrap();
    let position = u32::try_from(position).unwrap();
    let range = v1::SeqRange { first_seq: seq, last_seq: seq };
    session.answer(vec![range], vec![refused(seq, Some(position), lease_lost())]);
    for answer in answers {
        within(answer).await.unwrap();
    }
    let error = within(all).await.unwrap().unwrap_err();
    assert_eq!(error.refused.len(), 1);
    assert_eq!(error.refused[0].0.id().as_u128(), 7);
    assert!(error.refused[0].1.is_lease_lost());
}

#[tokio::test(start_paused = true)]
async fn verbs_and_emits_arrive_as_they_were_said() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver(1..=5);
    let all = within(subscription.next_batch(5)).await.unwrap();
    let second = Some(Duration::from_secs(1));
    let entity = Entity::new("acme.Paid", "p").header("k", "v");
    let answers = [
        all[0].advance(Some(entity)).into_future(),
        all[1].release(second).into_future(),
        all[2].fail(None).into_future(),
        all[3].reject("bad").into_future(),
        all[4].finalise().emit(Object::new("acme.Parcel", "x")).into_future(),
    ];
    let mut verbs = Vec::new();
    while verbs.len() < 5 {
        for (seq, item) in session.items().await {
            if let Item::Settle(settlement) = item {
                verbs.push((settlement.leases.clone(), settlement.verb.unwrap(), settlement.emits));
            }
            session.done(seq, seq);
        }
    }
    let delay = second.map(Into::into);
    assert!(matches!(&verbs[0].1, WireVerb::Advance(a)
        if a.entity.as_ref().unwrap().type_url.ends_with("/acme.Paid") && a.headers["k"] == "v"));
    assert_eq!(verbs[1].1, WireVerb::Release(v1::Release { delay, failed: false }));
    assert_eq!(verbs[2].1, WireVerb::Release(v1::Release { delay: None, failed: true }));
    assert_eq!(verbs[3].1, WireVerb::Reject(v1::Reject { reason: "bad".to_owned() }));
    assert_eq!(verbs[4].0, [5]);
    assert!(!verbs[4].2[0].id.is_empty(), "a repeat must emit the same object");
    for answer in answers {
        within(answer).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_settle_leaves_the_lease_to_be_settled_otherwise() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver([1]);
    let delivery = next(&subscription).await;
    let settle = delivery.finalise().emit(Object::new("", "no type")).into_future();
    let (seq, _) = session.settlement().await;
    let wrong = v1::Error {
        field: Some("emits[0].entity.type_url".to_owned()),
        ..error(Code::InvalidArgument, "TYPE_MISSING")
    };
    session.refuse(refused(seq, None, wrong));
    let error = within(settle).await.unwrap_err();
    assert_eq!(error.field(), Some("emits[0].entity.type_url"));
    assert!(!delivery.is_lost());
    let settle = delivery.reject("emits nonsense").into_future();
    let (seq, settlement) = session.settlement().await;
    assert!(matches!(settlement.verb, Some(WireVerb::Reject(_))));
    session.done(seq, seq);
    within(settle).await.unwrap();
    assert!(delivery.is_lost());
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_at_once_is_begun_only_if_that_is_refused() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver([1]);
    let delivery = next(&subscription).await;
    let settle = delivery.finalise().into_future();
    let (seq, item) = session.item().await;
    assert!(matches!(item, Item::Settle(_)), "{item:?}");
    session.refuse(refused(seq, None, error(Code::InvalidArgument, "ID_REUSED")));
    within(settle).await.unwrap_err();
    let (seq, item) = session.item().await;
    assert!(matches!(&item, Item::Begin(begin) if begin.leases == [1]), "{item:?}");
    session.done(seq, seq);
}

#[tokio::test(start_paused = true)]
async fn a_settle_without_an_answer_is_repeated_by_its_token_at_the_same_lane() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver([1, 2]);
    let first = next(&subscription).await;
    let second = next(&subscription).await;
    let settle = first.finalise().into_future();
    let (_, settlement) = session.settlement().await;
    assert_eq!(settlement.leases, [1]);
    net.down("a");
    within(second.lost()).await;
    net.up("a");

    let mut session = node.open_session().await;
    let mut items = session.items().await;
    let (repeat, Item::Settle(settlement)) = items.pop().unwrap() else { panic!("{items:?}") };
    assert_eq!(settlement.tokens, [first.token().as_bytes()]);
    assert!(settlement.leases.is_empty());
    let (seq, Item::Subscribe(subscribe)) = items.pop().unwrap() else { panic!("{items:?}") };
    assert_eq!(subscribe.subscription, 1, "the numbers stay the same");
    session.done(seq, repeat);
    within(settle).await.unwrap();

    // What the application still holds of the old stream is tried honestly.
    assert!(second.is_lost());
    let settle = second.finalise().into_future();
    let (seq, settlement) = session.settlement().await;
    assert_eq!(settlement.tokens, [second.token().as_bytes()]);
    session.refuse(refused(seq, Some(0), lease_lost()));
    session.done(seq, seq);
    assert!(within(settle).await.unwrap_err().is_lease_lost());
}

/// Found by `tests/chaos/run pause`: the streams that a client had given up while its node stood
/// still were open for ever after, and took every other object.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_given_up_is_ended_at_its_node() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut silent) = subscribed(&net.client(&["a"]), &mut node).await;
    silent.deliver([1]);
    let delivery = next(&subscription).await;
    let _settled = delivery.finalise().into_future();
    silent.settlement().await;
    // The node owes an answer, and says nothing to the next stream either.
    let mut mute = node.next_session().await;
    let _session = node.open_session().await;
    silent.left().await;
    mute.left().await;
}

#[tokio::test(start_paused = true)]
async fn a_settle_in_doubt_whose_lane_does_not_return_is_unknown() {
    let net = Net::default();
    let mut a = net.node("a");
    let mut b = net.node("b");
    let (subscription, mut session) = subscribed(&net.client(&["a", "b"]), &mut a).await;
    session.deliver([1, 2]);
    let first = next(&subscription).await;
    let second = next(&subscription).await;
    let settle = first.finalise().into_future();
    session.settlement().await;
    net.down("a");
    // Deliveries go on elsewhere meanwhile.
    let (other, _) = b.session().await;
    other.deliver([5]);
    assert_eq!(next(&subscription).await.node(), "b");
    let lost = within(second.finalise().into_future()).await.unwrap_err();
    assert_eq!((lost.outcome(), lost.reason()), (Outcome::DefinitelyNot, reason::LEASE_LOST));
    assert_eq!(within(settle).await.unwrap_err().outcome(), Outcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn dropping_gives_back_with_blame_what_was_begun_and_without_what_was_not() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver([1, 2, 3]);
    drop(next(&subscription).await);
    let (seq, settlement) = session.settlement().await;
    let blame = |failed| Some(WireVerb::Release(v1::Release { delay: None, failed }));
    assert_eq!((settlement.leases, settlement.verb), (vec![1], blame(true)));
    session.done(seq, seq);
    let held = next(&subscription).await;
    let (seq, begin) = session.item().await;
    assert!(matches!(begin, Item::Begin(_)));
    session.done(seq, seq);
    drop(subscription);
    let items = session.items().await;
    assert!(matches!(items[0].1, Item::Unsubscribe(v1::Unsubscribe { subscription: 1 })));
    let Item::Settle(settlement) = &items[1].1 else { panic!("{items:?}") };
    assert_eq!((settlement.leases.clone(), settlement.verb.clone()), (vec![3], blame(false)));
    session.done(items[0].0, items[1].0);
    // What is held can still be settled; then the stream ends.
    let settle = held.finalise().into_future();
    let (seq, _) = session.settlement().await;
    session.done(seq, seq);
    within(settle).await.unwrap();
    assert!(session.is_ended().await);
}

#[tokio::test(start_paused = true)]
async fn leases_that_the_node_ended_are_lost() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver([1, 2, 3]);
    let held = next(&subscription).await;
    session.lease_ended(vec![1, 2]);
    within(held.lost()).await;
    let other = next(&subscription).await;
    assert_eq!(other.id().as_u128(), 3, "the second one was never seen");
    assert!(!other.is_lost());
    // A refused begin is a lost lease, too.
    loop {
        let (seq, item) = session.item().await;
        let Item::Begin(begin) = item else { panic!("{item:?}") };
        if begin.leases == [3] {
            session.refuse(refused(seq, Some(0), lease_lost()));
            session.done(seq, seq);
            break;
        }
        session.done(seq, seq);
    }
    within(other.lost()).await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_one_item_and_a_refusal_leaves_all_leases() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver([1, 2]);
    let all = within(subscription.next_batch(2)).await.unwrap();
    let (seq, begin) = session.item().await;
    assert!(matches!(begin, Item::Begin(_)));
    session.done(seq, seq);
    let transaction = || {
        subscription
            .transaction()
            .settle(all[0].finalise().emit(Object::new("acme.Paid", "x")))
            .settle(all[1].release(None))
            .push(Object::new("acme.Audit", "y"))
            .into_future()
    };
    let commit = transaction();
    let (seq, item) = session.item().await;
    let Item::Transaction(wire) = item else { panic!("{item:?}") };
    assert_eq!(wire.settlements.len(), 2);
    assert_eq!((wire.settlements[0].leases[0], wire.settlements[0].emits.len()), (1, 1));
    assert_eq!(wire.pushes.len(), 1);
    session.refuse(refused(seq, Some(2), error(Code::InvalidArgument, "ID_REUSED")));
    let error = within(commit).await.unwrap_err();
    assert_eq!((error.reason(), error.position()), ("ID_REUSED", Some(2)));
    assert!(all.iter().all(|delivery| !delivery.is_lost()));

    // Sent, and the answer lost: repeated by tokens, as a single call to the same lane.
    let commit = transaction();
    let (_, item) = session.item().await;
    let Item::Transaction(wire) = item else { panic!("{item:?}") };
    net.down("a");
    within(all[0].lost()).await;
    net.up("a");
    node.session().await;
    let Call::Transaction(request, answer) = node.call().await else { panic!("another call") };
    let repeated = request.transaction.unwrap();
    assert_eq!(repeated.pushes, wire.pushes, "the same ids");
    assert_eq!(repeated.settlements[0].emits, wire.settlements[0].emits);
    assert_eq!(repeated.settlements[0].tokens, [all[0].token().as_bytes()]);
    answer.send(Ok(v1::TransactionResponse {})).unwrap();
    within(commit).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_gets_its_settles_and_is_left_for_the_next_one() {
    let net = Net::default();
    let mut a = net.node("a");
    let mut b = net.node("b");
    let (subscription, mut session) = subscribed(&net.client(&["a", "b"]), &mut a).await;
    session.deliver([1, 2]);
    let held = next(&subscription).await;
    session.send(v1::session_response::Response::Draining(v1::Draining { until: None }));
    let (seq, settlement) = session.settlement().await;
    assert_eq!(settlement.leases, [2], "what was not taken goes back at once");
    session.done(seq, seq);
    assert!(!held.is_lost());
    let settle = held.finalise().into_future();
    let (seq, _) = session.settlement().await;
    session.done(seq, seq);
    within(settle).await.unwrap();
    assert!(session.is_ended().await);
    let (other, _) = b.session().await;
    other.deliver([7]);
    assert_eq!(next(&subscription).await.node(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_an_error_and_not_an_end() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let bad = v1::Error {
        field: Some("pattern".to_owned()),
        ..error(Code::InvalidArgument, "PATTERN_INVALID")
    };
    let open = async { client.subscribe(["a b"]).await.unwrap_err() };
    let refuse = async {
        let mut session = node.open_session().await;
        let (seq, _) = session.item().await;
        session.refuse(refused(seq, None, bad.clone()));
        session
    };
    let (error, _session) = within(async { tokio::join!(open, refuse) }).await;
    assert_eq!((error.reason(), error.field()), ("PATTERN_INVALID", Some("pattern")));

    let (subscription, _session) = subscribed(&client, &mut node).await;
    net.down("a");
    net.up("a");
    let mut session = node.open_session().await;
    let (seq, _) = session.item().await;
    session.refuse(refused(seq, None, bad));
    let error = within(subscription.next()).await.unwrap_err();
    assert_eq!(error.reason(), "PATTERN_INVALID");
    assert!(within(subscription.next()).await.unwrap().is_none(), "told once, then the end");
}

#[tokio::test(start_paused = true)]
async fn a_close_waits_for_the_answers_of_its_settles() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver([1]);
    let delivery = next(&subscription).await;
    let settle = delivery.finalise().into_future();
    let close = tokio::spawn(subscription.close());
    let mut last = 0;
    let mut seen = (false, false);
    while seen != (true, true) {
        for (seq, item) in session.items().await {
            last = seq;
            seen.0 |= matches!(item, Item::Settle(_));
            seen.1 |= matches!(item, Item::Unsubscribe(_));
        }
    }
    assert!(!close.is_finished());
    session.done(2, last);
    within(close).await.unwrap().unwrap();
    within(settle).await.unwrap();
    assert!(session.is_ended().await);
}

#[tokio::test(start_paused = true)]
async fn a_full_node_gets_the_same_settle_again_when_it_says() {
    let net = Net::default();
    let mut node = net.node("a");
    let (subscription, mut session) = subscribed(&net.client(&["a"]), &mut node).await;
    session.deliver([1]);
    let delivery = next(&subscription).await;
    let settle = delivery.finalise().emit(Object::new("acme.Paid", "x")).into_future();
    let (seq, first) = session.settlement().await;
    let before = Instant::now();
    let full = v1::Error {
        retry_after: Some(Duration::from_secs(4).into()),
        ..error(Code::ResourceExhausted, "DISK_RESERVE")
    };
    session.refuse(refused(seq, None, full));
    let (seq, again) = session.settlement().await;
    assert_eq!((before.elapsed().as_secs(), &again), (4, &first));
    session.done(seq, seq);
    within(settle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_delivery_is_left_to_its_token() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let (subscription, mut session) = subscribed(&client, &mut node).await;
    session.deliver([1]);
    let token = next(&subscription).await.abandon();
    let text = token.to_string();
    let settle = client.settle(text.parse().unwrap()).verb(Verb::Release(None)).into_future();
    let answer = async {
        let Call::Settle(request, answer) = node.call().await else { panic!("another call") };
        assert_eq!(request.settlement.unwrap().tokens, [token.as_bytes()]);
        let refused = vec![refused(0, Some(0), lease_lost())];
        answer.send(Ok(v1::SettleResponse { refused })).unwrap();
    };
    let (result, ()) = within(async { tokio::join!(settle, answer) }).await;
    assert!(result.unwrap_err().is_lease_lost());
    // Longer than its lease: nothing is extended and nothing given back.
    let quiet = tokio::time::timeout(LEASE * 2, session.items()).await;
    assert!(quiet.is_err() || quiet.is_ok_and(|items| matches!(items[0].1, Item::Begin(_))));
}

#[tokio::test(start_paused = true)]
async fn a_settle_that_no_message_can_hold_is_refused_and_its_lease_stays() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let open = async { client.subscribe(["acme.Order"]).await.unwrap() };
    let serve = async {
        let mut session = node.next_session().await;
        session.opened_with(
            "a",
            "lane",
            v1::Limits { message_bytes: 4_000, ..v1::Limits::default() },
        );
        let (seq, _) = session.item().await;
        session.done(seq, seq);
        session
    };
    let (subscription, mut session) = within(async { tokio::join!(open, serve) }).await;
    session.deliver([1]);
    let delivery = next(&subscription).await;
    let emit = Object::new("acme.Large", "y".repeat(5_000));
    let error = within(delivery.finalise().emit(emit).into_future()).await.unwrap_err();
    assert_eq!((error.outcome(), error.limit()), (Outcome::DefinitelyNot, Some(4_000)));
    assert!(!delivery.is_lost());
    let settle = delivery.finalise().into_future();
    let (seq, _) = session.settlement().await;
    session.done(seq, seq);
    within(settle).await.unwrap();
}
