//! Blob bytes: where they lie, reading them, and writing them durably.
//!
//! Storage is a local directory or an object store (S3, GCS, Azure, memory). An upload is hashed on its way to its
//! final place, and commit copies no byte: in a directory it is a rename in the same file system, in a store the last
//! step of a multipart transfer. All that is needed to go on with an upload is its [`UploadState`], so that any
//! process can. Reading takes large blocks off the async threads with one block of read-ahead: many small hops cost a
//! multiple of the copy itself.

mod backend;
mod cloud;
mod directory;
#[cfg(test)]
mod faults;
pub mod keys;
#[cfg(test)]
mod promises;
mod reader;
mod upload;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use oci::Digest;
use url::Url;

use cloud::{Cloud, failed};
use upload::Inner;

pub use backend::Location;
pub use keys::ObjectKey;
pub use reader::{BlobStream, Growing};
pub use upload::{Commit, UploadState, UploadWriter};

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
    #[error("the bytes at {0} are missing from storage")]
    Missing(String),
    /// What was acknowledged of an upload is gone: the process died between the commit of a finished upload and its
    /// row.
    #[error("the bytes of an upload are missing from storage at {0}")]
    UploadLost(String),
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

/// A blob that storage says was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// Under this digest; nobody has checked it since.
    pub digest: Digest,
    /// Where its bytes are.
    pub key: ObjectKey,
    /// How many.
    pub size_bytes: u64,
}

/// Blob storage, cheap to clone.
#[derive(Clone, Debug)]
pub struct BlobStore {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Directory {
        root: Arc<Path>,
        objects: Arc<LocalFileSystem>,
    },
    Cloud(Arc<Cloud>),
}

impl BlobStore {
    /// Opens storage at `location`. A directory gets the directories that it lacks; `spool` is a local directory
    /// that uploads to an object store go through, made when it is needed.
    ///
    /// # Errors
    /// When a directory cannot be created, or the location's options do not fit together.
    pub fn open(location: &Location, spool: &Path) -> Result<Self, StorageError> {
        let backend = match location.as_directory() {
            Some(root) => Self::open_directory(root)?,
            None => {
                std::fs::create_dir_all(spool).map_err(at("create", spool))?;
                Backend::Cloud(Arc::new(location.client(spool.to_owned())?))
            }
        };
        Ok(Self { backend })
    }

    fn open_directory(root: &Path) -> Result<Backend, StorageError> {
        // All of them now, so that committing a blob makes an entry in a directory that is durable already.
        for directory in keys::directories() {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).map_err(at("create", &path))?;
        }
        for directory in keys::parents() {
            directory::sync_directory(&root.join(directory))?;
        }
        let root = root.canonicalize().map_err(at("open", root))?;
        let objects = LocalFileSystem::new_with_prefix(&root);
        let objects = objects.map_err(failed("open", &root.display().to_string()))?;
        Ok(Backend::Directory {
            root: root.into(),
            objects: Arc::new(objects),
        })
    }

    fn object(&self, key: &ObjectKey) -> (&dyn ObjectStore, object_store::path::Path) {
        match &self.backend {
            Backend::Directory { objects, .. } => (objects.as_ref(), key.as_str().into()),
            Backend::Cloud(cloud) => (cloud.objects.as_ref(), cloud.path(key.as_str())),
        }
    }

    /// Streams `range` of a blob of `size_bytes`.
    ///
    /// # Errors
    /// [`StorageError::Missing`] when there are no such bytes.
    pub async fn read(
        &self,
        key: &ObjectKey,
        size_bytes: u64,
        range: Range<u64>,
    ) -> Result<BlobStream, StorageError> {
        match &self.backend {
            Backend::Directory { root, .. } => reader::file(root.join(key.as_str()), range).await,
            Backend::Cloud(cloud) => {
                let path = cloud.path(key.as_str());
                reader::ranged(cloud.objects.as_ref(), path, size_bytes, range).await
            }
        }
    }

    /// The size of a blob's bytes; `None` when there are none.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn size(&self, key: &ObjectKey) -> Result<Option<u64>, StorageError> {
        let (objects, path) = self.object(key);
        match objects.head(&path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed("look up", key.as_str())(source)),
        }
    }

    /// Removes a blob's bytes; nothing happens when there are none.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn delete(&self, digest: &Digest, key: &ObjectKey) -> Result<(), StorageError> {
        match &self.backend {
            Backend::Directory { objects, .. } => match objects.delete(&key.as_str().into()).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(source) => Err(failed("delete", key.as_str())(source)),
            },
            Backend::Cloud(cloud) => {
                cloud.remove(key.as_str()).await?;
                cloud.remove(&keys::journal(digest, key)).await
            }
        }
    }

    /// A URL by which anybody GETs the blob from the object store for as long as `lifetime`; `None` when this
    /// storage makes none.
    ///
    /// # Errors
    /// When the store's credentials do not allow it.
    pub async fn presign(&self, key: &ObjectKey, lifetime: Duration) -> Result<Option<Url>, StorageError> {
        let Backend::Cloud(cloud) = &self.backend else {
            return Ok(None);
        };
        let Some(signer) = &cloud.signer else {
            return Ok(None);
        };
        let signed = signer
            .signed_url(http::Method::GET, &cloud.path(key.as_str()), lifetime)
            .await;
        signed.map(Some).map_err(failed("sign a URL of", key.as_str()))
    }

    /// Every blob that storage says was committed, in no order: what the database can be rebuilt from. Entries
    /// without bytes are left out.
    pub fn committed(&self) -> BoxStream<'static, Result<StoredBlob, StorageError>> {
        let store = self.clone();
        let (objects, path): (Arc<dyn ObjectStore>, _) = match &self.backend {
            Backend::Directory { objects, .. } => (objects.clone(), keys::BLOBS.into()),
            Backend::Cloud(cloud) => (cloud.objects.clone(), cloud.path(keys::JOURNAL)),
        };
        objects
            .list(Some(&path))
            .filter_map(move |listed| {
                let store = store.clone();
                async move { store.committed_entry(listed).await.transpose() }
            })
            .boxed()
    }

    async fn committed_entry(
        &self,
        listed: object_store::Result<object_store::ObjectMeta>,
    ) -> Result<Option<StoredBlob>, StorageError> {
        let meta = listed.map_err(failed("list", keys::JOURNAL))?;
        let (entry, size_bytes) = match &self.backend {
            Backend::Directory { .. } => (keys::file_entry(meta.location.as_ref()), Some(meta.size)),
            Backend::Cloud(cloud) => match cloud.key(&meta.location).and_then(keys::journal_entry) {
                Some((digest, key)) => {
                    let size_bytes = self.size(&key).await?;
                    (Some((digest, key)), size_bytes)
                }
                None => (None, None),
            },
        };
        Ok(entry
            .zip(size_bytes)
            .map(|((digest, key), size_bytes)| StoredBlob {
                digest,
                key,
                size_bytes,
            }))
    }

    /// Opens the upload `id` where `state` says; whatever lies behind was never acknowledged and is dropped.
    ///
    /// # Errors
    /// When storage fails; [`StorageError::UploadLost`] when what was acknowledged is gone.
    pub async fn upload_open(&self, id: &str, state: UploadState) -> Result<UploadWriter, StorageError> {
        Ok(UploadWriter(match &self.backend {
            Backend::Directory { root, .. } => {
                Inner::Directory(directory::open(root.clone(), id, state).await?.0)
            }
            Backend::Cloud(cloud) => Inner::Cloud(Box::new(cloud::open(cloud.clone(), state))),
        }))
    }

    /// Opens a new upload `id`, and what it writes for those who follow it. The bytes stay readable there after the
    /// upload has ended.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn upload_follow(
        &self,
        id: &str,
        state: UploadState,
    ) -> Result<(UploadWriter, Growing), StorageError> {
        match &self.backend {
            Backend::Directory { root, .. } => {
                let (writer, growing) = directory::open(root.clone(), id, state).await?;
                Ok((UploadWriter(Inner::Directory(writer)), growing))
            }
            Backend::Cloud(cloud) => {
                let (writer, growing) = cloud::open_followed(cloud.clone(), state).await?;
                Ok((UploadWriter(Inner::Cloud(Box::new(writer))), growing))
            }
        }
    }

    /// Throws away the bytes of the upload `id`, which stands at `state`; nothing happens when there are none.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub async fn upload_discard(&self, id: &str, state: &UploadState) -> Result<(), StorageError> {
        match &self.backend {
            Backend::Directory { root, .. } => {
                let path = root.join(keys::upload(id));
                match tokio::fs::remove_file(&path).await {
                    Err(source) if source.kind() != io::ErrorKind::NotFound => {
                        Err(at("remove", &path)(source))
                    }
                    _ => Ok(()),
                }
            }
            Backend::Cloud(cloud) => cloud.discard(&state.place).await,
        }
    }

    /// Removes the object that an upload needed until it went on.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn upload_supersede(&self, key: &ObjectKey) -> Result<(), StorageError> {
        match &self.backend {
            Backend::Directory { .. } => Ok(()),
            Backend::Cloud(cloud) => cloud.remove(key.as_str()).await,
        }
    }
}
