//! Collection: digests to review, bytes to remove, and pins.
//!
//! A digest is collected only through its row in `gc_review`, which every use of it writes or postpones before it
//! relies on the blob. Reviewing takes that row first, so whoever comes second sees what the first has done: either
//! the review is no longer due, or the link is gone before it is looked at.

use oci::Digest;

use super::manifests::placeholders;
use super::{Db, DbError, now_ms, read, write};

/// Puts a digest up for review, or postpones it; for use inside a caller's transaction, before rows of blobs.
pub(super) const REVIEW: &str = "INSERT INTO gc_review (digest, review_after_ms) VALUES ($1, $2)
    ON CONFLICT (digest) DO UPDATE SET review_after_ms = excluded.review_after_ms";

/// How long before its time a review counts as near, at most. Nobody may take longer between looking at a blob and
/// writing down that it is needed.
const NEAR_MS: i64 = 3_600_000;
/// Digests in one statement; SQLite takes 32,766 parameters.
const ROWS_MAX: usize = 500;

/// What a review found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reviewed {
    /// Somebody was faster, or used the digest meanwhile.
    NotDue,
    /// It is needed.
    Kept,
    /// Its row is gone; its bytes go later.
    Collected,
}

/// Bytes to remove.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ObjectRow {
    /// Where storage has them.
    pub storage_key: String,
    /// Their digest.
    pub digest: String,
}

/// What collection has before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct CollectionRow {
    /// Blobs that nothing needs and whose review is due.
    pub reclaimable_blobs: i64,
    /// Their bytes.
    pub reclaimable_bytes: i64,
    /// Blobs that nothing needs now, but that may be needed until their review.
    pub pending_blobs: i64,
    /// Their bytes.
    pub pending_bytes: i64,
    /// Blobs without a row whose bytes are still in storage.
    pub removable_blobs: i64,
    /// Their bytes.
    pub removable_bytes: i64,
}

impl Db {
    /// When a digest that is used now is to be looked at.
    pub(super) fn review_after_ms(&self, now_ms: i64) -> i64 {
        now_ms.saturating_add(self.grace_ms)
    }

    /// Whether a review at `review_after_ms` must be postponed before anybody relies on the blob.
    pub fn review_is_near(&self, review_after_ms: i64) -> bool {
        review_after_ms < now_ms() + NEAR_MS.min(self.grace_ms / 2)
    }

    /// Postpones the reviews of those of `digests` that are near. What is found to be linked afterwards stays so for
    /// as long as a review is near, which is long enough to write down that it is needed.
    pub async fn review_postpone(&self, digests: &[Digest]) -> Result<(), DbError> {
        const POSTPONE: &str = "UPDATE gc_review SET review_after_ms = $2 WHERE digest = $1";
        let near = now_ms() + NEAR_MS.min(self.grace_ms / 2);
        for chunk in digests.chunks(ROWS_MAX) {
            let sql = format!(
                "SELECT digest FROM gc_review WHERE review_after_ms < $1 AND digest IN ({})",
                placeholders(2, chunk.len())
            );
            let rows: Vec<(String,)> = read!(self, |pool| {
                // Numbers alone were put into it.
                let mut query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(near);
                for digest in chunk {
                    query = query.bind(digest.as_str());
                }
                query.fetch_all(pool).await?
            });
            // One transaction for each: two that lock several could wait for each other.
            for (digest,) in rows {
                write!(self, |tx| {
                    sqlx::query(POSTPONE)
                        .bind(&digest)
                        .bind(self.review_after_ms(now_ms()))
                        .execute(&mut *tx)
                        .await?;
                });
            }
        }
        Ok(())
    }

    /// Up to `limit` digests whose review is due at `now_ms`, the longest due first.
    pub async fn review_due(&self, now_ms: i64, limit: i64) -> Result<Vec<Digest>, DbError> {
        const SQL: &str =
            "SELECT digest FROM gc_review WHERE review_after_ms <= $1 ORDER BY review_after_ms LIMIT $2";
        let rows: Vec<(String,)> = read!(self, |pool| sqlx::query_as(SQL)
            .bind(now_ms)
            .bind(limit)
            .fetch_all(pool)
            .await?);
        rows.iter()
            .map(|(digest,)| DbError::parse("digest", digest))
            .collect()
    }

    /// Reviews a digest, if that is due at `now_ms`: repositories whose manifests do not name it no longer link it,
    /// and without links and pins its row goes. Its bytes may be removed after `delete_after_ms`.
    pub async fn review(
        &self,
        digest: &Digest,
        now_ms: i64,
        delete_after_ms: i64,
    ) -> Result<Reviewed, DbError> {
        const TAKE: &str = "DELETE FROM gc_review WHERE digest = $1 AND review_after_ms <= $2";
        const PINNED: &str = "SELECT COUNT(*) FROM pin WHERE digest = $1";
        const UNLINK: &str = "DELETE FROM repository_blob WHERE digest = $1 AND NOT EXISTS (
            SELECT 1 FROM manifest_reference m WHERE m.repository = repository_blob.repository AND m.child = $1)";
        const BLOB: &str = "DELETE FROM blob WHERE digest = $1
            AND NOT EXISTS (SELECT 1 FROM repository_blob r WHERE r.digest = $1) RETURNING storage_key, size_bytes";
        const OBJECT: &str = "INSERT INTO gc_object (storage_key, digest, size_bytes, delete_after_ms)
            VALUES ($1, $2, $3, $4)";
        Ok(write!(self, |tx| {
            let taken = sqlx::query(TAKE)
                .bind(digest.as_str())
                .bind(now_ms)
                .execute(&mut *tx)
                .await?
                .rows_affected();
            if taken == 0 {
                return Ok(Reviewed::NotDue);
            }
            let (pins,): (i64,) = sqlx::query_as(PINNED)
                .bind(digest.as_str())
                .fetch_one(&mut *tx)
                .await?;
            if pins > 0 {
                // Pins are taken away without a word to us, so it is looked at again.
                sqlx::query(REVIEW)
                    .bind(digest.as_str())
                    .bind(self.review_after_ms(now_ms))
                    .execute(&mut *tx)
                    .await?;
                Reviewed::Kept
            } else {
                sqlx::query(UNLINK)
                    .bind(digest.as_str())
                    .execute(&mut *tx)
                    .await?;
                let gone: Option<(String, i64)> = sqlx::query_as(BLOB)
                    .bind(digest.as_str())
                    .fetch_optional(&mut *tx)
                    .await?;
                match gone {
                    Some((storage_key, size_bytes)) => {
                        sqlx::query(OBJECT)
                            .bind(storage_key)
                            .bind(digest.as_str())
                            .bind(size_bytes)
                            .bind(delete_after_ms)
                            .execute(&mut *tx)
                            .await?;
                        Reviewed::Collected
                    }
                    None => Reviewed::Kept,
                }
            }
        }))
    }

    /// Up to `limit` objects whose bytes may be removed at `now_ms`.
    pub async fn objects_due(&self, now_ms: i64, limit: i64) -> Result<Vec<ObjectRow>, DbError> {
        const SQL: &str = "SELECT storage_key, digest FROM gc_object WHERE delete_after_ms <= $1
            ORDER BY delete_after_ms LIMIT $2";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(now_ms)
            .bind(limit)
            .fetch_all(pool)
            .await?))
    }

    /// Forgets an object whose bytes are removed, or tries it again after `retry_after_ms`.
    pub async fn object_done(&self, storage_key: &str, retry_after_ms: Option<i64>) -> Result<(), DbError> {
        const DELETE: &str = "DELETE FROM gc_object WHERE storage_key = $1";
        const RETRY: &str = "UPDATE gc_object SET delete_after_ms = $2 WHERE storage_key = $1";
        write!(self, |tx| {
            let query = match retry_after_ms {
                None => sqlx::query(DELETE).bind(storage_key),
                Some(after_ms) => sqlx::query(RETRY).bind(storage_key).bind(after_ms),
            };
            query.execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// What collection has before it, at `now_ms`.
    pub async fn collection_status(&self, now_ms: i64) -> Result<CollectionRow, DbError> {
        const SQL: &str = "WITH unneeded AS (
            SELECT b.size_bytes, CASE WHEN g.review_after_ms <= $1 THEN 1 ELSE 0 END AS due
            FROM gc_review g JOIN blob b ON b.digest = g.digest
            WHERE NOT EXISTS (SELECT 1 FROM pin p WHERE p.digest = g.digest)
            AND NOT EXISTS (SELECT 1 FROM repository_blob r JOIN manifest_reference m
                ON m.repository = r.repository AND m.child = r.digest WHERE r.digest = g.digest))
            SELECT
            (SELECT COUNT(*) FROM unneeded WHERE due = 1) AS reclaimable_blobs,
            (SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM unneeded WHERE due = 1) AS reclaimable_bytes,
            (SELECT COUNT(*) FROM unneeded WHERE due = 0) AS pending_blobs,
            (SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM unneeded WHERE due = 0) AS pending_bytes,
            (SELECT COUNT(*) FROM gc_object) AS removable_blobs,
            (SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM gc_object) AS removable_bytes";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(now_ms)
            .fetch_one(pool)
            .await?))
    }

    /// Makes `digests` all that `holder` pins, with the reason why.
    pub async fn pin_replace(&self, holder: &str, reason: &str, digests: &[Digest]) -> Result<(), DbError> {
        const PIN: &str = "INSERT INTO pin (holder, digest, reason) VALUES ($1, $2, $3)
            ON CONFLICT (holder, digest) DO UPDATE SET reason = excluded.reason";
        write!(self, |tx| {
            sqlx::query("DELETE FROM pin WHERE holder = $1")
                .bind(holder)
                .execute(&mut *tx)
                .await?;
            for digest in digests {
                sqlx::query(PIN)
                    .bind(holder)
                    .bind(digest.as_str())
                    .bind(reason)
                    .execute(&mut *tx)
                    .await?;
            }
        });
        Ok(())
    }
}
