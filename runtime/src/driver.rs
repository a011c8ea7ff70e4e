//! The driver: waits, feeds core one input after the other, performs what follows, and hands the
//! store one record at a time. It decides nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dpc_core::effect::{Answer, Effect};
use dpc_core::ids::{Epoch, Loc, ObjectId, RecordNumber};
use dpc_core::shared::{InboxRow, SharedLane};
use dpc_core::store::{Appended, Claimed, READ_BYTES_MAX, StoreError};
use dpc_core::time::{Mono, Now, Span};
use dpc_core::{Core, Effects, Input};
use tokio::sync::{mpsc, watch};

use crate::edge::Index;
use crate::followed::{Followed, LastHistory};
use crate::gate::Gate;
use crate::history::{History, Report};
use crate::observe;
use crate::recorder::Recorder;
use crate::service::{Batch, Hub, Latest, OF_INBOX};
use crate::unread::UnreadParts;
use crate::wake::WakeTimer;

mod ids;

/// Inputs that are handled before the transport gets its turn.
const TURN_INPUTS_MAX: usize = 1_024;

/// How often the disk's room and the lanes in doubt are looked at, while anything happens at all.
const LOOK_EVERY: Span = Span::secs(1);

/// How long the last records may take when the node stops.
const LAST_RECORDS: Duration = Duration::from_secs(10);

/// What the edges behind core have done.
pub(crate) enum Completed {
    /// The store's answer to the oldest record in flight.
    Appended(Appended),
    /// A record that core asked for.
    Read(RecordNumber, Result<Vec<(RecordNumber, Bytes)>, StoreError>),
    /// Records of a part of the log whose ids are wanted.
    Unread(u64, Result<Vec<(RecordNumber, Bytes)>, StoreError>),
    /// An id that core asked for.
    LookedUp(u64, ObjectId, Result<Option<Loc>, StoreError>),
    /// The history has something to say.
    History(Report),
    /// The history that is kept when the lane ends is open, or cannot be.
    LastHistory(Result<History, String>),
    /// The log has been cut, or not.
    Truncated(Result<(), StoreError>),
    /// The lane's head was renewed, or the lane retired, or not.
    Head(Appended),
}

/// How much room the disk has, and how much must stay.
pub(crate) struct Disk {
    /// Free bytes, if that can be told.
    pub(crate) free: Box<dyn FnMut() -> Option<u64> + Send>,
    /// Below this, pushes are refused.
    pub(crate) reserve: u64,
}

/// What the driver works with besides core.
pub(crate) struct Edges<S, I> {
    /// The log.
    pub(crate) store: S,
    /// The ids of its finished parts.
    pub(crate) index: I,
    /// Finished parts of the log whose ids are not in the index yet.
    pub(crate) unread: UnreadParts,
    /// What follows the log.
    pub(crate) history: Followed,
    /// The disk under the log.
    pub(crate) disk: Disk,
    /// Where their answers come, and the end that they hold.
    pub(crate) completed: (mpsc::UnboundedSender<Completed>, mpsc::UnboundedReceiver<Completed>),
}

/// See the module.
pub(crate) struct Driver<S, I> {
    core: Core,
    hub: Arc<Hub>,
    inbox: mpsc::UnboundedReceiver<Batch>,
    edges: Edges<S, I>,
    gate: Gate,
    epoch: Epoch,
    first: RecordNumber,
    /// The records in flight, their bytes, and when they left.
    appending: VecDeque<(RecordNumber, Bytes, Mono)>,
    /// Rows of the database's inbox, by the record that holds their objects.
    rows: BTreeMap<RecordNumber, Vec<InboxRow>>,
    head: Head,
    /// Where the history stands.
    history_stands: RecordNumber,
    /// The history of the lane that ends.
    last_history: LastHistory,
    disk_low: bool,
    looked_at: Option<Mono>,
    fx: Effects,
    recorder: Option<Recorder>,
    wake: WakeTimer,
    latest: Latest,
}

/// What is to be done to the lane's head when no record is on its way.
#[derive(Default)]
struct Head {
    renew: bool,
    retire: bool,
    /// The store has been asked, and whether to retire the lane.
    asked: Option<bool>,
}

/// Why a driver ended before it was told to.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Another owner has the lane, with this epoch.
    Fenced(Epoch),
    /// The lane was adopted and is empty.
    Retired,
    /// It cannot go on: the node stops with this message.
    Failed(String),
}

impl From<String> for Halt {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl<S: SharedLane, I: Index> Driver<S, I> {
    /// A driver of a core that has been restored and not started.
    pub(crate) fn new(
        core: Core,
        hub: Arc<Hub>,
        inbox: mpsc::UnboundedReceiver<Batch>,
        edges: Edges<S, I>,
        claimed: &Claimed,
        recorder: Option<Recorder>,
    ) -> Self {
        Self {
            core,
            hub,
            inbox,
            edges,
            gate: Gate::new(claimed.last),
            epoch: claimed.epoch,
            first: claimed.first,
            appending: VecDeque::new(),
            rows: BTreeMap::new(),
            head: Head::default(),
            history_stands: RecordNumber(0),
            last_history: LastHistory::default(),
            disk_low: false,
            looked_at: None,
            fx: Effects::new(),
            recorder,
            wake: WakeTimer::new(),
            latest: Latest::default(),
        }
    }

    /// Runs until `stop` says so, or until the node cannot go on.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), Halt> {
        self.hub.set_last_record(self.gate.committed());
        self.core.start(self.hub.clock.now(), &mut self.fx);
        if let Some(recorder) = &mut self.recorder {
            recorder.begin(&mut self.core);
        }
        self.perform_new()?;
        loop {
            self.look_around()?;
            self.append_next();
            if self.core.owes_effects() {
                self.handle(Input::Wake)?;
            }
            self.hub.fence.set(self.core.deliver_until());
            let wake = self.core.next_wake().map(|wake| self.hub.clock.instant(wake.at));
            tokio::select! {
                biased;
                // Answers of the store come first: others wait for them.
                Some(completed) = self.edges.completed.1.recv() => self.complete(completed)?,
                () = told(&mut stop) => return self.finish().await,
                // It is short, and under load it would never come behind the clients.
                () = asked(&mut self.recorder) => self.serve_recording()?,
                Some(batch) = self.inbox.recv() => self.feed(batch)?,
                () = self.wake.until(wake) => self.handle(Input::Wake)?,
            }
            self.take_queued()?;
        }
    }

    /// Takes what has queued meanwhile, without waiting: the next record holds all of it.
    fn take_queued(&mut self) -> Result<(), Halt> {
        let mut taken = 0;
        while taken < TURN_INPUTS_MAX {
            if let Ok(completed) = self.edges.completed.1.try_recv() {
                self.complete(completed)?;
                taken += 1;
            } else if let Ok(batch) = self.inbox.try_recv() {
                taken += batch.inputs.len();
                self.feed(batch)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    fn feed(&mut self, batch: Batch) -> Result<(), Halt> {
        self.hub.metrics.inputs.add(batch.inputs.len() as u64);
        // They came together.
        let now = self.hub.clock.now();
        batch.inputs.into_iter().try_for_each(|input| {
            self.tell_core(now, input);
            self.perform_new()
        })
    }

    fn handle(&mut self, input: Input) -> Result<(), Halt> {
        self.tell_core(self.hub.clock.now(), input);
        self.perform_new()
    }

    /// Core handles an input, on the record.
    fn tell_core(&mut self, now: Now, input: Input) {
        assert!(self.fx.is_empty(), "what came before has been performed");
        if let Some(recorder) = &mut self.recorder {
            recorder.call(now, &input);
        }
        self.core.handle(now, input, &mut self.fx);
        if let Some(recorder) = &mut self.recorder {
            recorder.outcome(&mut self.core, &self.fx);
        }
    }

    /// Somebody wants the recording. It can begin only when core's effects are out.
    fn serve_recording(&mut self) -> Result<(), Halt> {
        if !self.core.can_be_copied() {
            self.handle(Input::Wake)?;
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.serve(&mut self.core);
        }
        Ok(())
    }

    /// A record is durable: core learns of it, then what waited for it goes, then what follows. Answers to
    /// pushes go last: who gets an object waits for it, who has pushed it goes on pushing.
    fn commit(&mut self, number: RecordNumber, record: Bytes) -> Result<(), Halt> {
        self.hub.set_last_record(number);
        self.tell_core(self.hub.clock.now(), Input::Committed(number));
        let mut due = self.gate.open(number);
        for effect in due.extract_if(.., |effect| !is_answer_to_push(effect)) {
            self.perform(effect)?;
        }
        self.perform_new()?;
        for effect in due.drain(..) {
            self.perform(effect)?;
        }
        self.gate.give_back(due);
        match &self.edges.history {
            Followed::Now(history) => history.feed(number, record),
            Followed::Nothing => self.handle(Input::HistoryStands(number.next()))?,
            Followed::AtTheEnd(_) => self.last_history.missed = Some((number, record)),
        }
        Ok(())
    }

    fn perform_new(&mut self) -> Result<(), Halt> {
        let mut fx = std::mem::take(&mut self.fx);
        for effect in fx.drain(..) {
            self.note_row(&effect);
            if let Some(effect) = self.gate.pass(effect) {
                self.perform(effect)?;
            }
        }
        self.fx = fx;
        Ok(())
    }

    /// An object that came by the database's inbox: its row goes with the record that holds it.
    fn note_row(&mut self, effect: &Effect) {
        if let Effect::Reply { to, answer, after: Some(record) } = effect
            && to.request == OF_INBOX
            && let Answer::Pushed { already: false, .. } = answer
        {
            self.rows.entry(*record).or_default().push(InboxRow(to.seq));
        }
    }

    fn perform(&mut self, effect: Effect) -> Result<(), Halt> {
        match effect {
            // A process that was stopped goes on here: what it has decided before may be too late.
            Effect::Reply { to, answer: Answer::Taken(_), .. } if !self.may_deliver() => {
                self.hub.reply(&mut self.latest, to, Answer::Taken(Vec::new()));
            }
            Effect::Reply { to, answer, .. } => self.hub.reply(&mut self.latest, to, answer),
            Effect::Deliver(..) if !self.may_deliver() => {}
            Effect::Deliver(session, delivery) => {
                self.hub.deliver(&mut self.latest, session, delivery);
            }
            Effect::LeaseEnded { session, lease, reason } => {
                self.hub.lease_ended(&mut self.latest, session, lease, reason);
            }
            Effect::Send { link, message, .. } => self.hub.send(link, *message),
            Effect::CloseLink { link, refusal, redial } => {
                self.hub.links.close(link, refusal, redial);
            }
            Effect::Load(number) => {
                let done = self.done(move |records| Completed::Read(number, records));
                self.edges.store.read(number, 1, done);
            }
            Effect::LookUp { part, id } => self.look_up(part, id),
            Effect::IndexPart(part) => self.edges.index.put(*part),
            Effect::Truncate { below, part } => {
                self.first = below;
                let done = self.done(Completed::Truncated);
                self.edges.store.truncate(below, done);
                self.cut_ids(part);
            }
            Effect::Note(note) => observe::note(&self.hub, &note),
            Effect::Retire => {
                self.head.retire = true;
                self.open_last_history();
            }
            Effect::Renew => self.head.renew = true,
            Effect::Fenced(epoch) => return Err(Halt::Fenced(epoch)),
            Effect::Stop(why) => return Err(why.into()),
        }
        Ok(())
    }

    fn complete(&mut self, completed: Completed) -> Result<(), Halt> {
        match completed {
            Completed::Appended(appended) => {
                let (number, record, since) =
                    self.appending.pop_front().expect("a record is in flight");
                match appended {
                    Appended::Committed => {
                        let took = self.hub.clock.now().mono - since;
                        self.hub.metrics.committed(record.len(), took);
                        self.commit(number, record)
                    }
                    Appended::DefinitelyNot(StoreError::Fenced { epoch }) => {
                        self.handle(Input::Fenced(epoch))
                    }
                    Appended::DefinitelyNot(error) => {
                        Err(format!("record {number} was not written: {error}").into())
                    }
                    Appended::Unknown(error) => Err(format!(
                        "nobody can tell whether record {number} was written: {error}; start the node again to find out"
                    )
                    .into()),
                }
            }
            Completed::Read(number, Ok(mut records)) => {
                let found = records.drain(..).find(|(found, _)| *found == number);
                let (_, record) = found.ok_or_else(|| format!("record {number} is missing"))?;
                self.handle(Input::Loaded(number, record))
            }
            Completed::Unread(part, Ok(records)) => self.take_unread(part, &records),
            Completed::Unread(_, Err(StoreError::Fenced { epoch }))
            | Completed::Read(_, Err(StoreError::Fenced { epoch }))
            | Completed::Truncated(Err(StoreError::Fenced { epoch })) => {
                self.handle(Input::Fenced(epoch))
            }
            // It was cut off while it was read.
            Completed::Unread(part, Err(_)) if !self.edges.unread.has(part) => {
                self.take_unread(part, &[])
            }
            Completed::Unread(part, Err(error)) => {
                Err(format!("the ids of part {part}: {error}").into())
            }
            Completed::Read(number, Err(error)) => Err(format!("record {number}: {error}").into()),
            Completed::LookedUp(part, id, Ok(loc)) => {
                self.handle(Input::LookedUp { part, id, loc })
            }
            Completed::LookedUp(part, id, Err(error)) => {
                self.read_lost(part, id, &error);
                Ok(())
            }
            Completed::History(Report::Stands(number)) => {
                self.history_stands = number;
                self.handle(Input::HistoryStands(number))
            }
            Completed::LastHistory(Ok(history)) => {
                let handle = history.handle();
                self.edges.history = Followed::Now(handle.clone());
                self.last_history.open = Some(history);
                if let Some((number, record)) = self.last_history.missed.take() {
                    handle.feed(number, record);
                }
                if let Some((from, bytes)) = self.last_history.wants.take() {
                    self.read_for_history(from, bytes);
                }
                Ok(())
            }
            Completed::LastHistory(Err(why)) => Err(why.into()),
            Completed::History(Report::Behind(behind)) => {
                observe::history_behind(&self.hub, behind);
                Ok(())
            }
            Completed::History(Report::Wants { from, bytes }) => {
                self.read_for_history(from, bytes);
                Ok(())
            }
            Completed::Truncated(Ok(())) => Ok(()),
            Completed::Truncated(Err(error)) => {
                Err(format!("the log cannot be cut: {error}").into())
            }
            Completed::Head(answer) => self.on_head(answer),
        }
    }

    fn on_head(&mut self, answer: Appended) -> Result<(), Halt> {
        let retired = self.head.asked.take().expect("it was asked for");
        match answer {
            Appended::Committed if retired => Err(Halt::Retired),
            Appended::Committed => self.handle(Input::Renewed),
            Appended::DefinitelyNot(StoreError::Fenced { epoch }) => {
                self.handle(Input::Fenced(epoch))
            }
            Appended::DefinitelyNot(error) | Appended::Unknown(error) => {
                Err(format!("the lane's head cannot be written: {error}").into())
            }
        }
    }

    fn may_deliver(&self) -> bool {
        self.core.deliver_until().is_none_or(|until| self.hub.clock.mono() < until)
    }

    fn read_for_history(&mut self, from: RecordNumber, bytes: usize) {
        let Followed::Now(history) = &self.edges.history else {
            self.last_history.wants = Some((from, bytes));
            return;
        };
        let (history, from) = (history.clone(), from.max(self.first));
        if from > self.gate.committed() {
            return history.pulled(Ok(Vec::new()));
        }
        let done = Box::new(move |records| history.pulled(records));
        self.edges.store.read(from, bytes.min(READ_BYTES_MAX), done);
    }

    /// The lane ends: what ended in it is told elsewhere first.
    fn open_last_history(&mut self) {
        let Followed::AtTheEnd(stories) = &mut self.edges.history else { return };
        let Some(stories) = stories.take() else { return };
        let (lane, last) = (self.hub.identity.lane, self.gate.committed());
        let (now, completed) = (self.hub.clock.now().wall, self.edges.completed.0.clone());
        let reports = completed.clone();
        self.last_history.opening.spawn(async move {
            // The driver has ended: nobody waits for reports.
            let report = move |report| drop(reports.send(Completed::History(report)));
            let opened = stories.open(lane, last, now, Box::new(report)).await;
            drop(completed.send(Completed::LastHistory(opened)));
        });
    }

    /// Whether what ended in the lane is told elsewhere, or by nobody.
    fn is_told(&self) -> bool {
        match &self.edges.history {
            Followed::Nothing => true,
            Followed::Now(_) => self.history_stands > self.gate.committed(),
            Followed::AtTheEnd(_) => false,
        }
    }

    /// Hands the store the next records: one if none is in flight and somebody waits for it, and full
    /// ones as long as the store takes more. What is not full gathers meanwhile.
    fn append_next(&mut self) {
        let most = self.edges.store.appends_max();
        while self.head.asked.is_none() && self.core.may_append(self.appending.len(), most) {
            if !self.append_one() {
                return;
            }
        }
    }

    /// Hands the store one record, if there is one to take. Else the head's turn has come.
    fn append_one(&mut self) -> bool {
        let now = self.hub.clock.now();
        let record = self.core.take_record(now);
        if let Some(recorder) = &mut self.recorder {
            recorder.take(now, record.as_ref());
        }
        let Some(record) = record else {
            if self.appending.is_empty() {
                self.ask_head();
            }
            return false;
        };
        // It proves as much as a renewal.
        self.head.renew = false;
        let done = self.done(Completed::Appended);
        let rows = self.rows.remove(&record.number).unwrap_or_default();
        let missed = self.rows.first_key_value().is_some_and(|(first, _)| *first < record.number);
        assert!(!missed, "a row is noted before its record leaves");
        let bytes = record.bytes.clone();
        self.edges.store.append_taking(self.epoch, record.number, bytes, rows, done);
        self.appending.push_back((record.number, record.bytes, now.mono));
        true
    }

    /// Renews the head, or ends the lane, if that is asked for.
    fn ask_head(&mut self) {
        let retire = self.head.retire && self.is_told();
        if !self.head.renew && !retire {
            return;
        }
        self.head = Head { renew: false, retire: self.head.retire && !retire, asked: None };
        let done = self.done(Completed::Head);
        self.head.asked = Some(retire);
        if retire {
            self.edges.store.retire(self.epoch, done);
        } else {
            self.edges.store.renew(self.epoch, done);
        }
    }

    /// What is looked at now and then, while anything happens at all.
    fn look_around(&mut self) -> Result<(), Halt> {
        let now = self.hub.clock.now().mono;
        if self.looked_at.is_some_and(|at| now - at < LOOK_EVERY) {
            return Ok(());
        }
        self.looked_at = Some(now);
        if self.core.deliver_until().is_some() {
            self.hub.set_doubts(self.core.lanes_in_doubt());
        }
        let Some(free) = (self.edges.disk.free)() else { return Ok(()) };
        let low = free < self.edges.disk.reserve;
        if low == self.disk_low {
            return Ok(());
        }
        self.disk_low = low;
        observe::disk(&self.hub, low, free);
        self.handle(Input::Disk { low })
    }

    /// Makes durable what has been taken, so that its answers go out.
    async fn finish(mut self) -> Result<(), Halt> {
        let last = async {
            self.take_queued()?;
            self.append_next();
            while !self.appending.is_empty() || self.head.asked.is_some() {
                let completed = self.edges.completed.1.recv().await;
                self.complete(completed.expect("this end is held here, too"))?;
                self.append_next();
            }
            Ok(())
        };
        match tokio::time::timeout(LAST_RECORDS, last).await {
            Ok(result) => result,
            Err(_) => Err(Halt::Failed(
                "the store did not answer in time while the node stopped".to_owned(),
            )),
        }
    }

    /// A callback that brings an answer back into the loop.
    fn done<T: Send + 'static>(
        &self,
        completed: impl FnOnce(T) -> Completed + Send + 'static,
    ) -> Box<dyn FnOnce(T) + Send> {
        let sender = self.edges.completed.0.clone();
        Box::new(move |answer| {
            // The driver has ended: nobody waits for the answer.
            let _ended = sender.send(completed(answer));
        })
    }
}

async fn asked(recorder: &mut Option<Recorder>) {
    match recorder {
        Some(recorder) => recorder.asked().await,
        None => std::future::pending().await,
    }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    // Whoever could say stop and is gone has no use for an answer either.
    let _gone = stop.wait_for(|stop| *stop).await;
}

fn is_answer_to_push(effect: &Effect) -> bool {
    matches!(effect, Effect::Reply { answer: Answer::Pushed { .. }, .. })
}
