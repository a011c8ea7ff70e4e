//! Single calls, against nodes that do what the test says.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod fake;

use std::collections::HashMap;
use std::future::IntoFuture as _;
use std::time::Duration;

use dpc_client::proto::v1;
use dpc_client::{Client, LeaseToken, Object, Outcome, Verb};
use fake::{Call, Net, delivery, error, ok, refused, within};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

fn token() -> LeaseToken {
    LeaseToken::try_from(&[5; 56][..]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn taken_objects_know_their_node_and_token() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["nobody", "a"]);
    let take =
        client.take("acme.*").processor("p").max(3).wait(Duration::from_secs(9)).into_future();
    let answer = async {
        let Call::Take(request, answer) = node.call().await else { panic!("another call") };
        assert_eq!((request.pattern.as_str(), request.max), ("acme.*", Some(3)));
        let wire = v1::Delivery { token: token().as_bytes().to_vec().into(), ..delivery(1) };
        let response = v1::TakeResponse { deliveries: vec![wire], node: "a".to_owned(), epoch: 4 };
        answer.send(Ok(response)).unwrap();
    };
    let (taken, ()) = within(async { tokio::join!(take, answer) }).await;
    let taken = taken.unwrap();
    assert_eq!((taken.len(), taken[0].node(), taken[0].fencing_key().epoch), (1, "a", 4));
    assert_eq!(taken[0].token().as_bytes()[..32], token().as_bytes()[..32]);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_repeated_while_that_may_help_and_says_what_it_does_not_know() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let settle = client.settle(token()).verb(Verb::Finalise).into_future();
    let answer = async {
        let before = Instant::now();
        let Call::Settle(first, answer) = node.call().await else { panic!("another call") };
        let mut details = ErrorDetails::with_error_info("BUSY", "dpc.v1", HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(6)));
        let busy = Status::with_error_details(Code::ResourceExhausted, "busy", details);
        answer.send(Err(busy)).unwrap();
        let Call::Settle(second, answer) = node.call().await else { panic!("another call") };
        assert_eq!((before.elapsed().as_secs(), &second), (6, &first));
        answer.send(Ok(v1::SettleResponse::default())).unwrap();
    };
    within(async { tokio::join!(settle, answer) }).await.0.unwrap();

    let settle = client.settle(token()).into_future();
    let lose = async {
        let Call::Settle(_, _answer) = node.call().await else { panic!("another call") };
        net.down("a");
    };
    let (result, ()) = within(async { tokio::join!(settle, lose) }).await;
    assert_eq!(result.unwrap_err().outcome(), Outcome::Unknown);
    let error = within(client.settle(token()).into_future()).await.unwrap_err();
    assert!(error.is_unreachable(), "nothing was sent this time: {error}");
}

#[tokio::test(start_paused = true)]
async fn objects_of_one_call_are_answered_each_in_its_place() {
    let net = Net::default();
    let mut node = net.node("a");
    let client = net.client(&["a"]);
    let objects = (0..3).map(|i| Object::new("acme.Order", i.to_string())).collect();
    let push = client.push_all(objects);
    let answer = async {
        let Call::Push(request, answer) = node.call().await else { panic!("another call") };
        assert!(request.objects.iter().all(|object| !object.id.is_empty()));
        let bad = refused(0, Some(1), error(Code::InvalidArgument, "ID_REUSED"));
        let stored = v1::PushStatus::Stored;
        let response = v1::PushResponse {
            ok: vec![ok(0, 0, stored), ok(2, 2, stored)],
            refused: vec![bad],
            node: "a".to_owned(),
            lane: "lane".to_owned(),
        };
        answer.send(Ok(response)).unwrap();
    };
    let (answers, ()) = within(async { tokio::join!(push, answer) }).await;
    let answers = answers.unwrap();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().reason(), "ID_REUSED");
    assert_eq!(Outcome::of(&answers[1]), Outcome::DefinitelyNot);
    assert_eq!(Outcome::of(&answers[2]), Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn another_kind_of_server_is_told_from_one_that_is_away() {
    let net = Net::default();
    let _node = net.node("a");
    let client = Client::connect(["a"], net.options()).unwrap();
    let ask = client
        .ask(|mut node| async move { node.list_types(v1::ListTypesRequest::default()).await });
    let error = within(ask).await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Code::Unimplemented, Outcome::DefinitelyNot));
}
