//! Named situations and how often they occurred: a set of runs in which one never did proves less
//! than it seems to.

use std::collections::BTreeMap;
use std::fmt;

use dpc_core::effect::Note;
use dpc_core::message::Message;

/// Every named situation. A set of runs of [`crate::swarm::Profile::All`] in which one never
/// occurred would prove less than it seems.
pub const NAMED: &[&str] = &[
    "CREDIT_OUT_OF_RANGE",
    "DRAINING",
    "DUPLICATE_LINK",
    "DUPLICATE_NODE_NAME",
    "ID_REUSED",
    "ID_TWICE",
    "LANE_ROLLED_BACK",
    "LEASE_LOST",
    "LEASE_OF_OTHER_STREAM",
    "LEASE_OUT_OF_RANGE",
    "LIMIT_EXCEEDED",
    "NODE_ALIVE",
    "NODE_UNKNOWN",
    "NOT_ALIVE",
    "OBJECT_UNKNOWN",
    "OWNER_UNREACHABLE",
    "RESOURCE_EXHAUSTED",
    "SUBSCRIPTION_REUSED",
    "SUBSCRIPTION_UNKNOWN",
    "a read failed at the start",
    "abort",
    "accept",
    "advanced",
    "adverts",
    "an object with hops was delivered",
    "bad emits",
    "bit flipped",
    "carried forward",
    "checkpoint written",
    "clock drifted",
    "clock jumped",
    "clock jumped ahead",
    "clock jumped back",
    "clock steady",
    "copy brought back",
    "cut off from each other, not from a third",
    "damage found by a read",
    "damage refused at the start",
    "decline",
    "delivered again",
    "died after a record was written",
    "died amid the effects of a commit",
    "died before a record was written",
    "died before the effects of a commit",
    "died while it started",
    "discarded",
    "discarded out of a lease",
    "disk lost",
    "drained",
    "duplicate kept out",
    "emitted",
    "end carried forward",
    "end undone",
    "expired and parked",
    "forged token settled",
    "forget",
    "handled and kept",
    "handoff taken",
    "held copy brought back",
    "held copy dropped",
    "hello",
    "id index lost",
    "id looked up in the index",
    "id pushed again",
    "id pushed at two nodes",
    "id pushed with other content",
    "index part rebuilt",
    "killed while a record was on its way",
    "killed with effects in the gate",
    "lease extended",
    "lease of another stream settled",
    "lease ran out",
    "leases of two nodes settled at once",
    "link broken",
    "link cut",
    "link cut one way",
    "link held",
    "link lost with messages under way",
    "link ready",
    "link refused",
    "link slowed",
    "link throttled",
    "log cut",
    "log truncated",
    "lost link noticed late",
    "no-demand alarm",
    "no-demand alarm ended",
    "offer",
    "old state put back",
    "old token settled",
    "parked",
    "passed settle answered",
    "paused",
    "paused for more than 30 s",
    "poison parked",
    "push repeated after a crash",
    "push repeated elsewhere",
    "pushed",
    "record loaded from disk",
    "record lost",
    "record misplaced",
    "redriven",
    "refresh asked",
    "rejected and parked",
    "release",
    "restarted from a checkpoint",
    "restored with a new lane",
    "returned",
    "settle passed on",
    "settle refused",
    "settle repeated and answered the same",
    "several hops for one demand",
    "shadow carried forward",
    "silent link given up",
    "status asked",
    "stopped by a read",
    "stopped by its store",
    "taken",
    "taken without a stream",
    "told to wait",
    "transaction",
    "vanished with leases",
    "went on with queued input",
    "why: final",
    "why: moved",
    "why: parked",
    "why: ready",
    "windows",
    "work begun",
];

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    /// Counts one occurrence.
    pub fn add(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    /// Counts one occurrence if it is one.
    pub fn add_if(&mut self, name: &'static str, occurred: bool) {
        if occurred {
            self.add(name);
        }
    }

    /// How often something occurred.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// Named situations that never occurred.
    pub fn missing(&self) -> Vec<&'static str> {
        NAMED.iter().copied().filter(|name| self.get(name) == 0).collect()
    }

    /// Every name with its count: what occurred, and what is named and did not.
    pub fn table(&self) -> Vec<(&'static str, u64)> {
        let named = NAMED.iter().map(|name| (*name, self.get(name)));
        let all: BTreeMap<&'static str, u64> =
            self.0.iter().map(|(n, c)| (*n, *c)).chain(named).collect();
        all.into_iter().collect()
    }

    pub(crate) fn message(&mut self, message: &Message) {
        self.add(match message {
            Message::Hello(_) => "hello",
            Message::Refuse(_) => "link refused",
            Message::Adverts(_) => "adverts",
            Message::Windows(_) => "windows",
            Message::Refresh(_) => "refresh asked",
            Message::Offer(_) => "offer",
            Message::Estate(_) => "estate offered",
            Message::Accept { .. } => "accept",
            Message::Decline { .. } => "decline",
            Message::Release(_) => "release",
            Message::Abort(_) => "abort",
            Message::Taken(_) => "taken",
            Message::Status(_) => "status asked",
            Message::Wait(_) => "told to wait",
            Message::Forget { .. } => "forget",
            Message::TransferUnknown(_) => "transfer unknown",
            Message::PassSettle { .. } => "settle passed on",
            Message::PassedSettle { .. } => "passed settle answered",
        });
    }

    pub(crate) fn note(&mut self, note: &Note) {
        if let Note::LinkRefused(_, refusal) = note {
            self.add(refusal.reason());
        }
        self.add(match note {
            Note::NoDemand(..) => "no-demand alarm",
            Note::DemandBack(_) => "no-demand alarm ended",
            Note::LinkRefused(..) => "link refused",
            Note::LinkReady(..) => "link ready",
            Note::TransferUnknown(_) => "transfer unknown",
            Note::Duplicate(_) => "duplicate noted",
            Note::Parked(_, reason) if &**reason == "expired" => "expired and parked",
            Note::Parked(_, reason) if reason.ends_with("failed deliveries") => "poison parked",
            Note::Parked(..) => "rejected and parked",
            Note::ClockJumped(_) => "clock jumped",
            Note::ClockSteady => "clock steady",
            Note::Drained { .. } => "drained",
            Note::LeaseLost(_) => "lease lost",
            Note::PeerMalformed(..) => "malformed message",
        });
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        let width = table.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        table.iter().try_for_each(|(name, count)| writeln!(f, "{name:width$} {count}"))
    }
}
