//! The wish of a person or a supervisor that this process ends.

use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;

/// The signals that end a process. Whoever starts nodes waits for them, so that none stays behind.
pub(crate) struct Stop {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Stop {
    /// From here on the signals end nothing by themselves.
    pub(crate) fn new() -> Result<Self, Failure> {
        let of = |kind| {
            let message = "cannot wait for Ctrl-C";
            signal(kind).map_err(|error| Failure::local("SIGNALS", format!("{message}: {error}")))
        };
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(of);
        Ok(Self { signals: [interrupt?, terminate?, hangup?] })
    }

    /// Waits for any of them.
    pub(crate) async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            // Any of the three will do.
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
