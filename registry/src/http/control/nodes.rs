//! The cluster, join tokens, joining, and nodes as operators see them.

use api::{ClusterInfo, JoinRequest, JoinResponse, JoinToken, NodeSummary};
use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;

use super::{Admin, ControlError, Parameters, Payload};
use crate::app::App;

/// `GET /api/v1/cluster`.
pub async fn cluster(_: Admin, State(app): State<App>) -> Json<ClusterInfo> {
    Json(ClusterInfo {
        id: app.fleet.cluster_id().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// `POST /api/v1/join-tokens`.
pub async fn token(_: Admin, State(app): State<App>) -> Result<(StatusCode, Json<JoinToken>), ControlError> {
    Ok((StatusCode::CREATED, Json(app.fleet.join_token().await?)))
}

/// `POST /api/v1/join`, authorised by the token in the body.
pub async fn join(
    State(app): State<App>,
    Payload(request): Payload<JoinRequest>,
) -> Result<Json<JoinResponse>, ControlError> {
    Ok(Json(app.fleet.join(&request).await?))
}

/// `GET /api/v1/nodes`.
pub async fn list(_: Admin, State(app): State<App>) -> Result<Json<Vec<NodeSummary>>, ControlError> {
    Ok(Json(app.fleet.nodes().await?))
}

/// Query of a removal; `?force`, `?force=` and `?force=true` are alike.
#[derive(Debug, Deserialize)]
pub struct Removal {
    force: Option<String>,
}

/// `DELETE /api/v1/nodes/{id}[?force]`.
pub async fn remove(
    _: Admin,
    State(app): State<App>,
    Path(id): Path<String>,
    Parameters(query): Parameters<Removal>,
) -> Result<StatusCode, ControlError> {
    let is_forced = match query.force.as_deref() {
        None | Some("false") => false,
        Some("" | "true") => true,
        Some(_) => return Err(ControlError::Parameter("force: write true or false".to_owned())),
    };
    app.fleet.node_remove(&id, is_forced).await?;
    Ok(StatusCode::NO_CONTENT)
}
