//! The session with the cluster, and what a fault means.
//!
//! The driver connects again by itself to every node that it has lost, so a session is kept whatever
//! happens to it: a new one would have to log in anew while the nodes that could let it in may be just
//! what is missing. Only while no node at all is connected another session is tried beside it, because
//! the driver's pauses grow to 10 s, and whichever is through first is used.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dpc_core::store::StoreError;
use scylla::client::PoolSize;
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::cluster::Node;
use scylla::cluster::metadata::Strategy;
use scylla::errors::{
    BrokenConnectionError, BrokenConnectionErrorKind, ConnectionError, ConnectionPoolError,
    ConnectionSetupRequestErrorKind, DbError, ExecutionError, FrameHeaderParseError, MetadataError,
    NewSessionError, PrepareError, RequestAttemptError,
};
use scylla::policies::load_balancing::{
    DefaultPolicy, LoadBalancingPolicy, NodeIdentifier, SingleTargetLoadBalancingPolicy,
};
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency, Statement};
use tokio::sync::Mutex;
use tokio::time::sleep;
use uuid::Uuid;

use super::super::Tables;
use super::super::tls::refusal;
use super::super::trouble::Trouble;
use super::Way;
use super::address::{Address, Quorum};
use super::head::COLUMNS;
use super::schema;

/// How long one request may take. It is above the servers' own bounds (2 s for a write, 1 s for a
/// contended condition): a client that gives up before them makes outcomes unknown for nothing.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(3);

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How soon a node that has stopped without closing its connections is noticed: after the interval and
/// the timeout. With the driver's own 30 s every lane would hang there in turn. A node that is merely
/// busy must answer within the timeout, because all that is under way is lost with the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is looked whether the driver has connected again.
const LOOK: Duration = Duration::from_millis(20);

/// The keyspace of users and what they may do.
const USERS: &str = "system_auth";

/// When a request that may be done twice is also sent to another node.
const HEDGE_AFTER: Duration = Duration::from_millis(250);

/// The cluster as it was reached, with what is asked of it.
pub(super) struct Link {
    pub(super) session: Session,
    /// What the quorums are.
    pub(super) serial: Consistency,
    /// The data centre whose nodes are used.
    pub(super) dc: String,
}

/// The statements that are prepared once a connection.
pub(super) struct Statements {
    /// One part of a record, written ahead.
    pub(super) write: PreparedStatement,
    /// Parts of records in one bucket, of each number the highest epoch first.
    pub(super) read: PreparedStatement,
    /// A bucket, dropped.
    pub(super) sweep: PreparedStatement,
    /// A head, with everything that any update has been promised.
    pub(super) head: PreparedStatement,
    /// All heads, possibly stale.
    pub(super) heads: PreparedStatement,
    /// The conditional updates of a head, and its making.
    pub(super) make: PreparedStatement,
    pub(super) claim: PreparedStatement,
    pub(super) publish: PreparedStatement,
    pub(super) renew: PreparedStatement,
    pub(super) truncate: PreparedStatement,
    pub(super) dead: PreparedStatement,
    pub(super) retire: PreparedStatement,
    /// Who lives.
    pub(super) beat: PreparedStatement,
    pub(super) beats: PreparedStatement,
    pub(super) history: HistoryStatements,
}

/// The statements about histories.
pub(super) struct HistoryStatements {
    /// A row of a part, and the part itself, with how many seconds they stay.
    pub(super) write: PreparedStatement,
    pub(super) close: PreparedStatement,
    /// The parts that ended on a day.
    pub(super) parts: PreparedStatement,
    /// The row with the highest key that is not above one.
    pub(super) find: PreparedStatement,
    /// A part and its rows, removed.
    pub(super) unname: PreparedStatement,
    pub(super) remove: PreparedStatement,
}

/// A connection that is ready for work.
pub(super) struct Open {
    pub(super) link: Link,
    pub(super) statements: Statements,
    keyspace: String,
}

/// A way to the cluster, shared by all who use it.
#[derive(Clone)]
pub(super) struct Connection {
    way: Rc<Way>,
    create_tables: bool,
    open: Rc<Mutex<Option<Rc<Open>>>>,
}

impl Connection {
    pub(super) fn new(way: Way, create_tables: bool) -> Self {
        Self { way: Rc::new(way), create_tables, open: Rc::default() }
    }

    /// Checks the tables of the cluster, on a connection that is not kept.
    pub(super) async fn tables(&self) -> Result<Tables, Trouble> {
        let link = connect(&self.way).await?;
        link.warn_of_risks(&self.way.address).await;
        schema::ensure(&link, &self.way.address, self.create_tables).await
    }

    /// The session, made now if there is none.
    pub(super) async fn open(&self) -> Result<Rc<Open>, Trouble> {
        let mut open = self.open.lock().await;
        let Some(there) = open.as_ref().map(Rc::clone) else {
            return Ok(Rc::clone(open.insert(self.make().await?)));
        };
        tokio::select! {
            biased;
            () = there.connected() => Ok(there),
            made = self.make() => Ok(Rc::clone(open.insert(made?))),
        }
    }

    /// A new session.
    async fn make(&self) -> Result<Rc<Open>, Trouble> {
        let link = connect(&self.way).await?;
        schema::ensure(&link, &self.way.address, self.create_tables).await?;
        link.warn_of_risks(&self.way.address).await;
        let keyspace = self.way.address.keyspace.clone();
        let statements = prepare(&link, &keyspace).await?;
        Ok(Rc::new(Open { link, statements, keyspace }))
    }

    /// Asks something that may be asked twice.
    pub(super) async fn ask(
        &self,
        statement: impl Fn(&Statements) -> &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryResult, Trouble> {
        let open = self.open().await?;
        let asked = open.link.session.execute_unpaged(statement(&open.statements), values).await;
        asked.map_err(|error| trouble(&error))
    }
}

impl Open {
    /// Waits until a node of the cluster is connected.
    async fn connected(&self) {
        let session = &self.link.session;
        while !session.get_cluster_state().get_nodes_info().iter().any(|it| it.is_connected()) {
            sleep(LOOK).await;
        }
    }

    /// The nodes that coordinate updates of a lane's head, the same ones in the same order for
    /// every process: its replicas, or all nodes if they cannot be told.
    pub(super) fn coordinators(&self, lane: Uuid) -> Vec<Arc<Node>> {
        let state = self.link.session.get_cluster_state();
        let token = self.statements.head.calculate_token(&(lane,)).ok().flatten();
        let replicas = token
            .map(|token| state.get_token_endpoints(&self.keyspace, "lane_head", token))
            .unwrap_or_default();
        let near = |node: &Arc<Node>| node.datacenter.as_deref() == Some(self.link.dc.as_str());
        let mut found: Vec<_> = replicas.into_iter().map(|(node, _)| node).filter(near).collect();
        if found.is_empty() {
            found = state.get_nodes_info().iter().filter(|node| near(node)).cloned().collect();
        }
        found
    }
}

/// The same statement, for one coordinator only.
pub(super) fn at(statement: &PreparedStatement, node: Arc<Node>) -> PreparedStatement {
    let mut pinned = statement.clone();
    let target = SingleTargetLoadBalancingPolicy::new(NodeIdentifier::Node(node), None);
    pinned.set_load_balancing_policy(Some(target));
    pinned
}

impl Link {
    /// The names of the tables that a keyspace has.
    pub(super) fn tables(&self, keyspace: &str) -> BTreeSet<String> {
        let state = self.session.get_cluster_state();
        let keyspace = state.get_keyspace(keyspace);
        keyspace.map(|keyspace| keyspace.tables.keys().cloned().collect()).unwrap_or_default()
    }

    /// By whose quorum lanes are fenced, in words that are compared.
    pub(super) fn fence(&self, address: &Address) -> String {
        match address.quorum {
            Quorum::Local => format!("a quorum of data centre {}", self.dc),
            Quorum::Everywhere => "a quorum of all replicas".to_owned(),
        }
    }

    /// Asks by a statement that is needed once.
    pub(super) async fn ask(
        &self,
        text: &str,
        values: impl SerializeRow,
    ) -> Result<QueryResult, Trouble> {
        let mut statement = Statement::new(text);
        if text.starts_with("SELECT") {
            statement.set_consistency(self.serial);
        }
        let prepared = self.session.prepare(statement).await.map_err(|error| unprepared(&error))?;
        self.session.execute_unpaged(&prepared, values).await.map_err(|error| trouble(&error))
    }

    /// How many copies a keyspace has in the data centre, if that can be told.
    fn copies(&self, keyspace: &str) -> Option<usize> {
        match &self.session.get_cluster_state().get_keyspace(keyspace)?.strategy {
            Strategy::NetworkTopologyStrategy { datacenter_repfactors } => {
                datacenter_repfactors.get(&self.dc).copied()
            }
            Strategy::SimpleStrategy { replication_factor } => Some(*replication_factor),
            _ => None,
        }
    }

    /// Says what the cluster's settings mean for an OK, where they are weaker than one may think.
    pub(super) async fn warn_of_risks(&self, address: &Address) {
        if let Some(copies) = self.copies(&address.keyspace).filter(|copies| *copies < 3) {
            tracing::warn!(
                "keyspace {} has {copies} copies in {}: an OK does not outlive the loss of one node",
                address.keyspace,
                self.dc
            );
        }
        let nodes = self.session.get_cluster_state().get_nodes_info().len();
        if let (Some(_), Some(copies)) = (&address.user, self.copies(USERS))
            && copies < nodes.min(3)
        {
            tracing::warn!(
                "keyspace {USERS} has {copies} copies in {}: when the node is away that has the one of \
                 this user, no node of the cluster lets dpc in; docs/stores.md says what to set",
                self.dc
            );
        }
        let ask = "SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'";
        // ScyllaDB does not have it, and not everybody may read it.
        let Ok(answer) = self.session.query_unpaged(ask, ()).await else { return };
        let sync = answer.into_rows_result().ok().and_then(|rows| {
            let row = rows.maybe_first_row::<(Option<String>,)>().ok().flatten();
            row.and_then(|(value,)| value)
        });
        if sync.as_deref() == Some("periodic") {
            tracing::warn!(
                "commitlog_sync is periodic: an OK may be lost if a quorum of nodes lose power \
                 together; docs/stores.md says what to set"
            );
        }
    }
}

/// Connects to the cluster, and finds out which data centre is meant.
pub(super) async fn connect(way: &Way) -> Result<Link, Trouble> {
    let Way { address, password, tls } = way;
    let (quorum, serial, only) = match address.quorum {
        Quorum::Local => {
            (Consistency::LocalQuorum, Consistency::LocalSerial, SerialConsistency::LocalSerial)
        }
        Quorum::Everywhere => (Consistency::Quorum, Consistency::Serial, SerialConsistency::Serial),
    };
    let profile = profile(address.dc.as_deref(), quorum, only);
    let mut builder = SessionBuilder::new()
        .known_nodes(&address.contacts)
        .default_execution_profile_handle(profile)
        .connection_timeout(CONNECT_MAX)
        .keepalive_interval(KEEPALIVE_INTERVAL)
        .keepalive_timeout(KEEPALIVE_TIMEOUT)
        .pool_size(PoolSize::PerHost(std::num::NonZeroUsize::MIN))
        .keyspaces_to_fetch([&*address.keyspace, USERS])
        .schema_agreement_timeout(ANSWER_MAX * 3)
        .tls_context(tls.clone());
    if let Some(user) = &address.user {
        builder = builder.user(user, password.as_deref().unwrap_or_default());
    }
    let session = builder.build().await.map_err(|error| no_session(address, &error))?;
    let dc = data_centre(&session, address)?;
    Ok(Link { session, serial, dc })
}

/// Why there is no session, and whether waiting does not help.
fn no_session(address: &Address, error: &NewSessionError) -> Trouble {
    let contacts = address.contacts.join(", ");
    let last = last_connection(error);
    if let Some(refused) = last.and_then(tls_refusal) {
        return Trouble::Refused(StoreError::Refused(format!(
            "TLS to {contacts} failed: {refused}; store.tls_ca names whose certificates are trusted, and \
             a certificate is for the IP address of its node"
        )));
    }
    let text = format!("no connection to {contacts}: {error}");
    if last.is_some_and(is_login_refused) {
        Trouble::Refused(StoreError::Refused(text))
    } else {
        Trouble::NotSent(text)
    }
}

/// What became of the connection that was tried last.
fn last_connection(error: &NewSessionError) -> Option<&ConnectionError> {
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(pool)) = error else {
        return None;
    };
    let ConnectionPoolError::Broken { last_connection_error: last } = pool else { return None };
    Some(last)
}

/// What TLS found wrong. A node that does not like what it was shown says so only after it has been
/// taken for connected.
fn tls_refusal(error: &ConnectionError) -> Option<&rustls::Error> {
    match error {
        ConnectionError::IoError(error) => refusal(&**error),
        ConnectionError::BrokenConnection(broken) => broken_by_tls(broken),
        ConnectionError::ConnectionSetupRequestError(setup) => match setup.get_error() {
            ConnectionSetupRequestErrorKind::BrokenConnection(broken) => broken_by_tls(broken),
            _ => None,
        },
        _ => None,
    }
}

fn broken_by_tls(error: &BrokenConnectionError) -> Option<&rustls::Error> {
    match error.downcast_ref()? {
        BrokenConnectionErrorKind::FrameHeaderParseError(FrameHeaderParseError::HeaderIoError(
            error,
        ))
        | BrokenConnectionErrorKind::WriteError(error) => refusal(error),
        _ => None,
    }
}

/// Whether the cluster is there and does not want this user.
fn is_login_refused(error: &ConnectionError) -> bool {
    let ConnectionError::ConnectionSetupRequestError(setup) = error else { return false };
    match setup.get_error() {
        ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, why) => {
            !is_undecided(why)
        }
        ConnectionSetupRequestErrorKind::MissingAuthentication => true,
        _ => false,
    }
}

/// Whether a node that lets nobody in, or forbids something, just could not read who may do what:
/// Cassandra answers with the same codes then, and passes on why.
fn is_undecided(why: &str) -> bool {
    why.starts_with("Unable to perform auth")
}

fn profile(
    dc: Option<&str>,
    quorum: Consistency,
    serial: SerialConsistency,
) -> ExecutionProfileHandle {
    let near: Arc<dyn LoadBalancingPolicy> = match dc {
        // A quorum of another data centre would not be the one that fences.
        Some(dc) => DefaultPolicy::builder()
            .prefer_datacenter(dc.to_owned())
            .permit_dc_failover(false)
            .build(),
        None => DefaultPolicy::builder().build(),
    };
    let hedge =
        SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: HEDGE_AFTER };
    ExecutionProfile::builder()
        .consistency(quorum)
        .serial_consistency(Some(serial))
        .request_timeout(Some(ANSWER_MAX))
        .load_balancing_policy(near)
        // The driver's own would repeat conditional updates, too, and hide that it did.
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        // Only for what is marked as idempotent.
        .speculative_execution_policy(Some(Arc::new(hedge)))
        .build()
        .into_handle()
}

fn data_centre(session: &Session, address: &Address) -> Result<String, Trouble> {
    let state = session.get_cluster_state();
    let there: BTreeSet<String> =
        state.get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect();
    let names = || there.iter().cloned().collect::<Vec<_>>().join(", ");
    let refused = |why: String| Err(Trouble::Refused(StoreError::Refused(why)));
    match (&address.dc, there.len()) {
        (Some(dc), _) if there.contains(dc) => Ok(dc.clone()),
        (Some(dc), _) => {
            refused(format!("the cluster has no data centre {dc}; it has {}", names()))
        }
        (None, 1) => Ok(names()),
        (None, 0) => Err(Trouble::NotSent("the cluster does not name its data centre".into())),
        (None, _) => refused(format!(
            "the cluster has the data centres {}: name the one to use, with ?dc=NAME in store.url",
            names()
        )),
    }
}

async fn prepare(link: &Link, keyspace: &str) -> Result<Statements, Trouble> {
    let prepare = async |text: String, repeatable: bool| {
        let mut statement = Statement::new(text);
        statement.set_is_idempotent(repeatable);
        link.session.prepare(statement).await.map_err(|error| unprepared(&error))
    };
    // Of these a second copy does no harm.
    let plain =
        async |text: &str| prepare(text.replace("dpc.", &format!("{keyspace}.")), true).await;
    // Of these at most one copy has an effect, but only the owner sees to what follows from it.
    let update = async |set: &str, condition: &str| {
        let text = format!(
            "UPDATE {keyspace}.lane_head SET {set} WHERE lane = ? IF owner = ? AND epoch = ?{condition}"
        );
        prepare(text, false).await
    };
    let make = format!(
        "INSERT INTO {keyspace}.lane_head (lane, owner, node, address, hash, epoch, state, number, \
         began, first, swept, claimed) VALUES (?, ?, ?, ?, ?, 1, 'owned', 0, 0, 1, 0, \
         toTimestamp(now())) IF NOT EXISTS"
    );
    let claim = "owner = ?, node = ?, address = ?, epoch = ?, began = ?, state = 'owned', \
                 claimed = toTimestamp(now())";
    let (owned, last) = (" AND state = 'owned'", " AND number = ? AND state = 'owned'");
    let mut head = plain(&format!("SELECT {COLUMNS} FROM dpc.lane_head WHERE lane = ?")).await?;
    // Whoever reads the head completes first what was promised to it.
    head.set_consistency(link.serial);
    Ok(Statements {
        write: plain(
            "INSERT INTO dpc.lane_log (lane, bucket, number, epoch, part, parts, record) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .await?,
        read: plain(
            "SELECT number, epoch, part, parts, record FROM dpc.lane_log \
             WHERE lane = ? AND bucket = ? AND number >= ? AND number <= ?",
        )
        .await?,
        sweep: plain("DELETE FROM dpc.lane_log WHERE lane = ? AND bucket = ?").await?,
        head,
        heads: plain(&format!("SELECT {COLUMNS} FROM dpc.lane_head")).await?,
        make: prepare(make, false).await?,
        claim: update(claim, " AND number = ? AND state IN ('owned', 'dead')").await?,
        publish: update("number = ?, hash = ?", last).await?,
        renew: update("state = 'owned'", last).await?,
        truncate: update("first = ?, swept = ?", owned).await?,
        dead: update("state = 'dead'", owned).await?,
        retire: update("state = 'retired'", last).await?,
        beat: plain(
            "INSERT INTO dpc.beat (cluster, owner, number, written) \
             VALUES (0, ?, ?, toTimestamp(now()))",
        )
        .await?,
        beats: plain("SELECT owner, number FROM dpc.beat WHERE cluster = 0").await?,
        history: HistoryStatements {
            write: plain(
                "INSERT INTO dpc.history_row (lane, part, kind, key, body) VALUES (?, ?, ?, ?, ?) \
                 USING TTL ?",
            )
            .await?,
            close: plain(
                "INSERT INTO dpc.history_part (day, lane, part, first, next, whole, node, first_wall, \
                 last_wall, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TTL ?",
            )
            .await?,
            parts: plain(
                "SELECT lane, part, first, next, whole, node, first_wall, last_wall, bytes \
                 FROM dpc.history_part WHERE day = ?",
            )
            .await?,
            find: plain(
                "SELECT key, body FROM dpc.history_row \
                 WHERE lane = ? AND part = ? AND kind = ? AND key <= ? LIMIT 1",
            )
            .await?,
            unname: plain("DELETE FROM dpc.history_part WHERE day = ? AND lane = ? AND part = ?")
                .await?,
            remove: plain("DELETE FROM dpc.history_row WHERE lane = ? AND part = ?").await?,
        },
    })
}

pub(super) fn unprepared(error: &PrepareError) -> Trouble {
    match error {
        PrepareError::AllAttemptsFailed { first_attempt } => match attempt(first_attempt) {
            Trouble::Lost(why) => Trouble::NotSent(why),
            other => other,
        },
        other => Trouble::NotSent(format!("cassandra: {other}")),
    }
}

/// What a failed request means. Everything that is not known to have had no effect is *lost*.
pub(super) fn trouble(error: &ExecutionError) -> Trouble {
    match error {
        ExecutionError::EmptyPlan | ExecutionError::ConnectionPoolError(_) => {
            Trouble::NotSent(format!("cassandra: {error}"))
        }
        ExecutionError::PrepareError(error) => unprepared(error),
        ExecutionError::BadQuery(bad) => Trouble::Refused(StoreError::Refused(bad.to_string())),
        ExecutionError::LastAttemptError(error) => attempt(error),
        other => Trouble::Lost(format!("cassandra: {other}")),
    }
}

fn attempt(error: &RequestAttemptError) -> Trouble {
    let text = format!("cassandra: {error}");
    match error {
        RequestAttemptError::UnableToAllocStreamId => Trouble::NotSent(text),
        // What the user may do is looked up before anything else is done.
        RequestAttemptError::DbError(DbError::Unauthorized, why) if is_undecided(why) => {
            Trouble::NotSent(text)
        }
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_) => {
            Trouble::Refused(StoreError::Refused(text))
        }
        RequestAttemptError::DbError(
            DbError::SyntaxError
            | DbError::AlreadyExists { .. }
            | DbError::AuthenticationError
            | DbError::Unauthorized
            | DbError::ConfigError,
            _,
        ) => Trouble::Refused(StoreError::Refused(text)),
        // A node that has just come up may not know the tables yet. The others do.
        RequestAttemptError::DbError(DbError::Invalid, _) => Trouble::NotSent(text),
        // Timeouts, failures, too few replicas, overload: a conditional update may have been
        // accepted by some of them.
        _ => Trouble::Lost(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a node answers to a request, as trouble.
    fn answered(error: DbError, why: &str) -> Trouble {
        let answer = RequestAttemptError::DbError(error, why.into());
        trouble(&ExecutionError::LastAttemptError(answer))
    }

    #[test]
    fn a_permission_that_could_not_be_looked_up_is_waited_for() {
        let away = "Unable to perform authorization of permissions: Operation timed out - received \
                    only 0 responses.";
        assert!(matches!(answered(DbError::Unauthorized, away), Trouble::NotSent(_)));
        let denied =
            "User dpc has no MODIFY permission on <table dpc.lane_log> or any of its parents";
        assert!(matches!(answered(DbError::Unauthorized, denied), Trouble::Refused(_)));
    }

    #[test]
    fn a_login_that_could_not_be_looked_up_is_no_wrong_password() {
        assert!(is_undecided(
            "Unable to perform authentication: Cannot achieve consistency level ONE"
        ));
        assert!(!is_undecided("Provided username dpc and/or password are incorrect"));
    }
}
