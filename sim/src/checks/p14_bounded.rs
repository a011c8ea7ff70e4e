//! P14: everything that a core keeps stays below its limit, whatever clients and peers do.

use dpc_core::Core;

use super::Checker;

impl Checker {
    pub(crate) fn p14_within_limits(&mut self, core: &Core) {
        for gauge in core.usage().into_iter().filter(|g| g.value > g.limit) {
            let (what, name) = (gauge.name, core.name());
            self.fail(
                "P14",
                format!("{what} at {name}: {}, the limit is {}", gauge.value, gauge.limit),
            );
        }
    }
}
