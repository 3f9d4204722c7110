//! Uploads over HTTP (distribution-spec, Pushing blobs; end-4a to end-6, end-11, end-13).

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use oci::{Algorithm, Digest, ErrorCode, RepositoryName};

use super::range::parse_content_range;
use super::{Call, OciError};
use crate::auth::{Push, RepositoryAccess};
use crate::content::{ContentError, UploadBody};

/// The most repositories that are tried for a mount without a source; behind them the client uploads.
const HOLDERS_MAX: usize = 200;

/// Always relative to the host: proxies in front of us change scheme and port.
fn location(name: &RepositoryName, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// `0-LAST`, without a unit. An empty upload is `0-0` too, since clients refuse an end before the start.
fn standing(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn progress(status: StatusCode, name: &RepositoryName, id: &str, offset: u64) -> Response {
    let headers = [
        (LOCATION.as_str(), location(name, id)),
        (RANGE.as_str(), standing(offset)),
        ("docker-upload-uuid", id.to_owned()),
        // `0-0` is one byte or none; this tells.
        ("pierhead-upload-offset", offset.to_string()),
    ];
    (status, headers).into_response()
}

fn created(name: &RepositoryName, digest: &Digest) -> Response {
    let headers = [
        (LOCATION.as_str(), format!("/v2/{name}/blobs/{digest}")),
        ("docker-content-digest", digest.to_string()),
    ];
    (StatusCode::CREATED, headers).into_response()
}

fn digest(call: &Call) -> Result<Digest, OciError> {
    let text = call.query("digest").ok_or_else(|| {
        OciError::new(
            ErrorCode::DigestInvalid,
            "the query parameter digest is missing; it says what the blob is",
        )
    })?;
    parse_digest(text)
}

fn parse_digest(text: &str) -> Result<Digest, OciError> {
    text.parse()
        .map_err(|error: oci::digest::DigestError| OciError::new(ErrorCode::DigestInvalid, error.to_string()))
}

/// The algorithm that the client will name the blob by, where it says so when it begins.
fn algorithm(call: &Call) -> Result<Algorithm, OciError> {
    match call.query("digest-algorithm") {
        None => Ok(Algorithm::Sha256),
        Some(text) => text.parse().map_err(|error: oci::digest::DigestError| {
            OciError::new(ErrorCode::DigestInvalid, error.to_string())
        }),
    }
}

/// Links the blob from the repository that the client names, or from any that it may pull from where it names none.
/// `false` whatever stands in the way, since the client may still upload.
async fn mount(call: &Call, to: &RepositoryAccess<Push>, digest: &Digest) -> Result<bool, OciError> {
    let sources = match call.query("from") {
        Some(from) => from.parse().into_iter().collect(),
        None => call.app.content.blob_holders(digest, "", HOLDERS_MAX).await?,
    };
    for from in sources {
        if let Ok(from) = call.app.auth.mount_source(&call.caller, &from).await
            && call.app.content.blob_mount(&from, to, digest).await?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The body of a request, with what its headers announce.
fn announced(call: &Call, body: Body) -> Result<UploadBody, OciError> {
    let length = match call.header(CONTENT_LENGTH) {
        Some(text) => Some(
            text.parse::<u64>()
                .map_err(|_| OciError::new(ErrorCode::SizeInvalid, "Content-Length is not a number"))?,
        ),
        None => None,
    };
    let range = match call.header(CONTENT_RANGE) {
        Some(text) => Some(parse_content_range(text).ok_or_else(|| {
            let text = format!("Content-Range {text:?} is malformed; write START-END, both inclusive");
            OciError::new(ErrorCode::BlobUploadInvalid, text)
        })?),
        None => None,
    };
    let ranged = range.as_ref().map(|r| r.end - r.start);
    if let (Some(length), Some(ranged)) = (length, ranged)
        && length != ranged
    {
        let text = format!("Content-Length is {length} but Content-Range spans {ranged} bytes");
        return Err(OciError::new(ErrorCode::SizeInvalid, text));
    }
    let stream = body.into_data_stream();
    Ok(UploadBody {
        bytes: stream.map_err(drop).boxed(),
        length: length.or(ranged),
        start: range.map(|r| r.start),
    })
}

/// Runs `work` as a task of the server. A client that leaves drops the future of its request wherever that waits;
/// the bytes that came must be acknowledged all the same, and no rename may stay without its row.
async fn detached<T: Send + 'static>(
    call: &Call,
    work: impl Future<Output = Result<T, ContentError>> + Send + 'static,
) -> Result<T, ContentError> {
    call.app
        .tasks
        .spawn(work)
        .await
        .unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending, and the client will not read this.
            Err(_) => Err(ContentError::UploadCut(0)),
        })
}

/// Errors of an upload that goes on tell where it stands, since clients recover from that.
async fn recoverable(
    call: &Call,
    access: &RepositoryAccess<Push>,
    id: &str,
    error: ContentError,
) -> OciError {
    let is_recoverable = matches!(
        error,
        ContentError::UploadOffset { .. }
            | ContentError::SizeMismatch { .. }
            | ContentError::UploadCut(_)
            | ContentError::UploadBusy(_)
    );
    let response = OciError::from(error);
    match call.app.content.upload_offset(access, id).await {
        Ok(offset) if is_recoverable => response.with_upload(&location(access.repository(), id), offset),
        _ => response,
    }
}

/// POST: mounts, or takes the whole blob, or begins an upload.
pub async fn start(call: Call, body: Body, name: &RepositoryName) -> Result<Response, OciError> {
    let access = call.change::<Push>(name).await?;
    if let Some(text) = call.query("mount") {
        let digest = parse_digest(text)?;
        if mount(&call, &access, &digest).await? {
            return Ok(created(name, &digest));
        }
    }
    let whole = call
        .query("digest")
        .is_some()
        .then(|| digest(&call))
        .transpose()?;
    let algorithm = match &whole {
        Some(digest) => digest.algorithm(),
        None => algorithm(&call)?,
    };
    let id = call.app.content.upload_start(&access, algorithm).await?;
    if let Some(digest) = whole {
        let body = announced(&call, body)?;
        let (content, wanted) = (call.app.content.clone(), digest.clone());
        detached(&call, async move {
            content.upload_finish(&access, &id, &wanted, body).await
        })
        .await?;
        return Ok(created(name, &digest));
    }
    Ok(progress(StatusCode::ACCEPTED, name, &id, 0))
}

/// GET: where the upload stands.
pub async fn status(call: Call, name: &RepositoryName, id: &str) -> Result<Response, OciError> {
    let access = call.change::<Push>(name).await?;
    let offset = call.app.content.upload_offset(&access, id).await?;
    Ok(progress(StatusCode::NO_CONTENT, name, id, offset))
}

/// PATCH: the next chunk.
pub async fn append(call: Call, body: Body, name: &RepositoryName, id: &str) -> Result<Response, OciError> {
    let access = Arc::new(call.change::<Push>(name).await?);
    let body = announced(&call, body)?;
    let (content, proof, upload) = (call.app.content.clone(), access.clone(), id.to_owned());
    match detached(&call, async move {
        content.upload_append(&proof, &upload, body).await
    })
    .await
    {
        Ok(offset) => Ok(progress(StatusCode::ACCEPTED, name, id, offset)),
        Err(error) => Err(recoverable(&call, &access, id, error).await),
    }
}

/// PUT: the last chunk, if any, and the digest.
pub async fn finish(call: Call, body: Body, name: &RepositoryName, id: &str) -> Result<Response, OciError> {
    let access = Arc::new(call.change::<Push>(name).await?);
    let digest = digest(&call)?;
    let body = announced(&call, body)?;
    let (content, proof, upload, wanted) = (
        call.app.content.clone(),
        access.clone(),
        id.to_owned(),
        digest.clone(),
    );
    match detached(&call, async move {
        content.upload_finish(&proof, &upload, &wanted, body).await
    })
    .await
    {
        Ok(()) => Ok(created(name, &digest)),
        Err(error) => Err(recoverable(&call, &access, id, error).await),
    }
}

/// DELETE: ends the upload.
pub async fn cancel(call: Call, name: &RepositoryName, id: &str) -> Result<Response, OciError> {
    let access = call.change::<Push>(name).await?;
    call.app.content.upload_cancel(&access, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
