//! A TCP proxy that does to a connection what networks do: delay, loss of one or both ways,
//! little bandwidth, a peer that vanishes without a word, a reset in the middle of a message.
//!
//! All proxies of a round run on one thread of their own, so that a busy client delays nobody else.

use std::future::pending;
use std::io;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::dice::Dice;

/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Chunks that are on their way; beyond it the sender is held up, as by a full TCP window.
const CHUNKS_MAX: usize = 64;

/// The longest piece that is written at once, so that a reset finds half a message.
const PIECE_BYTES_MAX: u64 = 4 << 10;

/// What a proxy does to its connections. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Nothing passes to the server, and to the client; it passes when that ends.
    pub(crate) cut: [bool; 2],
    /// Bytes take so long, and up to so much longer.
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// So many bytes a second, each way of each connection.
    pub(crate) bytes_per_s: Option<u32>,
    /// Counts resets: connections from before the last one are gone.
    pub(crate) resets: u64,
    /// Counts how often the server, and the client, vanished: the other end of a connection from
    /// before the last time hears nothing ever again.
    pub(crate) vanished: [u64; 2],
}

/// Passes connections on.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: String,
    faults: watch::Sender<Faults>,
}

impl Proxy {
    /// Changes what it does, to open connections and to those that come.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }
}

/// The thread of all proxies. Dropping it ends every connection.
pub(crate) struct Proxies {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxies {
    /// Starts the thread.
    pub(crate) fn start() -> Self {
        let (stop, stopped) = oneshot::channel();
        let (sender, handle) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime starts");
            sender.send(runtime.handle().clone()).expect("it is waited for");
            // However the round ends, the sender goes.
            let _ended = runtime.block_on(stopped);
        });
        let handle = handle.recv().expect("the thread starts");
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }

    /// A proxy in front of an address.
    pub(crate) fn proxy(&self, target: &str, seed: u64) -> Proxy {
        // Beside its target: who learns the target's address by itself keeps the proxy's port.
        let (ip, _) = target.rsplit_once(':').expect("an address has a port");
        let listener = std::net::TcpListener::bind((ip, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener can");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (faults, seen) = watch::channel(Faults::default());
        let (target, dice) = (target.to_owned(), Dice::of(seed, &address));
        self.handle.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("it is a listener");
            listen(listener, target, seen, dice).await;
        });
        Proxy { address, faults }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was told where it happened.
            let _ended = thread.join();
        }
    }
}

async fn listen(
    listener: TcpListener,
    target: String,
    faults: watch::Receiver<Faults>,
    mut dice: Dice,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of files, for example: a proxy that spins would be a fault that nobody ordered.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let connection = Connection {
            faults: faults.clone(),
            born: *faults.borrow(),
            seed: dice.below(u64::MAX),
        };
        tokio::spawn(connection.serve(client, target.clone()));
    }
}

/// How a connection is ended by a fault.
enum Fate {
    Reset,
    /// The end with this index has vanished.
    Vanished(usize),
}

struct Connection {
    faults: watch::Receiver<Faults>,
    /// The faults when it was opened.
    born: Faults,
    seed: u64,
}

impl Connection {
    async fn serve(self, mut client: TcpStream, target: String) {
        // A lost SYN is sent again: connecting takes until both ways are open.
        open(self.faults.clone(), 0).await;
        open(self.faults.clone(), 1).await;
        let Ok(mut server) = TcpStream::connect(target).await else {
            return reset(&client);
        };
        // Without it a delay would grow by that of the kernel.
        let quick = [client.set_nodelay(true), server.set_nodelay(true)];
        if quick.iter().any(Result::is_err) {
            return;
        }
        let fate = tokio::select! { biased;
            fate = self.fate() => Some(fate),
            () = self.pass(&mut client, &mut server) => None,
        };
        match fate {
            None => {}
            Some(Fate::Reset) => {
                reset(&client);
                reset(&server);
            }
            Some(Fate::Vanished(0)) => {
                drop(server);
                swallow(client).await;
            }
            Some(Fate::Vanished(_)) => {
                drop(client);
                swallow(server).await;
            }
        }
    }

    /// Passes both ways until both have ended, or one has failed.
    async fn pass(&self, client: &mut TcpStream, server: &mut TcpStream) {
        let failed = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let up = self.pump(from_client, to_server, 0);
            let down = self.pump(from_server, to_client, 1);
            tokio::try_join!(up, down).is_err()
        };
        if failed {
            // The end of a connection does not pass a cut either.
            open(self.faults.clone(), 0).await;
            open(self.faults.clone(), 1).await;
            reset(client);
            reset(server);
        }
    }

    async fn pump(
        &self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        way: usize,
    ) -> io::Result<()> {
        let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
        let faults = &self.faults;
        let mut delays = Dice::of(self.seed, "delays");
        let mut pieces = Dice::of(self.seed, "pieces");
        let read = async move {
            let mut due = Instant::now();
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let length = from.read(&mut chunk).await?;
                chunk.truncate(length);
                let now = *faults.borrow();
                let jitter = u64::try_from(now.jitter.as_micros()).expect("short");
                let delay = now.delay + Duration::from_micros(delays.between(0, jitter));
                // TCP keeps the order, whatever the network does.
                due = due.max(Instant::now() + delay);
                if length == 0 || sender.send((due, chunk)).await.is_err() {
                    return Ok(());
                }
            }
        };
        let write = async move {
            while let Some((due, chunk)) = chunks.recv().await {
                sleep_until(due).await;
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let length = usize::try_from(pieces.between(1, PIECE_BYTES_MAX));
                    let length = length.expect("short").min(rest.len());
                    // The last byte of a piece comes when all of it has had its time.
                    let bytes_per_s = faults.borrow().bytes_per_s;
                    if let Some(bytes_per_s) = bytes_per_s {
                        let span = Duration::from_secs(1).mul_f64(length as f64);
                        sleep(span / bytes_per_s).await;
                    }
                    open(faults.clone(), way).await;
                    to.write_all(&rest[..length]).await?;
                    rest = &rest[length..];
                }
            }
            open(faults.clone(), way).await;
            to.shutdown().await
        };
        tokio::try_join!(read, write).map(|_| ())
    }

    /// Waits for a fault that ends this connection.
    async fn fate(&self) -> Fate {
        let mut faults = self.faults.clone();
        loop {
            let now = *faults.borrow_and_update();
            if now.resets > self.born.resets {
                return Fate::Reset;
            }
            if let Some(end) = (0..2).find(|&end| now.vanished[end] > self.born.vanished[end]) {
                return Fate::Vanished(end);
            }
            if faults.changed().await.is_err() {
                // The round is over; the connection ends with its runtime.
                return pending().await;
            }
        }
    }
}

/// Waits until bytes pass that way.
async fn open(mut faults: watch::Receiver<Faults>, way: usize) {
    // The proxy goes with the round: then everything may pass.
    let _gone = faults.wait_for(|faults| !faults.cut[way]).await;
}

/// Lets the connection end with a reset when it is dropped.
fn reset(stream: &TcpStream) {
    // A connection that is gone already cannot be reset.
    let _gone = stream.set_zero_linger();
}

/// Reads and says nothing until the other end gives up.
async fn swallow(mut stream: TcpStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while stream.read(&mut chunk).await.is_ok_and(|length| length > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo behind a proxy, and a connection to it.
    async fn echo(proxies: &Proxies) -> (Proxy, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let target = listener.local_addr().expect("it is bound").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    // Its end is what the test does.
                    let _ended = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let proxy = proxies.proxy(&target, 7);
        let stream = TcpStream::connect(&proxy.address).await.expect("the proxy listens");
        (proxy, stream)
    }

    async fn round_trip(stream: &mut TcpStream, text: &[u8]) {
        stream.write_all(text).await.expect("it is open");
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await.expect("it is open");
        assert_eq!(back, text);
    }

    /// Nothing can be read within a time in which everything would have come.
    async fn is_silent(stream: &mut TcpStream) -> bool {
        tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await.is_err()
    }

    #[tokio::test]
    async fn without_faults_everything_passes_as_it_is() {
        let proxies = Proxies::start();
        let (_proxy, mut stream) = echo(&proxies).await;
        let mut long = vec![0; 300_000];
        Dice::of(1, "long").fill(&mut long);
        let (mut from, mut to) = stream.split();
        let mut back = vec![0; long.len()];
        let (sent, read) = tokio::join!(to.write_all(&long), from.read_exact(&mut back));
        sent.expect("sent");
        read.expect("read");
        assert!(back == long);
        to.shutdown().await.expect("open");
        assert_eq!(from.read(&mut back).await.expect("an end, not a reset"), 0);
    }

    #[tokio::test]
    async fn a_cut_holds_back_one_way_and_lets_it_pass_when_healed() {
        let proxies = Proxies::start();
        let (proxy, mut stream) = echo(&proxies).await;
        round_trip(&mut stream, b"before").await;
        for way in 0..2 {
            proxy.set(|faults| faults.cut[way] = true);
            stream.write_all(b"x").await.expect("the kernel takes it");
            assert!(is_silent(&mut stream).await, "way {way} is cut");
            proxy.set(|faults| faults.cut[way] = false);
            assert_eq!(stream.read_u8().await.expect("healed"), b'x');
        }
    }

    #[tokio::test]
    async fn a_reset_is_an_error_at_the_client_and_new_connections_work() {
        let proxies = Proxies::start();
        let (proxy, mut stream) = echo(&proxies).await;
        round_trip(&mut stream, b"before").await;
        proxy.set(|faults| faults.resets += 1);
        let error = stream.read_u8().await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut again = TcpStream::connect(&proxy.address).await.expect("it listens");
        round_trip(&mut again, b"after").await;
    }

    #[tokio::test]
    async fn a_server_that_vanished_is_silent_and_the_connection_stays_open() {
        let proxies = Proxies::start();
        let (proxy, mut stream) = echo(&proxies).await;
        round_trip(&mut stream, b"before").await;
        proxy.set(|faults| faults.vanished[0] += 1);
        assert!(is_silent(&mut stream).await);
        stream.write_all(b"anybody there?").await.expect("nobody has said that it is over");
        assert!(is_silent(&mut stream).await);
    }

    #[tokio::test]
    async fn bytes_are_late_and_slow_as_ordered() {
        let proxies = Proxies::start();
        let (proxy, mut stream) = echo(&proxies).await;
        let began = Instant::now();
        proxy.set(|faults| faults.delay = Duration::from_millis(60));
        round_trip(&mut stream, b"late").await;
        // There and back: never earlier, however fast the machine is.
        assert!(began.elapsed() >= Duration::from_millis(120));
        proxy.set(|faults| {
            *faults = Faults { bytes_per_s: Some(10_000), ..Faults::default() };
        });
        let began = Instant::now();
        round_trip(&mut stream, &[7; 1_000]).await;
        assert!(began.elapsed() >= Duration::from_millis(90));
    }
}
