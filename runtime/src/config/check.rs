//! What no single key can say: values that contradict each other, and listeners that other machines
//! can reach.

use std::fmt::Display;

use super::error::ConfigError;
use super::layers::Loaded;
use super::sections::{Store, StoreKind};
use super::units::Period;
use crate::store::CassandraAddress;

/// Adds an error for everything that does not hold together.
pub(super) fn check(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    check_relations(loaded, errors);
    check_listeners(loaded, errors);
    check_store(loaded, errors);
}

fn check_relations(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    let limits = &loaded.config.limits;
    let mut at_most = |key, value, other, other_value| {
        relate(loaded, errors, "at most", (key, value), (other, other_value), |a, b| a <= b);
    };
    let leases = (limits.lease_min, limits.lease_default, limits.lease_max);
    at_most("limits.lease_min", leases.0, "limits.lease_default", leases.1);
    at_most("limits.lease_default", leases.1, "limits.lease_max", leases.2);
    at_most("limits.backoff_first", limits.backoff_first, "limits.backoff_max", limits.backoff_max);
    let (beat, dead) = (limits.heartbeat, limits.dead_after);
    let thrice = |beat: &Period, dead: &Period| beat.0 * 3 <= dead.0;
    let relation = "at most a third of";
    relate(
        loaded,
        errors,
        relation,
        ("limits.heartbeat", beat),
        ("limits.dead_after", dead),
        thrice,
    );
    let fence = ("limits.self_fence_after", limits.self_fence_after);
    relate(loaded, errors, "below", fence, ("limits.dead_after", dead), |a, b| a < b);
    let credit = ("limits.credit_default", limits.credit_default);
    let credit_max = ("limits.credit_max", limits.credit_max);
    relate(loaded, errors, "at most", credit, credit_max, |a, b| a <= b);
    let payload = ("limits.payload", limits.payload);
    let transaction = ("limits.transaction_bytes", limits.transaction_bytes);
    relate(loaded, errors, "at most", payload, transaction, |a, b| a <= b);
}

fn relate<T: Display>(
    loaded: &Loaded,
    errors: &mut Vec<ConfigError>,
    relation: &'static str,
    (key, value): (&'static str, T),
    (other, other_value): (&'static str, T),
    holds: impl Fn(&T, &T) -> bool,
) {
    if !holds(&value, &other_value) {
        errors.push(ConfigError::Contradiction {
            key,
            given: value.to_string(),
            origin: loaded.origin(key),
            relation,
            other,
            other_value: other_value.to_string(),
            other_origin: loaded.origin(other),
        });
    }
}

fn check_listeners(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    let listen = &loaded.config.listen;
    let listeners = [
        ("listen.clients", &listen.clients),
        ("listen.nodes", &listen.nodes),
        ("listen.admin", &listen.admin),
    ];
    for (key, address) in listeners {
        if !listen.insecure && !address.is_loopback() {
            let origin = loaded.origin(key);
            errors.push(ConfigError::NotLoopback { key, given: address.to_string(), origin });
        }
    }
}

fn check_store(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    let store = &loaded.config.store;
    match store.kind {
        StoreKind::Cassandra | StoreKind::Postgres if store.url.is_none() => {
            let origin = loaded.origin("store.kind");
            errors.push(ConfigError::Missing { key: "store.url", because: "store.kind", origin });
        }
        StoreKind::Embedded if store.url.is_some() => {
            errors.push(unfitting(loaded, "unset beside", "embedded"));
        }
        StoreKind::Cassandra if !meant_for_cassandra(store) => {
            errors.push(unfitting(loaded, "an address for", "cassandra"));
        }
        StoreKind::Postgres if meant_for_cassandra(store) => {
            errors.push(unfitting(loaded, "an address for", "postgres"));
        }
        StoreKind::Embedded | StoreKind::Cassandra | StoreKind::Postgres => {}
    }
    check_tls(loaded, errors);
}

/// The files of TLS belong together, and to a database.
fn check_tls(loaded: &Loaded, errors: &mut Vec<ConfigError>) {
    let Store { kind, tls_ca, tls_cert, tls_key, .. } = &loaded.config.store;
    if *kind == StoreKind::Embedded {
        let files =
            [("store.tls_ca", tls_ca), ("store.tls_cert", tls_cert), ("store.tls_key", tls_key)];
        let set = files.into_iter().find_map(|(key, file)| Some((key, file.as_ref()?)));
        errors.extend(set.map(|(key, file)| ConfigError::Contradiction {
            key,
            given: file.display().to_string(),
            origin: loaded.origin(key),
            relation: "unset beside",
            other: "store.kind",
            other_value: kind.as_str().to_owned(),
            other_origin: loaded.origin("store.kind"),
        }));
        return;
    }
    let missing = match (tls_ca, tls_cert, tls_key) {
        (_, Some(_), None) => Some(("store.tls_key", "store.tls_cert")),
        (_, None, Some(_)) => Some(("store.tls_cert", "store.tls_key")),
        (None, Some(_), Some(_)) => Some(("store.tls_ca", "store.tls_cert")),
        _ => None,
    };
    errors.extend(missing.map(|(key, because)| {
        let origin = loaded.origin(because);
        ConfigError::Missing { key, because, origin }
    }));
}

fn meant_for_cassandra(store: &Store) -> bool {
    store.url.as_deref().is_some_and(CassandraAddress::is_meant)
}

/// An address of the database that does not fit its kind.
fn unfitting(loaded: &Loaded, relation: &'static str, kind: &str) -> ConfigError {
    ConfigError::Contradiction {
        key: "store.url",
        given: loaded.config.store.url.clone().unwrap_or_default(),
        origin: loaded.origin("store.url"),
        relation,
        other: "store.kind",
        other_value: kind.to_owned(),
        other_origin: loaded.origin("store.kind"),
    }
}
