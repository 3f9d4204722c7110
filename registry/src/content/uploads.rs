//! Upload sessions (distribution-spec, Pushing blobs).
//!
//! A session is a row with all that any process needs to go on: the acknowledged offset, the hasher that has taken in
//! as much, and what storage remembers. One request at a time writes to it, in this process and, where the database is
//! shared, in all of them. What is acknowledged is durable; a cut connection keeps what has come in.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use oci::{Algorithm, Digest, RepositoryName};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Content, ContentError};
use crate::auth::{Push, RepositoryAccess};
use crate::db::{Db, DbError, UploadLease, UploadRow, UploadStanding, now_ms};
use crate::storage::{BlobStore, Commit, StorageError, UploadState, UploadWriter};

/// How long a client may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a process that has died keeps others from an upload, and clocks may differ at most.
const LEASE_MS: i64 = 30_000;
/// How often a lease is renewed, and what has become durable meanwhile is saved.
const HEARTBEAT: Duration = Duration::from_secs(7);

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

/// Held while a request of this process writes to an upload.
#[derive(Debug)]
struct Local {
    content: Content,
    id: String,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.content
            .writing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(&self.id);
    }
}

/// One request's hold on an upload. It must be ended by [`Self::save`] or with the upload itself; otherwise other
/// processes wait until the lease runs out.
#[derive(Debug)]
struct Session {
    local: Local,
    /// Empty where the database is not shared.
    owner: String,
    state: UploadState,
}

impl Content {
    fn local(&self, id: &str) -> Result<Local, ContentError> {
        let mut writing = self
            .writing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !writing.insert(id.to_owned()) {
            return Err(ContentError::UploadBusy(id.to_owned()));
        }
        Ok(Local {
            content: self.clone(),
            id: id.to_owned(),
        })
    }

    /// Takes hold of an upload, of any repository when none is given.
    async fn session(&self, repository: Option<&RepositoryName>, id: &str) -> Result<Session, ContentError> {
        let local = self.local(id)?;
        let unknown = || ContentError::UploadUnknown(id.to_owned());
        // A database of our own needs no lease, which would be one more write that waits for the disk.
        let (owner, row) = match repository {
            Some(repository) if !self.db.is_shared() => {
                let row = self.db.upload_get(repository, id).await?;
                (String::new(), row.ok_or_else(unknown)?)
            }
            _ => {
                let owner = match self.db.is_shared() {
                    true => Uuid::new_v4().to_string(),
                    false => String::new(),
                };
                let until_ms = now_ms() + LEASE_MS;
                match self.db.upload_lease(repository, id, &owner, until_ms).await? {
                    UploadLease::Held(row) => (owner, row),
                    UploadLease::Busy => return Err(ContentError::UploadBusy(id.to_owned())),
                    UploadLease::Unknown => return Err(unknown()),
                }
            }
        };
        Ok(Session {
            local,
            owner,
            state: restore(&row)?,
        })
    }

    /// Begins an upload, to be hashed with `algorithm`, and returns its id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn upload_start(
        &self,
        access: &RepositoryAccess<Push>,
        algorithm: Algorithm,
    ) -> Result<String, ContentError> {
        let id = Uuid::new_v4().to_string();
        // Storage learns of it with the first chunk, since nothing of it is acknowledged yet.
        let state = UploadState::begin(algorithm);
        let (hash_state, place) = (state.hasher.save(), state.place());
        let standing = standing(&state, &hash_state, &place);
        self.db
            .upload_create(&id, access.repository(), algorithm, &standing)
            .await?;
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
    /// [`ContentError::UploadBusy`] when another request writes to it, [`ContentError::UploadCut`] or
    /// [`ContentError::SizeMismatch`] when it is shorter than announced (what came is kept).
    ///
    /// # Cancel safety
    /// Not cancel safe: what is still queued for storage would meet the next chunk. Callers run it in a task of the
    /// server, as [`Self::upload_finish`].
    pub async fn upload_append(
        &self,
        access: &RepositoryAccess<Push>,
        id: &str,
        body: UploadBody,
    ) -> Result<u64, ContentError> {
        let session = self.session(Some(access.repository()), id).await?;
        let (session, writer, heartbeat) = session.open(body.start).await?;
        let (writer, outcome) = receive(writer, session.state.offset_bytes, body).await;
        session.suspend(writer, heartbeat, outcome).await
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
        let mut session = match self.session(Some(access.repository()), id).await {
            Err(ContentError::UploadUnknown(_)) if self.is_linked(access, digest).await? => return Ok(()),
            session => session?,
        };
        // Nothing was hashed yet, and now we know with what.
        session.state.hash_with(digest.algorithm());
        let (session, writer, heartbeat) = session.open(body.start).await?;
        let (writer, outcome) = receive(writer, session.state.offset_bytes, body).await;
        if outcome.is_err() {
            return session.suspend(writer, heartbeat, outcome).await.map(drop);
        }
        let progress = writer.progress();
        let committed = writer.commit(digest).await;
        heartbeat.stop().await;
        match committed {
            Ok(Commit::Stored { key, size_bytes }) => {
                // Should this fail it is not known whether the row is there, so the bytes stay: collection finds
                // those that nothing names.
                let stored_at = self
                    .db
                    .blob_commit(access.repository(), digest, size_bytes, key.as_str(), Some(id))
                    .await?;
                if stored_at != key.as_str()
                    && let Err(error) = self.blobs.delete(digest, &key).await
                {
                    tracing::warn!(%error, %digest, "cannot remove the second copy of {digest}");
                }
                Ok(())
            }
            Ok(Commit::Mismatch { actual }) => {
                self.db.upload_delete(id).await?;
                Err(ContentError::DigestMismatch {
                    expected: digest.clone(),
                    actual,
                })
            }
            Err(error) => Err(session.give_back(progress, error).await),
        }
    }

    async fn is_linked(
        &self,
        access: &RepositoryAccess<Push>,
        digest: &Digest,
    ) -> Result<bool, ContentError> {
        Ok(self.db.blob_linked(access.repository(), digest).await?.is_some())
    }

    /// Ends an upload without a blob.
    ///
    /// # Errors
    /// [`ContentError::UploadUnknown`] when the repository has no such upload.
    pub async fn upload_cancel(&self, access: &RepositoryAccess<Push>, id: &str) -> Result<(), ContentError> {
        self.session(Some(access.repository()), id).await?.discard().await
    }

    /// Ends uploads that nobody has touched since `before_ms`; returns how many.
    ///
    /// # Errors
    /// When storage or the database fails; those ended until then stay ended.
    pub async fn upload_expire(&self, before_ms: i64) -> Result<usize, ContentError> {
        let mut count = 0;
        for id in self.db.upload_stale(before_ms).await? {
            match self.session(None, &id).await {
                Ok(session) => {
                    session.discard().await?;
                    count += 1;
                }
                Err(ContentError::UploadBusy(_) | ContentError::UploadUnknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}

impl Session {
    fn db(&self) -> &Db {
        &self.local.content.db
    }

    /// Opens it for writing; a chunk that starts elsewhere ends the session.
    async fn open(self, start: Option<u64>) -> Result<(Self, UploadWriter, Heartbeat), ContentError> {
        let offset = self.state.offset_bytes;
        if let Some(start) = start
            && start != offset
        {
            self.save(None).await?;
            return Err(ContentError::UploadOffset { start, offset });
        }
        let blobs = &self.local.content.blobs;
        match blobs.upload_open(&self.local.id, self.state.clone()).await {
            Ok(writer) => {
                let heartbeat = Heartbeat::start(&self, writer.progress());
                Ok((self, writer, heartbeat))
            }
            Err(error) => Err(self.give_back(None, error).await),
        }
    }

    /// Keeps what has come, and says where the upload stands or how the chunk ended.
    async fn suspend(
        self,
        writer: UploadWriter,
        heartbeat: Heartbeat,
        outcome: Result<(), ContentError>,
    ) -> Result<u64, ContentError> {
        let progress = writer.progress();
        let (suspended, outcome) = match outcome {
            Err(ContentError::Storage(error)) => (Err(error), Ok(())),
            outcome => (writer.suspend().await, outcome),
        };
        heartbeat.stop().await;
        match suspended {
            Ok(state) => {
                self.save(Some(&state)).await?;
                outcome.map(|()| state.offset_bytes)
            }
            Err(error) => Err(self.give_back(progress, error).await),
        }
    }

    /// Ends the session after a failure of storage, with what has become durable until then.
    async fn give_back(
        self,
        progress: Option<watch::Receiver<UploadState>>,
        error: StorageError,
    ) -> ContentError {
        let id = self.local.id.clone();
        if let StorageError::UploadLost(at) = &error {
            // Nothing can go on from here, and the client can begin anew.
            tracing::warn!(upload_id = id, at, "upload {id} has lost its bytes and ends");
            return match self.discard().await {
                Ok(()) => ContentError::UploadUnknown(id),
                Err(error) => error,
            };
        }
        let state = progress.map(|progress| progress.borrow().clone());
        if let Err(error) = self.save(state.as_ref()).await {
            tracing::warn!(%error, upload_id = id, "cannot save where upload {id} stands");
        }
        error.into()
    }

    /// Ends the session, and says where the upload stands if that has changed.
    async fn save(self, state: Option<&UploadState>) -> Result<(), ContentError> {
        let content = &self.local.content;
        let id = &self.local.id;
        if state.is_none() && self.owner.is_empty() {
            return Ok(());
        }
        if !save(self.db(), id, &self.owner, 0, state).await? {
            // Another process found our lease run out, and goes on from what had been saved.
            return Err(ContentError::UploadBusy(id.clone()));
        }
        if let Some(key) = state.and_then(|state| self.state.superseded(state)) {
            supersede(&content.blobs, &key).await;
        }
        Ok(())
    }

    /// Ends the upload. Its bytes first: the row says where they are, and this can be tried again.
    async fn discard(self) -> Result<(), ContentError> {
        let content = &self.local.content;
        content.blobs.upload_discard(&self.local.id, &self.state).await?;
        content.db.upload_delete(&self.local.id).await?;
        Ok(())
    }
}

/// Renews the lease of a session and saves its progress while a request writes to it.
#[derive(Debug)]
struct Heartbeat {
    stopping: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Heartbeat {
    fn start(session: &Session, progress: Option<watch::Receiver<UploadState>>) -> Self {
        let stopping = CancellationToken::new();
        if session.owner.is_empty() && progress.is_none() {
            // Nobody to tell.
            return Self { stopping, task: None };
        }
        let content = session.local.content.clone();
        let (id, owner) = (session.local.id.clone(), session.owner.clone());
        let opened = session.state.clone();
        let stop = stopping.clone();
        let task = tokio::spawn(async move {
            let mut progress = progress;
            loop {
                // Cancel safe: nothing is held between two beats.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(HEARTBEAT) => {}
                }
                let changed = progress
                    .as_mut()
                    .filter(|progress| progress.has_changed().unwrap_or(false))
                    .map(|progress| progress.borrow_and_update().clone());
                let until_ms = match owner.is_empty() {
                    true => 0,
                    false => now_ms() + LEASE_MS,
                };
                match save(&content.db, &id, &owner, until_ms, changed.as_ref()).await {
                    Ok(true) => {
                        if let Some(key) = changed.and_then(|state| opened.superseded(&state)) {
                            supersede(&content.blobs, &key).await;
                        }
                    }
                    // What the request saves at its end will be refused.
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!(%error, upload_id = id, "cannot renew the lease of upload {id}")
                    }
                }
            }
        });
        Self {
            stopping,
            task: Some(task),
        }
    }

    /// Lets it end, so that it does not write after what the request itself writes.
    async fn stop(mut self) {
        self.stopping.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "a heartbeat failed");
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

fn restore(row: &UploadRow) -> Result<UploadState, ContentError> {
    let algorithm = DbError::parse("digest algorithm", &row.algorithm)?;
    let offset = row.offset_bytes.unsigned_abs();
    let state = UploadState::restore(offset, algorithm, &row.hash_state, &row.storage_place);
    state.ok_or_else(|| {
        let (what, value) = ("state of an upload", row.storage_place.clone());
        DbError::Corrupt { what, value }.into()
    })
}

fn standing<'a>(state: &UploadState, hash_state: &'a [u8], storage_place: &'a str) -> UploadStanding<'a> {
    UploadStanding {
        offset_bytes: state.offset_bytes,
        hash_state,
        storage_place,
    }
}

async fn save(
    db: &Db,
    id: &str,
    owner: &str,
    until_ms: i64,
    state: Option<&UploadState>,
) -> Result<bool, DbError> {
    let Some(state) = state else {
        return db.upload_save(id, owner, until_ms, None).await;
    };
    let (algorithm, hash_state, place) = (state.hasher.algorithm(), state.hasher.save(), state.place());
    let standing = standing(state, &hash_state, &place);
    db.upload_save(id, owner, until_ms, Some((algorithm, &standing)))
        .await
}

async fn supersede(blobs: &BlobStore, key: &crate::storage::ObjectKey) {
    if let Err(error) = blobs.upload_supersede(key).await {
        tracing::warn!(%error, %key, "cannot remove {key}, which an upload no longer needs");
    }
}

/// Writes a body, and says how it ended; the writer has all that came unless storage failed.
async fn receive(
    mut writer: UploadWriter,
    offset: u64,
    mut body: UploadBody,
) -> (UploadWriter, Result<(), ContentError>) {
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
                if let Err(error) = writer.write(piece).await {
                    break Err(error.into());
                }
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
    (writer, outcome)
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
