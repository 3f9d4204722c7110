//! A client of the OCI distribution-spec: pull and push with the Bearer token flow.

mod auth;
mod pull;
mod push;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use oci::{ErrorBody, RepositoryName};
use reqwest::{Method, RequestBuilder, Response};
use url::Url;

pub use auth::{Credential, TokenSource};
pub use pull::{BlobBody, FetchedManifest, ManifestHead};

/// How long a registry may be silent: until an answer begins, and between two pieces of it.
const SILENCE: Duration = Duration::from_secs(30);
/// How long sending a blob may take, with the commit at its end.
const PUSH: Duration = Duration::from_secs(3600);

/// Why a request to a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No answer: the network, TLS, or a deadline.
    #[error("no answer from {host}")]
    Transport {
        /// The registry.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
    /// An answer that does not begin, or does not go on.
    #[error("{host} was silent for too long")]
    Silent {
        /// The registry.
        host: String,
    },
    /// An answer that is an error.
    #[error("{host} answered {status}: {message}")]
    Status {
        /// The registry.
        host: String,
        /// The status.
        status: StatusCode,
        /// The first error of the body, or its start.
        message: String,
    },
    /// An answer that breaks the protocol.
    #[error("{host} broke the protocol: {what}")]
    Protocol {
        /// The registry.
        host: String,
        /// What was wrong.
        what: String,
    },
    /// Content that does not have the digest it was asked for by.
    #[error("{host} sent content of digest {actual} for {expected}")]
    Digest {
        /// The registry.
        host: String,
        /// Asked for.
        expected: oci::Digest,
        /// Received.
        actual: oci::Digest,
    },
    /// The bytes to push could not be read.
    #[error("read the content to push")]
    Source(#[from] std::io::Error),
    /// A token could not be made.
    #[error("make a token: {0}")]
    Token(String),
}

impl ClientError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Silent { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Protocol { .. } | Self::Digest { .. } | Self::Source(_) | Self::Token(_) => false,
        }
    }

    /// Whether the registry says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// A client of one registry, cheap to clone.
#[derive(Clone, Debug)]
pub struct RegistryClient {
    http: reqwest::Client,
    base: Url,
    auth: Arc<auth::Auth>,
}

impl RegistryClient {
    /// A client of the registry at `base` (`http://host:port` or `https://host`).
    pub fn new(http: reqwest::Client, base: Url, credential: Credential) -> Self {
        Self {
            http,
            base,
            auth: Arc::new(auth::Auth::new(credential)),
        }
    }

    /// The registry's host, with its port if that is not the scheme's own.
    pub fn host(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    fn url(&self, repository: &RepositoryName, rest: &str) -> Url {
        let mut url = self.base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/v2/{repository}/{rest}"));
        url
    }

    fn transport(&self, source: reqwest::Error) -> ClientError {
        ClientError::Transport {
            host: self.host(),
            source,
        }
    }

    fn protocol(&self, what: impl Into<String>) -> ClientError {
        ClientError::Protocol {
            host: self.host(),
            what: what.into(),
        }
    }

    /// Sends what `build` makes of a request, with a token for `actions` on `repository`; asks for a token when the
    /// registry challenges, and sends once more then.
    async fn send(
        &self,
        method: Method,
        url: Url,
        repository: &RepositoryName,
        actions: &str,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let scope = format!("repository:{repository}:{actions}");
        let request = || build(self.http.request(method.clone(), url.clone()));
        // What identifies us goes to the registry alone, wherever its answers point.
        let is_ours = url.origin() == self.base.origin();
        let header = self.auth.header(&scope).await?.filter(|_| is_ours);
        let first = match &header {
            Some(header) => request().header(http::header::AUTHORIZATION, header),
            None => request(),
        };
        let response = self.answer(&method, first).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !is_ours {
            return Ok(response);
        }
        match self
            .auth
            .answer(&self.http, &self.base, &response, &scope)
            .await?
        {
            Some(header) => {
                self.answer(&method, request().header(http::header::AUTHORIZATION, header))
                    .await
            }
            None => Ok(response),
        }
    }

    /// Sends a request and waits for its answer to begin.
    async fn answer(&self, method: &Method, request: RequestBuilder) -> Result<Response, ClientError> {
        let deadline = if *method == Method::PUT { PUSH } else { SILENCE };
        match tokio::time::timeout(deadline, request.send()).await {
            Ok(answer) => answer.map_err(|e| self.transport(e)),
            Err(_) => Err(ClientError::Silent { host: self.host() }),
        }
    }

    /// Makes an error of any answer that is not a success.
    async fn succeed(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let message = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { errors }) if !errors.is_empty() => {
                format!("{}: {}", errors[0].code, errors[0].message)
            }
            _ => String::from_utf8_lossy(&body).chars().take(200).collect(),
        };
        Err(ClientError::Status {
            host: self.host(),
            status,
            message,
        })
    }

    /// The tags of a repository, all pages.
    ///
    /// # Errors
    /// When a page cannot be had.
    pub async fn tags(&self, repository: &RepositoryName) -> Result<Vec<String>, ClientError> {
        #[derive(serde::Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let mut url = self.url(repository, "tags/list");
        url.set_query(Some("n=1000"));
        let mut all = Vec::new();
        loop {
            let response = self
                .send(Method::GET, url.clone(), repository, "pull", |r| r)
                .await?;
            let response = self.succeed(response).await?;
            let link = response
                .headers()
                .get(http::header::LINK)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned);
            let page: Tags = response.json().await.map_err(|e| self.transport(e))?;
            let page = page.tags.unwrap_or_default();
            let is_empty = page.is_empty();
            all.extend(page);
            let next = link
                .as_deref()
                .and_then(|l| l.split_once('<')?.1.split_once('>'))
                .map(|(next, _)| next);
            match next {
                // A page without progress would never end.
                Some(next) if !is_empty => {
                    url = self
                        .base
                        .join(next)
                        .map_err(|_| self.protocol(format!("Link {next:?}")))?;
                }
                _ => return Ok(all),
            }
        }
    }
}
