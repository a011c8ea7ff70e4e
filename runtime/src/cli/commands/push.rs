//! `dpc push`: objects on their way in, one or many.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use bytes::Bytes;
use dpc_client::{
    Durability, Error, Object, PushHandle, PushStatus, Pusher, Receipt, Uuid, Window,
};
use dpc_core::ids::ObjectId;
use jiff::Timestamp;
use serde::Serialize;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::sync::mpsc;

use crate::cli::client::of_client;
use crate::cli::connect::NodeArgs;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::lines::{Line, Lines};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::times::parse_time;
use crate::config::Period;

/// Lines that are read and have no answer yet: as many as the window of the client holds.
const OPEN_LINES_MAX: usize = 4_096;

/// The largest payload that is read from a file or stdin: above what any node takes, so that the
/// node's own limit answers first.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Pushes objects.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("payload").args(["data", "file", "lines"]))]
pub(crate) struct PushArgs {
    /// The object's type: a full protobuf message name. With --lines, that of lines without one.
    #[arg(value_name = "TYPE", required_unless_present = "lines")]
    pub(crate) object_type: Option<String>,
    /// The payload as text; without --data, --file and --lines it is empty.
    #[arg(long, value_name = "TEXT")]
    pub(crate) data: Option<String>,
    /// The payload from a file, or from stdin with `-`.
    #[arg(long, value_name = "F")]
    pub(crate) file: Option<PathBuf>,
    /// Push each line of stdin: {"type"?,"id"?,"data"|"data_base64","headers"?}.
    #[arg(long)]
    pub(crate) lines: bool,
    /// The object's id [default: a new one of version 7].
    #[arg(long, value_name = "UUID", conflicts_with = "lines")]
    pub(crate) id: Option<ObjectId>,
    /// A header; give it once for each.
    #[arg(long = "header", value_name = "K=V")]
    pub(crate) headers: Vec<Header>,
    /// Deliver it only after this time.
    #[arg(long, value_name = "D", conflicts_with = "not_before")]
    pub(crate) delay: Option<Period>,
    /// Deliver it only from this moment on, in RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) not_before: Option<Timestamp>,
    /// Park it if it is not delivered within this time.
    #[arg(long, value_name = "D", conflicts_with = "expires_at")]
    pub(crate) expires_in: Option<Period>,
    /// Park it if it is not delivered by this moment, in RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) expires_at: Option<Timestamp>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// A header as `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Header {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err("accepted: key=value"),
        }
    }
}

/// What became of one push.
#[derive(Serialize)]
struct ShownPush {
    id: Option<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

impl ShownPush {
    fn done(receipt: &Receipt) -> Self {
        let durability = match receipt.stored.durability {
            Durability::Unstated => None,
            Durability::Synced => Some("synced"),
            Durability::Committed => Some("committed"),
            Durability::Quorum => Some("quorum"),
        };
        let status = match receipt.stored.status {
            PushStatus::Stored => "stored",
            PushStatus::AlreadyExists => "already_exists",
        };
        let node = Some(receipt.stored.node.to_string());
        Self { id: Some(receipt.id.to_string()), status, durability, node, error: None }
    }

    fn failed(id: Option<Uuid>, failure: Failure) -> Self {
        let unknown = matches!(failure.exit, Exit::Unknown | Exit::Interrupted);
        Self {
            id: id.map(|id| id.to_string()),
            status: if unknown { "unknown" } else { "refused" },
            durability: None,
            node: None,
            error: Some(failure),
        }
    }

    fn print(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.json(self);
        }
        let id = self.id.as_deref().unwrap_or("-");
        let rest = match (&self.error, &self.durability, &self.node) {
            (Some(failure), ..) => format!(": {}", failure.to_text()),
            (None, Some(durability), Some(node)) => format!(" ({durability}) at {node}"),
            (None, _, node) => format!(" at {}", node.as_deref().unwrap_or("an unnamed node")),
        };
        output.text(&format!("{id}  {}{rest}", self.status.replace('_', " ")))
    }
}

pub(crate) async fn run(args: PushArgs, output: &mut Output) -> Result<Exit, Failure> {
    if args.lines {
        return push_lines(&args, output).await;
    }
    let payload = match (&args.data, &args.file) {
        (Some(text), _) => Bytes::from(text.clone()),
        (None, Some(file)) => read_payload(file).await?,
        (None, None) => Bytes::new(),
    };
    let object_type = args.object_type.clone().unwrap_or_default();
    let id = args.id.map_or_else(Uuid::now_v7, |id| Uuid::from_bytes(id.0));
    let object = args.complete(Object::new(object_type, payload).id(id), &BTreeMap::new());
    let client = args.node.pushing_client().await?;
    let pushed = tokio::select! {
        // An answer that is there counts, even if Ctrl-C came at the same moment.
        biased;
        pushed = client.push(object) => pushed.map_err(|error| of_client(&error)),
        _stop = tokio::signal::ctrl_c() => Err(interrupted()),
    };
    let shown = match &pushed {
        Ok(receipt) => ShownPush::done(receipt),
        Err(failure) => ShownPush::failed(Some(id), failure.clone()),
    };
    // In text the error on stderr says it all; a script reads the line of the result.
    if pushed.is_ok() || output.is_json() || shown.status == "unknown" {
        shown.print(output)?;
    }
    pushed.map(|_| Exit::Done)
}

fn interrupted() -> Failure {
    let message = "interrupted before the answer; pushing the same id again is safe";
    Failure::new(Exit::Interrupted, "CANCELLED", "INTERRUPTED", message)
}

async fn read_payload(file: &Path) -> Result<Bytes, Failure> {
    let mut payload = Vec::new();
    let read = if file == Path::new("-") {
        tokio::io::stdin().take(FILE_BYTES_MAX + 1).read_to_end(&mut payload).await
    } else {
        match tokio::fs::File::open(file).await {
            Ok(opened) => opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut payload).await,
            Err(error) => Err(error),
        }
    };
    read.map_err(|error| {
        let message = format!("cannot read {}: {error}", file.display());
        Failure::local("FILE_UNREADABLE", message).field("--file")
    })?;
    if payload.len() as u64 > FILE_BYTES_MAX {
        let message = format!("{} is larger than any payload may be", file.display());
        let failure = Failure::refused("PAYLOAD_TOO_LARGE", message).field("--file");
        return Err(failure.limit(FILE_BYTES_MAX));
    }
    Ok(payload.into())
}

impl PushArgs {
    /// With the headers and times of the command line; a line's own headers count more.
    fn complete(&self, mut object: Object, own: &BTreeMap<String, String>) -> Object {
        let common = self.headers.iter().map(|header| (&header.key, &header.value));
        for (key, value) in common.chain(own) {
            object = object.header(key, value);
        }
        if let Some(delay) = self.delay {
            object = object.delay(delay.0);
        }
        if let Some(at) = self.not_before {
            object = object.not_before(system_time(at));
        }
        if let Some(span) = self.expires_in {
            object = object.expires_in(span.0);
        }
        if let Some(at) = self.expires_at {
            object = object.expires_at(system_time(at));
        }
        object
    }

    fn object_of(&self, line: Line) -> Object {
        let object_type = line.object_type.or_else(|| self.object_type.clone()).unwrap_or_default();
        let id = line.id.map_or_else(Uuid::now_v7, |id| Uuid::from_bytes(id.0));
        self.complete(Object::new(object_type, line.data).id(id), &line.headers)
    }
}

fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::try_from(at).expect("the system's clock reaches farther than dates are written")
}

/// A line that was read and whose result is not printed yet.
enum Open {
    Sent(PushHandle),
    Failed(Failure),
}

/// How many lines ended how.
#[derive(Default)]
struct Summary {
    stored: u64,
    already: u64,
    refused: u64,
    unknown: u64,
    exit: Exit,
}

impl Summary {
    fn count(&mut self, shown: &ShownPush) {
        match shown.status {
            "stored" => self.stored += 1,
            "already_exists" => self.already += 1,
            "unknown" => self.unknown += 1,
            _ => self.refused += 1,
        }
        let exit = shown.error.as_ref().map_or(Exit::Done, |failure| failure.exit);
        self.exit = self.exit.worst(exit);
    }

    fn text(&self) -> String {
        let Self { stored, already, refused, unknown, .. } = self;
        let mut text = format!("{stored} stored");
        for (count, what) in
            [(already, "existed already"), (refused, "refused"), (unknown, "of unknown outcome")]
        {
            if *count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        if *unknown > 0 {
            text.push_str("; pushing those ids again is safe");
        }
        text
    }
}

async fn push_lines(args: &PushArgs, output: &mut Output) -> Result<Exit, Failure> {
    let client = args.node.pushing_client().await?;
    let pusher = client.push_stream(Window::default());
    let mut lines = read_lines();
    let mut open = VecDeque::new();
    let mut summary = Summary::default();
    let mut progress = Progress::new("pushed", None);
    let (mut more, mut unread) = (true, None);
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    while more || !open.is_empty() {
        tokio::select! {
            // Results first, so that the queue stays short; then Ctrl-C, as stdin may never end.
            biased;
            shown = first_of(&mut open), if !open.is_empty() => {
                summary.count(&shown);
                progress.advance(1, output);
                shown.print(output)?;
            }
            _stop = &mut stop => {
                return interrupted_lines(open, summary, output);
            }
            line = lines.recv(), if more && open.len() < OPEN_LINES_MAX => match line {
                Some(Ok(line)) => {
                    let sent = send(args, &pusher, line).await;
                    more = !matches!(&sent, Open::Failed(f) if f.exit == Exit::Unreachable);
                    open.push_back(sent);
                }
                // One line is wrong, or none can be read any more.
                Some(Err(failure)) if failure.code == "INVALID_ARGUMENT" => {
                    open.push_back(Open::Failed(failure));
                }
                Some(Err(failure)) => (more, unread) = (false, Some(failure)),
                None => more = false,
            },
        }
    }
    progress.finish(output);
    output.note(&summary.text());
    match unread {
        Some(failure) => Err(failure),
        None => Ok(summary.exit),
    }
}

/// Reads stdin in a task of its own: a line that is half read must not be lost to a result that
/// arrives.
fn read_lines() -> mpsc::Receiver<Result<Line, Failure>> {
    let (sender, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        let mut lines = Lines::new(BufReader::with_capacity(64 << 10, tokio::io::stdin()));
        loop {
            let item = match lines.next().await {
                Ok(Some((_, item))) => item,
                Ok(None) => return,
                Err(error) => {
                    let message = format!("cannot read stdin: {error}");
                    Err(Failure::local("STDIN_UNREADABLE", message))
                }
            };
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    receiver
}

async fn send(args: &PushArgs, pusher: &Pusher, line: Line) -> Open {
    match pusher.push(args.object_of(line)).await {
        Ok(handle) => Open::Sent(handle),
        Err(error) => Open::Failed(of_client(&error)),
    }
}

/// The result of the line that waits longest; it stays the first until then.
async fn first_of(open: &mut VecDeque<Open>) -> ShownPush {
    let shown = match open.front_mut().expect("asked only when there is one") {
        Open::Sent(handle) => {
            let id = handle.id();
            shown(id, handle.await)
        }
        Open::Failed(failure) => ShownPush::failed(None, failure.clone()),
    };
    open.pop_front();
    shown
}

fn shown(id: Uuid, answer: Result<Receipt, Error>) -> ShownPush {
    match answer {
        Ok(receipt) => ShownPush::done(&receipt),
        Err(error) => ShownPush::failed(Some(id), of_client(&error)),
    }
}

/// Says of each line without an answer that nobody knows.
fn interrupted_lines(
    open: VecDeque<Open>,
    mut summary: Summary,
    output: &mut Output,
) -> Result<Exit, Failure> {
    for line in open {
        let shown = match line {
            Open::Sent(handle) => ShownPush::failed(Some(handle.id()), interrupted()),
            Open::Failed(failure) => ShownPush::failed(None, failure),
        };
        summary.count(&shown);
        shown.print(output)?;
    }
    output.note(&format!("interrupted: {}; the rest of stdin was not read", summary.text()));
    Ok(Exit::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_there_was() {
        let mut summary = Summary::default();
        let refused = Failure::refused("MALFORMED_LINE", "no");
        summary.count(&ShownPush::failed(None, refused));
        assert_eq!((summary.text().as_str(), summary.exit), ("0 stored, 1 refused", Exit::NotDone));
        summary.count(&ShownPush::failed(Some(Uuid::nil()), interrupted()));
        assert!(summary.text().ends_with("1 of unknown outcome; pushing those ids again is safe"));
    }

    #[test]
    fn a_result_line_has_the_promised_keys() {
        let failure = Failure::refused("R", "m").field("f").limit(7).given("9");
        let line = serde_json::to_string(&ShownPush::failed(Some(Uuid::nil()), failure));
        assert_eq!(
            line.expect("serialises"),
            r#"{"id":"00000000-0000-0000-0000-000000000000","status":"refused","error":{"code":"INVALID_ARGUMENT","reason":"R","message":"m","field":"f","limit":7,"given":"9"}}"#
        );
    }
}
