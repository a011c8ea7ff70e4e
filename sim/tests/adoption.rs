//! Failover over a shared store: lanes of nodes that are gone are adopted, run until they are empty,
//! and retired. Every promise is checked at every step, as in the swarm.

use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::input::{Operator, Which};
use dpc_core::shared::LaneState;
use dpc_core::time::Span;
use sim::coverage::Coverage;
use sim::shared::{Rates, SharedDb};
use sim::swarm::{self, Options, Profile};
use sim::world::{DEAD_AFTER, Mode, Plan, Power, Wish, World};

/// From the death of a node to the end of its lane, without faults: silence, verdict, turns, and
/// the work itself.
const FAILOVER: Span = Span::secs(25);

struct Story {
    world: World,
    db: SharedDb,
}

impl Story {
    /// So many nodes, each linked to each other.
    fn new(seed: u64, nodes: usize) -> Self {
        let trace = std::env::var("DPC_TRACE").is_ok();
        let mut world = World::new(Plan { trace, ..Plan::story(seed) });
        let db = world.share_store(8);
        for node in 0..nodes {
            world.add_node();
            (0..node).for_each(|other| {
                world.link(other, node);
            });
        }
        let mut story = Self { world, db };
        story.pass(Span::secs(3));
        story
    }

    fn pass(&mut self, span: Span) {
        let until = self.world.now() + span;
        while self.world.step(until) {
            if let Some(broken) = self.world.broken().map(str::to_owned) {
                println!("{}", self.world.trace.take());
                panic!("{broken}");
            }
        }
        self.world.run_for(until - self.world.now());
    }

    fn fail_over(&mut self) {
        self.pass(DEAD_AFTER);
        self.pass(FAILOVER);
    }

    fn lane(&self, node: usize) -> LaneId {
        self.world.nodes()[node].lane
    }

    fn state(&self, lane: LaneId) -> LaneState {
        self.db.head(lane, self.world.now()).expect("the lane was made").state
    }

    fn subscribe(&mut self, node: usize, mode: Mode) -> usize {
        self.subscribe_to("img", node, mode)
    }

    fn subscribe_to(&mut self, pattern: &str, node: usize, mode: Mode) -> usize {
        let wish = Wish {
            node,
            pattern: pattern.to_owned(),
            processor: "default".to_owned(),
            credit: 16,
            mode,
            lease: None,
        };
        self.world.subscribe(wish)
    }

    fn push(&mut self, node: usize, text: &str) -> ObjectId {
        self.world.push_text(node, "img", text)
    }

    fn push_later(&mut self, node: usize, delay: Span) -> ObjectId {
        let id = self.world.new_id();
        let push = World::timed_push(id, "img", "later", Some(delay), None);
        self.world.push(node, push, 0);
        id
    }

    fn deliveries(&self) -> u64 {
        self.world.checks.deliveries()
    }

    /// Everything has come to an end, and the books of every lane balance.
    fn end(mut self) {
        self.world.checks.check_all_kept();
        let left = self.world.checks.unfinished();
        if !left.is_empty() {
            println!("{}", self.world.trace.take());
            panic!("P11: not finished: {left:?}");
        }
        if let Err(broken) = self.world.end_of_story() {
            panic!("{broken}");
        }
    }
}

#[test]
fn a_node_is_killed_for_ever_and_its_objects_are_delivered_by_others() {
    let mut story = Story::new(1, 3);
    for n in 0..40 {
        story.push(1, &format!("{n}"));
    }
    let dead = story.lane(1);
    story.pass(Span::secs(2));
    story.world.kill(1, Power::Stays);
    story.subscribe(0, Mode::Finalise);
    story.pass(DEAD_AFTER);
    assert_eq!(story.deliveries(), 0, "it may live still");
    story.pass(FAILOVER);
    assert_eq!(story.deliveries(), 40);
    assert_eq!(story.state(dead), LaneState::Retired);
    story.end();
}

#[test]
fn what_is_delayed_or_parked_moves_to_the_adopter_as_it_is() {
    let mut story = Story::new(2, 2);
    let later = story.push_later(0, Span::secs(90));
    let poison = story.push(0, "poison");
    let rejecting = story.subscribe(0, Mode::Reject);
    story.pass(Span::secs(2));
    story.world.leave(rejecting);
    let dead = story.lane(0);
    story.world.kill(0, Power::Stays);
    story.subscribe(1, Mode::Finalise);
    story.fail_over();
    assert_eq!(story.state(dead), LaneState::Retired);
    let heir = story.lane(1);
    let there: Vec<ObjectId> =
        story.world.checks.model.lane(heir).things().map(|t| t.object.id).collect();
    assert!(there.contains(&later) && there.contains(&poison), "{there:?}");
    assert_eq!(story.deliveries(), 1, "the one that was rejected, once");
    story.pass(Span::secs(60));
    assert_eq!(story.deliveries(), 2, "its time has come");
    story.world.operate(1, Operator::Redrive(Which::All));
    story.pass(Span::secs(5));
    assert_eq!(story.deliveries(), 3);
    story.end();
}

/// A process that was stopped for longer than `dead_after` and goes on.
#[test]
fn a_zombie_is_fenced_and_comes_back_with_a_new_lane() {
    let mut story = Story::new(3, 3);
    let holding = story.subscribe(1, Mode::Hold);
    for n in 0..5 {
        story.push(1, &format!("{n}"));
    }
    story.pass(Span::secs(2));
    assert_eq!(story.deliveries(), 5);
    let before = story.lane(1);
    story.world.pause(1);
    story.subscribe(0, Mode::Finalise);
    story.fail_over();
    assert_eq!(story.deliveries(), 10, "others have them now");
    story.world.leave(holding);
    story.world.resume_process(1);
    story.pass(Span::secs(5));
    assert_eq!(story.world.coverage.get("fenced"), 1);
    assert_ne!(story.lane(1), before);
    story.push(1, "after");
    story.pass(Span::secs(10));
    story.end();
}

/// R5: only the owner of the lane may say that a lease is lost. A node that has no way to it says
/// *unknown*, looks for it in the list of lanes, and can pass on the next settle.
#[test]
fn the_adopter_of_a_lane_is_looked_for_when_one_of_its_leases_is_settled_elsewhere() {
    let mut story = Story::new(5, 3);
    // Tokens are on record from here on.
    story.world.trace.tell_story();
    let holding = story.subscribe(0, Mode::Hold);
    let held = story.push(0, "held");
    let unwanted = story.world.push_text(0, "unwanted", "it keeps the lane adopted");
    story.pass(Span::secs(2));
    let lease = story.world.hand(holding)[0];
    let dead = story.lane(0);
    story.world.leave(holding);
    story.world.kill(0, Power::Stays);
    story.fail_over();
    assert_eq!(story.state(dead), LaneState::Owned, "{unwanted:?} is in it");
    let found = "an owner in doubt was found in the list of lanes";
    assert_eq!(story.world.coverage.get(found), 0, "nothing else is in doubt");
    let host = (1..3).find(|n| !story.world.guests(*n).is_empty()).expect("it was adopted");
    let other = 3 - host;
    // The first one makes an idle node prove that it owns its own lane, the second makes it look
    // for the owner of the lease's, and the third is told.
    for _ in 0..3 {
        story.world.settle_under(other, held, (0, lease), &Mode::Finalise).expect("asked");
        story.pass(Span::secs(5));
    }
    assert_eq!(story.world.coverage.get(found), 1, "it is linked from then on");
    story.subscribe(other, Mode::Finalise);
    story.subscribe_to("unwanted", other, Mode::Finalise);
    story.pass(FAILOVER);
    assert_eq!(story.state(dead), LaneState::Retired);
    story.end();
}

#[test]
fn a_node_that_restarts_in_time_takes_its_own_lane_again() {
    let mut story = Story::new(4, 2);
    story.push(0, "kept");
    story.pass(Span::secs(1));
    let lane = story.lane(0);
    story.world.kill(0, Power::Cut);
    story.pass(Span::secs(6));
    story.world.restart(0);
    story.pass(Span::secs(2));
    story.subscribe(1, Mode::Finalise);
    story.pass(Span::secs(5));
    assert_eq!((story.lane(0), story.deliveries()), (lane, 1));
    assert_eq!(story.world.coverage.get("a lane was adopted"), 0);
    story.end();
}

/// An observer that cannot reach the store declares nobody dead, and delivers nothing after its own
/// proof has run out; the others take it for dead, cannot reach it, and take over.
#[test]
fn a_node_that_is_cut_off_from_the_store_is_replaced() {
    let mut story = Story::new(5, 3);
    story.push(1, "one");
    story.pass(Span::secs(1));
    let now = story.world.now();
    story.db.cut(1, now + Span::secs(40));
    for other in [0, 2] {
        let wire = story.world.wire_between(1, other).expect("all are linked");
        story.world.cut(wire);
    }
    story.subscribe(2, Mode::Finalise);
    story.fail_over();
    assert_eq!(story.deliveries(), 1);
    for wire in 0..3 {
        story.world.heal(wire);
    }
    story.pass(Span::secs(60));
    story.end();
}

#[test]
fn two_survivors_that_claim_at_once_are_told_apart_by_the_store() {
    for seed in 10..20 {
        let mut story = Story::new(seed, 4);
        story.push(3, "one");
        story.pass(Span::secs(1));
        story.db.set_rates(Rates {
            stale: 80,
            lost_applied: 15,
            lost_later: 15,
            ..Rates::default()
        });
        story.world.kill(3, Power::Stays);
        story.subscribe(0, Mode::Finalise);
        story.fail_over();
        story.db.heal();
        story.pass(FAILOVER);
        story.end();
    }
}

/// The adopter dies, too: what it had adopted is an orphan like any other.
#[test]
fn an_adopter_that_dies_is_adopted_with_all_it_had() {
    let mut story = Story::new(6, 4);
    for n in 0..10 {
        story.push(3, &format!("{n}"));
    }
    story.pass(Span::secs(1));
    story.world.kill(3, Power::Stays);
    story.fail_over();
    let adopter = (0..3).find(|n| !story.world.guests(*n).is_empty()).expect("somebody adopts");
    story.world.kill(adopter, Power::Cut);
    let survivor = (0..3).find(|n| *n != adopter).expect("two are left");
    story.subscribe(survivor, Mode::Finalise);
    story.fail_over();
    assert_eq!(story.deliveries(), 10);
    story.end();
}

/// What has to occur in the seeds below.
const NAMED: [&str; 12] = [
    "a claim came to nothing",
    "a lane was adopted",
    "a lane was retired",
    "a node came back with a new lane",
    "a node took its own lane again",
    "a node was gone for ever",
    "a silent node answered a probe",
    "an owner in doubt was found in the list of lanes",
    "estate offered",
    "fenced",
    "inherited and parked",
    "inherited before its time",
];

/// Random runs over a shared store. `DPC_SEEDS=a..b` chooses the seeds.
#[test]
fn every_seed_over_a_shared_store_keeps_every_promise() {
    let seeds = std::env::var("DPC_SEEDS").ok().map_or(0..100, |text| {
        let (a, b) = text.split_once("..").expect("DPC_SEEDS=a..b");
        a.parse().expect("a number")..b.parse().expect("a number")
    });
    let trace = std::env::var("DPC_TRACE").is_ok();
    let options = Options { profile: Profile::Shared, trace, ..Options::default() };
    let (mut coverage, mut failed) = (Coverage::default(), Vec::new());
    for seed in seeds {
        let report = swarm::run(seed, &options);
        if trace {
            println!("{}", report.trace);
        }
        coverage.merge(&report.coverage);
        if let Some(broken) = report.broken {
            println!("seed {seed}: {broken}\n  dpc sim run {}", report.again);
            failed.push(seed);
        }
    }
    println!("{coverage}");
    assert!(failed.is_empty(), "{} seeds broke a promise: {failed:?}", failed.len());
    if std::env::var("DPC_SEEDS").is_err() {
        let missing: Vec<_> = NAMED.iter().filter(|name| coverage.get(name) == 0).collect();
        assert!(missing.is_empty(), "never occurred: {missing:?}");
    }
}
