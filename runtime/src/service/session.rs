//! A session: subscriptions, deliveries and settlements over one stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dpc_core::effect::{Delivery, LeaseEnd};
use dpc_core::ids::{RequestId, SessionId, SubscriptionId};
use dpc_core::input::{Lessee, ReplyTo, Subscribe};
use dpc_core::names::Name;
use dpc_core::refusal::{Code, Refusal};
use dpc_core::time::Wall;
use dpc_core::{Answer, Input};
use dpc_proto::{Written, v1};
use tokio::sync::Semaphore;
use tonic::{Status, Streaming};
use v1::session_item::Item;
use v1::session_response::Response;

use super::fence::Fence;
use super::hub::Hub;
use super::outbox::{Gather, OutStream, Outbox};
use super::push::{check_seqs, object_bytes, take_up_to};
use super::tally::{Expect, Outcome, Tally, refused};
use crate::wire::settle::{self, Fault, Naming};
use crate::wire::{WINDOW_ITEMS, delivery, error, object, timestamp, view};

/// Deliveries that a client has not read, in bytes, beyond which its stream is ended when the client
/// does not read at all.
pub(crate) const UNREAD_BYTES_MAX: usize = 16 << 20;

/// How long a client may read nothing with that much waiting.
pub(crate) const UNREAD_SPAN_MAX: Duration = Duration::from_secs(5);

/// Bytes of deliveries in one message: enough to share the cost, small enough to leave soon.
const MESSAGE_BYTES: usize = 128 << 10;

/// Deliveries in one message.
const MESSAGE_DELIVERIES_MAX: usize = 512;

/// Answers and lease ends in one message.
const ANSWERS_MAX: usize = 4_096;

/// Whether a client that much waits for has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// So much that it need not be watched.
    Enough,
    /// Something.
    Slowly,
    /// Nothing at all.
    Nothing,
}

/// What a session has to say.
pub(crate) struct SessionOut {
    opened: Option<v1::SessionOpened>,
    tally: Tally,
    done: VecDeque<v1::SeqRange>,
    refused: VecDeque<v1::Refused>,
    /// Items whose whole answer waits to be taken.
    answered: usize,
    ended: VecDeque<(u64, LeaseEnd)>,
    deliveries: VecDeque<Delivery>,
    unread_bytes: usize,
    /// Messages with deliveries that the transport has taken.
    taken: u64,
    /// How many it had taken when too much waited, while somebody watches whether it takes more.
    watched_at: Option<u64>,
    draining: Option<Wall>,
    window: Arc<Semaphore>,
    /// This node, for the path of what it delivers.
    node: Name,
    fence: Fence,
}

impl SessionOut {
    fn new(hub: &Hub) -> Self {
        let opened = v1::SessionOpened {
            node: hub.identity.name.as_str().to_owned(),
            lane: hub.identity.lane.to_string(),
            lease_prefix: bytes::Bytes::copy_from_slice(&hub.lease_prefix()),
            epoch: hub.identity.epoch.0,
            limits: Some(view::limits(&hub.limits)),
        };
        Self {
            opened: Some(opened),
            tally: Tally::default(),
            done: VecDeque::new(),
            refused: VecDeque::new(),
            answered: 0,
            ended: VecDeque::new(),
            deliveries: VecDeque::new(),
            unread_bytes: 0,
            taken: 0,
            watched_at: None,
            draining: None,
            window: Arc::new(Semaphore::new(WINDOW_ITEMS as usize)),
            node: hub.identity.name.clone(),
            fence: hub.fence.clone(),
        }
    }

    /// An answer of core to an item; tells how many leases it has settled.
    pub(crate) fn answer(&mut self, seq: u64, answer: &Answer) -> u64 {
        let Outcome { refused, ended, done, settled, until: _ } = self.tally.answer(seq, answer);
        self.refused.extend(refused);
        if done {
            match self.done.back_mut() {
                Some(last) if last.last_seq + 1 == seq => last.last_seq = seq,
                _ => self.done.push_back(v1::SeqRange { first_seq: seq, last_seq: seq }),
            }
        }
        self.answered += usize::from(ended);
        settled
    }

    /// An answer of the edge: the item never came to core.
    fn refuse(&mut self, refused: v1::Refused) {
        self.refused.push_back(refused);
        self.answered += 1;
    }

    /// A delivery. True if from now on somebody has to watch whether the client reads at all.
    pub(crate) fn deliver(&mut self, delivery: Delivery) -> bool {
        self.unread_bytes += object::delivery_bytes(&delivery);
        self.deliveries.push_back(delivery);
        let watch = self.unread_bytes > UNREAD_BYTES_MAX && self.watched_at.is_none();
        if watch {
            self.watched_at = Some(self.taken);
        }
        watch
    }

    /// Looks again after a while whether the client reads.
    pub(crate) fn look_again(&mut self) -> Reads {
        let before = self.watched_at.replace(self.taken);
        if self.unread_bytes <= UNREAD_BYTES_MAX {
            self.watched_at = None;
            Reads::Enough
        } else if before == Some(self.taken) {
            Reads::Nothing
        } else {
            Reads::Slowly
        }
    }

    pub(crate) fn lease_ended(&mut self, lease: u64, reason: LeaseEnd) {
        self.ended.push_back((lease, reason));
    }

    pub(crate) fn draining(&mut self, until: Wall) {
        self.draining = Some(until);
    }

    /// Forgets what waits: the stream has been cut.
    pub(crate) fn clear(&mut self) {
        self.deliveries = VecDeque::new();
        self.unread_bytes = 0;
    }

    fn next_answers(&mut self) -> Option<Response> {
        if self.done.is_empty() && self.refused.is_empty() {
            return None;
        }
        let answers = v1::SessionAnswers {
            done: take_up_to(&mut self.done, ANSWERS_MAX),
            refused: take_up_to(&mut self.refused, ANSWERS_MAX),
        };
        if self.done.is_empty() && self.refused.is_empty() {
            self.window.add_permits(std::mem::take(&mut self.answered));
        }
        Some(Response::Answers(answers))
    }

    fn next_ended(&mut self) -> Option<Response> {
        let (_, reason) = *self.ended.front()?;
        let mut leases = Vec::new();
        while let Some((lease, why)) = self.ended.front()
            && *why == reason
            && leases.len() < ANSWERS_MAX
        {
            leases.push(*lease);
            self.ended.pop_front();
        }
        let mut ended = v1::LeaseEnded { leases, ..v1::LeaseEnded::default() };
        ended.set_reason(match reason {
            LeaseEnd::Expired => v1::LeaseEndReason::RanOut,
            LeaseEnd::Discarded => v1::LeaseEndReason::Discarded,
        });
        Some(Response::LeaseEnded(ended))
    }

    fn next_deliveries(&mut self) -> Option<Response> {
        if !self.fence.is_open() {
            // Somebody else may own the lane by now: their leases run out, here or with it (R6).
            self.clear();
        }
        let (mut count, mut bytes, mut beside) = (0, 0, 0);
        for next in self.deliveries.iter().take(MESSAGE_DELIVERIES_MAX) {
            let size = object::delivery_bytes(next);
            if count > 0 && bytes + size > MESSAGE_BYTES {
                break;
            }
            bytes += size;
            beside += Written::beside(next.object.entity.payload.len());
            count += 1;
        }
        if count == 0 {
            return None;
        }
        let mut writer = delivery::Writer::with_capacity(bytes - beside);
        for next in self.deliveries.drain(..count) {
            writer.push(&next, self.node.as_str());
        }
        self.unread_bytes -= bytes;
        self.taken += 1;
        Some(Response::Deliveries(writer.finish()))
    }
}

impl Gather for SessionOut {
    type Message = v1::SessionResponse;

    /// Answers go before deliveries, so that a subscription is known before its first delivery, and
    /// ends of leases before deliveries of the same objects.
    fn next_message(&mut self) -> Option<Self::Message> {
        let response = match self.opened.take() {
            Some(opened) => Some(Response::Opened(opened)),
            None => self
                .draining
                .take()
                .map(|until| Response::Draining(v1::Draining { until: Some(timestamp(until)) }))
                .or_else(|| self.next_answers())
                .or_else(|| self.next_ended())
                .or_else(|| self.next_deliveries()),
        };
        response.map(|response| v1::SessionResponse { response: Some(response) })
    }

    fn is_drained(&self) -> bool {
        self.tally.is_empty() && self.done.is_empty() && self.refused.is_empty()
    }
}

/// Opens a session; what is returned is its answering side.
pub(crate) fn open(
    hub: &Arc<Hub>,
    requests: Streaming<v1::SessionRequest>,
) -> OutStream<SessionOut> {
    let request = hub.next_request();
    let session = SessionId(request.0);
    let out = Outbox::new(SessionOut::new(hub));
    if let super::hub::Phase::Draining { until } = *hub.phase().borrow() {
        out.with(|session| session.draining(until));
    }
    hub.add_session(request, Arc::clone(&out));
    // What is returned closes the session however the stream ends: it exists before core knows.
    let stream = {
        let (hub, out) = (Arc::clone(hub), Arc::clone(&out));
        OutStream::new(out, move || {
            hub.remove(request);
            hub.feed_now(Input::CloseSession(session));
        })
    };
    hub.feed_now(Input::OpenSession(session));
    let reader = Reader {
        hub: Arc::clone(hub),
        out: Arc::clone(&out),
        request,
        last_seq: 0,
        subscriptions: BTreeMap::new(),
    };
    tokio::spawn(reader.run(requests));
    stream
}

struct Reader {
    hub: Arc<Hub>,
    out: Arc<Outbox<SessionOut>>,
    request: RequestId,
    last_seq: u64,
    /// What was asked for, so that a new credit finds its pattern.
    subscriptions: BTreeMap<u64, Subscribe>,
}

impl Reader {
    async fn run(mut self, mut requests: Streaming<v1::SessionRequest>) {
        // The end of the stream comes first: whoever has gone is read no further.
        let out = Arc::clone(&self.out);
        let reading = async {
            loop {
                match requests.message().await {
                    Ok(Some(message)) => self.take(message.items).await?,
                    Ok(None) => break,
                    Err(status) => return Err(error::stream_error(status)),
                }
            }
            self.stop_receiving().await;
            Ok(())
        };
        tokio::select! {
            biased;
            () = out.gone() => {}
            result = reading => out.finish(result),
        }
    }

    /// The client has closed its side: it gets no new deliveries.
    async fn stop_receiving(&mut self) {
        let unsubscribe = |number: &u64| {
            // No item stands behind it: seq 0 is never open, so the answer goes nowhere.
            let to = ReplyTo { request: self.request, seq: 0 };
            Input::Unsubscribe(to, SessionId(self.request.0), SubscriptionId(*number))
        };
        let inputs: Vec<Input> = self.subscriptions.keys().map(unsubscribe).collect();
        if !inputs.is_empty() {
            self.hub.feed(inputs, 0).await;
        }
    }

    async fn take(&mut self, items: Vec<v1::SessionItem>) -> Result<(), Status> {
        check_seqs(&mut self.last_seq, items.iter().map(|item| item.seq))?;
        if items.is_empty() {
            return Ok(());
        }
        let window = self.out.with(|session| Arc::clone(&session.window));
        let count = u32::try_from(items.len()).expect("checked above");
        window.acquire_many(count).await.expect("the window is never closed").forget();
        let mut inputs = Vec::with_capacity(items.len());
        let mut bytes = 0;
        for item in items {
            let seq = item.seq;
            bytes += item.item.as_ref().map_or(0, item_bytes);
            match self.input(seq, item.item) {
                Ok((expect, input)) => {
                    self.out.with(|session| session.tally.expect(seq, expect));
                    inputs.push(input);
                }
                Err(fault) => self.out.with(|session| session.refuse(fault.refused(seq))),
            }
        }
        if !inputs.is_empty() {
            self.hub.feed(inputs, bytes).await;
        }
        Ok(())
    }

    fn input(&mut self, seq: u64, item: Option<Item>) -> Result<(Expect, Input), Fault> {
        let to = ReplyTo { request: self.request, seq };
        let session = SessionId(self.request.0);
        let lessee = Lessee::Session(session);
        let limits = &self.hub.limits;
        Ok(match item {
            None => {
                return Err(Refusal::invalid(
                    "item",
                    "ITEM_MISSING",
                    "the item says nothing this node knows; choose subscribe, settle or another",
                )
                .into());
            }
            Some(Item::Subscribe(wanted)) => {
                let default = self.hub.bounds.credit_default;
                let subscribe = settle::subscribe(&wanted, session, default, limits)?;
                self.check_new(&subscribe)?;
                self.subscriptions.insert(wanted.subscription, subscribe.clone());
                (Expect::One, Input::Subscribe(to, subscribe))
            }
            Some(Item::SetCredit(set)) => {
                let credit = settle::credit(set.credit, limits)?;
                let known = self.subscriptions.get_mut(&set.subscription);
                let known = known.ok_or_else(|| unknown_subscription(set.subscription))?;
                known.credit = credit;
                (Expect::One, Input::Subscribe(to, known.clone()))
            }
            Some(Item::Unsubscribe(end)) => {
                if self.subscriptions.remove(&end.subscription).is_none() {
                    return Err(unknown_subscription(end.subscription).into());
                }
                let subscription = SubscriptionId(end.subscription);
                (Expect::One, Input::Unsubscribe(to, session, subscription))
            }
            Some(Item::Begin(begin)) => {
                let leases = settle::leases(&begin.leases, &begin.tokens, Naming::Stream)?;
                (Expect::leases(leases.len()), Input::Begin(to, lessee, leases))
            }
            Some(Item::Extend(extend)) => {
                let leases = settle::leases(&extend.leases, &extend.tokens, Naming::Stream)?;
                (Expect::leases(leases.len()), Input::Extend(to, lessee, leases))
            }
            Some(Item::Settle(settlement)) => {
                let settle = settle::settle(settlement, Naming::Stream, limits)?;
                (Expect::settles(settle.leases.len()), Input::Settle(to, lessee, settle))
            }
            Some(Item::Transaction(transaction)) => {
                let transaction = settle::transaction(transaction, Naming::Stream, limits)?;
                (Expect::Transaction, Input::Transaction(to, lessee, transaction))
            }
        })
    }

    /// A subscription's number means one thing as long as it lives.
    fn check_new(&self, subscribe: &Subscribe) -> Result<(), Refusal> {
        let number = subscribe.subscription.0;
        match self.subscriptions.get(&number) {
            Some(known)
                if known.pattern != subscribe.pattern
                    || known.processor != subscribe.processor =>
            {
                Err(Refusal::invalid(
                    "subscription",
                    "SUBSCRIPTION_REUSED",
                    format!("subscription {number} of this session is for {} already; choose another number", known.pattern),
                )
                .given(number))
            }
            _ => Ok(()),
        }
    }
}

fn unknown_subscription(number: u64) -> Refusal {
    Refusal {
        field: Some("subscription"),
        ..Refusal::new(
            Code::NotFound,
            "SUBSCRIPTION_UNKNOWN",
            format!("this session has no subscription {number}"),
        )
        .given(number)
    }
}

/// Bytes that an item takes, roughly.
fn item_bytes(item: &Item) -> usize {
    match item {
        Item::Settle(settlement) => settlement_bytes(settlement),
        Item::Transaction(transaction) => transaction_bytes(transaction),
        Item::Begin(begin) => 8 * begin.leases.len() + 64 * begin.tokens.len(),
        Item::Extend(extend) => 8 * extend.leases.len() + 64 * extend.tokens.len(),
        Item::Subscribe(_) | Item::SetCredit(_) | Item::Unsubscribe(_) => 512,
    }
}

pub(crate) fn transaction_bytes(transaction: &v1::Transaction) -> usize {
    transaction.settlements.iter().map(settlement_bytes).sum::<usize>()
        + transaction.pushes.iter().map(object_bytes).sum::<usize>()
}

pub(crate) fn settlement_bytes(settlement: &v1::Settlement) -> usize {
    let entity = match &settlement.verb {
        Some(v1::settlement::Verb::Advance(advance)) => {
            let headers = advance.headers.iter().map(|(key, value)| key.len() + value.len());
            advance.entity.as_ref().map_or(0, |any| any.value.len()) + headers.sum::<usize>()
        }
        _ => 0,
    };
    let emits: usize = settlement.emits.iter().map(object_bytes).sum();
    entity + emits + 8 * settlement.leases.len() + 64 * settlement.tokens.len() + 64
}

/// The refusal of one item or call, apart from its position.
pub(crate) fn refusal(seq: u64, refusal: &Refusal) -> v1::Refused {
    refused(seq, None, error::refused(refusal, ""))
}
