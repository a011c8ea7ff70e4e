//! The database: heads, rows of the logs, beats, and what is on its way to and from them.
//!
//! Time is virtual. What a client asks is applied at a drawn moment and answered at another one;
//! a fault is drawn with it. The database acts whenever somebody looks at it, up to that moment, in
//! the order of the moments.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::record::hash_of;
use dpc_core::shared::{LaneRow, LaneState, Set, Table, Tried, Update};
use dpc_core::store::StoreError;
use dpc_core::time::{Mono, Span};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// After this long a client takes an answer for lost.
pub const TIMEOUT: Span = Span::secs(3);

/// A write whose answer was lost is applied at most this much later.
const GHOST: Span = Span::secs(10);

/// A read that promises nothing shows what stood there at most this long ago.
const STALE: Span = Span::secs(4);

/// How long the past is kept for stale reads.
const PAST_COUNT: usize = 256;

/// Chances in percent that a request meets each fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// S1: applied, and the answer lost.
    pub lost_applied: u64,
    /// S2: not applied, and the answer lost.
    pub lost_never: u64,
    /// S3: the answer lost, and applied up to ten seconds later.
    pub lost_later: u64,
    /// S4: a conditional update meets another one: slow, and now and then without an outcome.
    pub contention: u64,
    /// S5, S6: refused, definitely without effect.
    pub unavailable: u64,
    /// S9: a read that promises no freshness is old.
    pub stale: u64,
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost_applied, lost_never, lost_later, contention, unavailable, stale } = self;
        write!(
            f,
            "answers lost {lost_applied} % applied, {lost_never} % not, {lost_later} % later; contention {contention} %, unavailable {unavailable} %, stale {stale} %"
        )
    }
}

/// How one request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As it should.
    Fine,
    /// Applied, and the answer is lost.
    LostApplied,
    /// Never applied, and the answer is lost.
    LostNever,
    /// The answer is lost, and it is applied this much later.
    LostLater(Span),
    /// Refused, definitely without effect.
    Unavailable,
}

/// A defect planted in the database, to see whether the checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Conditions name the number only, and neither owner nor epoch.
    NoOwnerInCondition,
}

/// A simulated database. Clones are the same one.
#[derive(Clone)]
pub struct SharedDb(Arc<Mutex<Db>>);

/// What a client asks.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Update(Update),
    /// Makes a lane, if there is none of its id.
    Make(LaneRow),
    Head(LaneId),
    /// A log row, written plainly.
    Write(LaneId, RecordNumber, Epoch, Bytes),
    /// The log rows of these numbers, all epochs.
    Rows(LaneId, RecordNumber, RecordNumber),
    /// The first number kept.
    First(LaneId),
    Truncate(LaneId, RecordNumber),
    Beat(Incarnation, u64),
    Table,
}

/// What it is answered.
#[derive(Clone, Debug)]
pub(super) enum Say {
    Tried(Tried),
    Head(Option<LaneRow>),
    Rows(Vec<(RecordNumber, Epoch, Bytes)>),
    First(RecordNumber),
    Done,
    Table(Table),
    /// Not sent, or refused as a whole.
    Nothing(StoreError),
    /// No answer: for a write, nobody can tell.
    Lost(StoreError),
}

struct Db {
    rng: Pcg64Mcg,
    now: Mono,
    lanes: BTreeMap<LaneId, Log>,
    beats: BTreeMap<Incarnation, u64>,
    rates: Rates,
    planted: Option<Planted>,
    /// Until when each process is cut off.
    cut: BTreeMap<usize, Mono>,
    forced: Vec<Fate>,
    /// Who is cut off when the forced fates are used up.
    cut_next: Option<(usize, Mono)>,
    /// What will be applied, by moment.
    coming: BTreeMap<(Mono, u64), (u64, Ask)>,
    /// What will be answered: by request.
    answers: BTreeMap<u64, (Mono, Option<Say>)>,
    /// Tables as they were, for stale reads.
    past: Vec<(Mono, Table)>,
    last: u64,
    /// Publications in the order in which they happened, for the checks.
    published: Vec<(LaneId, RecordNumber, Epoch)>,
    ghosts: u64,
}

struct Log {
    row: LaneRow,
    /// Never changed once written.
    rows: BTreeMap<(RecordNumber, Epoch), Bytes>,
}

impl SharedDb {
    /// An empty database without faults.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Db {
            rng: Pcg64Mcg::seed_from_u64(seed),
            now: Mono(0),
            lanes: BTreeMap::new(),
            beats: BTreeMap::new(),
            rates: Rates::default(),
            planted: None,
            cut: BTreeMap::new(),
            forced: Vec::new(),
            cut_next: None,
            coming: BTreeMap::new(),
            answers: BTreeMap::new(),
            past: vec![(Mono(0), Table::default())],
            last: 0,
            published: Vec::new(),
            ghosts: 0,
        })))
    }

    /// From now on requests meet faults at these rates.
    pub fn set_rates(&self, rates: Rates) {
        self.lock().rates = rates;
    }

    /// Plants a defect.
    pub fn plant(&self, planted: Planted) {
        self.lock().planted = Some(planted);
    }

    /// The next requests end this way, one each.
    pub fn force(&self, fates: &[Fate]) {
        self.lock().forced.extend_from_slice(fates);
    }

    /// Cuts a process off from the store until then.
    pub fn cut(&self, process: usize, until: Mono) {
        self.lock().cut.insert(process, until);
    }

    /// Whether a process is cut off now.
    pub(crate) fn is_cut(&self, process: usize, now: Mono) -> bool {
        self.lock().cut.get(&process).is_some_and(|until| *until > now)
    }

    /// The same, and then a process is cut off until then.
    pub fn force_then_cut(&self, fates: &[Fate], process: usize, until: Mono) {
        let db = &mut *self.lock();
        db.forced.extend_from_slice(fates);
        db.cut_next = Some((process, until));
    }

    /// No fault is to come, and nobody is cut off.
    pub fn heal(&self) {
        let db = &mut *self.lock();
        (db.rates, db.forced) = (Rates::default(), Vec::new());
        db.cut.clear();
    }

    /// A lane's head as it is now, for whoever looks on from outside.
    pub fn head(&self, lane: LaneId, now: Mono) -> Option<LaneRow> {
        let db = &mut *self.lock();
        db.advance(now);
        db.lanes.get(&lane).map(|log| log.row.clone())
    }

    /// All lanes as they are now, for whoever looks on from outside.
    pub fn heads(&self, now: Mono) -> Vec<LaneRow> {
        let db = &mut *self.lock();
        db.advance(now);
        db.lanes.values().map(|log| log.row.clone()).collect()
    }

    /// The first number kept of a lane, and every published record from it on.
    pub fn contents(&self, lane: LaneId) -> (RecordNumber, Vec<(RecordNumber, Bytes)>) {
        let db = self.lock();
        let Some(log) = db.lanes.get(&lane) else { return (RecordNumber(1), Vec::new()) };
        (log.row.first, log.published())
    }

    /// Every publication so far, in order: lane, number, epoch.
    pub fn published(&self) -> Vec<(LaneId, RecordNumber, Epoch)> {
        self.lock().published.clone()
    }

    /// How many writes were applied after their answer had been given up.
    pub fn ghosts(&self) -> u64 {
        self.lock().ghosts
    }

    pub(super) fn ask(&self, process: usize, now: Mono, ask: Ask) -> u64 {
        let db = &mut *self.lock();
        db.advance(now);
        db.ask(process, now, ask)
    }

    /// When a request is answered.
    pub(super) fn due(&self, request: u64) -> Mono {
        self.lock().answers[&request].0
    }

    /// The answer of a request whose time has come.
    pub(super) fn answer(&self, request: u64, now: Mono) -> Option<Say> {
        let db = &mut *self.lock();
        db.advance(now);
        let (due, _) = db.answers.get(&request)?;
        if *due > now {
            return None;
        }
        let (_, say) = db.answers.remove(&request).expect("just found");
        Some(say.unwrap_or_else(|| Say::Lost(StoreError::Io("no answer of the store".into()))))
    }

    /// Nobody waits for a request any more. It may still be applied.
    pub(super) fn forget(&self, request: u64) {
        // In the course of a panic the database may be poisoned: then nobody asks again either.
        if let Ok(mut db) = self.0.lock() {
            db.answers.remove(&request);
        }
    }

    /// A number below `n`, from the database's own stream.
    pub(super) fn draw(&self, below: u64) -> u64 {
        self.lock().rng.next_u64() % below.max(1)
    }

    fn lock(&self) -> MutexGuard<'_, Db> {
        self.0.lock().expect("whoever held the database did not panic")
    }
}

impl Log {
    /// The published records: from the head backwards each names the one before it by its hash.
    fn published(&self) -> Vec<(RecordNumber, Bytes)> {
        let mut found = Vec::new();
        let (mut number, mut hash) = (self.row.number, self.row.hash);
        while number >= self.row.first && number.0 > 0 {
            let of = self.rows.range((number, Epoch(0))..=(number, Epoch(u64::MAX)));
            let Some((_, bytes)) = of.into_iter().find(|(_, b)| hash_of(b) == hash) else { break };
            let header = dpc_core::record::open_header(bytes).expect("a published record");
            hash = header.previous;
            found.push((number, bytes.clone()));
            number = RecordNumber(number.0 - 1);
        }
        found.reverse();
        found
    }
}

impl Db {
    fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n.max(1)
    }

    fn fate(&mut self, ask: &Ask) -> Fate {
        if !self.forced.is_empty() {
            let fate = self.forced.remove(0);
            if self.forced.is_empty()
                && let Some((process, until)) = self.cut_next.take()
            {
                self.cut.insert(process, until);
            }
            return fate;
        }
        let r = self.rates;
        let at = self.below(100);
        let writes = !matches!(ask, Ask::Head(_) | Ask::Rows(..) | Ask::First(_) | Ask::Table);
        let conditional = matches!(ask, Ask::Update(_) | Ask::Make(_));
        let steps = [r.lost_applied, r.lost_never, r.lost_later, r.contention, r.unavailable];
        let mut sum = 0;
        let hit = steps.iter().position(|rate| {
            sum += rate;
            at < sum
        });
        match hit {
            Some(0) => Fate::LostApplied,
            Some(1) => Fate::LostNever,
            Some(2) if writes => Fate::LostLater(Span(self.below(GHOST.0))),
            Some(2) => Fate::LostNever,
            Some(3) if conditional && self.below(2) == 0 => Fate::LostApplied,
            Some(3) if conditional => Fate::LostNever,
            Some(4) => Fate::Unavailable,
            _ => Fate::Fine,
        }
    }

    fn ask(&mut self, process: usize, now: Mono, ask: Ask) -> u64 {
        self.last += 1;
        let request = self.last;
        let arrives = now + Span(100 + self.below(1_500));
        let answered = arrives + Span(100 + self.below(1_500));
        let cut = self.cut.get(&process).is_some_and(|until| now < *until);
        let fate = if cut { Fate::LostNever } else { self.fate(&ask) };
        let (applied, due, say) = match fate {
            Fate::Fine => (Some(arrives), answered, None),
            Fate::LostApplied => (Some(arrives), now + TIMEOUT, None),
            Fate::LostNever => (None, now + TIMEOUT, None),
            Fate::LostLater(span) => (Some(now + TIMEOUT + span), now + TIMEOUT, None),
            Fate::Unavailable => {
                let error = StoreError::Io("the store is unavailable".into());
                (None, answered, Some(Say::Nothing(error)))
            }
        };
        self.answers.insert(request, (due, say));
        if let Some(at) = applied {
            // Of a request whose answer is lost nobody learns what became of it.
            let told = if fate == Fate::Fine { request } else { 0 };
            self.coming.insert((at, request), (told, ask));
        }
        request
    }

    /// Applies what is due.
    fn advance(&mut self, now: Mono) {
        while let Some(entry) = self.coming.first_entry().filter(|e| e.key().0 <= now) {
            let ((at, request), (told, ask)) = entry.remove_entry();
            self.now = self.now.max(at);
            let writes = !matches!(ask, Ask::Head(_) | Ask::Rows(..) | Ask::First(_) | Ask::Table);
            if writes && told == 0 && !self.answers.contains_key(&request) {
                self.ghosts += 1;
            }
            let say = self.perform(at, ask);
            if let Some((_, answer)) = self.answers.get_mut(&told) {
                *answer = Some(say);
            }
        }
        self.now = self.now.max(now);
    }

    fn perform(&mut self, at: Mono, ask: Ask) -> Say {
        match ask {
            Ask::Update(update) => Say::Tried(self.update(at, &update)),
            Ask::Make(row) => {
                if let Some(log) = self.lanes.get(&row.lane) {
                    return Say::Tried(Tried::NotApplied(Some(log.row.clone())));
                }
                let log = Log { row, rows: BTreeMap::new() };
                self.lanes.insert(log.row.lane, log);
                self.note(at);
                Say::Tried(Tried::Applied)
            }
            Ask::Head(lane) => Say::Head(self.lanes.get(&lane).map(|log| log.row.clone())),
            Ask::Write(lane, number, epoch, bytes) => {
                let log = self.lanes.get_mut(&lane).expect("rows follow their lane's head");
                let before = log.rows.insert((number, epoch), bytes.clone());
                let same = before.is_none_or(|b| b == bytes);
                assert!(same, "row {number} of epoch {epoch} never changes its content");
                Say::Done
            }
            Ask::Rows(lane, from, to) => {
                let rows = self.lanes.get(&lane).filter(|_| from <= to).map(|log| {
                    let rows = log.rows.range((from, Epoch(0))..=(to, Epoch(u64::MAX)));
                    rows.map(|((n, e), bytes)| (*n, *e, bytes.clone())).collect()
                });
                Say::Rows(rows.unwrap_or_default())
            }
            Ask::First(lane) => {
                Say::First(self.lanes.get(&lane).map_or(RecordNumber(1), |log| log.row.first))
            }
            Ask::Truncate(lane, below) => {
                if let Some(log) = self.lanes.get_mut(&lane) {
                    assert!(below <= log.row.first, "rows go when the head has let them go");
                    log.rows = log.rows.split_off(&(below, Epoch(0)));
                }
                Say::Done
            }
            Ask::Beat(incarnation, number) => {
                // Plainly written: what arrives last stands, whatever its number.
                self.beats.insert(incarnation, number);
                self.note(at);
                Say::Done
            }
            Ask::Table => Say::Table(self.table(at)),
        }
    }

    fn update(&mut self, at: Mono, update: &Update) -> Tried {
        let Some(log) = self.lanes.get_mut(&update.lane) else { return Tried::NotApplied(None) };
        let holds = match self.planted {
            Some(Planted::NoOwnerInCondition) if !matches!(update.set, Set::Claim(_)) => {
                update.number.is_none_or(|n| n == log.row.number)
                    && log.row.state != LaneState::Retired
            }
            _ => update.holds(&log.row),
        };
        if !holds {
            return Tried::NotApplied(Some(log.row.clone()));
        }
        update.apply(&mut log.row);
        if let Set::Publish { number, .. } = update.set {
            self.published.push((update.lane, number, update.epoch));
        }
        self.note(at);
        Tried::Applied
    }

    fn as_it_is(&self) -> Table {
        let lanes = self.lanes.iter().map(|(id, log)| (*id, log.row.clone())).collect();
        Table { lanes, beats: self.beats.clone() }
    }

    /// Remembers the tables as they are, for stale reads.
    fn note(&mut self, at: Mono) {
        if self.rates.stale == 0 {
            return self.past.clear();
        }
        let table = self.as_it_is();
        self.past.push((at, table));
        if self.past.len() > PAST_COUNT {
            self.past.remove(0);
        }
    }

    fn table(&mut self, at: Mono) -> Table {
        if self.below(100) < self.rates.stale {
            let old = at - Mono(self.below(STALE.0));
            let seen = self.past.iter().rev().find(|(since, _)| since.0 <= old.0);
            if let Some((_, table)) = seen {
                return table.clone();
            }
        }
        self.as_it_is()
    }
}
