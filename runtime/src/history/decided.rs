//! A block of decisions: many to a row, each stored once however many objects it was taken for.

use dpc_core::Wall;
use dpc_core::decision::{Candidate, Decision, Refused, Step};
use dpc_core::ids::{LaneId, Loc, RecordNumber};
use dpc_core::object::Generation;

use super::pack::{BadRow, Packer, Unpacker};
use super::rows::TraceLine;

/// A decision with its place, as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) lane: LaneId,
    pub(super) loc: Loc,
    pub(super) decision: Decision,
}

impl Decided {
    /// As a line of the trace of an object that had so many handoffs behind it.
    pub(super) fn line(self, moves: u32) -> TraceLine {
        let Self { lane, loc, decision } = self;
        TraceLine {
            at: decision.at,
            lane,
            loc,
            moves,
            step: decision.step,
            chosen: decision.chosen,
            generation: decision.generation,
            candidates: decision.candidates,
        }
    }
}

/// A block that is being filled.
#[derive(Debug, Default)]
pub(super) struct DecidedBlock {
    packer: Packer,
    items: u32,
    number: u64,
    at: u64,
}

impl DecidedBlock {
    /// Adds a decision and returns which item of the block it is.
    pub(super) fn push(&mut self, lane: LaneId, loc: Loc, decision: &Decision) -> u32 {
        let p = &mut self.packer;
        p.lane(lane);
        p.near(self.number, loc.record.0);
        p.int(u64::from(loc.position));
        p.near(self.at, decision.at.0);
        p.byte(decision.step.code());
        p.maybe_name(decision.chosen.as_deref().map(str::as_bytes));
        match &decision.generation {
            None => p.byte(0),
            Some(generation) => {
                p.byte(1);
                p.int(generation.counter);
                p.owner(generation.lane, generation.incarnation);
            }
        }
        p.int(decision.candidates.len() as u64);
        for candidate in &decision.candidates {
            p.name(candidate.who.as_bytes());
            p.byte(candidate.refused.code());
        }
        self.number = loc.record.0;
        self.at = decision.at.0;
        self.items += 1;
        self.items - 1
    }

    pub(super) fn len(&self) -> usize {
        self.packer.len()
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.packer.finish()
    }
}

/// Reads a block.
pub(super) fn read(body: &[u8]) -> Result<Vec<Decided>, BadRow> {
    let mut u = Unpacker::new(body);
    let (mut number, mut at) = (0, 0);
    let mut items = Vec::new();
    while !u.is_done() {
        let lane = u.lane()?;
        number = u.near(number)?;
        let position = u.u32()?;
        at = u.near(at)?;
        let step = Step::from_code(u.byte()?).ok_or(BadRow("an unknown step"))?;
        let chosen = u.maybe_text()?.map(Into::into);
        let generation = match u.byte()? {
            0 => None,
            _ => {
                let counter = u.int()?;
                let (lane, incarnation) = u.owner()?;
                Some(Generation { counter, lane, incarnation })
            }
        };
        let mut candidates = Vec::new();
        for _ in 0..u.count()? {
            let who = u.text()?.into();
            let refused = Refused::from_code(u.byte()?).ok_or(BadRow("an unknown refusal"))?;
            candidates.push(Candidate { who, refused });
        }
        let loc = Loc { record: RecordNumber(number), position };
        let decision = Decision { at: Wall(at), step, chosen, generation, candidates };
        items.push(Decided { lane, loc, decision });
    }
    Ok(items)
}
