//! One round: nodes, clients and faults for so long, then heal, drain, ask, and check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::check::{Logs, Verdict, check_with};
use crate::dice::Dice;
use crate::drain;
use crate::faults::{Act, Set, Shape, Step, schedule};
use crate::fleet::{Fleet, names};
use crate::history::{Event, History, Line, read};
use crate::options::Options;
use crate::support::disk::Disk;
use crate::work::Work;

/// Where the folders of rounds are.
const ROOT: &str = env!("CARGO_TARGET_TMPDIR");

/// What came of a round.
pub(crate) struct Round {
    pub(crate) folder: PathBuf,
    pub(crate) lines: Vec<Line>,
    pub(crate) verdict: Verdict,
    /// How long each part took.
    pub(crate) parts: Vec<(&'static str, Duration)>,
}

/// Plays a round of a set.
pub(crate) async fn play(set: Set, options: &Options, disks: Vec<Disk>) -> Round {
    let shape = shape(set, options, !disks.is_empty());
    let steps = schedule(set, options.seed, &shape);
    perform(&set.to_string(), steps, &shape, options, disks).await
}

/// Plays a round in which the first node loses everything in the middle: promises are broken.
pub(crate) async fn play_lost_disk(options: &Options) -> Round {
    let shape = shape(Set::None, options, false);
    let at_ms = options.seconds * 500;
    let acts = [Act::Kill(0), Act::Lose(0), Act::Start(0)];
    let steps = acts.map(|act| Step { at_ms, act });
    perform("lost-disk", steps.to_vec(), &shape, options, Vec::new()).await
}

async fn perform(
    name: &str,
    steps: Vec<Step>,
    shape: &Shape,
    options: &Options,
    disks: Vec<Disk>,
) -> Round {
    let mut clock = Clock { last: Instant::now(), parts: Vec::new() };
    let folder = Path::new(ROOT).join("chaos").join(format!("{name}-{}", options.seed));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("the folder of an earlier round goes");
    }
    std::fs::create_dir_all(&folder).expect("a folder");
    let plan: String =
        steps.iter().map(|step| format!("{} {:?}\n", step.at_ms, step.act)).collect();
    std::fs::write(folder.join("schedule.txt"), plan).expect("room for the schedule");
    let path = folder.join("history.jsonl");
    let history = History::create(&path);
    let nodes = names(shape.nodes);
    let untouched = if name == Set::OneNode.name() { nodes[1..].to_vec() } else { vec![] };
    let seed = options.seed;
    history.note(Event::Round { set: name.to_owned(), seed, nodes, untouched });
    let mut fleet = Fleet::start(&folder, shape, disks, seed, history.clone());
    let mut work = Work::start(history.clone(), fleet.places(), seed, options.rate);
    clock.part("start");

    // Faults have a thread of their own: they wait for processes.
    let end = Duration::from_secs(options.seconds);
    let nemesis = tokio::task::spawn_blocking(move || {
        fleet.suffer(&steps, Instant::now(), end);
        fleet
    });
    let mut fleet = nemesis.await.expect("every node comes back");
    clock.part("faults");
    work.stop_producing().await;
    clock.part("last pushes");
    drain::drain(&work.shared, options.patience, || fleet.look()).await;
    clock.part("drain");
    work.stop().await;
    drain::repeat_settles(&work.shared).await;
    clock.part("repeats");
    drain::take_inventory(&work.shared, &likely(&path)).await;
    fleet.look();
    clock.part("inventory");
    let logs = Logs::read(fleet.end());
    let lines = read(&path);
    let verdict = check_with(&lines, Some(&logs));
    clock.part("check");
    if !verdict.violations.is_empty() {
        fleet.keep_disks(&folder);
    }
    drop(fleet);
    Round { folder, lines, verdict, parts: clock.parts }
}

struct Clock {
    last: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Clock {
    /// A part of the round is over.
    fn part(&mut self, name: &'static str) {
        self.parts.push((name, self.last.elapsed()));
        self.last = Instant::now();
    }
}

/// Three to five nodes, each linked to the one before, and most of the others.
fn shape(set: Set, options: &Options, disks: bool) -> Shape {
    let mut dice = Dice::of(options.seed, &format!("shape {set}"));
    let nodes = if options.by_hand { 3 + dice.index(3) } else { 3 };
    let mut links = Vec::new();
    for from in 1..nodes {
        links.extend(
            (0..from).filter(|to| *to == from - 1 || dice.percent(60)).map(|to| (from, to)),
        );
    }
    Shape { nodes, links, seconds: options.seconds, disks }
}

/// Every object that anybody wanted to make, with the nodes that it was seen or asked for at.
fn likely(path: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut likely = BTreeMap::<String, BTreeSet<String>>::new();
    for line in read(path) {
        match line.event {
            Event::Call(call) => {
                for made in call.objects {
                    likely.entry(made.id).or_default().extend(call.at_nodes.iter().cloned());
                }
            }
            Event::Delivery(delivery) => {
                likely.entry(delivery.id).or_default().insert(delivery.node);
            }
            _ => {}
        }
    }
    likely
}
