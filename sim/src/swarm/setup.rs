//! What a run is made of before anything happens: nodes, links, limits, latencies. Drawn first.

use dpc_core::Limits;
use dpc_core::time::Span;

use super::profile::{FAMILIES, Family, Profile};
use crate::dice::Dice;
use crate::world::{Mode, Plan, Wish};

/// What the caller of a run chooses; the seed draws the rest.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which kinds of things may happen.
    pub profile: Profile,
    /// How many nodes, instead of a drawn number.
    pub nodes: Option<usize>,
    /// Simulated minutes of work and faults before everything heals, instead of a drawn span; the
    /// number of actions grows with it.
    pub minutes: Option<u64>,
    /// Whether the story is written down.
    pub trace: bool,
}

/// A run before it begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Everything random comes from here.
    pub seed: u64,
    /// The profile it was drawn for.
    pub profile: Profile,
    /// What the caller chose, for the line that runs it again.
    pub(super) options: Options,
    /// Limits, latencies, and whether the story is told.
    pub plan: Plan,
    /// How many nodes there are.
    pub nodes: usize,
    /// The links; the first node of each dials.
    pub links: Vec<(usize, usize)>,
    /// Which families of actions exist.
    pub families: Vec<Family>,
    /// For nodes over a store that they share: how many lanes a process adopts at once.
    pub adopted_max: Option<usize>,
    /// How long work and faults go on before everything heals.
    pub span: Span,
    /// How many actions of work there are.
    pub actions: u64,
    /// Who subscribes to everything, so that all can come to an end.
    pub closers: Vec<Wish>,
    /// Whether they are there from the beginning: for them nothing new appears at the end, so what
    /// is stuck has to ask for a refresh.
    pub closers_early: bool,
}

impl Setup {
    pub(super) fn draw(seed: u64, options: &Options) -> Self {
        let mut dice = Dice::new(seed, "setup");
        let drawn = 1 + dice.index(6);
        let shared = options.profile == Profile::Shared;
        let nodes = options.nodes.unwrap_or(drawn).max(if shared { 2 } else { 1 });
        let limits = draw_limits(&mut Dice::new(seed, "limits"));
        let (closers, closers_early) = draw_closers(seed, nodes, limits.max_hops, shared);
        let (mut span, actions) = draw_span(&mut dice, options.minutes);
        if shared {
            // Failover takes its time: it should happen more than once.
            span = span.max(Span::secs(90));
        }
        Self {
            seed,
            profile: options.profile,
            options: options.clone(),
            plan: draw_plan(seed, limits, options.trace),
            nodes,
            links: if shared { all_links(nodes) } else { draw_links(seed, nodes) },
            adopted_max: shared.then(|| Dice::new(seed, "adoption").one_of(&[1, 2, 8])),
            families: draw_families(seed, options.profile),
            span,
            actions,
            closers,
            closers_early,
        }
    }

    /// Whether a family of actions exists.
    pub fn has(&self, family: Family) -> bool {
        self.families.contains(&family)
    }
}

fn draw_span(dice: &mut Dice, minutes: Option<u64>) -> (Span, u64) {
    let drawn = dice.one_of(&[Span::millis(300), Span::secs(3), Span::secs(20), Span::secs(90)]);
    let actions = 40 + dice.below(160);
    match minutes {
        None => (drawn, actions),
        Some(minutes) => (Span::secs(60 * minutes.max(1)), actions * minutes.max(1)),
    }
}

fn draw_families(seed: u64, profile: Profile) -> Vec<Family> {
    let mut dice = Dice::new(seed, "families");
    FAMILIES.into_iter().filter(|family| dice.chance(profile.likely(*family))).collect()
}

fn draw_plan(seed: u64, limits: Limits, trace: bool) -> Plan {
    let mut dice = Dice::new(seed, "plan");
    Plan {
        seed,
        limits,
        latency: Span(200),
        latency_spread: Span(dice.one_of(&[1, 2_000, 50_000, 300_000])),
        notice: Span(dice.one_of(&[1, 100_000, 3_000_000])),
        think: Span(1_000),
        think_spread: Span(dice.one_of(&[1, 50_000, 3_000_000])),
        lose_index_percent: dice.one_of(&[0, 50, 100]),
        trace,
    }
}

/// Whoever is left over can reach each other.
fn all_links(nodes: usize) -> Vec<(usize, usize)> {
    (0..nodes).flat_map(|b| (0..b).map(move |a| (a, b))).collect()
}

fn draw_links(seed: u64, nodes: usize) -> Vec<(usize, usize)> {
    let mut dice = Dice::new(seed, "links");
    let mut links = Vec::new();
    let shape = dice.below(4);
    for i in 1..nodes {
        let to = match shape {
            0 | 1 => i - 1,
            2 => 0,
            _ => dice.index(i),
        };
        links.push((to, i));
    }
    if shape == 1 && nodes > 2 {
        links.push((nodes - 1, 0));
    }
    if nodes > 1 {
        for _ in 0..dice.below(3) {
            let (a, b) = (dice.index(nodes), dice.index(nodes));
            if a != b {
                links.push((a, b));
            }
        }
    }
    links
}

/// One subscriber for everything somewhere, or everywhere if the nodes may be too far apart.
fn draw_closers(seed: u64, nodes: usize, max_hops: u32, shared: bool) -> (Vec<Wish>, bool) {
    let mut dice = Dice::new(seed, "closers");
    let one = dice.index(nodes);
    // A node that is gone for ever has no subscriber.
    let everywhere = (max_hops as usize) < nodes || dice.chance(33) || shared;
    let wish = |node: usize, credit: u64| Wish {
        node,
        pattern: "*".into(),
        processor: "closer".into(),
        credit: credit as u32,
        mode: Mode::Finalise,
        lease: Some(Span::secs(30)),
    };
    let there = (0..nodes).filter(|n| everywhere || *n == one);
    let closers = there.map(|node| wish(node, dice.one_of(&[1, 4, 64]))).collect();
    (closers, Dice::new(seed, "closers early").chance(33))
}

fn draw_limits(dice: &mut Dice) -> Limits {
    let big = u64::from(u32::MAX);
    let mut one = |of: &[u64]| dice.one_of(of);
    Limits {
        lease: Span::millis(one(&[1_000, 5_000, 30_000])),
        failed_deliveries: one(&[2, 4]) as u32,
        backoff_max: Span::secs(one(&[1, 5])),
        redistribution_delay: Span::millis(one(&[300, 2_000, 5_000])),
        spill_after: Span::millis(one(&[10, 1_000])),
        max_hops: one(&[2, 8, 8]) as u32,
        offer_timeout: Span::millis(one(&[1_200, 2_000])),
        window_objects: one(&[2, 8, 1_024]) as usize,
        window_bytes: one(&[200, 10_000, big]),
        record_target_bytes: one(&[600, 4_000, 65_536]) as usize,
        part_bytes: one(&[4_000, 30_000, big]),
        part_ids: one(&[10, 100, big]) as usize,
        carry_slack_bytes: one(&[0, 5_000, big]),
        pages: one(&[20, big]) as usize,
        leases: one(&[3, 1_000_000]) as u32,
        transit: one(&[1, 3, 8_192]) as u32,
        payload_bytes: 4_096,
        ..Limits::default()
    }
}
