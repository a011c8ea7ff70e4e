//! An object: what clients push, what travels between nodes, what a lane remembers.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

use crate::ids::{Birth, Epoch, Incarnation, LaneId, ObjectId};
use crate::limits::{Limits, MARKS_MAX, OBJECT_COST_BYTES};
use crate::names::{Name, TypeName};
use crate::refusal::Refusal;
use crate::time::{Now, Span, Wall};

/// The first 16 bytes of BLAKE3.
pub type Hash16 = [u8; 16];

/// Headers in the order given, packed: one allocation, shared without copying.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers(#[serde(with = "crate::recording::elide::headers")] Bytes);

/// What a client pushes or emits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Chosen by the client, or absent: then the node chooses.
    pub id: Option<ObjectId>,
    pub(crate) entity: Entity,
    /// The hash of the entity. A recording leaves contents out and has this still.
    pub(crate) content: Hash16,
    /// Not delivered before this time.
    pub not_before: Option<Time>,
    /// Parked, if still undelivered, at this time.
    pub expires_at: Option<Time>,
}

/// A point of wall time, or a span from the moment the node takes the push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Time {
    /// Absolute.
    At(Wall),
    /// Relative.
    In(Span),
}

/// What an object carries in one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    /// The type.
    pub ty: TypeName,
    /// The payload: never looked into, never copied on its way.
    #[serde(with = "crate::recording::elide::payload")]
    pub payload: Bytes,
    /// The headers.
    pub headers: Headers,
}

/// An object with everything that travels with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its id.
    pub id: ObjectId,
    /// What it carries now.
    pub entity: Entity,
    /// Counts the entities it has carried, from 1.
    pub version: u32,
    /// When its owner first took it.
    pub pushed_at: Wall,
    /// The node it was pushed at.
    pub origin: Name,
    /// The commit that first held it.
    pub birth: Birth,
    /// The hash of what was pushed under its id (P9).
    pub hash: Hash16,
    /// Not delivered before.
    pub not_before: Option<Wall>,
    /// Parked at, if still undelivered.
    pub expires_at: Option<Wall>,
    /// Deliveries so far; a crash may lose the last of them.
    pub deliveries: u32,
    /// Failed deliveries so far.
    pub failed: u32,
    /// Handoffs so far.
    pub moves: u32,
    /// The nodes it came through, the last [`crate::limits::PATH_MAX`], oldest first.
    pub path: ThinVec<Name>,
    /// Processors that have handled this version without ending it, sorted.
    pub handled: ThinVec<Name>,
    /// The demand it follows between nodes.
    pub chase: Option<Box<Chase>>,
    /// The last settle of each version, oldest first.
    pub marks: ThinVec<SettleMark>,
    /// Brought back from a shadow or a restored store: it may exist elsewhere, too.
    pub possible_duplicate: bool,
}

/// What most objects do not have stands elsewhere: each step in the life of one touches this (ADR 0037).
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Object>() <= 264);

/// One appearance of demand: a Lamport counter with its origin as tie-break. Totally ordered.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation {
    /// One more than any seen by the origin.
    pub counter: u64,
    /// The origin's lane.
    pub lane: LaneId,
    /// The origin's incarnation.
    pub incarnation: Incarnation,
}

/// What an object carries so that forwarding ends (P10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chase {
    /// The generation it follows.
    pub generation: Generation,
    /// The lanes it has been in since it follows it, the first one included.
    pub crossed: Vec<LaneId>,
}

/// A settle that committed, kept so that a repeated one gets the same answer (P3, R5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettleMark {
    /// The version it settled.
    pub version: u32,
    /// The lease it used.
    pub token: Token,
    /// The hash of its content.
    pub content: Hash16,
}

/// The right of one session to settle one object for a while.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token {
    /// The lane that gave it.
    pub lane: LaneId,
    /// The lane's epoch then.
    pub epoch: Epoch,
    /// The node's incarnation then.
    pub incarnation: Incarnation,
    /// The lease's number.
    pub n: u64,
    /// The object it is for, so that a settle finds its way after the lease is gone.
    pub object: ObjectId,
}

/// Entities up to this size are put together before they are hashed: one chunk of BLAKE3.
const HASHED_AS_ONE_BYTES: usize = 1_024;

/// Bytes of a token on the wire: lane 16, epoch 8, incarnation 8, n 8, object 16.
pub const TOKEN_BYTES: usize = 56;

/// Bytes of the part of a token that all leases of one incarnation share.
pub const TOKEN_PREFIX_BYTES: usize = 32;

impl Token {
    /// The wire form, integers big-endian.
    pub fn to_bytes(&self) -> [u8; TOKEN_BYTES] {
        let mut out = [0; TOKEN_BYTES];
        out[..16].copy_from_slice(&self.lane.0);
        out[16..24].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[24..32].copy_from_slice(&self.incarnation.0.to_be_bytes());
        out[32..40].copy_from_slice(&self.n.to_be_bytes());
        out[40..].copy_from_slice(&self.object.0);
        out
    }

    /// Reads the wire form. A token that does not parse is refused as malformed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let Ok(bytes) = <[u8; TOKEN_BYTES]>::try_from(bytes) else {
            return Err(Refusal::invalid(
                "token",
                "TOKEN_MALFORMED",
                format!(
                    "a lease token has {TOKEN_BYTES} bytes, this one {}; take it from a delivery unchanged",
                    bytes.len()
                ),
            ));
        };
        let u64_at =
            |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Ok(Self {
            lane: LaneId(bytes[..16].try_into().expect("sixteen bytes")),
            epoch: Epoch(u64_at(16)),
            incarnation: Incarnation(u64_at(24)),
            n: u64_at(32),
            object: ObjectId(bytes[40..].try_into().expect("sixteen bytes")),
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.lane.short(), self.epoch, self.n)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}@{}", self.counter, self.lane.short())
    }
}

impl Headers {
    /// Packs key and value pairs, checking count and sizes against the limits.
    pub fn pack<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        let mut out = BytesMut::new();
        let (mut count, mut bytes) = (0u64, 0u64);
        for (key, value) in pairs {
            count += 1;
            bytes += (key.len() + value.len()) as u64;
            if key.is_empty() {
                return Err(Refusal::invalid(
                    "headers",
                    "HEADER_KEY_MISSING",
                    "a header has an empty key",
                ));
            }
            if key.len() > limits.header_key_bytes as usize {
                return Err(Refusal::over(
                    "headers.key",
                    u64::from(limits.header_key_bytes),
                    key.len() as u64,
                    "bytes",
                ));
            }
            if count > u64::from(limits.headers) {
                return Err(Refusal::over("headers", u64::from(limits.headers), count, "headers"));
            }
            if bytes > limits.headers_bytes {
                return Err(Refusal::over("headers", limits.headers_bytes, bytes, "bytes"));
            }
            for text in [key, value] {
                out.put_u32_le(u32::try_from(text.len()).expect("below the limit"));
                out.put_slice(text.as_bytes());
            }
        }
        Ok(Self(out.freeze()))
    }

    /// The packed form, for records and links.
    pub fn as_packed(&self) -> &Bytes {
        &self.0
    }

    /// Takes the packed form back, if it is well formed.
    pub fn from_packed(bytes: Bytes) -> Option<Self> {
        let headers = Self(bytes);
        let mut rest = &headers.0[..];
        while !rest.is_empty() {
            take_text(&mut rest)?;
            take_text(&mut rest)?;
        }
        Some(headers)
    }

    /// The pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            Some((take_text(&mut rest)?, take_text(&mut rest)?))
        })
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Entity {
    /// The hash that tells whether an id was pushed again with other content (P9).
    pub fn hash(&self) -> Hash16 {
        let prefix = self.entity_prefix().to_le_bytes();
        let parts = [&prefix, self.ty.as_str().as_bytes(), self.headers.as_packed(), &self.payload];
        let bytes = parts.iter().map(|part| part.len()).sum();
        let mut one = [0; HASHED_AS_ONE_BYTES];
        let Some(room) = one.get_mut(..bytes) else {
            let mut hasher = blake3::Hasher::new();
            for part in parts {
                hasher.update(part);
            }
            return first16(&hasher.finalize());
        };
        // BLAKE3 is quicker over one piece than over several, by more than a copy costs.
        let mut at = 0;
        for part in parts {
            room[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        first16(&blake3::hash(room))
    }

    /// Checks the entity's sizes. State is unchanged.
    pub fn check(&self, limits: &Limits) -> Result<(), Refusal> {
        let size = self.payload.len() as u64;
        if size > limits.payload_bytes {
            return Err(Refusal::over("payload", limits.payload_bytes, size, "bytes"));
        }
        Ok(())
    }

    /// Lengths of type and headers, so that no two entities hash the same bytes.
    fn entity_prefix(&self) -> u64 {
        (self.ty.as_str().len() as u64) << 32 | self.headers.as_packed().len() as u64
    }
}

impl Push {
    /// A push of an entity, to be delivered at once and for as long as it takes. Its hash is taken here: whoever
    /// brings a push to core has its bytes at hand, and core itself never looks at them.
    pub fn new(id: Option<ObjectId>, entity: Entity) -> Self {
        let content = entity.hash();
        Self { id, entity, content, not_before: None, expires_at: None }
    }

    /// The same, not delivered before one time, and parked if it is still undelivered at another.
    pub fn timed(self, not_before: Option<Time>, expires_at: Option<Time>) -> Self {
        Self { not_before, expires_at, ..self }
    }

    /// What is pushed.
    pub fn entity(&self) -> &Entity {
        &self.entity
    }

    /// The hash of what is pushed: with another one it is another push (P9).
    pub fn content_hash(&self) -> Hash16 {
        self.content
    }

    /// Checks sizes and times, and turns relative times into absolute ones. State is unchanged.
    pub fn check(
        &self,
        limits: &Limits,
        now: Now,
    ) -> Result<(Option<Wall>, Option<Wall>), Refusal> {
        self.entity.check(limits)?;
        let not_before =
            self.not_before.map(|t| check_time("not_before", t, limits, now)).transpose()?;
        let expires_at =
            self.expires_at.map(|t| check_time("expires_at", t, limits, now)).transpose()?;
        if let (Some(start), Some(end)) = (not_before, expires_at)
            && end <= start
        {
            return Err(Refusal::invalid(
                "expires_at",
                "TIME_OUT_OF_RANGE",
                "the object would expire before its not_before; choose a later expiry",
            ));
        }
        Ok((not_before, expires_at))
    }
}

impl Object {
    /// Whether it is delayed or expires.
    pub(crate) fn has_times(&self) -> bool {
        self.not_before.is_some() || self.expires_at.is_some()
    }

    /// An object as its first owner takes it, before anything has happened to it, with the hash of its
    /// entity. Its birth is told by the commit that first holds it; times are the caller's to set.
    #[inline]
    pub fn new(id: ObjectId, entity: Entity, hash: Hash16, pushed_at: Wall, origin: Name) -> Self {
        Self {
            id,
            entity,
            version: 1,
            pushed_at,
            origin,
            birth: Birth::default(),
            hash,
            not_before: None,
            expires_at: None,
            deliveries: 0,
            failed: 0,
            moves: 0,
            path: ThinVec::new(),
            handled: ThinVec::new(),
            chase: None,
            marks: ThinVec::new(),
            possible_duplicate: false,
        }
    }

    /// Bytes that it holds in memory, roughly: an empty one is not free.
    pub fn footprint(&self) -> u64 {
        self.weight() + OBJECT_COST_BYTES
    }

    /// Bytes that it holds on a link, roughly: payload and headers.
    pub fn weight(&self) -> u64 {
        (self.entity.payload.len() + self.entity.headers.as_packed().len()) as u64
    }

    /// Adds the mark of a settle of the present version. A release does not end its version, so a
    /// version may have several: whoever got no answer to a release has to learn that it was done,
    /// also after the next holder has settled. Room is made by those that a later settle of their
    /// version has followed; the last one of each version stays longest (R5).
    pub fn mark(&mut self, token: Token, content: Hash16) {
        // Most objects are settled once.
        self.marks.reserve_exact(1);
        self.marks.push(SettleMark { version: self.version, token, content });
        if self.marks.len() > MARKS_MAX {
            let followed = self.marks.windows(2).position(|m| m[0].version == m[1].version);
            self.marks.remove(followed.unwrap_or(0));
        }
    }

    /// Takes over the marks of another object of its id that was here before and is remembered no
    /// longer: its settles may be repeated still (P3). Where there are too many, its oldest go.
    pub(crate) fn inherit_marks(&mut self, before: &[SettleMark]) {
        let room = MARKS_MAX.saturating_sub(self.marks.len());
        let kept = &before[before.len().saturating_sub(room)..];
        self.marks.splice(0..0, kept.iter().cloned());
    }
}

/// The first 16 bytes of a hash.
pub fn first16(hash: &blake3::Hash) -> Hash16 {
    hash.as_bytes()[..16].try_into().expect("BLAKE3 has 32 bytes")
}

/// A time in the past or beyond the horizon is refused.
fn check_time(field: &'static str, time: Time, limits: &Limits, now: Now) -> Result<Wall, Refusal> {
    let (at, given) = match time {
        Time::At(at) => (at, format!("{} ms since 1970", at.0)),
        Time::In(span) => (now.wall + span, span.to_string()),
    };
    if at < now.wall {
        return Err(Refusal::invalid(
            field,
            "TIME_OUT_OF_RANGE",
            format!("{field} is in the past"),
        )
        .given(given));
    }
    if at - now.wall > limits.horizon {
        let days = limits.horizon.0 / 86_400_000_000;
        return Err(Refusal {
            limit: Some(limits.horizon.0 / 1_000_000),
            ..Refusal::invalid(
                field,
                "TIME_OUT_OF_RANGE",
                format!("{field} is more than {days} days ahead"),
            )
            .given(given)
        });
    }
    Ok(at)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let (text, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}
