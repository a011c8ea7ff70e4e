//! P13: the books of the nodes balance, alone and together, and agree with the objects.

use std::collections::BTreeMap;

use super::Verdict;
use super::story::{Fate, Story};
use crate::history::Standing;

const CAME: [&str; 5] = ["pushed", "emitted", "moved_in", "advanced_in", "reclaimed"];
const WENT: [&str; 4] = ["finalised", "discarded", "moved_out", "advanced_out"];

pub(super) fn check(story: &Story<'_>, verdict: &mut Verdict) {
    let mut sums = BTreeMap::<&str, u64>::new();
    for of in &story.types {
        let book = |name: &str| of.books.get(name).copied().unwrap_or_default();
        let came: u64 = CAME.iter().map(|name| book(name)).sum();
        let went: u64 = WENT.iter().map(|name| book(name)).sum();
        if came != went + of.there {
            let what = format!(
                "{} at {}: {came} came, {went} went, {} there: {:?}",
                of.ty, of.node, of.there, of.books
            );
            verdict.fail("P13", what);
        }
        for name in CAME.iter().chain(&WENT) {
            *sums.entry(name).or_default() += book(name);
        }
        verdict.saw("books looked at");
    }
    let sum = |name: &str| sums.get(name).copied().unwrap_or_default();
    if sum("advanced_in") != sum("advanced_out") {
        verdict.fail("P13", format!("of all nodes together: {sums:?}: advanced in is not out"));
    }
    // A duplicate is counted in and discarded where it is met, and again if its sender did not let
    // it go (ADR 0007). The logs say how often that was.
    let (moved_in, moved_out) = (sum("moved_in"), sum("moved_out"));
    if !(moved_out..=moved_out + sum("discarded")).contains(&moved_in) {
        verdict.fail("P13", format!("of all nodes together: {sums:?}: moved_in is not moved_out"));
    }
    let finals = story.states.values().flatten().filter(|state| state.state == Standing::Final);
    let finals = finals.count() as u64;
    let finalised = sum("finalised");
    if finals != finalised {
        verdict.fail("P13", format!("{finals} objects are final, the books say {finalised}"));
    }
    check_made(story, &sums, verdict);
}

/// What was pushed and emitted lies between what is known as done and what may have been.
fn check_made(story: &Story<'_>, sums: &BTreeMap<&str, u64>, verdict: &mut Verdict) {
    let (mut least, mut most) = (0, 0);
    for (id, makers) in &story.makers {
        let done = makers.iter().any(|(place, _)| story.units[*place].fate == Fate::Done);
        // The same id at a second node is a second object, unless it had come there before.
        least += u64::from(done);
        most += story.births(id).len() as u64;
    }
    let book = |name: &str| sums.get(name).copied().unwrap_or_default();
    let made = book("pushed") + book("emitted");
    if !(least..=most).contains(&made) {
        let what =
            format!("the books say {made} pushed and emitted, the clients {least} to {most}");
        verdict.fail("P13", what);
    }
}
