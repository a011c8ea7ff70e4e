//! Models of what is hardest to be sure of, searched exhaustively: the handoff between two lanes
//! with its rules R1-R5, and forwarding with its end. Each rule is a flag, and a test takes it out
//! and has to find a counterexample. `DPC_TRACE=1 cargo test -p sim --test model -- --nocapture`
//! prints the counterexamples; docs/model.md says what the models leave out.

mod forward;
mod handoff;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};

/// A search through all states: every property has to hold. Says how many there are.
#[expect(
    clippy::disallowed_methods,
    reason = "how long a search takes is a figure of docs/model.md"
)]
fn exhaust<M>(name: &str, model: M) -> usize
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let begun = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    for (property, path) in checker.discoveries() {
        if checker.model().property(property).expectation.discovery_is_failure() {
            panic!("{property} does not hold:\n  {}", story(checker.model(), path).join("\n  "));
        }
    }
    checker.assert_properties();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, depth {depth}, {:.1} s", begun.elapsed().as_secs_f64());
    states
}

/// Searches for a shortest story at whose end a property does not hold.
fn refute<M>(name: &str, model: M, property: &'static str) -> Vec<String>
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let (mut shortest, mut states) = (None, 0);
    loop {
        let wanted = HasDiscoveries::AnyOf([property].into());
        let mut search = model.clone().checker().finish_when(wanted);
        // A search ends with the block of states in which it has found something, and keeps what
        // it found last: only one that may not go as deep shows that there is nothing shorter.
        if let Some(found) = &shortest {
            search = search.target_max_depth(Vec::len(found) + 1);
        }
        let checker = search.spawn_bfs().join();
        states += checker.unique_state_count();
        let Some(path) = checker.discovery(property) else { break };
        shortest = Some(story(checker.model(), path));
    }
    let found = shortest.unwrap_or_else(|| panic!("{name}: {property} holds all the same"));
    println!("{name}: {property} fails after {} events, {states} states", found.len());
    if std::env::var("DPC_TRACE").is_ok() {
        println!("    {}", found.join("\n    "));
    }
    found
}

/// The events of a path, one a line.
fn story<M: Model>(model: &M, path: Path<M::State, M::Action>) -> Vec<String>
where
    M::Action: Debug,
{
    path.into_actions().iter().map(|action| model.format_action(action)).collect()
}

mod handoffs {
    use super::handoff::{Bounds, Handoff, Rules};
    use super::{exhaust, refute};

    /// Both lanes' nodes die, in any order, and power is cut.
    const RESTARTS: Bounds = Bounds {
        objects: 1,
        fresh: false,
        claims: [1, 1],
        adopted: [false, false],
        power_cuts: 2,
        offers: 1,
        subscribers: [true, true],
        restored: None,
    };

    /// The sender's lane is adopted twice while its owners live.
    const SENDER_ADOPTED: Bounds =
        Bounds { claims: [2, 0], adopted: [true, false], power_cuts: 1, ..RESTARTS };

    /// The same with the receiver's lane, and the sender may die.
    const RECEIVER_ADOPTED: Bounds =
        Bounds { claims: [1, 2], adopted: [false, true], power_cuts: 1, ..RESTARTS };

    /// A lane comes back from a copy of itself.
    const fn restored(lane: usize) -> Bounds {
        Bounds { power_cuts: 0, restored: Some(lane), ..RESTARTS }
    }

    const KEPT: &str = "P1 every object is kept";
    const ONE_SETTLE: &str = "P3 one settle commits";
    const ONE_OWNER: &str = "P7 one owner";
    const HONEST: &str = "P8 what was denied is not done";

    fn holds(name: &str, bounds: Bounds, states: usize) {
        let found = exhaust(name, Handoff { rules: Rules::ALL, bounds });
        assert_eq!(found, states, "the model has changed: docs/model.md has its counts, too");
    }

    #[test]
    fn restarts_in_each_order() {
        holds("restarts", RESTARTS, 18_996);
    }

    #[test]
    fn fresh_objects() {
        holds("fresh", Bounds { fresh: true, ..RESTARTS }, 85_590);
    }

    #[test]
    fn fresh_objects_of_an_adopted_sender() {
        holds("fresh, sender adopted", Bounds { fresh: true, ..SENDER_ADOPTED }, 812_571);
    }

    #[test]
    fn sender_adopted() {
        let bounds = Bounds { claims: [2, 1], ..SENDER_ADOPTED };
        holds("sender adopted", bounds, 668_535);
    }

    #[test]
    fn receiver_adopted() {
        holds("receiver adopted", RECEIVER_ADOPTED, 152_168);
    }

    #[test]
    fn sender_restored() {
        holds("sender restored", restored(0), 7_680);
    }

    #[test]
    fn receiver_restored() {
        holds("receiver restored", restored(1), 43_823);
    }

    #[test]
    fn two_objects() {
        let bounds = Bounds {
            objects: 2,
            claims: [1, 0],
            power_cuts: 1,
            subscribers: [false, true],
            ..RESTARTS
        };
        holds("two objects", bounds, 40_915);
    }

    #[test]
    fn two_offers() {
        let bounds = Bounds {
            claims: [1, 1],
            offers: 2,
            power_cuts: 1,
            subscribers: [false, true],
            ..RESTARTS
        };
        holds("two offers", bounds, 81_133);
    }

    /// Takes one rule out: a promise has to break, in so many events at the least.
    fn breaks(rule: &str, rules: Rules, bounds: Bounds, promise: &'static str, events: usize) {
        let story = refute(&format!("without {rule}"), Handoff { rules, bounds }, promise);
        assert_eq!(story.len(), events, "{}", story.join("\n"));
    }

    #[test]
    fn r1_a_fenced_core_is_silent() {
        let rules = Rules { fenced_is_silent: false, ..Rules::ALL };
        breaks("R1, the fenced are silent", rules, SENDER_ADOPTED, KEPT, 13);
    }

    #[test]
    fn r1_undecided_is_wait() {
        let rules = Rules { undecided_waits: false, ..Rules::ALL };
        breaks("R1, undecided is WAIT", rules, RESTARTS, KEPT, 12);
    }

    #[test]
    fn r1_an_offer_ends_before_its_abort() {
        let rules = Rules { ended_before_abort: false, ..Rules::ALL };
        breaks("R1, ended before ABORT", rules, RESTARTS, KEPT, 13);
    }

    #[test]
    fn r2_taken_after_ready() {
        let rules = Rules { taken_after_ready: false, ..Rules::ALL };
        breaks("R2, TAKEN after READY", rules, RESTARTS, KEPT, 18);
    }

    #[test]
    fn r3_a_claim_fences_before_it_reads() {
        let rules = Rules { fence_before_read: false, ..Rules::ALL };
        breaks("R3, fence before read", rules, SENDER_ADOPTED, ONE_OWNER, 14);
    }

    #[test]
    fn r3_durable_at_the_sender() {
        let rules = Rules { durable_before_answer: false, ..Rules::ALL };
        breaks("R3, durable before answer (sender)", rules, SENDER_ADOPTED, ONE_SETTLE, 19);
    }

    #[test]
    fn r3_durable_at_the_receiver() {
        let rules = Rules { durable_before_answer: false, ..Rules::ALL };
        breaks("R3, durable before answer (receiver)", rules, RECEIVER_ADOPTED, KEPT, 21);
    }

    #[test]
    fn r4_histories_of_senders() {
        let rules = Rules { histories_compared: false, ..Rules::ALL };
        breaks("R4 (sender restored)", rules, restored(0), KEPT, 10);
    }

    #[test]
    fn r4_histories_of_receivers() {
        let rules = Rules { histories_compared: false, ..Rules::ALL };
        breaks("R4 (receiver restored)", rules, restored(1), KEPT, 23);
    }

    #[test]
    fn p9_what_is_held_was_not_pushed() {
        let rules = Rules { held_is_not_pushed: false, ..Rules::ALL };
        breaks("P9, held is not pushed", rules, Bounds { fresh: true, ..RESTARTS }, KEPT, 9);
    }

    #[test]
    fn r5_another_lane_does_not_say_lost() {
        let rules = Rules { own_lane_says_lost: false, ..Rules::ALL };
        breaks("R5, only its lane", rules, RESTARTS, HONEST, 2);
    }

    #[test]
    fn r5_nor_does_a_fenced_owner() {
        let rules = Rules { present_owner_says_lost: false, ..Rules::ALL };
        breaks("R5, only the present owner", rules, SENDER_ADOPTED, HONEST, 3);
    }
}

mod forwarding {
    use super::forward::{Forward, Rules};
    use super::{exhaust, refute};

    const LINE: &[(usize, usize)] = &[(0, 1), (1, 2)];
    const RING: &[(usize, usize)] = &[(0, 1), (1, 2), (2, 0)];

    fn holds(name: &str, links: &'static [(usize, usize)], events: u8, states: usize) {
        let found = exhaust(name, Forward { rules: Rules::ALL, links, events });
        assert_eq!(found, states, "the model has changed: docs/model.md has its counts, too");
    }

    #[test]
    fn three_in_a_line() {
        holds("three in a line", LINE, 5, 133_405);
    }

    #[test]
    fn three_in_a_ring() {
        holds("three in a ring", RING, 4, 532_044);
    }

    /// Takes one rule out: a promise has to break, in so many events at the least.
    fn breaks(rule: &str, model: Forward, promise: &'static str, events: usize) {
        let story = refute(&format!("without {rule}"), model, promise);
        assert_eq!(story.len(), events, "{}", story.join("\n"));
    }

    const NOT_TWICE: &str = "P10 no link twice for one generation";
    const FINITE: &str = "P10 moves are finite";
    const NEWER: &str = "P11 a granted refresh is newer";
    const NOT_STUCK: &str = "P11 no object is stuck";

    #[test]
    fn p10_crossed_once() {
        let rules = Rules { crossed_once: false, ..Rules::ALL };
        breaks("P10, crossed once", Forward { rules, links: RING, events: 2 }, NOT_TWICE, 9);
    }

    #[test]
    fn p10_only_newer() {
        let rules = Rules { only_newer: false, ..Rules::ALL };
        breaks("P10, only newer", Forward { rules, links: LINE, events: 4 }, FINITE, 11);
    }

    #[test]
    fn p11_refresh() {
        let rules = Rules { refresh: false, ..Rules::ALL };
        breaks("P11, refresh", Forward { rules, links: LINE, events: 4 }, NOT_STUCK, 7);
    }

    #[test]
    fn r4_counters_grow() {
        let rules = Rules { counters_grow: false, ..Rules::ALL };
        breaks("R4, counters grow", Forward { rules, links: LINE, events: 4 }, NEWER, 7);
    }
}
