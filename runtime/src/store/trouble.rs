//! How a request to a database fails, and how long it is tried again.

use std::time::Duration;

use dpc_core::store::StoreError;
use tokio::time::{Instant, sleep};

/// Between two tries after a fault: the first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How a request to a server failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server refused it: it has had no effect.
    Refused(StoreError),
    /// It never left: there was no connection.
    NotSent(String),
    /// Nobody can tell: the connection was lost, or silent, while it was under way.
    Lost(String),
}

impl Trouble {
    /// As an error for whoever only reads: nothing could have changed.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::NotSent(why) | Self::Lost(why) => StoreError::Io(why),
        }
    }
}

/// Pauses that grow, up to an end.
pub(super) struct Patience {
    end: Instant,
    pause: Duration,
}

impl Patience {
    pub(super) fn of(span: Duration) -> Self {
        Self { end: Instant::now() + span, pause: PAUSE_MIN }
    }

    /// Waits for the next try. Says whether there is one.
    pub(super) async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause > self.end {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

/// Tries something again after every fault that passes, until the patience ends. Only for what may
/// be done twice: a try whose answer was lost may have had its effect.
pub(super) async fn persist<T>(
    patience: Duration,
    mut one: impl AsyncFnMut() -> Result<T, Trouble>,
) -> Result<T, StoreError> {
    let mut patience = Patience::of(patience);
    loop {
        match one().await {
            Ok(done) => return Ok(done),
            Err(Trouble::Refused(error)) => return Err(error),
            Err(Trouble::NotSent(why) | Trouble::Lost(why)) => {
                tracing::warn!("the database is waited for: {why}");
                if !patience.wait().await {
                    return Err(StoreError::Io(why));
                }
            }
        }
    }
}
