//! What a finished object with three decisions costs the history, in time and in bytes.
//!
//! `cargo run --release -p runtime --example history_cost [OBJECTS]`

use std::sync::mpsc::channel;
use std::time::Instant;

use bytes::Bytes;
use dpc_core::decision::{Candidate, Decision, Refused, Step};
use dpc_core::ids::{Birth, Epoch, Incarnation, LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::names::{Name, TypeName};
use dpc_core::object::{Entity, Generation, Headers, Object, SettleMark, Token};
use dpc_core::record::{self, End, Ending, Entry, Header, How, Standing, Writer};
use dpc_core::{Span, Wall};
use runtime::history::{History, HistoryOptions, Report};

const LANE: LaneId = LaneId([7; 16]);
const START: Wall = Wall(1_700_000_000_000);
const ASKED: u64 = 2_000;

fn main() {
    let objects = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    for (ids, is_ordered) in [("version 7", true), ("version 4", false)] {
        for shared in [1, 8, 64] {
            let log = log(objects, shared, is_ordered);
            measure(
                &format!("{ids} ids, decisions shared by {shared:2}"),
                &log,
                objects,
                is_ordered,
            );
        }
    }
}

fn measure(what: &str, log: &[Bytes], objects: u64, is_ordered: bool) {
    let dir = tempfile::tempdir().expect("a folder for the database");
    let (to, reports) = channel();
    let report = move |report| to.send(report).expect("the receiver outlives the history");
    let options = HistoryOptions { queue: u64::MAX, lag: u64::MAX, ..HistoryOptions::default() };
    let (history, _) =
        History::open(dir.path(), LANE, RecordNumber(0), options, Box::new(report)).expect("opens");
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for (record, number) in log.iter().zip(1..) {
        history.handle().feed(RecordNumber(number), record.clone());
    }
    history.close();
    let (spent, cpu) = (start.elapsed(), cpu_seconds() - cpu);
    let syncs = reports.iter().filter(|report| matches!(report, Report::Stands(_))).count();
    let file = std::fs::metadata(dir.path().join("history.db")).expect("it is there").len();
    let log_bytes: usize = log.iter().map(Bytes::len).sum();
    let each = |seconds: f64| seconds * 1e6 / objects as f64;
    println!(
        "{what}: {:.2} us ({:.2} us of CPU) and {} B an object",
        each(spent.as_secs_f64()),
        each(cpu),
        file / objects,
    );
    println!(
        "    {objects} objects, {} B of log an object, {syncs} syncs",
        log_bytes as u64 / objects
    );
    ask(dir.path(), log, objects, is_ordered);
    let cpu = cpu_seconds();
    for record in log {
        std::hint::black_box(record::entries(record).expect("well formed"));
    }
    println!("    of it {:.2} us of CPU to read the records", each(cpu_seconds() - cpu));
}

/// Processor time of this process so far, by Linux's count of hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux says");
    let fields = stat.rsplit(") ").next().expect("the name ends").split(' ');
    let ticks: f64 = fields.skip(11).take(2).map(|n| n.parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

/// Asks for objects all over the history.
fn ask(dir: &std::path::Path, log: &[Bytes], objects: u64, is_ordered: bool) {
    let last = RecordNumber(log.len() as u64);
    let (history, _) =
        History::open(dir, LANE, last, HistoryOptions::default(), Box::new(drop)).expect("opens");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it starts");
    let start = Instant::now();
    for n in 0..ASKED {
        let n = n * 7_919 % objects;
        let wall = Wall(START.0 + n / 64 + 1);
        let trace = runtime.block_on(history.handle().trace(id(n, wall, is_ordered)));
        assert_eq!(trace.expect("answered").lines.len(), 3, "object {n}");
    }
    println!("    a trace in {:.0} us", start.elapsed().as_secs_f64() * 1e6 / ASKED as f64);
    history.close();
}

/// Groups of 64: pushed with a decision to wait, then offered nowhere, delivered and finalised.
fn log(objects: u64, shared: usize, is_ordered: bool) -> Vec<Bytes> {
    let mut records = Vec::new();
    let mut hash = [0; 16];
    let mut wall = START;
    for group in (0..objects).collect::<Vec<_>>().chunks(64) {
        wall = wall + Span::millis(1);
        let ids: Vec<ObjectId> = group.iter().map(|&n| id(n, wall, is_ordered)).collect();
        let mut pushes: Vec<Entry> = ids.iter().map(|&id| pushed(id, wall)).collect();
        pushes.extend(ids.chunks(shared).map(|ids| decided(Step::Wait, ids, wall)));
        let number = RecordNumber(records.len() as u64 + 1);
        let steps = [Step::Refresh, Step::Deliver];
        let mut ends: Vec<Entry> = steps
            .into_iter()
            .flat_map(|step| ids.chunks(shared).map(move |ids| decided(step, ids, wall)))
            .collect();
        ends.extend(
            ids.iter()
                .zip(0..)
                .map(|(&id, position)| end(id, Loc { record: number, position }, wall)),
        );
        for entries in [pushes, ends] {
            let record = seal(records.len() as u64 + 1, hash, wall, &entries);
            hash = record::hash_of(&record);
            records.push(record);
        }
    }
    records
}

fn id(n: u64, wall: Wall, is_ordered: bool) -> ObjectId {
    let mut id: [u8; 16] =
        blake3::hash(&n.to_le_bytes()).as_bytes()[..16].try_into().expect("sixteen bytes");
    if is_ordered {
        id[..6].copy_from_slice(&wall.0.to_be_bytes()[2..]);
    }
    ObjectId(id)
}

fn pushed(id: ObjectId, wall: Wall) -> Entry {
    let payload = Bytes::from(vec![1; 200]);
    let entity = Entity { ty: ty(), payload, headers: Headers::default() };
    let birth = Birth { lane: LANE, epoch: Epoch(1), loc: Loc::default() };
    let object = Object { birth, ..Object::new(id, entity, id.0, wall, name("a")) };
    let object = Box::new(object);
    Entry::Object { how: How::Pushed, was: None, place: None, standing: Standing::Flowing, object }
}

fn decided(step: Step, ids: &[ObjectId], at: Wall) -> Entry {
    let decision = Decision {
        at,
        step,
        chosen: Some("subscription billing".into()),
        generation: Some(Generation { counter: 9, lane: LANE, incarnation: Incarnation(5) }),
        candidates: vec![Candidate { who: "peer b".into(), refused: Refused::Farther }],
    };
    Entry::Decision { decision, objects: ids.iter().map(|&id| (id, 0)).collect() }
}

fn end(id: ObjectId, was: Loc, at: Wall) -> Entry {
    let token =
        Token { lane: LANE, epoch: Epoch(1), incarnation: Incarnation(5), n: 77, object: id };
    Entry::End(Box::new(End {
        id,
        was: Some(was),
        carried_from: None,
        ending: Ending::Final,
        ty: ty(),
        version: 1,
        hash: id.0,
        birth: Birth { lane: LANE, epoch: Epoch(1), loc: was },
        marks: [SettleMark { version: 1, token, content: [3; 16] }].into(),
        by: Some(name("billing")),
        at,
        moves: 0,
        size: 200,
        pushed_at: at,
    }))
}

fn ty() -> TypeName {
    TypeName::from_type_url("acme.orders.Placed").expect("a good name")
}

fn name(text: &str) -> Name {
    Name::new("name", text).expect("a good name")
}

fn seal(number: u64, previous: [u8; 16], wall: Wall, entries: &[Entry]) -> Bytes {
    let mut writer = Writer::default();
    let number = RecordNumber(number);
    for (entry, position) in entries.iter().zip(0..) {
        let loc = Loc { record: number, position };
        entry.encode(&mut writer, Birth { lane: LANE, epoch: Epoch(1), loc });
    }
    let header = Header {
        lane: LANE,
        epoch: Epoch(1),
        number,
        wall,
        previous,
        checkpoint: RecordNumber(0),
        entries: entries.len() as u32,
    };
    record::seal(&header, writer.as_slice())
}
