//! The logs of the lanes themselves, read from the disks of the stopped nodes and folded by the
//! simulator's model: every commit of every node, against the same checks as in the simulator, and
//! against what the clients know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use dpc_core::ids::{LaneId, ObjectId, RecordNumber};
use dpc_core::names::TypeName;
use dpc_core::record::{Ending, Entry, TransferId, entries};
use dpc_core::store::{Claimed, Done, READ_BYTES_MAX, Store, StoreError};
use runtime::store::{Embedded, Options};
use sim::checks::Model;
use sim::coverage::Coverage;

use super::Verdict;
use super::story::{Fate, Story};
use crate::fleet::MAX_HOPS;

/// All lanes of a round, folded.
pub(crate) struct Logs {
    model: Model,
    lanes: BTreeMap<String, LaneId>,
    broken: Vec<String>,
    records: u64,
    /// Objects that were met as duplicates, and that their sender did not let go.
    kept_duplicates: u64,
    /// A log was shortened: then none is folded, since its objects may have gone anywhere.
    shortened: bool,
}

/// One lane, not folded yet.
struct Lane {
    id: LaneId,
    /// Its log has been shortened, so that its beginning cannot be told.
    shortened: bool,
    records: VecDeque<(RecordNumber, Bytes)>,
}

impl Logs {
    /// Reads the logs in the data folders of these nodes, which must not run.
    pub(crate) fn read<'p>(folders: impl Iterator<Item = (&'p str, &'p Path)>) -> Self {
        let mut model = Model::new(MAX_HOPS);
        let (mut names, mut lanes, mut broken) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (name, folder) in folders {
            match read_lane(folder) {
                Ok(lane) => {
                    model.add_lane(lane.id);
                    names.insert(name.to_owned(), lane.id);
                    lanes.push(lane);
                }
                Err(error) => broken.push(format!("P16: the log of {name}: {error}")),
            }
        }
        let records = lanes.iter().map(|lane| lane.records.len() as u64).sum();
        let shortened = lanes.iter().any(|lane| lane.shortened);
        let kept_duplicates = 0;
        let mut logs = Self { model, lanes: names, broken, records, kept_duplicates, shortened };
        if !shortened {
            logs.fold(lanes);
        }
        logs
    }

    /// Folds the lanes so that a release comes after the move that it is of; everything else is
    /// ordered by its own lane.
    fn fold(&mut self, mut lanes: Vec<Lane>) {
        let (mut moved, mut seen) = (BTreeSet::new(), Coverage::default());
        let (mut gone, mut met) = (BTreeSet::new(), Vec::new());
        loop {
            let mut progress = false;
            for lane in &mut lanes {
                while let Some((number, record)) = lane.records.front() {
                    let of_record = transfers(record);
                    if !of_record.released.is_subset(&moved) {
                        break;
                    }
                    moved.extend(of_record.gone.iter().map(|(transfer, _)| *transfer));
                    gone.extend(of_record.gone);
                    met.extend(of_record.met);
                    self.model.fold(lane.id, *number, record, &mut self.broken, &mut seen);
                    lane.records.pop_front();
                    progress = true;
                }
            }
            if !progress {
                break;
            }
        }
        self.kept_duplicates = met.iter().filter(|one| !gone.contains(*one)).count() as u64;
        for lane in lanes.iter().filter(|lane| !lane.records.is_empty()) {
            let number = lane.records[0].0;
            let what = format!("P7: record {number} of {} releases what nobody moved", lane.id);
            self.broken.push(what);
        }
    }
}

/// Handoffs that a record decides.
#[derive(Default)]
struct Transfers {
    /// Objects that the sender let go.
    gone: BTreeSet<(TransferId, ObjectId)>,
    released: BTreeSet<TransferId>,
    /// Objects that the receiver took for duplicates.
    met: Vec<(TransferId, ObjectId)>,
}

fn transfers(record: &Bytes) -> Transfers {
    let mut found = Transfers::default();
    // What cannot be read is told by the fold.
    let read = entries(record).map(|(_, entries)| entries).unwrap_or_default();
    for (_, entry) in read {
        match entry {
            Entry::Released { transfer } => {
                found.released.insert(transfer);
            }
            Entry::End(end) => {
                if let Ending::Moved(transfer) = end.ending {
                    found.gone.insert((transfer, end.id));
                }
            }
            Entry::Duplicate { transfer, id, .. } => found.met.push((transfer, id)),
            _ => {}
        }
    }
    found
}

fn ask<T: Send + 'static>(store: &mut Embedded, request: impl FnOnce(&mut Embedded, Done<T>)) -> T {
    let (sender, answer) = sync_channel(1);
    request(store, Box::new(move |given| sender.send(given).expect("it is waited for")));
    answer.recv().expect("the store answers")
}

fn read_lane(folder: &Path) -> Result<Lane, StoreError> {
    let (mut store, id) = Embedded::open(folder, &Options::default())?;
    let claimed: Claimed = ask(&mut store, |store, done| store.claim(done))?;
    let mut records = VecDeque::new();
    let mut from = claimed.first;
    while from <= claimed.last {
        let part = ask(&mut store, |store, done| store.read(from, READ_BYTES_MAX, done))?;
        let Some((last, _)) = part.last() else { break };
        from = last.next();
        records.extend(part);
    }
    Ok(Lane { id, shortened: claimed.first > RecordNumber(1), records })
}

/// P1, P8 and P13 of the logs, and whatever the fold has found.
pub(super) fn check(story: &Story<'_>, logs: &Logs, verdict: &mut Verdict) {
    verdict.saw_many("records of the logs folded", logs.records);
    for what in &logs.broken {
        let promise = ["P2", "P3", "P4", "P7", "P9", "P10", "P16", "R8"]
            .into_iter()
            .find(|promise| what.starts_with(&format!("{promise}:")))
            .unwrap_or("P16");
        verdict.fail(promise, format!("in the logs: {what}"));
    }
    if logs.shortened {
        return verdict.saw("logs that were shortened");
    }
    for (id, makers) in &story.makers {
        let object = id.parse().expect("ids of the history are UUIDs");
        let births = story.births(id);
        for (node, lane) in &logs.lanes {
            if logs.model.lane(*lane).was_pushed(object) && !births.contains(node.as_str()) {
                verdict.fail(
                    "P8",
                    format!("{id} was stored at {node}: all that made it there failed"),
                );
            }
        }
        let done = makers.iter().any(|(place, _)| story.units[*place].fate == Fate::Done);
        let stored = logs.lanes.values().any(|lane| logs.model.lane(*lane).was_pushed(object));
        if done && !stored {
            verdict.fail("P1", format!("{id} was answered as done and is in no log"));
        }
    }
    let sum = |name: &str| -> u64 { story.types.iter().filter_map(|of| of.books.get(name)).sum() };
    let excess = sum("moved_in").saturating_sub(sum("moved_out"));
    if excess != logs.kept_duplicates {
        let kept = logs.kept_duplicates;
        let what = format!("{excess} more moved in than out, and {kept} duplicates were kept");
        verdict.fail("P13", what);
    }
    verdict.saw_many("duplicates that their sender kept", logs.kept_duplicates);
    for of in &story.types {
        let Some(lane) = logs.lanes.get(&of.node) else { continue };
        let ty = TypeName::from_type_url(&of.ty).expect("nodes name their types well");
        let books = logs.model.lane(*lane).books(&ty);
        let pairs = [
            ("pushed", books.pushed),
            ("emitted", books.emitted),
            ("moved_in", books.moved_in),
            ("finalised", books.finalised),
            ("discarded", books.discarded),
            ("moved_out", books.moved_out),
            ("advanced_in", books.advanced_in),
            ("advanced_out", books.advanced_out),
        ];
        for (name, in_log) in pairs {
            let told = of.books.get(name).copied().unwrap_or_default();
            if told != in_log {
                let what =
                    format!("{} at {}: {told} {name}, the log says {in_log}", of.ty, of.node);
                verdict.fail("P13", what);
            }
        }
    }
}
