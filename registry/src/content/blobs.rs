//! Blobs: looking up, reading, mounting, deleting.

use std::ops::Range;
use std::time::Duration;

use oci::{Digest, RepositoryName};
use url::Url;

use super::{Content, ContentError};
use crate::auth::{Delete, Pull, Push, RepositoryAccess};
use crate::db::DbError;
use crate::storage::{BlobStream, ObjectKey};

/// A blob that the caller may read.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
    /// Where its bytes are.
    key: ObjectKey,
}

impl Content {
    /// Looks up a blob that the repository links.
    ///
    /// # Errors
    /// [`ContentError::BlobUnknown`] when it links none of that digest.
    pub async fn blob(&self, access: &RepositoryAccess<Pull>, digest: &Digest) -> Result<Blob, ContentError> {
        let mut found = self.db.blob_linked(access.repository(), digest).await?;
        // A client that hears of it need not push it, so it must still be there when its manifest comes.
        if let Some(review_after_ms) = found.as_ref().and_then(|row| row.review_after_ms)
            && self.db.review_is_near(review_after_ms)
        {
            self.db.review_postpone(std::slice::from_ref(digest)).await?;
            found = self.db.blob_linked(access.repository(), digest).await?;
        }
        match found {
            Some(row) => Ok(Blob {
                digest: digest.clone(),
                size_bytes: row.size_bytes.unsigned_abs(),
                key: DbError::parse("storage key", &row.storage_key)?,
            }),
            None => Err(ContentError::BlobUnknown(digest.clone())),
        }
    }

    /// Streams a part of a blob.
    ///
    /// # Errors
    /// When storage fails; a lost blob is a failure of storage, since the row says it exists.
    pub async fn blob_read(&self, blob: &Blob, range: Range<u64>) -> Result<BlobStream, ContentError> {
        Ok(self.blobs.read(&blob.key, blob.size_bytes, range).await?)
    }

    /// A URL of the object store by which anybody reads the blob for as long as `lifetime`; `None` when storage has
    /// no such URLs.
    ///
    /// # Errors
    /// When storage cannot sign one.
    pub async fn blob_url(&self, blob: &Blob, lifetime: Duration) -> Result<Option<Url>, ContentError> {
        Ok(self.blobs.presign(&blob.key, lifetime).await?)
    }

    /// Links a blob of another repository that the caller may read; `false` when that one has none of that digest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn blob_mount(
        &self,
        from: &RepositoryAccess<Pull>,
        to: &RepositoryAccess<Push>,
        digest: &Digest,
    ) -> Result<bool, ContentError> {
        Ok(self
            .db
            .blob_mount(from.repository(), to.repository(), digest)
            .await?)
    }

    /// Up to `limit` repositories after `last` that hold a blob, in bytewise order; the caller filters what may be seen.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn blob_holders(
        &self,
        digest: &Digest,
        last: &str,
        limit: usize,
    ) -> Result<Vec<RepositoryName>, ContentError> {
        Ok(self.db.blob_repositories(digest, last, limit as i64).await?)
    }

    /// Removes a blob from a repository at once; its bytes stay for others.
    ///
    /// # Errors
    /// [`ContentError::BlobUnknown`] when the repository links none of that digest.
    pub async fn blob_delete(
        &self,
        access: &RepositoryAccess<Delete>,
        digest: &Digest,
    ) -> Result<(), ContentError> {
        match self.db.blob_unlink(access.repository(), digest).await? {
            true => Ok(()),
            false => Err(ContentError::BlobUnknown(digest.clone())),
        }
    }
}
