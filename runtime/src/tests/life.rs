//! One node: an object's life over the wire.

use dpc_proto::v1;
use v1::session_response::Response;

use super::harness::{TestSession, push, until, within};
use super::{object, start};
use crate::node::Order;

#[tokio::test]
async fn a_pushed_object_is_delivered_finalised_and_known_as_final_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let id = push(&node, object("acme.Order", "one")).await;
    let mut session = TestSession::open(&node).await;
    assert_eq!(session.opened.node, "a");
    session.subscribe("acme.*").await;
    let delivery = session.delivery().await;
    assert_eq!(delivery.id, id);
    assert_eq!((delivery.version, delivery.delivery, delivery.hops), (1, 1, 0));
    let entity = delivery.entity.expect("there");
    assert_eq!(&entity.type_url, "type.googleapis.com/acme.Order");
    assert_eq!(&entity.value[..], b"one");
    session.finalise(delivery.lease).await.expect("settles");

    let get = v1::GetObjectRequest { id: id.clone(), local: false };
    let got = node.desk().await.get_object(get.clone()).await.expect("known").into_inner();
    assert!(got.complete);
    assert_eq!(got.object.expect("there").state(), v1::ObjectState::Final);
    let page = node.page("/metrics").await;
    assert!(page.contains("dpc_objects_pushed_total{type=\"acme.Order\"} 1"), "{page}");
    assert!(page.contains("dpc_objects_delivered_total{type=\"acme.Order\"} 1"), "{page}");
    assert!(page.contains("dpc_objects_settled_total 1"), "{page}");
    assert!(node.page("/readyz").await.starts_with("HTTP/1.1 200"));
    session.finalise(delivery.lease).await.expect("a repeated settle gets its first answer");
    drop(session);
    node.stop().await;

    let node = start("a", dir.path(), &[]).await;
    let got = node.desk().await.get_object(get).await.expect("known").into_inner();
    let object = got.object.expect("there");
    assert_eq!(object.state(), v1::ObjectState::Final);
    assert_eq!(object.settled_by.as_deref(), Some("default"));
    node.stop().await;
}

#[tokio::test]
async fn a_push_stream_is_answered_in_ranges_each_item_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(64);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = node.cloud().await.push_stream(outgoing).await.expect("opens").into_inner();
    let count = 5_000_u64;
    let bad = 777;
    let sending = tokio::spawn(async move {
        for first in (1..=count).step_by(500) {
            let item = |seq| {
                let mut object = object("acme.Order", "x");
                if seq == bad {
                    object.id = "no uuid".to_owned();
                }
                v1::PushItem { seq, object: Some(object) }
            };
            let items: Vec<_> = (first..first + 500).map(item).collect();
            requests.send(dpc_proto::PushStreamRequest::from(items)).await.expect("open");
        }
    });
    let (mut stored, mut refused, mut messages) = (0, Vec::new(), 0);
    let mut ids = std::collections::BTreeSet::new();
    while let Some(message) = within(answers.message()).await.expect("reads") {
        match message.response.expect("said") {
            v1::push_stream_response::Response::Opened(opened) => {
                assert_eq!(opened.limits.expect("there").items, 1_000);
            }
            v1::push_stream_response::Response::Answers(answers) => {
                messages += 1;
                for ok in answers.ok {
                    stored += ok.last_seq - ok.first_seq + 1;
                    assert_eq!(ok.ids.len() as u64, ok.last_seq - ok.first_seq + 1);
                    ids.extend(ok.ids);
                }
                refused.extend(answers.refused);
            }
        }
    }
    sending.await.unwrap();
    assert_eq!(stored, count - 1);
    assert_eq!(ids.len() as u64, count - 1, "every object has an id of its own");
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].seq, bad);
    assert_eq!(refused[0].error.as_ref().expect("said").field.as_deref(), Some("id"));
    assert!(messages < 200, "answers come in ranges: {messages} messages");
    let types = node.desk().await.list_types(v1::ListTypesRequest::default()).await;
    assert_eq!(types.expect("listed").into_inner().types[0].ready, count - 1);
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_leases_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let id = push(&node, object("acme.Order", "one")).await;
    let mut first = TestSession::open(&node).await;
    first.subscribe("acme.Order").await;
    assert_eq!(first.delivery().await.id, id);
    drop(first);
    let mut second = TestSession::open(&node).await;
    second.subscribe("acme.Order").await;
    let delivery = second.delivery().await;
    assert_eq!(delivery.id, id);
    assert_eq!(delivery.failed_deliveries, 0, "it had not begun: no blame");
    second.finalise(delivery.lease).await.expect("settles");
    node.stop().await;
}

#[tokio::test]
async fn calls_do_the_whole_job_too() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let id = push(&node, object("acme.Order", "one")).await;
    let mut cloud = node.cloud().await;
    let take = v1::TakeRequest { pattern: "acme.Order".to_owned(), ..v1::TakeRequest::default() };
    let taken = within(cloud.take(take)).await.expect("takes").into_inner().deliveries;
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].id, id);
    let tokens = vec![taken[0].token.clone()];
    let begin = v1::Begin { tokens: tokens.clone(), ..v1::Begin::default() };
    let begun = cloud.begin(v1::BeginRequest { begin: Some(begin) }).await.expect("begins");
    assert!(begun.into_inner().refused.is_empty());
    let extend = v1::Extend { tokens: tokens.clone(), ..v1::Extend::default() };
    let extended = cloud.extend(v1::ExtendRequest { extend: Some(extend) }).await.expect("extends");
    let until = extended.into_inner().until.expect("the node says until when");
    let before = taken[0].lease_until.expect("a lease ends");
    assert!((until.seconds, until.nanos) >= (before.seconds, before.nanos), "{until:?}");
    let settlement = v1::Settlement {
        tokens: tokens.clone(),
        verb: Some(v1::settlement::Verb::Finalise(v1::Finalise {})),
        emits: vec![object("acme.Invoice", "for one")],
        ..v1::Settlement::default()
    };
    let settle = v1::SettleRequest { settlement: Some(settlement.clone()) };
    cloud.settle(settle.clone()).await.expect("settles");
    cloud.settle(settle).await.expect("a repeated settle gets its first answer");
    let other = v1::Settlement {
        verb: Some(v1::settlement::Verb::Reject(v1::Reject { reason: "late".to_owned() })),
        emits: Vec::new(),
        ..settlement
    };
    let lost = cloud.settle(v1::SettleRequest { settlement: Some(other) }).await;
    let lost = lost.expect_err("another settle of the version");
    assert_eq!(lost.code(), tonic::Code::FailedPrecondition);
    let take = v1::TakeRequest { pattern: "acme.Invoice".to_owned(), ..v1::TakeRequest::default() };
    let taken = within(cloud.take(take)).await.expect("takes").into_inner().deliveries;
    assert_eq!(&taken[0].entity.as_ref().expect("there").value[..], b"for one");
    node.stop().await;
}

#[tokio::test]
async fn what_a_caller_that_went_away_would_have_taken_is_free_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let take = |wait: i64| v1::TakeRequest {
        pattern: "acme.Order".to_owned(),
        wait: Some(dpc_proto::google::protobuf::Duration { seconds: wait, nanos: 0 }),
        ..v1::TakeRequest::default()
    };
    let mut cloud = node.cloud().await;
    let waiting = tokio::spawn(async move { cloud.take(take(60)).await });
    until("demand is here", || async {
        let nodes = node.desk().await.list_nodes(v1::ListNodesRequest {}).await;
        nodes.expect("lists").into_inner().nodes[0].demand.contains(&"acme.Order".to_owned())
    })
    .await;
    waiting.abort();
    assert!(waiting.await.is_err_and(|end| end.is_cancelled()));
    let id = push(&node, object("acme.Order", "one")).await;
    let taken = within(node.cloud().await.take(take(20))).await.expect("takes").into_inner();
    assert_eq!(taken.deliveries[0].id, id);
    assert_eq!(taken.deliveries[0].failed_deliveries, 0);
    node.stop().await;
}

#[tokio::test]
async fn health_and_reflection_answer_on_both_ports() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let addresses = node.ready.addresses.clone();
    for (address, service) in
        [(addresses.clients, "dpc.v1.CloudService"), (addresses.nodes, "dpc.v1.MeshService")]
    {
        let endpoint = tonic::transport::Channel::from_shared(format!("http://{address}"));
        let channel = endpoint.unwrap().connect().await.expect("connects");
        for name in ["", service] {
            let request = HealthCheckRequest { service: name.to_owned() };
            let health = HealthClient::new(channel.clone()).check(request).await.expect("answers");
            assert_eq!(health.into_inner().status, 1, "{name} is serving");
        }
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let requests = futures_util::stream::iter([request]);
        let mut client = ServerReflectionClient::new(channel);
        let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
        let ServerReflectionResponse { message_response, .. } =
            answers.message().await.unwrap().expect("answers");
        let Some(MessageResponse::ListServicesResponse(list)) = message_response else {
            panic!("{message_response:?}");
        };
        assert!(list.service.iter().any(|s| s.name == service), "{list:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_drains_says_so_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    push(&node, object("acme.Order", "one")).await;
    let mut session = TestSession::open(&node).await;
    session.subscribe("acme.Order").await;
    let delivery = session.delivery().await;
    node.order(Order::Drain);
    let Some(Response::Draining(_)) = session.next().await else { panic!("a notice") };
    until("not ready", || async { node.page("/readyz").await.starts_with("HTTP/1.1 503") }).await;
    let refused = node.cloud().await.push(v1::PushRequest { objects: vec![object("a", "")] }).await;
    assert_eq!(refused.expect_err("draining").code(), tonic::Code::Unavailable);
    session.finalise(delivery.lease).await.expect("what is leased can be settled");
    node.ended().await.expect("ends well");
    assert!(session.next().await.is_none(), "the stream ends");
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_cut_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let node = start("a", dir.path(), &[]).await;
    let mut stuck = TestSession::open(&node).await;
    stuck.subscribe_with("acme.*", 1_000).await;
    let big = "x".repeat(1 << 20);
    let mut cloud = node.cloud().await.max_encoding_message_size(32 << 20);
    // More than the transport's windows and the node's patience hold.
    for _ in 0..3 {
        let objects = vec![object("acme.Big", &big); 8];
        cloud.push(v1::PushRequest { objects }).await.expect("stored");
    }
    until("the stream is cut", || async {
        node.page("/metrics").await.contains("\ndpc_sessions 0\n")
    })
    .await;
    let mut brisk = TestSession::open(&node).await;
    brisk.subscribe_with("acme.*", 64).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 24 {
        let delivery = brisk.delivery().await;
        brisk.finalise(delivery.lease).await.expect("settles");
        seen.insert(delivery.id);
    }
    drop(stuck);
    node.stop().await;
}
