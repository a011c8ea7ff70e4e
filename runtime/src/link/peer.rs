//! One link: its queues, its peer, the questions asked over it, and the tasks that read it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use dpc_core::Input;
use dpc_core::ids::{LaneId, LinkId};
use dpc_core::message::{LinkRefusal, Message};
use dpc_core::names::Name;
use dpc_core::time::Mono;
use dpc_proto::v1;
use futures_util::{Stream, StreamExt};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tonic::Status;
use v1::link_message::Message as Wire;

use super::out::{BYTE_WINDOW, BodiesOut, LinkOut};
use super::rate::{Counts, Rate};
use super::{Origin, received_payload};
use crate::service::{Hub, Outbox, answer_ask};
use crate::wire::link::{self, BadMessage};
use crate::wire::offer;

/// How long a peer may take to say its first message, and to open the stream of bodies.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// How long a link that ends is given to send what is due.
const FLUSH: Duration = Duration::from_secs(1);

/// Questions of one peer that are answered at once.
const ASKS_AT_ONCE: usize = 64;

/// Questions to one peer without an answer.
const ASKS_OPEN_MAX: usize = 1_024;

/// See the module.
pub(crate) struct Link {
    pub(crate) id: LinkId,
    /// Who has dialled.
    pub(crate) origin: Origin,
    /// What its dialler calls it, so that its two streams find each other.
    pub(super) pair: String,
    pub(super) out: Arc<Outbox<LinkOut>>,
    pub(super) bodies: Arc<Outbox<BodiesOut>>,
    ending: Notify,
    stage: watch::Sender<Stage>,
    next_ask: AtomicU64,
    asks: Mutex<BTreeMap<u64, oneshot::Sender<v1::Told>>>,
    answering: Arc<Semaphore>,
    known: Mutex<Known>,
}

/// How far a link is in its life.
#[derive(Clone, Copy, Debug, Default)]
struct Stage {
    /// The stream of bodies is open.
    bodies: bool,
    /// The handshake is done: bodies are read.
    ready: bool,
}

/// What is known of the other side.
#[derive(Default)]
struct Known {
    peer: Option<(Name, LaneId)>,
    counts: Option<Arc<Counts>>,
    uncounted: (u64, u64),
    sent: Rate,
    received: Rate,
    /// Whether the peer has said that it does not want the link.
    refused: bool,
    /// Why core ended the link, and whether dialling again can help.
    closed: Option<(LinkRefusal, bool)>,
}

impl Link {
    pub(super) fn new(id: LinkId, origin: Origin, pair: String) -> Self {
        Self {
            id,
            origin,
            pair,
            out: Outbox::new(LinkOut::default()),
            bodies: Outbox::new(BodiesOut::new()),
            ending: Notify::new(),
            stage: watch::Sender::new(Stage::default()),
            next_ask: AtomicU64::new(1),
            asks: Mutex::new(BTreeMap::new()),
            answering: Arc::new(Semaphore::new(ASKS_AT_ONCE)),
            known: Mutex::new(Known::default()),
        }
    }

    /// Queues what core says. False if the peer does not read: the link is cut then.
    pub(super) fn send(&self, message: Message) -> bool {
        let fits = if message.is_body() {
            self.bodies.with(|bodies| bodies.push(message))
        } else {
            self.out.with(|out| out.push(message))
        };
        if !fits {
            self.cut("the peer does not read");
        }
        fits
    }

    /// Ends the link after what is due has been sent.
    pub(super) fn close(&self, refusal: LinkRefusal, redial: bool) {
        self.known().closed = Some((refusal, redial));
        self.out.finish(Ok(()));
        self.ending.notify_one();
    }

    /// Ends the link now.
    pub(super) fn cut(&self, why: &str) {
        self.out.cut(Status::unavailable(why));
        self.bodies.cut(Status::unavailable(why));
        self.ending.notify_one();
    }

    /// The handshake is done.
    pub(super) fn ready(&self, name: Name, lane: LaneId, counts: Arc<Counts>) {
        self.out.with(|out| out.count_in(Arc::clone(&counts)));
        self.bodies.with(|bodies| bodies.count_in(Arc::clone(&counts)));
        self.stage.send_modify(|stage| stage.ready = true);
        let mut known = self.known();
        let (messages, payload) = std::mem::take(&mut known.uncounted);
        counts.received(messages, payload);
        known.counts = Some(counts);
        known.peer = Some((name, lane));
    }

    /// The peer, once the handshake is done.
    pub(crate) fn peer(&self) -> Option<(Name, LaneId)> {
        self.known().peer.clone()
    }

    /// The peer's name, or the link's number.
    pub(crate) fn label(&self) -> String {
        match &self.known().peer {
            Some((name, _)) => name.to_string(),
            None => format!("link {}", self.id),
        }
    }

    /// Why core ended it.
    pub(super) fn closed(&self) -> Option<(LinkRefusal, bool)> {
        self.known().closed.clone()
    }

    /// Objects that went to the peer.
    pub(crate) fn count_sent(&self, now: Mono, objects: u64) {
        self.known().sent.add(now, objects);
    }

    /// Objects a second, sent and received, over the last ten seconds.
    pub(crate) fn rates(&self, now: Mono) -> (f64, f64) {
        let mut known = self.known();
        (known.sent.per_second(now), known.received.per_second(now))
    }

    /// Asks the peer a question. `None` if it cannot be asked or its answer does not come: the caller
    /// bounds the time.
    pub(crate) async fn ask(
        &self,
        inspect: v1::Inspect,
        hops_left: u32,
        wait: Duration,
    ) -> Option<v1::Told> {
        let ask = self.next_ask.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut asks = self.asks.lock().expect("nobody panics while holding it");
            asks.retain(|_, asker| !asker.is_closed());
            if asks.len() >= ASKS_OPEN_MAX {
                return None;
            }
            asks.insert(ask, sender);
        }
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let question = v1::Ask { ask, hops_left, wait_ms, inspect: Some(inspect) };
        self.out.with(|out| out.push_wire(Wire::Ask(question)));
        answer.await.ok()
    }

    /// Reads the link until it ends, and tells core of its beginning and its end.
    pub(super) async fn run(
        self: Arc<Self>,
        hub: Arc<Hub>,
        mut incoming: impl Stream<Item = Result<Vec<v1::LinkMessage>, Status>> + Unpin,
    ) -> Option<String> {
        let dialled = self.origin != Origin::Accepted;
        hub.feed_now(Input::LinkUp { link: self.id, dialled });
        // The end comes first: a link that was cut is read no further.
        let why = tokio::select! {
            biased;
            () = self.out.gone() => None,
            () = self.flushed() => None,
            () = self.without_bodies() => Some("the peer opens no stream of bodies".to_owned()),
            why = self.read(&hub, &mut incoming) => why,
        };
        hub.links.remove(self.id);
        hub.feed_now(Input::LinkDown(self.id));
        self.out.cut(Status::unavailable("the link has ended"));
        self.bodies.cut(Status::unavailable("the link has ended"));
        if self.closed().is_some() {
            // The refusal has left the queue, not yet the connection. Dropping the other direction
            // would reset both, and the peer would never read why.
            tokio::time::sleep(FLUSH).await;
        }
        why
    }

    /// Core has ended the link: what is due is given a moment to leave.
    async fn flushed(&self) {
        self.ending.notified().await;
        tokio::time::sleep(FLUSH).await;
    }

    /// Ends when the peer has not opened the stream of bodies in time.
    async fn without_bodies(&self) {
        let mut stage = self.stage.subscribe();
        let opened = stage.wait_for(|stage| stage.bodies);
        if tokio::time::timeout(FIRST_MESSAGE, opened).await.is_ok() {
            std::future::pending::<()>().await;
        }
    }

    /// The stream of bodies is there. False if it was before.
    pub(super) fn open_bodies(&self) -> bool {
        self.stage.send_if_modified(|stage| !std::mem::replace(&mut stage.bodies, true))
    }

    /// Reads bodies until the link ends. The end of their stream is the end of the link.
    pub(super) async fn run_bodies(
        self: Arc<Self>,
        hub: Arc<Hub>,
        mut incoming: impl Stream<Item = Result<Vec<v1::LinkMessage>, Status>> + Unpin,
    ) {
        let reading = async {
            // The peer's Hello is on the other stream: core hears it before anything else.
            let mut stage = self.stage.subscribe();
            stage.wait_for(|stage| stage.ready).await.map_err(drop)?;
            let mut window = ReceiveWindow::default();
            while let Some(Ok(messages)) = incoming.next().await {
                let taken = self.take(&hub, messages, Some(&mut window)).await;
                taken.map_err(|bad| self.refuse_malformed(bad))?;
            }
            Ok::<(), ()>(())
        };
        // The end comes first: a link that was cut is read no further.
        tokio::select! {
            biased;
            () = self.bodies.gone() => self.cut("the link has ended"),
            read = reading => match read {
                Ok(()) if !self.known().refused => self.cut("the stream of bodies has ended"),
                // The end is near: what is due leaves, and the link ends by itself.
                _ => self.bodies.gone().await,
            },
        }
    }

    /// The peer breaks the rules: it is told so, and the link ends.
    fn refuse_malformed(&self, bad: BadMessage) {
        tracing::warn!(peer = %self.label(), "malformed: {bad}; link closed");
        let refusal = LinkRefusal::Malformed(bad.0);
        self.send(Message::Refuse(refusal.clone()));
        self.close(refusal, true);
    }

    async fn read(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        incoming: &mut (impl Stream<Item = Result<Vec<v1::LinkMessage>, Status>> + Unpin),
    ) -> Option<String> {
        let first = tokio::time::timeout(FIRST_MESSAGE, incoming.next()).await;
        let Ok(mut next) = first else { return Some("the peer said nothing for 10 s".to_owned()) };
        loop {
            match next {
                // Core has been told why and ends the link itself, in a moment.
                None | Some(Err(_)) if self.known().refused => {
                    tokio::time::sleep(FLUSH * 2).await;
                    return None;
                }
                None => return None,
                Some(Err(status)) => return Some(status.message().to_owned()),
                Some(Ok(messages)) => {
                    if let Err(bad) = self.take(hub, messages, None).await {
                        self.refuse_malformed(bad);
                        // The end is near: what is due leaves, and the link ends by itself.
                        std::future::pending::<()>().await;
                    }
                }
            }
            next = incoming.next().await;
        }
    }

    /// Takes in what came on one of the streams; the one of bodies has a byte window.
    async fn take(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        messages: Vec<v1::LinkMessage>,
        bodies: Option<&mut ReceiveWindow>,
    ) -> Result<(), BadMessage> {
        let payload = messages.iter().map(received_payload).sum();
        self.count_received(messages.len() as u64, payload);
        let mut inputs = Vec::with_capacity(messages.len());
        let (mut bytes, mut cost, mut objects) = (0, 0, 0);
        for message in messages {
            let message =
                message.message.ok_or_else(|| BadMessage::new("a message of no known kind"))?;
            match message {
                Wire::ByteWindow(grant) => self.bodies.with(|out| out.grant(grant.total)),
                Wire::Ask(ask) => self.answer(hub, ask),
                Wire::Told(told) => self.told(*told),
                other => {
                    let message = link::from_wire(other)?;
                    if message.is_body() != bodies.is_some() {
                        return Err(BadMessage::new(format!("on the wrong stream: {message}")));
                    }
                    bytes += 256;
                    cost += offer::cost_of(&message);
                    match &message {
                        Message::Offer(offer) => objects += offer.objects.len() as u64,
                        Message::Refuse(_) => self.known().refused = true,
                        _ => {}
                    }
                    inputs.push(Input::Peer(self.id, message));
                }
            }
        }
        if objects > 0 {
            self.known().received.add(hub.clock.now().mono, objects);
        }
        if !inputs.is_empty() {
            bytes += usize::try_from(cost).unwrap_or(usize::MAX / 2);
            hub.feed(inputs, bytes).await;
        }
        if let Some(total) = bodies.and_then(|window| window.consumed(cost)) {
            self.out.with(|out| out.push_wire(Wire::ByteWindow(v1::ByteWindow { total })));
        }
        Ok(())
    }

    /// Answers a peer's question in a task of its own: it may have to ask others.
    fn answer(self: &Arc<Self>, hub: &Arc<Hub>, ask: v1::Ask) {
        // Beyond the bound nothing is answered: the asking side says that its answer is incomplete.
        let Ok(permit) = Arc::clone(&self.answering).try_acquire_owned() else { return };
        let (link, hub) = (Arc::clone(self), Arc::clone(hub));
        tokio::spawn(async move {
            let told = answer_ask(&hub, ask).await;
            link.out.with(|out| out.push_wire(Wire::Told(Box::new(told))));
            drop(permit);
        });
    }

    fn told(&self, told: v1::Told) {
        let asker = self.asks.lock().expect("nobody panics while holding it").remove(&told.ask);
        if let Some(asker) = asker {
            let _asker_gone = asker.send(told);
        }
    }

    fn count_received(&self, messages: u64, payload: u64) {
        let mut known = self.known();
        match &known.counts {
            Some(counts) => counts.received(messages, payload),
            None => {
                known.uncounted.0 += messages;
                known.uncounted.1 += payload;
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics while holding it")
    }
}

/// How many bytes of bodies the peer may send.
struct ReceiveWindow {
    consumed: u64,
    granted: u64,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        Self { consumed: 0, granted: BYTE_WINDOW }
    }
}

impl ReceiveWindow {
    /// Bodies have been handed on: the new total to grant, when half of the window is used.
    fn consumed(&mut self, bytes: u64) -> Option<u64> {
        self.consumed += bytes;
        let total = self.consumed + BYTE_WINDOW;
        if total - self.granted < BYTE_WINDOW / 2 {
            return None;
        }
        self.granted = total;
        Some(total)
    }
}
