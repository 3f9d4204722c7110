//! Upload sessions.

use oci::{Algorithm, RepositoryName};

use super::{Db, DbError, now_ms, read, write};

/// An upload session.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct UploadRow {
    /// Identifier, as in the URL.
    pub id: String,
    /// What the bytes are hashed with.
    pub algorithm: String,
    /// Acknowledged bytes.
    pub offset_bytes: i64,
    /// The hasher that has taken them in.
    pub hash_state: Vec<u8>,
    /// What storage remembers of them.
    pub storage_place: String,
}

/// Where a session stands now.
#[derive(Clone, Debug)]
pub struct UploadStanding<'a> {
    /// Acknowledged bytes.
    pub offset_bytes: u64,
    /// The hasher that has taken them in.
    pub hash_state: &'a [u8],
    /// What storage remembers of them.
    pub storage_place: &'a str,
}

/// An attempt to be the only one who writes to an upload.
#[derive(Clone, Debug)]
pub enum UploadLease {
    /// It is ours.
    Held(UploadRow),
    /// Another process has it.
    Busy,
    /// There is no such upload.
    Unknown,
}

impl Db {
    /// Begins a session.
    pub async fn upload_create(
        &self,
        id: &str,
        repository: &RepositoryName,
        algorithm: Algorithm,
        standing: &UploadStanding<'_>,
    ) -> Result<(), DbError> {
        const SQL: &str = "INSERT INTO upload (id, repository, algorithm, offset_bytes, hash_state, storage_place,
            lease_owner, lease_until_ms, created_at_ms, updated_at_ms) VALUES ($1, $2, $3, $4, $5, $6, '', 0, $7, $7)";
        write!(self, |tx| {
            sqlx::query(SQL)
                .bind(id)
                .bind(repository.as_str())
                .bind(algorithm.as_str())
                .bind(bigint(standing.offset_bytes))
                .bind(standing.hash_state)
                .bind(standing.storage_place)
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
        const SQL: &str = "SELECT id, algorithm, offset_bytes, hash_state, storage_place FROM upload
            WHERE id = $1 AND repository = $2";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(id)
            .bind(repository.as_str())
            .fetch_optional(pool)
            .await?))
    }

    /// Takes the lease of a session for `owner` until `until_ms`, unless somebody else holds it. `repository` is
    /// `None` for those who clean up.
    pub async fn upload_lease(
        &self,
        repository: Option<&RepositoryName>,
        id: &str,
        owner: &str,
        until_ms: i64,
    ) -> Result<UploadLease, DbError> {
        const LEASE: &str = "UPDATE upload SET lease_owner = $3, lease_until_ms = $4
            WHERE id = $1 AND ($2 IS NULL OR repository = $2) AND (lease_until_ms < $5 OR lease_owner IN ('', $3))
            RETURNING id, algorithm, offset_bytes, hash_state, storage_place";
        const EXISTS: &str = "SELECT COUNT(*) FROM upload WHERE id = $1 AND ($2 IS NULL OR repository = $2)";
        let repository = repository.map(RepositoryName::as_str);
        Ok(write!(self, |tx| {
            if self.is_shared() {
                // Losing a lease with the server's power costs nothing, so nobody waits for the disk.
                sqlx::query("SET LOCAL synchronous_commit = off")
                    .execute(&mut *tx)
                    .await?;
            }
            let row: Option<UploadRow> = sqlx::query_as(LEASE)
                .bind(id)
                .bind(repository)
                .bind(owner)
                .bind(until_ms)
                .bind(now_ms())
                .fetch_optional(&mut *tx)
                .await?;
            match row {
                Some(row) => UploadLease::Held(row),
                None => {
                    let (count,): (i64,) = sqlx::query_as(EXISTS)
                        .bind(id)
                        .bind(repository)
                        .fetch_one(&mut *tx)
                        .await?;
                    if count > 0 {
                        UploadLease::Busy
                    } else {
                        UploadLease::Unknown
                    }
                }
            }
        }))
    }

    /// Keeps the lease of a session until `until_ms`, or gives it back with 0; says where the session stands if that
    /// has changed. `false` when the lease is no longer `owner`'s, and then nothing is changed.
    pub async fn upload_save(
        &self,
        id: &str,
        owner: &str,
        until_ms: i64,
        standing: Option<(Algorithm, &UploadStanding<'_>)>,
    ) -> Result<bool, DbError> {
        const LEASE: &str =
            "UPDATE upload SET lease_owner = CASE WHEN $3 = 0 THEN '' ELSE $2 END, lease_until_ms = $3,
            updated_at_ms = $4 WHERE id = $1 AND lease_owner = $2";
        const STANDING: &str = "UPDATE upload SET lease_owner = CASE WHEN $3 = 0 THEN '' ELSE $2 END,
            lease_until_ms = $3, updated_at_ms = $4, offset_bytes = $5, hash_state = $6, storage_place = $7,
            algorithm = $8
            WHERE id = $1 AND lease_owner = $2";
        let done = write!(self, |tx| {
            let query = sqlx::query(if standing.is_some() { STANDING } else { LEASE })
                .bind(id)
                .bind(owner)
                .bind(until_ms)
                .bind(now_ms());
            let query = match standing {
                Some((algorithm, standing)) => query
                    .bind(bigint(standing.offset_bytes))
                    .bind(standing.hash_state)
                    .bind(standing.storage_place)
                    .bind(algorithm.as_str()),
                None => query,
            };
            query.execute(&mut *tx).await?.rows_affected()
        });
        Ok(done > 0)
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

fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
