//! Frames of an exported file, written and read one after the other: docs/backup.md has the format.
//!
//! ```text
//! magic "dpc-lane" | version u32 | frame … | frame
//! frame: length u32 | ExportedFrame, that many bytes | check 16
//! ```
//!
//! A frame's check is the first half of BLAKE3 over the check before it (of the first one: over
//! magic and version), its length and its bytes. So a frame that is damaged, missing, repeated or
//! of another file is noticed where it stands.

use std::io;

use bytes::{Bytes, BytesMut};
use dpc_core::store::{RECORD_BYTES_MAX, StoreError};
use dpc_proto::v1;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use v1::exported_frame::Frame;

const MAGIC: [u8; 8] = *b"dpc-lane";

/// The version that this program writes, and the highest it reads.
const VERSION: u32 = 1;

/// Magic and version.
const HEAD_BYTES: usize = MAGIC.len() + 4;

/// The largest frame: a record, its number, and what protobuf puts around them.
const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + 64;

type Check = [u8; 16];

fn check(before: &[u8], length: &[u8], frame: &[u8]) -> Check {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(length).update(frame);
    hasher.finalize().as_bytes()[..16].try_into().expect("a hash is longer")
}

fn head(version: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..MAGIC.len()].copy_from_slice(&MAGIC);
    head[MAGIC.len()..].copy_from_slice(&version.to_le_bytes());
    head
}

/// Writes frames.
pub(super) struct FrameWriter<W> {
    to: W,
    check: Check,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Begins a file.
    pub(super) async fn begin(mut to: W) -> io::Result<Self> {
        let head = head(VERSION);
        to.write_all(&head).await?;
        Ok(Self { to, check: check(&head, &[], &[]), buffer: BytesMut::new() })
    }

    /// Writes the next frame.
    pub(super) async fn put(&mut self, frame: Frame) -> io::Result<()> {
        let frame = v1::ExportedFrame { frame: Some(frame) };
        self.buffer.clear();
        frame.encode(&mut self.buffer).map_err(io::Error::other)?;
        let length = u32::try_from(self.buffer.len()).map_err(io::Error::other)?.to_le_bytes();
        self.check = check(&self.check, &length, &self.buffer);
        self.to.write_all(&length).await?;
        self.to.write_all(&self.buffer).await?;
        self.to.write_all(&self.check).await
    }

    /// Hands on everything that was written.
    pub(super) async fn finish(mut self) -> io::Result<()> {
        self.to.flush().await
    }
}

/// Reads frames, and refuses what is damaged with the place in the file.
pub(super) struct FrameReader<R> {
    from: R,
    name: String,
    check: Check,
    /// Where the next frame begins.
    at: u64,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Begins to read a file, which errors call `name`.
    pub(super) async fn begin(from: R, name: &str) -> Result<Self, StoreError> {
        let mut reader = Self { from, name: name.to_owned(), check: [0; 16], at: 0 };
        let mut found = [0; HEAD_BYTES];
        reader.fill(&mut found, "within its first bytes").await?;
        if found[..MAGIC.len()] != MAGIC {
            return Err(reader.damaged("it is no file of `dpc store export`"));
        }
        let version = u32::from_le_bytes(found[MAGIC.len()..].try_into().expect("4 bytes"));
        if version != VERSION {
            return Err(StoreError::Refused(format!(
                "{name} has version {version} of the format, and this program reads version \
                 {VERSION}: it was written by another dpc"
            )));
        }
        (reader.check, reader.at) = (check(&found, &[], &[]), HEAD_BYTES as u64);
        Ok(reader)
    }

    /// The next frame; none if the file ends here.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, StoreError> {
        let mut length = [0; 4];
        let read = self.from.read(&mut length).await.map_err(|error| self.failed(&error))?;
        if read == 0 {
            return Ok(None);
        }
        const CUT: &str = "within a frame";
        self.fill(&mut length[read..], CUT).await?;
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > FRAME_BYTES_MAX {
            return Err(self.damaged(&format!("a frame of {bytes} B is said to be here")));
        }
        let mut frame = BytesMut::zeroed(bytes);
        self.fill(&mut frame, CUT).await?;
        let mut found = Check::default();
        self.fill(&mut found, CUT).await?;
        self.check = check(&self.check, &length, &frame);
        if found != self.check {
            return Err(self.damaged("the frame here does not match its check"));
        }
        let decoded = v1::ExportedFrame::decode(Bytes::from(frame)).ok().and_then(|f| f.frame);
        let Some(decoded) = decoded else {
            return Err(self.damaged("the frame here is none that this program knows"));
        };
        self.at += (length.len() + bytes + found.len()) as u64;
        Ok(Some(decoded))
    }

    /// Whether nothing follows.
    pub(super) async fn at_end(&mut self) -> Result<bool, StoreError> {
        let read = self.from.read(&mut [0; 1]).await.map_err(|error| self.failed(&error))?;
        Ok(read == 0)
    }

    /// Where the next frame begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Damage where the next frame begins.
    pub(super) fn damaged(&self, what: &str) -> StoreError {
        self.damaged_at(self.at, what)
    }

    /// Damage at a byte of the file.
    pub(super) fn damaged_at(&self, at: u64, what: &str) -> StoreError {
        StoreError::Damaged { place: format!("{}, byte {at}", self.name), what: what.into() }
    }

    async fn fill(&mut self, into: &mut [u8], cut: &str) -> Result<(), StoreError> {
        match self.from.read_exact(into).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(&format!("the file ends {cut}")))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &io::Error) -> StoreError {
        StoreError::Io(format!("{}: {error}", self.name))
    }
}
