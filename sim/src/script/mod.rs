//! Scenario scripts: one verb a line, told as a routing trace, with what must be true of it.
//!
//! ```text
//! line 3                       nodes n1, n2, n3, each linked with the next
//! subscribe n3 img then finalise
//! push n1 img "a"
//! settle                       run to a fixed point
//! expect obj 1 final n3
//! ```
//!
//! | verb | meaning |
//! |---|---|
//! | `seed N`, `limit NAME VALUE` | before the first node |
//! | `node N`, `line N`, `ring N`, `link n1 n2` | nodes, by themselves or linked |
//! | `subscribe n1 TYPE [as P] [credit N] [lease 5s] [then MODE [TYPE]]` | a client with a stream of its own |
//! | `unsubscribe n1 TYPE [as P]`, `leave n1 TYPE [as P]`, `credit n1 TYPE [as P] N` | its subscription ends, its stream ends, new credit |
//! | `push n1 TYPE "text" [id 7] [size 9000] [delay 10s] [expires 5s] [times N]` | ids are counted from 1, in hexadecimal as traces write them |
//! | `take n1 TYPE [as P] [count N] [then MODE [TYPE]]` | a unary receive |
//! | `finalise n1 7` and `release`, `fail`, `reject`, `begin`, `handle` | the client at n1 that holds 7 does so |
//! | `finalise n1 7 under n2 3` and so on | somebody says so at n1 with the token of lease 3 of n2, whatever has become of it |
//! | `think 100ms` | how long clients need from now on |
//! | `cut n1 n2`, `heal [n1 n2]`, `hold n1 n2`, `let-go n1 n2` | links: broken, whole again, silent, as they were |
//! | `slow n1 n2 64` | from now on bodies pass at 64 KiB/s, behind what is said |
//! | `kill n1 [leaving lost|unsynced|synced]`, `power-cut n1`, `restart n1 [restored]` | a process dies, the machine dies, it starts again, with a new lane |
//! | `lose-index n1` | its id index is gone, while it does not run |
//! | `stall n1 2s`, `disk n1 sync-fails|full|unknown-never|unknown-later` | its disk is slow, its next write ends so |
//! | `pause n1`, `go-on n1`, `clock n1 +1h` | SIGSTOP, SIGCONT, its wall clock jumps |
//! | `twin n1`, `namesake n1` | a second process n1b on its disk; another node that says it is called n1 |
//! | `back-up n1`, `from-backup n1` | its disk is copied, and becomes what it was |
//! | `speaks n1 1..2` | the link protocols of its program from its next start on |
//! | `ask-status n2 n1 2 7` | n2 asks n1 how the 7th transfer of n1's epoch 2 ended |
//! | `ask-refresh n2 n1 TYPE P` | n2 asks n1 for newer demand for an object that P has handled |
//! | `drain n1`, `resume n1`, `redrive n1 [7]`, `discard n1 7`, `why n1 7`, `parked n1`, `forget n1 n2 [reclaim]` | what operators say |
//! | `until n1 DOES WORDS` | run until that has just happened |
//! | `wait 5s`, `settle`, `repeat 9` … `end` | let time pass; run to a fixed point; the lines between nine times, told once |
//! | `mark`, `expect …` | from here on is counted; what must be true now: see `expect.rs` |
//!
//! In the trace each step is followed by what happens: who (`n1`) hears what (`<`) or wakes for what
//! (`.`), and below it what follows (`>`). `x2.1@n1` is the first transfer of n1 in its second epoch
//! (a restart begins a new one), `g3@n2` the third generation of demand, which began at n2.
//!
//! A mode is what the client does with each delivery: `finalise` (if nothing is said), `hold`,
//! `begin`, `release`, `fail`, `reject`, `handle`, `advance TYPE`, `emit TYPE`. What a node DOES is
//! one of `gets`, `sends`, `writes`, `delivers`, `answers`, `notes`, `loads`, `ends` (a lease),
//! `closes` (a link), `stops`, `cuts` (its log).

mod expect;
mod faults;
mod steps;
mod words;

use std::fmt;

use dpc_core::Limits;
use dpc_core::time::Span;

use crate::world::{Plan, World};
use words::Words;

/// The longest a `settle` or an `until` may take, in simulated time.
const LIMIT: Span = Span::secs(600);

/// A script that cannot be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// The line, counted from 1.
    pub line: usize,
    /// The step.
    pub step: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}`: {}", self.line, self.step, self.what)
    }
}

impl std::error::Error for ScriptError {}

/// One step or comment, with its line.
struct Line {
    number: usize,
    text: String,
}

impl Line {
    fn is_comment(&self) -> bool {
        self.text.starts_with('#')
    }

    fn wrong(&self, what: String) -> ScriptError {
        ScriptError { line: self.number, step: self.text.clone(), what }
    }
}

fn lines_of(script: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (i, line) in script.lines().enumerate() {
        let mut add = |text: &str| lines.push(Line { number: i + 1, text: text.to_owned() });
        if line.starts_with('#') {
            add(line);
            continue;
        }
        let code = line.split('#').next().unwrap_or_default();
        code.split(';').map(str::trim).filter(|s| !s.is_empty()).for_each(add);
    }
    lines
}

/// Tells a scenario: its trace, or the first step that is wrong or after which a promise is broken.
pub fn tell(script: &str) -> Result<String, ScriptError> {
    let mut teller = Teller { plan: Plan::story(1), preface: String::new(), world: None };
    teller.tell(&lines_of(script))?;
    let Some(mut world) = teller.world else { return Ok(String::new()) };
    world.end_of_story().map_err(|what| ScriptError {
        line: script.lines().count(),
        step: "the end".into(),
        what,
    })?;
    Ok(teller.preface + &world.trace.take())
}

struct Teller {
    plan: Plan,
    /// What the script says before the world begins.
    preface: String,
    world: Option<World>,
}

impl Teller {
    fn tell(&mut self, lines: &[Line]) -> Result<(), ScriptError> {
        let mut at = 0;
        while let Some(line) = lines.get(at) {
            at += 1;
            if line.is_comment() {
                self.comment(&line.text);
            } else if let Some(times) = line.text.strip_prefix("repeat ") {
                let times: u64 =
                    times.parse().map_err(|_| line.wrong("it says how often".into()))?;
                let rest = &lines[at..];
                let length = rest.iter().position(|l| l.text == "end");
                let length = length.ok_or_else(|| line.wrong("it has no `end`".into()))?;
                self.repeat(times, &rest[..length])?;
                at += length + 1;
            } else {
                self.step(&line.text).map_err(|what| line.wrong(what))?;
            }
        }
        Ok(())
    }

    /// Does the same several times, and tells it once.
    fn repeat(&mut self, times: u64, lines: &[Line]) -> Result<(), ScriptError> {
        self.tell(lines)?;
        self.comment(&format!("... and so {} times more", times - 1));
        if let Some(world) = &mut self.world {
            world.trace.mute();
        }
        for _ in 1..times {
            self.tell(lines)?;
        }
        if let Some(world) = &mut self.world {
            world.trace.unmute();
        }
        Ok(())
    }

    fn comment(&mut self, line: &str) {
        match &mut self.world {
            Some(world) => world.trace.script(line),
            None => self.preface.push_str(&format!("{line}\n")),
        }
    }

    fn step(&mut self, step: &str) -> Result<(), String> {
        let mut words = Words::new(step);
        let verb = words.next("a verb")?;
        match verb.as_str() {
            "seed" | "limit" => {
                self.comment(step);
                self.set(&verb, &mut words)?;
            }
            _ => {
                if self.world.is_none() {
                    let mut world = World::new(self.plan.clone());
                    world.trace.tell_story();
                    self.world = Some(world);
                }
                let world = self.world.as_mut().expect("just made");
                world.trace.script(step);
                let known = steps::build(world, &verb, &mut words)?
                    || steps::client(world, &verb, &mut words)?
                    || faults::network(world, &verb, &mut words)?
                    || faults::machine(world, &verb, &mut words)?
                    || steps::operator(world, &verb, &mut words)?
                    || steps::time(world, &verb, &mut words)?
                    || expect::expect(world, &verb, &mut words)?;
                if !known {
                    return Err(format!("{verb} is not a verb"));
                }
                if let Some(broken) = world.broken() {
                    return Err(format!("broken promise: {broken}"));
                }
            }
        }
        words.end()
    }

    fn set(&mut self, verb: &str, words: &mut Words) -> Result<(), String> {
        if self.world.is_some() {
            return Err("it is too late for this: the world has begun".into());
        }
        if verb == "seed" {
            self.plan.seed = words.number("the seed")?;
            return Ok(());
        }
        let limits: &mut Limits = &mut self.plan.limits;
        match words.next("the limit")?.as_str() {
            "failed_deliveries" => limits.failed_deliveries = words.number("it")? as u32,
            "max_hops" => limits.max_hops = words.number("it")? as u32,
            "lease" => limits.lease = words.span()?,
            "redistribution_delay" => limits.redistribution_delay = words.span()?,
            "spill_after" => limits.spill_after = words.span()?,
            "offer_timeout" => limits.offer_timeout = words.span()?,
            "transit" => limits.transit = words.number("it")? as u32,
            "window_objects" => limits.window_objects = words.number("it")? as usize,
            "part_bytes" => limits.part_bytes = words.number("it")?,
            "carry_slack_bytes" => limits.carry_slack_bytes = words.number("it")?,
            other => return Err(format!("{other} is not a limit that scripts set")),
        }
        Ok(())
    }
}
