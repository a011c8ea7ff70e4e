//! Draws the schedule of a run: for each family of actions its own stream, then all in order.

mod faults;
mod work;

use dpc_core::time::{Mono, Span};

use super::action::{Action, Schedule, Step};
use super::profile::{FAMILIES, Family};
use super::setup::Setup;
use crate::dice::Dice;

/// What the actions of one family are drawn with.
pub(super) struct Draw<'a> {
    setup: &'a Setup,
    dice: Dice,
    drawn: Vec<(Mono, Action)>,
}

/// Everything that will happen.
pub(super) fn schedule(setup: &Setup) -> Schedule {
    let mut steps = Vec::new();
    for family in FAMILIES.into_iter().filter(|family| setup.has(*family)) {
        let dice = Dice::new(setup.seed, &format!("{family:?}"));
        let mut draw = Draw { setup, dice, drawn: Vec::new() };
        draw.family(family);
        let of_family = draw.drawn.into_iter();
        steps.extend(of_family.map(|(at, action)| Step { n: 0, at, family, action }));
    }
    steps.sort_by_key(|step| step.at);
    for (n, step) in steps.iter_mut().enumerate() {
        step.n = n;
    }
    steps
}

impl Draw<'_> {
    fn family(&mut self, family: Family) {
        match family {
            Family::Work => self.work(),
            Family::Clients => self.clients(),
            Family::Operators => self.operators(),
            Family::Network => self.network(),
            Family::Crashes => self.crashes(),
            Family::Pauses => self.pauses(),
            Family::Clocks => self.clocks(),
            Family::Disk => self.disks(),
            Family::Damage => self.damage(),
            Family::Store => self.shared_store(),
        }
    }

    fn at(&mut self, at: Mono, action: Action) {
        self.drawn.push((at, action));
    }

    fn after(&mut self, from: Mono, span: Span, action: Action) {
        self.at(from + span, action);
    }

    /// Some moment of the run.
    fn moment(&mut self) -> Mono {
        Mono(self.dice.below(self.setup.span.0))
    }

    fn node(&mut self) -> usize {
        self.dice.index(self.setup.nodes)
    }

    /// How often something of a rate happens in this run: a share of its actions, at least once.
    fn some(&mut self, percents: &[u64]) -> u64 {
        let percent = self.dice.one_of(percents);
        1 + self.setup.actions * percent / 100
    }

    /// A span that fits into the run: a fault that lasts beyond its end shows nothing more.
    fn while_it_lasts(&mut self) -> Span {
        let most = self.dice.one_of(&[20, 5, 2]);
        self.dice.span(Span::millis(1), Span(self.setup.span.0 / most + 2_000))
    }
}
