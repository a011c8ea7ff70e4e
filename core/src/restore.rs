//! Recovery: the state is what the log says. Every entry is applied in order, from the last
//! checkpoint on; nothing is decided and nothing is sent until [`Core::start`].

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};

use crate::catalogue::{Shelf, TypeId};
use crate::core::Core;
use crate::effect::Effects;
use crate::ids::{Loc, ObjectId, RecordNumber};
use crate::object::Object;
use crate::record::{BadRecord, End, Ending, Entry, Header, How, Standing, TransferId};
use crate::remember::PartInfo;
use crate::store::StoreError;
use crate::time::{Now, Wall};
use crate::transfer::{Held, InState, Incoming, Moved};

/// Pieces of a checkpoint that are being put together.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    first: RecordNumber,
    bytes: BytesMut,
    next: u32,
    /// Nothing came before: the checkpoint is the state.
    is_start: bool,
}

impl Core {
    /// Takes a finished part of the id index back. Parts come in order, before any record.
    ///
    /// A part that the index has lost is not a loss of the log: the edge reads the part's records
    /// and gives their ids by [`Core::restore_ids`] after the last record.
    pub fn restore_part(&mut self, part: PartInfo) {
        assert!(!self.started, "recovery comes before the start");
        self.remembered.restore_part(part);
    }

    /// Takes the ids of a finished part that the index has lost, as [`crate::record::mentions`]
    /// finds them in the part's records. The index gets them again with the first effects.
    ///
    /// Of several mentions of an id only those count where something stands yet: the last one may be
    /// of what was held and dropped, and would hide the end before it.
    pub fn restore_ids(&mut self, part: u64, end: RecordNumber, mut ids: Vec<(ObjectId, Loc)>) {
        assert!(!self.started, "recovery comes before the start");
        ids.retain(|(_, at)| self.catalogue.shelf_of(*at).is_some());
        if let Some(ids) = self.remembered.rebuild_part(part, end, ids) {
            self.later.push(crate::effect::Effect::IndexPart(Box::new(ids)));
        }
    }

    /// Takes a finished part whose ids are read only when somebody asks for one of them: until then
    /// every id may be in it. The edge answers [`crate::Effect::LookUp`] of this part after it has read
    /// the part's records; of the mentions of an id there only those count that stand then
    /// ([`Core::is_needed`]).
    pub fn restore_unread(&mut self, part: u64) {
        assert!(!self.started, "recovery comes before the start");
        self.remembered.restore_unread(part);
    }

    /// Whether something stands at a place in the log: an object, the copy of one that moved on, or a
    /// remembered end.
    pub fn is_needed(&self, at: Loc) -> bool {
        self.catalogue.shelf_of(at).is_some()
    }

    /// Parts of the log that the id index should hold, with their first record and the first one
    /// behind them. Known after the last record has been restored.
    pub fn finished_parts(&self) -> Vec<(u64, RecordNumber, RecordNumber)> {
        let parts: Vec<_> = self.parts.iter().collect();
        parts.windows(2).map(|w| (w[0].number, w[0].first, w[1].first)).collect()
    }

    /// Applies the next record. The first one is where the last checkpoint starts, or the first
    /// that is kept if there has been no checkpoint.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] names the record that is damaged, of another lane, out of order, or
    /// does not fit what came before. The core is unusable then.
    pub fn restore(&mut self, number: RecordNumber, record: &Bytes) -> Result<(), StoreError> {
        assert!(!self.started, "recovery comes before the start");
        let damaged =
            |what: String| StoreError::Damaged { place: format!("record {number}"), what };
        let (header, entries) = crate::record::entries_with(record, &mut self.vocabulary)
            .map_err(|e: BadRecord| damaged(e.to_string()))?;
        if header.lane != self.lane.id || header.number != number {
            return Err(damaged(format!("it is record {} of lane {}", header.number, header.lane)));
        }
        self.now.wall = self.now.wall.max(header.wall);
        let count = header.entries;
        for (at, entry) in entries {
            self.apply(at, entry, &header).map_err(damaged)?;
        }
        let bytes = u32::try_from(record.len()).unwrap_or(u32::MAX);
        self.catalogue.close(number, header.wall, bytes, count);
        self.catalogue.sweep();
        self.parts.grow(u64::from(bytes));
        self.lane.set_checkpoint(header.checkpoint.max(self.lane.checkpoint()));
        Ok(())
    }

    fn apply(&mut self, at: Loc, entry: Entry, header: &Header) -> Result<(), String> {
        match entry {
            Entry::Object { how, was, place, standing, object } => {
                let place = place.unwrap_or(at);
                self.apply_object(at, how, was, place, &standing, *object)?;
            }
            Entry::End(end) => self.apply_end(at, &end)?,
            Entry::Moved { transfer, receiver, shadows } => {
                let shadows: BTreeSet<Loc> = shadows.into_iter().collect();
                for shadow in &shadows {
                    if self.catalogue.shelf_of(*shadow).is_none() {
                        self.catalogue.put(*shadow, Shelf::Shadow, *shadow);
                    }
                }
                self.transfers.insert_moved(transfer, Moved { receiver, shadows, taken: None });
            }
            Entry::Taken { transfer, at } => {
                self.transfers.set_taken(transfer, at);
            }
            Entry::Released { transfer } => self.apply_released(transfer)?,
            Entry::Aborted { transfer } => self.apply_aborted(transfer),
            Entry::Forgotten { sender, epoch, incarnation, through } => {
                self.transfers.forget_through(sender, epoch, incarnation, through);
            }
            Entry::Begun(locs) => {
                self.blamed
                    .extend(locs.into_iter().filter(|at| self.catalogue.shelf_of(*at).is_some()));
            }
            Entry::Decision { .. } => {}
            Entry::Peer(peer) => {
                self.mesh.peers.insert(peer);
            }
            Entry::Generation(counter) => self.restore_generation(counter),
            Entry::Verdict(lane) => self.transfers.forget_lane(lane),
            Entry::Undone(end) => self.forget_end(Some(end)),
            Entry::Duplicate { transfer, id, ty } => {
                // A transfer of nothing but duplicates is held and released like any other.
                let held = || Incoming { state: InState::Held, items: Vec::new(), key: None };
                self.transfers.incoming.entry(transfer).or_insert_with(held);
                // It was held until another object of its id was pushed.
                if let Some((held, _)) = self.transfers.remove_item(transfer, id) {
                    self.unshelve_held(&held);
                }
                let ty = self.queues.intern(&ty);
                let books = &mut self.queues.ty_mut(ty).books;
                books.moved_in += 1;
                books.discarded += 1;
            }
            Entry::Checkpoint { index, of, piece, layout } => {
                self.apply_piece(at.record, (index, of, layout), &piece, header)?;
            }
        }
        Ok(())
    }

    fn apply_object(
        &mut self,
        at: Loc,
        how: How,
        was: Option<Loc>,
        place: Loc,
        standing: &Standing,
        object: Object,
    ) -> Result<(), String> {
        if let Some(chase) = &object.chase {
            self.restore_seen(chase.generation.counter);
        }
        let ty = self.queues.intern(&object.entity.ty);
        let earlier_end = was.filter(|_| how == How::Received);
        let before = match was.filter(|_| how != How::Received) {
            Some(was) => {
                let blamed = self.blamed.remove(&was);
                if blamed && how == How::Carried {
                    self.blamed.insert(at);
                }
                let before = self.apply_leave(was)?;
                if how == How::Reclaimed {
                    self.transfers.drop_shadow(was);
                    self.free_held(was);
                }
                if how == How::Carried {
                    self.transfers.carried(was, at);
                }
                before
            }
            None => None,
        };
        self.apply_books(how, before, ty);
        let queue = self.queue_for(ty, &object.handled);
        match standing {
            Standing::Flowing if object.not_before.is_some_and(|t| t > self.now.wall) => {
                self.catalogue.put(at, Shelf::Delayed(ty), place);
                self.queues.ty_mut(ty).delayed += 1;
            }
            Standing::Flowing => self.shelve_ready(queue, at, place),
            Standing::Parked(_) => {
                self.catalogue.put(at, Shelf::Parked(ty), place);
                self.queues.ty_mut(ty).parked += 1;
            }
            Standing::Held(transfer) | Standing::HeldParked(transfer, _) => {
                self.catalogue.put(at, Shelf::Held, place);
                if how != How::Carried {
                    let (before, due) = (earlier_end, object.not_before);
                    let parked = matches!(standing, Standing::HeldParked(..));
                    let held = Held { id: object.id, at, place, queue, before, due, parked };
                    let incoming = self.transfers.incoming.entry(*transfer);
                    let empty = || Incoming { state: InState::Held, items: Vec::new(), key: None };
                    incoming.or_insert_with(empty).items.push(held);
                }
                self.queues.ty_mut(ty).held += 1;
            }
            Standing::Shadow(_) => {
                self.catalogue.put(at, Shelf::Shadow, place);
                return Ok(());
            }
        }
        if let Some(due) = object.not_before.into_iter().chain(object.expires_at).min()
            && *standing == Standing::Flowing
        {
            self.watch_page(due, at.record);
        }
        self.remembered.note(object.id, at);
        Ok(())
    }

    /// An entry is replaced: it leaves its shelf. Says which type stood there.
    fn apply_leave(&mut self, was: Loc) -> Result<Option<TypeId>, String> {
        let Some(shelf) = self.catalogue.shelf_of(was) else {
            return Err(format!("it replaces {was}, where nothing is alive"));
        };
        self.unshelve(was, shelf);
        Ok(match shelf {
            Shelf::Ready(queue) => Some(self.queues.get(queue).ty),
            Shelf::Delayed(ty) | Shelf::Parked(ty) => Some(ty),
            Shelf::Held => {
                let mut held = self.transfers.incoming.values().flat_map(|i| &i.items);
                let ty = held.find(|h| h.at == was).map(|h| self.queues.get(h.queue).ty);
                if let Some(ty) = ty {
                    self.queues.ty_mut(ty).held -= 1;
                }
                ty
            }
            Shelf::Memory | Shelf::Shadow | Shelf::Ended => None,
        })
    }

    fn apply_books(&mut self, how: How, before: Option<TypeId>, ty: TypeId) {
        let books = &mut self.queues.ty_mut(ty).books;
        match how {
            How::Pushed => books.pushed += 1,
            How::Emitted => books.emitted += 1,
            How::Reclaimed => books.reclaimed += 1,
            How::Advanced => {
                if let Some(before) = before.filter(|b| *b != ty) {
                    self.queues.ty_mut(before).books.advanced_out += 1;
                    self.queues.ty_mut(ty).books.advanced_in += 1;
                }
            }
            How::Received | How::Carried | How::Returned | How::Parked | How::Redriven => {}
        }
    }

    fn apply_end(&mut self, at: Loc, end: &End) -> Result<(), String> {
        let ty = self.queues.intern(&end.ty);
        let mut noted = false;
        if let Some(was) = end.was {
            self.blamed.remove(&was);
            self.apply_leave(was)?;
            if matches!(end.ending, Ending::Moved(_)) {
                self.catalogue.put(was, Shelf::Shadow, was);
            }
            let books = &mut self.queues.ty_mut(ty).books;
            match end.ending {
                Ending::Final => books.finalised += 1,
                Ending::Discarded(_) | Ending::Duplicate => books.discarded += 1,
                Ending::Moved(_) => books.moved_out += 1,
            }
        } else if let Some(before) = end.carried_from {
            if self.catalogue.shelf_of(before) != Some(Shelf::Ended) {
                return Err(format!("it carries the end at {before}, where none is"));
            }
            self.catalogue.take(before, Shelf::Ended);
            self.remembered.drop_end(before.record);
            noted = self.transfers.end_carried(before, at) || self.mentioned_later(end.id, before);
        }
        self.catalogue.put(at, Shelf::Ended, at);
        if !noted {
            self.remembered.note(end.id, at);
        }
        self.remembered.note_end(end.at, at.record);
        Ok(())
    }

    fn apply_released(&mut self, transfer: TransferId) -> Result<(), String> {
        let Some(incoming) = self.transfers.incoming.get_mut(&transfer) else {
            // Every object of it was a duplicate.
            let state = InState::Taken;
            let none = Incoming { state, items: Vec::new(), key: None };
            self.transfers.incoming.insert(transfer, none);
            return Ok(());
        };
        incoming.state = InState::Taken;
        for held in std::mem::take(&mut incoming.items) {
            let ty = self.queues.get(held.queue).ty;
            let books = &mut self.queues.ty_mut(ty).books;
            books.moved_in += 1;
            self.forget_end(held.before);
            if self.catalogue.shelf_of(held.at) != Some(Shelf::Held) {
                return Err(format!("{} should be held", held.at));
            }
            self.unshelve_held(&held);
            self.shelve_released(&held);
        }
        Ok(())
    }

    fn apply_aborted(&mut self, transfer: TransferId) {
        let Some(incoming) = self.transfers.incoming.remove(&transfer) else { return };
        for held in incoming.items {
            if let Some(before) = held.before {
                self.remembered.note(held.id, before);
            }
            if self.catalogue.shelf_of(held.at) == Some(Shelf::Held) {
                self.unshelve_held(&held);
            }
        }
    }

    fn apply_piece(
        &mut self,
        record: RecordNumber,
        (index, of, layout): (u32, u32, u8),
        piece: &Bytes,
        header: &Header,
    ) -> Result<(), String> {
        if index == 0 {
            let is_start = self.parts.current().bytes == 0
                && self.catalogue.len() == 0
                && self.queues.types_len() == 0;
            self.pieces = Pieces { first: record, bytes: BytesMut::new(), next: 0, is_start };
        }
        if index != self.pieces.next {
            return Err(format!("piece {index} of a checkpoint, expected {}", self.pieces.next));
        }
        self.pieces.next += 1;
        self.pieces.bytes.extend_from_slice(piece);
        if index + 1 < of {
            return Ok(());
        }
        let Pieces { first, bytes, is_start, .. } = std::mem::take(&mut self.pieces);
        let bytes = bytes.freeze();
        self.parts.restore_checkpoint(bytes.len() as u64);
        if is_start {
            self.decode_checkpoint(bytes, layout).map_err(|e| e.to_string())?;
        } else {
            // Reached by replay: the state is here already. A new part starts all the same.
            let part = self.parts.current().number;
            self.begin_to_end(part, first);
            self.go_on_ending(true);
            self.parts.begin(first);
        }
        self.lane.set_checkpoint(first.max(header.checkpoint));
        Ok(())
    }

    /// Where the live objects of a lane that will not go on are: for a new lane that takes them
    /// over. Known after the last record has been restored; the core is not started then.
    pub fn survivors(&self) -> Vec<(RecordNumber, Vec<u32>)> {
        let alive = |shelf: Shelf| {
            matches!(shelf, Shelf::Ready(_) | Shelf::Delayed(_) | Shelf::Parked(_) | Shelf::Held)
        };
        self.catalogue
            .iter()
            .map(|(record, page)| {
                let sets = page.sets();
                let sets = sets.iter().filter(|(shelf, _)| alive(*shelf));
                let mut positions: Vec<u32> = sets.flat_map(|(_, set)| set.iter()).collect();
                positions.sort_unstable();
                (*record, positions)
            })
            .filter(|(_, positions)| !positions.is_empty())
            .collect()
    }

    /// How a survivor is to stand in the lane that takes it over: as it stood, but parked if this
    /// node was told that its lane is forgotten and its copies reclaimed elsewhere (R6).
    pub fn survivor_standing(&self, stood: Standing) -> Standing {
        let forgotten = self.transfers.verdicts.contains(&self.lane.id);
        match stood {
            Standing::Flowing | Standing::Held(_) if forgotten => {
                Standing::Parked("possible duplicate: its lane was forgotten and reclaimed".into())
            }
            stood => stood,
        }
    }

    /// Takes over an object of another lane, as one of [`Core::survivors`] stands there. It may
    /// exist elsewhere, too, and says so. What is to be durable comes with the next records.
    pub fn bring_back(&mut self, now: Now, standing: &Standing, object: Object, fx: &mut Effects) {
        assert!(self.started, "a lane takes objects over when it has started");
        self.now = now;
        if self.memory.by_id(object.id).is_some() {
            return;
        }
        let slot = self.write_reclaimed(None, object);
        match standing {
            Standing::Parked(reason) | Standing::HeldParked(_, reason) => {
                self.park_reclaimed(slot, reason.clone(), fx);
            }
            Standing::Flowing | Standing::Held(_) | Standing::Shadow(_) => {}
        }
    }

    /// The highest wall time in the log, for an edge whose clock may be behind it.
    pub fn wall_in_log(&self) -> Wall {
        self.now.wall
    }
}
