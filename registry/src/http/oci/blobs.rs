//! Blobs over HTTP (distribution-spec end-2, end-10).

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RANGE};
use http::{Method, StatusCode};
use oci::{Digest, ErrorCode, RepositoryName};

use super::range::{self, Wanted};
use super::{Call, OciError};
use crate::auth::{Delete, Pull};
use crate::content::Blob;
use crate::upstream::{CachedBlob, Following};

enum Source {
    Stored(Blob),
    Following(Following),
}

/// GET and HEAD.
pub async fn get(call: Call, name: &RepositoryName, digest: &Digest) -> Result<Response, OciError> {
    let access = call.access::<Pull>(name).await?;
    let (source, size) = match call.app.upstreams.target(name) {
        None => {
            let blob = call.app.content.blob(&access, digest).await?;
            let size = blob.size_bytes;
            (Source::Stored(blob), size)
        }
        Some(target) => match call.app.upstreams.blob(&access, &target, digest).await? {
            CachedBlob::Stored(blob) => {
                let size = blob.size_bytes;
                (Source::Stored(blob), size)
            }
            CachedBlob::Following(following) => {
                let size = following.size_bytes();
                (Source::Following(following), size)
            }
        },
    };
    let etag = format!("\"{digest}\"");
    if call
        .header(IF_NONE_MATCH)
        .is_some_and(|tags| tags.contains(&etag) || tags.trim() == "*")
    {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let wanted = range::parse(call.header(RANGE), size);
    let (status, range) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0..size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Unsatisfiable => {
            let headers = [(CONTENT_RANGE, format!("bytes */{size}"))];
            let error = OciError::new(ErrorCode::SizeInvalid, format!("the blob has {size} bytes"))
                .with_status(StatusCode::RANGE_NOT_SATISFIABLE);
            return Ok((headers, error.into_response()).into_response());
        }
    };
    let builder = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(CONTENT_LENGTH, range.end - range.start)
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, etag)
        .header("docker-content-digest", digest.as_str());
    let builder = match status {
        StatusCode::PARTIAL_CONTENT => builder.header(
            CONTENT_RANGE,
            format!("bytes {}-{}/{size}", range.start, range.end - 1),
        ),
        _ => builder,
    };
    let body = match source {
        _ if call.method == Method::HEAD => Body::empty(),
        Source::Stored(blob) => {
            let stream = call.app.content.blob_read(&blob, range).await?;
            Body::from_stream(stream.inspect_err(|error| tracing::error!(%error, "a blob could not be read")))
        }
        Source::Following(following) => Body::from_stream(following.stream(range).boxed()),
    };
    builder
        .body(body)
        .map_err(|error| OciError::new(ErrorCode::BlobUnknown, error.to_string()))
}

/// DELETE.
pub async fn delete(call: Call, name: &RepositoryName, digest: &Digest) -> Result<Response, OciError> {
    let access = call.change::<Delete>(name).await?;
    call.app.content.blob_delete(&access, digest).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}
