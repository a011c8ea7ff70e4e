//! Every section of the configuration: one line per key holds its name, type, default and what is
//! accepted, so that reading, checking and showing cannot drift apart.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::keys::{Key, Kind};
use super::units::{Address, NodeName, Period, Size};
use crate::store::TlsFiles;

/// Defines a section: its struct, its defaults and the table of its keys.
macro_rules! section {
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$field_doc:meta])* $key:literal $field:ident: $type:ty = $default:expr, $kind:expr;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            /// The keys of this section, in the order in which they are shown.
            pub(super) const KEYS: &[Key] = &[$(Key { name: $key, kind: $kind },)*];
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

section! {
    /// The addresses a node listens on.
    Listen {
        /// Where clients and operators connect.
        "listen.clients" clients: Address = Address::loopback(50051), Kind::Address;
        /// Where other nodes connect.
        "listen.nodes" nodes: Address = Address::loopback(40051), Kind::Address;
        /// Where metrics and health are read over HTTP.
        "listen.admin" admin: Address = Address::loopback(8080), Kind::Address;
        /// Where other nodes reach the node port, if not at `listen.nodes`: nodes that share a store
        /// find each other by it.
        #[serde(skip_serializing_if = "Option::is_none")]
        "listen.advertise" advertise: Option<Address> = None, Kind::Address;
        /// Listen beyond loopback without TLS.
        "listen.insecure" insecure: bool = false, Kind::Flag;
    }
}

section! {
    /// The store that holds the lane.
    Store {
        /// Which store.
        "store.kind" kind: StoreKind = StoreKind::Embedded,
            Kind::Choice(&["embedded", "cassandra", "postgres"]);
        /// The address of the database; its password comes from PGPASSWORD or CASSANDRA_PASSWORD.
        #[serde(skip_serializing_if = "Option::is_none")]
        "store.url" url: Option<String> = None, Kind::Url;
        /// Certificates of the authorities, in PEM, of which the database has to have one. Without
        /// it there is no TLS.
        #[serde(skip_serializing_if = "Option::is_none")]
        "store.tls_ca" tls_ca: Option<PathBuf> = None, Kind::Path;
        /// The certificate that the node shows to the database, in PEM.
        #[serde(skip_serializing_if = "Option::is_none")]
        "store.tls_cert" tls_cert: Option<PathBuf> = None, Kind::Path;
        /// The private key of that certificate, in PEM.
        #[serde(skip_serializing_if = "Option::is_none")]
        "store.tls_key" tls_key: Option<PathBuf> = None, Kind::Path;
        /// Make dpc's tables in the database if they are not there.
        "store.create_tables" create_tables: bool = true, Kind::Flag;
        /// How long an outage of the database may last before the node gives up.
        "store.patience" patience: Period = Period::secs(60),
            Kind::Period(Period::secs(1), Period::hours(24));
    }
}

impl Store {
    /// The files of TLS to the database, where it is asked for.
    pub(crate) fn tls(&self) -> Option<TlsFiles> {
        let authorities = self.tls_ca.clone()?;
        Some(TlsFiles { authorities, own: self.tls_cert.clone().zip(self.tls_key.clone()) })
    }
}

section! {
    /// Every bound of a node.
    Limits {
        /// A lease whose subscription did not ask for another length.
        "limits.lease_default" lease_default: Period = Period::secs(30),
            Kind::Period(Period::millis(100), Period::hours(24));
        /// The shortest lease a client may ask for.
        "limits.lease_min" lease_min: Period = Period::secs(1),
            Kind::Period(Period::millis(100), Period::hours(24));
        /// The longest lease a client may ask for.
        "limits.lease_max" lease_max: Period = Period::hours(1),
            Kind::Period(Period::secs(1), Period::days(7));
        /// Failed deliveries before an object is parked.
        "limits.failed_deliveries" failed_deliveries: u32 = 20, Kind::Count(1, 1_000_000);
        /// Backoff after the first failed delivery; it doubles with each.
        "limits.backoff_first" backoff_first: Period = Period::secs(1),
            Kind::Period(Period::millis(1), Period::hours(24));
        /// The longest backoff.
        "limits.backoff_max" backoff_max: Period = Period::mins(5),
            Kind::Period(Period::millis(1), Period::days(7));
        /// The part of a backoff that is drawn at random.
        "limits.backoff_jitter" backoff_jitter: f64 = 0.15, Kind::Fraction(0.0, 1.0);
        /// Credit of a subscription that asks for none.
        "limits.credit_default" credit_default: u32 = 16, Kind::Count(1, 65_536);
        /// The most credit of a subscription.
        "limits.credit_max" credit_max: u32 = 65_536, Kind::Count(1, 65_536);
        /// Damping of demand that flaps.
        "limits.redistribution_delay" redistribution_delay: Period = Period::secs(5),
            Kind::Period(Period::millis(10), Period::hours(1));
        /// How long an object waits for a busy local subscription before it may go to a peer.
        "limits.spill_after" spill_after: Period = Period::secs(1),
            Kind::Period(Period::ZERO, Period::hours(1));
        /// The most links an object crosses for one generation of demand.
        "limits.max_hops" max_hops: u32 = 8, Kind::Count(1, 64);
        /// How long the id of an ended object answers `already_exists`.
        "limits.idempotency" idempotency: Period = Period::hours(24),
            Kind::Period(Period::secs(1), Period::days(365));
        /// The most ids kept for that.
        "limits.idempotency_ids" idempotency_ids: u64 = 5_000_000, Kind::Count(1, 1_000_000_000);
        /// The largest payload.
        "limits.payload" payload: Size = Size::mib(1), Kind::Size(Size(1), Size::mib(4));
        /// The most headers of an object.
        "limits.headers" headers: u32 = 64, Kind::Count(0, 1_024);
        /// The most bytes of all headers of an object together.
        "limits.headers_bytes" headers_bytes: Size = Size::kib(16), Kind::Size(Size(0), Size::kib(256));
        /// The longest header key.
        "limits.header_key" header_key: Size = Size(128), Kind::Size(Size(1), Size::kib(1));
        /// How far ahead the delay or the expiry of an object may lie.
        "limits.horizon" horizon: Period = Period::days(365),
            Kind::Period(Period::secs(1), Period::days(3_650));
        /// The most items of a transaction, emits included.
        "limits.transaction_items" transaction_items: u32 = 1_000, Kind::Count(1, 10_000);
        /// The most bytes of a transaction.
        "limits.transaction_bytes" transaction_bytes: Size = Size::mib(4),
            Kind::Size(Size::kib(1), Size::mib(6));
        /// The most subscriptions of a node.
        "limits.subscriptions" subscriptions: u32 = 10_000, Kind::Count(1, 1_000_000);
        /// The most sessions of a node: open subscription streams and unary takes.
        "limits.sessions" sessions: u32 = 4_096, Kind::Count(1, 65_536);
        /// The most unsettled deliveries of a node.
        "limits.leases" leases: u32 = 1_000_000, Kind::Count(1, 10_000_000);
        /// The most open connections of a node.
        "limits.connections" connections: u32 = 4_096, Kind::Count(1, 65_536);
        /// The most types a node counts apart.
        "limits.types" types: u32 = 100_000, Kind::Count(1, 10_000_000);
        /// Free disk below which pushes, emits and advances are refused.
        "limits.disk_reserve" disk_reserve: Size = Size::mib(256), Kind::Size(Size(0), Size(1 << 44));
        /// Disk for the flight recorder: the last inputs of the node, without what clients carry;
        /// 0 switches it off.
        "limits.recorder_bytes" recorder_bytes: Size = Size(0), Kind::Size(Size(0), Size(1 << 40));
        /// How long an offer to a peer waits for its answer.
        "limits.offer_timeout" offer_timeout: Period = Period::secs(2),
            Kind::Period(Period::millis(10), Period::mins(10));
        /// How long an answer about an object is looked for at other nodes.
        "limits.follow_timeout" follow_timeout: Period = Period::secs(2),
            Kind::Period(Period::millis(10), Period::mins(1));
        /// How long a node that stops gives leases and handoffs to end.
        "limits.drain" drain: Period = Period::secs(30), Kind::Period(Period::ZERO, Period::hours(1));
        /// How often an idle connection is asked for a sign of life.
        "limits.keepalive" keepalive: Period = Period::secs(20),
            Kind::Period(Period::millis(100), Period::hours(1));
        /// How long that sign of life may take.
        "limits.keepalive_timeout" keepalive_timeout: Period = Period::secs(10),
            Kind::Period(Period::millis(100), Period::hours(1));
        /// How often a node on a shared store beats and looks at the others.
        "limits.heartbeat" heartbeat: Period = Period::secs(1),
            Kind::Period(Period::millis(50), Period::mins(10));
        /// Silence after which a node on a shared store is declared dead.
        "limits.dead_after" dead_after: Period = Period::secs(10),
            Kind::Period(Period::millis(200), Period::hours(1));
        /// Without proof of ownership for so long a node on a shared store delivers nothing.
        "limits.self_fence_after" self_fence_after: Period = Period::secs(8),
            Kind::Period(Period::millis(100), Period::hours(1));
        /// The most lanes of dead nodes that a node runs at once; 0: it takes over none.
        "limits.adopted_lanes" adopted_lanes: u32 = 4, Kind::Count(0, 1_024);
        /// Memory for ready objects; what does not fit waits on disk.
        "limits.window_bytes" window_bytes: Size = Size::mib(64),
            Kind::Size(Size::mib(8), Size(1 << 40));
        /// Memory for leased objects; beyond it deliveries wait for settles.
        "limits.leased_bytes" leased_bytes: Size = Size::mib(128),
            Kind::Size(Size::mib(8), Size(1 << 40));
        /// Memory for what waits to be written; beyond it pushes are refused.
        "limits.uncommitted_bytes" uncommitted_bytes: Size = Size::mib(64),
            Kind::Size(Size::mib(8), Size(1 << 40));
        /// The most objects that wait here on their way to one demand of peers.
        "limits.transit" transit: u32 = 8_192, Kind::Count(1, 65_536);
    }
}

section! {
    /// How long parked objects and copies are kept; what has ended is in the history.
    Retention {
        /// How long a parked object is kept; for ever if not set.
        #[serde(skip_serializing_if = "Option::is_none")]
        "retention.parked" parked: Option<Period> = None,
            Kind::Period(Period::secs(1), Period::days(3_650));
        /// How long the copy of an object that was handed off is kept after the receiver has it.
        "retention.shadow" shadow: Period = Period::hours(24),
            Kind::Period(Period::ZERO, Period::days(365));
        /// The most bytes of such copies.
        "retention.shadow_bytes" shadow_bytes: Size = Size::gib(1),
            Kind::Size(Size(0), Size(1 << 44));
    }
}

section! {
    /// The history of finished objects and decisions.
    History {
        /// The most bytes on disk.
        "history.bytes" bytes: Size = Size::gib(2), Kind::Size(Size::mib(1), Size(1 << 44));
        /// How long an entry is kept: ended objects and decisions answer queries for that long.
        "history.time" time: Period = Period::hours(24),
            Kind::Period(Period::secs(1), Period::days(3_650));
        /// How far it may lag behind the log before it keeps counts only.
        "history.lag" lag: Size = Size::gib(1), Kind::Size(Size::mib(1), Size(1 << 44));
    }
}

section! {
    /// What a node says about itself on stderr.
    Log {
        /// A level, or levels per module.
        "log.level" level: String = "info".to_owned(), Kind::Level;
        /// Lines for eyes or JSON.
        "log.format" format: LogFormat = LogFormat::Text, Kind::Choice(&["text", "json"]);
    }
}

/// Which store holds the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A store on the node's own disk.
    Embedded,
    /// Cassandra or ScyllaDB.
    Cassandra,
    /// Postgres.
    Postgres,
}

impl StoreKind {
    /// Its name, as the configuration has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Cassandra => "cassandra",
            Self::Postgres => "postgres",
        }
    }
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One JSON object per line.
    Json,
}

/// A neighbour that this node connects to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its node port.
    pub addr: Address,
}

/// The whole configuration of a node. The default is a lonely node on loopback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The node's name; if not set, made of the host's name and the lane's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<NodeName>,
    /// The folder of the node's data.
    pub data_dir: PathBuf,
    /// The addresses it listens on.
    pub listen: Listen,
    /// The neighbours it connects to.
    pub peer: Vec<Peer>,
    /// Its store.
    pub store: Store,
    /// Its bounds.
    pub limits: Limits,
    /// How long it keeps what has ended.
    pub retention: Retention,
    /// Its history.
    pub history: History,
    /// Its log.
    pub log: Log,
}

impl Config {
    /// The keys that stand before the first section.
    pub(super) const TOP_KEYS: &[Key] = &[
        Key { name: "node_name", kind: Kind::Name },
        Key { name: "data_dir", kind: Kind::Path },
        Key { name: "peer", kind: Kind::Peers },
    ];

    /// The configured name, or one made of the host's name and the lane's id.
    #[must_use]
    pub fn node_name_or_host(&self, host: &str, lane: &str) -> NodeName {
        self.node_name.clone().unwrap_or_else(|| NodeName::of_host(host, lane))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: None,
            data_dir: PathBuf::from("./dpc-data"),
            listen: Listen::default(),
            peer: Vec::new(),
            store: Store::default(),
            limits: Limits::default(),
            retention: Retention::default(),
            history: History::default(),
            log: Log::default(),
        }
    }
}
