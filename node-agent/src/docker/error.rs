//! Every error that reaches a client of this API: status and `{"message": …}`. Where clients match on the text, it is
//! Docker's.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use crate::chain::Chain;
use crate::engine::EngineError;
use crate::image::ImageError;
use crate::supervise::ShimError;

/// An error on its way to a client.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// A request that cannot be carried out as it is.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Docker's words, which tell its clients to pull.
    pub(super) fn no_image(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("No such image: {name}"))
    }

    /// The answer to what is not a route of this API.
    pub(super) async fn no_page() -> Self {
        Self::new(StatusCode::NOT_FOUND, "page not found")
    }

    /// What a client reads.
    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(
                status = self.status.as_u16(),
                "a request failed: {}",
                self.message
            );
        }
        (self.status, Json(json!({"message": self.message}))).into_response()
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = status(&error);
        let message = match &error {
            EngineError::NotFound { query } => format!("No such container: {query}"),
            EngineError::NameTaken { name, holder } => format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to \
                 remove (or rename) that container to be able to reuse that name."
            ),
            EngineError::RemoveRunning { name } => format!(
                "cannot remove container \"/{name}\": container is running: stop the container before removing or \
                 force remove"
            ),
            EngineError::NotRunning { name, operation, .. } => {
                format!("cannot {operation} container: {name}: container {name} is not running")
            }
            EngineError::Start { source, .. } if is_missing_program(source) => {
                // The words by which Docker's command tells exit code 127.
                format!("{}: executable file not found", Chain(&error))
            }
            _ => Chain(&error).to_string(),
        };
        Self::new(status, message)
    }
}

fn status(error: &EngineError) -> StatusCode {
    match error {
        EngineError::NotFound { .. } => StatusCode::NOT_FOUND,
        EngineError::Ambiguous { .. }
        | EngineError::NameMalformed { .. }
        | EngineError::Spec { .. }
        | EngineError::NoSignal { .. }
        | EngineError::User { .. } => StatusCode::BAD_REQUEST,
        EngineError::NameTaken { .. }
        | EngineError::NotRunning { .. }
        | EngineError::RemoveRunning { .. }
        | EngineError::BeingRemoved { .. } => StatusCode::CONFLICT,
        EngineError::AlreadyRunning { .. } => StatusCode::NOT_MODIFIED,
        EngineError::Start { source, .. } => status(source),
        // The program that was asked for cannot be executed.
        EngineError::Shim {
            source: ShimError::Refused { failure, .. },
            ..
        } if failure.step == "exec" => StatusCode::BAD_REQUEST,
        EngineError::DoesNotEnd { .. }
        | EngineError::Root { .. }
        | EngineError::Network { .. }
        | EngineError::Bundle { .. }
        | EngineError::Shim { .. }
        | EngineError::File { .. }
        | EngineError::InUse { .. }
        | EngineError::Teardown { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn is_missing_program(error: &EngineError) -> bool {
    match error {
        EngineError::Shim {
            source: ShimError::Refused { failure, .. },
            ..
        } => failure.step == "exec" && failure.errno == Some(nix::errno::Errno::ENOENT as i32),
        _ => false,
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        let status = match &error {
            ImageError::Missing { .. } => StatusCode::NOT_FOUND,
            ImageError::Fetch { source, .. } if source.is_not_found() => StatusCode::NOT_FOUND,
            ImageError::Store { .. }
            | ImageError::Fetch { .. }
            | ImageError::Unsuitable { .. }
            | ImageError::Unpack { .. }
            | ImageError::WrongDigest { .. }
            | ImageError::WrongDiffId { .. }
            | ImageError::WrongSize { .. }
            | ImageError::OtherImage { .. }
            | ImageError::Mount { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, Chain(&error).to_string())
    }
}
