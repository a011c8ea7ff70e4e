//! The lane of a file, put together in a folder and checked on the way.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::record::{hash_of, open_header};
use dpc_core::store::{Appended, Claimed, StoreError};
use dpc_proto::v1;
use tokio::io::AsyncRead;
use v1::exported_frame::Frame;

use super::super::chain::Tip;
use super::super::embedded::{Embedded, Options};
use super::super::folder::sign;
use super::super::head::Head;
use super::super::io_error;
use super::carry::Carried;
use super::frames::FrameReader;
use crate::node::{append, claim};

/// Puts the lane of a file together in a folder that is not there yet.
///
/// # Errors
///
/// [`StoreError::Damaged`] names the byte of the file from which on it is not whole; what the folder
/// refuses. What is in the folder then is of no use.
pub(super) async fn unpack(
    (from, name): (impl AsyncRead + Unpin, &str),
    folder: &Path,
    mut step: impl FnMut(Carried),
) -> Result<(LaneId, Carried), StoreError> {
    let mut frames = FrameReader::begin(from, name).await?;
    let tip = begin(&mut frames).await?;
    let Tip { lane, epoch, first, last, last_hash } = tip;
    let mut carried = Carried::none_of(&Claimed { epoch, first, last, last_hash });
    let mut filling: Option<Filling> = None;
    let (mut expected, mut previous) = (first, None);
    while expected <= last {
        let record = record(&mut frames, &tip, expected, previous).await?;
        let into = match &mut filling {
            Some(filling) => filling,
            None => {
                // The first record says what the log ended with before it.
                let header = open_header(&record).expect("it was just checked");
                let (last, last_hash) = (RecordNumber(expected.0 - 1), header.previous);
                filling.insert(Filling::begin(folder, Tip { last, last_hash, ..tip }).await?)
            }
        };
        previous = Some(hash_of(&record));
        carried.records += 1;
        carried.bytes += record.len() as u64;
        into.append(expected, record).await?;
        step(carried);
        expected = expected.next();
    }
    end(&mut frames, carried).await?;
    if filling.is_none() {
        Filling::begin(folder, tip).await?;
    }
    Ok((lane, carried))
}

/// What the file says that it holds.
async fn begin<R: AsyncRead + Unpin>(frames: &mut FrameReader<R>) -> Result<Tip, StoreError> {
    match frames.next().await? {
        Some(Frame::Begin(begin)) => {
            tip(&begin).ok_or_else(|| frames.damaged("what it says of its lane makes no sense"))
        }
        Some(_) => Err(frames.damaged("it does not begin with what it holds")),
        None => Err(frames.damaged("it ends before it says what it holds")),
    }
}

fn tip(begin: &v1::ExportedBegin) -> Option<Tip> {
    let tip = Tip {
        lane: LaneId(begin.lane.as_ref().try_into().ok()?),
        epoch: Epoch(begin.epoch),
        first: RecordNumber(begin.first),
        last: RecordNumber(begin.last),
        last_hash: begin.last_hash.as_ref().try_into().ok()?,
    };
    let sound = begin.first >= 1 && begin.first - 1 <= begin.last && begin.last < u64::MAX;
    sound.then_some(tip)
}

/// The next record, checked as it is in its own store.
async fn record<R: AsyncRead + Unpin>(
    frames: &mut FrameReader<R>,
    tip: &Tip,
    expected: RecordNumber,
    previous: Option<[u8; 16]>,
) -> Result<Bytes, StoreError> {
    let at = frames.at();
    let record = match frames.next().await? {
        Some(Frame::Record(found)) if found.number == expected.0 => found.record,
        Some(_) => return Err(frames.damaged_at(at, &format!("record {expected} should be here"))),
        None => {
            let what = format!("it ends before record {expected} of {}: it is not whole", tip.last);
            return Err(frames.damaged(&what));
        }
    };
    match tip.check(expected, Some(&record), previous) {
        Ok(()) => Ok(record),
        Err(what) => Err(frames.damaged_at(at, &format!("record {expected}: {what}"))),
    }
}

/// The file says that it is whole, and ends.
async fn end<R: AsyncRead + Unpin>(
    frames: &mut FrameReader<R>,
    carried: Carried,
) -> Result<(), StoreError> {
    let at = frames.at();
    match frames.next().await? {
        Some(Frame::End(end)) if (end.records, end.bytes) == (carried.records, carried.bytes) => {}
        Some(_) => return Err(frames.damaged_at(at, "its end should be here")),
        None => return Err(frames.damaged("its end is missing: it is not whole")),
    }
    match frames.at_end().await? {
        true => Ok(()),
        false => Err(frames.damaged("something follows its end")),
    }
}

/// A folder that gets the records of a lane that began elsewhere.
struct Filling {
    store: Embedded,
    epoch: Epoch,
}

impl Filling {
    /// Makes the folder of a log that goes on where `tip` says.
    async fn begin(folder: &Path, tip: Tip) -> Result<Self, StoreError> {
        let make = || {
            fs::create_dir(folder)?;
            fs::create_dir(folder.join("log"))?;
            Head::make_at(&folder.join("HEAD"), tip)
        };
        make().map_err(|error| io_error(folder, &error))?;
        sign(folder, tip.lane)?;
        let (mut store, _) = Embedded::open(folder, &Options::default())?;
        let claimed = claim(&mut store).await?;
        Ok(Self { store, epoch: claimed.epoch })
    }

    async fn append(&mut self, number: RecordNumber, record: Bytes) -> Result<(), StoreError> {
        match append(&mut self.store, self.epoch, number, record).await {
            Appended::Committed => Ok(()),
            Appended::DefinitelyNot(error) | Appended::Unknown(error) => Err(error),
        }
    }
}
