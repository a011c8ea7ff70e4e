//! Who is there and slow.

use std::time::Duration;

use dpc_client::proto::v1;
use dpc_client::proto::v1::cloud_service_client::CloudServiceClient;
use dpc_core::ids::ObjectId;
use hyper_util::rt::TokioIo;
use runtime::edge::Dial;
use tokio::sync::mpsc;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;
use v1::session_response::Response;

use super::{
    SOON, Sign, client, client_with, finish, net, net_of, next, object, push_many, task, until,
    until_links, until_stored, up, wait,
};
use crate::net::{Ill, Plan};
use crate::node::clients_address;
use crate::wires::Dialler;
use crate::world::World;

const BODY: usize = 256 << 10;

/// A subscriber whose connection answers every keepalive, and whose program does not read. It is cut
/// off when too much waits for it, what it holds goes to others, and others wait for nothing.
pub(super) fn deaf_subscriber() {
    const COUNT: u64 = 90;
    let mut net = net(&[&[]]);
    let (subscribed, everything) = (Sign::new(), Sign::new());
    let (told, over) = (subscribed.clone(), everything.clone());
    let deaf = task(&mut net, "deaf", |world| async move {
        let (requests, mut responses) = raw_session(&world, "deaf").await;
        let subscribe = v1::Subscribe {
            subscription: 1,
            pattern: "img".to_owned(),
            credit: Some(1_000),
            lease: Some(Duration::from_secs(600).into()),
            ..v1::Subscribe::default()
        };
        let item = Some(v1::session_item::Item::Subscribe(subscribe));
        let items = vec![v1::SessionItem { seq: 1, item }];
        requests.send(v1::SessionRequest { items }).await.expect("the stream is open");
        while !matches!(heard(&mut responses).await, Response::Answers(_)) {}
        told.give();
        over.given().await;
        // Now it reads: what was sent before, and then why nothing more comes.
        loop {
            match responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return "an end without a word".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    });
    until(&mut net, "a subscription", &subscribed);
    let pushed = task(&mut net, "sender", |world| async move {
        let client = client(&world, "sender", &[0]);
        let text = "x".repeat(BODY);
        for n in 0..COUNT {
            client.push(object(&world, n, "img", &text)).await.expect("stored");
        }
        client.push(object(&world, COUNT, "sound", "x")).await.expect("stored");
    });
    wait(&mut net, Duration::from_secs(20), "the pushes", &pushed);
    let other = task(&mut net, "other", |world| async move {
        let client = client(&world, "other", &[0]);
        let sound = client.subscribe(["sound"]).await.expect("subscribes");
        next(&sound).await.finalise().await.expect("settles at once");
        let quick = turmoil::elapsed();
        let images = client.subscribe(["img"]).await.expect("subscribes");
        for _ in 0..COUNT {
            next(&images).await.finalise().await.expect("settles");
        }
        quick
    });
    let quick = wait(&mut net, Duration::from_secs(30), "everything at the other", &other);
    everything.give();
    assert!(quick < Duration::from_millis(500), "another type waited for {quick:?}");
    let why = wait(&mut net, Duration::from_secs(30), "the deaf one's end", &deaf);
    assert!(why.contains("read"), "it is told why: {why}");
    finish(net);
}

/// A link of little bandwidth is full of bodies. Questions, adverts and keepalives pass between them,
/// and the link does not break.
pub(super) fn slow_link() {
    let mut plan = Plan::new(1, &[&[], &[0]]);
    plan.bounds.keepalive = Duration::from_secs(2);
    plan.bounds.keepalive_timeout = Duration::from_secs(2);
    plan.bounds.follow = Duration::from_secs(8);
    let mut net = net_of(plan);
    until_links(&mut net, 0, 1, SOON);
    net.world.wires.throttle("n1", "n2", Some(300_000));
    let subscribed = Sign::new();
    let opened = subscribed.clone();
    let all = task(&mut net, "receiver", |world| async move {
        let client = client(&world, "receiver", &[1]);
        let subscription = client.subscribe(["img"]).credit(64).await.expect("subscribes");
        opened.give();
        for _ in 0..16 {
            next(&subscription).await.finalise().await.expect("settles");
        }
    });
    until(&mut net, "a subscription", &subscribed);
    let told = task(&mut net, "asker", |world| async move {
        let patient = |options: dpc_client::Options| options.answer_timeout(Duration::from_secs(9));
        let client = client_with(&world, "asker", &[0], patient);
        let text = "x".repeat(BODY);
        for n in 0..16 {
            client.push(object(&world, n, "img", &text)).await.expect("stored");
        }
        let (mut answers, mut longest) = (Vec::new(), Duration::ZERO);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(900)).await;
            let asked = turmoil::elapsed();
            let id = uuid::Uuid::from_bytes(first_id(&world).0).to_string();
            let get = client.ask(|mut node| {
                let request = v1::GetObjectRequest { id: id.clone(), local: false };
                async move { node.get_object(request).await }
            });
            answers.push((get.await.expect("known").complete, up(&client).await));
            longest = longest.max(turmoil::elapsed() - asked);
        }
        (answers, longest)
    });
    let (answers, longest) = wait(&mut net, Duration::from_secs(60), "the answers", &told);
    // The first object is at the other node by then: a complete answer has crossed the link.
    assert!(answers.iter().all(|answer| *answer == (true, 1)), "{answers:?}");
    // Not even one offer was waited for: a piece of one body is on its way when a question comes.
    assert!(longest < Duration::from_millis(1_500), "a question waited {longest:?} behind bodies");
    wait(&mut net, Duration::from_secs(60), "all bodies", &all);
    assert_eq!(net.world.wires.count("n1", "n2"), 1, "it is the first connection still");
    net.world.wires.throttle("n1", "n2", None);
    finish(net);
}

fn first_id(world: &World) -> ObjectId {
    *world.lock().contents.keys().next().expect("objects were pushed")
}

/// The network keeps everything back for longer than any timeout, and then delivers all of it.
pub(super) fn held() {
    let mut net = net(&[&[], &[0]]);
    until_links(&mut net, 0, 1, SOON);
    let subscribed = Sign::new();
    let told = subscribed.clone();
    let received = task(&mut net, "receiver", |world| async move {
        let client = client(&world, "receiver", &[1]);
        let subscription = client.subscribe(["img"]).await.expect("subscribes");
        told.give();
        for _ in 0..30 {
            next(&subscription).await.finalise().await.expect("settles");
        }
    });
    until(&mut net, "a subscription", &subscribed);
    let pushed = task(&mut net, "sender", |world| async move {
        let client = client(&world, "sender", &[0]);
        push_many(&world, &client, 0, 30, "img").await.into_iter().all(|receipt| receipt.is_ok())
    });
    // In the middle of the pushes, with handoffs on their way.
    until_stored(&mut net, 1, 1);
    net.make_ill("n1", "n2", Ill::Held);
    net.run_for(Duration::from_millis(1_500));
    net.heal("n1", "n2");
    assert!(wait(&mut net, SOON, "the pushes", &pushed));
    wait(&mut net, Duration::from_secs(20), "all objects", &received);
    finish(net);
}

/// The next thing a node says in a session.
async fn heard(responses: &mut tonic::Streaming<v1::SessionResponse>) -> Response {
    let message = responses.message().await.expect("the stream is well");
    message.and_then(|m| m.response).expect("the node has something to say")
}

/// A session as the wire has it, without the library that always reads.
async fn raw_session(
    world: &World,
    host: &str,
) -> (mpsc::Sender<v1::SessionRequest>, tonic::Streaming<v1::SessionResponse>) {
    let dialler = Dialler::new(&world.wires, host);
    let connector = service_fn(move |uri: Uri| {
        let dialler = dialler.clone();
        async move {
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            dialler.dial(&authority).await.map(TokioIo::new)
        }
    });
    let address = format!("http://{}", clients_address("n1"));
    let endpoint = Endpoint::from_shared(address).expect("an address");
    let channel = endpoint.connect_with_connector(connector).await.expect("connects");
    let (requests, outgoing) = mpsc::channel(4);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let response = CloudServiceClient::new(channel).session(outgoing).await.expect("opens");
    (requests, response.into_inner())
}
