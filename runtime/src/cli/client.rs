//! The client crate as the command line uses it, and its errors as exit codes.

use std::time::Duration;

use dpc_client::{Client, Error, Options, Outcome, Verb};

use super::connect::{NodeArgs, code_name};
use super::exit::Exit;
use super::failure::{Details, Failure};

/// How long a subscriber waits for a node that went away: longer than a restart takes.
const SUBSCRIBER_PATIENCE: Duration = Duration::from_secs(300);

impl NodeArgs {
    /// A client that pushes. A node that cannot be reached is an error at once.
    pub(crate) async fn pushing_client(&self) -> Result<Client, Failure> {
        self.client(Options::new()).await
    }

    /// A client that receives, and waits for its node when that restarts.
    pub(crate) async fn receiving_client(&self) -> Result<Client, Failure> {
        self.client(Options::new().give_up_after(SUBSCRIBER_PATIENCE)).await
    }

    async fn client(&self, options: Options) -> Result<Client, Failure> {
        // Nobody wants to wait for the patience of the library when there is nothing to wait for.
        drop(self.connect().await?);
        let addresses = self.nodes.iter().map(ToString::to_string);
        Client::connect(addresses, options).map_err(|error| of_client(&error))
    }
}

/// What an error of the client means for the process.
pub(crate) fn of_client(error: &Error) -> Failure {
    let exit = match error.outcome() {
        Outcome::Unknown => Exit::Unknown,
        _ if error.is_unreachable() => Exit::Unreachable,
        _ => Exit::NotDone,
    };
    let details = Details {
        field: error.field().map(str::to_owned),
        limit: error.limit().map(|limit| limit.to_string()),
        given: error.given().map(str::to_owned),
        retry_after: error.retry_after().map(|delay| delay.as_secs_f64()),
    };
    Failure::new(exit, code_name(error.code()), error.reason(), error.message()).with(details)
}

/// The participle of a settle, for people.
pub(crate) fn settled_word(verb: &Verb) -> &'static str {
    match verb {
        Verb::Finalise => "finalised",
        Verb::Advance(_) => "advanced",
        Verb::Release(_) => "released",
        Verb::Fail(_) => "released as failed",
        Verb::Reject(_) => "rejected",
    }
}
