//! The log of a run: every event, with the time of the simulation before it.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

thread_local! {
    /// The time between two steps, when no host runs; the events told so far on this thread.
    static TIME: Cell<(Duration, u64)> = const { Cell::new((Duration::ZERO, 0)) };
    /// Whether hosts run now. When the harness ends one, the network would tell a time that is the
    /// machine's in part.
    static STEPPING: Cell<bool> = const { Cell::new(false) };
}

/// Runs one step of the hosts, which have clocks of their own.
pub(crate) fn stepping<R>(step: impl FnOnce() -> R) -> R {
    STEPPING.set(true);
    let result = step();
    STEPPING.set(false);
    result
}

/// Sets the time of what the harness itself says.
pub(crate) fn set_time(time: Duration) {
    TIME.set((time, TIME.get().1));
}

/// Runs something, and writes every event of this thread up to the level.
pub(crate) fn with<R>(
    level: Level,
    out: impl Write + Send + 'static,
    run: impl FnOnce() -> R,
) -> R {
    TIME.set((Duration::ZERO, 0));
    let out = Out(Arc::new(Mutex::new(out)));
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_timer(SimTime)
        .with_writer(move || out.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run)
}

struct SimTime;

impl FormatTime for SimTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let (between, told) = TIME.get();
        let now = STEPPING.get().then(turmoil::sim_elapsed).flatten().unwrap_or(between);
        TIME.set((between, told + 1));
        write!(w, "{:>10.6} e{told}", now.as_secs_f64())
    }
}

struct Out<W>(Arc<Mutex<W>>);

impl<W> Clone for Out<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics while holding it").write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().expect("nobody panics while holding it").flush()
    }
}
