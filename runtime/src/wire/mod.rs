//! The border between the wire and core: everything that comes in is parsed here, once, and core
//! sees only what is well formed.

pub(crate) mod delivery;
pub(crate) mod error;
pub(crate) mod link;
pub(crate) mod object;
pub(crate) mod offer;
pub(crate) mod settle;
pub(crate) mod view;

use dpc_core::time::{Span, Wall};
use dpc_proto::google::protobuf::{Duration, Timestamp};

/// The largest request message that is read, above every limit of what it may hold.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The most items in one request message.
pub(crate) const ITEMS_MAX: usize = 1_000;

/// The most items of one stream without an answer.
pub(crate) const WINDOW_ITEMS: u32 = 8_192;

/// A moment on the wire.
pub(crate) fn timestamp(at: Wall) -> Timestamp {
    Timestamp::from_unix_millis(at.0)
}

/// A span on the wire.
pub(crate) fn duration(span: Span) -> Duration {
    Duration::from(span.to_std())
}

#[cfg(test)]
mod tests;
