//! The ways to end a lease.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use dpc_proto::v1;
use tokio::sync::oneshot;

use super::delivery::Delivery;
use super::ops::{Content, Group, Refusals};
use crate::error::Error;
use crate::object::{Entity, Object};

/// How a lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Done for good.
    Finalise,
    /// The object becomes this entity, or goes on to processors of other names.
    Advance(Option<Entity>),
    /// Back to its place, after a delay if given: not a failure.
    Release(Option<Duration>),
    /// Back to its place, after the backoff or the given delay: a failure.
    Fail(Option<Duration>),
    /// Parked, with a reason.
    Reject(String),
}

impl Verb {
    pub(crate) fn into_wire(self) -> v1::settlement::Verb {
        use v1::settlement::Verb as Wire;
        match self {
            Self::Finalise => Wire::Finalise(v1::Finalise {}),
            Self::Advance(entity) => {
                let (entity, headers) = entity.map(Entity::into_wire).unzip();
                Wire::Advance(v1::Advance { entity, headers: headers.unwrap_or_default() })
            }
            Self::Release(delay) => {
                Wire::Release(v1::Release { delay: delay.map(Into::into), failed: false })
            }
            Self::Fail(delay) => {
                Wire::Release(v1::Release { delay: delay.map(Into::into), failed: true })
            }
            Self::Reject(reason) => Wire::Reject(v1::Reject { reason }),
        }
    }
}

/// A settle to be: await it, or give it to a [`Transaction`](crate::Transaction).
#[must_use = "nothing is settled before this is awaited"]
pub struct Settle<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) verb: Verb,
    pub(super) emits: Vec<Object>,
}

impl<'a> Settle<'a> {
    pub(super) fn new(delivery: &'a Delivery, verb: Verb) -> Self {
        Self { delivery, verb, emits: Vec::new() }
    }

    /// Pushes an object with this settle: both are done, or neither is.
    pub fn emit(mut self, object: Object) -> Self {
        self.emits.push(object);
        self
    }

    pub(super) fn into_content(self) -> Content {
        let ids = &self.delivery.session().nodes.options.ids;
        Content {
            verb: self.verb.into_wire(),
            emits: self.emits.into_iter().map(|object| object.into_wire(ids).1).collect(),
        }
    }
}

impl IntoFuture for Settle<'_> {
    type Output = Result<(), Error>;
    type IntoFuture = Settled;

    /// From here on the settle is on its way, whether its answer is awaited or not.
    fn into_future(self) -> Settled {
        let (group, answer) = Group::new(1);
        let delivery = self.delivery;
        let content = self.into_content();
        delivery.session().settle(delivery, content, group);
        Settled { answer }
    }
}

impl fmt::Debug for Settle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settle").field("verb", &self.verb).finish_non_exhaustive()
    }
}

/// The answer to a settle that is on its way.
#[derive(Debug)]
#[must_use = "the answer says whether it was settled"]
pub struct Settled {
    answer: oneshot::Receiver<Refusals>,
}

impl Future for Settled {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| match answer {
            Ok(mut refusals) => refusals.pop().map_or(Ok(()), |(_, error)| Err(error)),
            Err(_) => Err(task_gone()),
        })
    }
}

pub(super) fn task_gone() -> Error {
    Error::connection_lost("the task of the session is gone")
}

/// The answer to a batch that is on its way. Dropping it takes nothing back.
#[must_use = "the answer says what was settled"]
pub struct BatchSettled {
    pub(super) batch: Vec<Delivery>,
    pub(super) answer: oneshot::Receiver<Refusals>,
}

impl Future for BatchSettled {
    type Output = Result<(), BatchError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(cx) else {
            return Poll::Pending;
        };
        let batch = std::mem::take(&mut self.batch);
        let Ok(mut refusals) = answer else {
            let refused = batch.into_iter().map(|delivery| (delivery, task_gone())).collect();
            return Poll::Ready(Err(BatchError { refused }));
        };
        refusals.sort_by_key(|(index, _)| *index);
        let mut refusals = refusals.into_iter().peekable();
        let mut refused = Vec::new();
        for (index, mut delivery) in batch.into_iter().enumerate() {
            match refusals.next_if(|(at, _)| *at == index) {
                Some((_, error)) => refused.push((delivery, error)),
                None => delivery.disarm(),
            }
        }
        Poll::Ready(if refused.is_empty() { Ok(()) } else { Err(BatchError { refused }) })
    }
}

impl fmt::Debug for BatchSettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchSettled").field("batch", &self.batch.len()).finish_non_exhaustive()
    }
}

/// Some deliveries of a batch were not settled; all others were.
#[derive(Debug, thiserror::Error)]
#[error("{} of the batch not settled, the first: {}", refused.len(), refused[0].1)]
pub struct BatchError {
    /// These, each with the reason; at least one.
    pub refused: Vec<(Delivery, Error)>,
}
