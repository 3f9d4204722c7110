//! Where an upload stands, and the writer that carries it on, whatever the storage.

use bytes::Bytes;
use oci::{Algorithm, Digest, Hasher};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{ObjectKey, StorageError, cloud, directory};

/// All that any process needs to go on with an upload: it is kept in the row of the session.
#[derive(Clone, Debug)]
pub struct UploadState {
    /// Bytes that are durable.
    pub offset_bytes: u64,
    /// Has taken in these bytes, so that nobody reads them again.
    pub hasher: Hasher,
    /// Where an object store has them.
    pub(super) place: Place,
}

/// What an object store holds of an upload: whole parts, then a tail. Nothing in a directory, where there is a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multipart: Option<Multipart>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<Tail>,
}

/// A multipart transfer straight to the key that the blob will have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Multipart {
    pub key: String,
    pub id: String,
    pub parts: Vec<String>,
}

/// Bytes behind the last whole part, as an object of their own; of a small upload it is the blob already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tail {
    pub key: String,
    pub size_bytes: u64,
}

impl UploadState {
    /// Nothing yet, to be hashed with `algorithm`.
    pub fn begin(algorithm: Algorithm) -> Self {
        Self {
            offset_bytes: 0,
            hasher: Hasher::new(algorithm),
            place: Place::default(),
        }
    }

    /// From what [`Hasher::save`] and [`Self::place`] gave; `None` when they did not.
    pub fn restore(offset_bytes: u64, algorithm: Algorithm, hash_state: &[u8], place: &str) -> Option<Self> {
        Some(Self {
            offset_bytes,
            hasher: Hasher::resume(algorithm, hash_state)?,
            place: serde_json::from_str(place).ok()?,
        })
    }

    /// Hashes with `algorithm`, if nothing has been hashed yet.
    pub fn hash_with(&mut self, algorithm: Algorithm) {
        if self.offset_bytes == 0 {
            self.hasher = Hasher::new(algorithm);
        }
    }

    /// Where an object store has the bytes, as text for the database.
    pub fn place(&self) -> String {
        // Texts and numbers are always JSON.
        serde_json::to_string(&self.place).unwrap_or_else(|_| "{}".to_owned())
    }

    /// The object that `next` no longer needs, to be removed once the row says `next`.
    pub fn superseded(&self, next: &Self) -> Option<ObjectKey> {
        let old = self.place.tail.as_ref()?;
        let is_kept = next.place.tail.as_ref().is_some_and(|tail| tail.key == old.key);
        (!is_kept).then(|| old.key.parse().ok()).flatten()
    }
}

/// An open upload. Dropping it leaves the bytes written so far unacknowledged.
#[derive(Debug)]
pub struct UploadWriter(pub(super) Inner);

#[derive(Debug)]
pub(super) enum Inner {
    Directory(directory::Writer),
    Cloud(Box<cloud::Writer>),
}

/// How a commit ended.
#[derive(Debug)]
pub enum Commit {
    /// The bytes are durable and readable at `key`.
    Stored {
        /// Where.
        key: ObjectKey,
        /// How many.
        size_bytes: u64,
    },
    /// The bytes have another digest, and are gone.
    Mismatch {
        /// What they have.
        actual: Digest,
    },
}

impl UploadWriter {
    /// Queues the next bytes.
    ///
    /// # Errors
    /// When they or earlier ones could not be written.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        match &mut self.0 {
            Inner::Directory(writer) => writer.write(bytes).await,
            Inner::Cloud(writer) => writer.write(bytes).await,
        }
    }

    /// What has become durable on the way, for whoever saves it now and then; `None` where only
    /// [`Self::suspend`] makes anything durable.
    pub fn progress(&self) -> Option<watch::Receiver<UploadState>> {
        match &self.0 {
            Inner::Directory(_) => None,
            Inner::Cloud(writer) => Some(writer.progress()),
        }
    }

    /// Makes all bytes durable and says where the upload stands; any process can open it there.
    ///
    /// # Errors
    /// When a piece could not be written or made durable.
    pub async fn suspend(self) -> Result<UploadState, StorageError> {
        match self.0 {
            Inner::Directory(writer) => writer.suspend().await,
            Inner::Cloud(writer) => writer.suspend().await,
        }
    }

    /// Ends the upload: when its bytes have `digest` they become a blob, without being copied, and survive a power
    /// cut. A digest of another algorithm than the upload was begun with costs another read.
    ///
    /// # Errors
    /// When storage fails; it is not known then whether the upload can go on.
    pub async fn commit(self, digest: &Digest) -> Result<Commit, StorageError> {
        match self.0 {
            Inner::Directory(writer) => writer.commit(digest).await,
            Inner::Cloud(writer) => writer.commit(digest).await,
        }
    }
}
