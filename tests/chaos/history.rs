//! What a round was: every call of every client with its outcome, every delivery, every fault, and
//! what the nodes had at the end. One JSON object per line, on disk as it happens.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dpc_client::proto::v1::Books;
use dpc_client::{Delivered, Error};
use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Microseconds since the round began. Lines stand in the order of time.
    pub(crate) at: u64,
    /// What.
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The round: nodes whose clients must not notice any fault (P15) among all nodes.
    Round { set: String, seed: u64, nodes: Vec<String>, untouched: Vec<String> },
    /// A client is about to ask for something. Without an answer its outcome is unknown.
    Call(Call),
    /// A client was answered.
    Answer(Answer),
    /// A client got an object.
    Delivery(Delivery),
    /// A fault begins or ends.
    Fault { what: String },
    /// A node ended by itself where it should not have.
    Died { node: String, what: String },
    /// What a node says of an object after the drain.
    State(State),
    /// What a node says of a type after the drain.
    Type(Type),
    /// Something did not come to an end within the patience of the drain.
    Left { what: String },
    /// The nodes were asked for every type and object, until an owner was found or everybody was
    /// asked: what has no line above is nowhere.
    Inventory,
}

/// Something that is done as a whole or not at all: a push, a settle with its emits, a transaction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Its number.
    pub(crate) call: u64,
    /// Who asks.
    pub(crate) client: String,
    /// The nodes that this client uses.
    pub(crate) uses: Vec<String>,
    /// Where it would be done: the node that is asked, or whose lease it is.
    pub(crate) at_nodes: Vec<String>,
    /// Leases that it ends.
    pub(crate) settles: Vec<Settle>,
    /// Objects that it makes.
    pub(crate) objects: Vec<Made>,
    /// The same as an earlier call, to learn its outcome: for a transaction one of its settles.
    pub(crate) repeats: Option<u64>,
}

/// An object that is to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) id: String,
    #[serde(rename = "type")]
    pub(crate) ty: String,
    /// The hash of its payload.
    pub(crate) content: String,
    /// It may be parked for its age.
    pub(crate) expires: bool,
}

/// A lease that is to end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settle {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) verb: Verb,
    /// The type and the content hash that an advance gives the object.
    pub(crate) next: Option<(String, String)>,
}

/// How a lease is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verb {
    Finalise,
    /// To a new entity.
    Advance,
    /// To other processors.
    Handled,
    Release,
    Fail,
    Reject,
}

/// Whether it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Done,
    Not,
    Unknown,
}

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) call: u64,
    pub(crate) outcome: Outcome,
    /// Of a push: the node knew the object.
    pub(crate) already: bool,
    /// Of a push: the node that stored it.
    pub(crate) node: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

/// An object in the hands of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub(crate) client: String,
    pub(crate) processor: String,
    pub(crate) node: String,
    pub(crate) id: String,
    pub(crate) origin: String,
    #[serde(rename = "type")]
    pub(crate) ty: String,
    pub(crate) content: String,
    pub(crate) version: u32,
    /// The fencing key: moves, epoch, lease.
    pub(crate) key: (u32, u64, u64),
    pub(crate) token: String,
}

/// An object as a node has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) node: String,
    pub(crate) id: String,
    pub(crate) origin: String,
    pub(crate) state: Standing,
    pub(crate) version: u32,
    pub(crate) reason: Option<String>,
}

/// Where an object is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    /// Ready, delayed, leased or offered.
    Live,
    Held,
    Final,
    Discarded,
    Parked,
    Moved,
}

/// A type as a node has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Type {
    pub(crate) node: String,
    #[serde(rename = "type")]
    pub(crate) ty: String,
    /// Objects that are here: ready, leased, delayed, parked, offered.
    pub(crate) there: u64,
    /// The durable counters, by name.
    pub(crate) books: BTreeMap<String, u64>,
}

impl Answer {
    /// A call that was done.
    pub(crate) fn done(call: u64) -> Self {
        let outcome = Outcome::Done;
        Self { call, outcome, already: false, node: None, reason: None, message: None }
    }

    /// A call that was done, or what is known instead.
    pub(crate) fn of<T>(call: u64, result: &Result<T, Error>) -> Self {
        match result {
            Ok(_) => Self::done(call),
            Err(error) => Self::failed(call, error),
        }
    }

    /// A call that was not done, or nobody knows.
    pub(crate) fn failed(call: u64, error: &Error) -> Self {
        let outcome = match error.outcome() {
            dpc_client::Outcome::Unknown => Outcome::Unknown,
            dpc_client::Outcome::DefinitelyNot | dpc_client::Outcome::Done => Outcome::Not,
        };
        let (reason, message) = (error.reason().to_owned(), error.message().to_owned());
        let (reason, message) = (Some(reason), Some(message));
        Self { call, outcome, already: false, node: None, reason, message }
    }
}

impl Delivery {
    /// What a client called so received for a processor of this name.
    pub(crate) fn of(client: &str, processor: &str, delivered: &Delivered) -> Self {
        let key = delivered.fencing_key();
        Self {
            client: client.to_owned(),
            processor: processor.to_owned(),
            node: delivered.node().to_owned(),
            id: delivered.id().to_string(),
            origin: delivered.origin().to_owned(),
            ty: delivered.object_type().to_owned(),
            content: content_of(&delivered.payload()),
            version: delivered.version(),
            key: (key.moves, key.epoch, key.lease),
            token: delivered.token().to_string(),
        }
    }
}

/// The hash under which a payload stands in the history.
pub(crate) fn content_of(payload: &[u8]) -> String {
    blake3::hash(payload).to_hex()[..16].to_owned()
}

/// The counters of a type by name.
pub(crate) fn books_of(books: &Books) -> BTreeMap<String, u64> {
    let all = [
        ("pushed", books.pushed),
        ("emitted", books.emitted),
        ("moved_in", books.moved_in),
        ("advanced_in", books.advanced_in),
        ("reclaimed", books.reclaimed),
        ("finalised", books.finalised),
        ("discarded", books.discarded),
        ("moved_out", books.moved_out),
        ("advanced_out", books.advanced_out),
    ];
    all.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Writes the history of a round. Clones write into the same file.
#[derive(Clone)]
pub(crate) struct History(Arc<Inner>);

struct Inner {
    began: Instant,
    file: Mutex<(File, u64)>,
}

impl History {
    /// Begins a history in a new file; time counts from now.
    pub(crate) fn create(path: &Path) -> Self {
        let file = File::create_new(path).expect("the folder of the round is new");
        Self(Arc::new(Inner { began: Instant::now(), file: Mutex::new((file, 0)) }))
    }

    /// Notes what happens now.
    pub(crate) fn note(&self, event: Event) {
        self.write(|_| event);
    }

    /// Notes a call before it is made, and numbers it.
    pub(crate) fn call(&self, call: Call) -> u64 {
        self.write(|number| Event::Call(Call { call: number, ..call }))
    }

    /// Time and number are taken under the lock, so that the lines stand in their order. Every line
    /// is written at once: whatever ends this process, the history says what came before.
    fn write(&self, event: impl FnOnce(u64) -> Event) -> u64 {
        let mut file = self.0.file.lock().expect("nobody panics while writing");
        let (file, lines) = &mut *file;
        *lines += 1;
        let at = u64::try_from(self.0.began.elapsed().as_micros()).expect("a round ends");
        let line = Line { at, event: event(*lines) };
        let mut text = serde_json::to_string(&line).expect("every event has a JSON form");
        text.push('\n');
        file.write_all(text.as_bytes()).expect("there is room for the history");
        *lines
    }
}

/// Reads a history back.
pub(crate) fn read(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).expect("the history can be read");
    let parse = |(number, line): (usize, &str)| -> Line {
        serde_json::from_str(line).unwrap_or_else(|why| panic!("line {}: {why}", number + 1))
    };
    text.lines().enumerate().map(parse).collect()
}
