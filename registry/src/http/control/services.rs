//! Services, tasks and deployments.

use api::{
    DeployRequest, DeployResponse, Deployment, RollbackRequest, ServiceName, ServiceSummary, TaskSummary,
};
use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;

use super::{Admin, ControlError, Parameters, Payload};
use crate::app::App;
use crate::auth::Pull;
use crate::fleet::image;

/// The name in a path of two parts.
pub(super) fn service_name((project, service): (String, String)) -> Result<ServiceName, ControlError> {
    format!("{project}/{service}")
        .parse()
        .map_err(|error: api::service::ServiceNameError| ControlError::Parameter(error.to_string()))
}

/// `GET /api/v1/services`.
pub async fn list(_: Admin, State(app): State<App>) -> Result<Json<Vec<ServiceSummary>>, ControlError> {
    Ok(Json(app.fleet.services().await?))
}

/// `GET /api/v1/services/{project}/{service}`.
pub async fn get(
    _: Admin,
    State(app): State<App>,
    Path(path): Path<(String, String)>,
) -> Result<Json<ServiceSummary>, ControlError> {
    Ok(Json(app.fleet.service(&service_name(path)?).await?))
}

/// `PUT /api/v1/services/{project}/{service}`: resolves the image and deploys.
pub async fn put(
    Admin(caller): Admin,
    State(app): State<App>,
    Path(path): Path<(String, String)>,
    Payload(request): Payload<DeployRequest>,
) -> Result<Json<DeployResponse>, ControlError> {
    let name = service_name(path)?;
    let spec = request.spec;
    let access = app.auth.access::<Pull>(&caller, &spec.repository).await?;
    let image = image::resolve(&app.content, &app.upstreams, &access, &spec).await?;
    Ok(Json(app.fleet.deploy(&name, &spec, &image).await?))
}

/// `DELETE /api/v1/services/{project}/{service}`: its tasks are stopped, then it is gone.
pub async fn remove(
    _: Admin,
    State(app): State<App>,
    Path(path): Path<(String, String)>,
) -> Result<StatusCode, ControlError> {
    app.fleet.service_remove(&service_name(path)?).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `POST /api/v1/services/{project}/{service}/rollback`.
pub async fn rollback(
    _: Admin,
    State(app): State<App>,
    Path(path): Path<(String, String)>,
    Payload(request): Payload<RollbackRequest>,
) -> Result<Json<DeployResponse>, ControlError> {
    let name = service_name(path)?;
    Ok(Json(app.fleet.rollback(&name, request.revision).await?))
}

/// Which service's tasks or deployments are wanted; all where `None`.
#[derive(Debug, Deserialize)]
pub struct Filter {
    service: Option<String>,
}

impl Filter {
    fn name(self) -> Result<Option<ServiceName>, ControlError> {
        let parse = |name: String| name.parse();
        let name = self.service.map(parse).transpose();
        name.map_err(|error: api::service::ServiceNameError| {
            ControlError::Parameter(format!("service: {error}"))
        })
    }
}

/// `GET /api/v1/tasks[?service=NAME]`.
pub async fn tasks(
    _: Admin,
    State(app): State<App>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<Vec<TaskSummary>>, ControlError> {
    Ok(Json(app.fleet.tasks(filter.name()?.as_ref()).await?))
}

/// `GET /api/v1/deployments[?service=NAME]`, newest first.
pub async fn deployments(
    _: Admin,
    State(app): State<App>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<Vec<Deployment>>, ControlError> {
    Ok(Json(app.fleet.deployments(filter.name()?.as_ref()).await?))
}

/// `GET /api/v1/deployments/{id}`.
pub async fn deployment(
    _: Admin,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Deployment>, ControlError> {
    let number = id.parse::<u64>().map_err(|_| {
        let id: String = id.chars().take(40).collect();
        ControlError::Parameter(format!("{id:?} is no number of a deployment"))
    })?;
    Ok(Json(app.fleet.deployment(number).await?))
}
