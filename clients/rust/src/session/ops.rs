//! Requests of a session, kept until they are answered so that they can be repeated.

use std::sync::{Arc, Mutex, PoisonError};

use dpc_proto::v1;
use dpc_proto::v1::session_item::Item;
use dpc_proto::v1::settlement::Verb;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::delivery::Info;
use crate::error::Error;
use crate::token::LeaseToken;

/// The most leases that one item may name.
pub(super) const LEASES_MAX: usize = 1_000;
/// What an item costs on the wire besides its payloads, roughly.
const ITEM_BYTES: usize = 64;

/// Positions in a batch that were refused, and why.
pub(super) type Refusals = Vec<(usize, Error)>;

/// Settles that one caller waits for together.
pub(super) struct Group(Mutex<Open>);

struct Open {
    left: usize,
    refused: Refusals,
    answer: Option<oneshot::Sender<Refusals>>,
}

impl Group {
    pub(super) fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Refusals>) {
        let (answer, receiver) = oneshot::channel();
        let open = Open { left: count, refused: Vec::new(), answer: Some(answer) };
        let group = Arc::new(Self(Mutex::new(open)));
        if count == 0 {
            group.tell(&mut group.lock());
        }
        (group, receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answer(&self, index: usize, result: Result<(), Error>) {
        let mut open = self.lock();
        if let Err(error) = result {
            open.refused.push((index, error));
        }
        open.left -= 1;
        if open.left == 0 {
            self.tell(&mut open);
        }
    }

    fn tell(&self, open: &mut Open) {
        if let Some(answer) = open.answer.take() {
            // A caller that dropped its future does not want to know.
            let _ = answer.send(std::mem::take(&mut open.refused));
        }
    }
}

/// How leases end, and what is pushed with it. Ids are chosen already: a repeat is the same.
pub(super) struct Content {
    pub(super) verb: Verb,
    pub(super) emits: Vec<v1::Object>,
}

impl Content {
    pub(super) fn release(failed: bool) -> Self {
        Self { verb: Verb::Release(v1::Release { delay: None, failed }), emits: Vec::new() }
    }

    /// Many leases can end like this in one item. Payloads are not worth comparing.
    fn merges_with(&self, other: &Self) -> bool {
        let plain = |content: &Self| {
            content.emits.is_empty()
                && !matches!(&content.verb, Verb::Advance(advance) if advance.entity.is_some())
        };
        plain(self) && plain(other) && self.verb == other.verb
    }

    fn copy(&self) -> Self {
        Self { verb: self.verb.clone(), emits: self.emits.clone() }
    }

    fn bytes(&self) -> usize {
        let entity = match &self.verb {
            Verb::Advance(v1::Advance { entity: Some(entity), .. }) => entity.value.len(),
            _ => 0,
        };
        entity + objects_bytes(&self.emits)
    }
}

fn objects_bytes(objects: &[v1::Object]) -> usize {
    let size = |object: &v1::Object| object.entity.as_ref().map_or(0, |e| e.value.len()) + 128;
    objects.iter().map(size).sum()
}

/// One lease to be settled, and who wants to know.
pub(super) struct Target {
    pub(super) lease: u64,
    pub(super) id: Uuid,
    pub(super) waiter: Option<(Arc<Group>, usize)>,
}

impl Target {
    pub(super) fn answer(self, result: Result<(), Error>) {
        match (self.waiter, result) {
            (Some((group, index)), result) => group.answer(index, result),
            (None, Err(error)) => tracing::debug!(id = %self.id, %error, "a release was refused"),
            (None, Ok(())) => {}
        }
    }

    fn token(&self, info: &Info) -> bytes::Bytes {
        LeaseToken::new(&info.prefix, self.lease, self.id).to_wire()
    }
}

/// Leases of one stream that end in the same way.
pub(super) struct SettleOp {
    pub(super) info: Arc<Info>,
    pub(super) content: Content,
    /// `None`: refused already.
    pub(super) targets: Vec<Option<Target>>,
    /// Named by their full tokens, because this is another stream than theirs.
    pub(super) by_token: bool,
    /// The node may have done it.
    pub(super) doubt: bool,
    /// When it first met trouble.
    pub(super) since: Option<Instant>,
}

impl SettleOp {
    pub(super) fn new(info: Arc<Info>, content: Content, target: Target, by_token: bool) -> Self {
        Self { info, content, targets: vec![Some(target)], by_token, doubt: false, since: None }
    }

    /// Takes another one's leases in, if they end in the same way.
    pub(super) fn merge(&mut self, other: &mut Self) -> bool {
        let fits = Arc::ptr_eq(&self.info, &other.info)
            && self.by_token == other.by_token
            && self.targets.len() + other.targets.len() <= LEASES_MAX
            && self.since.is_none()
            && other.since.is_none()
            && self.content.merges_with(&other.content);
        if fits {
            self.targets.append(&mut other.targets);
        }
        fits
    }

    /// One of its leases by itself.
    pub(super) fn single(&self, target: Target) -> Self {
        Self {
            info: self.info.clone(),
            content: self.content.copy(),
            targets: vec![Some(target)],
            by_token: self.by_token,
            doubt: self.doubt,
            since: self.since,
        }
    }

    fn to_wire(&self) -> v1::Settlement {
        let targets = self.targets.iter().flatten();
        let (leases, tokens) = if self.by_token {
            (Vec::new(), targets.map(|target| target.token(&self.info)).collect())
        } else {
            (targets.map(|target| target.lease).collect(), Vec::new())
        };
        let Content { verb, emits } = self.content.copy();
        v1::Settlement { leases, tokens, verb: Some(verb), emits }
    }

    pub(super) fn answer_all(self, result: &Result<(), Error>) {
        for target in self.targets.into_iter().flatten() {
            target.answer(result.clone());
        }
    }
}

/// A transaction on its way.
pub(super) struct TransactionOp {
    pub(super) info: Arc<Info>,
    pub(super) settlements: Vec<(Content, Target)>,
    pub(super) pushes: Vec<v1::Object>,
    pub(super) answer: oneshot::Sender<Result<(), Error>>,
    pub(super) doubt: bool,
    pub(super) since: Option<Instant>,
}

impl TransactionOp {
    pub(super) fn to_wire(&self, by_token: bool) -> v1::Transaction {
        let settlements = self.settlements.iter().map(|(content, target)| {
            let Content { verb, emits } = content.copy();
            let mut settlement =
                v1::Settlement { verb: Some(verb), emits, ..v1::Settlement::default() };
            if by_token {
                settlement.tokens.push(target.token(&self.info));
            } else {
                settlement.leases.push(target.lease);
            }
            settlement
        });
        v1::Transaction { settlements: settlements.collect(), pushes: self.pushes.clone() }
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = u64> {
        self.settlements.iter().map(|(_, target)| target.lease)
    }

    pub(super) fn answer(self, result: Result<(), Error>) {
        // A caller that dropped its future does not want to know.
        let _ = self.answer.send(result);
    }
}

/// A request that waits to be sent, or for its answer.
pub(super) enum Op {
    Subscribe(v1::Subscribe),
    SetCredit(v1::SetCredit),
    Unsubscribe(u64),
    Begin(Vec<u64>),
    Extend(Vec<u64>),
    Settle(SettleOp),
    Transaction(TransactionOp),
}

impl Op {
    pub(super) fn to_wire(&self) -> Item {
        match self {
            Self::Subscribe(subscribe) => Item::Subscribe(subscribe.clone()),
            Self::SetCredit(credit) => Item::SetCredit(*credit),
            Self::Unsubscribe(subscription) => {
                Item::Unsubscribe(v1::Unsubscribe { subscription: *subscription })
            }
            Self::Begin(leases) => {
                Item::Begin(v1::Begin { leases: leases.clone(), tokens: Vec::new() })
            }
            Self::Extend(leases) => {
                Item::Extend(v1::Extend { leases: leases.clone(), tokens: Vec::new() })
            }
            Self::Settle(op) => Item::Settle(op.to_wire()),
            Self::Transaction(op) => Item::Transaction(op.to_wire(false)),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        ITEM_BYTES
            + match self {
                Self::Begin(leases) | Self::Extend(leases) => leases.len() * 4,
                Self::Settle(op) => {
                    op.targets.len() * if op.by_token { 58 } else { 4 } + op.content.bytes()
                }
                Self::Transaction(op) => {
                    op.settlements
                        .iter()
                        .map(|(content, _)| content.bytes() + ITEM_BYTES)
                        .sum::<usize>()
                        + objects_bytes(&op.pushes)
                }
                Self::Subscribe(_) | Self::SetCredit(_) | Self::Unsubscribe(_) => 0,
            }
    }
}
