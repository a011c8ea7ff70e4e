//! Whole nodes in this process: real sockets on loopback, real stores in temporary folders.

mod harness;
mod index;
mod life;
mod mesh;
mod refusals;

pub(crate) use harness::{TestNode, object, start};
