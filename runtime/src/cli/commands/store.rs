//! `dpc store`: what stands between a node and its first start on a shared database.

use serde::Serialize;

use super::serve::ConfigArgs;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{Config, StoreKind};
use crate::store::{Tables, cassandra_password, cassandra_tables, postgres_tables};

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
}

#[derive(Serialize)]
struct ShownStore {
    store: &'static str,
    schema: i32,
    made: bool,
}

pub(crate) async fn run(command: StoreCommand, output: &mut Output) -> Result<Exit, Failure> {
    let (args, create) = match &command {
        StoreCommand::Init(args) => (args, true),
        StoreCommand::Check(args) => (args, false),
    };
    let config = match args.sources().load() {
        Ok(loaded) => loaded.config,
        Err(errors) => {
            let failures = Failure::of_config(errors, Exit::Usage);
            failures.iter().for_each(|failure| output.failure(failure));
            return Ok(Exit::Usage);
        }
    };
    let Tables { version, made } = tables(&config, create).await?;
    if output.is_json() {
        let store =
            if config.store.kind == StoreKind::Cassandra { "cassandra" } else { "postgres" };
        output.json(&ShownStore { store, schema: version, made })?;
    } else if made {
        output.text(&format!("made dpc's tables in the database, version {version}"))?;
    } else {
        output.text(&format!("the database is ready: dpc's tables have version {version}"))?;
    }
    Ok(Exit::Done)
}

async fn tables(config: &Config, create: bool) -> Result<Tables, Failure> {
    let url = || config.store.url.as_deref().expect("a checked configuration has it");
    let tables = match config.store.kind {
        StoreKind::Postgres => postgres_tables(url(), create).await,
        StoreKind::Cassandra => cassandra_tables(url(), cassandra_password(), create).await,
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
