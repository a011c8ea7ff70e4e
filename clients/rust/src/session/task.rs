//! The task of a session: one stream at a time, to whichever node takes it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dpc_proto::v1;
use dpc_proto::v1::session_response::Response;
use futures_util::Stream;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Streaming;

use super::answers::Retry;
use super::delivery::Info;
use super::ops::TransactionOp;
use super::{Session, prefix};
use crate::client::repeat;
use crate::error::Error;
use crate::ids::Backoff;

/// How long the node may take to end a stream that has no more to answer.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// The task looks after an idle stream so often; nothing depends on it.
const IDLE: Duration = Duration::from_secs(3_600);

type Inbound = Streaming<v1::SessionResponse>;

/// What the connection pulls messages from.
struct Body {
    session: Arc<Session>,
    stream: u64,
}

impl Stream for Body {
    type Item = v1::SessionRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.session.lock();
        if state.stream != self.stream {
            return Poll::Ready(None);
        }
        if let Some(message) = state.next_message(Instant::now()) {
            return Poll::Ready(Some(message));
        }
        if state.info.is_some() && (state.closing || state.draining) && state.is_quiet() {
            return Poll::Ready(None);
        }
        if state.closing {
            // A settle that no message can hold has its answer now.
            self.session.answered.notify_waiters();
        }
        state.body = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Answers everybody when the task ends, however it ends.
struct LastWords(Arc<Session>);

impl Drop for LastWords {
    fn drop(&mut self) {
        self.0.lock().end(Instant::now());
        tell_all(&self.0);
    }
}

fn tell_all(session: &Session) {
    session.arrived.notify_waiters();
    session.lost.notify_waiters();
    session.answered.notify_waiters();
}

/// Why a stream is over.
enum End {
    /// Closed, and nothing is held any more.
    Closed,
    /// The node drains, and nothing is held any more.
    Leave,
    /// The node refuses the subscriptions.
    Refused(Error),
    /// It broke, or makes no sense.
    Broken(Error),
}

pub(super) async fn run(session: Arc<Session>) {
    let _last_words = LastWords(session.clone());
    let nodes = session.nodes.clone();
    let (first, longest) = nodes.options.backoff;
    let mut backoff = nodes.options.ids.backoff(first, longest);
    let began = Instant::now();
    let mut start = nodes.preferred();
    loop {
        let error = match open_any(&session, start).await {
            Ok((inbound, node)) => {
                start = node;
                let end = pump(&session, inbound, &mut backoff).await;
                let draining = {
                    let mut state = session.lock();
                    state.broken(Instant::now());
                    state.draining
                };
                tell_all(&session);
                match end {
                    End::Closed => return,
                    End::Leave => {
                        start = nodes.after(node);
                        continue;
                    }
                    End::Refused(error) => {
                        start = nodes.after(node);
                        error
                    }
                    End::Broken(error) => {
                        tracing::debug!(%error, "session lost");
                        if draining {
                            start = nodes.after(node);
                        }
                        error
                    }
                }
            }
            Err(error) => error,
        };
        if is_over(&session, &error, began) {
            return;
        }
        wait(&session, &mut backoff, &error).await;
    }
}

/// After trouble: there is nothing left to come back for, or no hope.
fn is_over(session: &Session, error: &Error, began: Instant) -> bool {
    let options = &session.nodes.options;
    let now = Instant::now();
    let mut state = session.lock();
    state.expire(now, options.give_up_after, error);
    let hopeless =
        !error.is_transient() || options.fail_fast || now >= began + options.give_up_after;
    if !state.established && hopeless {
        state.failure.get_or_insert_with(|| error.clone());
    }
    state.failure.is_some() || (state.closing && !state.has_orphans())
}

/// Waits before the next round; a close that has nothing to come back for ends the wait.
async fn wait(session: &Session, backoff: &mut Backoff, error: &Error) {
    let until = Instant::now() + backoff.wait(error.retry_after());
    loop {
        tokio::select! { biased;
            () = session.work.notified() => {
                let state = session.lock();
                if state.closing && !state.has_orphans() {
                    return;
                }
            }
            () = sleep_until(until) => return,
        }
    }
}

/// Tries every node once, beginning with this one.
async fn open_any(session: &Arc<Session>, start: usize) -> Result<(Inbound, usize), Error> {
    let nodes = &session.nodes;
    let mut last = None;
    for node in nodes.from(start) {
        {
            let state = session.lock();
            if state.closing && !state.has_orphans() {
                return Err(Error::closed("subscription"));
            }
        }
        match open(session, node).await {
            Ok(inbound) => {
                nodes.prefer(node);
                return Ok((inbound, node));
            }
            Err(error) => {
                tracing::debug!(address = nodes.address(node), %error, "no session");
                session.lock().broken(Instant::now());
                last = Some(error);
            }
        }
    }
    Err(last.expect("there is at least one address"))
}

async fn open(session: &Arc<Session>, node: usize) -> Result<Inbound, Error> {
    let stream = session.lock().stream;
    let body = Body { session: session.clone(), stream };
    let mut cloud = session.nodes.cloud(node);
    let opening = async {
        let mut inbound = cloud.session(body).await?.into_inner();
        let first = inbound.message().await?;
        Ok::<_, tonic::Status>((inbound, first))
    };
    let (inbound, first) = timeout(session.nodes.options.connect_timeout, opening)
        .await
        // Nothing was sent: the body waits for the first message of the node.
        .map_err(|_| Error::unreachable("the node does not answer"))?
        .map_err(|status| Error::from_status(&status))?;
    let Some(Response::Opened(opened)) = first.and_then(|message| message.response) else {
        return Err(Error::malformed_answer("the node did not open the session"));
    };
    let info = Info {
        index: node,
        node: opened.node.into(),
        lane: opened.lane,
        prefix: prefix(&opened.lease_prefix)?,
        epoch: opened.epoch,
    };
    let mut state = session.lock();
    state.opened(Arc::new(info), opened.limits.as_ref(), Instant::now());
    session.wake(&mut state);
    drop(state);
    session.answered.notify_waiters();
    Ok(inbound)
}

async fn pump(session: &Arc<Session>, mut inbound: Inbound, backoff: &mut Backoff) -> End {
    loop {
        let deadline = match look(session) {
            Next::Wait(deadline) => deadline,
            Next::End(end @ (End::Broken(_) | End::Refused(_))) => return end,
            Next::End(ordered) => {
                let rest = timeout(END_TIMEOUT, inbound.message()).await;
                tracing::trace!(in_order = matches!(rest, Ok(Ok(None))), "session closed");
                return ordered;
            }
        };
        // Answers and deliveries first: everything else waits for them.
        tokio::select! { biased;
            message = inbound.message() => match message {
                Ok(Some(message)) => {
                    if let Err(error) = receive(session, message, backoff) {
                        return End::Broken(error);
                    }
                }
                Ok(None) => return End::Broken(Error::connection_lost("the node ended the session")),
                Err(status) => return End::Broken(Error::from_status(&status)),
            },
            () = session.work.notified() => {}
            () = sleep_until(deadline) => {}
        }
    }
}

/// What the task does next with an open stream.
enum Next {
    Wait(Instant),
    End(End),
}

fn look(session: &Arc<Session>) -> Next {
    let options = &session.nodes.options;
    let now = Instant::now();
    let mut state = session.lock();
    if let Some(error) = state.failure.take() {
        if !error.is_transient() {
            state.failure = Some(error.clone());
        }
        return Next::End(End::Refused(error));
    }
    if state.owed > 0 && now >= state.progress + options.answer_timeout {
        let error = Error::connection_lost("the node owes answers and sends none");
        return Next::End(End::Broken(error));
    }
    state.requeue_due(now);
    state.extend_due(now);
    let gone = Error::connection_lost("no session has come back to the lane of the lease");
    state.expire(now, options.give_up_after, &gone);
    repeat_transactions(session, &mut state);
    if let Some(body) = state.body.take() {
        body.wake();
    }
    let quiet = state.is_quiet();
    if quiet && state.closing && !state.has_orphans() {
        return Next::End(End::Closed);
    }
    if quiet && state.draining {
        return Next::End(End::Leave);
    }
    let owes = state.owed > 0 || !state.ops.is_empty();
    let stall = if state.owed > 0 { state.progress } else { now };
    let mut deadline = stall + if owes { options.answer_timeout } else { IDLE };
    let others = [state.next_due(), state.next_extend(), state.next_expiry(options.give_up_after)];
    for at in others.into_iter().flatten() {
        deadline = deadline.min(at);
    }
    state.asleep_until = Some(deadline);
    Next::Wait(deadline)
}

fn receive(
    session: &Session,
    message: v1::SessionResponse,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let now = Instant::now();
    let mut state = session.lock();
    match message.response {
        Some(Response::Deliveries(arrived)) => {
            state.delivered(arrived.items, now)?;
            session.arrived.notify_waiters();
        }
        Some(Response::Answers(answers)) => {
            if answers.refused.is_empty() {
                backoff.reset();
            }
            let mut wait = None;
            // One wait for all that one message refuses.
            let mut wait =
                |error: &Error| *wait.get_or_insert_with(|| backoff.wait(error.retry_after()));
            let patience = session.nodes.options.give_up_after;
            state.answered(answers, &mut Retry { now, patience, wait: &mut wait })?;
            session.answered.notify_waiters();
            session.lost.notify_waiters();
        }
        Some(Response::LeaseEnded(ended)) => {
            tracing::debug!(reason = ended.reason().as_str_name(), leases = ?ended.leases, "leases ended");
            state.lease_ended(&ended.leases);
            session.lost.notify_waiters();
        }
        Some(Response::Draining(_)) => {
            tracing::debug!("the node drains");
            state.draining = true;
            state.release_buffer();
        }
        Some(Response::Opened(_)) | None => {
            return Err(Error::malformed_answer("an unexpected message in the session"));
        }
    }
    Ok(())
}

/// Repeats transactions that belong to the lane of this stream by their tokens, which the same
/// node answers as it did, or would have done, the first time.
fn repeat_transactions(session: &Arc<Session>, state: &mut super::state::State) {
    let Some(info) = state.info.clone() else { return };
    for op in std::mem::take(&mut state.orphan_transactions) {
        if op.info.lane == info.lane {
            state.repeating += 1;
            tokio::spawn(repeat_transaction(session.clone(), info.index, op));
        } else if op.doubt {
            state.orphan_transactions.push(op);
        } else {
            let lost = "the stream of the leases ended before the transaction was sent";
            op.answer(Err(Error::lease_lost(lost)));
        }
    }
}

async fn repeat_transaction(session: Arc<Session>, node: usize, op: TransactionOp) {
    let request = v1::TransactionRequest { transaction: Some(op.to_wire(true)) };
    let result = repeat(&session.nodes, node, op.doubt, |mut cloud| {
        let request = request.clone();
        async move { cloud.transaction(request).await }
    })
    .await;
    {
        let mut state = session.lock();
        state.repeating -= 1;
        match &result {
            Ok(_) if state.is_current(&op.info) => {
                for lease in op.leases() {
                    state.leases.remove(&lease);
                }
            }
            Ok(_) => {}
            Err(error) => state.transaction_over(&op, error),
        }
    }
    op.answer(result.map(|_| ()));
    session.answered.notify_waiters();
    session.work.notify_one();
}
