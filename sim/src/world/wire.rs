//! Links between nodes: in order, with a drawn latency, and every way to lose one.

use dpc_core::Input;
use dpc_core::ids::LinkId;
use dpc_core::message::{LaneHello, Message};
use dpc_core::time::{Mono, Span};

use super::life::Power;
use super::{Event, World};
use crate::dice::Dice;

/// How long a link that ended waits before it is dialled again.
const REDIAL: Span = Span::millis(100);

/// The same for a link that was refused for good: a second one to the same node.
const REFUSED: Span = Span::secs(10);

/// A peer that has said nothing for so long is given up: keepalives of 20 s, answered within 10 s.
const KEEPALIVE: Span = Span::secs(30);

/// A configured link between two nodes; the first one dials.
pub struct Wire {
    /// The two nodes.
    pub ends: [usize; 2],
    pub(crate) cut: bool,
    /// Nothing arrives at an end until it is let go: what was said meanwhile comes then, in order.
    pub(crate) held: [Option<Vec<Event>>; 2],
    /// Since when something is held.
    held_since: Mono,
    /// Messages follow each other at least so far apart.
    gap: Span,
    /// Messages need so much longer than drawn.
    extra: Span,
    pub(crate) conn: Option<Conn>,
    /// The last connection was refused for good.
    pub(crate) refused: bool,
    /// Bytes of bodies that pass in a second, if that is little.
    pub(crate) body_rate: Option<u64>,
    dice: Dice,
}

/// One connection over a wire.
pub(crate) struct Conn {
    no: u64,
    links: [LinkId; 2],
    /// When the last thing arrives at each end.
    last: [Mono; 2],
    /// When the last body arrives at each end: bodies have a queue of their own.
    last_body: [Mono; 2],
    /// Which ends have not closed it.
    open: [bool; 2],
}

/// What arrives at an end.
#[derive(Debug)]
pub(crate) enum Arrival {
    Message(Message),
    End,
}

impl World {
    /// Links two nodes; `a` dials.
    pub fn link(&mut self, a: usize, b: usize) -> usize {
        assert_ne!(a, b, "a link has two ends");
        let wire = self.wires.len();
        self.wires.push(Wire {
            ends: [a, b],
            cut: false,
            held: [None, None],
            held_since: Mono(0),
            gap: Span::ZERO,
            extra: Span::ZERO,
            conn: None,
            refused: false,
            body_rate: None,
            dice: Dice::new(self.plan.seed, &format!("wire {wire}")),
        });
        self.at(self.now, Event::Dial { wire });
        wire
    }

    /// The wire between two nodes.
    pub fn wire_between(&self, a: usize, b: usize) -> Option<usize> {
        self.wires.iter().position(|w| w.ends == [a, b] || w.ends == [b, a])
    }

    pub(crate) fn wires_of(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        let mine: Vec<usize> =
            (0..self.wires.len()).filter(|w| self.wires[*w].ends.contains(&node)).collect();
        mine.into_iter()
    }

    pub(crate) fn on_dial(&mut self, wire: usize) {
        let w = &self.wires[wire];
        let ends = w.ends;
        let up = ends.iter().all(|n| self.nodes[*n].is_up() && !self.nodes[*n].is_paused());
        let one_way = w.held[0].is_some() != w.held[1].is_some();
        if w.cut || one_way || w.conn.is_some() || !up {
            return;
        }
        self.conns += 1;
        let links = ends.map(|n| {
            self.nodes[n].links += 1;
            LinkId(self.nodes[n].links)
        });
        self.wires[wire].conn = Some(Conn {
            no: self.conns,
            links,
            last: [self.now; 2],
            last_body: [self.now; 2],
            open: [true; 2],
        });
        for side in [0, 1] {
            let node = ends[side];
            let life = self.nodes[node].life.as_mut().expect("both run");
            life.links.insert(links[side], (wire, side));
        }
        for side in [0, 1] {
            if self.trace.is_on() {
                let (here, there) = (self.name(ends[side]), self.name(ends[1 - side]));
                self.trace.input(self.now, format!("{here} < link to {there} is up"));
            }
            self.feed(ends[side], Input::LinkUp { link: links[side], dialled: side == 0 });
        }
    }

    fn name(&self, node: usize) -> String {
        self.nodes[node].name.to_string()
    }

    /// A node says something over a link.
    pub(crate) fn send(&mut self, node: usize, link: LinkId, message: Message) {
        self.count_message(&message);
        self.note_said(node, link, &message);
        self.trace.saw(self.now, &self.nodes[node].name, "sends", &|| message.to_string());
        let life = self.nodes[node].life.as_ref().expect("it has just spoken");
        let Some((wire, side)) = life.links.get(&link).copied() else { return };
        self.put(wire, link, side, Arrival::Message(message));
    }

    fn put(&mut self, wire: usize, link: LinkId, from: usize, what: Arrival) {
        let Wire { dice, gap, extra, body_rate, .. } = &mut self.wires[wire];
        let drawn = dice.below(self.plan.latency_spread.0);
        let (span, gap) = (Span(self.plan.latency.0 + extra.0 + drawn), *gap);
        let rate = *body_rate;
        let Some(conn) = self.wires[wire].conn.as_mut() else { return };
        if conn.links[from] != link || !conn.open[from] {
            return;
        }
        let side = 1 - from;
        let (last, last_body) = (&mut conn.last[side], &mut conn.last_body[side]);
        let at = match (&what, rate) {
            (Arrival::Message(Message::Offer(offer)), Some(rate)) => {
                let bytes: u64 = offer.objects.iter().map(|object| object.weight()).sum();
                let before = (*last_body).max(self.now);
                *last_body = before + span + Span(bytes * 1_000_000 / rate.max(1));
                *last_body
            }
            // Behind the other bodies, and in no order with the rest.
            (Arrival::Message(message), _) if message.is_body() => {
                *last_body = (self.now + span).max(*last_body + gap);
                *last_body
            }
            (what, _) => {
                *last = (self.now + span).max(*last + gap);
                match what {
                    // No body is read before the handshake.
                    Arrival::Message(Message::Hello(_)) => *last_body = (*last_body).max(*last),
                    Arrival::Message(_) => {}
                    Arrival::End => *last = (*last).max(*last_body),
                }
                *last
            }
        };
        let event = Event::Arrive { wire, conn: conn.no, side, what: Box::new(what) };
        self.at(at, event);
    }

    pub(crate) fn on_arrive(&mut self, wire: usize, no: u64, side: usize, what: Arrival) {
        let w = &mut self.wires[wire];
        let Some(conn) = w.conn.as_ref().filter(|c| c.no == no && c.open[side]) else { return };
        if let Some(held) = &mut w.held[side] {
            return held.push(Event::Arrive { wire, conn: no, side, what: Box::new(what) });
        }
        let (link, node) = (conn.links[side], self.wires[wire].ends[side]);
        let read = Event::Read { node, life: self.nodes[node].lives, link, what: Box::new(what) };
        self.happen(read);
    }

    /// A process reads what has arrived over a link that it has.
    pub(crate) fn on_read(&mut self, node: usize, life: u64, link: LinkId, what: Arrival) {
        if !self.is_life(node, life) {
            return;
        }
        let links = &self.nodes[node].life.as_ref().expect("just checked").links;
        let Some((wire, side)) = links.get(&link).copied() else { return };
        match what {
            Arrival::Message(message) => {
                self.trace.saw(self.now, &self.nodes[node].name, "gets", &|| message.to_string());
                if self.trace.is_on() {
                    let from = self.name(self.wires[wire].ends[1 - side]);
                    let line = format!("{} < {from}: {message}", self.name(node));
                    self.trace.input(self.now, line);
                }
                let hello = match &message {
                    Message::Hello(hello) => hello.lanes.first().copied(),
                    _ => None,
                };
                self.feed(node, Input::Peer(link, message));
                if let Some(lane) = hello {
                    self.check_let_in(node, life, link, lane);
                }
            }
            Arrival::End => {
                if self.is_current(wire, side, link) {
                    self.end_side(wire, side);
                }
                self.lose(node, link);
            }
        }
    }

    /// P16: a lane that one process has known further on is not let in by it.
    fn check_let_in(&mut self, node: usize, life: u64, link: LinkId, hello: LaneHello) {
        let there = self.nodes[node].life.as_ref().is_some_and(|l| l.links.contains_key(&link));
        if !there || !self.is_life(node, life) {
            return;
        }
        let heard = self.heard.entry((node, life, hello.lane)).or_default();
        if hello.epoch < heard.0 || hello.number < heard.1 {
            let name = self.nodes[node].name.clone();
            self.checks.p16_let_in(hello.lane, &name);
        }
        *heard = (heard.0.max(hello.epoch), heard.1.max(hello.number));
    }

    fn is_current(&self, wire: usize, side: usize, link: LinkId) -> bool {
        self.wires[wire].conn.as_ref().is_some_and(|c| c.links[side] == link)
    }

    /// One end of a connection is gone; when both are, the wire is dialled again.
    fn end_side(&mut self, wire: usize, side: usize) {
        let Some(conn) = self.wires[wire].conn.as_mut() else { return };
        conn.open[side] = false;
        if conn.open == [false, false] {
            self.wires[wire].conn = None;
            let jitter = self.wires[wire].dice.below(REDIAL.0);
            let refused = std::mem::take(&mut self.wires[wire].refused);
            let span = if refused { REFUSED } else { REDIAL };
            self.after(Span(span.0 + jitter), Event::Dial { wire });
        }
    }

    fn lose(&mut self, node: usize, link: LinkId) {
        let Some(life) = self.nodes[node].life.as_mut() else { return };
        if life.links.remove(&link).is_some() {
            if self.trace.is_on() {
                let line = format!("{} < a link is lost", self.name(node));
                self.trace.input(self.now, line);
            }
            self.feed(node, Input::LinkDown(link));
        }
    }

    /// A core ends a link: what it has said still arrives.
    pub(crate) fn close_link(&mut self, node: usize, link: LinkId, redial: bool) {
        let life = self.nodes[node].life.as_mut().expect("it has just spoken");
        let Some((wire, side)) = life.links.remove(&link) else { return };
        self.wires[wire].refused |= !redial;
        self.put(wire, link, side, Arrival::End);
        if self.is_current(wire, side, link) {
            self.end_side(wire, side);
        }
        self.coverage.add_if("link refused for good", !redial);
    }

    pub(crate) fn on_lost(&mut self, node: usize, life: u64, link: LinkId) {
        if self.is_life(node, life) {
            self.lose(node, link);
        }
    }

    /// Cuts a wire: what is under way is lost, and each side notices in its own time.
    pub fn cut(&mut self, wire: usize) {
        self.cut_noticed(wire, self.plan.notice);
    }

    /// The same, with the time within which each side notices: until then it takes the link for
    /// whole, and the other side may have dialled anew.
    pub fn cut_noticed(&mut self, wire: usize, notice: Span) {
        let [a, b] = self.wires[wire].ends;
        let line = format!("{} and {} are cut off from each other", self.name(a), self.name(b));
        self.trace.headline(self.now, &line);
        self.wires[wire].cut = true;
        let third = (0..self.nodes.len()).any(|c| self.sees(a, c) && self.sees(b, c));
        self.coverage.add_if("cut off from each other, not from a third", third);
        self.coverage.add("link cut");
        self.break_conn(wire, notice);
    }

    /// Whether two nodes have a connection.
    fn sees(&self, a: usize, b: usize) -> bool {
        let between = |w: &Wire| w.ends == [a, b] || w.ends == [b, a];
        self.wires.iter().any(|w| between(w) && w.conn.is_some())
    }

    /// Breaks a connection and lets it come back: what is under way is lost.
    pub fn reset(&mut self, wire: usize) {
        let [a, b] = self.wires[wire].ends;
        let line = format!("the link between {} and {} breaks", self.name(a), self.name(b));
        self.trace.headline(self.now, &line);
        self.coverage.add("link broken");
        self.break_conn(wire, self.plan.notice);
        self.after(REDIAL, Event::Dial { wire });
    }

    fn break_conn(&mut self, wire: usize, notice: Span) {
        for held in self.wires[wire].held.iter_mut().flatten() {
            held.clear();
        }
        let Some(conn) = self.wires[wire].conn.take() else { return };
        let under_way = conn.last.iter().any(|at| *at > self.now);
        self.coverage.add_if("link lost with messages under way", under_way);
        for side in [0, 1] {
            let node = self.wires[wire].ends[side];
            let life = self.nodes[node].lives;
            let late = Span(1 + self.wires[wire].dice.below(notice.0));
            self.coverage.add_if("lost link noticed late", late > Span::secs(5));
            self.after(late, Event::Lost { node, life, link: conn.links[side] });
        }
    }

    /// Both sides give up a connection over which nothing has come for long.
    pub(crate) fn on_keepalive(&mut self, wire: usize, no: u64) {
        let w = &self.wires[wire];
        let Some(conn) = w.conn.as_ref().filter(|c| c.no == no) else { return };
        let held = w.held.iter().any(Option::is_some).then_some(w.held_since);
        let paused = w.ends.iter().filter_map(|n| self.nodes[*n].paused);
        let silent = held.into_iter().chain(paused).min();
        if silent.is_some_and(|since| self.now - since >= KEEPALIVE) && conn.open == [true, true] {
            self.coverage.add("silent link given up");
            self.break_conn(wire, Span::secs(10));
            self.after(REDIAL, Event::Dial { wire });
        }
    }

    /// Looks after the keepalive time whether a connection is still silent.
    pub(crate) fn watch_silence(&mut self, wire: usize) {
        if let Some(conn) = self.wires[wire].conn.as_ref() {
            let event = Event::Keepalive { wire, conn: conn.no };
            self.after(KEEPALIVE, event);
        }
    }

    /// Ends a cut.
    pub fn heal(&mut self, wire: usize) {
        if std::mem::take(&mut self.wires[wire].cut) {
            let [a, b] = self.wires[wire].ends;
            let line = format!("{} and {} can reach each other", self.name(a), self.name(b));
            self.trace.headline(self.now, &line);
        }
        self.after(REDIAL, Event::Dial { wire });
    }

    /// Nothing arrives over a wire until it is let go.
    pub fn hold(&mut self, wire: usize) {
        let [a, b] = self.wires[wire].ends;
        let line =
            format!("the link between {} and {} holds everything", self.name(a), self.name(b));
        self.trace.headline(self.now, &line);
        self.coverage.add("link held");
        self.hold_ends(wire, &[0, 1]);
    }

    /// Nothing arrives at one end of a wire until it is let go: a partition in one direction.
    pub fn hold_way(&mut self, wire: usize, side: usize) {
        let ends = self.wires[wire].ends;
        let line =
            format!("nothing of {} reaches {}", self.name(ends[1 - side]), self.name(ends[side]));
        self.trace.headline(self.now, &line);
        self.coverage.add("link cut one way");
        self.hold_ends(wire, &[side]);
    }

    fn hold_ends(&mut self, wire: usize, sides: &[usize]) {
        self.wires[wire].held_since = self.now;
        for side in sides {
            self.wires[wire].held[*side].get_or_insert_default();
        }
        self.watch_silence(wire);
    }

    /// Messages of a wire follow each other at least so far apart; zero ends it.
    pub fn throttle(&mut self, wire: usize, gap: Span) {
        if self.wires[wire].gap == gap {
            return;
        }
        let [a, b] = self.wires[wire].ends.map(|n| self.name(n));
        let line = format!("the link between {a} and {b}: one message each {gap}");
        self.trace.headline(self.now, &line);
        self.coverage.add_if("link throttled", gap > Span::ZERO);
        self.wires[wire].gap = gap;
    }

    /// Messages of a wire need so much longer; zero ends it.
    pub fn slow(&mut self, wire: usize, extra: Span) {
        if self.wires[wire].extra == extra {
            return;
        }
        let [a, b] = self.wires[wire].ends.map(|n| self.name(n));
        self.trace
            .headline(self.now, &format!("the link between {a} and {b} is slower by {extra}"));
        self.coverage.add_if("link slowed", extra > Span::ZERO);
        self.wires[wire].extra = extra;
    }

    /// From now on so many bytes of bodies pass in a second. What has none is not held up by them,
    /// as on the real link.
    pub fn slow_bodies(&mut self, wire: usize, bytes: u64) {
        self.wires[wire].body_rate = Some(bytes);
    }

    /// What a held wire kept arrives now, in order.
    pub fn let_go(&mut self, wire: usize) {
        let events: Vec<Event> = match &mut self.wires[wire].held {
            [None, None] => return,
            held => held.iter_mut().filter_map(Option::take).flatten().collect(),
        };
        let [a, b] = self.wires[wire].ends;
        let line = format!("the link between {} and {} lets go", self.name(a), self.name(b));
        self.trace.headline(self.now, &line);
        for event in events {
            self.at(self.now, event);
        }
        self.after(REDIAL, Event::Dial { wire });
    }

    /// A process has died: its links end. After a loss of power nobody says so.
    pub(crate) fn drop_links(&mut self, node: usize, power: Power) {
        for wire in self.wires_of(node) {
            let side = usize::from(self.wires[wire].ends[1] == node);
            let Some(conn) = self.wires[wire].conn.as_ref() else { continue };
            let link = conn.links[side];
            let all_lost = power == Power::Cut || self.wires[wire].dice.chance(50);
            if all_lost {
                self.break_conn(wire, self.plan.notice);
                continue;
            }
            self.put(wire, link, side, Arrival::End);
            self.end_side(wire, side);
        }
    }
}
