//! Encoded bytes on their way to the transport.

use bytes::{BufMut, Bytes};

/// From so many bytes on a payload stays where it is. Below, a copy is cheaper than another holder.
const BESIDE_MIN: usize = 1 << 10;

/// Encoded bytes. Large payloads among them stay with their owners until the transport takes them: they
/// are copied once, into what it sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    bytes: Vec<u8>,
    /// Payloads, each with how many of `bytes` go before it, in order.
    beside: Vec<(usize, Bytes)>,
    beside_bytes: usize,
}

impl Written {
    /// With room for so many bytes besides large payloads.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Where what is no payload is added.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Adds a payload.
    pub fn payload(&mut self, payload: &Bytes) {
        if Self::beside(payload.len()) == 0 {
            self.bytes.extend_from_slice(payload);
        } else {
            self.beside.push((self.bytes.len(), payload.clone()));
            self.beside_bytes += payload.len();
        }
    }

    /// How many bytes of a payload of this length need no room, since it stays where it is.
    pub fn beside(payload: usize) -> usize {
        if payload < BESIDE_MIN { 0 } else { payload }
    }

    /// How many bytes it is.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.beside_bytes
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.beside.is_empty()
    }

    /// Copies it to where it is sent from.
    pub(crate) fn copy_to(&self, buf: &mut impl BufMut) {
        let mut copied = 0;
        for (at, payload) in &self.beside {
            buf.put_slice(&self.bytes[copied..*at]);
            buf.put_slice(payload);
            copied = *at;
        }
        buf.put_slice(&self.bytes[copied..]);
    }
}
