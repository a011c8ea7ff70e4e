//! The verbs that break things: links, machines, disks, clocks, and what people do to nodes.

use dpc_core::ids::{Epoch, Incarnation};
use dpc_core::message::{DemandKey, Message, Protocols, Refresh};
use dpc_core::names::{Name, Pattern};
use dpc_core::record::TransferId;

use super::steps::{node, wire};
use super::words::Words;
use crate::contract::Fault;
use crate::store::Fate;
use crate::world::{Power, World};

/// Links, and what is said over them.
pub(super) fn network(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    match verb {
        "cut" => world.cut(wire(world, words)?),
        "hold" => world.hold(wire(world, words)?),
        "let-go" => world.let_go(wire(world, words)?),
        "heal" if words.left.is_empty() => {
            (0..world.wires().len()).for_each(|wire| world.heal(wire));
        }
        "heal" => world.heal(wire(world, words)?),
        "slow" => {
            let wire = wire(world, words)?;
            world.slow_bodies(wire, words.number("KiB a second")? * 1_024);
        }
        "ask-status" => {
            let (from, to) = (node(world, words)?, node(world, words)?);
            let (epoch, n) = (words.number("the epoch")?, words.number("the transfer")?);
            let (sender, receiver) = (world.nodes()[to].lane, world.nodes()[from].lane);
            let (epoch, incarnation) = (Epoch(epoch), Incarnation(epoch));
            let transfer = TransferId { sender, receiver, epoch, incarnation, n };
            say(world, from, to, Message::Status(transfer))?;
        }
        "ask-refresh" => {
            let (from, to) = (node(world, words)?, node(world, words)?);
            let pattern = Pattern::new(&words.next("a type")?).map_err(|r| r.to_string())?;
            let processor = words.next("a processor")?;
            let processor = Name::new("processor", &processor).map_err(|r| r.to_string())?;
            let handled = vec![processor.clone()];
            let key = DemandKey::new(pattern, processor);
            let lane = world.nodes()[to].lane;
            let generation = world.told_generation(to).ok_or("it has told no demand")?;
            assert_eq!(generation.lane, lane, "a node tells its own demand");
            say(world, from, to, Message::Refresh(Refresh { key, generation, handled }))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn say(world: &mut World, from: usize, to: usize, message: Message) -> Result<(), String> {
    if world.say_as(from, to, message) { Ok(()) } else { Err("these two have no link now".into()) }
}

/// Processes, machines, disks and clocks.
pub(super) fn machine(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    match verb {
        "kill" => {
            let node = node(world, words)?;
            if words.says("leaving") {
                world.nodes()[node].disk.decide(fate(words)?);
            }
            world.kill(node, Power::Stays);
        }
        "power-cut" => world.kill(node(world, words)?, Power::Cut),
        "restart" => {
            let node = node(world, words)?;
            if words.says("restored") {
                world.renew_lane(node).map_err(|error| error.to_string())?;
            }
            world.restart(node);
        }
        "lose-index" => world.lose_index(node(world, words)?),
        "stall" => {
            let (node, span) = (node(world, words)?, words.span()?);
            world.nodes()[node].disk.stall(world.now() + span);
        }
        "disk" => {
            let (node, fault) = (node(world, words)?, fault(words)?);
            world.nodes()[node].disk.fail_next(fault);
        }
        "pause" => world.pause(node(world, words)?),
        "go-on" => world.resume_process(node(world, words)?),
        "clock" => {
            let (node, word) = (node(world, words)?, words.next("a jump like +1h")?);
            world.jump_clock(node, jump(&word)?);
        }
        "twin" => {
            world.twin(node(world, words)?);
        }
        "namesake" => {
            world.namesake(node(world, words)?);
        }
        "back-up" => world.back_up(node(world, words)?),
        "from-backup" => {
            if !world.put_backup_back(node(world, words)?) {
                return Err("nobody has backed it up".into());
            }
        }
        "speaks" => {
            let (node, range) = (node(world, words)?, words.next("versions like 1..2")?);
            let (oldest, newest) = range.split_once("..").ok_or("versions are like 1..2")?;
            let number = |word: &str| word.parse().map_err(|_| "versions are numbers".to_owned());
            let protocols = Protocols { oldest: number(oldest)?, newest: number(newest)? };
            world.set_protocols(node, protocols);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn fate(words: &mut Words) -> Result<Fate, String> {
    match words.next("what is left")?.as_str() {
        "lost" => Ok(Fate::Lost),
        "unsynced" => Ok(Fate::Unsynced),
        "synced" => Ok(Fate::Synced),
        other => Err(format!("a write is left lost, unsynced or synced, but not {other}")),
    }
}

fn fault(words: &mut Words) -> Result<Fault, String> {
    match words.next("what is wrong with it")?.as_str() {
        "sync-fails" => Ok(Fault::SyncFails),
        "full" => Ok(Fault::Full),
        "unknown-never" => Ok(Fault::UnknownNever),
        "unknown-later" => Ok(Fault::UnknownLater),
        other => Err(format!("{other} is nothing that disks have")),
    }
}

fn jump(word: &str) -> Result<i64, String> {
    let wrong = || format!("{word} is not a jump like +1h or -10s");
    let (sign, span) = word.split_at_checked(1).ok_or_else(wrong)?;
    let span = super::words::parse_span(span).ok_or_else(wrong)?;
    let ms = i64::try_from(span.as_millis()).map_err(|_| wrong())?;
    match sign {
        "+" => Ok(ms),
        "-" => Ok(-ms),
        _ => Err(wrong()),
    }
}
