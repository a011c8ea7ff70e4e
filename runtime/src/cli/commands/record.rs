//! `dpc record`: the flight recorder of a running node.

use std::io::Write;
use std::path::{Path, PathBuf};

use dpc_proto::v1;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::cli::connect::{Effect, Node, NodeArgs};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Progress;

/// What to do with recordings.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RecordCommand {
    /// Write the recording of a running node to a file.
    ///
    /// It holds the node's last inputs, without payloads and headers, and what the node knew before
    /// them, so that `dpc sim replay FILE` shows every decision again. The node goes on meanwhile.
    #[command(after_help = "Example:\n  dpc record dump a.dpcrec\n  dpc sim replay a.dpcrec")]
    Dump(DumpArgs),
}

/// Writes a recording.
#[derive(Debug, clap::Args)]
pub(crate) struct DumpArgs {
    /// The file; one that exists stays as it is.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Serialize)]
struct Dumped<'a> {
    file: &'a Path,
    bytes: u64,
}

pub(crate) async fn run(command: RecordCommand, output: &mut Output) -> Result<Exit, Failure> {
    let RecordCommand::Dump(args) = command;
    if args.file.exists() {
        let text = format!("{} exists; choose another name", args.file.display());
        return Err(Failure::local("FILE_EXISTS", text).field("FILE"));
    }
    let node = args.node.connect().await?;
    let bytes = dump(&node, &args.file, output).await?;
    if output.is_json() {
        output.json(&Dumped { file: &args.file, bytes })?;
    } else {
        let file = args.file.display();
        output.text(&format!("{bytes} bytes in {file}; see it with: dpc sim replay {file}"))?;
    }
    Ok(Exit::Done)
}

/// Writes beside the file and gives it its name at the end: there is a whole one or none.
async fn dump(node: &Node, to: &Path, output: &mut Output) -> Result<u64, Failure> {
    let dir =
        to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = NamedTempFile::new_in(dir)
        .map_err(|error| Failure::local("IO", format!("{}: {error}", dir.display())))?;
    let mut desk = node.operator();
    let request = v1::DumpRecordingRequest {};
    let mut pieces = node.answer(Effect::Reads, desk.dump_recording(request)).await?;
    let mut progress: Option<Progress> = None;
    let (mut bytes, mut total) = (0, 0);
    loop {
        let next = async { pieces.message().await.map(tonic::Response::new) };
        let Some(piece) = node.answer(Effect::Reads, next).await? else { break };
        total = piece.total;
        file.write_all(&piece.data)?;
        bytes += piece.data.len() as u64;
        let progress = progress.get_or_insert_with(|| Progress::new("bytes", Some(total)));
        progress.advance(piece.data.len() as u64, output);
    }
    if let Some(progress) = progress {
        progress.finish(output);
    }
    if bytes != total {
        let text = format!("the recording ended after {bytes} of {total} bytes; dump it again");
        return Err(Failure::local("RECORDING_CUT", text));
    }
    file.persist_noclobber(to)
        .map_err(|error| Failure::local("IO", format!("{}: {}", to.display(), error.error)))?;
    Ok(bytes)
}
