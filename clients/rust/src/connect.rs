//! Connections to nodes: the addresses, in order, and one channel for each that is used.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use dpc_proto::v1::cloud_service_client::CloudServiceClient;
use dpc_proto::v1::operator_service_client::OperatorServiceClient;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower::util::{BoxCloneSyncService, ServiceExt};
use tower::{BoxError, Service};

use crate::error::Error;
use crate::options::Options;

const FRAME_BYTES_MAX: u32 = 256 << 10;
/// A stream and a connection may have so much on the way to this client.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Nodes keep each message below 4 MiB; one object with its headers always fits.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What a connection is made of.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for T {}

/// How connections are made.
///
/// Any `tower::Service<Uri>` that answers with something to read and write will do, for example a
/// simulated network:
///
/// ```
/// # use dpc_client::Connector;
/// # use std::io;
/// let connector = Connector::new(tower::service_fn(|uri: http::Uri| async move {
///     let host = uri.host().unwrap_or_default().to_owned();
///     tokio::net::TcpStream::connect((host, uri.port_u16().unwrap_or(50051))).await
/// }));
/// ```
#[derive(Clone)]
pub struct Connector(BoxCloneSyncService<Uri, TokioIo<Box<dyn Transport>>, BoxError>);

impl Connector {
    /// A connector made of a service.
    pub fn new<S, T>(service: S) -> Self
    where
        S: Service<Uri, Response = T> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        T: Transport,
    {
        let boxed = service
            .map_response(|io| TokioIo::new(Box::new(io) as Box<dyn Transport>))
            .map_err(Into::into);
        Self(BoxCloneSyncService::new(boxed))
    }

    /// TCP, without waiting for more to send.
    pub fn tcp() -> Self {
        Self::new(tower::service_fn(|uri: Uri| async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(DEFAULT_PORT))).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        }))
    }
}

const DEFAULT_PORT: u16 = 50051;

/// The nodes of a client.
pub(crate) struct Nodes {
    list: Vec<Address>,
    /// The one that answered last.
    preferred: AtomicUsize,
    pub(crate) options: Options,
}

struct Address {
    text: String,
    endpoint: Endpoint,
    /// Made at its first use, because that needs a runtime.
    channel: OnceLock<Channel>,
}

impl Nodes {
    pub(crate) fn new<I, A>(addresses: I, options: Options) -> Result<Self, Error>
    where
        I: IntoIterator<Item = A>,
        A: AsRef<str>,
    {
        let mut list = Vec::new();
        for some in addresses {
            for one in some.as_ref().split(',').map(str::trim).filter(|one| !one.is_empty()) {
                list.push(Address::new(one, &options)?);
            }
        }
        if list.is_empty() {
            return Err(Error::invalid("addresses", "at least one address is needed"));
        }
        Ok(Self { list, preferred: AtomicUsize::new(0), options })
    }

    pub(crate) fn address(&self, node: usize) -> &str {
        &self.list[node].text
    }

    /// All nodes, beginning with this one.
    pub(crate) fn from(&self, first: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.list.len();
        (0..count).map(move |i| (first + i) % count)
    }

    pub(crate) fn after(&self, node: usize) -> usize {
        (node + 1) % self.list.len()
    }

    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    pub(crate) fn prefer(&self, node: usize) {
        self.preferred.store(node, Ordering::Relaxed);
    }

    pub(crate) fn cloud(&self, node: usize) -> CloudServiceClient<Channel> {
        CloudServiceClient::new(self.channel(node)).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn operator(&self, node: usize) -> OperatorServiceClient<Channel> {
        OperatorServiceClient::new(self.channel(node)).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn channel(&self, node: usize) -> Channel {
        let address = &self.list[node];
        let connect =
            || address.endpoint.connect_with_connector_lazy(self.options.connector.0.clone());
        address.channel.get_or_init(connect).clone()
    }
}

impl Address {
    fn new(text: &str, options: &Options) -> Result<Self, Error> {
        let bad = |why: &dyn std::fmt::Display| {
            Error::invalid("addresses", format!("`{text}` is not HOST:PORT: {why}"))
        };
        if text.starts_with("https://") {
            return Err(bad(&"TLS is not supported by this client"));
        }
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = url.parse().map_err(|why: http::uri::InvalidUri| bad(&why))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(bad(&"it has no host"));
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(options.connect_timeout)
            .http2_keep_alive_interval(options.keepalive.0)
            .keep_alive_timeout(options.keepalive.1)
            .keep_alive_while_idle(true)
            .max_frame_size(FRAME_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Ok(Self { text: text.to_owned(), endpoint, channel: OnceLock::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_and_checked() {
        let nodes = Nodes::new(["a:1, b:2", "http://c:3"], Options::new()).expect("all are right");
        assert_eq!(
            (0..3).map(|n| nodes.address(n)).collect::<Vec<_>>(),
            ["a:1", "b:2", "http://c:3"]
        );
        assert_eq!(nodes.from(2).collect::<Vec<_>>(), [2, 0, 1]);
        for bad in ["", "https://a:1", "a b:1", "http://"] {
            let error = Nodes::new([bad], Options::new()).err().expect(bad);
            assert_eq!(error.field(), Some("addresses"), "{bad}");
        }
    }
}
