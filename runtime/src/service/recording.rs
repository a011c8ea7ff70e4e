//! The flight recorder's recording on its way to whoever asked for it.

use std::io;

use dpc_core::refusal::{Code, Refusal};
use dpc_proto::v1;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, Take};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::recorder::{RecorderHandle, Section};
use crate::wire::error;

/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces that are read before somebody takes them.
const PIECES_AHEAD: usize = 4;

type Piece = Result<v1::DumpRecordingResponse, Status>;

/// Streams the recording as it is now. It ends as soon as nobody listens.
pub(super) async fn send(recorder: &RecorderHandle) -> Result<ReceiverStream<Piece>, Status> {
    let sections = recorder.dump().await;
    if sections.is_empty() {
        let text = "the flight recorder has stopped; the node's log says why";
        let off = Refusal::new(Code::FailedPrecondition, "RECORDER_OFF", text);
        return Err(error::status(&off));
    }
    let (pieces, taken) = mpsc::channel(PIECES_AHEAD);
    tokio::spawn(async move {
        if let Err(failed) = read(sections, &pieces).await {
            let text = format!("the recording cannot be read: {failed}");
            // Whoever asked may be gone.
            let _gone = pieces.send(Err(Status::internal(text))).await;
        }
    });
    Ok(ReceiverStream::new(taken))
}

async fn read(sections: Vec<Section>, pieces: &mpsc::Sender<Piece>) -> io::Result<()> {
    let total = sections.iter().map(|section| section.bytes).sum();
    for section in sections {
        let mut file: Take<File> = File::from_std(section.file).take(section.bytes);
        loop {
            let mut data = Vec::with_capacity(PIECE_BYTES);
            while data.len() < PIECE_BYTES && file.read_buf(&mut data).await? > 0 {}
            if data.is_empty() {
                break;
            }
            let piece = v1::DumpRecordingResponse { data: data.into(), total };
            if pieces.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
