//! Scenario scripts: one verb a line, told as a routing trace.
//!
//! ```text
//! line 3                       nodes n1, n2, n3, each linked with the next
//! subscribe n3 img then finalise
//! push n1 img "a"
//! settle                       run to a fixed point
//! ```
//!
//! | verb | meaning |
//! |---|---|
//! | `seed N`, `limit NAME VALUE` | before the first node |
//! | `node N`, `line N`, `ring N`, `link n1 n2` | nodes, by themselves or linked |
//! | `subscribe n1 TYPE [as P] [credit N] [lease 5s] [then MODE [TYPE]]` | a client with a stream of its own |
//! | `unsubscribe n1 TYPE [as P]`, `leave n1 TYPE [as P]`, `credit n1 TYPE [as P] N` | its subscription ends, its stream ends, new credit |
//! | `push n1 TYPE "text" [id 7] [delay 10s] [expires 5s] [times N]` | ids are counted from 1, in hexadecimal as traces write them |
//! | `take n1 TYPE [as P] [count N] [then MODE [TYPE]]` | a unary receive |
//! | `finalise n1 7` and `release`, `fail`, `reject`, `begin`, `handle` | the client at n1 that holds 7 does so |
//! | `cut n1 n2`, `heal [n1 n2]`, `hold n1 n2`, `let-go n1 n2` | links: broken, whole again, silent, as they were |
//! | `kill n1`, `power-cut n1`, `restart n1`, `stall n1 2s` | a process dies, the machine dies, it starts again, its disk is slow |
//! | `drain n1`, `resume n1`, `redrive n1 [7]`, `discard n1 7`, `why n1 7`, `parked n1` | what operators say |
//! | `until n1 gets WORDS`, `until n1 sends WORDS`, `until n1 writes WORDS` | run until that has just happened |
//! | `wait 5s`, `settle` | let time pass; run to a fixed point |
//!
//! In the trace each step is followed by what happens: who (`n1`) hears what (`<`) or wakes for what
//! (`.`), and below it what follows (`>`). `x2.1@n1` is the first transfer of n1 in its second epoch
//! (a restart begins a new one), `g3@n2` the third generation of demand, which began at n2.
//!
//! A mode is what the client does with each delivery: `finalise` (if nothing is said), `hold`,
//! `begin`, `release`, `fail`, `reject`, `handle`, `advance TYPE`, `emit TYPE`.

use std::fmt;

use dpc_core::Limits;
use dpc_core::ids::ObjectId;
use dpc_core::input::{ListState, Operator, Which};
use dpc_core::names::TypeName;
use dpc_core::time::Span;

use crate::world::{Mode, Plan, Power, Wish, World, object_id};

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

/// Tells a scenario: its trace, or the first step that is wrong or after which a promise is broken.
pub fn tell(script: &str) -> Result<String, ScriptError> {
    let mut teller = Teller { plan: Plan::story(1), preface: String::new(), world: None };
    for (i, line) in script.lines().enumerate() {
        if line.starts_with('#') {
            teller.comment(line);
        }
        let code = line.split('#').next().unwrap_or_default();
        for step in code.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            let wrong = |what| ScriptError { line: i + 1, step: step.to_owned(), what };
            teller.step(step).map_err(wrong)?;
        }
    }
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

/// The words of one step, taken from the front.
struct Words {
    left: std::collections::VecDeque<String>,
}

impl Words {
    fn new(step: &str) -> Self {
        let mut left = std::collections::VecDeque::new();
        for (i, part) in step.split('"').enumerate() {
            if i % 2 == 1 {
                left.push_back(part.to_owned());
            } else {
                left.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        Self { left }
    }

    fn maybe(&mut self) -> Option<String> {
        self.left.pop_front()
    }

    fn next(&mut self, what: &str) -> Result<String, String> {
        self.maybe().ok_or_else(|| format!("{what} is missing"))
    }

    fn number(&mut self, what: &str) -> Result<u64, String> {
        let word = self.next(what)?;
        word.parse().map_err(|_| format!("{what} is a number, not {word}"))
    }

    fn id(&mut self) -> Result<ObjectId, String> {
        let word = self.next("an id")?;
        let n = u64::from_str_radix(&word, 16).map_err(|_| format!("{word} is not an id"))?;
        Ok(object_id(n))
    }

    fn span(&mut self) -> Result<Span, String> {
        let word = self.next("a time")?;
        parse_span(&word).ok_or_else(|| format!("{word} is not a time like 5s or 20ms"))
    }

    /// Whether the next word is this one; it is taken then.
    fn says(&mut self, word: &str) -> bool {
        let yes = self.left.front().is_some_and(|w| w == word);
        if yes {
            self.left.pop_front();
        }
        yes
    }

    fn processor(&mut self) -> Result<String, String> {
        if self.says("as") { self.next("a processor") } else { Ok("default".into()) }
    }

    fn mode(&mut self) -> Result<Mode, String> {
        if !self.says("then") {
            return Ok(Mode::Finalise);
        }
        let word = self.next("a mode")?;
        let mut ty = || {
            let ty = self.next("a type")?;
            TypeName::from_type_url(&ty).map_err(|_| format!("{ty} is not a type"))
        };
        Ok(match word.as_str() {
            "advance" => Mode::Advance(ty()?),
            "emit" => Mode::Emit(ty()?),
            _ => plain_mode(&word).ok_or_else(|| format!("{word} is not a mode"))?,
        })
    }

    fn end(mut self) -> Result<(), String> {
        self.maybe().map_or(Ok(()), |word| Err(format!("{word} is one word too many")))
    }
}

fn plain_mode(word: &str) -> Option<Mode> {
    Some(match word {
        "finalise" => Mode::Finalise,
        "hold" => Mode::Hold,
        "begin" => Mode::Begin,
        "release" => Mode::Release,
        "fail" => Mode::Fail,
        "reject" => Mode::Reject,
        "handle" => Mode::Handle,
        _ => return None,
    })
}

fn parse_span(word: &str) -> Option<Span> {
    let digits = word.find(|c: char| !c.is_ascii_digit())?;
    let n: u64 = word[..digits].parse().ok()?;
    match &word[digits..] {
        "ms" => Some(Span::millis(n)),
        "s" => Some(Span::secs(n)),
        "min" => Some(Span::secs(n * 60)),
        "h" => Some(Span::secs(n * 3_600)),
        _ => None,
    }
}

impl Teller {
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
                let known = build(world, &verb, &mut words)?
                    || client(world, &verb, &mut words)?
                    || fault(world, &verb, &mut words)?
                    || operator(world, &verb, &mut words)?
                    || time(world, &verb, &mut words)?;
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
            other => return Err(format!("{other} is not a limit that scripts set")),
        }
        Ok(())
    }
}

fn node(world: &World, words: &mut Words) -> Result<usize, String> {
    let word = words.next("a node")?;
    let found = world.nodes().iter().position(|n| n.name.as_str() == word);
    found.ok_or_else(|| format!("there is no node {word}"))
}

fn wire(world: &World, words: &mut Words) -> Result<usize, String> {
    let (a, b) = (node(world, words)?, node(world, words)?);
    world.wire_between(a, b).ok_or_else(|| "these two have no link".into())
}

fn build(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    match verb {
        "node" | "line" | "ring" => {
            let n = words.number("how many")? as usize;
            let first = world.nodes().len();
            for i in 0..n {
                world.add_node();
                if verb != "node" && i > 0 {
                    world.link(first + i - 1, first + i);
                }
            }
            if verb == "ring" {
                world.link(first + n - 1, first);
            }
        }
        "link" => {
            let (a, b) = (node(world, words)?, node(world, words)?);
            world.link(a, b);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn client_of(world: &World, words: &mut Words) -> Result<usize, String> {
    let (node, pattern) = (node(world, words)?, words.next("a type")?);
    let processor = words.processor()?;
    let is = |c: &crate::world::Client| {
        c.node == node && c.pattern.to_string() == pattern && c.processor.as_str() == processor
    };
    let found = world.clients().iter().rposition(is);
    found.ok_or_else(|| "there is no such subscriber".into())
}

fn client(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    match verb {
        "subscribe" => subscribe(world, words)?,
        "unsubscribe" => {
            let client = client_of(world, words)?;
            world.unsubscribe(client);
        }
        "leave" => {
            let client = client_of(world, words)?;
            world.leave(client);
        }
        "credit" => {
            let client = client_of(world, words)?;
            world.set_credit(client, words.number("the credit")? as u32);
        }
        "push" => push(world, words)?,
        "take" => {
            let (node, pattern) = (node(world, words)?, words.next("a type")?);
            let processor = words.processor()?;
            let count = if words.says("count") { words.number("the count")? as u32 } else { 1 };
            let mode = words.mode()?;
            world.take(node, &pattern, &processor, count, mode);
        }
        "emit" | "advance" => return Err("say it with `subscribe … then`".into()),
        _ => {
            let Some(mode) = plain_mode(verb).filter(|m| *m != Mode::Hold) else {
                return Ok(false);
            };
            let (node, id) = (node(world, words)?, words.id()?);
            world.act_on(node, id, mode).ok_or("no client there holds it")?;
        }
    }
    Ok(true)
}

fn subscribe(world: &mut World, words: &mut Words) -> Result<(), String> {
    let (node, pattern) = (node(world, words)?, words.next("a type")?);
    let processor = words.processor()?;
    let credit = if words.says("credit") { words.number("the credit")? as u32 } else { 16 };
    let lease = if words.says("lease") { Some(words.span()?) } else { None };
    let mode = words.mode()?;
    world.subscribe(Wish { node, pattern, processor, credit, mode, lease });
    Ok(())
}

fn push(world: &mut World, words: &mut Words) -> Result<(), String> {
    let (node, ty, text) = (node(world, words)?, words.next("a type")?, words.next("a text")?);
    let id = if words.says("id") { Some(words.id()?) } else { None };
    let delay = if words.says("delay") { Some(words.span()?) } else { None };
    let expires = if words.says("expires") { Some(words.span()?) } else { None };
    let times = if words.says("times") { words.number("how often")? } else { 1 };
    for _ in 0..times {
        let id = id.unwrap_or_else(|| world.new_id());
        world.push(node, World::timed_push(id, &ty, &text, delay, expires), 0);
    }
    Ok(())
}

fn fault(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    match verb {
        "cut" => world.cut(wire(world, words)?),
        "hold" => world.hold(wire(world, words)?),
        "let-go" => world.let_go(wire(world, words)?),
        "heal" if words.left.is_empty() => {
            (0..world.wires().len()).for_each(|wire| world.heal(wire));
        }
        "heal" => world.heal(wire(world, words)?),
        "kill" => world.kill(node(world, words)?, Power::Stays),
        "power-cut" => world.kill(node(world, words)?, Power::Cut),
        "restart" => world.restart(node(world, words)?),
        "stall" => {
            let (node, span) = (node(world, words)?, words.span()?);
            world.nodes()[node].disk.stall(world.now() + span);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn operator(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    if !["drain", "resume", "redrive", "discard", "why", "parked"].contains(&verb) {
        return Ok(false);
    }
    let node = node(world, words)?;
    let order = match verb {
        "drain" => Operator::Drain,
        "resume" => Operator::Resume,
        "redrive" if words.left.is_empty() => Operator::Redrive(Which::All),
        "redrive" => Operator::Redrive(Which::Ids(vec![words.id()?])),
        "discard" => Operator::Discard(words.id()?),
        "why" => Operator::Inspect(words.id()?),
        _ => Operator::List {
            pattern: None,
            state: Some(ListState::Parked),
            since: None,
            limit: 100,
        },
    };
    let asked = matches!(order, Operator::Inspect(_) | Operator::List { .. });
    world.answers.clear();
    world.operate(node, order);
    let limit = world.now() + LIMIT;
    while asked && world.answers.is_empty() {
        if !world.step(limit) {
            return Err("it is not answered".into());
        }
    }
    Ok(true)
}

fn time(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    match verb {
        "wait" => world.run_for(words.span()?),
        "settle" => {
            if !world.settle(LIMIT) {
                return Err("it does not come to rest".into());
            }
        }
        "until" => {
            let (node, how) = (node(world, words)?, words.next("gets, sends or writes")?);
            let what = std::mem::take(&mut words.left);
            let what = what.into_iter().collect::<Vec<_>>().join(" ");
            let name = world.nodes()[node].name.to_string();
            world.trace.watch_for(&name, &how, &what)?;
            let limit = world.now() + LIMIT;
            while !world.trace.has_seen() {
                if !world.step(limit) {
                    return Err("this does not happen".into());
                }
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}
