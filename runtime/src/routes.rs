//! What each port answers: our services, reflection and health.

use std::sync::Arc;

use dpc_proto::FILE_DESCRIPTOR_SET;
use dpc_proto::v1::cloud_service_server::CloudServiceServer;
use dpc_proto::v1::mesh_service_server::MeshServiceServer;
use dpc_proto::v1::operator_service_server::OperatorServiceServer;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::link::Mesh;
use crate::node::is_serving;
use crate::service::{Cloud, Desk, Hub, Phase};
use crate::wire::MESSAGE_BYTES_MAX;

/// Health of a port: its reporter and the services that it answers for.
pub(crate) struct Health {
    reporter: HealthReporter,
    services: Vec<&'static str>,
}

/// The client port.
pub(crate) fn for_clients(hub: &Arc<Hub>) -> (Routes, Health) {
    let cloud = CloudServiceServer::new(Cloud::new(Arc::clone(hub)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let desk = OperatorServiceServer::new(Desk::new(Arc::clone(hub)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let services = vec![name_of(&cloud), name_of(&desk)];
    with_common(Routes::new(cloud).add_service(desk), services)
}

/// The node port.
pub(crate) fn for_nodes(hub: &Arc<Hub>) -> (Routes, Health) {
    let mesh = MeshServiceServer::new(Mesh::new(Arc::clone(hub)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let services = vec![name_of(&mesh)];
    with_common(Routes::new(mesh), services)
}

/// Says in `grpc.health.v1` how far the node is in its life.
pub(crate) async fn show_phase(mut phase: watch::Receiver<Phase>, ports: Vec<Health>) {
    loop {
        let status = if is_serving(*phase.borrow_and_update()) {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for port in &ports {
            for service in &port.services {
                port.reporter.set_service_status(*service, status).await;
            }
        }
        if phase.changed().await.is_err() {
            return;
        }
    }
}

fn with_common(routes: Routes, mut services: Vec<&'static str>) -> (Routes, Health) {
    let (reporter, health) = health_reporter();
    // The empty name stands for the node as a whole.
    services.push("");
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("the descriptors are compiled in");
    let v1alpha = reflection().build_v1alpha().expect("the descriptors are compiled in");
    let routes = routes.add_service(health).add_service(v1).add_service(v1alpha);
    (routes, Health { reporter, services })
}

fn name_of<S: NamedService>(_service: &S) -> &'static str {
    S::NAME
}
