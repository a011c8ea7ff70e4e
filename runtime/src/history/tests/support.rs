//! A log in memory, and a history that reads from it.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dpc_core::decision::{Candidate, Decision, Refused, Step};
use dpc_core::ids::{Birth, Epoch, Incarnation, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::names::{Name, TypeName};
use dpc_core::object::{Entity, Generation, Headers, Object};
use dpc_core::record::{self, End, Ending, Entry, Header, How, Standing, Writer};
use dpc_core::{Span, Wall};

use super::super::shared::SharedHistory;
use super::super::{
    Finished, History, HistoryHandle, HistoryOptions, List, ListQuery, QueryError, Report,
    StatsQuery, StatsRow, Trace,
};

pub(super) const LANE: LaneId = LaneId([7; 16]);
pub(super) const START: Wall = Wall(1_700_000_000_000);

/// A lane's log.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) first: RecordNumber,
    pub(super) records: Vec<Bytes>,
    pub(super) wall: Wall,
    hash: [u8; 16],
}

impl Log {
    pub(super) fn new() -> Self {
        Self::from(RecordNumber(1))
    }

    /// A log whose older records are gone.
    pub(super) fn from(first: RecordNumber) -> Self {
        Self { first, records: Vec::new(), wall: START, hash: [0; 16] }
    }

    pub(super) fn next(&self) -> RecordNumber {
        RecordNumber(self.first.0 + self.records.len() as u64)
    }

    pub(super) fn last(&self) -> RecordNumber {
        RecordNumber(self.next().0 - 1)
    }

    /// Appends a record, a second after the one before.
    pub(super) fn push(&mut self, entries: &[Entry]) -> RecordNumber {
        self.wall = self.wall + Span::secs(1);
        let number = self.next();
        let mut writer = Writer::default();
        for (position, entry) in entries.iter().enumerate() {
            let loc = Loc { record: number, position: position as u32 };
            entry.encode(&mut writer, Birth { lane: LANE, epoch: Epoch(1), loc });
        }
        let header = Header {
            lane: LANE,
            epoch: Epoch(1),
            number,
            wall: self.wall,
            previous: self.hash,
            checkpoint: RecordNumber(0),
            entries: entries.len() as u32,
        };
        let record = record::seal(&header, writer.as_slice());
        self.hash = record::hash_of(&record);
        self.records.push(record);
        number
    }

    pub(super) fn record(&self, number: RecordNumber) -> Bytes {
        self.records[(number.0 - self.first.0) as usize].clone()
    }

    fn read(&self, from: RecordNumber, bytes_max: usize) -> Vec<(RecordNumber, Bytes)> {
        let mut bytes = 0;
        let mut answer = Vec::new();
        let mut number = from.max(self.first);
        while number < self.next() && (answer.is_empty() || bytes < bytes_max) {
            let record = self.record(number);
            bytes += record.len();
            answer.push((number, record));
            number = number.next();
        }
        answer
    }

    /// `count` objects from pushed to final, in groups of eight: pushed and kept waiting with one
    /// decision, offered with one, each delivered with one of its own.
    pub(super) fn lives(&mut self, ids: std::ops::Range<u64>) {
        for group in ids.collect::<Vec<_>>().chunks(8) {
            let mut entries: Vec<Entry> = group.iter().map(|&n| pushed(n, self.wall)).collect();
            entries.push(decided(self.wall, Step::Wait, group));
            entries.push(decided(self.wall, Step::Return, group));
            let number = self.push(&entries);
            let mut entries: Vec<Entry> =
                group.iter().map(|&n| decided(self.wall, Step::Deliver, &[n])).collect();
            for (position, &n) in group.iter().enumerate() {
                let was = Loc { record: number, position: position as u32 };
                entries.push(end(n, Some(was), Ending::Final, self.wall));
            }
            self.push(&entries);
        }
    }
}

/// The id of test object `n`: like a version 7, or like a version 4 for odd ones.
pub(super) fn id(n: u64) -> ObjectId {
    let random = blake3::hash(&n.to_le_bytes());
    let mut id: [u8; 16] = random.as_bytes()[..16].try_into().unwrap();
    if n.is_multiple_of(2) {
        id[..6].copy_from_slice(&(START.0 + n).to_be_bytes()[2..]);
    }
    ObjectId(id)
}

pub(super) fn ty(n: u64) -> TypeName {
    TypeName::from_type_url(&format!("acme.orders.Type{}", n % 5)).unwrap()
}

pub(super) fn name(text: &str) -> Name {
    Name::new("name", text).unwrap()
}

pub(super) fn pushed(n: u64, at: Wall) -> Entry {
    let payload = Bytes::from(vec![n as u8; 100]);
    let entity = Entity { ty: ty(n), payload, headers: Headers::default() };
    let birth = Birth { lane: LANE, epoch: Epoch(1), loc: Loc::default() };
    let object = Object { birth, ..Object::new(id(n), entity, [n as u8; 16], at, name("a")) };
    Entry::Object {
        how: How::Pushed,
        was: None,
        place: None,
        standing: Standing::Flowing,
        object: Box::new(object),
    }
}

pub(super) fn decided(at: Wall, step: Step, objects: &[u64]) -> Entry {
    let decision = Decision {
        at,
        step,
        chosen: (step == Step::Deliver).then(|| "subscription billing".into()),
        generation: Some(Generation { counter: 9, lane: LANE, incarnation: Incarnation(5) }),
        candidates: vec![Candidate { who: "peer b".into(), refused: Refused::Farther }],
    };
    Entry::Decision { decision, objects: objects.iter().map(|&n| (id(n), 0)).collect() }
}

pub(super) fn end(n: u64, was: Option<Loc>, ending: Ending, at: Wall) -> Entry {
    Entry::End(Box::new(End {
        id: id(n),
        was,
        carried_from: None,
        ending,
        ty: ty(n),
        version: 1,
        hash: [n as u8; 16],
        birth: Birth { lane: LANE, epoch: Epoch(1), loc: Loc::default() },
        marks: [].into(),
        by: Some(name("billing")),
        at,
        moves: 0,
        size: 100,
        pushed_at: Wall(at.0 - 1_000),
    }))
}

/// A history with somebody who reads the log for it.
pub(super) struct Running {
    history: Option<History>,
    pub(super) handle: HistoryHandle,
    pub(super) stands: RecordNumber,
    pub(super) log: Arc<Mutex<Log>>,
    reports: Receiver<Report>,
    seen: Vec<Report>,
}

impl Running {
    /// Opens the history of `log`, which it has not been fed.
    pub(super) fn open(dir: &Path, log: &Log, options: HistoryOptions) -> Self {
        Self::open_shared(dir, (log, RecordNumber(1)), options, None)
    }

    /// The same, with tables; an empty one begins with a record.
    pub(super) fn open_shared(
        dir: &Path,
        (log, from): (&Log, RecordNumber),
        options: HistoryOptions,
        tables: Option<SharedHistory>,
    ) -> Self {
        let (to, wishes) = channel();
        let running = Self::open_all(dir, (log, from), options, tables, to);
        let (log, handle) = (running.log.clone(), running.handle.clone());
        // It ends with the history, which holds the other end of the channel.
        std::thread::spawn(move || {
            for (from, bytes) in wishes {
                let answer = log.lock().unwrap().read(from, bytes);
                handle.pulled(Ok(answer));
            }
        });
        running
    }

    /// Opens the history; whoever holds the other end of `wishes` reads the log for it.
    pub(super) fn open_with(
        dir: &Path,
        log: &Log,
        options: HistoryOptions,
        wishes: Sender<(RecordNumber, usize)>,
    ) -> Self {
        Self::open_all(dir, (log, RecordNumber(1)), options, None, wishes)
    }

    fn open_all(
        dir: &Path,
        (log, from): (&Log, RecordNumber),
        options: HistoryOptions,
        tables: Option<SharedHistory>,
        wishes: Sender<(RecordNumber, usize)>,
    ) -> Self {
        let (to, reports) = channel();
        let report = move |report| {
            if let Report::Wants { from, bytes } = report {
                // A test that has ended answers no more wishes.
                wishes.send((from, bytes)).ok();
            }
            to.send(report).ok();
        };
        let (history, stands) =
            History::open_shared(dir, (LANE, log.last(), from), options, tables, Box::new(report))
                .unwrap();
        let handle = history.handle();
        let log = Arc::new(Mutex::new(log.clone()));
        Self { history: Some(history), handle, stands, log, reports, seen: Vec::new() }
    }

    /// Appends to the log with `write` and feeds what was appended.
    pub(super) fn write(&self, write: impl FnOnce(&mut Log)) {
        let mut log = self.log.lock().unwrap();
        let from = log.next();
        write(&mut log);
        let fresh = log.read(from, usize::MAX);
        drop(log);
        fresh.into_iter().for_each(|(number, record)| self.handle.feed(number, record));
    }

    /// Waits for a report.
    pub(super) fn wait_for(&mut self, wanted: impl Fn(&Report) -> bool) -> Report {
        loop {
            if let Some(report) = self.seen.iter().copied().find(|report| wanted(report)) {
                return report;
            }
            let report = self.reports.recv_timeout(Duration::from_secs(20));
            self.seen.push(report.expect("the report comes"));
        }
    }

    /// What it has said so far.
    pub(super) fn seen(&self) -> &[Report] {
        &self.seen
    }

    pub(super) fn close(mut self) {
        self.history.take().unwrap().close();
    }

    /// Ends it as a crash would: what is not durable is lost.
    pub(super) fn kill(mut self) {
        drop(self.history.take());
    }

    pub(super) async fn trace(&self, n: u64) -> Trace {
        patiently(async || self.handle.trace(id(n)).await).await
    }

    pub(super) async fn object(&self, n: u64) -> Option<Finished> {
        patiently(async || self.handle.object(id(n)).await).await
    }

    pub(super) async fn all_stats(&self) -> Vec<StatsRow> {
        let query = StatsQuery { from: Wall(0), to: Wall(START.0 * 2), ty: None };
        patiently(async || self.handle.stats(query.clone()).await).await
    }

    pub(super) async fn list(&self, query: ListQuery) -> List {
        patiently(async || self.handle.list(query.clone()).await).await
    }

    /// Everything it says of some objects, and of all of them together.
    pub(super) async fn says(&self, ids: impl IntoIterator<Item = u64>) -> Said {
        let listed = self.list(ListQuery { limit: 1_000, ..ListQuery::default() }).await;
        let mut said = Said { objects: Vec::new(), listed, stats: self.all_stats().await };
        for n in ids {
            said.objects.push((self.object(n).await, self.trace(n).await));
        }
        said
    }
}

/// Asks again while the history is behind: a busy machine is no reason to fail.
async fn patiently<T>(ask: impl AsyncFn() -> Result<T, QueryError>) -> T {
    for _ in 0..30 {
        match ask().await {
            Err(QueryError::Behind { .. }) => {}
            answer => return answer.unwrap(),
        }
    }
    panic!("the history stays behind for a minute");
}

#[derive(Debug, PartialEq)]
pub(super) struct Said {
    pub(super) objects: Vec<(Option<Finished>, Trace)>,
    pub(super) listed: List,
    pub(super) stats: Vec<StatsRow>,
}
