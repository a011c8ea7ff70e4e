//! Scenario scripts: one verb a line, or several separated by `;`. What they tell is a routing
//! trace that reads as a story.
//!
//! ```text
//! node 3; link n1 n2; link n2 n3      or: line 3, ring 4
//! subscribe n3 img as thumbs credit 4 lease 5s then finalise
//! push n1 img "a" id 7 delay 10s expires 5s
//! cut n1 n2; heal n1 n2; reset n1 n2; hold n1 n2; let-go n1 n2
//! kill n2; power-cut n2; restart n2; pause n2; resume n2
//! then n3 img release                 what the subscriber of img at n3 does from now on
//! unsubscribe n3 img; leave n3 img; credit n3 img 8
//! take n1 img 2; why n1 7; redrive n1; drain n1; discard n1 7
//! until "Accept"                      runs until a new line of the story has these words
//! wait 5s; settle
//! ```

use dpc_core::input::{Operator, Which};
use dpc_core::names::TypeName;
use dpc_core::time::Span;

use crate::world::{Mode, Plan, Power, Wish, World, object_id};

/// How long `settle` and `until` may take, in simulated time.
const PATIENCE: Span = Span::secs(600);

/// Runs a script and returns its story, or what is wrong with a line of it.
///
/// # Errors
///
/// Names the line and what was expected, or the promise that was broken.
pub fn run(text: &str) -> Result<String, String> {
    let mut script = Script { world: World::new(Plan::story(1)) };
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("");
        for step in line.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            let step = words(step);
            script.step(&step).map_err(|what| format!("line {}: {what}", n + 1))?;
            if let Some(broken) = script.world.broken() {
                return Err(format!("line {}: {broken}\n{}", n + 1, script.world.trace.text()));
            }
        }
    }
    Ok(script.world.trace.take())
}

struct Script {
    world: World,
}

/// Words of a step; what stands in quotes is one word.
fn words(step: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in step.split('"').enumerate() {
        if i % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// The words behind a verb.
struct Rest<'a>(std::slice::Iter<'a, String>);

impl<'a> Rest<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.0.next().map(String::as_str).ok_or_else(|| format!("expected {what}"))
    }

    fn more(&mut self) -> Option<&'a str> {
        self.0.next().map(String::as_str)
    }

    fn number(&mut self, what: &str) -> Result<u64, String> {
        let word = self.next(what)?;
        word.parse().map_err(|_| format!("expected {what}, found {word}"))
    }

    fn span(&mut self) -> Result<Span, String> {
        let word = self.next("a time like 5s or 20ms")?;
        let (digits, unit) = word.split_at(word.trim_end_matches(char::is_alphabetic).len());
        let n: u64 = digits.parse().map_err(|_| format!("expected a time, found {word}"))?;
        match unit {
            "ms" => Ok(Span::millis(n)),
            "s" => Ok(Span::secs(n)),
            "m" => Ok(Span::secs(60 * n)),
            _ => Err(format!("expected a time in ms, s or m, found {word}")),
        }
    }
}

impl Script {
    fn step(&mut self, words: &[String]) -> Result<(), String> {
        let mut rest = Rest(words[1..].iter());
        match words[0].as_str() {
            "node" => {
                for _ in 0..rest.number("how many nodes")? {
                    self.world.add_node();
                }
            }
            "line" | "ring" => self.shape(&words[0], rest.number("how many nodes")?),
            "link" => {
                let (a, b) = (self.node(&mut rest)?, self.node(&mut rest)?);
                self.world.link(a, b);
            }
            "push" => self.push(rest)?,
            "subscribe" => self.subscribe(rest)?,
            "unsubscribe" | "leave" | "then" | "credit" => self.client(&words[0], rest)?,
            "take" | "why" | "redrive" | "drain" | "discard" | "go-on" => {
                self.operate(&words[0], rest)?;
            }
            "cut" | "heal" | "reset" | "hold" | "let-go" => self.network(&words[0], rest)?,
            "kill" | "power-cut" | "restart" | "pause" | "resume" => {
                let node = self.node(&mut rest)?;
                match words[0].as_str() {
                    "kill" => self.world.kill(node, Power::Stays),
                    "power-cut" => self.world.kill(node, Power::Cut),
                    "restart" => self.world.restart(node),
                    "pause" => self.world.pause(node),
                    _ => self.world.resume_process(node),
                }
            }
            "until" => self.until(rest)?,
            "wait" => {
                let span = rest.span()?;
                self.world.run_for(span);
                self.world.say(&format!("{span} later"));
            }
            "settle" => {
                if !self.world.settle(PATIENCE) {
                    return Err("no fixed point within ten minutes".into());
                }
            }
            verb => return Err(format!("unknown verb {verb}")),
        }
        Ok(())
    }

    fn shape(&mut self, shape: &str, n: u64) {
        let n = usize::try_from(n).expect("few nodes");
        for _ in 0..n {
            self.world.add_node();
        }
        for i in 1..n {
            self.world.link(i - 1, i);
        }
        if shape == "ring" {
            self.world.link(n - 1, 0);
        }
    }

    fn node(&self, rest: &mut Rest<'_>) -> Result<usize, String> {
        let name = rest.next("a node")?;
        let known = self.world.nodes().iter().position(|n| n.name.as_str() == name);
        known.ok_or_else(|| format!("no node {name}"))
    }

    fn push(&mut self, mut rest: Rest<'_>) -> Result<(), String> {
        let (node, ty) = (self.node(&mut rest)?, rest.next("a type")?);
        let text = rest.next("a text")?;
        let (mut id, mut delay, mut expires) = (None, None, None);
        while let Some(word) = rest.more() {
            match word {
                "id" => id = Some(object_id(rest.number("a number")?)),
                "delay" => delay = Some(rest.span()?),
                "expires" => expires = Some(rest.span()?),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        let id = id.unwrap_or_else(|| self.world.new_id());
        let push = World::timed_push(id, ty, text, delay, expires);
        self.world.push(node, push, 3);
        Ok(())
    }

    fn subscribe(&mut self, mut rest: Rest<'_>) -> Result<(), String> {
        let mut wish = Wish {
            node: self.node(&mut rest)?,
            pattern: rest.next("a type or prefix")?.to_owned(),
            processor: "default".to_owned(),
            credit: 16,
            mode: Mode::Finalise,
            lease: None,
        };
        while let Some(word) = rest.more() {
            match word {
                "as" => wish.processor = rest.next("a processor")?.to_owned(),
                "credit" => {
                    let credit = rest.number("a credit")?;
                    wish.credit = u32::try_from(credit).map_err(|e| e.to_string())?;
                }
                "lease" => wish.lease = Some(rest.span()?),
                "then" => wish.mode = mode(&mut rest)?,
                _ => return Err(format!("unknown option {word}")),
            }
        }
        self.world.subscribe(wish);
        Ok(())
    }

    fn client(&mut self, verb: &str, mut rest: Rest<'_>) -> Result<(), String> {
        let (node, pattern) = (self.node(&mut rest)?, rest.next("a type or prefix")?);
        let mine = |c: &crate::world::Client| c.node == node && c.pattern.as_str() == pattern;
        let client = self.world.clients().iter().rposition(mine);
        let client = client.ok_or_else(|| format!("nobody asked for {pattern} there"))?;
        match verb {
            "unsubscribe" => self.world.unsubscribe(client),
            "leave" => self.world.leave(client),
            "credit" => {
                let credit = u32::try_from(rest.number("a credit")?).map_err(|e| e.to_string())?;
                self.world.set_credit(client, credit);
            }
            _ => {
                let mode = mode(&mut rest)?;
                self.world.set_mode(client, mode.clone());
                for lease in self.world.hand(client) {
                    self.world.act(client, lease, mode.clone());
                }
            }
        }
        Ok(())
    }

    fn operate(&mut self, verb: &str, mut rest: Rest<'_>) -> Result<(), String> {
        let node = self.node(&mut rest)?;
        let order = match verb {
            "take" => {
                let (pattern, count) = (rest.next("a type")?, rest.number("how many")?);
                let count = u32::try_from(count).map_err(|e| e.to_string())?;
                self.world.take(node, pattern, "default", count, Mode::Finalise);
                return Ok(());
            }
            "why" => Operator::Inspect(object_id(rest.number("an object")?)),
            "discard" => Operator::Discard(object_id(rest.number("an object")?)),
            "redrive" => Operator::Redrive(Which::All),
            "drain" => Operator::Drain,
            _ => Operator::Resume,
        };
        self.world.operate(node, order);
        Ok(())
    }

    fn network(&mut self, verb: &str, mut rest: Rest<'_>) -> Result<(), String> {
        let (a, b) = (self.node(&mut rest)?, self.node(&mut rest)?);
        let wire = self.world.wire_between(a, b).ok_or("the two are not linked")?;
        match verb {
            "cut" => self.world.cut(wire),
            "heal" => self.world.heal(wire),
            "reset" => self.world.reset(wire),
            "hold" => self.world.hold(wire),
            _ => self.world.let_go(wire),
        }
        Ok(())
    }

    /// Runs until a new line of the story has these words.
    fn until(&mut self, mut rest: Rest<'_>) -> Result<(), String> {
        let words = rest.next("words of the story")?;
        let (from, limit) = (self.world.trace.text().len(), self.world.now() + PATIENCE);
        while self.world.step(limit) {
            if self.world.trace.text()[from..].contains(words) {
                return Ok(());
            }
        }
        Err(format!("{words:?} never came"))
    }
}

fn mode(rest: &mut Rest<'_>) -> Result<Mode, String> {
    let verb = rest.next("what the subscriber does")?;
    let mut ty = || TypeName::from_type_url(rest.next("a type")?).map_err(|e| e.to_string());
    Ok(match verb {
        "finalise" => Mode::Finalise,
        "hold" => Mode::Hold,
        "begin" => Mode::Begin,
        "release" => Mode::Release,
        "fail" => Mode::Fail,
        "reject" => Mode::Reject,
        "handle" => Mode::Handle,
        "advance" => Mode::Advance(ty()?),
        "emit" => Mode::Emit(ty()?),
        other => return Err(format!("unknown verb {other}")),
    })
}
