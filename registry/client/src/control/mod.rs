//! A client of `/api/v1`. What both sides of it share is here: where the server is, and how it says no. `node` is the
//! agent's side, `operator` that of the operator's command.

pub mod node;
pub mod operator;

use std::time::Duration;

use api::ApiError;
use http::StatusCode;
use reqwest::{Method, RequestBuilder, Response};
use url::Url;

/// Why a request to a server failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No answer: the network or TLS.
    #[error("no answer from {host}")]
    Transport {
        /// The server.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// An answer that does not begin, or does not go on.
    #[error("{host} was silent for too long")]
    Silent {
        /// The server.
        host: String,
    },
    /// The server said no, in its own words.
    #[error("{error}")]
    Refused {
        /// The server.
        host: String,
        /// The status.
        status: StatusCode,
        /// What was wrong and what to do.
        error: ApiError,
    },
    /// An answer that is not one of this API.
    #[error("{host} does not answer like a Pierhead server: {what}")]
    Protocol {
        /// The server.
        host: String,
        /// What was wrong.
        what: String,
    },
    /// A token could not be made.
    #[error("make a token: {0}")]
    Token(String),
}

impl ControlError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Silent { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Protocol { .. } | Self::Token(_) => false,
        }
    }

    /// The server's code for programs, where it refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { error, .. } => Some(&error.code),
            _ => None,
        }
    }
}

/// A server, and how to reach it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    http: reqwest::Client,
    base: Url,
}

impl Endpoint {
    pub(crate) fn new(http: reqwest::Client, base: Url) -> Self {
        Self { http, base }
    }

    /// The server's host, with its port if that is not the scheme's own.
    pub(crate) fn host(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// A request for `path` below `/api/v1/`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/api/v1/{path}"));
        self.http.request(method, url)
    }

    /// A request for `/v2/`, which every account may make.
    pub(crate) fn registry_root(&self) -> RequestBuilder {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/v2/"));
        self.http.get(url)
    }

    /// Sends `request` and waits at most `deadline` for its answer to begin; an answer that is no success is an
    /// error.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        deadline: Duration,
    ) -> Result<Response, ControlError> {
        let answered = tokio::time::timeout(deadline, request.send()).await;
        let response = answered
            .map_err(|_| self.silent())?
            .map_err(|source| self.transport(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = tokio::time::timeout(deadline, response.bytes()).await;
        let body = body.map_err(|_| self.silent())?.unwrap_or_default();
        let error = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text: String = String::from_utf8_lossy(&body).trim().chars().take(200).collect();
            ApiError::new("unknown", format!("{} answered {status} {text}", self.host()))
        });
        Err(ControlError::Refused {
            host: self.host(),
            status,
            error,
        })
    }

    /// Reads a JSON answer.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        response: Response,
        deadline: Duration,
    ) -> Result<T, ControlError> {
        let body = tokio::time::timeout(deadline, response.bytes()).await;
        let body = body
            .map_err(|_| self.silent())?
            .map_err(|source| self.transport(source))?;
        serde_json::from_slice(&body).map_err(|error| self.protocol(error.to_string()))
    }

    pub(crate) fn transport(&self, source: reqwest::Error) -> ControlError {
        ControlError::Transport {
            host: self.host(),
            source,
        }
    }

    pub(crate) fn silent(&self) -> ControlError {
        ControlError::Silent { host: self.host() }
    }

    pub(crate) fn protocol(&self, what: impl Into<String>) -> ControlError {
        ControlError::Protocol {
            host: self.host(),
            what: what.into(),
        }
    }
}
