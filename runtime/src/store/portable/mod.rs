//! Lanes that leave their store: into a file ([`export`]), out of a file into a folder
//! ([`import`]), and from a folder into a database ([`move_lane`]). docs/backup.md says what for.
//!
//! What is carried is the log itself, record by record, with its numbers and its chain of hashes:
//! the checkpoint, the tail, and the payloads that both speak of. Nothing is interpreted, and
//! everything is checked, on the way out and on the way in.

mod carry;
mod export;
mod frames;
mod import;
mod moving;
mod unpack;

pub(crate) use carry::{Carried, Pieces};
pub(crate) use export::export;
pub(crate) use import::{Imported, import};
pub(crate) use moving::{Intake, Moved, move_lane};

#[cfg(test)]
mod tests;
