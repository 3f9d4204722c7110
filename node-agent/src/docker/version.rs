//! The version in front of a path: `/v1.44/containers/json`. Without one, the newest is meant. The client takes the
//! lesser of its own version and the one that `/_ping` tells.

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Uri};
use tower::ServiceExt;

use super::error::ApiError;

/// A version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ApiVersion(u16, u16);

/// The newest that is spoken.
pub(super) const API_VERSION: &str = "1.44";
/// The oldest.
pub(super) const MIN_API_VERSION: &str = "1.24";
const NEWEST: ApiVersion = ApiVersion(1, 44);
const OLDEST: ApiVersion = ApiVersion(1, 24);
/// The first that names streams of frames by a media type of their own.
pub(super) const MULTIPLEXED: ApiVersion = ApiVersion(1, 42);

impl ApiVersion {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let both = is_number(major) && is_number(minor);
        both.then(|| Some(Self(major.parse().ok()?, minor.parse().ok()?)))?
    }
}

/// Takes the version off the path, hands the request on, and adds the headers that all answers have.
pub(super) async fn route(router: Router, mut request: Request) -> Response {
    let mut response = match strip(request.uri()) {
        Ok((version, uri)) => {
            *request.uri_mut() = uri;
            request.extensions_mut().insert(version);
            match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        ("api-version", API_VERSION),
        ("docker-experimental", "false"),
        ("ostype", "linux"),
        (
            "server",
            concat!("Pierhead/", env!("CARGO_PKG_VERSION"), " (linux)"),
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn strip(uri: &Uri) -> Result<(ApiVersion, Uri), ApiError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let versioned = path.strip_prefix("/v").and_then(|rest| {
        let end = rest.find('/')?;
        Some((ApiVersion::parse(&rest[..end])?, &rest[..end], &rest[end..]))
    });
    let Some((version, text, rest)) = versioned else {
        return Ok((NEWEST, uri.clone()));
    };
    if version > NEWEST {
        return Err(ApiError::bad(format!(
            "client version {text} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    if version < OLDEST {
        return Err(ApiError::bad(format!(
            "client version {text} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade your \
             client to a newer version"
        )));
    }
    let rest = rest
        .parse()
        .map_err(|_| ApiError::bad(format!("{rest:?} is not a path")))?;
    Ok((version, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_optional_and_bounded() {
        let strip = |path: &str| strip(&path.parse().expect("a path"));
        let (version, rest) = strip("/v1.41/containers/json?all=1").expect("spoken");
        assert_eq!(
            (version, rest.to_string().as_str()),
            (ApiVersion(1, 41), "/containers/json?all=1")
        );
        let (version, rest) = strip("/version").expect("without");
        assert_eq!((version, rest.path()), (NEWEST, "/version"));
        assert!(strip("/v1.44/_ping").is_ok() && strip("/v1.24/_ping").is_ok());
        assert!(
            strip("/v1.45/_ping").is_err() && strip("/v1.23/_ping").is_err() && strip("/v2.0/_ping").is_err()
        );
        // No version: a path that nothing has.
        assert_eq!(strip("/v1.x/_ping").expect("no version").1.path(), "/v1.x/_ping");
    }
}
