//! What the tests of whole systems share: node processes that end with their test, the command
//! line, and waiting for conditions. The only pause in these tests is the one between two looks.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

pub mod cassandra;
pub mod disk;
pub mod history;
pub mod load;
pub mod postgres;
pub mod transaction;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dpc_client::proto::v1;
use dpc_client::{Client, Options, Uuid};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

/// Longer than anything takes on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The program under test.
pub const DPC: &str = env!("CARGO_BIN_EXE_dpc");

/// True for the full durations (`tests/run --long`).
pub fn long() -> bool {
    std::env::var_os("DPC_LONG").is_some_and(|value| value == "1")
}

/// The random numbers of a test. The seed is printed; `DPC_TEST_SEED` repeats it.
pub fn random() -> Pcg64Mcg {
    let given = std::env::var("DPC_TEST_SEED").ok();
    let seed = match given {
        Some(text) => text.parse().expect("DPC_TEST_SEED is a number"),
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::from(now.expect("after 1970").subsec_nanos())
        }
    };
    println!("seed: DPC_TEST_SEED={seed}");
    Pcg64Mcg::seed_from_u64(seed)
}

/// A number below a bound.
pub fn below(random: &mut Pcg64Mcg, bound: usize) -> usize {
    usize::try_from(random.next_u64() % bound as u64).expect("below a usize")
}

/// A folder that goes with the test.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("dpc-test-").tempdir().expect("a temporary folder")
}

/// Looks until there is something; the test fails with `what` if there never is.
pub async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    wait_until(what, async || look().await.ok_or_else(String::new)).await
}

/// Looks until there is something; if there never is, the test fails with `what` and with what
/// the last look saw instead.
pub async fn wait_until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) => {
                assert!(began.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}; {instead}");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until no node has anything alive; parked objects may stay.
pub async fn wait_until_done(nodes: &[Node]) {
    wait_until("everything to be final or parked", async || {
        let mut left = String::new();
        for node in nodes {
            for info in node.types().await.iter().filter(|info| open(info) > info.parked) {
                let v1::TypeInfo { r#type, ready, leased, delayed, offered, held, .. } = info;
                left.push_str(&format!(
                    "{}: {} ready {ready} leased {leased} delayed {delayed} offered {offered} held {held}; ",
                    node.ready.node, r#type
                ));
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

/// Looks again and again for so long: whatever it asserts must hold all the time.
pub async fn holds_for(span: Duration, mut look: impl AsyncFnMut()) {
    let began = Instant::now();
    while began.elapsed() < span {
        look().await;
        tokio::time::sleep(LOOK_EVERY * 5).await;
    }
}

/// Where a node listens, from its ready line.
#[derive(Clone, Debug)]
pub struct Ready {
    pub node: String,
    pub lane: String,
    pub clients: String,
    pub nodes: String,
    pub admin: String,
    pub pid: i32,
}

/// A node process. It ends with the test; when the test fails, the end of its log is shown.
pub struct Node {
    pub ready: Ready,
    data: PathBuf,
    log: PathBuf,
    extra: Vec<String>,
    process: Child,
}

impl Node {
    /// Starts a node with these further arguments of `dpc serve`.
    pub fn start(folder: &Path, name: &str, extra: &[&str]) -> Self {
        Self::start_at(&folder.join(name), folder, name, extra)
    }

    /// Starts a node on this data folder, with its log in another one.
    pub fn start_at(data: &Path, folder: &Path, name: &str, extra: &[&str]) -> Self {
        let (data, log) = (data.to_owned(), folder.join(format!("{name}.log")));
        let extra: Vec<String> = extra.iter().map(|&text| text.to_owned()).collect();
        let ports = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"];
        let (process, ready) = spawn(&data, &log, name, ports, &extra);
        Self { ready, data, log, extra, process }
    }

    /// Starts a node that dials these.
    pub fn linked(folder: &Path, name: &str, peers: &[&Self]) -> Self {
        let arguments: Vec<_> =
            peers.iter().flat_map(|peer| ["--peer", peer.ready.nodes.as_str()]).collect();
        Self::start(folder, name, &arguments)
    }

    /// Starts it again on its data and its ports.
    pub fn start_again(&mut self) {
        let Ready { node, clients, nodes, admin, .. } = self.ready.clone();
        let ports = [clients.as_str(), nodes.as_str(), admin.as_str()];
        (self.process, self.ready) = spawn(&self.data, &self.log, &node, ports, &self.extra);
    }

    /// Starts it again on its data and its ports, with other arguments.
    pub fn start_again_with(&mut self, extra: &[&str]) {
        self.extra = extra.iter().map(|&text| text.to_owned()).collect();
        self.start_again();
    }

    /// Starts it again and kills it so long after, ready or not.
    pub fn stumble(&mut self, after: Duration) {
        let Ready { node, clients, nodes, admin, .. } = &self.ready;
        let ports = [clients.as_str(), nodes.as_str(), admin.as_str()];
        let mut command = serve(&self.data, node, ports, &self.extra);
        command.stdout(Stdio::null()).stderr(append(&self.log));
        self.process = command.spawn().expect("dpc serve starts");
        std::thread::sleep(after);
        self.kill();
    }

    /// SIGKILL, at this moment.
    pub fn kill(&mut self) {
        self.process.kill().expect("it was running");
        self.process.wait().expect("it was started");
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it has said on stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("it was started")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().expect("it was started")
    }

    /// SIGTERM, and its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.process.wait().expect("it was started").code()
    }

    /// SIGSTOP, SIGCONT and others.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.ready.pid).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    /// A client of this node alone.
    pub fn client(&self) -> Client {
        Client::connect([&self.ready.clients], Options::new()).expect("a good address")
    }

    /// Runs a command against this node.
    pub async fn cli(&self, arguments: &[&str]) -> Ran {
        let mut all = arguments.to_vec();
        all.extend(["--node", &self.ready.clients]);
        cli(&all).await
    }

    /// The results of a command as JSON; it must succeed.
    pub async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let ran = self.cli(&all).await;
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        ran.lines()
    }

    /// What `why` says of an object.
    pub async fn why(&self, id: &str) -> Value {
        self.json(&["object", "why", id]).await.remove(0)
    }

    /// The types of the node with their books.
    pub async fn types(&self) -> Vec<v1::TypeInfo> {
        let request = v1::ListTypesRequest { limit: Some(1_000), ..Default::default() };
        let client = self.client();
        let answer = client.ask(|mut node| {
            let request = request.clone();
            async move { node.list_types(request).await }
        });
        answer.await.expect("the node answers").types
    }

    /// What can be known of an object, asked here.
    pub async fn object(&self, id: Uuid) -> v1::GetObjectResponse {
        let request = v1::GetObjectRequest { id: id.to_string(), local: false };
        let answer = self.client().operator().get_object(request).await;
        answer.expect("somebody knows it").into_inner()
    }

    /// Everything that was decided about an object, asked here.
    pub async fn trace(&self, id: Uuid) -> v1::TraceObjectResponse {
        let request = v1::TraceObjectRequest { id: id.to_string(), local: false };
        let answer = self.client().operator().trace_object(request).await;
        answer.expect("somebody knows it").into_inner()
    }

    /// This node tells of an object that ended at a node that is gone.
    pub async fn knows_the_story(&self, id: Uuid, gone: &str) {
        let got = self.object(id).await;
        let object = got.object.as_ref().expect("an answer has an object");
        assert_eq!(object.state(), v1::ObjectState::Final, "{got:?}");
        assert_eq!(object.owner, gone, "{got:?}");
        assert!(got.complete && got.asked.iter().any(|who| who == "the store"), "{got:?}");
        let trace = self.trace(id).await;
        assert!(trace.complete && !trace.decisions.is_empty(), "{trace:?}");
        assert!(trace.decisions.iter().all(|decision| decision.node == gone), "{trace:?}");
    }

    /// The state of an object as this node alone knows it.
    pub async fn state(&self, id: Uuid) -> Option<v1::ObjectState> {
        let request = v1::GetObjectRequest { id: id.to_string(), local: true };
        let answer = self.client().operator().get_object(request).await;
        known(answer).map(|answer| answer.object.expect("an answer has an object").state())
    }

    /// What this node alone has recorded of an object.
    pub async fn decisions(&self, id: Uuid) -> Vec<v1::Decision> {
        let request = v1::TraceObjectRequest { id: id.to_string(), local: true };
        let answer = self.client().operator().trace_object(request).await;
        known(answer).map(|answer| answer.decisions).unwrap_or_default()
    }

    /// Objects that are here and not finished.
    pub async fn open(&self) -> u64 {
        self.types().await.iter().map(open).sum()
    }

    /// The sum of a metric over all of its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let page = http_get(&self.ready.admin, "/metrics");
        let mine = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        let values: Vec<f64> = mine.filter_map(value).collect();
        // One with labels has no line before its first label.
        let known = page.contains(&format!("# TYPE {name} "));
        assert!(known, "no metric {name} in:\n{page}");
        values.iter().sum()
    }

    /// Resident memory in MiB.
    pub fn memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.ready.pid));
        let status = status.expect("it runs");
        let line =
            status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has it");
        let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("a number") / 1_024
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended before.
        let _gone = self.process.kill();
        let _waited = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            println!("--- the log of node {} ends with:", self.ready.node);
            lines[lines.len().saturating_sub(25)..].iter().for_each(|line| println!("{line}"));
        }
    }
}

/// An answer about an object; nothing from a node that does not know it. A node that was told to
/// ask no other one may say that it cannot tell.
fn known<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer.into_inner()),
        Err(status) if status.message().contains("not known at") => None,
        Err(status) if status.code() == tonic::Code::NotFound => None,
        Err(status) => panic!("{status:?}"),
    }
}

/// Objects of a type that are alive or parked.
pub fn open(info: &v1::TypeInfo) -> u64 {
    let v1::TypeInfo { ready, leased, delayed, parked, offered, held, .. } = info;
    ready + leased + delayed + parked + offered + held
}

/// P13 for one node and type: what came in is what went out and what is there.
pub fn assert_books_balance(node: &str, info: &v1::TypeInfo) {
    let books = info.books.expect("a type has books");
    let came = books.pushed + books.emitted + books.moved_in + books.advanced_in + books.reclaimed;
    let went = books.finalised + books.discarded + books.moved_out + books.advanced_out;
    // A held object belongs to its sender until it is released.
    let there = open(info) - info.held;
    assert_eq!(came, went + there, "books of {} at {node}: {books:?}, {there} there", info.r#type);
}

fn serve(data: &Path, name: &str, ports: [&str; 3], extra: &[String]) -> Command {
    let mut command = Command::new(DPC);
    command.args(["serve", "-o", "json", "--node-name", name, "--data-dir"]).arg(data);
    for (flag, port) in ["--listen-clients", "--listen-nodes", "--listen-admin"].iter().zip(ports) {
        command.args([flag, port]);
    }
    command.args(extra).stdin(Stdio::null());
    clean(&mut command);
    command
}

fn append(log: &Path) -> File {
    File::options().create(true).append(true).open(log).expect("a log")
}

fn spawn(
    data: &Path,
    log: &Path,
    name: &str,
    ports: [&str; 3],
    extra: &[String],
) -> (Child, Ready) {
    let mut command = serve(data, name, ports, extra);
    command.stdout(Stdio::piped()).stderr(append(log));
    let mut process = command.spawn().expect("dpc serve starts");
    let stdout = process.stdout.take().expect("stdout is a pipe");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // The test may be over.
            let _unread = sender.send(line);
        }
    });
    let Ok(line) = lines.recv_timeout(PATIENCE) else {
        let _gone = process.kill();
        let said = std::fs::read_to_string(log).unwrap_or_default();
        panic!("node {name} did not become ready: {said}");
    };
    let ready: Value = serde_json::from_str(&line).expect("the ready line is JSON");
    assert_eq!(ready["event"], "ready");
    let text = |key: &str| ready[key].as_str().expect(key).to_owned();
    let pid = ready["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
    assert_eq!(u32::try_from(pid), Ok(process.id()), "the ready line names the process");
    let (node, clients) = (text("node"), text("clients"));
    let (lane, nodes, admin) = (text("lane"), text("nodes"), text("admin"));
    let ready = Ready { node, lane, clients, nodes, admin, pid };
    (process, ready)
}

/// Without what the environment of the tests says about nodes, and with what the tests' own
/// Cassandra asks for.
fn clean(command: &mut Command) {
    command.env("CASSANDRA_PASSWORD", cassandra::LOGIN);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DPC_") {
            command.env_remove(name);
        }
    }
}

/// How a command of the command line ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Its results as JSON.
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The error line of `-o json`.
    pub fn error(&self) -> Value {
        let line = self.stderr.lines().rev().find(|line| line.starts_with('{'));
        let line = line.unwrap_or_else(|| panic!("no error line in: {}", self.stderr));
        serde_json::from_str(line).expect("JSON")
    }
}

/// A command of the command line, not started yet.
pub fn command(arguments: &[&str]) -> tokio::process::Command {
    let mut command = Command::new(DPC);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    clean(&mut command);
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub async fn cli(arguments: &[&str]) -> Ran {
    let output = tokio::time::timeout(PATIENCE, command(arguments).output()).await;
    ran(output.unwrap_or_else(|_| panic!("dpc {arguments:?} does not end")).expect("dpc runs"))
}

/// Runs a command with something on its stdin.
pub async fn cli_with_stdin(arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().expect("dpc runs");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let feed = async move {
        stdin.write_all(input).await.expect("dpc reads its stdin");
        drop(stdin);
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    ran(output.expect("dpc runs"))
}

/// What a process that was started has said when it ends.
pub async fn ended(child: tokio::process::Child) -> Ran {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    ran(output.expect("it ends").expect("it runs"))
}

fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// The end of a `dpc serve` that must not become ready: its code and what it says.
pub async fn serve_fails(folder: &Path, extra: &[&str]) -> Ran {
    let extra: Vec<String> = extra.iter().map(|&text| text.to_owned()).collect();
    let ports = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"];
    let mut command = tokio::process::Command::from(serve(folder, "x", ports, &extra));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    ended(command.spawn().expect("dpc runs")).await
}

/// A page of the admin port.
pub fn http_get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the admin port listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    body.to_owned()
}

/// The keys and values of a list of objects, by id.
pub fn by_id(lines: &[Value]) -> BTreeMap<String, Value> {
    let id = |line: &Value| line["id"].as_str().expect("an id").to_owned();
    lines.iter().map(|line| (id(line), line.clone())).collect()
}
