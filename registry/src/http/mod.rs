//! The only code that knows axum: routes, request ids, error bodies, and serving connections.

mod caller;
mod control;
mod error;
mod oci;
mod serve;
mod token;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode};
use tracing::Instrument;
use uuid::Uuid;

pub use caller::Refusal;
pub use serve::serve;

use crate::app::App;

/// All routes of the server.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .nest("/api/v1", control::router())
        .route("/token", get(token::get).post(token::post))
        .route("/v2", axum::routing::any(oci::handle))
        .route("/v2/", axum::routing::any(oci::handle))
        .route("/v2/{*path}", axum::routing::any(oci::handle))
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                "no such page; the registry's API is at /v2/\n",
            )
        })
        .layer(middleware::from_fn_with_state(app.clone(), access_log))
        .with_state(app)
}

/// Gives each request an id and writes one line about it.
async fn access_log(State(app): State<App>, request: Request, next: Next) -> Response {
    let request_id = Uuid::new_v4().to_string();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", request_id);
    let started = std::time::Instant::now();
    let mut response = async {
        let response = if app.stopping.is_cancelled() && path.starts_with("/v2") {
            oci::stopping()
        } else if app.stopping.is_cancelled() {
            (StatusCode::SERVICE_UNAVAILABLE, "the server is stopping\n").into_response()
        } else {
            next.run(request).await
        };
        let status = response.status().as_u16();
        let duration_ms = started.elapsed().as_millis();
        tracing::info!(status, duration_ms, "{method} {path} {status}");
        response
    }
    .instrument(span)
    .await;
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}
