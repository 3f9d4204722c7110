//! Uploads in a local directory: written and hashed on a thread of their own behind a bounded queue, committed by a
//! rename in the same file system. object_store's local writer does not sync directories, which is why this is ours.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use oci::{Digest, Hasher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::reader::Growing;
use super::upload::{Commit, UploadState};
use super::{ObjectKey, StorageError, at, keys};

/// Pieces in flight between network and disk. With pieces of at most 1 MiB it bounds a writer to some megabytes.
const QUEUE: usize = 4;

#[derive(Debug)]
struct Job {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size_bytes: u64,
}

/// An open upload.
#[derive(Debug)]
pub(super) struct Writer {
    root: Arc<Path>,
    id: String,
    pieces: mpsc::Sender<Bytes>,
    worker: JoinHandle<Result<Job, StorageError>>,
}

/// Opens the upload `id` where `state` says, cutting off whatever lies behind; the second value is for those who
/// follow it.
pub(super) async fn open(
    root: Arc<Path>,
    id: &str,
    state: UploadState,
) -> Result<(Writer, Growing), StorageError> {
    let path = root.join(keys::upload(id));
    let offset = state.offset_bytes;
    let (job, shared) = off_thread(move || {
        let job = Job::open(path, state)?;
        let shared = job.file.try_clone().map_err(at("open", &job.path))?;
        Ok((job, shared))
    })
    .await?;
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
    let writer = Writer {
        root,
        id: id.to_owned(),
        pieces,
        worker,
    };
    Ok((writer, Growing::new(shared, written)))
}

impl Writer {
    /// See [`super::UploadWriter::write`].
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

    /// See [`super::UploadWriter::suspend`].
    pub async fn suspend(self) -> Result<UploadState, StorageError> {
        let job = self.drain().await?;
        off_thread(move || {
            job.file.sync_data().map_err(at("sync", &job.path))?;
            let mut state = UploadState::begin(job.hasher.algorithm());
            state.offset_bytes = job.size_bytes;
            state.hasher = job.hasher;
            Ok(state)
        })
        .await
    }

    /// See [`super::UploadWriter::commit`].
    pub async fn commit(self, digest: &Digest) -> Result<Commit, StorageError> {
        let (root, id) = (self.root.clone(), self.id.clone());
        let job = self.drain().await?;
        let digest = digest.clone();
        off_thread(move || {
            let size_bytes = job.size_bytes;
            let Job {
                file, path, hasher, ..
            } = job;
            let hasher = if hasher.algorithm() == digest.algorithm() {
                hasher
            } else {
                hash(&path, Hasher::new(digest.algorithm())).map_err(at("read", &path))?
            };
            let actual = hasher.finish();
            if actual != digest {
                std::fs::remove_file(&path).map_err(at("remove", &path))?;
                return Ok(Commit::Mismatch { actual });
            }
            let key = ObjectKey::file(&digest, &id);
            let target = root.join(key.as_str());
            file.sync_all().map_err(at("sync", &path))?;
            std::fs::rename(&path, &target).map_err(at("rename", &path))?;
            sync_directory(target.parent().unwrap_or(&root))?;
            Ok(Commit::Stored { key, size_bytes })
        })
        .await
    }

    async fn drain(self) -> Result<Job, StorageError> {
        drop(self.pieces);
        join(self.worker.await)
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|d| d.sync_all())
        .map_err(at("sync", path))
}

impl Job {
    fn open(path: PathBuf, state: UploadState) -> Result<Self, StorageError> {
        let offset = state.offset_bytes;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(offset == 0);
        let mut file = match options.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && offset > 0 => {
                return Err(StorageError::UploadLost(path.display().to_string()));
            }
            Err(error) => return Err(at("open", &path)(error)),
        };
        if file.metadata().map_err(at("look up", &path))?.len() < offset {
            return Err(StorageError::UploadLost(path.display().to_string()));
        }
        file.set_len(offset).map_err(at("truncate", &path))?;
        file.seek(SeekFrom::Start(offset)).map_err(at("seek in", &path))?;
        Ok(Self {
            file,
            path,
            hasher: state.hasher,
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

fn hash(path: &Path, mut hasher: Hasher) -> io::Result<Hasher> {
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hasher),
            count => hasher.update(&block[..count]),
        }
    }
}

fn join(outcome: Result<Result<Job, StorageError>, tokio::task::JoinError>) -> Result<Job, StorageError> {
    outcome.unwrap_or_else(|error| Err(at("write", Path::new(keys::UPLOADS))(io::Error::other(error))))
}

/// Runs `work` on a thread that may wait for the disk.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(at("work on", Path::new(keys::UPLOADS))(io::Error::other(error))))
}
