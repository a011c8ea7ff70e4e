//! The core of a lane whose node is gone, run in this process as a neighbour of the process's own
//! until the lane is empty.

use std::sync::Arc;
use std::time::Duration;

use dpc_core::effect::Answer;
use dpc_core::ids::{LaneId, RecordNumber};
use dpc_core::input::Operator;
use dpc_core::message::Protocols;
use dpc_core::names::Name;
use dpc_core::shared::SharedLane;
use dpc_core::store::Claimed;
use dpc_core::time::Span;
use dpc_core::{Input, PartInfo, Settings};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Host, Stories};
use crate::driver::{Disk, Driver, Edges, Halt};
use crate::edge::{Dial, Index};
use crate::followed::Followed;
use crate::link::{Links, keep_dialling};
use crate::node::recover_unread;
use crate::service::{Hub, Identity};
use crate::unread::UnreadParts;

/// How often it is told how much is left, while that changes.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// The longest name of a node.
const NAME_MAX: usize = 64;

/// An adopted lane that has been claimed.
pub(crate) struct Guest<S, I> {
    pub(crate) lane: LaneId,
    pub(crate) claimed: Claimed,
    pub(crate) store: S,
    pub(crate) index: I,
    /// What the index holds.
    pub(crate) parts: Vec<PartInfo>,
    /// `self_fence_after`, where others can claim the lane.
    pub(crate) fence: Option<Span>,
    /// Nodes that are dialled besides the host: where no list says who owns a lane in doubt.
    pub(crate) peers: Vec<String>,
    /// How its history is kept, if the store has tables for that.
    pub(crate) stories: Option<Stories>,
}

/// Runs the lane until it is retired, lost, or the process ends.
pub(crate) async fn run<S, I, D>(host: Host<D>, mut guest: Guest<S, I>) -> Result<(), Halt>
where
    S: SharedLane + Send + 'static,
    I: Index + Send + 'static,
    D: Dial,
{
    let (lane, claimed) = (guest.lane, guest.claimed);
    let identity = identity(&host.hub, &guest);
    let entropy = || (host.random.lock().expect("nobody panics while holding it"))();
    let settings = Settings {
        name: identity.name.clone(),
        lane,
        incarnation: identity.incarnation,
        seed: entropy().next_u64(),
        limits: host.hub.limits.clone(),
        protocols: Protocols::default(),
        fence: guest.fence,
        heir: Some(host.hub.identity.lane),
    };
    let parts = std::mem::take(&mut guest.parts);
    let recovered = recover_unread(settings, claimed, &mut guest.store, parts).await;
    let (mut core, unread) = recovered.map_err(|error| Halt::Failed(error.to_string()))?;
    // What has to be given away needs no ids. Whoever asks for one waits for its part to be read.
    unread.iter().for_each(|part| core.restore_unread(part.part));
    if guest.stories.is_some() {
        // What ended in it is told when it ends: until then the log is kept.
        core.restore_history(RecordNumber(0));
    }
    tracing::info!(%lane, epoch = %claimed.epoch, name = %identity.name, "the lane is adopted");

    let addresses: Vec<String> =
        std::iter::once(host.hub.addresses().nodes).chain(guest.peers).collect();
    let bounds = (host.hub.limits.clone(), host.hub.bounds.clone());
    let links = Links::new(&addresses);
    let stories = guest.stories;
    let told = (None, stories.as_ref().map(Stories::finding));
    let (hub, inbox) = Hub::new(identity, bounds, host.hub.clock.clone(), links, told);
    let edges = Edges {
        store: guest.store,
        index: guest.index,
        unread: UnreadParts::of(unread),
        history: stories.clone().map_or(Followed::Nothing, Followed::at_the_end),
        // It writes nothing but what makes the lane smaller.
        disk: Disk { free: Box::new(|| None), reserve: 0 },
        completed: mpsc::unbounded_channel(),
    };
    host.hub.guests.add(&hub);
    host.hub.feed_now(Input::Adopts { lane, runs: true });
    let mut around = JoinSet::new();
    for (at, address) in addresses.into_iter().enumerate() {
        let (hub, dialer) = (Arc::clone(&hub), host.dialer.clone());
        around.spawn(keep_dialling(hub, dialer, at, address, entropy()));
    }
    around.spawn(tell_progress(Arc::clone(&hub)));
    let driver = Driver::new(core, Arc::clone(&hub), inbox, edges, &claimed, None);
    let ended = driver.run(host.stop.clone()).await;
    around.abort_all();
    if let Some(stories) = stories {
        stories.remove(lane);
    }
    host.hub.guests.remove(lane);
    hub.end_all("the adopted lane has ended here");
    hub.links.cut_all();
    host.hub.feed_now(Input::Adopts { lane, runs: false });
    match &ended {
        Ok(()) => tracing::info!(%lane, "the node stops; the adopted lane is not empty yet"),
        Err(Halt::Retired) => tracing::info!(%lane, "the adopted lane is empty: retired"),
        Err(Halt::Fenced(epoch)) => {
            tracing::warn!(%lane, "the adopted lane has another owner, with epoch {epoch}");
        }
        // Whoever has asked for it says so.
        Err(Halt::Failed(_)) => {}
    }
    ended
}

/// An adopted core is called after its host and its lane.
fn identity<S, I>(hub: &Hub, guest: &Guest<S, I>) -> Identity {
    let lane = format!(".{}", guest.lane.short());
    let host = hub.identity.name.as_str();
    let host = &host[..host.len().min(NAME_MAX - lane.len())];
    let name = Name::new("node_name", &format!("{host}{lane}"));
    Identity {
        name: name.expect("made of a name and hexadecimal digits"),
        lane: guest.lane,
        epoch: guest.claimed.epoch,
        started_at: hub.clock.now().wall,
        ..hub.identity.clone()
    }
}

/// Says now and then what is left in the lane.
async fn tell_progress(hub: Arc<Hub>) {
    let mut told = None;
    loop {
        let Ok(Answer::Types(types)) = hub.operator(Operator::Types).await else { return };
        let left: u64 = types
            .iter()
            .map(|t| t.ready + t.leased + t.delayed + t.parked + t.offered + t.held)
            .sum();
        if told != Some(left) {
            tracing::info!(lane = %hub.identity.lane, "{left} objects are left in the adopted lane");
            told = Some(left);
        }
        tokio::time::sleep(PROGRESS_EVERY).await;
    }
}
