//! Which strings a record, or a row of the history, has named so far.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::write_int;

/// With no more strings than these, looking at each is faster than a table. Most records name fewer.
const FEW: usize = 12;

/// The strings of a body, in the order of their first use. They stand in the body itself.
#[derive(Debug, Default)]
pub struct Words {
    /// Start and length of each in the body.
    places: Vec<(u32, u32)>,
    /// Their numbers by hash, once there are more than [`FEW`].
    numbers: HashTable<u32>,
    /// The one of them that was found last. The node's own name stands in every entry, and between two of
    /// many types.
    found: u32,
    hashes: FixedState,
}

/// A string that has not been named, with its hash if that was needed to see it.
#[derive(Debug, PartialEq, Eq)]
struct Unnamed(Option<u64>);

impl Words {
    /// None yet. Whoever chooses strings and does not know the seed cannot choose their hashes.
    pub(crate) fn with_seed(seed: u64) -> Self {
        Self { hashes: FixedState::with_seed(seed), ..Self::default() }
    }

    /// The strings at these places of a body. `None` if a place is not in it, or not behind the one
    /// before it.
    pub(super) fn of(body: &[u8], places: Vec<(u32, u32)>) -> Option<Self> {
        let (mut words, mut behind) = (Self::default(), 0);
        for (start, length) in places {
            let end = start.checked_add(length).filter(|_| start >= behind)?;
            words.add(body.get(..end as usize)?, length as usize, Unnamed(None));
            behind = end;
        }
        Some(words)
    }

    /// Where each stands, in the order of their numbers.
    pub(super) fn places(&self) -> &[(u32, u32)] {
        &self.places
    }

    /// Writes a string behind a body that begins at `from` and names the others: one more than its number, or,
    /// the first time, zero and the string with its length in front.
    pub fn write(&mut self, out: &mut Vec<u8>, from: usize, text: &[u8]) {
        match self.find(&out[from..], text) {
            Ok(number) => write_int(out, u64::from(number) + 1),
            Err(unnamed) => {
                write_int(out, 0);
                write_int(out, text.len() as u64);
                out.extend_from_slice(text);
                self.add(&out[from..], text.len(), unnamed);
            }
        }
    }

    /// The number of a string that was named before, from 0. The body is the one that the others
    /// were added with.
    fn find(&mut self, body: &[u8], text: &[u8]) -> Result<u32, Unnamed> {
        let is_it = |place: &(u32, u32)| word(body, *place) == text;
        if self.places.len() > FEW {
            if is_it(&self.places[self.found as usize]) {
                return Ok(self.found);
            }
            let hash = self.hashes.hash_one(text);
            let is_number = |n: &u32| is_it(&self.places[*n as usize]);
            self.found = *self.numbers.find(hash, is_number).ok_or(Unnamed(Some(hash)))?;
            return Ok(self.found);
        }
        let at = self.places.iter().position(is_it);
        at.and_then(|at| u32::try_from(at).ok()).ok_or(Unnamed(None))
    }

    /// The last bytes of the body are a string that it has not named before: it was looked for.
    fn add(&mut self, body: &[u8], length: usize, unnamed: Unnamed) {
        let int = |n| u32::try_from(n).expect("records are bounded");
        self.places.push((int(body.len() - length), int(length)));
        let unnumbered = match self.places.len() {
            0..=FEW => return,
            n if n == FEW + 1 => 0,
            n => n - 1,
        };
        let hash_of = |place: (u32, u32)| self.hashes.hash_one(word(body, place));
        for number in unnumbered..self.places.len() {
            let places = &self.places;
            let hash = unnamed.0.unwrap_or_else(|| hash_of(places[number]));
            let of_number = |n: &u32| hash_of(places[*n as usize]);
            self.numbers.insert_unique(hash, int(number), of_number);
        }
    }

    /// Forgets all of them, for another body, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.numbers.clear();
        self.found = 0;
    }
}

fn word(body: &[u8], (start, length): (u32, u32)) -> &[u8] {
    &body[start as usize..(start + length) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_strings_keep_their_numbers() {
        let (mut body, mut words) = (Vec::new(), Words::default());
        let text = |n: usize| format!("{}{n}", "type".repeat(n % 3));
        let number = |n: usize| Ok(u32::try_from(n).expect("few"));
        // The second time with the memory of the first.
        for n in (0..3 * FEW).chain(0..3 * FEW) {
            if n == 0 {
                body.clear();
                words.clear();
            }
            for known in 0..n {
                let found = words.find(&body, text(known).as_bytes());
                assert_eq!(found, number(known), "{n} are known");
            }
            let unnamed = words.find(&body, text(n).as_bytes()).expect_err("it is new");
            body.extend_from_slice(b"something between");
            body.extend_from_slice(text(n).as_bytes());
            words.add(&body, text(n).len(), unnamed);
            let mut again = Words::of(&body, words.places().to_vec()).expect("all are in the body");
            assert_eq!(again.find(&body, text(n).as_bytes()), number(n));
        }
        let behind = vec![(u32::try_from(body.len()).expect("short"), 1)];
        assert!(Words::of(&body, behind).is_none());
        assert!(Words::of(&body, vec![(4, 4), (2, 4)]).is_none(), "they overlap");
    }
}
