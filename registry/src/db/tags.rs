//! Tags, and when cached ones were last compared with their upstream.

use oci::{RepositoryName, Tag};

use super::{Condition, Db, DbError, now_ms, read, write};

/// A tag.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct TagRow {
    /// Name.
    pub name: String,
    /// Digest that it names.
    pub digest: String,
}

impl Db {
    /// Up to `limit` tags after `after`, in bytewise order.
    pub async fn tag_list(
        &self,
        repository: &RepositoryName,
        after: &str,
        limit: i64,
    ) -> Result<Vec<TagRow>, DbError> {
        const SQL: &str =
            "SELECT name, digest FROM tag WHERE repository = $1 AND name > $2 ORDER BY name LIMIT $3";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(repository.as_str())
            .bind(after)
            .bind(limit)
            .fetch_all(pool)
            .await?))
    }

    /// The digest that `tag` names.
    pub async fn tag_get(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<String>, DbError> {
        const SQL: &str = "SELECT digest FROM tag WHERE repository = $1 AND name = $2";
        let row: Option<(String,)> = read!(self, |pool| sqlx::query_as(SQL)
            .bind(repository.as_str())
            .bind(tag.as_str())
            .fetch_optional(pool)
            .await?);
        Ok(row.map(|(digest,)| digest))
    }

    /// Removes a tag if it names what `condition` says, leaving its manifest; `false` when nothing was removed.
    pub async fn tag_delete(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        condition: &Condition,
    ) -> Result<bool, DbError> {
        const SQL: &str = "DELETE FROM tag WHERE repository = $1 AND name = $2
            AND ($3 = '*' OR $3 LIKE '%' || digest || '%') AND $4 <> '*' AND $4 NOT LIKE '%' || digest || '%'";
        let done = write!(self, |tx| sqlx::query(SQL)
            .bind(repository.as_str())
            .bind(tag.as_str())
            .bind(condition.wanted())
            .bind(condition.unwanted())
            .execute(&mut *tx)
            .await?
            .rows_affected());
        Ok(done > 0)
    }

    /// When a cached tag was last compared with its upstream.
    pub async fn upstream_tag_checked(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<i64>, DbError> {
        const SQL: &str = "SELECT checked_at_ms FROM upstream_tag WHERE repository = $1 AND tag = $2";
        let row: Option<(i64,)> = read!(self, |pool| sqlx::query_as(SQL)
            .bind(repository.as_str())
            .bind(tag.as_str())
            .fetch_optional(pool)
            .await?);
        Ok(row.map(|(at,)| at))
    }

    /// Notes that a cached tag was compared with its upstream now.
    pub async fn upstream_tag_touch(&self, repository: &RepositoryName, tag: &Tag) -> Result<(), DbError> {
        const SQL: &str = "INSERT INTO upstream_tag (repository, tag, checked_at_ms) VALUES ($1, $2, $3)
            ON CONFLICT (repository, tag) DO UPDATE SET checked_at_ms = excluded.checked_at_ms";
        write!(self, |tx| {
            sqlx::query(SQL)
                .bind(repository.as_str())
                .bind(tag.as_str())
                .bind(now_ms())
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }
}
