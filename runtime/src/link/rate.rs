//! Counts of one peer, and how many objects a second went over a link of late.

use std::sync::atomic::{AtomicU64, Ordering};

use dpc_core::time::Mono;

use super::PeerCounts;

/// Seconds that a rate looks back.
const SECONDS: u64 = 10;

/// What went to and came from one peer since the start.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) messages_sent: AtomicU64,
    pub(crate) messages_received: AtomicU64,
    pub(crate) payload_sent: AtomicU64,
    pub(crate) payload_received: AtomicU64,
}

impl Counts {
    pub(crate) fn sent(&self, messages: u64, payload: u64) {
        self.messages_sent.fetch_add(messages, Ordering::Relaxed);
        self.payload_sent.fetch_add(payload, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, messages: u64, payload: u64) {
        self.messages_received.fetch_add(messages, Ordering::Relaxed);
        self.payload_received.fetch_add(payload, Ordering::Relaxed);
    }

    pub(crate) fn totals(&self, peer: &str) -> PeerCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerCounts {
            peer: peer.to_owned(),
            messages_sent: read(&self.messages_sent),
            messages_received: read(&self.messages_received),
            payload_sent: read(&self.payload_sent),
            payload_received: read(&self.payload_received),
        }
    }
}

/// Objects in each of the last seconds.
#[derive(Default)]
pub(crate) struct Rate {
    second: u64,
    counts: [u64; SECONDS as usize],
}

impl Rate {
    pub(crate) fn add(&mut self, now: Mono, count: u64) {
        self.forward(now);
        self.counts[slot(self.second)] += count;
    }

    /// Objects a second over the whole seconds that are kept.
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(crate) fn per_second(&mut self, now: Mono) -> f64 {
        self.forward(now);
        self.counts.iter().sum::<u64>() as f64 / SECONDS as f64
    }

    fn forward(&mut self, now: Mono) {
        let second = now.0 / 1_000_000;
        for passed in (self.second + 1..=second).rev().take(self.counts.len()) {
            self.counts[slot(passed)] = 0;
        }
        self.second = self.second.max(second);
    }
}

fn slot(second: u64) -> usize {
    usize::try_from(second % SECONDS).expect("below ten")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_forgets_what_is_ten_seconds_old() {
        let mut rate = Rate::default();
        let at = |seconds: u64| Mono(seconds * 1_000_000);
        rate.add(at(3), 50);
        rate.add(at(4), 50);
        assert!((rate.per_second(at(12)) - 10.0).abs() < 1e-9);
        assert!((rate.per_second(at(13)) - 5.0).abs() < 1e-9);
        assert!(rate.per_second(at(500)).abs() < 1e-9);
    }
}
