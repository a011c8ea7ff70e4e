//! `dpc store`: what stands between a node and its first start on a shared database, and what takes
//! a lane out of its store and into another one.

use std::path::Path;

use dpc_core::store::StoreError;
use serde::Serialize;

use super::serve::ConfigArgs;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::show::time;
use crate::cli::stop::Stop;
use crate::config::{Config, StoreKind};
use crate::embedded::{cassandra_options, postgres_options};
use crate::relocate::{self, Exported, HistoryRebuilt, kind_of};
use crate::store::portable::{Carried, Imported, Moved};
use crate::store::{Tables, cassandra_tables, postgres_tables};
use crate::wire::timestamp;

/// What to do with the store.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum StoreCommand {
    /// Make dpc's tables in the database of the configuration.
    #[command(after_help = "Example:\n  \
        dpc store init --set store.kind=postgres --set store.url=postgresql://dpc@db/dpc")]
    Init(ConfigArgs),
    /// Check that the database can be reached, that it commits durably as far as it says, and has
    /// dpc's tables.
    #[command(after_help = "Example:\n  dpc store check --config dpc.toml")]
    Check(ConfigArgs),
    /// Write the lane of a node that does not run to a file, whatever store it is in.
    ///
    /// The lane stays where it is, and the node may start again afterwards. Every record is checked
    /// on its way.
    #[command(after_help = "Example:\n  dpc store export --data-dir ./dpc-data a.dpclane\n  \
        dpc store export --data-dir ./dpc-data - | ssh backup 'cat > a.dpclane'")]
    Export(FileArgs),
    /// Make a new lane of what is alive in an exported file, for a node that has no lane yet.
    ///
    /// The file is read to its end before anything of it counts. The lane in it may be served
    /// elsewhere: so the new one has an id of its own, and its objects are flagged as possible
    /// duplicates.
    #[command(after_help = "Example:\n  dpc store import --data-dir ./restored a.dpclane")]
    Import(FileArgs),
    /// Move the embedded lane of the data folder into the database of the configuration, where it
    /// goes on as the same lane.
    ///
    /// Stop the node, change its configuration to the database, move, and start it: nothing is lost,
    /// and what was settled stays settled. A move that was cut off is done again.
    #[command(after_help = "Example:\n  dpc store move --data-dir ./dpc-data \
        --set store.kind=postgres --set store.url=postgresql://dpc@db/dpc")]
    Move(ConfigArgs),
    /// Make the history of a node that does not run anew, from its lane.
    ///
    /// For a history that kept counts only while it was behind (HISTORY_BEHIND), or that you do not
    /// trust. What the lane no longer holds is not in the new one: the old one stays beside it. A
    /// damaged history needs no command: the node puts it aside and makes it anew by itself.
    #[command(after_help = "Example:\n  dpc store rebuild-history --data-dir ./dpc-data")]
    RebuildHistory(ConfigArgs),
}

/// A file, and whose lane is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct FileArgs {
    /// The file; `-` is standard output or input.
    #[arg(value_name = "FILE")]
    file: String,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Serialize)]
struct ShownStore {
    store: &'static str,
    schema: i32,
    made: bool,
}

#[derive(Serialize)]
struct ShownExport<'a> {
    file: &'a str,
    store: &'static str,
    lane: String,
    records: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct ShownImport<'a> {
    file: &'a str,
    store: &'static str,
    lane: String,
    from_lane: String,
    objects: u64,
    records: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct ShownMove<'a> {
    store: &'static str,
    lane: String,
    records: u64,
    bytes: u64,
    before: &'a Path,
}

#[derive(Serialize)]
struct ShownHistory<'a> {
    store: &'static str,
    lane: String,
    records: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a Path>,
}

pub(crate) async fn run(command: StoreCommand, output: &mut Output) -> Result<Exit, Failure> {
    let args = match &command {
        StoreCommand::Init(args)
        | StoreCommand::Check(args)
        | StoreCommand::Move(args)
        | StoreCommand::RebuildHistory(args) => args,
        StoreCommand::Export(args) | StoreCommand::Import(args) => &args.config,
    };
    let config = match args.sources().load() {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            let failures = Failure::of_config(errors, Exit::Usage);
            failures.iter().for_each(|failure| output.failure(failure));
            return Ok(Exit::Usage);
        }
    };
    match command {
        StoreCommand::Init(_) => show_tables(&config, true, output).await,
        StoreCommand::Check(_) => show_tables(&config, false, output).await,
        StoreCommand::Export(args) => unless_stopped(export(&config, &args.file, output)).await,
        StoreCommand::Import(args) => unless_stopped(import(&config, &args.file, output)).await,
        StoreCommand::Move(_) => unless_stopped(move_lane(&config, output)).await,
        StoreCommand::RebuildHistory(_) => unless_stopped(rebuild_history(&config, output)).await,
    }
}

/// Whatever is cut off here leaves nothing that counts: an export its temporary file, which goes
/// with it; an import what no node serves from; a move what the next try takes up; a rebuild a file
/// that the next one removes.
async fn unless_stopped(
    work: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    let mut stop = Stop::new()?;
    tokio::select! {
        biased;
        done = work => done,
        () = stop.asked() => {
            let message = "stopped before it was done; do it again";
            Err(Failure::new(Exit::Interrupted, "CANCELLED", "INTERRUPTED", message))
        }
    }
}

async fn export(config: &Config, file: &str, output: &mut Output) -> Result<Exit, Failure> {
    let mut shown = Shown::new("records exported");
    let Exported { lane, carried: Carried { records, bytes, .. } } = if file == "-" {
        let to = tokio::io::stdout();
        relocate::export(config, to, |carried| shown.step(carried, output)).await.map_err(failed)?
    } else {
        export_to(config, Path::new(file), |carried| shown.step(carried, output)).await?
    };
    shown.finish(output);
    let (store, lane) = (kind_of(config), lane.to_string());
    let text = format!("{records} records of lane {lane}, {bytes} bytes");
    if file == "-" {
        output.note(&text);
    } else if output.is_json() {
        output.json(&ShownExport { file, store, lane, records, bytes })?;
    } else {
        output.text(&format!("{text}, are in {file}"))?;
    }
    Ok(Exit::Done)
}

/// Writes beside the file and gives it its name at the end: there is a whole one or none.
async fn export_to(
    config: &Config,
    to: &Path,
    step: impl FnMut(Carried),
) -> Result<Exported, Failure> {
    let local = |path: &Path, error: &std::io::Error| {
        Failure::local("IO", format!("{}: {error}", path.display()))
    };
    if to.exists() {
        let text = format!("{} exists; choose another name", to.display());
        return Err(Failure::local("FILE_EXISTS", text).field("FILE"));
    }
    let dir =
        to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let file = tempfile::NamedTempFile::new_in(dir).map_err(|error| local(dir, &error))?;
    let writer = file.reopen().map_err(|error| local(dir, &error))?;
    let writer = tokio::io::BufWriter::new(tokio::fs::File::from_std(writer));
    let exported = relocate::export(config, writer, step).await.map_err(failed)?;
    file.as_file().sync_all().map_err(|error| local(to, &error))?;
    file.persist_noclobber(to).map_err(|error| local(to, &error.error))?;
    let synced = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| local(dir, &error))?;
    Ok(exported)
}

async fn import(config: &Config, file: &str, output: &mut Output) -> Result<Exit, Failure> {
    // The database comes first: whoever cannot use it learns of it before anything is read.
    if config.store.kind != StoreKind::Embedded {
        tables(config, config.store.create_tables).await?;
    }
    let mut shown = Shown::new("records imported");
    let step = |carried| shown.step(carried, output);
    let imported = if file == "-" {
        relocate::import(config, (tokio::io::stdin(), "standard input"), step).await
    } else {
        let from = tokio::fs::File::open(file).await;
        let from = from.map_err(|e| Failure::local("IO", format!("{file}: {e}")).field("FILE"))?;
        relocate::import(config, (tokio::io::BufReader::new(from), file), step).await
    };
    let Imported { from, lane, objects, carried } = imported.map_err(failed)?;
    shown.finish(output);
    let (store, lane, from_lane) = (kind_of(config), lane.to_string(), from.to_string());
    if output.is_json() {
        let Carried { records, bytes, .. } = carried;
        let shown = ShownImport { file, store, lane, from_lane, objects, records, bytes };
        output.json(&shown)?;
    } else {
        output.text(&format!(
            "{objects} objects of lane {from_lane} are in the new lane {lane}, as possible duplicates"
        ))?;
    }
    Ok(Exit::Done)
}

async fn move_lane(config: &Config, output: &mut Output) -> Result<Exit, Failure> {
    let mut shown = Shown::new("records moved");
    let moved = relocate::move_lane(config, |carried| shown.step(carried, output)).await;
    let Moved { lane, carried: Carried { records, bytes, .. }, before } = moved.map_err(failed)?;
    shown.finish(output);
    let (store, lane) = (kind_of(config), lane.to_string());
    if output.is_json() {
        output.json(&ShownMove { store, lane, records, bytes, before: &before })?;
    } else {
        output.text(&format!(
            "lane {lane} is in {store} now, {records} records were moved; what the folder had of it is \
             in {}, to be deleted by you",
            before.display()
        ))?;
    }
    Ok(Exit::Done)
}

async fn rebuild_history(config: &Config, output: &mut Output) -> Result<Exit, Failure> {
    let mut shown = Shown::new("records read");
    let done = relocate::rebuild_history(config, |carried| shown.step(carried, output)).await;
    let HistoryRebuilt { lane, carried: Carried { records, bytes, .. }, rebuilt } =
        done.map_err(failed)?;
    shown.finish(output);
    let (store, lane) = (kind_of(config), lane.to_string());
    let kept_since = rebuilt.kept_since.and_then(|since| time(timestamp(since)));
    let before = rebuilt.before.as_deref();
    if output.is_json() {
        output.json(&ShownHistory { store, lane, records, bytes, kept_since, before })?;
    } else {
        let since = kept_since.map_or_else(String::new, |since| {
            format!("; decisions are known since {since}, where the lane begins now")
        });
        output.text(&format!(
            "the history of lane {lane} was made anew from {records} records{since}"
        ))?;
        if let Some(before) = before {
            let before = before.display();
            output.text(&format!("the one before is {before}, to be deleted by you"))?;
        }
    }
    Ok(Exit::Done)
}

/// How far a lane has been carried, as people see it.
struct Shown {
    what: &'static str,
    progress: Option<Progress>,
    records: u64,
}

impl Shown {
    fn new(what: &'static str) -> Self {
        Self { what, progress: None, records: 0 }
    }

    fn step(&mut self, carried: Carried, output: &mut Output) {
        let progress =
            self.progress.get_or_insert_with(|| Progress::new(self.what, Some(carried.total)));
        progress.advance(carried.records - self.records, output);
        self.records = carried.records;
    }

    fn finish(self, output: &mut Output) {
        if let Some(progress) = self.progress {
            progress.finish(output);
        }
    }
}

fn failed(error: StoreError) -> Failure {
    let (code, reason) = match &error {
        StoreError::Damaged { .. } => ("DATA_LOSS", "DATA_DAMAGED"),
        StoreError::Refused(_) => ("FAILED_PRECONDITION", "STORE_REFUSED"),
        StoreError::Full(_) => ("RESOURCE_EXHAUSTED", "DISK_FULL"),
        StoreError::Fenced { .. } => ("FAILED_PRECONDITION", "LANE_FENCED"),
        StoreError::Io(_) => ("INTERNAL", "INPUT_OUTPUT"),
    };
    Failure::new(Exit::NotDone, code, reason, error.to_string())
}

async fn show_tables(config: &Config, create: bool, output: &mut Output) -> Result<Exit, Failure> {
    let Tables { version, made } = tables(config, create).await?;
    if output.is_json() {
        output.json(&ShownStore { store: kind_of(config), schema: version, made })?;
    } else if made {
        output.text(&format!("made dpc's tables in the database, version {version}"))?;
    } else {
        output.text(&format!("the database is ready: dpc's tables have version {version}"))?;
    }
    Ok(Exit::Done)
}

async fn tables(config: &Config, create: bool) -> Result<Tables, Failure> {
    let tables = match config.store.kind {
        StoreKind::Postgres => postgres_tables(&postgres_options(config), create).await,
        StoreKind::Cassandra => cassandra_tables(&cassandra_options(config), create).await,
        StoreKind::Embedded => {
            let text = "store.kind is \"embedded\": its folder is made by the first `dpc serve`, and \
                        checked by every one; init and check are for a database";
            return Err(Failure::new(
                Exit::NotDone,
                "FAILED_PRECONDITION",
                "STORE_HAS_NO_TABLES",
                text,
            )
            .field("store.kind"));
        }
    };
    tables.map_err(|error| {
        Failure::new(Exit::NotDone, "FAILED_PRECONDITION", "STORE_NOT_READY", error.to_string())
    })
}
