//! What goes wrong, as people read it on stderr and as scripts read it with `-o json`.

use std::io;

use serde::{Serialize, Serializer};

use super::exit::Exit;
use crate::config::{ConfigError, ConfigErrors};

/// Why a command, or one item of it, was not done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Failure {
    /// How the process ends because of it.
    #[serde(skip)]
    pub(crate) exit: Exit,
    /// The canonical code, such as `INVALID_ARGUMENT`.
    pub(crate) code: &'static str,
    /// The reason in UPPER_SNAKE.
    pub(crate) reason: String,
    /// What was wrong and what to do next.
    pub(crate) message: String,
    /// The facts behind it, boxed so that a result stays small.
    #[serde(flatten)]
    pub(crate) details: Box<Details>,
}

/// The facts behind a failure, as far as there are any.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Details {
    /// The field, flag or key that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// The limit that was passed; a number in JSON where it is one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_number")]
    pub(crate) limit: Option<String>,
    /// What was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) given: Option<String>,
    /// Seconds after which another try may succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after: Option<f64>,
}

impl Failure {
    /// A failure without details.
    pub(crate) fn new(
        exit: Exit,
        code: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        let (reason, message) = (reason.to_owned(), message.into());
        Self { exit, code, reason, message, details: Box::default() }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "INVALID_ARGUMENT", "USAGE", message)
    }

    /// Definitely not done, as it is wrong in itself.
    pub(crate) fn refused(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::NotDone, "INVALID_ARGUMENT", reason, message)
    }

    /// None of the nodes could be reached.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, "UNAVAILABLE", "NODE_UNREACHABLE", message)
    }

    /// Something on this machine failed.
    pub(crate) fn local(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::NotDone, "FAILED_PRECONDITION", reason, message)
    }

    /// Whoever reads stdout has enough, as `head` does; nothing is wrong.
    pub(crate) fn reader_gone() -> Self {
        Self::new(Exit::Done, "CANCELLED", "OUTPUT_CLOSED", "the reader of the output is gone")
    }

    /// With the field, flag or key that is wrong.
    pub(crate) fn field(mut self, field: impl Into<String>) -> Self {
        self.details.field = Some(field.into());
        self
    }

    /// With what was given.
    pub(crate) fn given(mut self, given: impl Into<String>) -> Self {
        self.details.given = Some(given.into());
        self
    }

    /// With the limit that was passed.
    pub(crate) fn limit(mut self, limit: impl ToString) -> Self {
        self.details.limit = Some(limit.to_string());
        self
    }

    /// True if there is nothing to say about it.
    pub(crate) fn is_silent(&self) -> bool {
        self.exit == Exit::Done
    }

    /// Each error of a configuration.
    pub(crate) fn of_config(errors: ConfigErrors, exit: Exit) -> Vec<Self> {
        errors.0.iter().map(|error| Self::of_config_error(error, exit)).collect()
    }

    fn of_config_error(error: &ConfigError, exit: Exit) -> Self {
        let details = Details {
            field: error.key().map(str::to_owned),
            limit: error.limit().map(str::to_owned),
            given: error.given().map(str::to_owned),
            retry_after: None,
        };
        Self::new(exit, "INVALID_ARGUMENT", error.reason(), error.to_string()).with(details)
    }

    /// With these facts.
    pub(crate) fn with(self, details: Details) -> Self {
        Self { details: Box::new(details), ..self }
    }

    /// One line of text: the reason is there for whoever looks it up.
    pub(crate) fn to_text(&self) -> String {
        let retry =
            self.details.retry_after.map(|s| format!("; try again in {s} s")).unwrap_or_default();
        format!("{}{retry} [{}]", self.message, self.reason)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::reader_gone()
        } else {
            Self::local("IO", error.to_string())
        }
    }
}

fn as_number<S: Serializer>(limit: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = limit.as_deref().unwrap_or_default();
    match text.parse::<u64>() {
        Ok(number) => serializer.serialize_u64(number),
        Err(_) => serializer.serialize_str(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn the_json_line_has_the_promised_keys_in_order() {
        let mut failure = Failure::usage("no").field("f").limit(3).given("4");
        failure.details.retry_after = Some(1.5);
        assert_eq!(
            serde_json::to_string(&failure).expect("serialises"),
            r#"{"code":"INVALID_ARGUMENT","reason":"USAGE","message":"no","field":"f","limit":3,"given":"4","retry_after":1.5}"#
        );
        let bare = Failure::unreachable("gone");
        assert_eq!(
            serde_json::to_string(&bare).expect("serialises"),
            r#"{"code":"UNAVAILABLE","reason":"NODE_UNREACHABLE","message":"gone"}"#
        );
        assert_eq!(failure.to_text(), "no; try again in 1.5 s [USAGE]");
    }

    #[test]
    fn configuration_errors_name_key_limit_and_value() {
        let sources = Sources { set: vec!["limits.max_hops=0".to_owned()], ..Sources::default() };
        let errors = sources.load().expect_err("out of range");
        let failures = Failure::of_config(errors, Exit::Usage);
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].details.field.as_deref(), Some("limits.max_hops"));
        assert_eq!(failures[0].details.limit.as_deref(), Some("1 to 64"));
        assert_eq!(failures[0].reason, "CONFIG_OUT_OF_RANGE");
    }
}
