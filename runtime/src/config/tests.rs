//! Layers, errors and output of the configuration, each as a table of cases.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use tempfile::NamedTempFile;

use super::keys::{Key, Kind};
use super::*;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn set(assignments: &[&str]) -> Sources {
    Sources { set: assignments.iter().map(|s| (*s).to_owned()).collect(), ..Sources::default() }
}

fn errors_of(sources: &Sources) -> Vec<ConfigError> {
    sources.load().expect_err("the configuration is wrong").0
}

#[test]
fn nothing_is_a_lonely_node_with_the_promised_defaults() {
    let config = Sources::default().load().expect("loads").config;
    assert_eq!(config, Config::default());
    assert_eq!(config.listen.clients.to_string(), "127.0.0.1:50051");
    assert_eq!(config.listen.nodes.to_string(), "127.0.0.1:40051");
    assert_eq!(config.listen.admin.to_string(), "127.0.0.1:8080");
    assert_eq!(config.data_dir, PathBuf::from("./dpc-data"));
    assert_eq!(config.limits.lease_default, Period::secs(30));
    assert_eq!(config.limits.window_bytes, Size::mib(64));
    assert_eq!(config.history.time, Period::hours(24));
    assert_eq!(config.retention.parked, None);
    assert!(config.peer.is_empty());
}

#[test]
fn each_layer_wins_over_the_ones_below() {
    let toml =
        file("[limits]\nmax_hops = 1\nheaders = 1\nidempotency_ids = 1\nlease_max = \"2h\"\n");
    let mut sources = Sources {
        file: Some(toml.path().to_owned()),
        environment: environment(&[
            ("DPC__LIMITS__HEADERS", "2"),
            ("DPC__LIMITS__IDEMPOTENCY_IDS", "2"),
            ("DPC__NODE_NAME", "env"),
            ("DPC_NODE", "not configuration"),
        ]),
        ..set(&["limits.idempotency_ids=3", "node_name=set"])
    };
    sources.flags =
        vec![FlagValue { flag: "--node-name", key: "node_name", value: "flag".to_owned() }];
    let loaded = sources.load().expect("loads");
    let limits = &loaded.config.limits;
    assert_eq!((limits.max_hops, limits.headers, limits.idempotency_ids), (1, 2, 3));
    assert_eq!(limits.lease_max, Period::hours(2));
    assert_eq!(loaded.config.node_name.as_ref().map(NodeName::as_str), Some("flag"));
    let origin = |key| loaded.origin(key).to_string();
    assert_eq!(origin("limits.max_hops"), format!("{}:2", toml.path().display()));
    assert_eq!(origin("limits.headers"), "environment DPC__LIMITS__HEADERS");
    assert_eq!(origin("limits.idempotency_ids"), "--set");
    assert_eq!(origin("node_name"), "--node-name");
    assert_eq!(origin("limits.lease_min"), "default");
}

#[test]
fn a_list_replaces_the_lower_layers_list() {
    let toml = file("[[peer]]\naddr = \"10.0.0.1:1\"\n[[peer]]\naddr = \"10.0.0.2:2\"\n");
    let mut sources = Sources { file: Some(toml.path().to_owned()), ..Sources::default() };
    let peers = |sources: &Sources| {
        let peers = sources.load().expect("loads").config.peer;
        peers.iter().map(|p| p.addr.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(peers(&sources), ["10.0.0.1:1", "10.0.0.2:2"]);
    sources.environment = environment(&[("DPC__PEER", "a:3, b:4")]);
    assert_eq!(peers(&sources), ["a:3", "b:4"]);
    sources.set = vec!["peer=".to_owned()];
    assert!(peers(&sources).is_empty());
}

#[test]
fn unknown_keys_name_the_nearest_one_and_their_origin() {
    let cases = [
        ("limits.lease_defualt = 1", "limits.lease_defualt", "limits.lease_default"),
        ("[limit]\nx = 1", "limit", "limits"),
        ("clients = \"a:1\"", "clients", "listen.clients"),
        ("[[peer]]\nadr = \"a:1\"", "peer.adr", "peer.addr"),
        ("[listen.clients.more]\nx = 1", "listen.clients", ""),
    ];
    for (text, key, nearest) in cases {
        let toml = file(text);
        let errors =
            errors_of(&Sources { file: Some(toml.path().to_owned()), ..Sources::default() });
        let shown = errors[0].to_string();
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert_eq!(errors[0].key(), Some(key), "{text}");
        assert!(shown.contains(nearest) && shown.contains(toml.path().to_str().expect("a path")));
        let unknown = matches!(errors[0], ConfigError::Unknown { .. });
        assert_eq!(unknown, !nearest.is_empty(), "{text}");
    }
    let sources = Sources {
        environment: environment(&[("DPC__LIMITS__MAX_HOPPS", "1"), ("DPC__node_name", "a")]),
        ..set(&["limits.max-hops=1"])
    };
    let shown: Vec<_> = errors_of(&sources).iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "unknown key DPC__LIMITS__MAX_HOPPS (environment DPC__LIMITS__MAX_HOPPS): the nearest \
             known one is DPC__LIMITS__MAX_HOPS",
            "unknown key DPC__node_name (environment DPC__node_name): the nearest known one is \
             DPC__NODE_NAME",
            "unknown key limits.max-hops (--set): the nearest known one is limits.max_hops",
        ]
    );
}

#[test]
fn the_files_of_tls_belong_together() {
    let databases = ["postgres", "cassandra"].map(|kind| {
        let scheme = if kind == "postgres" { "postgresql" } else { kind };
        [format!("store.kind={kind}"), format!("store.url={scheme}://db/dpc")]
    });
    for (set, missing) in [
        (&["store.tls_cert=a.pem"][..], "store.tls_key"),
        (&["store.tls_key=a.key"], "store.tls_cert"),
        (&["store.tls_cert=a.pem", "store.tls_key=a.key"], "store.tls_ca"),
    ] {
        for database in &databases {
            let files = set.iter().map(|&text| text.to_owned());
            let set = database.iter().cloned().chain(files).collect();
            let errors = Sources { set, ..Sources::default() }.load().expect_err("one is missing");
            assert_eq!(errors.0.len(), 1, "{errors:?}");
            assert_eq!(errors.0[0].key(), Some(missing), "{errors:?}");
        }
    }
}

#[test]
fn bad_values_name_key_value_and_what_is_accepted() {
    let cases = [
        (
            "limits.lease_default=30",
            "limits.lease_default: \"30\" is not accepted (--set); accepted: a duration",
        ),
        ("limits.payload=1MB", "limits.payload: \"1MB\" is not accepted (--set); accepted: a size"),
        (
            "limits.payload=5MiB",
            "limits.payload: \"5MiB\" is out of range (--set); the limit is 1B to 4MiB",
        ),
        (
            "limits.max_hops=0",
            "limits.max_hops: \"0\" is out of range (--set); the limit is 1 to 64",
        ),
        ("limits.max_hops=-1", "limits.max_hops: \"-1\" is out of range (--set)"),
        ("limits.max_hops=x", "accepted: a whole number from 1 to 64"),
        ("limits.backoff_jitter=2", "the limit is 0 to 1"),
        ("limits.backoff_jitter=NaN", "the limit is 0 to 1"),
        ("listen.clients=50051", "accepted: HOST:PORT"),
        ("listen.insecure=yes", "accepted: true or false"),
        ("node_name=a b", "accepted: 1 to 64 of"),
        ("data_dir=", "accepted: the path of a folder"),
        ("peer=a", "accepted: [[peer]] tables"),
        ("peer=a:0", "the limit is port 1 to 65535"),
        ("store.kind=sqlite", "accepted: \"embedded\" or \"cassandra\" or \"postgres\""),
        ("store.kind=cassandra", "store.url is not set, and store.kind needs it (--set)"),
        ("store.kind=postgres", "store.url is not set, and store.kind needs it (--set)"),
        ("store.url=postgresql://db/dpc", "must be unset beside store.kind, which is embedded"),
        ("store.url=cassandra://db/dpc", "must be unset beside store.kind, which is embedded"),
        ("store.url=cassandra://dpc:secret@db/dpc", "without a password: that comes from"),
        ("store.url=postgresql://dpc:secret@db/dpc", "without a password: that comes from"),
        ("store.tls_ca=a.pem", "must be unset beside store.kind, which is embedded"),
        ("log.level=loud", "accepted: off, error, warn"),
        ("log.format=xml", "accepted: \"text\" or \"json\""),
        ("limits", "--set limits: accepted: key=value"),
        (
            "limits.lease_min=2m",
            "limits.lease_min: 2m (--set) must be at most limits.lease_default, which is 30s (default)",
        ),
        (
            "limits.self_fence_after=10s",
            "limits.self_fence_after: 10s (--set) must be below limits.dead_after, which is 10s (default)",
        ),
        (
            "limits.heartbeat=4s",
            "limits.heartbeat: 4s (--set) must be at most a third of limits.dead_after, which is 10s (default)",
        ),
        (
            "listen.nodes=0.0.0.0:40051",
            "listen.nodes: 0.0.0.0:40051 can be reached from other machines (--set) and TLS is not built yet",
        ),
    ];
    for (assignment, expected) in cases {
        let errors = errors_of(&set(&[assignment]));
        assert_eq!(errors.len(), 1, "{assignment}: {errors:?}");
        let shown = errors[0].to_string();
        assert!(shown.contains(expected), "{assignment}: {shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
    for good in ["log.level=info,runtime=debug,tonic::transport=off", "store.kind=embedded"] {
        assert!(set(&[good]).load().is_ok(), "{good}");
    }
    assert!(set(&["listen.nodes=0.0.0.0:1", "listen.insecure=true"]).load().is_ok());
}

#[test]
fn values_of_the_wrong_toml_type_are_refused() {
    for (text, given) in [
        ("limits.lease_default = 30", "30"),
        ("limits.max_hops = \"8\"", "\"8\""),
        ("limits.max_hops = 1.5", "1.5"),
        ("node_name = true", "true"),
        ("peer = \"a:1\"", "\"a:1\""),
        ("peer = [\"a:1\"]", "[\"a:1\"]"),
        ("listen = 1", "1"),
        ("data_dir = 1979-05-27", "1979-05-27"),
    ] {
        let toml = file(text);
        let errors =
            errors_of(&Sources { file: Some(toml.path().to_owned()), ..Sources::default() });
        assert!(matches!(errors[..], [ConfigError::Malformed { .. }]), "{text}: {errors:?}");
        assert_eq!(errors[0].given(), Some(given), "{text}");
    }
}

#[test]
fn files_that_are_missing_or_not_toml_are_named() {
    let missing = Sources { file: Some("/nonexistent/dpc.toml".into()), ..Sources::default() };
    assert!(
        errors_of(&missing)[0]
            .to_string()
            .starts_with("configuration file /nonexistent/dpc.toml: ")
    );
    let toml = file("node_name = \"a\"\n\n[limits\n");
    let errors = errors_of(&Sources { file: Some(toml.path().to_owned()), ..Sources::default() });
    assert!(matches!(errors[..], [ConfigError::Syntax { line: 3, .. }]), "{errors:?}");
    let twice = file("node_name = \"a\"\nnode_name = \"b\"\n");
    let errors = errors_of(&Sources { file: Some(twice.path().to_owned()), ..Sources::default() });
    assert!(matches!(errors[..], [ConfigError::Syntax { line: 2, .. }]), "{errors:?}");
}

#[test]
fn all_errors_come_together() {
    let errors = errors_of(&set(&["limits.max_hops=0", "nothing=1", "log.format=xml"]));
    let reasons: Vec<_> = errors.iter().map(ConfigError::reason).collect();
    assert_eq!(reasons, ["CONFIG_OUT_OF_RANGE", "CONFIG_UNKNOWN_KEY", "CONFIG_MALFORMED"]);
}

#[test]
fn what_is_shown_loads_again_as_the_same() {
    let sources = set(&[
        "node_name=a",
        "peer=b:1,c:2",
        "retention.parked=36h",
        "limits.backoff_jitter=0",
        "limits.lease_default=1m30s",
    ]);
    let loaded = sources.load().expect("loads");
    for with_origin in [false, true] {
        let text = loaded.to_toml(with_origin);
        let toml = file(&text);
        let again = Sources { file: Some(toml.path().to_owned()), ..Sources::default() };
        assert_eq!(again.load().expect("loads").config, loaded.config, "{text}");
    }
    let text = loaded.to_toml(true);
    assert!(
        text.lines().any(|l| l.starts_with("lease_default = \"1m30s\" ") && l.ends_with("# --set"))
    );
    assert!(
        Sources::default()
            .load()
            .expect("loads")
            .to_toml(true)
            .contains("# node_name is not set\n")
    );
}

#[test]
fn shown_keys_are_numbers_where_people_write_units() {
    let loaded = set(&["peer=b:1", "limits.offer_timeout=250ms"]).load().expect("loads");
    let lines: Vec<_> = loaded
        .shown(true)
        .iter()
        .map(|key| serde_json::to_string(key).expect("serialises"))
        .collect();
    for expected in [
        r#"{"key":"limits.lease_default","value":30,"origin":"default"}"#,
        r#"{"key":"limits.offer_timeout","value":0.25,"origin":"--set"}"#,
        r#"{"key":"limits.payload","value":1048576,"origin":"default"}"#,
        r#"{"key":"limits.backoff_jitter","value":0.15,"origin":"default"}"#,
        r#"{"key":"peer","value":["b:1"],"origin":"--set"}"#,
        r#"{"key":"node_name","value":null,"origin":"default"}"#,
        r#"{"key":"store.kind","value":"embedded","origin":"default"}"#,
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} in {lines:#?}");
    }
}

/// Another value that the key accepts, however it relates to other keys.
fn another(key: &Key, value: &toml::Value) -> toml::Value {
    let candidates = match key.kind {
        Kind::Count(min, max) => vec![min.to_string(), max.to_string()],
        Kind::Fraction(min, max) => vec![min.to_string(), max.to_string()],
        Kind::Period(min, max) => vec![min.to_string(), max.to_string()],
        Kind::Size(min, max) => vec![min.to_string(), max.to_string()],
        other => panic!("{}: no other value is known of {other:?}", key.name),
    };
    let read = candidates.iter().map(|text| key.kind.read_text(text).expect("a bound is accepted"));
    read.into_iter().find(|other| other != value).expect("a key with one value is no key")
}

#[test]
fn every_limit_reaches_exactly_one_bound_of_the_node() {
    let built = |config: &Config| {
        let lane = dpc_core::ids::LaneId([1; 16]);
        let setup = crate::embedded::setup(config, lane).expect("a valid configuration");
        let (reserve, recorder) = (setup.disk_reserve, setup.recorder);
        let pace = crate::embedded::pace(config);
        let (limits, bounds) = (setup.limits, setup.bounds);
        let all = format!("{limits:#?}\n{bounds:#?}\n{pace:#?}\n{reserve}\n{recorder:?}");
        all.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let node_name = Some("a".parse().expect("a name"));
    let config = Config { node_name, ..Config::default() };
    let before = built(&config);
    let mut reached = std::collections::BTreeMap::new();
    for key in keys::keys().filter(|key| key.name.starts_with("limits.")) {
        let mut table = keys::table_of(&config);
        let name = key.name.trim_start_matches("limits.");
        let value = &mut table["limits"][name];
        *value = another(key, value);
        let after = built(&table.try_into().expect("a configuration"));
        // The values of spans stand in lines of their own, so a changed line names its place.
        let changed: Vec<_> =
            (0..before.len()).filter(|&line| before[line] != after[line]).collect();
        assert_eq!((before.len(), changed.len()), (after.len(), 1), "{}: {changed:?}", key.name);
        if let Some(other) = reached.insert(changed[0], key.name) {
            panic!("{other} and {} reach the same bound", key.name);
        }
    }
    assert!(reached.len() > 35, "{}", reached.len());
}
