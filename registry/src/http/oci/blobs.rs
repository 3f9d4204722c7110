//! Blobs over HTTP (distribution-spec end-2, end-10; RFC 9110, 14, for ranges).

use std::ops::Range;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LOCATION, RANGE};
use http::{Method, StatusCode};
use oci::{Digest, ErrorCode, RepositoryName};
use uuid::Uuid;

use super::conditional::{self, Verdict, etag};
use super::range::{self, RANGES_MAX, Wanted};
use super::{Call, OciError};
use crate::auth::{Delete, Pull};
use crate::content::{Blob, Content, ContentError};
use crate::storage::StorageError;
use crate::upstream::{CachedBlob, Following};

const BLOB_TYPE: &str = "application/octet-stream";

enum Source {
    Stored(Blob),
    Following(Following),
}

impl Source {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Stored(blob) => blob.size_bytes,
            Self::Following(following) => following.size_bytes(),
        }
    }
}

/// GET and HEAD.
pub async fn get(call: Call, name: &RepositoryName, digest: &Digest) -> Result<Response, OciError> {
    let access = call.access::<Pull>(name).await?;
    let source = match call.app.upstreams.target(name) {
        None => Source::Stored(call.app.content.blob(&access, digest).await?),
        Some(target) => match call.app.upstreams.blob(&access, &target, digest).await? {
            CachedBlob::Stored(blob) => Source::Stored(blob),
            CachedBlob::Following(following) => Source::Following(following),
        },
    };
    match conditional::judge(&call.headers, digest) {
        Verdict::Send => {}
        Verdict::NotModified => return Ok(not_modified(digest)),
        Verdict::Failed => return Err(OciError::condition_failed(Some(digest))),
    }
    if let Some(url) = redirect(&call, &source).await {
        let headers = [
            (LOCATION.as_str(), url),
            ("docker-content-digest", digest.to_string()),
        ];
        return Ok((StatusCode::TEMPORARY_REDIRECT, headers).into_response());
    }
    let size = source.size_bytes();
    // Ranges have a meaning for GET alone (RFC 9110, 14.2).
    let header = match call.method == Method::GET && conditional::range_applies(&call.headers, digest) {
        true => call.header(RANGE),
        false => None,
    };
    match (range::parse(header, size), source) {
        (Wanted::Whole, source) => whole(&call, digest, source).await,
        (Wanted::Unsatisfiable, _) => Err(OciError::new(
            ErrorCode::SizeInvalid,
            format!("the blob has {size} bytes, and the range none of them"),
        )
        .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
        .with_header(CONTENT_RANGE, format!("bytes */{size}"))),
        (Wanted::TooMany, _) => Err(OciError::new(
            ErrorCode::SizeInvalid,
            format!("at most {RANGES_MAX} ranges are served at once; ask for fewer and larger ones"),
        )),
        (Wanted::Parts(parts), source) => match <[Range<u64>; 1]>::try_from(parts) {
            Ok([range]) => part(&call, digest, source, range).await,
            Err(parts) => match source {
                Source::Stored(blob) => several(&call, blob, parts),
                // All of it has to come from upstream anyway before the last part can be sent.
                Source::Following(_) => whole(&call, digest, source).await,
            },
        },
    }
}

/// Where the object store itself gives the blob, for callers that are to read it there.
async fn redirect(call: &Call, source: &Source) -> Option<String> {
    let redirect = &call.app.config.storage.redirect;
    let Source::Stored(blob) = source else { return None };
    if call.method != Method::GET || !call.peer.is_some_and(|peer| redirect.includes(peer)) {
        return None;
    }
    match call.app.content.blob_url(blob, redirect.lifetime).await {
        Ok(url) => url.map(String::from),
        // We still have the bytes.
        Err(error) => {
            tracing::warn!(%error, "cannot redirect to the object store");
            None
        }
    }
}

fn not_modified(digest: &Digest) -> Response {
    let headers = [
        (ETAG.as_str(), etag(digest)),
        ("docker-content-digest", digest.to_string()),
    ];
    (StatusCode::NOT_MODIFIED, headers).into_response()
}

fn builder(digest: &Digest, status: StatusCode, length: u64) -> http::response::Builder {
    Response::builder()
        .status(status)
        .header(CONTENT_LENGTH, length)
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, etag(digest))
        .header("docker-content-digest", digest.as_str())
}

fn finish(builder: http::response::Builder, body: Body) -> Result<Response, OciError> {
    builder
        .body(body)
        .map_err(|error| OciError::new(ErrorCode::BlobUnknown, error.to_string()))
}

async fn whole(call: &Call, digest: &Digest, source: Source) -> Result<Response, OciError> {
    let size = source.size_bytes();
    let builder = builder(digest, StatusCode::OK, size).header(CONTENT_TYPE, BLOB_TYPE);
    let body = match call.method == Method::HEAD {
        true => Body::empty(),
        false => body(call, source, 0..size).await?,
    };
    finish(builder, body)
}

async fn part(call: &Call, digest: &Digest, source: Source, range: Range<u64>) -> Result<Response, OciError> {
    let builder = builder(digest, StatusCode::PARTIAL_CONTENT, range.end - range.start)
        .header(CONTENT_TYPE, BLOB_TYPE)
        .header(CONTENT_RANGE, content_range(&range, source.size_bytes()));
    finish(builder, body(call, source, range).await?)
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

async fn body(call: &Call, source: Source, range: Range<u64>) -> Result<Body, OciError> {
    Ok(match source {
        Source::Stored(blob) => Body::from_stream(logged(call.app.content.blob_read(&blob, range).await?)),
        Source::Following(following) => Body::from_stream(following.stream(range).boxed()),
    })
}

fn logged(
    bytes: BoxStream<'static, Result<Bytes, StorageError>>,
) -> BoxStream<'static, Result<Bytes, StorageError>> {
    bytes
        .inspect_err(|error| tracing::error!(%error, "a blob could not be read"))
        .boxed()
}

/// Several ranges as `multipart/byteranges` (RFC 9110, 14.6). Each is opened when the one before it has been sent.
fn several(call: &Call, blob: Blob, parts: Vec<Range<u64>>) -> Result<Response, OciError> {
    let size = blob.size_bytes;
    // Random, so that nobody can store a blob that holds it.
    let boundary = Uuid::new_v4().simple().to_string();
    let heads: Vec<(Bytes, Range<u64>)> = parts
        .into_iter()
        .enumerate()
        .map(|(index, part)| {
            let line_break = if index == 0 { "" } else { "\r\n" };
            let range = content_range(&part, size);
            let head = format!(
                "{line_break}--{boundary}\r\nContent-Type: {BLOB_TYPE}\r\nContent-Range: {range}\r\n\r\n"
            );
            (head.into(), part)
        })
        .collect();
    let tail = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    let length = tail.len() as u64
        + heads
            .iter()
            .map(|(head, part)| head.len() as u64 + part.end - part.start)
            .sum::<u64>();
    let builder = builder(&blob.digest, StatusCode::PARTIAL_CONTENT, length)
        .header(CONTENT_TYPE, format!("multipart/byteranges; boundary={boundary}"));
    let state = (call.app.content.clone(), blob);
    let parts = stream::iter(heads)
        .scan(state, |(content, blob), (head, part)| {
            let (content, blob) = (content.clone(), blob.clone());
            std::future::ready(Some(read_part(content, blob, head, part)))
        })
        .then(|part| part)
        .try_flatten();
    let bytes = parts.chain(stream::once(std::future::ready(Ok(tail))));
    finish(builder, Body::from_stream(bytes.boxed()))
}

async fn read_part(
    content: Content,
    blob: Blob,
    head: Bytes,
    part: Range<u64>,
) -> Result<BoxStream<'static, Result<Bytes, ContentError>>, ContentError> {
    let bytes = logged(content.blob_read(&blob, part).await?).map_err(ContentError::from);
    Ok(stream::once(std::future::ready(Ok(head))).chain(bytes).boxed())
}

/// DELETE.
pub async fn delete(call: Call, name: &RepositoryName, digest: &Digest) -> Result<Response, OciError> {
    let access = call.change::<Delete>(name).await?;
    call.app.content.blob_delete(&access, digest).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}
