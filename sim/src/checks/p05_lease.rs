//! P5: the fencing key of an object only grows, and two valid leases of one object never overlap at
//! its owner.

use dpc_core::Mono;
use dpc_core::effect::Delivery;
use dpc_core::ids::{Epoch, LaneId, SessionId};
use dpc_core::object::Token;

use super::{Checker, Key};

/// A lease that somebody holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) lease: u64,
    /// The epoch of its owner: each of them counts its leases anew.
    pub(crate) epoch: Epoch,
    /// The stream, unless it was taken without one.
    pub(crate) session: Option<SessionId>,
    /// Somebody has asked to settle it: it is over once that is durable.
    pub(crate) settling: bool,
    /// Until when, if it is not extended.
    pub(crate) until: Mono,
    /// Now.
    pub(crate) at: Mono,
}

impl Checker {
    pub(super) fn p05_fencing_key_grows(&mut self, delivery: &Delivery) {
        let object = &delivery.object;
        let fence = (object.moves, delivery.epoch, delivery.lease);
        // Of a copy that was brought back nobody knows how far the lost one had come.
        if object.possible_duplicate {
            return;
        }
        let before = self.fences.insert((object.id, object.birth), fence);
        if let Some(before) = before
            && before >= fence
            && !self.model.doubtful.contains(&(object.id, object.birth))
        {
            self.fail("P5", format!("{} had {before:?}, then {fence:?}", object.id));
        }
    }

    pub(super) fn p05_no_overlap(&mut self, lane: LaneId, delivery: &Delivery, held: Held) {
        let key: Key = (delivery.object.id, delivery.object.birth);
        let of_lane = self.leased.get_mut(&lane).expect("every lane is known");
        let before = of_lane.insert(key, held);
        if let Some(before) = before.filter(|b| b.until > held.at) {
            let (id, old, new) = (key.0, before.lease, held.lease);
            let what = format!("{id} was given out as lease {new} while lease {old} is valid");
            self.fail("P5", what);
        }
    }

    /// A lease is said to have run out.
    pub(crate) fn p05_expired(&mut self, lane: LaneId, lease: u64, now: Mono) {
        let mut of_lane = self.leased.get(&lane).into_iter().flatten();
        let early = of_lane.find(|(_, held)| held.lease == lease && held.until > now);
        if let Some(((id, _), held)) = early {
            let what =
                format!("lease {lease} of {id} ran out at {now}, given until {}", held.until);
            self.fail("P5", what);
        }
        self.p05_ended(lane, lease);
    }

    /// A lease has been settled, perhaps one of an incarnation before: each counts its leases anew.
    pub(crate) fn p05_settled(&mut self, token: &Token) {
        if let Some(of_lane) = self.leased.get_mut(&token.lane) {
            of_lane.retain(|_, held| (held.epoch, held.lease) != (token.epoch, token.n));
        }
    }

    /// A lease has ended without a settle: run out, or taken away by a person.
    pub(crate) fn p05_ended(&mut self, lane: LaneId, lease: u64) {
        if let Some(of_lane) = self.leased.get_mut(&lane) {
            of_lane.retain(|_, held| held.lease != lease);
        }
    }

    /// A lease runs on.
    pub(crate) fn p05_extended(&mut self, lane: LaneId, lease: u64, until: Mono) {
        let of_lane = self.leased.get_mut(&lane).into_iter().flatten();
        of_lane.filter(|(_, held)| held.lease == lease).for_each(|(_, held)| held.until = until);
    }

    /// A stream has ended, and its leases with it.
    pub(crate) fn p05_stream_ended(&mut self, lane: LaneId, session: SessionId) {
        if let Some(of_lane) = self.leased.get_mut(&lane) {
            of_lane.retain(|_, held| held.session != Some(session));
        }
    }

    /// A process has died, and all its leases with it.
    pub(crate) fn p05_died(&mut self, lane: LaneId) {
        self.model.died(lane);
        if let Some(leased) = self.leased.get_mut(&lane) {
            leased.clear();
        }
    }

    /// Somebody asks to settle a lease.
    pub(super) fn p05_settling(&mut self, token: &Token) {
        let of_lane = self.leased.get_mut(&token.lane).into_iter().flatten();
        let held = of_lane.map(|(_, held)| held);
        let is = |held: &&mut Held| (held.epoch, held.lease) == (token.epoch, token.n);
        held.filter(is).for_each(|held| held.settling = true);
    }

    /// Whether somebody holds an object, or has settled it and waits.
    pub(super) fn is_leased(&self, lane: LaneId, key: &Key, now: Mono) -> bool {
        self.leased
            .get(&lane)
            .and_then(|l| l.get(key))
            .is_some_and(|held| held.settling || held.until >= now)
    }

    /// Whether the lease of a token is held now.
    pub(super) fn is_valid(&self, token: &Token, now: Mono) -> bool {
        let mut of_lane = self.leased.get(&token.lane).into_iter().flatten();
        of_lane.any(|((id, _), h)| {
            (*id, h.epoch, h.lease) == (token.object, token.epoch, token.n) && h.until > now
        })
    }

    /// Leases of a stream that are held now.
    pub(crate) fn leases_of(&self, lane: LaneId, session: SessionId, now: Mono) -> usize {
        let of_lane = self.leased.get(&lane).into_iter().flatten();
        of_lane.filter(|(_, h)| h.session == Some(session) && h.until >= now).count()
    }

    /// Leases of a lane that are held now.
    pub(crate) fn leases_held(&self, lane: LaneId, now: Mono) -> usize {
        self.leased.get(&lane).map_or(0, |l| l.values().filter(|h| h.until >= now).count())
    }
}
