//! The torture of lanes ([`super::super::torture`]) in a node of Cassandra that stands still now and
//! then.
//!
//! `cargo test -p runtime --lib cassandra::torture` takes seconds; with `DPC_LONG=1` five minutes.

use dpc_core::ids::{Incarnation, LaneId};
use dpc_core::shared::{Changed, Set, SharedStore, Update};
use tokio::sync::watch;

use super::super::remote::{self, Keep, Lane, Requests};
use super::super::testing::ask;
use super::super::torture::dice::Dice;
use super::super::torture::{Lanes, Torture};
use super::head::Heads;
use super::keeper::Keeper;
use super::reader::Reader;
use super::tests::{Server, connection, options, process, somebody, start};
use super::*;

/// As nodes have it.
fn careful(options: &CassandraOptions, lane: LaneId) -> Result<Box<dyn Store>, StoreError> {
    let mut process = process(options.clone());
    let row = ask(&mut process, |process, done| process.head(lane, done))?;
    let from = row.map(|row| (row.owner.incarnation, row.epoch));
    Ok(Box::new(process.lane(lane, from)))
}

/// The same without owner and epoch in the condition of a publication: only the number is there.
fn careless(options: &CassandraOptions, lane: LaneId) -> Result<Box<dyn Store>, StoreError> {
    let row = ask(&mut process(options.clone()), |process, done| process.head(lane, done))?;
    let from = row.map(|row| (row.owner.incarnation, row.epoch));
    let (remote, requests) = Remote::new();
    let options = options.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let work = work_carelessly(options, lane, from, requests);
        tokio::task::LocalSet::new().block_on(&runtime.expect("a runtime"), work);
    });
    Ok(Box::new(remote))
}

async fn work_carelessly(
    options: CassandraOptions,
    lane: LaneId,
    from: Option<(Incarnation, Epoch)>,
    requests: Requests,
) {
    let heads = Heads::new(connection(&options), options.patience);
    let shared = Lane::of(lane);
    let reader = Reader { lane: shared.clone(), heads: heads.clone() };
    let swept = Default::default();
    let mut keeper = Careless(Keeper { lane, heads, reader, me: somebody(), from, swept });
    let (kept, _kept) = watch::channel(RecordNumber(0));
    tokio::select! {
        _ = requests.dropped => {}
        () = remote::change(&mut keeper, shared, requests.changes, kept) => {}
    }
}

struct Careless(Keeper);

impl Keep for Careless {
    fn me(&self) -> Incarnation {
        self.0.me()
    }

    async fn claim(&mut self) -> Result<Claimed, StoreError> {
        self.0.claim().await
    }

    async fn write(
        &self,
        epoch: Epoch,
        number: RecordNumber,
        record: &Bytes,
    ) -> Result<(), StoreError> {
        self.0.write(epoch, number, record).await
    }

    /// Whoever owns the lane now is put into the condition: that is as good as nobody.
    async fn update(&self, mut update: Update) -> Changed {
        if let Set::Publish { .. } = update.set
            && let Ok(Some(found)) = self.0.heads.read(update.lane).await
        {
            (update.owner, update.epoch) = (found.row.owner.incarnation, found.row.epoch);
        }
        self.0.update(update).await
    }
}

fn by(options: &CassandraOptions, address: &str, patience: Duration) -> CassandraOptions {
    let contacts = Address::parse(&options.url).expect("good").contacts.join(",");
    let url = options.url.replace(&contacts, address);
    CassandraOptions { url, patience, ..options.clone() }
}

fn torture(
    server: &Server,
    lanes: Lanes<CassandraOptions>,
    check: impl FnOnce(&Torture<'_, CassandraOptions>),
) {
    let fault = |dice: &mut Dice| {
        server.order("pause", None);
        std::thread::sleep(dice.millis(50, 1_200));
        server.order("resume", None);
    };
    let (options, target) = (options(server), server.contacts.clone());
    check(&Torture { options, target, by: &by, lanes, careful, fault: &fault });
}

#[test]
fn owners_that_take_a_lane_from_each_other_lose_nothing_and_never_fork_it() {
    let Some(server) = start() else { return };
    torture(&server, careful, |torture| torture.assert_nothing_is_lost());
}

#[test]
fn without_owner_and_epoch_in_the_condition_the_torture_finds_a_fork() {
    let Some(server) = start() else { return };
    torture(&server, careless, |torture| torture.assert_a_fork_is_found());
}
