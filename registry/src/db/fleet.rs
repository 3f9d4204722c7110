//! Nodes, services and tasks.

use super::{Db, DbError, read};

impl Db {
    /// The public key of a node that has joined.
    pub async fn node_public_key(&self, id: &str) -> Result<Option<String>, DbError> {
        const SQL: &str = "SELECT public_key FROM node WHERE id = $1";
        let row: Option<(String,)> = read!(self, |pool| sqlx::query_as(SQL)
            .bind(id)
            .fetch_optional(pool)
            .await?);
        Ok(row.map(|(key,)| key))
    }

    /// Whether a task on the node is of a service whose images come from `repository`.
    pub async fn node_uses(&self, id: &str, repository: &str) -> Result<bool, DbError> {
        const SQL: &str = "SELECT COUNT(*) FROM task t JOIN service s ON s.name = t.service
            WHERE t.node_id = $1 AND s.repository = $2";
        let (count,): (i64,) = read!(self, |pool| sqlx::query_as(SQL)
            .bind(id)
            .bind(repository)
            .fetch_one(pool)
            .await?);
        Ok(count > 0)
    }
}
