//! What follows the log of a lane, behind its commits: a history, one that begins only when the lane ends,
//! or nothing.

use bytes::Bytes;
use dpc_core::ids::RecordNumber;
use tokio::task::JoinSet;

use crate::failover::Stories;
use crate::history::{History, HistoryHandle};

/// What follows the log.
pub(crate) enum Followed {
    /// Nothing.
    Nothing,
    /// A history.
    Now(HistoryHandle),
    /// A history, but only when the lane ends: until then the log is kept. Empty while it is opened.
    AtTheEnd(Option<Box<Stories>>),
}

impl Followed {
    pub(crate) fn at_the_end(stories: Stories) -> Self {
        Self::AtTheEnd(Some(Box::new(stories)))
    }
}

/// The history that is opened when the lane ends.
#[derive(Default)]
pub(crate) struct LastHistory {
    /// The task that opens it, which ends with the driver.
    pub(crate) opening: JoinSet<()>,
    /// It, once it is open.
    pub(crate) open: Option<History>,
    /// The last record that was committed before it was open: it would not know of it.
    pub(crate) missed: Option<(RecordNumber, Bytes)>,
    /// What it wanted to read before the driver knew that it is open.
    pub(crate) wants: Option<(RecordNumber, usize)>,
}
