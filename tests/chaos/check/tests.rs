//! Small histories made by hand: a good one, and one for each way to break a promise. Each of them
//! differs from the good one by what it breaks.

use std::collections::BTreeMap;

use super::{Verdict, check};
use crate::history::{
    Answer, Call, Delivery, Event, Line, Made, Outcome, Settle, Standing, State, Type, Verb,
};

/// A history in the making: each event one microsecond after the one before.
#[derive(Clone, Default)]
struct Tale(Vec<Event>);

impl Tale {
    fn begin(untouched: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self(vec![Event::Round {
            set: "by hand".to_owned(),
            seed: 0,
            nodes: owned(&["a", "b"]),
            untouched: owned(untouched),
        }])
    }

    fn verdict(&self) -> Verdict {
        let line = |(at, event): (usize, &Event)| Line { at: at as u64, event: event.clone() };
        check(&self.0.iter().enumerate().map(line).collect::<Vec<_>>())
    }

    fn add(&mut self, event: Event) -> &mut Self {
        self.0.push(event);
        self
    }

    fn push(&mut self, call: u64, node: &str, id: &str) -> &mut Self {
        self.push_content(call, node, id, "v1")
    }

    fn push_content(&mut self, call: u64, node: &str, id: &str, content: &str) -> &mut Self {
        let objects = vec![made(id, content)];
        self.add(Event::Call(Call { objects, ..call_at(call, node) }))
    }

    fn settle(&mut self, call: u64, node: &str, settle: Settle, emits: &[&str]) -> &mut Self {
        let objects = emits.iter().map(|id| made(id, "v1")).collect();
        let settles = vec![settle];
        self.add(Event::Call(Call { settles, objects, ..call_at(call, node) }))
    }

    fn repeat(&mut self, call: u64, of: u64, node: &str, settle: Settle) -> &mut Self {
        let (settles, repeats) = (vec![settle], Some(of));
        self.add(Event::Call(Call { settles, repeats, ..call_at(call, node) }))
    }

    fn done(&mut self, call: u64) -> &mut Self {
        self.add(Event::Answer(Answer::done(call)))
    }

    fn not(&mut self, call: u64, reason: &str) -> &mut Self {
        let reason = Some(reason.to_owned());
        self.add(Event::Answer(Answer { outcome: Outcome::Not, reason, ..Answer::done(call) }))
    }

    fn delivered(&mut self, node: &str, id: &str, version: u32, key: (u32, u64, u64)) -> &mut Self {
        self.add(Event::Delivery(delivery(node, id, version, key)))
    }

    fn state(&mut self, node: &str, id: &str, state: Standing) -> &mut Self {
        self.add(Event::State(State {
            node: node.to_owned(),
            id: id.to_owned(),
            origin: "a".to_owned(),
            state,
            version: 1,
            reason: None,
        }))
    }

    fn books(&mut self, node: &str, there: u64, books: &[(&str, u64)]) -> &mut Self {
        let books = books.iter().map(|(name, count)| ((*name).to_owned(), *count));
        let books: BTreeMap<_, _> = books.collect();
        let (node, ty) = (node.to_owned(), "t.T".to_owned());
        self.add(Event::Type(Type { node, ty, there, books }))
    }

    fn end(&mut self) -> &mut Self {
        self.add(Event::Inventory)
    }
}

fn call_at(call: u64, node: &str) -> Call {
    let nodes = vec![node.to_owned()];
    let client = format!("client of {node}");
    Call { call, client, uses: nodes.clone(), at_nodes: nodes, ..Call::default() }
}

fn made(id: &str, content: &str) -> Made {
    Made { id: id.to_owned(), ty: "t.T".to_owned(), content: content.to_owned(), ..Made::default() }
}

fn token(id: &str, key: (u32, u64, u64)) -> String {
    format!("{id}/{key:?}")
}

fn settle(id: &str, key: (u32, u64, u64), verb: Verb) -> Settle {
    let next = (verb == Verb::Advance).then(|| ("t.T".to_owned(), "v2".to_owned()));
    Settle { id: id.to_owned(), token: token(id, key), verb, next }
}

fn delivery(node: &str, id: &str, version: u32, key: (u32, u64, u64)) -> Delivery {
    Delivery {
        client: "c".to_owned(),
        processor: "p".to_owned(),
        node: node.to_owned(),
        id: id.to_owned(),
        origin: "a".to_owned(),
        ty: "t.T".to_owned(),
        content: format!("v{version}"),
        version,
        key,
        token: token(id, key),
    }
}

const FIRST: (u32, u64, u64) = (0, 1, 1);
const SECOND: (u32, u64, u64) = (0, 1, 2);
const MOVED: (u32, u64, u64) = (1, 1, 1);

/// `x` is pushed at a, released there, handed to b, finalised there with the emit `y`.
fn good() -> Tale {
    let mut tale = Tale::begin(&[]);
    tale.push(1, "a", "x").done(1);
    tale.delivered("a", "x", 1, FIRST);
    tale.settle(2, "a", settle("x", FIRST, Verb::Release), &[]).done(2);
    tale.delivered("b", "x", 1, MOVED);
    tale.settle(3, "b", settle("x", MOVED, Verb::Finalise), &["y"]).done(3);
    tale.repeat(4, 3, "b", settle("x", MOVED, Verb::Finalise)).done(4);
    tale.state("a", "x", Standing::Moved).state("b", "x", Standing::Final);
    tale.state("b", "y", Standing::Live);
    tale.books("a", 0, &[("pushed", 1), ("moved_out", 1)]);
    tale.books("b", 1, &[("moved_in", 1), ("emitted", 1), ("finalised", 1)]);
    tale.end().clone()
}

/// `x` is pushed at a and finalised there, with everything that goes between.
fn plain(between: impl FnOnce(&mut Tale), state: Standing) -> Verdict {
    let mut tale = Tale::begin(&[]);
    tale.push(1, "a", "x").done(1);
    between(&mut tale);
    tale.state("a", "x", state);
    let finalised = u64::from(state == Standing::Final);
    tale.books("a", 1 - finalised, &[("pushed", 1), ("finalised", finalised)]);
    tale.end().verdict()
}

fn assert_broken(verdict: &Verdict, promise: &str, what: &str) {
    let texts: Vec<_> = verdict.violations.iter().map(ToString::to_string).collect();
    let found = verdict.violations.iter().any(|v| v.promise == promise && v.what.contains(what));
    assert!(found, "{promise} … {what} … is not among {texts:?}");
}

fn assert_good(verdict: &Verdict) {
    assert!(verdict.violations.is_empty(), "{:?}", verdict.violations);
}

#[test]
fn a_good_history_is_good_and_something_was_seen() {
    let verdict = good().verdict();
    assert_good(&verdict);
    for what in ["pushes done", "deliveries after a handoff", "released", "finalised"] {
        assert_eq!(verdict.count(what), 1, "{what}");
    }
    assert_eq!(verdict.count("a settle repeated, same answer"), 1);
}

#[test]
fn no_line_of_the_good_history_can_be_missing() {
    // What says only what went well, and nothing that something else depends on.
    let spare = |event: &Event| match event {
        Event::Round { .. } | Event::Answer(_) => true,
        Event::State(state) => state.state == Standing::Moved,
        Event::Call(call) => call.settles.iter().any(|settle| settle.verb == Verb::Release),
        Event::Delivery(delivery) => delivery.key == FIRST,
        _ => false,
    };
    for missing in 0..good().0.len() {
        let mut tale = good();
        let event = tale.0.remove(missing);
        let found = tale.verdict().violations;
        assert!(spare(&event) || !found.is_empty(), "without {event:?} nothing is noticed");
    }
}

#[test]
fn p1_an_object_that_was_answered_ok_is_somewhere() {
    let mut tale = Tale::begin(&[]);
    tale.push(1, "a", "x").done(1).books("a", 0, &[("pushed", 1), ("finalised", 1)]).end();
    assert_broken(&tale.verdict(), "P1", "is gone");
    let verdict = plain(
        |tale| {
            tale.delivered("a", "x", 1, FIRST);
            tale.settle(2, "a", settle("x", FIRST, Verb::Finalise), &[]).done(2);
        },
        Standing::Live,
    );
    assert_broken(&verdict, "P1", "was finalised and is Live");
    assert_broken(&plain(|_| {}, Standing::Discarded), "P1", "was discarded");
}

#[test]
fn p1_without_an_inventory_nothing_is_proved() {
    let mut tale = good();
    tale.0.pop();
    assert_broken(&tale.verdict(), "P1", "not asked for everything");
}

#[test]
fn p2_what_is_delivered_was_pushed_as_it_is() {
    let verdict = plain(
        |tale| {
            tale.delivered("a", "z", 1, FIRST);
        },
        Standing::Live,
    );
    assert_broken(&verdict, "P2", "z was delivered, and never pushed");
    let mut tale = Tale::begin(&[]);
    tale.push_content(1, "a", "x", "other").done(1).delivered("a", "x", 1, FIRST);
    assert_broken(&tale.verdict(), "P2", "a content that nobody gave it");
    let mut tale = Tale::begin(&[]);
    tale.state("a", "z", Standing::Live);
    assert_broken(&tale.verdict(), "P2", "z is known and was never pushed");
}

#[test]
fn p3_after_the_last_settle_there_is_nothing() {
    let verdict = plain(
        |tale| {
            tale.delivered("a", "x", 1, FIRST);
            tale.settle(2, "a", settle("x", FIRST, Verb::Finalise), &[]).done(2);
            tale.delivered("a", "x", 1, SECOND);
        },
        Standing::Final,
    );
    assert_broken(&verdict, "P3", "after it was final");
}

#[test]
fn p3_a_lease_has_one_settle() {
    let verdict = plain(
        |tale| {
            tale.delivered("a", "x", 1, FIRST);
            tale.settle(2, "a", settle("x", FIRST, Verb::Finalise), &[]).done(2);
            tale.settle(3, "a", settle("x", FIRST, Verb::Reject), &[]).done(3);
        },
        Standing::Final,
    );
    assert_broken(&verdict, "P3", "settled twice");
}

#[test]
fn p3_a_version_comes_from_a_settle_and_never_goes_back() {
    let verdict = plain(
        |tale| {
            tale.delivered("a", "x", 1, FIRST).delivered("a", "x", 2, SECOND);
        },
        Standing::Live,
    );
    assert_broken(&verdict, "P3", "became version 2 by no settle");
    let verdict = plain(
        |tale| {
            tale.delivered("a", "x", 1, FIRST);
            tale.settle(2, "a", settle("x", FIRST, Verb::Advance), &[]).done(2);
            tale.delivered("a", "x", 1, SECOND);
        },
        Standing::Live,
    );
    assert_broken(&verdict, "P3", "was version 2 and was delivered as version 1");
}

#[test]
fn p3_a_repeated_settle_gets_the_same_answer() {
    let verdict = plain(
        |tale| {
            tale.delivered("a", "x", 1, FIRST);
            tale.settle(2, "a", settle("x", FIRST, Verb::Finalise), &[]).done(2);
            tale.repeat(3, 2, "a", settle("x", FIRST, Verb::Finalise)).not(3, "LEASE_LOST");
        },
        Standing::Final,
    );
    assert_broken(&verdict, "P3", "repeated, it was refused");
}

#[test]
fn p3_a_processor_that_has_handled_an_object_gets_another_one() {
    let verdict = plain(
        |tale| {
            tale.delivered("a", "x", 1, FIRST);
            tale.settle(2, "a", settle("x", FIRST, Verb::Handled), &[]).done(2);
            tale.delivered("a", "x", 1, SECOND);
        },
        Standing::Live,
    );
    assert_broken(&verdict, "P3", "which has handled it");
}

#[test]
fn p3_an_end_has_a_cause() {
    assert_broken(&plain(|_| {}, Standing::Final), "P3", "nobody finalised it");
    assert_broken(&plain(|_| {}, Standing::Parked), "P3", "by whom?");
}

#[test]
fn p4_emits_exist_if_and_only_if_the_settle_was_done() {
    let mut tale = good();
    tale.0.retain(|event| !matches!(event, Event::State(state) if state.id == "y"));
    assert_broken(&tale.verdict(), "P4", "y was emitted by call 3");
    for event in &mut tale.0 {
        let Event::Answer(answer) = event else { continue };
        if answer.call == 3 {
            answer.outcome = Outcome::Not;
        }
    }
    tale.state("b", "y", Standing::Live);
    assert_broken(&tale.verdict(), "P4", "all that made it failed");
}

#[test]
fn p4_a_transaction_has_one_fate() {
    let mut tale = Tale::begin(&[]);
    let settles = ["x", "y"].map(|id| settle(id, FIRST, Verb::Finalise));
    for (call, id) in [(1, "x"), (2, "y")] {
        tale.push(call, "a", id).done(call).delivered("a", id, 1, FIRST);
    }
    tale.add(Event::Call(Call { settles: settles.to_vec(), ..call_at(3, "a") }));
    tale.repeat(4, 3, "a", settles[0].clone()).done(4);
    tale.repeat(5, 3, "a", settles[1].clone()).not(5, "LEASE_LOST");
    assert_broken(&tale.verdict(), "P4", "done in part");
}

#[test]
fn p5_each_lease_has_its_own_key_and_an_older_one_is_over() {
    let verdict = plain(
        |tale| {
            tale.delivered("a", "x", 1, FIRST).delivered("a", "x", 1, FIRST);
        },
        Standing::Live,
    );
    assert_broken(&verdict, "P5", "delivered twice with the key");
    let verdict = plain(
        |tale| {
            tale.delivered("a", "x", 1, FIRST).delivered("a", "x", 1, SECOND);
            tale.settle(2, "a", settle("x", FIRST, Verb::Release), &[]).done(2);
        },
        Standing::Live,
    );
    assert_broken(&verdict, "P5", "after a later lease");
}

#[test]
fn p7_an_object_is_in_one_place() {
    let verdict = plain(
        |tale| {
            tale.state("b", "x", Standing::Live);
        },
        Standing::Live,
    );
    assert_broken(&verdict, "P7", "was made at");
}

#[test]
fn p8_what_was_refused_has_no_effect() {
    let mut tale = Tale::begin(&[]);
    tale.push(1, "a", "x").not(1, "UNREACHABLE").delivered("a", "x", 1, FIRST);
    assert_broken(&tale.verdict(), "P8", "all that made it at a failed");
    let mut tale = Tale::begin(&[]);
    tale.push(1, "a", "x").not(1, "UNREACHABLE").state("a", "x", Standing::Live);
    assert_broken(&tale.verdict(), "P8", "all that made it failed");
}

#[test]
fn p9_an_id_is_known_where_it_was_stored() {
    let again = |content: &str| {
        plain(
            |tale| {
                tale.push_content(2, "a", "x", content).done(2);
            },
            Standing::Live,
        )
    };
    assert_broken(&again("v1"), "P9", "was stored at a twice");
    assert_broken(&again("other"), "P9", "with two contents");
    let verdict = plain(
        |tale| {
            tale.push(2, "a", "x").not(2, "ID_REUSED");
        },
        Standing::Live,
    );
    assert_broken(&verdict, "P9", "its own content was refused");
}

#[test]
fn p11_what_is_left_is_told() {
    let mut tale = good();
    tale.add(Event::Left { what: "1 ready".to_owned() });
    assert_broken(&tale.verdict(), "P11", "1 ready");
    let mut tale = good();
    tale.state("a", "y", Standing::Held);
    assert_broken(&tale.verdict(), "P11", "y is held at a");
}

#[test]
fn p13_books_balance_and_agree_with_the_objects() {
    let books = |books: &[(&str, u64)]| {
        let mut tale = Tale::begin(&[]);
        tale.push(1, "a", "x").done(1).state("a", "x", Standing::Live);
        tale.books("a", 1, books).end().verdict()
    };
    assert_good(&books(&[("pushed", 1)]));
    assert_broken(&books(&[("pushed", 2)]), "P13", "2 came, 0 went, 1 there");
    assert_broken(&books(&[("moved_in", 1)]), "P13", "moved_in is not moved_out");
    // A duplicate that its sender kept.
    assert_good(&books(&[("pushed", 1), ("moved_in", 1), ("discarded", 1)]));
    assert_broken(&books(&[("pushed", 2), ("moved_out", 1)]), "P13", "moved_in is not moved_out");
    assert_broken(&books(&[("pushed", 2), ("finalised", 1)]), "P13", "the books say 1");
    let two = [("pushed", 2), ("finalised", 1)];
    assert_broken(&books(&two), "P13", "the books say 2 pushed and emitted");
}

#[test]
fn p14_a_node_that_ends_by_itself_is_told() {
    let mut tale = good();
    tale.add(Event::Died { node: "a".to_owned(), what: "a ended by itself".to_owned() });
    assert_broken(&tale.verdict(), "P14", "a ended by itself");
}

#[test]
fn p15_untouched_clients_see_no_fault() {
    let mut tale = Tale::begin(&["b"]);
    tale.push(1, "b", "x").not(1, "UNREACHABLE").end();
    assert_broken(&tale.verdict(), "P15", "UNREACHABLE");
    let mut tale = Tale::begin(&["b"]);
    tale.push(1, "a", "x").not(1, "UNREACHABLE").end();
    assert_good(&tale.verdict());
    let mut tale = Tale::begin(&["b"]);
    tale.push(1, "b", "x").end();
    assert_broken(&tale.verdict(), "P15", "no answer");
}

#[test]
fn an_unknown_outcome_is_learnt_from_what_comes_later() {
    let advanced = |content: &str| {
        let mut tale = Tale::begin(&[]);
        tale.push(1, "a", "x").done(1).delivered("a", "x", 1, FIRST);
        tale.settle(2, "a", settle("x", FIRST, Verb::Advance), &["y"]);
        let second = Delivery { content: content.to_owned(), ..delivery("a", "x", 2, SECOND) };
        tale.add(Event::Delivery(second)).state("a", "x", Standing::Live).clone()
    };
    let mut tale = advanced("v2");
    assert_broken(&tale.verdict(), "P4", "y was emitted by call 2");
    tale.state("a", "y", Standing::Live).books("a", 2, &[("pushed", 1), ("emitted", 1)]).end();
    assert_good(&tale.verdict());
    assert_eq!(tale.verdict().count("unknown outcomes learnt from a delivery"), 1);
    assert_broken(&advanced("other").verdict(), "P3", "by no settle");
    // A delivery as before says that nothing was done.
    let mut tale = Tale::begin(&[]);
    tale.push(1, "a", "x").done(1).delivered("a", "x", 1, FIRST);
    tale.settle(2, "a", settle("x", FIRST, Verb::Finalise), &["y"]);
    tale.delivered("a", "x", 1, SECOND);
    tale.state("a", "x", Standing::Live).state("a", "y", Standing::Live);
    assert_broken(&tale.verdict(), "P4", "y is");
}
