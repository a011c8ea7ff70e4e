//! `dpc push`: objects on their way in, one or many.

use std::path::PathBuf;
use std::str::FromStr;

use dpc_core::ids::ObjectId;
use jiff::Timestamp;

use crate::cli::connect::NodeArgs;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::times::parse_time;
use crate::config::Period;

/// Pushes objects.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("payload").args(["data", "file", "lines"]))]
pub(crate) struct PushArgs {
    /// The object's type: a full protobuf message name. With --lines, that of lines without one.
    #[arg(value_name = "TYPE", required_unless_present = "lines")]
    pub(crate) object_type: Option<String>,
    /// The payload as text; without --data, --file and --lines it is empty.
    #[arg(long, value_name = "TEXT")]
    pub(crate) data: Option<String>,
    /// The payload from a file, or from stdin with `-`.
    #[arg(long, value_name = "F")]
    pub(crate) file: Option<PathBuf>,
    /// Push each line of stdin: {"type"?,"id"?,"data"|"data_base64","headers"?}.
    #[arg(long)]
    pub(crate) lines: bool,
    /// The object's id [default: a new one of version 7].
    #[arg(long, value_name = "UUID", conflicts_with = "lines")]
    pub(crate) id: Option<ObjectId>,
    /// A header; give it once for each.
    #[arg(long = "header", value_name = "K=V")]
    pub(crate) headers: Vec<Header>,
    /// Deliver it only after this time.
    #[arg(long, value_name = "D", conflicts_with = "not_before")]
    pub(crate) delay: Option<Period>,
    /// Deliver it only from this moment on, in RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) not_before: Option<Timestamp>,
    /// Park it if it is not delivered within this time.
    #[arg(long, value_name = "D", conflicts_with = "expires_at")]
    pub(crate) expires_in: Option<Period>,
    /// Park it if it is not delivered by this moment, in RFC 3339.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) expires_at: Option<Timestamp>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// A header as `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for Header {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err("accepted: key=value"),
        }
    }
}

pub(crate) fn run(_args: &PushArgs, _output: &mut Output) -> Result<Exit, Failure> {
    Err(Failure::not_built("dpc push"))
}
