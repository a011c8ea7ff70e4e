//! A client of the library as a process: it pushes, subscribes, settles and asks at random, and
//! tells the checks what it asks for and what it is told.

use std::sync::Arc;
use std::time::Duration;

use dpc_client::{Client, Error, Object, Options, Outcome, PushStatus, Receipt, Uuid};
use dpc_core::Answer;
use dpc_core::ids::{LaneId, ObjectId};
use dpc_core::names::TypeName;
use dpc_core::object::{Entity, Headers, Push};
use dpc_core::refusal::{Code, Refusal};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tokio::task::JoinSet;

use crate::receiver;
use crate::wires::Dialler;
use crate::world::{Phase, World};

/// The types that objects have.
pub(crate) const TYPES: [&str; 4] = ["img", "doc.text", "doc.pdf", "sound"];

/// What a client may have under way at once.
const UNDER_WAY_MAX: usize = 24;

/// What a client is like.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    pub(crate) name: String,
    pub(crate) seed: u64,
    /// The nodes it knows, by number, in its order.
    pub(crate) nodes: Vec<usize>,
    /// Longest time between two things that it begins.
    pub(crate) pace: Duration,
    /// Whether it pushes, and whether it subscribes.
    pub(crate) pushes: bool,
    pub(crate) receives: bool,
}

/// One life of a client, and what its tasks share.
#[derive(Clone)]
pub(crate) struct Me {
    pub(crate) world: World,
    pub(crate) client: Client,
    /// The lanes of the nodes it knows.
    lanes: Arc<[LaneId]>,
    rng: Arc<std::sync::Mutex<Pcg64Mcg>>,
}

/// Lives until the end of the run, or of its host.
pub(crate) async fn live(world: World, habits: Habits) -> turmoil::Result {
    let me = Me::new(&world, &habits)?;
    let mut under_way = JoinSet::new();
    let mut pushed: Vec<Push> = Vec::new();
    while world.phase() == Phase::Chaos {
        let wait = me.draw(u64::try_from(habits.pace.as_micros()).expect("a short time"));
        tokio::time::sleep(Duration::from_micros(wait)).await;
        while under_way.try_join_next().is_some() {}
        if under_way.len() >= UNDER_WAY_MAX {
            continue;
        }
        match me.draw(10) {
            0..=5 if habits.pushes => {
                let push = me.new_push(&mut pushed);
                let me = me.clone();
                under_way.spawn(async move { me.push(push).await });
            }
            6 | 7 if habits.receives => drop(under_way.spawn(receiver::subscribe(me.clone()))),
            8 if habits.receives => drop(under_way.spawn(receiver::take(me.clone()))),
            _ => {
                let me = me.clone();
                under_way.spawn(async move { me.look().await });
            }
        }
    }
    while under_way.join_next().await.is_some() {}
    world.lock().clients_done.insert(habits.name);
    std::future::pending().await
}

/// Options under which troubles end within seconds, with ids and waits that the seed fixes.
pub(crate) fn options(world: &World, host: &str, seed: u64) -> Options {
    let rng = std::sync::Mutex::new(Pcg64Mcg::seed_from_u64(seed));
    let ids = move || {
        let mut rng = rng.lock().expect("drawing does not panic");
        Uuid::from_u64_pair(rng.next_u64(), rng.next_u64())
    };
    Options::new()
        .connector(Dialler::new(&world.wires, host).connector())
        .ids(ids)
        .give_up_after(Duration::from_secs(3))
        .answer_timeout(Duration::from_millis(1_500))
        .connect_timeout(Duration::from_millis(800))
        .keepalive(Duration::from_millis(500), Duration::from_millis(500))
        .backoff(Duration::from_millis(20), Duration::from_millis(400))
}

impl Me {
    fn new(world: &World, habits: &Habits) -> Result<Self, Error> {
        let (addresses, lanes): (Vec<_>, Vec<_>) = {
            let facts = world.lock();
            let nodes = habits.nodes.iter().map(|n| &facts.nodes[*n]);
            nodes.map(|node| (crate::node::clients_address(&node.name), node.lane)).unzip()
        };
        // A client that starts again must not make the ids of its life before.
        let since = turmoil::sim_elapsed().map_or(0, |t| t.as_millis() as u64);
        let seed = habits.seed ^ since << 20;
        let client = Client::connect(addresses, options(world, &habits.name, seed))?;
        let rng = Arc::new(std::sync::Mutex::new(Pcg64Mcg::seed_from_u64(!seed)));
        Ok(Self { world: world.clone(), client, lanes: lanes.into(), rng })
    }

    /// A number below this one.
    pub(crate) fn draw(&self, below: u64) -> u64 {
        self.rng.lock().expect("drawing does not panic").next_u64() % below.max(1)
    }

    /// One of these.
    pub(crate) fn any<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.draw(of.len() as u64)).expect("below a usize")]
    }

    pub(crate) fn new_id(&self) -> ObjectId {
        let mut rng = self.rng.lock().expect("drawing does not panic");
        ObjectId(*Uuid::from_u64_pair(rng.next_u64(), rng.next_u64()).as_bytes())
    }

    /// A new object, or now and then one that was pushed before, as it was or changed.
    fn new_push(&self, pushed: &mut Vec<Push>) -> Push {
        if !pushed.is_empty() && self.draw(12) == 0 {
            let mut push = self.any(pushed).clone();
            if self.draw(3) == 0 {
                let payload = "something else".into();
                push = Push::new(push.id, Entity { payload, ..push.entity().clone() });
            }
            self.world.saw("id pushed again");
            return push;
        }
        let size = *self.any(&[1_usize, 10, 300, 9_000]);
        let push = push_of(self.new_id(), self.any::<&str>(&TYPES), &"x".repeat(size));
        pushed.push(push.clone());
        push
    }

    /// Pushes, and tells the checks.
    async fn push(&self, push: Push) {
        self.world.lock().on_push(&self.lanes, &push);
        let answer = self.client.push(object_of(&push)).await;
        self.pushed(&push, &answer);
    }

    fn pushed(&self, push: &Push, answer: &Result<Receipt, Error>) {
        let facts = &mut *self.world.lock();
        match answer {
            Ok(receipt) => {
                let Some(node) = facts.node_named(&receipt.stored.node) else {
                    return facts.checks.fail("P8", format!("{receipt:?} names no node"));
                };
                let lane = node.lane;
                let already = receipt.stored.status == PushStatus::AlreadyExists;
                let id = ObjectId(*receipt.id.as_bytes());
                facts.checks.on_pushed(lane, push, &Answer::Pushed { id, already });
                facts.coverage.add_if("push answered as known", already);
                facts.coverage.add("push answered");
            }
            Err(error) if error.outcome() == Outcome::DefinitelyNot => {
                let refused = Answer::Refused(Box::new(refusal(error)));
                for lane in &*self.lanes {
                    facts.checks.on_pushed(*lane, push, &refused);
                }
                let full = error.reason() == "DISK_LOW";
                facts.coverage.add_if("push refused for want of disk", full);
                facts.coverage.add("push refused");
            }
            Err(_) => facts.coverage.add("push with unknown outcome"),
        }
    }

    /// An operator's question, whose answer nobody needs.
    async fn look(&self) {
        use dpc_client::proto::v1;
        let asked = self
            .client
            .ask(|mut node| async move { node.list_types(v1::ListTypesRequest::default()).await });
        let name = if asked.await.is_ok() { "operator answered" } else { "operator not answered" };
        self.world.saw(name);
    }
}

/// A refusal as the client heard it.
pub(crate) fn refusal(error: &Error) -> Refusal {
    Refusal::new(Code::FailedPrecondition, "REFUSED", error.to_string())
}

/// A push as core has it.
pub(crate) fn push_of(id: ObjectId, ty: &str, text: &str) -> Push {
    let entity = entity_of(ty, text);
    Push::new(Some(id), entity)
}

/// An entity as core has it.
pub(crate) fn entity_of(ty: &str, text: &str) -> Entity {
    Entity {
        ty: TypeName::from_type_url(ty).expect("a valid type"),
        payload: text.to_owned().into(),
        headers: Headers::default(),
    }
}

/// The same push as the library has it.
pub(crate) fn object_of(push: &Push) -> Object {
    let id = push.id.expect("the harness chooses ids");
    Object::new(push.entity().ty.as_str(), push.entity().payload.clone()).id(Uuid::from_bytes(id.0))
}
