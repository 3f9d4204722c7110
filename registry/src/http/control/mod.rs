//! `/api/v1`: the control plane over HTTP, for the command line and for nodes (wire types in package `api`).
//!
//! Operators' routes take [`Admin`], nodes' routes take [`Node`]; both stand first among a handler's arguments, so
//! that nothing else of a request is looked at before its sender is known. Errors are [`api::ApiError`] bodies.

mod agent;
mod error;
mod logs;
mod maintenance;
mod nodes;
mod request;
mod services;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::Stream;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::Serialize;

use crate::app::App;
use error::ControlError;
use request::{Admin, Node, Parameters, Payload};

/// All routes below `/api/v1`.
pub fn router() -> Router<App> {
    Router::new()
        .route("/cluster", get(nodes::cluster))
        .route("/join-tokens", post(nodes::token))
        .route("/join", post(nodes::join))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", delete(nodes::remove))
        .route("/nodes/self/watch", get(agent::watch))
        .route("/nodes/self/beat", post(agent::beat))
        .route("/nodes/self/report", post(agent::report))
        .route("/nodes/self/sessions/{id}", post(agent::session))
        .route("/services", get(services::list))
        .route(
            "/services/{project}/{service}",
            get(services::get).put(services::put).delete(services::remove),
        )
        .route("/services/{project}/{service}/rollback", post(services::rollback))
        .route("/services/{project}/{service}/logs", get(logs::get))
        .route("/tasks", get(services::tasks))
        .route("/deployments", get(services::deployments))
        .route("/deployments/{id}", get(services::deployment))
        .route(
            "/maintenance/collection",
            get(maintenance::status).post(maintenance::collect),
        )
        .fallback(|| async {
            let text = "there is no such endpoint in the control plane's API";
            refusal(StatusCode::NOT_FOUND, "endpoint_unknown", text)
        })
        .method_not_allowed_fallback(|| async {
            let text = "this endpoint does not take that method";
            refusal(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
        })
}

fn refusal(status: StatusCode, code: &str, text: &str) -> Response {
    (status, Json(api::ApiError::new(code, text))).into_response()
}

/// A response of JSON lines, one for each item, which no proxy may hold back.
fn json_lines<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Response {
    use futures::StreamExt;
    let lines = items.map(|item| {
        let mut line = serde_json::to_vec(&item)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(line))
    });
    let mut response = Body::from_stream(lines).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/jsonl"));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    response
}
