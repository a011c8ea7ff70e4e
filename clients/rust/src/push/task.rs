//! The task of a pusher: one stream at a time, to the node that may have what is not answered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dpc_proto::{PushStreamRequest, v1};
use futures_util::Stream;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Streaming;

use super::Shared;
use super::state::Place;
use crate::connect::Nodes;
use crate::error::Error;
use crate::ids::Backoff;

/// How long the node may take to end a stream that has no more to answer.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// The task looks after an idle stream so often; nothing depends on it.
const IDLE: Duration = Duration::from_secs(3_600);

type Inbound = Streaming<v1::PushStreamResponse>;

/// What the connection pulls messages from.
struct Body {
    shared: Arc<Shared>,
    stream: u64,
}

impl Stream for Body {
    type Item = PushStreamRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        if state.stream != self.stream || (state.closing && state.is_idle()) || state.leaving {
            return Poll::Ready(None);
        }
        if let Some(message) = state.next_message(Instant::now) {
            return Poll::Ready(Some(message));
        }
        // An object that no message can hold has its answer now.
        self.shared.tell(&mut state);
        state.body = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Answers everybody when the task ends, however it ends.
struct LastWords(Arc<Shared>);

impl Drop for LastWords {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.end(&Error::closed("pusher"));
        self.0.tell(&mut state);
    }
}

/// Why a stream is over.
enum End {
    /// Closed, and everything is answered.
    Closed,
    /// The node wants no more.
    Leave,
    /// It broke, or makes no sense.
    Broken(Error),
}

pub(super) async fn run(shared: Arc<Shared>, nodes: Arc<Nodes>) {
    let _last_words = LastWords(shared.clone());
    let (first, longest) = nodes.options.backoff;
    let mut backoff = nodes.options.ids.backoff(first, longest);
    let mut start = nodes.preferred();
    while wait_for_work(&shared).await {
        match open_any(&shared, &nodes, start).await {
            Ok(inbound) => {
                let end = pump(&shared, &nodes, inbound, &mut backoff).await;
                let (left, answered) = {
                    let mut state = shared.lock();
                    let was = (state.unavailable, state.answered);
                    state.broken(Instant::now());
                    was
                };
                match end {
                    End::Closed => return,
                    End::Leave => shared.lock().requeue_all(),
                    End::Broken(error) => {
                        tracing::debug!(%error, "push stream lost");
                        // A stream that did nothing may end the same way again.
                        if !answered {
                            wait_after(&shared, &nodes, &mut backoff, &error.broken_off()).await;
                        }
                    }
                }
                let place = shared.lock().place.as_ref().map_or(0, |place| place.index);
                start = if left { nodes.after(place) } else { place };
                continue;
            }
            Err(error) => wait_after(&shared, &nodes, &mut backoff, &error).await,
        }
        start = shared.lock().place.as_ref().map_or(start, |place| place.index);
    }
}

/// False: closed, and nothing is left to do.
async fn wait_for_work(shared: &Shared) -> bool {
    loop {
        {
            let state = shared.lock();
            if !state.is_idle() {
                return true;
            }
            if state.closing {
                return false;
            }
        }
        shared.work.notified().await;
    }
}

/// Gives up what has waited too long, and waits before the next round.
async fn wait_after(shared: &Shared, nodes: &Nodes, backoff: &mut Backoff, error: &Error) {
    let patience = nodes.options.give_up_after;
    let wake = {
        let now = Instant::now();
        let mut state = shared.lock();
        let unsent_now = nodes.options.fail_fast || !error.is_transient();
        state.expire(now, patience, error, unsent_now);
        shared.tell(&mut state);
        let next = now + backoff.wait(error.retry_after());
        state.next_expiry(patience).map_or(next, |expiry| expiry.min(next))
    };
    if !shared.lock().is_idle() {
        sleep_until(wake).await;
    }
}

/// Tries every node once, beginning with this one.
async fn open_any(shared: &Arc<Shared>, nodes: &Nodes, start: usize) -> Result<Inbound, Error> {
    let mut last = None;
    for node in nodes.from(start) {
        match open(shared, nodes, node).await {
            Ok(inbound) => {
                nodes.prefer(node);
                return Ok(inbound);
            }
            Err(error) => {
                tracing::debug!(address = nodes.address(node), %error, "no push stream");
                shared.lock().broken(Instant::now());
                last = Some(error);
            }
        }
    }
    Err(last.expect("there is at least one address"))
}

/// Opens a stream to a node that may have what is not answered, or when nothing is in doubt.
async fn open(shared: &Arc<Shared>, nodes: &Nodes, node: usize) -> Result<Inbound, Error> {
    let stream = shared.lock().stream;
    let body = Body { shared: shared.clone(), stream };
    let mut cloud = nodes.cloud(node);
    let opening = async {
        let mut inbound = cloud.push_stream(body).await?.into_inner();
        let first = inbound.message().await?;
        Ok::<_, tonic::Status>((inbound, first))
    };
    let (inbound, first) = timeout(nodes.options.connect_timeout, opening)
        .await
        // Nothing was sent: the body waits for the first message of the node.
        .map_err(|_| Error::unreachable("the node does not answer"))?
        .map_err(|status| Error::from_status(&status))?;
    let Some(v1::push_stream_response::Response::Opened(opened)) = first.and_then(|m| m.response)
    else {
        return Err(Error::malformed_answer("the node did not open the push stream"));
    };
    let mut state = shared.lock();
    if let Some(place) = state.place.as_ref().filter(|place| place.lane != opened.lane)
        && !nodes.options.resend_elsewhere
        && state.in_doubt()
    {
        return Err(Error::connection_lost(format!(
            "objects wait for their answer from node {}, lane {}; {} is node {}, lane {}",
            place.node,
            place.lane,
            nodes.address(node),
            opened.node,
            opened.lane,
        )));
    }
    let place = Place { index: node, node: opened.node.into(), lane: opened.lane };
    state.opened(place, opened.limits.as_ref(), Instant::now());
    Shared::wake_body(&mut state);
    Ok(inbound)
}

async fn pump(shared: &Shared, nodes: &Nodes, mut inbound: Inbound, backoff: &mut Backoff) -> End {
    loop {
        let deadline = match look(shared, nodes) {
            Next::Wait(deadline) => deadline,
            Next::End(End::Closed) => return end(inbound).await,
            Next::End(end) => return end,
        };
        // Answers first: they free what everyone else waits for.
        tokio::select! { biased;
            message = inbound.message() => match message {
                Ok(Some(message)) => {
                    if let Err(error) = take_answers(shared, nodes, message, backoff) {
                        return End::Broken(error);
                    }
                }
                Ok(None) => return End::Broken(Error::connection_lost("the node ended the stream")),
                Err(status) => return End::Broken(Error::from_status(&status)),
            },
            () = shared.work.notified() => {}
            () = sleep_until(deadline) => {}
        }
    }
}

/// What the task does next with an open stream.
enum Next {
    Wait(Instant),
    End(End),
}

fn look(shared: &Shared, nodes: &Nodes) -> Next {
    let timeout = nodes.options.answer_timeout;
    let alone = nodes.after(0) == 0;
    let now = Instant::now();
    let mut state = shared.lock();
    state.requeue_due(now);
    if state.is_stalled(now, timeout) {
        let error = Error::connection_lost("the node owes answers and sends none");
        return Next::End(End::Broken(error));
    }
    let closed = state.closing && state.is_idle();
    state.leaving |= state.unavailable && !alone;
    Shared::wake_body(&mut state);
    if closed {
        return Next::End(End::Closed);
    }
    if state.leaving && !state.owes() {
        return Next::End(End::Leave);
    }
    let idle = if state.is_idle() { IDLE } else { timeout };
    let stall = if state.owes() { state.progress + timeout } else { now + idle };
    Next::Wait(state.next_due().map_or(stall, |due| due.min(stall)))
}

fn take_answers(
    shared: &Shared,
    nodes: &Nodes,
    message: v1::PushStreamResponse,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let Some(v1::push_stream_response::Response::Answers(answers)) = message.response else {
        return Err(Error::malformed_answer("a message of the push stream holds no answers"));
    };
    if answers.refused.is_empty() {
        backoff.reset();
    }
    let now = Instant::now();
    let mut state = shared.lock();
    // One wait for all that one message refuses.
    let mut wait = None;
    let retry =
        |error: &Error| now + *wait.get_or_insert_with(|| backoff.wait(error.retry_after()));
    state.answered(answers, now, retry, nodes.options.give_up_after)?;
    shared.tell(&mut state);
    Ok(())
}

/// The body has ended: lets the node end the stream in order.
async fn end(mut inbound: Inbound) -> End {
    let rest = timeout(END_TIMEOUT, inbound.message()).await;
    tracing::trace!(in_order = matches!(rest, Ok(Ok(None))), "push stream closed");
    End::Closed
}
