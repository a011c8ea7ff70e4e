//! Links that peers have dialled.

use std::pin::Pin;
use std::sync::Arc;

use dpc_proto::v1;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use v1::mesh_service_server::MeshService;

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
}

#[tonic::async_trait]
impl MeshService for Mesh {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::LinkResponse, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<v1::LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let link = self.hub.links.open(None);
        let out = OutStream::new(Arc::clone(&link.out), || {});
        let incoming = request.into_inner().map(|message| message.map(|m| m.messages));
        let hub = Arc::clone(&self.hub);
        tokio::spawn(async move {
            let id = link.id;
            if let Some(why) = link.run(hub, incoming).await {
                tracing::info!(link = id.0, "link ended: {why}");
            }
        });
        let answers = out.map(|messages| messages.map(|messages| v1::LinkResponse { messages }));
        Ok(Response::new(Box::pin(answers)))
    }
}
