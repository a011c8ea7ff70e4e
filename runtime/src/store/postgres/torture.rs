//! The torture of lanes ([`super::super::torture`]) in a server that is killed, and whose processes
//! stand still, now and then.
//!
//! `cargo test -p runtime --lib postgres::torture` takes seconds; with `DPC_LONG=1` five minutes.

use dpc_core::shared::SharedStore;

use super::super::testing::ask;
use super::super::torture::Torture;
use super::super::torture::dice::Dice;
use super::tests::{database, fresh, options, run_sql, start};
use super::*;

/// The port that a server listens on unless it is told otherwise.
const PORT: u16 = 5432;

fn lane(options: &PostgresOptions, lane: LaneId) -> Result<Box<dyn Store>, StoreError> {
    let mut process = database(options.clone(), fresh());
    let row = ask(&mut process, |process, done| process.head(lane, done))?;
    let from = row.map(|row| (row.owner.incarnation, row.epoch));
    Ok(Box::new(process.lane(lane, from)))
}

fn by(options: &PostgresOptions, address: &str, patience: Duration) -> PostgresOptions {
    let url = format!("postgresql://dpc@{address}/dpc");
    PostgresOptions { url, patience, ..options.clone() }
}

#[test]
fn owners_that_take_a_lane_from_each_other_lose_nothing_and_never_fork_it() {
    let Some(server) = start() else { return };
    // A loopback address of its own: the port is that of the socket.
    let [_, .., a, b, c] = uuid::Uuid::now_v7().into_bytes();
    let host = format!("127.{}.{b}.{c}", a | 128);
    run_sql(&server, &format!("ALTER SYSTEM SET listen_addresses = '{host}'"));
    let restart = || {
        server.order("kill");
        server.order("start");
    };
    restart();
    let fault = |dice: &mut Dice| {
        if dice.percent(30) {
            return restart();
        }
        server.order("pause");
        std::thread::sleep(dice.millis(50, 1_200));
        server.order("resume");
    };
    let target = format!("{host}:{PORT}");
    Torture {
        options: options(&server),
        target,
        by: &by,
        lanes: lane,
        careful: lane,
        fault: &fault,
    }
    .assert_nothing_is_lost();
}
