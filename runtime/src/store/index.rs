//! The id index of a backlog larger than memory: which record holds an object.
//!
//! The log is cut into parts by its reader. For each finished part the index has one file, which is
//! written once, never changed, and removed as a whole:
//!
//! ```text
//! index/000000000041.ids   what is known of part 41, its id filter, and its ids in order (`part`)
//! ```
//!
//! All of it is derived from the log, so nothing is synced, and a file that is not whole, of another
//! lane, or damaged is removed with a warning that names it: that part's ids are read from the log
//! again. A look-up never answers "not there" because something is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use dpc_core::ids::{LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::store::{Done, StoreError};

use super::{damaged, io_error};
use crate::files::{number_of, numbered, remove};
use crate::threads::{Joined, stand_back};

mod chunk;
mod part;

const EXTENSION: &str = "ids";

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
/// After an answer of [`StoreError::Damaged`] the index does not have that part any more, and the
/// caller writes it again from the log.
pub struct IndexDb {
    /// What waits is bounded by who asks: core keeps each input whose ids it asks for, and bounds those.
    requests: Sender<Request>,
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
        let (requests, queue) = channel();
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
    /// [`StoreError::Refused`]: it was damaged, or could not be written.
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
        if let Err(refused) = self.requests.send(request) {
            refused.0.refuse(StoreError::Io("the index thread has died".into()));
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
    /// The parts that have been written or read. The files of others are read when they are asked for.
    parts: BTreeMap<u64, part::Known>,
}

impl Keeper {
    fn open(path: PathBuf, lane: LaneId) -> Self {
        let keeper = Self { path, lane, parts: BTreeMap::new() };
        if let Err(error) = keeper.tidy() {
            // Each part that cannot be written either will say so.
            tracing::error!(index = %keeper.path.display(), %error, "the id index cannot be read");
        }
        keeper
    }

    fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            match request {
                Request::Write(mut part, done) => {
                    // Here, so that nobody waits for it.
                    part.entries.sort_unstable_by_key(|(id, _)| *id);
                    done(self.write(&part));
                }
                Request::Lookup(ids, done) => {
                    done(ids.into_iter().map(|(part, id)| self.lookup(part, id)).collect());
                }
                Request::DropBelow(part, done) => done(self.drop_below(part)),
                Request::Parts(done) => done(self.read_parts()),
            }
        }
    }

    /// Makes the folder. What is in it besides the files of parts was left by a crash, or by a dpc that kept
    /// its index in a database.
    fn tidy(&self) -> Result<(), StoreError> {
        fs::create_dir_all(&self.path).map_err(|error| io_error(&self.path, &error))?;
        let files = self.files()?.into_iter();
        files.filter(|file| number_of(file, EXTENSION).is_none()).for_each(|file| remove(&file));
        Ok(())
    }

    fn files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let entries = fs::read_dir(&self.path);
        let files = entries.and_then(|all| all.map(|entry| Ok(entry?.path())).collect());
        files.map_err(|error| io_error(&self.path, &error))
    }

    /// The parts that have a file, ascending.
    fn numbers(&self) -> Result<BTreeSet<u64>, StoreError> {
        Ok(self.files()?.iter().filter_map(|file| number_of(file, EXTENSION)).collect())
    }

    fn place(&self, part: u64) -> PathBuf {
        numbered(&self.path, part, EXTENSION)
    }

    fn read_parts(&mut self) -> Result<Vec<PartInfo>, StoreError> {
        let mut infos = Vec::new();
        for number in self.numbers()? {
            match self.read_part(number) {
                Ok(info) => infos.push(info),
                Err(error) => tracing::warn!(part = number, %error, "the id index has lost a part"),
            }
        }
        Ok(infos)
    }

    /// Reads what is known of a part that has a file.
    fn read_part(&mut self, number: u64) -> Result<PartInfo, StoreError> {
        let path = self.place(number);
        let found = part::open(&path, self.lane).and_then(|found| match found.0.part {
            part if part == number => Ok(found),
            other => Err(damaged(&path, format!("it is that of part {other}"))),
        });
        let (info, known) = self.unless_damaged(number, found)?;
        self.parts.insert(number, known);
        Ok(info)
    }

    /// The file of a part that was found to be damaged is removed: its ids are read from the log again. One
    /// that could not be read just now stays.
    fn unless_damaged<T>(
        &mut self,
        part: u64,
        found: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(StoreError::Damaged { .. }) = found {
            self.parts.remove(&part);
            remove(&self.place(part));
        }
        found
    }

    fn write(&mut self, part: &Part) -> Result<(), StoreError> {
        let number = part.part;
        self.parts.remove(&number);
        remove(&self.place(number));
        let known = match part.entries.is_empty() {
            true => part::Known::nothing(number),
            false => part::write(&self.place(number), self.lane, part)?,
        };
        self.parts.insert(number, known);
        Ok(())
    }

    fn lookup(&mut self, part: u64, id: ObjectId) -> Result<Option<Loc>, StoreError> {
        let path = self.place(part);
        if !self.parts.contains_key(&part) && path.exists() {
            self.read_part(part)?;
        }
        let Some(known) = self.parts.get(&part) else {
            return Err(StoreError::Refused(format!("part {part} is not in the index")));
        };
        let found = known.find(&path, self.lane, id);
        self.unless_damaged(part, found)
    }

    fn drop_below(&mut self, part: u64) -> Result<(), StoreError> {
        self.parts = self.parts.split_off(&part);
        self.numbers()?.range(..part).for_each(|number| remove(&self.place(*number)));
        Ok(())
    }
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

    fn files_in(folder: &Path) -> Vec<PathBuf> {
        let listed = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = listed.collect();
        files.sort();
        files
    }

    /// Damage anywhere: what is found is right, or the part says that it is gone, and is.
    #[test]
    fn a_damaged_part_is_given_up_and_never_served() {
        let base = tempfile::tempdir().unwrap();
        for number in 1..=4 {
            write(&mut IndexDb::open(base.path(), LANE).unwrap(), number, 2_000);
        }
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut given_up = [0; 2];
        for round in 0..80 {
            let dir = tempfile::tempdir().unwrap();
            for file in files_in(base.path()) {
                fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
            }
            let hit = rng.next_u64() % 4 + 1;
            let file = numbered(dir.path(), hit, EXTENSION);
            let mut bytes = fs::read(&file).unwrap();
            let at = usize::try_from(rng.next_u64()).unwrap() % bytes.len();
            match round % 3 {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1 << (round % 8),
                _ => bytes[at % 200] ^= 1 << (round % 8),
            }
            fs::write(&file, bytes).unwrap();
            let mut index = IndexDb::open(dir.path(), LANE).unwrap();
            let whole: Vec<u64> = (1..=4).filter(|number| *number != hit).collect();
            let parts = numbers(&mut index);
            assert!(parts == whole || parts == [1, 2, 3, 4], "part {hit} of {parts:?}");
            given_up[0] += u32::from(parts == whole);
            for number in parts {
                let wanted = part(number, 2_000);
                let ids = wanted.entries.iter().map(|(id, _)| (number, *id)).collect();
                match ask(&mut index, |index, done| index.lookup(ids, done)) {
                    Ok(found) => {
                        assert!(found.into_iter().eq(wanted.entries.iter().map(|e| Some(e.1))));
                        assert_ne!(number, hit, "damage is found");
                    }
                    Err(error) => {
                        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
                        assert_eq!(number, hit, "{error}");
                        given_up[1] += 1;
                    }
                }
            }
            assert_eq!(numbers(&mut index), whole, "it is gone, and no other");
            write(&mut index, hit, 10);
            assert!(find(&mut index, hit, id(hit, 3)).unwrap().is_some(), "it is written again");
        }
        assert!(given_up.iter().all(|times| *times > 10), "at the start and later: {given_up:?}");
    }

    #[test]
    fn a_part_under_another_number_and_what_is_no_part_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let place = |number| numbered(dir.path(), number, EXTENSION);
        write(&mut IndexDb::open(dir.path(), LANE).unwrap(), 1, 300);
        fs::copy(place(1), place(2)).unwrap();
        fs::copy(place(1), place(3).with_extension("new")).unwrap();
        fs::create_dir(dir.path().join("keyspaces")).unwrap();
        fs::write(dir.path().join("keyspaces/0"), "of a database").unwrap();
        let mut index = IndexDb::open(dir.path(), LANE).unwrap();
        assert_eq!(numbers(&mut index), [1]);
        assert_eq!(files_in(dir.path()), [place(1)]);
    }
}
