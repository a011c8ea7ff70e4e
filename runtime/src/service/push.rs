//! The push stream: objects in, ranges of answers out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use dpc_core::ids::RequestId;
use dpc_core::input::ReplyTo;
use dpc_core::{Answer, Input};
use dpc_proto::{PushStreamRequest, v1};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Streaming;

use super::hub::Hub;
use super::outbox::{Gather, OutStream, Outbox};
use super::tally::refused;
use crate::wire::{ITEMS_MAX, WINDOW_ITEMS, error, object, view};

/// Answers in one message: a client that reads rarely gets several messages, not a huge one.
const ANSWERS_MAX: usize = 4_096;

/// What a push stream has to say.
pub(crate) struct PushOut {
    opened: Option<v1::PushOpened>,
    durability: v1::Durability,
    ok: VecDeque<v1::PushOk>,
    refused: VecDeque<v1::Refused>,
    /// Items whose ids the node chooses.
    id_chosen: BTreeSet<u64>,
    /// Messages with items that wait, in order, with the room they take.
    waiting: VecDeque<Waiting>,
    window: Arc<Semaphore>,
}

/// The items of one message.
struct Waiting {
    last_seq: u64,
    left: usize,
    _room: OwnedSemaphorePermit,
}

impl PushOut {
    /// What a stream says first, and what its answers mean.
    pub(super) fn new(opened: v1::PushOpened, durability: v1::Durability) -> Self {
        Self {
            opened: Some(opened),
            durability,
            ok: VecDeque::new(),
            refused: VecDeque::new(),
            id_chosen: BTreeSet::new(),
            waiting: VecDeque::new(),
            window: Arc::new(Semaphore::new(WINDOW_ITEMS as usize)),
        }
    }

    /// An answer of core to an item.
    pub(crate) fn answer(&mut self, seq: u64, answer: Answer) {
        let chosen = self.id_chosen.remove(&seq);
        match answer {
            Answer::Pushed { id, already } => {
                let status =
                    if already { v1::PushStatus::AlreadyExists } else { v1::PushStatus::Stored };
                add_ok(&mut self.ok, seq, status, self.durability, chosen.then(|| id.to_string()));
            }
            Answer::Refused(refusal) | Answer::RefusedAt(_, refusal) => {
                self.refused.push_back(refused(seq, None, error::refused(&refusal, "")));
            }
            Answer::Unknown(why) => {
                self.refused.push_back(refused(seq, None, error::unknown(&why)));
            }
            other => unreachable!("core answers a push with {other}"),
        }
        self.ended(seq);
    }

    /// One item of a message has its answer; with the last one its room is free.
    fn ended(&mut self, seq: u64) {
        let at = self.waiting.partition_point(|message| message.last_seq < seq);
        let Some(message) = self.waiting.get_mut(at) else { return };
        message.left -= 1;
        if message.left == 0 {
            self.waiting.remove(at);
        }
    }
}

/// Adds an item to the last range if it continues it, so that one range answers many.
pub(crate) fn add_ok(
    ranges: &mut VecDeque<v1::PushOk>,
    seq: u64,
    status: v1::PushStatus,
    durability: v1::Durability,
    id: Option<String>,
) {
    if let Some(last) = ranges.back_mut()
        && last.last_seq + 1 == seq
        && last.status() == status
        && last.ids.is_empty() == id.is_none()
    {
        last.last_seq = seq;
        last.ids.extend(id);
        return;
    }
    ranges.push_back(v1::PushOk {
        first_seq: seq,
        last_seq: seq,
        status: status.into(),
        durability: durability.into(),
        ids: id.into_iter().collect(),
    });
}

impl Gather for PushOut {
    type Message = v1::PushStreamResponse;

    fn next_message(&mut self) -> Option<Self::Message> {
        use v1::push_stream_response::Response;
        if let Some(opened) = self.opened.take() {
            return Some(v1::PushStreamResponse { response: Some(Response::Opened(opened)) });
        }
        if self.ok.is_empty() && self.refused.is_empty() {
            return None;
        }
        let ok = take_up_to(&mut self.ok, ANSWERS_MAX);
        let refused = take_up_to(&mut self.refused, ANSWERS_MAX);
        let items = |ok: &v1::PushOk| usize::try_from(ok.last_seq - ok.first_seq).unwrap_or(0) + 1;
        self.window.add_permits(ok.iter().map(items).sum::<usize>() + refused.len());
        let answers = v1::PushAnswers { ok, refused };
        Some(v1::PushStreamResponse { response: Some(Response::Answers(answers)) })
    }

    fn is_drained(&self) -> bool {
        self.waiting.is_empty() && self.ok.is_empty() && self.refused.is_empty()
    }
}

/// Opens a push stream; what is returned is its answering side.
pub(crate) fn open(hub: &Arc<Hub>, requests: Streaming<PushStreamRequest>) -> OutStream<PushOut> {
    let request = hub.next_request();
    let opened = v1::PushOpened {
        node: hub.identity.name.as_str().to_owned(),
        lane: hub.identity.lane.to_string(),
        limits: Some(view::limits(&hub.limits)),
    };
    let out = Outbox::new(PushOut::new(opened, hub.identity.durability));
    hub.add_push(request, Arc::clone(&out));
    let reader = Reader { hub: Arc::clone(hub), out: Arc::clone(&out), request, last_seq: 0 };
    tokio::spawn(reader.run(requests));
    let hub = Arc::clone(hub);
    OutStream::new(out, move || hub.remove(request))
}

struct Reader {
    hub: Arc<Hub>,
    out: Arc<Outbox<PushOut>>,
    request: RequestId,
    last_seq: u64,
}

impl Reader {
    async fn run(mut self, mut requests: Streaming<PushStreamRequest>) {
        // The end of the stream comes first: whoever has gone is read no further.
        let out = Arc::clone(&self.out);
        let reading = async {
            loop {
                match requests.message().await {
                    Ok(Some(message)) => self.take(message.items).await?,
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(error::stream_error(status)),
                }
            }
        };
        tokio::select! {
            biased;
            () = out.gone() => {}
            result = reading => out.finish(result),
        }
    }

    async fn take(&mut self, items: Vec<v1::PushItem>) -> Result<(), tonic::Status> {
        check_seqs(&mut self.last_seq, items.iter().map(|item| item.seq))?;
        let Some(last_seq) = items.last().map(|item| item.seq) else { return Ok(()) };
        let window = self.out.with(|push| Arc::clone(&push.window));
        let count = items.len();
        let permit = window.acquire_many(u32::try_from(count).expect("checked above")).await;
        permit.expect("the window is never closed").forget();
        let bytes = items.iter().map(item_bytes).sum();
        let room = self.hub.push_room(bytes).await;
        self.out.with(|push| {
            push.waiting.push_back(Waiting { last_seq, left: count, _room: room });
        });
        let inputs = self.read(items);
        if !inputs.is_empty() {
            self.hub.feed(inputs, bytes).await;
        }
        Ok(())
    }

    /// What goes to core; what cannot is refused here.
    fn read(&self, items: Vec<v1::PushItem>) -> Vec<Input> {
        let mut inputs = Vec::with_capacity(items.len());
        for item in items {
            let seq = item.seq;
            let object = item.object.unwrap_or_default();
            match object::push_of(object, &self.hub.limits, |url| self.hub.type_name(url)) {
                Ok(push) => {
                    if push.id.is_none() {
                        self.out.with(|out| out.id_chosen.insert(seq));
                    }
                    inputs.push(Input::Push(ReplyTo { request: self.request, seq }, push));
                }
                Err(refusal) => {
                    self.out.with(|push| push.answer(seq, Answer::Refused(Box::new(refusal))));
                }
            }
        }
        inputs
    }
}

/// Every `seq` of a stream is larger than those before, and a message is not too long.
pub(crate) fn check_seqs(
    last: &mut u64,
    seqs: impl ExactSizeIterator<Item = u64>,
) -> Result<(), tonic::Status> {
    if seqs.len() > ITEMS_MAX {
        return Err(error::malformed(&format!(
            "a message holds {} items, the limit is {ITEMS_MAX}",
            seqs.len()
        )));
    }
    for seq in seqs {
        if seq <= *last {
            return Err(error::malformed(&format!(
                "seq {seq} after {last}: each seq of a stream is larger than the one before, from 1 on"
            )));
        }
        *last = seq;
    }
    Ok(())
}

fn item_bytes(item: &v1::PushItem) -> usize {
    item.object.as_ref().map_or(64, object_bytes)
}

/// Bytes that an object takes, roughly.
pub(crate) fn object_bytes(object: &v1::Object) -> usize {
    let payload = object.entity.as_ref().map_or(0, |any| any.value.len() + any.type_url.len());
    let headers: usize = object.headers.iter().map(|(key, value)| key.len() + value.len()).sum();
    payload + headers + 128
}

pub(crate) fn take_up_to<T>(queue: &mut VecDeque<T>, max: usize) -> Vec<T> {
    queue.drain(..queue.len().min(max)).collect()
}
