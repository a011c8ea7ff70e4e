//! P15: faults of one node cost the clients of another nothing. That nobody is kept waiting is seen
//! by `p12_fair` and `p11_liveness`; here it is seen that nobody is sent away.

use dpc_core::names::Name;
use dpc_core::refusal::{Code, Refusal};

use super::Checker;

impl Checker {
    /// A push was refused: only its own drain makes a node say that it is unavailable.
    pub(crate) fn p15_push_refused(&mut self, node: &Name, refusal: &Refusal, draining: bool) {
        if refusal.code == Code::Unavailable && !draining {
            self.fail("P15", format!("a push at {node} was refused: {}", refusal.message));
        }
    }
}
