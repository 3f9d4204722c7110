//! What the registry means: blobs, uploads, manifests and tags, over database rows and stored bytes.
//!
//! Bytes come first and the row second, so a crash leaves unreferenced bytes and never a row without bytes. Every
//! method takes a proof of permission; none knows HTTP.

mod blobs;
mod collection;
mod manifests;
mod referrers;
mod uploads;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use oci::manifest::ManifestError;
use oci::{Digest, Reference, RepositoryName};
use tokio::sync::broadcast;

use crate::app::TagMoved;
use crate::db::{Db, DbError};
use crate::storage::{BlobStore, StorageError};

pub use blobs::Blob;
pub use collection::Collected;
pub use manifests::{NewTag, Page, Pushed, SparsePolicy, StoredManifest};
pub use referrers::ReferrersPage;
pub use uploads::UploadBody;

/// Why a request about content fails.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// No such repository.
    #[error("repository {0} is not known here")]
    RepositoryUnknown(RepositoryName),
    /// No such blob in this repository.
    #[error("blob {0} is not in this repository")]
    BlobUnknown(Digest),
    /// No such manifest or tag in this repository.
    #[error("manifest {0} is not in this repository")]
    ManifestUnknown(String),
    /// No such upload.
    #[error("upload {0} is not known; it may have ended or expired, start another")]
    UploadUnknown(String),
    /// Another request writes to the upload.
    #[error("another request is writing to upload {0}; ask where it stands and go on from there")]
    UploadBusy(String),
    /// A chunk that does not start where the upload stands.
    #[error("the chunk starts at byte {start}, but the upload stands at {offset}")]
    UploadOffset {
        /// Where the chunk starts.
        start: u64,
        /// Where the upload stands.
        offset: u64,
    },
    /// A chunk that is shorter or longer than announced.
    #[error("{expected} bytes were announced and {actual} came")]
    SizeMismatch {
        /// Announced.
        expected: u64,
        /// Came.
        actual: u64,
    },
    /// The client stopped sending.
    #[error("the upload was cut off after {0} bytes; ask where it stands and go on from there")]
    UploadCut(u64),
    /// The bytes do not have the digest.
    #[error("the content has digest {actual}, not {expected}")]
    DigestMismatch {
        /// What the client said.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A manifest that cannot be accepted.
    #[error(transparent)]
    ManifestInvalid(#[from] ManifestError),
    /// A manifest that names what the repository does not hold.
    #[error("the manifest names content that is not in this repository: {}; push it first", list(.0))]
    ManifestBlobUnknown(Vec<Digest>),
    /// The reference does not name what the client made its change depend on.
    #[error(
        "{reference} does not name what If-Match or If-None-Match asks for; read it again and decide anew"
    )]
    ConditionFailed {
        /// What was to change.
        reference: Reference,
        /// What it names, if anything.
        named: Option<Digest>,
    },
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

fn list(digests: &[Digest]) -> String {
    let shown: Vec<_> = digests.iter().take(5).map(Digest::as_str).collect();
    match digests.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The content of the registry, cheap to clone.
#[derive(Clone, Debug)]
pub struct Content {
    db: Db,
    blobs: BlobStore,
    /// Uploads being written to by this process.
    writing: Arc<Mutex<HashSet<String>>>,
    sparse: SparsePolicy,
    /// Told of every tag after it has moved.
    events: broadcast::Sender<TagMoved>,
}

impl Content {
    /// Content over `db` and `blobs`; `events` is told of every tag after it has moved.
    pub fn new(db: Db, blobs: BlobStore, sparse: SparsePolicy, events: broadcast::Sender<TagMoved>) -> Self {
        Self {
            db,
            blobs,
            writing: Arc::default(),
            sparse,
            events,
        }
    }

    /// Tags that move from now on. A receiver that falls behind is told so, and looks into the database then.
    pub fn tag_moves(&self) -> broadcast::Receiver<TagMoved> {
        self.events.subscribe()
    }

    async fn require_repository(&self, repository: &RepositoryName) -> Result<(), ContentError> {
        if self.db.repository_exists(repository).await? {
            Ok(())
        } else {
            Err(ContentError::RepositoryUnknown(repository.clone()))
        }
    }
}
