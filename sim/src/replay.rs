//! The story of a recorded node: each input on a line, its consequences indented below, as the
//! stories of a simulated world are told.

use dpc_core::Input;
use dpc_core::decision::Decision;
use dpc_core::effect::Effect;
use dpc_core::ids::{LinkId, ObjectId, RecordNumber};
use dpc_core::input::{LeaseRef, Lessee, Settle, Verb};
use dpc_core::message::short_id;
use dpc_core::names::Name;
use dpc_core::object::Push;
use dpc_core::record::{Entry, entries};
use dpc_core::recording::PlayedCall;

use crate::trace::{answer_text, as_processor, delivery_text, entry_text, order_line};

/// One call in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The input.
    pub input: String,
    /// What came of it, one line each.
    pub effects: Vec<String>,
}

/// Tells one call of a node. `peer` names the node at the other end of a link.
pub fn tell(node: &Name, peer: &dyn Fn(LinkId) -> String, call: &PlayedCall) -> Told {
    let input = match &call.input {
        Some(input) => input_line(node, peer, input),
        None => format!("{node} . the store is ready for a record"),
    };
    let mut effects: Vec<String> =
        call.effects.iter().filter_map(|effect| effect_line(peer, effect)).collect();
    if let Some(record) = &call.record {
        let (_, entries) = entries(&record.bytes).expect("it was just sealed");
        let texts: Vec<String> = entries.iter().filter_map(|(_, e)| entry_text(e)).collect();
        let what = if texts.is_empty() { "bookkeeping".to_owned() } else { texts.join("; ") };
        effects.push(format!("write #{}: {what}", record.number));
    }
    Told { input, effects }
}

/// The decisions that a call has written, with the objects they were taken for.
pub fn decisions(call: &PlayedCall) -> Vec<(Decision, Vec<(ObjectId, u32)>)> {
    let Some(record) = &call.record else { return Vec::new() };
    let (_, entries) = entries(&record.bytes).expect("it was just sealed");
    let decision = |entry| match entry {
        Entry::Decision { decision, objects } => Some((decision, objects)),
        _ => None,
    };
    entries.into_iter().filter_map(|(_, entry)| decision(entry)).collect()
}

fn input_line(node: &Name, peer: &dyn Fn(LinkId) -> String, input: &Input) -> String {
    match input {
        Input::Wake => format!("{node} . wakes"),
        Input::Push(_, push) => format!("{node} < push {}", push_text(push)),
        Input::OpenSession(session) => format!("{node} < session {session} opens"),
        Input::CloseSession(session) => format!("{node} < session {session} ends"),
        Input::Subscribe(_, s) => format!(
            "{node} < session {} subscribes {}{}, credit {}",
            s.session,
            s.pattern,
            as_processor(s.processor.as_str()),
            s.credit
        ),
        Input::Unsubscribe(_, session, sub) => {
            format!("{node} < session {session} ends subscription {sub}")
        }
        Input::Begin(_, lessee, leases) => {
            format!("{node} < {} begins {}", lessee_text(lessee), leases_text(leases))
        }
        Input::Extend(_, lessee, leases) => {
            format!("{node} < {} extends {}", lessee_text(lessee), leases_text(leases))
        }
        Input::Settle(_, lessee, settle) => {
            format!("{node} < {} {}", lessee_text(lessee), settle_text(settle))
        }
        Input::Transaction(_, lessee, t) => {
            let settles = t.settles.iter().map(settle_text);
            let pushes = t.pushes.iter().map(|push| format!("pushes {}", push_text(push)));
            let parts: Vec<String> = settles.chain(pushes).collect();
            format!("{node} < {} at once: {}", lessee_text(lessee), parts.join("; "))
        }
        Input::Take(_, take) => format!(
            "{node} < take {}{}, at most {}, wait {}",
            take.pattern,
            as_processor(take.processor.as_str()),
            take.count,
            take.wait
        ),
        Input::Operator(_, order) => order_line(node.as_str(), order),
        Input::Committed(number) => format!("{node} < #{number} is durable"),
        Input::Loaded(number, _) => format!("{node} < record #{number} read"),
        Input::LookedUp { part, id, loc } => {
            let found = loc.map_or_else(|| "nothing".to_owned(), |loc| loc.to_string());
            format!("{node} < part {part} has {found} of {}", short_id(id))
        }
        Input::HistoryStands(number) => format!("{node} < the history stands at #{number}"),
        Input::Disk { low: true } => format!("{node} < the disk is below its reserve"),
        Input::Disk { low: false } => format!("{node} < the disk has room again"),
        Input::Renewed => format!("{node} < the lane's head is renewed"),
        Input::Fenced(epoch) => format!("{node} < the lane is somebody else's, epoch {epoch}"),
        Input::Adopts { lane, runs: true } => {
            format!("{node} < runs lane {} as well", lane.short())
        }
        Input::Adopts { lane, runs: false } => {
            format!("{node} < runs lane {} no more", lane.short())
        }
        Input::LaneRetired(lane) => format!("{node} < lane {} is retired", lane.short()),
        Input::LinkUp { link, dialled: true } => {
            format!("{node} < link {link} is up, dialled here")
        }
        Input::LinkUp { link, dialled: false } => format!("{node} < link {link} is up"),
        Input::LinkDown(link) => format!("{node} < the link to {} is down", peer(*link)),
        Input::Peer(link, message) => format!("{node} < {}: {message}", peer(*link)),
    }
}

fn effect_line(peer: &dyn Fn(LinkId) -> String, effect: &Effect) -> Option<String> {
    let waits = |after: &Option<RecordNumber>| {
        after.map_or_else(String::new, |n| format!(" once #{n} is durable"))
    };
    Some(match effect {
        Effect::Reply { answer, after, .. } => {
            format!("answer{}: {}", waits(after), answer_text(answer)?)
        }
        Effect::Deliver(session, d) => {
            format!("deliver to session {session}: {}", delivery_text(d))
        }
        Effect::Send { link, message, after } => {
            format!("to {}{}: {message}", peer(*link), waits(after))
        }
        Effect::CloseLink { link, refusal, .. } => {
            format!("close the link to {}: {}", peer(*link), refusal.reason())
        }
        other => other.to_string(),
    })
}

fn push_text(push: &Push) -> String {
    let id = push.id.as_ref().map_or_else(|| "?".to_owned(), short_id);
    format!("{id} type {}, {} bytes", push.entity().ty, push.entity().payload.len())
}

fn settle_text(settle: &Settle) -> String {
    let verb = match settle.verb() {
        Verb::Finalise => "finalises".to_owned(),
        Verb::Advance(None) => "has handled".to_owned(),
        Verb::Advance(Some(entity)) => format!("advances to {}", entity.ty),
        Verb::Release { failed: false, .. } => "releases".to_owned(),
        Verb::Release { failed: true, .. } => "fails on".to_owned(),
        Verb::Reject(reason) => format!("rejects ({reason})"),
    };
    let emits: String =
        settle.emits().iter().map(|emit| format!(", emits {}", push_text(emit))).collect();
    format!("{verb} {}{emits}", leases_text(&settle.leases))
}

fn lessee_text(lessee: &Lessee) -> String {
    match lessee {
        Lessee::Session(session) => format!("session {session}"),
        Lessee::Bearer => "a bearer".to_owned(),
    }
}

fn leases_text(leases: &[LeaseRef]) -> String {
    let text = |lease: &LeaseRef| match lease {
        LeaseRef::Number(n) => format!("lease {n}"),
        LeaseRef::Token(token) => format!("lease {} of {}", token.n, short_id(&token.object)),
    };
    leases.iter().map(text).collect::<Vec<_>>().join(", ")
}
