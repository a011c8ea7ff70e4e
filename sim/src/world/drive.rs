//! The driver of a simulated process: feed one input, perform the effects in order, hold what waits
//! for a commit, and give the store the next record when it has none.

use dpc_core::effect::LeaseEnd;
use dpc_core::ids::RecordNumber;
use dpc_core::message::Message;
use dpc_core::store::{Appended, Store, StoreError};
use dpc_core::{Effect, Effects, Input, Mono, Record, Span};

use super::life::{Answered, Power};
use super::{CrashPoint, Event, World};

impl World {
    /// Performs effects in order; those that wait for a commit go into the gate.
    pub(crate) fn perform(&mut self, node: usize, mut fx: Effects) {
        for effect in fx.drain(..) {
            if self.trace.is_on() {
                let line = self.effect_line(node, &effect);
                self.trace.effect(line);
            }
            let Some(life) = self.nodes[node].life.as_mut() else { return };
            match &effect {
                Effect::Reply { after: Some(n), .. } | Effect::Send { after: Some(n), .. }
                    if *n > life.committed =>
                {
                    let n = *n;
                    life.gate.push_back((n, effect));
                }
                _ => self.do_now(node, effect),
            }
        }
        self.spare.push(fx);
    }

    fn do_now(&mut self, node: usize, effect: Effect) {
        self.witness(node, &effect);
        let lane = self.nodes[node].lane;
        match effect {
            Effect::Reply { to, answer, .. } => self.on_answer(node, to, answer),
            Effect::Deliver(session, delivery) => {
                if !self.is_stale(node, delivery.epoch) {
                    self.check_delivery(node, Some(session), &delivery);
                }
                self.on_delivery(node, session, delivery);
            }
            Effect::LeaseEnded { session, lease, reason } => {
                match reason {
                    LeaseEnd::Expired => self.checks.p05_expired(lane, lease, self.now),
                    LeaseEnd::Discarded => self.checks.p05_ended(lane, lease),
                }
                self.on_lease_ended(node, session, lease, reason);
            }
            Effect::Send { link, message, .. } => self.send(node, link, *message),
            Effect::CloseLink { link, redial, .. } => self.close_link(node, link, redial),
            Effect::Load(number) => self.read_record(node, number),
            Effect::LookUp { part, id } => {
                let index = &self.nodes[node].index;
                // A real one refuses, and the part's records are read: that is for what it has lost.
                let ids = &index.get(&part).expect("core asks only for parts that are kept").ids;
                let at = ids.binary_search_by_key(&id, |(id, _)| *id);
                let loc = at.ok().map(|at| ids[at].1);
                self.coverage.add("id looked up in the index");
                // The answer comes as an input of its own, after the effects at hand.
                self.after(
                    Span::ZERO,
                    Event::LookedUp { node, life: self.nodes[node].lives, part, id, loc },
                );
            }
            Effect::IndexPart(part) => {
                self.coverage.add("part of the log finished");
                self.nodes[node].index.insert(part.part, part.sorted());
            }
            Effect::Truncate { below, part } => {
                self.coverage.add("log truncated");
                self.nodes[node].index.retain(|n, _| *n >= part);
                let life = self.nodes[node].life.as_mut().expect("it runs");
                life.store.complete_until(self.now);
                let to = life.said.clone();
                let said = move |answer| {
                    to.lock().expect("one thread").push_back(Answered::Truncated(answer));
                };
                life.store.truncate(below, Box::new(said));
            }
            Effect::Note(note) => self.coverage.note(&note),
            Effect::Renew => self.nodes[node].life.as_mut().expect("it runs").renew = true,
            Effect::Retire => self.nodes[node].life.as_mut().expect("it runs").retire = true,
            Effect::Fenced(epoch) if self.shared.is_some() => self.on_fenced(node, epoch),
            Effect::Fenced(epoch) => {
                let lane = self.nodes[node].lane;
                let owns = |n: &super::Node| {
                    n.lane == lane && n.life.as_ref().is_some_and(|l| l.epoch >= epoch)
                };
                if !self.nodes.iter().any(owns) {
                    let name = self.nodes[node].name.clone();
                    self.checks.fail("R1", format!("{name} is fenced by epoch {epoch} of nobody"));
                }
                self.kill(node, Power::Stays);
            }
            Effect::Stop(why) => {
                self.checks.fail("P16", format!("{} stopped: {why}", self.nodes[node].name));
                self.kill(node, Power::Stays);
            }
        }
    }

    fn read_record(&mut self, node: usize, number: RecordNumber) {
        let now = self.now;
        self.coverage.add("record loaded from disk");
        let life = self.nodes[node].life.as_mut().expect("it runs");
        life.store.complete_until(now);
        let to = life.said.clone();
        let said = move |answer| to.lock().expect("one thread").push_back(Answered::Read(answer));
        life.store.read(number, 1, Box::new(said));
    }

    /// Gives the store the next record if it has none, hands on what it has said, and sets the
    /// alarm clocks.
    pub(crate) fn pump(&mut self, node: usize) {
        let now = self.now_of(node);
        let Some(life) = self.nodes[node].life.as_mut() else { return };
        life.store.complete_until(now.mono);
        while let Some(record) = self.nodes[node].life.as_mut().and_then(|l| l.take_record(now)) {
            if self.dies_at(node, CrashPoint::BeforeAppend) {
                return;
            }
            self.append(node, record);
        }
        self.pump_head(node);
        self.arm(node);
    }

    /// Gives the store a record.
    fn append(&mut self, node: usize, record: Record) {
        let life = self.nodes[node].life.as_mut().expect("it lives on");
        self.coverage.add_if("several records on their way together", !life.appending.is_empty());
        life.appending.push_back((record.number, record.bytes.clone()));
        life.renew = false;
        let to = life.said.clone();
        let number = record.number;
        let said = move |answer| {
            to.lock().expect("one thread").push_back(Answered::Appended(number, answer));
        };
        life.store.append(life.epoch, record.number, record.bytes.clone(), Box::new(said));
        if self.trace.is_on() || self.trace.is_witnessed() {
            let line = self.record_line(record.number, &record.bytes);
            let text = line.clone().unwrap_or_default();
            self.trace.saw(self.now, &self.nodes[node].name, "writes", &|| text.clone());
            if self.trace.is_on() {
                self.trace.effect(line);
            }
        }
    }

    fn arm(&mut self, node: usize) {
        let lives = self.nodes[node].lives;
        let life = self.nodes[node].life.as_mut().expect("the caller has it");
        let earlier = |set: Option<Mono>, at: Mono| set.is_none_or(|set| at < set);
        let said = !life.said.lock().expect("one thread").is_empty();
        let due = if said { Some(self.now) } else { life.store.next_due() };
        let store_at = due.filter(|at| earlier(life.store_at, *at));
        if let Some(at) = store_at {
            life.store_at = Some(at);
        }
        let wake = life.core.next_wake().map(|w| w.at.max(self.now));
        let wake_at = wake.filter(|at| earlier(life.wake_at, *at));
        if let Some(at) = wake_at {
            life.wake_at = Some(at);
        }
        if let Some(at) = store_at {
            self.at(at, Event::Store { node, life: lives });
        }
        if let Some(at) = wake_at {
            self.at(at, Event::Wake { node, life: lives });
        }
    }

    pub(crate) fn is_life(&self, node: usize, life: u64) -> bool {
        self.nodes[node].lives == life && self.nodes[node].life.is_some()
    }

    pub(crate) fn on_wake(&mut self, node: usize, life: u64) {
        if !self.is_life(node, life) {
            return;
        }
        let l = self.nodes[node].life.as_mut().expect("just checked");
        if l.wake_at.is_none_or(|at| at > self.now) {
            return; // An earlier one was set after it, and has taken its place.
        }
        l.wake_at = None;
        match l.core.next_wake() {
            Some(wake) if wake.at <= self.now => {
                if self.trace.is_on() {
                    let line = format!("{} . {}", self.nodes[node].name, wake.why);
                    self.trace.input(self.now, line);
                }
                self.feed(node, Input::Wake);
            }
            _ => self.arm(node),
        }
    }

    pub(crate) fn on_store(&mut self, node: usize, life: u64) {
        if !self.is_life(node, life) {
            return;
        }
        let now = self.now;
        let l = self.nodes[node].life.as_mut().expect("just checked");
        if l.store_at.is_none_or(|at| at > now) {
            return; // An earlier one was set after it, and has taken its place.
        }
        l.store_at = None;
        l.store.complete_until(now);
        loop {
            let Some(l) = self.nodes[node].life.as_mut() else { return };
            let Some(answer) = l.said.lock().expect("one thread").pop_front() else { break };
            self.on_store_answer(node, answer);
        }
        self.pump(node);
    }

    fn on_store_answer(&mut self, node: usize, answer: Answered) {
        match answer {
            Answered::Appended(number, Appended::Committed) => {
                if !self.dies_at(node, CrashPoint::AfterAppend) {
                    self.on_committed(node, number);
                }
            }
            Answered::Appended(_, Appended::DefinitelyNot(StoreError::Fenced { epoch })) => {
                self.feed(node, Input::Fenced(epoch));
            }
            Answered::Head { retired, answer } => self.on_head_answer(node, retired, answer),
            Answered::Appended(number, Appended::DefinitelyNot(e) | Appended::Unknown(e)) => {
                // After a failed write the process ends; it never tries again.
                self.coverage.add("stopped by its store");
                let name = self.nodes[node].name.clone();
                self.trace.saw(self.now, &name, "stops", &|| e.to_string());
                self.trace.headline(self.now, &format!("{name}: record {number}: {e}"));
                self.kill(node, Power::Stays);
            }
            Answered::Read(Ok(records)) => {
                let Some((number, bytes)) = records.into_iter().next() else {
                    return self
                        .checks
                        .fail("P16", "a record was asked for that is not there".into());
                };
                if self.trace.is_on() {
                    let line = format!("{} < record #{number} read", self.nodes[node].name);
                    self.trace.input(self.now, line);
                }
                let lane = self.nodes[node].lane;
                self.checks.p16_served(lane, number, &bytes);
                self.feed(node, Input::Loaded(number, bytes));
            }
            Answered::Read(Err(StoreError::Fenced { epoch })) => {
                self.coverage.add("a successor had forgotten a record");
                self.feed(node, Input::Fenced(epoch));
            }
            Answered::Read(Err(error)) => self.on_bad_read(node, &error),
            Answered::Truncated(Ok(())) => {}
            Answered::Truncated(Err(StoreError::Fenced { epoch })) => {
                self.feed(node, Input::Fenced(epoch));
            }
            Answered::Truncated(Err(StoreError::Io(_))) if self.shared.is_some() => {
                self.coverage.add("stopped by its store");
                self.kill(node, Power::Stays);
            }
            Answered::Truncated(Err(error)) => {
                self.checks.fail("R8", format!("a truncation was refused: {error}"));
            }
            Answered::Claimed(_) => unreachable!("claims are answered before the start"),
        }
    }

    fn on_head_answer(&mut self, node: usize, retired: bool, answer: Appended) {
        self.nodes[node].life.as_mut().expect("it has asked").head_asked = false;
        match answer {
            Appended::Committed if retired => self.on_retired(node),
            Appended::Committed => self.feed(node, Input::Renewed),
            Appended::DefinitelyNot(StoreError::Fenced { epoch }) => {
                self.feed(node, Input::Fenced(epoch));
            }
            Appended::DefinitelyNot(_) | Appended::Unknown(_) => {
                self.coverage.add("stopped by its store");
                self.kill(node, Power::Stays);
            }
        }
    }

    /// A process that cannot read its log ends.
    fn on_bad_read(&mut self, node: usize, error: &StoreError) {
        let name = self.nodes[node].name.clone();
        if let StoreError::Io(_) = error {
            self.coverage.add("stopped by a read");
            self.trace.headline(self.now, &format!("{name}: {error}"));
            return self.kill(node, Power::Stays);
        }
        let (lane, damaged) = (self.nodes[node].lane, self.nodes[node].disk.damaged());
        self.checks.p16_refused(lane, error, &damaged);
        self.coverage.add("damage found by a read");
        self.trace.headline(self.now, &format!("{name} stops: {error}"));
        self.kill(node, Power::Stays);
        self.nodes[node].refused = true;
    }

    /// A record is durable: the checkers see it first, then the core, then those who waited.
    fn on_committed(&mut self, node: usize, number: RecordNumber) {
        let lane = self.nodes[node].lane;
        let life = self.nodes[node].life.as_mut().expect("it has just answered");
        let (appended, bytes) = life.appending.pop_front().expect("a record is on its way");
        assert_eq!(appended, number, "the store answers in order");
        life.committed = number;
        self.checks.on_committed(lane, number, &bytes, &mut self.coverage);
        if self.trace.is_on() {
            let line = format!("{} < #{number} is durable", self.nodes[node].name);
            self.trace.input(self.now, line);
        }
        let now = self.now_of(node);
        let life = self.nodes[node].life.as_mut().expect("nothing has ended it");
        let mut fx = self.spare.pop().unwrap_or_default();
        life.handle(now, Input::Committed(number), &mut fx);
        if self.dies_at(node, CrashPoint::AfterCommit) {
            return;
        }
        while let Some(life) = self.nodes[node].life.as_mut()
            && life.gate.front().is_some_and(|(n, _)| *n <= number)
        {
            let (_, effect) = life.gate.pop_front().expect("just seen");
            if self.trace.is_on() {
                let line = self.released_line(node, &effect);
                self.trace.effect(line);
            }
            self.do_now(node, effect);
            if self.dies_at(node, CrashPoint::AmidEffects) {
                return;
            }
        }
        if self.nodes[node].life.is_some() {
            self.perform(node, fx);
            self.pump(node);
        }
    }

    pub(crate) fn count_message(&mut self, message: &Message) {
        self.coverage.message(message);
        self.checks.p10_offered(message);
        self.traffic.count(message);
    }
}
