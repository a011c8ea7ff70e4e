//! The words of a step.

use std::collections::VecDeque;

use dpc_core::ids::ObjectId;
use dpc_core::names::TypeName;
use dpc_core::time::Span;

use crate::world::{Mode, object_id};

/// The words of one step, taken from the front.
pub(super) struct Words {
    pub(super) left: VecDeque<String>,
}

impl Words {
    pub(super) fn new(step: &str) -> Self {
        let mut left = VecDeque::new();
        for (i, part) in step.split('"').enumerate() {
            if i % 2 == 1 {
                left.push_back(part.to_owned());
            } else {
                left.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        Self { left }
    }

    pub(super) fn maybe(&mut self) -> Option<String> {
        self.left.pop_front()
    }

    pub(super) fn next(&mut self, what: &str) -> Result<String, String> {
        self.maybe().ok_or_else(|| format!("{what} is missing"))
    }

    pub(super) fn number(&mut self, what: &str) -> Result<u64, String> {
        let word = self.next(what)?;
        word.parse().map_err(|_| format!("{what} is a number, not {word}"))
    }

    pub(super) fn id(&mut self) -> Result<ObjectId, String> {
        let word = self.next("an id")?;
        let n = u64::from_str_radix(&word, 16).map_err(|_| format!("{word} is not an id"))?;
        Ok(object_id(n))
    }

    pub(super) fn span(&mut self) -> Result<Span, String> {
        let word = self.next("a time")?;
        parse_span(&word).ok_or_else(|| format!("{word} is not a time like 5s or 20ms"))
    }

    /// Whether the next word is this one; it is taken then.
    pub(super) fn says(&mut self, word: &str) -> bool {
        let yes = self.left.front().is_some_and(|w| w == word);
        if yes {
            self.left.pop_front();
        }
        yes
    }

    /// Takes a word that has to come.
    pub(super) fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.says(word) { Ok(()) } else { Err(format!("`{word}` is missing")) }
    }

    pub(super) fn processor(&mut self) -> Result<String, String> {
        if self.says("as") { self.next("a processor") } else { Ok("default".into()) }
    }

    pub(super) fn mode(&mut self) -> Result<Mode, String> {
        if !self.says("then") {
            return Ok(Mode::Finalise);
        }
        let word = self.next("a mode")?;
        let mut ty = || {
            let ty = self.next("a type")?;
            TypeName::from_type_url(&ty).map_err(|_| format!("{ty} is not a type"))
        };
        Ok(match word.as_str() {
            "advance" => Mode::Advance(ty()?),
            "emit" => Mode::Emit(ty()?),
            _ => plain_mode(&word).ok_or_else(|| format!("{word} is not a mode"))?,
        })
    }

    pub(super) fn end(mut self) -> Result<(), String> {
        self.maybe().map_or(Ok(()), |word| Err(format!("{word} is one word too many")))
    }
}

pub(super) fn plain_mode(word: &str) -> Option<Mode> {
    Some(match word {
        "finalise" => Mode::Finalise,
        "hold" => Mode::Hold,
        "begin" => Mode::Begin,
        "release" => Mode::Release,
        "fail" => Mode::Fail,
        "reject" => Mode::Reject,
        "handle" => Mode::Handle,
        _ => return None,
    })
}

pub(super) fn parse_span(word: &str) -> Option<Span> {
    let digits = word.find(|c: char| !c.is_ascii_digit())?;
    let n: u64 = word[..digits].parse().ok()?;
    match &word[digits..] {
        "ms" => Some(Span::millis(n)),
        "s" => Some(Span::secs(n)),
        "min" => Some(Span::secs(n * 60)),
        "h" => Some(Span::secs(n * 3_600)),
        _ => None,
    }
}
