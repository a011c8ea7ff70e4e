//! P12: a local subscriber with credit is never starved: not by a fast link, not by the burst of
//! another type or producer. What waits beside an idle subscriber for it is counted all the while.

use std::sync::Arc;

use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::names::{Name, Pattern};
use dpc_core::object::Object;
use dpc_core::record::Standing;
use dpc_core::time::{Mono, Span, Wall};

use super::Checker;

/// So long something may wait beside an idle subscriber for it: an offer may have to end first, and
/// a page to be read.
const WAIT_MAX: Span = Span::secs(10);

/// A subscription with free credit at a node that could use it.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    pub(crate) pattern: Pattern,
    pub(crate) processor: Name,
}

impl Idle {
    fn may_take(&self, o: &Object) -> bool {
        self.pattern.matches(&o.entity.ty) && o.handled.binary_search(&self.processor).is_err()
    }
}

impl Checker {
    /// Something is offered to a peer while these are idle here and nobody holds anything: they
    /// come first.
    pub(crate) fn p12_offered_past(
        &mut self,
        lane: LaneId,
        idle: &[Idle],
        offered: &[Arc<Object>],
    ) {
        if self.model.is_lost(lane) {
            return; // What is leased there is not known.
        }
        for o in offered {
            if let Some(Idle { pattern, processor }) = idle.iter().find(|i| i.may_take(o)) {
                let (id, name) = (o.id, lane.short());
                let idle = format!("an idle subscription to {pattern} as {processor}");
                self.fail("P12", format!("{id} is offered by {name} past {idle}"));
            }
        }
    }

    /// Looks at one lane: who is idle there, and what waits for them. `None` for a lane that cannot
    /// deliver now (down, paused, draining, stalled, out of leases): waiting counts anew then.
    pub(crate) fn p12_idle_beside_work(
        &mut self,
        lane: LaneId,
        idle: Option<&[Idle]>,
        now: Mono,
        wall: Wall,
    ) {
        let mine = (lane, ObjectId([0; 16]))..=(lane, ObjectId([255; 16]));
        let before: Vec<_> = self.kept_waiting.range(mine).map(|(k, at)| (*k, *at)).collect();
        before.iter().for_each(|(key, _)| {
            self.kept_waiting.remove(key);
        });
        let whole = !self.model.is_lost(lane);
        let Some(idle) = idle.filter(|idle| whole && !idle.is_empty()) else { return };
        let mut late = None;
        for thing in self.model.lane(lane).things() {
            let o = &thing.object;
            let waits = thing.standing == Standing::Flowing
                && o.not_before.is_none_or(|at| at <= wall)
                // Past its time it is nobody's: it is parked, or waits until the clock is trusted.
                && o.expires_at.is_none_or(|at| at > wall)
                && !self.is_leased(lane, &(o.id, o.birth), now);
            let Some(idle) = idle.iter().find(|i| i.may_take(o)).filter(|_| waits) else {
                continue;
            };
            let fence = self.fences.get(&(o.id, o.birth)).copied().unwrap_or_default();
            let earlier = before.iter().find(|((_, id), (_, f))| *id == o.id && *f == fence);
            let since = earlier.map_or(now, |(_, (at, _))| *at);
            self.kept_waiting.insert((lane, o.id), (since, fence));
            if now - since > WAIT_MAX {
                late = Some((o.id, now - since, idle));
            }
        }
        if let Some((id, span, Idle { pattern, processor })) = late {
            let name = lane.short();
            let idle = format!("an idle subscription to {pattern} as {processor}");
            self.fail("P12", format!("{id} has waited {span} at {name} beside {idle}"));
        }
    }
}
