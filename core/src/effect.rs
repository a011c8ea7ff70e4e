//! What comes out: the consequences of one input, in order, each a plain value with one line of
//! text. Routing traces are these lines.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, LaneId, LinkId, Loc, ObjectId, RecordNumber, SessionId, SubscriptionId};
use crate::input::ReplyTo;
use crate::message::{LinkRefusal, Message, short_id};
use crate::names::{Name, Pattern, TypeName};
use crate::object::Object;
use crate::refusal::Refusal;
use crate::time::{Mono, Span, Wall};
use crate::view::View;

/// The consequences of one call, reused by the driver.
pub type Effects = Vec<Effect>;

/// One consequence.
#[derive(Clone, Debug, Serialize)]
pub enum Effect {
    /// An answer, to be held until the record `after` is committed.
    Reply {
        /// Where to.
        to: ReplyTo,
        /// What.
        answer: Answer,
        /// The commit it waits for.
        after: Option<RecordNumber>,
    },
    /// A delivery, at once: what is delivered has been committed.
    Deliver(SessionId, Delivery),
    /// Leases of a session have ended without a settle.
    LeaseEnded {
        /// The session.
        session: SessionId,
        /// The lease.
        lease: u64,
        /// Why.
        reason: LeaseEnd,
    },
    /// Something to a peer, to be held until the record `after` is committed.
    Send {
        /// The link.
        link: LinkId,
        /// What.
        message: Box<Message>,
        /// The commit it waits for.
        after: Option<RecordNumber>,
    },
    /// End a link; a refusal has been sent if there is one to tell.
    CloseLink {
        /// The link.
        link: LinkId,
        /// Why.
        refusal: LinkRefusal,
        /// Whether dialling again can help.
        redial: bool,
    },
    /// Read a record and answer [`crate::Input::Loaded`].
    Load(RecordNumber),
    /// Ask the id index and answer [`crate::Input::LookedUp`].
    LookUp {
        /// The part of the log.
        part: u64,
        /// The id.
        id: ObjectId,
    },
    /// Put a finished part's ids into the index. Nobody waits for it.
    IndexPart(#[serde(serialize_with = "part_in_short")] Box<PartIds>),
    /// Everything below is dead: the log may be cut there, the index too.
    Truncate {
        /// The first record to keep.
        below: RecordNumber,
        /// The first part to keep.
        part: u64,
    },
    /// Something worth a line in the log or a count.
    Note(Note),
    /// Write the lane's head as it is, under the condition of every commit, and answer
    /// [`crate::Input::Renewed`]. The next commit does as well: with a record to append there is
    /// nothing to renew.
    Renew,
    /// The adopted lane is empty: end it in the store for good. Everything written is durable, and
    /// nothing more is written.
    Retire,
    /// Another owner has the lane, at this epoch as far as it is known (R1). The core answers
    /// nothing more; the driver drops what waits for commits, ends all streams and links, and
    /// comes back as a new incarnation with another lane.
    Fenced(Epoch),
    /// The node must stop: its state cannot be trusted.
    Stop(String),
}

// Answers and deliveries are moved more than once on their way, and wait in their thousands: what is rare
// and large stands elsewhere.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Effect>() <= 72);

impl Effect {
    /// Something to a peer, to be held until a record is committed if it waits for one.
    pub(crate) fn send(link: LinkId, message: Message, after: Option<RecordNumber>) -> Self {
        Self::Send { link, message: Box::new(message), after }
    }
}

/// The ids of one part of the log with their latest places in it, each once, in no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartIds {
    /// The part.
    pub part: u64,
    /// The first record behind it.
    pub end: RecordNumber,
    /// The ids.
    pub ids: Vec<(ObjectId, Loc)>,
    /// The words of the part's filter, kept so that a restart need not build it again.
    pub filter: Vec<u64>,
}

/// The good or bad end of a request.
#[derive(Clone, Debug, Serialize)]
pub enum Answer {
    /// A push was stored, or had been.
    Pushed {
        /// The object.
        id: ObjectId,
        /// Whether an earlier push of the same content is what is stored.
        already: bool,
    },
    /// A refusal. State is unchanged.
    Refused(Box<Refusal>),
    /// One of several leases was refused; the others are answered by themselves.
    RefusedAt(u32, Box<Refusal>),
    /// Done. For a settle: how many leases of it.
    Done(u64),
    /// Leases run on: how many, and when the first of them ends.
    Extended(u64, Wall),
    /// Nobody can tell whether it was done.
    Unknown(String),
    /// What a unary receive got.
    Taken(Vec<Delivery>),
    /// One object.
    View(Box<View>),
    /// Several objects.
    Views(Vec<View>),
    /// All types.
    Types(Vec<TypeView>),
    /// All subscriptions.
    Subscriptions(Vec<SubscriptionView>),
    /// This node and its neighbours.
    Nodes(Vec<NodeView>),
}

/// One object on its way to a subscriber.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The lease's number.
    pub lease: u64,
    /// When the lease ends, if it is not extended.
    pub until: Mono,
    /// The same in wall time.
    pub until_wall: Wall,
    /// The lane's epoch: with the object's moves and the lease's number the fencing key.
    pub epoch: Epoch,
    /// The object, its present delivery counted.
    pub object: Arc<Object>,
}

/// Why a lease ended without a settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LeaseEnd {
    /// Its time ran out.
    Expired,
    /// A person discarded the object.
    Discarded,
}

/// One type in `dpc type ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeView {
    /// The type.
    pub ty: TypeName,
    /// Waiting for a subscriber.
    pub ready: u64,
    /// With a subscriber.
    pub leased: u64,
    /// Waiting for its time.
    pub delayed: u64,
    /// Out of the flow.
    pub parked: u64,
    /// Offered to peers.
    pub offered: u64,
    /// Held for peers' decisions.
    pub held: u64,
    /// Age of the oldest object that is ready.
    pub oldest_age: Option<Span>,
    /// Subscriptions here.
    pub subscribers: u32,
    /// Whether a neighbour has demand.
    pub demand_elsewhere: bool,
    /// Whether something waits that nobody wants.
    pub no_demand: bool,
    /// The books (P13).
    pub books: Books,
}

/// The books of one type in one lane. They balance:
/// `pushed + emitted + moved_in + advanced_in + reclaimed
/// = finalised + discarded + moved_out + advanced_out + live`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Pushed by clients.
    pub pushed: u64,
    /// Emitted by settles.
    pub emitted: u64,
    /// Received from peers and ready.
    pub moved_in: u64,
    /// Advanced from another type.
    pub advanced_in: u64,
    /// Brought back from copies.
    pub reclaimed: u64,
    /// Finalised.
    pub finalised: u64,
    /// Ended without success.
    pub discarded: u64,
    /// Handed to peers.
    pub moved_out: u64,
    /// Advanced to another type.
    pub advanced_out: u64,
}

/// One subscription in `dpc sub ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriptionView {
    /// The stream.
    pub session: SessionId,
    /// Its number in the stream.
    pub subscription: SubscriptionId,
    /// What it wants.
    pub pattern: Pattern,
    /// The processor's name.
    pub processor: Name,
    /// The most unsettled deliveries.
    pub credit: u32,
    /// Unsettled deliveries.
    pub in_flight: u32,
    /// Deliveries so far.
    pub delivered: u64,
    /// Settles so far.
    pub settled: u64,
    /// The last sign of life.
    pub last_seen: Wall,
}

/// One node in `dpc node ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// Its name.
    pub name: Name,
    /// Its lane.
    pub lane: LaneId,
    /// Whether it is this node.
    pub is_self: bool,
    /// Whether its link is up.
    pub up: bool,
    /// The link, if up.
    pub link: Option<LinkId>,
    /// The version of the link protocol that the two use; of this node: its newest. 0 without a
    /// link.
    pub protocol: u32,
    /// Whether it drains (known of this node only).
    pub draining: bool,
    /// What it wants: patterns and processors with their distance from here.
    pub demand: Vec<(Pattern, Name, u32)>,
    /// Objects sent to it since the link came up.
    pub sent: u64,
    /// Objects received from it since the link came up.
    pub received: u64,
    /// Transfers that are in doubt between the two.
    pub in_doubt: u64,
}

/// Something worth a line or a count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Note {
    /// An object began to wait for demand that nobody has: type, count.
    NoDemand(TypeName, u64),
    /// Demand for the type is back.
    DemandBack(TypeName),
    /// A link was refused.
    LinkRefused(Name, Box<LinkRefusal>),
    /// A handshake is done.
    LinkReady(LinkId, Name, LaneId),
    /// A transfer that one side does not know (R2).
    TransferUnknown(String),
    /// A second object of an id was met and kept out.
    Duplicate(ObjectId),
    /// An object was parked.
    Parked(ObjectId, Arc<str>),
    /// The wall clock jumped by so many milliseconds.
    ClockJumped(i64),
    /// The wall clock is trusted again.
    ClockSteady,
    /// A drain has ended: so many leases and ready objects are left.
    Drained {
        /// Leases left.
        leases: u64,
        /// Ready objects left.
        ready: u64,
    },
    /// An object reached the end of a lease without a settle.
    LeaseLost(ObjectId),
    /// A message that no peer of this version sends.
    PeerMalformed(Name, String),
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = |f: &mut fmt::Formatter<'_>, after: &Option<RecordNumber>| match after {
            Some(n) => write!(f, " after #{n}"),
            None => Ok(()),
        };
        match self {
            Self::Reply { to, answer, after: ticket } => {
                write!(f, "reply {}.{} {answer}", to.request, to.seq)?;
                after(f, ticket)
            }
            Self::Deliver(session, d) => write!(
                f,
                "deliver obj={} v{} delivery={} to session {session} lease={}",
                short_id(&d.object.id),
                d.object.version,
                d.object.deliveries,
                d.lease
            ),
            Self::LeaseEnded { session, lease, reason } => {
                write!(f, "lease {lease} of session {session} ended: {reason:?}")
            }
            Self::Send { link, message, after: ticket } => {
                write!(f, "send link {link} {message}")?;
                after(f, ticket)
            }
            Self::CloseLink { link, refusal, .. } => {
                write!(f, "close link {link}: {}", refusal.reason())
            }
            Self::Load(number) => write!(f, "load #{number}"),
            Self::LookUp { part, id } => write!(f, "look up {} in part {part}", short_id(id)),
            Self::IndexPart(part) => {
                write!(f, "index part {} with {} ids", part.part, part.ids.len())
            }
            Self::Truncate { below, .. } => write!(f, "truncate below #{below}"),
            Self::Note(note) => write!(f, "note {note}"),
            Self::Renew => write!(f, "renew"),
            Self::Retire => write!(f, "retire the lane"),
            Self::Fenced(epoch) => write!(f, "fenced: another owner has the lane, epoch {epoch}"),
            Self::Stop(why) => write!(f, "stop: {why}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pushed { id, already: false } => write!(f, "stored {}", short_id(id)),
            Self::Pushed { id, already: true } => write!(f, "already exists {}", short_id(id)),
            Self::Refused(r) => write!(f, "refused {}", r.reason),
            Self::RefusedAt(i, r) => write!(f, "refused {} at {i}", r.reason),
            Self::Done(n) => write!(f, "done {n}"),
            Self::Extended(n, _) => write!(f, "extended {n}"),
            Self::Unknown(_) => write!(f, "unknown"),
            Self::Taken(d) => write!(f, "taken {}", d.len()),
            Self::View(view) => write!(f, "view {}", view.state.as_str()),
            Self::Views(views) => write!(f, "{} objects", views.len()),
            Self::Types(types) => write!(f, "{} types", types.len()),
            Self::Subscriptions(subs) => write!(f, "{} subscriptions", subs.len()),
            Self::Nodes(nodes) => write!(f, "{} nodes", nodes.len()),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDemand(ty, count) => write!(f, "NO_DEMAND {ty}: {count} waiting"),
            Self::DemandBack(ty) => write!(f, "demand for {ty} is back"),
            Self::LinkRefused(name, refusal) => write!(f, "link to {name} refused: {refusal}"),
            Self::LinkReady(link, name, lane) => {
                write!(f, "link {link} to {name} ({}) ready", lane.short())
            }
            Self::TransferUnknown(what) => write!(f, "TRANSFER_UNKNOWN {what}"),
            Self::Duplicate(id) => write!(f, "duplicate {}", short_id(id)),
            Self::Parked(id, reason) => write!(f, "parked obj={}: {reason}", short_id(id)),
            Self::ClockJumped(ms) => {
                write!(f, "CLOCK_JUMPED by {ms} ms: nothing expires until it is confirmed")
            }
            Self::ClockSteady => write!(f, "the wall clock is trusted again"),
            Self::Drained { leases, ready } => {
                write!(f, "drained: {leases} leases and {ready} ready objects left")
            }
            Self::LeaseLost(id) => write!(f, "lease lost obj={}", short_id(id)),
            Self::PeerMalformed(name, what) => write!(f, "{name} sent something malformed: {what}"),
        }
    }
}

/// The bytes of a record on its way to the store.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number: the ticket of everything in it.
    pub number: RecordNumber,
    /// The sealed bytes.
    pub bytes: Bytes,
    /// Where what clients carry stands in them.
    pub(crate) carried: Vec<(u32, u32)>,
}

impl Record {
    /// The hash of everything in it but what clients carry, and the hash at its end.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
        let end = self.bytes.len() - crate::record::HASH_BYTES;
        for kept in crate::recording::elide::without(&self.bytes[..end], &self.carried) {
            hasher.update(kept);
        }
        hasher.digest()
    }
}

/// A recording tells parts apart without all their ids.
fn part_in_short<S: serde::Serializer>(part: &PartIds, to: S) -> Result<S::Ok, S::Error> {
    (part.part, part.end, part.ids.len(), part.ids.first(), part.ids.last()).serialize(to)
}
