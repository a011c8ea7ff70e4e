//! Identities. Lanes, incarnations and objects are random; epochs and numbers only grow.
//! Names are for people; rules use these.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Defines a 16-byte identity shown as a lowercase UUID.
macro_rules! uuid_like {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl Hash for $name {
            /// As one number, as it is compared.
            #[inline]
            fn hash<H: Hasher>(&self, state: &mut H) {
                state.write_u128(u128::from_be_bytes(self.0));
            }
        }

        impl Ord for $name {
            /// The order of the bytes, compared as one number: every map of ids asks for it.
            #[inline]
            fn cmp(&self, other: &Self) -> Ordering {
                u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
            }
        }

        impl PartialOrd for $name {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt_uuid(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt_uuid(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = BadUuid;
            fn from_str(text: &str) -> Result<Self, BadUuid> {
                parse_uuid(text).map(Self).ok_or(BadUuid)
            }
        }
    };
}

uuid_like! {
    /// An object's id: a UUID, version 7 recommended, chosen by the client or by the node.
    ObjectId
}
uuid_like! {
    /// A lane's id, which is the id of its store: random, made with the store, new after a restore.
    LaneId
}

/// Text that is not a UUID of the form `8-4-4-4-12` hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID of the form 8-4-4-4-12 hexadecimal digits")]
pub struct BadUuid;

/// Defines a growing number.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// Counts the owners of a lane: it grows with every claim, durably. A higher epoch fences a
    /// lower one.
    Epoch
}
number! {
    /// The number of a record in its lane, from 1. It is also the ticket of the commit that an
    /// effect waits for.
    RecordNumber
}
number! {
    /// One start of a node: a random number, never zero.
    Incarnation
}
number! {
    /// One open client stream, numbered by the node that holds it.
    SessionId
}
number! {
    /// A subscription within its session, numbered by the client.
    SubscriptionId
}
number! {
    /// One link to a peer, numbered by this node; a reconnect is a new link.
    LinkId
}
number! {
    /// A request from outside that expects an answer, numbered by the edge.
    RequestId
}

/// The place of one entry in a lane: record and position in it. It orders objects by arrival.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Loc {
    /// The record.
    pub record: RecordNumber,
    /// The entry in the record, from 0.
    pub position: u32,
}

impl Loc {
    /// The place behind this one in the same record.
    pub fn next_in_record(self) -> Option<Self> {
        let position = self.position.checked_add(1)?;
        Some(Self { position, ..self })
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.record, self.position)
    }
}

impl fmt::Debug for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The commit that first held an object. With the object's id it tells the same object from a
/// second push of that id elsewhere.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Birth {
    /// The lane the object was pushed or emitted in.
    pub lane: LaneId,
    /// The lane's epoch then.
    pub epoch: Epoch,
    /// The place in the lane's log.
    pub loc: Loc,
}

impl LaneId {
    /// The first eight digits: enough for people to tell two lanes apart.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

fn fmt_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    f.pad(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    if text.len() != 36 {
        return None;
    }
    let mut bytes = [0; 16];
    let mut at = 0;
    for (i, byte) in bytes.iter_mut().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            if text[at] != b'-' {
                return None;
            }
            at += 1;
        }
        let high = char::from(text[at]).to_digit(16)?;
        let low = char::from(text[at + 1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).expect("two hexadecimal digits fit a byte");
        at += 2;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_read_back_what_they_print() {
        let id = ObjectId(std::array::from_fn(|i| u8::try_from(i * 17).expect("fits")));
        assert_eq!(id.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("00112233-4455-6677-8899-AABBCCDDEEFF".parse(), Ok(id));
        for bad in [
            "",
            "00112233",
            "00112233-4455-6677-8899-aabbccddeefg",
            "é0112233-4455-6677-8899-aabbccddeef",
        ] {
            assert_eq!(bad.parse::<ObjectId>(), Err(BadUuid));
        }
    }
}
