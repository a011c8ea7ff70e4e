//! What is known of one object, here and at the nodes it went to or came from.
//!
//! The question goes from node to node over the links: at most `max_hops` far, for a bounded time,
//! never to a lane that has been asked. Where nodes share a store, the histories that nodes have left
//! there are asked last. What could not be asked makes the answer incomplete.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dpc_core::Answer;
use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::input::Operator;
use dpc_core::names::Name;
use dpc_core::refusal::{Code, Refusal};
use dpc_core::view::{Ended, State, View};
use dpc_proto::v1;
use tokio::time::Instant;
use tonic::Status;
use v1::told::Answer as Known;

use super::hub::Hub;
use crate::history::shared::finding::{Lanes, Story};
use crate::history::{Finished, Outcome, TraceLine};
use crate::link::Link;
use crate::wire::link::{fixed, lane_from_wire};
use crate::wire::{error, view};

/// What each node on the way keeps of the time for its own answer.
const HOP_SHARE: Duration = Duration::from_millis(100);

/// The most decisions of an answer.
const DECISIONS_MAX: usize = 1_000;

/// A question on its way.
struct Question {
    id: ObjectId,
    kind: v1::InspectKind,
    hops_left: u32,
    deadline: Instant,
    visited: BTreeSet<LaneId>,
    /// Where histories of other lanes are asked: at the node that a client has asked.
    asks_store: bool,
}

/// What is known, and how much of what could be known that is.
struct Found {
    known: Option<Known>,
    complete: bool,
    asked: Vec<String>,
    /// Who would know more and cannot be asked.
    missing: Vec<Missing>,
}

/// Somebody who cannot be asked.
enum Missing {
    Lane(LaneId),
    Node(Name),
}

/// Answers a client's question.
pub(crate) async fn inspect(
    hub: &Arc<Hub>,
    id: ObjectId,
    kind: v1::InspectKind,
    local: bool,
) -> Result<Known, Status> {
    let question = Question {
        id,
        kind,
        hops_left: if local { 0 } else { hub.limits.max_hops },
        deadline: Instant::now() + hub.bounds.follow,
        visited: BTreeSet::new(),
        asks_store: !local,
    };
    let mut found = question.answer(hub).await?;
    if local {
        // Nobody else was to be asked: the answer is all that this node knows.
        found.complete |= found.known.is_some();
    }
    found.into_answer(id)
}

/// Answers a peer's question.
pub(crate) async fn answer_ask(hub: &Arc<Hub>, ask: v1::Ask) -> v1::Told {
    let answer = match ask.inspect.ok_or_else(|| error::malformed("an ask without a question")) {
        Ok(inspect) => answer_inspect(hub, inspect, ask.hops_left, ask.wait_ms).await,
        Err(status) => Err(status),
    };
    let answer = answer.unwrap_or_else(|status| {
        let code =
            if status.code() == tonic::Code::NotFound { Code::NotFound } else { Code::Unavailable };
        let reason = if code == Code::NotFound { "OBJECT_UNKNOWN" } else { "NODE_UNREACHABLE" };
        Known::Error(error::refused(&Refusal::new(code, reason, status.message()), ""))
    });
    v1::Told { ask: ask.ask, answer: Some(answer) }
}

async fn answer_inspect(
    hub: &Arc<Hub>,
    inspect: v1::Inspect,
    hops_left: u32,
    wait_ms: u32,
) -> Result<Known, Status> {
    let malformed = |bad: crate::wire::link::BadMessage| error::malformed(&bad.0);
    let id = ObjectId(fixed("id", &inspect.id).map_err(malformed)?);
    let lanes = inspect.asked_lanes.iter().map(|lane| lane_from_wire(lane));
    let visited = lanes.collect::<Result<BTreeSet<LaneId>, _>>().map_err(malformed)?;
    let wait = Duration::from_millis(u64::from(wait_ms)).min(hub.bounds.follow);
    let question = Question {
        id,
        kind: inspect.kind(),
        hops_left: hops_left.min(hub.limits.max_hops),
        deadline: Instant::now() + wait,
        visited,
        asks_store: false,
    };
    question.answer(hub).await?.into_answer(id)
}

impl Question {
    async fn answer(mut self, hub: &Arc<Hub>) -> Result<Found, Status> {
        self.visited.insert(hub.identity.lane);
        let here = self.here(hub).await?;
        let mut found = Found {
            known: None,
            complete: true,
            asked: vec![hub.identity.name.as_str().to_owned()],
            missing: Vec::new(),
        };
        let targets = self.targets(hub, here.as_ref(), &mut found);
        if let Some(view) = &here {
            found.known = Some(self.known_here(hub, view, &mut found.complete).await);
        } else if self.kind == v1::InspectKind::Trace {
            found.known = self.trace_of_unknown(hub).await;
        }
        for link in targets {
            if here.is_none() && found.known.is_some() && self.kind != v1::InspectKind::Trace {
                break;
            }
            self.ask_peer(&link, &mut found).await;
        }
        self.ask_store(hub, &mut found).await;
        found.complete &= found.missing.is_empty();
        Ok(found)
    }

    /// Asks the histories of lanes that nodes have left in a shared store. An adopted lane has no
    /// other history than that.
    async fn ask_store(&self, hub: &Arc<Hub>, found: &mut Found) {
        let Some(finding) = &hub.stories else { return };
        let is_wanted = found.known.is_none() || self.kind == v1::InspectKind::Trace;
        let lanes = match &hub.history {
            None => Lanes::Only(hub.identity.lane),
            Some(_) if self.asks_store => {
                let mut asked = self.visited.clone();
                if found.known.is_none() {
                    // Its own disk may have lost what it had.
                    asked.remove(&hub.identity.lane);
                }
                Lanes::Except(asked)
            }
            Some(_) => return,
        };
        if !is_wanted {
            return;
        }
        let now = hub.clock.now().wall;
        let asking = finding.stories(self.id, &lanes, now);
        match tokio::time::timeout_at(self.deadline, asking).await {
            Ok(Ok(stories)) => {
                stories.iter().for_each(|story| found.add_story(story, self.kind));
                self.note_way_on(&stories, found);
            }
            Ok(Err(error)) => {
                tracing::warn!("the histories in the store do not answer: {error}");
                found.complete = false;
            }
            Err(_) => found.complete = false,
        }
        if hub.history.is_none() && found.known.is_none() {
            // The last part of an adopted lane's history is written when the lane ends.
            found.complete = false;
        }
        found.asked.push("the store".to_owned());
    }

    /// An object that has moved on from a lane whose node is gone, to one that cannot be asked.
    fn note_way_on(&self, stories: &[Story], found: &mut Found) {
        let Some(Outcome::Moved { transfer, .. }) =
            stories.first().and_then(|story| story.end.as_ref()).map(|end| &end.outcome)
        else {
            return;
        };
        let to = transfer.receiver;
        if !self.visited.contains(&to) && stories.iter().all(|story| story.lane != to) {
            found.missing.push(Missing::Lane(to));
        }
    }

    /// What core or the history knows here.
    async fn here(&self, hub: &Arc<Hub>) -> Result<Option<View>, Status> {
        match hub.operator(Operator::Inspect(self.id)).await {
            Ok(Answer::View(view)) if view.state != State::Unknown => return Ok(Some(*view)),
            Ok(Answer::View(_)) => {}
            Ok(other) => unreachable!("core answers Inspect with {other}"),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
        let Some(history) = &hub.history else { return Ok(None) };
        match history.object(self.id).await {
            Ok(finished) => Ok(finished.map(|finished| view_of_finished(&finished))),
            Err(problem) => {
                tracing::debug!("history: {problem}");
                Ok(None)
            }
        }
    }

    /// Who may know more, in the order in which they are asked.
    fn targets(&self, hub: &Hub, here: Option<&View>, found: &mut Found) -> Vec<Arc<Link>> {
        let mut links = hub.links.ready_links();
        links.retain(|(_, lane, _)| !self.visited.contains(lane));
        let wanted: Vec<Arc<Link>> = match here {
            // Nobody here has heard of it: whoever can be asked is asked.
            None => links.into_iter().map(|(_, _, link)| link).collect(),
            Some(view) => {
                let moved_on = view.moved_to.as_ref().filter(|_| view.state == State::Moved);
                let next = moved_on.map(|(_, lane)| *lane);
                let before =
                    view.came_from.as_ref().filter(|_| self.kind == v1::InspectKind::Trace);
                let has = |lane: LaneId| links.iter().any(|(_, known, _)| *known == lane);
                let unknown = |lane: &LaneId| !has(*lane) && !self.visited.contains(lane);
                found.missing.extend(next.filter(unknown).map(Missing::Lane));
                let unknown = |name: &&Name| !links.iter().any(|(known, _, _)| known == *name);
                if self.visited.len() == 1 {
                    let node = before.filter(unknown).cloned();
                    found.missing.extend(node.map(Missing::Node));
                }
                links
                    .into_iter()
                    .filter(|(name, lane, _)| Some(*lane) == next || Some(name) == before)
                    .map(|(_, _, link)| link)
                    .collect()
            }
        };
        if self.hops_left == 0 {
            found.complete &= wanted.is_empty();
            return Vec::new();
        }
        wanted
    }

    async fn known_here(&self, hub: &Arc<Hub>, object: &View, complete: &mut bool) -> Known {
        match self.kind {
            v1::InspectKind::Trace => {
                let decisions = self.decisions(hub, complete).await;
                let mut trace = v1::TraceObjectResponse { decisions, ..Default::default() };
                shorten(&mut trace, complete);
                Known::Trace(trace)
            }
            kind => known(kind, object, &hub.identity.name),
        }
    }

    /// Decisions about an object that is forgotten here but for its trace.
    async fn trace_of_unknown(&self, hub: &Arc<Hub>) -> Option<Known> {
        let mut complete = true;
        let decisions = self.decisions(hub, &mut complete).await;
        (!decisions.is_empty())
            .then(|| Known::Trace(v1::TraceObjectResponse { decisions, ..Default::default() }))
    }

    async fn decisions(&self, hub: &Arc<Hub>, complete: &mut bool) -> Vec<v1::Decision> {
        let Some(history) = &hub.history else {
            *complete = false;
            return Vec::new();
        };
        let trace = match history.trace(self.id).await {
            Ok(trace) => trace,
            Err(problem) => {
                tracing::debug!("history: {problem}");
                *complete = false;
                return Vec::new();
            }
        };
        *complete &= trace.dropped == 0 && !trace.detail_dropped;
        let here = &hub.identity.name;
        trace.lines.iter().map(|line| step(line, here)).collect()
    }

    /// Asks one peer and adds what it knows.
    async fn ask_peer(&mut self, link: &Link, found: &mut Found) {
        let Some((name, lane)) = link.peer() else { return };
        if !self.visited.insert(lane) {
            return;
        }
        let wait =
            self.deadline.saturating_duration_since(Instant::now()).saturating_sub(HOP_SHARE);
        let inspect = v1::Inspect {
            id: bytes::Bytes::copy_from_slice(&self.id.0),
            kind: self.kind.into(),
            asked_lanes: self
                .visited
                .iter()
                .filter(|visited| **visited != lane)
                .map(|lane| bytes::Bytes::copy_from_slice(&lane.0))
                .collect(),
        };
        let asking = link.ask(inspect, self.hops_left - 1, wait);
        let told = tokio::time::timeout(wait, asking).await.ok().flatten();
        match told.and_then(|told| told.answer) {
            Some(Known::Error(error)) if error.code == i32::from(tonic::Code::NotFound) => {
                found.asked.push(name.as_str().to_owned());
            }
            None | Some(Known::Error(_)) => found.complete = false,
            Some(known) => found.add(known),
        }
    }
}

impl Found {
    /// Adds what a peer knows: it is nearer to the object than this node, or has its own part of
    /// the trace.
    fn add(&mut self, theirs: Known) {
        match theirs {
            Known::Object(mut theirs) => {
                self.complete &= theirs.complete;
                self.asked.append(&mut theirs.asked);
                self.known = Some(Known::Object(theirs));
            }
            Known::Why(mut theirs) => {
                self.complete &= theirs.complete;
                self.asked.append(&mut theirs.asked);
                self.known = Some(Known::Why(theirs));
            }
            Known::Trace(mut theirs) => {
                self.complete &= theirs.complete;
                self.asked.append(&mut theirs.asked);
                if let Some(Known::Trace(ours)) = &mut self.known {
                    ours.decisions.append(&mut theirs.decisions);
                    shorten(ours, &mut self.complete);
                } else {
                    self.known = Some(Known::Trace(theirs));
                }
            }
            Known::Error(_) => {}
        }
    }

    /// Adds what the history of a lane tells that was left in the store.
    fn add_story(&mut self, story: &Story, kind: v1::InspectKind) {
        let Ok(node) = Name::new("node", &story.node) else {
            tracing::warn!(lane = %story.lane, node = %story.node, "no node has such a name");
            self.complete = false;
            return;
        };
        if kind == v1::InspectKind::Trace {
            self.complete &= story.whole;
            if story.whole {
                let adopted = format!(".{}", story.lane.short());
                self.missing.retain(|missing| match missing {
                    Missing::Lane(lane) => *lane != story.lane,
                    Missing::Node(name) => *name != node && !name.as_str().ends_with(&adopted),
                });
            }
            let decisions: Vec<_> = story.lines.iter().map(|line| step(line, &node)).collect();
            if !decisions.is_empty() {
                let complete = true;
                let trace = v1::TraceObjectResponse { decisions, complete, ..Default::default() };
                self.add(Known::Trace(trace));
            }
            return;
        }
        let Some(end) = story.end.as_ref().filter(|_| self.known.is_none()) else { return };
        let mut view = view_of_finished(end);
        view.text = format!(
            "It is {} at node {node}, known from the history that the node has left in the store.",
            view.state.as_str()
        );
        self.known = Some(known(kind, &view, &node));
    }

    /// The answer, or why there is none.
    fn into_answer(mut self, id: ObjectId) -> Result<Known, Status> {
        let asked = std::mem::take(&mut self.asked);
        let complete = self.complete;
        match self.known {
            Some(Known::Object(object)) => {
                Ok(Known::Object(v1::GetObjectResponse { complete, asked, ..object }))
            }
            Some(Known::Why(why)) => {
                Ok(Known::Why(v1::WhyObjectResponse { complete, asked, ..why }))
            }
            Some(Known::Trace(trace)) => {
                Ok(Known::Trace(v1::TraceObjectResponse { complete, asked, ..trace }))
            }
            Some(Known::Error(_)) | None => Err(unknown(id, complete, &asked)),
        }
    }
}

/// What a node knows of an object, but for its trace.
fn known(kind: v1::InspectKind, object: &View, node: &Name) -> Known {
    if kind == v1::InspectKind::Why {
        let why = Some(view::object_why(object, node));
        return Known::Why(v1::WhyObjectResponse { why, ..Default::default() });
    }
    let object = Some(view::object_info(object, node, true));
    Known::Object(v1::GetObjectResponse { object, ..Default::default() })
}

fn step(line: &TraceLine, node: &Name) -> v1::Decision {
    let decision = dpc_core::decision::Decision {
        at: line.at,
        step: line.step,
        chosen: line.chosen.clone(),
        generation: line.generation,
        candidates: line.candidates.clone(),
    };
    view::decision(&decision, node, line.loc.record.0, line.moves)
}

fn unknown(id: ObjectId, complete: bool, asked: &[String]) -> Status {
    let asked = asked.join(", ");
    let refusal = if complete {
        Refusal::new(
            Code::NotFound,
            "OBJECT_UNKNOWN",
            format!("no node that could be asked knows object {id} (asked: {asked})"),
        )
    } else {
        Refusal::new(
            Code::Unavailable,
            "NODE_UNREACHABLE",
            format!(
                "not known at {asked}; not every node that may know object {id} could be asked"
            ),
        )
        .retry_after(dpc_core::time::Span::secs(1))
    };
    error::status(&Refusal { field: Some("id"), ..refusal }.given(id))
}

/// Sorts a trace by the object's way through nodes, and keeps the latest of too many decisions.
fn shorten(trace: &mut v1::TraceObjectResponse, complete: &mut bool) {
    trace.decisions.sort_by_key(|decision| (decision.moves, decision.lane_number));
    if trace.decisions.len() > DECISIONS_MAX {
        trace.decisions.drain(..trace.decisions.len() - DECISIONS_MAX);
        *complete = false;
    }
}

/// A finished object of the history as core would show it.
pub(crate) fn view_of_finished(finished: &Finished) -> View {
    let state = match &finished.outcome {
        Outcome::Final => State::Final,
        Outcome::Discarded(_) => State::Discarded,
        Outcome::Moved { .. } => State::Moved,
    };
    let mut view = View::new(finished.id, state);
    view.ended = Some(Ended {
        ty: finished.ty.clone(),
        version: finished.version,
        by: finished.by.clone(),
        at: finished.at,
        moves: finished.moves,
        size: finished.size,
        hash: finished.hash,
        pushed_at: finished.pushed_at,
    });
    view.text = format!("It is {} here, known from the history.", state.as_str());
    match &finished.outcome {
        Outcome::Final => {}
        Outcome::Discarded(reason) => view.reason = Some(Arc::clone(reason)),
        Outcome::Moved { transfer, receiver } => {
            view.moved_to = receiver.clone().map(|name| (name, transfer.receiver));
        }
    }
    view
}
