//! P10: with no demand anywhere there are no handoffs. That each link is crossed at most once in
//! each direction for one generation, and at most `max_hops` in all, `fold` sees in the logs.

use dpc_core::message::Message;
use dpc_core::names::Pattern;

use super::Checker;

impl Checker {
    /// Somebody subscribes, or asks without a stream.
    pub(crate) fn p10_wanted(&mut self, pattern: &Pattern) {
        if !self.wanted.contains(pattern) {
            self.wanted.insert(pattern.clone());
        }
    }

    /// What is offered was wanted by somebody at some time.
    pub(crate) fn p10_offered(&mut self, message: &Message) {
        let Message::Offer(offer) = message else { return };
        for object in offer.objects.iter() {
            let ty = &object.entity.ty;
            if !self.wanted.iter().any(|pattern| pattern.matches(ty)) {
                self.fail("P10", format!("{} was offered, and nobody wanted {ty}", object.id));
            }
        }
    }

    /// A world in which nothing has changed for long says nothing.
    pub(crate) fn p10_silent(&mut self, messages: u64) {
        if messages > 0 {
            let what = format!("{messages} messages in a minute in which nothing happened");
            self.fail("P10", what);
        }
    }
}
