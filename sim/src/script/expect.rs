//! What a scenario must show, beyond its trace.
//!
//! | expectation | is met when |
//! |---|---|
//! | `expect obj 7 final [n1]` | its log says so at one node, and it is alive nowhere |
//! | `expect obj 7 discarded [n1]` | the same for an end without success |
//! | `expect obj 7 flows n1`, `parked n1 ["why"]`, `held n1` | it stands so there, and in the flow of no other node that runs |
//! | `expect obj 7 ends N` | so many nodes have it final: more than one only after a reclaim |
//! | `expect obj 7 moves N`, `failed N` | so many handoffs, failed deliveries; counted since it was pushed |
//! | `expect obj 7 deliveries COUNT` | delivered so often since the mark |
//! | `expect obj 7 within 5s` | delivered since the mark, at the latest so long after it |
//! | `expect obj 7 possible-duplicate`, `certain` | its last delivery said so, or did not |
//! | `expect handoffs COUNT` | objects handed over since the mark, by all nodes |
//! | `expect n1 DOES WORDS COUNT`, `expect all DOES WORDS COUNT` | done so often since the mark, in words that contain these; `anything` is every word |
//! | `expect n1 DOES WORDS within 5s` | done since the mark, at the latest so long after it |
//! | `expect n1 TYPE ready N` and `leased`, `delayed`, `parked`, `offered`, `held` | what `dpc type ls` says there |
//! | `expect linked n1 n2 [protocol N]`, `expect unlinked n1 n2` | what `dpc node ls` says at n1 |
//! | `expect up n1`, `expect down n1` | its process runs, or does not |
//! | `expect node n1 keeps WORD N` | its core keeps so many facts of a kind: `taken`, `forgotten`, `held`, `moved`, `verdict`, … |
//! | `expect generations grow` | no origin ever told a demand again that is not newer than before a restart |
//! | `expect adverts news` | no advert repeated what had been said over its link |
//!
//! A COUNT is `never`, `once`, `twice`, `N times`, `at-most N times` or `at-least N times`.

use dpc_core::Answer;
use dpc_core::effect::{NodeView, TypeView};
use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::input::Operator;
use dpc_core::message::short_id;
use dpc_core::record::{End, Ending, Standing};
use dpc_core::time::Span;

use super::steps::node;
use super::words::{Words, parse_span};
use crate::checks::Thing;
use crate::trace::deed;
use crate::world::World;

/// How often something must have happened.
#[derive(Clone, Copy, Debug)]
enum Count {
    Exactly(u64),
    AtMost(u64),
    AtLeast(u64),
}

impl Count {
    fn check(self, what: &str, found: u64) -> Result<(), String> {
        let (met, wanted) = match self {
            Self::Exactly(n) => (found == n, format!("{n}")),
            Self::AtMost(n) => (found <= n, format!("at most {n}")),
            Self::AtLeast(n) => (found >= n, format!("at least {n}")),
        };
        if met { Ok(()) } else { Err(format!("{what}: {wanted} expected, {found} found")) }
    }

    /// Takes a count from the end of the words.
    fn from_end(words: &mut Words) -> Result<Self, String> {
        let wrong = || "how often: never, once, twice, or N times".to_owned();
        let last = words.left.pop_back().ok_or_else(wrong)?;
        match last.as_str() {
            "never" => return Ok(Self::Exactly(0)),
            "once" => return Ok(Self::Exactly(1)),
            "twice" => return Ok(Self::Exactly(2)),
            "times" => {}
            _ => return Err(wrong()),
        }
        let n = words.left.pop_back().and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        let of = match words.left.back().map(String::as_str) {
            Some("at-most") => Self::AtMost(n),
            Some("at-least") => Self::AtLeast(n),
            _ => return Ok(Self::Exactly(n)),
        };
        words.left.pop_back();
        Ok(of)
    }
}

/// How often, or by when.
enum How {
    Often(Count),
    Within(Span),
}

impl How {
    fn from_end(words: &mut Words) -> Result<Self, String> {
        let at = words.left.len().checked_sub(2);
        if let Some(at) = at.filter(|at| words.left[*at] == "within") {
            let span = words.left.split_off(at);
            let wrong = || format!("{} is not a time like 5s or 20ms", span[1]);
            return Ok(Self::Within(parse_span(&span[1]).ok_or_else(wrong)?));
        }
        Count::from_end(words).map(Self::Often)
    }
}

pub(super) fn expect(world: &mut World, verb: &str, words: &mut Words) -> Result<bool, String> {
    match verb {
        "mark" => world.set_mark(),
        "expect" => {
            let what = words.next("what")?;
            match what.as_str() {
                "obj" => object(world, words)?,
                "handoffs" => {
                    let since = world.checks.model.handoffs() - world.trace.ledger.mark.handoffs;
                    Count::from_end(words)?.check("handoffs", since as u64)?;
                }
                "linked" | "unlinked" => linked(world, what == "linked", words)?,
                "up" | "down" => {
                    let n = node(world, words)?;
                    let up = world.nodes()[n].is_up();
                    check(up == (what == "up"), || format!("its process runs: {up}"))?;
                }
                "generations" => {
                    words.expect("grow")?;
                    let fallen = world.trace.ledger.fallen_generations();
                    check(fallen.is_empty(), || fallen.join("; "))?;
                }
                "adverts" => {
                    words.expect("news")?;
                    let repeated = world.trace.ledger.repeated_adverts() as u64;
                    Count::Exactly(0).check("adverts that said nothing new", repeated)?;
                }
                "node" => keeps(world, words)?,
                who => deeds(world, who, words)?,
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn check(met: bool, else_say: impl FnOnce() -> String) -> Result<(), String> {
    if met { Ok(()) } else { Err(else_say()) }
}

/// `n1 sends Offer twice`, or `n1 img ready 3`.
fn deeds(world: &mut World, who: &str, words: &mut Words) -> Result<(), String> {
    let one = world.nodes().iter().position(|n| n.name.as_str() == who);
    if one.is_none() && who != "all" {
        return Err(format!("there is no node {who}"));
    }
    let does = words.next("what it does")?;
    match (one, deed(&does)) {
        (_, Ok(deed)) => {
            let how = How::from_end(words)?;
            let what = std::mem::take(&mut words.left).into_iter().collect::<Vec<_>>().join(" ");
            let who = one.map(|n| world.nodes()[n].name.to_string());
            let ledger = &world.trace.ledger;
            let mut found = ledger.since_mark(who.as_deref(), deed, &what);
            match how {
                How::Often(count) => count.check(&format!("{deed} {what}"), found.count() as u64),
                How::Within(span) => {
                    let first = found.next().ok_or_else(|| format!("{deed} {what}: never"))?;
                    let took = first.at - ledger.mark.at;
                    check(took <= span, || format!("{deed} {what}: it took {took}"))
                }
            }
        }
        (Some(node), Err(_)) => of_type(world, node, &does, words),
        (None, Err(wrong)) => Err(wrong),
    }
}

/// `n1 keeps taken 0`, as the digest of its core says.
fn keeps(world: &World, words: &mut Words) -> Result<(), String> {
    let n = node(world, words)?;
    words.expect("keeps")?;
    let (kind, wanted) = (words.next("what")?, words.number("how many")?);
    let core = world.nodes()[n].core().ok_or("it does not run")?;
    let is = |line: &&str| line.split(' ').next() == Some(kind.as_str());
    let found = core.digest().lines().filter(is).count() as u64;
    Count::Exactly(wanted).check(&format!("keeps {kind}"), found)
}

fn of_type(world: &mut World, node: usize, ty: &str, words: &mut Words) -> Result<(), String> {
    let (what, wanted) = (words.next("a state")?, words.number("how many")?);
    let Answer::Types(types) = world.ask_quietly(node, Operator::Types)? else {
        return Err("it does not tell its types".into());
    };
    let found = types.iter().find(|t| t.ty.as_str() == ty);
    let of = |get: fn(&TypeView) -> u64| found.map_or(0, get);
    let found = match what.as_str() {
        "ready" => of(|t| t.ready),
        "leased" => of(|t| t.leased),
        "delayed" => of(|t| t.delayed),
        "parked" => of(|t| t.parked),
        "offered" => of(|t| t.offered),
        "held" => of(|t| t.held),
        other => return Err(format!("{other} is no state of a type")),
    };
    Count::Exactly(wanted).check(&format!("{ty} {what}"), found)
}

fn linked(world: &mut World, wanted: bool, words: &mut Words) -> Result<(), String> {
    let (a, b) = (node(world, words)?, node(world, words)?);
    let Answer::Nodes(nodes) = world.ask_quietly(a, Operator::Nodes)? else {
        return Err("it does not tell its neighbours".into());
    };
    let lane = world.nodes()[b].lane;
    let is = |n: &&NodeView| n.lane == lane && !n.is_self && n.up;
    let link = nodes.iter().find(is);
    check(link.is_some() == wanted, || format!("linked: {}", link.is_some()))?;
    if let (Some(link), true) = (link, words.says("protocol")) {
        let protocol = words.number("the version")?;
        Count::Exactly(protocol).check("the protocol", u64::from(link.protocol))?;
    }
    Ok(())
}

/// Where an id is, as the committed records of the lanes in use say.
struct Places {
    alive: Vec<(LaneId, Thing)>,
    ends: Vec<(LaneId, End)>,
}

impl Places {
    fn of(world: &World, id: ObjectId) -> Self {
        let mut lanes: Vec<LaneId> = world.nodes().iter().map(|n| n.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        let (mut alive, mut ends) = (Vec::new(), Vec::new());
        for lane in lanes {
            let l = world.checks.model.lane(lane);
            alive.extend(l.alive(id).map(|thing| (lane, thing.clone())));
            ends.extend(l.ends(id).map(|end| (lane, end.clone())));
        }
        Self { alive, ends }
    }

    fn in_flow(&self) -> impl Iterator<Item = &(LaneId, Thing)> {
        let flows = |s: &Standing| matches!(s, Standing::Flowing | Standing::Parked(_));
        self.alive.iter().filter(move |(_, t)| flows(&t.standing))
    }

    fn ended(&self, how: fn(&Ending) -> bool) -> Vec<LaneId> {
        self.ends.iter().filter(|(_, e)| how(&e.ending)).map(|(lane, _)| *lane).collect()
    }

    fn tell(&self) -> String {
        let alive = self.alive.iter().map(|(l, t)| format!("{:?} at {}", t.standing, l.short()));
        let ends = self.ends.iter().map(|(l, e)| format!("{:?} at {}", e.ending, l.short()));
        alive.chain(ends).collect::<Vec<_>>().join(", ")
    }
}

fn object(world: &World, words: &mut Words) -> Result<(), String> {
    let id = words.id()?;
    let places = Places::of(world, id);
    let what = words.next("what it is")?;
    match what.as_str() {
        "final" => ended(world, words, &places, |e| matches!(e, Ending::Final)),
        "discarded" => ended(world, words, &places, |e| matches!(e, Ending::Discarded(_))),
        "flows" | "parked" | "held" => stands(world, words, &places, &what),
        "ends" => {
            let found = places.ended(|e| matches!(e, Ending::Final)).len();
            Count::Exactly(words.number("how often")?).check("final", found as u64)
        }
        "moves" => {
            let moves = places.in_flow().map(|(_, t)| t.object.moves);
            let ended = places.ends.iter().map(|(_, e)| e.moves);
            let found = moves.chain(ended).max().unwrap_or(0);
            Count::Exactly(words.number("how often")?).check("moves", u64::from(found))
        }
        "failed" => {
            let given = world.trace.ledger.given(id).last().map(|g| g.delivery.object.failed);
            let alive = places.in_flow().map(|(_, t)| t.object.failed).next();
            let found = alive.or(given).ok_or("nobody knows its failures")?;
            Count::Exactly(words.number("how often")?).check("failed", u64::from(found))
        }
        "deliveries" => {
            let count = Count::from_end(words)?;
            count.check("deliveries", world.trace.ledger.given(id).count() as u64)
        }
        "within" => {
            let (span, mark) = (words.span()?, world.trace.ledger.mark.at);
            let first = world.trace.ledger.given(id).next().ok_or("it was not delivered")?;
            let took = first.at - mark;
            check(took <= span, || format!("it took {took}"))
        }
        "possible-duplicate" | "certain" => {
            let last = world.trace.ledger.given(id).last().ok_or("it was not delivered")?;
            let flag = last.delivery.object.possible_duplicate;
            check(flag == (what != "certain"), || format!("flagged: {flag}"))
        }
        other => Err(format!("{other} is nothing that is expected of an object")),
    }
    .map_err(|wrong| format!("{}: {wrong} ({})", short_id(&id), places.tell()))
}

fn ended(
    world: &World,
    words: &mut Words,
    places: &Places,
    how: fn(&Ending) -> bool,
) -> Result<(), String> {
    let lanes = places.ended(how);
    check(lanes.len() == 1, || format!("it has ended so at {} nodes", lanes.len()))?;
    check(places.alive.is_empty(), || "it is alive, too".into())?;
    if words.left.is_empty() {
        return Ok(());
    }
    let lane = world.nodes()[node(world, words)?].lane;
    check(lanes == [lane], || "it has ended elsewhere".into())
}

fn stands(world: &World, words: &mut Words, places: &Places, how: &str) -> Result<(), String> {
    let lane = world.nodes()[node(world, words)?].lane;
    let there = places.alive.iter().find(|(l, _)| *l == lane);
    let (_, thing) = there.ok_or("it is not there")?;
    let (is, why) = match &thing.standing {
        Standing::Flowing => ("flows", ""),
        Standing::Parked(why) => ("parked", &**why),
        Standing::Held(_) | Standing::HeldParked(..) => ("held", ""),
        Standing::Shadow(_) => ("a shadow", ""),
    };
    check(is == how, || format!("there it is {is}"))?;
    if how == "parked" && !words.left.is_empty() {
        let words = words.next("the reason")?;
        check(why.contains(&words), || format!("it is parked because of: {why}"))?;
    }
    let up = |lane: LaneId| world.nodes().iter().any(|n| n.lane == lane && n.is_up());
    let others = places.in_flow().filter(|(l, _)| *l != lane && up(*l)).count();
    Count::Exactly(0).check("other nodes that have it in their flow", others as u64)
}
