//! The ways that demand takes through the mesh, each in memory once, however many types are wanted
//! along it: there are as many as there are origins in reach of a link, not as many as types.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::message::Path;

/// So many are kept before it is looked which of them nobody uses.
const SWEEP_FROM: usize = 64;

/// The paths that are in use, and at most about as many again that were.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    known: BTreeSet<Path>,
    /// How many there were in use when it was looked last.
    used: usize,
}

impl Paths {
    /// The same path, in memory once.
    pub(crate) fn share(&mut self, path: Path) -> Path {
        if let Some(known) = self.known.get(&path) {
            return known.clone();
        }
        if self.known.len() >= SWEEP_FROM + 2 * self.used {
            self.known.retain(|path| Arc::strong_count(path) > 1);
            self.used = self.known.len();
        }
        self.known.insert(path.clone());
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LaneId;
    use crate::names::Name;

    fn path(n: usize) -> Path {
        let name = Name::new("node", &format!("n{n}")).expect("a valid name");
        [(name, LaneId(u128::try_from(n).expect("small").to_be_bytes()))].into()
    }

    #[test]
    fn equal_paths_are_one_and_unused_ones_go() {
        let mut paths = Paths::default();
        let first = paths.share(path(0));
        assert!(Arc::ptr_eq(&first, &paths.share(path(0))));
        let used: Vec<Path> = (1..200).map(|n| paths.share(path(n))).collect();
        (1_000..9_000).for_each(|n| drop(paths.share(path(n))));
        assert!(paths.known.len() <= SWEEP_FROM + 2 * (used.len() + 1), "{}", paths.known.len());
        let again = used.iter().enumerate().all(|(i, p)| Arc::ptr_eq(p, &paths.share(path(i + 1))));
        assert!(again && Arc::ptr_eq(&first, &paths.share(path(0))), "what is used stays");
    }
}
