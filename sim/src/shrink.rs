//! Cuts a failing run down to the few actions that matter.
//!
//! Chunks of the schedule are left out, first halves, then quarters, down to single actions; what
//! can be left out while the run still fails in the same way stays out. The effort is bounded by
//! simulated events, not by time, so that the same failure is cut to the same few actions on every
//! machine.

use crate::swarm::{Report, Setup, Step};

/// Most events that the runs of one shrink may have together.
pub const SHRINK_EVENTS_MAX: u64 = 20_000_000;

/// What one try came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Whether it still fails in the same way.
    pub fails: bool,
    /// What the try has cost, in the unit of the budget.
    pub cost: u64,
}

/// What is left of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk<T> {
    /// The items that are needed, in their order.
    pub kept: Vec<T>,
    /// Whether none of them can be left out by itself; false if the budget ran out before that was
    /// known.
    pub minimal: bool,
    /// How often it was tried.
    pub tries: u64,
}

/// Leaves out of `whole`, which fails, what is not needed for it to fail.
pub fn shrink<T: Clone>(
    whole: &[T],
    budget: u64,
    mut fails: impl FnMut(&[T]) -> Tried,
) -> Shrunk<T> {
    let mut kept = whole.to_vec();
    let (mut tries, mut spent) = (0, 0);
    let mut size = kept.len().div_ceil(2);
    while size > 0 {
        let (mut at, before) = (0, kept.len());
        while at < kept.len() {
            if spent >= budget {
                return Shrunk { kept, minimal: false, tries };
            }
            let end = (at + size).min(kept.len());
            let rest = [&kept[..at], &kept[end..]].concat();
            let tried = fails(&rest);
            tries += 1;
            spent += tried.cost;
            if tried.fails {
                kept = rest;
            } else {
                at = end;
            }
        }
        // Single actions are gone through until none of them can go.
        size = if size > 1 { size / 2 } else { usize::from(kept.len() < before) };
    }
    Shrunk { kept, minimal: true, tries }
}

/// Cuts down the schedule of a run that broke a promise: what is left breaks the same one. `run`
/// runs a schedule. Nothing is returned if even the whole schedule does not fail again: then the
/// run is not deterministic, and that is the first thing to look into.
pub fn shrink_run(
    setup: &Setup,
    schedule: &[Step],
    broken: &str,
    run: impl Fn(&Setup, &[Step]) -> Report,
) -> Option<Shrunk<Step>> {
    let again = |steps: &[Step]| {
        let report = run(setup, steps);
        let fails = report.broken.as_deref().is_some_and(|other| is_same(broken, other));
        Tried { fails, cost: report.steps }
    };
    again(schedule).fails.then(|| shrink(schedule, SHRINK_EVENTS_MAX, again))
}

/// Whether two failures are the same one: of one promise, or the same failed assertion but for
/// its numbers.
fn is_same(a: &str, b: &str) -> bool {
    let (promise_a, words_a) = a.split_once(": ").unwrap_or((a, ""));
    let (promise_b, words_b) = b.split_once(": ").unwrap_or((b, ""));
    promise_a == promise_b && (promise_a != "panic" || shape(words_a) == shape(words_b))
}

/// Words without what differs from run to run: numbers, and ids, which hold some.
fn shape(words: &str) -> Vec<&str> {
    words.split_whitespace().filter(|w| !w.contains(|c: char| c.is_ascii_digit())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::{self, Action, Options};

    fn tried(fails: bool) -> Tried {
        Tried { fails, cost: 1 }
    }

    #[test]
    fn what_is_not_needed_goes_and_what_is_needed_stays_in_order() {
        let whole: Vec<u32> = (0..1_000).collect();
        for needed in [vec![], vec![0], vec![999], vec![3, 4, 5], vec![0, 500, 731, 999]] {
            let has_all = |items: &[u32]| tried(needed.iter().all(|n| items.contains(n)));
            let shrunk = shrink(&whole, u64::MAX, has_all);
            assert_eq!((&shrunk.kept, shrunk.minimal), (&needed, true));
            assert!(shrunk.tries < 120, "{needed:?} took {} tries", shrunk.tries);
        }
    }

    #[test]
    fn one_of_several_causes_is_enough() {
        let whole: Vec<u32> = (0..64).collect();
        let one = |items: &[u32]| tried(items.iter().any(|n| n % 10 == 7));
        let shrunk = shrink(&whole, u64::MAX, one);
        assert_eq!((shrunk.kept.len(), shrunk.kept[0] % 10), (1, 7));
    }

    #[test]
    fn what_can_go_only_after_something_else_has_gone_goes_too() {
        // A `2` may stand only behind a `1` that it needs; the failure is the `3`.
        let whole = [1, 2, 1, 2, 3];
        let fails = |items: &[i32]| {
            let valid = items.iter().enumerate().all(|(i, n)| *n != 2 || items[..i].contains(&1));
            tried(valid && items.contains(&3))
        };
        let shrunk = shrink(&whole, u64::MAX, fails);
        assert!(shrunk.minimal && shrunk.kept == [3], "{shrunk:?}");
    }

    #[test]
    fn a_spent_budget_leaves_something_that_fails() {
        let whole: Vec<u32> = (0..1_000).collect();
        let needed = |items: &[u32]| items.contains(&17) && items.contains(&900);
        let shrunk = shrink(&whole, 10, |items| tried(needed(items)));
        assert!(!shrunk.minimal && shrunk.tries == 10, "{shrunk:?}");
        assert!(needed(&shrunk.kept) && shrunk.kept.len() < 1_000);
    }

    /// The planted bug of these tests: a run with both a cut link and a dead process is broken.
    fn planted(setup: &Setup, steps: &[Step]) -> Report {
        let mut report = swarm::run_schedule(setup, steps);
        let has = |wanted: fn(&Action) -> bool| steps.iter().any(|step| wanted(&step.action));
        if has(|a| matches!(a, Action::Cut(..))) && has(|a| matches!(a, Action::Kill(..))) {
            report.broken = Some(format!("P7: planted in {} steps", steps.len()));
        }
        report
    }

    #[test]
    fn a_planted_failure_is_cut_down_to_the_two_actions_that_make_it() {
        let options = Options::default();
        let drawn = (0..).map(|seed| swarm::draw(seed, &options));
        let mut failing =
            drawn.filter(|(setup, schedule)| planted(setup, schedule).broken.is_some());
        let (setup, schedule) = failing.next().expect("some seed cuts and kills");
        let shrunk = shrink_run(&setup, &schedule, "P7: planted", planted).expect("it fails");
        let actions: Vec<String> = shrunk.kept.iter().map(|s| s.action.to_string()).collect();
        assert!(shrunk.minimal && actions.len() == 2, "{actions:?}");
        assert!(actions.iter().any(|a| a.starts_with("cut link")), "{actions:?}");
        assert!(planted(&setup, &shrunk.kept).broken.is_some());
        let other = shrink_run(&setup, &schedule, "P1: something else", planted);
        assert_eq!(other.map(|shrunk| shrunk.kept.len()), None, "it never failed like that");
    }

    #[test]
    fn the_same_failure_is_of_one_promise_or_one_assertion() {
        assert!(is_same("P7: obj 1 is in two places", "P7: obj 2 is nowhere"));
        assert!(!is_same("P7: obj 1 is in two places", "P1: obj 1 is in two places"));
        let panic = "panic: 00000000-0000-7000-8000-000000000001 is in memory once";
        assert!(is_same(panic, "panic: 00000000-0000-7000-8000-0000000000ff is in memory once"));
        assert!(!is_same(panic, "panic: a core is started before it is used"));
    }
}
