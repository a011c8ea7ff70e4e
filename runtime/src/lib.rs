//! dpc: a node of the mesh, its command line, and the edges that drive `dpc-core`.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod history;
pub mod store;
