//! What goes wrong: links, processes, clocks, disks.

use dpc_core::time::{Mono, Span};

use super::super::action::Action;
use super::Draw;
use crate::contract::Fault;
use crate::shared::Rates;
use crate::store::Damage;
use crate::world::{CrashPoint, Power};

/// Wall clocks jump by this, in milliseconds, either way, or by less.
const JUMP_MS: i64 = 3_600_000;

impl Draw<'_> {
    pub(super) fn network(&mut self) {
        let wires = self.setup.links.len();
        if wires == 0 {
            return;
        }
        for _ in 0..self.some(&[1, 4, 10]) {
            let (at, wire, span) = (self.moment(), self.dice.index(wires), self.while_it_lasts());
            let notice =
                self.dice.one_of(&[self.setup.plan.notice, Span::millis(20), Span::secs(30)]);
            match self.dice.below(9) {
                0 | 1 => {
                    self.at(at, Action::Cut(wire, notice));
                    self.after(at, span, Action::Heal(wire));
                }
                2 | 3 => self.at(at, Action::Break(wire)),
                4 => {
                    self.at(at, Action::Hold(wire));
                    self.after(at, span, Action::LetGo(wire));
                }
                5 => {
                    let side = self.dice.index(2);
                    self.at(at, Action::HoldWay(wire, side));
                    self.after(at, span, Action::LetGo(wire));
                }
                6 => {
                    let gap = self.dice.one_of(&[Span::millis(50), Span::secs(1)]);
                    self.at(at, Action::Throttle(wire, gap));
                    self.after(at, span, Action::Throttle(wire, Span::ZERO));
                }
                7 => {
                    let extra = self.dice.one_of(&[Span::millis(200), Span::secs(2)]);
                    self.at(at, Action::Slow(wire, extra));
                    self.after(at, span, Action::Slow(wire, Span::ZERO));
                }
                _ => self.many_links(at, span, notice),
            }
        }
    }

    /// A partition into two sides, or a clog that comes and goes link by link.
    fn many_links(&mut self, at: Mono, span: Span, notice: Span) {
        if self.dice.chance(50) {
            let side: Vec<bool> = (0..self.setup.nodes).map(|_| self.dice.chance(50)).collect();
            for (wire, (a, b)) in self.setup.links.clone().into_iter().enumerate() {
                if side[a] != side[b] {
                    self.at(at, Action::Cut(wire, notice));
                    self.after(at, span, Action::Heal(wire));
                }
            }
            return;
        }
        for wire in 0..self.setup.links.len() {
            if self.dice.chance(60) {
                let from = at + Span(self.dice.below(span.0));
                let until = Span(span.0 + self.dice.below(span.0));
                self.at(from, Action::Hold(wire));
                self.after(at, until, Action::LetGo(wire));
            }
        }
    }

    pub(super) fn crashes(&mut self) {
        for _ in 0..self.some(&[1, 3, 8]) {
            let (at, node) = (self.moment(), self.node());
            let power = if self.dice.chance(50) { Power::Cut } else { Power::Stays };
            if self.dice.chance(50) {
                let point = self.dice.one_of(&CrashPoint::ALL);
                let times = self.dice.one_of(&[1, 1, 2, 5]);
                self.at(at, Action::CrashAt { node, point, power, times });
                continue;
            }
            self.at(at, Action::Kill(node, power));
            match self.dice.below(3) {
                0 => self.at(at, Action::Restart(node)),
                1 => {
                    let span = self.while_it_lasts();
                    self.after(at, span, Action::Restart(node));
                }
                _ => {}
            }
        }
    }

    pub(super) fn pauses(&mut self) {
        for _ in 0..self.some(&[1, 3]) {
            let (at, node) = (self.moment(), self.node());
            let span = match self.dice.below(3) {
                0 => self.dice.span(Span::secs(1), Span::secs(300)),
                _ => self.while_it_lasts(),
            };
            self.at(at, Action::Pause(node));
            self.after(at, span, Action::Resume(node));
        }
    }

    pub(super) fn clocks(&mut self) {
        for _ in 0..self.some(&[1, 3]) {
            let (at, node) = (self.moment(), self.node());
            let sign = if self.dice.chance(50) { 1 } else { -1 };
            match self.dice.below(4) {
                0 => self.at(at, Action::ClockJump(node, sign * JUMP_MS)),
                1 => {
                    let ms = sign * self.dice.below(JUMP_MS as u64 + 60_000) as i64;
                    self.at(at, Action::ClockJump(node, ms));
                }
                2 => self.at(at, Action::ClockDrift(node, sign * 50_000)),
                _ => {
                    for i in 0..4 {
                        let ms = if i % 2 == 0 { sign * 90_000 } else { -sign * 90_000 };
                        self.after(at, Span::millis(200 * i), Action::ClockJump(node, ms));
                    }
                }
            }
        }
    }

    /// Disks that are damaged, lost, or put back to what they were a while ago. One or two in a run:
    /// of more nothing would be left to look at.
    pub(super) fn damage(&mut self) {
        for _ in 0..1 + self.dice.below(2) {
            let (at, node) = (self.moment(), self.node());
            let earlier = Mono(self.dice.below(at.0.max(1)));
            if self.dice.chance(50) {
                self.at(earlier, Action::BackUp(node));
            }
            match self.dice.below(6) {
                0 => self.at(at, Action::ReplaceDisk(node)),
                1 => {
                    self.at(earlier, Action::BackUp(node));
                    self.at(at, Action::PutBack(node));
                }
                _ => {
                    let kind = self.dice.one_of(&Damage::ALL);
                    let permille = self.dice.below(1_000);
                    self.at(at, Action::Damage(node, kind, permille));
                }
            }
        }
    }

    pub(super) fn disks(&mut self) {
        for _ in 0..self.some(&[1, 2, 4]) {
            let (at, node, span) = (self.moment(), self.node(), self.while_it_lasts());
            match self.dice.below(8) {
                0 => self.at(at, Action::DiskFault(node, Fault::SyncFails)),
                1 => self.at(at, Action::DiskFault(node, Fault::UnknownNever)),
                2 => self.at(at, Action::DiskFault(node, Fault::UnknownLater)),
                3 => self.at(at, Action::ReadFails(node)),
                4 => {
                    self.at(at, Action::DiskLow(node, true));
                    self.after(at, span, Action::DiskLow(node, false));
                }
                5 => {
                    let left = self.dice.below(4_000);
                    self.at(at, Action::Fill(node, Some(left)));
                    self.after(at, span, Action::Fill(node, None));
                    self.after(at, span, Action::Restart(node));
                }
                6 => {
                    let stall = self.dice.span(Span::secs(1), Span::secs(60));
                    self.at(at, Action::Stall(node, stall));
                }
                _ => self.at(at, Action::Stall(node, span)),
            }
            if self.dice.chance(60) {
                let span = self.while_it_lasts();
                self.after(at, span, Action::Restart(node));
            }
        }
    }

    /// The store that the nodes share, and the nodes that others replace.
    pub(super) fn shared_store(&mut self) {
        // Some are gone for ever; somebody is left.
        let gone = self.dice.index(self.setup.nodes);
        for i in 0..gone.min(2) {
            let at = self.moment();
            self.at(at, Action::Gone(self.setup.nodes - 1 - i));
        }
        for _ in 0..self.some(&[1, 3, 6]) {
            let (at, node) = (self.moment(), self.node());
            let span = self.dice.span(Span::secs(1), Span::secs(40));
            match self.dice.below(6) {
                0 => {
                    let rates = self.rates();
                    self.at(at, Action::Store(rates));
                    self.after(at, span, Action::Store(Rates::default()));
                }
                1 => self.at(at, Action::StoreCut(node, span)),
                2 | 3 => {
                    self.at(at, Action::Kill(node, Power::Stays));
                    self.after(at, span, Action::Restart(node));
                }
                4 => {
                    self.at(at, Action::Pause(node));
                    self.after(at, span, Action::Resume(node));
                }
                _ => self.cut_off(at, node, span),
            }
        }
    }

    fn rates(&mut self) -> Rates {
        let mut one = || self.dice.one_of(&[0, 0, 3, 10]);
        Rates {
            lost_applied: one(),
            lost_never: one(),
            lost_later: one(),
            contention: one(),
            unavailable: one(),
            stale: self.dice.one_of(&[0, 20, 80]),
        }
    }

    /// A node that neither the others nor the store can reach.
    fn cut_off(&mut self, at: Mono, node: usize, span: Span) {
        self.at(at, Action::StoreCut(node, span));
        let notice = self.setup.plan.notice;
        for (wire, (a, b)) in self.setup.links.clone().into_iter().enumerate() {
            if a == node || b == node {
                self.at(at, Action::Cut(wire, notice));
                self.after(at, span, Action::Heal(wire));
            }
        }
    }
}
