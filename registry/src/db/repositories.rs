//! Repositories. A repository comes into being with the first thing pushed into it.

use oci::RepositoryName;

use super::{Db, DbError, read, write};

/// Creates a repository unless it exists; for use inside a caller's transaction.
pub(super) const REPOSITORY_ENSURE: &str =
    "INSERT INTO repository (name, created_at_ms) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

/// What is set for one repository; `None` leaves it to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct RepositorySettingRow {
    /// Whether manifests may name content that the repository does not hold.
    pub accepts_sparse: Option<bool>,
}

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

    /// What is set for `name`; nothing when there is no row.
    pub async fn repository_setting_get(
        &self,
        name: &RepositoryName,
    ) -> Result<RepositorySettingRow, DbError> {
        const SQL: &str = "SELECT accepts_sparse FROM repository_setting WHERE repository = $1";
        let row: Option<RepositorySettingRow> = read!(self, |pool| sqlx::query_as(SQL)
            .bind(name.as_str())
            .fetch_optional(pool)
            .await?);
        Ok(row.unwrap_or_default())
    }

    /// Sets all of `row` for `name`, which need not exist yet.
    pub async fn repository_setting_put(
        &self,
        name: &RepositoryName,
        row: &RepositorySettingRow,
    ) -> Result<(), DbError> {
        const SQL: &str = "INSERT INTO repository_setting (repository, accepts_sparse) VALUES ($1, $2)
            ON CONFLICT (repository) DO UPDATE SET accepts_sparse = excluded.accepts_sparse";
        write!(self, |tx| {
            sqlx::query(SQL)
                .bind(name.as_str())
                .bind(row.accepts_sparse)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }
}
