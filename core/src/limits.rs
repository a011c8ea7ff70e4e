//! Every bound and every default of a node, in one place. Units stand last in a name.
use serde::{Deserialize, Serialize};

use crate::time::Span;

/// What an operator may set. The defaults are the documented ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Lease of a delivery when the subscriber names none.
    pub lease: Span,
    /// Shortest lease a subscriber may ask for.
    pub lease_min: Span,
    /// Longest lease a subscriber may ask for.
    pub lease_max: Span,
    /// Failed deliveries after which an object is parked.
    pub failed_deliveries: u32,
    /// Delay after the first failed delivery; it doubles with each further one.
    pub backoff_first: Span,
    /// Longest delay between failed deliveries.
    pub backoff_max: Span,
    /// How far a backoff is varied, in percent of it, up and down.
    pub backoff_jitter_percent: u32,
    /// Most unsettled deliveries one subscription may ask for.
    pub credit_max: u32,
    /// Damping of demand that flaps, least time between two refreshes, linger of `Take`.
    pub redistribution_delay: Span,
    /// How long an object waits for a registered local subscriber before a peer may have it.
    pub spill_after: Span,
    /// Most links an object crosses for one generation of demand.
    pub max_hops: u32,
    /// How long the id of an ended or moved object is remembered.
    pub idempotency: Span,
    /// How many ids of ended or moved objects are remembered at most.
    pub idempotency_ids: u64,
    /// How long a parked object is kept; `None` is for ever.
    pub parked_retention: Option<Span>,
    /// How long a sender keeps the copy of a moved object after the receiver has said TAKEN.
    pub shadow_retention: Span,
    /// Most bytes of such copies; the oldest taken ones go first.
    pub shadow_bytes: u64,
    /// How long an offer waits for its answer.
    pub offer_timeout: Span,
    /// How long a drain waits for leases and peers.
    pub drain: Span,
    /// Largest payload of an object.
    pub payload_bytes: u64,
    /// Most headers of an object.
    pub headers: u32,
    /// Most bytes of all header keys and values of an object.
    pub headers_bytes: u64,
    /// Largest header key.
    pub header_key_bytes: u32,
    /// Farthest delay or expiry.
    pub horizon: Span,
    /// Most items (settles, emits and pushes) of a transaction.
    pub transaction_items: u32,
    /// Most payload bytes of a transaction.
    pub transaction_bytes: u64,
    /// Most subscriptions of a node.
    pub subscriptions: u32,
    /// Most sessions of a node.
    pub sessions: u32,
    /// Most types a node keeps apart.
    pub types: u32,
    /// Most unsettled deliveries of a node.
    pub leases: u32,
    /// Most bytes of payload kept in memory for objects that wait.
    pub window_bytes: u64,
    /// Most bytes of payload in memory that leased objects may hold.
    pub leased_bytes: u64,
    /// Most bytes that wait to be committed; beyond it pushes are refused.
    pub uncommitted_bytes: u64,
    /// Most objects in memory that came for one demand beyond this node and have not left: they make the
    /// groups in which they are handed on.
    pub transit: u32,
    /// Most objects kept ready in memory for one queue; the rest is paged. Below a quarter of it, and
    /// below what its subscribers may hold, a queue with demand asks for its next page.
    pub window_objects: usize,
    /// Bytes at which the open record is closed.
    pub record_target_bytes: usize,
    /// Log bytes after which a part ends with a checkpoint.
    pub part_bytes: u64,
    /// Ids after which a part ends with a checkpoint: it bounds the memory of the recent ids.
    pub part_ids: usize,
    /// Dead log bytes that are tolerated besides as many as there are live ones.
    pub carry_slack_bytes: u64,
    /// Records with something alive in them, beyond which the oldest are packed anew.
    pub pages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: Span::secs(30),
            lease_min: Span::secs(1),
            lease_max: Span::secs(3_600),
            failed_deliveries: 20,
            backoff_first: Span::secs(1),
            backoff_max: Span::secs(300),
            backoff_jitter_percent: 15,
            credit_max: 65_536,
            redistribution_delay: Span::secs(5),
            spill_after: Span::secs(1),
            max_hops: 8,
            idempotency: Span::secs(24 * 3_600),
            idempotency_ids: 5_000_000,
            parked_retention: None,
            shadow_retention: Span::secs(24 * 3_600),
            shadow_bytes: 1 << 30,
            offer_timeout: Span::secs(2),
            drain: Span::secs(30),
            payload_bytes: 1 << 20,
            headers: 64,
            headers_bytes: 16 << 10,
            header_key_bytes: 128,
            horizon: Span::secs(365 * 24 * 3_600),
            transaction_items: 1_000,
            transaction_bytes: 4 << 20,
            subscriptions: 10_000,
            sessions: 4_096,
            types: 100_000,
            leases: 1_000_000,
            window_bytes: 64 << 20,
            leased_bytes: 128 << 20,
            uncommitted_bytes: 64 << 20,
            transit: 8_192,
            window_objects: 1_024,
            record_target_bytes: 256 << 10,
            part_bytes: 64 << 20,
            part_ids: 262_144,
            carry_slack_bytes: 96 << 20,
            pages: 1_000_000,
        }
    }
}

/// Longest type name or pattern.
pub const TYPE_BYTES_MAX: usize = 255;
/// Longest processor or node name.
pub const NAME_BYTES_MAX: usize = 64;
/// Most processor names remembered as having handled one version.
pub const HANDLED_MAX: usize = 16;
/// Most nodes kept in an object's path.
pub const PATH_MAX: usize = 8;
/// Most settle marks an object carries: one for each of its latest versions.
pub const MARKS_MAX: usize = 16;
/// Longest reason of a rejection or a discard.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Most objects of one unary `Take`.
pub const TAKE_MAX: u32 = 100;
/// Longest wait of a unary `Take`.
pub const TAKE_WAIT_MAX: Span = Span::secs(60);
/// Most pages being read at once for queues; several queues may wait for one.
pub const LOADS_MAX: usize = 16;
/// Most pages being read at once for one queue: as many as are taken from it while a page is read.
pub const QUEUE_LOADS_MAX: usize = 8;
/// Most requests that wait for an id to be looked up.
pub const RESOLVING_MAX: usize = 4_096;
/// Most objects of one offer.
pub const OFFER_OBJECTS_MAX: usize = 256;
/// Most payload bytes of one offer (a single larger object travels alone).
pub const OFFER_BYTES_MAX: u64 = 1 << 20;
/// Most offers of one link that wait for an answer.
pub const OFFERS_MAX: usize = 64;
/// The slowest link, in bytes a millisecond (1 Mbit/s), over which the largest object still moves: an
/// offer has its timeout from when it would have arrived at that rate.
pub const LINK_BYTES_PER_MS_MIN: u64 = 128;
/// Most lanes of peers that are remembered; those heard of last stay.
pub const PEERS_MAX: usize = 10_000;
/// Most lanes of peers that a handshake names.
pub const HELLO_PEERS_MAX: usize = 1_000;
/// What an object costs in memory besides its payload and headers.
pub const OBJECT_COST_BYTES: u64 = 256;
/// Most adverts kept from one link.
pub const ADVERTS_MAX: usize = 100_000;
/// A generation counter that jumps farther than this is damage, not age.
pub const GENERATION_JUMP_MAX: u64 = 1 << 40;
/// How long changes of adverts gather before they are sent.
pub const ADVERT_COALESCE: Span = Span::millis(3);
/// Most objects one listing answers with.
pub const LIST_MAX: u32 = 1_000;
/// A forward jump of the wall clock beyond this stops expiry until it is confirmed.
pub const CLOCK_JUMP: Span = Span::secs(3_600);
/// A wall clock that goes back farther than this was put right, or wrong.
pub const CLOCK_STEP: Span = Span::secs(1);
/// How long the wall clock must be steady after a jump before expiry goes on by itself.
pub const CLOCK_STEADY: Span = Span::secs(600);
