//! The service of clients: push, subscribe, settle.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dpc_core::effect::Delivery;
use dpc_core::input::{Lessee, ReplyTo, Take};
use dpc_core::names::Pattern;
use dpc_core::refusal::Refusal;
use dpc_core::time::Wall;
use dpc_core::{Answer, Input};
use dpc_proto::{PushStreamRequest, v1};
use tonic::{Request, Response, Status, Streaming};
use v1::cloud_service_server::CloudService;

use super::hub::{Call, Hub};
use super::outbox::OutStream;
use super::push::{PushOut, add_ok, object_bytes};
use super::session::{SessionOut, refusal, settlement_bytes, transaction_bytes};
use super::tally::{Expect, Tally, refused};
use crate::wire::object::{delivery, delivery_bytes, span};
use crate::wire::settle::{self, Naming};
use crate::wire::{ITEMS_MAX, error, object, timestamp};

/// Answers of a unary take stay below what gRPC clients read by default.
const TAKE_BYTES_MAX: usize = 3 << 20;

/// `dpc.v1.CloudService`.
pub(crate) struct Cloud {
    hub: Arc<Hub>,
}

impl Cloud {
    /// The service over this hub.
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// One input with one item, and its refusals.
    async fn one(
        &self,
        expect: Expect,
        bytes: usize,
        input: impl FnOnce(ReplyTo) -> Input,
    ) -> Result<(Vec<v1::Refused>, Option<Wall>), Status> {
        let mut call = self.hub.call();
        let to = ReplyTo { request: call.request, seq: 0 };
        let mut tally = Tally::default();
        tally.expect(0, expect);
        self.hub.feed(vec![input(to)], bytes).await;
        let (mut all_refused, mut until) = (Vec::new(), None);
        while !tally.is_empty() {
            let (seq, answer) = call.next().await?;
            let outcome = tally.answer(seq, &answer);
            self.hub.metrics.settled.add(outcome.settled);
            all_refused.extend(outcome.refused);
            until = until.or(outcome.until);
        }
        Ok((all_refused, until))
    }
}

/// Of a call with one item, the refusal is the status.
fn only(refused: Vec<v1::Refused>, items: usize) -> Result<Vec<v1::Refused>, Status> {
    match &refused[..] {
        [v1::Refused { error: Some(error), .. }] if items == 1 => Err(error::status_of(error)),
        _ => Ok(refused),
    }
}

fn missing(field: &'static str) -> Status {
    error::status(&Refusal::invalid(field, "FIELD_MISSING", format!("{field} is missing")))
}

#[tonic::async_trait]
impl CloudService for Cloud {
    type PushStreamStream = OutStream<PushOut>;
    type SessionStream = OutStream<SessionOut>;

    async fn push_stream(
        &self,
        request: Request<Streaming<PushStreamRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        Ok(Response::new(super::push::open(&self.hub, request.into_inner())))
    }

    async fn push(
        &self,
        request: Request<v1::PushRequest>,
    ) -> Result<Response<v1::PushResponse>, Status> {
        let objects = request.into_inner().objects;
        let count = objects.len();
        if count == 0 {
            return Err(missing("objects"));
        }
        if count > ITEMS_MAX {
            let over = Refusal::over("objects", ITEMS_MAX as u64, count as u64, "objects");
            return Err(error::status(&over));
        }
        let bytes = objects.iter().map(object_bytes).sum();
        let _room = self.hub.push_room(bytes).await;
        let mut call = self.hub.call();
        let mut response = v1::PushResponse {
            node: self.hub.identity.name.as_str().to_owned(),
            lane: self.hub.identity.lane.to_string(),
            ..v1::PushResponse::default()
        };
        let mut id_chosen = BTreeSet::new();
        let mut inputs = Vec::with_capacity(count);
        for (at, object) in objects.into_iter().enumerate() {
            match object::push(object, &self.hub.limits) {
                Ok(push) => {
                    if push.id.is_none() {
                        id_chosen.insert(at as u64);
                    }
                    let to = ReplyTo { request: call.request, seq: at as u64 };
                    inputs.push(Input::Push(to, push));
                }
                Err(bad) => response.refused.push(at_position(at as u64, &bad)),
            }
        }
        let waiting = inputs.len();
        if waiting > 0 {
            self.hub.feed(inputs, bytes).await;
        }
        let answers = collect_pushes(&mut call, waiting).await?;
        let mut ok = VecDeque::new();
        for (position, answer) in answers {
            match answer {
                Answer::Pushed { id, already } => {
                    let status = if already {
                        v1::PushStatus::AlreadyExists
                    } else {
                        v1::PushStatus::Stored
                    };
                    let id = id_chosen.contains(&position).then(|| id.to_string());
                    add_ok(&mut ok, position, status, self.hub.identity.durability, id);
                }
                Answer::Refused(bad) | Answer::RefusedAt(_, bad) => {
                    response.refused.push(at_position(position, &bad));
                }
                Answer::Unknown(why) => {
                    let position = u32::try_from(position).ok();
                    response.refused.push(refused(0, position, error::unknown(&why)));
                }
                other => unreachable!("core answers a push with {other}"),
            }
        }
        response.ok = ok.into();
        response.refused = only(response.refused, count)?;
        Ok(Response::new(response))
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Response::new(super::session::open(&self.hub, request.into_inner())))
    }

    async fn take(
        &self,
        request: Request<v1::TakeRequest>,
    ) -> Result<Response<v1::TakeResponse>, Status> {
        let take = take_input(&request.into_inner()).map_err(|bad| error::status(&bad))?;
        let mut call = self.hub.call();
        let to = ReplyTo { request: call.request, seq: 0 };
        self.hub.feed(vec![Input::Take(to, take)], 512).await;
        let deliveries = match call.next().await?.1 {
            Answer::Taken(deliveries) => deliveries,
            Answer::Refused(bad) | Answer::RefusedAt(_, bad) => return Err(error::status(&bad)),
            Answer::Unknown(why) => return Err(error::status_of(&error::unknown(&why))),
            other => unreachable!("core answers a take with {other}"),
        };
        Ok(Response::new(v1::TakeResponse {
            deliveries: self.tokens(&deliveries),
            node: self.hub.identity.name.as_str().to_owned(),
            epoch: self.hub.identity.epoch.0,
        }))
    }

    async fn begin(
        &self,
        request: Request<v1::BeginRequest>,
    ) -> Result<Response<v1::BeginResponse>, Status> {
        let begin = request.into_inner().begin.ok_or_else(|| missing("begin"))?;
        let leases = settle::leases(&begin.leases, &begin.tokens, Naming::Call)
            .map_err(|bad| error::status(&bad))?;
        let count = leases.len();
        let input = |to| Input::Begin(to, Lessee::Bearer, leases);
        let (refused, _) = self.one(Expect::leases(count), 64 * count, input).await?;
        Ok(Response::new(v1::BeginResponse { refused: only(refused, count)? }))
    }

    async fn extend(
        &self,
        request: Request<v1::ExtendRequest>,
    ) -> Result<Response<v1::ExtendResponse>, Status> {
        let extend = request.into_inner().extend.ok_or_else(|| missing("extend"))?;
        let leases = settle::leases(&extend.leases, &extend.tokens, Naming::Call)
            .map_err(|bad| error::status(&bad))?;
        let count = leases.len();
        let input = |to| Input::Extend(to, Lessee::Bearer, leases);
        let (refused, until) = self.one(Expect::leases(count), 64 * count, input).await?;
        let refused = only(refused, count)?;
        Ok(Response::new(v1::ExtendResponse { until: until.map(timestamp), refused }))
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleResponse>, Status> {
        let settlement = request.into_inner().settlement.ok_or_else(|| missing("settlement"))?;
        let bytes = settlement_bytes(&settlement);
        let settle = settle::settle(settlement, Naming::Call, &self.hub.limits)
            .map_err(|fault| fault.status())?;
        let count = settle.leases.len();
        let input = |to| Input::Settle(to, Lessee::Bearer, settle);
        let (refused, _) = self.one(Expect::settles(count), bytes, input).await?;
        Ok(Response::new(v1::SettleResponse { refused: only(refused, count)? }))
    }

    async fn transaction(
        &self,
        request: Request<v1::TransactionRequest>,
    ) -> Result<Response<v1::TransactionResponse>, Status> {
        let transaction = request.into_inner().transaction.ok_or_else(|| missing("transaction"))?;
        let bytes = transaction_bytes(&transaction);
        let transaction = settle::transaction(transaction, Naming::Call, &self.hub.limits)
            .map_err(|fault| fault.status())?;
        let input = |to| Input::Transaction(to, Lessee::Bearer, transaction);
        only(self.one(Expect::Transaction, bytes, input).await?.0, 1)?;
        Ok(Response::new(v1::TransactionResponse {}))
    }
}

impl Cloud {
    /// Taken objects with their full tokens, as many as one answer holds; the others go back.
    fn tokens(&self, taken: &[Delivery]) -> Vec<v1::Delivery> {
        let (mut deliveries, mut bytes) = (Vec::new(), 0);
        for one in taken {
            bytes += delivery_bytes(one);
            if bytes > TAKE_BYTES_MAX && !deliveries.is_empty() {
                break;
            }
            let mut wire = delivery(one, self.hub.identity.name.as_str());
            wire.token = Bytes::copy_from_slice(&self.hub.token(one).to_bytes());
            deliveries.push(wire);
        }
        self.hub.give_back(taken.iter().skip(deliveries.len()));
        deliveries
    }
}

fn take_input(request: &v1::TakeRequest) -> Result<Take, Refusal> {
    let (wait, count) = settle::take_bounds(request)?;
    Ok(Take {
        pattern: Pattern::new(&request.pattern)?,
        processor: settle::processor(request.processor.as_deref())?,
        wait,
        count,
        lease: request.lease.map(|lease| span("lease", lease)).transpose()?,
    })
}

/// The answers of a unary push by position, in order.
async fn collect_pushes(call: &mut Call, count: usize) -> Result<Vec<(u64, Answer)>, Status> {
    let mut answers = Vec::with_capacity(count);
    while answers.len() < count {
        answers.push(call.next().await?);
    }
    answers.sort_by_key(|(position, _)| *position);
    Ok(answers)
}

fn at_position(position: u64, bad: &Refusal) -> v1::Refused {
    v1::Refused { position: u32::try_from(position).ok(), ..refusal(0, bad) }
}
