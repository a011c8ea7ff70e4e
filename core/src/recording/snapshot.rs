//! Core's whole state as bytes: of one instant, written in slices while core goes on.
//!
//! The head holds what is small and is written at once; each large collection follows entry by
//! entry ([`super::sliced`]). What follows from other state is derived again.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::recording::sliced::Slices;

/// One piece of a snapshot behind its head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Which collection.
    pub collection: u8,
    /// Its entries.
    pub bytes: Bytes,
}

/// Bytes that are not a snapshot of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot does not decode: {0}")]
pub struct BadSnapshot(pub &'static str);

impl Core {
    /// Whether a snapshot can begin now: behind some calls, effects wait for the next one.
    pub fn can_be_copied(&self) -> bool {
        self.started && self.later.is_empty()
    }

    /// Begins a snapshot of the state as it is now, between two calls, and returns its head. A
    /// snapshot that was under way is given up.
    ///
    /// # Panics
    ///
    /// Panics where [`Core::can_be_copied`] says no.
    pub fn begin_snapshot(&mut self) -> Vec<u8> {
        assert!(self.can_be_copied(), "a snapshot begins between calls, when all effects are out");
        self.slices().into_iter().for_each(Slices::begin);
        postcard::to_stdvec(self).expect("every value of core's state can be written")
    }

    /// Writes on until about `budget` bytes are written, at least one entry. `None` when the
    /// snapshot is whole; then nothing is under way any more.
    pub fn next_slice(&mut self, budget: usize) -> Option<Vec<Slice>> {
        let mut left = budget.max(1);
        let (mut written, mut whole) = (Vec::new(), true);
        for (i, slices) in self.slices().into_iter().enumerate() {
            if left == 0 {
                whole = false;
                break;
            }
            let mut bytes = Vec::new();
            whole &= slices.step(&mut left, &mut bytes);
            if !bytes.is_empty() {
                let collection = u8::try_from(i).expect("there are few collections");
                written.push(Slice { collection, bytes: bytes.into() });
            }
        }
        (!whole || !written.is_empty()).then_some(written)
    }

    /// Gives up a snapshot that is under way.
    pub fn cancel_snapshot(&mut self) {
        self.slices().into_iter().for_each(Slices::cancel);
    }

    /// A core as it was at the instant of a snapshot, without what clients carry.
    ///
    /// # Errors
    ///
    /// Fails when head or slices do not decode.
    pub fn from_snapshot<'a>(
        head: &[u8],
        slices: impl IntoIterator<Item = &'a Slice>,
    ) -> Result<Self, BadSnapshot> {
        let mut core: Self = postcard::from_bytes(head).map_err(|_| BadSnapshot("its head"))?;
        let mut whole = vec![Vec::new(); core.slices().len()];
        for slice in slices {
            let bytes = whole.get_mut(usize::from(slice.collection));
            bytes.ok_or(BadSnapshot("a collection's number"))?.extend_from_slice(&slice.bytes);
        }
        for (slices, bytes) in core.slices().into_iter().zip(&whole) {
            slices.load(bytes).ok_or(BadSnapshot("a collection"))?;
        }
        core.derive()?;
        Ok(core)
    }

    /// The whole state as bytes: equal for cores that will do the same for ever.
    pub fn state(&mut self) -> Vec<u8> {
        let mut state = self.begin_snapshot();
        while let Some(slices) = self.next_slice(usize::MAX) {
            for slice in slices {
                state.push(slice.collection);
                state.extend(slice.bytes);
            }
        }
        state
    }

    fn slices(&mut self) -> Vec<&mut dyn Slices> {
        let mut all: Vec<&mut dyn Slices> = vec![
            &mut self.timers,
            &mut self.once,
            &mut self.due_pages,
            &mut self.expiring,
            &mut self.blamed,
        ];
        all.extend(self.memory.slices());
        all.extend(self.queues.slices());
        all.extend(self.subs.slices());
        all.extend(self.leases.slices());
        all.extend(self.mesh.slices());
        all.extend(self.transfers.slices());
        all.extend(self.remembered.slices());
        all.extend(self.catalogue.slices());
        all
    }

    fn derive(&mut self) -> Result<(), BadSnapshot> {
        self.memory.derive().ok_or(BadSnapshot("its objects"))?;
        self.leases.derive().ok_or(BadSnapshot("its leases"))?;
        self.queues.derive();
        self.subs.derive();
        self.mesh.derive();
        self.transfers.derive();
        self.remembered.derive();
        let queues = u32::try_from(self.queues.len()).map_err(|_| BadSnapshot("its queues"))?;
        self.catalogue.derive(queues).ok_or(BadSnapshot("a queue's number"))
    }
}
