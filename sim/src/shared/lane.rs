//! The store of one lane over the shared database: log rows are written ahead, plainly; the head
//! publishes them by a conditional update. What is not known is found out by sending it again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::record::{hash_of, open_header};
use dpc_core::shared::{
    Attempt, Changed, LaneRow, LaneState, Next, Owner, RESEND, Set, SharedLane, Tried, Update,
};
use dpc_core::store::{
    Appended, Claimed, Done, READ_BYTES_MAX, RECORD_BYTES_MAX, ReadDone, Store, StoreError,
};
use dpc_core::time::Mono;

use super::client::pause;
use super::db::{Ask, Say, SharedDb};

/// Appends that wait for each other here.
const APPENDS_MAX: usize = 3;

/// A lane's store. Dropping it is a crash of the process: what it has sent may still happen.
pub struct SimLane {
    db: SharedDb,
    process: usize,
    me: Owner,
    lane: LaneId,
    from: Option<(Incarnation, Epoch)>,
    now: Mono,
    queue: VecDeque<Op>,
    running: Option<Running>,
    failed: Option<StoreError>,
    /// What the claim found, and what has been published since.
    held: Option<Held>,
}

/// The lane as its owner knows it.
struct Held {
    epoch: Epoch,
    first: RecordNumber,
    last: RecordNumber,
    /// Which row of each number is the published one.
    chain: BTreeMap<RecordNumber, Epoch>,
}

enum Op {
    Claim(Done<Result<Claimed, StoreError>>),
    Append(Epoch, RecordNumber, Bytes, Done<Appended>),
    Renew(Epoch, Done<Appended>),
    Retire(Epoch, Done<Appended>),
    Read(RecordNumber, usize, ReadDone),
    Truncate(RecordNumber, Done<Result<(), StoreError>>),
}

struct Running {
    wait: Wait,
    /// The request, to be sent again as it was.
    ask: Ask,
    deadline: Mono,
    step: Step,
}

enum Wait {
    Answer(u64),
    Until(Mono),
}

enum Step {
    /// Reads who owns the lane.
    Look(Done<Result<Claimed, StoreError>>),
    /// Makes a new lane.
    Make(LaneRow, Done<Result<Claimed, StoreError>>),
    /// Takes it from its owner.
    Take(Attempt, LaneRow, Done<Result<Claimed, StoreError>>),
    /// Has it, at this epoch: reads where it begins.
    Begin(LaneRow, Done<Result<Claimed, StoreError>>),
    /// Reads its rows.
    Chain(LaneRow, RecordNumber, Done<Result<Claimed, StoreError>>),
    /// Writes a record ahead.
    Write(RecordNumber, Bytes, Done<Appended>),
    /// Publishes, renews or retires.
    Head(Attempt, Done<Appended>),
    Read(RecordNumber, usize, ReadDone),
    /// A row is missing: has somebody else taken the lane, and forgotten it?
    Missed(RecordNumber, ReadDone),
    /// The head lets go of what is below.
    Cut(Attempt, RecordNumber, Done<Result<(), StoreError>>),
    /// The rows are deleted.
    Truncate(RecordNumber, Done<Result<(), StoreError>>),
}

/// What a try came to, of an answer to an update.
pub(super) fn tried(say: Say) -> Tried {
    match say {
        Say::Tried(tried) => tried,
        Say::Nothing(error) => Tried::Nothing(error),
        Say::Lost(error) => Tried::Lost(error),
        say => unreachable!("an answer of another kind: {say:?}"),
    }
}

impl SimLane {
    pub(super) fn new(
        db: &SharedDb,
        process: usize,
        me: Owner,
        lane: LaneId,
        from: Option<(Incarnation, Epoch)>,
        now: Mono,
    ) -> Self {
        Self {
            db: db.clone(),
            process,
            me,
            lane,
            from,
            now,
            queue: VecDeque::new(),
            running: None,
            failed: None,
            held: None,
        }
    }

    /// When the next thing happens on its own, if anything is under way.
    pub fn next_due(&self) -> Option<Mono> {
        match &self.running {
            Some(running) => Some(match running.wait {
                Wait::Answer(request) => self.db.due(request),
                Wait::Until(until) => until,
            }),
            None => self.queue.front().map(|_| self.now),
        }
    }

    /// Lets everything happen that is due by `now`, in order, and answers it.
    pub fn complete_until(&mut self, now: Mono) {
        while let Some(due) = self.next_due().filter(|due| *due <= now) {
            self.now = self.now.max(due);
            match self.running.take() {
                Some(running) => self.go_on(running),
                None => {
                    let op = self.queue.pop_front().expect("something is due");
                    self.begin(op);
                }
            }
        }
        self.now = self.now.max(now);
    }

    fn begin(&mut self, op: Op) {
        let error = match &self.failed {
            None if self.held.is_none() => Some(StoreError::Refused("claim the lane first".into())),
            failed => failed.clone(),
        };
        match (op, error) {
            (Op::Claim(done), _) => {
                self.failed = None;
                self.send(Ask::Head(self.lane), Step::Look(done));
            }
            (Op::Append(.., done), Some(e))
            | (Op::Renew(_, done), Some(e))
            | (Op::Retire(_, done), Some(e)) => done(Appended::DefinitelyNot(e)),
            (Op::Read(_, _, done), Some(e)) => done(Err(e)),
            (Op::Truncate(_, done), Some(e)) => done(Err(e)),
            (Op::Append(epoch, number, record, done), None) => {
                match self.refusal(epoch, Some((number, &record))) {
                    Some(why) => done(Appended::DefinitelyNot(why)),
                    None => {
                        let ask = Ask::Write(self.lane, number, epoch, record.clone());
                        self.send(ask, Step::Write(number, record, done));
                    }
                }
            }
            (Op::Renew(epoch, done), None) => self.change_head(epoch, Set::Renew, done),
            (Op::Retire(epoch, done), None) => self.change_head(epoch, Set::Retire, done),
            (Op::Read(from, bytes_max, done), None) => self.read_rows(from, bytes_max, done),
            (Op::Truncate(below, done), None) => {
                let last = self.held.as_ref().expect("claimed").last;
                if below > last.next() {
                    let why = format!("cannot forget below {below}: the last record is {last}");
                    return done(Err(StoreError::Refused(why)));
                }
                let update = Update { number: None, ..self.update(Set::Truncate(below)) };
                let attempt = Attempt::new(update.clone(), self.now);
                self.send(Ask::Update(update), Step::Cut(attempt, below, done));
            }
        }
    }

    /// Why an update of the head cannot be, or nothing.
    fn refusal(&self, epoch: Epoch, record: Option<(RecordNumber, &Bytes)>) -> Option<StoreError> {
        let held = self.held.as_ref().expect("claimed");
        if epoch < held.epoch {
            return Some(StoreError::Fenced { epoch: held.epoch });
        }
        if epoch > held.epoch {
            return Some(StoreError::Refused(format!("epoch {epoch} was never claimed")));
        }
        let (number, record) = record?;
        if number != held.last.next() {
            let why = format!("record {number} does not follow record {}", held.last);
            return Some(StoreError::Refused(why));
        }
        let bytes = record.len();
        (bytes > RECORD_BYTES_MAX).then(|| {
            StoreError::Refused(format!("a record of {bytes} B, the limit is {RECORD_BYTES_MAX} B"))
        })
    }

    fn change_head(&mut self, epoch: Epoch, set: Set, done: Done<Appended>) {
        if let Some(why) = self.refusal(epoch, None) {
            return done(Appended::DefinitelyNot(why));
        }
        let attempt = Attempt::new(self.update(set), self.now);
        self.send(Ask::Update(attempt.update.clone()), Step::Head(attempt, done));
    }

    /// An update by this owner, under the condition that the head is as it knows it.
    fn update(&self, set: Set) -> Update {
        let held = self.held.as_ref().expect("claimed");
        let (owner, epoch, number) = (self.me.incarnation, held.epoch, Some(held.last));
        Update { lane: self.lane, owner, epoch, number, set }
    }

    fn read_rows(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        let held = self.held.as_ref().expect("claimed");
        if from < held.first {
            return done(Err(StoreError::Damaged {
                place: format!("shared log, record {from}"),
                what: format!("it was truncated, the first record is {}", held.first),
            }));
        }
        if from > held.last {
            return done(Ok(Vec::new()));
        }
        let to = if bytes_max <= 1 { from } else { held.last };
        self.send(Ask::Rows(self.lane, from, to), Step::Read(from, bytes_max, done));
    }

    fn send(&mut self, ask: Ask, step: Step) {
        let wait = Wait::Answer(self.db.ask(self.process, self.now, ask.clone()));
        let deadline = self.now + RESEND;
        self.running = Some(Running { wait, ask, deadline, step });
    }

    /// Sends the same again, after a pause.
    fn rest(&mut self, mut running: Running) {
        running.wait = Wait::Until(self.now + pause(&self.db));
        self.running = Some(running);
    }

    fn go_on(&mut self, mut running: Running) {
        let Wait::Answer(request) = running.wait else {
            running.wait = Wait::Answer(self.db.ask(self.process, self.now, running.ask.clone()));
            self.running = Some(running);
            return;
        };
        let say = self.db.answer(request, self.now).expect("its time has come");
        let (Step::Take(..) | Step::Head(..) | Step::Make(..) | Step::Cut(..)) = running.step
        else {
            return self.go_on_plainly(running, say);
        };
        let tried = tried(say);
        match running.step {
            Step::Make(row, done) => {
                let mine = |r: &LaneRow| r.owner == row.owner && r.epoch == row.epoch;
                match tried {
                    Tried::Applied => self.send(Ask::First(self.lane), Step::Begin(row, done)),
                    Tried::NotApplied(Some(found)) if mine(&found) => {
                        self.send(Ask::First(self.lane), Step::Begin(found, done));
                    }
                    Tried::NotApplied(found) => self.lost_claim(found, done),
                    Tried::Nothing(e) | Tried::Lost(e) if self.now >= running.deadline => {
                        self.fail_claim(e, done);
                    }
                    Tried::Nothing(_) | Tried::Lost(_) => {
                        self.rest(Running { step: Step::Make(row, done), ..running });
                    }
                }
            }
            Step::Take(mut attempt, row, done) => match attempt.on_tried(self.now, tried) {
                Next::Again => {
                    self.rest(Running { step: Step::Take(attempt, row, done), ..running });
                }
                Next::Answer(changed) => self.on_taken(attempt.update, row, changed, done),
            },
            Step::Head(mut attempt, done) => match attempt.on_tried(self.now, tried) {
                Next::Again => self.rest(Running { step: Step::Head(attempt, done), ..running }),
                Next::Answer(changed) => self.on_changed(&attempt.update, changed, done),
            },
            Step::Cut(mut attempt, below, done) => match attempt.on_tried(self.now, tried) {
                Next::Again => {
                    self.rest(Running { step: Step::Cut(attempt, below, done), ..running });
                }
                Next::Answer(changed) => self.on_cut(changed, below, done),
            },
            _ => unreachable!("matched above"),
        }
    }

    fn on_cut(
        &mut self,
        changed: Changed,
        below: RecordNumber,
        done: Done<Result<(), StoreError>>,
    ) {
        let error = match changed {
            Changed::Done => {
                return self.send(Ask::Truncate(self.lane, below), Step::Truncate(below, done));
            }
            Changed::Refused(row) => {
                StoreError::Fenced { epoch: row.map_or(Epoch(0), |row| row.epoch) }
            }
            Changed::Nothing(error) | Changed::Unknown(error) => error,
        };
        self.failed = Some(error.clone());
        done(Err(error));
    }

    /// Steps whose requests may simply be repeated.
    fn go_on_plainly(&mut self, running: Running, say: Say) {
        let error = match &say {
            Say::Nothing(error) | Say::Lost(error) => Some(error.clone()),
            _ => None,
        };
        if let Some(error) = error {
            if self.now < running.deadline {
                return self.rest(running);
            }
            return self.give_up(running.step, error);
        }
        match (running.step, say) {
            (Step::Look(done), Say::Head(row)) => self.on_looked(row, done),
            (Step::Begin(row, done), Say::First(first)) => {
                let ask = Ask::Rows(self.lane, first, row.number);
                self.send(ask, Step::Chain(row, first, done));
            }
            (Step::Chain(row, first, done), Say::Rows(rows)) => {
                self.on_rows(&row, first, &rows, done);
            }
            (Step::Write(number, record, done), Say::Done) => {
                let hash = hash_of(&record);
                let attempt = Attempt::new(self.update(Set::Publish { number, hash }), self.now);
                self.send(Ask::Update(attempt.update.clone()), Step::Head(attempt, done));
            }
            (Step::Read(from, bytes_max, done), Say::Rows(rows)) => {
                let found = self.pick(&rows, bytes_max);
                if found.first().is_some_and(|(number, _)| *number == from) {
                    return done(Ok(found));
                }
                self.send(Ask::Head(self.lane), Step::Missed(from, done));
            }
            (Step::Missed(from, done), Say::Head(row)) => done(Err(self.missed(from, row))),
            (Step::Truncate(below, done), Say::Done) => {
                let held = self.held.as_mut().expect("claimed");
                held.first = held.first.max(below);
                held.chain = held.chain.split_off(&held.first);
                done(Ok(()));
            }
            (_, say) => unreachable!("an answer of another kind: {say:?}"),
        }
    }

    /// The store has not answered for so long that nobody waits any more.
    fn give_up(&mut self, step: Step, error: StoreError) {
        match step {
            Step::Look(done) | Step::Begin(_, done) | Step::Chain(_, _, done) => {
                self.fail_claim(error, done);
            }
            Step::Write(_, _, done) => {
                // Above the head nothing is ever read.
                self.failed = Some(error.clone());
                done(Appended::DefinitelyNot(error));
            }
            Step::Read(_, _, done) | Step::Missed(_, done) => done(Err(error)),
            Step::Truncate(_, done) => done(Err(error)),
            Step::Make(..) | Step::Take(..) | Step::Head(..) | Step::Cut(..) => {
                unreachable!("updates decide for themselves")
            }
        }
    }

    fn on_looked(&mut self, row: Option<LaneRow>, done: Done<Result<Claimed, StoreError>>) {
        match (row, self.from) {
            (None, None) => {
                let row = LaneRow {
                    lane: self.lane,
                    owner: self.me.clone(),
                    epoch: Epoch(1),
                    state: LaneState::Owned,
                    number: RecordNumber(0),
                    hash: [0; 16],
                    began: RecordNumber(0),
                    first: RecordNumber(1),
                };
                self.send(Ask::Make(row.clone()), Step::Make(row, done));
            }
            (Some(row), Some((owner, epoch)))
                if row.state != LaneState::Retired
                    && (row.owner.incarnation, row.epoch) == (owner, epoch) =>
            {
                let (number, set) = (Some(row.number), Set::Claim(self.me.clone()));
                let update = Update { lane: self.lane, owner, epoch, number, set };
                let attempt = Attempt::new(update.clone(), self.now);
                self.send(Ask::Update(update), Step::Take(attempt, row, done));
            }
            (row, _) => self.lost_claim(row, done),
        }
    }

    fn on_taken(
        &mut self,
        update: Update,
        mut row: LaneRow,
        changed: Changed,
        done: Done<Result<Claimed, StoreError>>,
    ) {
        match changed {
            Changed::Done => {
                update.apply(&mut row);
                self.send(Ask::First(self.lane), Step::Begin(row, done));
            }
            Changed::Refused(found) => {
                let moved_on = |r: &LaneRow| {
                    (r.owner.incarnation, r.epoch) == (update.owner, update.epoch)
                        && r.state != LaneState::Retired
                };
                if found.as_ref().is_some_and(moved_on) {
                    // The old owner has published one more meanwhile.
                    return self.send(Ask::Head(self.lane), Step::Look(done));
                }
                self.lost_claim(found, done);
            }
            Changed::Nothing(error) | Changed::Unknown(error) => self.fail_claim(error, done),
        }
    }

    /// The lane is whole: each published row is there, linked to the one before.
    fn on_rows(
        &mut self,
        row: &LaneRow,
        first: RecordNumber,
        rows: &[(RecordNumber, Epoch, Bytes)],
        done: Done<Result<Claimed, StoreError>>,
    ) {
        let mut chain = BTreeMap::new();
        let (mut number, mut hash) = (row.number, row.hash);
        while number >= first && number.0 > 0 {
            let found = rows.iter().find(|(n, _, b)| *n == number && hash_of(b) == hash);
            let Some((_, epoch, bytes)) = found else {
                let place = format!("shared log, record {number}");
                let what = "the head publishes it and no row has its hash".into();
                return self.fail_claim(StoreError::Damaged { place, what }, done);
            };
            chain.insert(number, *epoch);
            hash = open_header(bytes).expect("only sealed records are written").previous;
            number = RecordNumber(number.0 - 1);
        }
        self.from = Some((self.me.incarnation, row.epoch));
        self.held = Some(Held { epoch: row.epoch, first, last: row.number, chain });
        done(Ok(Claimed { epoch: row.epoch, first, last: row.number, last_hash: row.hash }));
    }

    /// Somebody else has the lane, or nobody ever will.
    fn lost_claim(&mut self, found: Option<LaneRow>, done: Done<Result<Claimed, StoreError>>) {
        let error = match found {
            Some(row) if row.state == LaneState::Retired => {
                StoreError::Refused(format!("lane {} is retired", self.lane))
            }
            Some(row) => StoreError::Fenced { epoch: row.epoch },
            None => StoreError::Refused(format!("there is no lane {}", self.lane)),
        };
        self.fail_claim(error, done);
    }

    fn fail_claim(&mut self, error: StoreError, done: Done<Result<Claimed, StoreError>>) {
        self.failed = Some(error.clone());
        self.held = None;
        done(Err(error));
    }

    fn on_changed(&mut self, update: &Update, changed: Changed, done: Done<Appended>) {
        let fenced = |row: &Option<LaneRow>| {
            let epoch = row.as_ref().map_or(update.epoch, |r| r.epoch);
            StoreError::Fenced { epoch }
        };
        match changed {
            Changed::Done => {
                if let Set::Publish { number, .. } = update.set {
                    let held = self.held.as_mut().expect("claimed");
                    held.last = number;
                    held.chain.insert(number, held.epoch);
                }
                done(Appended::Committed);
            }
            Changed::Refused(row) => {
                let error = fenced(&row);
                self.failed = Some(error.clone());
                done(Appended::DefinitelyNot(error));
            }
            Changed::Nothing(error) => {
                self.failed = Some(error.clone());
                done(Appended::DefinitelyNot(error));
            }
            Changed::Unknown(error) => {
                self.failed = Some(error.clone());
                done(Appended::Unknown(error));
            }
        }
    }

    /// Why a published row is not there: its lane has another owner, or the store has lost it.
    fn missed(&self, from: RecordNumber, row: Option<LaneRow>) -> StoreError {
        let mine = self.held.as_ref().expect("claimed").epoch;
        match row {
            Some(row) if row.epoch > mine || row.state != LaneState::Owned => {
                StoreError::Fenced { epoch: row.epoch }
            }
            _ => StoreError::Damaged {
                place: format!("shared log, record {from}"),
                what: "it was published and is missing".into(),
            },
        }
    }

    /// The published rows among these, as many as fit.
    fn pick(
        &self,
        rows: &[(RecordNumber, Epoch, Bytes)],
        bytes_max: usize,
    ) -> Vec<(RecordNumber, Bytes)> {
        let held = self.held.as_ref().expect("claimed");
        let published = rows.iter().filter(|(n, e, _)| held.chain.get(n) == Some(e));
        let mut left = bytes_max.min(READ_BYTES_MAX);
        let mut found: Vec<(RecordNumber, Bytes)> = Vec::new();
        for (number, _, bytes) in published {
            if bytes.len() > left && !found.is_empty() {
                break;
            }
            left = left.saturating_sub(bytes.len());
            found.push((*number, bytes.clone()));
        }
        found
    }

    fn enqueue(&mut self, op: Op) {
        self.queue.push_back(op);
    }
}

impl Store for SimLane {
    fn claim(&mut self, done: Done<Result<Claimed, StoreError>>) {
        self.enqueue(Op::Claim(done));
    }

    fn appends_max(&self) -> usize {
        APPENDS_MAX
    }

    fn append(&mut self, epoch: Epoch, number: RecordNumber, record: Bytes, done: Done<Appended>) {
        self.enqueue(Op::Append(epoch, number, record, done));
    }

    fn read(&mut self, from: RecordNumber, bytes_max: usize, done: ReadDone) {
        self.enqueue(Op::Read(from, bytes_max, done));
    }

    fn truncate(&mut self, below: RecordNumber, done: Done<Result<(), StoreError>>) {
        self.enqueue(Op::Truncate(below, done));
    }
}

impl SharedLane for SimLane {
    fn renew(&mut self, epoch: Epoch, done: Done<Appended>) {
        self.enqueue(Op::Renew(epoch, done));
    }

    fn retire(&mut self, epoch: Epoch, done: Done<Appended>) {
        self.enqueue(Op::Retire(epoch, done));
    }
}

impl Drop for SimLane {
    fn drop(&mut self) {
        if let Some(Running { wait: Wait::Answer(request), .. }) = &self.running {
            self.db.forget(*request);
        }
    }
}
