//! Connections of the simulated network, each with a handle that the harness keeps: it can make one
//! slow, deaf or broken, which the network itself cannot.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use dpc_client::Connector;
use http::Uri;
use runtime::edge::{Dial, Listen};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use turmoil::net::{TcpListener, TcpStream};

/// A throttled wire lets so much of its rate pass at once.
const GULP: Duration = Duration::from_millis(5);

/// Every connection that is open.
#[derive(Clone, Default)]
pub(crate) struct Wires(Arc<Mutex<Vec<Arc<Ends>>>>);

/// One end of one connection.
struct Ends {
    here: String,
    there: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes a second that may be written, if that is limited.
    rate: Option<u64>,
    /// The connection has been reset.
    reset: bool,
    /// Whoever waits to hear of a change.
    wakers: Vec<Waker>,
}

impl Wires {
    /// Resets every connection between two hosts: both ends fail at once, in the middle of
    /// whatever they say. Tells how many there were.
    pub(crate) fn reset(&self, a: &str, b: &str) -> usize {
        let between = self.between(a, b);
        for end in &between {
            end.change(|state| state.reset = true);
        }
        between.len()
    }

    /// Lets `here` write no more than so many bytes a second to `there`, or any number again.
    pub(crate) fn throttle(&self, here: &str, there: &str, rate: Option<u64>) {
        for end in self.between(here, there).iter().filter(|end| end.here == here) {
            end.change(|state| state.rate = rate);
        }
    }

    /// How many connections `here` has with `there`.
    pub(crate) fn count(&self, here: &str, there: &str) -> usize {
        self.between(here, there).iter().filter(|end| end.here == here).count()
    }

    fn between(&self, a: &str, b: &str) -> Vec<Arc<Ends>> {
        let mut all = self.lock();
        // An end that only this list knows has been dropped by its owner.
        all.retain(|end| Arc::strong_count(end) > 1);
        let is = |end: &&Arc<Ends>| {
            (end.here == a && end.there == b) || (end.here == b && end.there == a)
        };
        all.iter().filter(is).cloned().collect()
    }

    fn wire(&self, io: TcpStream, here: &str) -> io::Result<Wire> {
        let there = turmoil::reverse_lookup(io.peer_addr()?.ip()).unwrap_or_default();
        let ends = Arc::new(Ends { here: here.to_owned(), there, state: Mutex::default() });
        self.lock().push(Arc::clone(&ends));
        Ok(Wire { io, ends, pause: None })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Ends>>> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

impl Ends {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.wakers.drain(..).for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

/// A connection whose handle is with the harness.
pub(crate) struct Wire {
    io: TcpStream,
    ends: Arc<Ends>,
    /// When a throttled wire may be written to again.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// Fails if the connection has been reset, and remembers who waits to learn of that.
    fn check(&self, cx: &Context<'_>) -> io::Result<Option<u64>> {
        let mut state = self.ends.lock();
        if state.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Ok(state.rate)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let rate = self.check(cx)?;
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let Some(rate) = rate else { return Pin::new(&mut self.io).poll_write(cx, buf) };
        let gulp = usize::try_from(rate * GULP.as_millis() as u64 / 1_000).unwrap_or(usize::MAX);
        let part = &buf[..buf.len().min(gulp.max(1))];
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, part))?;
        let span = Duration::from_micros(written as u64 * 1_000_000 / rate.max(1));
        self.pause = Some(Box::pin(tokio::time::sleep_until(Instant::now() + span)));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A port of a simulated host.
pub(crate) struct Port {
    listener: TcpListener,
    wires: Wires,
    host: String,
    port: u16,
}

impl Port {
    /// Opens a port of the host that runs now.
    pub(crate) async fn open(wires: &Wires, host: &str, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        Ok(Self { listener, wires: wires.clone(), host: host.to_owned(), port })
    }
}

impl Listen for Port {
    type Io = Wire;

    async fn accept(&mut self) -> io::Result<Wire> {
        let (io, _) = self.listener.accept().await?;
        self.wires.wire(io, &self.host)
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Dials from one simulated host.
#[derive(Clone)]
pub(crate) struct Dialler {
    wires: Wires,
    host: Arc<str>,
}

impl Dialler {
    /// A dialler of this host.
    pub(crate) fn new(wires: &Wires, host: &str) -> Self {
        Self { wires: wires.clone(), host: host.into() }
    }

    /// The same for the client library.
    pub(crate) fn connector(&self) -> Connector {
        let dialler = self.clone();
        Connector::new(tower::service_fn(move |uri: Uri| {
            let dialler = dialler.clone();
            async move {
                let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
                dialler.dial(&authority).await
            }
        }))
    }
}

impl Dial for Dialler {
    type Io = Wire;

    async fn dial(&self, address: &str) -> io::Result<Wire> {
        let io = TcpStream::connect(address).await?;
        self.wires.wire(io, &self.host)
    }
}
