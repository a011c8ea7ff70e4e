//! Links that this node dials: one task for each configured peer, for ever.

use std::sync::Arc;
use std::time::Duration;

use dpc_core::ids::{Incarnation, LaneId};
use dpc_core::message::LinkRefusal;
use dpc_proto::{LinkMessages, v1};
use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};
use tower::service_fn;
use v1::mesh_service_client::MeshServiceClient;

use super::{Link, Origin, PAIR};
use crate::edge::{Dial, Entropy};
use crate::serve::NODES;
use crate::service::{Gather, Hub, OutStream, Outbox};
use crate::wire::MESSAGE_BYTES_MAX;

/// The metadata in which the dialling side names the lane that it wants.
pub(super) const LANE: &str = "dpc-lane";

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer is left alone that will not have a link for a reason that stays.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// Keeps a link to the configured peer number `at` until it turns out to be this node itself.
pub(crate) async fn keep_dialling<D: Dial>(
    hub: Arc<Hub>,
    dialer: D,
    at: usize,
    address: String,
    mut entropy: Box<dyn Entropy>,
) {
    let mut backoff = BACKOFF_FIRST;
    let mut told = String::new();
    loop {
        let mut ends = hub.links.ends();
        ends.mark_unchanged();
        match dial_once(&hub, &dialer, Origin::Configured(at), &address, None).await {
            Ended::Linked => backoff = BACKOFF_FIRST,
            Ended::Failed(problem) => {
                if problem != told {
                    tracing::info!(peer = %address, "no link: {problem}; trying again");
                    told.clone_from(&problem);
                }
                hub.links.problem(at, problem);
            }
            Ended::Refused(refusal, redial) => {
                let problem = refusal.to_string();
                let new = problem != told;
                told.clone_from(&problem);
                hub.links.problem(at, problem.clone());
                match refusal {
                    LinkRefusal::Itself => {
                        tracing::warn!(peer = %address, "{problem}; it is not dialled again");
                        return;
                    }
                    LinkRefusal::DuplicateLink => {
                        // Nothing is sent as long as all links stand that stood before. The links
                        // are held by the hub, so their end is not the end of the watch.
                        let _changed = ends.changed().await;
                    }
                    _ if !redial => {
                        if new {
                            tracing::error!(peer = %address, "no link: {problem}");
                        }
                        tokio::time::sleep(jittered(REFUSED_WAIT, entropy.as_mut())).await;
                        continue;
                    }
                    _ if new => tracing::warn!(peer = %address, "no link: {problem}"),
                    _ => {}
                }
            }
        }
        tokio::time::sleep(jittered(backoff, entropy.as_mut())).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// How an attempt ended.
enum Ended {
    /// There was a link for a while.
    Linked,
    /// There was none.
    Failed(String),
    /// Core, here or there, does not want it.
    Refused(LinkRefusal, bool),
}

/// Dials the owner of a lane that something is in doubt with, once: who asked looks again later.
pub(crate) async fn dial_lane<D: Dial>(hub: Arc<Hub>, dialer: D, address: String, lane: LaneId) {
    match dial_once(&hub, &dialer, Origin::Found, &address, Some(lane)).await {
        Ended::Linked => {}
        Ended::Failed(problem) => {
            tracing::debug!(%lane, peer = %address, "no link to the owner of the lane: {problem}");
        }
        Ended::Refused(refusal, _) => {
            tracing::debug!(%lane, peer = %address, "no link to the owner of the lane: {refusal}");
        }
    }
}

/// Which start of a node answers at an address, if one does in time.
pub(crate) async fn probe<D: Dial>(
    hub: &Hub,
    dialer: &D,
    address: &str,
    within: Duration,
) -> Option<Incarnation> {
    let asked = async {
        let channel = connect(hub, dialer.clone(), address).await.ok()?;
        let answer = MeshServiceClient::new(channel).probe(v1::ProbeRequest {}).await.ok()?;
        Some(Incarnation(answer.into_inner().incarnation))
    };
    tokio::time::timeout(within, asked).await.ok().flatten()
}

async fn dial_once<D: Dial>(
    hub: &Arc<Hub>,
    dialer: &D,
    origin: Origin,
    address: &str,
    lane: Option<LaneId>,
) -> Ended {
    let channel = match connect(hub, dialer.clone(), address).await {
        Ok(channel) => channel,
        Err(error) => return Ended::Failed(error),
    };
    let mut client = MeshServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let link = hub.links.open(origin, |id| hub.name_of(id));
    let opening = open(hub, &mut client, &link, lane);
    let incoming = match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
        Ok(Ok(incoming)) => incoming,
        Ok(Err(status)) => {
            hub.links.remove(link.id);
            return Ended::Failed(status.message().to_owned());
        }
        Err(_) => {
            hub.links.remove(link.id);
            return Ended::Failed("the node does not answer".to_owned());
        }
    };
    let incoming = incoming.map(|message| message.map(|m| m.items));
    let why = Arc::clone(&link).run(Arc::clone(hub), incoming).await;
    match (link.closed(), link.peer()) {
        (Some((refusal, redial)), _) => Ended::Refused(refusal, redial),
        (None, Some((name, _))) => {
            let why = why.unwrap_or_else(|| "the peer has ended it".to_owned());
            tracing::info!(peer = %name, "link lost: {why}");
            if let Origin::Configured(at) = origin {
                hub.links.problem(at, why);
            }
            Ended::Linked
        }
        (None, None) => Ended::Failed(why.unwrap_or_else(|| "ended before a handshake".to_owned())),
    }
}

/// Opens both streams of a link. Core says its Hello when the link is up; the heads of the answers do
/// not wait for it.
async fn open(
    hub: &Arc<Hub>,
    client: &mut MeshServiceClient<Channel>,
    link: &Arc<Link>,
    lane: Option<LaneId>,
) -> Result<Streaming<LinkMessages>, Status> {
    let small = messages(Arc::clone(&link.out));
    let incoming = client.link(called(link, lane, small)).await?.into_inner();
    let bodies = messages(Arc::clone(&link.bodies));
    let arriving = client.bodies(called(link, lane, bodies)).await?.into_inner();
    link.open_bodies();
    let arriving = arriving.map(|message| message.map(|m| m.items));
    tokio::spawn(Arc::clone(link).run_bodies(Arc::clone(hub), arriving));
    Ok(incoming)
}

/// What one stream says. The end of a cut link is its end; nothing is told by it.
fn messages<G: Gather>(out: Arc<Outbox<G>>) -> impl Stream<Item = G::Message> + Send
where
    G::Message: Send,
{
    OutStream::new(out, || {}).filter_map(|messages| std::future::ready(messages.ok()))
}

/// A call that names its link, and the lane that it wants if that is not the process's own.
fn called<S>(link: &Link, lane: Option<LaneId>, out: S) -> Request<S> {
    let plain = |text: &str| text.parse::<MetadataValue<Ascii>>().expect("an id is plain text");
    let mut request = Request::new(out);
    request.metadata_mut().insert(PAIR, plain(&link.pair));
    if let Some(lane) = lane {
        request.metadata_mut().insert(LANE, plain(&lane.to_string()));
    }
    request
}

async fn connect<D: Dial>(hub: &Hub, dialer: D, address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address} is not an address: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(hub.bounds.keepalive)
        .keep_alive_timeout(hub.bounds.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(NODES.stream_bytes)
        .initial_connection_window_size(NODES.connection_bytes)
        .max_frame_size(NODES.frame_bytes);
    let connector = service_fn(move |uri: Uri| {
        let dialer = dialer.clone();
        async move {
            let authority = uri.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
            dialer.dial(&authority).await.map(TokioIo::new)
        }
    });
    let connecting = endpoint.connect_with_connector(connector);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(deepest(&error)),
        Err(_) => Err("the address does not answer".to_owned()),
    }
}

/// The cause that says most.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Between three and five quarters of the span.
fn jittered(span: Duration, entropy: &mut dyn Entropy) -> Duration {
    let percent = u32::try_from(entropy.next_u64() % 51).expect("below 51") + 75;
    span * percent / 100
}
