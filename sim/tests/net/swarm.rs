//! Seeded random runs of the full stack.

use std::time::Duration;

use sim::coverage::Coverage;

use crate::client::Habits;
use crate::net::{Net, Plan};
use crate::world::Phase;

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) broken: Option<String>,
    pub(crate) coverage: Coverage,
    pub(crate) simulated: Duration,
}

pub(crate) fn run(seed: u64) -> Report {
    let plan = Plan::new(seed, &[&[], &[0], &[1]]);
    let mut net = Net::new(plan);
    for (i, nodes) in [vec![0], vec![2], vec![1, 0]].into_iter().enumerate() {
        net.add_client(Habits { name: format!("c{i}"), seed: seed ^ (i as u64 + 1) << 16, nodes, pace: Duration::from_millis(200), pushes: true, receives: true });
    }
    net.run_until_up();
    net.run_for(Duration::from_secs(5));
    net.world.lock().phase = Phase::Closing;
    net.run_until(Duration::from_secs(20), |net| net.world.lock().clients_done == 3);
    let coverage = net.world.lock().coverage.clone();
    Report { broken: net.broken(), coverage, simulated: net.sim.elapsed() }
}
