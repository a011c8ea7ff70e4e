//! Bad input: each answered by a typed error that names field and limit, and changing nothing.

use dpc_proto::v1;
use tonic_types::StatusExt;
use v1::session_item::Item;

use super::harness::TestSession;
use super::{object, start};

/// What a refused call says: code, reason, field.
fn said(status: &tonic::Status) -> (tonic::Code, String, Option<String>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no details: {status:?}"));
    assert_eq!(info.domain, "dpc.v1");
    let field = details.bad_request().map(|bad| bad.field_violations[0].field.clone());
    (status.code(), info.reason.clone(), field)
}

#[tokio::test]
async fn bad_pushes_are_refused_with_field_and_limit() {
    use tonic::Code::InvalidArgument;
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let mut cloud = node.cloud().await;
    let mut no_type = object("", "x");
    no_type.entity = None;
    let mut bad_id = object("acme.A", "x");
    bad_id.id = "123".to_owned();
    let mut many = object("acme.A", "x");
    many.headers = (0..65).map(|n| (format!("k{n}"), String::new())).collect();
    let mut long_key = object("acme.A", "x");
    long_key.headers = [("k".repeat(129), String::new())].into();
    let past = dpc_proto::google::protobuf::Timestamp { seconds: 1_000_000, nanos: 0 };
    let mut late = object("acme.A", "x");
    late.start = Some(v1::object::Start::NotBefore(past));
    let mut absurd = object("acme.A", "x");
    absurd.end = Some(v1::object::End::ExpiresIn(dpc_proto::google::protobuf::Duration {
        seconds: 366 * 86_400,
        nanos: 0,
    }));
    let mut negative = object("acme.A", "x");
    negative.start = Some(v1::object::Start::Delay(dpc_proto::google::protobuf::Duration {
        seconds: -1,
        nanos: 0,
    }));
    for (object, reason, field) in [
        (no_type, "TYPE_MISSING", "type"),
        (object("a..b", "x"), "TYPE_MALFORMED", "type"),
        (object("acme.A", &"x".repeat((1 << 20) + 1)), "LIMIT_EXCEEDED", "payload"),
        (bad_id, "ID_MALFORMED", "id"),
        (many, "LIMIT_EXCEEDED", "headers"),
        (long_key, "LIMIT_EXCEEDED", "headers.key"),
        (late, "TIME_OUT_OF_RANGE", "not_before"),
        (absurd, "TIME_OUT_OF_RANGE", "expires_at"),
        (negative, "TIME_OUT_OF_RANGE", "delay"),
    ] {
        let refused = cloud.push(v1::PushRequest { objects: vec![object] }).await;
        let status = refused.expect_err(reason);
        let expected = (InvalidArgument, reason.to_owned(), Some(field.to_owned()));
        assert_eq!(said(&status), expected, "{status:?}");
    }
    let types = node.desk().await.list_types(v1::ListTypesRequest::default()).await;
    assert!(types.expect("listed").into_inner().types.iter().all(|t| t.ready == 0));
    node.stop().await;
}

#[tokio::test]
async fn of_a_call_with_several_items_the_others_are_done() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let objects = vec![object("acme.A", "x"), object("", "x"), object("acme.A", "y")];
    let response = node.cloud().await.push(v1::PushRequest { objects }).await.expect("answers");
    let response = response.into_inner();
    let positions: Vec<_> = response.ok.iter().map(|ok| (ok.first_seq, ok.last_seq)).collect();
    assert_eq!(positions, [(0, 0), (2, 2)]);
    assert_eq!(response.refused.len(), 1);
    assert_eq!(response.refused[0].position, Some(1));
    node.stop().await;
}

#[tokio::test]
async fn bad_items_of_a_session_are_answered_in_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let mut session = TestSession::open(&node).await;
    let subscribe = |pattern: &str, credit, processor: &str| {
        Item::Subscribe(v1::Subscribe {
            subscription: 1,
            pattern: pattern.to_owned(),
            credit: Some(credit),
            processor: Some(processor.to_owned()),
            lease: None,
        })
    };
    for (item, reason, field) in [
        (subscribe("acme.A", 0, "p"), "CREDIT_OUT_OF_RANGE", "credit"),
        (subscribe("acme.A", 65_537, "p"), "CREDIT_OUT_OF_RANGE", "credit"),
        (subscribe("", 1, "p"), "TYPE_MISSING", "pattern"),
        (subscribe("acme.A", 1, ""), "NAME_MISSING", "processor"),
        (subscribe("acme.A", 1, &"p".repeat(65)), "LIMIT_EXCEEDED", "processor"),
        (
            Item::SetCredit(v1::SetCredit { subscription: 7, credit: 1 }),
            "SUBSCRIPTION_UNKNOWN",
            "subscription",
        ),
        (
            Item::Settle(v1::Settlement { leases: vec![9], ..Default::default() }),
            "VERB_MISSING",
            "verb",
        ),
        (Item::Begin(v1::Begin::default()), "LEASE_MISSING", "leases"),
    ] {
        let error = session.ask(item).await.expect_err(reason);
        assert_eq!((error.reason.as_str(), error.field.as_deref()), (reason, Some(field)));
        assert_eq!(error.outcome(), v1::Outcome::NotDone);
    }
    let lost = session.finalise(999).await.expect_err("no such lease");
    assert_eq!((lost.reason.as_str(), lost.given.as_deref()), ("LEASE_UNKNOWN", Some("999")));
    session.subscribe("acme.A").await;
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_the_clients_fault() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let mut raw = tonic::client::Grpc::new(node.channel().await);
    raw.ready().await.unwrap();
    // Bytes where an object should be: field 1 is a message there.
    let garbage = v1::TransferId { sender_lane: vec![0xff; 8].into(), ..v1::TransferId::default() };
    let path = http::uri::PathAndQuery::from_static("/dpc.v1.CloudService/Push");
    let codec = tonic_prost::ProstCodec::<v1::TransferId, v1::PushResponse>::default();
    let status = raw.unary(tonic::Request::new(garbage.clone()), path, codec).await;
    let (code, reason, _) = said(&status.expect_err("unreadable"));
    assert_eq!((code, reason.as_str()), (tonic::Code::InvalidArgument, "MALFORMED_MESSAGE"));

    let codec = tonic_prost::ProstCodec::<v1::TransferId, v1::PushStreamResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/dpc.v1.CloudService/PushStream");
    raw.ready().await.unwrap();
    let requests = tonic::Request::new(futures_util::stream::iter([garbage]));
    let mut answers = raw.streaming(requests, path, codec).await.expect("opens").into_inner();
    let status = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream should have failed"),
            Err(status) => break status,
        }
    };
    let (code, reason, _) = said(&status);
    assert_eq!((code, reason.as_str()), (tonic::Code::InvalidArgument, "MALFORMED_MESSAGE"));
    node.stop().await;
}
