//! The bytes of a row: variable-length integers, text named once per row, and a seal.
//!
//! SQLite does not checksum what it stores. So every row carries a seal over its table, its key and
//! its bytes: a flipped bit and a row that stands where another belongs are both found when read.

use dpc_core::ids::{Incarnation, LaneId};
use dpc_core::record::{Words, write_int};

/// Bytes of a seal.
pub(super) const SEAL_BYTES: usize = 8;

/// A row that is not what was written. Found only behind a seal that does not match, or in a row
/// of a later program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRow(pub(super) &'static str);

/// Writes a row.
#[derive(Debug, Default)]
pub(super) struct Packer {
    out: Vec<u8>,
    names: Words,
}

/// Reads a row.
#[derive(Debug)]
pub(super) struct Unpacker<'a> {
    rest: &'a [u8],
    names: Vec<&'a [u8]>,
}

/// Appends the seal of a row that stands in `table` under `key`.
pub(super) fn seal(table: &str, key: u64, mut body: Vec<u8>) -> Vec<u8> {
    let sum = sum(table, key, &body);
    body.extend_from_slice(&sum);
    body
}

/// Checks the seal and returns what stands before it.
pub(super) fn unseal<'a>(table: &str, key: u64, row: &'a [u8]) -> Result<&'a [u8], BadRow> {
    let at = row.len().checked_sub(SEAL_BYTES).ok_or(BadRow("it is shorter than its seal"))?;
    let (body, found) = row.split_at(at);
    if sum(table, key, body) == *found {
        Ok(body)
    } else {
        Err(BadRow("it does not match its seal"))
    }
}

fn sum(table: &str, key: u64, body: &[u8]) -> [u8; SEAL_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(table.len() as u64).to_le_bytes());
    hasher.update(table.as_bytes());
    hasher.update(&key.to_le_bytes());
    hasher.update(body);
    hasher.finalize().as_bytes()[..SEAL_BYTES].try_into().expect("BLAKE3 has 32 bytes")
}

impl Packer {
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    pub(super) fn fixed(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// LEB128.
    pub(super) fn int(&mut self, n: u64) {
        write_int(&mut self.out, n);
    }

    /// The distance from `base`, either way: short when they are near.
    pub(super) fn near(&mut self, base: u64, n: u64) {
        let distance = n.wrapping_sub(base) as i64;
        self.int(((distance << 1) ^ (distance >> 63)) as u64);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.int(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// Bytes that the row may hold again: written out once, then as a number.
    pub(super) fn name(&mut self, bytes: &[u8]) {
        self.names.write(&mut self.out, 0, bytes);
    }

    /// Like [`Packer::name`], one byte longer, for what may be absent.
    pub(super) fn maybe_name(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => self.byte(0),
            Some(bytes) => {
                self.byte(1);
                self.name(bytes);
            }
        }
    }

    pub(super) fn lane(&mut self, lane: LaneId) {
        self.name(&lane.0);
    }

    /// A lane and one of its owner's incarnations, which a row names many times together.
    pub(super) fn owner(&mut self, lane: LaneId, incarnation: Incarnation) {
        let mut both = [0; 24];
        both[..16].copy_from_slice(&lane.0);
        both[16..].copy_from_slice(&incarnation.0.to_le_bytes());
        self.name(&both);
    }
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body, names: Vec::new() }
    }

    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn byte(&mut self) -> Result<u8, BadRow> {
        let (byte, rest) = self.rest.split_first().ok_or(BadRow("it ends early"))?;
        self.rest = rest;
        Ok(*byte)
    }

    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], BadRow> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(BadRow("it ends early"))?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn int(&mut self) -> Result<u64, BadRow> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(BadRow("an integer has no end"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, BadRow> {
        u32::try_from(self.int()?).map_err(|_| BadRow("an integer is too large"))
    }

    pub(super) fn near(&mut self, base: u64) -> Result<u64, BadRow> {
        let folded = self.int()?;
        let distance = (folded >> 1) as i64 ^ -((folded & 1) as i64);
        Ok(base.wrapping_add(distance as u64))
    }

    /// How many follow; each has at least one byte.
    pub(super) fn count(&mut self) -> Result<usize, BadRow> {
        let n = self.int()?;
        usize::try_from(n)
            .ok()
            .filter(|n| *n <= self.rest.len())
            .ok_or(BadRow("a count is larger than what follows"))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], BadRow> {
        let length = self.count()?;
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn name(&mut self) -> Result<&'a [u8], BadRow> {
        let number = self.int()?;
        if number == 0 {
            let bytes = self.bytes()?;
            self.names.push(bytes);
            return Ok(bytes);
        }
        let index = usize::try_from(number - 1).map_err(|_| BadRow("a name's number"))?;
        self.names.get(index).copied().ok_or(BadRow("a name's number"))
    }

    pub(super) fn maybe_name(&mut self) -> Result<Option<&'a [u8]>, BadRow> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.name().map(Some),
            _ => Err(BadRow("a mark of what is absent")),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'a str, BadRow> {
        text(self.name()?)
    }

    pub(super) fn maybe_text(&mut self) -> Result<Option<&'a str>, BadRow> {
        self.maybe_name()?.map(text).transpose()
    }

    pub(super) fn lane(&mut self) -> Result<LaneId, BadRow> {
        Ok(LaneId(self.name()?.try_into().map_err(|_| BadRow("a lane's length"))?))
    }

    pub(super) fn owner(&mut self) -> Result<(LaneId, Incarnation), BadRow> {
        let both: [u8; 24] = self.name()?.try_into().map_err(|_| BadRow("an owner's length"))?;
        let (lane, incarnation) = both.split_at(16);
        let lane = LaneId(lane.try_into().expect("sixteen bytes"));
        let incarnation = u64::from_le_bytes(incarnation.try_into().expect("eight bytes"));
        Ok((lane, Incarnation(incarnation)))
    }
}

fn text(bytes: &[u8]) -> Result<&str, BadRow> {
    std::str::from_utf8(bytes).map_err(|_| BadRow("text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_back_and_a_seal_knows_its_place() {
        let mut packer = Packer::default();
        packer.int(u64::MAX);
        packer.near(1_000, 990);
        packer.near(0, u64::MAX);
        packer.name(b"acme.Order");
        packer.name(b"acme.Order");
        packer.maybe_name(None);
        let row = seal("ended", 7, packer.finish());
        let mut unpacker = Unpacker::new(unseal("ended", 7, &row).expect("sealed"));
        assert_eq!(unpacker.int(), Ok(u64::MAX));
        assert_eq!(unpacker.near(1_000), Ok(990));
        assert_eq!(unpacker.near(0), Ok(u64::MAX));
        assert_eq!(unpacker.text(), Ok("acme.Order"));
        assert_eq!(unpacker.text(), Ok("acme.Order"));
        assert_eq!(unpacker.maybe_text(), Ok(None));
        assert!(unpacker.is_done());
        assert!(unseal("ended", 8, &row).is_err());
        assert!(unseal("decided", 7, &row).is_err());
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal("ended", 7, &flipped).is_err(), "bit {bit}");
        }
    }
}
