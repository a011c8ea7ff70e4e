//! The strings of the records that one reader reads.

use std::hash::BuildHasher;
use std::str::Utf8Error;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::names::{Name, TypeName};

/// With more strings than these a reader begins the next record with none.
const WORDS_MAX: usize = 16_384;

/// The same for the bytes of them: reasons may be long.
const BYTES_MAX: usize = 4 << 20;

/// Strings that records have named. Whoever reads many records keeps them from one to the next: a lane's
/// records name the same types and nodes again and again, and each is checked and kept once.
#[derive(Debug, Default)]
pub struct Vocabulary {
    words: Vec<Word>,
    /// Their numbers by hash.
    numbers: HashTable<u32>,
    hashes: FixedState,
    bytes: usize,
}

/// A string, with what it has been found to be.
#[derive(Debug)]
pub(in crate::record) struct Word {
    pub(in crate::record) text: Arc<str>,
    pub(in crate::record) ty: Option<TypeName>,
    pub(in crate::record) name: Option<Name>,
}

impl Vocabulary {
    /// None yet. Whoever chooses strings and does not know the seed cannot choose their hashes.
    pub fn with_seed(seed: u64) -> Self {
        Self { hashes: FixedState::with_seed(seed), ..Self::default() }
    }

    /// A record begins. Numbers of strings before it mean nothing any more.
    pub(super) fn begin(&mut self) {
        if self.words.len() > WORDS_MAX || self.bytes > BYTES_MAX {
            self.words.clear();
            self.numbers.clear();
            self.bytes = 0;
        }
    }

    /// The number of a string, from 0.
    pub(super) fn number_of(&mut self, text: &[u8]) -> Result<u32, Utf8Error> {
        let hash = |text: &[u8]| self.hashes.hash_one(text);
        let is_it = |n: &u32| self.words[*n as usize].text.as_bytes() == text;
        if let Some(number) = self.numbers.find(hash(text), is_it) {
            return Ok(*number);
        }
        let word = Word { text: std::str::from_utf8(text)?.into(), ty: None, name: None };
        let number = u32::try_from(self.words.len()).expect("records are bounded");
        self.words.push(word);
        self.bytes += text.len();
        let of_number = |n: &u32| hash(self.words[*n as usize].text.as_bytes());
        self.numbers.insert_unique(hash(text), number, of_number);
        Ok(number)
    }

    /// The string of a number.
    pub(super) fn word(&mut self, number: u32) -> &mut Word {
        &mut self.words[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_keeps_its_number_until_there_are_too_many() {
        let mut vocabulary = Vocabulary::with_seed(7);
        assert_eq!(vocabulary.number_of(b"acme.Order"), Ok(0));
        assert_eq!(vocabulary.number_of(b"billing"), Ok(1));
        assert!(vocabulary.number_of(b"\xff").is_err());
        vocabulary.begin();
        assert_eq!(vocabulary.number_of(b"acme.Order"), Ok(0));
        assert_eq!(&*vocabulary.word(1).text, "billing");

        let long = "x".repeat(BYTES_MAX);
        assert_eq!(vocabulary.number_of(long.as_bytes()), Ok(2));
        assert_eq!(vocabulary.number_of(b"billing"), Ok(1), "within a record numbers stay");
        vocabulary.begin();
        assert_eq!(vocabulary.number_of(b"billing"), Ok(0));
        for n in 0..=WORDS_MAX {
            vocabulary.number_of(n.to_string().as_bytes()).expect("UTF-8");
        }
        vocabulary.begin();
        assert_eq!(vocabulary.number_of(b"acme.Order"), Ok(0));
    }
}
