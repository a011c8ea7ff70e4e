//! What nodes say to each other over a link. Plain values: the edges turn them into protobuf.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Incarnation, LaneId, ObjectId, RecordNumber};
use crate::names::{Name, Pattern};
use crate::object::{Generation, Hash16, Object, Token};
use crate::record::TransferId;

/// The version of the link protocol that this program speaks.
pub const PROTOCOL: u32 = 2;

/// The oldest version of the link protocol that this program understands.
pub const PROTOCOL_MIN: u32 = 1;

/// From this version on an offer may be early ([`Offer::early`]).
pub(crate) const PROTOCOL_EARLY: u32 = 2;

/// The versions of the link protocol that a node speaks: this program's, unless a test plays an
/// older or a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocols {
    /// The oldest.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

impl Default for Protocols {
    fn default() -> Self {
        Self { oldest: PROTOCOL_MIN, newest: PROTOCOL }
    }
}

impl Protocols {
    /// The newest version that both speak, if there is one: what a link between them uses.
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// One message of a link. Links deliver in order or break.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The first message of each side (R4).
    Hello(Hello),
    /// The link is refused and ends.
    Refuse(LinkRefusal),
    /// Changes of what this node can use.
    Adverts(Vec<Advert>),
    /// New totals of windows, for adverts that stand.
    Windows(Vec<Window>),
    /// A newer generation is asked for.
    Refresh(Refresh),
    /// Objects are offered.
    Offer(Offer),
    /// An adopted lane gives its heir what is delayed or parked.
    Estate(Estate),
    /// The receiver holds what it did not refuse.
    Accept {
        /// The transfer.
        transfer: TransferId,
        /// Positions that are not held, with the reason.
        refused: Vec<(u32, OfferRefused)>,
    },
    /// The receiver takes nothing of it.
    Decline {
        /// The transfer.
        transfer: TransferId,
        /// Why.
        reason: OfferRefused,
    },
    /// The transfer is committed at the sender: what is held is the receiver's.
    Release(TransferId),
    /// The offer is ended; it will never be committed.
    Abort(TransferId),
    /// The receiver has durably made the objects ready (R2).
    Taken(TransferId),
    /// A receiver in doubt asks how a transfer ended.
    Status(TransferId),
    /// Not known yet: the commit is under way.
    Wait(TransferId),
    /// Everything up to `through` is decided: the receiver may forget it.
    Forget {
        /// The sender's lane.
        sender: LaneId,
        /// The sender's epoch.
        epoch: Epoch,
        /// The sender's incarnation.
        incarnation: Incarnation,
        /// The number.
        through: u64,
    },
    /// A RELEASE for a transfer that the receiver does not know: an alarm on both sides.
    TransferUnknown(TransferId),
    /// A settle of a lease that another lane gave, on its way to that lane's owner.
    PassSettle {
        /// Tells the answer.
        ask: u64,
        /// How many more links it may cross.
        hops_left: u32,
        /// The lease.
        token: Token,
        /// The hash of the settle's content; only repeats are answered far away.
        content: Hash16,
    },
    /// The answer of a passed settle.
    PassedSettle {
        /// The ask.
        ask: u64,
        /// What the owner said.
        answer: PassedAnswer,
    },
}

/// The answer of a lane's owner to a settle that came from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PassedAnswer {
    /// It had been done before: the same answer again.
    Done,
    /// The lease is lost.
    LeaseLost,
    /// Nobody who could be asked knows.
    Unknown,
}

/// The first message of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol version spoken.
    pub protocol: u32,
    /// The oldest protocol version understood.
    pub protocol_min: u32,
    /// The node's name.
    pub name: Name,
    /// Its lanes: the first is its own, others are adopted.
    pub lanes: Vec<LaneHello>,
    /// The highest generation counter it has seen.
    pub generation: u64,
    /// What it last knew of the receiver's lanes, for the receiver to compare.
    pub known: Vec<(LaneId, Epoch, RecordNumber)>,
}

/// One lane in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneHello {
    /// The lane.
    pub lane: LaneId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its owner's incarnation.
    pub incarnation: Incarnation,
    /// Its last committed number.
    pub number: RecordNumber,
    /// That record's hash.
    pub hash: Hash16,
}

/// Why a link is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkRefusal {
    /// The node has dialled itself.
    Itself,
    /// The two have a link already.
    DuplicateLink,
    /// Another node of the same name is known here.
    DuplicateName(Name),
    /// The lane came back lower than it was known: a restored backup or a copied folder (R4).
    RolledBack {
        /// The lane.
        lane: LaneId,
        /// What was known of it.
        known: (Epoch, RecordNumber),
        /// What it says now.
        now: (Epoch, RecordNumber),
    },
    /// The lane was forgotten for ever and its copies reclaimed (R6).
    Forgotten(LaneId),
    /// No common protocol version.
    Protocol {
        /// The version of the refusing side.
        ours: u32,
    },
    /// A generation counter that is damage, not age.
    Generation(u64),
    /// Something that no node of this version says.
    Malformed(String),
}

/// The best demand a node can reach without the link it is told over (R7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// What is wanted.
    pub key: DemandKey,
    /// The demand, or `None` when it is withdrawn.
    pub demand: Option<Demand>,
}

/// Demand is told and kept per pattern and processor name. Clones are one in memory: a node keeps
/// the key of a demand in several places for each link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DemandKey(Arc<Wanted>);

/// What is wanted, and by whom.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Wanted {
    /// A type or a prefix.
    pub pattern: Pattern,
    /// The processor that wants it.
    pub processor: Name,
}

impl DemandKey {
    /// What is wanted, and by whom.
    pub fn new(pattern: Pattern, processor: Name) -> Self {
        Self(Arc::new(Wanted { pattern, processor }))
    }
}

impl Deref for DemandKey {
    type Target = Wanted;

    fn deref(&self) -> &Wanted {
        &self.0
    }
}

/// Nodes with their lanes, one link from each to the next. Clones are one in memory.
pub type Path = Arc<[(Name, LaneId)]>;

/// Demand as one node tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Links between the teller and the origin; 0 at the origin.
    pub distance: u32,
    /// The nodes on the way, the teller first, the origin last.
    pub path: Path,
    /// Its generation.
    pub generation: Generation,
    /// How many objects may be handed over since the link came up: an absolute total.
    pub window: u64,
}

/// A window's new total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Whose.
    pub key: DemandKey,
    /// The absolute total since the link came up.
    pub total: u64,
}

/// Asks the origin of a demand for a newer generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// The demand.
    pub key: DemandKey,
    /// What is too old: neither the demand as told nor what the object follows is newer.
    pub generation: Generation,
    /// Processors that have handled the object that waits.
    pub handled: Vec<Name>,
}

/// Objects offered to a peer for one demand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The transfer.
    pub transfer: TransferId,
    /// Which window it counts against.
    pub key: DemandKey,
    /// The objects, with their moves, path and chase as they will be at the receiver.
    pub objects: Vec<Arc<Object>>,
    /// It has left before the record that holds them was durable at the sender: the sender may turn out
    /// never to have had them, so nothing ends in their favour.
    pub early: bool,
}

/// What the core of an adopted lane offers to the lane of the process that adopted it: objects that
/// follow no demand, because they are delayed or parked (R8). Decided like every offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estate {
    /// The transfer.
    pub transfer: TransferId,
    /// The objects, with their moves and path as they will be at the heir.
    pub objects: Vec<Arc<Object>>,
    /// Which of them are parked, by position, with the reason. The others are delayed.
    pub parked: Vec<(u32, Arc<str>)>,
}

/// Why an offered object is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfferRefused {
    /// The demand is gone.
    NoDemand,
    /// The receiver drains or its disk is below the reserve.
    NotNow,
    /// The offer breaks the rules or the limits.
    Malformed,
    /// The receiver has decided this transfer before, or its epoch is too low.
    Stale,
}

impl Message {
    /// Whether a link carries it on its stream of bodies (ADR 0017): offers, and what must not overtake them.
    /// Between the two streams there is no order.
    pub fn is_body(&self) -> bool {
        matches!(self, Self::Offer(_) | Self::Estate(_) | Self::Abort(_) | Self::Forget { .. })
    }

    /// The lane whose word this is, where only one lane may say it.
    pub(crate) fn speaker(&self) -> Option<LaneId> {
        match self {
            Self::Accept { transfer: id, .. }
            | Self::Decline { transfer: id, .. }
            | Self::Taken(id)
            | Self::Status(id)
            | Self::TransferUnknown(id) => Some(id.receiver),
            Self::Release(id) | Self::Abort(id) | Self::Wait(id) => Some(id.sender),
            Self::Forget { sender, .. } => Some(*sender),
            _ => None,
        }
    }

    /// The objects' ids, for traces.
    fn ids(objects: &[Arc<Object>]) -> String {
        objects.iter().map(|o| short_id(&o.id)).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(hello) => write!(f, "Hello {}", hello.name),
            Self::Refuse(refusal) => write!(f, "Refuse {refusal}"),
            Self::Adverts(adverts) => {
                f.write_str("Adverts")?;
                adverts.iter().try_for_each(|a| write!(f, " {a}"))
            }
            Self::Windows(windows) => {
                f.write_str("Windows")?;
                windows.iter().try_for_each(|w| write!(f, " {}={}", w.key, w.total))
            }
            Self::Refresh(r) => write!(f, "Refresh {} {}", r.key, r.generation),
            Self::Offer(offer) => write!(
                f,
                "Offer {}: {} for {}",
                offer.transfer,
                Self::ids(&offer.objects),
                offer.key
            ),
            Self::Estate(estate) => {
                write!(f, "Estate {}: {}", estate.transfer, Self::ids(&estate.objects))
            }
            Self::Accept { transfer, refused } if refused.is_empty() => {
                write!(f, "Accept {transfer}")
            }
            Self::Accept { transfer, refused } => {
                write!(f, "Accept {transfer} but {} of it", refused.len())
            }
            Self::Decline { transfer, reason } => write!(f, "Decline {transfer} {reason}"),
            Self::Release(t) => write!(f, "Release {t}"),
            Self::Abort(t) => write!(f, "Abort {t}"),
            Self::Taken(t) => write!(f, "Taken {t}"),
            Self::Status(t) => write!(f, "Status {t}"),
            Self::Wait(t) => write!(f, "Wait {t}"),
            Self::Forget { through, .. } => write!(f, "Forget through #{through}"),
            Self::TransferUnknown(t) => write!(f, "TransferUnknown {t}"),
            Self::PassSettle { token, .. } => write!(f, "PassSettle {token:?}"),
            Self::PassedSettle { answer, .. } => write!(f, "PassedSettle {answer:?}"),
        }
    }
}

impl fmt::Display for Advert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.demand {
            Some(d) => write!(
                f,
                "{} (distance {}, window {}, {})",
                self.key, d.distance, d.window, d.generation
            ),
            None => write!(f, "{} (no more)", self.key),
        }
    }
}

impl fmt::Display for DemandKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.processor.as_str() == "default" {
            write!(f, "{}", self.pattern)
        } else {
            write!(f, "{}/{}", self.pattern, self.processor)
        }
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x{}.{}@{}", self.epoch.0, self.n, self.sender.short())
    }
}

impl fmt::Display for OfferRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDemand => "no demand",
            Self::NotNow => "not now",
            Self::Malformed => "malformed",
            Self::Stale => "stale",
        })
    }
}

impl LinkRefusal {
    /// The reason in UPPER_SNAKE.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Itself => "SELF",
            Self::DuplicateLink => "DUPLICATE_LINK",
            Self::DuplicateName(_) => "DUPLICATE_NODE_NAME",
            Self::RolledBack { .. } => "LANE_ROLLED_BACK",
            Self::Forgotten(_) => "LANE_FORGOTTEN",
            Self::Protocol { .. } => "PROTOCOL_VERSION",
            Self::Generation(_) => "GENERATION_DAMAGED",
            Self::Malformed(_) => "MALFORMED_MESSAGE",
        }
    }
}

impl fmt::Display for LinkRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason())?;
        match self {
            Self::Itself => write!(f, ": this address is the node itself"),
            Self::DuplicateLink => write!(f, ": the two nodes have a link already"),
            Self::DuplicateName(name) => {
                write!(f, ": another node is called {name}; give each node its own node_name")
            }
            Self::RolledBack { lane, known, now } => write!(
                f,
                ": lane {lane} was at epoch {}, record {}, and says {}, {} now; if it is a restored backup, start it with --restored",
                known.0, known.1, now.0, now.1
            ),
            Self::Forgotten(lane) => {
                write!(
                    f,
                    ": lane {lane} was forgotten and its copies reclaimed; start it with --restored"
                )
            }
            Self::Protocol { ours } => {
                write!(f, ": no common protocol version, this side speaks {ours}")
            }
            Self::Generation(counter) => {
                write!(f, ": generation counter {counter} is not plausible")
            }
            Self::Malformed(what) => write!(f, ": {what}"),
        }
    }
}

/// The last digits of an id: what differs between ids made in one moment.
pub fn short_id(id: &ObjectId) -> String {
    id.to_string()[24..].trim_start_matches('0').to_owned()
}
