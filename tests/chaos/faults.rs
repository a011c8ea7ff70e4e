//! The fault sets, and what each does when: a schedule drawn from the seed alone, so that it can be
//! repeated.

use std::fmt;
use std::str::FromStr;

use crate::dice::Dice;

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    None,
    Partition,
    Kill,
    Pause,
    Packet,
    Throttle,
    HalfOpen,
    Reset,
    DiskFull,
    PartKill,
    PauseKill,
    /// Everything, but only to the first node: clients of the others must not notice (P15).
    OneNode,
    All,
}

impl Set {
    /// Every set, in the order in which they are run.
    pub(crate) const EVERY: [Self; 13] = [
        Self::None,
        Self::Partition,
        Self::Kill,
        Self::Pause,
        Self::Packet,
        Self::Throttle,
        Self::HalfOpen,
        Self::Reset,
        Self::DiskFull,
        Self::PartKill,
        Self::PauseKill,
        Self::OneNode,
        Self::All,
    ];

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Partition => "partition",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Packet => "packet",
            Self::Throttle => "throttle",
            Self::HalfOpen => "half-open",
            Self::Reset => "reset",
            Self::DiskFull => "disk-full",
            Self::PartKill => "part-kill",
            Self::PauseKill => "pause-kill",
            Self::OneNode => "one-node",
            Self::All => "all",
        }
    }

    /// It fills disks, so that each node needs a small one.
    pub(crate) fn needs_disks(self) -> bool {
        matches!(self, Self::DiskFull | Self::All)
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Set {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::EVERY.into_iter().find(|set| set.name() == text);
        let names = || Self::EVERY.map(Self::name).join(", ");
        found.ok_or_else(|| format!("`{text}` is no fault set; there are {}", names()))
    }
}

/// Where a network fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Between two nodes, by its index in [`Shape::links`].
    Link(usize),
    /// Between a node and its clients.
    Clients(usize),
}

/// One step of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing passes to the server, and to the client.
    Cut(Wire, [bool; 2]),
    /// Milliseconds, and up to so many more.
    Delay(Wire, u64, u64),
    /// Bytes a second.
    Throttle(Wire, u32),
    /// The server (0) or the client (1) is gone without a word.
    Vanish(Wire, usize),
    Reset(Wire),
    Kill(usize),
    /// Starts a node that was killed or has ended for want of space.
    Start(usize),
    /// Starts a node that was killed, and kills it so many milliseconds later, ready or not.
    Stumble(usize, u64),
    /// Loses the data of a node that was killed. No set does: it breaks promises.
    Lose(usize),
    Stop(usize),
    Continue(usize),
    /// Leaves so many MiB on the disk of a node.
    Fill(usize, u64),
    Free(usize),
}

/// An act and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Milliseconds since the round began.
    pub(crate) at_ms: u64,
    pub(crate) act: Act,
}

/// What a schedule is made for.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: usize,
    /// Which node dials which.
    pub(crate) links: Vec<(usize, usize)>,
    pub(crate) seconds: u64,
    /// Nodes have small disks that can be filled.
    pub(crate) disks: bool,
}

/// Free disk in MiB: below the reserve, so that a node refuses work, and nothing at all.
const LOW_MIB: u64 = 8;
const FULL_MIB: u64 = 0;

/// The faults of a round, in the order of time. Everything is healed after the last one by whoever
/// performs them.
pub(crate) fn schedule(set: Set, seed: u64, shape: &Shape) -> Vec<Step> {
    let ms = shape.seconds * 1_000;
    // 10 s of quiet, a fault about every 5 s; less of each in a short round.
    let (quiet, every) = ((ms / 6).clamp(500, 10_000), (ms / 8).clamp(500, 5_000));
    let mut plan = Plan {
        dice: Dice::of(seed, set.name()),
        shape,
        longest: (ms / 5).clamp(400, 30_000),
        steps: Vec::new(),
    };
    let mut at = quiet;
    while set != Set::None && at + every / 2 < ms {
        let span = plan.fault(set, at);
        // Jepsen's pace for short faults; a long one is waited for, so that nothing piles up.
        at += plan.dice.between(every / 2, every * 3 / 2).max(span);
    }
    let mut steps = plan.steps;
    steps.retain(|step| step.at_ms < ms);
    steps.sort_by_key(|step| step.at_ms);
    steps
}

struct Plan<'a> {
    dice: Dice,
    shape: &'a Shape,
    longest: u64,
    steps: Vec<Step>,
}

impl Plan<'_> {
    /// Adds one fault of a set from `at` on; how long it keeps others waiting.
    fn fault(&mut self, set: Set, at: u64) -> u64 {
        match set {
            Set::None => 0,
            Set::Partition => self.partition(at),
            Set::Kill => self.kill(at),
            Set::Pause => self.pause(at),
            Set::Packet => self.packet(at),
            Set::Throttle => self.throttle(at),
            Set::HalfOpen => self.half_open(at),
            Set::Reset => self.reset(at),
            Set::DiskFull => self.disk_full(at),
            Set::PartKill => self.part_kill(at),
            Set::PauseKill => self.pause_kill(at),
            Set::OneNode => self.one_node(at),
            Set::All => {
                let count = Set::EVERY.len() - 3;
                let mut set = Set::EVERY[1 + self.dice.index(count)];
                if set.needs_disks() && !self.shape.disks {
                    set = Set::Kill;
                }
                // Half of the time the next one comes on top of it.
                let span = self.fault(set, at);
                if self.dice.percent(50) { span } else { 0 }
            }
        }
    }

    fn step(&mut self, at_ms: u64, act: Act) {
        self.steps.push(Step { at_ms, act });
    }

    fn node(&mut self) -> usize {
        self.dice.index(self.shape.nodes)
    }

    /// Another node than these.
    fn other(&mut self, than: &[usize]) -> usize {
        let others: Vec<_> = (0..self.shape.nodes).filter(|node| !than.contains(node)).collect();
        self.dice.pick(&others)
    }

    fn wire(&mut self) -> Wire {
        let (links, nodes) = (self.shape.links.len(), self.shape.nodes);
        let index = self.dice.index(links + nodes);
        if index < links { Wire::Link(index) } else { Wire::Clients(index - links) }
    }

    fn span(&mut self) -> u64 {
        self.dice.between(self.longest / 8, self.longest / 2)
    }

    fn cut(&mut self, at: u64, wire: Wire, ways: [bool; 2], span: u64) {
        self.step(at, Act::Cut(wire, ways));
        self.step(at + span, Act::Cut(wire, [false; 2]));
    }

    /// Cuts every link between the nodes of a side and the rest, one way or both.
    fn isolate(&mut self, at: u64, side: &[usize], one_way: Option<bool>, span: u64) {
        for (index, (from, to)) in self.shape.links.iter().copied().enumerate() {
            let (inside, outside) = (side.contains(&from), side.contains(&to));
            if inside == outside {
                continue;
            }
            // What goes in or what comes out, whoever has dialled.
            let ways = match one_way {
                None => [true; 2],
                Some(out) => [out == inside, out != inside],
            };
            self.cut(at, Wire::Link(index), ways, span);
        }
    }

    fn partition(&mut self, at: u64) -> u64 {
        let span = self.span();
        let one_way = if self.dice.percent(40) { Some(self.dice.percent(50)) } else { None };
        let first = self.node();
        match self.dice.below(4) {
            0 => {
                // Partial: two nodes do not see each other, and both see the rest.
                let link = self.dice.index(self.shape.links.len());
                let ways = one_way.map_or([true; 2], |out| [out, !out]);
                self.cut(at, Wire::Link(link), ways, span);
            }
            1 if self.shape.nodes > 3 => {
                let second = self.other(&[first]);
                self.isolate(at, &[first, second], one_way, span);
            }
            _ => self.isolate(at, &[first], one_way, span),
        }
        if self.dice.percent(30) {
            self.cut(at, Wire::Clients(first), [true; 2], span);
        }
        span
    }

    fn kill_for(&mut self, at: u64, node: usize, span: u64) {
        self.step(at, Act::Kill(node));
        self.step(at + span, Act::Start(node));
    }

    fn kill(&mut self, at: u64) -> u64 {
        let node = self.node();
        match self.dice.below(4) {
            0 => {
                // A crash loop: down again before it is up, or just after.
                let times = self.dice.between(2, 5);
                self.kill_for(at, node, times * 300);
                for time in 0..times {
                    let after = self.dice.order_of(2, 600);
                    self.step(at + 10 + time * 300, Act::Stumble(node, after));
                }
                times * 300
            }
            1 => {
                // All at once, as when the power fails; they come back in any order.
                let mut longest = 0;
                for node in 0..self.shape.nodes {
                    let span = self.dice.between(50, self.longest / 4);
                    self.kill_for(at, node, span);
                    longest = longest.max(span);
                }
                longest
            }
            _ => {
                let span = self.dice.order_of(50, self.longest / 2);
                self.kill_for(at, node, span);
                span
            }
        }
    }

    fn pause_for(&mut self, at: u64, node: usize, span: u64) {
        self.step(at, Act::Stop(node));
        self.step(at + span, Act::Continue(node));
    }

    fn pause(&mut self, at: u64) -> u64 {
        let (node, span) = (self.node(), self.dice.order_of(100, self.longest));
        self.pause_for(at, node, span);
        if self.dice.percent(25) {
            let other = self.other(&[node]);
            self.pause_for(at + span / 3, other, span);
        }
        span
    }

    fn packet(&mut self, at: u64) -> u64 {
        let span = self.span();
        for _ in 0..self.dice.between(1, 4) {
            let wire = self.wire();
            // 100 ± 50 ms as in Jepsen's suites, or anything up to 2 s.
            let (delay, jitter) = if self.dice.percent(50) {
                (50, 100)
            } else {
                (self.dice.order_of(5, 1_000), 1_000)
            };
            self.step(at, Act::Delay(wire, delay, jitter));
            self.step(at + span, Act::Delay(wire, 0, 0));
        }
        span
    }

    fn throttle(&mut self, at: u64) -> u64 {
        let span = self.span();
        for _ in 0..self.dice.between(1, 3) {
            let wire = self.wire();
            let bytes_per_s = u32::try_from(self.dice.order_of(200, 100_000)).expect("small");
            self.step(at, Act::Throttle(wire, bytes_per_s));
            self.step(at + span, Act::Throttle(wire, 0));
        }
        span
    }

    fn half_open(&mut self, at: u64) -> u64 {
        for _ in 0..self.dice.between(1, 3) {
            let (wire, end) = (self.wire(), self.dice.index(2));
            self.step(at, Act::Vanish(wire, end));
        }
        0
    }

    fn reset(&mut self, at: u64) -> u64 {
        let times = self.dice.between(1, 12);
        for time in 0..times {
            let wire = self.wire();
            self.step(at + time * self.longest / 100, Act::Reset(wire));
        }
        0
    }

    fn disk_full(&mut self, at: u64) -> u64 {
        let (node, span) = (self.node(), self.span());
        if self.dice.percent(60) {
            self.step(at, Act::Fill(node, LOW_MIB));
        } else {
            self.step(at, Act::Fill(node, FULL_MIB));
        }
        if self.dice.percent(30) {
            self.step(at + span / 2, Act::Kill(node));
        }
        self.step(at + span, Act::Free(node));
        self.step(at + span + 1, Act::Start(node));
        span
    }

    /// One node is cut off, another one is killed, and comes back where only the first one is.
    fn part_kill(&mut self, at: u64) -> u64 {
        let span = self.longest.max(1_000);
        let (alone, killed) = self.two();
        self.isolate(at, &[alone], None, span / 2);
        self.step(at + span / 4, Act::Kill(killed));
        self.isolate(at + span / 2 + 1, &[alone, killed], None, span / 2 - 1);
        self.step(at + span / 2 + 50, Act::Start(killed));
        span
    }

    /// One node stands still, another one is killed and comes back, and then the other way round.
    fn pause_kill(&mut self, at: u64) -> u64 {
        let span = self.longest.max(1_000);
        let (paused, killed) = self.two();
        self.pause_for(at, paused, span / 2);
        self.kill_for(at + span / 8, killed, span / 8);
        self.pause_for(at + span / 2 + 1, killed, span / 2 - 1);
        self.kill_for(at + span * 5 / 8, paused, span / 8);
        span
    }

    fn two(&mut self) -> (usize, usize) {
        let first = self.node();
        (first, self.other(&[first]))
    }

    /// One fault of any kind, at the first node, its links and its clients.
    fn one_node(&mut self, at: u64) -> u64 {
        let links = self.shape.links.iter().enumerate();
        let own: Vec<_> = links.filter(|(_, link)| link.0 == 0 || link.1 == 0).collect();
        let mut wires: Vec<_> = own.iter().map(|(index, _)| Wire::Link(*index)).collect();
        wires.push(Wire::Clients(0));
        let wire = self.dice.pick(&wires);
        let span = self.span();
        match self.dice.below(7) {
            0 => self.kill_for(at, 0, span),
            1 => self.pause_for(at, 0, span),
            2 => self.isolate(at, &[0], None, span),
            3 => {
                self.step(at, Act::Delay(wire, 50, 1_000));
                self.step(at + span, Act::Delay(wire, 0, 0));
            }
            4 => {
                self.step(at, Act::Throttle(wire, 1_000));
                self.step(at + span, Act::Throttle(wire, 0));
            }
            5 => self.step(at, Act::Vanish(wire, 0)),
            _ => self.step(at, Act::Reset(wire)),
        }
        span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { nodes: 3, links: vec![(1, 0), (2, 0), (2, 1)], seconds: 300, disks: true }
    }

    #[test]
    fn a_seed_is_a_schedule_and_another_seed_another_one() {
        for set in Set::EVERY.into_iter().skip(1) {
            let steps = schedule(set, 7, &shape());
            assert!(steps.len() > 20, "{set}: {}", steps.len());
            assert_eq!(steps, schedule(set, 7, &shape()), "{set}");
            assert_ne!(steps, schedule(set, 8, &shape()), "{set}");
            assert!(steps[0].at_ms >= 10_000, "{set} begins quietly");
        }
        assert!(schedule(Set::None, 7, &shape()).is_empty());
    }

    #[test]
    fn faults_of_one_node_touch_no_other() {
        for seed in 0..50 {
            for step in schedule(Set::OneNode, seed, &shape()) {
                let touched = match step.act {
                    Act::Cut(wire, _)
                    | Act::Delay(wire, ..)
                    | Act::Throttle(wire, _)
                    | Act::Vanish(wire, _)
                    | Act::Reset(wire) => wire != Wire::Link(2) && !is_clients_of_other(wire),
                    Act::Kill(node) | Act::Start(node) | Act::Stop(node) | Act::Continue(node) => {
                        node == 0
                    }
                    Act::Stumble(..) | Act::Lose(_) | Act::Fill(..) | Act::Free(_) => false,
                };
                assert!(touched, "seed {seed}: {step:?}");
            }
        }
    }

    fn is_clients_of_other(wire: Wire) -> bool {
        matches!(wire, Wire::Clients(node) if node != 0)
    }

    #[test]
    fn all_draws_from_every_other_set() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..20 {
            for step in schedule(Set::All, seed, &shape()) {
                let text = format!("{:?}", step.act);
                kinds.insert(text.split('(').next().expect("it has a name").to_owned());
            }
        }
        assert_eq!(kinds.len(), 12, "{kinds:?}");
    }

    #[test]
    fn a_wrong_name_is_told_with_the_right_ones() {
        assert_eq!("half-open".parse(), Ok(Set::HalfOpen));
        let error = "halfopen".parse::<Set>().expect_err("no such set");
        assert!(error.contains("half-open"), "{error}");
    }
}
