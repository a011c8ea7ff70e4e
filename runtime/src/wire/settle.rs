//! Settlements, begins, extends, transactions and subscriptions as clients say them.

use dpc_core::Limits;
use dpc_core::ids::{SessionId, SubscriptionId};
use dpc_core::input::{LeaseRef, Settle, Subscribe, Transaction, Verb};
use dpc_core::limits::{REASON_BYTES_MAX, TAKE_MAX, TAKE_WAIT_MAX};
use dpc_core::names::{Name, Pattern};
use dpc_core::object::Token;
use dpc_core::refusal::Refusal;
use dpc_core::time::Span;
use dpc_proto::v1;

use super::object::{entity, push, span};
use super::{ITEMS_MAX, error};

/// The processor of a subscription that names none.
const PROCESSOR_DEFAULT: &str = "default";

/// Whether leases may be named by their numbers: only on the stream that they belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// By number or token.
    Stream,
    /// By token only.
    Call,
}

/// A refusal of a part of a request: the path to the part, and its position where it has one.
#[derive(Debug)]
pub(crate) struct Fault {
    refusal: Refusal,
    path: String,
    position: Option<u32>,
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, path: String::new(), position: None }
    }
}

impl Fault {
    fn within(refusal: Refusal, list: &str, at: usize) -> Self {
        Self { refusal, path: format!("{list}[{at}]."), position: None }
    }

    /// The fault as the answer to an item.
    pub(crate) fn refused(&self, seq: u64) -> v1::Refused {
        v1::Refused {
            seq,
            position: self.position,
            error: Some(error::refused(&self.refusal, &self.path)),
        }
    }

    /// The fault as the status of a call.
    pub(crate) fn status(&self) -> tonic::Status {
        error::status_of(&error::refused(&self.refusal, &self.path))
    }
}

/// The leases of a request, numbers first, in the order in which answers count them.
pub(crate) fn leases(
    numbers: &[u64],
    tokens: &[bytes::Bytes],
    naming: Naming,
) -> Result<Vec<LeaseRef>, Refusal> {
    let count = numbers.len() + tokens.len();
    if naming == Naming::Call && !numbers.is_empty() {
        return Err(Refusal::invalid(
            "leases",
            "LEASE_NEEDS_TOKEN",
            "lease numbers mean something only on their own stream; name the leases by their tokens",
        ));
    }
    if count == 0 {
        return Err(Refusal::invalid(
            "leases",
            "LEASE_MISSING",
            "no lease is named; give the numbers or tokens of deliveries",
        ));
    }
    if count > ITEMS_MAX {
        return Err(Refusal::over("leases", ITEMS_MAX as u64, count as u64, "leases"));
    }
    let mut leases = Vec::with_capacity(count);
    leases.extend(numbers.iter().map(|n| LeaseRef::Number(*n)));
    for token in tokens {
        leases.push(LeaseRef::Token(Token::from_bytes(token)?));
    }
    Ok(leases)
}

pub(crate) fn settle(
    settlement: v1::Settlement,
    naming: Naming,
    limits: &Limits,
) -> Result<Settle, Fault> {
    let leases = leases(&settlement.leases, &settlement.tokens, naming)?;
    if !settlement.emits.is_empty() && leases.len() != 1 {
        return Err(Refusal::invalid(
            "emits",
            "EMITS_NEED_ONE_LEASE",
            "objects can be emitted only with exactly one lease; settle the others apart",
        )
        .given(format!("{} leases", leases.len()))
        .into());
    }
    if settlement.emits.len() >= limits.transaction_items as usize {
        let limit = u64::from(limits.transaction_items);
        return Err(
            Refusal::over("emits", limit, settlement.emits.len() as u64 + 1, "items").into()
        );
    }
    let verb = verb(settlement.verb, limits)?;
    let mut emits = Vec::with_capacity(settlement.emits.len());
    for (at, object) in settlement.emits.into_iter().enumerate() {
        emits.push(push(object, limits).map_err(|r| Fault::within(r, "emits", at))?);
    }
    Ok(Settle::new(leases, verb, emits))
}

fn verb(verb: Option<v1::settlement::Verb>, limits: &Limits) -> Result<Verb, Refusal> {
    use v1::settlement::Verb as Wire;
    Ok(match verb {
        None => {
            return Err(Refusal::invalid(
                "verb",
                "VERB_MISSING",
                "the settlement has no verb; choose finalise, advance, release or reject",
            ));
        }
        Some(Wire::Finalise(_)) => Verb::Finalise,
        Some(Wire::Advance(advance)) => match advance.entity {
            Some(any) => Verb::Advance(Some(entity(Some(any), &advance.headers, limits)?)),
            None if advance.headers.is_empty() => Verb::Advance(None),
            None => {
                return Err(Refusal::invalid(
                    "headers",
                    "HEADERS_WITHOUT_ENTITY",
                    "headers belong to a new entity; give one, or leave them out",
                ));
            }
        },
        Some(Wire::Release(release)) => {
            let delay = release.delay.map(|given| span("delay", given)).transpose()?;
            let delay = delay.unwrap_or(Span::ZERO);
            if delay > limits.horizon {
                return Err(Refusal::over(
                    "delay",
                    limits.horizon.0 / 1_000_000,
                    delay.0 / 1_000_000,
                    "seconds",
                ));
            }
            Verb::Release { delay, failed: release.failed }
        }
        Some(Wire::Reject(reject)) => {
            let size = reject.reason.len();
            if size > REASON_BYTES_MAX {
                return Err(Refusal::over("reason", REASON_BYTES_MAX as u64, size as u64, "bytes"));
            }
            Verb::Reject(reject.reason.into())
        }
    })
}

pub(crate) fn transaction(
    transaction: v1::Transaction,
    naming: Naming,
    limits: &Limits,
) -> Result<Transaction, Fault> {
    let mut settles = Vec::new();
    let culprit = |mut fault: Fault, at: usize, list: &str, position: usize| {
        fault.path = format!("{list}[{at}].{}", fault.path);
        fault.position = u32::try_from(position).ok();
        fault
    };
    for (at, settlement) in transaction.settlements.into_iter().enumerate() {
        let settle = settle(settlement, naming, limits)
            .map_err(|fault| culprit(fault, at, "settlements", at))?;
        settles.push(settle);
    }
    let mut pushes = Vec::new();
    for (at, object) in transaction.pushes.into_iter().enumerate() {
        let push = push(object, limits)
            .map_err(|refusal| culprit(refusal.into(), at, "pushes", settles.len() + at))?;
        pushes.push(push);
    }
    if settles.is_empty() && pushes.is_empty() {
        return Err(Refusal::invalid(
            "transaction",
            "TRANSACTION_EMPTY",
            "the transaction has neither settlements nor pushes",
        )
        .into());
    }
    Ok(Transaction { settles, pushes })
}

pub(crate) fn subscribe(
    subscribe: &v1::Subscribe,
    session: SessionId,
    credit_default: u32,
    limits: &Limits,
) -> Result<Subscribe, Refusal> {
    Ok(Subscribe {
        session,
        subscription: SubscriptionId(subscribe.subscription),
        pattern: Pattern::new(&subscribe.pattern)?,
        processor: processor(subscribe.processor.as_deref())?,
        credit: credit(subscribe.credit.unwrap_or(credit_default), limits)?,
        lease: subscribe.lease.map(|lease| span("lease", lease)).transpose()?,
    })
}

pub(crate) fn processor(given: Option<&str>) -> Result<Name, Refusal> {
    Name::new("processor", given.unwrap_or(PROCESSOR_DEFAULT))
}

pub(crate) fn credit(credit: u32, limits: &Limits) -> Result<u32, Refusal> {
    let limit = u64::from(limits.credit_max);
    if credit == 0 {
        return Err(Refusal {
            limit: Some(limit),
            ..Refusal::invalid(
                "credit",
                "CREDIT_OUT_OF_RANGE",
                format!("credit is 0; it may be 1 to {limit}. Unsubscribe to receive nothing"),
            )
            .given(credit)
        });
    }
    if u64::from(credit) > limit {
        return Err(Refusal {
            limit: Some(limit),
            ..Refusal::invalid(
                "credit",
                "CREDIT_OUT_OF_RANGE",
                format!("credit is {credit}; it may be 1 to {limit}"),
            )
            .given(credit)
        });
    }
    Ok(credit)
}

/// How long a take waits and how many objects it asks for.
pub(crate) fn take_bounds(request: &v1::TakeRequest) -> Result<(Span, u32), Refusal> {
    let wait = request.wait.map(|wait| span("wait", wait)).transpose()?.unwrap_or(Span::ZERO);
    if wait > TAKE_WAIT_MAX {
        let [limit, given] = [TAKE_WAIT_MAX, wait].map(|span| span.0 / 1_000_000);
        return Err(Refusal::over("wait", limit, given, "seconds"));
    }
    let count = request.max.unwrap_or(1);
    if count == 0 || count > TAKE_MAX {
        return Err(Refusal::over("max", u64::from(TAKE_MAX), u64::from(count), "objects"));
    }
    Ok((wait, count))
}
