//! Counters of the process, and the page that Prometheus reads.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dpc_core::effect::TypeView;
use dpc_core::names::TypeName;
use dpc_core::time::Span;

use crate::observe::ALARMS;
use crate::service::Hub;

/// Types with lines of their own; all others share the line of type `others`.
const TYPES_SHOWN_MAX: usize = 1_000;

/// Upper bounds of the commit latency's buckets, in microseconds.
const COMMIT_BUCKETS_US: [u64; 12] =
    [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 2_000_000];

/// A number that only grows.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the process has counted since its start. What core counts durably is asked of core.
#[derive(Default)]
pub(crate) struct Metrics {
    /// Leases settled.
    pub(crate) settled: Counter,
    /// Objects parked.
    pub(crate) parked: Counter,
    /// Records committed: one sync each.
    pub(crate) commits: Counter,
    /// Bytes of those.
    pub(crate) record_bytes: Counter,
    /// Inputs that core has handled.
    pub(crate) inputs: Counter,
    /// Connections that were refused because too many were open.
    pub(crate) connections_refused: Counter,
    commit_buckets: [Counter; COMMIT_BUCKETS_US.len()],
    commit_us: Counter,
    delivered: Mutex<HashMap<TypeName, u64>>,
}

impl Metrics {
    /// An object went to a subscriber.
    pub(crate) fn delivered(&self, ty: &TypeName) {
        let mut delivered = self.delivered.lock().expect("nobody panics while holding it");
        if let Some(count) = delivered.get_mut(ty) {
            *count += 1;
        } else if delivered.len() < TYPES_SHOWN_MAX {
            delivered.insert(ty.clone(), 1);
        } else {
            let others = TypeName::from_type_url("others").expect("a valid name");
            *delivered.entry(others).or_default() += 1;
        }
    }

    /// A record became durable.
    pub(crate) fn committed(&self, bytes: usize, took: Span) {
        self.commits.add(1);
        self.record_bytes.add(bytes as u64);
        self.commit_us.add(took.0);
        let bucket = COMMIT_BUCKETS_US.partition_point(|bound| *bound < took.0);
        if let Some(bucket) = self.commit_buckets.get(bucket) {
            bucket.add(1);
        }
    }
}

/// One page in the making.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a string takes everything");
        self.0.push('\n');
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }

    fn by_type(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        types: &[(String, TypeView)],
        value: impl Fn(&TypeView) -> u64,
    ) {
        self.head(name, kind, help);
        let mut others = 0;
        for (at, (label, view)) in types.iter().enumerate() {
            if at < TYPES_SHOWN_MAX {
                self.line(format_args!("{name}{{type=\"{label}\"}} {}", value(view)));
            } else {
                others += value(view);
            }
        }
        if types.len() > TYPES_SHOWN_MAX {
            self.line(format_args!("{name}{{type=\"others\"}} {others}"));
        }
    }
}

/// The page, from what the process counted and what core and the cores of adopted lanes answered.
pub(crate) fn page(
    hub: &Hub,
    types: Vec<TypeView>,
    subscriptions: usize,
    adopted: &[(Arc<Hub>, Vec<TypeView>)],
) -> String {
    let mut page = Page(String::with_capacity(8 << 10));
    let types: Vec<(String, TypeView)> =
        types.into_iter().map(|view| (view.ty.as_str().to_owned(), view)).collect();
    objects(&mut page, hub, &types);
    links(&mut page, hub);
    storage(&mut page, hub);
    adopted_lanes(&mut page, adopted);
    let metrics = &hub.metrics;
    let (sessions, pushes) = hub.streams();
    page.single("dpc_subscriptions", "gauge", "Subscriptions of clients.", subscriptions as u64);
    page.single("dpc_sessions", "gauge", "Open sessions.", u64::from(sessions));
    page.single("dpc_push_streams", "gauge", "Open push streams.", u64::from(pushes));
    page.single("dpc_inputs_total", "counter", "Inputs handled.", metrics.inputs.get());
    let refused = metrics.connections_refused.get();
    page.single("dpc_connections_refused_total", "counter", "Connections over the limit.", refused);
    page.head("dpc_alarm", "gauge", "Alarms that stand, by reason.");
    let raised = hub.alarms.counts(hub.clock.now().wall);
    for reason in ALARMS {
        let count = raised.get(reason).copied().unwrap_or(0);
        page.line(format_args!("dpc_alarm{{reason=\"{reason}\"}} {count}"));
    }
    page.head("dpc_node_info", "gauge", "Who the node is.");
    let (name, lane) = (&hub.identity.name, hub.identity.lane);
    let version = env!("CARGO_PKG_VERSION");
    page.line(format_args!(
        "dpc_node_info{{node=\"{name}\",lane=\"{lane}\",version=\"{version}\"}} 1"
    ));
    page.0
}

fn objects(page: &mut Page, hub: &Hub, types: &[(String, TypeView)]) {
    let counter = "counter";
    let pushed = "Objects pushed by clients, over the life of the lane.";
    page.by_type("dpc_objects_pushed_total", counter, pushed, types, |t| t.books.pushed);
    let emitted = "Objects emitted by settlements, over the life of the lane.";
    page.by_type("dpc_objects_emitted_total", counter, emitted, types, |t| t.books.emitted);
    let finalised = "Objects finalised, over the life of the lane.";
    page.by_type("dpc_objects_finalised_total", counter, finalised, types, |t| t.books.finalised);
    let moved = "Objects handed to peers, over the life of the lane.";
    page.by_type("dpc_objects_moved_total", counter, moved, types, |t| t.books.moved_out);
    let received = "Objects received from peers, over the life of the lane.";
    page.by_type("dpc_objects_received_total", counter, received, types, |t| t.books.moved_in);
    let discarded = "Objects ended without success, over the life of the lane.";
    page.by_type("dpc_objects_discarded_total", counter, discarded, types, |t| t.books.discarded);

    page.head("dpc_objects_delivered_total", counter, "Deliveries since the start, by type.");
    let delivered = hub.metrics.delivered.lock().expect("nobody panics while holding it").clone();
    for (ty, count) in BTreeMap::from_iter(delivered) {
        page.line(format_args!("dpc_objects_delivered_total{{type=\"{ty}\"}} {count}"));
    }
    let (settled, parked) = (hub.metrics.settled.get(), hub.metrics.parked.get());
    page.single("dpc_objects_settled_total", counter, "Leases settled since the start.", settled);
    page.single("dpc_objects_parked_total", counter, "Objects parked since the start.", parked);

    let gauge = "gauge";
    page.by_type("dpc_objects_ready", gauge, "Objects that wait.", types, |t| t.ready);
    page.by_type("dpc_objects_leased", gauge, "Objects at work.", types, |t| t.leased);
    page.by_type("dpc_objects_delayed", gauge, "Objects with a delay.", types, |t| t.delayed);
    page.by_type("dpc_objects_parked", gauge, "Objects out of the flow.", types, |t| t.parked);
    page.by_type("dpc_objects_in_transit", gauge, "Objects offered or held.", types, |t| {
        t.offered + t.held
    });
    page.by_type(
        "dpc_oldest_ready_seconds",
        gauge,
        "Age of the oldest ready object.",
        types,
        |t| t.oldest_age.map_or(0, |age| age.0 / 1_000_000),
    );
}

fn links(page: &mut Page, hub: &Hub) {
    let counts = hub.links.counts();
    let name = "dpc_link_messages_total";
    page.head(name, "counter", "Messages to and from peers, keepalive not counted.");
    for c in &counts {
        let peer = &c.peer;
        page.line(format_args!("{name}{{peer=\"{peer}\",direction=\"sent\"}} {}", c.messages_sent));
        let received = c.messages_received;
        page.line(format_args!("{name}{{peer=\"{peer}\",direction=\"received\"}} {received}"));
    }
    let name = "dpc_link_payload_bytes_total";
    page.head(name, "counter", "Bytes of payloads to and from peers.");
    for c in &counts {
        let peer = &c.peer;
        page.line(format_args!("{name}{{peer=\"{peer}\",direction=\"sent\"}} {}", c.payload_sent));
        let received = c.payload_received;
        page.line(format_args!("{name}{{peer=\"{peer}\",direction=\"received\"}} {received}"));
    }
    let up = hub.links.ready_links().len() as u64;
    page.single("dpc_links_up", "gauge", "Links whose handshake is done.", up);
}

fn storage(page: &mut Page, hub: &Hub) {
    let metrics = &hub.metrics;
    let name = "dpc_commit_seconds";
    page.head(name, "histogram", "Time from handing a record to the store to its answer.");
    let mut sum = 0;
    for (bound, bucket) in COMMIT_BUCKETS_US.iter().zip(&metrics.commit_buckets) {
        sum += bucket.get();
        let le = seconds(*bound);
        page.line(format_args!("{name}_bucket{{le=\"{le}\"}} {sum}"));
    }
    let count = metrics.commits.get();
    page.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
    page.line(format_args!("{name}_sum {}", seconds(metrics.commit_us.get())));
    page.line(format_args!("{name}_count {count}"));
    page.single("dpc_store_syncs_total", "counter", "Syncs of the store: one a record.", count);
    let bytes = metrics.record_bytes.get();
    page.single("dpc_record_bytes_total", "counter", "Bytes of committed records.", bytes);
    let (on, stored, dropped) = hub.recorder().map_or((0, 0, 0), |recorder| {
        let counts = &recorder.counts;
        let on = u64::from(counts.on.load(Ordering::Relaxed));
        (on, counts.stored.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed))
    });
    page.single("dpc_recorder_on", "gauge", "Whether the flight recorder records.", on);
    page.single("dpc_recorder_bytes", "gauge", "Bytes of the recording on the disk.", stored);
    let name = "dpc_recorder_dropped_bytes_total";
    page.single(name, "counter", "Bytes not recorded because the disk was too slow.", dropped);
}

/// One of the counts of a type.
type CountOf = fn(&TypeView) -> u64;

/// What is left in the lanes of nodes that are gone, and how it goes.
fn adopted_lanes(page: &mut Page, adopted: &[(Arc<Hub>, Vec<TypeView>)]) {
    let lanes = adopted.len() as u64;
    page.single("dpc_adopted_lanes", "gauge", "Lanes of dead nodes that this node empties.", lanes);
    let name = "dpc_adopted_objects";
    page.head(name, "gauge", "Objects that are left in an adopted lane.");
    for (hub, types) in adopted {
        let lane = hub.identity.lane;
        let states: [(&str, CountOf); 5] = [
            ("ready", |t| t.ready),
            ("leased", |t| t.leased),
            ("delayed", |t| t.delayed),
            ("parked", |t| t.parked),
            ("in_transit", |t| t.offered + t.held),
        ];
        for (state, count) in states {
            let count: u64 = types.iter().map(count).sum();
            page.line(format_args!("{name}{{lane=\"{lane}\",state=\"{state}\"}} {count}"));
        }
    }
    let name = "dpc_adopted_commits_total";
    page.head(name, "counter", "Records committed to an adopted lane since it was adopted.");
    for (hub, _) in adopted {
        let (lane, count) = (hub.identity.lane, hub.metrics.commits.get());
        page.line(format_args!("{name}{{lane=\"{lane}\"}} {count}"));
    }
}

/// Microseconds as seconds, without rounding.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_exact() {
        assert_eq!(seconds(100), "0.0001");
        assert_eq!(seconds(2_000_000), "2");
        assert_eq!(seconds(1_234_567), "1.234567");
    }

    #[test]
    fn a_commit_counts_in_the_bucket_that_holds_it() {
        let metrics = Metrics::default();
        metrics.committed(10, Span(100));
        metrics.committed(10, Span(101));
        metrics.committed(10, Span(9_999_999));
        assert_eq!(metrics.commit_buckets[0].get(), 1, "a bound belongs to its bucket");
        assert_eq!(metrics.commit_buckets[1].get(), 1);
        assert_eq!(metrics.commits.get(), 3, "beyond the last bound only the total counts it");
    }
}
