//! Links to peers: the handshake (R4), and what comes in over a link.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::effect::{Effect, Effects, Note};
use crate::ids::{Epoch, Incarnation, LaneId, LinkId, RecordNumber};
use crate::input::ReplyTo;
use crate::limits::HELLO_PEERS_MAX;
use crate::message::{
    Advert, Demand, DemandKey, Hello, LaneHello, LinkRefusal, Message, Protocols, Window,
};
use crate::names::Name;
use crate::paths::Paths;
use crate::peers::Peers;
use crate::planted::{Bug, planted};
use crate::queues::Type;
use crate::record::{Entry, PeerSeen};
use crate::recording::{SlicedMap, Slices};
use crate::time::{Mono, Span};

/// How long a passed settle waits for its answer.
pub(crate) const PASS_TIMEOUT: Span = Span::secs(2);

/// Most passed settles that wait.
pub(crate) const PASSES_MAX: usize = 4_096;

/// One link.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) dialled: bool,
    /// Whether the handshake is done.
    pub(crate) ready: bool,
    pub(crate) name: Name,
    /// How decisions call it.
    pub(crate) who: Arc<str>,
    pub(crate) lane: LaneId,
    pub(crate) incarnation: Incarnation,
    /// The version of the link protocol that both sides use: the newest common one.
    pub(crate) protocol: u32,
    /// What the peer can use.
    pub(crate) demands: BTreeMap<DemandKey, Remote>,
    /// Objects offered since the link came up for demands that are withdrawn now: windows are
    /// absolute totals, so the count goes on when the demand comes back.
    pub(crate) spent: BTreeMap<DemandKey, u64>,
    /// What the peer has been told.
    pub(crate) told: BTreeMap<DemandKey, Demand>,
    /// Objects the peer has offered since the link came up, by window.
    pub(crate) received: BTreeMap<DemandKey, u64>,
    pub(crate) sent_objects: u64,
    pub(crate) received_objects: u64,
    /// How long an offer over it waits for its answer: a slow link needs longer than
    /// `offer_timeout`, and an offer that is taken back too early has to cross it again.
    pub(crate) patience: Span,
}

/// A peer's demand as it was told, and what of its window has been used.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Remote {
    pub(crate) demand: Demand,
    pub(crate) offered: u64,
    /// The peer has refused an offer for it: no other one before this.
    pub(crate) paused_until: Mono,
}

/// Who waits for a passed settle.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Asker {
    Client(ReplyTo),
    Link(LinkId, u64),
}

/// Everything about peers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mesh {
    #[serde(skip)]
    links: SlicedMap<LinkId, Link>,
    /// What peers' lanes were known to be.
    pub(crate) peers: Peers,
    /// Which links want what.
    #[serde(skip)]
    wanted: BTreeSet<(DemandKey, LinkId)>,
    /// The ways that demand comes and goes.
    #[serde(skip)]
    pub(crate) paths: Paths,
    /// Demands whose adverts may have changed.
    pub(crate) dirty: BTreeSet<DemandKey>,
    /// Own demands that were told as new a moment ago, with when: those that flap wait.
    pub(crate) appeared: BTreeMap<DemandKey, Mono>,
    /// When a newer generation was last asked for.
    pub(crate) refresh_asked: BTreeMap<(LinkId, DemandKey), Mono>,
    /// Objects here in transit, by demand, with the era of the count.
    pub(crate) transit: BTreeMap<DemandKey, (u64, u64)>,
    pub(crate) transit_era: u64,
    /// The record that the last adverts waited for.
    pub(crate) adverts_after: RecordNumber,
    pub(crate) asks: BTreeMap<u64, (Asker, Mono)>,
    pub(crate) last_ask: u64,
    protocols: Protocols,
}

impl Mesh {
    pub(crate) fn new(protocols: Protocols) -> Self {
        assert!(protocols.oldest <= protocols.newest, "a node speaks at least one version");
        Self { protocols, ..Self::default() }
    }

    /// The newest version of the link protocol that this node speaks.
    pub(crate) fn newest_protocol(&self) -> u32 {
        self.protocols.newest
    }

    /// What goes into a snapshot in slices: a link with its adverts is one entry.
    pub(crate) fn slices(&mut self) -> [&mut dyn Slices; 1] {
        [&mut self.links]
    }

    /// What follows from the slices.
    pub(crate) fn derive(&mut self) {
        for (link, l) in &self.links {
            self.wanted.extend(l.demands.keys().map(|key| (key.clone(), *link)));
        }
    }

    pub(crate) fn link(&self, link: LinkId) -> Option<&Link> {
        self.links.get(&link).filter(|l| l.ready)
    }

    pub(crate) fn link_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&link).filter(|l| l.ready)
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().filter(|(_, l)| l.ready).map(|(id, l)| (*id, l))
    }

    pub(crate) fn link_to(&self, lane: LaneId) -> Option<LinkId> {
        self.links().find(|(_, l)| l.lane == lane).map(|(id, _)| id)
    }

    pub(crate) fn has_links(&self) -> bool {
        self.links().next().is_some()
    }

    /// A link, and the paths that what is told over it shares with others.
    pub(crate) fn link_and_paths(&mut self, link: LinkId) -> Option<(&mut Link, &mut Paths)> {
        let l = self.links.get_mut(&link).filter(|l| l.ready)?;
        Some((l, &mut self.paths))
    }

    /// Demands of peers that a type matches, by whatever processor.
    pub(crate) fn wanted<'a>(
        &'a self,
        ty: &'a Type,
    ) -> impl Iterator<Item = &'a (DemandKey, LinkId)> {
        ty.demands.iter().flat_map(|least| {
            let known = self.wanted.range((least.clone(), LinkId(0))..);
            known.take_while(move |(key, _)| key.pattern == least.pattern)
        })
    }

    /// Whether any peer wants anything.
    pub(crate) fn is_wanted_by_any(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Whether any peer wants a type.
    pub(crate) fn is_wanted(&self, ty: &Type) -> bool {
        self.wanted(ty).next().is_some()
    }

    /// The links over which a demand is told.
    pub(crate) fn who_wants(&self, key: &DemandKey) -> impl Iterator<Item = LinkId> {
        let all = (key.clone(), LinkId(0))..=(key.clone(), LinkId(u64::MAX));
        self.wanted.range(all).map(|(_, link)| *link)
    }

    /// Whether a demand can be reached over another link than this one.
    pub(crate) fn has_demand_beyond(&self, link: LinkId, key: &DemandKey) -> bool {
        self.who_wants(key).any(|l| l != link)
    }

    /// The key as another link has told it, so that it is in memory once.
    fn shared(&self, key: DemandKey) -> DemandKey {
        let known = self.wanted.range((key.clone(), LinkId(0))..).next();
        known.filter(|(k, _)| *k == key).map_or(key, |(k, _)| k.clone())
    }

    pub(crate) fn count_received(&mut self, link: LinkId, key: &DemandKey, count: u64) {
        if let Some(l) = self.link_mut(link) {
            if l.received.len() < crate::limits::ADVERTS_MAX || l.received.contains_key(key) {
                *l.received.entry(key.clone()).or_default() += count;
            }
            l.received_objects += count;
        }
    }

    pub(crate) fn uncount_received(&mut self, link: LinkId, key: &DemandKey, count: u64) {
        if let Some(l) = self.link_mut(link)
            && let Some(received) = l.received.get_mut(key)
        {
            *received -= count.min(*received);
            l.received_objects -= count.min(l.received_objects);
        }
    }

    /// Settles that were passed on and wait for their answers.
    pub(crate) fn passes(&self) -> usize {
        self.asks.len()
    }

    fn index(&mut self, key: &DemandKey, link: LinkId, there: bool) {
        if there {
            self.wanted.insert((key.clone(), link));
        } else {
            self.wanted.remove(&(key.clone(), link));
        }
    }

    /// All keys of demand that peers have told.
    pub(crate) fn remote_keys(&self) -> BTreeSet<DemandKey> {
        self.wanted.iter().map(|(key, _)| key.clone()).collect()
    }
}

/// How decisions call a node.
pub(crate) fn who(node: &Name) -> Arc<str> {
    format!("node {node}").into()
}

impl Core {
    /// The name of the node at the other end of a link, once it has said it.
    pub fn peer_of(&self, link: LinkId) -> Option<&Name> {
        self.mesh.link(link).map(|l| &l.name)
    }

    pub(crate) fn handle_link_up(&mut self, link: LinkId, dialled: bool, fx: &mut Effects) {
        let l = Link {
            dialled,
            ready: false,
            name: self.name.clone(),
            who: who(&self.name),
            lane: LaneId::default(),
            incarnation: Incarnation(0),
            protocol: 0,
            demands: BTreeMap::new(),
            spent: BTreeMap::new(),
            told: BTreeMap::new(),
            received: BTreeMap::new(),
            sent_objects: 0,
            received_objects: 0,
            patience: self.limits.offer_timeout,
        };
        let before = self.mesh.links.insert(link, l);
        assert!(before.is_none(), "the edge numbers links");
        let hello = Message::Hello(self.hello());
        fx.push(Effect::send(link, hello, None));
    }

    fn hello(&self) -> Hello {
        let (number, hash) = self.lane.committed();
        let (lane, epoch, incarnation) = (self.lane.id, self.lane.epoch, self.lane.incarnation);
        // Not knowing which peer this is yet, it names the lanes that it has heard of last.
        let latest = self.mesh.peers.by_age().rev().take(HELLO_PEERS_MAX);
        let known = latest.map(|p| (p.lane, p.epoch, p.number)).collect();
        Hello {
            protocol: self.mesh.protocols.newest,
            protocol_min: self.mesh.protocols.oldest,
            name: self.name.clone(),
            lanes: vec![LaneHello { lane, epoch, incarnation, number, hash }],
            generation: self.generation(),
            known,
        }
    }

    pub(crate) fn handle_link_down(&mut self, link: LinkId, _fx: &mut Effects) {
        let Some(l) = self.mesh.links.get(&link) else { return };
        if !l.ready {
            self.mesh.links.remove(&link);
            return;
        }
        self.withdraw_all(link);
        let l = self.mesh.links.remove(&link).expect("just found");
        self.mesh.refresh_asked.retain(|(via, _), _| *via != link);
        for key in l.demands.keys() {
            self.mesh.index(key, link, false);
            self.on_demand_changed(key);
        }
    }

    pub(crate) fn handle_peer(&mut self, link: LinkId, message: Message, fx: &mut Effects) {
        let Some(l) = self.mesh.links.get(&link) else { return };
        if let Message::Hello(hello) = message {
            if l.ready {
                return self.refuse_link(link, LinkRefusal::Malformed("a second Hello".into()), fx);
            }
            return self.on_hello(link, &hello, fx);
        }
        if let Message::Refuse(refusal) = message {
            let name = l.name.clone();
            if refusal == LinkRefusal::Forgotten(self.lane.id) {
                self.learn_forgotten();
            }
            if let LinkRefusal::RolledBack { lane, known, .. } = &refusal
                && *lane == self.lane.id
                && self.see_own_epoch(known.0, fx)
            {
                return;
            }
            let redial = may_redial(&refusal);
            fx.push(Effect::Note(Note::LinkRefused(name, Box::new(refusal.clone()))));
            fx.push(Effect::CloseLink { link, refusal, redial });
            return self.handle_link_down(link, fx);
        }
        if !l.ready {
            return self.refuse_link(link, LinkRefusal::Malformed("no Hello first".into()), fx);
        }
        self.on_message(link, message, fx);
    }

    fn on_message(&mut self, link: LinkId, message: Message, fx: &mut Effects) {
        let peer = self.mesh.links[&link].lane;
        if message.speaker().is_some_and(|lane| lane != peer) {
            return; // Only a transfer's two lanes decide it.
        }
        match message {
            Message::Hello(_) | Message::Refuse(_) => unreachable!("handled before"),
            Message::Adverts(adverts) => self.on_adverts(link, adverts, fx),
            Message::Windows(windows) => self.on_windows(link, windows),
            Message::Refresh(refresh) => self.on_refresh(link, refresh, fx),
            Message::Offer(offer) => self.on_offer(link, offer, fx),
            Message::Estate(estate) => self.on_estate(link, estate, fx),
            Message::Accept { transfer, refused } => self.on_accept(link, transfer, &refused, fx),
            Message::Decline { transfer, reason } => self.on_decline(transfer, reason),
            Message::Release(id) => self.on_release(link, id, fx),
            Message::Abort(id) => self.on_abort(id),
            Message::Taken(id) => self.on_taken(link, id, fx),
            Message::Status(id) => self.answer_status(link, id, fx),
            Message::Wait(_) => self.on_wait(),
            Message::Forget { sender, epoch, incarnation, through } => {
                self.on_forget(sender, epoch, incarnation, through);
            }
            Message::TransferUnknown(id) => {
                fx.push(Effect::Note(Note::TransferUnknown(id.to_string())));
            }
            Message::PassSettle { ask, hops_left, token, content } => {
                self.on_pass_settle(link, ask, hops_left, token, content, fx);
            }
            Message::PassedSettle { ask, answer } => self.on_passed_settle(ask, answer, fx),
        }
    }

    /// Compares histories. Afterwards the link is ready, or refused on both sides.
    fn on_hello(&mut self, link: LinkId, hello: &Hello, fx: &mut Effects) {
        let Some(own) = hello.lanes.first().copied() else {
            return self.refuse_link(
                link,
                LinkRefusal::Malformed("Hello without a lane".into()),
                fx,
            );
        };
        let mine = hello.known.iter().filter(|(lane, ..)| *lane == self.lane.id);
        if let Some(epoch) = mine.map(|(_, epoch, _)| *epoch).max()
            && self.see_own_epoch(epoch, fx)
        {
            return;
        }
        let l = self.mesh.links.get_mut(&link).expect("the caller found it");
        (l.name, l.lane, l.incarnation) = (hello.name.clone(), own.lane, own.incarnation);
        l.who = who(&l.name);
        let protocol = match self.check_hello(link, hello, own) {
            Ok(protocol) => protocol,
            Err(refusal) => return self.refuse_link(link, refusal, fx),
        };
        match self.rival_of(link, own) {
            Some((rival, true)) => {
                // The peer has restarted, or this link is the preferred one of two.
                let refusal = LinkRefusal::DuplicateLink;
                self.send_refusal(rival, &refusal, fx);
                fx.push(Effect::CloseLink { link: rival, refusal, redial: false });
                self.handle_link_down(rival, fx);
            }
            Some((_, false)) => return self.refuse_link(link, LinkRefusal::DuplicateLink, fx),
            None => {}
        }
        self.see_generation(hello.generation);
        self.note_peer(hello, own);
        let l = self.mesh.links.get_mut(&link).expect("the caller found it");
        (l.ready, l.protocol) = (true, protocol);
        fx.push(Effect::Note(Note::LinkReady(link, hello.name.clone(), own.lane)));
        self.resume_transfers(link, own.lane, fx);
        let own_keys = self.subs.groups().map(|(_, g)| g.key.clone());
        let keys: BTreeSet<DemandKey> = own_keys.chain(self.mesh.remote_keys()).collect();
        for key in keys {
            self.window_was_used(link, &key);
            self.mark_demand(key);
        }
    }

    /// Whether the peer may be linked, and the version of the protocol that both will use.
    fn check_hello(&self, link: LinkId, hello: &Hello, own: LaneHello) -> Result<u32, LinkRefusal> {
        let ours = self.mesh.protocols;
        let theirs = Protocols { oldest: hello.protocol_min, newest: hello.protocol };
        let Some(protocol) = ours.common(theirs) else {
            return Err(LinkRefusal::Protocol { ours: ours.newest });
        };
        if own.lane == self.lane.id {
            return Err(LinkRefusal::Itself);
        }
        let others = self.mesh.links().filter(|(id, _)| *id != link);
        let same_name = hello.name == self.name
            || others.into_iter().any(|(_, l)| l.name == hello.name && l.lane != own.lane);
        if same_name {
            return Err(LinkRefusal::DuplicateName(hello.name.clone()));
        }
        for lane in &hello.lanes {
            if self.transfers.verdicts.contains(&lane.lane) {
                return Err(LinkRefusal::Forgotten(lane.lane));
            }
            if let Some(known) = self.mesh.peers.get(&lane.lane) {
                check_history(lane.lane, (known.epoch, known.number), (lane.epoch, lane.number))?;
            }
        }
        let mine = (self.lane.epoch, self.lane.committed().0);
        for (lane, epoch, number) in &hello.known {
            if *lane == self.lane.id {
                check_history(*lane, (*epoch, *number), mine)?;
            }
        }
        if hello.generation > self.generation().saturating_add(crate::limits::GENERATION_JUMP_MAX) {
            return Err(LinkRefusal::Generation(hello.generation));
        }
        Ok(protocol)
    }

    /// A peer has forgotten this lane for ever: that is kept, so that whoever takes the lane's
    /// objects over knows that they are copies (R6).
    fn learn_forgotten(&mut self) {
        if !self.transfers.verdicts.contains(&self.lane.id) {
            self.transfers.forget_lane(self.lane.id);
            self.lane.write(&Entry::Verdict(self.lane.id));
            self.lane.urge();
        }
    }

    /// Another ready link to the same lane, and whether the new one takes its place: always when
    /// the peer has restarted; else the one that the lower lane dialled stays, so that both sides
    /// keep the same.
    fn rival_of(&self, link: LinkId, own: LaneHello) -> Option<(LinkId, bool)> {
        let (id, rival) = self.mesh.links().find(|(id, l)| *id != link && l.lane == own.lane)?;
        let new = &self.mesh.links[&link];
        if rival.incarnation != own.incarnation {
            return Some((id, true));
        }
        let preferred = |dialled: bool| dialled == (self.lane.id < own.lane);
        Some((id, preferred(new.dialled) && !preferred(rival.dialled)))
    }

    /// Remembers what a peer's lane is now, for the next handshake.
    fn note_peer(&mut self, hello: &Hello, own: LaneHello) {
        let seen = PeerSeen {
            lane: own.lane,
            name: hello.name.clone(),
            epoch: own.epoch,
            number: own.number,
        };
        if self.mesh.peers.get(&own.lane) != Some(&seen) {
            self.mesh.peers.insert(seen.clone());
            self.write_peer(seen);
        }
    }

    fn send_refusal(&self, link: LinkId, refusal: &LinkRefusal, fx: &mut Effects) {
        let message = Message::Refuse(refusal.clone());
        fx.push(Effect::send(link, message, None));
    }

    pub(crate) fn refuse_link(&mut self, link: LinkId, refusal: LinkRefusal, fx: &mut Effects) {
        let name = self.mesh.links[&link].name.clone();
        self.send_refusal(link, &refusal, fx);
        fx.push(Effect::Note(Note::LinkRefused(name, Box::new(refusal.clone()))));
        let redial = may_redial(&refusal);
        fx.push(Effect::CloseLink { link, refusal, redial });
        self.handle_link_down(link, fx);
    }

    fn on_adverts(&mut self, link: LinkId, adverts: Vec<Advert>, fx: &mut Effects) {
        for mut advert in adverts {
            advert.key = self.mesh.shared(advert.key);
            let Some(l) = self.mesh.links.get_mut(&link) else { return };
            if l.demands.len() >= crate::limits::ADVERTS_MAX && !l.demands.contains_key(&advert.key)
            {
                return self.refuse_link(
                    link,
                    LinkRefusal::Malformed("too many adverts".into()),
                    fx,
                );
            }
            let useful = advert.demand.filter(|d| {
                let loops = d.path.iter().any(|(_, lane)| *lane == self.lane.id);
                !loops && d.distance < self.limits.max_hops
            });
            if let Some(demand) = &useful {
                if !self.see_generation(demand.generation.counter) {
                    let refusal = LinkRefusal::Generation(demand.generation.counter);
                    return self.refuse_link(link, refusal, fx);
                }
                let namesake =
                    |(name, lane): &(Name, LaneId)| *name == self.name && *lane != self.lane.id;
                if demand.path.iter().any(namesake) {
                    let refusal = LinkRefusal::DuplicateName(self.name.clone());
                    fx.push(Effect::Note(Note::LinkRefused(self.name.clone(), Box::new(refusal))));
                }
            }
            let there = useful.is_some();
            let (l, paths) = self.mesh.link_and_paths(link).expect("just found");
            match useful.map(|d| Demand { path: paths.share(d.path), ..d }) {
                Some(demand) => match l.demands.get_mut(&advert.key) {
                    Some(remote) => remote.demand = demand,
                    None => {
                        let offered = l.spent.remove(&advert.key).unwrap_or(0);
                        let remote = Remote { demand, offered, paused_until: Mono(0) };
                        l.demands.insert(advert.key.clone(), remote);
                    }
                },
                None => {
                    let Some(remote) = l.demands.remove(&advert.key) else { continue };
                    if remote.offered > 0 {
                        l.spent.insert(advert.key.clone(), remote.offered);
                    }
                }
            }
            self.mesh.index(&advert.key, link, there);
            self.on_demand_changed(&advert.key);
        }
    }

    fn on_windows(&mut self, link: LinkId, windows: Vec<Window>) {
        for window in windows {
            let Some(l) = self.mesh.link_mut(link) else { return };
            let Some(remote) = l.demands.get_mut(&window.key) else { continue };
            remote.demand.window = remote.demand.window.max(window.total);
            self.on_demand_changed(&window.key);
        }
    }

    /// Something about a peer's demand has changed: objects may move, adverts may change.
    pub(crate) fn on_demand_changed(&mut self, key: &DemandKey) {
        self.stir_matching(key);
        if self.mesh.who_wants(key).next().is_none() {
            // What was in transit for it is stranded: it is backlog from now on.
            self.mesh.transit.remove(key);
        }
        self.mark_demand(key.clone());
    }

    pub(crate) fn stir_matching(&mut self, key: &DemandKey) {
        for queue in self.queues_matching(&key.pattern, &key.processor) {
            if !self.queues.get(queue).is_empty() {
                self.stirred.note(queue);
            }
        }
    }
}

/// A history that came back lower than it was known is a restored backup or a copy.
fn check_history(
    lane: LaneId,
    known: (Epoch, RecordNumber),
    now: (Epoch, RecordNumber),
) -> Result<(), LinkRefusal> {
    if (now.0 < known.0 || now.1 < known.1) && !planted(Bug::HistoryNotCompared) {
        return Err(LinkRefusal::RolledBack { lane, known, now });
    }
    Ok(())
}

/// Whether dialling again may end differently without a person's help.
fn may_redial(refusal: &LinkRefusal) -> bool {
    !matches!(refusal, LinkRefusal::Itself | LinkRefusal::DuplicateLink)
}
