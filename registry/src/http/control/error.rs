//! Every error of the control plane: status and code. Each variant is named, so that a new one asks for its own when
//! it is compiled.

use api::ApiError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::auth::AuthError;
use crate::content::ContentError;
use crate::fleet::FleetError;
use crate::http::caller::Refusal;
use crate::http::error::chain;

/// An error on its way to a caller of `/api/v1`.
#[derive(Debug)]
pub enum ControlError {
    /// The caller may not.
    Auth(AuthError),
    /// A body that cannot be read; the text names the field.
    Body(String),
    /// A part of the path or of the query that cannot be read.
    Parameter(String),
    /// What was asked for cannot be done.
    Fleet(FleetError),
    /// The upkeep of what is stored failed.
    Content(ContentError),
}

impl From<AuthError> for ControlError {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}

impl From<FleetError> for ControlError {
    fn from(error: FleetError) -> Self {
        Self::Fleet(error)
    }
}

impl From<ContentError> for ControlError {
    fn from(error: ContentError) -> Self {
        Self::Content(error)
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let (status, code, text) = match self {
            Self::Auth(error) => return Refusal(error).into_response(),
            Self::Body(text) => (StatusCode::BAD_REQUEST, "body_invalid", text),
            Self::Parameter(text) => (StatusCode::BAD_REQUEST, "parameter_invalid", text),
            Self::Content(error) => {
                tracing::error!(error = chain(&error), "the upkeep of what is stored failed");
                let text = "the server failed to do this; its log says why".to_owned();
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
            }
            Self::Fleet(error) => {
                let (status, code) = classify(&error);
                match status {
                    StatusCode::INTERNAL_SERVER_ERROR => {
                        tracing::error!(error = chain(&error), "a request of the control plane failed");
                        let text = "the server failed to do this; its log says why".to_owned();
                        (status, code, text)
                    }
                    status => (status, code, error.to_string()),
                }
            }
        };
        (status, Json(ApiError::new(code, text))).into_response()
    }
}

fn classify(error: &FleetError) -> (StatusCode, &'static str) {
    match error {
        FleetError::JoinTokenUnknown => (StatusCode::FORBIDDEN, "join_token_unknown"),
        FleetError::JoinTokenUsed => (StatusCode::FORBIDDEN, "join_token_used"),
        FleetError::JoinTokenExpired => (StatusCode::FORBIDDEN, "join_token_expired"),
        FleetError::NodeNameTaken(_) => (StatusCode::CONFLICT, "node_name_taken"),
        FleetError::NodeInvalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "node_invalid"),
        FleetError::NodeUnknown(_) => (StatusCode::NOT_FOUND, "node_unknown"),
        FleetError::NodeBusy { .. } => (StatusCode::CONFLICT, "node_busy"),
        FleetError::TooManyReports(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_many_reports"),
        FleetError::ServiceUnknown(_) => (StatusCode::NOT_FOUND, "service_unknown"),
        FleetError::DeploymentUnknown(_) => (StatusCode::NOT_FOUND, "deployment_unknown"),
        FleetError::RevisionUnknown { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "revision_unknown"),
        FleetError::NothingToGoBackTo(_) => (StatusCode::CONFLICT, "nothing_to_go_back_to"),
        FleetError::SpecInvalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "spec_invalid"),
        FleetError::ImageUnknown { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "image_unknown"),
        FleetError::PlatformMissing { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "platform_missing"),
        FleetError::Contended(_) => (StatusCode::CONFLICT, "service_contended"),
        FleetError::SessionUnknown(_) => (StatusCode::NOT_FOUND, "session_unknown"),
        FleetError::Upstream(_) => (StatusCode::BAD_GATEWAY, "upstream_unavailable"),
        FleetError::Content(_) | FleetError::Randomness(_) | FleetError::Db(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal")
        }
    }
}
