//! Checkpoints: everything that the log below them says, except payloads and the ids of finished
//! parts. A restart reads the last checkpoint and what was written after it.

use bytes::Bytes;

use crate::catalogue::TypeId;
use crate::core::Core;
use crate::effect::Books;
use crate::ids::{Epoch, Incarnation, LaneId, Loc, ObjectId, RecordNumber};
use crate::names::Name;
use crate::parts::Part;
use crate::planted::{Bug, planted};
use crate::record::{
    BadEntry, PeerSeen, Reader, TransferId, Vocabulary, Writer, decode_locs, encode_locs, name,
    type_name,
};
use crate::time::Wall;
use crate::transfer::{Held, InState, Incoming, Moved};

mod pages;

/// How checkpoints are laid out. Until record format 2 it was layout 1, which is read as before: there
/// each page and each record with ends stood by itself, and positions were always words of bits. In layout
/// 2 all pages were told by their shelves.
pub(crate) const LAYOUT: u8 = 3;

impl Core {
    /// Writes the state as it is after everything written so far.
    pub(crate) fn encode_checkpoint(&mut self) -> Bytes {
        let mut w = Writer::default().with_seed(self.lane.seed());
        w.int(self.generation_reserved());
        w.int(self.generation());
        self.encode_parts(&mut w);
        self.encode_types(&mut w);
        self.encode_pages(&mut w);
        self.encode_times(&mut w);
        self.encode_transfers(&mut w);
        w.into_body()
    }

    /// Takes a checkpoint as the state. The core is new, or is replaced by what the log says.
    pub(crate) fn decode_checkpoint(&mut self, bytes: Bytes, layout: u8) -> Result<(), BadEntry> {
        let vocabulary = Vocabulary::with_seed(self.lane.seed());
        let mut r = Reader::with_vocabulary(bytes, vocabulary);
        if !(1..=LAYOUT).contains(&layout) {
            return Err(r.bad("a layout that this program knows"));
        }
        let counter = r.int()?;
        self.restore_generation(counter);
        let seen = r.int()?;
        self.restore_seen(seen);
        self.decode_parts(&mut r)?;
        self.decode_types(&mut r)?;
        self.decode_pages(&mut r, layout)?;
        self.decode_times(&mut r, layout)?;
        self.decode_transfers(&mut r)?;
        if r.is_done() { Ok(()) } else { Err(r.bad("the end of the checkpoint")) }
    }

    fn encode_parts(&self, w: &mut Writer) {
        let parts: Vec<&Part> = self.parts.iter().collect();
        w.int(parts.len() as u64);
        for part in parts {
            w.int(part.number);
            w.int(part.first.0);
            w.int(part.bytes);
        }
    }

    fn decode_parts(&mut self, r: &mut Reader) -> Result<(), BadEntry> {
        let mut parts = Vec::new();
        for _ in 0..r.count()? {
            parts.push(Part { number: r.int()?, first: RecordNumber(r.int()?), bytes: r.int()? });
        }
        if parts.is_empty() {
            return Err(r.bad("a part"));
        }
        self.parts.restore(parts);
        Ok(())
    }

    /// Types and queues by number, so that pages can name them by number.
    fn encode_types(&self, w: &mut Writer) {
        w.int(self.queues.types_len() as u64);
        for i in 0..self.queues.types_len() {
            let ty = self.queues.ty(TypeId(u32::try_from(i).expect("types are bounded")));
            w.string(ty.name.as_str());
            let b = &ty.books;
            for n in [
                b.pushed,
                b.emitted,
                b.moved_in,
                b.advanced_in,
                b.reclaimed,
                b.finalised,
                b.discarded,
                b.moved_out,
                b.advanced_out,
            ] {
                w.int(n);
            }
        }
        w.int(self.queues.len() as u64);
        for queue in self.queues.iter() {
            w.int(u64::from(queue.ty.0));
            w.int(queue.handled.len() as u64);
            queue.handled.iter().for_each(|n| w.string(n.as_str()));
        }
    }

    fn decode_types(&mut self, r: &mut Reader) -> Result<(), BadEntry> {
        for i in 0..r.count()? {
            let ty = self.queues.intern(&type_name(r)?);
            if ty.0 as usize != i {
                return Err(r.bad("a type once"));
            }
            let mut n = [0; 9];
            for slot in &mut n {
                *slot = r.int()?;
            }
            let [pushed, emitted, moved_in, advanced_in, reclaimed, ..] = n;
            let [.., finalised, discarded, moved_out, advanced_out] = n;
            self.queues.ty_mut(ty).books = Books {
                pushed,
                emitted,
                moved_in,
                advanced_in,
                reclaimed,
                finalised,
                discarded,
                moved_out,
                advanced_out,
            };
        }
        for i in 0..r.count()? {
            let ty = self.type_number(r)?;
            let mut handled: Vec<Name> = Vec::new();
            for _ in 0..r.count()? {
                handled.push(name(r)?);
            }
            if self.queue_for(ty, &handled).0 as usize != i {
                return Err(r.bad("a queue once"));
            }
        }
        Ok(())
    }

    fn type_number(&self, r: &mut Reader) -> Result<TypeId, BadEntry> {
        let ty = r.u32()?;
        if (ty as usize) < self.queues.types_len() {
            Ok(TypeId(ty))
        } else {
            Err(r.bad("a type's number"))
        }
    }

    fn encode_times(&self, w: &mut Writer) {
        let doubted: Vec<_> = self.doubted.iter().map(|record| (self.now.wall, *record)).collect();
        let pages: Vec<_> = self.due_pages.iter().chain(&doubted).collect();
        let in_memory: Vec<(Wall, RecordNumber)> = self
            .memory
            .timed()
            .flat_map(|(_, live)| {
                let times = live.object.not_before.into_iter().chain(live.object.expires_at);
                times.map(|t| (t, live.at.record))
            })
            .collect();
        let looked_at: Vec<_> = self.scans.due().map(|record| (self.now.wall, record)).collect();
        w.int((pages.len() + in_memory.len() + looked_at.len()) as u64);
        for (at, record) in pages.into_iter().chain(&in_memory).chain(&looked_at) {
            w.int(at.0);
            w.int(record.0);
        }
        let (bytes, count) = self.catalogue.packed_ends;
        w.int(bytes);
        w.int(count);
        w.int(self.remembered.ends_len() as u64);
        let mut before = (RecordNumber(0), Wall(0));
        for (record, at, count) in self.remembered.ends() {
            w.change(before.0.0, record.0);
            w.change(before.1.0, at.0);
            w.int(count);
            before = (record, at);
        }
        let begun = self
            .leases
            .sorted()
            .into_iter()
            .filter(|(_, l)| l.begun)
            .map(|(_, l)| self.memory.get(l.slot).at);
        let blamed: Vec<Loc> = self.blamed.iter().copied().chain(begun).collect();
        encode_locs(w, &blamed);
    }

    fn decode_times(&mut self, r: &mut Reader, layout: u8) -> Result<(), BadEntry> {
        for _ in 0..r.count()? {
            self.due_pages.insert((Wall(r.int()?), RecordNumber(r.int()?)));
        }
        if layout > 1 {
            self.catalogue.packed_ends = (r.int()?, r.int()?);
        }
        let mut before = (0, 0);
        for _ in 0..r.count()? {
            let next = match layout {
                1 => (r.int()?, r.int()?),
                _ => (r.change(before.0)?, r.change(before.1)?),
            };
            self.remembered.restore_ends(Wall(next.1), RecordNumber(next.0), r.int()?);
            before = next;
        }
        self.blamed = crate::recording::SlicedSet::default();
        self.blamed.extend(decode_locs(r)?);
        Ok(())
    }

    fn encode_transfers(&self, w: &mut Writer) {
        let t = &self.transfers;
        let none = std::collections::BTreeMap::new();
        let kept = if planted(Bug::CheckpointForgetsMoves) { &none } else { &t.moved };
        w.int(kept.len() as u64);
        for (id, moved) in kept {
            id.encode(w);
            w.string(moved.receiver.as_str());
            encode_locs(w, &moved.shadows.iter().copied().collect::<Vec<_>>());
            w.int(moved.taken.map_or(0, |at| at.0 + 1));
        }
        w.int(t.incoming.len() as u64);
        for (id, incoming) in &t.incoming {
            id.encode(w);
            let taken = matches!(incoming.state, InState::Taken | InState::Releasing(_));
            w.byte(u8::from(taken));
            let items: &[Held] = if taken { &[] } else { &incoming.items };
            w.int(items.len() as u64);
            for held in items {
                w.fixed(&held.id.0);
                w.loc(held.at);
                w.loc(held.place);
                w.int(u64::from(held.queue.0));
                encode_locs(w, held.before.as_slice());
            }
        }
        w.int(t.forgotten.len() as u64);
        for ((lane, epoch, incarnation), through) in &t.forgotten {
            w.fixed(&lane.0);
            w.int(epoch.0);
            w.fixed(&incarnation.0.to_le_bytes());
            w.int(*through);
        }
        w.int(t.verdicts.len() as u64);
        t.verdicts.iter().for_each(|lane| w.fixed(&lane.0));
        w.int(self.mesh.peers.len() as u64);
        for peer in self.mesh.peers.by_age() {
            w.fixed(&peer.lane.0);
            w.string(peer.name.as_str());
            w.int(peer.epoch.0);
            w.int(peer.number.0);
        }
        self.encode_estates(w);
    }

    /// What is held of estates: delayed or parked. A checkpoint without any ends before.
    fn encode_estates(&self, w: &mut Writer) {
        let open = self.transfers.incoming.values();
        let open = open.filter(|i| matches!(i.state, InState::Held | InState::Holding(_)));
        let items = open.flat_map(|i| &i.items).filter(|h| h.parked || h.due.is_some());
        let items: Vec<&Held> = items.collect();
        if items.is_empty() {
            return;
        }
        w.int(items.len() as u64);
        for held in items {
            w.loc(held.at);
            w.byte(u8::from(held.parked));
            w.int(held.due.map_or(0, |at| at.0 + 1));
        }
    }

    fn decode_estates(&mut self, r: &mut Reader) -> Result<(), BadEntry> {
        if r.is_done() {
            return Ok(());
        }
        for _ in 0..r.count()? {
            let (at, parked) = (r.loc()?, r.byte()? == 1);
            let due = r.int()?.checked_sub(1).map(Wall);
            let mut held = self.transfers.incoming.values_mut().flat_map(|i| &mut i.items);
            let Some(held) = held.find(|h| h.at == at) else {
                return Err(r.bad("the place of something held"));
            };
            (held.parked, held.due) = (parked, due);
        }
        Ok(())
    }

    fn decode_transfers(&mut self, r: &mut Reader) -> Result<(), BadEntry> {
        for _ in 0..r.count()? {
            let id = TransferId::decode(r)?;
            let receiver = name(r)?;
            let shadows = decode_locs(r)?.into_iter().collect();
            let taken = r.int()?.checked_sub(1).map(Wall);
            self.transfers.insert_moved(id, Moved { receiver, shadows, taken });
        }
        for _ in 0..r.count()? {
            let id = TransferId::decode(r)?;
            let state = if r.byte()? == 1 { InState::Taken } else { InState::Held };
            let mut items = Vec::new();
            for _ in 0..r.count()? {
                let object = ObjectId(r.fixed()?);
                let (at, place) = (r.loc()?, r.loc()?);
                let queue = crate::catalogue::QueueId(r.u32()?);
                if queue.0 as usize >= self.queues.len() {
                    return Err(r.bad("a queue's number"));
                }
                let ty = self.queues.get(queue).ty;
                self.queues.ty_mut(ty).held += 1;
                let before = decode_locs(r)?.first().copied();
                // Whether it is delayed or parked stands at the end.
                items.push(Held { id: object, at, place, queue, before, due: None, parked: false });
            }
            self.transfers.incoming.insert(id, Incoming { state, items, key: None });
        }
        for _ in 0..r.count()? {
            let (lane, epoch) = (LaneId(r.fixed()?), Epoch(r.int()?));
            let incarnation = Incarnation(u64::from_le_bytes(r.fixed()?));
            self.transfers.forgotten.insert((lane, epoch, incarnation), r.int()?);
        }
        for _ in 0..r.count()? {
            self.transfers.verdicts.insert(LaneId(r.fixed()?));
        }
        for _ in 0..r.count()? {
            let lane = LaneId(r.fixed()?);
            let peer = PeerSeen {
                lane,
                name: name(r)?,
                epoch: Epoch(r.int()?),
                number: RecordNumber(r.int()?),
            };
            self.mesh.peers.insert(peer);
        }
        self.decode_estates(r)
    }
}
