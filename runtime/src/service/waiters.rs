//! Who waits for what core says: unary calls, push streams and sessions, by their number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

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
    /// Counts those that have gone, so that nobody finds one who is no longer here.
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

/// Streams that the owner of this wrote to last: what core has to say goes to few of them, many times
/// in a row, and they are found here without the lock that all share. It keeps none of them alive.
#[derive(Default)]
pub(crate) struct Latest {
    found: [Option<(RequestId, Stream)>; LATEST],
    /// How many had gone when these were found.
    gone: u64,
}

/// How many streams are found without the lock.
const LATEST: usize = 8;

enum Stream {
    Push(Weak<Outbox<PushOut>>),
    Session(Weak<Outbox<SessionOut>>),
}

impl Latest {
    /// Who waits under this number, if anyone does.
    pub(super) fn find(&mut self, request: RequestId, waiters: &Waiters) -> Option<Waiter> {
        let gone = waiters.gone.load(Ordering::Acquire);
        if self.gone != gone {
            *self = Self { gone, ..Self::default() };
        }
        let slot = &mut self.found[request.0 as usize % LATEST];
        if let Some((found, stream)) = slot
            && *found == request
        {
            return stream.waiter();
        }
        let waiter = waiters.lock().get(&request).cloned()?;
        if let Some(stream) = Stream::of(&waiter) {
            *slot = Some((request, stream));
        }
        Some(waiter)
    }
}

impl Stream {
    /// A call is answered once and not kept.
    fn of(waiter: &Waiter) -> Option<Self> {
        match waiter {
            Waiter::Call(_) => None,
            Waiter::Push(out) => Some(Self::Push(Arc::downgrade(out))),
            Waiter::Session(out) => Some(Self::Session(Arc::downgrade(out))),
        }
    }

    fn waiter(&self) -> Option<Waiter> {
        match self {
            Self::Push(out) => out.upgrade().map(Waiter::Push),
            Self::Session(out) => out.upgrade().map(Waiter::Session),
        }
    }
}

#[cfg(test)]
mod tests {
    use dpc_proto::v1;

    use super::*;

    #[test]
    fn whoever_has_gone_is_not_found_again() {
        let (waiters, mut latest) = (Waiters::default(), Latest::default());
        let push = || Outbox::new(PushOut::new(v1::PushOpened::default(), v1::Durability::Synced));
        // The transport holds its end for longer: it is the removal that counts.
        let ends = [push(), push()];
        let [one, nine] = ends.each_ref().map(|out| Waiter::Push(Arc::clone(out)));
        assert!(latest.find(RequestId(1), &waiters).is_none());
        waiters.insert(RequestId(1), one);
        waiters.insert(RequestId(9), nine);
        for request in [1, 9, 1] {
            assert!(latest.find(RequestId(request), &waiters).is_some(), "{request}");
        }
        waiters.remove(RequestId(1));
        assert!(latest.find(RequestId(1), &waiters).is_none());
        assert!(latest.find(RequestId(9), &waiters).is_some());
        assert_eq!(Arc::strong_count(&ends[1]), 2, "what is found is not kept alive by that");
        assert_eq!(waiters.clear().count(), 1);
        assert!(latest.find(RequestId(9), &waiters).is_none());
    }
}
