//! The same core over the same calls: what was recorded happens again, and is compared with what
//! the recording says came of it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::read::{BadRecording, Gathering, Read, Reader};
use super::tape::{Event, SegmentHead, Step, hash_effects};
use crate::core::Core;
use crate::effect::{Effects, Record};
use crate::ids::{LinkId, RecordNumber};
use crate::input::Input;
use crate::limits::Limits;
use crate::names::Name;
use crate::object::Hash16;
use crate::time::Now;

/// A recording on its way through a core.
#[derive(Debug)]
pub struct Replay {
    reader: Reader,
    /// None until the first whole snapshot, and behind a gap until the next one.
    core: Option<Core>,
    head: Option<SegmentHead>,
    last: Now,
    calls: u64,
    what_if: Option<WhatIf>,
    playing: Option<Playing>,
    scratch: Vec<u8>,
}

/// What a replay with other limits keeps of its own: its records are not the recorded ones.
#[derive(Debug)]
struct WhatIf {
    taken: VecDeque<RecordNumber>,
}

/// The call that a replay is at: what to tell of one that panics.
#[derive(Clone, Debug)]
pub struct Playing {
    /// Its number in the unbroken recording.
    pub number: u64,
    /// Its time.
    pub now: Now,
    /// The input; none when a record was asked for.
    pub input: Option<Input>,
    /// The recording ends in the middle of it, as it does where a node panicked.
    pub unfinished: bool,
}

/// What a replay comes by.
#[derive(Debug)]
pub enum Played {
    /// A part of the recording begins.
    Segment(SegmentHead),
    /// From here on there is a core: the first snapshot of an unbroken stretch.
    Begun(Now),
    /// A later snapshot: whether the replayed core's whole state is equal to it. `None` with other
    /// limits, and when the recording ends before the snapshot is whole.
    Compared(Option<bool>),
    /// A call.
    Call(Box<PlayedCall>),
}

/// One call of core, again.
#[derive(Debug)]
pub struct PlayedCall {
    /// Its number in the unbroken recording.
    pub number: u64,
    /// Its time.
    pub now: Now,
    /// The input; none when a record was asked for.
    pub input: Option<Input>,
    /// What came of it.
    pub effects: Effects,
    /// The record that was taken.
    pub record: Option<Record>,
    /// How that compares with the recording.
    pub agreement: Agreement,
}

/// How a call compares with what was recorded of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// The same, byte for byte.
    Same,
    /// Something else came of it.
    Differs,
    /// The recording ends in the middle of this call: the node stopped there.
    Unfinished,
    /// With other limits this call has no meaning, so it was left out.
    LeftOut,
}

/// What was recorded of a call.
enum Recorded {
    Quiet,
    Outcome(u32, u64),
    Taken(RecordNumber, u32, u64, Hash16),
    Nothing,
}

impl Replay {
    /// Begins a replay of a recording that `program` has written: version and commit.
    pub fn new(recording: Bytes, program: &str) -> Self {
        Self {
            reader: Reader::new(recording, program),
            core: None,
            head: None,
            last: Now::default(),
            calls: 0,
            what_if: None,
            playing: None,
            scratch: Vec::new(),
        }
    }

    /// The next thing in it; `None` at the end.
    ///
    /// # Errors
    ///
    /// Fails where the recording cannot be read on. All before it has been replayed.
    ///
    /// # Panics
    ///
    /// Panics where the recorded core did.
    pub fn play_next(&mut self) -> Result<Option<Played>, BadRecording> {
        loop {
            let Some(read) = self.reader.next_event()? else { return Ok(None) };
            let event = match read {
                Read::Segment(head) => {
                    self.enter(&head);
                    return Ok(Some(Played::Segment(head)));
                }
                Read::Event(event) => event,
            };
            let played = match event {
                Event::Snapshot(head) => self.meet_snapshot(head)?,
                Event::Handle(step, input) => self.call(step, Some(*input))?,
                Event::Loaded(step, number, record) => {
                    let record = record.restore();
                    let record = record.ok_or_else(|| self.reader.damaged("a record"))?;
                    self.call(step, Some(Input::Loaded(number, record)))?
                }
                Event::Take(step) => self.call(step, None)?,
                Event::Slices(_) | Event::Whole => None,
                // What became of a call of the segment before, which is not here.
                Event::Quiet | Event::Outcome(..) | Event::Taken(..) if self.core.is_none() => None,
                Event::Quiet | Event::Outcome(..) | Event::Taken(..) => {
                    return Err(self.reader.damaged("a call before its outcome"));
                }
            };
            if played.is_some() {
                return Ok(played);
            }
        }
    }

    /// From here on it is told what would have been with other limits. Behind
    /// [`Played::Begun`] only; later snapshots are not looked at any more.
    ///
    /// # Panics
    ///
    /// Panics before there is a core.
    pub fn set_limits(&mut self, limits: Limits) {
        let core = self.core.as_mut().expect("limits are set where a core begins");
        core.limits = limits;
        self.what_if = Some(WhatIf { taken: core.lane.taken().collect() });
    }

    /// The limits of the core, where there is one.
    pub fn limits(&self) -> Option<&Limits> {
        self.core.as_ref().map(|core| &core.limits)
    }

    /// The call that was begun last.
    pub fn playing(&self) -> Option<&Playing> {
        self.playing.as_ref()
    }

    /// The name of the node at the other end of a link, if it is known.
    pub fn peer(&self, link: LinkId) -> Option<&Name> {
        self.core.as_ref()?.peer_of(link)
    }

    /// The core, where there is one.
    pub fn core(&self) -> Option<&Core> {
        self.core.as_ref()
    }

    /// A segment that does not follow the one before starts anew.
    fn enter(&mut self, head: &SegmentHead) {
        let follows = self.head.as_ref().is_some_and(|before| {
            let number = before.number + 1;
            *head == SegmentHead { number, calls: self.calls, ..before.clone() }
        });
        if !follows {
            self.core = None;
        }
        self.calls = head.calls;
        self.last = Now::default();
        self.head = Some(head.clone());
    }

    fn meet_snapshot(&mut self, head: Bytes) -> Result<Option<Played>, BadRecording> {
        if self.what_if.is_some() && self.core.is_some() {
            return Ok(Some(Played::Compared(None)));
        }
        let Some(snapshot) = self.gather(head)? else {
            return Ok(self.core.is_some().then_some(Played::Compared(None)));
        };
        let mut recorded = snapshot.core()?;
        if let Some(core) = &mut self.core {
            return Ok(Some(Played::Compared(Some(core.state() == recorded.state()))));
        }
        let now = recorded.now;
        self.core = Some(recorded);
        Ok(Some(Played::Begun(now)))
    }

    /// The snapshot that begins here, if it becomes whole: its slices stand between later calls.
    fn gather(&self, head: Bytes) -> Result<Option<Gathering>, BadRecording> {
        let mut ahead = self.reader.clone();
        let mut snapshot = Gathering::new(head);
        while let Some(read) = ahead.next_event()? {
            match read {
                Read::Event(Event::Slices(slices)) => snapshot.add(slices),
                Read::Event(Event::Whole) => return Ok(Some(snapshot)),
                Read::Event(Event::Snapshot(_)) => return Ok(None),
                Read::Event(_) | Read::Segment(_) => {}
            }
        }
        Ok(None)
    }

    fn call(&mut self, step: Step, input: Option<Input>) -> Result<Option<Played>, BadRecording> {
        let now = step.from(self.last);
        self.last = now;
        let number = self.calls;
        self.calls += 1;
        let recorded = self.recorded()?;
        let Some(core) = &mut self.core else { return Ok(None) };
        let unfinished = matches!(recorded, Recorded::Nothing);
        let told = input.clone();
        self.playing = Some(Playing { number, now, input: input.clone(), unfinished });
        let (effects, record, agreement) = match (input, &mut self.what_if) {
            (Some(input), None) => {
                let (effects, same) = handle(core, now, input, recorded, &mut self.scratch);
                (effects, None, same)
            }
            (None, None) => {
                let (record, same) = take(core, now, &recorded);
                (Effects::new(), record, same)
            }
            (Some(Input::Committed(_)), Some(what_if)) => match what_if.taken.pop_front() {
                Some(number) => {
                    let input = Input::Committed(number);
                    let (effects, same) = handle(core, now, input, recorded, &mut self.scratch);
                    (effects, None, same)
                }
                None => (Effects::new(), None, Agreement::LeftOut),
            },
            (Some(input), Some(_)) => {
                let (effects, same) = handle(core, now, input, recorded, &mut self.scratch);
                (effects, None, same)
            }
            (None, Some(what_if)) if what_if.taken.is_empty() => {
                let (record, same) = take(core, now, &recorded);
                what_if.taken.extend(record.as_ref().map(|r| r.number));
                (Effects::new(), record, same)
            }
            (None, Some(_)) => (Effects::new(), None, Agreement::LeftOut),
        };
        let call = PlayedCall { number, now, input: told, effects, record, agreement };
        Ok(Some(Played::Call(Box::new(call))))
    }

    /// What the recording says of the call before.
    fn recorded(&mut self) -> Result<Recorded, BadRecording> {
        let mut ahead = self.reader.clone();
        let Some(Read::Event(event)) = ahead.next_event()? else { return Ok(Recorded::Nothing) };
        let recorded = match event {
            Event::Quiet => Recorded::Quiet,
            Event::Outcome(count, hash) => Recorded::Outcome(count, hash),
            Event::Taken(number, bytes, print, hash) => Recorded::Taken(number, bytes, print, hash),
            _ => return Ok(Recorded::Nothing),
        };
        self.reader = ahead;
        Ok(recorded)
    }
}

fn handle(
    core: &mut Core,
    now: Now,
    input: Input,
    recorded: Recorded,
    scratch: &mut Vec<u8>,
) -> (Effects, Agreement) {
    let expected = match recorded {
        Recorded::Outcome(count, hash) => Some((count as usize, hash)),
        Recorded::Quiet | Recorded::Taken(..) => Some((0, 0)),
        Recorded::Nothing => None,
    };
    let mut effects = Effects::new();
    core.handle(now, input, &mut effects);
    let agreement = match expected {
        None => Agreement::Unfinished,
        Some((0, _)) if effects.is_empty() => Agreement::Same,
        Some((count, hash)) => {
            let same = count == effects.len() && hash == hash_effects(&effects, scratch);
            if same { Agreement::Same } else { Agreement::Differs }
        }
    };
    (effects, agreement)
}

fn take(core: &mut Core, now: Now, recorded: &Recorded) -> (Option<Record>, Agreement) {
    let record = core.take_record(now);
    let same = match (&record, recorded) {
        (_, Recorded::Nothing) => return (record, Agreement::Unfinished),
        (None, Recorded::Quiet) => true,
        (Some(record), Recorded::Taken(number, bytes, print, hash)) => {
            // The record's own hash covers what clients carry, which is not here.
            core.lane.set_last_hash(*hash);
            record.number == *number
                && record.bytes.len() == *bytes as usize
                && record.fingerprint() == *print
        }
        _ => false,
    };
    (record, if same { Agreement::Same } else { Agreement::Differs })
}
