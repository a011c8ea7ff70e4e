//! Decisions: one recorded routing step each. What was chosen, what was not, and why (P17).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::object::Generation;
use crate::time::Wall;

/// One recorded step, shared by all objects of a group that it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: Wall,
    /// What happened.
    pub step: Step,
    /// Who was chosen: a processor's or a node's name with what kind it is.
    pub chosen: Option<Arc<str>>,
    /// The generation of demand that was followed.
    pub generation: Option<Generation>,
    /// Who else was looked at.
    pub candidates: Vec<Candidate>,
}

/// Somebody who could have got the object and did not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// The subscription or peer.
    pub who: Arc<str>,
    /// Why not.
    pub refused: Refused,
}

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// The number in a record. It never changes.
            pub fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* }
            }

            /// The meaning of a number in a record.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// The words people read and scripts match.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

coded! {
    /// What a decision did.
    Step {
        /// Given to a local subscription.
        Deliver = 1, "deliver";
        /// Offered to a peer.
        Offer = 2, "offer";
        /// Nobody could take it.
        Wait = 3, "wait";
        /// Taken from a peer.
        Receive = 4, "receive";
        /// Out of the flow.
        Park = 5, "park";
        /// Back into the flow by a person.
        Redrive = 6, "redrive";
        /// A lease ended and the object waits again.
        Return = 7, "return";
        /// A second object of an id: kept out.
        Duplicate = 8, "duplicate";
        /// Brought back from a copy.
        Reclaim = 9, "reclaim";
        /// The offer came to nothing.
        Withdraw = 10, "withdraw";
        /// Moved on: the peer owns it.
        Move = 11, "move";
        /// A newer generation was asked for.
        Refresh = 12, "refresh";
    }
}

coded! {
    /// Why a candidate did not get an object.
    Refused {
        /// Nobody has asked for the type.
        NoDemand = 1, "no demand";
        /// The subscription's credit is used up.
        NoCredit = 2, "no credit left";
        /// The peer's window is used up.
        WindowClosed = 3, "window closed";
        /// The processor has handled this version.
        Handled = 4, "has handled this version";
        /// The object has crossed this node for this generation of demand.
        Crossed = 5, "crossed already for this demand";
        /// The demand is older than the one the object follows.
        OlderDemand = 6, "older than the demand it follows";
        /// The object has crossed as many links as it may.
        MaxHops = 7, "max_hops reached";
        /// The subscription or peer is farther away than another.
        Farther = 8, "farther away";
        /// As near as the chosen one, with as much outstanding or more.
        Busier = 9, "as near and no less busy";
        /// A local subscriber comes first until spill_after.
        LocalFirst = 10, "a local subscriber comes first";
        /// The demand changed a moment ago.
        Damped = 11, "demand changed a moment ago";
        /// The peer refused the offer.
        RefusedByPeer = 12, "refused the offer";
        /// The peer did not answer in time.
        Timeout = 13, "did not answer";
        /// The link went down.
        LinkLost = 14, "link lost";
        /// Too many offers are under way on the link.
        Busy = 15, "too many offers under way";
        /// The node drains.
        Draining = 16, "draining";
        /// The node's memory for leased objects is used up.
        MemoryFull = 17, "memory for leased objects used up";
        /// It was offered a moment ago and not taken; it is offered again a little later.
        AskedBefore = 18, "did not take it a moment ago";
        /// An object of its id came while it was offered.
        Met = 19, "another one of its id came meanwhile";
    }
}

impl Decision {
    /// A decision without generation and candidates.
    pub fn new(at: Wall, step: Step, chosen: Option<Arc<str>>) -> Self {
        Self { at, step, chosen, generation: None, candidates: Vec::new() }
    }

    /// Whether it is this one, without generation and candidates.
    pub(crate) fn is_just(&self, at: Wall, step: Step, chosen: &Arc<str>) -> bool {
        let Self { at: when, step: what, chosen: who, generation, candidates } = self;
        (*when, *what, who.as_ref()) == (at, step, Some(chosen))
            && generation.is_none()
            && candidates.is_empty()
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        if let Some(chosen) = &self.chosen {
            let joint = match self.step {
                Step::Receive | Step::Withdraw => " from",
                Step::Deliver | Step::Offer | Step::Move | Step::Refresh => " to",
                _ => ":",
            };
            write!(f, "{joint} {chosen}")?;
        }
        if let Some(generation) = &self.generation {
            write!(f, " for {generation}")?;
        }
        for (i, candidate) in self.candidates.iter().enumerate() {
            let lead = match i {
                0 if self.chosen.is_some() => ", not",
                0 => ":",
                _ => ",",
            };
            write!(f, "{lead} {} ({})", candidate.who, candidate.refused)?;
        }
        Ok(())
    }
}
