//! What comes in: everything a node can be told, each as one value.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{
    Epoch, LaneId, LinkId, ObjectId, RecordNumber, RequestId, SessionId, SubscriptionId,
};
use crate::message::Message;
use crate::names::{Name, Pattern, TypeName};
use crate::object::{Entity, Hash16, Push, Token};
use crate::time::{Span, Wall};

/// Where an answer goes: a request or stream of the edge, and the item in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The unary call or the stream.
    pub request: RequestId,
    /// The item of a stream; zero for a call.
    pub seq: u64,
}

/// One stimulus.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A deadline of `Core::next_wake` has come, or may have.
    Wake,
    /// A client pushes an object.
    Push(ReplyTo, Push),
    /// A client stream opens. Leases belong to it.
    OpenSession(SessionId),
    /// A client stream has ended, for whatever reason.
    CloseSession(SessionId),
    /// A session subscribes, or changes the credit of a subscription it has.
    Subscribe(ReplyTo, Subscribe),
    /// A session ends a subscription; its leases stay.
    Unsubscribe(ReplyTo, SessionId, SubscriptionId),
    /// A session starts to work on objects.
    Begin(ReplyTo, Lessee, Vec<LeaseRef>),
    /// A lease is to last longer: its full span from now.
    Extend(ReplyTo, Lessee, Vec<LeaseRef>),
    /// Leases are settled, each by itself, all with one verb. Emits go with a single lease only.
    Settle(ReplyTo, Lessee, Settle),
    /// Several settles and pushes, all or nothing.
    Transaction(ReplyTo, Lessee, Transaction),
    /// A receiver without a stream asks for objects.
    Take(ReplyTo, Take),
    /// A person's order or question.
    Operator(ReplyTo, Operator),
    /// A record is durable.
    Committed(RecordNumber),
    /// A record that was asked for. One that cannot be read stops the node, so core never hears.
    Loaded(RecordNumber, #[serde(skip)] Bytes),
    /// The answer of the id index for a part of the log.
    LookedUp {
        /// The part.
        part: u64,
        /// The id.
        id: ObjectId,
        /// The place of its latest mention in that part.
        loc: Option<crate::ids::Loc>,
    },
    /// The history holds, synced, everything below this number: the log may be cut there.
    HistoryStands(RecordNumber),
    /// Whether the disk is below its reserve.
    Disk {
        /// Below it: pushes, offers, emits and advances are refused.
        low: bool,
    },
    /// The renewal of the lane's head that [`crate::Effect::Renew`] asked for has succeeded.
    Renewed,
    /// The store says that the lane has another owner, or that this one was declared dead; the
    /// epoch as far as it is known.
    Fenced(Epoch),
    /// This process runs the lane of a node that is gone, beside this core; or has done with it.
    Adopts {
        /// The lane.
        lane: LaneId,
        /// Whether it runs.
        runs: bool,
    },
    /// The list of lanes says that a lane is retired: nothing of it is in doubt any more.
    LaneRetired(LaneId),
    /// A link is up; nothing has been said yet.
    LinkUp {
        /// The link.
        link: LinkId,
        /// Whether this node dialled.
        dialled: bool,
    },
    /// A link is gone.
    LinkDown(LinkId),
    /// A peer says something.
    Peer(LinkId, Message),
}

/// Who claims to hold a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lessee {
    /// A stream, for its own leases.
    Session(SessionId),
    /// Whoever holds the full token.
    Bearer,
}

/// Names a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseRef {
    /// By its number, on the stream that it belongs to.
    Number(u64),
    /// By its full token.
    Token(Token),
}

/// A subscription.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscribe {
    /// The stream.
    pub session: SessionId,
    /// Its number in the stream.
    pub subscription: SubscriptionId,
    /// What is wanted.
    pub pattern: Pattern,
    /// The processor's name.
    pub processor: Name,
    /// The most unsettled deliveries.
    pub credit: u32,
    /// The lease of each delivery, or the node's default.
    pub lease: Option<Span>,
}

/// Leases to settle and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settle {
    /// The leases. Which they are is no part of the hash: the same settle of others is no repeat of this one.
    pub leases: Vec<LeaseRef>,
    pub(crate) verb: Verb,
    pub(crate) emits: Vec<Push>,
    /// The hash of both. A recording leaves contents out and has this still.
    pub(crate) content: Hash16,
}

/// How a lease is settled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Verb {
    /// Done for good.
    Finalise,
    /// Not final: the object becomes the entity, or stays as it is, handled by this processor.
    Advance(Option<Entity>),
    /// Back to where it was.
    Release {
        /// Not before this long from now.
        delay: Span,
        /// Whether the object is to blame.
        failed: bool,
    },
    /// Parked, with the reason.
    Reject(Arc<str>),
}

/// Settles and pushes that commit together or not at all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transaction {
    /// The settles; all leases belong to one stream.
    pub settles: Vec<Settle>,
    /// The pushes.
    pub pushes: Vec<Push>,
}

/// A unary receive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Take {
    /// What is wanted.
    pub pattern: Pattern,
    /// The processor's name.
    pub processor: Name,
    /// How long to wait for the first object.
    pub wait: Span,
    /// The most objects.
    pub count: u32,
    /// The lease of each, or the node's default.
    pub lease: Option<Span>,
}

/// What people and scripts ask of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Operator {
    /// Everything about one object.
    Inspect(ObjectId),
    /// Objects of this node.
    List {
        /// Only these types.
        pattern: Option<Pattern>,
        /// Only in this state.
        state: Option<ListState>,
        /// Only pushed at or after.
        since: Option<Wall>,
        /// At most so many.
        limit: u32,
    },
    /// Back into the flow.
    Redrive(Which),
    /// End parked objects without success.
    DiscardParked(Which),
    /// End one live object without success.
    Discard(ObjectId),
    /// What is here, per type.
    Types,
    /// Who subscribes here.
    Subscriptions,
    /// This node and its neighbours.
    Nodes,
    /// Take nothing new, hand over what peers want, give leases time.
    Drain,
    /// Take new work again.
    Resume,
    /// A peer's lane is gone for ever.
    Forget {
        /// The node's name.
        name: Name,
        /// Bring back the copies of what was moved to it, and what is held from it.
        reclaim: bool,
    },
    /// The jump of the wall clock was right: expiry may go on.
    ConfirmClock,
}

/// Live states that a listing can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListState {
    /// Waiting for a subscriber.
    Ready,
    /// Waiting for its time.
    Delayed,
    /// With a subscriber.
    Leased,
    /// Offered to a peer.
    Offered,
    /// Held for a peer's decision.
    Held,
    /// Out of the flow.
    Parked,
}

/// Which parked objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Which {
    /// By id.
    Ids(Vec<ObjectId>),
    /// All of a type.
    Type(TypeName),
    /// All.
    All,
}

impl Settle {
    /// A settle of leases in one way, with new objects that commit with it. The hash by which a repeated one is
    /// known is taken here, as that of a push is ([`Push::new`]).
    pub fn new(leases: Vec<LeaseRef>, verb: Verb, emits: Vec<Push>) -> Self {
        let content = content_of(&verb, &emits);
        Self { leases, verb, emits, content }
    }

    /// What to do with each of the leases.
    pub fn verb(&self) -> &Verb {
        &self.verb
    }

    /// New objects, committed with the settle.
    pub fn emits(&self) -> &[Push] {
        &self.emits
    }

    /// The hash by which a repeated settle is known.
    pub fn content_hash(&self) -> Hash16 {
        self.content
    }
}

fn content_of(verb: &Verb, emits: &[Push]) -> Hash16 {
    let mut hasher = blake3::Hasher::new();
    match verb {
        Verb::Finalise => {
            hasher.update(b"f");
        }
        Verb::Advance(entity) => {
            hasher.update(b"a");
            if let Some(entity) = entity {
                hasher.update(&entity.hash());
            }
        }
        Verb::Release { delay, failed } => {
            hasher.update(if *failed { b"F" } else { b"r" });
            hasher.update(&delay.0.to_le_bytes());
        }
        Verb::Reject(reason) => {
            hasher.update(b"j").update(reason.as_bytes());
        }
    }
    for emit in emits {
        hasher.update(&emit.id.map_or([0; 16], |id| id.0));
        hasher.update(&emit.content);
    }
    crate::object::first16(&hasher.finalize())
}
