//! Bad input: each is answered by a typed error that names the field and the limit, and changes
//! nothing. As another client would send it, with nothing of ours that checks before.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use dpc_proto::google::protobuf::{Any, Duration, Timestamp};
use dpc_proto::v1::cloud_service_client::CloudServiceClient;
use dpc_proto::v1::operator_service_client::OperatorServiceClient;
use dpc_proto::v1::{self, object, session_item, session_response, settlement};
use support::{Node, folder, serve_fails, wait_for};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What an error said.
#[derive(Debug)]
struct Said {
    code: Code,
    reason: String,
    field: Option<String>,
    limit: Option<String>,
    text: String,
}

impl From<Status> for Said {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
        assert_eq!(info.domain, "dpc.v1");
        let violation = details.bad_request().and_then(|b| b.field_violations.first());
        Self {
            code: status.code(),
            reason: info.reason.clone(),
            field: violation
                .map(|v| v.field.clone())
                .or_else(|| info.metadata.get("field").cloned()),
            limit: info.metadata.get("limit").cloned(),
            text: status.message().to_owned(),
        }
    }
}

impl From<v1::Error> for Said {
    fn from(error: v1::Error) -> Self {
        Self {
            code: Code::from(error.code),
            reason: error.reason,
            field: error.field,
            limit: error.limit.map(|limit| limit.to_string()),
            text: error.message,
        }
    }
}

/// Asserts what an error said; `None` where no field or limit is to blame.
#[track_caller]
fn says(what: &str, said: Said, code: Code, reason: &str, field: Option<&str>, limit: Option<u64>) {
    assert_eq!((said.code, said.reason.as_str()), (code, reason), "{what}: {said:?}");
    assert_eq!(said.field.as_deref(), field, "{what}: {said:?}");
    assert_eq!(said.limit, limit.map(|l| l.to_string()), "{what}: {said:?}");
    assert!(said.text.len() > 10, "{what}: {said:?}");
}

fn entity(object_type: &str, size: usize) -> Option<Any> {
    Some(Any { type_url: object_type.to_owned(), value: Bytes::from(vec![b'x'; size]) })
}

fn object(object_type: &str) -> v1::Object {
    v1::Object { entity: entity(object_type, 1), ..v1::Object::default() }
}

/// What is there, without how long it has been.
async fn counts(node: &Node) -> Vec<serde_json::Value> {
    let mut types = node.json(&["type", "ls"]).await;
    types.iter_mut().for_each(|t| t["oldest_age"] = serde_json::Value::Null);
    types
}

async fn channel(node: &Node) -> Channel {
    let address = format!("http://{}", node.ready.clients);
    Channel::from_shared(address).expect("an address").connect().await.expect("it listens")
}

async fn push(cloud: &mut CloudServiceClient<Channel>, object: v1::Object) -> Result<(), Said> {
    let request = v1::PushRequest { objects: vec![object] };
    cloud.push(request).await.map(|_| ()).map_err(Said::from)
}

#[tokio::test]
async fn objects_that_no_node_takes() {
    let folder = folder();
    let node = Node::start(folder.path(), "a", &[]);
    let mut cloud = CloudServiceClient::new(channel(&node).await);
    let id = "01890000-0000-7000-8000-000000000001";
    let first = v1::Object { id: id.into(), ..object("bad.Input") };
    push(&mut cloud, first.clone()).await.expect("this one is good");
    let before = counts(&node).await;

    let headers = |pairs: BTreeMap<String, String>| v1::Object { headers: pairs, ..object("t.T") };
    let many = (0..65).map(|n| (format!("k{n}"), String::new())).collect();
    let start = |start| v1::Object { start: Some(start), ..object("t.T") };
    let end = |end| v1::Object { end: Some(end), ..object("t.T") };
    let days_366 = Duration { seconds: 366 * 86_400, nanos: 0 };
    let past = Timestamp { seconds: 1_000, nanos: 0 };
    let invalid = Code::InvalidArgument;
    let year = Some(365 * 86_400);
    let table = [
        ("no type", v1::Object::default(), "TYPE_MISSING", "type", None),
        ("an empty type", object(""), "TYPE_MISSING", "type", None),
        ("a malformed type", object("host/9 lives"), "TYPE_MALFORMED", "type", None),
        ("a long type", object(&"a".repeat(256)), "LIMIT_EXCEEDED", "type", Some(255)),
        (
            "a payload over the limit",
            v1::Object { entity: entity("t.T", (1 << 20) + 1), ..v1::Object::default() },
            "LIMIT_EXCEEDED",
            "payload",
            Some(1 << 20),
        ),
        ("a bad id", v1::Object { id: "42".into(), ..object("t.T") }, "ID_MALFORMED", "id", None),
        (
            "an id with another body",
            v1::Object { entity: entity("bad.Input", 2), ..first },
            "ID_REUSED",
            "id",
            None,
        ),
        (
            "a long header key",
            headers(BTreeMap::from([("k".repeat(129), String::new())])),
            "LIMIT_EXCEEDED",
            "headers.key",
            Some(128),
        ),
        (
            "headers that are too big",
            headers(BTreeMap::from([("k".into(), "v".repeat(16 << 10))])),
            "LIMIT_EXCEEDED",
            "headers",
            Some(16 << 10),
        ),
        ("too many headers", headers(many), "LIMIT_EXCEEDED", "headers", Some(64)),
        (
            "a start in the past",
            start(object::Start::NotBefore(past)),
            "TIME_OUT_OF_RANGE",
            "not_before",
            None,
        ),
        (
            "an absurd delay",
            start(object::Start::Delay(days_366)),
            "TIME_OUT_OF_RANGE",
            "not_before",
            year,
        ),
        (
            "an expiry in the past",
            end(object::End::ExpiresAt(past)),
            "TIME_OUT_OF_RANGE",
            "expires_at",
            None,
        ),
        (
            "an absurd expiry",
            end(object::End::ExpiresIn(days_366)),
            "TIME_OUT_OF_RANGE",
            "expires_at",
            year,
        ),
    ];
    for (what, object, reason, field, limit) in table {
        let said = push(&mut cloud, object).await.expect_err(what);
        says(what, said, invalid, reason, Some(field), limit);
    }
    assert_eq!(counts(&node).await, before, "nothing has changed");

    // The command line tells the same in one line.
    let ran = node.cli(&["push", "9lives", "--data", "x", "-o", "json"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(ran.error()["reason"], "TYPE_MALFORMED");
}

/// One stream, as a client in another language would have it.
struct Session {
    requests: tokio::sync::mpsc::UnboundedSender<v1::SessionRequest>,
    responses: tonic::Streaming<v1::SessionResponse>,
    seq: u64,
}

impl Session {
    async fn open(node: &Node) -> Self {
        let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
        let mut cloud = CloudServiceClient::new(channel(node).await);
        let stream = UnboundedReceiverStream::new(receiver);
        let responses = cloud.session(stream).await.expect("a session").into_inner();
        Self { requests, responses, seq: 0 }
    }

    fn send(&mut self, item: session_item::Item) {
        self.seq += 1;
        let item = v1::SessionItem { seq: self.seq, item: Some(item) };
        self.requests.send(v1::SessionRequest { items: vec![item] }).expect("it is open");
    }

    async fn next(&mut self) -> session_response::Response {
        let response = self.responses.message().await.expect("the stream goes on");
        response.and_then(|r| r.response).expect("a bad item ends nothing")
    }

    /// Sends an item and waits for its refusal.
    async fn refused(&mut self, item: session_item::Item) -> Said {
        self.send(item);
        loop {
            if let session_response::Response::Answers(answers) = self.next().await
                && let Some(refused) = answers.refused.into_iter().find(|r| r.seq == self.seq)
            {
                return refused.error.expect("a refusal has an error").into();
            }
        }
    }

    async fn delivery(&mut self) -> v1::Delivery {
        loop {
            if let session_response::Response::Deliveries(mut deliveries) = self.next().await {
                return deliveries.items.remove(0);
            }
        }
    }
}

fn subscribe(pattern: &str, processor: Option<&str>, credit: u32) -> session_item::Item {
    session_item::Item::Subscribe(v1::Subscribe {
        subscription: 1,
        pattern: pattern.into(),
        processor: processor.map(Into::into),
        credit: Some(credit),
        lease: None,
    })
}

fn settle(lease: u64, verb: settlement::Verb) -> session_item::Item {
    session_item::Item::Settle(v1::Settlement {
        leases: vec![lease],
        verb: Some(verb),
        ..v1::Settlement::default()
    })
}

#[tokio::test]
async fn subscriptions_and_settles_that_no_node_takes() {
    use settlement::Verb::{Finalise, Reject};
    let folder = folder();
    let node = Node::start(folder.path(), "a", &[]);
    let mut one = Session::open(&node).await;
    let invalid = Code::InvalidArgument;
    let long = "p".repeat(65);
    let table = [
        ("credit 0", subscribe("t.T", None, 0), "CREDIT_OUT_OF_RANGE", "credit", Some(65_536)),
        (
            "too much credit",
            subscribe("t.T", None, 65_537),
            "CREDIT_OUT_OF_RANGE",
            "credit",
            Some(65_536),
        ),
        ("no pattern", subscribe("", None, 1), "TYPE_MISSING", "pattern", None),
        ("a malformed pattern", subscribe("a.*.b", None, 1), "TYPE_MALFORMED", "pattern", None),
        ("an empty name", subscribe("t.T", Some(""), 1), "NAME_MISSING", "processor", None),
        ("a long name", subscribe("t.T", Some(&long), 1), "LIMIT_EXCEEDED", "processor", Some(64)),
        (
            "an unknown lease",
            settle(99, Finalise(v1::Finalise {})),
            "LEASE_UNKNOWN",
            "leases",
            None,
        ),
    ];
    for (what, item, reason, field, limit) in table {
        let said = one.refused(item).await;
        says(what, said, invalid, reason, Some(field), limit);
    }
    assert!(node.json(&["sub", "ls"]).await.is_empty(), "nothing has changed");

    node.json(&["push", "t.T", "--data", "x"]).await;
    one.send(subscribe("t.T", None, 1));
    let lease = one.delivery().await.lease;
    let mut two = Session::open(&node).await;
    let said = two.refused(settle(lease, Finalise(v1::Finalise {}))).await;
    let failed = Code::FailedPrecondition;
    says("another stream's lease", said, failed, "LEASE_OF_OTHER_STREAM", Some("leases"), None);
    one.send(settle(lease, Finalise(v1::Finalise {})));
    let said = one.refused(settle(lease, Reject(v1::Reject { reason: "late".into() }))).await;
    says("a second settle", said, failed, "LEASE_LOST", None, None);
    // The first settle stands, as soon as it is durable; the second one has changed nothing.
    wait_for("the object to be final", async || {
        let types = node.json(&["type", "ls"]).await;
        assert_eq!((&types[0]["parked"], &types[0]["books"]["finalised"]), (&0.into(), &1.into()));
        (types[0]["ready"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn orders_that_no_node_takes() {
    let folder = folder();
    let node = Node::start(folder.path(), "a", &[]);
    let id = node.json(&["push", "t.T", "--data", "x"]).await[0]["id"].clone();
    let id = id.as_str().expect("an id").to_owned();
    let mut operator = OperatorServiceClient::new(channel(&node).await);
    let ids = vec![id.clone()];
    let by = Some(v1::parked_selection::By::Ids(v1::ObjectIds { ids }));
    let request = v1::RedriveParkedRequest { selection: Some(v1::ParkedSelection { by }) };
    let said = operator.redrive_parked(request).await.expect_err("it is not parked");
    says("not parked", said.into(), Code::FailedPrecondition, "NOT_PARKED", None, None);
    let unknown = "01890000-0000-7000-8000-00000000dead";
    let request = v1::GetObjectRequest { id: unknown.into(), local: false };
    let said = operator.get_object(request).await.expect_err("nobody knows it");
    assert_eq!(said.code(), Code::NotFound, "{said:?}");
    let ran = node.cli(&["object", "get", unknown, "-o", "json"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let ran = node.cli(&["object", "discard", unknown, "-o", "json"]).await;
    assert_eq!((ran.code, &ran.error()["reason"]), (Some(1), &"OBJECT_UNKNOWN".into()));
    assert_eq!(node.json(&["object", "get", &id]).await[0]["state"], "ready");
}

/// Sends bytes as they are.
#[derive(Clone, Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(
        &mut self,
        item: Bytes,
        into: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[tokio::test]
async fn bytes_that_are_no_message() {
    let folder = folder();
    let node = Node::start(folder.path(), "a", &[]);
    let mut client = tonic::client::Grpc::new(channel(&node).await);
    client.ready().await.expect("it listens");
    let path = http::uri::PathAndQuery::from_static("/dpc.v1.CloudService/Push");
    let request = tonic::Request::new(Bytes::from_static(b"\xff\xff\xff\xffnonsense"));
    let said = client.unary(request, path, Raw).await.expect_err("it is no message");
    says("malformed", said.into(), Code::InvalidArgument, "MALFORMED_MESSAGE", None, None);
    assert!(node.json(&["type", "ls"]).await.is_empty());
}

#[tokio::test]
async fn nodes_that_do_not_start() {
    let folder = Arc::new(folder());
    let ran = serve_fails(folder.path(), &["--set", "limits.creditt_max=3"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("creditt_max") && ran.stderr.contains("limits.credit"),
        "{}",
        ran.stderr
    );

    let node = Node::start(folder.path(), "a", &[]);
    let taken = node.ready.clients.clone();
    let b = folder.path().join("b").display().to_string();
    let free = "127.0.0.1:0";
    let ran = support::cli(&[
        "serve",
        "--data-dir",
        &b,
        "--listen-clients",
        &taken,
        "--listen-nodes",
        free,
        "--listen-admin",
        free,
    ])
    .await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains(&taken) && ran.stderr.contains("listen.clients"), "{}", ran.stderr);

    let data = folder.path().join("a");
    let ran = serve_fails(&data, &[]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let pid = node.ready.pid.to_string();
    assert!(ran.stderr.contains("locked") && ran.stderr.contains(&pid), "{}", ran.stderr);

    let mut node = node;
    assert_eq!(node.stop(), Some(0));
    let format = data.join("FORMAT");
    let text = std::fs::read_to_string(&format).expect("the format");
    std::fs::write(&format, text.replacen('1', "9", 1)).expect("written");
    let ran = serve_fails(&data, &[]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("FORMAT"), "{}", ran.stderr);

    // A folder below a file cannot be made, whoever asks.
    let ran = serve_fails(&format.join("below"), &[]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("FORMAT"), "{}", ran.stderr);
}
