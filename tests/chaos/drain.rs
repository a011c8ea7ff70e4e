//! The end of a round: everything left is finalised, doubts are asked again, and the nodes say what
//! they have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpc_client::Client;
use dpc_client::proto::v1;
use dpc_client::proto::v1::ObjectState;
use tokio::task::JoinSet;
use tonic::Code;

use crate::history::{Event, Standing, State, Type, books_of};
use crate::work::{Actor, Shared, finish};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Questions about objects that are under way at once.
const QUESTIONS_MAX: usize = 64;

/// Of one in so many objects everybody is asked.
const EVERYWHERE: usize = 16;

/// Finalises what is left until nothing is ready, leased, delayed or on its way. What stays within
/// the patience is named, with what its node says of it.
pub(crate) async fn drain(shared: &Arc<Shared>, patience: Duration, mut look: impl FnMut()) {
    let began = Instant::now();
    let mut finishers = JoinSet::new();
    for actor in shared.finishers() {
        finishers.spawn(finish(actor));
    }
    let askers: Vec<_> = askers("asker", shared);
    loop {
        look();
        let left = left(&askers).await;
        if left.is_empty() {
            break;
        }
        if began.elapsed() > patience {
            for what in left {
                shared.history.note(Event::Left { what });
            }
            for what in explain(&askers).await {
                shared.history.note(Event::Left { what });
            }
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    finishers.detach_all();
}

fn askers(name: &str, shared: &Arc<Shared>) -> Vec<Actor> {
    shared.places.iter().map(|place| Actor::direct(name, place, shared)).collect()
}

async fn types(client: &Client) -> Result<Vec<v1::TypeInfo>, String> {
    let request = v1::ListTypesRequest { limit: Some(1_000), ..Default::default() };
    let answer = client.ask(|mut node| {
        let request = request.clone();
        async move { node.list_types(request).await }
    });
    answer.await.map(|answer| answer.types).map_err(|error| error.to_string())
}

/// What has not come to an end, in words.
async fn left(askers: &[Actor]) -> Vec<String> {
    let mut left = Vec::new();
    for asker in askers {
        let node = &asker.uses[0];
        match types(&asker.client).await {
            Err(error) => left.push(format!("{node} does not say what it has: {error}")),
            Ok(types) => {
                for of in types {
                    let v1::TypeInfo { r#type, ready, leased, delayed, offered, held, .. } = of;
                    if ready + leased + delayed + offered + held > 0 {
                        left.push(format!(
                            "{type} at {node}: {ready} ready, {leased} leased, {delayed} delayed, \
                             {offered} offered, {held} held"
                        ));
                    }
                }
            }
        }
    }
    left
}

/// Why the first objects that are left are where they are.
async fn explain(askers: &[Actor]) -> Vec<String> {
    let mut told = Vec::new();
    for asker in askers {
        for state in [
            ObjectState::Ready,
            ObjectState::Leased,
            ObjectState::Delayed,
            ObjectState::Offered,
            ObjectState::Held,
        ] {
            let request = v1::ListObjectsRequest {
                state: state.into(),
                limit: Some(3),
                ..v1::ListObjectsRequest::default()
            };
            let Ok(list) = asker.client.operator().list_objects(request).await else { continue };
            for object in list.into_inner().objects {
                let id = object.id;
                let request = v1::WhyObjectRequest { id: id.clone(), local: false };
                let why = asker.client.operator().why_object(request).await;
                let text = match why {
                    Ok(why) => why.into_inner().why.unwrap_or_default().text,
                    Err(status) => status.message().to_owned(),
                };
                told.push(format!("{id} is {state:?} at {}: {text}", asker.uses[0]));
            }
        }
    }
    told
}

/// Repeats settles whose outcome is not known, and some that were done: at the node of the lease.
pub(crate) async fn repeat_settles(shared: &Arc<Shared>) {
    let askers = askers("again", shared);
    let mut under_way = JoinSet::new();
    for repeat in shared.repeats() {
        let asker = askers.iter().find(|asker| asker.uses[0] == repeat.node);
        let asker = asker.expect("every lease is of a node").clone();
        if under_way.len() == QUESTIONS_MAX {
            under_way.join_next().await;
        }
        under_way.spawn(async move { asker.repeat(&repeat).await });
    }
    while under_way.join_next().await.is_some() {}
}

/// Asks the nodes for their books and for every object: first where it was seen, then, if nobody
/// there owns it, everywhere. Of some everybody is asked, so that a second owner would be found;
/// the logs of the lanes show it for all.
pub(crate) async fn take_inventory(
    shared: &Arc<Shared>,
    likely: &BTreeMap<String, BTreeSet<String>>,
) {
    let askers: Arc<[Actor]> = askers("inventory", shared).into();
    for asker in &*askers {
        let node = &asker.uses[0];
        for of in types(&asker.client).await.unwrap_or_else(|error| panic!("{node}: {error}")) {
            let there = of.ready + of.leased + of.delayed + of.parked + of.offered;
            let books = books_of(&of.books.expect("a type has books"));
            let line = Type { node: node.clone(), ty: of.r#type, there, books };
            shared.history.note(Event::Type(line));
        }
    }
    let mut under_way = JoinSet::new();
    for part in 0..QUESTIONS_MAX {
        let mine = likely.iter().enumerate().skip(part).step_by(QUESTIONS_MAX);
        let mine = mine.map(|(index, (id, nodes))| {
            let nodes = (index % EVERYWHERE != 0).then(|| nodes.clone());
            (id.clone(), nodes)
        });
        under_way.spawn(ask_for(askers.clone(), mine.collect()));
    }
    while let Some(asked) = under_way.join_next().await {
        asked.expect("no question panics");
    }
    shared.history.note(Event::Inventory);
}

/// Asks for objects, each at some nodes, or at all of them.
async fn ask_for(askers: Arc<[Actor]>, ids: Vec<(String, Option<BTreeSet<String>>)>) {
    for (id, nodes) in ids {
        let is_likely =
            |asker: &&Actor| nodes.as_ref().is_none_or(|nodes| nodes.contains(&asker.uses[0]));
        let (first, rest): (Vec<_>, Vec<_>) = askers.iter().partition(is_likely);
        let mut owned = false;
        for asker in first {
            owned |= ask_one(asker, &id).await;
        }
        for asker in rest {
            if !owned {
                ask_one(asker, &id).await;
            }
        }
    }
}

/// Asks a node for an object. True: it is there, or has ended there.
async fn ask_one(asker: &Actor, id: &str) -> bool {
    let node = &asker.uses[0];
    let request = v1::GetObjectRequest { id: id.to_owned(), local: true };
    let object = match asker.client.operator().get_object(request).await {
        Ok(answer) => answer.into_inner().object.expect("an answer has an object"),
        Err(status) if status.code() == Code::NotFound => return false,
        // Alone it cannot tell where an object is that it has never seen.
        Err(status) if status.message().contains("not known at") => return false,
        Err(status) => panic!("{id} at {node}: {status}"),
    };
    // An object that was never handed on does not say where it is from.
    let origin = if object.origin.is_empty() { node } else { &object.origin };
    let state = standing(object.state());
    asker.shared.history.note(Event::State(State {
        node: node.clone(),
        id: id.to_owned(),
        origin: origin.clone(),
        state,
        version: object.version,
        reason: object.parked_reason.clone(),
    }));
    !matches!(state, Standing::Moved | Standing::Held)
}

fn standing(state: ObjectState) -> Standing {
    match state {
        ObjectState::Ready
        | ObjectState::Delayed
        | ObjectState::Leased
        | ObjectState::Offered
        | ObjectState::Unspecified => Standing::Live,
        ObjectState::Held => Standing::Held,
        ObjectState::Final => Standing::Final,
        ObjectState::Discarded => Standing::Discarded,
        ObjectState::Parked => Standing::Parked,
        ObjectState::Moved => Standing::Moved,
    }
}
