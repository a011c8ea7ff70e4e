//! What may happen in a run, as explicit data: a schedule can be printed, cut down and run again.

use std::fmt;

use dpc_core::ids::ObjectId;
use dpc_core::input::Operator;
use dpc_core::object::{Push, Time};
use dpc_core::time::{Mono, Span};

use super::profile::Family;
use crate::contract::Fault;
use crate::shared::Rates;
use crate::store::Damage;
use crate::trace::{as_processor, order_line};
use crate::world::{BadEmits, CrashPoint, Forgery, Mode, Power, Wish};

/// One action of a schedule.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its number in the whole schedule: it keeps it when others are left out.
    pub n: usize,
    /// When, from the beginning of the run on.
    pub at: Mono,
    /// What it belongs to.
    pub family: Family,
    /// What happens.
    pub action: Action,
}

/// Everything that will happen to a run, in order.
pub type Schedule = Vec<Step>;

/// How a push is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// A new id.
    New,
    /// The same content under the same id, at the same node.
    Again,
    /// The same id at another node.
    Elsewhere,
    /// Other content under the same id.
    Changed,
}

/// Something that happens. Nodes, wires and clients are counted from 0; a client that has not
/// subscribed (its subscription was left out) does nothing.
#[derive(Clone, Debug)]
pub enum Action {
    /// A client pushes; without an answer it says it again, perhaps at another node.
    Push {
        /// The node.
        node: usize,
        /// What.
        push: Push,
        /// How it is meant.
        how: Pushed,
        /// How often it is said again.
        retries: u32,
        /// Where it is said again.
        retry_at: usize,
    },
    /// A client subscribes.
    Subscribe {
        /// The client's number.
        client: usize,
        /// What it wants.
        wish: Wish,
    },
    /// A client's subscription ends.
    Unsubscribe(usize),
    /// A client vanishes with its leases.
    Leave(usize),
    /// A client loses its stream and comes back.
    Reconnect(usize),
    /// A client ends its subscription and subscribes again on the same stream.
    SubscribeAgain(usize),
    /// A client sets its credit.
    Credit(usize, u32),
    /// A unary receive.
    Take {
        /// The node.
        node: usize,
        /// The type or prefix.
        pattern: &'static str,
        /// The processor.
        processor: &'static str,
        /// The most objects.
        count: u32,
        /// What is done with them.
        mode: Mode,
    },
    /// A client settles its oldest delivery, and once more.
    SettleTwice {
        /// The client.
        client: usize,
        /// How.
        first: Mode,
        /// How the second time, if differently.
        second: Option<Mode>,
    },
    /// A client settles several deliveries and may push, all or nothing.
    Transact {
        /// The client.
        client: usize,
        /// How each is settled.
        modes: Vec<Mode>,
        /// The type of what is pushed.
        push: Option<&'static str>,
    },
    /// A person orders something.
    Operate(usize, Operator),
    /// A process dies.
    Kill(usize, Power),
    /// A process dies when it comes to this point, so many times.
    CrashAt {
        /// The node.
        node: usize,
        /// Where in the life of a record.
        point: CrashPoint,
        /// How it dies.
        power: Power,
        /// How often; each time it starts again at once.
        times: u32,
    },
    /// A dead process starts again.
    Restart(usize),
    /// A process is stopped.
    Pause(usize),
    /// A stopped process goes on.
    Resume(usize),
    /// A link is cut; each side notices in its own time, at most so late.
    Cut(usize, Span),
    /// A cut ends.
    Heal(usize),
    /// A link breaks and is dialled again.
    Break(usize),
    /// Nothing arrives over a link.
    Hold(usize),
    /// What was held arrives.
    LetGo(usize),
    /// Nothing arrives at this end of a link.
    HoldWay(usize, usize),
    /// Messages of a link follow each other at least so far apart; zero ends it.
    Throttle(usize, Span),
    /// Messages of a link need so much longer; zero ends it.
    Slow(usize, Span),
    /// The next append of a disk ends this way.
    DiskFault(usize, Fault),
    /// The next read of a disk fails.
    ReadFails(usize),
    /// A disk answers nothing for so long.
    Stall(usize, Span),
    /// A disk holds at most so many bytes more; none for no limit.
    Fill(usize, Option<u64>),
    /// A node is told whether its disk is below its reserve.
    DiskLow(usize, bool),
    /// A committed record is damaged, chosen by its place in the log in thousandths.
    Damage(usize, Damage, u64),
    /// A copy of a disk is kept.
    BackUp(usize),
    /// A disk is put back to the copy, and the node starts as if nothing had happened.
    PutBack(usize),
    /// A disk is lost, and the node starts with an empty one.
    ReplaceDisk(usize),
    /// A client settles something that it, or another one, was given long ago, by its token.
    SettleOld {
        /// Where.
        node: usize,
        /// Which: so many deliveries ago.
        ago: usize,
    },
    /// A client settles two things at once that two nodes gave, by their tokens.
    SettleMixed {
        /// Where.
        node: usize,
        /// The first: so many deliveries ago.
        ago: usize,
    },
    /// A client settles with a token that nobody was given.
    SettleForged {
        /// Where.
        node: usize,
        /// Which delivery's token is changed.
        ago: usize,
        /// What of it.
        how: Forgery,
    },
    /// A client settles a delivery of another stream as its own.
    SettleOfOther(usize, usize),
    /// A client settles its oldest delivery with emits that cannot be.
    BadEmits(usize, BadEmits),
    /// A client subscribes as nobody can.
    BadSubscribe(usize),
    /// A client begins to work on its oldest delivery, or goes on.
    Extend(usize),
    /// A wall clock jumps by so many milliseconds.
    ClockJump(usize, i64),
    /// A wall clock runs too fast by so many millionths.
    ClockDrift(usize, i64),
    /// The shared store meets each request with faults at these rates.
    Store(Rates),
    /// A process is cut off from the shared store for so long.
    StoreCut(usize, Span),
    /// A process dies and never comes back.
    Gone(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:<4} {:>9} {}", self.n, self.at.to_string(), self.action)
    }
}

/// Names of nodes as traces write them.
fn n(node: usize) -> String {
    format!("n{}", node + 1)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push { node, push, how, retries, .. } => {
                push_text(f, *node, push, *how, *retries)
            }
            Self::Subscribe { client, wish } => write!(
                f,
                "client {client} subscribes at {} to {}{}, credit {}, then {:?}",
                n(wish.node),
                wish.pattern,
                as_processor(&wish.processor),
                wish.credit,
                wish.mode
            ),
            Self::Unsubscribe(client) => write!(f, "client {client} unsubscribes"),
            Self::Leave(client) => write!(f, "client {client} vanishes"),
            Self::Reconnect(client) => write!(f, "client {client} loses its stream"),
            Self::SubscribeAgain(client) => write!(f, "client {client} subscribes again"),
            Self::Credit(client, credit) => write!(f, "client {client} sets credit {credit}"),
            Self::Take { node, pattern, processor, count, mode } => write!(
                f,
                "take {count} of {pattern} at {}{}, then {mode:?}",
                n(*node),
                as_processor(processor)
            ),
            Self::SettleTwice { client, first, second: None } => {
                write!(f, "client {client} settles the same twice: {first:?}")
            }
            Self::SettleTwice { client, first, second: Some(second) } => {
                write!(f, "client {client} settles twice: {first:?}, then {second:?}")
            }
            Self::Transact { client, modes, push } => {
                write!(f, "client {client}: transaction of {modes:?}")?;
                push.map_or(Ok(()), |ty| write!(f, " and a push of {ty}"))
            }
            Self::Operate(node, order) => f.write_str(&order_line(&n(*node), order)),
            Self::Kill(node, Power::Stays) => write!(f, "kill {}", n(*node)),
            Self::Kill(node, Power::Cut) => write!(f, "power cut at {}", n(*node)),
            Self::CrashAt { node, point, power, times } => {
                let how = if *power == Power::Cut { "loses power" } else { "dies" };
                write!(f, "{} {how} {point}, {times} times", n(*node))
            }
            Self::Restart(node) => write!(f, "restart {}", n(*node)),
            Self::Pause(node) => write!(f, "pause {}", n(*node)),
            Self::Resume(node) => write!(f, "{} goes on", n(*node)),
            _ => self.fmt_edges(f),
        }
    }
}

impl Action {
    /// Links, disks and clocks.
    fn fmt_edges(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(wire, notice) => write!(f, "cut link {wire}, noticed within {notice}"),
            Self::Heal(wire) => write!(f, "link {wire} heals"),
            Self::Break(wire) => write!(f, "link {wire} breaks"),
            Self::Hold(wire) => write!(f, "link {wire} holds everything"),
            Self::LetGo(wire) => write!(f, "link {wire} lets go"),
            Self::HoldWay(wire, side) => write!(f, "nothing arrives at end {side} of link {wire}"),
            Self::Throttle(wire, gap) => write!(f, "link {wire}: one message each {gap}"),
            Self::Slow(wire, extra) => write!(f, "link {wire} is slower by {extra}"),
            Self::DiskFault(node, fault) => write!(f, "next append of {}: {fault:?}", n(*node)),
            Self::ReadFails(node) => write!(f, "next read of {} fails", n(*node)),
            Self::Stall(node, span) => write!(f, "disk of {} stalls for {span}", n(*node)),
            Self::Fill(node, Some(bytes)) => write!(f, "disk of {} has {bytes} B left", n(*node)),
            Self::Fill(node, None) => write!(f, "disk of {} has room", n(*node)),
            Self::DiskLow(node, true) => write!(f, "disk of {} is below its reserve", n(*node)),
            Self::DiskLow(node, false) => write!(f, "disk of {} is above its reserve", n(*node)),
            Self::ClockJump(node, ms) => write!(f, "clock of {} jumps by {ms} ms", n(*node)),
            Self::ClockDrift(node, ppm) => write!(f, "clock of {} drifts by {ppm} ppm", n(*node)),
            Self::Damage(node, kind, at) => write!(f, "{kind:?} on the disk of {}, {at}", n(*node)),
            Self::BackUp(node) => write!(f, "backup of {}", n(*node)),
            Self::PutBack(node) => write!(f, "{} is put back to its backup", n(*node)),
            Self::ReplaceDisk(node) => write!(f, "{} loses its disk", n(*node)),
            Self::SettleOld { node, ago } => write!(f, "settle of {ago} ago at {}", n(*node)),
            Self::SettleMixed { node, ago } => {
                write!(f, "mixed settle of {ago} ago at {}", n(*node))
            }
            Self::SettleForged { node, how, .. } => write!(f, "forged at {}: {how:?}", n(*node)),
            Self::SettleOfOther(client, other) => {
                write!(f, "client {client} settles what client {other} holds")
            }
            Self::BadEmits(client, how) => write!(f, "client {client} emits badly: {how:?}"),
            Self::BadSubscribe(client) => write!(f, "client {client} subscribes badly"),
            Self::Extend(client) => write!(f, "client {client} begins or extends"),
            Self::Store(rates) => write!(f, "the store: {rates}"),
            Self::StoreCut(node, span) => {
                write!(f, "{} is cut off from the store for {span}", n(*node))
            }
            Self::Gone(node) => write!(f, "{} is gone for ever", n(*node)),
            other => unreachable!("{other:?} is written by its own line"),
        }
    }
}

fn push_text(
    f: &mut fmt::Formatter<'_>,
    node: usize,
    push: &Push,
    how: Pushed,
    retries: u32,
) -> fmt::Result {
    let id: ObjectId = push.id.expect("the swarm chooses ids");
    let (id, ty) = (dpc_core::message::short_id(&id), &push.entity().ty);
    let bytes = push.entity().payload.len();
    write!(f, "push {id} {ty} at {}, {bytes} B, {how:?}", n(node))?;
    for (name, time) in [("delay", push.not_before), ("expires", push.expires_at)] {
        if let Some(Time::In(span)) = time {
            write!(f, ", {name} {span}")?;
        }
    }
    if retries > 0 { write!(f, ", {retries} retries") } else { Ok(()) }
}
