//! The story of a run: each input on a line, its consequences indented below, in the words of the
//! domain, with simulated time. What has no consequence is left out.

use bytes::Bytes;
use dpc_core::decision::{Decision, Step};
use dpc_core::effect::{Delivery, Note};
use dpc_core::ids::{LinkId, RecordNumber};
use dpc_core::input::{ListState, Operator, Settle, Verb, Which};
use dpc_core::message::{Message, short_id};
use dpc_core::names::Name;
use dpc_core::record::{Ending, Entry, How, Standing, entries};
use dpc_core::time::Mono;
use dpc_core::{Answer, Effect};

use crate::ledger::{DEEDS, Ledger};
use crate::world::{Pushing, World};

/// So much of a payload is written out.
const PAYLOAD_SHOWN_BYTES: usize = 32;

/// A story that is being written, or not.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    /// Written to the standard error as it goes, so that a panic does not take it along.
    aloud: bool,
    /// Only what a story needs: no handshakes, windows, bookkeeping, and nothing twice.
    brief: bool,
    text: String,
    /// An input whose line is written with its first consequence.
    waiting: Option<String>,
    /// What a script waits for: who, does what, in which words; and whether it has happened.
    watch: Option<(String, &'static str, String, bool)>,
    /// Whether what happens is noted for the expectations of a script.
    witnessed: bool,
    pub(crate) ledger: Ledger,
}

impl Trace {
    pub(crate) fn new(on: bool) -> Self {
        let aloud = on && std::env::var_os("DPC_ALOUD").is_some();
        Self { on, aloud, ..Self::default() }
    }

    /// Tells only what a story needs, from here on.
    pub fn tell_story(&mut self) {
        (self.on, self.brief, self.witnessed) = (true, true, true);
    }

    /// Goes on telling.
    pub(crate) fn unmute(&mut self) {
        self.on = true;
    }

    pub(crate) fn is_witnessed(&self) -> bool {
        self.witnessed
    }

    /// Tells nothing from here on.
    pub(crate) fn mute(&mut self) {
        self.on = false;
    }

    /// A line of the script itself.
    pub(crate) fn script(&mut self, line: &str) {
        if !self.on {
            return;
        }
        self.waiting = None;
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Watches for something that a node does.
    pub(crate) fn watch_for(&mut self, who: &str, how: &str, what: &str) -> Result<(), String> {
        let how = deed(how)?;
        self.watch = Some((who.to_owned(), how, what.to_owned(), false));
        Ok(())
    }

    /// Something happens that may be watched for or counted.
    pub(crate) fn saw(&mut self, at: Mono, who: &Name, how: &str, what: &dyn Fn() -> String) {
        if self.witnessed {
            let what = what();
            if let Some((name, watched, words, seen)) = &mut self.watch {
                *seen |= name == who.as_str() && *watched == how && tidy(&what).contains(&*words);
            }
            self.ledger.note(at, who, how, &what);
        }
    }

    /// Whether what was watched for has happened.
    pub(crate) fn has_seen(&self) -> bool {
        self.watch.as_ref().is_some_and(|(.., seen)| *seen)
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// The story so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes the story so far.
    pub fn take(&mut self) -> String {
        self.waiting = None;
        std::mem::take(&mut self.text)
    }

    /// Something from outside the nodes: a step of the script, a fault.
    pub(crate) fn headline(&mut self, at: Mono, what: &str) {
        if self.on {
            self.waiting = None;
            let line = if self.brief {
                format!("{:>9} {what}\n", at.to_string())
            } else {
                format!("{at} == {what}\n")
            };
            self.text.push_str(&line);
        }
    }

    /// An input of a node; it is written with its first consequence.
    pub(crate) fn input(&mut self, at: Mono, line: String) {
        let line = tidy(&line);
        self.waiting = Some(if self.brief {
            format!("{:>9} {line}", at.to_string())
        } else {
            format!("{at} {line}")
        });
    }

    /// A consequence.
    pub(crate) fn effect(&mut self, line: Option<String>) {
        let Some(line) = line else { return };
        if self.aloud {
            eprintln!(
                "{}",
                self.waiting.iter().chain([&line]).cloned().collect::<Vec<_>>().join(" > ")
            );
        }
        if let Some(input) = self.waiting.take() {
            self.text.push_str(&input);
            self.text.push('\n');
        }
        let lead = if self.brief { "            > " } else { "         > " };
        let line = tidy(&line).replace('\n', "\n              ");
        self.text.push_str(&format!("{lead}{line}\n"));
    }
}

/// One of the things that a node can be said to do.
pub(crate) fn deed(word: &str) -> Result<&'static str, String> {
    let known = DEEDS.into_iter().find(|deed| *deed == word);
    known.ok_or_else(|| format!("a node {}, but it does not say what {word} is", DEEDS.join(", ")))
}

/// Lanes in traces are numbered like their nodes, objects by their last digits:
/// `x1.1@00000002` is `x1.1@n2`.
pub(crate) fn tidy(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(i) = rest.find("0000000") {
        let (head, tail) = rest.split_at(i);
        out.push_str(head);
        let hex = |c: char| c.is_ascii_hexdigit() || c == '-';
        let whole = &tail[..tail.find(|c| !hex(c)).unwrap_or(tail.len())];
        match whole.len() {
            8 => out.push_str(&format!("n{}", whole.trim_start_matches('0'))),
            36 if whole.ends_with("000000000000") => {
                out.push_str(&format!("n{}", whole[..8].trim_start_matches('0')));
            }
            36 => out.push_str(whole[24..].trim_start_matches('0')),
            _ => out.push_str(whole),
        }
        rest = &tail[whole.len()..];
    }
    out.push_str(rest);
    out
}

/// ` as NAME`, unless the name is the default one.
pub(crate) fn as_processor(name: &str) -> String {
    if name == "default" { String::new() } else { format!(" as {name}") }
}

/// What a person orders or asks.
pub(crate) fn order_line(node: &str, order: &Operator) -> String {
    let which = |which: &Which| match which {
        Which::Ids(ids) => ids.iter().map(short_id).collect::<Vec<_>>().join(","),
        Which::Type(ty) => ty.to_string(),
        Which::All => "everything".into(),
    };
    match order {
        Operator::Inspect(id) => format!("{node} < why {}", short_id(id)),
        Operator::List { state: Some(ListState::Parked), .. } => format!("{node} < list parked"),
        Operator::List { .. } => format!("{node} < list"),
        Operator::Redrive(w) => format!("{node} < redrive {}", which(w)),
        Operator::DiscardParked(w) => format!("{node} < discard parked {}", which(w)),
        Operator::Discard(id) => format!("{node} < discard {}", short_id(id)),
        Operator::Types => format!("{node} < types"),
        Operator::Subscriptions => format!("{node} < subscriptions"),
        Operator::Nodes => format!("{node} < nodes"),
        Operator::Drain => format!("{node} < drain"),
        Operator::Resume => format!("{node} < resume"),
        Operator::Forget { name, reclaim } => {
            format!("{node} < forget {name}{}", if *reclaim { " and reclaim" } else { "" })
        }
        Operator::ConfirmClock => format!("{node} < the clock is right"),
    }
}

impl World {
    fn peer_of(&self, node: usize, link: LinkId) -> String {
        let ends = |(wire, side): &(usize, usize)| self.wires[*wire].ends[1 - side];
        let life = self.nodes[node].life.as_ref();
        let peer = life.and_then(|l| l.links.get(&link)).map(ends);
        peer.map_or_else(|| "nobody".into(), |p| self.nodes[p].name.to_string())
    }

    pub(crate) fn effect_line(&self, node: usize, effect: &Effect) -> Option<String> {
        let waits = |n: &Option<RecordNumber>| match n {
            Some(n) if self.nodes[node].life.as_ref().is_some_and(|l| *n > l.committed) => {
                format!(" once #{n} is durable")
            }
            _ => String::new(),
        };
        if self.trace.brief && self.is_noise(node, effect) {
            return None;
        }
        Some(match effect {
            Effect::Reply { answer, after, .. } => {
                format!("answer{}: {}", waits(after), answer_text(answer)?)
            }
            Effect::Deliver(session, d) => {
                format!("deliver to session {session}: {}", delivery_text(d))
            }
            Effect::Send { link, message, after } => {
                format!("to {}{}: {message}", self.peer_of(node, *link), waits(after))
            }
            Effect::LeaseEnded { session, lease, reason } => {
                format!("tell session {session}: lease {lease} has ended ({reason:?})")
                    .to_lowercase()
            }
            Effect::CloseLink { link, refusal, .. } => {
                format!("close the link to {}: {}", self.peer_of(node, *link), refusal.reason())
            }
            Effect::Note(Note::LinkReady(_, name, _)) => format!("note: linked with {name}"),
            other => other.to_string(),
        })
    }

    /// An effect that was held and goes out now: it was told when it was held, unless the trace
    /// is brief.
    pub(crate) fn released_line(&self, node: usize, effect: &Effect) -> Option<String> {
        match effect {
            _ if self.trace.brief && self.is_noise(node, effect) => None,
            Effect::Reply { answer, .. } => Some(format!("answer: {}", answer_text(answer)?)),
            Effect::Send { link, message, .. } => {
                Some(format!("to {}: {message}", self.peer_of(node, *link)))
            }
            _ => None,
        }
    }

    /// What a story leaves out: what waits is told when it goes out, and what keeps links and
    /// windows going says nothing of any object.
    fn is_noise(&self, node: usize, effect: &Effect) -> bool {
        let committed = self.nodes[node].life.as_ref().map(|l| l.committed);
        match effect {
            Effect::Reply { after, .. } | Effect::Send { after, .. } if *after > committed => true,
            Effect::Send { message, link, .. } => {
                is_chatter(message) || self.peer_of(node, *link) == "nobody"
            }
            Effect::Load(_)
            | Effect::LookUp { .. }
            | Effect::IndexPart(_)
            | Effect::Truncate { .. }
            | Effect::Note(Note::LinkReady(..)) => true,
            _ => false,
        }
    }

    pub(crate) fn push_line(&self, pushing: &Pushing) -> String {
        let push = &pushing.push;
        let payload = &push.entity().payload;
        let mut line = format!(
            "{} < push {} type {} {:?}",
            self.nodes[pushing.node].name,
            push.id.as_ref().map_or_else(|| "?".into(), short_id),
            push.entity().ty,
            String::from_utf8_lossy(&payload[..payload.len().min(PAYLOAD_SHOWN_BYTES)])
        );
        if payload.len() > PAYLOAD_SHOWN_BYTES {
            line.push_str(&format!("… {} B", payload.len()));
        }
        if let Some(dpc_core::object::Time::In(span)) = push.not_before {
            line.push_str(&format!(", delay {span}"));
        }
        if let Some(dpc_core::object::Time::In(span)) = push.expires_at {
            line.push_str(&format!(", expires in {span}"));
        }
        line
    }

    pub(crate) fn settle_line(&self, node: usize, d: &Delivery, settle: &Settle) -> String {
        let verb = match settle.verb() {
            Verb::Finalise => "finalises".to_owned(),
            Verb::Advance(None) => "has handled".to_owned(),
            Verb::Advance(Some(entity)) => format!("advances to {}", entity.ty),
            Verb::Release { failed: false, .. } => "releases".to_owned(),
            Verb::Release { failed: true, .. } => "fails on".to_owned(),
            Verb::Reject(reason) => format!("rejects ({reason})"),
        };
        let emits: Vec<String> = settle
            .emits()
            .iter()
            .map(|e| {
                let id = e.id.as_ref().map_or_else(|| "?".into(), short_id);
                format!(", emits {id} type {}", e.entity().ty)
            })
            .collect();
        let name = &self.nodes[node].name;
        let id = short_id(&d.object.id);
        format!("{name} < lease {} {verb} {id}{}", d.lease, emits.concat())
    }

    /// What a record on its way to the disk says.
    pub(crate) fn record_line(&self, number: RecordNumber, bytes: &Bytes) -> Option<String> {
        let (_, entries) = entries(bytes).expect("it was just sealed");
        let told = entries.iter().filter(|(_, e)| match e {
            Entry::Decision { decision, .. } => !self.trace.brief || is_telling(decision),
            _ => true,
        });
        let texts: Vec<String> = told.filter_map(|(_, e)| entry_text(e)).collect();
        if self.trace.brief && texts.is_empty() {
            return None;
        }
        let what = if texts.is_empty() { "bookkeeping".into() } else { texts.join("; ") };
        Some(format!("write #{number}: {what}"))
    }
}

fn is_chatter(message: &Message) -> bool {
    matches!(message, Message::Hello(_) | Message::Windows(_) | Message::Forget { .. })
}

pub(crate) fn delivery_text(d: &Delivery) -> String {
    let o = &d.object;
    let mut text = format!("{} type {} v{}", short_id(&o.id), o.entity.ty, o.version);
    if o.deliveries > 1 {
        text.push_str(&format!(", delivery {}", o.deliveries));
    }
    if o.moves > 0 {
        let path: Vec<&str> = o.path.iter().map(Name::as_str).collect();
        text.push_str(&format!(", came by {}", path.join(", ")));
    }
    format!("{text} (lease {})", d.lease)
}

pub(crate) fn answer_text(answer: &Answer) -> Option<String> {
    Some(match answer {
        Answer::View(view) => view.text.clone(),
        Answer::Taken(taken) if taken.is_empty() => "nothing to take".into(),
        Answer::Taken(taken) => {
            let each: Vec<String> = taken.iter().map(delivery_text).collect();
            format!("taken {}", each.join(", "))
        }
        Answer::Views(views) => {
            let each: Vec<String> =
                views.iter().map(|v| format!("{} {}", short_id(&v.id), v.state.as_str())).collect();
            format!("listed: {}", each.join(", "))
        }
        Answer::Done(1) => "done".into(),
        other => other.to_string(),
    })
}

/// A decision that says more than what happens besides: who did not get the object, and why.
fn is_telling(decision: &Decision) -> bool {
    let telling = [Step::Wait, Step::Withdraw, Step::Refresh, Step::Return, Step::Reclaim];
    !decision.candidates.is_empty() || telling.contains(&decision.step)
}

pub(crate) fn entry_text(entry: &Entry) -> Option<String> {
    match entry {
        Entry::Object { how, standing, object, .. } => {
            let verb = match how {
                How::Pushed => "pushed",
                How::Emitted => "emitted",
                How::Advanced if object.handled.is_empty() => "advanced",
                How::Advanced => "handled",
                How::Received => "held",
                How::Carried => "carried",
                How::Returned if object.failed > 0 => "failed",
                How::Returned => "returned",
                How::Parked => "parked",
                How::Redriven => "redriven",
                How::Reclaimed => "reclaimed",
            };
            let reason = match standing {
                Standing::Parked(reason) => format!(" ({reason})"),
                _ => String::new(),
            };
            Some(format!("{verb} {}{reason}", short_id(&object.id)))
        }
        Entry::End(end) => Some(match &end.ending {
            Ending::Final => format!("final {}", short_id(&end.id)),
            Ending::Discarded(reason) => format!("discarded {} ({reason})", short_id(&end.id)),
            Ending::Moved(_) => format!("moved {}", short_id(&end.id)),
            Ending::Duplicate => format!("duplicate {} gave way", short_id(&end.id)),
        }),
        Entry::Moved { transfer, receiver, .. } => Some(format!("{transfer} is {receiver}'s")),
        Entry::Taken { transfer, .. } => Some(format!("{transfer} was taken")),
        Entry::Released { transfer } => Some(format!("{transfer} is ours")),
        Entry::Aborted { transfer } => Some(format!("{transfer} came to nothing")),
        Entry::Begun(locs) => Some(format!("work begun under {} lease(s)", locs.len())),
        Entry::Duplicate { id, .. } => Some(format!("duplicate {} kept out", short_id(id))),
        Entry::Verdict(lane) => Some(format!("lane {} is gone for ever", lane.short())),
        Entry::Checkpoint { index: 0, .. } => Some("checkpoint".into()),
        Entry::Decision { decision, objects } => {
            let ids: Vec<String> = objects.iter().map(|(id, _)| short_id(id)).collect();
            Some(format!("decided {}: {decision}", ids.join(",")))
        }
        Entry::Forgotten { .. }
        | Entry::Checkpoint { .. }
        | Entry::Peer(_)
        | Entry::Generation(_)
        | Entry::Undone(_) => None,
    }
}
