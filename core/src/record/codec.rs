//! The bytes inside a record: variable-length integers, and strings named once per record.
//!
//! A record is readable by itself: the first use of a string writes it out and numbers it, later
//! uses write the number. So nobody needs another record to understand this one.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::beside::Beside;
use super::end::Before;
use super::frame::{HASH_BYTES, HEADER_BYTES, Header, seal_in_place};
use crate::ids::{Loc, RecordNumber};
use crate::recording::elide;

mod vocabulary;
mod words;

/// Room behind what clients carry: for most of what an entry and a record end with.
const BEHIND_BYTES: usize = 512;

pub(super) use vocabulary::Meaning;
pub use vocabulary::Vocabulary;
pub use words::Words;

/// Writes the body of one record.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Written")]
pub struct Writer {
    /// Room for the record's header, then the body: a record is sealed where it was written.
    out: Vec<u8>,
    /// Where what clients carry stands in it: start and length, in order.
    carried: Vec<(u32, u32)>,
    strings: Words,
    /// The last end that was written: the next one says only what differs.
    pub(super) end: Option<Box<Before>>,
    pub(super) beside: Beside,
}

/// The body of a record as a recording keeps it.
#[derive(Deserialize)]
struct Written {
    kept: Bytes,
    carried: Vec<(u32, u32)>,
    /// Where its strings stand in the whole body.
    strings: Vec<(u32, u32)>,
    end: Option<Box<Before>>,
    beside: Beside,
}

/// Reads the body of one record.
#[derive(Debug)]
pub struct Reader {
    body: Bytes,
    at: usize,
    /// Its strings, in the order of their first use, by their numbers in the vocabulary.
    strings: Vec<usize>,
    vocabulary: Vocabulary,
    /// The last end that was read.
    pub(super) end: Option<Box<Before>>,
    pub(super) beside: Beside,
    /// Nothing in the entry that is read is told beside what stands before it.
    pub(super) alone: bool,
}

/// Bytes that do not decode. The frame's hash was right, so this is a bug or a newer format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry at byte {at} does not decode: {what}")]
pub struct BadEntry {
    /// Where in the body.
    pub at: usize,
    /// What was expected.
    pub what: &'static str,
}

/// Writes an integer as LEB128: in one to ten bytes, seven bits in each, the lowest first.
#[inline]
pub fn write_int(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

impl Serialize for Writer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let kept = Bytes::from(elide::without(self.as_slice(), &self.carried).concat());
        (kept, &self.carried, self.strings.places(), &self.end, &self.beside).serialize(to)
    }
}

impl TryFrom<Written> for Writer {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let body = elide::with_zeros(&written.kept, &written.carried);
        let body = body.ok_or("ranges that overlap or lie behind the end")?;
        let strings = Words::of(&body, written.strings).ok_or("strings behind the end")?;
        let mut writer = Self::with_capacity(body.len());
        writer.fixed(&body);
        let Written { carried, end, beside, .. } = written;
        Ok(Self { carried, strings, end, beside, ..writer })
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Writer {
    /// A writer that takes so many bytes before it has to grow.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(HEADER_BYTES + bytes + HASH_BYTES);
        out.resize(HEADER_BYTES, 0);
        Self {
            out,
            carried: Vec::new(),
            strings: Words::default(),
            end: None,
            beside: Beside::default(),
        }
    }

    /// The same, before anything is written, with strings found by hashes of this seed.
    pub(crate) fn with_seed(self, seed: u64) -> Self {
        self.with_words(Words::with_seed(seed))
    }

    /// The same, before anything is written, with the table of strings of another one.
    pub(crate) fn with_words(self, mut words: Words) -> Self {
        words.clear();
        Self { strings: words, ..self }
    }

    /// Its table of strings, once all is written.
    pub(crate) fn take_words(&mut self) -> Words {
        std::mem::take(&mut self.strings)
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len() - HEADER_BYTES
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.out[HEADER_BYTES..]
    }

    /// The bytes, without the room in front of them.
    pub(crate) fn into_body(self) -> Bytes {
        Bytes::from(self.out).slice(HEADER_BYTES..)
    }

    /// The record that they are, with this header, and where in it stands what clients carry. It
    /// must be below the hard limit.
    pub(crate) fn seal(self, header: &Header) -> (Bytes, Vec<(u32, u32)>) {
        let front = u32::try_from(HEADER_BYTES).expect("a header is short");
        let carried = self.carried.iter().map(|(start, length)| (start + front, *length)).collect();
        (seal_in_place(header, self.out), carried)
    }

    pub(super) fn beside_and_out(&mut self) -> (&mut Beside, &mut Vec<u8>) {
        (&mut self.beside, &mut self.out)
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    pub(crate) fn fixed(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// What clients carry: a recording leaves it out.
    pub(crate) fn carried(&mut self, bytes: &[u8]) {
        // A large payload is not copied once more for the few bytes behind it.
        self.out.reserve(bytes.len() + BEHIND_BYTES);
        self.bytes(bytes);
        if !bytes.is_empty() {
            let range = (self.len() - bytes.len(), bytes.len());
            let int = |n| u32::try_from(n).expect("records are bounded");
            self.carried.push((int(range.0), int(range.1)));
        }
    }

    /// See [`write_int`].
    pub(crate) fn int(&mut self, n: u64) {
        write_int(&mut self.out, n);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.int(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.strings.write(&mut self.out, HEADER_BYTES, text.as_bytes());
    }

    pub(crate) fn loc(&mut self, loc: Loc) {
        self.int(loc.record.0);
        self.int(u64::from(loc.position));
    }
}

impl Reader {
    /// Starts at the first entry of a body.
    pub fn new(body: Bytes) -> Self {
        Self::with_vocabulary(body, Vocabulary::default())
    }

    /// The same, with strings that earlier records have named.
    pub(crate) fn with_vocabulary(body: Bytes, mut vocabulary: Vocabulary) -> Self {
        vocabulary.begin();
        let (strings, beside) = (Vec::new(), Beside::default());
        Self { body, at: 0, strings, vocabulary, end: None, beside, alone: false }
    }

    /// The strings that this record and those before it have named.
    pub(super) fn into_vocabulary(self) -> Vocabulary {
        self.vocabulary
    }

    /// Whether all has been read.
    pub fn is_done(&self) -> bool {
        self.at == self.body.len()
    }

    pub(crate) fn bad(&self, what: &'static str) -> BadEntry {
        BadEntry { at: self.at, what }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, BadEntry> {
        let byte = *self.body.get(self.at).ok_or_else(|| self.bad("a byte"))?;
        self.at += 1;
        Ok(byte)
    }

    /// Goes over the next byte if it is this one.
    pub(crate) fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.body.get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    pub(super) fn beside_and_rest(&mut self) -> (&mut Beside, &[u8]) {
        (&mut self.beside, &self.body[self.at..])
    }

    /// Goes over all but so many bytes of what is left.
    pub(super) fn leave(&mut self, bytes: usize) {
        self.at = self.body.len() - bytes;
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], BadEntry> {
        let bytes = self.body.get(self.at..self.at + N).ok_or_else(|| self.bad("fixed bytes"))?;
        self.at += N;
        Ok(bytes.try_into().expect("N bytes"))
    }

    /// As many bytes as there is room for.
    pub(super) fn fill(&mut self, room: &mut [u8]) -> Result<(), BadEntry> {
        let bytes = self.body.get(self.at..self.at + room.len());
        room.copy_from_slice(bytes.ok_or_else(|| self.bad("fixed bytes"))?);
        self.at += room.len();
        Ok(())
    }

    pub(crate) fn int(&mut self) -> Result<u64, BadEntry> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(self.bad("an integer"))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BadEntry> {
        u32::try_from(self.int()?).map_err(|_| self.bad("a 32-bit integer"))
    }

    /// A length that what is left can hold.
    pub(crate) fn count(&mut self) -> Result<usize, BadEntry> {
        let n = self.int()?;
        let left = self.body.len() - self.at;
        usize::try_from(n).ok().filter(|n| *n <= left).ok_or_else(|| self.bad("a count"))
    }

    /// Shares the record's memory.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, BadEntry> {
        let length = self.count()?;
        let bytes = self.body.slice(self.at..self.at + length);
        self.at += length;
        Ok(bytes)
    }

    /// Leaves out bytes that nobody needs, with their length before them.
    pub(super) fn skip_bytes(&mut self) -> Result<(), BadEntry> {
        self.at += self.count()?;
        Ok(())
    }

    /// Leaves out a fixed number of bytes.
    pub(super) fn skip(&mut self, bytes: usize) -> Result<(), BadEntry> {
        if self.body.len() - self.at < bytes {
            return Err(self.bad("fixed bytes"));
        }
        self.at += bytes;
        Ok(())
    }

    pub(crate) fn string(&mut self) -> Result<Arc<str>, BadEntry> {
        Ok(Arc::clone(self.word()?.0))
    }

    pub(super) fn word(&mut self) -> Result<(&Arc<str>, &mut Meaning), BadEntry> {
        let number = self.int()?;
        let number = if number == 0 {
            let length = self.count()?;
            let text = &self.body[self.at..self.at + length];
            let number = self.vocabulary.number_of(text).map_err(|_| self.bad("UTF-8"))?;
            self.at += length;
            self.strings.push(number);
            number
        } else {
            let index = usize::try_from(number - 1).ok();
            let number = index.and_then(|index| self.strings.get(index).copied());
            number.ok_or_else(|| self.bad("a string's number"))?
        };
        Ok(self.vocabulary.word(number))
    }

    pub(crate) fn loc(&mut self) -> Result<Loc, BadEntry> {
        Ok(Loc { record: RecordNumber(self.int()?), position: self.u32()? })
    }
}
