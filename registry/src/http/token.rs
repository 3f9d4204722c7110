//! The token endpoint (distribution's token specification: GET; OAuth2: POST).
//!
//! Asking for what one may not have is no error: the answer is the intersection, possibly empty.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use serde_json::json;
use url::form_urlencoded;

use crate::app::App;
use crate::auth::scope::{self, Grant};
use crate::auth::{AuthError, Caller};

/// The largest form accepted, in bytes.
const FORM_MAX_BYTES: usize = 64 * 1024;

/// `GET /token?service=…&scope=…&scope=…` with Basic credentials, or none.
pub async fn get(State(app): State<App>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let wanted = scopes(query.unwrap_or_default().as_bytes());
    match app.auth.caller(&headers).await {
        Ok(caller) => issue(&app, &caller, wanted).await,
        Err(error) => refuse(error),
    }
}

/// `POST /token` with a form: `grant_type=password`, `username`, `password`, `scope`.
pub async fn post(State(app): State<App>, headers: HeaderMap, body: axum::body::Body) -> Response {
    let Ok(form) = axum::body::to_bytes(body, FORM_MAX_BYTES).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the form is too large\n").into_response();
    };
    let field = |name: &str| {
        form_urlencoded::parse(&form)
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    };
    let caller = match (
        field("grant_type").as_deref(),
        field("username"),
        field("password"),
    ) {
        (Some("password"), Some(name), Some(password)) => app.auth.log_in_caller(&name, &password).await,
        (None, _, _) => app.auth.caller(&headers).await,
        // 400 makes clients fall back to GET.
        _ => {
            let error =
                json!({"error": "unsupported_grant_type", "error_description": "use grant_type=password"});
            return (StatusCode::BAD_REQUEST, Json(error)).into_response();
        }
    };
    match caller {
        Ok(caller) => issue(&app, &caller, scopes(&form)).await,
        Err(error) => refuse(error),
    }
}

fn scopes(form: &[u8]) -> Vec<Grant> {
    form_urlencoded::parse(form)
        .filter(|(key, _)| key == "scope")
        .flat_map(|(_, value)| scope::parse(&value))
        .take(100)
        .collect()
}

async fn issue(app: &App, caller: &Caller, wanted: Vec<Grant>) -> Response {
    match app.auth.issue(caller, wanted).await {
        Ok((token, expires_in)) => {
            let issued_at = time::OffsetDateTime::now_utc()
                .replace_nanosecond(0)
                .ok()
                .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok());
            // Clients differ in which of the two names they read.
            let body = json!({
                "token": token, "access_token": token, "expires_in": expires_in, "issued_at": issued_at,
            });
            ([("cache-control", "no-store")], Json(body)).into_response()
        }
        Err(error) => refuse(error),
    }
}

fn refuse(error: AuthError) -> Response {
    let status = match &error {
        AuthError::Required
        | AuthError::BadCredentials
        | AuthError::Malformed
        | AuthError::InvalidToken(_)
        | AuthError::InsufficientScope => StatusCode::UNAUTHORIZED,
        AuthError::Denied(_) => StatusCode::FORBIDDEN,
        AuthError::Password(_) | AuthError::Db(_) => {
            tracing::error!(error = super::error::chain(&error), "cannot issue a token");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": error.to_string()}]});
    (status, Json(body)).into_response()
}
