//! Records: one commit of a lane each.

mod frame;

pub use frame::{BadFrame, FORMAT, HASH_BYTES, HEADER_BYTES, Header, hash_of, open, seal};
