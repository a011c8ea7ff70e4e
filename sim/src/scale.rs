//! Large meshes of bare cores, for figures: what demand costs in memory and in messages, and how
//! fast simulated time passes. The world is the one of all other tests.

use dpc_core::time::Span;

use crate::dice::Dice;
use crate::world::{Mode, Plan, Traffic, Wish, World};

/// Nothing else happens within this time once a mesh is quiet: adverts cross it in milliseconds.
const QUIET_FOR: Span = Span::secs(20);

/// Longest lease: what a subscriber holds, it holds.
const HOLD: Span = Span::secs(3_600);

/// Subscriptions that are made at one moment of a mesh that is being built.
const AT_ONCE: usize = 100;

/// Objects pushed at one moment: one group, one record.
const BURST: u64 = 500;

/// How nodes are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each node below its parent, so many below each: short ways, each node hears of everything.
    Tree(usize),
    /// A ring: demand ends after `max_hops`.
    Ring,
    /// Each node dials so many nodes drawn from those before it: many ways lead everywhere.
    Web(usize),
}

/// A mesh in which each type has one subscriber somewhere.
pub struct Mesh {
    /// The world.
    pub world: World,
    nodes: usize,
    /// The client of each type.
    subscribers: Vec<usize>,
    dice: Dice,
    /// Wire of the last node: a leaf of a tree.
    leaf: usize,
}

/// The name of the `n`th type.
fn type_name(n: usize) -> String {
    format!("acme.orders.Type{n}")
}

impl Mesh {
    /// Linked nodes that want nothing.
    pub fn new(nodes: usize, shape: Shape, seed: u64) -> Self {
        let mut world = World::new(Plan { trace: false, ..Plan::story(seed) });
        // A check costs as much as the whole state: the tests of core and the swarm do it.
        world.check_every = 0;
        let mut dice = Dice::new(seed, "mesh");
        for _ in 0..nodes {
            world.add_node();
        }
        let mut leaf = 0;
        for node in 1..nodes {
            match shape {
                Shape::Tree(below) => leaf = world.link((node - 1) / below, node),
                Shape::Ring => leaf = world.link(node - 1, node),
                Shape::Web(links) => {
                    let mut to: Vec<usize> = (0..links).map(|_| dice.index(node)).collect();
                    to.sort_unstable();
                    to.dedup();
                    to.into_iter().for_each(|to| leaf = world.link(to, node));
                }
            }
        }
        if shape == Shape::Ring && nodes > 2 {
            leaf = world.link(nodes - 1, 0);
        }
        let mut mesh = Self { world, nodes, subscribers: Vec::new(), dice, leaf };
        mesh.rest();
        mesh
    }

    /// One subscriber for each of so many types, at a drawn node; `quiet` is called now and then.
    pub fn subscribe(&mut self, types: usize, mut quiet: impl FnMut(usize)) {
        for n in 0..types {
            let node = self.dice.index(self.nodes);
            let (pattern, processor) = (type_name(n), "default".to_owned());
            let (mode, lease) = (Mode::Hold, Some(HOLD));
            let wish = Wish { node, pattern, processor, credit: 1, mode, lease };
            self.subscribers.push(self.world.subscribe(wish));
            if n % AT_ONCE == AT_ONCE - 1 {
                self.world.run_for(Span::millis(200));
                quiet(n + 1);
            }
        }
        self.rest();
    }

    /// Objects that wait at drawn nodes: one half for somebody who has no credit left, the other
    /// for nobody at all. The types with an odd number have none.
    pub fn push_backlog(&mut self, objects: u64) {
        for n in 0..objects {
            let half = self.dice.index(self.subscribers.len().div_ceil(2)) * 2;
            let ty = if n % 2 == 0 { type_name(half) } else { format!("nobody.Type{half}") };
            let node = self.dice.index(self.nodes);
            self.world.push_text(node, &ty, "waits");
            if n % BURST == BURST - 1 {
                self.world.run_for(Span::millis(50));
            }
        }
        self.rest();
    }

    /// Objects that are ready anywhere.
    pub fn waiting(&self) -> usize {
        self.world.checks.unfinished().len()
    }

    /// What is said when the subscriber of a type leaves, and when it comes back.
    pub fn leave_and_return(&mut self, ty: usize) -> [Traffic; 2] {
        let client = self.subscribers[ty];
        let left = self.said_during(|world| world.leave(client));
        [left, self.said_during(|world| world.rejoin(client))]
    }

    /// What is said when the link of the last node breaks and comes back.
    pub fn break_and_heal(&mut self) -> Traffic {
        let leaf = self.leaf;
        self.said_during(|world| world.reset(leaf))
    }

    /// What is said in so long if nothing happens.
    pub fn idle(&mut self, span: Span) -> Traffic {
        let before = self.world.traffic;
        self.world.run_for(span);
        self.world.traffic - before
    }

    fn said_during(&mut self, change: impl FnOnce(&mut World)) -> Traffic {
        let before = self.world.traffic;
        change(&mut self.world);
        self.rest();
        self.world.traffic - before
    }

    fn rest(&mut self) {
        self.world.run_for(QUIET_FOR);
    }
}
