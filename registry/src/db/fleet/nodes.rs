//! Nodes: joining, listing, removing. Their beats never come here.

use super::GENERATION_BUMP;
use crate::db::{Db, DbError, now_ms, read, write};

/// A node that has joined.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct NodeRow {
    /// Identifier.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// `NodeFacts` as JSON.
    pub facts: String,
    /// Generation of its desired state.
    pub generation: i64,
    /// When it joined.
    pub joined_at_ms: i64,
    /// Tasks that it should run.
    pub tasks: i64,
}

/// How an attempt to join ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joining {
    /// The node is known by this name.
    Joined(String),
    /// There is no such token.
    TokenUnknown,
    /// The token was used by another node, or by one that has been removed since.
    TokenUsed,
    /// The token is too old.
    TokenExpired,
    /// Another node has the name. The token is still good.
    NameTaken,
}

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

    /// Whether a task that is still on the node runs an image of `repository`.
    pub async fn node_uses(&self, id: &str, repository: &str) -> Result<bool, DbError> {
        const SQL: &str = "SELECT COUNT(*) FROM task t
            JOIN revision r ON r.service = t.service AND r.number = t.revision
            WHERE t.node_id = $1 AND r.repository = $2
            AND NOT (t.desired = 'stop' AND t.state IN ('stopped', 'failed', 'rejected'))";
        let (count,): (i64,) = read!(self, |pool| sqlx::query_as(SQL)
            .bind(id)
            .bind(repository)
            .fetch_one(pool)
            .await?);
        Ok(count > 0)
    }

    /// Lets the node of `public_key` in with a token that nobody has used, in one transaction. The same node with
    /// the same token again changes nothing: its first answer may have been lost.
    pub async fn node_join(
        &self,
        token_hash: &str,
        id: &str,
        public_key: &str,
        name: &str,
        facts: &str,
    ) -> Result<Joining, DbError> {
        const USE: &str = "UPDATE join_token SET used_at_ms = $2, used_by = $3
            WHERE token_hash = $1 AND used_at_ms IS NULL AND expires_at_ms > $2";
        const TOKEN: &str = "SELECT used_by, expires_at_ms FROM join_token WHERE token_hash = $1";
        const INSERT: &str = "INSERT INTO node (id, name, public_key, facts, generation, joined_at_ms)
            VALUES ($1, $2, $3, $4, 0, $5) ON CONFLICT DO NOTHING";
        const AGAIN: &str = "UPDATE node SET facts = $2 WHERE id = $1 RETURNING name";
        let now = now_ms();
        Ok(write!(self, |tx| {
            let used = sqlx::query(USE)
                .bind(token_hash)
                .bind(now)
                .bind(id)
                .execute(&mut *tx)
                .await?;
            let known: Option<(String,)> = sqlx::query_as("SELECT name FROM node WHERE id = $1")
                .bind(id)
                .fetch_optional(&mut *tx)
                .await?;
            if used.rows_affected() == 0 {
                let token: Option<(Option<String>, i64)> = sqlx::query_as(TOKEN)
                    .bind(token_hash)
                    .fetch_optional(&mut *tx)
                    .await?;
                return Ok(match (token, known) {
                    (None, _) => Joining::TokenUnknown,
                    (Some((Some(by), _)), Some((name,))) if by == id => Joining::Joined(name),
                    (Some((Some(_), _)), _) => Joining::TokenUsed,
                    (Some((None, _)), _) => Joining::TokenExpired,
                });
            }
            let inserted = sqlx::query(INSERT)
                .bind(id)
                .bind(name)
                .bind(public_key)
                .bind(facts)
                .bind(now)
                .execute(&mut *tx)
                .await?;
            if inserted.rows_affected() > 0 {
                Joining::Joined(name.to_owned())
            } else {
                let again: Option<(String,)> = sqlx::query_as(AGAIN)
                    .bind(id)
                    .bind(facts)
                    .fetch_optional(&mut *tx)
                    .await?;
                match again {
                    Some((name,)) => Joining::Joined(name),
                    // Leaving without a commit gives the token back.
                    None => return Ok(Joining::NameTaken),
                }
            }
        }))
    }

    /// All nodes, by name.
    pub async fn node_list(&self) -> Result<Vec<NodeRow>, DbError> {
        const SQL: &str = "SELECT n.id, n.name, n.facts, n.generation, n.joined_at_ms,
            (SELECT COUNT(*) FROM task t WHERE t.node_id = n.id AND t.desired <> 'stop') AS tasks
            FROM node n ORDER BY n.name";
        Ok(read!(self, |pool| sqlx::query_as(SQL).fetch_all(pool).await?))
    }

    /// The generation of a node's desired state.
    pub async fn node_generation(&self, id: &str) -> Result<Option<i64>, DbError> {
        let row: Option<(i64,)> = read!(self, |pool| sqlx::query_as(
            "SELECT generation FROM node WHERE id = $1"
        )
        .bind(id)
        .fetch_optional(pool)
        .await?);
        Ok(row.map(|(generation,)| generation))
    }

    /// Forgets a node and its key, with its tasks if `is_forced`; otherwise returns how many tasks it still holds and
    /// leaves it. `None` when there is no such node.
    pub async fn node_delete(&self, id: &str, is_forced: bool) -> Result<Option<i64>, DbError> {
        const HELD: &str = "SELECT COUNT(*) FROM task WHERE node_id = $1
            AND NOT (desired = 'stop' AND state IN ('stopped', 'failed', 'rejected'))";
        Ok(write!(self, |tx| {
            // First, so that no task is assigned to it meanwhile.
            let bumped = sqlx::query(GENERATION_BUMP).bind(id).execute(&mut *tx).await?;
            if bumped.rows_affected() == 0 {
                return Ok(None);
            }
            let (held,): (i64,) = sqlx::query_as(HELD).bind(id).fetch_one(&mut *tx).await?;
            if held > 0 && !is_forced {
                return Ok(Some(held));
            }
            for sql in [
                "DELETE FROM task WHERE node_id = $1",
                "DELETE FROM node WHERE id = $1",
            ] {
                sqlx::query(sql).bind(id).execute(&mut *tx).await?;
            }
            Some(0)
        }))
    }
}
