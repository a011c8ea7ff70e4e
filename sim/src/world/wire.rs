//! Links between nodes: in order, with a drawn latency, and every way to lose one.

use dpc_core::Input;
use dpc_core::ids::LinkId;
use dpc_core::message::Message;
use dpc_core::time::{Mono, Span};

use super::life::Power;
use super::{Event, World};

/// How long a link that ended waits before it is dialled again.
const REDIAL: Span = Span::millis(100);

/// The same for a link that was refused for good: a second one to the same node.
const REFUSED: Span = Span::secs(10);

/// A configured link between two nodes; the first one dials.
pub struct Wire {
    /// The two nodes.
    pub ends: [usize; 2],
    pub(crate) cut: bool,
    /// Nothing arrives until it is let go: what was said meanwhile comes then, in order.
    pub(crate) held: Option<Vec<Event>>,
    pub(crate) conn: Option<Conn>,
    /// The last connection was refused for good.
    pub(crate) refused: bool,
    /// Bytes of bodies that pass in a second, if that is little.
    pub(crate) body_rate: Option<u64>,
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
        self.wires.push(Wire { ends: [a, b], cut: false, held: None, conn: None, refused: false, body_rate: None });
        let wire = self.wires.len() - 1;
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
        let up = ends.iter().all(|n| self.nodes[*n].is_up() && !self.nodes[*n].paused);
        if w.cut || w.conn.is_some() || !up {
            return;
        }
        self.conns += 1;
        let links = ends.map(|n| {
            self.nodes[n].links += 1;
            LinkId(self.nodes[n].links)
        });
        self.wires[wire].conn =
            Some(Conn { no: self.conns, links, last: [self.now; 2], last_body: [self.now; 2], open: [true; 2] });
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
        self.trace.saw(self.now, &self.nodes[node].name, "sends", &|| message.to_string());
        let life = self.nodes[node].life.as_ref().expect("it has just spoken");
        let Some((wire, side)) = life.links.get(&link).copied() else { return };
        self.put(wire, link, side, Arrival::Message(message));
    }

    fn put(&mut self, wire: usize, link: LinkId, from: usize, what: Arrival) {
        let span = self.plan.latency.0 + Self::draw(&mut self.net, self.plan.latency_spread.0);
        let rate = self.wires[wire].body_rate;
        let Some(conn) = self.wires[wire].conn.as_mut() else { return };
        if conn.links[from] != link || !conn.open[from] {
            return;
        }
        let side = 1 - from;
        let at = match (rate, &what) {
            (Some(rate), Arrival::Message(Message::Offer(offer))) => {
                let bytes: u64 = offer.objects.iter().map(dpc_core::object::Object::weight).sum();
                let before = conn.last_body[side].max(self.now);
                conn.last_body[side] = before + Span(span + bytes * 1_000_000 / rate.max(1));
                conn.last_body[side]
            }
            // It must not overtake the offer that it takes back.
            (Some(_), Arrival::Message(Message::Abort(_))) => {
                (self.now + Span(span)).max(conn.last_body[side])
            }
            _ => {
                conn.last[side] = (self.now + Span(span)).max(conn.last[side]);
                conn.last[side]
            }
        };
        let event = Event::Arrive { wire, conn: conn.no, side, what: Box::new(what) };
        match self.wires[wire].held.as_mut() {
            Some(held) => held.push(event),
            None => self.at(at, event),
        }
    }

    pub(crate) fn on_arrive(&mut self, wire: usize, no: u64, side: usize, what: Arrival) {
        let Some(conn) = self.wires[wire].conn.as_ref().filter(|c| c.no == no) else { return };
        if !conn.open[side] {
            return;
        }
        let (link, node) = (conn.links[side], self.wires[wire].ends[side]);
        match what {
            Arrival::Message(message) => {
                self.trace.saw(self.now, &self.nodes[node].name, "gets", &|| message.to_string());
                if self.trace.is_on() {
                    let from = self.name(self.wires[wire].ends[1 - side]);
                    let line = format!("{} < {from}: {message}", self.name(node));
                    self.trace.input(self.now, line);
                }
                self.feed(node, Input::Peer(link, message));
            }
            Arrival::End => {
                self.end_side(wire, side);
                self.lose(node, link);
            }
        }
    }

    /// One end of a connection is gone; when both are, the wire is dialled again.
    fn end_side(&mut self, wire: usize, side: usize) {
        let Some(conn) = self.wires[wire].conn.as_mut() else { return };
        conn.open[side] = false;
        if conn.open == [false, false] {
            self.wires[wire].conn = None;
            let jitter = Self::draw(&mut self.net, REDIAL.0);
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
        let current = |c: &Conn| c.links[side] == link;
        if self.wires[wire].conn.as_ref().is_some_and(current) {
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
        let [a, b] = self.wires[wire].ends;
        let line = format!("{} and {} are cut off from each other", self.name(a), self.name(b));
        self.trace.headline(self.now, &line);
        self.wires[wire].cut = true;
        self.break_conn(wire);
    }

    /// Breaks a connection and lets it come back: what is under way is lost.
    pub fn reset(&mut self, wire: usize) {
        let [a, b] = self.wires[wire].ends;
        let line = format!("the link between {} and {} breaks", self.name(a), self.name(b));
        self.trace.headline(self.now, &line);
        self.break_conn(wire);
        self.after(REDIAL, Event::Dial { wire });
    }

    fn break_conn(&mut self, wire: usize) {
        self.wires[wire].held = None;
        let Some(conn) = self.wires[wire].conn.take() else { return };
        for side in [0, 1] {
            let node = self.wires[wire].ends[side];
            let life = self.nodes[node].lives;
            let notice = 1 + Self::draw(&mut self.net, self.plan.notice.0);
            self.after(Span(notice), Event::Lost { node, life, link: conn.links[side] });
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
        self.wires[wire].held.get_or_insert_default();
    }

    /// From now on so many bytes of bodies pass in a second. What has none is not held up by them,
    /// as on the real link.
    pub fn slow_bodies(&mut self, wire: usize, bytes: u64) {
        self.wires[wire].body_rate = Some(bytes);
    }

    /// What a held wire kept arrives now, in order.
    pub fn let_go(&mut self, wire: usize) {
        let Some(events) = self.wires[wire].held.take() else { return };
        let [a, b] = self.wires[wire].ends;
        let line = format!("the link between {} and {} lets go", self.name(a), self.name(b));
        self.trace.headline(self.now, &line);
        for event in events {
            self.at(self.now, event);
        }
        if let Some(conn) = self.wires[wire].conn.as_mut() {
            conn.last = [self.now; 2];
        }
    }

    /// A process has died: its links end. After a loss of power nobody says so.
    pub(crate) fn drop_links(&mut self, node: usize, power: Power) {
        for wire in self.wires_of(node) {
            let side = usize::from(self.wires[wire].ends[1] == node);
            let Some(conn) = self.wires[wire].conn.as_ref() else { continue };
            let link = conn.links[side];
            let all_lost = power == Power::Cut || Self::draw(&mut self.net, 2) == 0;
            if all_lost {
                self.break_conn(wire);
                continue;
            }
            self.put(wire, link, side, Arrival::End);
            self.end_side(wire, side);
        }
    }
}
