//! Refusals: typed answers that say what was wrong and what to do. State is unchanged by each.

use std::fmt;

use serde::Serialize;

use crate::time::Span;

/// The canonical gRPC code a refusal maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Code {
    /// The request can never succeed as it is.
    InvalidArgument,
    /// What was named is not here.
    NotFound,
    /// The state of what was named does not allow it.
    FailedPrecondition,
    /// A limit is reached; retrying later may help.
    ResourceExhausted,
    /// The node cannot answer now; retrying, here or elsewhere, helps.
    Unavailable,
    /// The node is at fault, or its data is damaged.
    DataLoss,
}

/// A refusal. State is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The canonical code.
    pub code: Code,
    /// The reason in UPPER_SNAKE: stable, for programs.
    pub reason: &'static str,
    /// What was wrong and what to do next, for people.
    pub message: String,
    /// The field that was wrong.
    pub field: Option<&'static str>,
    /// The limit that was passed.
    pub limit: Option<u64>,
    /// The value that was given.
    pub given: Option<String>,
    /// When a retry may help.
    pub retry_after: Option<Span>,
}

impl Refusal {
    /// A refusal with a code, a reason and a message.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            field: None,
            limit: None,
            given: None,
            retry_after: None,
        }
    }

    /// An argument that can never be accepted.
    pub fn invalid(field: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field: Some(field), ..Self::new(Code::InvalidArgument, reason, message) }
    }

    /// A value past its limit.
    pub fn over(field: &'static str, limit: u64, given: u64, unit: &str) -> Self {
        Self {
            field: Some(field),
            limit: Some(limit),
            given: Some(given.to_string()),
            ..Self::new(
                Code::InvalidArgument,
                "LIMIT_EXCEEDED",
                format!("{field} is {given} {unit}, the limit is {limit} {unit}"),
            )
        }
    }

    /// A limit of the node that is reached now.
    pub fn exhausted(field: &'static str, limit: u64, message: impl Into<String>) -> Self {
        Self {
            field: Some(field),
            limit: Some(limit),
            retry_after: Some(Span::secs(1)),
            ..Self::new(Code::ResourceExhausted, "RESOURCE_EXHAUSTED", message)
        }
    }

    /// Says what was given.
    #[must_use]
    pub fn given(mut self, given: impl fmt::Display) -> Self {
        self.given = Some(given.to_string());
        self
    }

    /// Says when a retry may help.
    #[must_use]
    pub fn retry_after(mut self, span: Span) -> Self {
        self.retry_after = Some(span);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}
