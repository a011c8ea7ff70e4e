//! The durable state as text: equal for a core that runs and one recovered from its log.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::catalogue::Shelf;
use crate::core::Core;
use crate::ids::Loc;
use crate::memory::Phase;
use crate::transfer::InState;

impl Core {
    /// What the log says, one fact a line, sorted. Two cores of one lane with everything committed
    /// have the same digest, whatever each has in memory.
    pub fn digest(&self) -> String {
        let mut lines = BTreeSet::new();
        self.digest_types(&mut lines);
        self.digest_shelves(&mut lines);
        self.digest_transfers(&mut lines);
        for peer in self.mesh.peers.by_age() {
            lines.insert(format!("peer {peer:?}"));
        }
        for at in self.blamed_places() {
            lines.insert(format!("begun {at}"));
        }
        let mut text = String::new();
        for line in lines {
            let _infallible = writeln!(text, "{line}");
        }
        text
    }

    /// Whether everything it has written is durable.
    pub fn is_all_committed(&self) -> bool {
        let last = self.lane.committed().0;
        !self.lane.has_riders() && last.next() == self.lane.ticket()
    }

    fn blamed_places(&self) -> BTreeSet<Loc> {
        let begun = self.leases.sorted().into_iter().filter(|(_, l)| l.begun);
        let begun = begun.map(|(_, l)| self.memory.get(l.slot).at);
        self.blamed.iter().copied().chain(begun).collect()
    }

    fn digest_types(&self, lines: &mut BTreeSet<String>) {
        for (_, t) in self.queues.types() {
            if t.books != crate::effect::Books::default() {
                lines.insert(format!("books {} {:?}", t.name, t.books));
            }
        }
    }

    fn digest_shelves(&self, lines: &mut BTreeSet<String>) {
        for (record, page) in self.catalogue.iter() {
            for (shelf, positions) in page.sets() {
                let name = |ty| &self.queues.ty(ty).name;
                let what = match shelf {
                    Shelf::Memory => continue,
                    Shelf::Ready(queue) => format!("flows {}", name(self.queues.get(queue).ty)),
                    Shelf::Delayed(ty) => format!("flows {}", name(ty)),
                    Shelf::Parked(ty) => format!("parked {}", name(ty)),
                    Shelf::Held | Shelf::Shadow | Shelf::Ended => format!("{shelf:?}"),
                };
                lines.extend(positions.iter().map(|at| format!("{what} {record}.{at}")));
            }
        }
        for (_, live) in self.memory.iter() {
            if self.catalogue.shelf_of(live.at) != Some(Shelf::Memory) {
                continue;
            }
            let at = live.at;
            let name = &self.queues.ty(self.queues.get(live.queue).ty).name;
            lines.insert(match live.phase {
                Phase::Held(_) => format!("{:?} {at}", Shelf::Held),
                _ => format!("flows {name} {at}"),
            });
        }
        for (record, _, count) in self.remembered.ends() {
            lines.insert(format!("ends {record} {count}"));
        }
    }

    fn digest_transfers(&self, lines: &mut BTreeSet<String>) {
        for (id, moved) in &self.transfers.moved {
            lines.insert(format!("moved {id:?} {moved:?}"));
        }
        for (id, incoming) in &self.transfers.incoming {
            if matches!(incoming.state, InState::Taken | InState::Releasing(_)) {
                lines.insert(format!("taken {id:?}"));
                continue;
            }
            for held in &incoming.items {
                lines.insert(format!("held {id:?} {} {}", held.id, held.at));
            }
        }
        for (of, through) in &self.transfers.forgotten {
            lines.insert(format!("forgotten {of:?} {through}"));
        }
        for lane in &self.transfers.verdicts {
            lines.insert(format!("verdict {lane}"));
        }
    }
}
