//! The strings of the records that one reader reads.

use std::str::Utf8Error;
use std::sync::Arc;

use crate::names::{Name, TypeName};
use crate::recording::{Index, index};

/// With more strings than these a reader begins the next record with none.
const WORDS_MAX: usize = 16_384;

/// The same for the bytes of them: reasons may be long.
const BYTES_MAX: usize = 4 << 20;

/// Strings that records have named. Whoever reads many records keeps them from one to the next: a lane's
/// records name the same types and nodes again and again, and each is checked and kept once.
#[derive(Debug, Default)]
pub struct Vocabulary {
    words: Index<Arc<str>, Meaning>,
    bytes: usize,
}

/// What a string has been found to be.
#[derive(Debug, Default)]
pub(in crate::record) struct Meaning {
    pub(in crate::record) ty: Option<TypeName>,
    pub(in crate::record) name: Option<Name>,
}

impl Vocabulary {
    /// None yet. Whoever chooses strings and does not know the seed cannot choose their hashes.
    pub fn with_seed(seed: u64) -> Self {
        Self { words: index(seed), bytes: 0 }
    }

    /// A record begins. Numbers of strings before it mean nothing any more.
    pub(super) fn begin(&mut self) {
        if self.words.len() > WORDS_MAX || self.bytes > BYTES_MAX {
            self.words.clear();
            self.bytes = 0;
        }
    }

    /// The number of a string, from 0.
    pub(super) fn number_of(&mut self, text: &[u8]) -> Result<usize, Utf8Error> {
        let text = std::str::from_utf8(text)?;
        if let Some(number) = self.words.get_index_of(text) {
            return Ok(number);
        }
        self.bytes += text.len();
        Ok(self.words.insert_full(text.into(), Meaning::default()).0)
    }

    /// The string of a number, and what it is.
    pub(super) fn word(&mut self, number: usize) -> (&Arc<str>, &mut Meaning) {
        self.words.get_index_mut(number).expect("numbers are of this vocabulary")
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
        assert_eq!(&**vocabulary.word(1).0, "billing");

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
