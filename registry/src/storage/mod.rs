//! Blob bytes: reading through object_store, writing durably, and where everything lies.
//!
//! Writing goes to `uploads/<id>` while hashing; commit syncs the file, renames it to its digest in the same file
//! system and syncs the directory, so that no byte is copied and an acknowledged blob survives a power cut.
//! object_store's local writer does not sync directories, which is why the writer is ours. Reading takes large
//! blocks off the async threads with one block of read-ahead: many small hops cost a multiple of the copy itself.

pub mod keys;
mod reader;
mod writer;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use oci::Digest;

pub use reader::{BlobStream, read_growing};
pub use writer::{UploadWriter, Written};

/// A failure of storage, naming the step and the subject.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A step on a path failed.
    #[error("{step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The object store failed.
    #[error("{step} {key}")]
    Store {
        /// What was tried.
        step: &'static str,
        /// On what.
        key: String,
        /// Why it failed.
        source: object_store::Error,
    },
    /// The database says that there is a blob but its bytes are missing.
    #[error("the bytes of {0} are missing from storage")]
    Missing(Digest),
    /// An upload's file is gone or shorter than what was acknowledged: the process died between the rename of a
    /// finished upload and its row.
    #[error("the bytes of the upload {0} are missing from storage")]
    UploadLost(PathBuf),
}

impl StorageError {
    /// Whether the disk is full, which the operator must solve and the client should be told.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Names the step and path of an I/O failure.
fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StorageError + 'a {
    move |source| StorageError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

/// Blob storage in a local directory, cheap to clone.
#[derive(Clone, Debug)]
pub struct BlobStore {
    root: Arc<Path>,
    objects: Arc<LocalFileSystem>,
}

impl BlobStore {
    /// Opens storage at `root`, creating the directories that are missing.
    ///
    /// # Errors
    /// When the directories cannot be created.
    pub fn open(root: &Path) -> Result<Self, StorageError> {
        // All of them now, so that committing a blob makes an entry in a directory that is durable already.
        for directory in keys::directories() {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).map_err(at("create", &path))?;
        }
        for directory in keys::parents() {
            writer::sync_directory(&root.join(directory))?;
        }
        let root = root.canonicalize().map_err(at("open", root))?;
        let objects = LocalFileSystem::new_with_prefix(&root).map_err(|source| StorageError::Store {
            step: "open",
            key: root.display().to_string(),
            source,
        })?;
        Ok(Self {
            root: root.into(),
            objects: Arc::new(objects),
        })
    }

    /// Streams `range` of a blob.
    ///
    /// # Errors
    /// [`StorageError::Missing`] when there are no such bytes.
    pub async fn read(&self, digest: &Digest, range: Range<u64>) -> Result<BlobStream, StorageError> {
        let key = keys::blob(digest);
        match self.objects.get(&key.as_str().into()).await {
            Ok(found) => Ok(reader::stream(found, range)),
            Err(object_store::Error::NotFound { .. }) => Err(StorageError::Missing(digest.clone())),
            Err(source) => Err(StorageError::Store {
                step: "read",
                key,
                source,
            }),
        }
    }

    /// The size of a blob's bytes; `None` when there are none.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, StorageError> {
        let key = keys::blob(digest);
        match self.objects.head(&key.as_str().into()).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StorageError::Store {
                step: "look up",
                key,
                source,
            }),
        }
    }

    /// Removes a blob's bytes; nothing happens when there are none.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn delete(&self, digest: &Digest) -> Result<(), StorageError> {
        let key = keys::blob(digest);
        match self.objects.delete(&key.as_str().into()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StorageError::Store {
                step: "delete",
                key,
                source,
            }),
        }
    }

    /// Opens the upload `id` for writing at `offset`, cutting off whatever lies behind it: bytes that were never
    /// acknowledged. Bytes before it are hashed again.
    ///
    /// # Errors
    /// When storage fails; [`StorageError::UploadLost`] when the upload is shorter than `offset`.
    pub async fn upload_open(&self, id: &str, offset: u64) -> Result<UploadWriter, StorageError> {
        let path = self.root.join(keys::upload(id));
        writer::open(self.root.clone(), path, offset).await
    }

    /// The path of a stored blob, for those who followed it while it grew.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(keys::blob(digest))
    }

    /// The path of a growing upload, for those who follow it.
    pub fn upload_path(&self, id: &str) -> PathBuf {
        self.root.join(keys::upload(id))
    }

    /// Throws away the bytes of an upload; nothing happens when there are none.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub async fn upload_discard(&self, id: &str) -> Result<(), StorageError> {
        let path = self.root.join(keys::upload(id));
        match tokio::fs::remove_file(&path).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StorageError::Io {
                step: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::TryStreamExt;

    use super::*;

    async fn all(mut stream: BlobStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(block) = stream.try_next().await.unwrap() {
            bytes.extend_from_slice(&block);
        }
        bytes
    }

    /// The promises of blob storage, on whatever `store` is.
    async fn keeps_its_promises(store: BlobStore) {
        let content: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let digest = Digest::sha256(&content);
        assert_eq!(store.size(&digest).await.unwrap(), None);
        assert!(matches!(
            store.read(&digest, 0..1).await,
            Err(StorageError::Missing(_))
        ));

        let mut writer = store.upload_open("u1", 0).await.unwrap();
        writer
            .write(Bytes::copy_from_slice(&content[..5_000_000]))
            .await
            .unwrap();
        assert_eq!(writer.suspend().await.unwrap(), 5_000_000);

        // Bytes behind the acknowledged offset are not part of the upload.
        let mut writer = store.upload_open("u1", 4_000_000).await.unwrap();
        writer
            .write(Bytes::copy_from_slice(&content[4_000_000..]))
            .await
            .unwrap();
        let written = writer.finish().await.unwrap();
        assert_eq!(
            (written.size_bytes(), written.sha256()),
            (content.len() as u64, &digest)
        );
        written.commit(&digest).await.unwrap();

        assert_eq!(store.size(&digest).await.unwrap(), Some(content.len() as u64));
        assert_eq!(
            all(store.read(&digest, 0..content.len() as u64).await.unwrap()).await,
            content
        );
        let range = 1_048_570..2_097_160;
        let part = all(store
            .read(&digest, range.start as u64..range.end as u64)
            .await
            .unwrap())
        .await;
        assert_eq!(part, content[range]);

        store.delete(&digest).await.unwrap();
        store.delete(&digest).await.unwrap();
        assert_eq!(store.size(&digest).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_directory_keeps_the_promises_of_storage() {
        let directory = tempfile::tempdir().unwrap();
        keeps_its_promises(BlobStore::open(directory.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn an_upload_shorter_than_its_offset_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let lost = store.upload_open("u", 1).await;
        assert!(matches!(lost, Err(StorageError::UploadLost(_))));
    }
}
