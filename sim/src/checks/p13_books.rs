//! P13: the books of a quiet lane balance and are the log's own, and over all lanes what moved out
//! has moved in.

use dpc_core::effect::{Books, TypeView};
use dpc_core::ids::LaneId;
use dpc_core::names::TypeName;

use super::Checker;

impl Checker {
    pub(crate) fn p13_books_balance(&mut self, lane: LaneId, types: &[TypeView]) {
        for t in types {
            let b = &t.books;
            let came = b.pushed + b.emitted + b.moved_in + b.advanced_in + b.reclaimed;
            let went = b.finalised + b.discarded + b.moved_out + b.advanced_out;
            let live = t.ready + t.leased + t.delayed + t.parked + t.offered;
            let name = lane.short();
            if came != went + live {
                let what =
                    format!("{} at {name}: {came} came, {went} went, {live} live: {t:?}", t.ty);
                self.fail("P13", what);
            }
            let own = self.model.lane(lane).books(&t.ty);
            if own != *b {
                self.fail("P13", format!("{} at {name}: {b:?}, the log says {own:?}", t.ty));
            }
        }
    }

    /// In a quiet world nothing is on its way between two nodes.
    pub(crate) fn p13_moves_balance(&mut self) {
        if !self.model.lost.is_empty() {
            return;
        }
        let all = self.model.all_books();
        // A duplicate is booked when it is kept out, which is before its transfer is decided.
        let (out, into) = (all.moved_out, all.moved_in - self.model.kept_out_in_vain);
        if out != into {
            self.fail("P13", format!("{out} objects moved out in all, and {into} moved in"));
        }
    }

    /// The books of a type summed over all lanes.
    pub fn books(&self, ty: &TypeName) -> Books {
        self.model.lanes().map(|l| l.books(ty)).fold(Books::default(), super::model::add)
    }
}
