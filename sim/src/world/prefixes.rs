//! A log as if it ended after any of its records: each must be enough to go on from (R8).

use dpc_core::Effects;
use dpc_core::ids::RecordNumber;

use super::World;

impl World {
    /// Recovers a node from every prefix of its log, from the last checkpoint in it and from its
    /// first record. Both must come to the same, and be a node that can start. Says how many
    /// prefixes there were.
    ///
    /// The log must be whole: what was carried out of a part that is cut off stands in later records,
    /// so an earlier end of the rest is a log that never was.
    pub fn check_prefixes(&mut self, node: usize) -> Result<u64, String> {
        let (first, records) = self.nodes[node].disk.contents();
        assert_eq!(first, RecordNumber(1), "the log is whole");
        for (end, _) in &records {
            let mut short = self.recovered_at(node, *end, false);
            let whole = self.recovered_at(node, *end, true);
            if short.digest() != whole.digest() {
                return Err(format!("a log that ends with record {end} says two things"));
            }
            let mut fx = Effects::new();
            short.start(self.now_of(node), &mut fx);
            short.check();
        }
        Ok(records.len() as u64)
    }
}
