//! Pushing: many objects over one stream, each answered.

mod receipt;
mod state;
mod task;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use self::state::{Answer, State, Waiter};
use crate::connect::Nodes;
use crate::error::Error;
use crate::object::Object;
use crate::options::Window;

pub use self::receipt::{Answered, Durability, PushStatus, Receipt, Stored};

/// What callers, body and task of a pusher share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// There is room again.
    room: Notify,
    /// The task has something to look at.
    work: Notify,
    /// Something was answered.
    answered: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not keep the last words from those who wait.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everyone who may wait for what an answer changes.
    fn tell(&self, state: &mut State) {
        if state.blocked && (state.has_much_room() || state.ended) {
            state.blocked = false;
            self.room.notify_waiters();
        }
        self.answered.notify_waiters();
    }

    /// The body may have something to send.
    fn wake_body(state: &mut State) {
        if let Some(body) = state.body.take() {
            body.wake();
        }
    }
}

/// Pushes objects over one stream, with a bounded number under way.
///
/// There are two ways to learn the answers. [`Pusher::push`] gives a handle for each object.
/// [`Pusher::send`] is faster: it gives a number, and [`Pusher::receipts`] tells ranges of them.
///
/// When the connection is lost, the pusher comes back to the same node, by its lane, and sends what
/// has no answer again, under the same ids, so that nothing is doubled. Clones share the stream.
/// Dropping the last one loses nothing: what was accepted is still sent and answered in the
/// background, as long as the runtime lives; [`Pusher::close`] waits for it.
#[derive(Clone)]
pub struct Pusher {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    nodes: Arc<Nodes>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
    }
}

impl Pusher {
    /// Must be called within a runtime: the stream is one task of it.
    pub(crate) fn start(nodes: Arc<Nodes>, window: Window) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(window)),
            room: Notify::new(),
            work: Notify::new(),
            answered: Notify::new(),
        });
        tokio::spawn(task::run(shared.clone(), nodes.clone()));
        Self { handle: Arc::new(Handle { shared, nodes }) }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// The task has ended, with its runtime for example.
    pub(crate) fn is_ended(&self) -> bool {
        self.shared().lock().ended
    }

    /// Hands an object over, as soon as the window has room, and returns a future of its receipt.
    /// The object is on its way even if the future is dropped.
    pub async fn push(&self, object: Object) -> Result<PushHandle, Error> {
        let (sender, answer) = oneshot::channel();
        let sent = self.accept(object, Waiter::Handle(sender)).await?;
        Ok(PushHandle { id: sent.id, answer })
    }

    /// Hands an object over, as soon as the window has room. Its answer comes out of
    /// [`Pusher::receipts`] or, if nobody collects them, is summed up by [`Pusher::flush`].
    pub async fn send(&self, object: Object) -> Result<Sent, Error> {
        self.accept(object, Waiter::Collector).await
    }

    async fn accept(&self, object: Object, waiter: Waiter) -> Result<Sent, Error> {
        // Whoever pushes in a loop shares the thread with the connection.
        tokio::task::coop::consume_budget().await;
        let (id, object) = object.into_wire(&self.handle.nodes.options.ids);
        let (bytes, object) = (size(&object), Box::new(object));
        let shared = self.shared();
        loop {
            // Made before the look at the state, so that no notice falls between.
            let room = shared.room.notified();
            {
                let mut state = shared.lock();
                if state.ended || state.closing {
                    return Err(Error::closed("pusher"));
                }
                if state.has_room(bytes) {
                    let idle = state.is_idle();
                    let ticket = state.accept(id, object, bytes, waiter);
                    Shared::wake_body(&mut state);
                    if idle {
                        shared.work.notify_one();
                    }
                    return Ok(Sent { ticket, id });
                }
                state.blocked = true;
            }
            room.await;
        }
    }

    /// Collects the answers to [`Pusher::send`], from now on. Ranges that nobody collects take
    /// room in the window, so collect them or drop this.
    pub fn receipts(&self) -> Receipts {
        self.shared().lock().collected.wanted = true;
        Receipts { shared: self.handle.shared.clone() }
    }

    /// Waits until everything handed over so far has its answer. If nobody collects receipts, a
    /// failure among the objects of [`Pusher::send`] since the last flush is the error, which says
    /// how many failed.
    pub async fn flush(&self) -> Result<(), Error> {
        let shared = self.shared();
        let last = shared.lock().last_ticket();
        loop {
            let answered = shared.answered.notified();
            {
                let mut state = shared.lock();
                if state.first_open_ticket().is_none_or(|open| open > last) {
                    let failed = std::mem::take(&mut state.collected.failed);
                    let first = state.collected.first_failure.take();
                    return first.map_or(Ok(()), |error| Err(error.among(failed)));
                }
            }
            answered.await;
        }
    }

    /// Accepts nothing more, waits for the answers as [`Pusher::flush`] does, and ends the stream.
    pub async fn close(self) -> Result<(), Error> {
        self.shared().lock().closing = true;
        self.shared().work.notify_one();
        self.flush().await
    }
}

impl fmt::Debug for Pusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pusher").finish_non_exhaustive()
    }
}

/// What counts to the window.
fn size(object: &dpc_proto::v1::Object) -> usize {
    let headers: usize = object.headers.iter().map(|(key, value)| key.len() + value.len()).sum();
    object.entity.as_ref().map_or(0, |entity| entity.value.len()) + headers
}

/// An object that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Counts the objects of this pusher, from 1.
    pub ticket: u64,
    /// The id of the object.
    pub id: Uuid,
}

/// The future of one receipt. Dropping it takes nothing back.
#[derive(Debug)]
#[must_use = "the receipt says whether the object was stored"]
pub struct PushHandle {
    id: Uuid,
    answer: oneshot::Receiver<Answer>,
}

impl PushHandle {
    /// The id of the object.
    pub fn id(&self) -> Uuid {
        self.id
    }
}

impl Future for PushHandle {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| {
            let gone = |_| Err(Error::connection_lost("the task of the pusher is gone"));
            answer.unwrap_or_else(gone)
        })
    }
}

/// The answers to [`Pusher::send`].
pub struct Receipts {
    shared: Arc<Shared>,
}

impl Receipts {
    /// Waits for answers and takes all there are, as ranges of tickets; every ticket is named
    /// once. Empty: the pusher is closed, and everything was answered.
    pub async fn next(&mut self) -> VecDeque<Answered> {
        loop {
            let answered = self.shared.answered.notified();
            {
                let mut state = self.shared.lock();
                let ranges = std::mem::take(&mut state.collected.ranges);
                let done = state.ended || (state.closing && state.is_idle());
                if !ranges.is_empty() || done {
                    self.shared.tell(&mut state);
                    return ranges;
                }
            }
            answered.await;
        }
    }
}

impl fmt::Debug for Receipts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipts").finish_non_exhaustive()
    }
}

impl Drop for Receipts {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.collected.wanted = false;
        state.collected.ranges.clear();
        self.shared.tell(&mut state);
    }
}
