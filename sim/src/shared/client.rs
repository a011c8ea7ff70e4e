//! A process's client of the shared store: beats, the tables, verdicts. Several requests may be
//! under way at once.

use dpc_core::ids::{Epoch, Incarnation, LaneId};
use dpc_core::shared::{Attempt, Changed, LaneRow, Next, Owner, Set, SharedStore, Table, Update};
use dpc_core::store::{Done, StoreError};
use dpc_core::time::{Mono, Span};

use super::db::{Ask, Say, SharedDb};
use super::lane::SimLane;

/// A process's handle. Dropping it is a crash of the process.
pub struct SimShared {
    db: SharedDb,
    process: usize,
    owner: Owner,
    now: Mono,
    jobs: Vec<Job>,
}

struct Job {
    /// The request under way, or when to send it again.
    state: State,
    work: Work,
}

enum State {
    Asked(u64),
    Resting(Mono),
}

enum Work {
    Beat(Done<Result<(), StoreError>>),
    Table(Done<Result<Table, StoreError>>),
    Head(Done<Result<Option<LaneRow>, StoreError>>),
    Dead(Attempt, Done<Changed>),
}

impl SimShared {
    /// A client for a process, by its number for partitions.
    pub fn new(db: &SharedDb, process: usize, owner: Owner, now: Mono) -> Self {
        Self { db: db.clone(), process, owner, now, jobs: Vec::new() }
    }

    /// When the next thing happens on its own, if anything is under way.
    pub fn next_due(&self) -> Option<Mono> {
        let due = |job: &Job| match job.state {
            State::Asked(request) => self.db.due(request),
            State::Resting(until) => until,
        };
        self.jobs.iter().map(due).min()
    }

    /// Lets everything happen that is due by `now`, in order, and answers it.
    pub fn complete_until(&mut self, now: Mono) {
        while let Some(due) = self.next_due().filter(|due| *due <= now) {
            self.now = self.now.max(due);
            let ready = |job: &Job| match job.state {
                State::Asked(request) => self.db.due(request) <= due,
                State::Resting(until) => until <= due,
            };
            let i = self.jobs.iter().position(ready).expect("something is due");
            let job = self.jobs.remove(i);
            self.step(job);
        }
        self.now = self.now.max(now);
    }

    fn step(&mut self, mut job: Job) {
        let State::Asked(request) = job.state else {
            let Work::Dead(attempt, _) = &job.work else { unreachable!("only updates rest") };
            let ask = Ask::Update(attempt.update.clone());
            job.state = State::Asked(self.db.ask(self.process, self.now, ask));
            return self.jobs.push(job);
        };
        let say = self.db.answer(request, self.now).expect("its time has come");
        match (job.work, say) {
            (Work::Beat(done), Say::Done) => done(Ok(())),
            (Work::Beat(done), Say::Nothing(e) | Say::Lost(e)) => done(Err(e)),
            (Work::Table(done), Say::Table(table)) => done(Ok(table)),
            (Work::Table(done), Say::Nothing(e) | Say::Lost(e)) => done(Err(e)),
            (Work::Head(done), Say::Head(row)) => done(Ok(row)),
            (Work::Head(done), Say::Nothing(e) | Say::Lost(e)) => done(Err(e)),
            (Work::Dead(mut attempt, done), say) => {
                match attempt.on_tried(self.now, super::lane::tried(say)) {
                    Next::Answer(answer) => done(answer),
                    Next::Again => {
                        let until = self.now + pause(&self.db);
                        let work = Work::Dead(attempt, done);
                        self.jobs.push(Job { state: State::Resting(until), work });
                    }
                }
            }
            (_, say) => unreachable!("an answer of another kind: {say:?}"),
        }
    }

    fn send(&mut self, ask: Ask, work: Work) {
        let state = State::Asked(self.db.ask(self.process, self.now, ask));
        self.jobs.push(Job { state, work });
    }
}

/// How long a request that came to nothing rests before it is sent again.
pub(super) fn pause(db: &SharedDb) -> Span {
    Span::millis(50 + db.draw(200))
}

impl SharedStore for SimShared {
    type Lane = SimLane;

    fn beat(&mut self, number: u64, done: Done<Result<(), StoreError>>) {
        self.send(Ask::Beat(self.owner.incarnation, number), Work::Beat(done));
    }

    fn table(&mut self, done: Done<Result<Table, StoreError>>) {
        self.send(Ask::Table, Work::Table(done));
    }

    fn head(&mut self, lane: LaneId, done: Done<Result<Option<LaneRow>, StoreError>>) {
        self.send(Ask::Head(lane), Work::Head(done));
    }

    fn declare_dead(
        &mut self,
        lane: LaneId,
        owner: Incarnation,
        epoch: Epoch,
        done: Done<Changed>,
    ) {
        let update = Update { lane, owner, epoch, number: None, set: Set::Dead };
        let attempt = Attempt::new(update.clone(), self.now);
        self.send(Ask::Update(update), Work::Dead(attempt, done));
    }

    fn lane(&mut self, lane: LaneId, from: Option<(Incarnation, Epoch)>) -> SimLane {
        SimLane::new(&self.db, self.process, self.owner.clone(), lane, from, self.now)
    }
}

impl Drop for SimShared {
    fn drop(&mut self) {
        for job in &self.jobs {
            if let State::Asked(request) = job.state {
                self.db.forget(request);
            }
        }
    }
}
