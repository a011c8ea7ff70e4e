//! Serving a port: our own loop over hyper, the same over real and simulated sockets.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::service::Routes;

use crate::admin;
use crate::edge::{Io, Listen};
use crate::service::{Hub, Phase};
use crate::wire::error;

/// How connections of a port are cut up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// The largest HTTP/2 frame.
    pub(crate) frame_bytes: u32,
    /// Bytes of one stream that may be on their way unread.
    pub(crate) stream_bytes: u32,
    /// Bytes of one connection that may be on their way unread.
    pub(crate) connection_bytes: u32,
}

/// Clients: with frames of 16 KiB, the default, bodies of a kilobyte cost twice as much.
pub(crate) const CLIENTS: Flow =
    Flow { frame_bytes: 256 << 10, stream_bytes: 1 << 20, connection_bytes: 1 << 20 };

/// Nodes: what is said waits for a frame or two of bodies, and not at all for bodies that nobody
/// reads, for they leave room.
pub(crate) const NODES: Flow =
    Flow { frame_bytes: 64 << 10, stream_bytes: 1 << 20, connection_bytes: 3 << 20 };

/// How long a connection may take until its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// How long a connection is given to end by itself when the node stops.
const GRACE: Duration = Duration::from_secs(2);

/// Streams of one connection at a time.
const STREAMS_MAX: u32 = 1_024;

/// How long to wait when the system has no socket to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Counts the open connections of a node.
#[derive(Clone)]
pub(crate) struct Connections {
    free: Arc<Semaphore>,
    count: u32,
}

impl Connections {
    /// At most so many.
    pub(crate) fn at_most(count: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(count as usize)), count }
    }

    /// Waits until none is open, at most for a while. Tells whether none is.
    pub(crate) async fn ended(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.free.acquire_many(self.count)).await.is_ok()
    }
}

/// Serves gRPC on a port until the node stops.
pub(crate) async fn serve_grpc(
    mut listener: impl Listen,
    routes: Routes,
    hub: Arc<Hub>,
    connections: Connections,
    flow: Flow,
) {
    let routes = routes.prepare();
    while let Some((io, permit)) = accept(&mut listener, &hub, &connections).await {
        let called = Arc::new(AtomicBool::new(false));
        let service = Watched {
            inner: TowerToHyperService::new(routes.clone()),
            called: Arc::clone(&called),
        };
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .auto_date_header(false)
                .keep_alive_interval(hub.bounds.keepalive)
                .keep_alive_timeout(hub.bounds.keepalive_timeout)
                .max_frame_size(flow.frame_bytes)
                .initial_stream_window_size(flow.stream_bytes)
                .initial_connection_window_size(flow.connection_bytes)
                .max_concurrent_streams(STREAMS_MAX);
            let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
            let mut phase = hub.phase();
            // The end of the node comes first, then the connection; the deadline is for silence.
            let stopping = tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Stopping) => true,
                _ended = connection.as_mut() => false,
                () = silent(&called) => false,
            };
            if stopping {
                connection.as_mut().graceful_shutdown();
                let _ended_or_late = tokio::time::timeout(GRACE, connection).await;
            }
            drop(permit);
        });
    }
}

/// Serves the admin port until the node stops.
pub(crate) async fn serve_admin(
    mut listener: impl Listen,
    hub: Arc<Hub>,
    connections: Connections,
) {
    while let Some((io, permit)) = accept(&mut listener, &hub, &connections).await {
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .auto_date_header(false)
                .header_read_timeout(FIRST_REQUEST)
                .max_buf_size(32 << 10);
            let service = service_fn(|request| admin::answer(Arc::clone(&hub), request));
            // A client that goes away is its own affair.
            let _ended = http.serve_connection(TokioIo::new(io), service).await;
            drop(permit);
        });
    }
}

/// The next connection, or `None` when the node stops. One beyond the limit is closed at once, so
/// that its client learns of it.
async fn accept<L: Listen>(
    listener: &mut L,
    hub: &Hub,
    connections: &Connections,
) -> Option<(L::Io, OwnedSemaphorePermit)> {
    let mut phase = hub.phase();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Stopping) => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(io) => match Arc::clone(&connections.free).try_acquire_owned() {
                Ok(permit) => return Some((io, permit)),
                Err(_) => refuse(io, hub),
            },
            Err(problem) => {
                tracing::warn!("cannot accept a connection: {problem}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn refuse(io: impl Io, hub: &Hub) {
    hub.metrics.connections_refused.add(1);
    drop(io);
}

/// Ends when a connection has not asked for anything in time.
async fn silent(called: &AtomicBool) {
    tokio::time::sleep(FIRST_REQUEST).await;
    if called.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Notes the first request, and says in our own words what tonic refused before a handler saw it.
#[derive(Clone)]
struct Watched<S> {
    inner: S,
    called: Arc<AtomicBool>,
}

impl<S, B> Service<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Default + 'static,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Response<B>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.called.store(true, Ordering::Relaxed);
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering.await?;
            Ok(match Status::from_header_map(response.headers()) {
                Some(status) => match error::unreadable(status.code(), status.message()) {
                    Some(ours) => ours.into_http(),
                    None => response,
                },
                None => response,
            })
        })
    }
}
