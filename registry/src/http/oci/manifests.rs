//! Manifests, tags, referrers and the catalog over HTTP (distribution-spec end-3, end-7, end-8, end-9, end-12).

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LINK, LOCATION};
use http::{HeaderName, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use oci::manifest::MANIFEST_MAX_BYTES;
use oci::{Digest, ErrorCode, Reference, RepositoryName, Tag, media_type};
use serde_json::json;
use url::form_urlencoded;

use super::conditional::{self, Verdict, etag};
use super::{Call, OciError, warning};
use crate::auth::{AuthError, Delete, Pull, Push};
use crate::content::{NewTag, Pushed};

/// The most entries of one page.
const PAGE_MAX: usize = 1000;
/// The most pages of all repositories that one page of the catalog is gathered from.
const CATALOG_ROUNDS_MAX: usize = 10;
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
    let digest = &manifest.digest;
    let builder = Response::builder()
        .header(ETAG, etag(digest))
        .header("docker-content-digest", digest.as_str());
    let builder = match conditional::judge(&call.headers, digest) {
        Verdict::Send => builder
            .header(CONTENT_TYPE, &manifest.media_type)
            .header(CONTENT_LENGTH, manifest.body.len()),
        Verdict::NotModified => {
            let response = builder.status(StatusCode::NOT_MODIFIED).body(Body::empty());
            return response.map_err(unsendable);
        }
        Verdict::Failed => return Err(OciError::condition_failed(Some(digest))),
    };
    let body = if call.method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(manifest.body)
    };
    let mut response = builder.body(body).map_err(unsendable)?;
    if let Some(reason) = stale {
        warning::add(response.headers_mut(), &format!("stale: {reason}"));
    }
    Ok(response)
}

fn unsendable(error: http::Error) -> OciError {
    OciError::new(ErrorCode::ManifestInvalid, error.to_string())
}

/// The whole body of a push.
async fn receive(call: &Call, body: Body) -> Result<Bytes, OciError> {
    let too_large = || {
        let text =
            format!("the manifest is larger than {MANIFEST_MAX_BYTES} bytes, which is the most accepted");
        OciError::new(ErrorCode::ManifestInvalid, text).with_status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let announced = call.header(CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MANIFEST_MAX_BYTES as u64) {
        return Err(too_large());
    }
    match Limited::new(body, MANIFEST_MAX_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(OciError::new(
            ErrorCode::ManifestInvalid,
            "the manifest was cut off",
        )),
    }
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
    let body = receive(&call, body).await?;
    let content_type = call.header(CONTENT_TYPE).unwrap_or_default();
    let new = NewTag {
        reference,
        tags: tags.clone(),
        condition: conditional::condition(&call.headers),
    };
    let pushed = call.app.content.manifest_push(&access, new, content_type, &body);
    let Pushed {
        digest,
        subject,
        missing,
    } = pushed.await?;
    let mut response = StatusCode::CREATED.into_response();
    let mut header = |header: HeaderName, value: String| {
        if let Ok(value) = value.parse() {
            response.headers_mut().append(header, value);
        }
    };
    header(LOCATION, format!("/v2/{name}/manifests/{digest}"));
    header(ETAG, etag(&digest));
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
    if missing > 0 {
        let text = format!("{missing} of the objects that the manifest names are not in this repository");
        warning::add(response.headers_mut(), &text);
    }
    Ok(response)
}

/// DELETE.
pub async fn delete(call: Call, name: &RepositoryName, reference: &Reference) -> Result<Response, OciError> {
    let access = call.change::<Delete>(name).await?;
    let condition = conditional::condition(&call.headers);
    call.app
        .content
        .manifest_delete(&access, reference, &condition)
        .await?;
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

/// Adds where the next page is: a path and a query, since some clients follow nothing else.
fn with_next(mut response: Response, path: &str, query: &[(&str, &str)], next: Option<&str>) -> Response {
    if let Some(last) = next {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query)
            .append_pair("last", last)
            .finish();
        if let Ok(link) = format!("<{path}?{query}>; rel=\"next\"").parse() {
            response.headers_mut().insert(LINK, link);
        }
    }
    response
}

/// GET of tags, in bytewise order.
pub async fn tags(call: Call, name: &RepositoryName) -> Result<Response, OciError> {
    let access = call.access::<Pull>(name).await?;
    let (limit, last) = page(&call)?;
    let page = call.app.content.tags(&access, last, limit).await?;
    let body = Json(json!({"name": name, "tags": page.entries})).into_response();
    let next = page.entries.last().filter(|_| page.has_more);
    let (path, limit) = (format!("/v2/{name}/tags/list"), limit.to_string());
    Ok(with_next(body, &path, &[("n", &limit)], next.map(String::as_str)))
}

/// GET of the catalog: repositories that the caller may pull from.
pub async fn catalog(call: Call) -> Result<Response, OciError> {
    if !call.caller.is_authenticated() {
        return Err(call.refuse(AuthError::Required, Some("registry:catalog:*")));
    }
    let (limit, last) = page(&call)?;
    let mut names: Vec<String> = Vec::new();
    let mut last = last.to_owned();
    let mut has_more = true;
    // Pages are full whatever the caller may not see, unless that is so much that the search goes on another time.
    for _ in 0..CATALOG_ROUNDS_MAX {
        if names.len() == limit || !has_more {
            break;
        }
        let page = call.app.content.repositories(&last, PAGE_MAX).await?;
        has_more = page.has_more;
        for name in &page.entries {
            if names.len() == limit {
                has_more = true;
                break;
            }
            if call
                .app
                .auth
                .lists(&call.caller, name)
                .await
                .map_err(|e| call.refuse(e, None))?
            {
                names.push(name.to_string());
            }
            last = name.to_string();
        }
    }
    let body = Json(json!({"repositories": names})).into_response();
    let next = (has_more && limit > 0).then_some(last.as_str());
    Ok(with_next(
        body,
        "/v2/_catalog",
        &[("n", &limit.to_string())],
        next,
    ))
}

/// GET of what refers to a digest.
pub async fn referrers(call: Call, name: &RepositoryName, digest: &Digest) -> Result<Response, OciError> {
    let access = call.access::<Pull>(name).await?;
    let wanted = call.query("artifactType").filter(|kind| !kind.is_empty());
    let (limit, last) = page(&call)?;
    let page = call
        .app
        .content
        .referrers(&access, digest, wanted, last, limit)
        .await?;
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": page.entries});
    let mut response = ([(CONTENT_TYPE, media_type::OCI_INDEX)], index.to_string()).into_response();
    let limit = limit.to_string();
    let mut query = vec![("n", limit.as_str())];
    if let Some(wanted) = wanted {
        let value = http::HeaderValue::from_static("artifactType");
        response.headers_mut().insert("oci-filters-applied", value);
        query.push(("artifactType", wanted));
    }
    let next = page.entries.last().filter(|_| page.has_more);
    let path = format!("/v2/{name}/referrers/{digest}");
    Ok(with_next(
        response,
        &path,
        &query,
        next.map(|d| d.digest.as_str()),
    ))
}
