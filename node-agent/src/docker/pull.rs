//! `POST /images/create`: pulls an image and gives it the name that it was asked for by.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use client::distribution::{ClientError, Credential, RegistryClient};
use futures::stream::{self, BoxStream, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use oci::{Digest, ImageReference, Platform};
use serde_json::{Value, json};
use url::Url;

use super::Api;
use super::error::ApiError;
use super::query::Parameters;
use super::reference::{self, DEFAULT_HOST};
use super::wire::RegistryAuth;
use crate::chain::Chain;

/// Where the registry that short names mean is reached.
const DEFAULT_REGISTRY: &str = "registry-1.docker.io";
/// Clients write the padding or leave it out.
const AUTH_ENCODING: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `POST /images/create?fromImage=…&tag=…`. What fails before the registry has shown the image is an error of the
/// answer; what fails later is one in the stream.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Query(parameters): Parameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let text = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    if !text("fromSrc").is_empty() {
        return Err(ApiError::bad(
            "fromSrc: importing is not supported by this engine",
        ));
    }
    if !text("platform").is_empty() {
        check_platform(text("platform"))?;
    }
    let wanted = match text("tag") {
        "" => text("fromImage").to_owned(),
        digest if digest.contains(':') => format!("{}@{digest}", text("fromImage")),
        tag => format!("{}:{tag}", text("fromImage")),
    };
    let wanted = reference::parse(&wanted)
        .map_err(|error| ApiError::bad(format!("invalid reference format: {error}")))?;
    let credential = credential(&headers)?;
    let registry = RegistryClient::new(api.http.clone(), registry_url(&wanted.host)?, credential);
    let name = reference::canonical(&wanted);
    let manifest = registry.manifest(&wanted.repository, &wanted.reference()).await;
    let digest = manifest
        .map_err(|error| not_shown(reference::familiar(&name), &error))?
        .digest;
    let lines = progress(api, registry, wanted, name, digest);
    let body = Body::from_stream(
        lines.map(|line| Ok::<_, std::convert::Infallible>(Bytes::from(format!("{line}\r\n")))),
    );
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

fn progress(
    api: Arc<Api>,
    registry: RegistryClient,
    wanted: ImageReference,
    name: String,
    digest: Digest,
) -> BoxStream<'static, Value> {
    let shown = reference::familiar(&name).to_owned();
    let repository = reference::repository(&shown).to_owned();
    let first = json!({"status": format!("Pulling from {repository}"), "id": wanted.reference().to_string()});
    let rest = async move {
        let is_here = matches!(api.images.get(&digest).await, Ok(Some(_)));
        let pulled = match api.images.pull(&registry, &wanted.repository, &digest).await {
            Ok(_) => api.images.name(&name, &digest).await,
            Err(error) => Err(error),
        };
        if let Err(error) = pulled {
            let message = Chain(&error).to_string();
            tracing::warn!(image = name, "an image was not pulled: {message}");
            return stream::iter(vec![
                json!({"errorDetail": {"message": message}, "error": message}),
            ]);
        }
        let status = if is_here {
            "Image is up to date for"
        } else {
            "Downloaded newer image for"
        };
        stream::iter(vec![
            json!({"status": format!("Digest: {digest}")}),
            json!({"status": format!("Status: {status} {shown}")}),
        ])
    };
    stream::once(async { first })
        .chain(stream::once(rest).flatten())
        .boxed()
}

/// Docker's words for a registry that does not show an image.
fn not_shown(name: &str, error: &ClientError) -> ApiError {
    let chain = Chain(error);
    let status = match error {
        ClientError::Status { status, .. } => *status,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    match status {
        StatusCode::NOT_FOUND => ApiError::new(status, format!("manifest for {name} not found: {chain}")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ApiError::new(
            StatusCode::NOT_FOUND,
            format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login': {chain}"
            ),
        ),
        _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("pull {name}: {chain}")),
    }
}

/// Refuses what this machine does not run.
///
/// # Errors
/// 400 for another platform than the machine's.
pub(super) fn check_platform(platform: &str) -> Result<(), ApiError> {
    let host = Platform::host();
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next());
    if os == host.os && architecture.is_none_or(|architecture| architecture == host.architecture) {
        return Ok(());
    }
    Err(ApiError::bad(format!(
        "platform {platform} does not match this machine's, {}/{}",
        host.os, host.architecture
    )))
}

/// Unencrypted only where nobody is on the way.
fn registry_url(host: &str) -> Result<Url, ApiError> {
    let host = if host == DEFAULT_HOST {
        DEFAULT_REGISTRY
    } else {
        host
    };
    let parse = |scheme: &str| Url::parse(&format!("{scheme}://{host}/"));
    let https = parse("https").map_err(|error| ApiError::bad(format!("registry {host:?}: {error}")))?;
    let bare = https.host_str().unwrap_or_default();
    let address = bare
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    let is_loopback = bare == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if !is_loopback {
        return Ok(https);
    }
    parse("http").map_err(|error| ApiError::bad(format!("registry {host:?}: {error}")))
}

fn credential(headers: &HeaderMap) -> Result<Credential, ApiError> {
    let malformed = || ApiError::bad("X-Registry-Auth cannot be read: base64url of JSON is needed");
    let Some(text) = headers.get("x-registry-auth").filter(|text| !text.is_empty()) else {
        return Ok(Credential::Anonymous);
    };
    let json = AUTH_ENCODING.decode(text.as_bytes()).map_err(|_| malformed())?;
    let auth: RegistryAuth = serde_json::from_slice(&json).map_err(|_| malformed())?;
    if !auth.identitytoken.is_empty() || !auth.registrytoken.is_empty() {
        return Err(ApiError::bad(
            "X-Registry-Auth: identity and registry tokens are not supported: log in with a password",
        ));
    }
    if auth.username.is_empty() {
        return Ok(Credential::Anonymous);
    }
    Ok(Credential::Basic {
        username: auth.username,
        password: auth.password,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_reached_unencrypted() {
        for (host, expected) in [
            ("127.0.0.1:5000", "http://127.0.0.1:5000/"),
            ("[::1]:5000", "http://[::1]:5000/"),
            ("localhost", "http://localhost/"),
            ("localhost.example.org", "https://localhost.example.org/"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/"),
            ("docker.io", "https://registry-1.docker.io/"),
        ] {
            let url = registry_url(host).map(|url| url.to_string());
            assert_eq!(
                url.map_err(|error| error.message().to_owned()).as_deref(),
                Ok(expected)
            );
        }
    }

    #[test]
    fn credentials_come_with_and_without_padding() {
        let with = |text: &str| {
            let headers = HeaderMap::from_iter([(
                "x-registry-auth".parse().expect("a name"),
                text.parse().expect("text"),
            )]);
            credential(&headers).map_err(|error| error.message().to_owned())
        };
        for text in [
            "eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImIifQ==",
            "eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImIifQ",
        ] {
            assert!(
                matches!(with(text), Ok(Credential::Basic { username, password }) if (username.as_str(), password.as_str()) == ("a", "b"))
            );
        }
        assert!(
            matches!(with("e30="), Ok(Credential::Anonymous)),
            "an empty object"
        );
        assert!(with("%%%").is_err() && with("eyJpZGVudGl0eXRva2VuIjoieCJ9").is_err());
    }

    #[test]
    fn other_platforms_are_refused() {
        let host = Platform::host();
        assert!(check_platform("linux").is_ok());
        assert!(check_platform(&format!("linux/{}", host.architecture)).is_ok());
        assert!(check_platform("linux/sparc").is_err() && check_platform("windows").is_err());
    }
}
