//! What nodes say to each other, counted: for figures of what demand costs.

use std::ops::Sub;

use dpc_core::message::Message;

/// Counts since the world began; the difference of two is what was said in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages about demand.
    pub messages: u64,
    /// Adverts in them: new, changed or withdrawn.
    pub adverts: u64,
    /// New totals of windows in them.
    pub windows: u64,
    /// Requests for newer demand.
    pub refreshes: u64,
    /// Handshakes: a second link between two nodes is refused for good, and dialled now and then.
    pub handshakes: u64,
    /// Everything else: handoffs and passed settles.
    pub others: u64,
}

impl Traffic {
    pub(crate) fn count(&mut self, message: &Message) {
        match message {
            Message::Adverts(adverts) => self.adverts += adverts.len() as u64,
            Message::Windows(windows) => self.windows += windows.len() as u64,
            Message::Refresh(_) => self.refreshes += 1,
            Message::Hello(_) | Message::Refuse(_) => {
                self.handshakes += 1;
                return;
            }
            _ => {
                self.others += 1;
                return;
            }
        }
        self.messages += 1;
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            messages: self.messages - before.messages,
            adverts: self.adverts - before.adverts,
            windows: self.windows - before.windows,
            refreshes: self.refreshes - before.refreshes,
            handshakes: self.handshakes - before.handshakes,
            others: self.others - before.others,
        }
    }
}
