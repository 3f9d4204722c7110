//! Manifests, tags, referrers and the catalog over HTTP (distribution-spec end-3, end-7, end-8, end-9, end-12).

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK, LOCATION, WARNING};
use http::{HeaderName, Method, StatusCode};
use oci::manifest::MANIFEST_MAX_BYTES;
use oci::{Digest, ErrorCode, Reference, RepositoryName, Tag, media_type};
use serde_json::json;
use url::form_urlencoded;

use super::{Call, OciError};
use crate::auth::{AuthError, Delete, Pull, Push};
use crate::content::NewTag;

/// The most entries of one page.
const PAGE_MAX: usize = 1000;
/// The most `tag` parameters of one push.
const TAGS_MAX: usize = 10;

/// GET and HEAD. `Accept` is not heeded: what is stored is what there is.
pub async fn get(call: Call, name: &RepositoryName, reference: &Reference) -> Result<Response, OciError> {
    let access = call.access::<Pull>(name).await?;
    let (manifest, stale) = match call.app.upstreams.target(name) {
        None => (call.app.content.manifest(&access, reference).await?, None),
        Some(target) => {
            let cached = call.app.upstreams.manifest(&access, &target, reference).await?;
            (cached.manifest, cached.stale)
        }
    };
    let etag = format!("\"{}\"", manifest.digest);
    if call
        .header(IF_NONE_MATCH)
        .is_some_and(|tags| tags.contains(&etag) || tags.trim() == "*")
    {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let mut builder = Response::builder()
        .header(CONTENT_TYPE, &manifest.media_type)
        .header(CONTENT_LENGTH, manifest.body.len())
        .header(ETAG, etag)
        .header("docker-content-digest", manifest.digest.as_str());
    if let Some(reason) = stale {
        let reason: String = reason
            .chars()
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .collect();
        builder = builder.header(
            WARNING,
            format!("299 - \"stale: {}\"", reason.replace(['"', '\\'], "'")),
        );
    }
    let body = if call.method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(manifest.body)
    };
    builder
        .body(body)
        .map_err(|error| OciError::new(ErrorCode::ManifestInvalid, error.to_string()))
}

/// PUT.
pub async fn put(
    call: Call,
    body: Body,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Response, OciError> {
    let access = call.change::<Push>(name).await?;
    let tags = call
        .query
        .iter()
        .filter(|(key, _)| key == "tag")
        .map(|(_, value)| value.parse::<Tag>());
    let tags: Vec<Tag> = tags
        .collect::<Result<_, _>>()
        .map_err(|error| OciError::new(ErrorCode::ManifestInvalid, error.to_string()))?;
    if tags.len() > TAGS_MAX {
        let text = format!("{} tags in one push; at most {TAGS_MAX} are accepted", tags.len());
        return Err(OciError::new(ErrorCode::ManifestInvalid, text).with_status(StatusCode::URI_TOO_LONG));
    }
    let body = axum::body::to_bytes(body, MANIFEST_MAX_BYTES)
        .await
        .map_err(|_| {
            let text = format!("the manifest is larger than {MANIFEST_MAX_BYTES} bytes, or was cut off");
            OciError::new(ErrorCode::ManifestInvalid, text).with_status(StatusCode::PAYLOAD_TOO_LARGE)
        })?;
    let content_type = call.header(CONTENT_TYPE).unwrap_or_default();
    let new = NewTag {
        reference,
        tags: tags.clone(),
    };
    let (digest, subject) = call
        .app
        .content
        .manifest_push(&access, new, content_type, &body)
        .await?;
    let mut response = StatusCode::CREATED.into_response();
    let mut header = |header: HeaderName, value: String| {
        if let Ok(value) = value.parse() {
            response.headers_mut().append(header, value);
        }
    };
    header(LOCATION, format!("/v2/{name}/manifests/{digest}"));
    header(
        HeaderName::from_static("docker-content-digest"),
        digest.to_string(),
    );
    if let Some(subject) = subject {
        // Without it, clients write fallback tags.
        header(HeaderName::from_static("oci-subject"), subject.to_string());
    }
    for tag in tags {
        header(HeaderName::from_static("oci-tag"), tag.to_string());
    }
    Ok(response)
}

/// DELETE.
pub async fn delete(call: Call, name: &RepositoryName, reference: &Reference) -> Result<Response, OciError> {
    let access = call.change::<Delete>(name).await?;
    call.app.content.manifest_delete(&access, reference).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `n` and `last` of a listing.
fn page(call: &Call) -> Result<(usize, &str), OciError> {
    let limit = match call.query("n") {
        None => PAGE_MAX,
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse::<usize>().unwrap_or(usize::MAX).min(PAGE_MAX)
        }
        Some(text) => {
            let text = format!(
                "n is {:?}; it takes a number of entries",
                text.chars().take(40).collect::<String>()
            );
            return Err(OciError::new(ErrorCode::Unsupported, text).with_status(StatusCode::BAD_REQUEST));
        }
    };
    Ok((limit, call.query("last").unwrap_or_default()))
}

fn with_next(response: Response, path: &str, limit: usize, last: Option<&String>) -> Response {
    match last {
        Some(last) if limit > 0 => {
            let last: String = form_urlencoded::byte_serialize(last.as_bytes()).collect();
            let link = format!("<{path}?n={limit}&last={last}>; rel=\"next\"");
            ([(LINK, link)], response).into_response()
        }
        _ => response,
    }
}

/// GET of tags, in bytewise order.
pub async fn tags(call: Call, name: &RepositoryName) -> Result<Response, OciError> {
    let access = call.access::<Pull>(name).await?;
    let (limit, last) = page(&call)?;
    let page = call.app.content.tags(&access, last, limit).await?;
    let body = Json(json!({"name": name, "tags": page.entries})).into_response();
    let next = page.entries.last().filter(|_| page.has_more);
    Ok(with_next(body, &format!("/v2/{name}/tags/list"), limit, next))
}

/// GET of the catalog: repositories that the caller may pull from.
pub async fn catalog(call: Call) -> Result<Response, OciError> {
    if !call.caller.is_authenticated() {
        return Err(call.refuse(AuthError::Required, Some("registry:catalog:*")));
    }
    let (limit, last) = page(&call)?;
    let page = call
        .app
        .content
        .repositories(last, limit)
        .await
        .map_err(OciError::from)?;
    let mut names = Vec::new();
    for name in &page.entries {
        if call.app.auth.access::<Pull>(&call.caller, name).await.is_ok() {
            names.push(name.to_string());
        }
    }
    let body = Json(json!({"repositories": names})).into_response();
    let next = page
        .entries
        .last()
        .filter(|_| page.has_more)
        .map(ToString::to_string);
    Ok(with_next(body, "/v2/_catalog", limit, next.as_ref()))
}

/// GET of what refers to a digest.
pub async fn referrers(call: Call, name: &RepositoryName, digest: &Digest) -> Result<Response, OciError> {
    let access = call.access::<Pull>(name).await?;
    let wanted = call.query("artifactType");
    let manifests = call.app.content.referrers(&access, digest, wanted).await?;
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests});
    let mut response = ([(CONTENT_TYPE, media_type::OCI_INDEX)], index.to_string()).into_response();
    if wanted.is_some() {
        let value = http::HeaderValue::from_static("artifactType");
        response.headers_mut().insert("oci-filters-applied", value);
    }
    Ok(response)
}
