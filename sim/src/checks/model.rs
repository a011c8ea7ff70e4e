//! What the committed records of all lanes say, folded independently of the core's own replay.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dpc_core::Wall;
use dpc_core::effect::Books;
use dpc_core::ids::{Birth, Epoch, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::names::{Name, TypeName};
use dpc_core::object::{Generation, Hash16, Object, SettleMark, Token};
use dpc_core::record::{End, Ending, Entry, How, Standing, TransferId, entries, hash_of};

use super::Key;
use crate::coverage::Coverage;

/// One object as one lane's log has it.
#[derive(Clone, Debug)]
pub struct Thing {
    /// The object.
    pub object: Object,
    /// Where it is in its life.
    pub standing: Standing,
}

/// One lane's log, folded.
#[derive(Debug, Default)]
pub struct Lane {
    next: RecordNumber,
    hash: Hash16,
    /// The highest epoch that has claimed the lane or committed to it.
    epoch: Epoch,
    things: BTreeMap<Loc, Thing>,
    /// The place of what is alive under an id, held or not.
    at: BTreeMap<ObjectId, Loc>,
    ends: BTreeMap<Key, End>,
    ended: BTreeSet<ObjectId>,
    held: BTreeMap<TransferId, BTreeSet<ObjectId>>,
    /// Objects that came with a transfer and were kept out.
    kept_out: BTreeSet<(TransferId, ObjectId)>,
    released: BTreeSet<TransferId>,
    pushed: BTreeMap<ObjectId, (Birth, Hash16)>,
    shadows: BTreeMap<Loc, Key>,
    /// Copies that a person has brought back here.
    reclaimed: BTreeSet<Key>,
    books: BTreeMap<TypeName, Books>,
}

/// The route of one object for one generation of demand.
#[derive(Debug, Default)]
struct Route {
    generation: Generation,
    version: u32,
    links: Vec<(LaneId, LaneId)>,
}

/// All lanes.
#[derive(Debug)]
pub struct Model {
    lanes: BTreeMap<LaneId, Lane>,
    /// The lanes where an object is ready or leased.
    owners: BTreeMap<Key, BTreeSet<LaneId>>,
    /// Where a version was ended by a settle.
    settled: BTreeMap<(Key, u32), (LaneId, Loc)>,
    handled: BTreeSet<(Key, u32, Name)>,
    marks: BTreeMap<Token, Hash16>,
    routes: BTreeMap<Key, Route>,
    moved: BTreeMap<TransferId, BTreeSet<ObjectId>>,
    /// Transfers that an adopted lane gave to its heir: they follow no demand.
    pub(super) estates: BTreeSet<TransferId>,
    max_hops: u32,
    /// Pushed objects of the last record, to be compared with what clients said.
    pub(super) fresh: Vec<(ObjectId, Hash16)>,
}

impl Lane {
    /// Whether an id is alive, parked, ended or moved on here.
    pub fn knows(&self, id: ObjectId) -> bool {
        self.at.contains_key(&id) || self.ended.contains(&id) || self.pushed.contains_key(&id)
    }

    /// Whether an id was ever pushed or emitted here.
    pub fn was_pushed(&self, id: ObjectId) -> bool {
        self.pushed.contains_key(&id)
    }

    /// An object in the flow here.
    pub fn flowing(&self, id: ObjectId) -> Option<&Thing> {
        let thing = self.things.get(self.at.get(&id)?)?;
        (thing.standing == Standing::Flowing).then_some(thing)
    }

    /// What is alive here under an id, held or not.
    pub fn alive(&self, id: ObjectId) -> Option<&Thing> {
        self.things.get(self.at.get(&id)?)
    }

    /// The ends of an id here: one for each life of it.
    pub fn ends(&self, id: ObjectId) -> impl Iterator<Item = &End> {
        self.ends.iter().filter(move |((of, _), _)| *of == id).map(|(_, end)| end)
    }

    /// The books of a type as the records say.
    pub fn books(&self, ty: &TypeName) -> Books {
        self.books.get(ty).copied().unwrap_or_default()
    }

    /// Everything alive here.
    pub fn things(&self) -> impl Iterator<Item = &Thing> {
        self.things.values()
    }

    fn book(&mut self, ty: &TypeName) -> &mut Books {
        self.books.entry(ty.clone()).or_default()
    }
}

impl Model {
    /// A model without lanes, whose objects may cross so many links for one generation.
    pub fn new(max_hops: u32) -> Self {
        Self {
            lanes: BTreeMap::new(),
            owners: BTreeMap::new(),
            settled: BTreeMap::new(),
            handled: BTreeSet::new(),
            marks: BTreeMap::new(),
            routes: BTreeMap::new(),
            moved: BTreeMap::new(),
            estates: BTreeSet::new(),
            max_hops,
            fresh: Vec::new(),
        }
    }

    /// Adds a lane whose log is empty.
    pub fn add_lane(&mut self, lane: LaneId) {
        self.lanes.insert(lane, Lane { next: RecordNumber(1), ..Lane::default() });
    }

    /// One lane.
    pub fn lane(&self, lane: LaneId) -> &Lane {
        &self.lanes[&lane]
    }

    /// All lanes.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.values()
    }

    /// Handoffs that were committed at their senders, counted by object.
    pub fn handoffs(&self) -> usize {
        self.moved.values().map(BTreeSet::len).sum()
    }

    /// Whether a settle of this lease and content was committed anywhere.
    pub fn has_mark(&self, token: &Token, content: Hash16) -> bool {
        self.marks.get(token) == Some(&content)
    }

    /// Whether the object of a lease still carries the mark of that settle: it is the last one of
    /// its version, and no other answer to its repetition can be right.
    pub fn keeps_mark(&self, token: &Token, content: Hash16) -> bool {
        let id = token.object;
        let is = |mark: &SettleMark| mark.token == *token && mark.content == content;
        self.lanes.values().any(|lane| {
            let alive = lane.at.get(&id).and_then(|at| lane.things.get(at));
            let ends =
                lane.ends.range((id, Birth::default())..).take_while(|((of, _), _)| *of == id);
            // What has moved on is marked where it is.
            let mut ended = ends.filter(|(_, end)| !matches!(end.ending, Ending::Moved(_)));
            alive.is_some_and(|thing| thing.object.marks.iter().any(is))
                || ended.any(|(_, end)| end.marks.iter().any(is))
        })
    }

    /// Objects that are neither ended nor parked, with their lane.
    pub fn unfinished(&self) -> Vec<(LaneId, ObjectId)> {
        let mut found = Vec::new();
        for (id, lane) in &self.lanes {
            let waits = lane.things.values().filter(|t| !matches!(t.standing, Standing::Parked(_)));
            found.extend(waits.map(|t| (*id, t.object.id)));
        }
        found
    }

    /// The latest time before which something unfinished must not be delivered.
    pub fn latest_due(&self) -> Option<Wall> {
        let things = self.lanes.values().flat_map(|lane| lane.things.values());
        things.filter_map(|t| t.object.not_before).max()
    }

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
        let l = self.lanes.get_mut(&lane).expect("every lane is known");
        if number.next() == l.next && hash_of(bytes) != l.hash {
            broken.push(format!("P6: record {number} of {} was committed twice", lane.short()));
        }
        if number < l.next {
            return;
        }
        if number > l.next {
            return broken.push(format!(
                "P16: record {number} of {} follows {}",
                lane.short(),
                l.next
            ));
        }
        let (header, entries) = match entries(bytes) {
            Ok(read) => read,
            Err(error) => return broken.push(format!("P16: {error}")),
        };
        if header.previous != l.hash {
            broken.push(format!("P16: record {number} of {} is not linked", lane.short()));
        }
        if header.epoch < l.epoch {
            let (name, epoch, higher) = (lane.short(), header.epoch, l.epoch);
            broken.push(format!("P6: {number} of {name} at epoch {epoch} follows epoch {higher}"));
        }
        (l.next, l.hash, l.epoch) = (number.next(), hash_of(bytes), header.epoch);
        let emits_with: BTreeSet<ObjectId> =
            entries.iter().filter_map(|(_, e)| settled_in(e)).collect();
        for (at, entry) in entries {
            let mut fold = Fold { model: self, lane, broken, seen };
            fold.entry(at, entry, !emits_with.is_empty());
        }
    }

    /// A lane has a new owner.
    pub(super) fn claimed(&mut self, lane: LaneId, epoch: Epoch, broken: &mut Vec<String>) {
        let l = self.lanes.get_mut(&lane).expect("every lane is known");
        if epoch <= l.epoch {
            broken.push(format!("P6: {} is claimed with epoch {epoch} again", lane.short()));
        }
        l.epoch = epoch;
    }

    /// Follows an object that was pushed in a lane to where it is now.
    pub(super) fn trace_life(&self, id: ObjectId, lane: LaneId) -> Result<(), String> {
        let Some((birth, _)) = self.lanes[&lane].pushed.get(&id) else {
            // It was known there because it had come from elsewhere.
            return self.follow_duplicate(id, lane);
        };
        let mut here = lane;
        for _ in 0..10_000 {
            let l = &self.lanes[&here];
            let alive = l.at.get(&id).and_then(|at| l.things.get(at));
            if alive.is_some_and(|t| t.object.birth == *birth && !is_held(&t.standing)) {
                return Ok(());
            }
            let Some(end) = l.ends.get(&(id, *birth)) else {
                return Err(format!("{} neither has it nor ended it", here.short()));
            };
            let Ending::Moved(transfer) = end.ending else { return Ok(()) };
            let there = &self.lanes[&transfer.receiver];
            if there.kept_out.contains(&(transfer, id)) {
                return self.follow_duplicate(id, transfer.receiver);
            }
            if there.held.get(&transfer).is_some_and(|ids| ids.contains(&id)) {
                return Ok(());
            }
            if !there.released.contains(&transfer) && !there.reclaimed.contains(&(id, *birth)) {
                return Err(format!(
                    "{} moved it to {}, which does not hold it",
                    here.short(),
                    transfer.receiver.short()
                ));
            }
            here = transfer.receiver;
        }
        Err("it moves in a circle for ever".into())
    }

    /// A duplicate was kept out: the object it met must have been kept.
    fn follow_duplicate(&self, id: ObjectId, lane: LaneId) -> Result<(), String> {
        let any = self.lanes.values().any(|l| {
            l.at.get(&id).and_then(|at| l.things.get(at)).is_some_and(|t| !is_held(&t.standing))
                || l.ends
                    .iter()
                    .any(|((of, _), e)| *of == id && !matches!(e.ending, Ending::Moved(_)))
        });
        if any {
            return Ok(());
        }
        Err(format!("kept out at {} as a duplicate of nothing", lane.short()))
    }
}

fn is_held(standing: &Standing) -> bool {
    matches!(standing, Standing::Held(_) | Standing::HeldParked(..) | Standing::Shadow(_))
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
                self.object(at, how, was, standing, *object);
            }
            Entry::End(end) => self.end(*end),
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
                let b = l.book(&ty);
                (b.moved_in, b.discarded) = (b.moved_in + 1, b.discarded + 1);
            }
            Entry::Checkpoint { .. } => self.seen.add("checkpoint written"),
            Entry::Begun(_) => self.seen.add("work begun"),
            Entry::Taken { .. } => self.seen.add("handoff taken"),
            Entry::Forgotten { .. } => self.seen.add("transfers forgotten"),
            Entry::Decision { .. } | Entry::Peer(_) | Entry::Generation(_) | Entry::Verdict(_) => {}
        }
    }

    fn object(&mut self, at: Loc, how: How, was: Option<Loc>, standing: Standing, object: Object) {
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
                    a == *b
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
                l.held.values_mut().for_each(|ids| {
                    ids.remove(&object.id);
                });
                self.model.routes.remove(&key);
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
        if !first && !object.possible_duplicate {
            self.fail("P3", format!("{} handled twice by {name}", object.id));
        }
    }

    /// P3: at most one settle of a version commits.
    fn settled(&mut self, key: Key, version: u32, at: Loc) {
        if let Some((lane, before)) = self.model.settled.insert((key, version), (self.lane, at)) {
            let what =
                format!("v{version} of {} settled at {} {before}, too, and", key.0, lane.short());
            self.fail("P3", what);
        }
    }

    fn note_marks(&mut self, marks: &[SettleMark], id: ObjectId) {
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
        let owners = self.model.owners.entry(key).or_default();
        owners.insert(lane);
        if owners.len() > 1 {
            let names: Vec<String> = owners.iter().map(LaneId::short).collect();
            self.fail("P7", format!("{} is owned by {}", key.0, names.join(" and ")));
        }
    }

    fn end(&mut self, end: End) {
        let key = (end.id, end.birth);
        self.note_marks(&end.marks, end.id);
        let Some(was) = end.was else {
            self.seen.add("end carried forward");
            return;
        };
        let l = self.here();
        let ended = l.things.remove(&was);
        let certain = ended.as_ref().is_some_and(|t| !t.object.possible_duplicate);
        if ended.is_none() {
            self.fail("R8", format!("{} ends at {was}, where nothing is", end.id));
        }
        let l = self.here();
        if l.at.get(&end.id) == Some(&was) {
            l.at.remove(&end.id);
        }
        let b = l.book(&end.ty);
        match &end.ending {
            Ending::Final => b.finalised += 1,
            Ending::Discarded(_) => b.discarded += 1,
            Ending::Moved(_) => b.moved_out += 1,
        }
        if let Some(owners) = self.model.owners.get_mut(&key) {
            owners.remove(&self.lane);
        }
        match &end.ending {
            Ending::Final if certain => self.settled(key, end.version, was),
            Ending::Final => self.seen.add("possible duplicate finalised"),
            Ending::Discarded(_) => self.seen.add("discarded"),
            Ending::Moved(transfer) => {
                self.here().shadows.insert(was, key);
                self.model.moved.entry(*transfer).or_default().insert(end.id);
            }
        }
        let l = self.here();
        l.ended.insert(end.id);
        l.ends.insert(key, end);
    }

    /// The receiver owns what it held: only after the sender's commit, and only for this link.
    fn released(&mut self, transfer: TransferId) {
        let Some(moved) = self.model.moved.get(&transfer).cloned() else {
            return self.fail("P7", format!("{transfer} was released before it was moved"));
        };
        let held = self.here().held.remove(&transfer).unwrap_or_default();
        self.here().released.insert(transfer);
        if let Some(id) = held.iter().find(|id| !moved.contains(id)) {
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
            if !inherited {
                self.crossed(transfer, &object);
            }
        }
    }

    /// P10: for one generation each link at most once in each direction, and `max_hops` in all.
    fn crossed(&mut self, transfer: TransferId, object: &Object) {
        let Some(chase) = &object.chase else {
            return self.fail("P10", format!("{} moved for no demand", object.id));
        };
        let link = (transfer.sender, transfer.receiver);
        let key = (object.id, object.birth);
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
        if self.model.moved.contains_key(&transfer) {
            self.fail("P7", format!("{transfer} was moved, and dropped as aborted"));
        }
        self.seen.add("held copy dropped");
        let held = self.here().held.remove(&transfer).unwrap_or_default();
        for id in held {
            let l = self.here();
            if let Some(at) = l.at.remove(&id) {
                l.things.remove(&at);
            }
        }
    }
}
