//! The database layer: the only code that names sqlx.
//!
//! One SQL text serves SQLite and PostgreSQL; [`read!`] and [`write!`] run one method body on either. SQLite has a
//! single writing connection (`BEGIN IMMEDIATE`, full sync) and a read-only pool beside it. Transactions hold no
//! network call and no blob byte. Lookups return `Option`, since absence is data.

mod accounts;
mod blobs;
mod collection;
#[cfg(test)]
mod contract;
mod fleet;
mod manifests;
mod repositories;
mod tags;
mod uploads;

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

pub use accounts::AccountRow;
pub use blobs::BlobRow;
pub use collection::{CollectionRow, ObjectRow, Reviewed};
pub use fleet::{
    AssignmentRow, DeploymentRow, DeploymentStep, Joining, NewDeployment, NewTaskRow, NodeRow, PlanWrite,
    ReportRow, RevisionChoice, RevisionRow, ServiceRow, TagDrift, TaskRow,
};
pub use manifests::{Condition, ManifestRow, Named, NewManifest, ReferrerQuery, ReferrerRow};
pub use repositories::RepositorySettingRow;
pub use tags::TagRow;
pub use uploads::{UploadLease, UploadRow, UploadStanding};

/// Runs a body on the pool for reading.
macro_rules! read {
    ($db:expr, |$pool:ident| $body:expr) => {
        match &$db.pools {
            $crate::db::Pools::Sqlite { reader, .. } => {
                let $pool = reader;
                $body
            }
            $crate::db::Pools::Postgres(pool) => {
                let $pool = pool;
                $body
            }
        }
    };
}

/// Runs a body in one writing transaction and commits it; an early return through `?` rolls back.
macro_rules! write {
    ($db:expr, |$tx:ident| $body:expr) => {
        match &$db.pools {
            $crate::db::Pools::Sqlite { writer, .. } => {
                let mut $tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
            $crate::db::Pools::Postgres(pool) => {
                let mut $tx = pool.begin().await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
        }
    };
}

pub(crate) use {read, write};

/// A failure of the database. Conflicts that callers decide upon are values, not errors.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The URL is of neither database.
    #[error("database URL {0:?} is not supported; use sqlite:PATH or postgres://…")]
    Url(String),
    /// The schema could not be brought up to date.
    #[error("cannot migrate the database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Anything the database says.
    #[error("database")]
    Sqlx(#[from] sqlx::Error),
    /// A stored value does not parse, which only an edited database can cause.
    #[error("the database holds {value:?} as {what}, which is invalid")]
    Corrupt {
        /// What the value should be.
        what: &'static str,
        /// The value.
        value: String,
    },
}

impl DbError {
    /// Parses a stored text back into the type that it was made from.
    pub(crate) fn parse<T: FromStr>(what: &'static str, value: &str) -> Result<T, Self> {
        value.parse().map_err(|_| Self::Corrupt {
            what,
            value: value.chars().take(200).collect(),
        })
    }
}

/// How long a blob that nothing needs may still be wanted, unless configured.
const GRACE_MS: i64 = 24 * 3600 * 1000;

#[derive(Clone, Debug)]
enum Pools {
    Sqlite { reader: SqlitePool, writer: SqlitePool },
    Postgres(PgPool),
}

/// A handle to the database, cheap to clone.
#[derive(Clone, Debug)]
pub struct Db {
    pools: Pools,
    /// How long a blob that is not needed may still be wanted.
    grace_ms: i64,
}

impl Db {
    /// Connects to `url` and brings the schema up to date; safe when several processes start at once, since
    /// PostgreSQL migrations take an advisory lock and SQLite's a write lock.
    ///
    /// # Errors
    /// When the URL is of no supported database, the server cannot be reached, or a migration fails.
    pub async fn connect(url: &str) -> Result<Self, DbError> {
        let pools = if let Some(path) = url.strip_prefix("sqlite:") {
            let options = SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(Duration::from_secs(10));
            let writer = SqlitePoolOptions::new()
                .max_connections(1)
                .connect_with(options.clone())
                .await?;
            sqlx::migrate!("../migrations/sqlite").run(&writer).await?;
            let reader = SqlitePoolOptions::new()
                .max_connections(8)
                .connect_with(options.read_only(true))
                .await?;
            Pools::Sqlite { reader, writer }
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let pool = PgPoolOptions::new().max_connections(16).connect(url).await?;
            sqlx::migrate!("../migrations/postgres").run(&pool).await?;
            Pools::Postgres(pool)
        } else {
            return Err(DbError::Url(url.to_owned()));
        };
        Ok(Self {
            pools,
            grace_ms: GRACE_MS,
        })
    }

    /// The same with another time until blobs that nothing needs are collected; a day otherwise.
    pub fn with_grace(self, grace: Duration) -> Self {
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        Self { grace_ms, ..self }
    }

    /// Whether other processes may use the same database. SQLite belongs to one process, which then needs no lease.
    pub fn is_shared(&self) -> bool {
        matches!(self.pools, Pools::Postgres(_))
    }

    /// Closes all connections, after those in use are returned.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { reader, writer } => {
                reader.close().await;
                writer.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

/// The time now, in UTC milliseconds, as all tables hold it.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
