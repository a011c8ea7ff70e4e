//! Several rows of a history as one row of the tables: packed, because each byte goes over the network
//! once for each copy, and sealed over where it belongs.

use dpc_core::ids::LaneId;

use super::super::pack::{BadRow, Packer, Unpacker, seal, unseal};
use super::{PartKey, ROW_BYTES_MAX, Row, RowKind};

/// Makes a row.
pub(super) fn row(
    (lane, part): (LaneId, PartKey),
    kind: RowKind,
    key: Vec<u8>,
    bodies: &[Vec<u8>],
) -> Row {
    let mut p = Packer::default();
    bodies.iter().for_each(|body| p.bytes(body));
    let packed = lz4_flex::block::compress_prepend_size(&p.finish());
    let body = seal(&place(lane, part, kind, &key), 0, packed);
    Row { lane, part, kind, key, body }
}

/// The rows that were put into one.
pub(super) fn bodies(row: &Row) -> Result<Vec<Vec<u8>>, BadRow> {
    let place = place(row.lane, row.part, row.kind, &row.key);
    let packed = unseal(&place, 0, &row.body)?;
    let (length, block) =
        lz4_flex::block::uncompressed_size(packed).map_err(|_| BadRow("it is not packed"))?;
    // Behind its seal the length is what was written, which was within the bounds of a row.
    if length > UNPACKED_MAX {
        return Err(BadRow("it is longer than any"));
    }
    let unpacked =
        lz4_flex::block::decompress(block, length).map_err(|_| BadRow("it cannot be unpacked"))?;
    let mut u = Unpacker::new(&unpacked);
    let mut bodies = Vec::new();
    while !u.is_done() {
        bodies.push(u.bytes()?.to_vec());
    }
    Ok(bodies)
}

fn place(lane: LaneId, part: PartKey, kind: RowKind, key: &[u8]) -> String {
    let mut place = format!("history_row {lane} {} ", kind.as_str());
    for byte in part.0.iter().chain(key) {
        place.push(char::from(b'a' + (byte >> 4)));
        place.push(char::from(b'a' + (byte & 15)));
    }
    place
}

/// Bytes of rows that go together: one write for each costs a database as much as this many bytes.
pub(super) const SEGMENT_BYTES: usize = 192 << 10;
/// Bytes of pages that go together: whoever looks for an id reads them.
pub(super) const PAGES_BYTES: usize = 48 << 10;
/// No row of a history is that long, and no segment.
const UNPACKED_MAX: usize = 8 * ROW_BYTES_MAX;
