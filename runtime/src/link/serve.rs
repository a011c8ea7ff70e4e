//! Links that peers have dialled.

use std::pin::Pin;
use std::sync::Arc;

use dpc_core::ids::LaneId;
use dpc_proto::v1;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use v1::mesh_service_server::MeshService;

use super::Origin;
use super::dial::LANE;
use crate::service::{Hub, OutStream};

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
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::LinkResponse, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<v1::LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let hub = self.hub_of(&request)?;
        let link = hub.links.open(Origin::Accepted);
        let out = OutStream::new(Arc::clone(&link.out), || {});
        let incoming = request.into_inner().map(|message| message.map(|m| m.messages));
        tokio::spawn(async move {
            let id = link.id;
            if let Some(why) = link.run(hub, incoming).await {
                tracing::info!(link = id.0, "link ended: {why}");
            }
        });
        let answers = out.map(|messages| messages.map(|messages| v1::LinkResponse { messages }));
        Ok(Response::new(Box::pin(answers)))
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
