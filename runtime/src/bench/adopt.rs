//! A backlog of a node that is killed and never comes back: how soon the others deliver the first of
//! it, and how soon all of it.

use std::time::Instant;

use futures_util::future::try_join_all;

use super::figure::{What, push, watched};
use super::load::{self, Settled};
use super::meter::{Meter, peak};
use super::plan::{Plan, Stage, Where, client};
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// Refuses what has nobody who could adopt.
///
/// # Errors
///
/// Usage, if the nodes are not the plan's own or do not share their store.
pub(super) fn check(plan: &Plan) -> Result<(), Failure> {
    match &plan.at {
        Where::Own { store, .. } if store != "embedded" => Ok(()),
        _ => Err(Failure::usage(
            "adopt kills a node of its own whose lane the others find in the store that they share: \
             name it by --store postgres or --store cassandra, and --set store.url=…",
        )),
    }
}

/// Fills the first node, kills it, and settles what it had by clients of all the others.
pub(super) async fn measure(
    plan: &Plan,
    stage: &mut Stage,
    output: &mut Output,
) -> Result<What, Failure> {
    push(plan, stage, output).await?;
    let killed = Instant::now();
    let mesh = stage.mesh.as_mut().expect("it was checked that the nodes are the plan's own");
    mesh.kill_first().await?;
    let others: Vec<String> = mesh.nodes().iter().map(|node| node.clients.clone()).collect();
    let stage = &*stage;
    let settled = Settled::of(plan.objects);
    let meter = Meter::begin(stage.pids());
    let settling = async {
        let at = others.iter().map(|other| load::subscribe_by(plan, stage, || client(other)));
        let subscriptions = try_join_all(at).await?.into_iter().flatten().collect();
        load::settle(subscriptions, &settled, None).await
    };
    watched("settled", plan.objects, || settled.count(), settling, output).await?;
    let first = settled.first().expect("everything was settled") - killed;
    let mut used = meter.used();
    used.elapsed = killed.elapsed() - first;
    Ok(What::Adopted { objects: plan.objects, first, used, peak: peak(&stage.pids()) })
}
