//! What the committed records of all lanes say. `fold` takes them in, independently of the core's own
//! replay.

use std::collections::{BTreeMap, BTreeSet};

use dpc_core::Wall;
use dpc_core::decision::Step;
use dpc_core::effect::Books;
use dpc_core::ids::{Birth, Epoch, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::names::{Name, TypeName};
use dpc_core::object::{Generation, Hash16, Object, SettleMark, Token};
use dpc_core::record::{End, Ending, Standing, TransferId};

use super::Key;

/// One object as one lane's log has it.
#[derive(Clone, Debug)]
pub struct Thing {
    /// The object.
    pub object: Box<Object>,
    /// Where it is in its life.
    pub standing: Standing,
}

/// One lane's log, folded.
#[derive(Debug, Default)]
pub struct Lane {
    pub(super) next: RecordNumber,
    /// The hash of each record.
    pub(super) hashes: BTreeMap<RecordNumber, Hash16>,
    /// The highest epoch of a record.
    pub(super) epoch: Epoch,
    pub(super) hash: Hash16,
    pub(super) things: BTreeMap<Loc, Thing>,
    /// The place of what is alive under an id, held or not.
    pub(super) at: BTreeMap<ObjectId, Loc>,
    pub(super) ends: BTreeMap<Key, Box<End>>,
    /// The last end under each id: of a copy that a person brought back, that of the copy.
    pub(super) last_end: BTreeMap<ObjectId, Key>,
    pub(super) held: BTreeMap<TransferId, BTreeSet<ObjectId>>,
    /// Objects that came with a transfer and were kept out.
    pub(super) kept_out: BTreeSet<(TransferId, ObjectId)>,
    pub(super) released: BTreeSet<TransferId>,
    pub(super) aborted: BTreeSet<TransferId>,
    /// Copies that a person has brought back here.
    pub(super) reclaimed: BTreeSet<Key>,
    /// Decisions to deliver or to offer an object, with the moves it had then.
    pub(super) decided: BTreeSet<Decided>,
    /// What was settled or handed over and has no decision in the log yet, with the record:
    /// decisions ride along with later ones.
    pub(super) undecided: Vec<(RecordNumber, Decided)>,
    pub(super) pushed: BTreeMap<ObjectId, (Birth, Hash16)>,
    pub(super) shadows: BTreeMap<Loc, Key>,
    pub(super) books: BTreeMap<TypeName, Books>,
}

/// A step that an object took, with the moves it had then.
pub(super) type Decided = (Step, ObjectId, u32);

/// The route of one object for one generation of demand.
#[derive(Debug, Default)]
pub(super) struct Route {
    pub(super) generation: Generation,
    pub(super) version: u32,
    pub(super) links: Vec<(LaneId, LaneId)>,
}

/// All lanes.
#[derive(Debug)]
pub struct Model {
    pub(super) lanes: BTreeMap<LaneId, Lane>,
    /// The lanes where an object is ready or leased.
    pub(super) owners: BTreeMap<Key, BTreeSet<LaneId>>,
    /// Where a version was ended by a settle.
    pub(super) settled: BTreeMap<(Key, u32), (LaneId, Loc)>,
    pub(super) handled: BTreeSet<(Key, u32, Name)>,
    pub(super) marks: BTreeMap<Token, Hash16>,
    pub(super) routes: BTreeMap<Key, Route>,
    /// What each transfer moved, with the failed deliveries of each object then.
    pub(super) moved: BTreeMap<TransferId, BTreeMap<ObjectId, u32>>,
    /// Transfers that an adopted lane gave to its heir: they follow no demand.
    pub(super) estates: BTreeSet<TransferId>,
    /// Lanes whose only disk is lost, or was put back to an old state.
    pub(super) lost: BTreeSet<LaneId>,
    /// Objects that may exist twice, since a lane that had them is lost: nobody promises anything
    /// about them. What was brought back from a copy says so itself.
    pub(super) doubtful: BTreeSet<Key>,
    /// Objects that were kept out as duplicates with transfers that then were aborted.
    pub(super) kept_out_in_vain: u64,
    pub(super) max_hops: u32,
    /// Pushed objects of the last record, to be compared with what clients said.
    pub(super) fresh: Vec<(ObjectId, Hash16)>,
}

impl Lane {
    /// Whether an id is alive, parked, ended or moved on here.
    pub fn knows(&self, id: ObjectId) -> bool {
        self.at.contains_key(&id)
            || self.last_end.contains_key(&id)
            || self.pushed.contains_key(&id)
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

    /// What is alive under an id, held or not.
    pub fn alive(&self, id: ObjectId) -> Option<&Thing> {
        self.things.get(self.at.get(&id)?)
    }

    /// The ends of an id here: one for each life of it.
    pub fn ends(&self, id: ObjectId) -> impl Iterator<Item = &End> {
        let of_id =
            self.ends.range((id, Birth::default())..).take_while(move |((of, _), _)| *of == id);
        of_id.map(|(_, end)| &**end)
    }

    /// The last end of an id here.
    pub fn latest_end(&self, id: ObjectId) -> Option<&End> {
        self.ends.get(self.last_end.get(&id)?).map(|end| &**end)
    }

    /// The last committed record.
    pub fn last(&self) -> RecordNumber {
        RecordNumber(self.next.0 - 1)
    }

    /// The hash of a committed record.
    pub fn hash_of(&self, number: RecordNumber) -> Option<Hash16> {
        self.hashes.get(&number).copied()
    }

    /// What came with a transfer and was kept out.
    pub(super) fn kept_out_of(
        &self,
        transfer: TransferId,
    ) -> impl Iterator<Item = &(TransferId, ObjectId)> {
        self.kept_out.range((transfer, ObjectId([0; 16]))..=(transfer, ObjectId([255; 16])))
    }

    /// The books of a type as the records say.
    pub fn books(&self, ty: &TypeName) -> Books {
        self.books.get(ty).copied().unwrap_or_default()
    }

    /// One of the objects that are parked here.
    pub(crate) fn parked(&self) -> Option<ObjectId> {
        let parked = self.things().find(|t| matches!(t.standing, Standing::Parked(_)));
        parked.map(|thing| thing.object.id)
    }

    /// Everything alive here.
    pub fn things(&self) -> impl Iterator<Item = &Thing> {
        self.things.values()
    }

    pub(super) fn book(&mut self, ty: &TypeName) -> &mut Books {
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
            lost: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            kept_out_in_vain: 0,
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

    /// An object that a lane may deliver: one that flows there, or that it holds and the sender has moved.
    /// Both are durable then, and READY follows from them.
    pub(super) fn deliverable(&self, lane: LaneId, id: ObjectId) -> Option<&Thing> {
        let thing = self.lanes[&lane].alive(id)?;
        let owned = match &thing.standing {
            Standing::Flowing => true,
            // What a lost lane says of its transfers nobody checks.
            Standing::Held(transfer) => {
                self.lost.contains(&transfer.sender)
                    || self.moved.get(transfer).is_some_and(|moved| moved.contains_key(&id))
            }
            _ => false,
        };
        owned.then_some(thing)
    }

    /// All lanes.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.values()
    }

    /// The lanes where an object is ready or leased.
    pub fn owners_of(&self, key: &Key) -> Vec<LaneId> {
        self.owners.get(key).into_iter().flatten().copied().collect()
    }

    /// Handoffs that were committed at their senders, counted by object.
    pub fn handoffs(&self) -> usize {
        self.moved.values().map(BTreeMap::len).sum()
    }

    /// All books of all lanes.
    pub fn all_books(&self) -> Books {
        self.lanes.values().flat_map(|l| l.books.values()).copied().fold(Books::default(), add)
    }

    /// Whether everything has ended or is parked.
    pub(super) fn is_finished(&self) -> bool {
        let mut things = self.whole().flat_map(|(_, lane)| lane.things.values());
        things.all(|t| matches!(t.standing, Standing::Parked(_)))
    }

    /// Lanes that are not lost.
    pub(super) fn whole(&self) -> impl Iterator<Item = (&LaneId, &Lane)> {
        self.lanes.iter().filter(|(id, _)| !self.lost.contains(*id))
    }

    /// Whether a lane is lost.
    pub fn is_lost(&self, lane: LaneId) -> bool {
        self.lost.contains(&lane)
    }

    /// Whether copies of an id may exist twice, or be lost.
    pub(super) fn is_doubtful(&self, id: ObjectId) -> bool {
        let from = (id, Birth::default())..;
        self.doubtful.range(from).next().is_some_and(|(of, _)| *of == id)
    }

    /// Whether any lane is lost.
    pub fn has_lost_lanes(&self) -> bool {
        !self.lost.is_empty()
    }

    /// A lane is lost, with everything that only it had. What moved on from it may have moved back.
    pub(super) fn lose(&mut self, lane: LaneId) {
        self.lost.insert(lane);
        let l = &self.lanes[&lane];
        let alive = l.things.values().map(|t| (t.object.id, t.object.birth));
        let ended = l.ends.keys().copied();
        let pushed = l.pushed.iter().map(|(id, (birth, _))| (*id, *birth));
        self.doubtful.extend(alive.chain(ended).chain(pushed));
        self.owners.values_mut().for_each(|owners| {
            owners.remove(&lane);
        });
    }

    /// Nothing of a lower epoch follows in a lane.
    pub(super) fn raise_epoch(&mut self, lane: LaneId, epoch: Epoch) {
        let l = self.lanes.get_mut(&lane).expect("every lane is known");
        l.epoch = l.epoch.max(epoch);
    }

    /// A process of a lane has died: decisions that were not written yet are lost with it.
    pub(super) fn died(&mut self, lane: LaneId) {
        if let Some(l) = self.lanes.get_mut(&lane) {
            l.undecided.clear();
        }
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
            // What has moved on is marked where it is.
            let mut ended = lane.ends(id).filter(|end| !matches!(end.ending, Ending::Moved(_)));
            alive.is_some_and(|thing| thing.object.marks.iter().any(is))
                || ended.any(|end| end.marks.iter().any(is))
        })
    }

    /// Objects that are neither ended nor parked, with their lane.
    pub fn unfinished(&self) -> Vec<(LaneId, ObjectId)> {
        let mut found = Vec::new();
        for (id, lane) in self.whole() {
            let waits = lane.things.values().filter(|t| !matches!(t.standing, Standing::Parked(_)));
            found.extend(waits.map(|t| (*id, t.object.id)));
        }
        found
    }

    /// The latest time before which something unfinished must not be delivered.
    pub fn latest_due(&self) -> Option<Wall> {
        let things = self.whole().flat_map(|(_, lane)| lane.things.values());
        things.filter_map(|t| t.object.not_before).max()
    }

    /// Follows an object that was pushed in a lane to where it is now.
    pub(super) fn trace_life(&self, id: ObjectId, lane: LaneId) -> Result<(), String> {
        if self.lost.contains(&lane) {
            return Ok(());
        }
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
            let transfer = match end.ending {
                Ending::Final | Ending::Discarded(_) => return Ok(()),
                Ending::Duplicate => return self.follow_duplicate(id, here),
                Ending::Moved(transfer) => transfer,
            };
            if self.lost.contains(&transfer.receiver) {
                return Ok(());
            }
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

    /// A duplicate was kept out, or gave way: the object it met must have been kept.
    fn follow_duplicate(&self, id: ObjectId, lane: LaneId) -> Result<(), String> {
        let any = self.lanes.values().any(|l| {
            l.at.get(&id).and_then(|at| l.things.get(at)).is_some_and(|t| !is_held(&t.standing))
                || l.ends(id).any(|e| matches!(e.ending, Ending::Final | Ending::Discarded(_)))
        });
        if any || self.is_doubtful(id) {
            return Ok(());
        }
        Err(format!("it ended at {} as a duplicate of nothing", lane.short()))
    }
}

fn is_held(standing: &Standing) -> bool {
    matches!(standing, Standing::Held(_) | Standing::HeldParked(..) | Standing::Shadow(_))
}

/// The sum of two books.
pub(super) fn add(a: Books, b: Books) -> Books {
    Books {
        pushed: a.pushed + b.pushed,
        emitted: a.emitted + b.emitted,
        moved_in: a.moved_in + b.moved_in,
        advanced_in: a.advanced_in + b.advanced_in,
        reclaimed: a.reclaimed + b.reclaimed,
        finalised: a.finalised + b.finalised,
        discarded: a.discarded + b.discarded,
        moved_out: a.moved_out + b.moved_out,
        advanced_out: a.advanced_out + b.advanced_out,
    }
}
