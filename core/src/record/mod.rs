//! Records: one commit of a lane each.

mod beside;
mod codec;
mod end;
mod entry;
mod frame;
mod object;
mod steps;
mod walk;

pub use codec::{BadEntry, Reader, Vocabulary, Words, Writer, write_int};
pub(crate) use end::{EndRef, write_end};
pub use entry::{End, Ending, Entry, How, PeerSeen, Standing, TransferId};
pub(crate) use entry::{decode_locs, encode_locs, name, type_name, write_decision};
pub use frame::{
    BadFrame, FORMAT, HASH_BYTES, HEADER_BYTES, Header, computed_hash, hash_of, length_of, open,
    open_header, open_start, seal,
};
pub(crate) use object::write_object;
pub use steps::IdSteps;
pub use walk::{
    BadRecord, Glance, entries, entries_of_sealed, entries_with, glance_at_sealed, mentions,
};
