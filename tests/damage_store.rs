//! P16 for the embedded store: flip any bit, cut or remove any file of a data folder. Whatever was
//! acknowledged then reads back byte by byte, or the damage is refused with its place, and the log
//! is left as it was found.
//!
//! `DPC_SEED` repeats a run, `DPC_PLACES` says how many places it tries.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::record::{Header, hash_of, seal};
use dpc_core::store::{Appended, Done, Store, StoreError};
use dpc_core::time::Wall;
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use runtime::store::{Embedded, Options};

const PLACES: u64 = 600;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

type Records = BTreeMap<RecordNumber, Bytes>;

fn options() -> Options {
    // Small segments, so that there are several, before and behind the one that is written to.
    Options { segment_bytes: 64 << 10 }
}

fn ask<T: Send + 'static>(store: &mut Embedded, request: impl FnOnce(&mut Embedded, Done<T>)) -> T {
    let (tx, rx) = channel();
    request(store, Box::new(move |answer| tx.send(answer).expect("someone waits")));
    rx.recv_timeout(Duration::from_secs(60)).expect("the store answers")
}

fn append(store: &mut Embedded, lane: LaneId, records: &mut Records, rng: &mut Pcg64Mcg, n: u64) {
    let claimed = ask(store, |store, done| store.claim(done)).expect("the log is undamaged");
    let mut previous = claimed.last_hash;
    for number in (claimed.last.0 + 1..=claimed.last.0 + n).map(RecordNumber) {
        let mut body = vec![0; usize::try_from(rng.next_u64() % 4_000).expect("small")];
        rng.fill_bytes(&mut body);
        let header = Header {
            lane,
            epoch: claimed.epoch,
            number,
            wall: Wall(1),
            previous,
            checkpoint: RecordNumber(0),
            entries: 0,
        };
        let record = seal(&header, &body);
        previous = hash_of(&record);
        records.insert(number, record.clone());
        let answer = ask(store, |store, done| store.append(claimed.epoch, number, record, done));
        assert_eq!(answer, Appended::Committed);
    }
}

/// A log that has been opened, filled, truncated and closed a few times, a copy of it as a killed
/// process leaves it, and what has to be in both.
fn make_log([closed, killed]: [&Path; 2], rng: &mut Pcg64Mcg) -> Records {
    let mut records = Records::new();
    for round in 0..5 {
        let (mut store, lane) = Embedded::open(closed, &options()).expect("opens");
        append(&mut store, lane, &mut records, rng, 80);
        if round == 3 {
            let below = RecordNumber(60);
            ask(&mut store, |store, done| store.truncate(below, done)).expect("truncates");
            records = records.split_off(&below);
        }
        if round == 4 {
            // HEAD may be one record behind what was acknowledged. Damage to that record could not be told
            // from one that was cut off (ADR 0032), and this test could not tell it from damage unseen.
            let last = *records.last_key_value().expect("not empty").0;
            while !head_names(closed, last) {
                std::thread::yield_now();
            }
            copy_open_folder(closed, killed);
        }
    }
    records
}

/// Whether a slot of HEAD says that this record was acknowledged last.
fn head_names(folder: &Path, last: RecordNumber) -> bool {
    let head = fs::read(folder.join("HEAD")).expect("there");
    head.chunks(4096).any(|slot| slot.get(48..56) == Some(&last.0.to_le_bytes()))
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        // A segment may go between the two calls: it is no folder then, and copying it fails.
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files_below(folder, &mut found);
    found.sort();
    found
}

fn copy_folder(from: &Path, to: &Path) {
    for file in files_of(from) {
        let to = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        fs::copy(file, to).expect("copied");
    }
}

/// Copies a folder that is in use, as a killed process would leave it: again and again until the
/// background threads changed nothing meanwhile.
fn copy_open_folder(from: &Path, to: &Path) {
    let state = || {
        let files = files_of(from).into_iter();
        files.map(|file| (fs::metadata(&file).and_then(|m| m.modified()).ok(), file)).collect()
    };
    let mut before: Vec<_> = state();
    loop {
        let copied = files_of(from).iter().try_for_each(|file| {
            let to = to.join(file.strip_prefix(from).expect("below"));
            fs::create_dir_all(to.parent().expect("a folder"))?;
            fs::copy(file, to).map(drop)
        });
        let after = state();
        if copied.is_ok() && before == after {
            return;
        }
        fs::remove_dir_all(to).expect("removed");
        before = after;
    }
}

/// Damages one file and says how.
fn damage(folder: &Path, rng: &mut Pcg64Mcg) -> (PathBuf, String) {
    let mut draw = |below: usize| usize::try_from(rng.next_u64() % below as u64).expect("fits");
    let files = files_of(folder);
    let file = files[draw(files.len())].clone();
    let mut bytes = fs::read(&file).expect("a file");
    let how = match draw(10) {
        0 => {
            fs::remove_file(&file).expect("removed");
            return (file, "removed".into());
        }
        1..4 if !bytes.is_empty() => {
            let length = draw(bytes.len());
            bytes.truncate(length);
            format!("cut to {length} B")
        }
        _ if !bytes.is_empty() => {
            let bit = draw(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            format!("bit {bit} flipped")
        }
        _ => {
            bytes.push(1);
            "one byte added".into()
        }
    };
    fs::write(&file, bytes).expect("written");
    (file, how)
}

/// Opens and reads everything. The step that failed, and why.
fn open_and_read(folder: &Path, expected: &Records) -> Result<(), (&'static str, StoreError)> {
    let (mut store, _) = Embedded::open(folder, &options()).map_err(|error| ("open", error))?;
    let claimed =
        ask(&mut store, |store, done| store.claim(done)).map_err(|error| ("claim", error))?;
    let last = *expected.last_key_value().expect("not empty").0;
    assert_eq!(claimed.last, last, "nothing is cut silently");
    let mut from = claimed.first;
    let mut found = Records::new();
    while from <= last {
        let read = ask(&mut store, |store, done| store.read(from, 100_000, done));
        let scrubbed = ask(&mut store, |store, done| store.scrub(from, 100_000, done));
        let records = read.map_err(|error| ("read", error))?;
        from = RecordNumber(from.0 + records.len() as u64);
        assert_eq!(scrubbed, Ok(from), "scrubbing finds what reading finds");
        found.extend(records);
    }
    for (number, record) in expected {
        assert!(found.get(number) == Some(record), "record {number} reads back byte by byte");
    }
    Ok(())
}

/// The files of the log of a folder.
fn log_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = Vec::new();
    if folder.join("log").exists() {
        files_below(&folder.join("log"), &mut found);
    }
    found.into_iter().map(|file| (file.clone(), fs::read(file).expect("a file"))).collect()
}

fn one_place(original: &Path, expected: &Records, seed: u64) -> String {
    let copy = tempfile::tempdir().expect("a folder");
    let folder = copy.path();
    copy_folder(original, folder);
    let (file, how) = damage(folder, &mut Pcg64Mcg::seed_from_u64(seed));
    let name = file.strip_prefix(folder).expect("below").display().to_string();
    let place = format!("place {seed:#x}: {name}, {how}");
    println!("{place}");
    let log = log_of(folder);
    match open_and_read(folder, expected) {
        Ok(()) => "repaired or harmless".into(),
        Err((step, StoreError::Damaged { place: named, what })) => {
            let inside = folder.display().to_string();
            assert!(named.starts_with(&inside) && named.len() > inside.len(), "{place}: {named}");
            assert!(!what.is_empty(), "{place}: says what is wrong");
            // A refused open has changed nothing in the log.
            assert!(step == "read" || log == log_of(folder), "{place}: the log is as it was");
            // Opening again is refused again, unless everything has been found after all.
            match open_and_read(folder, expected) {
                Ok(()) => format!("{step}: damaged, then repaired"),
                Err(_) => format!("{step}: damaged"),
            }
        }
        Err((step, StoreError::Refused(text))) => {
            assert!(text.contains(&folder.display().to_string()), "{place}: {text}");
            format!("{step}: refused")
        }
        Err((step, other)) => panic!("{place}: {step} answered {other:?}"),
    }
}

#[test]
fn damage_anywhere_is_found_or_harmless() {
    let seed = number("DPC_SEED").unwrap_or_else(|| getrandom::u64().expect("random numbers"));
    let places = number("DPC_PLACES").unwrap_or(PLACES);
    println!("damage_store: DPC_SEED={seed} DPC_PLACES={places}");
    let (closed, killed) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let originals = [closed.path(), killed.path()];
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let expected = make_log(originals, &mut rng);
    for original in originals {
        let copy = tempfile::tempdir().expect("made");
        copy_folder(original, copy.path());
        open_and_read(copy.path(), &expected).expect("undamaged");
    }

    let seeds: Arc<Mutex<Vec<u64>>> =
        Arc::new(Mutex::new((0..places).map(|_| rng.next_u64()).collect()));
    let outcomes: Mutex<BTreeMap<String, u32>> = Mutex::default();
    std::thread::scope(|scope| {
        // More threads than processors: most of the time goes into waiting for syncs.
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(seed) = { seeds.lock().expect("no panic").pop() } {
                    let outcome = one_place(originals[(seed % 2) as usize], &expected, seed);
                    *outcomes.lock().expect("no panic").entry(outcome).or_default() += 1;
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().expect("no panic");
    println!("damage_store: {outcomes:?}");
    for outcome in ["open: damaged", "claim: damaged", "read: damaged", "repaired or harmless"] {
        assert!(outcomes.contains_key(outcome), "{outcome} never happened: {outcomes:?}");
    }
}
