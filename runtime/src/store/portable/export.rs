//! A lane into a file.

use std::io;

use dpc_core::ids::LaneId;
use dpc_core::store::{Claimed, Store, StoreError};
use dpc_proto::{google, v1};
use tokio::io::AsyncWrite;
use v1::exported_frame::Frame;

use super::carry::{Carried, Piece, carry};
use super::frames::FrameWriter;

/// Writes a lane that was claimed. The claim keeps everybody else from changing it; `step` is told
/// how far it has come, and may see to it that the claim stands.
///
/// # Errors
///
/// [`StoreError`] if the lane cannot be read, or what is read cannot be written. What was written is
/// not whole then, and is refused by an import.
pub(crate) async fn export<S: Store>(
    store: &mut S,
    (lane, kind): (LaneId, &str),
    claimed: &Claimed,
    to: impl AsyncWrite + Unpin,
    step: impl AsyncFnMut(Carried) -> Result<(), StoreError>,
) -> Result<Carried, StoreError> {
    let mut frames = FrameWriter::begin(to).await.map_err(unwritten)?;
    frames.put(Frame::Begin(begin(lane, kind, claimed))).await.map_err(unwritten)?;
    let write = async |records: Piece| {
        for (number, record) in records {
            let record = v1::ExportedRecord { number: number.0, record };
            frames.put(Frame::Record(record)).await.map_err(unwritten)?;
        }
        Ok(())
    };
    let carried = carry(store, claimed, write, step).await?;
    let end = v1::ExportedEnd { records: carried.records, bytes: carried.bytes };
    frames.put(Frame::End(end)).await.map_err(unwritten)?;
    frames.finish().await.map_err(unwritten)?;
    Ok(carried)
}

fn begin(lane: LaneId, kind: &str, claimed: &Claimed) -> v1::ExportedBegin {
    let Claimed { epoch, first, last, last_hash } = *claimed;
    let now = jiff::Timestamp::now();
    v1::ExportedBegin {
        lane: lane.0.to_vec().into(),
        epoch: epoch.0,
        first: first.0,
        last: last.0,
        last_hash: last_hash.to_vec().into(),
        store: kind.into(),
        program: env!("CARGO_PKG_VERSION").into(),
        made_at: Some(google::protobuf::Timestamp { seconds: now.as_second(), nanos: 0 }),
    }
}

fn unwritten(error: io::Error) -> StoreError {
    let text = format!("the export cannot be written: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(text),
        _ => StoreError::Io(text),
    }
}
