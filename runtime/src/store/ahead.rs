//! Appends that are under way together: while one record is published, those behind it are written
//! ahead, and the next update of the head publishes all of them that are there by then.
//!
//! A record is published in its turn only: what is above the head's number is no part of the log, and
//! when one cannot be written, or an update of the head does not succeed, nothing behind it is
//! published any more.

use dpc_core::ids::RecordNumber;
use dpc_core::record::hash_of;
use dpc_core::shared::Set;
use dpc_core::store::{Appended, Done, StoreError};
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::{Fuse, FusedFuture};
use futures_util::stream::FuturesOrdered;
use tokio::sync::mpsc;

use super::chain::Tip;
use super::remote::{APPENDS_MAX, Append, Change, Keep, Shared, change_head};

/// A record that is written, and who waits for it.
struct Written {
    number: RecordNumber,
    hash: [u8; 16],
    done: Done<Appended>,
}

/// Records that wait: to be published, and for the answer of the update that publishes them.
#[derive(Default)]
struct Waiting {
    written: Vec<Written>,
    publishing: Vec<Written>,
}

/// Appends a record, and those that come while it is under way. Ends when nothing is, and gives what
/// has come that is no append.
pub(super) async fn append_all(
    keeper: &impl Keep,
    lane: &Shared,
    first: Append,
    changes: &mut mpsc::Receiver<Change>,
) -> Option<Change> {
    let mut tip = lane.borrow().tip;
    let mut writing = FuturesOrdered::new();
    let mut waiting = Waiting::default();
    let mut publishing = std::pin::pin!(Fuse::terminated());
    let (mut next, mut open) = (Some(Change::Append(first)), true);
    loop {
        next = match next {
            Some(Change::Append(append)) => {
                if let Some(append) = admit(lane, &mut tip, append) {
                    writing.push_back(write(keeper, append));
                }
                None
            }
            other => other,
        };
        if publishing.is_terminated() && !waiting.written.is_empty() {
            let set = waiting.publish();
            publishing.set(change_head(keeper, lane, set, true).fuse());
        }
        let under_way = writing.len() + waiting.written.len() + waiting.publishing.len();
        if under_way == 0 {
            return next;
        }
        tokio::select! {
            // Whoever has waited longest comes first.
            biased;
            answer = &mut publishing, if !publishing.is_terminated() => {
                waiting.answer(lane, &answer);
            }
            Some(result) = writing.next() => waiting.take(lane, result),
            change = changes.recv(), if open && next.is_none() && under_way < APPENDS_MAX => {
                open = change.is_some();
                next = change;
            }
        }
    }
}

/// Whether a record follows those before it, which may be under way. If not it is refused.
fn admit(lane: &Shared, tip: &mut Tip, append: Append) -> Option<Append> {
    let Append { epoch, number, record, .. } = &append;
    let failed = lane.borrow().error();
    if let Err(error) = failed.map_or_else(|| tip.admit(*epoch, *number, record), Err) {
        (append.done)(Appended::DefinitelyNot(error));
        return None;
    }
    (tip.last, tip.last_hash) = (*number, hash_of(record));
    Some(append)
}

async fn write(keeper: &impl Keep, append: Append) -> (Written, Result<(), StoreError>) {
    let Append { epoch, number, record, done } = append;
    let result = keeper.write(epoch, number, &record).await;
    (Written { number, hash: hash_of(&record), done }, result)
}

impl Waiting {
    /// A record is written, or not. Records come here in their order.
    fn take(&mut self, lane: &Shared, (written, result): (Written, Result<(), StoreError>)) {
        if let Err(error) = result {
            lane.borrow_mut().fail(&error);
        }
        let failed = lane.borrow().error();
        match failed {
            None => self.written.push(written),
            Some(error) => (written.done)(Appended::DefinitelyNot(error)),
        }
    }

    /// Everything that is written is published next: what the head is to say.
    fn publish(&mut self) -> Set {
        self.publishing = std::mem::take(&mut self.written);
        let last = self.publishing.last().expect("the caller has looked");
        Set::Publish { number: last.number, hash: last.hash }
    }

    /// The update has ended. If it did not succeed nothing that waits behind it ever will.
    fn answer(&mut self, lane: &Shared, answer: &Appended) {
        for published in std::mem::take(&mut self.publishing) {
            if *answer == Appended::Committed {
                let tip = &mut lane.borrow_mut().tip;
                (tip.last, tip.last_hash) = (published.number, published.hash);
            }
            (published.done)(answer.clone());
        }
        let failed = lane.borrow().error();
        if let Some(error) = failed {
            for behind in std::mem::take(&mut self.written) {
                (behind.done)(Appended::DefinitelyNot(error.clone()));
            }
        }
    }
}
