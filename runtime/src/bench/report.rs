//! What was measured, in words or as JSON lines.

use serde::Serialize;

use super::figure::{Measured, What};
use super::meter::Used;
use super::plan::{Plan, Where};
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// One value of a figure.
#[derive(Serialize)]
struct Line<'a> {
    figure: &'a str,
    value: f64,
    unit: &'static str,
    params: &'a Params<'a>,
}

/// What it was measured with.
#[derive(Serialize)]
struct Params<'a> {
    objects: Option<u64>,
    size: usize,
    window: usize,
    backlog: usize,
    producers: usize,
    subscribers: usize,
    types: usize,
    rate: Option<u32>,
    nodes: usize,
    store: Option<&'a str>,
    durability: Option<&'static str>,
}

/// What the report says at its end.
#[derive(Default)]
pub(super) struct Report {
    durability: Option<&'static str>,
}

/// Widths of the columns: rows are shown as they come, not at the end.
const FIGURE_WIDTH: usize = 22;
const VALUE_WIDTH: usize = 10;

/// Says what is about to be measured.
pub(super) fn begin(plan: &Plan, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(());
    }
    let nodes = match &plan.at {
        Where::Own { store, .. } => format!("own nodes, store {store}"),
        Where::Running(nodes) => format!("nodes {}", nodes.join(", ")),
    };
    let Plan { objects, size, producers, subscribers, types, .. } = plan;
    output.text(&format!(
        "{objects} objects of {size} B, {types} type(s), {producers} producer(s), {subscribers} subscriber(s), {nodes}"
    ))
}

impl Report {
    /// Prints a figure.
    pub(super) fn add(
        &mut self,
        measured: &Measured,
        plan: &Plan,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let params = params(measured, plan);
        self.durability = self.durability.or(measured.durability);
        for (suffix, value, unit) in values(&measured.what) {
            let figure = format!("{}{suffix}", measured.figure.name());
            if output.is_json() {
                output.json(&Line { figure: &figure, value, unit, params: &params })?;
            } else {
                let value = shown(value);
                output.text(&format!("{figure:FIGURE_WIDTH$}  {value:>VALUE_WIDTH$}  {unit}"))?;
            }
        }
        Ok(())
    }

    /// Says what the figures mean.
    pub(super) fn end(&self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return Ok(());
        }
        if let Some(durability) = self.durability {
            output
                .text(&format!("pushes and settles were answered when they were {durability}"))?;
        }
        output.text("CPU s/M: processor seconds per million objects")
    }
}

fn params<'a>(measured: &Measured, plan: &'a Plan) -> Params<'a> {
    let (objects, rate) = match &measured.what {
        What::Rate { objects, .. }
        | What::Backlog { objects, .. }
        | What::Adopted { objects, .. } => (Some(*objects), None),
        What::Waits { waits, rate } => (Some(waits.len()), Some(*rate)),
    };
    let store = match &plan.at {
        Where::Own { store, .. } => Some(store.as_str()),
        Where::Running(_) => None,
    };
    Params {
        objects,
        size: plan.size,
        window: plan.window,
        backlog: plan.backlog,
        producers: plan.producers,
        subscribers: plan.subscribers,
        types: plan.types,
        rate,
        nodes: measured.nodes,
        store,
        durability: measured.durability,
    }
}

/// The values of a figure, each with what its name ends in and its unit.
fn values(what: &What) -> Vec<(&'static str, f64, &'static str)> {
    match what {
        What::Rate { objects, unit, used } => used_up(*objects, unit, used),
        What::Waits { waits, .. } => {
            let of = |quantile| waits.value_at_quantile(quantile) as f64 / 1e6;
            let quantiles = [(".p50", 0.5), (".p99", 0.99), (".p99.9", 0.999)];
            let mut values: Vec<_> =
                quantiles.into_iter().map(|(name, at)| (name, of(at), "ms")).collect();
            values.push((".max", waits.max() as f64 / 1e6, "ms"));
            values
        }
        What::Backlog { objects, used, first, last, resident, disk } => {
            let mut values = used_up(*objects, "objects/s", used);
            values.push((".first_tenth", *first, "objects/s"));
            values.push((".last_tenth", *last, "objects/s"));
            values.extend(resident.map(|bytes| (".resident", bytes as f64 / 1_048_576.0, "MiB")));
            let share = |bytes: u64| bytes as f64 / *objects as f64;
            values.extend(disk.map(|bytes| (".disk", share(bytes), "B/object")));
            values
        }
        What::Adopted { objects, first, used, peak } => {
            let mut values = used_up(*objects, "objects/s", used);
            values.push((".first", first.as_secs_f64(), "s"));
            values.push((".rest", used.elapsed.as_secs_f64(), "s"));
            values.extend(peak.map(|bytes| (".peak", bytes as f64 / 1_048_576.0, "MiB")));
            values
        }
    }
}

fn used_up(
    objects: u64,
    unit: &'static str,
    used: &Used,
) -> Vec<(&'static str, f64, &'static str)> {
    let objects = objects as f64;
    let mut values = vec![("", objects / used.elapsed.as_secs_f64(), unit)];
    let cpu = |cpu: Option<std::time::Duration>| cpu.map(|cpu| cpu.as_secs_f64() / objects * 1e6);
    values.extend(cpu(used.nodes_cpu).map(|cpu| (".cpu_node", cpu, "CPU s/M")));
    values.extend(cpu(used.client_cpu).map(|cpu| (".cpu_client", cpu, "CPU s/M")));
    values.extend(used.written.map(|bytes| (".written", bytes as f64 / objects, "B/object")));
    values
}

/// Three digits or more, as a person reads it.
fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_rate_comes_with_what_it_cost() {
        let used = Used {
            elapsed: Duration::from_secs(2),
            client_cpu: Some(Duration::from_secs(1)),
            nodes_cpu: Some(Duration::from_secs(3)),
            written: None,
        };
        let values = values(&What::Rate { objects: 500_000, unit: "objects/s", used });
        let expected = [
            ("", 250_000.0, "objects/s"),
            (".cpu_node", 6.0, "CPU s/M"),
            (".cpu_client", 2.0, "CPU s/M"),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([250_000.4, 12.345, 0.1234].map(shown), ["250000", "12.35", "0.123"]);
    }
}
