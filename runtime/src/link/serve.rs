//! Links that peers have dialled.

use std::pin::Pin;
use std::sync::Arc;

use dpc_core::ids::LaneId;
use dpc_proto::{LinkMessages, v1};
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use v1::mesh_service_server::MeshService;

use super::dial::LANE;
use super::{Origin, PAIR};
use crate::service::{Hub, OutStream};

/// The longest name of a link.
const PAIR_BYTES_MAX: usize = 128;

/// `dpc.v1.MeshService`.
pub(crate) struct Mesh {
    hub: Arc<Hub>,
}

impl Mesh {
    /// The service over this hub.
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// The core that a link is for: the node's own, or that of an adopted lane.
    fn hub_of<T>(&self, request: &Request<T>) -> Result<Arc<Hub>, Status> {
        let Some(named) = request.metadata().get(LANE) else { return Ok(Arc::clone(&self.hub)) };
        let lane = named.to_str().ok().and_then(|lane| lane.parse::<LaneId>().ok());
        let lane = lane.ok_or_else(|| Status::invalid_argument("dpc-lane names no lane"))?;
        if lane == self.hub.identity.lane {
            return Ok(Arc::clone(&self.hub));
        }
        let guest = self.hub.guests.get(lane);
        guest.ok_or_else(|| Status::not_found(format!("this process does not run lane {lane}")))
    }
}

#[tonic::async_trait]
impl MeshService for Mesh {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<LinkMessages, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<LinkMessages>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let hub = self.hub_of(&request)?;
        let pair = pair(&request)?;
        if hub.links.paired(&pair).is_some() {
            return Err(Status::already_exists(format!("there is a link {pair} already")));
        }
        let link = hub.links.open(Origin::Accepted, |_| pair);
        let out = OutStream::new(Arc::clone(&link.out), || {});
        let incoming = request.into_inner().map(|message| message.map(|m| m.items));
        tokio::spawn(async move {
            let id = link.id;
            if let Some(why) = link.run(hub, incoming).await {
                tracing::info!(link = id.0, "link ended: {why}");
            }
        });
        Ok(Response::new(Box::pin(out)))
    }

    type BodiesStream = Pin<Box<dyn Stream<Item = Result<LinkMessages, Status>> + Send>>;

    async fn bodies(
        &self,
        request: Request<Streaming<LinkMessages>>,
    ) -> Result<Response<Self::BodiesStream>, Status> {
        let hub = self.hub_of(&request)?;
        let pair = pair(&request)?;
        let link = hub.links.paired(&pair);
        let link = link.ok_or_else(|| Status::not_found(format!("there is no link {pair}")))?;
        if !link.open_bodies() {
            return Err(Status::already_exists(format!("link {pair} has its bodies already")));
        }
        let out = OutStream::new(Arc::clone(&link.bodies), || {});
        let incoming = request.into_inner().map(|message| message.map(|m| m.items));
        tokio::spawn(link.run_bodies(hub, incoming));
        Ok(Response::new(Box::pin(out)))
    }

    async fn probe(
        &self,
        _request: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeResponse>, Status> {
        let identity = &self.hub.identity;
        let (node, incarnation) = (identity.name.to_string(), identity.incarnation.0);
        Ok(Response::new(v1::ProbeResponse { node, incarnation }))
    }
}

/// What the dialler calls the link.
fn pair<T>(request: &Request<T>) -> Result<String, Status> {
    let pair = request.metadata().get(PAIR).and_then(|pair| pair.to_str().ok());
    let pair = pair.filter(|pair| (1..=PAIR_BYTES_MAX).contains(&pair.len()));
    let pair = pair.ok_or_else(|| Status::invalid_argument("`dpc-link` has to name the link"))?;
    Ok(pair.to_owned())
}
