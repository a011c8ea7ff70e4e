//! dpc: a node of the mesh, its command line, and the edges that drive `dpc-core`.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
mod demo;
pub mod store;

mod admin;
mod bench;
mod driver;
pub mod edge;
pub mod embedded;
mod failover;
mod files;
mod followed;
mod gate;
pub mod history;
mod inbox;
mod link;
mod memory;
pub mod node;
mod nodes;
mod observe;
mod recorder;
mod relocate;
mod restored;
mod routes;
mod serve;
mod service;
mod threads;
mod unread;
mod wake;
mod wire;

#[cfg(test)]
mod tests;
