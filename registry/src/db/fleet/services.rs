//! Services, their revisions, and the deployments between them.

use super::EPOCH_GUARD;
use crate::db::{Db, DbError, now_ms, read, write};

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ServiceRow {
    /// Name.
    pub name: String,
    /// Repository of the image that was last asked for.
    pub repository: String,
    /// Tag that was last asked for.
    pub tag: Option<String>,
    /// Whether a move of the tag deploys.
    pub follows_tag: bool,
    /// Digest that the tag was last seen at.
    pub tag_digest: Option<String>,
    /// Copies wanted.
    pub replicas: i64,
    /// Revision that should run; `None` for nothing.
    pub target_revision: Option<i64>,
    /// Revision that last ran well.
    pub stable_revision: Option<i64>,
    /// Grows with every change.
    pub version: i64,
}

/// A revision, never changed once written.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RevisionRow {
    /// Service.
    pub service: String,
    /// Number.
    pub number: i64,
    /// `ServiceSpec` as JSON.
    pub spec: String,
    /// What its image reference was resolved to.
    pub digest: String,
}

/// A deployment.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct DeploymentRow {
    /// Number.
    pub id: i64,
    /// Service.
    pub service: String,
    /// Revision that it brings.
    pub revision: i64,
    /// Digest of it.
    pub digest: String,
    /// Revision to go back to.
    pub from_revision: Option<i64>,
    /// Copies to go back to.
    pub from_replicas: Option<i64>,
    /// `DeploymentCause` as on the wire.
    pub cause: String,
    /// `DeploymentState` as on the wire.
    pub state: String,
    /// Copies wanted.
    pub replicas: i64,
    /// Why it failed or was replaced.
    pub reason: Option<String>,
    /// When it began.
    pub created_at_ms: i64,
    /// When it ended.
    pub finished_at_ms: Option<i64>,
    /// Copies of its revision that are ready now.
    pub ready: i64,
}

/// A followed tag that has moved since it was last looked at.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct TagDrift {
    /// The service that follows it.
    pub service: String,
    /// What it names now.
    pub digest: String,
}

/// The revision that a deployment brings.
#[derive(Clone, Copy, Debug)]
pub enum RevisionChoice<'a> {
    /// A new one with this specification.
    New {
        /// `ServiceSpec` as JSON.
        spec: &'a str,
    },
    /// One that exists.
    Existing(i64),
}

/// A deployment to begin.
#[derive(Clone, Debug)]
pub struct NewDeployment<'a> {
    /// The service as it should be; its version is the one that was seen, 0 for a new service. The target is set to
    /// the revision that the deployment brings.
    pub service: &'a ServiceRow,
    /// The revision that it brings.
    pub revision: RevisionChoice<'a>,
    /// Digest of that revision.
    pub digest: &'a str,
    /// Where to go back to when it fails: revision and copies.
    pub from: Option<(i64, i64)>,
    /// `DeploymentCause` as on the wire.
    pub cause: &'a str,
    /// The planner's epoch, where it is the planner that deploys.
    pub epoch: Option<i64>,
}

const DEPLOYMENT: &str = "SELECT d.id, d.service, d.revision, d.digest, d.from_revision, d.from_replicas, d.cause,
    d.state, d.replicas, d.reason, d.created_at_ms, d.finished_at_ms,
    (SELECT COUNT(*) FROM task t WHERE t.service = d.service AND t.revision = d.revision AND t.desired <> 'stop'
        AND t.state = 'ready') AS ready
    FROM deployment d
    WHERE ($1 = '' OR d.service = $1) AND ($2 = 0 OR d.id = $2) ORDER BY d.id DESC LIMIT $3";

impl Db {
    /// The service called `name`, also one that is being deleted.
    pub async fn service_get(&self, name: &str) -> Result<Option<ServiceRow>, DbError> {
        const SQL: &str = "SELECT name, repository, tag, follows_tag, tag_digest, replicas, target_revision,
            stable_revision, version FROM service WHERE name = $1";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(name)
            .fetch_optional(pool)
            .await?))
    }

    /// All services by name, also those that are being deleted.
    pub async fn service_list(&self) -> Result<Vec<ServiceRow>, DbError> {
        const SQL: &str = "SELECT name, repository, tag, follows_tag, tag_digest, replicas, target_revision,
            stable_revision, version FROM service ORDER BY name";
        Ok(read!(self, |pool| sqlx::query_as(SQL).fetch_all(pool).await?))
    }

    /// Changes what a service follows, if nobody has changed the service since `row.version`.
    pub async fn service_follow(&self, row: &ServiceRow, epoch: Option<i64>) -> Result<bool, DbError> {
        const SQL: &str =
            "UPDATE service SET tag = $3, follows_tag = $4, tag_digest = $5, version = version + 1
            WHERE name = $1 AND version = $2";
        Ok(write!(self, |tx| {
            if let Some(epoch) = epoch {
                let guard = sqlx::query(EPOCH_GUARD).bind(epoch).execute(&mut *tx).await?;
                if guard.rows_affected() == 0 {
                    return Ok(false);
                }
            }
            let done = sqlx::query(SQL)
                .bind(&row.name)
                .bind(row.version)
                .bind(&row.tag)
                .bind(row.follows_tag)
                .bind(&row.tag_digest)
                .execute(&mut *tx)
                .await?;
            done.rows_affected() > 0
        }))
    }

    /// Begins a deployment, ending the one under way: service, revision and deployment in one transaction. Returns
    /// revision and deployment, or `None` when the service or the leader has changed since it was looked at.
    pub async fn deployment_begin(&self, new: &NewDeployment<'_>) -> Result<Option<(i64, i64)>, DbError> {
        const INSERT: &str = "INSERT INTO service
            (name, repository, tag, follows_tag, tag_digest, replicas, version, created_at_ms)
            VALUES ($1, $2, $3, $4, $5, $6, 1, $7) ON CONFLICT (name) DO NOTHING";
        const UPDATE: &str =
            "UPDATE service SET repository = $2, tag = $3, follows_tag = $4, tag_digest = $5,
            replicas = $6, version = version + 1 WHERE name = $1 AND version = $7";
        const NEXT: &str = "SELECT COALESCE(MAX(number), 0) + 1 FROM revision WHERE service = $1";
        const REVISION: &str =
            "INSERT INTO revision (service, number, repository, spec, digest, created_at_ms)
            VALUES ($1, $2, $3, $4, $5, $6)";
        const DEPLOYMENT: &str = "INSERT INTO deployment
            (service, revision, digest, from_revision, from_replicas, cause, state, replicas, created_at_ms)
            VALUES ($1, $2, $3, $4, $5, $6, 'rolling', $7, $8) RETURNING id";
        let service = new.service;
        let now = now_ms();
        Ok(write!(self, |tx| {
            if let Some(epoch) = new.epoch {
                let guard = sqlx::query(EPOCH_GUARD).bind(epoch).execute(&mut *tx).await?;
                if guard.rows_affected() == 0 {
                    return Ok(None);
                }
            }
            let (sql, last) = match service.version {
                0 => (INSERT, now),
                version => (UPDATE, version),
            };
            let written = sqlx::query(sql)
                .bind(&service.name)
                .bind(&service.repository)
                .bind(&service.tag)
                .bind(service.follows_tag)
                .bind(&service.tag_digest)
                .bind(service.replicas)
                .bind(last)
                .execute(&mut *tx)
                .await?;
            if written.rows_affected() == 0 {
                return Ok(None);
            }
            let number = match new.revision {
                RevisionChoice::Existing(number) => number,
                RevisionChoice::New { spec } => {
                    let (number,): (i64,) = sqlx::query_as(NEXT)
                        .bind(&service.name)
                        .fetch_one(&mut *tx)
                        .await?;
                    sqlx::query(REVISION)
                        .bind(&service.name)
                        .bind(number)
                        .bind(&service.repository)
                        .bind(spec)
                        .bind(new.digest)
                        .bind(now)
                        .execute(&mut *tx)
                        .await?;
                    number
                }
            };
            sqlx::query("UPDATE service SET target_revision = $2 WHERE name = $1")
                .bind(&service.name)
                .bind(number)
                .execute(&mut *tx)
                .await?;
            sqlx::query(SUPERSEDE)
                .bind(&service.name)
                .bind("a newer deployment took over")
                .bind(now)
                .execute(&mut *tx)
                .await?;
            let (id,): (i64,) = sqlx::query_as(DEPLOYMENT)
                .bind(&service.name)
                .bind(number)
                .bind(new.digest)
                .bind(new.from.map(|(revision, _)| revision))
                .bind(new.from.map(|(_, replicas)| replicas))
                .bind(new.cause)
                .bind(service.replicas)
                .bind(now)
                .fetch_one(&mut *tx)
                .await?;
            Some((number, id))
        }))
    }

    /// Asks for a service to go: nothing of it should run any more. `false` when there is none.
    pub async fn service_retire(&self, name: &str) -> Result<bool, DbError> {
        const SQL: &str =
            "UPDATE service SET target_revision = NULL, stable_revision = NULL, follows_tag = FALSE,
            version = version + 1 WHERE name = $1 AND target_revision IS NOT NULL";
        Ok(write!(self, |tx| {
            let done = sqlx::query(SQL).bind(name).execute(&mut *tx).await?;
            sqlx::query(SUPERSEDE)
                .bind(name)
                .bind("the service was deleted")
                .bind(now_ms())
                .execute(&mut *tx)
                .await?;
            done.rows_affected() > 0
        }))
    }

    /// Forgets a service of which nothing runs any more.
    pub async fn service_remove(&self, name: &str, version: i64, epoch: i64) -> Result<bool, DbError> {
        Ok(write!(self, |tx| {
            let guard = sqlx::query(EPOCH_GUARD).bind(epoch).execute(&mut *tx).await?;
            if guard.rows_affected() == 0 {
                return Ok(false);
            }
            let done = sqlx::query("DELETE FROM service WHERE name = $1 AND version = $2")
                .bind(name)
                .bind(version)
                .execute(&mut *tx)
                .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            for sql in [
                "DELETE FROM task WHERE service = $1",
                "DELETE FROM revision WHERE service = $1",
            ] {
                sqlx::query(sql).bind(name).execute(&mut *tx).await?;
            }
            true
        }))
    }

    /// A revision of a service.
    pub async fn revision_get(&self, service: &str, number: i64) -> Result<Option<RevisionRow>, DbError> {
        const SQL: &str =
            "SELECT service, number, spec, digest FROM revision WHERE service = $1 AND number = $2";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(service)
            .bind(number)
            .fetch_optional(pool)
            .await?))
    }

    /// Revisions that are wanted, or that tasks are of.
    pub async fn revision_list_used(&self) -> Result<Vec<RevisionRow>, DbError> {
        const SQL: &str = "SELECT r.service, r.number, r.spec, r.digest FROM revision r
            JOIN service s ON s.name = r.service
            WHERE r.number = s.target_revision
            OR EXISTS (SELECT 1 FROM task t WHERE t.service = r.service AND t.revision = r.number)";
        Ok(read!(self, |pool| sqlx::query_as(SQL).fetch_all(pool).await?))
    }

    /// The last revision before `before` that a deployment brought and kept.
    pub async fn revision_good_before(&self, service: &str, before: i64) -> Result<Option<i64>, DbError> {
        const SQL: &str = "SELECT MAX(revision) FROM deployment d WHERE service = $1 AND revision < $2
            AND state = 'succeeded'
            AND EXISTS (SELECT 1 FROM revision r WHERE r.service = d.service AND r.number = d.revision)";
        let (number,): (Option<i64>,) = read!(self, |pool| sqlx::query_as(SQL)
            .bind(service)
            .bind(before)
            .fetch_one(pool)
            .await?);
        Ok(number)
    }

    /// Up to `limit` deployments, newest first: of one service, or of all.
    pub async fn deployment_list(
        &self,
        service: Option<&str>,
        limit: i64,
    ) -> Result<Vec<DeploymentRow>, DbError> {
        Ok(read!(self, |pool| sqlx::query_as(DEPLOYMENT)
            .bind(service.unwrap_or_default())
            .bind(0_i64)
            .bind(limit)
            .fetch_all(pool)
            .await?))
    }

    /// One deployment.
    pub async fn deployment_get(&self, id: i64) -> Result<Option<DeploymentRow>, DbError> {
        if id == 0 {
            return Ok(None);
        }
        Ok(read!(self, |pool| sqlx::query_as(DEPLOYMENT)
            .bind("")
            .bind(id)
            .bind(1_i64)
            .fetch_optional(pool)
            .await?))
    }

    /// Deployments that have not ended.
    pub async fn deployment_list_active(&self) -> Result<Vec<DeploymentRow>, DbError> {
        const SQL: &str =
            "SELECT id, service, revision, digest, from_revision, from_replicas, cause, state, replicas,
            reason, created_at_ms, finished_at_ms, CAST(0 AS BIGINT) AS ready
            FROM deployment WHERE finished_at_ms IS NULL";
        Ok(read!(self, |pool| sqlx::query_as(SQL).fetch_all(pool).await?))
    }

    /// The deployment that last brought `digest` to a service.
    pub async fn deployment_last_of(
        &self,
        service: &str,
        digest: &str,
    ) -> Result<Option<(i64, String)>, DbError> {
        const SQL: &str = "SELECT id, state FROM deployment WHERE service = $1 AND digest = $2
            ORDER BY id DESC LIMIT 1";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(service)
            .bind(digest)
            .fetch_optional(pool)
            .await?))
    }

    /// Followed tags that name something else than when they were last looked at.
    pub async fn tag_drifts(&self) -> Result<Vec<TagDrift>, DbError> {
        const SQL: &str = "SELECT s.name AS service, t.digest FROM service s
            JOIN tag t ON t.repository = s.repository AND t.name = s.tag
            WHERE s.follows_tag AND s.target_revision IS NOT NULL
            AND (s.tag_digest IS NULL OR s.tag_digest <> t.digest)";
        Ok(read!(self, |pool| sqlx::query_as(SQL).fetch_all(pool).await?))
    }
}

const SUPERSEDE: &str = "UPDATE deployment SET state = 'superseded', reason = $2, finished_at_ms = $3
    WHERE service = $1 AND finished_at_ms IS NULL";
