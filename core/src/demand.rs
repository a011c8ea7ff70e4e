//! Demand: what this node tells its peers it can use (R7).

use std::cmp::Reverse;

use crate::catalogue::QueueId;
use crate::core::Core;
use crate::effect::{Effect, Effects, Note};
use crate::ids::{LaneId, LinkId, RecordNumber};
use crate::limits::ADVERT_COALESCE;
use crate::memory::Slot;
use crate::mesh::Link;
use crate::message::{Advert, Demand, DemandKey, Message, Refresh, Window};
use crate::object::Generation;
use crate::planted::{Bug, planted};
use crate::subscriptions::{GroupId, may_take};
use crate::timers::Timer;

/// Demand that objects can get to from here.
struct Reachable {
    /// Over which link; `None` for subscribers here.
    via: Option<LinkId>,
    /// As it would be told, without a window.
    demand: Demand,
    /// How many objects it could take now.
    free: u64,
}

impl Reachable {
    /// Whether a peer may be told of it: not over the link that leads there, nor who is on its way.
    fn may_be_told(&self, link: LinkId, lane: LaneId) -> bool {
        self.via.is_none_or(|via| {
            via != link && self.demand.path.iter().all(|(_, passed)| *passed != lane)
        })
    }
}

impl Core {
    /// Somebody here wants something that nobody here wanted before: new demand, with a generation
    /// of its own. Demand that comes and goes is told at most once in each `redistribution_delay`:
    /// what it moves is bounded, and it is served all the same.
    pub(crate) fn demand_appears(&mut self, group: GroupId) {
        let generation = self.own_generation();
        let key = self.subs.group(group).key.clone();
        let damped = self.limits.redistribution_delay;
        let told = self.mesh.appeared.get(&key).map(|at| *at + damped);
        let until = told.filter(|at| *at > self.now.mono);
        let g = self.subs.group_mut(group);
        (g.generation, g.hidden_until) = (generation, until);
        if let Some(until) = until {
            self.arm(until, Timer::Show(group));
        }
        self.mark_demand(key);
    }

    /// The same demand under a newer generation.
    pub(crate) fn renew_demand(&mut self, group: GroupId) {
        let generation = self.own_generation();
        self.subs.group_mut(group).generation = generation;
    }

    fn own_generation(&mut self) -> Generation {
        let counter = self.next_generation();
        Generation { counter, lane: self.lane.id, incarnation: self.lane.incarnation }
    }

    /// The adverts of a demand are looked at in a moment.
    pub(crate) fn mark_demand(&mut self, key: DemandKey) {
        if self.mesh.has_links() {
            self.mesh.dirty.insert(key);
            self.arm_once(ADVERT_COALESCE, Timer::Adverts);
        }
    }

    /// A group has credit again: peers may be let in when half of what they were told is used.
    pub(crate) fn window_may_grow(&mut self, group: GroupId) {
        let g = self.subs.group(group);
        if g.peers_served == Some(g.credit) || self.mesh.dirty.contains(&g.key) {
            return;
        }
        if self.mesh.links().any(|(_, l)| is_near_the_end(l, &g.key, g.credit)) {
            return self.mark_demand(g.key.clone());
        }
        let g = self.subs.group_mut(group);
        g.peers_served = Some(g.credit);
    }

    /// A peer has used some of a window, or was told another one.
    pub(crate) fn window_was_used(&mut self, link: LinkId, key: &DemandKey) {
        let Some(group) = self.subs.find(key) else { return };
        let g = self.subs.group_mut(group);
        if let (Some(credit), Some(l)) = (g.peers_served, self.mesh.link(link))
            && is_near_the_end(l, key, credit)
        {
            g.peers_served = None;
        }
    }

    /// Tells every peer what has changed for it. The ways to a demand are looked at once, however
    /// many peers are told of it: with many of both a link that comes up marks every demand.
    pub(crate) fn send_adverts(&mut self, fx: &mut Effects) {
        let dirty = std::mem::take(&mut self.mesh.dirty);
        let (now, damped) = (self.now.mono, self.limits.redistribution_delay);
        self.mesh.appeared.retain(|_, at| *at + damped > now);
        let links: Vec<(LinkId, LaneId)> = self.mesh.links().map(|(id, l)| (id, l.lane)).collect();
        let mut said = vec![(Vec::new(), Vec::new()); links.len()];
        for key in &dirty {
            let reachable = self.reachable(key);
            for ((link, lane), (adverts, windows)) in links.iter().zip(&mut said) {
                let best = reachable.iter().rev().find(|way| way.may_be_told(*link, *lane));
                self.compare(*link, key, best, adverts, windows);
            }
        }
        for ((link, _), (adverts, windows)) in links.into_iter().zip(said) {
            if !adverts.is_empty() {
                let message = Message::Adverts(adverts);
                // A generation is told only when the log has reserved it.
                if self.lane.has_riders() {
                    self.mesh.adverts_after = self.lane.urge();
                }
                let after = self.adverts_after();
                fx.push(Effect::send(link, message, after));
            }
            if !windows.is_empty() {
                let after = self.adverts_after();
                fx.push(Effect::send(link, Message::Windows(windows), after));
            }
        }
    }

    /// The commit that adverts wait for. Whatever is told of a demand afterwards waits for it, too,
    /// so that nothing overtakes an advert.
    fn adverts_after(&self) -> Option<RecordNumber> {
        Some(self.mesh.adverts_after).filter(|n| !self.lane.is_committed(*n))
    }

    /// What a peer is to be told, compared with what it was told.
    fn compare(
        &mut self,
        link: LinkId,
        key: &DemandKey,
        best: Option<&Reachable>,
        adverts: &mut Vec<Advert>,
        windows: &mut Vec<Window>,
    ) {
        let (l, paths) = self.mesh.link_and_paths(link).expect("just listed");
        let received = l.received.get(key).copied().unwrap_or(0);
        let Some(Reachable { demand, free, .. }) = best else {
            if l.told.remove(key).is_some() {
                adverts.push(Advert { key: key.clone(), demand: None });
                self.window_was_used(link, key);
            }
            return;
        };
        let told = l.told.get(key);
        let appears = told.is_none() && demand.distance == 0;
        let before = told.map_or(0, |t| t.window);
        let used = if planted(Bug::WindowNotReturned) { 0 } else { received };
        let free = *free;
        let mut demand = Demand { window: before.max(used + free), ..demand.clone() };
        let same = told.is_some_and(|t| {
            (t.generation, t.distance) == (demand.generation, demand.distance)
                && t.path == demand.path
        });
        if !same {
            demand.path = paths.share(demand.path);
            l.told.insert(key.clone(), demand.clone());
            adverts.push(Advert { key: key.clone(), demand: Some(demand) });
            if appears {
                // Own demand is told to a peer that did not know of it.
                self.mesh.appeared.insert(key.clone(), self.now.mono);
            }
            return self.window_was_used(link, key);
        }
        let grown = demand.window - before;
        if grown > 0 && (grown * 2 >= free || before <= received) {
            let total = demand.window;
            l.told.insert(key.clone(), demand);
            windows.push(Window { key: key.clone(), total });
        }
    }

    /// The ways to a demand, the best one last: an open window before a closed one, then the least
    /// distance, then the freshest generation.
    fn reachable(&self, key: &DemandKey) -> Vec<Reachable> {
        if self.is_adopted() {
            return Vec::new(); // It passes nothing on.
        }
        let own = self.own_demand(key);
        let own = own.map(|(demand, free)| Reachable { via: None, demand, free });
        let beyond = self.mesh.who_wants(key).filter_map(|via| self.demand_via(via, key));
        let mut ways: Vec<Reachable> = own.into_iter().chain(beyond).collect();
        ways.sort_by_key(|way| (way.free > 0, Reverse(way.demand.distance), way.demand.generation));
        ways
    }

    fn own_demand(&self, key: &DemandKey) -> Option<(Demand, u64)> {
        if self.draining.is_some() {
            return None;
        }
        let id = self.subs.find(key)?;
        let group = self.subs.group(id);
        if group.hidden_until.is_some() {
            return None;
        }
        let waiting: u64 = group.ready.iter().take(64).map(|q| self.queues.get(q).len()).sum();
        let wanted = (group.free + self.takes.wanted(id)).min(self.leases_left());
        let free = wanted.saturating_sub(waiting);
        let demand = Demand {
            distance: 0,
            path: [(self.name.clone(), self.lane.id)].into(),
            generation: group.generation,
            window: 0,
        };
        Some((demand, free))
    }

    fn demand_via(&self, via: LinkId, key: &DemandKey) -> Option<Reachable> {
        let remote = self.mesh.link(via)?.demands.get(key)?;
        let known = &remote.demand;
        if known.distance + 1 >= self.limits.max_hops {
            return None;
        }
        let here = (self.name.clone(), self.lane.id);
        let path = std::iter::once(here).chain(known.path.iter().cloned()).collect();
        let open = known.window.saturating_sub(remote.offered).min(u64::from(self.limits.transit));
        let in_transit = self.mesh.transit.get(key).map_or(0, |(_, count)| *count);
        let demand =
            Demand { distance: known.distance + 1, path, generation: known.generation, window: 0 };
        Some(Reachable { via: Some(via), demand, free: open.saturating_sub(in_transit) })
    }

    /// An object that came for a demand beyond this node counts as in transit until it leaves.
    pub(crate) fn begin_transit(&mut self, slot: Slot, key: &DemandKey) {
        if self.subs.find(key).is_some() {
            return;
        }
        let era = self.mesh.transit_era;
        let (_, count) = self.mesh.transit.entry(key.clone()).or_insert_with(|| {
            self.mesh.transit_era = era + 1;
            (era + 1, 0)
        });
        *count += if planted(Bug::TransitCountedTwice) { 2 } else { 1 };
        let era = self.mesh.transit[key].0;
        self.memory.get_mut(slot).transit = Some((key.clone(), era));
    }

    pub(crate) fn end_transit(&mut self, slot: Slot) {
        let Some((key, era)) = self.memory.get_mut(slot).transit.take() else { return };
        if let Some((current, count)) = self.mesh.transit.get_mut(&key)
            && *current == era
        {
            *count -= 1;
            if *count == 0 {
                self.mesh.transit.remove(&key);
            }
            self.mark_demand(key);
        }
    }

    /// A peer's object is kept from a demand by the rule that ends forwarding: the origin may
    /// grant a newer generation, if it could take that very object.
    pub(crate) fn on_refresh(&mut self, link: LinkId, refresh: Refresh, fx: &mut Effects) {
        if !self.see_generation(refresh.generation.counter) {
            return;
        }
        if refresh.generation.lane != self.lane.id {
            return self.pass_refresh(link, refresh, fx);
        }
        let Some(id) = self.subs.find(&refresh.key) else { return };
        let group = self.subs.group(id);
        let newer_told = group.generation > refresh.generation;
        let able = may_take(&refresh.key.processor, &refresh.handled)
            && self.own_demand(&refresh.key).is_some_and(|(_, free)| free > 0);
        let delay = self.limits.redistribution_delay;
        let rested = group.refreshed.is_none_or(|at| at + delay <= self.now.mono);
        if !newer_told && able && rested {
            let generation = self.own_generation();
            let now = self.now.mono;
            let group = self.subs.group_mut(id);
            (group.generation, group.refreshed) = (generation, Some(now));
            self.mark_demand(refresh.key);
        }
    }

    /// Passes it on the shortest way. Each node has told its peers of a way that is shorter by one
    /// link than theirs, so it comes nearer with every step and never goes round in a circle.
    fn pass_refresh(&mut self, from: LinkId, refresh: Refresh, fx: &mut Effects) {
        let way = self
            .mesh
            .who_wants(&refresh.key)
            .filter(|via| *via != from)
            .filter_map(|via| Some((via, self.mesh.link(via)?.demands.get(&refresh.key)?)))
            .filter(|(_, remote)| remote.demand.generation.lane == refresh.generation.lane)
            .min_by_key(|(via, remote)| (remote.demand.distance, *via))
            .map(|(via, _)| via);
        if let Some(link) = way {
            self.ask_refresh(link, refresh, fx);
        }
    }

    /// Asks over a link, at most once per `redistribution_delay` and demand.
    pub(crate) fn ask_refresh(&mut self, link: LinkId, refresh: Refresh, fx: &mut Effects) {
        let asked = self.mesh.refresh_asked.get(&(link, refresh.key.clone()));
        let delay = self.limits.redistribution_delay;
        if asked.is_some_and(|at| *at + delay > self.now.mono) {
            return;
        }
        self.mesh.refresh_asked.insert((link, refresh.key.clone()), self.now.mono);
        fx.push(Effect::send(link, Message::Refresh(refresh), None));
    }

    /// Raises or ends the alarm that nobody wants what waits in a queue.
    pub(crate) fn set_no_demand(&mut self, queue: QueueId, on: bool, fx: &mut Effects) {
        let q = self.queues.get_mut(queue);
        if std::mem::replace(&mut q.no_demand, on) == on {
            return;
        }
        let ty = q.ty;
        let any = self.queues.ty(ty).queues.values().any(|q| self.queues.get(*q).no_demand);
        let count = self.queues.ready(ty);
        let t = self.queues.ty_mut(ty);
        if std::mem::replace(&mut t.no_demand, any) != any {
            let name = t.name.clone();
            let note = if any { Note::NoDemand(name, count) } else { Note::DemandBack(name) };
            fx.push(Effect::Note(note));
        }
    }
}

/// Whether a peer has used more than half of a group's credit since it was last told of it.
fn is_near_the_end(link: &Link, key: &DemandKey, credit: u64) -> bool {
    let told = link.told.get(key).map_or(0, |demand| demand.window);
    let used = link.received.get(key).copied().unwrap_or(0);
    told.saturating_sub(used) < (credit / 2).max(1)
}
