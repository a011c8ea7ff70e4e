//! Which node to ask, and what its answers mean when they are not the one hoped for.

use std::time::Duration;

use dpc_proto::v1;
use dpc_proto::v1::cloud_service_client::CloudServiceClient;
use dpc_proto::v1::operator_service_client::OperatorServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use super::exit::Exit;
use super::failure::{Details, Failure};
use crate::config::Address;

/// Time for one node to accept a connection before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Above the largest answer with the largest configurable payload.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The domain of reasons that a node of ours gives.
const DOMAIN: &str = "dpc.v1";

/// Which nodes to ask.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// The client ports of the nodes to ask, tried in order.
    #[arg(
        id = "asked_node",
        long = "node",
        env = "DPC_NODE",
        value_name = "ADDR[,ADDR...]",
        value_delimiter = ',',
        default_value = "127.0.0.1:50051",
        global = true
    )]
    pub(crate) nodes: Vec<Address>,
}

/// What a call does to the node; it decides what a lost connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: asking again is all that is lost.
    Reads,
    /// It may have been done when the answer is lost.
    Changes,
}

/// A node that answered.
pub(crate) struct Node {
    address: Address,
    channel: Channel,
}

impl NodeArgs {
    /// Connects to the first node that answers.
    pub(crate) async fn connect(&self) -> Result<Node, Failure> {
        let mut problems = Vec::new();
        for address in &self.nodes {
            match dial(address).await {
                Ok(channel) => return Ok(Node { address: address.clone(), channel }),
                Err(problem) => problems.push(format!("{address}: {problem}")),
            }
        }
        let message = format!(
            "no node answers ({}); start one with `dpc serve`, or name another with --node or \
             DPC_NODE",
            problems.join("; ")
        );
        Err(Failure::unreachable(message).field("--node"))
    }
}

async fn dial(address: &Address) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    // A host that swallows packets during the HTTP/2 handshake must not hold up the next one.
    match tokio::time::timeout(CONNECT_TIMEOUT * 2, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(innermost(&error)),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs() * 2)),
    }
}

/// The cause at the bottom: the layers above only repeat that there was one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl Node {
    /// The operators' calls.
    pub(crate) fn operator(&self) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The clients' calls.
    pub(crate) fn cloud(&self) -> CloudServiceClient<Channel> {
        CloudServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The answer to a call, unless it fails or Ctrl-C comes first.
    pub(crate) async fn answer<T>(
        &self,
        effect: Effect,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            // An answer that is there counts, even if Ctrl-C came at the same moment.
            biased;
            answer = call => match answer {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) => Err(of_status(&status, effect, &self.address)),
            },
            stopped = tokio::signal::ctrl_c() => Err(interrupted(effect, stopped)),
        }
    }
}

fn interrupted(effect: Effect, stopped: std::io::Result<()>) -> Failure {
    if let Err(error) = stopped {
        return Failure::local("SIGNALS", format!("cannot wait for Ctrl-C: {error}"));
    }
    let message = match effect {
        Effect::Reads => "interrupted; nothing was changed",
        Effect::Changes => "interrupted; what was asked for last may have been done",
    };
    Failure::new(Exit::Interrupted, "CANCELLED", "INTERRUPTED", message)
}

/// What a status says: a refusal by the node with its details, or a connection that broke.
fn of_status(status: &Status, effect: Effect, address: &Address) -> Failure {
    let details = status.get_error_details();
    let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
        return of_transport(status, effect, address);
    };
    let metadata = |key: &str| info.metadata.get(key).cloned();
    let unknown = metadata("outcome").is_some_and(|outcome| says_unknown(&outcome));
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice());
    let field = violations.and_then(|v| v.first()).map(|v| v.field.clone());
    let retry = details.retry_info().and_then(|retry| retry.retry_delay);
    let details = Details {
        field: field.filter(|field| !field.is_empty()),
        limit: metadata("limit"),
        given: metadata("given"),
        retry_after: retry.map(|delay| delay.as_secs_f64()),
    };
    let exit = if unknown { Exit::Unknown } else { Exit::NotDone };
    Failure::new(exit, code_name(status.code()), &info.reason, status.message()).with(details)
}

fn says_unknown(outcome: &str) -> bool {
    outcome.to_ascii_uppercase().ends_with("UNKNOWN")
}

/// A status that no node of ours made: the connection, or something else that listens there.
fn of_transport(status: &Status, effect: Effect, address: &Address) -> Failure {
    let code = status.code();
    let name = code_name(code);
    let said = match innermost(status) {
        // Without a source the status prints itself, with all of its metadata.
        _ if std::error::Error::source(status).is_none() => status.message().to_owned(),
        cause => cause,
    };
    let lost = matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Internal
    );
    match effect {
        _ if !lost => {
            let message = format!("{address} answered {name}: {said}; is it a dpc client port?");
            Failure::new(Exit::NotDone, name, name, message)
        }
        Effect::Reads => {
            let message = format!("lost the connection to {address} ({said}); ask again");
            Failure::new(Exit::Unreachable, name, "CONNECTION_LOST", message)
        }
        Effect::Changes => {
            let message = format!(
                "lost the connection to {address} after sending ({said}): it may have been done or \
                 not; look with `dpc object get`, or repeat it, which is safe"
            );
            Failure::new(Exit::Unknown, name, "OUTCOME_UNKNOWN", message)
        }
    }
}

/// What the refusal of one item says.
pub(crate) fn of_refused(refused: &v1::Refused) -> Failure {
    let Some(error) = &refused.error else {
        let message = "the node refused the item without saying why";
        return Failure::new(Exit::NotDone, "UNKNOWN", "MALFORMED_ANSWER", message);
    };
    let unknown = error.outcome() == v1::Outcome::Unknown;
    let retry = error.retry_after.and_then(|delay| Duration::try_from(delay).ok());
    let details = Details {
        field: error.field.clone(),
        limit: error.limit.map(|limit| limit.to_string()),
        given: error.given.clone(),
        retry_after: retry.map(|delay| delay.as_secs_f64()),
    };
    let exit = if unknown { Exit::Unknown } else { Exit::NotDone };
    let code = code_name(Code::from_i32(error.code));
    Failure::new(exit, code, &error.reason, &error.message).with(details)
}

/// An answer that lacks what it must have.
pub(crate) fn malformed(what: &str) -> Failure {
    let message = format!("the node's answer has no {what}; is it of another version of dpc?");
    Failure::new(Exit::NotDone, "INTERNAL", "MALFORMED_ANSWER", message)
}

pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn here() -> Address {
        Address::loopback(50051)
    }

    fn detailed(outcome: &str) -> Status {
        let mut details = ErrorDetails::new();
        let metadata = [("limit", "1MiB"), ("given", "2MiB"), ("outcome", outcome)];
        let metadata: HashMap<String, String> =
            metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        details
            .set_error_info("PAYLOAD_TOO_LARGE", "dpc.v1", metadata)
            .add_bad_request_violation("entity.value", "too large")
            .set_retry_info(Some(Duration::from_millis(1_500)));
        Status::with_error_details(Code::ResourceExhausted, "payload too large", details)
    }

    #[test]
    fn a_refusal_keeps_its_details() {
        let failure = of_status(&detailed("NOT_DONE"), Effect::Changes, &here());
        assert_eq!(failure.exit, Exit::NotDone);
        assert_eq!(
            serde_json::to_string(&failure).expect("serialises"),
            r#"{"code":"RESOURCE_EXHAUSTED","reason":"PAYLOAD_TOO_LARGE","message":"payload too large","field":"entity.value","limit":"1MiB","given":"2MiB","retry_after":1.5}"#
        );
        for outcome in ["OUTCOME_UNKNOWN", "unknown"] {
            let failure = of_status(&detailed(outcome), Effect::Reads, &here());
            assert_eq!(failure.exit, Exit::Unknown, "{outcome}");
        }
    }

    #[test]
    fn a_lost_connection_is_unknown_only_after_a_change() {
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded] {
            let status = Status::new(code, "broken pipe");
            assert_eq!(of_status(&status, Effect::Changes, &here()).exit, Exit::Unknown);
            assert_eq!(of_status(&status, Effect::Reads, &here()).exit, Exit::Unreachable);
        }
        let status = Status::new(Code::Unimplemented, "no");
        let failure = of_status(&status, Effect::Changes, &here());
        assert_eq!((failure.exit, failure.reason.as_str()), (Exit::NotDone, "UNIMPLEMENTED"));
    }

    #[test]
    fn a_refused_item_keeps_its_details() {
        let error = v1::Error {
            code: 9,
            reason: "LEASE_LOST".into(),
            message: "the lease is over".into(),
            outcome: v1::Outcome::NotDone.into(),
            field: Some("tokens[0]".into()),
            ..v1::Error::default()
        };
        let refused = v1::Refused { error: Some(error), ..v1::Refused::default() };
        let failure = of_refused(&refused);
        assert_eq!((failure.exit, failure.code), (Exit::NotDone, "FAILED_PRECONDITION"));
        assert_eq!(failure.details.field.as_deref(), Some("tokens[0]"));
        assert_eq!(of_refused(&v1::Refused::default()).reason, "MALFORMED_ANSWER");
    }

    #[test]
    fn nodes_are_tried_in_order_and_all_problems_are_named() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            // Two ports that were free a moment ago: nobody listens there.
            let free = |listener: &std::net::TcpListener| {
                Address::loopback(listener.local_addr().expect("bound").port())
            };
            let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
            let (a, b) = (bind(), bind());
            let nodes = vec![free(&a), free(&b)];
            drop((a, b));
            let failure = NodeArgs { nodes: nodes.clone() }.connect().await.err().expect("none");
            assert_eq!(failure.exit, Exit::Unreachable);
            for node in nodes {
                assert!(failure.message.contains(&node.to_string()), "{}", failure.message);
            }
        });
    }
}
