//! `dpc bench`: what nodes do per second, what that costs, and how long an object waits.
//!
//! `plan` is what was asked for, `figure` runs one figure after the other, `load` pushes and
//! settles as any program does, through the client crate; `meter` reads what the processes used,
//! `report` prints. Nodes are processes of their own, so that the two sides are charged apart.

mod adopt;
mod core;
mod driver;
mod figure;
mod latency;
mod load;
mod meter;
mod plan;
mod report;

pub(crate) use figure::Figure;
pub(crate) use plan::{Plan, Where};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::stop::Stop;
use crate::memory::stay_with_small_pages;

/// Runs the figures of a plan, in its order, and ends every node it started, whatever happens.
pub(crate) async fn run(plan: &Plan, output: &mut Output) -> Result<Exit, Failure> {
    // Its own memory is that of the client, or of a core by itself.
    stay_with_small_pages();
    report::begin(plan, output)?;
    let mut report = report::Report::default();
    let mut stop = Stop::new()?;
    for figure in &plan.figures {
        let Some(measured) = figure::run(*figure, plan, &mut stop, output).await? else {
            output.note(&format!("interrupted in figure {}; its nodes are ended", figure.name()));
            return Ok(Exit::Interrupted);
        };
        report.add(&measured, plan, output)?;
    }
    report.end(output)?;
    Ok(Exit::Done)
}
