//! Refusals as errors of a stream and as statuses of a call.

use std::collections::HashMap;

use dpc_core::refusal::{Code, Refusal};
use dpc_core::time::Span;
use dpc_proto::v1;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

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

/// The status of a call that ended with this error.
pub(crate) fn status_of(error: &v1::Error) -> Status {
    let mut facts = HashMap::new();
    let outcome = match error.outcome() {
        v1::Outcome::Unknown => "unknown",
        v1::Outcome::NotDone | v1::Outcome::Unspecified => "not_done",
    };
    facts.insert("outcome".to_owned(), outcome.to_owned());
    if let Some(field) = &error.field {
        facts.insert("field".to_owned(), field.clone());
    }
    if let Some(limit) = error.limit {
        facts.insert("limit".to_owned(), limit.to_string());
    }
    if let Some(given) = &error.given {
        facts.insert("given".to_owned(), given.clone());
    }
    let mut details = ErrorDetails::with_error_info(&error.reason, DOMAIN, facts);
    if let Some(field) = &error.field {
        details.add_bad_request_violation(field, &error.message);
    }
    if let Some(after) = &error.retry_after {
        details.set_retry_info(std::time::Duration::try_from(*after).ok());
    }
    Status::with_error_details(tonic::Code::from(error.code), &error.message, details)
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
