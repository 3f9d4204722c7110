//! Writes an upload while hashing it, on a thread of its own behind a bounded queue.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use oci::{Algorithm, Digest, Hasher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{StorageError, at, keys};

/// Pieces in flight between network and disk. With pieces of at most 1 MiB it bounds a writer to some megabytes.
const QUEUE: usize = 4;

#[derive(Debug)]
struct Job {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size_bytes: u64,
}

/// An open upload. Dropping it leaves the bytes written so far, unsynced and unacknowledged.
#[derive(Debug)]
pub struct UploadWriter {
    root: Arc<Path>,
    pieces: mpsc::Sender<Bytes>,
    written: watch::Receiver<u64>,
    worker: JoinHandle<Result<Job, StorageError>>,
}

/// Opens `path` at `offset`; see [`super::BlobStore::upload_open`].
pub(super) async fn open(root: Arc<Path>, path: PathBuf, offset: u64) -> Result<UploadWriter, StorageError> {
    let job = off_thread(move || Job::open(path, offset)).await?;
    let (pieces, mut queue) = mpsc::channel::<Bytes>(QUEUE);
    let (progress, written) = watch::channel(offset);
    let worker = tokio::task::spawn_blocking(move || {
        let mut job = job;
        while let Some(piece) = queue.blocking_recv() {
            job.take(&piece)?;
            progress.send_replace(job.size_bytes);
        }
        Ok(job)
    });
    Ok(UploadWriter {
        root,
        pieces,
        written,
        worker,
    })
}

impl UploadWriter {
    /// How many bytes can be read from the file, growing; it closes when the writing ends.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.clone()
    }

    /// Queues the next bytes.
    ///
    /// # Errors
    /// When an earlier piece could not be written.
    ///
    /// # Cancel safety
    /// A dropped call has either queued all of `bytes` or none.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        if self.pieces.send(bytes).await.is_ok() {
            return Ok(());
        }
        // The worker only stops taking pieces when it failed; its result says why.
        match join((&mut self.worker).await) {
            Err(error) => Err(error),
            Ok(job) => Err(at("write", &job.path)(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Makes all bytes durable and returns how many the upload has; it can be opened again there.
    ///
    /// # Errors
    /// When a piece could not be written or synced.
    pub async fn suspend(self) -> Result<u64, StorageError> {
        let job = self.drain().await?;
        off_thread(move || {
            job.file.sync_data().map_err(at("sync", &job.path))?;
            Ok(job.size_bytes)
        })
        .await
    }

    /// Ends the upload; nothing is visible before [`Written::commit`].
    ///
    /// # Errors
    /// When a piece could not be written.
    pub async fn finish(self) -> Result<Written, StorageError> {
        let root = self.root.clone();
        let job = self.drain().await?;
        let sha256 = job.hasher.clone().finish();
        Ok(Written { root, job, sha256 })
    }

    async fn drain(self) -> Result<Job, StorageError> {
        drop(self.pieces);
        join(self.worker.await)
    }
}

/// An upload whose bytes are all written and hashed.
pub struct Written {
    root: Arc<Path>,
    job: Job,
    sha256: Digest,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Written")
            .field("path", &self.job.path)
            .field("sha256", &self.sha256)
            .finish()
    }
}

impl Written {
    /// The number of bytes.
    pub fn size_bytes(&self) -> u64 {
        self.job.size_bytes
    }

    /// The SHA-256 digest of the bytes.
    pub fn sha256(&self) -> &Digest {
        &self.sha256
    }

    /// Whether the bytes have `digest`; algorithms other than SHA-256 cost another read.
    ///
    /// # Errors
    /// When the bytes cannot be read again.
    pub async fn has(&self, digest: &Digest) -> Result<bool, StorageError> {
        if digest.algorithm() == Algorithm::Sha256 {
            return Ok(*digest == self.sha256);
        }
        let path = self.job.path.clone();
        let mut hasher = Hasher::new(digest.algorithm());
        let actual = off_thread(move || {
            let mut file = File::open(&path).map_err(at("open", &path))?;
            hash(&mut file, &mut hasher, u64::MAX).map_err(at("read", &path))?;
            Ok(hasher.finish())
        })
        .await?;
        Ok(actual == *digest)
    }

    /// Makes the bytes durable under the name of `digest`, which the caller has found to be right. When it
    /// returns, they survive a power cut.
    ///
    /// # Errors
    /// When syncing or renaming fails; the upload is then still where it was.
    pub async fn commit(self, digest: &Digest) -> Result<(), StorageError> {
        let target = self.root.join(keys::blob(digest));
        off_thread(move || {
            let Job { file, path, .. } = self.job;
            file.sync_all().map_err(at("sync", &path))?;
            let directory = target.parent().unwrap_or(&self.root);
            std::fs::rename(&path, &target).map_err(at("rename", &path))?;
            sync_directory(directory)
        })
        .await
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|d| d.sync_all())
        .map_err(at("sync", path))
}

impl Job {
    fn open(path: PathBuf, offset: u64) -> Result<Self, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(offset == 0);
        let mut file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && offset > 0 => {
                return Err(StorageError::UploadLost(path));
            }
            Err(error) => return Err(at("open", &path)(error)),
        };
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let hashed = hash(&mut file, &mut hasher, offset).map_err(at("read", &path))?;
        if hashed < offset {
            return Err(StorageError::UploadLost(path));
        }
        file.set_len(offset).map_err(at("truncate", &path))?;
        file.seek(SeekFrom::Start(offset)).map_err(at("seek in", &path))?;
        Ok(Self {
            file,
            path,
            hasher,
            size_bytes: offset,
        })
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), StorageError> {
        self.file.write_all(piece).map_err(at("write", &self.path))?;
        self.hasher.update(piece);
        self.size_bytes += piece.len() as u64;
        Ok(())
    }
}

fn hash(file: &mut File, hasher: &mut Hasher, limit: u64) -> io::Result<u64> {
    let mut block = vec![0; if limit == 0 { 0 } else { 1 << 20 }];
    let mut left = limit;
    while left > 0 {
        let length = left.min(block.len() as u64) as usize;
        match file.read(&mut block[..length])? {
            0 => break,
            count => {
                hasher.update(&block[..count]);
                left -= count as u64;
            }
        }
    }
    Ok(limit - left)
}

fn join(outcome: Result<Result<Job, StorageError>, tokio::task::JoinError>) -> Result<Job, StorageError> {
    outcome.unwrap_or_else(|error| Err(at("write", Path::new(keys::UPLOADS))(io::Error::other(error))))
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(at("work on", Path::new(keys::UPLOADS))(io::Error::other(error))))
}
