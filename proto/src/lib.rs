//! The wire of dpc: package `dpc.v1`, compiled from `dpc/v1/*.proto`, whose comments are the
//! reference.
//!
//! It holds messages, clients and servers, and no behaviour: no limit is checked here and nothing
//! is converted into the types of the core. The google types are compiled here as well, so that
//! the payload of an [`google::protobuf::Any`] is a `Bytes` that shares the buffer it arrived in.
#![forbid(unsafe_code)]

mod codec;
mod repeated;
mod time;
mod written;

// Generated paths are relative to the package: `dpc.v1` has to be two modules deep.
mod dpc {
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::or_fun_call, clippy::use_self)]
    #[allow(unused_qualifications, elided_lifetimes_in_paths)]
    pub mod v1 {
        tonic::include_proto!("dpc.v1");
    }
}

pub use codec::{Codec, MeasuredEncoder};
pub use dpc::v1;
pub use repeated::{Deliveries, LinkMessages, PushStreamRequest, Repeated};
pub use written::Written;

/// The google types that `dpc.v1` uses.
pub mod google {
    /// The well-known types, with `Bytes` where protobuf says `bytes`.
    #[allow(missing_docs, unused_qualifications, clippy::all, clippy::use_self)]
    pub mod protobuf {
        tonic::include_proto!("google.protobuf");
    }
}

/// The encoded `google.protobuf.FileDescriptorSet` of `dpc.v1` and all it imports, comments
/// included: what a reflection service serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("dpc.v1");

#[cfg(test)]
mod tests;
