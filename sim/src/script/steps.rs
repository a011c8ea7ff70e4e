//! The verbs that build a world, act for clients and operators, and let time pass.

use dpc_core::input::{ListState, Operator, Which};
use dpc_core::names::Name;

use super::LIMIT;
use super::words::{Words, plain_mode};
use crate::world::{Client, Mode, Wish, World};

pub(super) fn node(world: &World, words: &mut Words) -> Result<usize, String> {
    let word = words.next("a node")?;
    let found = world.nodes().iter().position(|n| n.name.as_str() == word);
    found.ok_or_else(|| format!("there is no node {word}"))
}

pub(super) fn wire(world: &World, words: &mut Words) -> Result<usize, String> {
    let (a, b) = (node(world, words)?, node(world, words)?);
    world.wire_between(a, b).ok_or_else(|| "these two have no link".into())
}

pub(super) fn build(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
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
    let is = |c: &Client| {
        c.node == node && c.pattern.to_string() == pattern && c.processor.as_str() == processor
    };
    let found = world.clients().iter().rposition(is);
    found.ok_or_else(|| "there is no such subscriber".into())
}

pub(super) fn client(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
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
        "think" => world.set_think(words.span()?),
        "emit" | "advance" => return Err("say it with `subscribe … then`".into()),
        _ => {
            let Some(mode) = plain_mode(verb).filter(|m| *m != Mode::Hold) else {
                return Ok(false);
            };
            let (at, id) = (node(world, words)?, words.id()?);
            if words.says("under") {
                let (giver, lease) = (node(world, words)?, words.number("the lease")?);
                world.settle_under(at, id, (giver, lease), &mode)?;
            } else {
                world.act_on(at, id, mode).ok_or("no client there holds it")?;
            }
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
    let size = if words.says("size") { words.number("the size")? as usize } else { 0 };
    let text = if size > text.len() { text.repeat(size / text.len().max(1)) } else { text };
    let delay = if words.says("delay") { Some(words.span()?) } else { None };
    let expires = if words.says("expires") { Some(words.span()?) } else { None };
    let times = if words.says("times") { words.number("how often")? } else { 1 };
    for _ in 0..times {
        let id = id.unwrap_or_else(|| world.new_id());
        world.push(node, World::timed_push(id, &ty, &text, delay, expires), 0);
    }
    Ok(())
}

pub(super) fn operator(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    if !["drain", "resume", "redrive", "discard", "why", "parked", "forget"].contains(&verb) {
        return Ok(false);
    }
    let node = node(world, words)?;
    let order = match verb {
        "drain" => Operator::Drain,
        "resume" => Operator::Resume,
        "redrive" if words.left.is_empty() => Operator::Redrive(Which::All),
        "redrive" => Operator::Redrive(Which::Ids(vec![words.id()?])),
        "discard" => Operator::Discard(words.id()?),
        "forget" => Operator::Forget {
            name: Name::new("node", &words.next("a node")?).map_err(|r| r.to_string())?,
            reclaim: words.says("reclaim"),
        },
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

pub(super) fn time(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    match verb {
        "wait" => world.run_for(words.span()?),
        "settle" => {
            if !world.settle(LIMIT) {
                return Err("it does not come to rest".into());
            }
        }
        "until" => {
            let (node, how) = (node(world, words)?, words.next("what it does")?);
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
