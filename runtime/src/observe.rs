//! What the driver notices: lines in the log, counts, alarms.

use dpc_core::effect::Note;
use dpc_core::message::LinkRefusal;
use dpc_core::time::Span;

use crate::service::{Drained, Hub};

/// Refusals of links that a person has to do something about.
const REFUSALS: [&str; 6] = [
    "DUPLICATE_NODE_NAME",
    "LANE_ROLLED_BACK",
    "LANE_FORGOTTEN",
    "PROTOCOL_VERSION",
    "GENERATION_DAMAGED",
    "MALFORMED_MESSAGE",
];

/// Every alarm there is, so that a dashboard sees its zero before it is ever raised.
pub(crate) const ALARMS: [&str; 13] = [
    "ADOPTION_LIMIT",
    "CLOCK_JUMPED",
    "DISK_LOW",
    "DUPLICATE_NODE_NAME",
    "GENERATION_DAMAGED",
    "HISTORY_BEHIND",
    "INBOX_REFUSED",
    "LANE_FORGOTTEN",
    "LANE_ROLLED_BACK",
    "MALFORMED_MESSAGE",
    "NO_DEMAND",
    "PROTOCOL_VERSION",
    "TRANSFER_UNKNOWN",
];

/// How long the alarm of a refused link stands when nobody dials again.
const REFUSAL_STANDS: Span = Span::secs(300);

/// One thing that core noted.
pub(crate) fn note(hub: &Hub, note: &Note) {
    let now = hub.clock.now().wall;
    match note {
        Note::NoDemand(ty, _) => {
            tracing::info!(%ty, "{note}");
            let text = format!("{note}; subscribe to it here or at a node within reach");
            hub.alarms.raise("NO_DEMAND", ty.as_str(), text, now);
        }
        Note::DemandBack(ty) => {
            tracing::info!(%ty, "{note}");
            hub.alarms.clear("NO_DEMAND", ty.as_str());
        }
        Note::LinkRefused(name, refusal) => match **refusal {
            LinkRefusal::DuplicateLink | LinkRefusal::Itself => tracing::debug!("{note}"),
            _ => {
                let (reason, text) = (refusal.reason(), note.to_string());
                if hub.alarms.raise_for(reason, name.as_str(), text, now, REFUSAL_STANDS) {
                    tracing::warn!(peer = %name, "{note}");
                }
            }
        },
        Note::LinkReady(link, name, lane) => {
            tracing::info!(peer = %name, lane = %lane, "linked");
            hub.links.ready(*link, name, *lane);
            for reason in REFUSALS {
                hub.alarms.clear(reason, name.as_str());
            }
        }
        Note::TransferUnknown(transfer) => {
            tracing::error!("{note}");
            hub.alarms.raise("TRANSFER_UNKNOWN", transfer, note.to_string(), now);
        }
        Note::Duplicate(id) => tracing::info!(object = %id, "{note}"),
        Note::Parked(id, _) => {
            hub.metrics.parked.add(1);
            tracing::info!(object = %id, "{note}");
        }
        Note::ClockJumped(_) => {
            tracing::error!("{note}");
            hub.alarms.raise("CLOCK_JUMPED", "", note.to_string(), now);
        }
        Note::ClockSteady => {
            tracing::info!("{note}");
            hub.alarms.clear("CLOCK_JUMPED", "");
        }
        Note::Drained { leases, ready } => {
            tracing::info!("{note}");
            hub.set_drained(Some(Drained { leases: *leases, ready: *ready }));
        }
        Note::LeaseLost(id) => tracing::debug!(object = %id, "{note}"),
        Note::PeerMalformed(name, _) => tracing::warn!(peer = %name, "{note}"),
    }
}

/// The disk went below its reserve, or has room again.
pub(crate) fn disk(hub: &Hub, low: bool, free: u64) {
    if low {
        let text = format!(
            "{free} bytes are free, below limits.disk_reserve: pushes, emits and advances are refused until there is room"
        );
        tracing::error!("DISK_LOW: {text}");
        hub.alarms.raise("DISK_LOW", "", text, hub.clock.now().wall);
    } else {
        tracing::info!("the disk has room again");
        hub.alarms.clear("DISK_LOW", "");
    }
}

/// The history keeps counts only, or details again.
pub(crate) fn history_behind(hub: &Hub, behind: bool) {
    if behind {
        let text = "the history is too far behind the log: it keeps counts only, and traces say that detail was dropped";
        tracing::warn!("HISTORY_BEHIND: {text}");
        hub.alarms.raise("HISTORY_BEHIND", "", text.to_owned(), hub.clock.now().wall);
    } else {
        tracing::info!("the history keeps details again");
        hub.alarms.clear("HISTORY_BEHIND", "");
    }
}
