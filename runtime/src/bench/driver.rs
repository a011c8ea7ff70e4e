//! The database of a store by its driver alone: what nodes are to be compared with.

use std::time::Duration;

use dpc_core::limits::Limits;

use super::load;
use super::meter::{Meter, Used};
use super::plan::{Plan, Where};
use crate::cli::failure::Failure;
use crate::store::{CassandraOptions, cassandra_bare, cassandra_password, postgres_bare};

/// Writes at least as many objects as the plan has, packed as tightly as can be into records of the
/// size that nodes aim at; for Postgres each object is a row, and a batch has that size. Returns how
/// many there were.
pub(super) async fn measure(plan: &Plan) -> Result<(u64, Used), Failure> {
    let record = Limits::default().record_target_bytes;
    let objects = (record / plan.size).max(1);
    let records = plan.objects.div_ceil(objects as u64);
    let (store, url) = database(plan)?;
    let meter = Meter::begin(Vec::new());
    let took = match store {
        "cassandra" => {
            let record = load::payload(objects * plan.size);
            let options = CassandraOptions {
                url: url.to_owned(),
                password: cassandra_password(),
                tls: None,
                create_tables: true,
                patience: Duration::ZERO,
            };
            cassandra_bare(&options, record, records).await
        }
        _ => postgres_bare(url, &load::payload(plan.size), objects, records).await,
    };
    let elapsed = took.map_err(|error| Failure::local("STORE_NOT_READY", error.to_string()))?;
    // Making and dropping tables is not measured.
    Ok((records * objects as u64, Used { elapsed, ..meter.used() }))
}

/// Which database the plan's own nodes use, and where it is.
fn database(plan: &Plan) -> Result<(&str, &str), Failure> {
    let none = || {
        Failure::usage(
            "driver measures a database: name it by --store postgres or --store cassandra, and \
             --set store.url=…",
        )
    };
    let Where::Own { store, settings, .. } = &plan.at else { return Err(none()) };
    let url = settings.iter().rev().find_map(|setting| setting.strip_prefix("store.url="));
    match (store.as_str(), url) {
        ("postgres" | "cassandra", Some(url)) => Ok((store, url)),
        _ => Err(none()),
    }
}
