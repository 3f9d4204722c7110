//! Blobs and their links to repositories.

use oci::{Digest, RepositoryName};

use super::collection::REVIEW;
use super::repositories::REPOSITORY_ENSURE;
use super::{Db, DbError, now_ms, read, write};

const LINK: &str = "INSERT INTO repository_blob (repository, digest, created_at_ms) VALUES ($1, $2, $3)
    ON CONFLICT (repository, digest) DO NOTHING";

/// A blob that a repository links.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct BlobRow {
    /// Its size.
    pub size_bytes: i64,
    /// Where storage has its bytes.
    pub storage_key: String,
    /// When it is to be looked at whether anything needs it, if ever.
    pub review_after_ms: Option<i64>,
}

impl Db {
    /// A blob if `repository` links it.
    pub async fn blob_linked(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<BlobRow>, DbError> {
        const SQL: &str = "SELECT b.size_bytes, b.storage_key, g.review_after_ms FROM repository_blob r
            JOIN blob b ON b.digest = r.digest LEFT JOIN gc_review g ON g.digest = r.digest
            WHERE r.repository = $1 AND r.digest = $2";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(repository.as_str())
            .bind(digest.as_str())
            .fetch_optional(pool)
            .await?))
    }

    /// Records a blob whose bytes are durable at `storage_key`, links it to `repository`, and ends the upload that
    /// brought it, in one transaction. Returns where the bytes of this digest are: elsewhere, when it was there
    /// already, and then those at `storage_key` are not needed.
    pub async fn blob_commit(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size_bytes: u64,
        storage_key: &str,
        upload_id: Option<&str>,
    ) -> Result<String, DbError> {
        // The update changes nothing, but it locks a row that is there, so that it stays there.
        const BLOB: &str =
            "INSERT INTO blob (digest, size_bytes, storage_key, created_at_ms) VALUES ($1, $2, $3, $4)
            ON CONFLICT (digest) DO UPDATE SET size_bytes = blob.size_bytes RETURNING storage_key";
        let now = now_ms();
        let size = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        Ok(write!(self, |tx| {
            sqlx::query(REPOSITORY_ENSURE)
                .bind(repository.as_str())
                .bind(now)
                .execute(&mut *tx)
                .await?;
            sqlx::query(REVIEW)
                .bind(digest.as_str())
                .bind(self.review_after_ms(now))
                .execute(&mut *tx)
                .await?;
            let (stored_at,): (String,) = sqlx::query_as(BLOB)
                .bind(digest.as_str())
                .bind(size)
                .bind(storage_key)
                .bind(now)
                .fetch_one(&mut *tx)
                .await?;
            sqlx::query(LINK)
                .bind(repository.as_str())
                .bind(digest.as_str())
                .bind(now)
                .execute(&mut *tx)
                .await?;
            if let Some(id) = upload_id {
                sqlx::query("DELETE FROM upload WHERE id = $1")
                    .bind(id)
                    .execute(&mut *tx)
                    .await?;
            }
            stored_at
        }))
    }

    /// Links a blob of `from` to `to`; `false` when `from` does not link it.
    pub async fn blob_mount(
        &self,
        from: &RepositoryName,
        to: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, DbError> {
        const SQL: &str = "SELECT COUNT(*) FROM repository_blob WHERE repository = $1 AND digest = $2";
        let now = now_ms();
        Ok(write!(self, |tx| {
            // First, so that no review takes the blob away once it was seen.
            sqlx::query(REVIEW)
                .bind(digest.as_str())
                .bind(self.review_after_ms(now))
                .execute(&mut *tx)
                .await?;
            let (count,): (i64,) = sqlx::query_as(SQL)
                .bind(from.as_str())
                .bind(digest.as_str())
                .fetch_one(&mut *tx)
                .await?;
            if count > 0 {
                sqlx::query(REPOSITORY_ENSURE)
                    .bind(to.as_str())
                    .bind(now)
                    .execute(&mut *tx)
                    .await?;
                sqlx::query(LINK)
                    .bind(to.as_str())
                    .bind(digest.as_str())
                    .bind(now)
                    .execute(&mut *tx)
                    .await?;
            }
            count > 0
        }))
    }

    /// Up to `limit` repositories after `after` that link `digest`, in bytewise order.
    pub async fn blob_repositories(
        &self,
        digest: &Digest,
        after: &str,
        limit: i64,
    ) -> Result<Vec<RepositoryName>, DbError> {
        const SQL: &str = "SELECT repository FROM repository_blob WHERE digest = $1 AND repository > $2
            ORDER BY repository LIMIT $3";
        let rows: Vec<(String,)> = read!(self, |pool| sqlx::query_as(SQL)
            .bind(digest.as_str())
            .bind(after)
            .bind(limit)
            .fetch_all(pool)
            .await?);
        rows.iter()
            .map(|(name,)| DbError::parse("repository name", name))
            .collect()
    }

    /// Removes the link; `false` when there was none. The bytes stay for other repositories.
    pub async fn blob_unlink(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, DbError> {
        const SQL: &str = "DELETE FROM repository_blob WHERE repository = $1 AND digest = $2";
        let done = write!(self, |tx| {
            sqlx::query(REVIEW)
                .bind(digest.as_str())
                .bind(self.review_after_ms(now_ms()))
                .execute(&mut *tx)
                .await?;
            sqlx::query(SQL)
                .bind(repository.as_str())
                .bind(digest.as_str())
                .execute(&mut *tx)
                .await?
                .rows_affected()
        });
        Ok(done > 0)
    }
}
