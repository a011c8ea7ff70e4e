//! Who waits for what core says: unary calls, push streams and sessions, by their number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use dpc_core::effect::Answer;
use dpc_core::ids::RequestId;
use tokio::sync::mpsc;

use super::outbox::Outbox;
use super::push::PushOut;
use super::session::SessionOut;

/// Who waits for answers.
#[derive(Clone)]
pub(super) enum Waiter {
    Call(mpsc::UnboundedSender<(u64, Answer)>),
    Push(Arc<Outbox<PushOut>>),
    Session(Arc<Outbox<SessionOut>>),
}

/// All who wait.
#[derive(Default)]
pub(super) struct Waiters {
    all: Mutex<BTreeMap<RequestId, Waiter>>,
    /// Counts those that have gone, so that nobody keeps one who is no longer here.
    gone: AtomicU64,
}

impl Waiters {
    pub(super) fn insert(&self, request: RequestId, waiter: Waiter) {
        self.lock().insert(request, waiter);
    }

    pub(super) fn remove(&self, request: RequestId) {
        self.lock().remove(&request);
        self.gone.fetch_add(1, Ordering::Release);
    }

    pub(super) fn all(&self) -> Vec<Waiter> {
        self.lock().values().cloned().collect()
    }

    /// Takes all of them.
    pub(super) fn clear(&self) -> impl Iterator<Item = Waiter> {
        let all = std::mem::take(&mut *self.lock());
        self.gone.fetch_add(1, Ordering::Release);
        all.into_values()
    }

    /// Open streams: sessions and pushes.
    pub(super) fn streams(&self) -> (u32, u32) {
        self.lock().values().fold((0, 0), |(sessions, pushes), waiter| match waiter {
            Waiter::Session(_) => (sessions + 1, pushes),
            Waiter::Push(_) => (sessions, pushes + 1),
            Waiter::Call(_) => (sessions, pushes),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RequestId, Waiter>> {
        self.all.lock().expect("nobody panics while holding it")
    }
}

/// Whom the owner of this wrote to last: what core has to say goes to few streams, many times in a
/// row, and they are found here without the lock.
#[derive(Default)]
pub(crate) struct Latest {
    found: [Option<(RequestId, Waiter)>; 8],
    /// How many had gone when these were found.
    gone: u64,
}

impl Latest {
    /// Who waits under this number, if anyone does.
    pub(super) fn find(&mut self, request: RequestId, waiters: &Waiters) -> Option<&Waiter> {
        let gone = waiters.gone.load(Ordering::Acquire);
        if self.gone != gone {
            *self = Self { gone, ..Self::default() };
        }
        let slot = &mut self.found[request.0 as usize % 8];
        if slot.as_ref().is_none_or(|(found, _)| *found != request) {
            *slot = waiters.lock().get(&request).cloned().map(|waiter| (request, waiter));
        }
        slot.as_ref().map(|(_, waiter)| waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_gone_is_not_found_again() {
        let (waiters, mut latest) = (Waiters::default(), Latest::default());
        let call = || Waiter::Call(mpsc::unbounded_channel().0);
        assert!(latest.find(RequestId(1), &waiters).is_none());
        waiters.insert(RequestId(1), call());
        waiters.insert(RequestId(9), call());
        for request in [1, 9, 1] {
            assert!(latest.find(RequestId(request), &waiters).is_some(), "{request}");
        }
        waiters.remove(RequestId(1));
        assert!(latest.find(RequestId(1), &waiters).is_none());
        assert!(latest.find(RequestId(9), &waiters).is_some());
        assert_eq!(waiters.clear().count(), 1);
        assert!(latest.find(RequestId(9), &waiters).is_none());
    }
}
