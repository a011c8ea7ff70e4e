//! Sessions, their subscriptions, and the groups that stand in for them when an object is placed.
//!
//! A group is all subscriptions of one pattern and processor name here. Objects are given to
//! groups, and within a group to its subscriptions with free credit in turn, so that the cost of a
//! delivery grows with neither types nor subscriptions (ADR 0027).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalogue::QueueId;
use crate::ids::{SessionId, SubscriptionId};
use crate::message::DemandKey;
use crate::names::{Name, Pattern};
use crate::object::Generation;
use crate::planted::{Bug, planted};
use crate::queues::Type;
use crate::recording::{SlicedMap, SlicedVec, Slices};
use crate::sifted::Sifted;
use crate::time::{Mono, Span, Wall};

mod pace;
mod ready;

use pace::Pace;
use ready::Ready;

/// Leases that have ended, tolerated in a session's list of them.
const ENDED_SLACK: usize = 64;

/// A group's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct GroupId(pub(crate) u32);

/// A subscription's number in the node.
pub(crate) type SubKey = (SessionId, SubscriptionId);

/// One subscription.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Subscription {
    pub(crate) group: GroupId,
    pub(crate) credit: u32,
    pub(crate) in_flight: u32,
    pub(crate) lease: Span,
    pub(crate) delivered: u64,
    pub(crate) settled: u64,
    pub(crate) last_seen: Wall,
    /// Whether it stands in its group's ring.
    ringed: bool,
}

/// A subscription's turn in its group.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Turn {
    of: SubKey,
    /// It lasts for one moment.
    at: Mono,
    /// So many more it gets.
    left: u64,
}

/// All subscriptions of one pattern and processor name.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) key: DemandKey,
    /// How decisions name it: made once, not with each delivery.
    pub(crate) who: Arc<str>,
    pub(crate) subs: BTreeSet<SubKey>,
    /// Those with free credit, in turn.
    ring: VecDeque<SubKey>,
    /// The turn of the first of them, if it has begun.
    turn: Option<Turn>,
    /// Queues with something ready that it may take.
    pub(crate) ready: Ready,
    /// The queue it took from last.
    pub(crate) cursor: QueueId,
    /// Free credit of all its subscriptions together.
    pub(crate) free: u64,
    /// Credit of all its subscriptions together.
    pub(crate) credit: u64,
    /// The generation of its demand.
    pub(crate) generation: Generation,
    /// Its advert waits until then, because it flaps.
    pub(crate) hidden_until: Option<Mono>,
    /// When its demand was last refreshed.
    pub(crate) refreshed: Option<Mono>,
    /// No peer was near the end of the window that it was told, with this credit. What brings one
    /// nearer takes that back, so that not every object looks at every peer.
    pub(crate) peers_served: Option<u64>,
}

/// One open client stream.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) subs: BTreeSet<SubscriptionId>,
    /// Deliveries that subscriptions which have ended have left unsettled: they use the credit of the next
    /// one of the same number, so that a client cannot hold more by subscribing anew.
    pub(crate) unsettled: BTreeMap<SubscriptionId, u32>,
    /// The leases that it was given, in that order. Those that stand are its own still.
    pub(crate) leases: Sifted<u64, ENDED_SLACK>,
    pub(crate) pace: Pace,
}

/// Everything about who wants what here.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Subscriptions {
    #[serde(skip)]
    pub(crate) sessions: SlicedMap<SessionId, Session>,
    #[serde(skip)]
    pub(crate) subs: SlicedMap<SubKey, Subscription>,
    #[serde(skip)]
    groups: SlicedVec<Option<Group>>,
    #[serde(skip)]
    by_key: BTreeMap<DemandKey, GroupId>,
    #[serde(skip)]
    by_pattern: BTreeMap<Pattern, BTreeSet<GroupId>>,
}

impl Subscriptions {
    /// What goes into a snapshot in slices.
    pub(crate) fn slices(&mut self) -> [&mut dyn Slices; 3] {
        [&mut self.sessions, &mut self.subs, &mut self.groups]
    }

    /// What follows from the slices.
    pub(crate) fn derive(&mut self) {
        for (id, group) in (0..).map(GroupId).zip(self.groups.iter()) {
            if let Some(group) = group {
                self.by_key.insert(group.key.clone(), id);
                self.by_pattern.entry(group.key.pattern.clone()).or_default().insert(id);
            }
        }
    }

    pub(crate) fn group(&self, id: GroupId) -> &Group {
        self.groups[id.0 as usize].as_ref().expect("groups are used while they stand")
    }

    pub(crate) fn group_mut(&mut self, id: GroupId) -> &mut Group {
        self.groups[id.0 as usize].as_mut().expect("groups are used while they stand")
    }

    /// Whether a group is there still, or another one has its number.
    pub(crate) fn stands(&self, id: GroupId) -> bool {
        self.groups.get(id.0 as usize).is_some_and(Option::is_some)
    }

    pub(crate) fn find(&self, key: &DemandKey) -> Option<GroupId> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.by_key.values().map(|id| (*id, self.group(*id)))
    }

    /// Groups whose pattern matches a type: found by the patterns a type can match.
    pub(crate) fn matching(&self, ty: &Type) -> Vec<GroupId> {
        ty.demands
            .iter()
            .filter_map(|least| self.by_pattern.get(&least.pattern))
            .flat_map(|groups| groups.iter().copied())
            .collect()
    }

    pub(crate) fn create_group(&mut self, key: DemandKey) -> GroupId {
        let free = self.groups.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.groups.push(None);
            self.groups.len() - 1
        });
        let id = GroupId(u32::try_from(index).expect("subscriptions are bounded"));
        self.by_key.insert(key.clone(), id);
        self.by_pattern.entry(key.pattern.clone()).or_default().insert(id);
        self.groups[index] = Some(Group {
            who: format!("subscription {key}").into(),
            key,
            subs: BTreeSet::new(),
            ring: VecDeque::new(),
            turn: None,
            ready: Ready::default(),
            cursor: QueueId(0),
            free: 0,
            credit: 0,
            generation: Generation::default(),
            hidden_until: None,
            refreshed: None,
            peers_served: None,
        });
        id
    }

    pub(crate) fn remove_group(&mut self, id: GroupId) -> Group {
        let group = self.groups[id.0 as usize].take().expect("groups are used while they stand");
        assert!(group.subs.is_empty(), "only an empty group goes");
        self.by_key.remove(&group.key);
        let same = self.by_pattern.get_mut(&group.key.pattern).expect("indexed");
        same.remove(&id);
        if same.is_empty() {
            self.by_pattern.remove(&group.key.pattern);
        }
        group
    }

    /// Adds a subscription to its session and its group.
    pub(crate) fn add(&mut self, key: SubKey, group: GroupId, credit: u32, lease: Span, now: Wall) {
        let session = self.sessions.get_mut(&key.0).expect("checked");
        session.subs.insert(key.1);
        let in_flight = session.unsettled.remove(&key.1).unwrap_or_default();
        let sub = Subscription {
            group,
            credit,
            in_flight,
            lease,
            delivered: 0,
            settled: 0,
            last_seen: now,
            ringed: false,
        };
        self.subs.insert(key, sub);
        let g = self.group_mut(group);
        g.subs.insert(key);
        g.credit += u64::from(credit);
        g.free += u64::from(credit.saturating_sub(in_flight));
        self.ring(key);
    }

    /// Sets a subscription's credit.
    pub(crate) fn set_credit(&mut self, key: SubKey, credit: u32) {
        let sub = self.subs.get_mut(&key).expect("the caller found it");
        let (old, in_flight, group) = (sub.credit, sub.in_flight, sub.group);
        sub.credit = credit;
        let g = self.group_mut(group);
        g.credit = g.credit - u64::from(old) + u64::from(credit);
        g.free = g.free - u64::from(old.saturating_sub(in_flight))
            + u64::from(credit.saturating_sub(in_flight));
        if credit > in_flight {
            self.ring(key);
        } else if std::mem::take(&mut self.subs.get_mut(&key).expect("just found").ringed) {
            self.group_mut(group).ring.retain(|k| *k != key);
        }
    }

    /// Removes a subscription. Says whether its group is empty now.
    pub(crate) fn remove(&mut self, key: SubKey) -> Option<(GroupId, bool)> {
        let sub = self.subs.remove(&key)?;
        if let Some(session) = self.sessions.get_mut(&key.0) {
            session.subs.remove(&key.1);
            if sub.in_flight > 0 {
                session.unsettled.insert(key.1, sub.in_flight);
            }
        }
        let g = self.group_mut(sub.group);
        g.subs.remove(&key);
        g.ring.retain(|k| *k != key);
        g.credit -= u64::from(sub.credit);
        g.free -= u64::from(sub.credit.saturating_sub(sub.in_flight));
        let empty = g.subs.is_empty();
        Some((sub.group, empty))
    }

    /// The next subscription of a group with free credit, and the span of its leases; one unit of its
    /// credit is used.
    ///
    /// At one moment a subscription gets as many in a row as its session has the pace for: each
    /// message costs far more than what is in it. At different moments each has its turn.
    pub(crate) fn next_free(&mut self, group: GroupId, now: Mono) -> Option<(SubKey, Span)> {
        self.end_turn_before(group, now);
        loop {
            let g =
                self.groups[group.0 as usize].as_mut().expect("groups are used while they stand");
            let key = *g.ring.front()?;
            let sub = self.subs.get_mut(&key).expect("the ring holds standing subscriptions");
            if sub.in_flight >= sub.credit {
                sub.ringed = false;
                g.ring.pop_front();
                continue;
            }
            sub.delivered += 1;
            if planted(Bug::CreditNotUsedUp) {
                g.ring.rotate_left(1);
                return Some((key, sub.lease));
            }
            sub.in_flight += 1;
            g.free -= 1;
            let left = match g.turn.take() {
                Some(turn) if turn.of == key => turn.left,
                _ => self.sessions[&key.0].pace.in_a_row(now),
            };
            if sub.in_flight >= sub.credit {
                sub.ringed = false;
                g.ring.pop_front();
            } else if left <= 1 {
                g.ring.rotate_left(1);
            } else {
                g.turn = Some(Turn { of: key, at: now, left: left - 1 });
            }
            return Some((key, sub.lease));
        }
    }

    /// A turn that has begun at an earlier moment is over.
    fn end_turn_before(&mut self, group: GroupId, now: Mono) {
        let g = self.group_mut(group);
        if let Some(turn) = g.turn
            && turn.at != now
        {
            g.turn = None;
            if g.ring.front() == Some(&turn.of) {
                g.ring.rotate_left(1);
            }
        }
    }

    /// A delivery of a subscription has ended, by a settle or otherwise.
    pub(crate) fn free_one(&mut self, key: SubKey, settled: bool, now: Wall) -> Option<GroupId> {
        let Some(sub) = self.subs.get_mut(&key) else {
            self.settle_unsettled(key);
            return None;
        };
        assert!(sub.in_flight > 0, "a delivery ends once");
        sub.in_flight -= 1;
        if settled {
            sub.settled += 1;
            sub.last_seen = now;
        }
        let (gained, enters, group) = (sub.in_flight < sub.credit, sub.enters(), sub.group);
        let g = self.group_mut(group);
        g.free += u64::from(gained);
        if enters {
            g.ring.push_back(key);
        }
        Some(group)
    }

    /// A delivery of a subscription that has ended has ended.
    fn settle_unsettled(&mut self, key: SubKey) {
        let Some(session) = self.sessions.get_mut(&key.0) else { return };
        let left =
            session.unsettled.get_mut(&key.1).expect("what a subscription leaves is counted");
        *left -= 1;
        if *left == 0 {
            session.unsettled.remove(&key.1);
        }
    }

    /// Whether a group can take an object now.
    pub(crate) fn can_take(&self, group: GroupId) -> bool {
        self.group(group).free > 0
    }

    fn ring(&mut self, key: SubKey) {
        let sub = self.subs.get_mut(&key).expect("the caller found it");
        if sub.enters() {
            let group = sub.group;
            self.group_mut(group).ring.push_back(key);
        }
    }
}

impl Subscription {
    /// Whether it comes into its group's ring now: it has free credit, and was not there. It is said once.
    fn enters(&mut self) -> bool {
        self.in_flight < self.credit && !std::mem::replace(&mut self.ringed, true)
    }
}

impl Session {
    /// It holds one more lease. Which of those before are still its own, `stands` says.
    pub(crate) fn hold(&mut self, lease: u64, now: Mono, stands: impl Fn(u64) -> bool) {
        if self.leases.standing() == 0 {
            self.pace.begin(now);
        }
        self.leases.add(lease, stands);
    }

    /// One of its leases has ended, by a settle or otherwise.
    pub(crate) fn let_go(&mut self, settled: bool, now: Mono) {
        if settled {
            self.pace.settled(now);
        }
        self.leases.fall();
        if self.leases.standing() == 0 {
            self.pace.rest(now);
        }
    }
}

/// Whether a processor may take objects that these have handled.
pub(crate) fn may_take(processor: &Name, handled: &[Name]) -> bool {
    handled.binary_search(processor).is_err()
}

#[cfg(test)]
mod tests;
