//! Every error that reaches a client of `/v2/`: code, status, headers, body. Each variant is named, so that a new
//! one asks for its status when it is compiled.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, ETAG, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use oci::{Digest, ErrorBody, ErrorCode};
use serde_json::Value;

use crate::auth::AuthError;
use crate::content::ContentError;
use crate::upstream::UpstreamError;

/// An error on its way to a client.
#[derive(Debug)]
pub struct OciError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    detail: Value,
    headers: Vec<(http::HeaderName, String)>,
}

/// The challenge's parts: where tokens are to be had, and for what.
#[derive(Debug)]
pub struct Challenge {
    /// URL of the token endpoint.
    pub realm: String,
    /// Name of this registry.
    pub service: String,
    /// What is needed, if anything in particular.
    pub scope: Option<String>,
}

impl OciError {
    /// An error with the status that its code has by the specification.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Self {
            status,
            code,
            message: message.into(),
            detail: Value::Null,
            headers: Vec::new(),
        }
    }

    /// The same with another status.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same with one more header.
    pub fn with_header(mut self, name: http::HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// 412, telling what is there instead, so that a client can decide anew without another request.
    pub fn condition_failed(named: Option<&Digest>) -> Self {
        let error = Self::new(
            ErrorCode::Denied,
            "the reference does not name what If-Match or If-None-Match asks for; read it again and decide anew",
        )
        .with_status(StatusCode::PRECONDITION_FAILED);
        match named {
            Some(digest) => error.with_header(ETAG, format!("\"{digest}\"")),
            None => error,
        }
    }

    /// A failure of ours: the client learns that it happened, the log learns why.
    fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(error = chain(error), "a request failed");
        Self::new(
            ErrorCode::Unsupported,
            "the registry failed to do this; its log says why",
        )
        .with_status(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Where an upload stands, for clients that go on after an error.
    pub fn with_upload(mut self, location: &str, offset: u64) -> Self {
        self.headers.push((LOCATION, location.to_owned()));
        self.headers
            .push((RANGE, format!("0-{}", offset.saturating_sub(1))));
        self
    }

    /// From a refusal; the challenge goes into a 401.
    pub fn auth(error: AuthError, challenge: &Challenge) -> Self {
        let text = error.to_string();
        let hint = match &error {
            AuthError::Required => None,
            AuthError::BadCredentials => None,
            AuthError::Malformed => {
                return Self::new(ErrorCode::Unauthorized, text).challenged(challenge, None);
            }
            AuthError::InvalidToken(_) => Some("invalid_token"),
            AuthError::InsufficientScope => Some("insufficient_scope"),
            AuthError::Denied(_) => return Self::new(ErrorCode::Denied, text),
            AuthError::Password(_) | AuthError::Db(_) => return Self::internal(&error),
        };
        Self::new(ErrorCode::Unauthorized, text).challenged(challenge, hint)
    }

    fn challenged(mut self, challenge: &Challenge, hint: Option<&str>) -> Self {
        let mut value = format!(
            r#"Bearer realm="{}",service="{}""#,
            challenge.realm, challenge.service
        );
        if let Some(scope) = &challenge.scope {
            value.push_str(&format!(r#",scope="{scope}""#));
        }
        if let Some(hint) = hint {
            value.push_str(&format!(r#",error="{hint}""#));
        }
        self.headers.push((WWW_AUTHENTICATE, value));
        self
    }
}

/// An error with all its causes, for the log.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain = format!("{chain}: {cause}");
        source = cause.source();
    }
    chain
}

impl From<ContentError> for OciError {
    fn from(error: ContentError) -> Self {
        let text = error.to_string();
        match &error {
            ContentError::RepositoryUnknown(_) => Self::new(ErrorCode::NameUnknown, text),
            ContentError::BlobUnknown(_) => Self::new(ErrorCode::BlobUnknown, text),
            ContentError::ManifestUnknown(_) => Self::new(ErrorCode::ManifestUnknown, text),
            ContentError::UploadUnknown(_) => Self::new(ErrorCode::BlobUploadUnknown, text),
            ContentError::UploadBusy(_) => {
                Self::new(ErrorCode::BlobUploadInvalid, text).with_status(StatusCode::CONFLICT)
            }
            ContentError::UploadOffset { .. } => {
                Self::new(ErrorCode::BlobUploadInvalid, text).with_status(StatusCode::RANGE_NOT_SATISFIABLE)
            }
            ContentError::SizeMismatch { .. } => Self::new(ErrorCode::SizeInvalid, text),
            ContentError::UploadCut(_) => Self::new(ErrorCode::BlobUploadInvalid, text),
            ContentError::DigestMismatch { .. } => Self::new(ErrorCode::DigestInvalid, text),
            ContentError::ManifestInvalid(_) => Self::new(ErrorCode::ManifestInvalid, text),
            ContentError::ManifestBlobUnknown(digests) => {
                let detail = digests.iter().map(|d| serde_json::json!({"digest": d})).collect();
                Self {
                    detail: Value::Array(detail),
                    ..Self::new(ErrorCode::ManifestBlobUnknown, text)
                }
            }
            ContentError::ConditionFailed { named, .. } => Self::condition_failed(named.as_ref()),
            ContentError::Storage(error) if error.is_full() => {
                tracing::error!(%error, "storage is full");
                Self::new(
                    ErrorCode::Denied,
                    "the registry's storage is full; free space or ask its operator",
                )
                .with_status(StatusCode::INSUFFICIENT_STORAGE)
            }
            ContentError::Storage(error) => Self::internal(error),
            ContentError::Db(error) => Self::internal(error),
        }
    }
}

impl From<UpstreamError> for OciError {
    fn from(error: UpstreamError) -> Self {
        let text = error.to_string();
        match error {
            UpstreamError::Content(error) => error.into(),
            UpstreamError::NotFound(_) => Self::new(ErrorCode::ManifestUnknown, text),
            UpstreamError::Unavailable { .. } => {
                // 404 and not 502, so that clients with a fallback use it at once.
                tracing::warn!(error = text, "an upstream could not be used");
                Self::new(ErrorCode::ManifestUnknown, text)
            }
        }
    }
}

impl IntoResponse for OciError {
    fn into_response(self) -> Response {
        let body = ErrorBody::new(self.code, self.message, self.detail);
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}
