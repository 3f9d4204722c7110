//! Upload sessions.

use oci::RepositoryName;

use super::{Db, DbError, now_ms, read, write};

/// An upload session.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct UploadRow {
    /// Identifier, as in the URL.
    pub id: String,
    /// Repository that the blob goes to.
    pub repository: String,
    /// Acknowledged bytes.
    pub offset_bytes: i64,
}

impl Db {
    /// Begins a session.
    pub async fn upload_create(&self, id: &str, repository: &RepositoryName) -> Result<(), DbError> {
        const SQL: &str = "INSERT INTO upload (id, repository, offset_bytes, created_at_ms, updated_at_ms)
            VALUES ($1, $2, 0, $3, $3)";
        write!(self, |tx| {
            sqlx::query(SQL)
                .bind(id)
                .bind(repository.as_str())
                .bind(now_ms())
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    /// The session `id` of `repository`.
    pub async fn upload_get(
        &self,
        repository: &RepositoryName,
        id: &str,
    ) -> Result<Option<UploadRow>, DbError> {
        const SQL: &str = "SELECT id, repository, offset_bytes FROM upload WHERE id = $1 AND repository = $2";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(id)
            .bind(repository.as_str())
            .fetch_optional(pool)
            .await?))
    }

    /// Acknowledges bytes up to `offset_bytes`.
    pub async fn upload_advance(&self, id: &str, offset_bytes: u64) -> Result<(), DbError> {
        const SQL: &str = "UPDATE upload SET offset_bytes = $2, updated_at_ms = $3 WHERE id = $1";
        let offset = i64::try_from(offset_bytes).unwrap_or(i64::MAX);
        write!(self, |tx| {
            sqlx::query(SQL)
                .bind(id)
                .bind(offset)
                .bind(now_ms())
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }

    /// Ends a session without a blob; `false` when there was none.
    pub async fn upload_delete(&self, id: &str) -> Result<bool, DbError> {
        let done = write!(self, |tx| sqlx::query("DELETE FROM upload WHERE id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?
            .rows_affected());
        Ok(done > 0)
    }

    /// Sessions untouched since `before_ms`.
    pub async fn upload_stale(&self, before_ms: i64) -> Result<Vec<String>, DbError> {
        const SQL: &str = "SELECT id FROM upload WHERE updated_at_ms < $1 ORDER BY updated_at_ms LIMIT 1000";
        let rows: Vec<(String,)> = read!(self, |pool| sqlx::query_as(SQL)
            .bind(before_ms)
            .fetch_all(pool)
            .await?);
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }
}
