//! The service of people who run nodes: look, explain, list, redrive, drain.

use std::sync::Arc;

use dpc_core::Answer;
use dpc_core::effect::TypeView;
use dpc_core::ids::ObjectId;
use dpc_core::input::{ListState, Operator, ReplyTo, Which};
use dpc_core::limits::LIST_MAX;
use dpc_core::names::{Name, Pattern, TypeName};
use dpc_core::refusal::{Code, Refusal};
use dpc_core::{Input, Span};
use dpc_proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use v1::operator_service_server::OperatorService;
use v1::told::Answer as Known;

use super::hub::{Drained, Hub, Phase};
use super::inspect::{inspect, view_of_finished};
use super::recording;
use super::tally::{Expect, Tally};
use crate::history::{ListQuery, OutcomeKind};
use crate::wire::{ITEMS_MAX, error, object, timestamp, view};

/// Entries of a list that asks for no number.
const LIST_DEFAULT: u32 = 100;

/// `dpc.v1.OperatorService`.
pub(crate) struct Desk {
    hub: Arc<Hub>,
}

impl Desk {
    /// The service over this hub.
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    async fn types(&self) -> Result<Vec<TypeView>, Status> {
        match self.hub.operator(Operator::Types).await? {
            Answer::Types(types) => Ok(types),
            other => unreachable!("core answers Types with {other}"),
        }
    }

    /// Living objects, one more than asked for where core gives that many, to see if there are more.
    async fn living(
        &self,
        pattern: Option<Pattern>,
        state: Option<ListState>,
        since: Option<dpc_core::Wall>,
        limit: u32,
    ) -> Result<(Vec<v1::ObjectInfo>, bool), Status> {
        let asked = (limit + 1).min(LIST_MAX);
        let list = Operator::List { pattern, state, since, limit: asked };
        let mut views = match self.hub.operator(list).await? {
            Answer::Views(views) => views,
            other => unreachable!("core answers List with {other}"),
        };
        let more =
            views.len() > limit as usize || (asked == limit && views.len() == asked as usize);
        views.truncate(limit as usize);
        let here = &self.hub.identity.name;
        let infos = views.iter().map(|found| view::object_info(found, here, false)).collect();
        Ok((infos, more))
    }

    /// Ended objects from the history.
    async fn ended(
        &self,
        pattern: Option<Pattern>,
        since: Option<dpc_core::Wall>,
        outcome: Option<OutcomeKind>,
        limit: u32,
    ) -> Result<(Vec<v1::ObjectInfo>, bool), Status> {
        let Some(history) = &self.hub.history else { return Ok((Vec::new(), false)) };
        let query = ListQuery { pattern, since, outcome, limit: (limit + 1).min(LIST_MAX) };
        let found = history.list(query).await.map_err(|problem| {
            error::status(
                &Refusal::new(Code::Unavailable, "HISTORY_UNAVAILABLE", problem.to_string())
                    .retry_after(Span::secs(1)),
            )
        })?;
        let more = found.objects.len() > limit as usize || !found.complete;
        let here = &self.hub.identity.name;
        let infos = found.objects.iter().take(limit as usize);
        let infos = infos.map(|f| view::object_info(&view_of_finished(f), here, false)).collect();
        Ok((infos, more))
    }

    /// One order over several ids: how many were done, and the refusals by position. Of one id, the
    /// refusal is the status.
    async fn each(
        &self,
        count: usize,
        inputs: impl FnOnce(dpc_core::ids::RequestId) -> Vec<Input>,
    ) -> Result<(u64, Vec<v1::Refused>), Status> {
        let mut call = self.hub.call();
        let inputs = inputs(call.request);
        let mut tally = Tally::default();
        let several = inputs.len() > 1;
        for seq in 0..inputs.len() as u64 {
            let expect = if several { Expect::One } else { Expect::leases(count) };
            tally.expect(seq, expect);
        }
        self.hub.feed(inputs, 32 * count).await;
        let (mut done, mut all_refused) = (0, Vec::new());
        while !tally.is_empty() {
            let (seq, answer) = call.next().await?;
            if let Answer::Done(n) = &answer {
                done += n;
            }
            let outcome = tally.answer(seq, &answer);
            if let Some(mut one) = outcome.refused {
                if several {
                    one.position = u32::try_from(seq).ok();
                }
                one.seq = 0;
                all_refused.push(one);
            }
        }
        match &all_refused[..] {
            [v1::Refused { error: Some(error), .. }] if count <= 1 => Err(error::status_of(error)),
            _ => Ok((done, all_refused)),
        }
    }

    async fn drain_state(&self) -> Result<v1::DrainNodeResponse, Status> {
        let types = self.types().await?;
        let leased = types.iter().map(|t| t.leased).sum();
        let drained = self.hub.drained().borrow().is_some();
        let staying = types.iter().map(|t| t.ready).sum();
        Ok(v1::DrainNodeResponse { drained, leased, staying })
    }
}

fn limit(given: Option<u32>) -> Result<u32, Status> {
    match given.unwrap_or(LIST_DEFAULT) {
        0 => Err(error::status(&Refusal {
            limit: Some(u64::from(LIST_MAX)),
            ..Refusal::invalid(
                "limit",
                "LIMIT_EXCEEDED",
                format!("limit is 0; it may be 1 to {LIST_MAX}"),
            )
            .given(0)
        })),
        limit if limit > LIST_MAX => Err(error::status(&Refusal::over(
            "limit",
            u64::from(LIST_MAX),
            u64::from(limit),
            "entries",
        ))),
        limit => Ok(limit),
    }
}

fn pattern(text: &str) -> Result<Option<Pattern>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    Pattern::new(text)
        .map(Some)
        .map_err(|bad| error::status(&Refusal { field: Some("type"), ..bad }))
}

fn id(text: &str) -> Result<ObjectId, Status> {
    object::object_id("id", text).map_err(|bad| error::status(&bad))
}

fn ids(texts: &[String]) -> Result<Vec<ObjectId>, Status> {
    if texts.is_empty() {
        return Err(error::status(&Refusal::invalid("ids", "FIELD_MISSING", "no id is given")));
    }
    if texts.len() > ITEMS_MAX {
        let over = Refusal::over("ids", ITEMS_MAX as u64, texts.len() as u64, "ids");
        return Err(error::status(&over));
    }
    let parsed = texts.iter().map(|text| object::object_id("ids", text));
    parsed.collect::<Result<_, _>>().map_err(|bad| error::status(&bad))
}

/// Which parked objects, and how many ids that names (0: not by id).
fn selection(selection: Option<v1::ParkedSelection>) -> Result<(Which, usize), Status> {
    use v1::parked_selection::By;
    match selection.and_then(|selection| selection.by) {
        Some(By::Ids(list)) => {
            let ids = ids(&list.ids)?;
            let count = ids.len();
            Ok((Which::Ids(ids), count))
        }
        Some(By::Type(ty)) => {
            let ty = TypeName::from_type_url(&ty).map_err(|bad| error::status(&bad))?;
            Ok((Which::Type(ty), 0))
        }
        Some(By::All(true)) => Ok((Which::All, 0)),
        Some(By::All(false)) | None => Err(error::status(&Refusal::invalid(
            "selection",
            "FIELD_MISSING",
            "no parked objects are chosen; name ids, a type, or all",
        ))),
    }
}

/// Keeps the first `limit` of what a list found, and says whether there was more.
fn cut<T>(mut list: Vec<T>, limit: u32) -> (Vec<T>, bool) {
    let more = list.len() > limit as usize;
    list.truncate(limit as usize);
    (list, more)
}

/// The kind of an answer follows from the kind of the question.
fn other_kind() -> Status {
    Status::internal("a peer answered another question than it was asked")
}

#[tonic::async_trait]
impl OperatorService for Desk {
    async fn get_object(
        &self,
        request: Request<v1::GetObjectRequest>,
    ) -> Result<Response<v1::GetObjectResponse>, Status> {
        let v1::GetObjectRequest { id: text, local } = request.into_inner();
        match inspect(&self.hub, id(&text)?, v1::InspectKind::Get, local).await? {
            Known::Object(object) => Ok(Response::new(object)),
            _ => Err(other_kind()),
        }
    }

    async fn why_object(
        &self,
        request: Request<v1::WhyObjectRequest>,
    ) -> Result<Response<v1::WhyObjectResponse>, Status> {
        let v1::WhyObjectRequest { id: text, local } = request.into_inner();
        match inspect(&self.hub, id(&text)?, v1::InspectKind::Why, local).await? {
            Known::Why(why) => Ok(Response::new(why)),
            _ => Err(other_kind()),
        }
    }

    async fn trace_object(
        &self,
        request: Request<v1::TraceObjectRequest>,
    ) -> Result<Response<v1::TraceObjectResponse>, Status> {
        let v1::TraceObjectRequest { id: text, local } = request.into_inner();
        match inspect(&self.hub, id(&text)?, v1::InspectKind::Trace, local).await? {
            Known::Trace(trace) => Ok(Response::new(trace)),
            _ => Err(other_kind()),
        }
    }

    async fn list_objects(
        &self,
        request: Request<v1::ListObjectsRequest>,
    ) -> Result<Response<v1::ListObjectsResponse>, Status> {
        let request = request.into_inner();
        let limit = limit(request.limit)?;
        let pattern = pattern(&request.r#type)?;
        let since = request.since.map(|at| object::wall("since", &at)).transpose();
        let since = since.map_err(|bad| error::status(&bad))?;
        let (mut objects, mut more) = (Vec::new(), false);
        let ended = match view::list_state(request.state()) {
            Ok(state) => {
                (objects, more) = self.living(pattern.clone(), state, since, limit).await?;
                state.is_none().then_some(None)
            }
            Err("final") => Some(Some(OutcomeKind::Final)),
            Err("discarded") => Some(Some(OutcomeKind::Discarded)),
            Err(_) => Some(Some(OutcomeKind::Moved)),
        };
        let left = limit - u32::try_from(objects.len()).unwrap_or(limit);
        match ended {
            Some(outcome) if left > 0 => {
                let (mut older, older_more) = self.ended(pattern, since, outcome, left).await?;
                objects.append(&mut older);
                more |= older_more;
            }
            // Living ones fill the page: whether ended ones follow is not known, but likely.
            Some(_) => more = true,
            None => {}
        }
        Ok(Response::new(v1::ListObjectsResponse { objects, more }))
    }

    async fn discard_objects(
        &self,
        request: Request<v1::DiscardObjectsRequest>,
    ) -> Result<Response<v1::DiscardObjectsResponse>, Status> {
        let ids = ids(&request.into_inner().ids)?;
        let (discarded, refused) = self
            .each(ids.len(), |request| {
                let discard = |(seq, id)| {
                    let to = ReplyTo { request, seq: seq as u64 };
                    Input::Operator(to, Operator::Discard(id))
                };
                ids.into_iter().enumerate().map(discard).collect()
            })
            .await?;
        Ok(Response::new(v1::DiscardObjectsResponse { discarded, refused }))
    }

    async fn list_parked(
        &self,
        request: Request<v1::ListParkedRequest>,
    ) -> Result<Response<v1::ListParkedResponse>, Status> {
        let request = request.into_inner();
        let limit = limit(request.limit)?;
        let pattern = pattern(&request.r#type)?;
        let (objects, more) = self.living(pattern, Some(ListState::Parked), None, limit).await?;
        Ok(Response::new(v1::ListParkedResponse { objects, more }))
    }

    async fn redrive_parked(
        &self,
        request: Request<v1::RedriveParkedRequest>,
    ) -> Result<Response<v1::RedriveParkedResponse>, Status> {
        let (which, count) = selection(request.into_inner().selection)?;
        let (redriven, refused) = self
            .each(count.max(1), |request| {
                vec![Input::Operator(ReplyTo { request, seq: 0 }, Operator::Redrive(which))]
            })
            .await?;
        Ok(Response::new(v1::RedriveParkedResponse { redriven, refused, more: false }))
    }

    async fn discard_parked(
        &self,
        request: Request<v1::DiscardParkedRequest>,
    ) -> Result<Response<v1::DiscardParkedResponse>, Status> {
        let (which, count) = selection(request.into_inner().selection)?;
        let (discarded, refused) = self
            .each(count.max(1), |request| {
                vec![Input::Operator(ReplyTo { request, seq: 0 }, Operator::DiscardParked(which))]
            })
            .await?;
        Ok(Response::new(v1::DiscardParkedResponse { discarded, refused, more: false }))
    }

    async fn list_types(
        &self,
        request: Request<v1::ListTypesRequest>,
    ) -> Result<Response<v1::ListTypesResponse>, Status> {
        let request = request.into_inner();
        let limit = limit(request.limit)?;
        let pattern = pattern(&request.r#type)?;
        let types = self.types().await?;
        let wanted = types.iter().filter(|t| pattern.as_ref().is_none_or(|p| p.matches(&t.ty)));
        let (types, more) = cut(wanted.map(view::type_info).collect(), limit);
        Ok(Response::new(v1::ListTypesResponse { types, more }))
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        let request = request.into_inner();
        let limit = limit(request.limit)?;
        let pattern = pattern(&request.r#type)?;
        let subscriptions = match self.hub.operator(Operator::Subscriptions).await? {
            Answer::Subscriptions(subscriptions) => subscriptions,
            other => unreachable!("core answers Subscriptions with {other}"),
        };
        let mut wanted = subscriptions;
        wanted.retain(|s| pattern.as_ref().is_none_or(|p| overlaps(p, &s.pattern)));
        let infos = wanted.iter().map(view::subscription_info).collect();
        let (subscriptions, more) = cut(infos, limit);
        Ok(Response::new(v1::ListSubscriptionsResponse { subscriptions, more }))
    }

    async fn list_nodes(
        &self,
        _request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let views = match self.hub.operator(Operator::Nodes).await? {
            Answer::Nodes(nodes) => nodes,
            other => unreachable!("core answers Nodes with {other}"),
        };
        let now = self.hub.clock.now().mono;
        let dialled = self.hub.links.dialled();
        let mut nodes = Vec::new();
        for seen in &views {
            let mut node = view::node_info(seen);
            if let Some(link) = seen.link.and_then(|id| self.hub.links.get(id)) {
                (node.sent_per_s, node.received_per_s) = link.rates(now);
            }
            if let Some(dialled) = dialled.iter().find(|d| d.name.as_ref() == Some(&seen.name)) {
                node.addr.clone_from(&dialled.address);
                node.problem = dialled.problem.clone().filter(|_| !seen.up);
            }
            nodes.push(node);
        }
        // Configured peers that were never reached, or whose links core does not know.
        for dialled in dialled {
            if dialled.name.is_none_or(|name| !views.iter().any(|v| v.name == name)) {
                let mut node = v1::NodeInfo {
                    distance: 1,
                    addr: dialled.address,
                    problem: dialled.problem,
                    ..v1::NodeInfo::default()
                };
                node.set_link(v1::LinkState::Down);
                nodes.push(node);
            }
        }
        nodes.sort_by(|a, b| (!a.self_, &a.node, &a.addr).cmp(&(!b.self_, &b.node, &b.addr)));
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn show_node(
        &self,
        _request: Request<v1::ShowNodeRequest>,
    ) -> Result<Response<v1::ShowNodeResponse>, Status> {
        let types = self.types().await?;
        let sum = |count: fn(&TypeView) -> u64| types.iter().map(count).sum();
        let (identity, addresses) = (&self.hub.identity, self.hub.addresses());
        Ok(Response::new(v1::ShowNodeResponse {
            node: identity.name.as_str().to_owned(),
            lane: identity.lane.to_string(),
            epoch: identity.epoch.0,
            incarnation: identity.incarnation.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(timestamp(identity.started_at)),
            clients: addresses.clients,
            nodes: addresses.nodes,
            admin: addresses.admin,
            store: identity.store.to_owned(),
            durability: identity.durability.into(),
            draining: *self.hub.phase().borrow() != Phase::Serving,
            ready: sum(|t| t.ready),
            leased: sum(|t| t.leased),
            delayed: sum(|t| t.delayed),
            parked: sum(|t| t.parked),
            in_transit: sum(|t| t.offered + t.held),
            sessions: self.hub.streams().0,
            last_record: self.hub.last_record(),
            alarms: self.hub.alarms.list(self.hub.clock.now().wall),
            limits: Some(view::limits(&self.hub.limits)),
        }))
    }

    type DumpRecordingStream = ReceiverStream<Result<v1::DumpRecordingResponse, Status>>;

    async fn dump_recording(
        &self,
        _request: Request<v1::DumpRecordingRequest>,
    ) -> Result<Response<Self::DumpRecordingStream>, Status> {
        let Some(recorder) = self.hub.recorder() else {
            let text = "the node keeps no recording; limits.recorder_bytes switches it on";
            let off = Refusal::new(Code::FailedPrecondition, "RECORDER_OFF", text);
            return Err(error::status(&off));
        };
        recording::send(recorder).await.map(Response::new)
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let wait = request.into_inner().wait;
        let mut drained = self.hub.drained();
        self.hub.start_drain().await;
        if wait {
            // The end comes by itself: core ends a drain after its time.
            let ended = drained.wait_for(Option::is_some).await.map(|d| *d);
            let Ok(Some(Drained { leases, ready })) = ended else {
                return Err(error::status_of(&error::unknown("the node stopped while it drained")));
            };
            let drained = leases == 0;
            return Ok(Response::new(v1::DrainNodeResponse {
                drained,
                leased: leases,
                staying: ready,
            }));
        }
        Ok(Response::new(self.drain_state().await?))
    }

    async fn resume_node(
        &self,
        _request: Request<v1::ResumeNodeRequest>,
    ) -> Result<Response<v1::ResumeNodeResponse>, Status> {
        self.hub.operator(Operator::Resume).await?;
        self.hub.set_drained(None);
        self.hub.set_phase(Phase::Serving);
        Ok(Response::new(v1::ResumeNodeResponse {}))
    }

    async fn forget_node(
        &self,
        request: Request<v1::ForgetNodeRequest>,
    ) -> Result<Response<v1::ForgetNodeResponse>, Status> {
        let v1::ForgetNodeRequest { name, reclaim } = request.into_inner();
        let name = Name::new("name", &name).map_err(|bad| error::status(&bad))?;
        match self.hub.operator(Operator::Forget { name, reclaim }).await? {
            Answer::Done(reclaimed) => Ok(Response::new(v1::ForgetNodeResponse { reclaimed })),
            other => unreachable!("core answers Forget with {other}"),
        }
    }
}

/// Whether some type matches both.
fn overlaps(a: &Pattern, b: &Pattern) -> bool {
    let prefix = |p: &Pattern| p.as_str().strip_suffix('*').map(str::to_owned);
    match (prefix(a), prefix(b)) {
        (None, None) => a == b,
        (Some(a), None) => b.as_str().starts_with(&a),
        (None, Some(b)) => a.as_str().starts_with(&b),
        (Some(a), Some(b)) => a.starts_with(&b) || b.starts_with(&a),
    }
}
