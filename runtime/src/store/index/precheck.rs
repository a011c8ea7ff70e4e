//! What has to be right before fjall may open an index.
//!
//! fjall trusts two things that it could check. It reads its list of tables (`vN`) without
//! comparing it with the checksum in `current`, and it sets memory aside for a table of contents by
//! a count that it checks afterwards. One flipped bit in either makes it ask for gigabytes, which
//! ends the process without a word about the place. Both checks are made here, with the errors that
//! P16 asks for.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dpc_core::store::StoreError;
use xxhash_rust::xxh3::xxh3_128;

use super::super::{damaged, io_error, needed};

/// `current`: the number of the list, its checksum, and the kind of checksum.
const CURRENT_BYTES: usize = 8 + 16 + 1;

/// The end of a table: magic, version, kind of checksum, checksum and position of the table of
/// contents, and its length.
const TRAILER_BYTES: u64 = 4 + 1 + 1 + 16 + 8 + 8;

/// A table of contents names a dozen sections; this is far above what it takes.
const CONTENTS_BYTES_MAX: u64 = 1 << 16;

/// One table in a list: its id, its kind of checksum, its checksum, and a sequence number.
const LISTED_BYTES: usize = 8 + 1 + 16 + 8;

/// Checks the lists of the database in `folder`, and the tables that they name. Other tables are
/// what a crash left behind: fjall removes them unread. A keyspace without `current` was not
/// finished.
pub(super) fn check(folder: &Path) -> Result<(), StoreError> {
    let keyspaces = folder.join("keyspaces");
    if !keyspaces.exists() {
        return Ok(());
    }
    let entries = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(&keyspaces)?.map(|entry| Ok(entry?.path())).collect()
    };
    for keyspace in entries().map_err(|error| io_error(&keyspaces, &error))? {
        if keyspace.join("current").exists() {
            let list = check_list(&keyspace)?;
            for table in tables_of(&list)? {
                check_table(&keyspace.join("tables").join(table.to_string()))?;
            }
        }
    }
    Ok(())
}

/// The ids of the tables in a list whose checksum is right: by level, then by run.
fn tables_of(list: &Path) -> Result<Vec<u64>, StoreError> {
    let bad = || damaged(list, "its list of tables cannot be read");
    let contents = sfa::Reader::new(list).map_err(|_| bad())?;
    let section = contents.toc().section(b"tables").ok_or_else(bad)?;
    let mut bytes = Vec::new();
    let read = section.reader(list).and_then(|mut reader| reader.read_to_end(&mut bytes));
    read.map_err(|error| io_error(list, &error))?;
    let mut rest = &bytes[..];
    let mut take = |count: usize| rest.split_off(..count).ok_or_else(bad);
    let mut tables = Vec::new();
    for _level in 0..take(1)?[0] {
        for _run in 0..take(1)?[0] {
            let count = take(4)?.try_into().expect("4 bytes");
            for _table in 0..u32::from_le_bytes(count) {
                let id = take(LISTED_BYTES)?[..8].try_into().expect("8 bytes");
                tables.push(u64::from_le_bytes(id));
            }
        }
    }
    Ok(tables)
}

/// Compares a list with its checksum, and says where it is.
fn check_list(keyspace: &Path) -> Result<PathBuf, StoreError> {
    let current = keyspace.join("current");
    let bytes = fs::read(&current).map_err(|error| io_error(&current, &error))?;
    let Ok(bytes) = <[u8; CURRENT_BYTES]>::try_from(&bytes[..]) else {
        return Err(damaged(&current, format!("it has {} bytes", bytes.len())));
    };
    let version = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
    let expected = u128::from_le_bytes(bytes[8..24].try_into().expect("16 bytes"));
    if bytes[24] != 0 {
        return Err(damaged(&current, format!("unknown kind of checksum {}", bytes[24])));
    }
    let list = keyspace.join(format!("v{version}"));
    match fs::read(&list) {
        Ok(bytes) if xxh3_128(&bytes) == expected => Ok(list),
        Ok(_) => {
            Err(damaged(&list, format!("its checksum is not the one in {}", current.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(damaged(&list, format!("it is missing, {} names it", current.display())))
        }
        Err(error) => Err(io_error(&list, &error)),
    }
}

fn check_table(table: &Path) -> Result<(), StoreError> {
    let read = |file: &File, at: u64, bytes: u64| -> Result<Vec<u8>, StoreError> {
        let bytes = usize::try_from(bytes).map_err(|_| damaged(table, "a length is absurd"))?;
        let mut buffer = vec![0; bytes];
        file.read_exact_at(&mut buffer, at).map_err(|error| io_error(table, &error))?;
        Ok(buffer)
    };
    let file = File::open(table).map_err(|error| needed(table, &error))?;
    let size = file.metadata().map_err(|error| io_error(table, &error))?.len();
    if size < TRAILER_BYTES {
        return Err(damaged(table, format!("it has {size} bytes")));
    }
    let end = size - TRAILER_BYTES;
    let trailer = read(&file, end, TRAILER_BYTES)?;
    if trailer[..6] != *b"SFA!\x01\x00" {
        return Err(damaged(table, "it does not end as a table does"));
    }
    let expected = u128::from_le_bytes(trailer[6..22].try_into().expect("16 bytes"));
    let at = u64::from_le_bytes(trailer[22..30].try_into().expect("8 bytes"));
    let length = end.checked_sub(at).filter(|length| *length <= CONTENTS_BYTES_MAX);
    let Some(length) = length else {
        return Err(damaged(table, format!("its table of contents is said to be at {at}")));
    };
    if xxh3_128(&read(&file, at, length)?) != expected {
        return Err(damaged(table, "its table of contents does not match its checksum"));
    }
    Ok(())
}
