//! Repositories. A repository comes into being with the first thing pushed into it.

use oci::RepositoryName;

use super::{Db, DbError, read};

/// Creates a repository unless it exists; for use inside a caller's transaction.
pub(super) const REPOSITORY_ENSURE: &str =
    "INSERT INTO repository (name, created_at_ms) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

impl Db {
    /// Whether the repository exists.
    pub async fn repository_exists(&self, name: &RepositoryName) -> Result<bool, DbError> {
        const SQL: &str = "SELECT COUNT(*) FROM repository WHERE name = $1";
        let (count,): (i64,) = read!(self, |pool| sqlx::query_as(SQL)
            .bind(name.as_str())
            .fetch_one(pool)
            .await?);
        Ok(count > 0)
    }

    /// Up to `limit` names after `after`, in bytewise order.
    pub async fn repository_list(&self, after: &str, limit: i64) -> Result<Vec<RepositoryName>, DbError> {
        const SQL: &str = "SELECT name FROM repository WHERE name > $1 ORDER BY name LIMIT $2";
        let rows: Vec<(String,)> = read!(self, |pool| sqlx::query_as(SQL)
            .bind(after)
            .bind(limit)
            .fetch_all(pool)
            .await?);
        rows.iter()
            .map(|(name,)| DbError::parse("repository name", name))
            .collect()
    }
}
