//! The cluster's identity, and the lease of the one process that plans.

use crate::db::{Db, DbError, Pools, now_ms, read, write};

/// How long a lease holds without renewal, in milliseconds of the database's clock.
const LEASE_MS: i64 = 10_000;

impl Db {
    /// The cluster's id; `id` becomes it where there is none yet.
    pub async fn cluster_ensure(&self, id: &str) -> Result<String, DbError> {
        const ENSURE: &str =
            "INSERT INTO cluster (only_row, id, epoch, lease_expires_at_ms) VALUES (1, $1, 0, 0)
            ON CONFLICT (only_row) DO NOTHING";
        Ok(write!(self, |tx| {
            sqlx::query(ENSURE).bind(id).execute(&mut *tx).await?;
            let (id,): (String,) = sqlx::query_as("SELECT id FROM cluster")
                .fetch_one(&mut *tx)
                .await?;
            id
        }))
    }

    /// Takes the lease if it is to be had and returns its epoch. An SQLite file belongs to one process, so there the
    /// newest process gets it at once and keeps it; the epoch stops an older one that still runs.
    pub async fn lease_take(&self, holder: &str) -> Result<Option<i64>, DbError> {
        const SQLITE: &str =
            "UPDATE cluster SET epoch = epoch + 1, lease_holder = $1, lease_expires_at_ms = $2
            RETURNING epoch";
        const POSTGRES: &str = "UPDATE cluster SET epoch = epoch + 1, lease_holder = $1,
                lease_expires_at_ms = CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) + $2
            WHERE lease_expires_at_ms < CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)
            RETURNING epoch";
        let (sql, life_ms) = match &self.pools {
            Pools::Sqlite { .. } => (SQLITE, i64::MAX),
            Pools::Postgres(_) => (POSTGRES, LEASE_MS),
        };
        let row: Option<(i64,)> = write!(self, |tx| sqlx::query_as(sql)
            .bind(holder)
            .bind(life_ms)
            .fetch_optional(&mut *tx)
            .await?);
        Ok(row.map(|(epoch,)| epoch))
    }

    /// Keeps the lease for longer; `false` when somebody else has taken over.
    pub async fn lease_renew(&self, epoch: i64) -> Result<bool, DbError> {
        const POSTGRES: &str = "UPDATE cluster
            SET lease_expires_at_ms = CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) + $2
            WHERE epoch = $1";
        if !self.is_shared() {
            let (now,): (i64,) = read!(self, |pool| sqlx::query_as("SELECT epoch FROM cluster")
                .fetch_one(pool)
                .await?);
            return Ok(now == epoch);
        }
        let done = write!(self, |tx| sqlx::query(POSTGRES)
            .bind(epoch)
            .bind(LEASE_MS)
            .execute(&mut *tx)
            .await?
            .rows_affected());
        Ok(done > 0)
    }

    /// Gives the lease back, so that another process need not wait for its end.
    pub async fn lease_release(&self, epoch: i64) -> Result<(), DbError> {
        const SQL: &str = "UPDATE cluster SET lease_holder = NULL, lease_expires_at_ms = 0 WHERE epoch = $1";
        write!(self, |tx| {
            sqlx::query(SQL).bind(epoch).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Keeps a join token by its hash, and forgets those that ended long ago.
    pub async fn join_token_put(&self, token_hash: &str, expires_at_ms: i64) -> Result<(), DbError> {
        const KEEP_MS: i64 = 7 * 24 * 3600 * 1000;
        const SQL: &str = "INSERT INTO join_token (token_hash, expires_at_ms) VALUES ($1, $2)";
        write!(self, |tx| {
            sqlx::query("DELETE FROM join_token WHERE expires_at_ms < $1")
                .bind(now_ms() - KEEP_MS)
                .execute(&mut *tx)
                .await?;
            sqlx::query(SQL)
                .bind(token_hash)
                .bind(expires_at_ms)
                .execute(&mut *tx)
                .await?;
        });
        Ok(())
    }
}
