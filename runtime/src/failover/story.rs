//! What the history of an adopted lane tells, kept when the lane ends.
//!
//! While a lane is emptied nobody reads its log for a history: that would hold up what has to be
//! delivered. The log stays whole meanwhile, and before the lane is retired what the tables do not tell
//! yet is read once and goes there ([`crate::history::shared`]).

use std::path::PathBuf;
use std::time::Duration;

use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::time::Wall;

use crate::history::shared::SharedHistory;
use crate::history::shared::finding::Finding;
use crate::history::{History, HistoryOptions};
use crate::node::Reports;

/// The pause before the tables are asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// How the histories of adopted lanes are kept.
#[derive(Clone)]
pub struct Stories {
    pub(crate) to: SharedHistory,
    pub(crate) options: HistoryOptions,
    /// Where they are put together.
    pub(crate) folder: PathBuf,
}

impl Stories {
    /// Looks for objects in the histories of all lanes.
    pub(crate) fn finding(&self) -> Finding {
        Finding { tables: self.to.tables.clone(), time: self.options.time }
    }

    /// Opens the history of a lane whose last record is `last`, as far as the tables do not tell of it.
    /// Waits until the tables answer.
    ///
    /// # Errors
    ///
    /// Says why the node's own disk cannot be used.
    pub(crate) async fn open(
        self,
        lane: LaneId,
        last: RecordNumber,
        now: Wall,
        reports: Reports,
    ) -> Result<History, String> {
        let finding = self.finding();
        let from = loop {
            match finding.told_until(lane, now).await {
                Ok(until) => break until.unwrap_or(RecordNumber(1)),
                Err(error) => {
                    tracing::warn!(%lane, "the history in the store is waited for: {error}")
                }
            }
            tokio::time::sleep(AGAIN).await;
        };
        tracing::info!(%lane, from = %from, to = %last, "what ended in the lane goes to the store");
        let folder = self.folder(lane);
        // The log waits for the tables, so nothing has to be left out.
        let options = HistoryOptions { lag: u64::MAX, ..self.options };
        let opened =
            History::open_shared(&folder, (lane, last, from), options, Some(self.to), reports);
        let (history, _) = opened.map_err(|error| error.to_string())?;
        history.handle().conclude();
        Ok(history)
    }

    /// Removes what was needed to put the history of a lane together.
    pub(crate) fn remove(&self, lane: LaneId) {
        let folder = self.folder(lane);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{} stays: {error}", folder.display());
            }
            _ => {}
        }
    }

    fn folder(&self, lane: LaneId) -> PathBuf {
        self.folder.join(format!("{lane}.history"))
    }
}
