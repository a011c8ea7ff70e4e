//! Rules of protocol.md as single messages and answers show them, from the outside: R1 and R2 (what
//! is said of a transfer stands in the log), R4 (generations never fall back), R5 (who says
//! LEASE_LOST), and what a handoff has to carry. It folds of the logs only what it needs, apart from
//! the model, so that each can be read by itself.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dpc_core::Mono;
use dpc_core::decision::Step;
use dpc_core::effect::Delivery;
use dpc_core::ids::{Incarnation, LaneId, Loc, ObjectId, RecordNumber, SessionId};
use dpc_core::message::Message;
use dpc_core::object::{Generation, Token};
use dpc_core::record::{End, Ending, Entry, How, Standing, TransferId, entries, hash_of};

use super::Key;

/// A decision is in the log at most so many records after what it explains.
const EXPLAINED_WITHIN: u64 = 100;

/// What is known from outside.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    lanes: BTreeMap<LaneId, Log>,
    counters: BTreeMap<LaneId, Counters>,
    /// Failed deliveries of an object when it moved.
    left: BTreeMap<(TransferId, ObjectId), u32>,
    /// Leases that were given and have not ended, by lane and number.
    leased: BTreeMap<(LaneId, u64), Lease>,
    /// Transfers that an adopted lane gave to its heir.
    estates: BTreeSet<TransferId>,
    /// How often each lease was asked to be settled.
    asked: BTreeMap<Token, u32>,
    /// What is broken, with the rule's name.
    broken: Vec<(&'static str, String)>,
}

/// One lane's log, as far as it matters here.
#[derive(Debug, Default)]
struct Log {
    next: RecordNumber,
    hash: [u8; 16],
    /// It was put back to an old state: nothing is known of it any more.
    lost: bool,
    things: BTreeMap<Loc, Thing>,
    held: BTreeMap<TransferId, BTreeSet<Loc>>,
    /// Transfers in of which something was kept out.
    kept_out: BTreeSet<TransferId>,
    released: BTreeSet<TransferId>,
    aborted: BTreeSet<TransferId>,
    /// Offers that a decision was recorded of: the object and its moves then.
    offered: BTreeSet<(ObjectId, u32)>,
    /// Objects that have moved on and whose offer is not recorded yet, with the record.
    unexplained: Vec<(RecordNumber, ObjectId, u32)>,
    /// Objects that have ended here for good.
    ended: BTreeSet<Key>,
}

#[derive(Clone, Copy, Debug)]
struct Thing {
    key: Key,
    failed: u32,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    object: ObjectId,
    session: Option<SessionId>,
    until: Mono,
}

/// The generation counters that a lane has told of its own demand.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    incarnation: Incarnation,
    highest: u64,
    /// The highest one of the incarnations before.
    before: u64,
}

impl Rules {
    /// What is broken, once.
    pub(crate) fn take_broken(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.broken)
    }

    fn fail(&mut self, rule: &'static str, what: String) {
        self.broken.push((rule, what));
    }

    /// A record is durable, or has been found durable.
    pub(crate) fn committed(&mut self, lane: LaneId, number: RecordNumber, bytes: &Bytes) {
        let log = self.lanes.entry(lane).or_default();
        if number < log.next || log.lost {
            return;
        }
        let Ok((header, entries)) = entries(bytes) else { return log.lost = true };
        if header.previous != log.hash {
            return log.lost = true;
        }
        (log.next, log.hash) = (number.next(), hash_of(bytes));
        for (at, entry) in entries {
            self.entry(lane, at, entry);
        }
        self.explained(lane, number);
    }

    /// P17: what was handed over was offered, and the log says so soon.
    fn explained(&mut self, lane: LaneId, number: RecordNumber) {
        let log = self.lanes.get_mut(&lane).expect("its record is folded");
        let Log { offered, unexplained, .. } = log;
        unexplained.retain(|(_, id, moves)| !offered.contains(&(*id, *moves)));
        let late = unexplained.iter().find(|(at, ..)| number.0 > at.0 + EXPLAINED_WITHIN);
        if let Some((_, id, _)) = late.copied() {
            self.unexplained(id);
        }
    }

    /// P17 at the end, when everything is quiet: nothing that was handed over is without its decision.
    pub(crate) fn all_explained(&mut self) {
        let mut whole = self.lanes.values().filter(|log| !log.lost);
        // What a record explained was taken from the list with that record.
        if let Some((_, id, _)) = whole.find_map(|log| log.unexplained.first().copied()) {
            self.unexplained(id);
        }
    }

    fn unexplained(&mut self, id: ObjectId) {
        self.fail("P17", format!("{id} was handed over, and no decision says why"));
    }

    fn entry(&mut self, lane: LaneId, at: Loc, entry: Entry) {
        let log = self.lanes.get_mut(&lane).expect("its record is folded");
        match entry {
            Entry::Object { standing: Standing::Shadow(_), .. } => {}
            Entry::Object { how, was, standing, object, .. } => {
                if let Some(was) = was.filter(|_| how != How::Received) {
                    log.things.remove(&was);
                }
                let key = (object.id, object.birth);
                log.things.insert(at, Thing { key, failed: object.failed });
                if let (How::Received, Standing::Held(t) | Standing::HeldParked(t, _)) =
                    (how, &standing)
                {
                    log.held.entry(*t).or_default().insert(at);
                }
            }
            Entry::End(end) => self.end(lane, &end),
            Entry::Released { transfer } => self.released(lane, transfer),
            Entry::Aborted { transfer } => {
                log.held.remove(&transfer);
                log.aborted.insert(transfer);
            }
            Entry::Duplicate { transfer, .. } => {
                log.kept_out.insert(transfer);
            }
            Entry::Decision { decision, objects } if decision.step == Step::Offer => {
                log.offered.extend(objects);
            }
            _ => {}
        }
    }

    fn end(&mut self, lane: LaneId, end: &End) {
        let log = self.lanes.get_mut(&lane).expect("its record is folded");
        let Some(thing) = end.was.and_then(|was| log.things.remove(&was)) else { return };
        match end.ending {
            Ending::Moved(transfer) => {
                self.left.insert((transfer, end.id), thing.failed);
                // What an adopted lane gives to its heir follows no demand, so nobody chose it.
                if !self.estates.contains(&transfer) {
                    log.unexplained.push((log.next, end.id, end.moves));
                }
            }
            Ending::Final | Ending::Discarded(_) => {
                log.ended.insert(thing.key);
            }
        }
    }

    /// What has arrived is what has left, and nothing of its id has ended here before (P9).
    fn released(&mut self, lane: LaneId, transfer: TransferId) {
        let log = self.lanes.get_mut(&lane).expect("its record is folded");
        log.released.insert(transfer);
        let held = log.held.remove(&transfer).unwrap_or_default();
        let things: Vec<Thing> = held.iter().filter_map(|at| log.things.get(at)).copied().collect();
        for thing in things {
            let (id, birth) = thing.key;
            let of_id = |key: &&Key| key.0 == id && key.1 != birth;
            let other = self.lanes[&lane].ended.iter().any(|key| of_id(&key));
            if other {
                let what = format!("{id} was taken in, and another object of its id ended here");
                self.fail("P9", what);
            }
            let left = self.left.get(&(transfer, id)).copied().unwrap_or(0);
            if thing.failed < left {
                let what = format!("{id} left with {left} failures and came with {}", thing.failed);
                self.fail("section 2", what);
            }
        }
    }

    /// A lane says something to another one.
    pub(crate) fn said(&mut self, from: LaneId, to: LaneId, message: &Message) {
        if let Message::Estate(estate) = message {
            self.estates.insert(estate.transfer);
        }
        let none = Log::default();
        let log = self.lanes.get(&from).unwrap_or(&none);
        match message {
            Message::Accept { transfer: t, refused } if refused.is_empty() => {
                // The sender may have ended its offer meanwhile.
                let held = log.held.contains_key(t) || log.released.contains(t);
                let not_held = log.kept_out.contains(t) || log.aborted.contains(t);
                if !held && !not_held && !log.lost {
                    self.fail("R1", format!("{t} is accepted and not held durably"));
                }
            }
            Message::Taken(t) if !log.released.contains(t) && !log.lost => {
                self.fail("R2", format!("{t} is called taken and is not ready durably"));
            }
            Message::Forget { sender, epoch, incarnation, through } => {
                let forgotten = |t: &&TransferId| {
                    (t.sender, t.epoch, t.incarnation) == (*sender, *epoch, *incarnation)
                        && t.n <= *through
                };
                let held = self.lanes.get(&to).map(|log| &log.held);
                // An offer that was ended is decided, even if the receiver has not heard of it.
                let moved = |t: &&TransferId| {
                    let first = (**t, ObjectId([0; 16]));
                    self.left.range(first..).next().is_some_and(|((of, _), _)| of == *t)
                };
                let doubt = held.and_then(|h| h.keys().filter(forgotten).find(moved)).copied();
                if let Some(t) = doubt {
                    self.fail("R2", format!("{t} is forgotten and still in doubt"));
                }
            }
            Message::Adverts(adverts) => {
                let own = adverts.iter().filter_map(|a| a.demand.as_ref()).map(|d| d.generation);
                own.filter(|g| g.lane == from).for_each(|g| self.told(from, g));
            }
            _ => {}
        }
    }

    /// R4: a counter of an incarnation is above all that the incarnations before it have told.
    fn told(&mut self, lane: LaneId, generation: Generation) {
        let told = self.counters.entry(lane).or_default();
        if generation.incarnation != told.incarnation {
            let before = told.before.max(told.highest);
            *told = Counters { incarnation: generation.incarnation, highest: 0, before };
        }
        told.highest = told.highest.max(generation.counter);
        let before = told.before;
        let lost = self.lanes.get(&lane).is_some_and(|log| log.lost);
        if generation.counter <= before && !lost {
            self.fail("R4", format!("{generation} is told, and {before} was told before"));
        }
    }

    /// A process has died, and all its leases with it.
    pub(crate) fn died(&mut self, lane: LaneId) {
        // Decisions ride along with later records: those that were not written yet died with it.
        if let Some(log) = self.lanes.get_mut(&lane) {
            log.unexplained.clear();
        }
        self.leased.retain(|(of, _), _| *of != lane);
    }

    /// Something is delivered.
    pub(crate) fn delivered(
        &mut self,
        lane: LaneId,
        session: Option<SessionId>,
        delivery: &Delivery,
    ) {
        let o = &delivery.object;
        let lease = Lease { object: o.id, session, until: delivery.until };
        self.leased.insert((lane, delivery.lease), lease);
    }

    /// A lease has ended.
    pub(crate) fn lease_ended(&mut self, lane: LaneId, lease: u64) {
        self.leased.remove(&(lane, lease));
    }

    /// A stream has ended, and its leases with it.
    pub(crate) fn stream_ended(&mut self, lane: LaneId, session: SessionId) {
        self.leased.retain(|(of, _), lease| *of != lane || lease.session != Some(session));
    }

    /// Somebody asks to settle a lease.
    pub(crate) fn asked(&mut self, token: &Token) {
        *self.asked.entry(*token).or_default() += 1;
    }

    /// R5: LEASE_LOST was said. If nobody else has asked to settle that lease, it is not valid.
    pub(crate) fn called_lost(&mut self, token: &Token, now: Mono) {
        let lease = self.leased.get(&(token.lane, token.n));
        let valid = lease.is_some_and(|l| l.object == token.object && l.until > now);
        if valid && self.asked.get(token) == Some(&1) {
            let what = format!("a lease of {} is called lost while it is valid", token.object);
            self.fail("R5", what);
        }
    }
}
