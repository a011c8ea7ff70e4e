//! Pushes and settles inside your own SQL transaction, where a mesh is kept in Postgres.
//!
//! What is here is text and plain values: the statements, and their parameters as bytes and texts that
//! any driver can bind. So this crate brings no driver along, and works with the one, and within the
//! transaction, that you have.
//!
//! ```no_run
//! # async fn example(
//! #     database: &mut tokio_postgres::Client,
//! #     orders: dpc_client::Subscription,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use dpc_client::{Object, sql};
//!
//! let push = sql::Push::new(Object::new("acme.orders.v1.Order", "seven apples"));
//! let transaction = database.transaction().await?;
//! transaction.execute("INSERT INTO orders (number) VALUES (7)", &[]).await?;
//! transaction.execute(sql::PUSH, &[&push.payload, &push.envelope]).await?;
//! // The order is in the table and on its way, or neither.
//! transaction.commit().await?;
//!
//! let Some(order) = orders.next().await? else { return Ok(()) };
//! let transaction = database.transaction().await?;
//! transaction.execute("INSERT INTO invoices (total) VALUES (12)", &[]).await?;
//! transaction.execute(sql::SETTLE, &[&order.token().to_string()]).await?;
//! // The invoice is in the table and the order is done with, or neither.
//! transaction.commit().await?;
//! order.abandon();
//! # Ok(()) }
//! ```
//!
//! A refusal is an error of the database with one of the states below; its DETAIL is one line of
//! JSON with `reason`, `field`, `limit` and `given`.

use dpc_proto::google::protobuf::{Duration, Timestamp};
use dpc_proto::v1;
use serde_json::json;

use crate::ids::Ids;
use crate::object::Object;

/// Pushes an object, and answers its id as text. The parameters are the two values of a [`Push`].
pub const PUSH: &str = "SELECT dpc.dpc_push(e->>'type', $1::bytea, (e->>'id')::uuid, e->'headers', \
    coalesce(to_timestamp((e->>'not_before_ms')::bigint / 1000.0), \
        now() + (e->>'delay_ms')::bigint * interval '1 ms'), \
    coalesce(to_timestamp((e->>'expires_at_ms')::bigint / 1000.0), \
        now() + (e->>'expires_in_ms')::bigint * interval '1 ms'))::text \
    FROM (SELECT $2::text::jsonb AS e) o";

/// Finalises what a lease is for. The parameter is a [`LeaseToken`](crate::LeaseToken) as text.
///
/// When the transaction has committed, [abandon](crate::Delivery::abandon) the delivery: its node
/// ends the lease. A transaction whose commit has no answer may have been done: tried again, it is
/// refused with [`SETTLED_BEFORE`] if it was.
pub const SETTLE: &str = "SELECT dpc.dpc_settle($1::text)";

/// The SQLSTATE of what can never be accepted as it is: a limit, a name, a time.
pub const INVALID: &str = "DPC01";

/// The SQLSTATE of an id that was pushed before with other content.
pub const ID_REUSED: &str = "DPC02";

/// The SQLSTATE of a lease that its node does not know any more: the object is delivered again.
pub const LEASE_LOST: &str = "DPC03";

/// The SQLSTATE of an object that a committed transaction has settled already. Roll back, and finalise
/// the delivery at its node: the work on it is done.
pub const SETTLED_BEFORE: &str = "DPC04";

/// A push as the parameters of [`PUSH`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// `$1`: the payload.
    pub payload: Vec<u8>,
    /// `$2`: all the rest, as JSON: type, id, headers, times. An object without an id was given one,
    /// so that a transaction that is tried again pushes the same object.
    pub envelope: String,
}

impl Push {
    /// The parameters for an object. What is wrong with it the database says.
    pub fn new(object: Object) -> Self {
        let (id, wire) = object.into_wire(&Ids::default());
        let entity = wire.entity.unwrap_or_default();
        let mut envelope = json!({
            "type": entity.type_url,
            "id": id.hyphenated().to_string(),
            "headers": wire.headers,
        });
        match wire.start {
            Some(v1::object::Start::NotBefore(at)) => envelope["not_before_ms"] = moment(at).into(),
            Some(v1::object::Start::Delay(span)) => envelope["delay_ms"] = span_ms(span).into(),
            None => {}
        }
        match wire.end {
            Some(v1::object::End::ExpiresAt(at)) => envelope["expires_at_ms"] = moment(at).into(),
            Some(v1::object::End::ExpiresIn(span)) => {
                envelope["expires_in_ms"] = span_ms(span).into();
            }
            None => {}
        }
        Self { payload: entity.value.into(), envelope: envelope.to_string() }
    }
}

fn moment(at: Timestamp) -> i64 {
    ms(at.seconds, at.nanos)
}

fn span_ms(span: Duration) -> i64 {
    ms(span.seconds, span.nanos)
}

fn ms(seconds: i64, nanos: i32) -> i64 {
    seconds.saturating_mul(1_000).saturating_add(i64::from(nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::Value;
    use uuid::Uuid;

    use super::*;

    fn envelope(object: Object) -> Value {
        serde_json::from_str(&Push::new(object).envelope).expect("JSON")
    }

    #[test]
    fn an_object_becomes_the_parameters_of_a_push() {
        let object = Object::new("a.B", "x")
            .id(Uuid::from_u128(7))
            .header("k", "\"v\"")
            .not_before(UNIX_EPOCH + Duration::from_millis(1_500))
            .expires_in(Duration::from_millis(2_750));
        assert_eq!(Push::new(object.clone()).payload, b"x");
        let expected = json!({
            "type": "type.googleapis.com/a.B",
            "id": "00000000-0000-0000-0000-000000000007",
            "headers": {"k": "\"v\""},
            "not_before_ms": 1_500,
            "expires_in_ms": 2_750,
        });
        assert_eq!(envelope(object), expected);
    }

    #[test]
    fn an_object_without_an_id_gets_one_of_its_own() {
        let id = || envelope(Object::new("a.B", "x"))["id"].clone();
        assert_ne!(id(), id());
    }
}
