//! Compiles `dpc/v1/*.proto` without protoc, the google types they use included.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=dpc/v1");
    let mut files = Vec::new();
    for entry in std::fs::read_dir("dpc/v1")? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    // The order of a folder is the file system's; the descriptor set must not depend on it.
    files.sort();

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("dpc.v1.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        // Payloads stay where the transport read them; nothing copies a body.
        .bytes(".")
        // Maps are ordered, so that the same message is the same bytes.
        .btree_map(".")
        // Any from another crate would hold a `Vec<u8>`: the google types are compiled here too.
        .compile_well_known_types(true)
        // Their comments hold code examples in other languages.
        .disable_comments([".google.protobuf"])
        // Written without a message for each object: `src/repeated.rs`.
        .extern_path(".dpc.v1.Deliveries", "crate::Deliveries")
        .extern_path(".dpc.v1.PushStreamRequest", "crate::PushStreamRequest")
        .extern_path(".dpc.v1.LinkRequest", "crate::LinkMessages")
        .extern_path(".dpc.v1.LinkResponse", "crate::LinkMessages")
        .extern_path(".dpc.v1.BodiesRequest", "crate::LinkMessages")
        .extern_path(".dpc.v1.BodiesResponse", "crate::LinkMessages")
        // The rarest message is by far the largest; every queued message would be as large.
        .boxed(".dpc.v1.LinkMessage.message.told")
        .codec_path("crate::Codec")
        .emit_rerun_if_changed(false)
        .out_dir(Path::new(&out))
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
