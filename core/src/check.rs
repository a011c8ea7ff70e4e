//! Invariants over the whole state, for tests: what every input must leave true.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::{QueueId, Shelf, TypeId};
use crate::core::Core;
use crate::ids::RecordNumber;
use crate::limits::LOADS_MAX;
use crate::memory::Phase;
use crate::timers::Timer;

#[derive(Default, Debug, PartialEq, Eq)]
struct Counts {
    leased: u64,
    delayed: u64,
    parked: u64,
    offered: u64,
    held: u64,
    writing: u64,
}

impl Core {
    /// Panics at the first invariant that does not hold. Its cost grows with the state.
    pub fn check(&self) {
        self.check_memory();
        self.check_shelves();
        self.check_leases();
        self.check_groups();
        self.check_transfers();
        self.check_pages();
        self.check_deadlines();
        self.catalogue.check();
    }

    fn check_deadlines(&self) {
        let timed = self.memory.iter().filter(|(_, live)| live.has_times());
        let timed = timed.map(|(slot, _)| slot);
        assert!(timed.eq(self.memory.timed().map(|(slot, _)| slot)), "who waits for a time");
        let first = self.timers.first().map(|(at, _)| *at);
        assert!(first.is_none_or(|at| self.timers_from <= at), "the first deadline is looked for");
        let set = self.once.contains_key(&Timer::Riders);
        assert!(set || !self.riders_timed, "riders go in time");
        for (timer, at) in &self.once {
            assert!(self.timers.contains(&(*at, *timer)), "{timer:?} is set once");
        }
    }

    fn check_memory(&self) {
        let (mut waiting, mut leased) = (0, 0);
        for (slot, live) in self.memory.iter() {
            let id = live.object.id;
            let stands = self.queues.get(live.queue).window.get(live.place) == Some(slot);
            assert_eq!(stands, live.phase == Phase::Ready, "{id}: {:?} and its queue", live.phase);
            match live.phase {
                Phase::Ready => waiting += live.object.footprint(),
                Phase::Leased(n) => {
                    leased += live.object.footprint();
                    let lease = self.leases.get(n);
                    assert!(lease.is_some_and(|l| l.slot == slot), "{id} is leased under {n}");
                }
                Phase::Offered(n) | Phase::Moving(n) => {
                    let out = self.transfers.outgoing.get(&n);
                    assert!(out.is_some_and(|o| o.slots.contains(&slot)), "{id} is in offer {n}");
                }
                Phase::Held(ref transfer) => {
                    let held = self.transfers.incoming.get(&**transfer);
                    assert!(
                        held.is_some_and(|i| i.items.iter().any(|h| h.id == id)),
                        "{id} is held for {transfer}"
                    );
                }
                Phase::Writing | Phase::Delayed(_) => {}
            }
        }
        assert_eq!(self.memory.waiting_bytes, waiting, "bytes of what waits");
        assert_eq!(self.memory.leased_bytes, leased, "bytes of what is leased");
    }

    fn check_shelves(&self) {
        let mut counts = BTreeMap::<TypeId, Counts>::new();
        let mut paged = BTreeMap::<QueueId, (u64, BTreeSet<RecordNumber>)>::new();
        for (record, page) in self.catalogue.iter() {
            for (shelf, positions) in page.sets() {
                let n = positions.len() as u64;
                assert!(n > 0, "no shelf is empty");
                match shelf {
                    Shelf::Ready(queue) => {
                        let entry = paged.entry(queue).or_default();
                        entry.0 += n;
                        entry.1.insert(*record);
                    }
                    Shelf::Delayed(ty) => counts.entry(ty).or_default().delayed += n,
                    Shelf::Parked(ty) => counts.entry(ty).or_default().parked += n,
                    Shelf::Memory | Shelf::Held | Shelf::Shadow | Shelf::Ended => {}
                }
            }
        }
        for i in 0..self.queues.len() {
            let id = QueueId(u32::try_from(i).expect("queues are bounded"));
            let q = self.queues.get(id);
            let (count, records) = paged.remove(&id).unwrap_or_default();
            assert_eq!(q.paged_count, count, "paged objects of queue {i}");
            let known: BTreeSet<RecordNumber> = self.catalogue.rest(id).collect();
            assert_eq!(known, records, "records of queue {i}");
        }
        let mut reading: BTreeMap<RecordNumber, usize> = BTreeMap::new();
        for page in self.queues.iter().flat_map(|q| &q.reading) {
            *reading.entry(page.record).or_default() += 1;
        }
        assert_eq!(*self.loads.pages(), reading, "pages being read");
        let all_are_read = self.loads.nobody_waits() || reading.len() >= LOADS_MAX;
        assert!(all_are_read, "a queue waits for a page although one more may be read");
        self.check_counts(counts);
    }

    fn check_counts(&self, mut counts: BTreeMap<TypeId, Counts>) {
        for (_, live) in self.memory.iter() {
            let c = counts.entry(self.queues.get(live.queue).ty).or_default();
            match live.phase {
                Phase::Writing | Phase::Moving(_) => c.writing += 1,
                Phase::Ready => {}
                Phase::Delayed(_) => c.delayed += 1,
                Phase::Leased(_) => c.leased += 1,
                Phase::Offered(_) => c.offered += 1,
                Phase::Held(_) => c.held += 1,
            }
        }
        for incoming in self.transfers.incoming.values() {
            for held in &incoming.items {
                if self.catalogue.shelf_of(held.at) == Some(Shelf::Held) {
                    counts.entry(self.queues.get(held.queue).ty).or_default().held += 1;
                }
            }
        }
        for (id, t) in self.queues.types() {
            let counted = Counts {
                leased: t.leased,
                delayed: t.delayed,
                parked: t.parked,
                offered: t.offered,
                held: t.held,
                writing: t.writing,
            };
            assert_eq!(counted, counts.remove(&id).unwrap_or_default(), "counts of {}", t.name);
        }
    }

    fn check_leases(&self) {
        let (mut in_flight, mut of_session) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
        for (n, lease) in self.leases.sorted().into_iter() {
            let live = self.memory.get(lease.slot);
            assert_eq!(live.phase, Phase::Leased(n), "lease {n} and its object");
            let due = self.once.get(&Timer::Lease(lease.span));
            assert!(due.is_some_and(|at| *at <= lease.until), "lease {n} runs out in time");
            if let crate::lease::Holder::Stream(key) = lease.holder {
                of_session.entry(key.0).or_default().push(n);
                *in_flight.entry(key).or_insert(0u32) += 1;
            }
        }
        for (id, session) in &self.subs.sessions {
            let held = of_session.remove(id).unwrap_or_default();
            assert_eq!(
                self.leases_of(*id).collect::<Vec<_>>(),
                held,
                "session {id} knows its leases"
            );
            assert_eq!(session.leases.standing(), held.len(), "session {id} counts its leases");
            assert_eq!(session.pace.is_busy(), !held.is_empty(), "session {id} works or waits");
        }
        assert!(of_session.is_empty(), "a lease of a stream is its session's: {of_session:?}");
        let standing = self.subs.subs.iter().map(|(key, sub)| (*key, sub.in_flight));
        let ended = self.subs.sessions.iter().flat_map(|(session, of_it)| {
            of_it.unsettled.iter().map(|(number, count)| ((*session, *number), *count))
        });
        let counted: BTreeMap<_, u32> =
            standing.filter(|(_, count)| *count > 0).chain(ended).collect();
        assert_eq!(counted, in_flight, "subscriptions count the leases of their numbers");
    }

    fn check_groups(&self) {
        for (id, group) in self.subs.groups() {
            let subs = || group.subs.iter().map(|key| &self.subs.subs[key]);
            let free: u64 = subs().map(|s| u64::from(s.credit.saturating_sub(s.in_flight))).sum();
            assert_eq!(group.free, free, "free credit of {}", group.key);
            let credit: u64 = subs().map(|s| u64::from(s.credit)).sum();
            assert_eq!(group.credit, credit, "credit of {}", group.key);
            assert_eq!(self.subs.can_take(id), free > 0, "{} can take", group.key);
        }
        for i in 0..self.queues.len() {
            let id = QueueId(u32::try_from(i).expect("queues are bounded"));
            let q = self.queues.get(id);
            for group in &q.groups {
                let ready = self.subs.group(*group).ready.contains(id);
                assert_eq!(ready, !q.is_empty(), "queue {i} is offered to its groups");
            }
            assert!(!(q.is_told && q.is_empty()), "of an empty queue {i} nobody is told");
        }
    }

    fn check_transfers(&self) {
        for (transfer, moved) in &self.transfers.moved {
            for at in &moved.shadows {
                assert_eq!(
                    self.catalogue.shelf_of(*at),
                    Some(Shelf::Shadow),
                    "{at}, a shadow of {transfer}"
                );
                assert_eq!(self.transfers.shadow_of(*at), Some(*transfer), "whose {at} is");
            }
        }
        for (n, out) in &self.transfers.outgoing {
            let holds = !out.slots.is_empty() || !out.estate.is_empty();
            assert!(out.id.n == *n && holds, "offer {n} holds something");
        }
    }
}
