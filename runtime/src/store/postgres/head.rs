//! The row of a lane's head, and the conditional updates of it that are no append. What is not known
//! of one is found out by sending it again ([`Attempt`]).

use std::time::Duration;

use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::names::Name;
use dpc_core::shared::{
    Attempt, Changed, InboxRow, LaneRow, LaneState, Next, Owner, Set, Tried, Update,
};
use dpc_core::store::StoreError;
use dpc_core::time::Mono;
use tokio::time::{Instant, sleep};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::super::trouble::Trouble;
use super::session::{Session, within};

/// The columns that [`row_of`] reads, of a row called `h`.
pub(super) const COLUMNS: &str = "h.lane, h.owner, h.node, h.address, \
     h.epoch, h.state, h.number, h.hash, h.began, h.first";

/// Between two tries of an update.
const PAUSE: Duration = Duration::from_millis(200);

/// Reads the first columns of a row as [`COLUMNS`] has them.
pub(super) fn row_of(row: &Row) -> Result<LaneRow, StoreError> {
    let lane = LaneId(row.get::<_, Uuid>(0).into_bytes());
    let bad = |what: String| StoreError::Damaged {
        place: format!("table dpc.lane_head, lane {lane}"),
        what,
    };
    let name: &str = row.get(2);
    let hash: &[u8] = row.get(7);
    let state = match row.get(5) {
        "owned" => LaneState::Owned,
        "dead" => LaneState::Dead,
        "retired" => LaneState::Retired,
        other => return Err(bad(format!("{other:?} is no state of a lane"))),
    };
    Ok(LaneRow {
        lane,
        owner: Owner {
            incarnation: Incarnation(row.get::<_, i64>(1).cast_unsigned()),
            name: Name::new("node", name).map_err(|error| bad(error.to_string()))?,
            address: row.get::<_, &str>(3).into(),
        },
        epoch: Epoch(counted(row, 4)),
        state,
        number: RecordNumber(counted(row, 6)),
        hash: hash
            .try_into()
            .map_err(|_| bad(format!("the head's hash has {} bytes, not 16", hash.len())))?,
        began: RecordNumber(counted(row, 8)),
        first: RecordNumber(counted(row, 9)),
    })
}

/// Numbers are `bigint` there: they count up from zero, far below its end.
pub(super) fn counted(row: &Row, column: usize) -> u64 {
    u64::try_from(row.get::<_, i64>(column)).unwrap_or(0)
}

pub(super) fn signed(number: RecordNumber) -> i64 {
    i64::try_from(number.0).expect("records are counted one by one")
}

pub(super) fn signed_epoch(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).expect("epochs are counted one by one")
}

pub(super) fn signed_rows(rows: &[InboxRow]) -> Vec<i64> {
    let signed = |row: &InboxRow| i64::try_from(row.0).expect("the database has counted them");
    rows.iter().map(signed).collect()
}

/// An incarnation is any 64 bits.
pub(super) fn bits(incarnation: Incarnation) -> i64 {
    incarnation.0.cast_signed()
}

/// The head of a lane as it is.
pub(super) async fn read(client: &Client, lane: LaneId) -> Result<Option<LaneRow>, Trouble> {
    let ask = format!("SELECT {COLUMNS} FROM dpc.lane_head h WHERE h.lane = $1");
    let row = within(client.query_opt(&ask, &[&Uuid::from_bytes(lane.0)])).await?;
    row.as_ref().map(row_of).transpose().map_err(Trouble::Refused)
}

/// Makes a conditional update, and finds out how it ended.
pub(super) async fn change(session: &mut Session, update: Update) -> Changed {
    let began = Instant::now();
    let now = || Mono(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    let mut attempt = Attempt::new(update, now());
    loop {
        let tried = match attempt_once(session, &attempt.update).await {
            Ok(tried) => tried,
            Err(Trouble::Refused(error)) => Tried::Nothing(error),
            Err(Trouble::NotSent(why)) => Tried::Nothing(StoreError::Io(why)),
            Err(Trouble::Lost(why)) => Tried::Lost(StoreError::Io(why)),
        };
        let failed = matches!(tried, Tried::Nothing(_) | Tried::Lost(_));
        match attempt.on_tried(now(), tried) {
            Next::Answer(answer) => return answer,
            Next::Again if failed => session.leave(),
            Next::Again => {}
        }
        sleep(PAUSE).await;
    }
}

async fn attempt_once(session: &mut Session, update: &Update) -> Result<Tried, Trouble> {
    let client = &session.open().await?.client;
    if send(client, update).await? {
        return Ok(Tried::Applied);
    }
    // The update has changed nothing; a fault from here on says nothing else.
    match read(client, update.lane).await {
        Ok(row) => Ok(Tried::NotApplied(row)),
        Err(trouble) => Ok(Tried::Nothing(trouble.into_error())),
    }
}

/// Says whether the condition held.
async fn send(client: &Client, update: &Update) -> Result<bool, Trouble> {
    let (lane, owner) = (Uuid::from_bytes(update.lane.0), bits(update.owner));
    let epoch = signed_epoch(update.epoch);
    let number = update.number.map(signed);
    let (mut below, mut heir, mut node, mut address) = (0, 0, "", "");
    let (set, state) = match &update.set {
        Set::Publish { .. } => unreachable!("records are published by an append"),
        Set::Renew => ("number = number", "= 'owned'"),
        Set::Dead => ("state = 'dead'", "= 'owned'"),
        Set::Retire => ("state = 'retired'", "= 'owned'"),
        Set::Truncate(record) => {
            below = signed(*record);
            ("first = greatest(first, $5::bigint)", "= 'owned'")
        }
        Set::Claim(owner) => {
            (heir, node, address) =
                (bits(owner.incarnation), owner.name.as_str(), owner.address.as_ref());
            let set = "owner = $5::bigint, node = $6::text, address = $7::text, state = 'owned', \
                       epoch = epoch + 1, began = number, claimed = now()";
            (set, "<> 'retired'")
        }
    };
    let text = format!(
        "UPDATE dpc.lane_head SET {set} WHERE lane = $1 AND owner = $2 AND epoch = $3 \
         AND ($4::bigint IS NULL OR number = $4::bigint) AND state {state}"
    );
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&lane, &owner, &epoch, &number];
    match update.set {
        Set::Truncate(_) => params.push(&below),
        Set::Claim(_) => params.extend::<[&(dyn ToSql + Sync); 3]>([&heir, &node, &address]),
        _ => {}
    }
    Ok(within(client.execute(&text, &params)).await? == 1)
}
