//! `dpc sim replay`: a recorded node does everything again, here.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use dpc_core::Limits;
use dpc_core::ids::{LinkId, ObjectId};
use dpc_core::message::short_id;
use dpc_core::names::Name;
use dpc_core::recording::{Agreement, BadRecording, Played, PlayedCall, Replay, SegmentHead};
use serde::Serialize;
use sim::replay::{Told, decisions, tell};

use crate::cli::VERSION;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::config::Sources;
use crate::embedded;

/// Replays a recording.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The file: of `dpc record dump`, or one that a node kept of a panic.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What if this limit had been another: limits.max_hops=2.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print calls without consequences, too.
    #[arg(long)]
    all: bool,
    /// Print only what names this object.
    #[arg(long, value_name = "ID")]
    object: Option<ObjectId>,
    /// Print only the last N calls.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
}

/// One call in JSON.
#[derive(Serialize)]
struct ShownCall {
    call: u64,
    at: f64,
    input: String,
    effects: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    decisions: Vec<ShownDecision>,
    same: bool,
}

/// A decision in JSON, as `dpc object trace` has it.
#[derive(Serialize)]
struct ShownDecision {
    objects: Vec<String>,
    lane_number: u64,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Option<String>,
    candidates: Vec<ShownCandidate>,
}

#[derive(Serialize)]
struct ShownCandidate {
    who: String,
    refused: &'static str,
}

/// What came of it all.
#[derive(Default, Serialize)]
struct Summary {
    event: &'static str,
    node: String,
    calls: u64,
    effects: u64,
    records: u64,
    /// Later snapshots in the recording that were compared with the replayed core.
    compared: u64,
    /// Calls that differ from the recording.
    different: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_difference: Option<u64>,
    /// The words of the panic that ended the recorded node, if it happened again.
    #[serde(skip_serializing_if = "Option::is_none")]
    panicked: Option<String>,
}

/// A replay and what is printed of it.
struct Show<'a> {
    args: &'a ReplayArgs,
    output: &'a mut Output,
    held: VecDeque<Line>,
    summary: Summary,
    what_if: bool,
}

struct Line {
    text: String,
    json: ShownCall,
}

pub(crate) fn run(args: &ReplayArgs, output: &mut Output) -> Result<Exit, Failure> {
    let file = args.file.display();
    let bytes = std::fs::read(&args.file)
        .map_err(|error| Failure::local("IO", format!("{file}: {error}")).field("FILE"))?;
    let replay = Replay::new(bytes.into(), VERSION);
    let summary = Summary { event: "replayed", ..Summary::default() };
    let held = VecDeque::new();
    let mut show = Show { args, output, held, summary, what_if: !args.set.is_empty() };
    show.play(replay)?;
    show.flush()?;
    show.conclude()
}

impl Show<'_> {
    fn play(&mut self, mut replay: Replay) -> Result<(), Failure> {
        let mut progress = Progress::new("calls replayed", None);
        loop {
            // A core that panics again is what a recording of a panic is for.
            let next = catch_unwind(AssertUnwindSafe(|| replay.play_next()));
            let played = match next {
                Ok(Ok(Some(played))) => played,
                Ok(Ok(None)) => break,
                Ok(Err(bad)) => return self.bad(bad),
                Err(panic) => {
                    self.panicked(&replay, panic.as_ref())?;
                    break;
                }
            };
            match played {
                Played::Segment(head) => self.segment(&head),
                Played::Begun(_) if self.what_if => {
                    let limits = replay.limits().expect("a core has limits");
                    let limits = overridden(limits, &self.args.set)?;
                    replay.set_limits(limits);
                }
                Played::Begun(_) | Played::Compared(None) => {}
                Played::Compared(Some(same)) => {
                    self.summary.compared += 1;
                    if !same {
                        self.differs(self.summary.calls);
                    }
                }
                Played::Call(call) => {
                    progress.advance(1, self.output);
                    self.call(&replay, &call)?;
                }
            }
        }
        progress.finish(self.output);
        if self.summary.calls == 0 {
            return self.bad(BadRecording::NoSnapshot);
        }
        Ok(())
    }

    fn segment(&mut self, head: &SegmentHead) {
        if self.summary.node.is_empty() {
            self.summary.node = head.name.to_string();
            self.output.note(&format!(
                "node {}, lane {}, epoch {}, incarnation {:016x}",
                head.name, head.lane, head.epoch, head.incarnation.0
            ));
        }
    }

    fn call(&mut self, replay: &Replay, call: &PlayedCall) -> Result<(), Failure> {
        let same = matches!(call.agreement, Agreement::Same | Agreement::Unfinished);
        self.summary.calls += 1;
        self.summary.effects += call.effects.len() as u64;
        self.summary.records += u64::from(call.record.is_some());
        if !same {
            self.differs(call.number);
        }
        let silent = call.effects.is_empty() && call.record.is_none();
        if silent && same && !self.args.all {
            return Ok(());
        }
        let node = self.node();
        let told = tell(&node, &|link| peer(replay, link), call);
        if let Some(id) = &self.args.object
            && !names(&told, id)
        {
            return Ok(());
        }
        self.print(line(call, told, same))
    }

    /// The recorded node panicked in the call that the recording ends with, and so does this core.
    fn panicked(
        &mut self,
        replay: &Replay,
        panic: &(dyn std::any::Any + Send),
    ) -> Result<(), Failure> {
        let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
        let words = words.unwrap_or_else(|| "no words".to_owned());
        let Some(playing) = replay.playing() else {
            return Err(Failure::local("REPLAY_PANICKED", words));
        };
        self.summary.calls += 1;
        if !playing.unfinished {
            self.differs(playing.number);
        }
        let call = PlayedCall {
            number: playing.number,
            now: playing.now,
            input: playing.input.clone(),
            effects: Vec::new(),
            record: None,
            agreement: Agreement::Unfinished,
        };
        let mut told = tell(&self.node(), &|link| peer(replay, link), &call);
        told.effects.push(format!("panic: {words}"));
        self.summary.panicked = Some(words);
        self.print(line(&call, told, playing.unfinished))
    }

    fn node(&self) -> Name {
        Name::new("node", &self.summary.node).expect("the head of a segment has a valid one")
    }

    fn differs(&mut self, call: u64) {
        self.summary.different += 1;
        self.summary.first_difference.get_or_insert(call);
    }

    fn print(&mut self, line: Line) -> Result<(), Failure> {
        match self.args.last {
            None => self.write(&line),
            Some(last) => {
                self.held.push_back(line);
                if self.held.len() > last {
                    self.held.pop_front();
                }
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        while let Some(line) = self.held.pop_front() {
            self.write(&line)?;
        }
        Ok(())
    }

    fn write(&mut self, line: &Line) -> Result<(), Failure> {
        if self.output.is_json() {
            self.output.json(&line.json)
        } else {
            self.output.text(&line.text)
        }
    }

    /// What could be replayed is shown before what cannot is told.
    fn bad(&mut self, bad: BadRecording) -> Result<(), Failure> {
        self.flush()?;
        let reason = match bad {
            BadRecording::Magic => "NOT_A_RECORDING",
            BadRecording::OtherProgram { .. } => "RECORDING_OF_OTHER_VERSION",
            BadRecording::Damaged { .. } | BadRecording::Snapshot(_) => "RECORDING_DAMAGED",
            BadRecording::NoSnapshot => "RECORDING_TOO_SHORT",
        };
        let text = format!("{}: {bad}", self.args.file.display());
        Err(Failure::refused(reason, text).field("FILE"))
    }

    fn conclude(&mut self) -> Result<Exit, Failure> {
        let s = &self.summary;
        if self.output.is_json() {
            self.output.json(s)?;
        }
        let what = format!(
            "{} calls, {} effects, {} records, {} later snapshots",
            s.calls, s.effects, s.records, s.compared
        );
        let verdict = match (s.first_difference, self.what_if) {
            (None, _) => "all the same as recorded, byte for byte".to_owned(),
            (Some(first), true) => {
                format!("with that limit {} calls differ, the first is call {first}", s.different)
            }
            (Some(first), false) => {
                let text = format!(
                    "{what}: {} differ from the recording, the first is call {first}; this is a bug of dpc",
                    s.different
                );
                return Err(Failure::local("REPLAY_DIFFERS", text));
            }
        };
        let panic = s.panicked.as_ref().map(|_| ", and the panic is the same").unwrap_or_default();
        let line = format!("{what}: {verdict}{panic}");
        self.output.note(&line);
        Ok(Exit::Done)
    }
}

fn peer(replay: &Replay, link: LinkId) -> String {
    replay.peer(link).map_or_else(|| format!("link {link}"), ToString::to_string)
}

fn names(told: &Told, id: &ObjectId) -> bool {
    let short = short_id(id);
    told.input.contains(&short) || told.effects.iter().any(|line| line.contains(&short))
}

fn line(call: &PlayedCall, told: Told, same: bool) -> Line {
    let mark = if same { ' ' } else { '!' };
    let mut text = format!("{mark}{:>12} {}", call.now.mono.to_string(), told.input);
    for effect in &told.effects {
        text.push_str("\n              > ");
        text.push_str(&effect.replace('\n', "\n                "));
    }
    let number = call.record.as_ref().map_or(0, |record| record.number.0);
    let decisions = decisions(call).into_iter().map(|(decision, objects)| ShownDecision {
        objects: objects.iter().map(|(id, _)| id.to_string()).collect(),
        lane_number: number,
        decision: decision.step.as_str(),
        chosen: decision.chosen.as_ref().map(ToString::to_string),
        candidates: decision
            .candidates
            .iter()
            .map(|c| ShownCandidate { who: c.who.to_string(), refused: c.refused.as_str() })
            .collect(),
    });
    let json = ShownCall {
        call: call.number,
        at: call.now.mono.0 as f64 / 1e6,
        decisions: decisions.collect(),
        input: told.input,
        effects: told.effects,
        same,
    };
    Line { text, json }
}

/// The recorded limits with some of them changed. A key is one of the configuration.
fn overridden(limits: &Limits, set: &[String]) -> Result<Limits, Failure> {
    let set: Vec<String> = set
        .iter()
        .map(|given| match given.split_once('=') {
            Some((key, _)) if !key.contains('.') => format!("limits.{given}"),
            _ => given.clone(),
        })
        .collect();
    let sources = Sources { set: set.clone(), ..Sources::default() };
    let loaded = sources.load().map_err(|errors| {
        let mut failures = Failure::of_config(errors, Exit::Usage);
        failures.swap_remove(0)
    })?;
    let fields = |limits: &Limits| match serde_json::to_value(limits) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => unreachable!("limits are a struct of numbers"),
    };
    let (mut kept, wanted) = (fields(limits), fields(&embedded::limits(&loaded.config)));
    for given in &set {
        let key = given.split('=').next().unwrap_or_default();
        let field = field_of(key);
        let (Some(to), Some(value)) = (kept.get_mut(field), wanted.get(field)) else {
            let text = format!("{key} is no limit of the core, so a replay cannot change it");
            return Err(Failure::usage(text).field("--set").given(key));
        };
        *to = value.clone();
    }
    Ok(serde_json::from_value(serde_json::Value::Object(kept)).expect("only values were changed"))
}

/// The core's name of a configured limit, where it is not the same.
fn field_of(key: &str) -> &str {
    match key {
        "limits.lease_default" => "lease",
        "limits.backoff_jitter" => "backoff_jitter_percent",
        "limits.payload" => "payload_bytes",
        "limits.header_key" => "header_key_bytes",
        "retention.parked" => "parked_retention",
        "retention.shadow" => "shadow_retention",
        "retention.shadow_bytes" => "shadow_bytes",
        key => key.strip_prefix("limits.").unwrap_or(key),
    }
}
