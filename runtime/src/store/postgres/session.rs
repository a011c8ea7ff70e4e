//! One connection to the database, made again after every fault, and what a fault means.

use std::future::{Future, poll_fn};
use std::time::Duration;

use dpc_core::store::StoreError;
use tokio::time::timeout;
use tokio_postgres::error::{Error, SqlState};
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::tls::refusal;
use super::super::trouble::Trouble;

/// How long one statement may take. A server that is silent for longer is left for a new
/// connection: it may be stopped, or gone without a word.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Waits for an answer, but not for ever.
pub(super) async fn within<T>(
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Trouble> {
    match timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer.map_err(|error| trouble(&error)),
        Err(_) => Err(Trouble::Lost(format!("postgres has not answered for {ANSWER_MAX:?}"))),
    }
}

fn trouble(error: &Error) -> Trouble {
    let Some(said) = error.as_db_error() else {
        if let Some(refused) = refusal(error) {
            return Trouble::Refused(StoreError::Refused(format!(
                "TLS to postgres failed: {refused}; store.tls_ca names whose certificates are \
                 trusted, and a certificate is for the name that stands in store.url"
            )));
        }
        return Trouble::Lost(format!("postgres: {}", root(error)));
    };
    let text = format!("postgres: {} ({})", said.message(), said.code().code());
    if *said.code() == SqlState::DISK_FULL {
        return Trouble::Refused(StoreError::Full(text));
    }
    // Connection exceptions, an operator's intervention, a standby that was not promoted yet, and
    // what a server says that is short of something for a moment.
    let passes = ["08", "57", "53", "25006", "40"];
    if passes.iter().any(|class| said.code().code().starts_with(class)) {
        return Trouble::Lost(text);
    }
    Trouble::Refused(StoreError::Io(text))
}

/// The innermost reason: the outer ones say only that something failed.
fn root(error: &Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    reason.to_string()
}

/// The statements that are prepared once a connection.
const STATEMENTS: [&str; 5] = [
    // An append: it succeeds only for the owner, and only as the next record.
    "WITH head AS (UPDATE dpc.lane_head SET number = $4::bigint, hash = $5 \
     WHERE lane = $1 AND owner = $2::bigint AND epoch = $3::bigint AND number = $4::bigint - 1 \
     AND state = 'owned' RETURNING lane) \
     INSERT INTO dpc.lane_log (lane, number, epoch, record) \
     SELECT lane, $4::bigint, $3::bigint, $6 FROM head",
    // The same, and with it go the rows of the inbox whose objects are in the record.
    "WITH head AS (UPDATE dpc.lane_head SET number = $4::bigint, hash = $5 \
     WHERE lane = $1 AND owner = $2::bigint AND epoch = $3::bigint AND number = $4::bigint - 1 \
     AND state = 'owned' RETURNING lane), \
     gone AS (DELETE FROM dpc.inbox i USING head h \
     WHERE i.seq = ANY($7::bigint[]) AND i.lane = h.lane AND i.epoch = $3::bigint) \
     INSERT INTO dpc.lane_log (lane, number, epoch, record) \
     SELECT lane, $4::bigint, $3::bigint, $6 FROM head",
    // Who owns the lane now (as `head::COLUMNS`), and what stands at a number.
    "SELECT h.lane, h.owner, h.node, h.address, h.epoch, h.state, h.number, h.hash, h.began, h.first, \
     substring(l.record FROM octet_length(l.record) - 15) FROM dpc.lane_head h LEFT JOIN dpc.lane_log l ON l.lane = h.lane AND l.number = $2 \
     WHERE h.lane = $1",
    // Records from a number on, as many as fit, and one in any case.
    "SELECT number, record FROM (SELECT number, record, \
     sum(octet_length(record)) OVER (ORDER BY number) AS bytes \
     FROM dpc.lane_log WHERE lane = $1 AND number BETWEEN $2::bigint AND $3::bigint \
     ORDER BY number LIMIT 4096) w \
     WHERE bytes <= $4::bigint OR number = $2::bigint ORDER BY number",
    // Forgets a few records that nothing reads any more.
    "DELETE FROM dpc.lane_log WHERE lane = $1 AND number IN \
     (SELECT number FROM dpc.lane_log WHERE lane = $1 AND number < $2 ORDER BY number LIMIT 256)",
];

/// An open connection with its statements.
pub(super) struct Open {
    pub(super) client: Client,
    pub(super) append: Statement,
    pub(super) append_taking: Statement,
    pub(super) look: Statement,
    pub(super) read: Statement,
    pub(super) forget: Statement,
}

/// How the server is reached.
#[derive(Clone)]
pub(crate) struct Way {
    pub(super) config: Config,
    /// What the server has to prove, where TLS is asked for.
    pub(super) tls: Option<MakeRustlsConnect>,
}

/// One connection, open or not.
pub(super) struct Session {
    way: Way,
    open: Option<Open>,
}

impl Session {
    pub(super) fn new(way: Way) -> Self {
        Self { way, open: None }
    }

    /// The connection, made now if there is none.
    pub(super) async fn open(&mut self) -> Result<&Open, Trouble> {
        if self.open.as_ref().is_none_or(|open| open.client.is_closed()) {
            self.open = Some(prepare(connect(&self.way).await?).await.map_err(unsent)?);
        }
        Ok(self.open.as_ref().expect("made above"))
    }

    /// Leaves the connection: the next request makes another one.
    pub(super) fn leave(&mut self) {
        self.open = None;
    }
}

/// Nothing that changes anything was under way.
fn unsent(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Lost(why) => Trouble::NotSent(why),
        other => other,
    }
}

/// Connects, and sees to it that a commit is durable before it is answered.
pub(super) async fn connect(way: &Way) -> Result<Client, Trouble> {
    connect_hearing(way, || {}).await
}

/// The same, for whoever listens: `heard` is called when the server has notified.
pub(super) async fn connect_hearing(
    way: &Way,
    heard: impl FnMut() + Send + 'static,
) -> Result<Client, Trouble> {
    let connecting = async {
        match &way.tls {
            None => {
                let (client, connection) = way.config.connect(NoTls).await?;
                tokio::spawn(attend(connection, heard));
                Ok(client)
            }
            Some(tls) => {
                let (client, connection) = way.config.connect(tls.clone()).await?;
                tokio::spawn(attend(connection, heard));
                Ok(client)
            }
        }
    };
    let client = match timeout(CONNECT_MAX, connecting).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return Err(unsent(trouble(&error))),
        Err(_) => return Err(Trouble::NotSent("postgres does not take connections".into())),
    };
    let asked = "SELECT current_setting('fsync'), current_setting('synchronous_commit'), \
                 pg_is_in_recovery()";
    let row = within(client.query_one(asked, &[])).await.map_err(unsent)?;
    let (fsync, commit): (&str, &str) = (row.get(0), row.get(1));
    if row.get::<_, bool>(2) {
        return Err(Trouble::NotSent("this postgres is a standby that takes no writes".into()));
    }
    if fsync != "on" {
        return Err(Trouble::Refused(StoreError::Refused(
            "postgres runs with fsync = off: an OK would not be durable; set fsync = on".into(),
        )));
    }
    if commit == "off" {
        let on = client.batch_execute("SET synchronous_commit = on");
        within(on).await.map_err(unsent)?;
    }
    Ok(client)
}

/// Keeps a connection going until it ends.
async fn attend<T>(mut connection: Connection<Socket, T>, mut heard: impl FnMut())
where
    T: TlsStream + Unpin,
{
    // Whoever waits for an answer learns of the end by the client.
    while let Some(said) = poll_fn(|cx| connection.poll_message(cx)).await {
        match said {
            Ok(AsyncMessage::Notification(_)) => heard(),
            Ok(AsyncMessage::Notice(notice)) => tracing::debug!("postgres: {notice}"),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!("the connection to postgres has ended: {error}");
                break;
            }
        }
    }
}

async fn prepare(client: Client) -> Result<Open, Trouble> {
    let [append, append_taking, look, read, forget] = STATEMENTS;
    let append = within(client.prepare(append)).await?;
    let append_taking = within(client.prepare(append_taking)).await?;
    let look = within(client.prepare(look)).await?;
    let read = within(client.prepare(read)).await?;
    let forget = within(client.prepare(forget)).await?;
    Ok(Open { client, append, append_taking, look, read, forget })
}
