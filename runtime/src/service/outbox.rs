//! What waits to be sent on one stream. The driver puts in, the transport takes out when the client
//! can receive: nobody ever waits for a slow reader, and what has gathered leaves as one message.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tonic::Status;

/// Gathers what one stream has to say.
pub(crate) trait Gather: Send + 'static {
    /// One message of the stream.
    type Message;

    /// The next message, if anything waits.
    fn next_message(&mut self) -> Option<Self::Message>;

    /// Whether everything that is due has been taken, so that a stream that is to end may end.
    fn is_drained(&self) -> bool;
}

/// The buffer of one outgoing stream.
pub(crate) struct Outbox<G> {
    state: Mutex<State<G>>,
    gone: Notify,
}

struct State<G> {
    gather: G,
    waker: Option<Waker>,
    /// Set when nothing more is to come than what is due.
    ending: Option<Result<(), Status>>,
    /// Set when not even that is to come.
    cut: bool,
    /// The transport has dropped its end.
    dropped: bool,
}

impl<G: Gather> Outbox<G> {
    pub(crate) fn new(gather: G) -> Arc<Self> {
        let state = State { gather, waker: None, ending: None, cut: false, dropped: false };
        Arc::new(Self { state: Mutex::new(state), gone: Notify::new() })
    }

    /// Changes what has gathered and wakes the transport.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut G) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state.gather);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        result
    }

    /// Ends the stream once everything that is due has been sent.
    pub(crate) fn finish(&self, result: Result<(), Status>) {
        let mut state = self.lock();
        if state.ending.is_none() {
            state.ending = Some(result);
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Ends the stream now; what waits is not sent. Tells whether it was open until now.
    pub(crate) fn cut(&self, status: Status) -> bool {
        let mut state = self.lock();
        let was_open = !state.cut && !state.dropped;
        state.cut = true;
        state.ending = Some(Err(status));
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        drop(state);
        self.gone.notify_one();
        was_open
    }

    /// Waits until the stream is cut or the transport has dropped it. For one reader.
    pub(crate) async fn gone(&self) {
        self.gone.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State<G>> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

/// The transport's end of an outbox. `closed` runs once, when the transport drops it.
pub(crate) struct OutStream<G: Gather> {
    outbox: Arc<Outbox<G>>,
    closed: Option<Box<dyn FnOnce() + Send>>,
}

impl<G: Gather> OutStream<G> {
    pub(crate) fn new(outbox: Arc<Outbox<G>>, closed: impl FnOnce() + Send + 'static) -> Self {
        Self { outbox, closed: Some(Box::new(closed)) }
    }

    /// The next message, or the end.
    fn poll_message(&self, cx: &mut Context<'_>) -> Poll<Option<Result<G::Message, Status>>> {
        let mut state = self.outbox.lock();
        if !state.cut
            && let Some(message) = state.gather.next_message()
        {
            return Poll::Ready(Some(Ok(message)));
        }
        if state.cut || state.gather.is_drained() {
            match state.ending.take() {
                Some(Err(status)) => {
                    state.ending = Some(Ok(()));
                    return Poll::Ready(Some(Err(status)));
                }
                Some(Ok(())) => {
                    state.ending = Some(Ok(()));
                    return Poll::Ready(None);
                }
                None => {}
            }
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<G: Gather> futures_util::Stream for OutStream<G> {
    type Item = Result<G::Message, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_message(cx)
    }
}

impl<G: Gather> Drop for OutStream<G> {
    fn drop(&mut self) {
        self.outbox.lock().dropped = true;
        self.outbox.gone.notify_one();
        if let Some(closed) = self.closed.take() {
            closed();
        }
    }
}
