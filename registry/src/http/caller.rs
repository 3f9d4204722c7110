//! [`Caller`] as an extractor, for handlers of `/api/v1`.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;

use crate::app::App;
use crate::auth::{AuthError, Caller};

/// A refusal as `/api/v1` tells it.
#[derive(Debug)]
pub struct Refusal(pub AuthError);

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code) = match &self.0 {
            AuthError::Required => (StatusCode::UNAUTHORIZED, "authentication_required"),
            AuthError::BadCredentials => (StatusCode::UNAUTHORIZED, "bad_credentials"),
            AuthError::Malformed => (StatusCode::UNAUTHORIZED, "malformed_authorization"),
            AuthError::InvalidToken(_) => (StatusCode::UNAUTHORIZED, "invalid_token"),
            AuthError::InsufficientScope => (StatusCode::FORBIDDEN, "insufficient_scope"),
            AuthError::Denied(_) => (StatusCode::FORBIDDEN, "denied"),
            AuthError::Password(_) | AuthError::Db(_) => {
                tracing::error!(error = super::error::chain(&self.0), "cannot tell who calls");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
        };
        let mut response = (status, Json(api::ApiError::new(code, self.0.to_string()))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = http::HeaderValue::from_static("Basic realm=\"pierhead\", Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        Ok(app.auth.caller(&parts.headers).await?)
    }
}
