//! The row of a lane's head: read as it is, and changed by conditional updates only.
//!
//! What is not known of an update is found out by sending the same again ([`Attempt`]): its
//! condition lets at most one of the copies happen, and the row that refuses the second one says
//! whether the first one did.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dpc_core::ids::{Epoch, Incarnation, LaneId, RecordNumber};
use dpc_core::names::Name;
use dpc_core::shared::{Attempt, Changed, LaneRow, LaneState, Next, Owner, Set, Tried, Update};
use dpc_core::store::StoreError;
use dpc_core::time::Mono;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::super::trouble::{Patience, Trouble};
use super::session::{Connection, Statements, at, trouble};

/// The columns of a row, as [`Columns`] reads them.
pub(super) const COLUMNS: &str =
    "lane, owner, node, address, epoch, state, number, hash, began, first, swept";

type Columns = (Uuid, i64, String, String, i64, String, i64, Vec<u8>, i64, i64, i64);

/// What a conditional update found instead of what it named, by column.
type Found = BTreeMap<String, CqlValue>;

/// A row as it stands, and the first bucket of its records that may still be there.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) row: LaneRow,
    pub(super) swept: u64,
}

/// Reads and changes heads, by one coordinator each.
#[derive(Clone)]
pub(super) struct Heads {
    pub(super) connection: Connection,
    /// How long an update is sent again before its outcome stays unknown.
    pub(super) patience: Duration,
    /// Counts the coordinators that were left.
    turn: Rc<Cell<usize>>,
}

impl Heads {
    pub(super) fn new(connection: Connection, patience: Duration) -> Self {
        Self { connection, patience, turn: Rc::default() }
    }

    /// The head as it is now, with every update that was promised to it.
    pub(super) async fn read(&self, lane: LaneId) -> Result<Option<Standing>, Trouble> {
        let answer = self.connection.ask(|it| &it.head, (uuid(lane),)).await?;
        let mut rows = rows_of(answer)?;
        Ok(rows.pop())
    }

    /// All heads, possibly stale.
    pub(super) async fn list(&self) -> Result<Vec<LaneRow>, Trouble> {
        let open = self.connection.open().await?;
        let (session, list) = (&open.link.session, &open.statements.heads);
        let mut all = Vec::new();
        let mut state = scylla::response::PagingState::start();
        loop {
            let page = session.execute_single_page(list, (), state).await;
            let (page, next) = page.map_err(|error| trouble(&error))?;
            all.extend(rows_of(page)?.into_iter().map(|standing| standing.row));
            match next.into_paging_control_flow() {
                std::ops::ControlFlow::Continue(more) => state = more,
                std::ops::ControlFlow::Break(()) => return Ok(all),
            }
        }
    }

    /// Makes a new lane. It is this owner's afterwards, or somebody else's: the caller looks.
    pub(super) async fn make(&self, lane: LaneId, me: &Owner) -> Result<(), Trouble> {
        let values = (
            uuid(lane),
            bits(me.incarnation),
            me.name.as_str(),
            &*me.address,
            [0_u8; 16].as_slice(),
        );
        self.condition(lane, |it| &it.make, values).await.map(drop)
    }

    /// Makes a conditional update, and finds out how it ended. `swept` is noted beside a truncation.
    pub(super) async fn change(&self, update: Update, swept: u64) -> Changed {
        let began = Instant::now();
        let now = || Mono(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        let deadline = u64::try_from(self.patience.as_micros()).unwrap_or(u64::MAX);
        let mut attempt = Attempt::until(update, Mono(deadline));
        let mut patience = Patience::of(self.patience);
        loop {
            let tried = self.try_once(&attempt.update, swept).await;
            if let Tried::Nothing(error) | Tried::Lost(error) = &tried {
                tracing::warn!(
                    "the head of lane {} is not changed yet: {error}",
                    attempt.update.lane
                );
            }
            if let Next::Answer(changed) = attempt.on_tried(now(), tried) {
                return changed;
            }
            // The attempt itself knows when to give up.
            let _more = patience.wait().await;
        }
    }

    /// Sends an update once, and looks at the row that refuses it.
    pub(super) async fn try_once(&self, update: &Update, swept: u64) -> Tried {
        match self.send(update, swept).await {
            Ok(true) => Tried::Applied,
            Ok(false) => match self.read(update.lane).await {
                Ok(found) => Tried::NotApplied(found.map(|found| found.row)),
                // The update has changed nothing; this fault says nothing else of it.
                Err(trouble) => Tried::Nothing(trouble.into_error()),
            },
            Err(Trouble::Refused(error)) => Tried::Nothing(error),
            Err(Trouble::NotSent(why)) => Tried::Nothing(StoreError::Io(why)),
            Err(Trouble::Lost(why)) => Tried::Lost(StoreError::Io(why)),
        }
    }

    /// Sends an update once. Says whether it was applied.
    async fn send(&self, update: &Update, swept: u64) -> Result<bool, Trouble> {
        let lane = uuid(update.lane);
        let (id, owner, epoch) = (update.lane, bits(update.owner), signed(update.epoch.0));
        let number = update.number.map_or(0, |number| signed(number.0));
        let found = match &update.set {
            Set::Publish { number: next, hash } => {
                let values = (signed(next.0), hash.as_slice(), lane, owner, epoch, number);
                self.condition(id, |it| &it.publish, values).await
            }
            Set::Renew => self.condition(id, |it| &it.renew, (lane, owner, epoch, number)).await,
            Set::Retire => self.condition(id, |it| &it.retire, (lane, owner, epoch, number)).await,
            Set::Dead => self.condition(id, |it| &it.dead, (lane, owner, epoch)).await,
            Set::Truncate(below) => {
                let values = (signed(below.0), signed(swept), lane, owner, epoch);
                self.condition(id, |it| &it.truncate, values).await
            }
            Set::Claim(heir) => {
                let Owner { incarnation, name, address } = heir;
                let (heir, next) = (bits(*incarnation), signed(update.epoch.next().0));
                let heir = (heir, name.as_str(), &**address, next, number);
                let values = (heir.0, heir.1, heir.2, heir.3, heir.4, lane, owner, epoch, number);
                self.condition(id, |it| &it.claim, values).await
            }
        };
        found.map(|found| found.is_none())
    }

    /// Sends a conditional update by the lane's coordinator: two of them would get into each
    /// other's way. After a fault the next node is the coordinator.
    async fn condition(
        &self,
        lane: LaneId,
        statement: impl Fn(&Statements) -> &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<Found>, Trouble> {
        let open = self.connection.open().await?;
        let nodes = open.coordinators(uuid(lane));
        let statement = statement(&open.statements);
        let statement = match nodes.get(self.turn.get() % nodes.len().max(1)) {
            Some(node) => at(statement, node.clone()),
            None => statement.clone(),
        };
        let asked = open.link.session.execute_unpaged(&statement, values).await;
        let result = asked.map_err(|error| trouble(&error)).and_then(condition);
        if matches!(result, Err(Trouble::NotSent(_) | Trouble::Lost(_))) {
            self.turn.set(self.turn.get().wrapping_add(1));
        }
        result
    }
}

/// What a conditional update says: nothing if it was applied, else what it found. Cassandra tells
/// the columns of the condition, ScyllaDB all of them, and neither any where there is no row.
pub(super) fn condition(answer: QueryResult) -> Result<Option<Found>, Trouble> {
    let rows = answer.into_rows_result().map_err(unreadable)?;
    let row = rows.first_row::<Row>().map_err(unreadable)?;
    let names = rows.column_specs().iter().map(|column| column.name().to_owned());
    let mut found: Found =
        names.zip(row.columns).filter_map(|(name, value)| Some((name, value?))).collect();
    match found.remove("[applied]") {
        Some(CqlValue::Boolean(true)) => Ok(None),
        Some(CqlValue::Boolean(false)) => Ok(Some(found)),
        other => Err(Trouble::Lost(format!("cassandra answers a condition with {other:?}"))),
    }
}

fn rows_of(answer: QueryResult) -> Result<Vec<Standing>, Trouble> {
    let rows = answer.into_rows_result().map_err(unreadable)?;
    let rows = rows.rows::<Columns>().map_err(unreadable)?;
    rows.map(|row| row_of(row.map_err(unreadable)?).map_err(Trouble::Refused)).collect()
}

fn row_of(columns: Columns) -> Result<Standing, StoreError> {
    let (lane, owner, node, address, epoch, state, number, hash, began, first, swept) = columns;
    let lane = LaneId(lane.into_bytes());
    let bad =
        |what: String| StoreError::Damaged { place: format!("table lane_head, lane {lane}"), what };
    let state = match state.as_str() {
        "owned" => LaneState::Owned,
        "dead" => LaneState::Dead,
        "retired" => LaneState::Retired,
        other => return Err(bad(format!("{other:?} is no state of a lane"))),
    };
    let name = Name::new("node", &node).map_err(|error| bad(error.to_string()))?;
    let bytes = hash.len();
    let hash = hash.try_into().map_err(|_| bad(format!("its hash has {bytes} bytes, not 16")))?;
    let owner =
        Owner { incarnation: Incarnation(owner.cast_unsigned()), name, address: address.into() };
    let [number, began, first] = [number, began, first].map(unsigned).map(RecordNumber);
    let epoch = Epoch(unsigned(epoch));
    let row = LaneRow { lane, owner, epoch, state, number, hash, began, first };
    Ok(Standing { row, swept: unsigned(swept) })
}

pub(super) fn unreadable(error: impl std::fmt::Display) -> Trouble {
    Trouble::Lost(format!("cassandra's answer cannot be read: {error}"))
}

pub(super) fn uuid(lane: LaneId) -> Uuid {
    Uuid::from_bytes(lane.0)
}

/// An incarnation is any 64 bits.
pub(super) fn bits(incarnation: Incarnation) -> i64 {
    incarnation.0.cast_signed()
}

/// Numbers are `bigint` there: all count up from zero, far below its end.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("they are counted one by one")
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
