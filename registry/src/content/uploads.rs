//! Upload sessions (distribution-spec, Pushing blobs).
//!
//! A session is a row with the acknowledged offset and a file that is at least as long. One request at a time
//! writes to it. A chunk is synced before its offset is acknowledged; a cut connection keeps what has come in.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use oci::Digest;
use uuid::Uuid;

use super::{Content, ContentError};
use crate::auth::{Push, RepositoryAccess};
use crate::storage::{StorageError, UploadWriter, Written};

/// How long a client may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_secs(120);

/// The bytes of a request, with the length that it announced.
pub struct UploadBody {
    /// The bytes; an error means that the client went away.
    pub bytes: BoxStream<'static, Result<Bytes, ()>>,
    /// How many were announced, by Content-Length or Content-Range.
    pub length: Option<u64>,
    /// Where the chunk starts, by Content-Range; otherwise it goes on where the upload stands.
    pub start: Option<u64>,
}

impl std::fmt::Debug for UploadBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UploadBody")
            .field("length", &self.length)
            .field("start", &self.start)
            .finish()
    }
}

/// Held while a request writes to an upload.
struct Lease<'a> {
    content: &'a Content,
    id: &'a str,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.content
            .writing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(self.id);
    }
}

impl Content {
    fn lease<'a>(&'a self, id: &'a str) -> Result<Lease<'a>, ContentError> {
        let mut writing = self
            .writing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !writing.insert(id.to_owned()) {
            return Err(ContentError::UploadBusy(id.to_owned()));
        }
        Ok(Lease { content: self, id })
    }

    /// Begins an upload and returns its id.
    ///
    /// # Errors
    /// When storage or the database fails.
    pub async fn upload_start(&self, access: &RepositoryAccess<Push>) -> Result<String, ContentError> {
        let id = Uuid::new_v4().to_string();
        // Its file comes into being with the first chunk, since nothing of it is acknowledged yet.
        self.db.upload_create(&id, access.repository()).await?;
        Ok(id)
    }

    /// Where an upload stands.
    ///
    /// # Errors
    /// [`ContentError::UploadUnknown`] when the repository has no such upload.
    pub async fn upload_offset(
        &self,
        access: &RepositoryAccess<Push>,
        id: &str,
    ) -> Result<u64, ContentError> {
        match self.db.upload_get(access.repository(), id).await? {
            Some(row) => Ok(row.offset_bytes.unsigned_abs()),
            None => Err(ContentError::UploadUnknown(id.to_owned())),
        }
    }

    /// Appends a chunk and returns where the upload stands then.
    ///
    /// # Errors
    /// [`ContentError::UploadOffset`] when the chunk starts elsewhere (nothing is written then),
    /// [`ContentError::UploadCut`] or [`ContentError::SizeMismatch`] when it is shorter than announced (what came
    /// is kept).
    ///
    /// # Cancel safety
    /// Not cancel safe: what is still queued for the disk would meet the next chunk. Callers run it in a task of
    /// the server, as [`Self::upload_finish`].
    pub async fn upload_append(
        &self,
        access: &RepositoryAccess<Push>,
        id: &str,
        body: UploadBody,
    ) -> Result<u64, ContentError> {
        let _lease = self.lease(id)?;
        let offset = self.upload_offset(access, id).await?;
        let (writer, outcome) = self.receive(id, offset, body).await?;
        let offset = writer.suspend().await?;
        self.db.upload_advance(id, offset).await?;
        outcome.map(|()| offset)
    }

    /// Appends the last chunk, which may be empty, checks the digest and links the blob.
    ///
    /// # Errors
    /// As [`Self::upload_append`]; [`ContentError::DigestMismatch`] ends the upload and leaves nothing. When the
    /// upload has ended and the repository links the digest, a retried request succeeds again.
    pub async fn upload_finish(
        &self,
        access: &RepositoryAccess<Push>,
        id: &str,
        digest: &Digest,
        body: UploadBody,
    ) -> Result<(), ContentError> {
        let _lease = self.lease(id)?;
        let offset = match self.upload_offset(access, id).await {
            Err(ContentError::UploadUnknown(_)) if self.is_linked(access, digest).await? => return Ok(()),
            offset => offset?,
        };
        let (writer, outcome) = self.receive(id, offset, body).await?;
        if let Err(error) = outcome {
            let offset = writer.suspend().await?;
            self.db.upload_advance(id, offset).await?;
            return Err(error);
        }
        let written = writer.finish().await?;
        self.commit(access, id, digest, written).await
    }

    async fn is_linked(
        &self,
        access: &RepositoryAccess<Push>,
        digest: &Digest,
    ) -> Result<bool, ContentError> {
        Ok(self.db.blob_linked(access.repository(), digest).await?.is_some())
    }

    async fn commit(
        &self,
        access: &RepositoryAccess<Push>,
        id: &str,
        digest: &Digest,
        written: Written,
    ) -> Result<(), ContentError> {
        if !written.has(digest).await? {
            let actual = written.sha256().clone();
            self.discard(id).await?;
            return Err(ContentError::DigestMismatch {
                expected: digest.clone(),
                actual,
            });
        }
        let size_bytes = written.size_bytes();
        written.commit(digest).await?;
        Ok(self
            .db
            .blob_commit(access.repository(), digest, size_bytes, Some(id))
            .await?)
    }

    /// Ends an upload without a blob.
    ///
    /// # Errors
    /// [`ContentError::UploadUnknown`] when the repository has no such upload.
    pub async fn upload_cancel(&self, access: &RepositoryAccess<Push>, id: &str) -> Result<(), ContentError> {
        let _lease = self.lease(id)?;
        self.upload_offset(access, id).await?;
        self.discard(id).await
    }

    async fn discard(&self, id: &str) -> Result<(), ContentError> {
        self.db.upload_delete(id).await?;
        Ok(self.blobs.upload_discard(id).await?)
    }

    /// Ends uploads that nobody has touched since `before_ms`; returns how many.
    ///
    /// # Errors
    /// When storage or the database fails; those ended until then stay ended.
    pub async fn upload_expire(&self, before_ms: i64) -> Result<usize, ContentError> {
        let mut count = 0;
        for id in self.db.upload_stale(before_ms).await? {
            if let Ok(_lease) = self.lease(&id) {
                self.discard(&id).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Writes a body; how the body ended is returned beside the writer, which has all that came.
    async fn receive(
        &self,
        id: &str,
        offset: u64,
        mut body: UploadBody,
    ) -> Result<(UploadWriter, Result<(), ContentError>), ContentError> {
        if let Some(start) = body.start
            && start != offset
        {
            return Err(ContentError::UploadOffset { start, offset });
        }
        let mut writer = match self.blobs.upload_open(id, offset).await {
            Ok(writer) => writer,
            Err(StorageError::UploadLost(path)) => {
                // Nothing can go on from here, and the client can begin anew.
                tracing::warn!(upload_id = id, path = %path.display(), "upload {id} has lost its bytes and ends");
                self.discard(id).await?;
                return Err(ContentError::UploadUnknown(id.to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        let mut actual = 0;
        // Small frames are gathered, so that each hop to the writing thread carries a fair piece.
        let mut pieces = gather(&mut body.bytes);
        let outcome = loop {
            // A client that has gone silent must not keep others from going on with the upload.
            let next = tokio::time::timeout(SILENCE, pieces.try_next()).await;
            match next.unwrap_or(Err(())) {
                Ok(Some(piece)) => {
                    actual += piece.len() as u64;
                    if let Some(expected) = body.length
                        && actual > expected
                    {
                        break Err(ContentError::SizeMismatch { expected, actual });
                    }
                    writer.write(piece).await?;
                }
                Ok(None) => match body.length {
                    Some(expected) if actual < expected => {
                        break Err(ContentError::SizeMismatch { expected, actual });
                    }
                    _ => break Ok(()),
                },
                Err(()) => break Err(ContentError::UploadCut(offset + actual)),
            }
        };
        drop(pieces);
        Ok((writer, outcome))
    }
}

/// Joins the frames that are ready at once.
fn gather<'a>(bytes: &'a mut BoxStream<'static, Result<Bytes, ()>>) -> BoxStream<'a, Result<Bytes, ()>> {
    const FRAMES: usize = 64;
    bytes
        .ready_chunks(FRAMES)
        .map(|frames| {
            let mut frames = frames.into_iter();
            let Some(first) = frames.next() else {
                return Ok(Bytes::new());
            };
            let first = first?;
            if frames.len() == 0 {
                return Ok(first);
            }
            let mut joined = Vec::from(first);
            for frame in frames {
                joined.extend_from_slice(&frame?);
            }
            Ok(joined.into())
        })
        .boxed()
}
