//! Collection of blobs that nothing needs: reviews that are due, then bytes whose row has been gone for the grace.

use std::time::Duration;

use oci::Digest;

use super::{Content, ContentError};
use crate::db::{CollectionRow, DbError, ObjectRow, Reviewed, now_ms};
use crate::storage::ObjectKey;

/// Digests or objects that are looked up at once.
const BATCH: i64 = 100;
/// How long after a failure bytes are tried again.
const RETRY_MS: i64 = 600_000;

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Digests that were looked at.
    pub reviewed: u64,
    /// Blobs whose row is gone.
    pub blobs: u64,
    /// Blobs whose bytes are gone.
    pub objects: u64,
}

impl Content {
    /// Works off what is due. Several processes may do so at once: whoever takes a review first has it. `grace` is
    /// how long bytes stay once their row is gone, for those who read them.
    ///
    /// # Errors
    /// When the database fails; what storage does not remove is tried again later.
    pub async fn collect(&self, grace: Duration) -> Result<Collected, ContentError> {
        let mut done = Collected::default();
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        loop {
            let now = now_ms();
            let due = self.db.review_due(now, BATCH).await?;
            if due.is_empty() {
                break;
            }
            for digest in due {
                let reviewed = self.db.review(&digest, now, now.saturating_add(grace_ms)).await?;
                done.reviewed += u64::from(reviewed != Reviewed::NotDue);
                done.blobs += u64::from(reviewed == Reviewed::Collected);
            }
        }
        loop {
            let due = self.db.objects_due(now_ms(), BATCH).await?;
            if due.is_empty() {
                break;
            }
            for object in due {
                done.objects += u64::from(self.remove(&object).await?);
            }
        }
        Ok(done)
    }

    /// Bytes first: the row says where they are, and this can be tried again.
    async fn remove(&self, object: &ObjectRow) -> Result<bool, ContentError> {
        let digest: Digest = DbError::parse("digest", &object.digest)?;
        let key: ObjectKey = DbError::parse("storage key", &object.storage_key)?;
        let removed = self.blobs.delete(&digest, &key).await;
        if let Err(error) = &removed {
            tracing::warn!(%error, %digest, "cannot remove the bytes of {digest}, which nothing needs");
        }
        let retry_after_ms = removed.is_err().then(|| now_ms() + RETRY_MS);
        self.db.object_done(&object.storage_key, retry_after_ms).await?;
        Ok(removed.is_ok())
    }

    /// What collection has before it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn collection_status(&self) -> Result<CollectionRow, ContentError> {
        Ok(self.db.collection_status(now_ms()).await?)
    }
}
