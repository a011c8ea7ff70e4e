//! The id index of a backlog larger than memory: which record holds an object.
//!
//! The log is cut into parts by its reader; for each part the index keeps a sorted table of ids,
//! in chunks of 128 entries, and the part's id filter. It is derived from the log, so
//! nothing is synced, and whatever cannot be read (damage, another lane's rows, a failed write) ends
//! the same way: the index is deleted with a warning that names the place, and starts empty. A
//! lookup never answers "not there" because something is missing.
//!
//! ```text
//! part 8 | 0            → stands at 8, count 8, lowest id 16, highest id 16, filter words 8 each …
//! part 8 | 1 | first 16 → first id of the next chunk 16 (ones in the last), entries packed (`chunk`)
//! ```
//!
//! Keys are big-endian, so that they sort; each value ends with a hash over lane, key and content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use dpc_core::ids::{LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::store::{Done, StoreError};
use fjall::{AbstractTree, Database, Keyspace};

use super::{damaged, io_error};
use crate::files::if_there;
use crate::threads::{Joined, stand_back};
use database::{guard, make_room, open};

mod chunk;
mod database;
mod precheck;

/// Entries in one chunk: about 3 KiB, one block of a table.
const CHUNK_COUNT: usize = 192;

/// The most requests that wait for the index thread. A caller that goes beyond is refused.
const QUEUE_COUNT_MAX: usize = 256;

/// Rows written, or removed, in one step.
const STEP_COUNT: usize = 256;

const HASH_BYTES: usize = 16;
const NO_NEXT: [u8; 16] = [0xff; 16];

/// Mixed into every hash: another layout is another index.
const LAYOUT: &[u8] = b"dpc id index 2";

/// What the index knows of one part of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// The part, as its writer numbered it.
    pub part: u64,
    /// The last record that the part covers.
    pub stands_at: RecordNumber,
    /// How many ids it holds.
    pub count: u64,
    /// The lowest id.
    pub min: ObjectId,
    /// The highest id.
    pub max: ObjectId,
    /// The words of the part's id filter, as its writer made it.
    pub filter: Vec<u64>,
}

/// One part as its writer hands it over.
pub struct Part {
    /// Its number.
    pub part: u64,
    /// The last record that it covers.
    pub stands_at: RecordNumber,
    /// Its ids, without repetition, and where the objects lie.
    pub entries: Vec<(ObjectId, Loc)>,
    /// The words of its id filter.
    pub filter: Vec<u64>,
}

/// The index of one lane, with a thread of its own. Dropping it finishes what was asked for.
///
/// After an answer of [`StoreError::Damaged`] the index is empty, and the caller writes its parts
/// again from the log.
pub struct IndexDb {
    requests: SyncSender<Request>,
    _thread: Joined,
}

type Answer<T> = Done<Result<T, StoreError>>;

enum Request {
    Write(Part, Answer<()>),
    Lookup(Vec<(u64, ObjectId)>, Answer<Vec<Option<Loc>>>),
    DropBelow(u64, Answer<()>),
    Parts(Answer<Vec<PartInfo>>),
}

impl IndexDb {
    /// Opens the index at `path`, usually `index/` in the data folder, or starts an empty one.
    /// The caller holds the lock of the data folder.
    pub fn open(path: &Path, lane: LaneId) -> Result<Self, StoreError> {
        let (requests, queue) = sync_channel(QUEUE_COUNT_MAX);
        let path = path.to_owned();
        let thread = Joined::start("dpc-index", move || {
            stand_back();
            Keeper::open(path, lane).run(&queue);
        })?;
        Ok(Self { requests, _thread: thread })
    }

    /// Writes a part, in place of one of the same number.
    pub fn write_part(&mut self, part: Part, done: Answer<()>) {
        self.send(Request::Write(part, done));
    }

    /// Looks ids up, each in one part, and answers in the same order. A part that is not there is
    /// [`StoreError::Refused`]: the caller's picture of the index is out of date.
    pub fn lookup(&mut self, ids: Vec<(u64, ObjectId)>, done: Answer<Vec<Option<Loc>>>) {
        self.send(Request::Lookup(ids, done));
    }

    /// Forgets the parts below `part`.
    pub fn drop_parts_below(&mut self, part: u64, done: Answer<()>) {
        self.send(Request::DropBelow(part, done));
    }

    /// All parts, ascending, with their filters.
    pub fn parts(&mut self, done: Answer<Vec<PartInfo>>) {
        self.send(Request::Parts(done));
    }

    fn send(&mut self, request: Request) {
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request)) => request.refuse(StoreError::Refused(format!(
                "{QUEUE_COUNT_MAX} requests wait for the index already"
            ))),
            Err(TrySendError::Disconnected(request)) => {
                request.refuse(StoreError::Io("the index thread has died".into()));
            }
        }
    }
}

impl Request {
    fn refuse(self, error: StoreError) {
        match self {
            Self::Write(_, done) | Self::DropBelow(_, done) => done(Err(error)),
            Self::Lookup(_, done) => done(Err(error)),
            Self::Parts(done) => done(Err(error)),
        }
    }
}

/// What the index thread owns.
struct Keeper {
    path: PathBuf,
    lane: LaneId,
    /// Nothing only when not even an empty index can be made.
    tables: Option<(Database, Keyspace)>,
    /// Lowest and highest id of each part.
    parts: BTreeMap<u64, (ObjectId, ObjectId)>,
}

impl Keeper {
    fn open(path: PathBuf, lane: LaneId) -> Self {
        let mut keeper = Self { path, lane, tables: None, parts: BTreeMap::new() };
        let opened = keeper.open_tables().and_then(|()| keeper.read_parts());
        if let Err(error) = opened.map(|parts| keeper.remember(&parts)) {
            keeper.start_anew(&error);
        }
        keeper
    }

    fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            match request {
                Request::Write(mut part, done) => {
                    // Here, so that nobody waits for it.
                    part.entries.sort_unstable_by_key(|(id, _)| *id);
                    let answer = self.write(&part);
                    self.answer(done, answer);
                }
                Request::Lookup(ids, done) => {
                    let answer = ids.iter().map(|(part, id)| self.lookup(*part, *id)).collect();
                    self.answer(done, answer);
                }
                Request::DropBelow(part, done) => {
                    let answer = self.drop_below(part);
                    self.answer(done, answer);
                }
                Request::Parts(done) => {
                    let answer = self.read_parts();
                    self.answer(done, answer);
                }
            }
        }
    }

    /// Whatever fails, the index starts anew before the caller hears of it.
    fn answer<T>(&mut self, done: Answer<T>, answer: Result<T, StoreError>) {
        match &answer {
            Ok(_) | Err(StoreError::Refused(_)) => {}
            Err(error) => self.start_anew(error),
        }
        done(answer);
    }

    fn start_anew(&mut self, error: &StoreError) {
        tracing::warn!(index = %self.path.display(), %error, "the index is deleted and rebuilt");
        self.tables = None;
        self.parts.clear();
        let removed = if_there(std::fs::remove_dir_all(&self.path))
            .map_err(|error| io_error(&self.path, &error));
        if let Err(error) = removed.and_then(|()| self.open_tables()) {
            tracing::error!(index = %self.path.display(), %error, "there is no index");
        }
    }

    fn open_tables(&mut self) -> Result<(), StoreError> {
        precheck::check(&self.path)?;
        self.tables = Some(open(&self.path, "ids")?);
        Ok(())
    }

    fn remember(&mut self, parts: &[PartInfo]) {
        self.parts = parts.iter().map(|info| (info.part, (info.min, info.max))).collect();
    }

    /// Calls the database.
    fn with<T>(
        &self,
        call: impl FnOnce(&Database, &Keyspace) -> fjall::Result<T>,
    ) -> Result<T, StoreError> {
        let (database, ids) =
            self.tables.as_ref().ok_or_else(|| damaged(&self.path, "there is no index"))?;
        guard(&self.path, || call(database, ids))
    }

    /// Writes a part whose ids ascend.
    fn write(&mut self, part: &Part) -> Result<(), StoreError> {
        let ascend = part.entries.is_sorted_by(|a, b| a.0 < b.0);
        assert!(ascend, "an id stands in a part once");
        self.remove_parts(part.part, part.part + 1)?;
        let Some(((min, _), (max, _))) = part.entries.first().zip(part.entries.last()) else {
            return Ok(());
        };
        let chunks: Vec<_> = part.entries.chunks(CHUNK_COUNT).collect();
        let mut rows = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            let next = chunks.get(i + 1).map_or(NO_NEXT, |chunk| chunk[0].0.0);
            let mut value = next.to_vec();
            chunk::pack(chunk, &mut value);
            rows.push((chunk_key(part.part, chunk[0].0), value));
            if rows.len() == STEP_COUNT {
                self.put(std::mem::take(&mut rows))?;
            }
        }
        // The row that makes the part known goes last, so that half a part is never one.
        let mut value = Vec::with_capacity(48 + part.filter.len() * 8);
        value.extend_from_slice(&part.stands_at.0.to_le_bytes());
        value.extend_from_slice(&(part.entries.len() as u64).to_le_bytes());
        value.extend_from_slice(&min.0);
        value.extend_from_slice(&max.0);
        part.filter.iter().for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
        rows.push((info_key(part.part), value));
        self.put(rows)?;
        self.parts.insert(part.part, (*min, *max));
        Ok(())
    }

    fn put(&self, rows: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError> {
        if let Some((database, ids)) = &self.tables {
            make_room(&self.path, database, ids)?;
        }
        self.with(|database, ids| {
            let mut batch = database.batch();
            for (key, mut value) in rows {
                let hash = self.hash(&key, &value);
                value.extend_from_slice(&hash);
                batch.insert(ids, key, value);
            }
            batch.commit()
        })
    }

    fn hash(&self, key: &[u8], content: &[u8]) -> [u8; HASH_BYTES] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(LAYOUT).update(&self.lane.0).update(key).update(content);
        hasher.finalize().as_bytes()[..HASH_BYTES].try_into().expect("sixteen bytes")
    }

    /// The content of a row whose hash is right.
    fn content(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let content = value.split_last_chunk::<HASH_BYTES>();
        match content {
            Some((content, hash)) if self.hash(key, content) == *hash => Ok(content.to_vec()),
            _ => Err(self.damaged(part_of(key), "a row does not match its hash")),
        }
    }

    fn damaged(&self, part: u64, what: &str) -> StoreError {
        StoreError::Damaged {
            place: format!("{}, part {part}", self.path.display()),
            what: what.into(),
        }
    }

    fn lookup(&self, part: u64, id: ObjectId) -> Result<Option<Loc>, StoreError> {
        let Some((min, max)) = self.parts.get(&part) else {
            return Err(StoreError::Refused(format!("part {part} is not in the index")));
        };
        if id < *min || id > *max {
            return Ok(None);
        }
        let (low, high) = (chunk_key(part, ObjectId([0; 16])), chunk_key(part, id));
        let found = self.with(|_, ids| match ids.range(low..=high).next_back() {
            None => Ok(None),
            Some(guard) => guard.into_inner().map(Some),
        })?;
        let (key, value) = found.ok_or_else(|| self.damaged(part, "its first chunk is missing"))?;
        let content = self.content(&key, &value)?;
        let (next, entries) = content.split_at(16);
        if next != NO_NEXT && *next <= id.0[..] {
            return Err(self.damaged(part, "a chunk is missing"));
        }
        chunk::find(entries, id).ok_or_else(|| self.damaged(part, "a chunk does not decode"))
    }

    fn drop_below(&mut self, part: u64) -> Result<(), StoreError> {
        // Whole tables go at once, what shares a table with later parts row by row.
        self.with(|_, ids| Ok(ids.tree.drop_range(..info_key(part))?))?;
        self.remove_parts(0, part)
    }

    /// Removes the rows of parts from `from` up to, and not including, `to`.
    fn remove_parts(&mut self, from: u64, to: u64) -> Result<(), StoreError> {
        loop {
            let removed = self.with(|database, ids| {
                let mut batch = database.batch();
                for guard in ids.range(info_key(from)..info_key(to)).take(STEP_COUNT) {
                    batch.remove(ids, guard.key()?);
                }
                let removed = batch.len();
                batch.commit()?;
                Ok(removed)
            })?;
            if removed < STEP_COUNT {
                break;
            }
        }
        self.parts.retain(|part, _| !(from..to).contains(part));
        Ok(())
    }

    fn read_parts(&self) -> Result<Vec<PartInfo>, StoreError> {
        let mut parts = Vec::new();
        let mut from = 0;
        loop {
            let found = self.with(|_, ids| match ids.range(info_key(from)..).next() {
                None => Ok(None),
                Some(guard) => guard.into_inner().map(Some),
            })?;
            let Some((key, value)) = found else { return Ok(parts) };
            let part = part_of(&key);
            if key[..] == info_key(part)[..] {
                let content = self.content(&key, &value)?;
                let info = info_of(part, &content);
                parts.push(info.ok_or_else(|| self.damaged(part, "its description is short"))?);
            }
            // Chunks without the row that makes a part known are what a crash left of one.
            from = part + 1;
        }
    }
}

fn info_key(part: u64) -> Vec<u8> {
    let mut key = part.to_be_bytes().to_vec();
    key.push(0);
    key
}

fn chunk_key(part: u64, first: ObjectId) -> Vec<u8> {
    let mut key = part.to_be_bytes().to_vec();
    key.push(1);
    key.extend_from_slice(&first.0);
    key
}

/// The part that a key belongs to. Keys are as long as this thread made them.
fn part_of(key: &[u8]) -> u64 {
    key.first_chunk().map_or(u64::MAX, |part| u64::from_be_bytes(*part))
}

fn info_of(part: u64, content: &[u8]) -> Option<PartInfo> {
    let (head, words) = content.split_first_chunk::<48>()?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let id = |at: usize| ObjectId(head[at..at + 16].try_into().expect("16 bytes"));
    Some(PartInfo {
        part,
        stands_at: RecordNumber(number(0)),
        count: number(8),
        min: id(16),
        max: id(32),
        filter: words.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use rand_core::{Rng, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    const LANE: LaneId = LaneId([9; 16]);

    fn ask<T: Send + 'static>(
        index: &mut IndexDb,
        request: impl FnOnce(&mut IndexDb, Answer<T>),
    ) -> Result<T, StoreError> {
        let (tx, rx) = channel();
        request(index, Box::new(move |answer| tx.send(answer).expect("someone waits")));
        rx.recv_timeout(Duration::from_secs(60)).expect("an answer comes")
    }

    fn id(part: u64, n: u64) -> ObjectId {
        let hash = blake3::hash(&[part.to_le_bytes(), n.to_le_bytes()].concat());
        ObjectId(hash.as_bytes()[..16].try_into().expect("sixteen bytes"))
    }

    /// As it comes from a core.
    fn unordered(mut part: Part) -> Part {
        part.entries.reverse();
        part
    }

    fn part(part: u64, count: u64) -> Part {
        let loc = |n| Loc { record: RecordNumber(part * 1000 + n), position: n as u32 };
        let mut entries: Vec<_> = (0..count).map(|n| (id(part, n), loc(n))).collect();
        entries.sort_unstable();
        let stands_at = RecordNumber(part * 1000 + count);
        Part { part, stands_at, entries, filter: vec![part, count, 7] }
    }

    fn write(index: &mut IndexDb, number: u64, count: u64) {
        ask(index, |index, done| index.write_part(unordered(part(number, count)), done))
            .expect("written");
    }

    fn find(index: &mut IndexDb, part: u64, id: ObjectId) -> Result<Option<Loc>, StoreError> {
        ask(index, |index, done| index.lookup(vec![(part, id)], done)).map(|found| found[0])
    }

    fn numbers(index: &mut IndexDb) -> Vec<u64> {
        let parts = ask(index, |index, done| index.parts(done)).expect("parts");
        parts.iter().map(|info| info.part).collect()
    }

    #[test]
    fn every_id_is_found_in_its_part_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let mut index = IndexDb::open(&path, LANE).unwrap();
        for (number, count) in [(1, 1), (2, 192), (3, 193), (4, 40_000)] {
            write(&mut index, number, count);
        }
        // Written again with less in it: nothing of the first time is left.
        write(&mut index, 4, 10_000);
        for round in 0..2 {
            for (number, count) in [(1, 1), (2, 192), (3, 193), (4, 10_000)] {
                let wanted = part(number, count);
                let ids = wanted.entries.iter().map(|(id, _)| (number, *id)).collect();
                let found = ask(&mut index, |index, done| index.lookup(ids, done)).unwrap();
                assert!(found.into_iter().eq(wanted.entries.iter().map(|(_, loc)| Some(*loc))));
                let absent = (count..count + 500).map(|n| (number, id(number, n))).collect();
                let found = ask(&mut index, |index, done| index.lookup(absent, done)).unwrap();
                assert!(found.iter().all(Option::is_none), "round {round}, part {number}");
            }
            let infos = ask(&mut index, |index, done| index.parts(done)).unwrap();
            let wanted = part(4, 10_000);
            assert_eq!(infos.len(), 4);
            assert_eq!(
                infos[3],
                PartInfo {
                    part: 4,
                    stands_at: wanted.stands_at,
                    count: 10_000,
                    min: wanted.entries[0].0,
                    max: wanted.entries[9_999].0,
                    filter: wanted.filter,
                }
            );
            drop(index);
            index = IndexDb::open(&path, LANE).unwrap();
        }
        ask(&mut index, |index, done| index.drop_parts_below(4, done)).unwrap();
        assert_eq!(numbers(&mut index), [4]);
        drop(index);
        let mut index = IndexDb::open(&path, LANE).unwrap();
        assert_eq!(numbers(&mut index), [4]);
        let gone = find(&mut index, 3, id(3, 0));
        assert!(matches!(gone, Err(StoreError::Refused(_))), "a part that is gone: {gone:?}");
        assert!(find(&mut index, 4, id(4, 0)).unwrap().is_some(), "and the others stay");
    }

    #[test]
    fn the_index_of_another_lane_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        write(&mut IndexDb::open(dir.path(), LANE).unwrap(), 1, 300);
        let mut other = IndexDb::open(dir.path(), LaneId([1; 16])).unwrap();
        assert!(numbers(&mut other).is_empty());
    }

    fn files_below(folder: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(files_below(&path));
            } else {
                files.push(path);
            }
        }
        files.sort();
        files
    }

    /// Damage anywhere: what is found is right, or the index says that it is gone and is empty.
    #[test]
    fn damage_empties_the_index_and_is_never_served() {
        let base = tempfile::tempdir().unwrap();
        for number in 1..=4 {
            write(&mut IndexDb::open(base.path(), LANE).unwrap(), number, 2_000);
        }
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut emptied = 0;
        for round in 0..80 {
            let dir = tempfile::tempdir().unwrap();
            for file in files_below(base.path()) {
                let to = dir.path().join(file.strip_prefix(base.path()).unwrap());
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(file, to).unwrap();
            }
            let files = files_below(dir.path());
            let file = &files[usize::try_from(rng.next_u64()).unwrap() % files.len()];
            let mut bytes = std::fs::read(file).unwrap();
            if !bytes.is_empty() {
                let at = usize::try_from(rng.next_u64()).unwrap() % bytes.len();
                if round % 3 == 0 {
                    bytes.truncate(at);
                } else {
                    bytes[at] ^= 1 << (round % 8);
                }
                std::fs::write(file, bytes).unwrap();
            }
            let mut index = IndexDb::open(dir.path(), LANE).unwrap();
            let mut parts = numbers(&mut index);
            assert!((1..=4).collect::<Vec<_>>().starts_with(&parts), "a prefix: {parts:?}");
            for number in parts.clone() {
                let wanted = part(number, 2_000);
                let ids = wanted.entries.iter().map(|(id, _)| (number, *id)).collect();
                match ask(&mut index, |index, done| index.lookup(ids, done)) {
                    Ok(found) => {
                        assert!(found.into_iter().eq(wanted.entries.iter().map(|e| Some(e.1))));
                    }
                    Err(error) => {
                        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
                        parts = numbers(&mut index);
                        assert!(parts.is_empty(), "after damage the index is empty");
                        break;
                    }
                }
            }
            emptied += u32::from(parts.is_empty());
            write(&mut index, 9, 10);
            assert!(find(&mut index, 9, id(9, 3)).unwrap().is_some(), "it can be written again");
        }
        assert!(emptied > 10, "damage was found: {emptied} times");
    }
}
