//! The file of one part: its ids in order, in chunks, behind a directory of them.
//!
//! ```text
//! magic 8 | lane 16 | part 8 | stands at 8 | count 8 | lowest id 16 | highest id 16
//! words of the filter 4 | chunks 4                           numbers are little-endian
//! the filter's words 8 each | for each chunk: its first id 16, how many bytes end with it 4
//! hash 16                                                    over everything before it
//! for each chunk: entries packed (`chunk`) | hash 16         over lane, part, which chunk, and entries
//! ```

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use dpc_core::ids::{LaneId, Loc, ObjectId, RecordNumber};
use dpc_core::store::StoreError;

use super::super::{damaged, io_error, needed};
use super::{Part, PartInfo, chunk};
use crate::files::remove;

/// Another layout is another index.
const MAGIC: [u8; 8] = *b"dpcIDS04";

/// Entries in one chunk: half a KiB to 4 KiB.
const CHUNK_COUNT: usize = 192;

/// The bytes before the filter.
const FIXED_BYTES: usize = 88;

const ENTRY_BYTES: usize = 20;
const HASH_BYTES: usize = 16;

/// What is kept in memory of a part.
pub(super) struct Known {
    part: u64,
    highest: ObjectId,
    /// The first id of each chunk, and where the chunk ends behind the head.
    chunks: Vec<(ObjectId, u32)>,
    head_bytes: u64,
}

/// Writes the file of a part whose ids ascend, under another name first: a process that is killed leaves
/// none that is not whole. After a power cut its hashes tell.
pub(super) fn write(path: &Path, lane: LaneId, part: &Part) -> Result<Known, StoreError> {
    let ascend = part.entries.is_sorted_by(|a, b| a.0 < b.0);
    assert!(ascend, "an id stands in a part once");
    let (mut packed, mut chunks) = (Vec::new(), Vec::new());
    for (n, entries) in part.entries.chunks(CHUNK_COUNT).enumerate() {
        let from = packed.len();
        chunk::pack(entries, &mut packed);
        let hash = hash_of_chunk(lane, part.part, n, &packed[from..]);
        packed.extend_from_slice(&hash);
        chunks.push((entries[0].0, length(packed.len())));
    }
    let highest = part.entries.last().expect("a part without ids has no file").0;
    let head_bytes = head_bytes(part.filter.len() as u64, chunks.len() as u64);
    let known = Known { part: part.part, highest, chunks, head_bytes };
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let file = File::create(&new)?;
        file.write_all_at(&head_of(lane, part, &known), 0)?;
        file.write_all_at(&packed, known.head_bytes)?;
        fs::rename(&new, path)
    };
    write().map_err(|error| {
        // On a full disk it is in the way of others.
        remove(&new);
        io_error(path, &error)
    })?;
    Ok(known)
}

/// Reads what a part's file says of the part.
pub(super) fn open(path: &Path, lane: LaneId) -> Result<(PartInfo, Known), StoreError> {
    let io = |error| io_error(path, &error);
    let file = File::open(path).map_err(|error| needed(path, &error))?;
    let size = file.metadata().map_err(io)?.len();
    let mut head = vec![0; FIXED_BYTES];
    read(path, &file, &mut head, 0)?;
    let (words, chunks) = (u64::from(number(&head, 80)), u64::from(number(&head, 84)));
    let head_bytes = head_bytes(words, chunks);
    if head_bytes > size {
        return Err(damaged(path, "it is shorter than it says"));
    }
    head.resize(usize::try_from(head_bytes).expect("a file that fits into memory"), 0);
    read(path, &file, &mut head[FIXED_BYTES..], FIXED_BYTES as u64)?;
    let (content, hash) = head.split_last_chunk::<HASH_BYTES>().expect("its length says so");
    if !content.starts_with(&MAGIC) || hash_of(&[content]) != *hash {
        return Err(damaged(path, "its head does not match its hash"));
    }
    if content[8..24] != lane.0 {
        return Err(damaged(path, "it belongs to another lane"));
    }
    let long = |at: usize| u64::from_le_bytes(content[at..at + 8].try_into().expect("8 bytes"));
    let (filter, directory) = content[FIXED_BYTES..].split_at(8 * words as usize);
    let info = PartInfo {
        part: long(24),
        stands_at: RecordNumber(long(32)),
        count: long(40),
        min: id(content, 48),
        max: id(content, 64),
        filter: filter.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect(),
    };
    let entries = directory.as_chunks::<ENTRY_BYTES>().0.iter();
    let known = Known {
        part: info.part,
        highest: info.max,
        chunks: entries.map(|entry| (id(entry, 0), number(entry, 16))).collect(),
        head_bytes,
    };
    if known.bytes() != size {
        return Err(damaged(path, format!("it has {size} bytes instead of {}", known.bytes())));
    }
    Ok((info, known))
}

impl Known {
    /// A part without ids, which has no file.
    pub(super) fn nothing(part: u64) -> Self {
        Self { part, highest: ObjectId([0; 16]), chunks: Vec::new(), head_bytes: 0 }
    }

    /// Where an object of this id is, if the part has it.
    pub(super) fn find(
        &self,
        path: &Path,
        lane: LaneId,
        id: ObjectId,
    ) -> Result<Option<Loc>, StoreError> {
        let above = self.chunks.partition_point(|(first, _)| *first <= id);
        let Some(n) = above.checked_sub(1).filter(|_| id <= self.highest) else { return Ok(None) };
        let from = n.checked_sub(1).map_or(0, |before| self.chunks[before].1);
        let length = self.chunks[n].1.saturating_sub(from);
        let file = File::open(path).map_err(|error| needed(path, &error))?;
        let mut bytes = vec![0; length as usize];
        read(path, &file, &mut bytes, self.head_bytes + u64::from(from))?;
        let entries = match bytes.split_last_chunk::<HASH_BYTES>() {
            Some((entries, hash)) if hash_of_chunk(lane, self.part, n, entries) == *hash => entries,
            _ => return Err(damaged(path, format!("chunk {n} does not match its hash"))),
        };
        let found = chunk::find(entries, id);
        found.ok_or_else(|| damaged(path, format!("chunk {n} does not decode")))
    }

    /// How long the file is.
    fn bytes(&self) -> u64 {
        self.head_bytes + self.chunks.last().map_or(0, |(_, end)| u64::from(*end))
    }
}

/// How long a head is, with so many words of a filter and so many chunks.
fn head_bytes(words: u64, chunks: u64) -> u64 {
    FIXED_BYTES as u64 + 8 * words + ENTRY_BYTES as u64 * chunks + HASH_BYTES as u64
}

fn head_of(lane: LaneId, part: &Part, known: &Known) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&lane.0);
    head.extend_from_slice(&part.part.to_le_bytes());
    head.extend_from_slice(&part.stands_at.0.to_le_bytes());
    head.extend_from_slice(&(part.entries.len() as u64).to_le_bytes());
    head.extend_from_slice(&part.entries[0].0.0);
    head.extend_from_slice(&known.highest.0);
    head.extend_from_slice(&length(part.filter.len()).to_le_bytes());
    head.extend_from_slice(&length(known.chunks.len()).to_le_bytes());
    part.filter.iter().for_each(|word| head.extend_from_slice(&word.to_le_bytes()));
    for (first, end) in &known.chunks {
        head.extend_from_slice(&first.0);
        head.extend_from_slice(&end.to_le_bytes());
    }
    let hash = hash_of(&[&head]);
    head.extend_from_slice(&hash);
    assert_eq!(head.len() as u64, known.head_bytes, "a head is as long as is known");
    head
}

fn hash_of_chunk(lane: LaneId, part: u64, n: usize, entries: &[u8]) -> [u8; HASH_BYTES] {
    hash_of(&[&MAGIC, &lane.0, &part.to_le_bytes(), &length(n).to_le_bytes(), entries])
}

fn hash_of(content: &[&[u8]]) -> [u8; HASH_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for bytes in content {
        hasher.update(bytes);
    }
    hasher.finalize().as_bytes()[..HASH_BYTES].try_into().expect("sixteen bytes")
}

fn read(path: &Path, file: &File, bytes: &mut [u8], at: u64) -> Result<(), StoreError> {
    match file.read_exact_at(bytes, at) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(damaged(path, "it is cut off"))
        }
        read => read.map_err(|error| io_error(path, &error)),
    }
}

fn id(bytes: &[u8], at: usize) -> ObjectId {
    ObjectId(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A part has at most some hundred thousand ids, of at most 40 bytes each.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("parts are bounded")
}
