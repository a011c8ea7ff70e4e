//! What can go wrong, sorted by the one question a caller has: was it done?

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use dpc_proto::v1;
use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt;

/// The domain of the reasons that a node gives.
const DOMAIN: &str = "dpc.v1";

/// Whether a request was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, durably.
    Done,
    /// Not done, and it never will be: the request has no effect.
    DefinitelyNot,
    /// Nobody can tell: it may have been done, or may still be.
    Unknown,
}

impl Outcome {
    /// The outcome of a request of this crate: an `Ok` is always `Done`, an error never.
    pub fn of<T>(result: &Result<T, Error>) -> Self {
        result.as_ref().map_or_else(Error::outcome, |_| Self::Done)
    }
}

/// Why a request was not done, or why that is unknown.
#[derive(Clone)]
pub struct Error(Box<Facts>);

#[derive(Clone, Debug)]
struct Facts {
    outcome: Outcome,
    code: Code,
    reason: Cow<'static, str>,
    message: String,
    field: Option<String>,
    limit: Option<u64>,
    given: Option<String>,
    retry_after: Option<Duration>,
    position: Option<u32>,
    overdue: bool,
}

impl Error {
    fn new(outcome: Outcome, code: Code, reason: &'static str, message: String) -> Self {
        Self(Box::new(Facts {
            outcome,
            code,
            reason: Cow::Borrowed(reason),
            message,
            field: None,
            limit: None,
            given: None,
            retry_after: None,
            position: None,
            overdue: false,
        }))
    }

    /// Whether the request was done: never [`Outcome::Done`].
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// The canonical gRPC code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What exactly, in UPPER_SNAKE: the node's reason, or one of [`reason`].
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// What was wrong and what to do next, for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The field at fault.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// The limit that was broken, in the unit that the message names.
    pub fn limit(&self) -> Option<u64> {
        self.0.limit
    }

    /// What was given instead.
    pub fn given(&self) -> Option<&str> {
        self.0.given.as_deref()
    }

    /// When it is worth trying again, if the node said so. What this crate retries by itself it
    /// has retried already.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Of a refused transaction: the culprit's position among its settlements, followed by its
    /// pushes.
    pub fn position(&self) -> Option<u32> {
        self.0.position
    }

    /// No node could be reached, and nothing was sent.
    pub fn is_unreachable(&self) -> bool {
        self.0.outcome == Outcome::DefinitelyNot && self.0.reason == reason::UNREACHABLE
    }

    /// The lease has ended: the object belongs to someone else, or is settled otherwise.
    pub fn is_lease_lost(&self) -> bool {
        self.0.reason == reason::LEASE_LOST
    }

    /// Trying the same again may give another answer.
    pub(crate) fn is_transient(&self) -> bool {
        match self.0.code {
            _ if self.0.overdue => false,
            Code::Unavailable | Code::Aborted => true,
            // A size over its limit stays over it; a node that is full for now names a time.
            Code::ResourceExhausted => self.0.retry_after.is_some(),
            _ => self.0.outcome == Outcome::Unknown,
        }
    }

    /// The answer of a node to an item of a stream.
    pub(crate) fn from_wire(error: Option<v1::Error>, position: Option<u32>) -> Self {
        let error = error.unwrap_or_default();
        let code = Code::from_i32(error.code);
        let outcome = match error.outcome() {
            v1::Outcome::NotDone => Outcome::DefinitelyNot,
            v1::Outcome::Unknown => Outcome::Unknown,
            v1::Outcome::Unspecified => outcome_of_code(code),
        };
        Self(Box::new(Facts {
            outcome,
            code,
            reason: Cow::Owned(error.reason),
            message: error.message,
            field: error.field,
            limit: error.limit,
            given: error.given,
            retry_after: error.retry_after.and_then(|d| Duration::try_from(d).ok()),
            position,
            overdue: false,
        }))
    }

    /// The status of a call or of a stream that ended.
    pub(crate) fn from_status(status: &Status) -> Self {
        if was_never_sent(status) {
            return Self::unreachable(status.message());
        }
        let details = status.get_error_details();
        let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
            return Self::from_bare_status(status);
        };
        let metadata = |key: &str| info.metadata.get(key).filter(|text| !text.is_empty()).cloned();
        let outcome = match metadata("outcome").map(|o| o.to_ascii_uppercase()).as_deref() {
            Some("UNKNOWN" | "OUTCOME_UNKNOWN") => Outcome::Unknown,
            Some(_) => Outcome::DefinitelyNot,
            None => outcome_of_code(status.code()),
        };
        let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
        Self(Box::new(Facts {
            outcome,
            code: status.code(),
            reason: Cow::Owned(info.reason.clone()),
            message: status.message().to_owned(),
            field: violation.map(|v| v.field.clone()),
            limit: metadata("limit").and_then(|text| text.parse().ok()),
            given: metadata("given"),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            position: metadata("position").and_then(|text| text.parse().ok()),
            overdue: false,
        }))
    }

    /// A status that no node wrote, but tonic, a proxy, or another kind of server.
    fn from_bare_status(status: &Status) -> Self {
        let message = match status.source() {
            Some(source) => format!("{}: {}", status.message(), innermost(source)),
            None => status.message().to_owned(),
        };
        let outcome = match status.code() {
            Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::NotFound
            | Code::FailedPrecondition => Outcome::DefinitelyNot,
            _ => Outcome::Unknown,
        };
        let name =
            if outcome == Outcome::Unknown { reason::CONNECTION_LOST } else { reason::CALL_FAILED };
        Self::new(outcome, status.code(), name, message)
    }

    pub(crate) fn unreachable(message: &str) -> Self {
        let message = format!("no node could be reached: {message}");
        Self::new(Outcome::DefinitelyNot, Code::Unavailable, reason::UNREACHABLE, message)
    }

    pub(crate) fn connection_lost(message: impl Into<String>) -> Self {
        Self::new(Outcome::Unknown, Code::Unavailable, reason::CONNECTION_LOST, message.into())
    }

    pub(crate) fn malformed_answer(message: impl Into<String>) -> Self {
        Self::new(Outcome::Unknown, Code::Internal, reason::MALFORMED_ANSWER, message.into())
    }

    pub(crate) fn closed(what: &str) -> Self {
        let message = format!("the {what} is closed");
        Self::new(Outcome::DefinitelyNot, Code::Cancelled, reason::CLOSED, message)
    }

    pub(crate) fn lease_lost(message: &str) -> Self {
        let code = Code::FailedPrecondition;
        Self::new(Outcome::DefinitelyNot, code, reason::LEASE_LOST, message.to_owned())
    }

    pub(crate) fn settle_in_progress() -> Self {
        Self::new(
            Outcome::DefinitelyNot,
            Code::FailedPrecondition,
            reason::SETTLE_IN_PROGRESS,
            "an earlier settle of this delivery has no answer yet: await it first".to_owned(),
        )
    }

    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        let code = Code::InvalidArgument;
        let mut error =
            Self::new(Outcome::DefinitelyNot, code, reason::INVALID_REQUEST, message.into());
        error.0.field = Some(field.to_owned());
        error
    }

    pub(crate) fn over(field: &str, limit: u64, given: u64) -> Self {
        let mut error = Self::invalid(field, format!("{field} is {given}, the limit is {limit}"));
        error.0.limit = Some(limit);
        error.0.given = Some(given.to_string());
        error
    }

    /// The same facts, after which nothing more is tried.
    pub(crate) fn give_up(mut self, sent: bool, after: Duration) -> Self {
        self.0.overdue = true;
        if sent && self.0.reason == reason::UNREACHABLE {
            self.0.reason = Cow::Borrowed(reason::CONNECTION_LOST);
        }
        self.0.outcome = if sent { Outcome::Unknown } else { Outcome::DefinitelyNot };
        self.0.message = format!("{} (given up after {after:?})", self.0.message);
        self
    }

    /// The end of a stream, whatever its status: it says nothing about single items.
    pub(crate) fn broken_off(&self) -> Self {
        Self::connection_lost(format!("the stream ended: {self}"))
    }

    /// The same facts, as the first of several failures.
    pub(crate) fn among(mut self, failed: u64) -> Self {
        if failed > 1 {
            self.0.message = format!("{} (the first of {failed} failures)", self.0.message);
        }
        self
    }

    /// The same facts about something that was sent before and may have been done then.
    pub(crate) fn in_doubt(mut self) -> Self {
        self.0.outcome = Outcome::Unknown;
        self
    }
}

/// Reasons that this crate gives itself; all others come from a node.
pub mod reason {
    /// No node could be reached; nothing was sent.
    pub const UNREACHABLE: &str = "UNREACHABLE";
    /// The connection ended before the answer came.
    pub const CONNECTION_LOST: &str = "CONNECTION_LOST";
    /// The call ended with a status that no node wrote.
    pub const CALL_FAILED: &str = "CALL_FAILED";
    /// The answer made no sense.
    pub const MALFORMED_ANSWER: &str = "MALFORMED_ANSWER";
    /// The handle was closed before.
    pub const CLOSED: &str = "CLOSED";
    /// The lease has ended.
    pub const LEASE_LOST: &str = "LEASE_LOST";
    /// The delivery is being settled already.
    pub const SETTLE_IN_PROGRESS: &str = "SETTLE_IN_PROGRESS";
    /// The request was wrong before it was sent.
    pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.0.outcome {
            Outcome::Unknown => "outcome unknown",
            _ => "not done",
        };
        write!(f, "{outcome}: {}: {}", self.0.reason, self.0.message)?;
        if let Some(field) = &self.0.field {
            write!(f, " (field {field}")?;
            if let Some(limit) = self.0.limit {
                write!(f, ", limit {limit}")?;
            }
            if let Some(given) = &self.0.given {
                write!(f, ", given {given}")?;
            }
            write!(f, ")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl StdError for Error {}

/// What a node's error means if it does not say so itself.
fn outcome_of_code(code: Code) -> Outcome {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::Unauthenticated => Outcome::DefinitelyNot,
        _ => Outcome::Unknown,
    }
}

/// The connection was not made, so that nothing can have left.
fn was_never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn innermost<'a>(mut error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn the_facts_of_a_status_are_kept() {
        let metadata = [("outcome", "NOT_DONE"), ("limit", "1048576"), ("given", "1048577")];
        let metadata: HashMap<_, _> =
            metadata.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let mut details = ErrorDetails::with_error_info("LIMIT_EXCEEDED", DOMAIN, metadata);
        details.add_bad_request_violation("entity.value", "too large");
        details.set_retry_info(Some(Duration::from_secs(3)));
        let status = Status::with_error_details(Code::ResourceExhausted, "too large", details);
        let error = Error::from_status(&status);
        assert_eq!(error.outcome(), Outcome::DefinitelyNot);
        assert_eq!(error.reason(), "LIMIT_EXCEEDED");
        assert_eq!(error.field(), Some("entity.value"));
        assert_eq!(error.limit(), Some(1_048_576));
        assert_eq!(error.given(), Some("1048577"));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert_eq!(
            error.to_string(),
            "not done: LIMIT_EXCEEDED: too large (field entity.value, limit 1048576, given \
             1048577)"
        );
    }

    #[test]
    fn a_status_that_no_node_wrote_is_not_taken_for_a_refusal() {
        for code in [Code::Unavailable, Code::Internal, Code::Unknown, Code::ResourceExhausted] {
            let error = Error::from_status(&Status::new(code, "h2 went away"));
            assert_eq!(error.outcome(), Outcome::Unknown, "{code:?}");
        }
        let error = Error::from_status(&Status::unimplemented("no such service"));
        assert_eq!(error.outcome(), Outcome::DefinitelyNot);
    }

    #[test]
    fn a_size_over_its_limit_is_not_tried_again_but_a_full_node_is() {
        let mut wire = v1::Error {
            code: i32::from(Code::ResourceExhausted),
            outcome: v1::Outcome::NotDone.into(),
            ..v1::Error::default()
        };
        assert!(!Error::from_wire(Some(wire.clone()), None).is_transient());
        wire.retry_after = Some(Duration::from_secs(1).into());
        assert!(Error::from_wire(Some(wire), None).is_transient());
    }
}
