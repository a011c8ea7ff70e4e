//! Takes committed records in, entry by entry, and compares each with everything before it: P3, P6,
//! P7, P9, P10, P17 and R8 as the logs show them.

use std::collections::BTreeMap;

use bytes::Bytes;
use dpc_core::decision::Step;
use dpc_core::ids::{Birth, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::object::Object;
use dpc_core::record::{End, Ending, Entry, How, Standing, TransferId, entries_of_sealed, hash_of};

use super::Key;
use super::model::{Lane, Model, Route, Thing};
use crate::coverage::Coverage;

/// A decision is in the log at most so many records after what it explains.
const EXPLAINED_WITHIN: u64 = 100;

impl Model {
    /// Takes a committed record in; what is wrong with it goes to `broken`, named by its promise.
    /// What was folded before is passed over. A release must come after the move that it is of.
    pub fn fold(
        &mut self,
        lane: LaneId,
        number: RecordNumber,
        bytes: &Bytes,
        broken: &mut Vec<String>,
        seen: &mut Coverage,
    ) {
        let lost = self.lost.contains(&lane);
        let l = self.lanes.get_mut(&lane).expect("every lane is known");
        if number.next() == l.next && hash_of(bytes) != l.hash && !lost {
            broken.push(format!("P6: record {number} of {} was committed twice", lane.short()));
        }
        if number < l.next || lost {
            return;
        }
        if number > l.next {
            return broken.push(format!(
                "P16: record {number} of {} follows {}",
                lane.short(),
                l.next
            ));
        }
        // What the disk made of it is checked where it is read: `p16_detection`.
        let (header, entries) = match entries_of_sealed(bytes) {
            Ok(read) => read,
            Err(error) => return broken.push(format!("P16: {error}")),
        };
        if header.previous != l.hash {
            broken.push(format!("P16: record {number} of {} is not linked", lane.short()));
        }
        (l.next, l.hash) = (number.next(), hash_of(bytes));
        l.hashes.insert(number, l.hash);
        if header.epoch < l.epoch {
            let (name, epoch) = (lane.short(), l.epoch);
            broken
                .push(format!("P6: record {number} of {name} has {}, after {epoch}", header.epoch));
        }
        l.epoch = l.epoch.max(header.epoch);
        let settles = entries.iter().any(|(_, e)| settled_in(e).is_some());
        let mut fold = Fold { model: self, lane, number, broken, seen };
        for (at, entry) in entries {
            fold.entry(at, entry, settles);
        }
        fold.explained();
    }
}

/// The object that a settle in this entry was for.
fn settled_in(entry: &Entry) -> Option<ObjectId> {
    match entry {
        Entry::End(end) if matches!(end.ending, Ending::Final) => Some(end.id),
        Entry::Object { how: How::Advanced | How::Returned | How::Parked, object, .. } => {
            Some(object.id)
        }
        _ => None,
    }
}

/// One entry being folded.
struct Fold<'a> {
    model: &'a mut Model,
    lane: LaneId,
    number: RecordNumber,
    broken: &'a mut Vec<String>,
    seen: &'a mut Coverage,
}

impl Fold<'_> {
    fn here(&mut self) -> &mut Lane {
        self.model.lanes.get_mut(&self.lane).expect("every lane is known")
    }

    fn fail(&mut self, promise: &str, what: String) {
        self.broken.push(format!("{promise}: {what} at {}", self.lane.short()));
    }

    fn entry(&mut self, at: Loc, entry: Entry, settles: bool) {
        match entry {
            Entry::Object { how, was, standing, object, .. } => {
                if how == How::Emitted && !settles {
                    self.fail("P4", format!("{} was emitted without its settle", object.id));
                }
                self.object(at, how, was, standing, object);
            }
            Entry::End(end) => self.end(end),
            Entry::Moved { transfer, .. } => {
                if !self.model.moved.contains_key(&transfer) {
                    self.fail("P3", format!("{transfer} moved nothing"));
                }
            }
            Entry::Released { transfer } => self.released(transfer),
            Entry::Aborted { transfer } => self.aborted(transfer),
            Entry::Duplicate { transfer, id, ty } => {
                self.seen.add("duplicate kept out");
                let l = self.here();
                l.kept_out.insert((transfer, id));
                if l.held.get_mut(&transfer).is_some_and(|ids| ids.remove(&id)) {
                    let at = l.at.remove(&id).expect("what is held is alive");
                    l.things.remove(&at);
                    self.seen.add("held copy kept out for a push");
                }
                let l = self.here();
                let b = l.book(&ty);
                (b.moved_in, b.discarded) = (b.moved_in + 1, b.discarded + 1);
            }
            Entry::Checkpoint { .. } => self.seen.add("checkpoint written"),
            Entry::Begun(_) => self.seen.add("work begun"),
            Entry::Taken { .. } => self.seen.add("handoff taken"),
            Entry::Forgotten { .. } => self.seen.add("transfers forgotten"),
            Entry::Decision { decision, objects } => {
                let step = decision.step;
                if matches!(step, Step::Deliver | Step::Offer) {
                    let each = objects.into_iter().map(|(id, moves)| (step, id, moves));
                    self.here().decided.extend(each);
                }
            }
            Entry::Undone(_) => self.seen.add("end undone"),
            Entry::Peer(_) | Entry::Generation(_) | Entry::Verdict(_) => {}
        }
    }

    /// Something took a step that the log must say more of: in this record, or soon.
    fn took(&mut self, step: Step, id: ObjectId, moves: u32) {
        let number = self.number;
        self.here().undecided.push((number, (step, id, moves)));
    }

    /// P17: what was settled was delivered, what was handed over was offered, and the log says so
    /// in this record or in one of the next.
    fn explained(&mut self) {
        let number = self.number;
        let Lane { decided, undecided, .. } = self.here();
        undecided.retain(|(_, step)| !decided.contains(step));
        let late = undecided.iter().position(|(at, _)| number.0 > at.0 + EXPLAINED_WITHIN);
        if let Some(late) = late {
            let (at, (step, id, _)) = undecided.remove(late);
            self.fail(
                "P17",
                format!("{id} took its step in record {at}, and no decision to {step}"),
            );
        }
    }

    fn object(
        &mut self,
        at: Loc,
        how: How,
        was: Option<Loc>,
        standing: Standing,
        object: Box<Object>,
    ) {
        let key = (object.id, object.birth);
        if let Standing::Shadow(_) = standing {
            let l = self.here();
            if let Some(was) = was {
                l.shadows.remove(&was);
            }
            l.shadows.insert(at, key);
            self.seen.add("shadow carried forward");
            return;
        }
        let before = match was.filter(|_| how != How::Received) {
            Some(was) => {
                let l = self.here();
                let before = l.things.remove(&was);
                if before.is_none() && l.shadows.remove(&was).is_none() {
                    self.fail("R8", format!("{} replaces {was}, where nothing is", object.id));
                }
                before
            }
            None => None,
        };
        self.object_came(at, how, before.as_ref(), &object);
        self.note_marks(&object.marks, object.id);
        if let Standing::Held(transfer) | Standing::HeldParked(transfer, _) = standing
            && how == How::Received
        {
            self.here().held.entry(transfer).or_default().insert(object.id);
        }
        // A copy that was brought back may have an owner besides, and says so.
        let flows = standing == Standing::Flowing && !object.possible_duplicate;
        let id = object.id;
        let l = self.here();
        l.at.insert(id, at);
        l.things.insert(at, Thing { object, standing });
        if flows {
            self.owned(key);
        }
    }

    fn object_came(&mut self, at: Loc, how: How, before: Option<&Thing>, object: &Object) {
        let key = (object.id, object.birth);
        match how {
            How::Pushed | How::Emitted => {
                let birth = Birth { lane: self.lane, epoch: object.birth.epoch, loc: at };
                if object.birth != birth {
                    self.fail("P9", format!("{} has the wrong birth", object.id));
                }
                let (id, hash) = (object.id, object.hash);
                let l = self.here();
                if l.pushed.insert(id, (object.birth, hash)).is_some() {
                    self.fail("P9", format!("{id} was stored twice"));
                }
                self.model.fresh.push((id, hash));
                let b = self.here().book(&object.entity.ty);
                if how == How::Pushed {
                    b.pushed += 1
                } else {
                    b.emitted += 1
                }
                self.seen.add_if("emitted", how == How::Emitted);
            }
            How::Advanced => self.advanced(key, at, before, object),
            How::Carried => {
                self.seen.add("carried forward");
                let same = before.is_some_and(|b| {
                    let (mut a, b) = (object.clone(), &b.object);
                    (a.deliveries, a.failed) = (b.deliveries, b.failed);
                    a == **b
                });
                if !same {
                    self.fail("R8", format!("{} was carried and changed", object.id));
                }
            }
            How::Parked => self.seen.add("parked"),
            How::Redriven => self.seen.add("redriven"),
            How::Returned => self.seen.add("returned"),
            How::Received => {}
            How::Reclaimed => {
                let l = self.here();
                l.book(&object.entity.ty).reclaimed += 1;
                l.reclaimed.insert(key);
                let held = l.held.values_mut().filter_map(|ids| ids.take(&object.id)).count() > 0;
                self.seen.add(if held { "held copy brought back" } else { "copy brought back" });
            }
        }
        if let Some(before) = before
            && (before.object.id, before.object.birth) != key
        {
            self.fail("R8", format!("{} replaces {}", object.id, before.object.id));
        }
    }

    fn advanced(&mut self, key: Key, at: Loc, before: Option<&Thing>, object: &Object) {
        let Some(before) = before else {
            return self.fail("R8", format!("{} advanced from nothing", object.id));
        };
        if object.version > before.object.version {
            self.seen.add("advanced");
            if !object.possible_duplicate {
                self.settled(key, before.object.version, at);
            }
            self.took(Step::Deliver, object.id, object.moves);
            if before.object.entity.ty != object.entity.ty {
                self.here().book(&before.object.entity.ty).advanced_out += 1;
                self.here().book(&object.entity.ty).advanced_in += 1;
            }
            return;
        }
        self.seen.add("handled and kept");
        let name = object.handled.iter().find(|n| !before.object.handled.contains(n));
        let Some(name) = name else {
            return self.fail("P3", format!("{} handled twice by one processor", object.id));
        };
        let first = self.model.handled.insert((key, object.version, name.clone()));
        if !first && !object.possible_duplicate && !self.model.doubtful.contains(&key) {
            self.fail("P3", format!("{} handled twice by {name}", object.id));
        }
    }

    /// P3: at most one settle of a version commits.
    fn settled(&mut self, key: Key, version: u32, at: Loc) {
        if self.model.doubtful.contains(&key) {
            return;
        }
        if let Some((lane, before)) = self.model.settled.insert((key, version), (self.lane, at)) {
            let what =
                format!("v{version} of {} settled at {} {before}, too, and", key.0, lane.short());
            self.fail("P3", what);
        }
    }

    fn note_marks(&mut self, marks: &[dpc_core::object::SettleMark], id: ObjectId) {
        for mark in marks {
            let before = self.model.marks.insert(mark.token, mark.content);
            if before.is_some_and(|b| b != mark.content) {
                self.fail("P3", format!("{id} has two settles of one lease"));
            }
        }
    }

    /// P7: an object is ready or leased in one place.
    fn owned(&mut self, key: Key) {
        let lane = self.lane;
        let doubtful = self.model.doubtful.contains(&key);
        let owners = self.model.owners.entry(key).or_default();
        owners.insert(lane);
        if owners.len() > 1 && !doubtful {
            let names: Vec<String> = owners.iter().map(LaneId::short).collect();
            self.fail("P7", format!("{} is owned by {}", key.0, names.join(" and ")));
        }
    }

    fn end(&mut self, end: Box<End>) {
        let key = (end.id, end.birth);
        self.note_marks(&end.marks, end.id);
        let Some(was) = end.was else {
            self.seen.add("end carried forward");
            return;
        };
        let thing = self.here().things.remove(&was);
        if thing.is_none() {
            self.fail("R8", format!("{} ends at {was}, where nothing is", end.id));
        }
        let certain = thing.as_ref().is_some_and(|t| !t.object.possible_duplicate);
        let l = self.here();
        if l.at.get(&end.id) == Some(&was) {
            l.at.remove(&end.id);
        }
        let b = l.book(&end.ty);
        match &end.ending {
            Ending::Final => b.finalised += 1,
            Ending::Discarded(_) | Ending::Duplicate => b.discarded += 1,
            Ending::Moved(_) => b.moved_out += 1,
        }
        if let Some(owners) = self.model.owners.get_mut(&key) {
            owners.remove(&self.lane);
        }
        match &end.ending {
            Ending::Final => {
                if certain {
                    self.settled(key, end.version, was);
                }
                self.seen.add_if("possible duplicate finalised", !certain);
                self.took(Step::Deliver, end.id, end.moves);
            }
            Ending::Discarded(_) => self.seen.add("discarded"),
            Ending::Duplicate => self.seen.add("duplicate gave way"),
            Ending::Moved(transfer) => {
                // What an adopted lane gives to its heir follows no demand, so nobody chose it.
                if !self.model.estates.contains(transfer) {
                    self.took(Step::Offer, end.id, end.moves);
                }
                self.here().shadows.insert(was, key);
                let failed = thing.map_or(0, |t| t.object.failed);
                self.model.moved.entry(*transfer).or_default().insert(end.id, failed);
            }
        }
        let l = self.here();
        l.last_end.insert(end.id, key);
        l.ends.insert(key, end);
    }

    /// The receiver owns what it held: only after the sender's commit, and only for this link.
    fn released(&mut self, transfer: TransferId) {
        let lost = self.model.lost.contains(&transfer.sender);
        let moved = self.model.moved.get(&transfer).cloned();
        let Some(moved) = moved.or_else(|| lost.then(BTreeMap::new)) else {
            return self.fail("P7", format!("{transfer} was released before it was moved"));
        };
        let held = self.here().held.remove(&transfer).unwrap_or_default();
        self.here().released.insert(transfer);
        if let Some(id) = held.iter().find(|id| !moved.contains_key(id)).filter(|_| !lost) {
            self.fail("P7", format!("{id} was held and never moved"));
        }
        for id in held {
            let l = self.here();
            let at = l.at.get(&id).copied().expect("what is held is alive");
            let thing = l.things.get_mut(&at).expect("what is alive has a place");
            let parked = match &thing.standing {
                Standing::HeldParked(_, reason) => Some(reason.clone()),
                _ => None,
            };
            let object = thing.object.clone();
            thing.standing = parked.clone().map_or(Standing::Flowing, Standing::Parked);
            l.book(&object.entity.ty).moved_in += 1;
            let inherited = self.model.estates.contains(&transfer);
            self.seen.add_if("inherited and parked", parked.is_some());
            self.seen.add_if("inherited before its time", inherited && parked.is_none());
            if parked.is_none() && !object.possible_duplicate {
                self.owned((id, object.birth));
            }
            if lost {
                // Brought back by a person: nobody knows what the sender had decided.
                self.model.doubtful.insert((id, object.birth));
            }
            self.arrived(&object, moved.get(&id).copied().unwrap_or(0));
            if !inherited {
                self.crossed(transfer, &object);
            }
        }
    }

    /// What has arrived is what has left, and nothing of its id has ended here before (P9).
    fn arrived(&mut self, object: &Object, left: u32) {
        let id = object.id;
        let last = self.here().last_end.get(&id).copied();
        let other = |end: &End| match end.ending {
            Ending::Moved(_) => false,
            // For whom it made way may have come and moved on since: that end says nothing then.
            Ending::Duplicate => end.birth < object.birth && last == Some((id, end.birth)),
            Ending::Final | Ending::Discarded(_) => end.birth != object.birth,
        };
        if self.here().ends(id).any(other) {
            let what = format!("{id} was taken in, and another object of its id ended here");
            self.fail("P9", what);
        }
        if object.failed < left {
            let what = format!("{id} left with {left} failures and came with {}", object.failed);
            self.fail("section 2", what);
        }
    }

    /// P10: for one generation each link at most once in each direction, and `max_hops` in all.
    fn crossed(&mut self, transfer: TransferId, object: &Object) {
        let Some(chase) = &object.chase else {
            return self.fail("P10", format!("{} moved for no demand", object.id));
        };
        let link = (transfer.sender, transfer.receiver);
        let key = (object.id, object.birth);
        // Of a copy that was brought back there may be another one, with a way of its own.
        if self.model.doubtful.contains(&key) || object.possible_duplicate {
            return;
        }
        let route = self.model.routes.entry(key).or_default();
        let newer = chase.generation > route.generation || object.version != route.version;
        let older = chase.generation < route.generation && object.version == route.version;
        if newer {
            *route =
                Route { generation: chase.generation, version: object.version, links: Vec::new() };
        }
        let again = route.links.contains(&link);
        route.links.push(link);
        let hops = route.links.len();
        let generation = chase.generation;
        self.seen.add_if("several hops for one demand", hops > 1);
        if older {
            self.fail("P10", format!("{} turned back to {generation}", object.id));
        }
        if again {
            self.fail("P10", format!("{} crossed {transfer} again for {generation}", object.id));
        }
        if hops > self.model.max_hops as usize {
            self.fail("P10", format!("{} crossed {hops} links for {generation}", object.id));
        }
    }

    fn aborted(&mut self, transfer: TransferId) {
        let lost = self.model.lost.contains(&transfer.sender);
        if self.model.moved.contains_key(&transfer) && !lost {
            self.fail("P7", format!("{transfer} was moved, and dropped as aborted"));
        }
        self.seen.add("held copy dropped");
        self.here().aborted.insert(transfer);
        let in_vain = self.here().kept_out_of(transfer).count() as u64;
        self.model.kept_out_in_vain += in_vain;
        let held = self.here().held.remove(&transfer).unwrap_or_default();
        for id in held {
            let l = self.here();
            if let Some(at) = l.at.remove(&id) {
                l.things.remove(&at);
            }
        }
    }
}
