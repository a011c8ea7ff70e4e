//! Owners that take one lane of a database from each other at random, over connections that are cut,
//! held up and reset, to a server that fails now and then. Afterwards the log has to agree with
//! everything that anybody was answered. What the database is, its own `torture` says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use dpc_core::ids::{Epoch, LaneId, RecordNumber};
use dpc_core::record::{hash_of, open_header};
use dpc_core::store::{Appended, Claimed, Store, StoreError};

use super::testing::{WAIT, ask, fresh_lane, next_record, send};
use dice::Dice;
use proxy::{Proxies, Proxy};

#[path = "../../../tests/chaos/dice.rs"]
#[allow(dead_code, reason = "whole-system tests draw more")]
pub(super) mod dice;
#[path = "../../../tests/chaos/proxy.rs"]
#[allow(dead_code, reason = "whole-system tests do more to a connection")]
mod proxy;

const OWNERS: u64 = 3;

/// How long an outage may last for these owners, so that some outcomes stay unknown.
const PATIENCE: Duration = Duration::from_secs(4);

/// A round of owners that take no care, and how many there are until one has to have forked the lane.
const CARELESS_SPAN: Duration = Duration::from_secs(3);
const CARELESS_ROUNDS_MAX: u64 = 15;

/// A round with less than this has shown nothing, so it goes on for longer on a busy machine.
const CLAIMS_MIN: usize = 6;
const COMMITTED_MIN: usize = 21;

/// How much of that there was so far.
#[derive(Default)]
struct Done {
    claims: AtomicUsize,
    committed: AtomicUsize,
}

impl Done {
    fn is_enough(&self) -> bool {
        self.claims.load(Ordering::Relaxed) >= CLAIMS_MIN
            && self.committed.load(Ordering::Relaxed) >= COMMITTED_MIN
    }
}

/// A lane's store, to be claimed from whoever owns it now; and how that is got.
pub(super) type Lanes<O> = fn(&O, LaneId) -> Result<Box<dyn Store>, StoreError>;

/// What is tortured.
pub(super) struct Torture<'a, O> {
    /// How the server is reached.
    pub(super) options: O,
    /// Its `HOST:PORT`.
    pub(super) target: String,
    /// The same options by another address, with another patience.
    pub(super) by: &'a dyn Fn(&O, &str, Duration) -> O,
    pub(super) lanes: Lanes<O>,
    /// The same as nodes have it: that is how the log is read in the end, whoever has written it.
    pub(super) careful: Lanes<O>,
    /// One fault of the server, and its end.
    pub(super) fault: &'a dyn Fn(&mut Dice),
}

/// One round's end.
pub(super) struct Round {
    /// Everything that does not agree.
    pub(super) wrong: Vec<String>,
    pub(super) claims: usize,
    pub(super) committed: usize,
    pub(super) unknown: usize,
}

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

impl<O: Send> Torture<'_, O> {
    /// Runs owners against each other for a while, and looks at what is left.
    pub(super) fn round(&self, span: Duration, seed: u64) -> Round {
        let lane = fresh_lane();
        let histories = self.run(lane, span, seed);
        let count = |what: fn(&Appended) -> bool| {
            histories.iter().flat_map(|it| &it.appends).filter(|it| what(&it.answer)).count()
        };
        let committed = count(|answer| *answer == Appended::Committed);
        let unknown = count(|answer| matches!(answer, Appended::Unknown(_)));
        let claims = histories.iter().map(|it| it.claims.len()).sum();
        let wrong = match self.log_of(lane) {
            Ok(log) => check(&histories, &log),
            Err(error) => vec![format!("the log cannot be read: {error}")],
        };
        Round { wrong, claims, committed, unknown }
    }

    /// Nothing may be wrong after a round, and something has to have been tried.
    pub(super) fn assert_nothing_is_lost(&self) {
        let Round { wrong, claims, committed, unknown } = self.round(span(), seed());
        println!("{claims} claims, {committed} records committed, {unknown} answers unknown");
        assert_eq!(wrong, Vec::<String>::new());
        let tried = claims >= CLAIMS_MIN && committed >= COMMITTED_MIN;
        assert!(tried, "nothing was tried: {claims} claims, {committed} records");
    }

    /// Owners that take no care fork the log sooner or later, and a round has to find it.
    pub(super) fn assert_a_fork_is_found(&self) {
        let seed = seed();
        let found = (seed..seed + CARELESS_ROUNDS_MAX)
            .find_map(|seed| self.round(CARELESS_SPAN, seed).wrong.into_iter().next());
        println!("{}", found.expect("an owner that was fenced has published"));
    }

    fn run(&self, lane: LaneId, span: Duration, seed: u64) -> Vec<History> {
        let (proxies, lanes, done) = (Proxies::start(), self.lanes, Done::default());
        let done = &done;
        std::thread::scope(|scope| {
            let mut stops = Vec::new();
            let mut stop = || {
                let (stop, over) = channel();
                stops.push(stop);
                over
            };
            let mut owners = Vec::new();
            for n in 0..OWNERS {
                let proxy = proxies.proxy(&self.target, seed + n);
                let options = (self.by)(&self.options, &proxy.address, PATIENCE);
                let (over, dice) = (stop(), Dice::of(seed, &format!("torment {n}")));
                scope.spawn(move || torment(&proxy, dice, &over));
                let (over, dice) = (stop(), Dice::of(seed, &format!("owner {n}")));
                owners.push(scope.spawn(move || own(lanes, &options, lane, dice, (&over, done))));
            }
            let (began, mut dice) = (Instant::now(), Dice::of(seed, "server"));
            while began.elapsed() < span || !done.is_enough() && began.elapsed() < span + WAIT {
                std::thread::sleep(dice.millis(1_000, 5_000).min(span));
                (self.fault)(&mut dice);
            }
            drop(stops);
            owners.into_iter().map(|owner| owner.join().expect("no panic")).collect()
        })
    }

    /// The log as it is in the end: of each record the epoch and the hash.
    fn log_of(&self, lane: LaneId) -> Result<BTreeMap<u64, (Epoch, Hash)>, StoreError> {
        let mut store = (self.careful)(&self.options, lane)?;
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
}

/// Claims and appends, again and again, until `over` ends.
fn own<O>(
    lanes: Lanes<O>,
    options: &O,
    lane: LaneId,
    mut dice: Dice,
    (over, done): (&Receiver<()>, &Done),
) -> History {
    let mut history = History::default();
    let ended = |wait| over.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
    while !ended(dice.millis(0, 200)) {
        let claimed = lanes(options, lane).and_then(|mut store| {
            let claimed = ask(&mut *store, |store, done| store.claim(done))?;
            Ok((store, claimed))
        });
        match claimed {
            Ok((store, claimed)) => {
                history.claims.push(claimed);
                done.claims.fetch_add(1, Ordering::Relaxed);
                let before = history.appends.len();
                let until = Instant::now() + dice.millis(100, 1_500);
                reign(store, claimed, (lane, until), &mut dice, &mut history);
                let appends = history.appends[before..].iter();
                let committed = appends.filter(|it| it.answer == Appended::Committed).count();
                done.committed.fetch_add(committed, Ordering::Relaxed);
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
        let mut sent = Vec::new();
        for _ in 0..=dice.index(store.appends_max()) {
            // Some are large enough to be written in parts.
            let bytes = if dice.percent(3) { 700 << 10 } else { dice.order_of(10, 20_000) };
            let mut body = vec![0; usize::try_from(bytes).expect("small")];
            dice.fill(&mut body);
            let record = next_record(lane, &claimed, &body);
            let (epoch, number, hash) = (claimed.epoch, claimed.last.next(), hash_of(&record));
            let answer = send(&mut *store, |store, done| store.append(epoch, number, record, done));
            sent.push((number, hash, answer));
            (claimed.last, claimed.last_hash) = (number, hash);
        }
        let epoch = claimed.epoch;
        let mut ended = false;
        for (number, hash, answer) in sent {
            let answer = answer.recv_timeout(WAIT).expect("an answer comes");
            ended |= answer != Appended::Committed;
            if let Appended::DefinitelyNot(damage @ StoreError::Damaged { .. }) = &answer {
                history.damage.push(damage.clone());
            }
            history.appends.push(Append { epoch, number, hash, answer });
        }
        if ended {
            return;
        }
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

/// The seed of a test, which it prints.
fn seed() -> u64 {
    let given = std::env::var("DPC_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        u64::from(Instant::now().elapsed().subsec_nanos()) + u64::from(std::process::id())
    });
    println!("seed: DPC_TEST_SEED={seed} (the server's own timing is not repeated)");
    seed
}

/// How long the owners fight: with `DPC_LONG=1` five minutes.
pub(super) fn span() -> Duration {
    let long = std::env::var_os("DPC_LONG").is_some_and(|value| value == "1");
    Duration::from_secs(if long { 300 } else { 10 })
}
