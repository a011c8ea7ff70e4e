//! Owners that take one lane from each other at random, over connections that are cut, held up and
//! reset, to a node that stands still now and then. Afterwards the log has to agree with everything
//! that anybody was answered.
//!
//! `cargo test -p runtime --lib cassandra::torture` takes seconds; with `DPC_LONG=1` five minutes.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use dpc_core::ids::{Incarnation, LaneId};
use dpc_core::record::{hash_of, open_header};
use dpc_core::shared::{Changed, Set, SharedStore, Update};
use tokio::sync::watch;

use super::super::remote::{self, Keep, Lane, Requests};
use super::super::testing::{WAIT, ask, fresh_lane, next_record, send};
use super::head::Heads;
use super::keeper::Keeper;
use super::reader::Reader;
use super::tests::{Server, connection, options, process, somebody, start};
use super::*;
use dice::Dice;
use proxy::{Proxies, Proxy};

#[path = "../../../../tests/chaos/dice.rs"]
#[allow(dead_code, reason = "whole-system tests draw more")]
mod dice;
#[path = "../../../../tests/chaos/proxy.rs"]
#[allow(dead_code, reason = "whole-system tests do more to a connection")]
mod proxy;

const OWNERS: u64 = 3;

/// How long an outage may last for these owners, so that some outcomes stay unknown.
const PATIENCE: Duration = Duration::from_secs(4);

type Hash = [u8; 16];

/// What one owner has seen.
#[derive(Default)]
struct History {
    appends: Vec<Append>,
    claims: Vec<Claimed>,
    /// What a store must never say here.
    damage: Vec<StoreError>,
}

struct Append {
    epoch: Epoch,
    number: RecordNumber,
    hash: Hash,
    answer: Appended,
}

/// A lane's store, and how it is got.
type Lanes = fn(&CassandraOptions, LaneId) -> Result<Box<dyn Store>, StoreError>;

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
        &mut self,
        epoch: Epoch,
        number: RecordNumber,
        record: &Bytes,
    ) -> Result<(), StoreError> {
        self.0.write(epoch, number, record).await
    }

    /// Whoever owns the lane now is put into the condition: that is as good as nobody.
    async fn update(&mut self, mut update: Update) -> Changed {
        if let Set::Publish { .. } = update.set
            && let Ok(Some(found)) = self.0.heads.read(update.lane).await
        {
            (update.owner, update.epoch) = (found.row.owner.incarnation, found.row.epoch);
        }
        self.0.update(update).await
    }
}

/// Claims and appends, again and again, until `over` ends.
fn own(
    lanes: Lanes,
    options: CassandraOptions,
    lane: LaneId,
    mut dice: Dice,
    over: &Receiver<()>,
) -> History {
    let mut history = History::default();
    let ended = |wait| over.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
    while !ended(dice.millis(0, 200)) {
        let claimed = lanes(&options, lane).and_then(|mut store| {
            let claimed = ask(&mut *store, |store, done| store.claim(done))?;
            Ok((store, claimed))
        });
        match claimed {
            Ok((store, claimed)) => {
                history.claims.push(claimed);
                let until = Instant::now() + dice.millis(100, 1_500);
                reign(store, claimed, (lane, until), &mut dice, &mut history);
            }
            Err(damage @ StoreError::Damaged { .. }) => history.damage.push(damage),
            // Somebody was faster, or nobody answers.
            Err(_) => {}
        }
    }
    history
}

/// Appends until the time is over or something went wrong.
fn reign(
    mut store: Box<dyn Store>,
    mut claimed: Claimed,
    (lane, until): (LaneId, Instant),
    dice: &mut Dice,
    history: &mut History,
) {
    while Instant::now() < until {
        // Some are large enough to be written in parts.
        let bytes = if dice.percent(3) { 700 << 10 } else { dice.order_of(10, 20_000) };
        let mut body = vec![0; usize::try_from(bytes).expect("small")];
        dice.fill(&mut body);
        let record = next_record(lane, &claimed, &body);
        let (epoch, number, hash) = (claimed.epoch, claimed.last.next(), hash_of(&record));
        let answer = send(&mut *store, |store, done| store.append(epoch, number, record, done));
        let answer = answer.recv_timeout(WAIT).expect("an answer comes");
        let committed = answer == Appended::Committed;
        if let Appended::DefinitelyNot(damage @ StoreError::Damaged { .. }) = &answer {
            history.damage.push(damage.clone());
        }
        history.appends.push(Append { epoch, number, hash, answer });
        if !committed {
            return;
        }
        (claimed.last, claimed.last_hash) = (number, hash);
    }
}

/// What happens to one owner's connections, until `over` ends.
fn torment(proxy: &Proxy, mut dice: Dice, over: &Receiver<()>) {
    let ended = |wait| over.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
    while !ended(dice.millis(200, 2_500)) {
        // Requests do not arrive, or answers do not; then everything under way is lost, or late.
        let way = dice.index(2);
        if dice.percent(70) {
            proxy.set(|faults| faults.cut[way] = true);
            let _over = ended(dice.millis(20, 400));
        }
        proxy.set(|faults| {
            faults.cut = [false, false];
            faults.resets += u64::from(dice.percent(70));
        });
    }
}

/// Runs owners against each other for a while, and returns what they have seen.
fn run(server: &Server, lanes: Lanes, lane: LaneId, span: Duration, seed: u64) -> Vec<History> {
    let proxies = Proxies::start();
    let mut stops = Vec::new();
    let mut stop = || {
        let (stop, over) = channel();
        stops.push(stop);
        over
    };
    let mut owners: Vec<JoinHandle<History>> = Vec::new();
    let mut torments = Vec::new();
    for n in 0..OWNERS {
        let proxy = proxies.proxy(&server.contacts, seed + n);
        let good = options(server);
        let url = good.url.replace(&server.contacts, &proxy.address);
        let options = CassandraOptions { url, patience: PATIENCE, ..good };
        let (over, dice) = (stop(), Dice::of(seed, &format!("torment {n}")));
        torments.push(std::thread::spawn(move || torment(&proxy, dice, &over)));
        let (over, dice) = (stop(), Dice::of(seed, &format!("owner {n}")));
        owners.push(std::thread::spawn(move || own(lanes, options, lane, dice, &over)));
    }
    let (began, mut dice) = (Instant::now(), Dice::of(seed, "server"));
    while began.elapsed() < span {
        std::thread::sleep(dice.millis(1_000, 5_000).min(span));
        server.order("pause", None);
        std::thread::sleep(dice.millis(50, 1_200));
        server.order("resume", None);
    }
    drop(stops);
    torments.into_iter().for_each(|torment| torment.join().expect("no panic"));
    owners.into_iter().map(|owner| owner.join().expect("no panic")).collect()
}

/// The log as it is in the end: of each record the epoch and the hash.
fn log_of(server: &Server, lane: LaneId) -> Result<BTreeMap<u64, (Epoch, Hash)>, StoreError> {
    let mut store = careful(&options(server), lane)?;
    let claimed = ask(&mut *store, |store, done| store.claim(done))?;
    let (mut log, mut from) = (BTreeMap::new(), claimed.first);
    while from <= claimed.last {
        let read = ask(&mut *store, |store, done| store.read(from, 1 << 20, done))?;
        for (number, record) in &read {
            let header = open_header(record).expect("the store has checked it");
            log.insert(number.0, (header.epoch, hash_of(record)));
        }
        from = RecordNumber(from.0 + read.len() as u64);
    }
    Ok(log)
}

/// Everything that does not agree.
fn check(histories: &[History], log: &BTreeMap<u64, (Epoch, Hash)>) -> Vec<String> {
    let mut wrong = Vec::new();
    let appends = || histories.iter().flat_map(|history| &history.appends);
    for Append { epoch, number, hash, answer } in appends() {
        let there = log.get(&number.0) == Some(&(*epoch, *hash));
        match answer {
            Appended::Committed if !there => {
                wrong.push(format!(
                    "lost: record {number} of epoch {epoch}, {:?}",
                    log.get(&number.0)
                ));
            }
            Appended::DefinitelyNot(why) if there => {
                wrong.push(format!("phantom: record {number} of epoch {epoch}, told {why}"));
            }
            _ => {}
        }
    }
    for (number, (epoch, hash)) in log {
        if !appends().any(|it| (it.number.0, &it.epoch, &it.hash) == (*number, epoch, hash)) {
            wrong.push(format!("nobody has appended record {number} of epoch {epoch}"));
        }
    }
    let epochs: Vec<Epoch> = log.values().map(|(epoch, _)| *epoch).collect();
    if !epochs.is_sorted() {
        wrong.push("an owner has published after the next one".into());
    }
    for claim in histories.iter().flat_map(|history| &history.claims) {
        let below = log.values().filter(|(epoch, _)| *epoch < claim.epoch).count() as u64;
        if below != claim.last.0 {
            let (epoch, last) = (claim.epoch, claim.last);
            wrong.push(format!("the claim of epoch {epoch} found {last} records, of {below}"));
        }
    }
    for damage in histories.iter().flat_map(|history| &history.damage) {
        wrong.push(format!("the store says: {damage}"));
    }
    wrong
}

/// One round: what is wrong after it, and how many claims and appends there were.
fn round(lanes: Lanes, server: &Server, span: Duration, seed: u64) -> (Vec<String>, [usize; 3]) {
    let lane = fresh_lane();
    let histories = run(server, lanes, lane, span, seed);
    let count = |what: fn(&Appended) -> bool| {
        histories.iter().flat_map(|it| &it.appends).filter(|it| what(&it.answer)).count()
    };
    let committed = count(|answer| *answer == Appended::Committed);
    let unknown = count(|answer| matches!(answer, Appended::Unknown(_)));
    let claims = histories.iter().map(|it| it.claims.len()).sum();
    let wrong = match log_of(server, lane) {
        Ok(log) => check(&histories, &log),
        Err(error) => vec![format!("the log cannot be read: {error}")],
    };
    (wrong, [claims, committed, unknown])
}

fn seed() -> u64 {
    let given = std::env::var("DPC_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        u64::from(Instant::now().elapsed().subsec_nanos()) + u64::from(std::process::id())
    });
    println!("seed: DPC_TEST_SEED={seed} (the cluster's own timing is not repeated)");
    seed
}

fn long() -> bool {
    std::env::var_os("DPC_LONG").is_some_and(|value| value == "1")
}

#[test]
fn owners_that_take_a_lane_from_each_other_lose_nothing_and_never_fork_it() {
    let Some(server) = start() else { return };
    let span = Duration::from_secs(if long() { 300 } else { 10 });
    let (wrong, [claims, committed, unknown]) = round(careful, &server, span, seed());
    println!("{claims} claims, {committed} records committed, {unknown} answers unknown");
    assert_eq!(wrong, Vec::<String>::new());
    assert!(
        claims > 5 && committed > 20,
        "nothing was tried: {claims} claims, {committed} records"
    );
}

#[test]
fn without_owner_and_epoch_in_the_condition_the_torture_finds_a_fork() {
    let Some(server) = start() else { return };
    let seed = seed();
    let found = (seed..seed + 15).find_map(|seed| {
        let (wrong, _) = round(careless, &server, Duration::from_secs(3), seed);
        wrong.into_iter().next()
    });
    println!("{}", found.expect("an owner that was fenced has published"));
}
