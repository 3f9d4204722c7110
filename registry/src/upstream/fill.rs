//! Fills: one transfer per digest from upstream into storage, followed by any number of readers from byte 0.
//!
//! A fill belongs to the server and goes on when its readers leave. It resumes by range after a cut. Readers get the
//! last bytes only once the digest is right; otherwise they are cut off and nothing is kept.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use client::distribution::{BlobBody, ClientError};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use oci::{Digest, RepositoryName};
use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::content::ContentError;
use crate::db::Db;
use crate::storage::{BlobStore, Commit, Growing, ObjectKey, StorageError, UploadState, UploadWriter};

/// Attempts to go on after a cut before a fill is given up.
const ATTEMPTS: u32 = 5;
/// Pause before the first of them, doubling.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a fill cannot start.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The upstream does not give it.
    #[error(transparent)]
    Upstream(ClientError),
    /// Storage or database.
    #[error(transparent)]
    Content(ContentError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Filling,
    /// At this key.
    Stored(ObjectKey),
    Failed,
}

#[derive(Debug)]
struct Fill {
    size_bytes: u64,
    growing: Growing,
    outcome: watch::Receiver<Outcome>,
    /// Repositories to link the blob to once it is stored.
    repositories: Arc<Mutex<Vec<RepositoryName>>>,
}

type Slot = Arc<OnceCell<Arc<Fill>>>;

/// Fills under way, by digest.
#[derive(Debug)]
pub struct Fills {
    db: Db,
    blobs: BlobStore,
    tasks: TaskTracker,
    stopping: CancellationToken,
    running: Arc<Mutex<HashMap<Digest, Slot>>>,
}

impl Fills {
    /// No fills yet; `tasks` owns those to come and `stopping` ends them.
    pub fn new(db: Db, blobs: BlobStore, tasks: TaskTracker, stopping: CancellationToken) -> Self {
        Self {
            db,
            blobs,
            tasks,
            stopping,
            running: Arc::default(),
        }
    }

    /// Joins the fill of `digest`, starting it if there is none; `start` asks upstream for the bytes from an offset.
    ///
    /// # Errors
    /// When upstream does not give the blob, or it cannot be stored.
    pub async fn join<F>(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        start: F,
    ) -> Result<Following, FillError>
    where
        F: Fn(u64) -> BoxFuture<'static, Result<BlobBody, ClientError>> + Send + 'static,
    {
        let slot = self.lock().entry(digest.clone()).or_default().clone();
        let fill = slot.get_or_try_init(|| self.start(digest, &slot, start)).await;
        let fill = match fill {
            Ok(fill) => fill.clone(),
            Err(error) => {
                self.forget(digest, &slot);
                return Err(error);
            }
        };
        fill.repositories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(repository.clone());
        let outcome = fill.outcome.borrow().clone();
        if let Outcome::Stored(key) = outcome {
            // It ended between our look at the database and now; the list may have been worked off already.
            let linked = self
                .db
                .blob_commit(repository, digest, fill.size_bytes, key.as_str(), None)
                .await;
            linked.map_err(|error| FillError::Content(error.into()))?;
        }
        Ok(Following { fill })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Slot>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, digest: &Digest, slot: &Slot) {
        forget(&self.running, digest, slot);
    }

    async fn start<F>(&self, digest: &Digest, slot: &Slot, start: F) -> Result<Arc<Fill>, FillError>
    where
        F: Fn(u64) -> BoxFuture<'static, Result<BlobBody, ClientError>> + Send + 'static,
    {
        let body = start(0).await.map_err(FillError::Upstream)?;
        let id = Uuid::new_v4().to_string();
        let storage = |error: StorageError| FillError::Content(error.into());
        let state = UploadState::begin(digest.algorithm());
        let (writer, growing) = self.blobs.upload_follow(&id, state).await.map_err(storage)?;
        let (outcome_sender, outcome) = watch::channel(Outcome::Filling);
        let repositories = Arc::new(Mutex::new(Vec::new()));
        let fill = Arc::new(Fill {
            size_bytes: body.size_bytes,
            growing,
            outcome,
            repositories: repositories.clone(),
        });
        let work = Work {
            db: self.db.clone(),
            blobs: self.blobs.clone(),
            digest: digest.clone(),
            id,
            size_bytes: body.size_bytes,
            repositories,
        };
        let (stopping, running) = (self.stopping.clone(), self.running.clone());
        let (digest, slot) = (digest.clone(), slot.clone());
        self.tasks.spawn(async move {
            let id = work.id.clone();
            let blobs = work.blobs.clone();
            let progress = writer.progress();
            let result = tokio::select! {
                // A fill that is dropped leaves what it wrote, removed below.
                result = work.run(writer, body, start) => result,
                () = stopping.cancelled() => Err("the server is stopping".to_owned()),
            };
            let outcome = match result {
                Ok(key) => Outcome::Stored(key),
                Err(error) => {
                    tracing::warn!(%digest, error, "a fill of {digest} failed");
                    let reached = match progress {
                        Some(progress) => progress.borrow().clone(),
                        None => UploadState::begin(digest.algorithm()),
                    };
                    if let Err(error) = blobs.upload_discard(&id, &reached).await {
                        tracing::warn!(%error, "cannot remove the rest of a failed fill");
                    }
                    Outcome::Failed
                }
            };
            outcome_sender.send_replace(outcome);
            forget(&running, &digest, &slot);
        });
        Ok(fill)
    }
}

/// Takes a fill off the list, unless another one has taken its place.
fn forget(running: &Mutex<HashMap<Digest, Slot>>, digest: &Digest, slot: &Slot) {
    let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
    if running
        .get(digest)
        .is_some_and(|current| Arc::ptr_eq(current, slot))
    {
        running.remove(digest);
    }
}

struct Work {
    db: Db,
    blobs: BlobStore,
    digest: Digest,
    id: String,
    size_bytes: u64,
    repositories: Arc<Mutex<Vec<RepositoryName>>>,
}

impl Work {
    async fn run<F>(self, mut writer: UploadWriter, mut body: BlobBody, start: F) -> Result<ObjectKey, String>
    where
        F: Fn(u64) -> BoxFuture<'static, Result<BlobBody, ClientError>> + Send,
    {
        let mut received = 0;
        let mut attempts = 0;
        loop {
            match body.bytes.next().await {
                Some(Ok(piece)) => {
                    received += piece.len() as u64;
                    if received > self.size_bytes {
                        return Err(format!(
                            "upstream sent more than the {} bytes it announced",
                            self.size_bytes
                        ));
                    }
                    attempts = 0;
                    writer.write(piece).await.map_err(|e| e.to_string())?;
                }
                None if received == self.size_bytes => break,
                ended => {
                    attempts += 1;
                    let reason = match ended {
                        Some(Err(error)) => error.to_string(),
                        _ => format!("upstream ended after {received} of {} bytes", self.size_bytes),
                    };
                    if attempts > ATTEMPTS {
                        return Err(reason);
                    }
                    tracing::info!(digest = %self.digest, reason, "a fill was cut and goes on");
                    tokio::time::sleep(PAUSE * 2_u32.pow(attempts - 1)).await;
                    match start(received).await {
                        Ok(next) => body = next,
                        Err(error) if error.is_retryable() => body.bytes = stream::empty().boxed(),
                        Err(error) => return Err(error.to_string()),
                    }
                }
            }
        }
        let key = match writer.commit(&self.digest).await.map_err(|e| e.to_string())? {
            Commit::Stored { key, .. } => key,
            Commit::Mismatch { actual } => {
                return Err(format!("upstream sent content of digest {actual}"));
            }
        };
        self.link(key).await
    }

    /// Links the blob to every repository that it was wanted for, and returns where its bytes are to be found.
    async fn link(&self, key: ObjectKey) -> Result<ObjectKey, String> {
        let repositories = self
            .repositories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut stored_at = key.to_string();
        for repository in repositories {
            let linked = self
                .db
                .blob_commit(&repository, &self.digest, self.size_bytes, &stored_at, None)
                .await;
            stored_at = linked.map_err(|e| e.to_string())?;
        }
        if stored_at != key.as_str()
            && let Err(error) = self.blobs.delete(&self.digest, &key).await
        {
            tracing::warn!(%error, digest = %self.digest, "cannot remove the second copy of {}", self.digest);
        }
        stored_at
            .parse()
            .map_err(|_| format!("{stored_at} is not a storage key"))
    }
}

/// A reader of a fill.
#[derive(Debug)]
pub struct Following {
    fill: Arc<Fill>,
}

impl Following {
    /// Size of the whole blob in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.fill.size_bytes
    }

    /// Streams `range`, waiting for bytes that are still to come.
    pub fn stream(self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
        let fill = self.fill;
        let state = (range.start, fill.growing.written(), fill.outcome.clone());
        stream::try_unfold(state, move |(position, mut written, mut outcome)| {
            let (size, growing) = (fill.size_bytes, fill.growing.clone());
            async move {
                if position >= range.end {
                    return Ok(None);
                }
                let readable = loop {
                    let state = outcome.borrow_and_update().clone();
                    let there = *written.borrow_and_update();
                    match state {
                        Outcome::Stored(_) => break size,
                        Outcome::Failed => return Err(std::io::Error::other("the fill failed")),
                        // The last byte is held back until the digest is right.
                        Outcome::Filling if there.min(size.saturating_sub(1)) > position => {
                            break there.min(size.saturating_sub(1));
                        }
                        Outcome::Filling => {}
                    }
                    let decided = tokio::select! {
                        // Watching is cancel safe: a change that was missed is seen at the next look.
                        changed = written.changed() => match changed {
                            Ok(()) => Ok(()),
                            // The writing has ended; only the outcome is still to come.
                            Err(_) => outcome.changed().await,
                        },
                        changed = outcome.changed() => changed,
                    };
                    if decided.is_err() && *outcome.borrow() == Outcome::Filling {
                        return Err(std::io::Error::other("the fill was abandoned"));
                    }
                };
                let block = growing.read(position, readable.min(range.end)).await?;
                let position = position + block.len() as u64;
                Ok(Some((block, (position, written, outcome))))
            }
        })
        .boxed()
    }
}
