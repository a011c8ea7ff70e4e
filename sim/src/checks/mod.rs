//! The promises, each a named check in a file of its number. Everything is derived from what left
//! the nodes: committed records, deliveries and answers. The cores are never asked about
//! themselves, except for their books, digests, usage and views, which are compared with the rest.
//!
//! | promise | when it is checked | where |
//! |---|---|---|
//! | P1 durable OK | at each OK, and at the end for each | `p01_durable` |
//! | P2 no phantom | at each record and delivery | `p02_phantom` |
//! | P3 one settlement | at each record and answer | `p03_settlement`, `fold` |
//! | P4 atomic settle | at each record, delivery and answer | `p04_atomic`, `fold` |
//! | P5 lease | at each delivery | `p05_lease` |
//! | P6 fence | at each claim and record | `p06_fence` |
//! | P7 one owner | at each record and delivery | `p07_owner`, `fold` |
//! | P8 honest errors | at each answer | `p08_honest` |
//! | P9 idempotent push | at each record and answer | `p09_idempotent`, `fold` |
//! | P10 forwarding ends | at each handoff and message, and in an idle world | `p10_forwarding`, `fold` |
//! | P11 liveness | after everything has healed | `p11_liveness` |
//! | P12 fair enough | all the while | `p12_fair` |
//! | P13 books balance | in a quiet world, per lane and over all | `p13_books` |
//! | P14 bounded | all the while | `p14_bounded` |
//! | P15 independence | at each refusal | `p15_independent` |
//! | P16 detection | at each read and start, and at the end | `p16_detection` |
//! | P17 explained | at each record and view, and at the end for each object | `p17_explained`, `fold` |
//! | R1, R2, R4, R5 | at each message and answer | `rules` |

mod fold;
mod model;
mod p01_durable;
mod p02_phantom;
mod p03_settlement;
mod p04_atomic;
mod p05_lease;
mod p06_fence;
mod p07_owner;
mod p08_honest;
mod p09_idempotent;
mod p10_forwarding;
mod p11_liveness;
mod p12_fair;
mod p13_books;
mod p14_bounded;
mod p15_independent;
mod p16_detection;
mod p17_explained;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dpc_core::effect::{Delivery, TypeView};
use dpc_core::ids::{Birth, Epoch, LaneId, ObjectId, RecordNumber};
use dpc_core::input::{Settle, Transaction};
use dpc_core::object::{Hash16, Push, Token};
use dpc_core::{Answer, Mono};

pub use model::{Model, Thing};
pub(crate) use p05_lease::Held;
pub(crate) use p12_fair::Idle;

use crate::coverage::Coverage;

/// One life of one id: a second push of an id elsewhere is another one.
pub type Key = (ObjectId, Birth);

/// The fencing key of a delivery: moves, epoch, lease.
type Fence = (u32, Epoch, u64);

/// All checks over one run.
#[derive(Debug)]
pub struct Checker {
    /// What the committed records say.
    pub model: Model,
    broken: Vec<String>,
    /// Pushes by id and lane.
    pushes: BTreeMap<(ObjectId, LaneId), Pushed>,
    /// The highest fencing key delivered of each object.
    fences: BTreeMap<Key, Fence>,
    /// Settles that were answered done, by token.
    done: BTreeMap<Token, Hash16>,
    /// Settles that may have been done: what was asked, by token.
    asked: BTreeMap<Token, Vec<Settle>>,
    /// Leases that were given and have not ended, by lane and object.
    leased: BTreeMap<LaneId, BTreeMap<Key, Held>>,
    /// The highest epoch with which each lane was claimed.
    claimed: BTreeMap<LaneId, Epoch>,
    /// Patterns that anybody has ever subscribed to.
    wanted: BTreeSet<dpc_core::names::Pattern>,
    /// Objects that waited beside an idle subscriber when that was last looked at: since when, and
    /// the fencing key of their last delivery before.
    kept_waiting: BTreeMap<(LaneId, ObjectId), (Mono, Fence)>,
    deliveries: u64,
    said: rules::Said,
    /// Nothing is looked at.
    off: bool,
}

/// What clients know of one id at one node.
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
            claimed: BTreeMap::new(),
            wanted: BTreeSet::new(),
            kept_waiting: BTreeMap::new(),
            deliveries: 0,
            said: rules::Said::default(),
            off: false,
        }
    }

    /// Checks nothing from here on and finds nothing broken: what is left is what the cores and the
    /// world around them cost.
    pub fn turn_off(&mut self) {
        self.off = true;
    }

    /// The first broken promise.
    pub fn broken(&self) -> Option<&str> {
        if self.off {
            return None;
        }
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
        if self.off {
            return;
        }
        let before = self.broken.len();
        self.p06_epoch_of_record(lane, bytes);
        self.model.fold(lane, number, bytes, &mut self.broken, seen);
        if self.broken.len() == before {
            self.p02_new_in_log(lane);
        }
    }

    /// A lane has been claimed, and what was found in it has been told. The process before is dead,
    /// and decisions that it had not written yet are lost with it.
    pub fn on_claimed(&mut self, lane: LaneId) {
        self.model.died(lane);
    }

    /// A client is about to push an object, whose id it has chosen, at a lane.
    pub fn on_push(&mut self, lane: LaneId, push: &Push) {
        if self.off {
            return;
        }
        let id = push.id.expect("the world chooses ids");
        let p = self.pushes.entry((id, lane)).or_default();
        p.contents.insert(push.content_hash());
        p.tried += 1;
        p.open += 1;
    }

    /// P1, P8 and P9 of the answer to a push that was noted with [`Checker::on_push`]. An answer that
    /// leaves the outcome open is not told.
    pub fn on_pushed(&mut self, lane: LaneId, push: &Push, answer: &Answer) {
        if self.off {
            return;
        }
        let id = push.id.expect("the world chooses ids");
        let p = self.pushes.get_mut(&(id, lane)).expect("it was noted");
        p.open -= 1;
        match answer {
            _ if self.model.is_lost(lane) => {}
            Answer::Pushed { id: answered, already } => {
                self.p09_pushed(lane, push, *answered, *already);
                self.p01_push_is_durable(lane, id, *already);
            }
            Answer::Refused(_) => {
                p.refused += 1;
                self.p08_push_refused(lane, id);
            }
            other => self.fail("P8", format!("a push was answered {other}")),
        }
    }

    pub(crate) fn on_delivery(
        &mut self,
        lane: LaneId,
        delivery: &Delivery,
        held: Held,
        seen: &mut Coverage,
    ) {
        self.deliveries += 1;
        if self.off || self.model.is_lost(lane) {
            return;
        }
        self.p02_p04_delivered_as_committed(lane, delivery);
        self.p05_fencing_key_grows(delivery);
        self.p05_no_overlap(lane, delivery, held);
        self.p07_sole_owner(lane, delivery);
        seen.add_if("delivered again", delivery.object.deliveries > 1);
    }

    /// A client is about to settle a lease; the ids of its emits are chosen.
    pub fn on_settle(&mut self, token: &Token, _version: u32, settle: &Settle) {
        if self.off {
            return;
        }
        for emit in settle.emits() {
            let id = emit.id.expect("the world chooses ids");
            let p = self.pushes.entry((id, token.lane)).or_default();
            p.contents.insert(emit.content_hash());
            p.tried += 1;
        }
        self.asked.entry(*token).or_default().push(settle.clone());
        self.p05_settling(token);
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
        if self.off {
            return;
        }
        let content = settle.content_hash();
        match answer {
            _ if self.model.is_lost(token.lane) => {}
            Answer::Done(n) if *n > 0 => {
                self.p03_repeated(token, content, seen);
                self.p01_settle_is_durable(token, version, content);
                self.p04_emits_are_there(settle);
                self.p05_settled(token);
            }
            Answer::RefusedAt(_, refusal) | Answer::Refused(refusal) => {
                seen.add("settle refused");
                self.p03_repeat_refused(token, content, refusal);
                self.p08_settle_refused(token, content);
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
        if self.off || self.model.is_lost(lane) {
            return;
        }
        self.p04_p08_transaction(lane, tokens, transaction, answer);
        if matches!(answer, Answer::Done(_)) {
            tokens.iter().for_each(|(token, _)| self.p05_settled(token));
        }
    }

    /// P1 after everything: each push that was answered OK has an end, is parked, or lives.
    pub fn check_all_kept(&mut self) {
        self.p01_all_kept();
    }

    /// P13 of a quiet lane.
    pub fn check_books(&mut self, lane: LaneId, types: &[TypeView]) {
        self.p13_books_balance(lane, types);
    }
}
