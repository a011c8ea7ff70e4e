//! The choice for a ready object that nobody here takes: which peer gets it.
//!
//! # Why forwarding ends (P10)
//!
//! An object carries a chase: the generation of demand it follows, and the lanes it has been in
//! since it follows that generation. [`may_follow`] lets it move to a peer only for
//!
//! 1. a strictly newer generation than the one it follows, which starts its crossed lanes anew, or
//! 2. the same generation, to a lane not among the crossed ones, while fewer than `max_hops` links
//!    have been crossed.
//!
//! Generations are totally ordered and each is made by one origin at one moment: by a subscription
//! that appears, or by a refresh, which an origin grants at most once per `redistribution_delay`
//! and only while it could take the object. So let no new demand appear: finitely many generations
//! exist, the chased one never falls, each move of kind 1 takes a larger one of finitely many, and
//! between two of them there are at most `max_hops` moves of kind 2, each over a link that the
//! object has not crossed for that generation, since a link leads to a lane and lanes do not repeat.
//! Hence the moves of every object are finite, no object crosses a link twice in one direction for
//! one generation, and with no demand there is no generation to follow and no move at all. What an
//! object carries is one generation and at most `max_hops` lanes.
//!
//! An object kept from an advertised demand by rule 1 or 2 is not stuck (P11): its holder asks the
//! origin of that demand for a newer generation (`demand.rs`), and rule 1 lets it follow that.

mod early;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use rand_core::Rng;

use crate::catalogue::QueueId;
use crate::core::Core;
use crate::decision::{Candidate, Decision, Refused, Step};
use crate::effect::Effects;
use crate::ids::{LaneId, LinkId, ObjectId, RecordNumber};
use crate::limits::{OFFER_BYTES_MAX, OFFER_OBJECTS_MAX, OFFERS_MAX, PATH_MAX};
use crate::memory::Slot;
use crate::mesh::who;
use crate::message::{DemandKey, Refresh};
use crate::object::{Chase, Generation, Object};
use crate::planted::{Bug, planted};
use crate::subscriptions::may_take;
use crate::time::Span;
use crate::transfer::REFUSED_PAUSE;

/// A peer's demand for a queue, as one pass of choices sees it.
#[derive(Clone, Debug)]
struct Way {
    link: LinkId,
    key: DemandKey,
    who: Arc<str>,
    lane: LaneId,
    distance: u32,
    generation: Generation,
    /// What is left of its window.
    open: u64,
    /// Objects under way on its link.
    outstanding: u64,
    /// Whether the link may take the object: one more offer, or one more object in the offer that
    /// is being gathered.
    has_room: bool,
    /// Whether the peer has refused an offer a moment ago.
    paused: bool,
}

/// Offers being gathered.
#[derive(Default)]
struct Batches {
    /// By the place of their way in the list.
    of: BTreeMap<usize, Batch>,
    /// The record that their objects stand in, if that is not durable yet.
    early: Option<RecordNumber>,
}

/// One offer being gathered.
#[derive(Default)]
struct Batch {
    slots: Vec<Slot>,
    objects: Vec<Arc<Object>>,
    /// What the objects weigh.
    bytes: u64,
}

impl Core {
    /// Looks at every queue in which something has changed.
    pub(crate) fn feed_peers(&mut self, fx: &mut Effects) {
        let stirred = self.stirred.take();
        for &queue in &stirred {
            if self.queues.get(queue).is_empty() {
                self.set_no_demand(queue, false, fx);
                continue;
            }
            let ways: Vec<Way> = self.ways(queue).collect();
            let q = self.queues.get(queue);
            let unwanted = q.groups.is_empty() && ways.is_empty();
            self.set_no_demand(queue, unwanted, fx);
            if !ways.is_empty() {
                self.send_away(queue, ways, fx);
            }
            self.note_waiting(queue);
        }
        self.stirred.give_back(stirred);
    }

    /// The demands of peers that a queue's objects may follow.
    fn ways(&self, queue: QueueId) -> impl Iterator<Item = Way> {
        let q = self.queues.get(queue);
        // A neighbour may have many ways, and many offers: they are counted once.
        let outstanding = self.transfers.outstanding();
        let wanted = self.mesh.wanted(self.queues.ty(q.ty));
        wanted.filter(|(key, _)| may_take(&key.processor, &q.handled)).filter_map(
            move |(key, link)| {
                let l = self.mesh.link(*link)?;
                let remote = l.demands.get(key)?;
                let (offers, outstanding) = outstanding.get(link).copied().unwrap_or_default();
                let open = remote.demand.window.saturating_sub(remote.offered);
                Some(Way {
                    link: *link,
                    key: key.clone(),
                    who: Arc::clone(&l.who),
                    lane: l.lane,
                    distance: remote.demand.distance,
                    generation: remote.demand.generation,
                    open,
                    outstanding,
                    has_room: offers < OFFERS_MAX,
                    paused: remote.paused_until > self.now.mono,
                })
            },
        )
    }

    /// Offers what may go. A local subscriber comes first, unless none is registered, or the
    /// object has waited `spill_after` for one, or the node drains.
    fn send_away(&mut self, queue: QueueId, mut ways: Vec<Way>, fx: &mut Effects) {
        let local_first = !self.queues.get(queue).groups.is_empty() && self.draining.is_none();
        let is_open = |ways: &[Way]| ways.iter().any(|w| w.open > 0 && w.has_room && !w.paused);
        // As long as no way is open this is asked for each object that comes.
        let slots: Vec<Slot> = if is_open(&ways) {
            self.queues.get(queue).window.slots().collect()
        } else {
            Vec::new()
        };
        let mut batches = Batches::default();
        if ways.iter().any(|w| w.paused) {
            self.look_again(queue, REFUSED_PAUSE);
        }
        for slot in slots {
            if !is_open(&ways) {
                break;
            }
            let waited = self.now.mono - self.memory.get(slot).since;
            if local_first && waited < self.limits.spill_after {
                self.look_again(queue, Span(self.limits.spill_after.0 - waited.0));
                break;
            }
            let (chosen, candidates) = self.choose(slot, &ways, local_first);
            match chosen {
                Some(i) => {
                    self.take_ready(slot);
                    self.send_one(slot, i, &mut ways, candidates, &mut batches, fx);
                }
                None => self.on_kept_back(queue, slot, &ways, &candidates, fx),
            }
        }
        self.flush_all(&ways, batches, fx);
        let is_full = |way: &Way| !self.transfers.has_room(way.link, 1);
        if ways.iter().any(|way| way.open > 0 && is_full(way)) {
            self.transfers.crowded.insert(queue);
        }
        let open: u64 = ways.iter().filter(|way| !way.paused).map(|way| way.open).sum();
        // What is left may be what those ways must not take: others behind it may go.
        let left = if open > 0 { self.queues.get(queue).window.len() as u64 } else { 0 };
        self.want_page(queue, open.saturating_add(left), fx);
    }

    /// The least (distance, outstanding over window) among the ways that are open to an object;
    /// ties are broken by the seeded generator.
    fn choose(&mut self, slot: Slot, ways: &[Way], local: bool) -> (Option<usize>, Vec<Candidate>) {
        let mut best: Vec<usize> = Vec::new();
        let mut refused: Vec<(usize, Refused)> = Vec::new();
        let rank = |w: &Way| (w.distance, w.outstanding * 1_024 / w.open.max(1));
        for (i, way) in ways.iter().enumerate() {
            if let Err(why) = self.may_go(slot, way) {
                refused.push((i, why));
                continue;
            }
            match best.first().map(|b| rank(way).cmp(&rank(&ways[*b]))) {
                Some(std::cmp::Ordering::Greater) => refused.push((i, behind(way, &ways[best[0]]))),
                Some(std::cmp::Ordering::Equal) => best.push(i),
                Some(std::cmp::Ordering::Less) => {
                    refused.extend(best.drain(..).map(|b| (b, behind(&ways[b], way))));
                    best.push(i);
                }
                None => best.push(i),
            }
        }
        let chosen = match best.len() {
            0 => None,
            1 => Some(best[0]),
            n => Some(best[(self.pick.next_u64() % n as u64) as usize]),
        };
        refused
            .extend(best.into_iter().filter(|b| Some(*b) != chosen).map(|b| (b, Refused::Busier)));
        refused.sort_unstable();
        let mut candidates: Vec<Candidate> = refused
            .into_iter()
            .map(|(i, refused)| Candidate { who: ways[i].who.clone(), refused })
            .collect();
        if local {
            let groups = &self.queues.get(self.memory.get(slot).queue).groups;
            candidates.extend(groups.iter().take(8).map(|g| Candidate {
                who: Arc::clone(&self.subs.group(*g).who),
                refused: Refused::NoCredit,
            }));
        }
        (chosen, candidates)
    }

    /// Whether an object may go a way now.
    fn may_go(&self, slot: Slot, way: &Way) -> Result<(), Refused> {
        let live = self.memory.get(slot);
        let chase = live.object.chase.as_deref();
        let newer = may_follow(chase, way.generation, way.lane, self.limits.max_hops)?;
        if newer && let Some(chase) = chase {
            let damped = self.now.mono - live.since < self.limits.redistribution_delay;
            if damped && self.still_lives(chase.generation) {
                return Err(Refused::Damped);
            }
        }
        if way.paused || live.paused_until > self.now.mono {
            return Err(Refused::AskedBefore);
        }
        if way.open == 0 {
            return Err(Refused::WindowClosed);
        }
        if !way.has_room {
            return Err(Refused::Busy);
        }
        Ok(())
    }

    /// Whether the demand of a generation is still told.
    fn still_lives(&self, generation: Generation) -> bool {
        self.mesh
            .links()
            .any(|(_, l)| l.demands.values().any(|r| r.demand.generation == generation))
    }

    /// Puts an object that is in nobody's hands and in no queue into an offer, as the receiver will hold it.
    fn send_one(
        &mut self,
        slot: Slot,
        i: usize,
        ways: &mut [Way],
        candidates: Vec<Candidate>,
        batches: &mut Batches,
        fx: &mut Effects,
    ) {
        let way = &mut ways[i];
        (way.open, way.outstanding) = (way.open - 1, way.outstanding + 1);
        let (link, key) = (way.link, way.key.clone());
        let l = self.mesh.link_mut(link).expect("ways lead over ready links");
        l.sent_objects += 1;
        l.demands.get_mut(&key).expect("a way is a demand").offered += 1;
        let mut decision = Decision::new(self.now.wall, Step::Offer, Some(way.who.clone()));
        (decision.generation, decision.candidates) = (Some(way.generation), candidates);
        let object = self.object(slot);
        let (id, moves) = (object.id, object.moves);
        let away = Arc::new(self.as_received(slot, way.generation));
        self.decide(decision, (id, moves));
        let begins = !batches.of.contains_key(&i);
        let batch = batches.of.entry(i).or_default();
        batch.bytes += away.weight();
        batch.slots.push(slot);
        batch.objects.push(away);
        // Several ways may lead over one link: the window is the demand's, the room is the link's.
        for other in ways.iter_mut().filter(|w| w.link == link) {
            other.outstanding = other.outstanding.max(1);
        }
        if begins {
            self.note_room(link, ways, batches);
        }
        self.flush_if_full(i, ways, batches, fx);
    }

    /// Offers that are being gathered for a link take its room, too.
    fn note_room(&self, link: LinkId, ways: &mut [Way], batches: &Batches) {
        let gathered = batches.of.keys().filter(|b| ways[**b].link == link).count();
        let full = !self.transfers.has_room(link, gathered + 1);
        for (i, way) in ways.iter_mut().enumerate().filter(|(_, w)| w.link == link) {
            way.has_room = !full || batches.of.contains_key(&i);
        }
    }

    fn flush_if_full(
        &mut self,
        i: usize,
        ways: &mut [Way],
        batches: &mut Batches,
        fx: &mut Effects,
    ) {
        let full = batches.of.get(&i).is_some_and(|batch| {
            batch.slots.len() >= OFFER_OBJECTS_MAX || batch.bytes >= OFFER_BYTES_MAX / 2
        });
        if full && let Some(batch) = batches.of.remove(&i) {
            self.flush(&ways[i], batch, batches.early, fx);
            self.note_room(ways[i].link, ways, batches);
        }
    }

    fn flush_all(&mut self, ways: &[Way], batches: Batches, fx: &mut Effects) {
        for (i, batch) in batches.of {
            self.flush(&ways[i], batch, batches.early, fx);
        }
    }

    fn flush(&mut self, way: &Way, batch: Batch, early: Option<RecordNumber>, fx: &mut Effects) {
        self.offer(way.link, way.key.clone(), batch.slots, batch.objects, early, fx);
    }

    /// The object as the receiver will hold it.
    fn as_received(&self, slot: Slot, generation: Generation) -> Object {
        let mut object = self.object(slot).clone();
        object.moves += u32::from(!planted(Bug::MovesNotCounted));
        if planted(Bug::HandledLostAtHandoff) {
            object.handled.clear();
        }
        if planted(Bug::FailuresLostAtHandoff) {
            object.failed = 0;
        }
        if object.path.len() == PATH_MAX {
            object.path.remove(0);
        }
        object.path.push(self.name.clone());
        object.chase = Some(follow(object.chase.take(), generation, self.lane.id));
        object
    }

    /// No way is open to an object: the rule may need a newer generation, or time.
    fn on_kept_back(
        &mut self,
        queue: QueueId,
        slot: Slot,
        ways: &[Way],
        candidates: &[Candidate],
        fx: &mut Effects,
    ) {
        let delay = self.limits.redistribution_delay;
        if candidates.iter().any(|c| c.refused == Refused::AskedBefore) {
            self.look_again(queue, REFUSED_PAUSE);
        }
        if candidates.iter().any(|c| c.refused == Refused::Damped) {
            self.look_again(queue, delay);
        }
        for way in ways.iter().filter(|w| w.open > 0) {
            let object = self.object(slot);
            let kept =
                may_follow(object.chase.as_deref(), way.generation, way.lane, self.limits.max_hops);
            if kept.is_err() && !planted(Bug::RefreshNeverAsked) {
                // What is asked for is newer than what the object follows, too: the origin may
                // never have heard of that.
                let chased = object.chase.as_ref().map_or(0, |c| c.generation.counter);
                let counter = way.generation.counter.max(chased);
                let (key, generation) = (way.key.clone(), Generation { counter, ..way.generation });
                let refresh = Refresh { key, generation, handled: object.handled.to_vec() };
                let link = way.link;
                self.ask_refresh(link, refresh, fx);
                self.look_again(queue, delay);
            }
        }
    }

    /// Records, once for each object that has just begun to wait, why it does.
    fn note_waiting(&mut self, queue: QueueId) {
        let fresh: Vec<Slot> = self
            .queues
            .get(queue)
            .window
            .slots()
            .rev()
            .take_while(|slot| !self.memory.get(*slot).wait_noted)
            .collect();
        if fresh.is_empty() {
            return;
        }
        let mut decision = Decision::new(self.now.wall, Step::Wait, None);
        decision.candidates = self.why_waiting(queue);
        let note = |slot| {
            let live = self.memory.get_mut(slot);
            live.wait_noted = true;
            (live.object.id, live.object.moves)
        };
        let fresh: Vec<(ObjectId, u32)> = fresh.into_iter().rev().map(note).collect();
        self.decide_all(decision, fresh);
    }

    /// Everybody who could take from a queue, with what keeps it from them now.
    pub(crate) fn why_waiting(&self, queue: QueueId) -> Vec<Candidate> {
        if planted(Bug::NoCandidates) {
            return Vec::new();
        }
        let q = self.queues.get(queue);
        let mut candidates: Vec<Candidate> = q
            .groups
            .iter()
            .take(16)
            .map(|g| {
                let refused = match self.subs.can_take(*g) {
                    _ if self.draining.is_some() => Refused::Draining,
                    true if self.leases_are_full() => Refused::MemoryFull,
                    _ => Refused::NoCredit,
                };
                Candidate { who: Arc::clone(&self.subs.group(*g).who), refused }
            })
            .collect();
        let matching = self.subs.matching(self.queues.ty(q.ty));
        let handled = matching.into_iter().filter(|g| !q.groups.contains(g));
        candidates.extend(handled.take(16).map(|g| Candidate {
            who: Arc::clone(&self.subs.group(g).who),
            refused: Refused::Handled,
        }));
        for way in self.ways(queue).take(16) {
            let refused = match q.window.first().map(|slot| self.may_go(slot, &way)) {
                Some(Err(why)) => why,
                _ if way.open == 0 => Refused::WindowClosed,
                _ => Refused::LocalFirst,
            };
            candidates.push(Candidate { who: way.who, refused });
        }
        if candidates.is_empty() {
            let refused = Refused::NoDemand;
            candidates.push(Candidate { who: who(&self.name), refused });
            let peers = self.mesh.links().take(16);
            candidates.extend(peers.map(|(_, l)| Candidate { who: Arc::clone(&l.who), refused }));
        }
        candidates.sort();
        candidates
    }
}

/// Why one open way stands behind another.
fn behind(way: &Way, best: &Way) -> Refused {
    if Reverse(way.distance) < Reverse(best.distance) { Refused::Farther } else { Refused::Busier }
}

/// The rule that ends forwarding. `Ok(true)` when the generation is newer than the chased one.
pub(crate) fn may_follow(
    chase: Option<&Chase>,
    generation: Generation,
    towards: LaneId,
    max_hops: u32,
) -> Result<bool, Refused> {
    let Some(chase) = chase else { return Ok(false) };
    match generation.cmp(&chase.generation) {
        std::cmp::Ordering::Less if planted(Bug::OlderDemandFollowed) => Ok(true),
        std::cmp::Ordering::Less => Err(Refused::OlderDemand),
        std::cmp::Ordering::Greater => Ok(true),
        std::cmp::Ordering::Equal
            if chase.crossed.contains(&towards) && !planted(Bug::CrossedForgotten) =>
        {
            Err(Refused::Crossed)
        }
        std::cmp::Ordering::Equal if chase.crossed.len() >= max_hops as usize => {
            Err(Refused::MaxHops)
        }
        std::cmp::Ordering::Equal => Ok(false),
    }
}

/// The chase after one more link out of `here`.
pub(crate) fn follow(
    chase: Option<Box<Chase>>,
    generation: Generation,
    here: LaneId,
) -> Box<Chase> {
    match chase {
        Some(mut chase) if chase.generation == generation => {
            chase.crossed.push(here);
            chase
        }
        _ => Box::new(Chase { generation, crossed: vec![here] }),
    }
}
