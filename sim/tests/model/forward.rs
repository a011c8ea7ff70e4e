//! Forwarding over three nodes as a model that is searched exhaustively: one object, subscriptions
//! that come, go, fill up and are free again, links that flap, nodes that restart, and adverts that
//! are as old as they may be. P10 and P11, and the rules of R4 and R7 that they need.

use stateright::{Model, Property};

const NODES: usize = 3;

/// The nodes' names in a story. The object is pushed at the first one.
const NAMES: [&str; NODES] = ["a", "b", "c"];

/// Most links that an object may cross for one generation.
const MAX_HOPS: u8 = 2;

/// Which rules of design.md section 4 and protocol.md are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// P10: for one generation an object does not go back to where it has been.
    pub(crate) crossed_once: bool,
    /// P10: an object does not turn to older demand.
    pub(crate) only_newer: bool,
    /// P11: who holds an object that the rules above keep from open demand asks for a refresh.
    pub(crate) refresh: bool,
    /// R4, R7: a counter is above every counter seen, before a restart and in REFRESH, too.
    pub(crate) counters_grow: bool,
}

impl Rules {
    /// The protocol as it is.
    pub(crate) const ALL: Self =
        Self { crossed_once: true, only_newer: true, refresh: true, counters_grow: true };
}

/// The model: rules, links and how many faults and changes of mind a run has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    pub(crate) rules: Rules,
    pub(crate) links: &'static [(usize, usize)],
    pub(crate) events: u8,
}

/// One appearance of demand: totally ordered, made by one origin at one moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Generation {
    counter: u8,
    origin: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Advert {
    generation: Generation,
    distance: u8,
    /// The nodes that it went through, as bits.
    path: u8,
    open: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Subscription {
    generation: Generation,
    /// Whether it has credit.
    free: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Node {
    /// The highest counter seen.
    counter: u8,
    subscription: Option<Subscription>,
    /// What each neighbour has told.
    known: [Option<Advert>; NODES],
}

/// What the object carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Chase {
    generation: Generation,
    /// The nodes that it has left for this generation, as bits.
    crossed: u8,
}

/// Everything at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    nodes: [Node; NODES],
    /// The links that are up, as bits.
    up: u8,
    at: usize,
    taken: bool,
    chase: Option<Chase>,
    events: u8,
    /// For the properties: moves in all, generations ever made, and the links crossed since the
    /// object has followed its generation, as bits, with whether one was crossed twice.
    moves: u8,
    generations: u8,
    crossings: u16,
    hops: u8,
    twice: bool,
    /// Whether a refresh was granted that is not newer than what was asked about.
    in_vain: bool,
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Action {
    /// A node is told what its neighbour's best demand is now. Told late is the same as acting
    /// late on what was told, so that adverts in flight need not be kept.
    Tell {
        from: usize,
        to: usize,
    },
    Move(usize),
    Take,
    AskRefresh(usize),
    Subscribe(usize),
    Unsubscribe(usize),
    /// A subscription's credit is used up by others, or comes back.
    Fill(usize),
    Free(usize),
    Cut(usize),
    Heal(usize),
    Restart(usize),
}

impl Model for Forward {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            nodes: [Node::default(); NODES],
            up: (1 << self.links.len()) - 1,
            at: 0,
            taken: false,
            chase: None,
            events: 0,
            moves: 0,
            generations: 0,
            crossings: 0,
            hops: 0,
            twice: false,
            in_vain: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.taken {
            return;
        }
        self.steps(state, actions);
        if state.events < self.events {
            self.changes(state, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Some(self.after(*state, action))
    }

    fn format_action(&self, action: &Action) -> String {
        tell(self.links, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("P10 no link twice for one generation", |_, s: &State| !s.twice),
            Property::always("P10 max_hops for one generation", |_, s: &State| s.hops <= MAX_HOPS),
            Property::always("P10 moves are finite", |_, s: &State| {
                s.moves <= MAX_HOPS * s.generations
            }),
            Property::always("P10 generations are finite", |_, s: &State| {
                s.generations <= 3 * s.events
            }),
            Property::always("P11 a granted refresh is newer", |_, s: &State| !s.in_vain),
            Property::always("P11 no object is stuck", |m, s| !m.is_stuck(s)),
            Property::sometimes("an object crosses two links", |_, s: &State| {
                s.taken && s.hops == 2
            }),
        ]
    }
}

impl Forward {
    /// What happens by itself.
    fn steps(&self, state: &State, actions: &mut Vec<Action>) {
        for (link, (a, b)) in self.links.iter().enumerate() {
            for (from, to) in [(*a, *b), (*b, *a)] {
                let is_up = state.up >> link & 1 == 1;
                if is_up && state.nodes[to].known[from] != state.best(from, to) {
                    actions.push(Action::Tell { from, to });
                }
            }
        }
        let here = &state.nodes[state.at];
        if here.subscription.is_some_and(|s| s.free) {
            // A local subscription with credit comes first.
            return actions.push(Action::Take);
        }
        let open = (0..NODES).filter_map(|peer| Some((peer, here.known[peer].filter(|w| w.open)?)));
        let (ways, kept): (Vec<_>, Vec<_>) =
            open.partition(|(peer, way)| self.may_follow(state.chase, way.generation, *peer));
        let nearest = ways.iter().map(|(_, way)| way.distance).min();
        let chosen = ways.iter().filter(|(_, way)| Some(way.distance) == nearest);
        actions.extend(chosen.map(|(peer, _)| Action::Move(*peer)));
        if ways.is_empty() && self.rules.refresh {
            let asked = kept.iter().map(|(peer, _)| *peer);
            let granted = asked.filter(|peer| self.refreshed(*state, *peer) != *state);
            actions.extend(granted.map(Action::AskRefresh));
        }
    }

    /// What people and faults do.
    fn changes(&self, state: &State, actions: &mut Vec<Action>) {
        for (i, node) in state.nodes.iter().enumerate() {
            match node.subscription {
                None => actions.push(Action::Subscribe(i)),
                Some(s) => {
                    actions.push(Action::Unsubscribe(i));
                    actions.push(if s.free { Action::Fill(i) } else { Action::Free(i) });
                }
            }
            actions.push(Action::Restart(i));
        }
        for link in 0..self.links.len() {
            let is_up = state.up >> link & 1 == 1;
            actions.push(if is_up { Action::Cut(link) } else { Action::Heal(link) });
        }
    }

    fn after(&self, mut s: State, action: Action) -> State {
        match action {
            Action::Tell { from, to } => {
                let best = s.best(from, to);
                s.nodes[to].known[from] = best;
                s.nodes[to].see(best.map_or(0, |b| b.generation.counter));
                return s;
            }
            Action::Move(peer) => return self.moved(s, peer),
            Action::AskRefresh(peer) => return self.refreshed(s, peer),
            Action::Take => {
                s.taken = true;
                return s;
            }
            Action::Subscribe(i) => s.appear(i),
            Action::Unsubscribe(i) => s.nodes[i].subscription = None,
            Action::Fill(i) | Action::Free(i) => {
                let subscription = s.nodes[i].subscription.as_mut().expect("it is there");
                subscription.free = matches!(action, Action::Free(_));
            }
            Action::Cut(link) => {
                let (a, b) = self.links[link];
                s.up &= !(1 << link);
                (s.nodes[a].known[b], s.nodes[b].known[a]) = (None, None);
            }
            Action::Heal(link) => s.up |= 1 << link,
            Action::Restart(i) => self.restart(&mut s, i),
        }
        s.events += 1;
        s
    }

    fn may_follow(&self, chase: Option<Chase>, generation: Generation, peer: usize) -> bool {
        let Some(chase) = chase else { return true };
        if generation < chase.generation {
            return !self.rules.only_newer;
        }
        let crossed =
            chase.crossed >> peer & 1 == 1 || chase.crossed.count_ones() >= MAX_HOPS.into();
        generation > chase.generation || !crossed || !self.rules.crossed_once
    }

    fn moved(&self, mut s: State, peer: usize) -> State {
        let way = s.nodes[s.at].known[peer].expect("an object follows an advert");
        let same = s.chase.is_some_and(|c| c.generation == way.generation);
        if !same {
            (s.crossings, s.hops) = (0, 0);
        }
        let crossed = if same { s.chase.map_or(0, |c| c.crossed) } else { 0 };
        let crossing = 1 << (s.at * NODES + peer);
        s.twice |= s.crossings & crossing != 0;
        (s.crossings, s.hops, s.moves) = (s.crossings | crossing, s.hops + 1, s.moves + 1);
        s.chase = Some(Chase { generation: way.generation, crossed: crossed | 1 << s.at });
        s.at = peer;
        s.nodes[peer].see(way.generation.counter);
        s
    }

    /// REFRESH goes along the advert's path; the origin makes a newer generation if it could take
    /// the object and has not told one that the asker has not heard of yet.
    fn refreshed(&self, mut s: State, peer: usize) -> State {
        let way = s.nodes[s.at].known[peer].expect("an advert is what is asked about");
        let origin = way.generation.origin;
        let chased = s.chase.map_or(0, |c| c.generation.counter);
        let asked = Generation { counter: way.generation.counter.max(chased), origin };
        let (mut from, mut node) = (s.at, peer);
        while node != origin {
            let leads = |next: &usize| {
                let known = s.nodes[node].known[*next];
                *next != from && known.is_some_and(|a| a.generation.origin == origin)
            };
            let Some(next) = (0..NODES).find(leads) else { return s };
            (from, node) = (node, next);
        }
        if self.rules.counters_grow {
            s.nodes[origin].see(asked.counter);
        }
        let Some(subscription) = s.nodes[origin].subscription else { return s };
        if subscription.free && subscription.generation <= asked {
            s.appear(origin);
            let answer = s.nodes[origin].subscription.expect("it has just appeared");
            s.in_vain |= answer.generation <= asked;
        }
        s
    }

    /// Sessions and links are gone, and what they told. A counter is reserved durably, and stored
    /// objects carry theirs.
    fn restart(&self, s: &mut State, i: usize) {
        let counter = if self.rules.counters_grow { s.nodes[i].counter } else { 0 };
        s.nodes[i] = Node { counter, ..Node::default() };
        s.nodes.iter_mut().for_each(|node| node.known[i] = None);
    }

    /// Whether nothing happens any more although somebody in reach could take the object.
    fn is_stuck(&self, state: &State) -> bool {
        let mut steps = Vec::new();
        if !state.taken {
            self.steps(state, &mut steps);
        }
        let free = |i: usize| state.nodes[i].subscription.is_some_and(|s| s.free);
        !state.taken && steps.is_empty() && (0..NODES).any(|i| free(i) && self.reaches(state, i))
    }

    /// Whether a node is at most `MAX_HOPS` links that are up away from the object.
    fn reaches(&self, state: &State, node: usize) -> bool {
        let mut reached = 1_u8 << state.at;
        for _ in 0..MAX_HOPS {
            let before = reached;
            for (link, (a, b)) in self.links.iter().enumerate() {
                let touches = (before >> a | before >> b) & 1 == 1;
                if state.up >> link & 1 == 1 && touches {
                    reached |= 1 << a | 1 << b;
                }
            }
        }
        reached >> node & 1 == 1
    }
}

impl Node {
    fn see(&mut self, counter: u8) {
        self.counter = self.counter.max(counter);
    }
}

impl State {
    /// Demand appears at a node, or appears anew.
    fn appear(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.counter += 1;
        let generation = Generation { counter: node.counter, origin: i };
        node.subscription = Some(Subscription { generation, free: true });
        self.generations += 1;
    }

    /// The best demand that a node reaches without the neighbour it tells: an open one before a
    /// closed one, then the nearest, then the freshest. A neighbour in its path ignores it.
    fn best(&self, node: usize, neighbour: usize) -> Option<Advert> {
        let here = &self.nodes[node];
        let own = here.subscription.map(|s| Advert {
            generation: s.generation,
            distance: 0,
            path: 1 << node,
            open: s.free,
        });
        let beyond = (0..NODES).filter(|via| *via != neighbour).filter_map(|via| {
            let known = here.known[via].filter(|known| known.distance + 1 < MAX_HOPS)?;
            Some(Advert { distance: known.distance + 1, path: known.path | 1 << node, ..known })
        });
        own.into_iter()
            .chain(beyond)
            .filter(|advert| advert.path >> neighbour & 1 == 0)
            .max_by_key(|a| (a.open, std::cmp::Reverse(a.distance), a.generation))
    }
}

/// An event as a line of a story.
fn tell(links: &[(usize, usize)], action: &Action) -> String {
    let link = |i: &usize| format!("the link {}-{}", NAMES[links[*i].0], NAMES[links[*i].1]);
    match action {
        Action::Tell { from, to } => {
            format!("{} hears the adverts of {}", NAMES[*to], NAMES[*from])
        }
        Action::Move(peer) => format!("the object moves to {}", NAMES[*peer]),
        Action::Take => "the object is taken".into(),
        Action::AskRefresh(peer) => format!("a refresh is asked for by way of {}", NAMES[*peer]),
        Action::Subscribe(i) => format!("a subscription appears at {}", NAMES[*i]),
        Action::Unsubscribe(i) => format!("the subscription at {} ends", NAMES[*i]),
        Action::Fill(i) => format!("the subscription at {} has no credit left", NAMES[*i]),
        Action::Free(i) => format!("the subscription at {} has credit again", NAMES[*i]),
        Action::Cut(i) => format!("{} is lost", link(i)),
        Action::Heal(i) => format!("{} is back", link(i)),
        Action::Restart(i) => format!("{} restarts", NAMES[*i]),
    }
}
