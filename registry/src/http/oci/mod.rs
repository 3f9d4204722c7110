//! `/v2/`: the OCI distribution-spec over HTTP.

mod blobs;
mod conditional;
mod leftover;
mod manifests;
mod range;
mod route;
mod uploads;
mod warning;

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, EXPECT, HOST};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use oci::reference::ReferenceError;
use oci::{ErrorCode, RepositoryName};
use url::form_urlencoded;

use super::error::{Challenge, OciError};
use super::serve::Peer;
use crate::app::App;
use crate::auth::{AuthError, Caller, Permission, RepositoryAccess};
use route::{Route, RouteError};

/// Everything that a handler needs of a request, but for its body.
struct Call {
    app: App,
    caller: Caller,
    method: Method,
    headers: HeaderMap,
    query: Vec<(String, String)>,
    /// Where it comes from; unknown to tests without a connection.
    peer: Option<IpAddr>,
}

impl Call {
    /// The first value of a query parameter.
    fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Proves that the caller may do `P` in `repository`.
    async fn access<P: Permission>(
        &self,
        repository: &RepositoryName,
    ) -> Result<RepositoryAccess<P>, OciError> {
        let proof = self.app.auth.access(&self.caller, repository).await;
        proof.map_err(|error| self.refuse(error, Some(&scope(repository, P::ACTION.as_str()))))
    }

    /// The same for changes, which cached repositories do not take.
    async fn change<P: Permission>(
        &self,
        repository: &RepositoryName,
    ) -> Result<RepositoryAccess<P>, OciError> {
        let access = self.access(repository).await?;
        if self.app.upstreams.owns(repository) {
            let text = format!("{repository} is a cache of an upstream registry and cannot be written to");
            return Err(OciError::new(ErrorCode::Denied, text));
        }
        Ok(access)
    }

    fn refuse(&self, error: AuthError, scope: Option<&str>) -> OciError {
        OciError::auth(error, &challenge(&self.app, &self.headers, scope))
    }
}

fn scope(repository: &RepositoryName, action: &str) -> String {
    // Clients that may push want to pull with the same token.
    match action {
        "push" => format!("repository:{repository}:pull,push"),
        action => format!("repository:{repository}:{action}"),
    }
}

fn challenge(app: &App, headers: &HeaderMap, scope: Option<&str>) -> Challenge {
    let host = headers
        .get(HOST)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("localhost");
    // A host of other characters could break out of the quotes.
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_');
    let host = if host.bytes().all(is_plain) {
        host
    } else {
        "localhost"
    };
    let base = match &app.config.public_url {
        Some(url) => url.as_str().trim_end_matches('/').to_owned(),
        None => format!("http://{host}"),
    };
    Challenge {
        realm: format!("{base}/token"),
        service: host.to_owned(),
        scope: scope.map(str::to_owned),
    }
}

/// Answers any request under `/v2`.
pub async fn handle(State(app): State<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Reading would ask a client that waits for leave to send for all that was just refused.
    let is_waiting = parts.headers.contains_key(EXPECT);
    let (body, leftover) = leftover::lend(body);
    versioned(match dispatch(app, Request::from_parts(parts, body)).await {
        Ok(response) => response,
        Err(error) => {
            if !is_waiting {
                leftover.drain().await;
            }
            error.into_response()
        }
    })
}

async fn dispatch(app: App, request: Request) -> Result<Response, OciError> {
    let (mut parts, body) = request.into_parts();
    // HTTP/2 has the host in its target.
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.entry(HOST).or_insert(host);
    }
    let route = Route::parse(parts.uri.path());
    let caller = app.auth.caller(&parts.headers).await;
    let caller = caller.map_err(|error| OciError::auth(error, &challenge(&app, &parts.headers, None)))?;
    let query = parts.uri.query().unwrap_or_default();
    let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let call = Call {
        app,
        caller,
        method: parts.method,
        headers: parts.headers,
        query,
        peer: parts.extensions.get::<Peer>().map(|peer| peer.0),
    };
    let route = match route {
        Ok(route) => route,
        // Nothing about paths is told to those who are not known.
        Err(_) if !call.caller.is_authenticated() => return Err(call.refuse(AuthError::Required, None)),
        Err(RouteError::NotFound) => {
            let error = OciError::new(
                ErrorCode::Unsupported,
                "there is no such endpoint in the OCI distribution API",
            );
            return Err(error.with_status(StatusCode::NOT_FOUND));
        }
        Err(RouteError::Name(error)) => return Err(OciError::new(ErrorCode::NameInvalid, error.to_string())),
        Err(RouteError::Reference(ReferenceError::Digest(error))) => {
            return Err(OciError::new(ErrorCode::DigestInvalid, error.to_string()));
        }
        Err(RouteError::Reference(error)) => {
            return Err(OciError::new(ErrorCode::NameInvalid, error.to_string()));
        }
    };
    let allowed = route.methods();
    match (&call.method.clone(), route) {
        (&Method::GET | &Method::HEAD, Route::Ping) if call.caller.is_authenticated() => {
            Ok(([("content-type", "application/json")], "{}").into_response())
        }
        (&Method::GET | &Method::HEAD, Route::Ping) => Err(call.refuse(AuthError::Required, None)),
        (&Method::GET | &Method::HEAD, Route::Catalog) => manifests::catalog(call).await,
        (&Method::GET | &Method::HEAD, Route::Blob(name, digest)) => blobs::get(call, &name, &digest).await,
        (&Method::DELETE, Route::Blob(name, digest)) => blobs::delete(call, &name, &digest).await,
        (&Method::POST, Route::Uploads(name)) => uploads::start(call, body, &name).await,
        (&Method::GET | &Method::HEAD, Route::Upload(name, id)) => uploads::status(call, &name, &id).await,
        (&Method::PATCH, Route::Upload(name, id)) => uploads::append(call, body, &name, &id).await,
        (&Method::PUT, Route::Upload(name, id)) => uploads::finish(call, body, &name, &id).await,
        (&Method::DELETE, Route::Upload(name, id)) => uploads::cancel(call, &name, &id).await,
        (&Method::GET | &Method::HEAD, Route::Manifest(name, reference)) => {
            manifests::get(call, &name, &reference).await
        }
        (&Method::PUT, Route::Manifest(name, reference)) => {
            manifests::put(call, body, &name, &reference).await
        }
        (&Method::DELETE, Route::Manifest(name, reference)) => {
            manifests::delete(call, &name, &reference).await
        }
        (&Method::GET | &Method::HEAD, Route::Tags(name)) => manifests::tags(call, &name).await,
        (&Method::GET | &Method::HEAD, Route::Referrers(name, digest)) => {
            manifests::referrers(call, &name, &digest).await
        }
        (method, _) => {
            let text = format!("{method} is not supported here; {allowed} are");
            Err(OciError::new(ErrorCode::Unsupported, text).with_header(ALLOW, allowed.to_owned()))
        }
    }
}

/// Answers requests under `/v2` while the server is stopping; clients try again.
pub fn stopping() -> Response {
    let error = OciError::new(ErrorCode::TooManyRequests, "the server is stopping; try again")
        .with_status(StatusCode::SERVICE_UNAVAILABLE)
        .with_header(http::header::RETRY_AFTER, "1".to_owned());
    versioned(error.into_response())
}

fn versioned(mut response: Response) -> Response {
    let version = HeaderValue::from_static("registry/2.0");
    response
        .headers_mut()
        .insert("docker-distribution-api-version", version);
    response
}
