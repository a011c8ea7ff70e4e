//! The node's state machine: dispatch of inputs, and what all its parts share.

use std::collections::BTreeSet;

use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

use crate::agenda::Agenda;
use crate::catalogue::{Catalogue, QueueId};
use crate::decision::Decision;
use crate::effect::{Answer, Effect, Effects, Record};
use crate::estate::Estates;
use crate::fence::Fence;
use crate::ids::{Epoch, Incarnation, LaneId, Loc, ObjectId, RecordNumber};
use crate::input::{Input, ReplyTo};
use crate::lane::Lane;
use crate::lease::Leases;
use crate::limits::{GENERATION_JUMP_MAX, Limits};
use crate::loads::Loads;
use crate::memory::{Memory, Phase, Slot, Then};
use crate::mesh::Mesh;
use crate::message::Protocols;
use crate::mint::Mint;
use crate::names::Name;
use crate::parts::Parts;
use crate::planted::{Bug, planted};
use crate::queues::Queues;
use crate::record::{Entry, PeerSeen, Vocabulary};
use crate::recording::{SlicedMap, SlicedSet};
use crate::refusal::Refusal;
use crate::remember::Remembered;
use crate::resolve::Resolving;
use crate::scan::Scans;
use crate::store::Claimed;
use crate::subscriptions::{GroupId, Subscriptions};
use crate::take::Takes;
use crate::time::{Mono, Now, Span, Wall};
use crate::timers::Timer;
use crate::transfer::Transfers;

/// How long entries that nobody waits for may stay in memory before they make a record.
const RIDE_ALONG: Span = Span::secs(1);

/// Generation counters are reserved durably in blocks of this size.
const GENERATION_BLOCK: u64 = 1_024;

/// Who a core is. Fixed for its life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The node's name.
    pub name: Name,
    /// Its lane.
    pub lane: LaneId,
    /// This start of the process; never zero.
    pub incarnation: Incarnation,
    /// Everything random comes from here, in a salted stream per purpose.
    pub seed: u64,
    /// Bounds and defaults.
    pub limits: Limits,
    /// The versions of the link protocol that it speaks.
    pub protocols: Protocols,
    /// `self_fence_after`, where other nodes can claim the lane: without proof of ownership for so
    /// long nothing is delivered (R6). `None` for a lane on a disk of its own.
    pub fence: Option<Span>,
    /// The lane was adopted: it is run until it is empty, and what is delayed or parked goes to
    /// this lane of the adopting process (R8).
    pub heir: Option<LaneId>,
}

/// One node's state: one lane and everything known about its objects, subscribers and peers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Core {
    pub(crate) name: Name,
    pub(crate) limits: Limits,
    pub(crate) now: Now,
    pub(crate) started: bool,
    /// Where others can claim the lane.
    pub(crate) fence: Option<Fence>,
    /// Another owner has it.
    pub(crate) fenced: bool,
    pub(crate) estates: Estates,
    pub(crate) lane: Lane,
    pub(crate) catalogue: Catalogue,
    pub(crate) parts: Parts,
    pub(crate) remembered: Remembered,
    pub(crate) memory: Memory,
    pub(crate) queues: Queues,
    pub(crate) subs: Subscriptions,
    pub(crate) leases: Leases,
    pub(crate) takes: Takes,
    pub(crate) mesh: Mesh,
    pub(crate) transfers: Transfers,
    pub(crate) loads: Loads,
    pub(crate) resolving: Resolving,
    pub(crate) scans: Scans,
    #[serde(skip)]
    pub(crate) timers: SlicedSet<(Mono, Timer)>,
    /// Nothing is due before this; perhaps nothing then, either.
    #[serde(skip)]
    pub(crate) timers_from: Mono,
    /// The deadline of [`Timer::Riders`] is known to be set: nearly every input asks for it.
    #[serde(skip)]
    pub(crate) riders_timed: bool,
    /// Deadlines that many events ask for: the earliest counts.
    #[serde(skip)]
    pub(crate) once: SlicedMap<Timer, Mono>,
    /// Effects of [`Core::take_record`], which go out with the next call.
    #[serde(skip)]
    pub(crate) later: Effects,
    /// Records to look into when their time comes: delayed or expiring objects on disk.
    #[serde(skip)]
    pub(crate) due_pages: SlicedSet<(Wall, RecordNumber)>,
    /// Records with something in them that is past its expiry by a clock that is not trusted: they
    /// are looked into when the clock is trusted again, or put back.
    pub(crate) doubted: BTreeSet<RecordNumber>,
    /// Objects in memory that expire.
    #[serde(skip)]
    pub(crate) expiring: SlicedSet<(Wall, ObjectId)>,
    /// Begun leases of the process before: their objects count one failure when they are read.
    #[serde(skip)]
    pub(crate) blamed: SlicedSet<Loc>,
    /// Groups that may have something to take.
    pub(crate) hungry: Agenda<GroupId>,
    /// The group that was given something last.
    pub(crate) last_fed: Option<GroupId>,
    /// Groups that found the node's leases used up: they try again when one ends.
    pub(crate) starved: BTreeSet<GroupId>,
    /// Queues whose objects may have somewhere to go.
    pub(crate) stirred: Agenda<QueueId>,
    /// Decisions of the open record, with the objects they were taken for.
    pub(crate) decisions: Vec<(Decision, Vec<(ObjectId, u32)>)>,
    #[serde(skip)]
    pub(crate) pieces: crate::restore::Pieces,
    pub(crate) disk_low: bool,
    /// When housekeeping on wall time is due.
    pub(crate) wall_at: Option<Mono>,
    pub(crate) draining: Option<Mono>,
    pub(crate) drain_waiters: Vec<ReplyTo>,
    /// The wall clock has jumped ahead and is trusted again then.
    pub(crate) clock_trusted_at: Option<Mono>,
    generation: u64,
    generation_reserved: u64,
    /// The random streams, one a purpose.
    pub(crate) pick: Pcg64Mcg,
    pub(crate) jitter: Pcg64Mcg,
    ids: Mint,
    /// The strings of the records that were read back. Nothing that is decided depends on them.
    #[serde(skip)]
    pub(crate) vocabulary: Vocabulary,
}

impl Core {
    /// A core before its lane has been replayed. Call [`Core::restore_part`] for each part of the
    /// id index, [`Core::restore`] for each record from the last checkpoint on, then
    /// [`Core::start`].
    pub fn new(settings: Settings, claimed: Claimed) -> Self {
        assert!(settings.incarnation.0 != 0, "an incarnation is never zero");
        let target = settings.limits.record_target_bytes;
        let mut limits = settings.limits;
        limits.max_hops += u32::from(planted(Bug::OneHopTooMany));
        let part_ids = limits.part_ids;
        let stream = |salt: u64| Pcg64Mcg::new(u128::from(settings.seed ^ salt) << 1 | 1);
        Self {
            name: settings.name,
            limits,
            now: Now::default(),
            started: false,
            fence: settings.fence.map(Fence::new),
            fenced: false,
            estates: Estates::new(settings.heir),
            lane: Lane::new(settings.lane, claimed, settings.incarnation, target, settings.seed),
            catalogue: Catalogue::default(),
            parts: Parts::new(claimed.first),
            remembered: Remembered::new(settings.seed, part_ids),
            memory: Memory::new(settings.seed),
            queues: Queues::new(settings.seed),
            subs: Subscriptions::default(),
            leases: Leases::new(settings.seed),
            takes: Takes::default(),
            mesh: Mesh::new(settings.protocols),
            transfers: Transfers::default(),
            loads: Loads::default(),
            resolving: Resolving::default(),
            scans: Scans::default(),
            timers: SlicedSet::default(),
            timers_from: Mono(0),
            riders_timed: false,
            once: SlicedMap::default(),
            later: Effects::new(),
            doubted: BTreeSet::new(),
            due_pages: SlicedSet::default(),
            expiring: SlicedSet::default(),
            blamed: SlicedSet::default(),
            hungry: Agenda::default(),
            last_fed: None,
            starved: BTreeSet::new(),
            stirred: Agenda::default(),
            decisions: Vec::new(),
            pieces: crate::restore::Pieces::default(),
            disk_low: false,
            wall_at: None,
            draining: None,
            drain_waiters: Vec::new(),
            clock_trusted_at: None,
            generation: 0,
            generation_reserved: 0,
            pick: stream(0x7069_636b),
            jitter: stream(0x6a69_7474),
            ids: Mint::new(stream(0x6964_7300)),
            vocabulary: Vocabulary::with_seed(settings.seed),
        }
    }

    /// Before [`Self::start`]: the history that follows the log holds everything below this record, and
    /// the log is not cut above. Without it nothing follows the log until the first
    /// [`Input::HistoryStands`].
    pub fn restore_history(&mut self, stands: RecordNumber) {
        self.parts.restore_history(stands);
    }

    /// Ends the recovery: from here on inputs are handled. What the log left in doubt is taken up.
    pub fn start(&mut self, now: Now, fx: &mut Effects) {
        assert!(!self.started, "a core starts once");
        self.started = true;
        self.now = now;
        self.parts.begin_use(now.mono);
        self.drop_cut_pages();
        self.catalogue.recount();
        self.reserve_generations();
        self.scan_blamed();
        self.stirred.extend(self.queues.waiting());
        self.look_at_wall(now.wall);
        self.prove(fx);
        if self.is_adopted() {
            // It takes nothing new, for as long as it runs.
            self.draining = Some(now.mono);
        }
        self.settle_down(fx);
    }

    /// Handles one input; its consequences are appended to `fx`, in order.
    ///
    /// `now.mono` never goes back between calls.
    pub fn handle(&mut self, now: Now, input: Input, fx: &mut Effects) {
        assert!(self.started, "a core is started before it is used");
        assert!(now.mono >= self.now.mono, "the monotonic clock goes forward");
        let jumped = self.watch_clock(now, fx);
        self.now = now;
        if jumped {
            // What was to be looked at by the clock as it was may be due by the clock as it is.
            self.look_at_wall(now.wall);
        }
        if self.fenced {
            return self.answer_fenced(&input, fx);
        }
        // First of all: a part of the index is put before anything is looked up in it.
        fx.append(&mut self.later);
        self.dispatch(input, fx);
        self.fire_timers(fx);
        self.settle_down(fx);
    }

    pub(crate) fn dispatch(&mut self, input: Input, fx: &mut Effects) {
        match input {
            Input::Wake => {}
            Input::Push(to, push) => self.handle_push(to, push, fx),
            Input::OpenSession(session) => self.handle_open_session(session),
            Input::CloseSession(session) => self.handle_close_session(session, fx),
            Input::Subscribe(to, subscribe) => self.handle_subscribe(to, subscribe, fx),
            Input::Unsubscribe(to, session, sub) => self.handle_unsubscribe(to, session, sub, fx),
            Input::Begin(to, lessee, leases) => self.handle_begin(to, lessee, &leases, fx),
            Input::Extend(to, lessee, leases) => self.handle_extend(to, lessee, &leases, fx),
            Input::Settle(to, lessee, settle) => self.handle_settle(to, lessee, settle, fx),
            Input::Transaction(to, lessee, t) => self.handle_transaction(to, lessee, t, fx),
            Input::Take(to, take) => self.handle_take(to, take, fx),
            Input::Operator(to, order) => self.handle_operator(to, order, fx),
            Input::Committed(number) => self.handle_committed(number, fx),
            Input::Loaded(number, bytes) => self.handle_loaded(number, &bytes, fx),
            Input::LookedUp { part, id, loc } => self.handle_looked_up(part, id, loc, fx),
            Input::HistoryStands(number) => self.handle_history_stands(number, fx),
            Input::Disk { low } => self.disk_low = low,
            Input::Renewed => self.handle_renewed(),
            Input::Fenced(epoch) => self.fence_off(epoch, fx),
            Input::Adopts { lane, runs } => self.handle_adopts(lane, runs),
            Input::LaneRetired(lane) => self.handle_lane_retired(lane),
            Input::LinkUp { link, dialled } => self.handle_link_up(link, dialled, fx),
            Input::LinkDown(link) => self.handle_link_down(link, fx),
            Input::Peer(link, message) => self.handle_peer(link, message, fx),
        }
    }

    /// Closes the open record, if somebody waits for it, and hands it to the driver, who appends
    /// it and says [`Input::Committed`]. Records are taken, and must be committed, in order.
    pub fn take_record(&mut self, now: Now) -> Option<Record> {
        if self.fenced {
            return None;
        }
        self.write_decisions();
        if self.parts.is_full(&self.remembered, &self.limits) {
            self.finish_part();
        }
        let (record, sealed) = self.lane.take(now)?;
        self.catalogue.close(sealed.number, now.wall, sealed.bytes, sealed.entries);
        self.parts.grow(u64::from(sealed.bytes));
        self.parts.note_use(sealed.body_bytes(), now.mono);
        self.go_on_ending(false);
        self.write_pages_ahead(sealed.number);
        self.offer_early(sealed.number);
        Some(record)
    }

    /// Whether the driver should take a record now, with so many under way at a store that takes `most`
    /// at a time. One that is not full gathers what comes while those before it are under way, so beside
    /// others only full ones go.
    pub fn may_append(&self, under_way: usize, most: usize) -> bool {
        under_way == 0 || under_way < most && !self.fenced && self.lane.has_full()
    }

    /// Whether taking a record had effects that wait for the next call: it comes at once, at the latest
    /// with [`Input::Wake`].
    pub fn owes_effects(&self) -> bool {
        !self.later.is_empty() && !self.fenced
    }

    /// Whether its log is being written, or survivors carried forward in it: a core that is recovered
    /// from the log now may not know all that this one knows. What is to be written when something
    /// else is, such as steps of the history, does not count.
    pub fn is_writing(&self) -> bool {
        self.lane.is_writing() || self.scans.is_carrying()
    }

    /// The lane's id.
    pub fn lane_id(&self) -> LaneId {
        self.lane.id
    }

    /// The lane's epoch.
    pub fn epoch(&self) -> Epoch {
        self.lane.epoch
    }

    /// This start of the process.
    pub fn incarnation(&self) -> Incarnation {
        self.lane.incarnation
    }

    /// The node's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What follows from an input beyond its direct answer: deliveries, offers, adverts, pages to
    /// read, parts to give up.
    fn settle_down(&mut self, fx: &mut Effects) {
        fx.append(&mut self.later);
        if planted(Bug::PeersBeforeSubscribers) {
            self.feed_peers(fx);
        }
        self.feed_groups(fx);
        self.feed_takes(fx);
        self.feed_peers(fx);
        self.catalogue.sweep();
        self.tend_log(fx);
        self.tend_estate(fx);
        self.check_drained(fx);
        let rides = self.lane.has_riders() || !self.decisions.is_empty();
        if rides && !std::mem::replace(&mut self.riders_timed, true) {
            self.arm_once(RIDE_ALONG, Timer::Riders);
        }
    }

    /// The edge has made a record durable.
    fn handle_committed(&mut self, number: RecordNumber, fx: &mut Effects) {
        let sent = self.lane.commit(number);
        self.on_proof(sent);
        let mut pending = self.memory.take_pending(number);
        for (slot, then) in pending.drain(..) {
            match then {
                // What was offered before this commit is on its way already.
                Then::Flow if self.memory.get(slot).phase != Phase::Writing => {}
                Then::Flow | Then::FlowAtCommit => self.flow(slot),
                Then::Leave => self.leave(slot),
                Then::Hold => {}
            }
        }
        self.memory.give_back(pending);
        self.load_committed(number, fx);
        self.on_transfers_committed(number);
        self.on_truncation_committed(number, fx);
    }

    /// Queues an answer for the moment the open record is durable.
    pub(crate) fn reply_durable(&mut self, to: ReplyTo, answer: Answer, fx: &mut Effects) {
        let after = Some(self.lane.urge());
        fx.push(Effect::Reply { to, answer, after });
    }

    /// Queues an answer for the moment everything written so far is durable, which may be now.
    pub(crate) fn reply_when_durable(&mut self, to: ReplyTo, answer: Answer, fx: &mut Effects) {
        let after = self.lane.barrier();
        fx.push(Effect::Reply { to, answer, after });
    }

    /// Answers at once.
    pub(crate) fn reply(&self, to: ReplyTo, answer: Answer, fx: &mut Effects) {
        fx.push(Effect::Reply { to, answer, after: None });
    }

    /// Refuses. State is unchanged.
    pub(crate) fn refuse(&self, to: ReplyTo, refusal: Refusal, fx: &mut Effects) {
        self.reply(to, Answer::Refused(Box::new(refusal)), fx);
    }

    /// Refusals that every request for more work meets.
    pub(crate) fn check_open_for_work(&self) -> Result<(), Refusal> {
        let held_up = planted(Bug::PeersHoldUpPushes) && !self.transfers.outgoing.is_empty();
        if self.draining.is_some() || held_up {
            return Err(Refusal::new(
                crate::refusal::Code::Unavailable,
                "DRAINING",
                "the node is draining; push at another node",
            ));
        }
        if self.disk_low {
            return Err(Refusal::exhausted(
                "disk_reserve",
                0,
                "the disk is below its reserve; free space or settle objects",
            ));
        }
        let limit = self.limits.uncommitted_bytes;
        if self.lane.uncommitted() > limit {
            return Err(Refusal::exhausted(
                "uncommitted_bytes",
                limit,
                "the store is behind; retry in a moment",
            ));
        }
        Ok(())
    }

    pub(crate) fn new_id(&mut self) -> ObjectId {
        self.ids.next(self.now.wall)
    }

    /// Adds an object to a decision of the open record; equal decisions are stored once.
    pub(crate) fn decide(&mut self, decision: Decision, object: (ObjectId, u32)) {
        self.decide_all(decision, [object]);
    }

    /// The same for objects of a group.
    pub(crate) fn decide_all(
        &mut self,
        decision: Decision,
        group: impl IntoIterator<Item = (ObjectId, u32)>,
    ) {
        if planted(Bug::OfferNotRecorded) && decision.step == crate::decision::Step::Offer {
            return;
        }
        let same = self.decisions.iter_mut().rev().take(8).find(|(d, _)| *d == decision);
        match same {
            Some((_, objects)) => objects.extend(group),
            None => self.decisions.push((decision, group.into_iter().collect())),
        }
    }

    pub(crate) fn write_decisions(&mut self) {
        for (decision, objects) in self.decisions.drain(..) {
            for chunk in objects.chunks(1_024) {
                self.lane.reserve(chunk.len() * 18);
                self.lane.write_decision(&decision, chunk);
            }
        }
    }

    /// A generation counter above every one seen.
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.reserve_generations();
        self.generation
    }

    /// Takes note of a counter. One that jumps too far is damage.
    pub(crate) fn see_generation(&mut self, counter: u64) -> bool {
        if counter > self.generation.saturating_add(GENERATION_JUMP_MAX) {
            return false;
        }
        self.generation = self.generation.max(counter);
        true
    }

    /// The highest counter seen.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Up to where counters are reserved in the log.
    pub(crate) fn generation_reserved(&self) -> u64 {
        self.generation_reserved
    }

    /// A counter that the log has seen, without being reserved here.
    pub(crate) fn restore_seen(&mut self, counter: u64) {
        self.generation = self.generation.max(counter);
    }

    pub(crate) fn restore_generation(&mut self, counter: u64) {
        self.generation = self.generation.max(counter);
        self.generation_reserved = self.generation_reserved.max(counter);
    }

    /// A counter is used only below what the log has reserved, so that it never falls back.
    fn reserve_generations(&mut self) {
        if self.generation + GENERATION_BLOCK > self.generation_reserved {
            self.generation_reserved = self.generation + 2 * GENERATION_BLOCK;
            if planted(Bug::GenerationsFallBack) {
                return;
            }
            self.lane.write(&Entry::Generation(self.generation_reserved));
            // A counter that has jumped with what others told is above everything reserved before.
            self.mesh.adverts_after = self.lane.urge();
        }
    }

    pub(crate) fn write_peer(&mut self, peer: PeerSeen) {
        self.lane.write(&Entry::Peer(peer));
    }

    /// Whether the log's oldest parts should be written anew.
    pub(crate) fn pages_are_many(&self) -> bool {
        self.catalogue.len() > self.limits.pages
    }

    /// The object in a slot, for rules that only read.
    pub(crate) fn object(&self, slot: Slot) -> &crate::object::Object {
        &self.memory.get(slot).object
    }
}
