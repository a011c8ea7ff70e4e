//! The promises, each as a named check. Everything is derived from what left the nodes: committed
//! records, deliveries and answers. The cores are never asked about themselves, except for their
//! books and their digests.

mod model;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dpc_core::Answer;
use dpc_core::effect::{Books, Delivery, TypeView};
use dpc_core::ids::{Birth, Epoch, LaneId, ObjectId, RecordNumber};
use dpc_core::input::{Settle, Transaction};
use dpc_core::names::TypeName;
use dpc_core::object::{Hash16, Push, Token};
use dpc_core::record::TransferId;

pub use model::{Model, Thing};
pub(crate) use rules::Rules;

use crate::coverage::Coverage;

/// One life of one id: a second push of an id elsewhere is another one.
pub type Key = (ObjectId, Birth);

/// All checks over one run.
#[derive(Debug)]
pub struct Checker {
    /// What the committed records say.
    pub model: Model,
    broken: Vec<String>,
    /// Pushes by id and lane: the contents tried there, and whether one was answered OK.
    pushes: BTreeMap<(ObjectId, LaneId), Pushed>,
    /// The highest fencing key delivered of each object.
    fences: BTreeMap<Key, (u32, Epoch, u64)>,
    /// Settles that were answered done, by token.
    done: BTreeMap<Token, Hash16>,
    /// Settles that may have been done: what was asked, by token.
    asked: BTreeMap<Token, Vec<Settle>>,
    /// Leases that were given and have not ended, by lane.
    leased: BTreeMap<LaneId, BTreeMap<Key, u64>>,
    deliveries: u64,
}

#[derive(Debug, Default)]
struct Pushed {
    contents: BTreeSet<Hash16>,
    tried: u64,
    /// Tries without an answer: they may or may not have been done.
    open: u64,
    ok: Option<Hash16>,
    refused: u64,
}

impl Checker {
    /// Checks for a world whose objects may cross so many links for one generation.
    pub fn new(max_hops: u32) -> Self {
        Self {
            model: Model::new(max_hops),
            broken: Vec::new(),
            pushes: BTreeMap::new(),
            fences: BTreeMap::new(),
            done: BTreeMap::new(),
            asked: BTreeMap::new(),
            leased: BTreeMap::new(),
            deliveries: 0,
        }
    }

    /// The first broken promise.
    pub fn broken(&self) -> Option<&str> {
        self.broken.first().map(String::as_str)
    }

    /// Objects delivered so far.
    pub fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Pushes answered OK so far.
    pub fn acknowledged(&self) -> usize {
        self.pushes.values().filter(|p| p.ok.is_some()).count()
    }

    /// Notes a broken promise that the caller has found by other means.
    pub fn fail(&mut self, promise: &str, what: String) {
        self.broken.push(format!("{promise}: {what}"));
    }

    /// A lane comes into the world, with an empty log.
    pub fn add_lane(&mut self, lane: LaneId) {
        self.model.add_lane(lane);
        self.leased.insert(lane, BTreeMap::new());
    }

    /// An adopted lane gives what follows no demand to its heir.
    pub(crate) fn on_estate(&mut self, transfer: TransferId) {
        self.model.estates.insert(transfer);
    }

    /// P6: claims of a lane grow.
    pub(crate) fn on_claimed(&mut self, lane: LaneId, epoch: Epoch) {
        self.model.claimed(lane, epoch, &mut self.broken);
    }

    /// R8: a lane is retired only when nothing is left in it.
    pub(crate) fn on_retired(&mut self, lane: LaneId) {
        let left = self.model.lane(lane).things().next().map(|thing| thing.object.id);
        if let Some(id) = left {
            self.fail("R8", format!("{} is retired and has {id}", lane.short()));
        }
    }

    /// A record is durable, or has been found durable.
    pub fn on_committed(
        &mut self,
        lane: LaneId,
        number: RecordNumber,
        bytes: &Bytes,
        seen: &mut Coverage,
    ) {
        let before = self.broken.len();
        self.model.fold(lane, number, bytes, &mut self.broken, seen);
        if self.broken.len() == before {
            self.check_fresh(lane);
        }
    }

    /// P2 of the log itself: what is new was pushed there by somebody, or emitted.
    fn check_fresh(&mut self, lane: LaneId) {
        for (id, entity_hash) in std::mem::take(&mut self.model.fresh) {
            let known = self.pushes.get(&(id, lane));
            if !known.is_some_and(|p| p.contents.contains(&entity_hash)) {
                self.broken.push(format!("P2: {id:?} was never pushed at {}", lane.short()));
            }
        }
    }

    /// A client is about to push an object, whose id it has chosen, at a lane.
    pub fn on_push(&mut self, lane: LaneId, push: &Push) {
        let id = push.id.expect("the world chooses ids");
        let p = self.pushes.entry((id, lane)).or_default();
        p.contents.insert(push.entity.hash());
        p.tried += 1;
        p.open += 1;
    }

    /// P1, P8 and P9 of the answer to a push that was noted with [`Checker::on_push`]. An answer that
    /// leaves the outcome open is not told.
    pub fn on_pushed(&mut self, lane: LaneId, push: &Push, answer: &Answer) {
        let id = push.id.expect("the world chooses ids");
        let hash = push.entity.hash();
        let p = self.pushes.get_mut(&(id, lane)).expect("it was noted");
        p.open -= 1;
        match answer {
            Answer::Pushed { id: answered, already } => {
                if *answered != id {
                    self.fail("P9", format!("pushed {id}, answered {answered}"));
                    return;
                }
                let first = p.ok.replace(hash);
                let alone_here =
                    self.pushes.range((id, LaneId([0; 16]))..=(id, LaneId([255; 16]))).count() == 1;
                let p = self.pushes.get(&(id, lane)).expect("just found");
                // Of one id pushed at two nodes either may be the one that is known.
                let reused = first.is_some_and(|h| h != hash) && alone_here;
                let alone = p.tried == 1;
                if reused {
                    self.fail("P9", format!("{id} was taken with two contents"));
                }
                if *already && alone && !self.model.lane(lane).knows(id) {
                    self.fail("P9", format!("{id} is said to exist and does not"));
                }
                if !self.model.lane(lane).knows(id) {
                    self.fail("P1", format!("{id} was answered OK and is not durable"));
                }
            }
            Answer::Refused(_) => {
                p.refused += 1;
                let certain = p.ok.is_none() && p.refused == p.tried;
                if certain && self.model.lane(lane).was_pushed(id) {
                    self.fail("P8", format!("{id} was refused and is there"));
                }
            }
            other => self.fail("P8", format!("a push was answered {other}")),
        }
    }

    /// P2, P4, P5: what is delivered is durable as it is, and the fencing key grows.
    pub(crate) fn on_delivery(&mut self, lane: LaneId, delivery: &Delivery, seen: &mut Coverage) {
        self.deliveries += 1;
        let object = &delivery.object;
        let key = (object.id, object.birth);
        let name = lane.short();
        match self.model.lane(lane).flowing(object.id) {
            None => {
                let what = format!("{} was delivered at {name} and is not ready there", object.id);
                self.fail("P4", what);
            }
            Some(thing) => {
                let o = &thing.object;
                let same = o.version == object.version
                    && o.entity == object.entity
                    && o.birth == object.birth
                    && o.handled == object.handled;
                if !same {
                    self.fail("P2", format!("{} was delivered as it never was", object.id));
                }
            }
        }
        let fence = (object.moves, delivery.epoch, delivery.lease);
        if !object.possible_duplicate
            && let Some(before) = self.fences.insert(key, fence)
            && before >= fence
        {
            self.fail("P5", format!("{} had {before:?}, then {fence:?}", object.id));
        }
        seen.add_if("delivered again", object.deliveries > 1);
    }

    pub(crate) fn on_death(&mut self, lane: LaneId) {
        if let Some(leased) = self.leased.get_mut(&lane) {
            leased.clear();
        }
    }

    /// A client is about to settle a lease; the ids of its emits are chosen.
    pub fn on_settle(&mut self, token: &Token, _version: u32, settle: &Settle) {
        for emit in &settle.emits {
            let id = emit.id.expect("the world chooses ids");
            let p = self.pushes.entry((id, token.lane)).or_default();
            p.contents.insert(emit.entity.hash());
            p.tried += 1;
        }
        self.asked.entry(*token).or_default().push(settle.clone());
    }

    /// P1 for settles, P3 for repeats, P4 for emits.
    pub fn on_settled(
        &mut self,
        token: &Token,
        version: u32,
        settle: &Settle,
        answer: &Answer,
        seen: &mut Coverage,
    ) {
        let content = settle.content_hash();
        match answer {
            Answer::Done(n) if *n > 0 => {
                if let Some(before) = self.done.insert(*token, content) {
                    seen.add("settle repeated and answered the same");
                    if before != content {
                        self.fail("P3", format!("{} was settled twice, differently", token.object));
                    }
                }
                if !self.model.has_mark(token, content) {
                    let what = format!("v{version} of {} was settled OK and is not", token.object);
                    self.fail("P1", what);
                }
                let missing = settle
                    .emits
                    .iter()
                    .filter_map(|e| e.id)
                    .find(|id| !self.model.lanes().any(|l| l.was_pushed(*id)));
                if let Some(id) = missing {
                    self.fail("P4", format!("{id} was to be emitted and is not there"));
                }
            }
            Answer::RefusedAt(..) | Answer::Refused(_) => {
                seen.add("settle refused");
                let repeated =
                    self.done.get(token) == Some(&content) && self.model.keeps_mark(token, content);
                if repeated {
                    let what =
                        format!("a repeated settle of {} was refused: {answer:?}", token.object);
                    self.fail("P3", what);
                }
                let once = self.asked.get(token).is_none_or(|all| all.len() == 1);
                if once && self.model.has_mark(token, content) {
                    self.fail("P8", format!("a settle of {} was refused and done", token.object));
                }
            }
            _ => {}
        }
    }

    /// P4 and P8 of the answer to a transaction of these settles and pushes at a lane.
    pub fn on_transacted(
        &mut self,
        lane: LaneId,
        tokens: &[(Token, u32)],
        transaction: &Transaction,
        answer: &Answer,
    ) {
        let marks = tokens
            .iter()
            .zip(&transaction.settles)
            .filter(|((token, _), settle)| self.model.has_mark(token, settle.content_hash()))
            .count();
        let pushed = transaction.pushes.iter().filter_map(|p| p.id);
        let pushed = pushed.filter(|id| self.model.lane(lane).was_pushed(*id)).count();
        let (all, done) = (tokens.len() + transaction.pushes.len(), marks + pushed);
        match answer {
            Answer::Done(_) if done != all => {
                self.fail("P4", format!("{done} of {all} items of a transaction were done"));
            }
            Answer::RefusedAt(..) | Answer::Refused(_) if done != 0 => {
                self.fail("P8", format!("a refused transaction did {done} of {all} items"));
            }
            _ => {}
        }
    }

    /// P1 after everything: each push that was answered OK has an end, is parked, or lives.
    pub fn check_all_kept(&mut self) {
        let mut lost = Vec::new();
        for ((id, lane), pushed) in &self.pushes {
            let Some(_) = pushed.ok else { continue };
            if let Err(what) = self.model.trace_life(*id, *lane) {
                lost.push(format!("P1: {id} pushed at {}: {what}", lane.short()));
            }
        }
        self.broken.extend(lost);
    }

    /// P13: the books of a quiet lane balance and are the model's own.
    pub fn check_books(&mut self, lane: LaneId, types: &[TypeView]) {
        for t in types {
            let b = &t.books;
            let came = b.pushed + b.emitted + b.moved_in + b.advanced_in + b.reclaimed;
            let went = b.finalised + b.discarded + b.moved_out + b.advanced_out;
            let live = t.ready + t.leased + t.delayed + t.parked + t.offered;
            let name = lane.short();
            if came != went + live {
                let what =
                    format!("{} at {name}: {came} came, {went} went, {live} live: {t:?}", t.ty);
                self.fail("P13", what);
            }
            let own = self.model.lane(lane).books(&t.ty);
            if own != *b {
                self.fail("P13", format!("{} at {name}: {b:?}, the log says {own:?}", t.ty));
            }
        }
    }

    /// P11: what is still on its way, with where it is.
    pub fn unfinished(&self) -> Vec<(LaneId, ObjectId)> {
        self.model.unfinished()
    }

    /// The books of a type summed over all lanes.
    pub fn books(&self, ty: &TypeName) -> Books {
        self.model.lanes().map(|l| l.books(ty)).fold(Books::default(), |a, b| Books {
            pushed: a.pushed + b.pushed,
            emitted: a.emitted + b.emitted,
            moved_in: a.moved_in + b.moved_in,
            advanced_in: a.advanced_in + b.advanced_in,
            reclaimed: a.reclaimed + b.reclaimed,
            finalised: a.finalised + b.finalised,
            discarded: a.discarded + b.discarded,
            moved_out: a.moved_out + b.moved_out,
            advanced_out: a.advanced_out + b.advanced_out,
        })
    }
}
