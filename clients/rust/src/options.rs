//! What a caller may choose.

use std::time::Duration;

use uuid::Uuid;

use crate::connect::Connector;
use crate::ids::Ids;

/// How much a [`Pusher`](crate::Pusher) may have under way; beyond it, it makes its caller wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The most objects without an answer.
    pub objects: usize,
    /// The most payload and header bytes without an answer. One object may be larger.
    pub bytes: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { objects: 4_096, bytes: 8 << 20 }
    }
}

/// How a client behaves. Every setter returns the options, so that they can be chained.
///
/// ```
/// # use dpc_client::Options;
/// # use std::time::Duration;
/// let options = Options::new().give_up_after(Duration::from_secs(5)).fail_fast(true);
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) give_up_after: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) answer_timeout: Duration,
    pub(crate) keepalive: (Duration, Duration),
    pub(crate) backoff: (Duration, Duration),
    pub(crate) resend_elsewhere: bool,
    pub(crate) fail_fast: bool,
    pub(crate) window: Window,
    pub(crate) connector: Connector,
    pub(crate) ids: Ids,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            give_up_after: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            keepalive: (Duration::from_secs(20), Duration::from_secs(10)),
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
            resend_elsewhere: false,
            fail_fast: false,
            window: Window::default(),
            connector: Connector::tcp(),
            ids: Ids::default(),
        }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a request that met trouble is tried again (default 30 s). After that its outcome
    /// is unknown if it was sent, and definitely not done otherwise.
    #[must_use]
    pub fn give_up_after(mut self, span: Duration) -> Self {
        self.give_up_after = span;
        self
    }

    /// How long one attempt to open a connection or a stream may take (default 5 s).
    #[must_use]
    pub fn connect_timeout(mut self, span: Duration) -> Self {
        self.connect_timeout = span;
        self
    }

    /// How long a node may owe all answers of a stream before the stream counts as broken
    /// (default 30 s).
    #[must_use]
    pub fn answer_timeout(mut self, span: Duration) -> Self {
        self.answer_timeout = span;
        self
    }

    /// How often an idle connection is asked for a sign of life, and how long that may take before
    /// the connection counts as lost (default 20 s and 10 s). A peer that is gone without a word is
    /// noticed by nothing else.
    #[must_use]
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive = (interval, timeout);
        self
    }

    /// The first and the longest wait between two tries (default 100 ms and 5 s). Waits double,
    /// and are varied by a fifth.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = (first, longest.max(first));
        self
    }

    /// Whether a push without an answer may be sent to another node than the one that got it
    /// (default no). It makes pushing survive the loss of a node, and it can make two objects of
    /// one: an id is known only to the node it was pushed at.
    #[must_use]
    pub fn resend_elsewhere(mut self, yes: bool) -> Self {
        self.resend_elsewhere = yes;
        self
    }

    /// Whether to give up at once what was never sent, when no address can be reached (default
    /// no: it is tried until [`Options::give_up_after`]).
    #[must_use]
    pub fn fail_fast(mut self, yes: bool) -> Self {
        self.fail_fast = yes;
        self
    }

    /// The window of [`Client::push`](crate::Client::push).
    #[must_use]
    pub fn push_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// How connections are made (default: TCP).
    #[must_use]
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }

    /// Where the ids of objects without one come from. A test that fixes them fixes the waits
    /// between tries as well.
    #[must_use]
    pub fn ids(mut self, source: impl Fn() -> Uuid + Send + Sync + 'static) -> Self {
        self.ids = Ids::new(source);
        self
    }
}
