//! What has happened in a story, fact by fact: the ground of what scripts expect.

use dpc_core::effect::Delivery;
use dpc_core::ids::{LinkId, ObjectId};
use dpc_core::message::Message;
use dpc_core::names::Name;
use dpc_core::object::{Generation, Token};
use dpc_core::time::Mono;
use dpc_core::{Answer, Effect};

use crate::trace::{answer_text, delivery_text, tidy};
use crate::world::World;

/// What nodes do that scripts can wait for and count.
pub(crate) const DEEDS: [&str; 11] = [
    "gets", "sends", "writes", "delivers", "answers", "notes", "loads", "ends", "closes", "stops",
    "cuts",
];

/// One thing that a node did.
#[derive(Debug)]
pub(crate) struct Fact {
    pub(crate) at: Mono,
    pub(crate) who: Name,
    pub(crate) did: &'static str,
    pub(crate) what: String,
}

/// One delivery, with the token that its holder has.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) at: Mono,
    pub(crate) node: usize,
    pub(crate) token: Token,
    pub(crate) delivery: Delivery,
}

/// One demand that a node told of itself, or withdrew.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) node: usize,
    pub(crate) life: u64,
    pub(crate) link: LinkId,
    pub(crate) key: String,
    pub(crate) demand: Option<dpc_core::message::Demand>,
}

/// All facts of a story, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) facts: Vec<Fact>,
    pub(crate) given: Vec<Given>,
    pub(crate) told: Vec<Told>,
    /// From where on is counted.
    pub(crate) mark: Mark,
}

/// A moment that a script has marked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    pub(crate) at: Mono,
    pub(crate) facts: usize,
    pub(crate) given: usize,
    /// Handoffs before it.
    pub(crate) handoffs: usize,
}

impl Ledger {
    /// What a node, or any, has done since the mark, in these words.
    pub(crate) fn since_mark<'a>(
        &'a self,
        who: Option<&'a str>,
        did: &'a str,
        words: &'a str,
    ) -> impl Iterator<Item = &'a Fact> {
        let is = move |f: &&Fact| {
            who.is_none_or(|who| f.who.as_str() == who)
                && f.did == did
                && (words == "anything" || f.what.contains(words))
        };
        self.facts[self.mark.facts..].iter().filter(is)
    }

    /// Deliveries of an object since the mark.
    pub(crate) fn given(&self, id: ObjectId) -> impl Iterator<Item = &Given> {
        self.given[self.mark.given..].iter().filter(move |g| g.delivery.object.id == id)
    }

    /// The latest delivery under a lease of a node.
    pub(crate) fn lease(&self, node: usize, lease: u64) -> Option<&Given> {
        self.given.iter().rfind(|g| g.node == node && g.delivery.lease == lease)
    }

    /// Counters that an origin told and that are not above what it told before a restart, or below
    /// what it told in the same life.
    pub(crate) fn fallen_generations(&self) -> Vec<String> {
        let mut fallen = Vec::new();
        let mut before: std::collections::BTreeMap<(usize, &str), (u64, Generation)> =
            std::collections::BTreeMap::new();
        for told in &self.told {
            let Some(demand) = told.demand.as_ref().filter(|d| d.distance == 0) else { continue };
            let now = (told.life, demand.generation);
            let old = before.insert((told.node, &told.key), now);
            let Some((life, generation)) = old else { continue };
            let falls = if life == told.life {
                demand.generation < generation
            } else {
                demand.generation <= generation
            };
            if falls {
                fallen.push(format!("{} after {generation}", demand.generation));
            }
        }
        fallen
    }

    /// Adverts that said over a link what had been said over it before.
    pub(crate) fn repeated_adverts(&self) -> usize {
        let mut last = std::collections::BTreeMap::new();
        let mut repeated = 0;
        for told in &self.told {
            let before = last.insert((told.node, told.life, told.link, &told.key), &told.demand);
            repeated += usize::from(before.is_some_and(|b| *b == told.demand));
        }
        repeated
    }
}

impl World {
    /// Notes what a node does to those outside it.
    pub(crate) fn witness(&mut self, node: usize, effect: &Effect) {
        if !self.trace.is_witnessed() {
            return;
        }
        let (did, what) = match effect {
            Effect::Deliver(_, delivery) => {
                self.witness_delivery(node, delivery);
                return;
            }
            Effect::Reply { answer, .. } => {
                if let Answer::Taken(taken) = answer {
                    taken.iter().for_each(|delivery| self.witness_delivery(node, delivery));
                }
                ("answers", answer_text(answer).unwrap_or_default())
            }
            Effect::Send { link, message, .. } => {
                let Message::Adverts(adverts) = &**message else { return };
                let life = self.nodes[node].lives;
                for advert in adverts {
                    let key = advert.key.to_string();
                    let demand = advert.demand.clone();
                    self.trace.ledger.told.push(Told { node, life, link: *link, key, demand });
                }
                return;
            }
            Effect::Note(note) => ("notes", note.to_string()),
            Effect::Load(number) => ("loads", format!("#{number}")),
            Effect::LeaseEnded { lease, reason, .. } => {
                ("ends", format!("lease {lease} {reason:?}").to_lowercase())
            }
            Effect::CloseLink { refusal, .. } => ("closes", refusal.to_string()),
            Effect::Fenced(_) => ("stops", effect.to_string()),
            Effect::Stop(why) => ("stops", why.clone()),
            Effect::Truncate { below, .. } => ("cuts", format!("below #{below}")),
            _ => return,
        };
        self.trace.saw(self.now, &self.nodes[node].name, did, &|| what.clone());
    }

    fn witness_delivery(&mut self, node: usize, delivery: &Delivery) {
        let token = self.token_of(node, delivery);
        let delivery = delivery.clone();
        let what = delivery_text(&delivery);
        self.trace.saw(self.now, &self.nodes[node].name, "delivers", &|| what.clone());
        self.trace.ledger.given.push(Given { at: self.now, node, token, delivery });
    }

    /// From here on is counted.
    pub(crate) fn set_mark(&mut self) {
        let handoffs = self.checks.model.handoffs();
        let ledger = &mut self.trace.ledger;
        let (facts, given) = (ledger.facts.len(), ledger.given.len());
        ledger.mark = Mark { at: self.now, facts, given, handoffs };
    }
}

impl Ledger {
    pub(crate) fn note(&mut self, at: Mono, who: &Name, did: &str, what: &str) {
        let did = DEEDS.into_iter().find(|d| *d == did).expect("the world knows the deeds");
        self.facts.push(Fact { at, who: who.clone(), did, what: tidy(what) });
    }
}
