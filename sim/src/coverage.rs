//! Named situations and how often they occurred: a set of runs in which one never did proves less
//! than it seems to.

use std::collections::BTreeMap;
use std::fmt;

use dpc_core::effect::Note;
use dpc_core::message::Message;

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

    /// Names that never occurred, of those that should.
    pub fn missing(&self, names: &[&'static str]) -> Vec<&'static str> {
        names.iter().copied().filter(|name| self.get(name) == 0).collect()
    }

    pub(crate) fn message(&mut self, message: &Message) {
        self.add(match message {
            Message::Hello(_) => "hello",
            Message::Refuse(_) => "link refused",
            Message::Adverts(_) => "adverts",
            Message::Windows(_) => "windows",
            Message::Refresh(_) => "refresh asked",
            Message::Offer(_) => "offer",
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
        let width = self.0.keys().map(|name| name.len()).max().unwrap_or(0);
        self.0.iter().try_for_each(|(name, count)| writeln!(f, "{name:width$} {count}"))
    }
}
