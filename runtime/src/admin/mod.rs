//! The admin port: metrics and health over plain HTTP.

pub(crate) mod alarms;
pub(crate) mod metrics;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use dpc_core::Answer;
use dpc_core::input::Operator;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::service::{Hub, Phase};

/// Answers one request.
pub(crate) async fn answer(
    hub: Arc<Hub>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
    }
    let phase = *hub.phase().borrow();
    Ok(match request.uri().path() {
        // Whoever can answer this is alive.
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match phase {
            Phase::Serving => text(StatusCode::OK, "ok\n"),
            Phase::Draining { .. } => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            Phase::Stopping => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        },
        "/metrics" => metrics_page(&hub).await,
        _ => text(StatusCode::NOT_FOUND, "known here: /metrics /livez /readyz\n"),
    })
}

async fn metrics_page(hub: &Arc<Hub>) -> Response<Full<Bytes>> {
    let types = match hub.operator(Operator::Types).await {
        Ok(Answer::Types(types)) => types,
        Ok(other) => unreachable!("core answers Types with {other}"),
        Err(status) => return text(StatusCode::SERVICE_UNAVAILABLE, status.message()),
    };
    let subscriptions = match hub.operator(Operator::Subscriptions).await {
        Ok(Answer::Subscriptions(subscriptions)) => subscriptions.len(),
        Ok(other) => unreachable!("core answers Subscriptions with {other}"),
        Err(status) => return text(StatusCode::SERVICE_UNAVAILABLE, status.message()),
    };
    let mut adopted = Vec::new();
    for guest in hub.guests.all() {
        // One that does not answer has ended meanwhile.
        if let Ok(Answer::Types(types)) = guest.operator(Operator::Types).await {
            adopted.push((guest, types));
        }
    }
    let body = metrics::page(hub, types, subscriptions, &adopted);
    let mut response = Response::new(Full::from(body));
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}
