//! A node that answers operators with what a test needs, on a real socket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use dpc_proto::v1;
use dpc_proto::v1::operator_service_server::{OperatorService, OperatorServiceServer};
use dpc_proto::v1::parked_selection::By;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The id of the object that the node has.
pub(super) const KNOWN: &str = "0192f0c1-7a5e-7cc3-98a4-3f1c2d3e4f50";
/// An id that makes the node drop the connection.
pub(super) const FATAL: &str = "0192f0c1-7a5e-7cc3-98a4-3f1c2d3e4fff";

/// A running fake; it stops when dropped.
pub(super) struct Fake {
    /// Where it listens.
    pub(super) address: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Fake {
    pub(super) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        listener.set_nonblocking(true).expect("a socket option");
        let address = listener.local_addr().expect("bound").to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let serve = Server::builder()
                    .add_service(OperatorServiceServer::new(Answers::default()))
                    .serve_with_incoming(TcpListenerStream::new(listener));
                tokio::select! {
                    served = serve => served.expect("serves until stopped"),
                    _ = stopped => {}
                }
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the fake did not panic");
        }
    }
}

#[derive(Default)]
struct Answers {
    redrives: AtomicU32,
}

fn info() -> v1::ObjectInfo {
    v1::ObjectInfo {
        id: KNOWN.into(),
        r#type: "acme.Order".into(),
        version: 1,
        state: v1::ObjectState::Ready.into(),
        owner: "a".into(),
        origin: "a".into(),
        payload_size: 2,
        entity: Some(dpc_proto::google::protobuf::Any {
            type_url: "type.googleapis.com/acme.Order".into(),
            value: "hi".into(),
        }),
        ..v1::ObjectInfo::default()
    }
}

fn unknown_object(id: &str) -> Status {
    let mut details = ErrorDetails::new();
    let metadata: HashMap<String, String> =
        [("outcome", "NOT_DONE"), ("given", id)].map(|(k, v)| (k.into(), v.into())).into();
    details.set_error_info("OBJECT_UNKNOWN", "dpc.v1", metadata);
    details.add_bad_request_violation("id", "no such object");
    Status::with_error_details(Code::NotFound, format!("no object {id} is known here"), details)
}

fn known(id: &str) -> Result<(), Status> {
    match id {
        KNOWN => Ok(()),
        FATAL => Err(Status::unavailable("connection reset")),
        _ => Err(unknown_object(id)),
    }
}

fn refused(position: usize) -> v1::Refused {
    let error = v1::Error {
        code: Code::FailedPrecondition.into(),
        reason: "NOT_PARKED".into(),
        message: "it is not parked".into(),
        outcome: v1::Outcome::NotDone.into(),
        ..v1::Error::default()
    };
    let position = Some(u32::try_from(position).expect("few ids"));
    v1::Refused { position, error: Some(error), ..v1::Refused::default() }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl OperatorService for Answers {
    async fn get_object(
        &self,
        request: Request<v1::GetObjectRequest>,
    ) -> Answer<v1::GetObjectResponse> {
        known(&request.into_inner().id)?;
        Ok(Response::new(v1::GetObjectResponse {
            object: Some(info()),
            complete: true,
            asked: vec!["a".into()],
        }))
    }

    async fn why_object(
        &self,
        request: Request<v1::WhyObjectRequest>,
    ) -> Answer<v1::WhyObjectResponse> {
        known(&request.into_inner().id)?;
        let why = v1::ObjectWhy {
            id: KNOWN.into(),
            text: "It waits at a for demand.".into(),
            candidates: vec![v1::Candidate { who: "b".into(), refused: "no demand".into() }],
            ..v1::ObjectWhy::default()
        };
        let asked = vec!["a".into()];
        Ok(Response::new(v1::WhyObjectResponse { why: Some(why), complete: false, asked }))
    }

    async fn trace_object(
        &self,
        request: Request<v1::TraceObjectRequest>,
    ) -> Answer<v1::TraceObjectResponse> {
        known(&request.into_inner().id)?;
        let decision = |decision: &str| v1::Decision {
            node: "a".into(),
            decision: decision.into(),
            ..v1::Decision::default()
        };
        let decisions = vec![decision("wait"), decision("deliver")];
        Ok(Response::new(v1::TraceObjectResponse { decisions, complete: true, asked: vec![] }))
    }

    async fn list_objects(
        &self,
        request: Request<v1::ListObjectsRequest>,
    ) -> Answer<v1::ListObjectsResponse> {
        let request = request.into_inner();
        let more = request.limit == Some(1);
        Ok(Response::new(v1::ListObjectsResponse { objects: vec![info()], more }))
    }

    async fn discard_objects(
        &self,
        request: Request<v1::DiscardObjectsRequest>,
    ) -> Answer<v1::DiscardObjectsResponse> {
        let ids = request.into_inner().ids;
        known(&ids[0])?;
        Ok(Response::new(v1::DiscardObjectsResponse { discarded: 1, refused: vec![] }))
    }

    async fn list_parked(
        &self,
        _: Request<v1::ListParkedRequest>,
    ) -> Answer<v1::ListParkedResponse> {
        let parked = v1::ObjectInfo {
            state: v1::ObjectState::Parked.into(),
            parked_reason: Some("rejected: no".into()),
            entity: None,
            ..info()
        };
        Ok(Response::new(v1::ListParkedResponse { objects: vec![parked], more: false }))
    }

    async fn redrive_parked(
        &self,
        request: Request<v1::RedriveParkedRequest>,
    ) -> Answer<v1::RedriveParkedResponse> {
        let by = request.into_inner().selection.and_then(|selection| selection.by);
        let Some(By::Ids(ids)) = by else {
            // Three bounded parts.
            let more = self.redrives.fetch_add(1, Ordering::Relaxed) < 2;
            let answer = v1::RedriveParkedResponse { redriven: 10, more, ..Default::default() };
            return Ok(Response::new(answer));
        };
        let unknown = ids.ids.iter().enumerate().filter(|(_, id)| *id != KNOWN);
        let refused: Vec<_> = unknown.map(|(position, _)| refused(position)).collect();
        let redriven = (ids.ids.len() - refused.len()) as u64;
        Ok(Response::new(v1::RedriveParkedResponse { redriven, refused, more: false }))
    }

    async fn discard_parked(
        &self,
        request: Request<v1::DiscardParkedRequest>,
    ) -> Answer<v1::DiscardParkedResponse> {
        let by = request.into_inner().selection.and_then(|selection| selection.by);
        match by {
            Some(By::Ids(ids)) if ids.ids.len() == 1 => Err(unknown_object(&ids.ids[0])),
            _ => Err(Status::unavailable("connection reset")),
        }
    }

    async fn list_types(&self, _: Request<v1::ListTypesRequest>) -> Answer<v1::ListTypesResponse> {
        let types = vec![v1::TypeInfo { r#type: "acme.Order".into(), ..Default::default() }];
        Ok(Response::new(v1::ListTypesResponse { types, more: false }))
    }

    async fn list_subscriptions(
        &self,
        _: Request<v1::ListSubscriptionsRequest>,
    ) -> Answer<v1::ListSubscriptionsResponse> {
        Ok(Response::new(v1::ListSubscriptionsResponse::default()))
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        let nodes = vec![v1::NodeInfo { node: "a".into(), self_: true, ..Default::default() }];
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn show_node(&self, _: Request<v1::ShowNodeRequest>) -> Answer<v1::ShowNodeResponse> {
        Ok(Response::new(v1::ShowNodeResponse { node: "a".into(), ..Default::default() }))
    }

    type DumpRecordingStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<v1::DumpRecordingResponse, Status>>>;

    /// A recording that ends too early.
    async fn dump_recording(
        &self,
        _: Request<v1::DumpRecordingRequest>,
    ) -> Answer<Self::DumpRecordingStream> {
        let piece = v1::DumpRecordingResponse { data: vec![1; 4].into(), total: 10 };
        Ok(Response::new(tokio_stream::iter(vec![Ok(piece)])))
    }

    async fn drain_node(&self, _: Request<v1::DrainNodeRequest>) -> Answer<v1::DrainNodeResponse> {
        Ok(Response::new(v1::DrainNodeResponse { drained: false, leased: 1, staying: 2 }))
    }

    async fn resume_node(
        &self,
        _: Request<v1::ResumeNodeRequest>,
    ) -> Answer<v1::ResumeNodeResponse> {
        Ok(Response::new(v1::ResumeNodeResponse {}))
    }

    async fn forget_node(
        &self,
        request: Request<v1::ForgetNodeRequest>,
    ) -> Answer<v1::ForgetNodeResponse> {
        let reclaimed = if request.into_inner().reclaim { 3 } else { 0 };
        Ok(Response::new(v1::ForgetNodeResponse { reclaimed }))
    }
}
