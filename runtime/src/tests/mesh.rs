//! Two nodes and the link between them.

use dpc_proto::v1;

use super::harness::{TestSession, push, until};
use super::{TestNode, object, start};

async fn linked(node: &TestNode, count: usize) {
    until("links are up", || async {
        let nodes = node.desk().await.list_nodes(v1::ListNodesRequest {}).await;
        let nodes = nodes.expect("lists").into_inner().nodes;
        nodes.iter().filter(|n| !n.self_ && n.link() == v1::LinkState::Up).count() == count
    })
    .await;
}

#[tokio::test]
async fn an_object_moves_to_demand_and_is_found_from_where_it_was_pushed() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let a = start("a", dirs[0].path(), &[]).await;
    let b = start("b", dirs[1].path(), std::slice::from_ref(&a.ready.addresses.nodes)).await;
    linked(&a, 1).await;
    linked(&b, 1).await;
    let id = push(&a, object("acme.Order", "one")).await;
    let mut session = TestSession::open(&b).await;
    session.subscribe("acme.Order").await;
    let delivery = session.delivery().await;
    assert_eq!(delivery.id, id);
    assert_eq!(delivery.hops, 1);
    assert_eq!(delivery.origin, "a");
    session.finalise(delivery.lease).await.expect("settles");

    let get = v1::GetObjectRequest { id: id.clone(), local: false };
    let got = a.desk().await.get_object(get).await.expect("known").into_inner();
    assert_eq!(got.object.as_ref().expect("there").state(), v1::ObjectState::Final, "{got:?}");
    assert_eq!(got.object.expect("there").owner, "b");
    assert_eq!(got.asked, ["a", "b"]);
    assert!(got.complete);
    let get = v1::GetObjectRequest { id: id.clone(), local: true };
    let got = a.desk().await.get_object(get).await.expect("known").into_inner();
    assert_eq!(got.object.expect("there").state(), v1::ObjectState::Moved);

    until("the trace of both nodes", || async {
        let trace = v1::TraceObjectRequest { id: id.clone(), local: false };
        let trace = a.desk().await.trace_object(trace).await.map(tonic::Response::into_inner);
        trace.is_ok_and(|trace| {
            let by = |node: &str, step: &str| {
                trace.decisions.iter().any(|d| d.node == node && d.decision == step)
            };
            by("a", "offer") && by("b", "deliver")
        })
    })
    .await;
    let unknown = v1::GetObjectRequest {
        id: "00000000-0000-4000-8000-000000000000".to_owned(),
        local: false,
    };
    let status = a.desk().await.get_object(unknown).await.expect_err("nobody knows it");
    assert_eq!(status.code(), tonic::Code::NotFound);
    let page = a.page("/metrics").await;
    assert!(
        page.contains("dpc_link_payload_bytes_total{peer=\"b\",direction=\"sent\"} 3"),
        "{page}"
    );
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn two_nodes_that_dial_each_other_keep_one_link_and_are_silent() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // Each has to know the other's port before it listens.
    let ports = [free_port(), free_port()];
    let a = super::harness::start_at("a", dirs[0].path(), &[ports[1].clone()], &ports[0]).await;
    let b = super::harness::start_at("b", dirs[1].path(), &[ports[0].clone()], &ports[1]).await;
    linked(&a, 1).await;
    linked(&b, 1).await;
    let mut session = TestSession::open(&b).await;
    session.subscribe("acme.Order").await;
    let id = push(&a, object("acme.Order", "one")).await;
    let delivery = session.delivery().await;
    assert_eq!(delivery.id, id);
    session.finalise(delivery.lease).await.expect("settles");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_node_that_lists_itself_goes_on_alone() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let a = super::harness::start_at("a", dir.path(), std::slice::from_ref(&port), &port).await;
    until("the problem is shown", || async {
        let nodes = a.desk().await.list_nodes(v1::ListNodesRequest {}).await;
        let nodes = nodes.expect("lists").into_inner().nodes;
        nodes.iter().any(|n| n.problem.as_deref().is_some_and(|p| p.starts_with("SELF")))
    })
    .await;
    push(&a, object("acme.Order", "one")).await;
    a.stop().await;
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("bound").to_string()
}

#[tokio::test]
async fn objects_cross_a_line_of_nodes_and_without_demand_the_links_are_silent() {
    const COUNT: usize = 1_500;
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let a = start("a", dirs[0].path(), &[]).await;
    let b = start("b", dirs[1].path(), std::slice::from_ref(&a.ready.addresses.nodes)).await;
    let c = start("c", dirs[2].path(), std::slice::from_ref(&b.ready.addresses.nodes)).await;
    linked(&a, 1).await;
    linked(&b, 2).await;
    let mut cloud = a.cloud().await;
    for _ in 0..COUNT / 500 {
        let objects = vec![object("acme.Order", "0123456789"); 500];
        let response = cloud.push(v1::PushRequest { objects }).await.expect("stored");
        assert!(response.into_inner().refused.is_empty());
    }
    let silent = |page: String| -> Vec<String> {
        page.lines().filter(|l| l.starts_with("dpc_link")).map(str::to_owned).collect()
    };
    let before = silent(b.page("/metrics").await);
    // A rule that moves objects without demand would do so on the next commit at the latest.
    push(&a, object("acme.Order", "last")).await;
    assert_eq!(silent(b.page("/metrics").await), before, "no demand, no handoff");
    assert!(before.contains(&"dpc_links_up 2".to_owned()));

    let mut session = TestSession::open(&c).await;
    session.subscribe_with("acme.*", 300).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < COUNT + 1 {
        let delivery = session.delivery().await;
        assert_eq!(delivery.hops, 2, "{delivery:?}");
        assert!(seen.insert(delivery.id), "delivered twice");
        session.finalise(delivery.lease).await.expect("settles");
    }
    let types = c.desk().await.list_types(v1::ListTypesRequest::default()).await;
    let books = types.expect("listed").into_inner().types[0].books.expect("there");
    assert_eq!((books.moved_in, books.finalised), (COUNT as u64 + 1, COUNT as u64 + 1));
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test]
async fn what_was_in_flight_when_a_peer_died_arrives_after_its_return() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let port = free_port();
    let a = start("a", dirs[0].path(), std::slice::from_ref(&port)).await;
    let b = super::harness::start_at("b", dirs[1].path(), &[], &port).await;
    linked(&a, 1).await;
    let mut session = TestSession::open(&b).await;
    session.subscribe("acme.Order").await;
    for _ in 0..40 {
        push(&a, object("acme.Order", "x")).await;
    }
    let taken = session.delivery().await;
    session.finalise(taken.lease).await.expect("settles");
    drop(session);
    b.stop().await;
    let b = super::harness::start_at("b", dirs[1].path(), &[], &port).await;
    let mut session = TestSession::open(&b).await;
    session.subscribe("acme.Order").await;
    let mut seen = std::collections::BTreeSet::from([taken.id]);
    while seen.len() < 40 {
        let delivery = session.delivery().await;
        assert!(seen.insert(delivery.id), "settled twice");
        session.finalise(delivery.lease).await.expect("settles");
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn two_nodes_of_one_name_refuse_each_other_and_both_say_so() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = start("a", dirs[0].path(), &[]).await;
    let second =
        start("a", dirs[1].path(), std::slice::from_ref(&first.ready.addresses.nodes)).await;
    until("the dialler says why", || async {
        let nodes = second.desk().await.list_nodes(v1::ListNodesRequest {}).await;
        let nodes = nodes.expect("lists").into_inner().nodes;
        let why = |n: &v1::NodeInfo| n.problem.as_deref().unwrap_or_default().to_owned();
        nodes.iter().any(|n| why(n).starts_with("DUPLICATE_NODE_NAME"))
    })
    .await;
    for node in [&first, &second] {
        until("the alarm stands", || async {
            let shown = node.desk().await.show_node(v1::ShowNodeRequest {}).await;
            let alarms = shown.expect("shown").into_inner().alarms;
            alarms.iter().any(|alarm| alarm.reason == "DUPLICATE_NODE_NAME")
        })
        .await;
    }
    first.stop().await;
    second.stop().await;
}
