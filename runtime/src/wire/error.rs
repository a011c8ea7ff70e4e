//! Refusals as errors of a stream and as statuses of a call.

use std::collections::BTreeMap;

use dpc_core::refusal::{Code, Refusal};
use dpc_core::time::Span;
use dpc_proto::v1;
use prost::Message;
use tonic::Status;
use tonic_types::pb;
use tonic_types::pb::bad_request::FieldViolation;

use super::MESSAGE_BYTES_MAX;

/// The domain of every reason.
const DOMAIN: &str = "dpc.v1";

/// What was given is shown up to this many bytes.
const GIVEN_BYTES_MAX: usize = 256;

/// An error of an item: with the path of the part that was wrong before the field's name.
pub(crate) fn refused(refusal: &Refusal, path: &str) -> v1::Error {
    v1::Error {
        code: code(refusal.code).into(),
        reason: refusal.reason.to_owned(),
        message: refusal.message.clone(),
        outcome: v1::Outcome::NotDone.into(),
        field: refusal.field.map(|field| format!("{path}{field}")),
        limit: refusal.limit,
        given: refusal.given.as_deref().map(shortened),
        retry_after: refusal.retry_after.map(super::duration),
    }
}

/// An error that says that nobody can tell.
pub(crate) fn unknown(why: &str) -> v1::Error {
    v1::Error {
        code: tonic::Code::Unavailable.into(),
        reason: "OUTCOME_UNKNOWN".to_owned(),
        message: format!("{why}; repeat it with the same id or token to learn the outcome"),
        outcome: v1::Outcome::Unknown.into(),
        retry_after: Some(super::duration(Span::secs(1))),
        ..v1::Error::default()
    }
}

/// The status of a call that was refused.
pub(crate) fn status(refusal: &Refusal) -> Status {
    status_of(&refused(refusal, ""))
}

/// `google.rpc.ErrorInfo`, as in [`pb::ErrorInfo`], except that its facts are in order: the same
/// error has to have the same bytes, or a replay on another machine would not be one.
#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// The status of a call that ended with this error.
pub(crate) fn status_of(error: &v1::Error) -> Status {
    let outcome = match error.outcome() {
        v1::Outcome::Unknown => "unknown",
        v1::Outcome::NotDone | v1::Outcome::Unspecified => "not_done",
    };
    let facts = [
        ("outcome", Some(outcome.to_owned())),
        ("field", error.field.clone()),
        ("limit", error.limit.map(|limit| limit.to_string())),
        ("given", error.given.clone()),
    ];
    let facts = facts.into_iter().filter_map(|(key, fact)| Some((key.to_owned(), fact?)));
    let info = ErrorInfo {
        reason: error.reason.clone(),
        domain: DOMAIN.to_owned(),
        metadata: facts.collect(),
    };
    let mut details = vec![any("ErrorInfo", &info)];
    if let Some(field) = &error.field {
        let (field, description) = (field.clone(), error.message.clone());
        let violation = FieldViolation { field, description, ..FieldViolation::default() };
        details.push(any("BadRequest", &pb::BadRequest { field_violations: vec![violation] }));
    }
    if let Some(retry_delay) = error.retry_after {
        let (seconds, nanos) = (retry_delay.seconds, retry_delay.nanos);
        let retry_delay = Some(prost_types::Duration { seconds, nanos });
        details.push(any("RetryInfo", &pb::RetryInfo { retry_delay }));
    }
    let message = error.message.clone();
    let status = pb::Status { code: error.code, message, details }.encode_to_vec();
    Status::with_details(tonic::Code::from(error.code), &error.message, status.into())
}

fn any(name: &str, detail: &impl Message) -> prost_types::Any {
    let type_url = format!("type.googleapis.com/google.rpc.{name}");
    prost_types::Any { type_url, value: detail.encode_to_vec() }
}

/// What the transport says of a message it could not read, in our own words: tonic answers these
/// with INTERNAL, as if the node were at fault. `None` if it is something else.
pub(crate) fn unreadable(code: tonic::Code, message: &str) -> Option<Status> {
    match code {
        tonic::Code::Internal
            if message.starts_with("failed to decode")
                || message.starts_with("protocol error")
                || message.starts_with("Missing request message") =>
        {
            Some(malformed(&format!("the message cannot be read: {message}")))
        }
        tonic::Code::OutOfRange if message.contains("message length too large") => {
            let refusal = Refusal {
                limit: Some(MESSAGE_BYTES_MAX as u64),
                ..Refusal::invalid(
                    "message",
                    "LIMIT_EXCEEDED",
                    format!("a message may have {MESSAGE_BYTES_MAX} bytes: {message}"),
                )
            };
            Some(status(&refusal))
        }
        _ => None,
    }
}

/// A message or a stream that breaks the rules of the protocol.
pub(crate) fn malformed(message: &str) -> Status {
    status(&Refusal::new(Code::InvalidArgument, "MALFORMED_MESSAGE", message))
}

/// The end of a client's stream as it is told to the client: what could not be read, or as it was.
pub(crate) fn stream_error(status: Status) -> Status {
    unreadable(status.code(), status.message()).unwrap_or(status)
}

fn code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::NotFound => tonic::Code::NotFound,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::DataLoss => tonic::Code::DataLoss,
    }
}

fn shortened(given: &str) -> String {
    if given.len() <= GIVEN_BYTES_MAX {
        return given.to_owned();
    }
    let end = (0..=GIVEN_BYTES_MAX).rev().find(|at| given.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &given[..end])
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    #[test]
    fn an_error_has_the_same_bytes_every_time_and_reads_back() {
        let refusal = Refusal { limit: Some(7), ..Refusal::invalid("id", "ID_REUSED", "twice") };
        let error =
            refused(&Refusal { retry_after: Some(Span::secs(3)), ..refusal.given("9") }, "");
        let once = status_of(&error);
        assert!((0..50).all(|_| status_of(&error).details() == once.details()));
        let details = once.get_error_details();
        let info = details.error_info().expect("there");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("ID_REUSED", DOMAIN));
        let facts: BTreeMap<_, _> = info.metadata.clone().into_iter().collect();
        let facts: Vec<_> = facts.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let wanted = [("field", "id"), ("given", "9"), ("limit", "7"), ("outcome", "not_done")];
        assert_eq!(facts, wanted);
        assert_eq!(details.bad_request().expect("there").field_violations[0].field, "id");
        let after = details.retry_info().and_then(|info| info.retry_delay);
        assert_eq!(after, Some(std::time::Duration::from_secs(3)));
    }
}
