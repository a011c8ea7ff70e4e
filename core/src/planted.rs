//! Small defects, planted one at a time to see that the simulator finds each: docs/planted-bugs.md.
//!
//! Without the feature `planted` there is nothing to find: [`planted`] is a constant `false`. The
//! feature is never part of a program, only of the test that measures the simulator, and `.ci/run`
//! looks that it is so.

/// Declares the defects with the promise each breaks, the file it is in, and what it does.
macro_rules! bugs {
    ($($name:ident $promise:literal $file:literal $what:literal)*) => {
        /// A defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $(#[doc = $what] $name,)*
        }

        #[cfg(feature = "planted")]
        impl Bug {
            /// Every defect.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The promise or rule that it breaks, the file it is in, and what it does.
            pub fn describe(self) -> (&'static str, &'static str, &'static str) {
                match self {
                    $(Self::$name => ($promise, $file, $what),)*
                }
            }
        }
    };
}

bugs! {
    OkBeforeCommit "P1" "push.rs" "A push is answered OK before its record is durable."
    AcceptBeforeHeld "P1" "hold.rs" "ACCEPT is said before HELD is durable."
    HeldCountsAsPushed "P1" "hold.rs" "A push of an id that is only held for another node is answered as done before."
    ShadowForgottenUntaken "P1" "transfer.rs" "A transfer is forgotten with its shadow although nobody has said TAKEN."
    CheckpointForgetsMoves "P1" "checkpoint.rs" "A checkpoint leaves out what has moved and is not taken."
    PayloadCut "P2" "loads.rs" "A payload that is copied out of its record loses its last byte."
    HandlingForgotten "P3" "settle.rs" "The name of a processor that has handled an object is not kept."
    HandledLostAtHandoff "P3" "route.rs" "An object forgets at a handoff who has handled it."
    SettleForgotten "P3" "lease.rs" "A settle is not remembered, so that its repetition is refused."
    EmitsInARecordOfTheirOwn "P4" "settle.rs" "Emits are written outside the record of their settle."
    TransactionInPieces "P4" "settle/transaction.rs" "A transaction may be spread over several records."
    DeliveredBeforeCommit "P4" "push.rs" "A pushed object flows before its record is durable."
    MovesNotCounted "P5" "route.rs" "A handoff does not raise the fencing key."
    FirstEpochForEver "P5" "lease.rs" "Deliveries carry the first epoch of the lane, whatever the present one is."
    LeasesOverlap "P5" "lease.rs" "An extended lease still ends at its first time for the node."
    FirstEpochWritten "P6" "lane.rs" "Records carry the first epoch of the lane, whatever the present one is."
    ReleaseBeforeMoved "P7" "transfer.rs" "RELEASE is said before MOVED is durable."
    AbortWhileMoving "P7" "transfer.rs" "STATUS is answered ABORT while MOVED is being written."
    AbortOfOpenOffer "P7" "transfer.rs" "ABORT is said of an offer that stays open."
    RefusedAndStored "P8" "push.rs" "A push that the disk's reserve refuses is stored all the same."
    LostSaidByAnyone "P8" "settle.rs" "A node that did not give a lease says LEASE_LOST of it."
    IdsForgottenWithTheirPart "P9" "remember.rs" "The ids of a finished part of the log are not looked up."
    ContentIgnored "P9" "push.rs" "A push of a known id with other content is answered OK."
    SecondBirthAccepted "P9" "hold.rs" "A second object of an id that has ended is taken in."
    FirstMentionCounts "P9" "remember.rs" "An id index that is read from the log keeps the first mention of an id, not the last."
    OlderDemandFollowed "P10" "route.rs" "An object turns back for older demand."
    CrossedForgotten "P10" "route.rs" "An object enters a node again that it has left for the same demand."
    OneHopTooMany "P10" "core.rs" "The bound on links is off by one."
    RefreshNeverAsked "P11" "route.rs" "Nobody asks for a refresh."
    AbortIgnored "P11" "hold.rs" "A receiver does not hear ABORT."
    WindowNotReturned "P11" "demand.rs" "A window is never granted again after it has been used."
    TransitCountedTwice "P11" "demand.rs" "An object in transit counts twice and leaves once."
    PeersBeforeSubscribers "P12" "core.rs" "Objects are offered to peers before subscribers here are asked."
    OnlyTheFirstIsTold "P12" "flow.rs" "Of several groups of subscribers only the first is told of what has become ready."
    LaterLeasesStay "P12" "lease.rs" "When a lease has run out, the next one of its span is not looked for."
    BooksAtHeld "P13" "hold.rs" "An object is counted as moved in when it is held, not when it is ready."
    AdvancedOutNotCounted "P13" "settle.rs" "An object that changes its type is not counted out of the old one."
    LeasesWithoutLimit "P14" "session.rs" "The limit on leases is not looked at."
    CreditNotUsedUp "P14" "subscriptions.rs" "A delivery does not use up credit."
    PeersHoldUpPushes "P15" "core.rs" "Pushes are refused while a peer has not decided an offer."
    ChecksumNotChecked "P16" "record/frame.rs" "The hash of a record is not compared."
    RecordsNotLinked "P16" "lane.rs" "Records are not linked to the one before."
    NoCandidates "P17" "route.rs" "`why` names nobody who could take an object."
    OldEndKept "P17" "reclaim.rs" "What a reclaim brings back keeps the end that it had when it moved on."
    OfferNotRecorded "P17" "core.rs" "The decision to offer an object is not recorded."
    FailuresLostAtHandoff "section 2" "route.rs" "An object's failed deliveries are forgotten at a handoff."
    LeasedExpires "R8" "scan.rs" "An object expires in the hands of a subscriber."
    HistoryNotCompared "R4" "mesh.rs" "A lane that comes back lower than it was known is not refused."
    GenerationsFallBack "R4" "core.rs" "The generation counter is not reserved durably."
    ProofNotNeeded "R6" "fence.rs" "An owner delivers without proof that it still owns its lane."
    FenceIgnored "R1" "fence.rs" "An owner whose lane another one has taken does not stop."
    RetiredWithObjects "R8" "estate.rs" "An adopted lane is retired when it has nothing ready, whatever else is in it."
    ForgottenOneTooFar "R2" "transfer.rs" "FORGET goes one transfer too far."
    TakenBeforeReady "R2" "hold.rs" "TAKEN is said before READY is durable."
}

#[cfg(feature = "planted")]
mod active {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a defect for this thread, or removes it.
    pub fn plant(bug: Option<Bug>) {
        ACTIVE.set(bug);
    }

    /// Whether a defect is planted in this thread.
    pub fn planted(bug: Bug) -> bool {
        ACTIVE.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use active::{plant, planted};

/// Whether a defect is planted: never.
#[cfg(not(feature = "planted"))]
pub const fn planted(_: Bug) -> bool {
    false
}
