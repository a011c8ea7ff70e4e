//! Failover by adoption (docs/failover.md): the membership of a process in a store that several
//! share, and the lanes of dead nodes that it runs beside its own.
//!
//! [`dpc_core::members`] decides; this performs, over any [`SharedStore`]. A store that several
//! nodes share has to keep the contract of [`dpc_core::shared`], and nothing else is asked of it.

mod guest;
mod own;
mod story;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpc_core::ids::{Epoch, Incarnation, LaneId};
use dpc_core::members::{Heard, Members, Move, Ways};
use dpc_core::shared::{LaneState, Owner, SharedLane, SharedStore};
use dpc_core::store::{Claimed, StoreError};
use dpc_core::time::Span;
use dpc_core::{Input, PartInfo};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) use guest::Guest;
pub(crate) use own::{OwnLane, take_lane_again, take_own_lane};
pub use story::Stories;

use crate::driver::Halt;
use crate::edge::{Dial, Entropy, Index};
use crate::link::{dial_lane, probe};
use crate::node::{Rescued, claim};
use crate::service::Hub;
use crate::store::PostgresInbox;

/// How long a node that has missed beats is given to answer a direct question.
const PROBE: Duration = Duration::from_secs(1);

/// How long an adopted lane rests that could not be run, before it is tried again.
const REST: Duration = Duration::from_secs(30);

/// The most neighbours of this node that an adopted lane gets links to.
const NEIGHBOURS_MAX: usize = 16;

/// How long adopted lanes are given to write their last records when the process ends.
const GUESTS_END: Duration = Duration::from_secs(10);

/// How nodes that share a store watch each other.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Without proof of ownership for so long nothing is delivered: less than `dead_after`.
    pub self_fence_after: Span,
    /// How often a process beats and reads.
    pub heartbeat: Span,
    /// Silence after which another one is taken for dead.
    pub dead_after: Span,
    /// Most lanes of others that a process runs at once.
    pub adopted_max: usize,
}

/// What a node's process shares with others through its store.
pub struct Shared<S, I> {
    /// The store.
    pub store: Box<dyn SharedStore<Lane = S> + Send>,
    /// This start of the process, under which its lane is claimed.
    pub incarnation: Incarnation,
    /// What the claim of its own lane found.
    pub claimed: Claimed,
    /// How it watches the others.
    pub pace: Pace,
    /// Makes an empty index for an adopted lane.
    pub open_index: OpenIndex<I>,
    /// How the histories of adopted lanes are kept, if the store has tables for that.
    pub stories: Option<Stories>,
    /// How often it has beaten already.
    pub beats: u64,
    /// What callers push inside their own transactions, if the store has that.
    pub inbox: Option<PostgresInbox>,
}

impl<S: SharedLane, I> Shared<S, I> {
    /// Beats while something lasts that comes before the process takes part: the recovery of a large
    /// lane can take longer than others wait for a sign of life.
    pub(crate) async fn beat_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.beats += 1;
            // A beat that fails is followed by the next one.
            self.store.beat(self.beats, Box::new(|_beaten| {}));
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(self.pace.heartbeat.to_std()) => {}
            }
        }
    }
}

/// Makes an empty index for an adopted lane.
pub type OpenIndex<I> = Box<dyn FnMut(LaneId) -> Result<I, StoreError> + Send>;

/// What makes sources of randomness, for all of a process.
pub(crate) type Randomness = Arc<Mutex<Box<dyn FnMut() -> Box<dyn Entropy> + Send>>>;

/// The process that a lane is adopted by.
#[derive(Clone)]
pub(crate) struct Host<D> {
    /// Its own lane's hub.
    pub(crate) hub: Arc<Hub>,
    pub(crate) dialer: D,
    pub(crate) random: Randomness,
    /// Says when the process ends.
    pub(crate) stop: watch::Receiver<bool>,
}

/// Takes part until the process ends.
pub(crate) async fn take_part<S, I, D>(host: Host<D>, shared: Shared<S, I>)
where
    S: SharedLane + Send + 'static,
    I: Index + Send + 'static,
    D: Dial,
{
    let Pace { heartbeat, dead_after, adopted_max, .. } = shared.pace;
    let ways = Ways { me: shared.incarnation, heartbeat, dead_after, adopted_max };
    let now = host.hub.clock.mono();
    let mut members = Members::new(ways, host.hub.identity.lane, shared.claimed.epoch, now);
    members.has_beaten(shared.beats);
    let (said, heard) = mpsc::unbounded_channel();
    let process = Process {
        host,
        shared,
        members,
        said,
        adopted: BTreeMap::new(),
        dialling: BTreeMap::new(),
        blind: false,
    };
    process.run(heard).await;
}

/// Empties the lane of a rescued disk, or runs it until the process ends.
pub(crate) async fn rescue<D: Dial>(host: Host<D>, rescued: Rescued, peers: Vec<String>) {
    let Rescued { folder, lane, claimed, store, index, parts } = rescued;
    let stories = None;
    let guest = Guest { lane, claimed, store, index, parts, fence: None, peers, stories };
    let folder = folder.display();
    // A panic of one lane's core is not the end of the others.
    match tokio::spawn(guest::run(host, guest)).await {
        Ok(Err(Halt::Retired)) => {
            tracing::info!("{folder} is empty and can be deleted");
        }
        Ok(Err(Halt::Failed(why))) => {
            tracing::error!("the lane in {folder} cannot be run: {why}; start the node again");
        }
        Err(panic) => tracing::error!("the lane in {folder} cannot be run: a bug: {panic}"),
        Ok(Ok(()) | Err(Halt::Fenced(_))) => {}
    }
}

struct Process<S, I, D> {
    host: Host<D>,
    shared: Shared<S, I>,
    members: Members,
    /// Where answers come.
    said: mpsc::UnboundedSender<Heard>,
    /// The tasks of adopted lanes.
    adopted: BTreeMap<LaneId, JoinHandle<()>>,
    /// The tasks that dial owners of lanes in doubt, by who is in doubt and about which lane.
    dialling: BTreeMap<(LaneId, LaneId), JoinHandle<()>>,
    /// The list of lanes could not be read of late.
    blind: bool,
}

impl<S, I, D> Process<S, I, D>
where
    S: SharedLane + Send + 'static,
    I: Index + Send + 'static,
    D: Dial,
{
    async fn run(mut self, mut heard: mpsc::UnboundedReceiver<Heard>) {
        let mut stop = self.host.stop.clone();
        self.hear(Heard::Wake);
        loop {
            let wake = self.host.hub.clock.instant(self.members.next_wake());
            tokio::select! {
                biased;
                // Whoever could say stop and is gone has no use for a member either.
                _ = stop.wait_for(|stop| *stop) => break,
                Some(word) = heard.recv() => self.hear(word),
                () = tokio::time::sleep_until(wake) => self.hear(Heard::Wake),
            }
        }
        self.dialling.into_values().for_each(|task| task.abort());
        let ends = async {
            for task in self.adopted.into_values() {
                // A panic of it was told where it happened.
                let _ended = task.await;
            }
        };
        if tokio::time::timeout(GUESTS_END, ends).await.is_err() {
            tracing::warn!("adopted lanes had not ended when the node stopped");
        }
    }

    fn hear(&mut self, heard: Heard) {
        let table = matches!(heard, Heard::Table(Some(_)));
        self.tell_sight(&heard);
        let mut moves = Vec::new();
        self.members.handle(self.host.hub.clock.mono(), heard, &mut moves);
        for what in moves {
            self.make(what);
        }
        if table {
            self.look_for_lanes();
        }
    }

    /// Says once that the list of lanes cannot be read, and once that it can be read again.
    fn tell_sight(&mut self, heard: &Heard) {
        match heard {
            Heard::Table(None) if !self.blind => {
                tracing::warn!(
                    "the list of lanes cannot be read: nobody is declared dead meanwhile"
                );
                self.blind = true;
            }
            Heard::Table(Some(_)) if self.blind => {
                tracing::info!("the list of lanes can be read again");
                self.blind = false;
            }
            _ => {}
        }
    }

    fn make(&mut self, what: Move) {
        let said = self.said.clone();
        let say = move |heard| {
            // The process ends: nobody waits for the answer.
            let _ended = said.send(heard);
        };
        match what {
            Move::Beat(number) => {
                self.shared.store.beat(number, Box::new(move |_| say(Heard::Beaten)));
            }
            Move::Read => {
                let tell = move |table: Result<_, StoreError>| {
                    if let Err(error) = &table {
                        tracing::debug!("the list of lanes: {error}");
                    }
                    say(Heard::Table(table.ok()));
                };
                self.shared.store.table(Box::new(tell));
            }
            Move::Probe(owner) => self.ask(owner, say),
            Move::DeclareDead(lane, owner, epoch) => {
                let name = self.members.lane(lane).map(|row| row.owner.name.to_string());
                let node = name.unwrap_or_default();
                tracing::warn!(node, %lane, %epoch, "its owner is silent: the lane is declared dead");
                let tell = Box::new(move |changed| say(Heard::Declared(lane, changed)));
                self.shared.store.declare_dead(lane, owner, epoch, tell);
            }
            Move::Claim(lane, owner, epoch) => self.adopt(lane, (owner, epoch)),
            Move::Fenced(lane, epoch) => {
                let own = self.host.hub.identity.lane == lane;
                let hub = if own { Some(Arc::clone(&self.host.hub)) } else { None };
                if let Some(hub) = hub.or_else(|| self.host.hub.guests.get(lane)) {
                    hub.feed_now(Input::Fenced(epoch));
                }
            }
            Move::TooMany(0) => self.host.hub.alarms.clear("ADOPTION_LIMIT", ""),
            Move::TooMany(count) => {
                let text = format!(
                    "{count} lanes of dead nodes wait for a node that may run them: raise limits.adopted_lanes, or start nodes"
                );
                tracing::warn!("ADOPTION_LIMIT: {text}");
                let now = self.host.hub.clock.now().wall;
                self.host.hub.alarms.raise("ADOPTION_LIMIT", "", text, now);
            }
        }
    }

    /// Asks a silent process directly.
    fn ask(&self, owner: Owner, say: impl FnOnce(Heard) + Send + 'static) {
        let (hub, dialer) = (Arc::clone(&self.host.hub), self.host.dialer.clone());
        tokio::spawn(async move {
            let found = probe(&hub, &dialer, &owner.address, PROBE).await;
            let answered = found == Some(owner.incarnation);
            if answered {
                tracing::warn!(node = %owner.name, "its beats are missing, and it lives");
            }
            say(Heard::Probed(owner.incarnation, answered));
        });
    }

    /// Claims a dead node's lane and runs it, in a task of its own.
    fn adopt(&mut self, lane: LaneId, from: (Incarnation, Epoch)) {
        self.adopted.retain(|_, task| !task.is_finished());
        let mut store = self.shared.store.lane(lane, Some(from));
        let index = (self.shared.open_index)(lane);
        let (host, said) = (self.host.clone(), self.said.clone());
        let fence = Some(self.shared.pace.self_fence_after);
        let mut stories = self.shared.stories.clone();
        if let (Some(stories), Some(row)) = (&mut stories, self.members.lane(lane)) {
            // What it tells happened at that node.
            stories.to.node = row.owner.name.clone();
        }
        let mut stop = self.host.stop.clone();
        let work = async move {
            // The process ends: nobody waits for what is said.
            let say = |heard| drop(said.send(heard));
            let claimed = match claim(&mut store).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::info!(%lane, "the lane is not adopted: {error}");
                    return say(Heard::NotClaimed(lane));
                }
            };
            say(Heard::Runs(lane, claimed.epoch));
            let ended = match index {
                Ok(index) => {
                    let parts: Vec<PartInfo> = Vec::new();
                    let peers = Vec::new();
                    let guest = Guest { lane, claimed, store, index, parts, fence, peers, stories };
                    // A panic of one lane's core is not the end of the others.
                    tokio::spawn(guest::run(host, guest)).await
                }
                Err(error) => Ok(Err(Halt::Failed(error.to_string()))),
            };
            let failed = match ended {
                Ok(Ok(()) | Err(Halt::Retired | Halt::Fenced(_))) => None,
                Ok(Err(Halt::Failed(why))) => Some(why),
                Err(panic) => Some(format!("a bug: {panic}")),
            };
            if let Some(why) = failed {
                tracing::error!(%lane, "the adopted lane cannot be run: {why}; trying again");
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = tokio::time::sleep(REST) => {}
                }
            }
            say(Heard::Ended(lane));
        };
        self.adopted.insert(lane, tokio::spawn(work));
    }

    /// For whatever is in doubt with a lane to which there is no link: its owner stands in the list
    /// of lanes and is dialled, unless the lane is retired.
    fn look_for_lanes(&mut self) {
        self.dialling.retain(|_, task| !task.is_finished());
        let own = Arc::clone(&self.host.hub);
        for hub in std::iter::once(own).chain(self.host.hub.guests.all()) {
            // The driver notes what is in doubt when it turns.
            hub.feed_now(Input::Wake);
            for lane in hub.doubts() {
                if self.members.lane(lane).is_some_and(|row| row.state == LaneState::Retired) {
                    hub.feed_now(Input::LaneRetired(lane));
                } else {
                    self.dial(&hub, lane);
                }
            }
        }
        self.link_guests();
    }

    /// An adopted lane gets links to this node's neighbours: what they want need not pass through this
    /// node's own lane, which would be written twice for it.
    fn link_guests(&mut self) {
        let own = &self.host.hub;
        let links = own.links.ready_links().into_iter().map(|(_, lane, _)| lane);
        let others = links.filter(|lane| own.guests.get(*lane).is_none());
        let neighbours: Vec<LaneId> = others.take(NEIGHBOURS_MAX).collect();
        for hub in self.host.hub.guests.all() {
            let linked = hub.links.ready_links();
            for lane in &neighbours {
                if linked.iter().all(|(_, known, _)| known != lane) {
                    self.dial(&hub, *lane);
                }
            }
        }
    }

    /// Dials the owner of a lane, as the list of lanes has it, for one of the lanes that run here.
    fn dial(&mut self, hub: &Arc<Hub>, lane: LaneId) {
        let Some(row) = self.members.lane(lane) else { return };
        let (dialer, address) = (self.host.dialer.clone(), row.owner.address.to_string());
        let hub = Arc::clone(hub);
        self.dialling
            .entry((hub.identity.lane, lane))
            .or_insert_with(|| tokio::spawn(dial_lane(hub, dialer, address, lane)));
    }
}
