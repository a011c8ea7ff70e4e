//! The outermost edges: the only places where a simulation puts in something else.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use dpc_core::effect::PartIds;
use dpc_core::ids::{Loc, ObjectId};
use dpc_core::store::{Done, StoreError};
use dpc_core::time::{Mono, Now, Wall};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A byte stream to somebody else.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// A port that others connect to.
pub trait Listen: Send + 'static {
    /// A connection.
    type Io: Io;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// The address as others dial it.
    fn address(&self) -> String;
}

/// A way to connect to others.
pub trait Dial: Clone + Send + Sync + 'static {
    /// A connection.
    type Io: Io;

    /// Connects to `host:port`.
    fn dial(&self, address: &str) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// The machine's wall clock, for what has no clock of a node.
pub(crate) fn wall_of_machine() -> Wall {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // A clock before 1970 is as wrong as one that stands at 1970.
    Wall(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

/// A source of randomness: incarnations, seeds, jitter of redialling.
pub trait Entropy: Send {
    /// Eight random bytes.
    fn next_u64(&mut self) -> u64;
}

/// The clocks of one node. In a simulation monotonic time is tokio's; on a machine it is the one
/// that counts the time the machine was suspended, because leases and proofs of ownership grow old
/// meanwhile (R6).
#[derive(Clone)]
pub struct Clock {
    base: tokio::time::Instant,
    /// When it started, on the clock that counts suspend, if time is taken from there.
    boot: Option<Duration>,
    wall: Arc<dyn Fn() -> Wall + Send + Sync>,
}

/// The index of ids in finished parts of the log. Derived: what is lost is built again.
pub trait Index: 'static {
    /// Puts in a finished part's ids, which come in no order. Nobody waits for it.
    fn put(&mut self, part: PartIds);

    /// Answers with the latest place of an id in a part.
    fn look_up(&mut self, part: u64, id: ObjectId, done: Done<Result<Option<Loc>, StoreError>>);

    /// Forgets all parts below this one.
    fn truncate(&mut self, part: u64);
}

impl Clock {
    /// A clock that starts now; `wall` is asked for wall time.
    pub fn starting_now(wall: impl Fn() -> Wall + Send + Sync + 'static) -> Self {
        Self { base: tokio::time::Instant::now(), boot: None, wall: Arc::new(wall) }
    }

    /// The machine's clocks.
    pub fn of_machine() -> Self {
        Self { boot: Some(since_boot()), ..Self::starting_now(wall_of_machine) }
    }

    /// Both clocks at this moment.
    pub fn now(&self) -> Now {
        Now { mono: self.mono(), wall: (self.wall)() }
    }

    /// The monotonic clock at this moment.
    pub fn mono(&self) -> Mono {
        let elapsed = match self.boot {
            Some(boot) => since_boot().saturating_sub(boot),
            None => self.base.elapsed(),
        };
        Mono(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }

    /// The moment of tokio's clock that `at` stands for. Tokio's clock may stand still while the
    /// machine is suspended, so what was asked for before comes later than it should.
    pub fn instant(&self, at: Mono) -> tokio::time::Instant {
        match self.boot {
            Some(_) => {
                let wait = at.0.saturating_sub(self.mono().0);
                tokio::time::Instant::now() + Duration::from_micros(wait)
            }
            None => self.base + Duration::from_micros(at.0),
        }
    }
}

/// How long the machine has run, suspended or not.
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).expect("the machine booted before now")
}

/// The operating system's generator.
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the operating system has a random generator");
        u64::from_le_bytes(bytes)
    }
}

/// A TCP listener; accepted sockets send at once.
pub struct TcpListen(pub TcpListener);

impl Listen for TcpListen {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn address(&self) -> String {
        self.0.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
    }
}

/// Dials TCP; sockets send at once.
#[derive(Clone)]
pub struct TcpDial;

impl Dial for TcpDial {
    type Io = TcpStream;

    async fn dial(&self, address: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
