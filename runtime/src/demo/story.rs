//! The acceptance story: two clients at the ends of a line of nodes, each wanting what the other
//! one pushes.

use std::time::Duration;

use dpc_client::proto::v1;
use dpc_client::{Client, Delivery, Object, Subscription, Uuid};

use super::say;
use crate::cli::client::of_client;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::table::Table;
use crate::nodes::{Mesh, Node};

/// What client 2 wants and client 1 pushes, and the other way round.
const TYPE_1: &str = "demo.Order";
const TYPE_2: &str = "demo.Invoice";

const DATA_1: [&str; 3] = ["3 apples", "1 bicycle", "2 tickets"];
const DATA_2: [&str; 3] = ["4.20", "310.00", "18.00"];

/// Longer than anything here takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An object of the story.
struct Told {
    id: Uuid,
    /// Such as `order 2`.
    name: String,
    object_type: &'static str,
    pushed_at: String,
    /// The nodes it was at, in order; from the nodes' own records.
    way: Vec<String>,
    finalised_by: String,
}

/// Tells it.
pub(super) async fn tell(mesh: &Mesh, output: &mut Output) -> Result<Exit, Failure> {
    let (first, last) = (mesh.first(), mesh.last());
    let (client_1, client_2) = (first.client()?, last.client()?);
    let mut told = Vec::new();

    say(
        output,
        "chapter",
        &format!(
            "\nClient 1 pushes orders at node {}. Nobody wants them yet, so they stay there.",
            first.name
        ),
    )?;
    push_all(&client_1, 1, TYPE_1, &DATA_1, first, &mut told, output).await?;
    why(first, &told[0], output).await?;

    let text = format!(
        "\nClient 2 subscribes to {TYPE_1} at node {}. The demand travels along the links, the orders travel to it.",
        last.name
    );
    say(output, "chapter", &text)?;
    let wants_1 = subscribe(&client_2, TYPE_1).await?;
    receive(&wants_1, 2, mesh, &mut told, DATA_1.len(), output).await?;

    let text = format!(
        "\nNow the other way round: client 1 subscribes to {TYPE_2} at node {}, client 2 pushes at node {}.",
        first.name, last.name
    );
    say(output, "chapter", &text)?;
    let wants_2 = subscribe(&client_1, TYPE_2).await?;
    push_all(&client_2, 2, TYPE_2, &DATA_2, last, &mut told, output).await?;
    receive(&wants_2, 1, mesh, &mut told, DATA_2.len(), output).await?;

    for subscription in [wants_1, wants_2] {
        subscription.close().await.map_err(|error| of_client(&error))?;
    }
    check_final(mesh, &told).await?;
    summary(&told, output)?;
    Ok(Exit::Done)
}

async fn subscribe(client: &Client, object_type: &str) -> Result<Subscription, Failure> {
    client.subscribe([object_type]).await.map_err(|error| of_client(&error))
}

async fn push_all(
    client: &Client,
    number: u32,
    object_type: &'static str,
    data: &[&'static str],
    node: &Node,
    told: &mut Vec<Told>,
    output: &mut Output,
) -> Result<(), Failure> {
    for (index, data) in data.iter().enumerate() {
        let pushed = client.push(Object::new(object_type, *data)).await;
        let receipt = pushed.map_err(|error| of_client(&error))?;
        let noun = object_type.rsplit('.').next().unwrap_or(object_type).to_lowercase();
        let name = format!("{noun} {}", index + 1);
        let text = format!(
            "  push      client {number} -> {}: {name} \"{data}\", safe on its disk",
            node.name
        );
        say(output, "push", &text)?;
        told.push(Told {
            id: receipt.id,
            name,
            object_type,
            pushed_at: node.name.clone(),
            way: Vec::new(),
            finalised_by: String::new(),
        });
    }
    Ok(())
}

/// Asks a node why an object is where it is, and shows the answer and how to get it.
async fn why(node: &Node, told: &Told, output: &mut Output) -> Result<(), Failure> {
    let request = v1::WhyObjectRequest { id: told.id.to_string(), local: false };
    let client = node.client()?;
    let asked = client.ask(|mut node| {
        let request = request.clone();
        async move { node.why_object(request).await }
    });
    let answer = asked.await.map_err(|error| of_client(&error))?;
    let why = answer.why.ok_or_else(|| wrong("`why` answered nothing"))?;
    let text = format!("  why       {} ({}): {}", told.name, told.id, why.text);
    say(output, "why", &text)?;
    if why.waits_for() != v1::WaitsFor::Demand {
        return Err(wrong(format!("{} should wait for demand", told.name)));
    }
    Ok(())
}

/// Receives so many objects and finalises them, each with the way it came.
async fn receive(
    subscription: &Subscription,
    number: u32,
    mesh: &Mesh,
    told: &mut [Told],
    count: usize,
    output: &mut Output,
) -> Result<(), Failure> {
    for _ in 0..count {
        let next = tokio::time::timeout(PATIENCE, subscription.next()).await;
        let delivery = next
            .map_err(|_| wrong(format!("nothing came for client {number} in {PATIENCE:?}")))?
            .map_err(|error| of_client(&error))?
            .ok_or_else(|| wrong("the subscription ended"))?;
        let object = told.iter_mut().find(|told| told.id == delivery.id());
        let object = object.ok_or_else(|| wrong(format!("{} was never pushed", delivery.id())))?;
        if !object.finalised_by.is_empty() {
            return Err(wrong(format!("{} came a second time", object.name)));
        }
        handoffs(mesh, object, &delivery, output).await?;
        let at = delivery.node();
        let name = &object.name;
        say(output, "delivery", &format!("  delivery  {at} -> client {number}: {name}"))?;
        delivery.finalise().await.map_err(|error| of_client(&error))?;
        object.finalised_by = format!("client {number} at {at}");
        let text =
            format!("  settled   client {number} -> {at}: {name} is finalised, done for good");
        say(output, "settled", &text)?;
    }
    Ok(())
}

/// Shows how an object came, from what the nodes on its way have recorded.
async fn handoffs(
    mesh: &Mesh,
    object: &mut Told,
    delivery: &Delivery,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut received = Vec::new();
    for node in mesh.nodes() {
        let request = v1::TraceObjectRequest { id: object.id.to_string(), local: true };
        let client = node.client()?;
        let asked = client.ask(|mut node| {
            let request = request.clone();
            async move { node.trace_object(request).await }
        });
        match asked.await {
            Ok(trace) => {
                received.extend(trace.decisions.into_iter().filter(|d| d.decision == "receive"))
            }
            // It never came to this node.
            Err(error) if error.code() == tonic::Code::NotFound => {}
            Err(error) => return Err(of_client(&error)),
        }
    }
    received.sort_by_key(|decision| decision.moves);
    received.dedup_by_key(|decision| decision.moves);
    object.way = vec![object.pushed_at.clone()];
    for decision in received {
        let from = object.way.last().cloned().unwrap_or_default();
        let to = decision.node;
        let text =
            format!("  handoff   {from} -> {to}: {}, owned by {to} from now on", object.name);
        say(output, "handoff", &text)?;
        object.way.push(to);
    }
    let handoffs = object.way.len() - 1;
    if handoffs != delivery.hops() as usize || handoffs != mesh.nodes().len() - 1 {
        let (way, hops) = (object.way.join(" > "), delivery.hops());
        return Err(wrong(format!("{} came by {way} with {hops} handoffs", object.name)));
    }
    Ok(())
}

/// Asks the nodes that delivered: every object must be final.
async fn check_final(mesh: &Mesh, told: &[Told]) -> Result<(), Failure> {
    for object in told {
        let last = if object.object_type == TYPE_1 { mesh.last() } else { mesh.first() };
        let node = last.client()?;
        let request = v1::GetObjectRequest { id: object.id.to_string(), local: true };
        let asked = node.ask(|mut node| {
            let request = request.clone();
            async move { node.get_object(request).await }
        });
        let answer = asked.await.map_err(|error| of_client(&error))?;
        let state = answer.object.map(|object| object.state());
        if state != Some(v1::ObjectState::Final) {
            return Err(wrong(format!("{} should be final and is {state:?}", object.name)));
        }
    }
    Ok(())
}

fn summary(told: &[Told], output: &mut Output) -> Result<(), Failure> {
    let mut table = Table::new(&["object", "type", "pushed at", "way", "finalised by"]);
    for object in told {
        let way = object.way.join(" > ");
        table.row([
            object.name.clone(),
            object.object_type.to_owned(),
            object.pushed_at.clone(),
            way,
            object.finalised_by.clone(),
        ]);
    }
    let text = format!("\n{}", table.render(str::to_owned).trim_end());
    say(output, "summary", &text)?;
    let text =
        format!("All {} objects were handed over, delivered once and finalised.", told.len());
    say(output, "done", &text)
}

fn wrong(message: impl Into<String>) -> Failure {
    Failure::local("DEMO_FAILED", message)
}
