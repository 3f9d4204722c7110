//! Tasks: what the planner writes, what nodes are told, and what they report.

use super::{EPOCH_GUARD, GENERATION_BUMP};
use crate::db::{Db, DbError, now_ms, read, write};

/// A task that is wanted or of which something may be left.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct TaskRow {
    /// Identifier.
    pub id: String,
    /// Service.
    pub service: String,
    /// Copy, from 1.
    pub slot: i64,
    /// Revision.
    pub revision: i64,
    /// Where it is.
    pub node_id: String,
    /// Name of that node.
    pub node: String,
    /// `DesiredTask` as on the wire.
    pub desired: String,
    /// `TaskState` as on the wire.
    pub state: String,
    /// Starts so far.
    pub attempt: i64,
    /// Container on the node.
    pub container_id: Option<String>,
    /// When its process started, by the node's clock.
    pub started_at_ms: Option<i64>,
    /// When it was first seen starting, by the server's clock.
    pub starting_at_ms: Option<i64>,
    /// Last exit code.
    pub exit_code: Option<i64>,
    /// Why it is in its state.
    pub reason: Option<String>,
    /// When it was last planned for or reported of.
    pub updated_at_ms: i64,
}

/// A line of a node's document: the node's versions, and one task unless there is none.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct AssignmentRow {
    /// Epoch of the cluster.
    pub epoch: i64,
    /// Generation of the node.
    pub generation: i64,
    /// Identifier of the task.
    pub id: Option<String>,
    /// Service.
    pub service: Option<String>,
    /// Copy.
    pub slot: Option<i64>,
    /// Revision.
    pub revision: Option<i64>,
    /// What the node should do.
    pub desired: Option<String>,
    /// `ServiceSpec` as JSON.
    pub spec: Option<String>,
    /// Digest of the image.
    pub digest: Option<String>,
}

/// A task to create.
#[derive(Clone, Debug)]
pub struct NewTaskRow {
    /// Identifier.
    pub id: String,
    /// Copy.
    pub slot: i64,
    /// Revision.
    pub revision: i64,
    /// Node.
    pub node_id: String,
}

/// A step of a deployment to write.
#[derive(Clone, Debug)]
pub struct DeploymentStep {
    /// The deployment.
    pub id: i64,
    /// `DeploymentState` as on the wire.
    pub state: &'static str,
    /// Whether it has ended.
    pub is_final: bool,
    /// Why; `None` keeps what there is.
    pub reason: Option<String>,
    /// Revision and copies that are wanted from now on, where that changes.
    pub target: Option<(i64, i64)>,
    /// Revision that is known to run well from now on.
    pub stable: Option<i64>,
}

/// What the planner writes for one service.
#[derive(Clone, Debug)]
pub struct PlanWrite<'a> {
    /// The service.
    pub service: &'a str,
    /// Its version that was planned for.
    pub version: i64,
    /// The epoch that was planned in.
    pub epoch: i64,
    /// Tasks to create.
    pub create: &'a [NewTaskRow],
    /// Tasks to stop.
    pub stop: &'a [String],
    /// How its deployment goes on.
    pub step: Option<&'a DeploymentStep>,
}

/// An observation of a task.
#[derive(Clone, Debug)]
pub struct ReportRow<'a> {
    /// The task.
    pub id: &'a str,
    /// Grows with every report of the task.
    pub sequence: i64,
    /// `TaskState` as on the wire.
    pub state: &'static str,
    /// Whether its first start has begun.
    pub has_started: bool,
    /// Starts so far.
    pub attempt: i64,
    /// Container on the node.
    pub container_id: Option<&'a str>,
    /// When its process started.
    pub started_at_ms: Option<i64>,
    /// Last exit code.
    pub exit_code: Option<i64>,
    /// Why it is in its state.
    pub reason: Option<&'a str>,
}

impl Db {
    /// Tasks that are wanted or of which something may be left: of one service, or of all.
    pub async fn task_list(&self, service: Option<&str>) -> Result<Vec<TaskRow>, DbError> {
        const SQL: &str = "SELECT t.id, t.service, t.slot, t.revision, t.node_id, n.name AS node, t.desired, t.state,
            t.attempt, t.container_id, t.started_at_ms, t.starting_at_ms, t.exit_code, t.reason, t.updated_at_ms
            FROM task t JOIN node n ON n.id = t.node_id
            WHERE ($1 = '' OR t.service = $1)
            AND NOT (t.desired = 'stop' AND t.state IN ('stopped', 'failed', 'rejected'))
            ORDER BY t.service, t.slot, t.created_at_ms, t.id";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(service.unwrap_or_default())
            .fetch_all(pool)
            .await?))
    }

    /// Everything that a node should do, with the versions it is of, seen at one moment. Empty when there is no such
    /// node; one row without a task when there is nothing to do.
    pub async fn assignment_list(&self, node_id: &str) -> Result<Vec<AssignmentRow>, DbError> {
        const SQL: &str =
            "SELECT c.epoch, n.generation, t.id, t.service, t.slot, t.revision, t.desired, r.spec,
            r.digest
            FROM node n CROSS JOIN cluster c
            LEFT JOIN task t ON t.node_id = n.id
                AND NOT (t.desired = 'stop' AND t.state IN ('stopped', 'failed', 'rejected'))
            LEFT JOIN revision r ON r.service = t.service AND r.number = t.revision
            WHERE n.id = $1 ORDER BY t.id";
        Ok(read!(self, |pool| sqlx::query_as(SQL)
            .bind(node_id)
            .fetch_all(pool)
            .await?))
    }

    /// Writes a plan and raises the generations of the nodes that it touches; returns these nodes, or `None` when
    /// the service or the leader has changed since it was planned.
    pub async fn plan_write(&self, plan: &PlanWrite<'_>) -> Result<Option<Vec<String>>, DbError> {
        const VERSION: &str = "UPDATE service SET version = version + 1 WHERE name = $1 AND version = $2";
        const CREATE: &str = "INSERT INTO task
            (id, service, slot, revision, node_id, desired, state, attempt, sequence, created_at_ms, updated_at_ms)
            VALUES ($1, $2, $3, $4, $5, 'run', 'assigned', 0, 0, $6, $6)";
        const STOP: &str = "UPDATE task SET desired = 'stop', updated_at_ms = $2
            WHERE id = $1 AND desired <> 'stop' RETURNING node_id";
        const STEP: &str =
            "UPDATE deployment SET state = $2, reason = COALESCE($3, reason), finished_at_ms = $4
            WHERE id = $1 AND finished_at_ms IS NULL";
        const TARGET: &str = "UPDATE service SET target_revision = $2, replicas = $3 WHERE name = $1";
        const STABLE: &str = "UPDATE service SET stable_revision = $2 WHERE name = $1";
        let now = now_ms();
        Ok(write!(self, |tx| {
            let guard = sqlx::query(EPOCH_GUARD)
                .bind(plan.epoch)
                .execute(&mut *tx)
                .await?;
            if guard.rows_affected() == 0 {
                return Ok(None);
            }
            let version = sqlx::query(VERSION)
                .bind(plan.service)
                .bind(plan.version)
                .execute(&mut *tx)
                .await?;
            if version.rows_affected() == 0 {
                return Ok(None);
            }
            let mut touched: Vec<String> = plan.create.iter().map(|task| task.node_id.clone()).collect();
            for id in plan.stop {
                let row: Option<(String,)> = sqlx::query_as(STOP)
                    .bind(id)
                    .bind(now)
                    .fetch_optional(&mut *tx)
                    .await?;
                touched.extend(row.map(|(node,)| node));
            }
            // In one order everywhere, so that two transactions never wait for each other.
            touched.sort();
            touched.dedup();
            for node in &touched {
                let bumped = sqlx::query(GENERATION_BUMP).bind(node).execute(&mut *tx).await?;
                if bumped.rows_affected() == 0 {
                    // The node was removed after the plan was made.
                    return Ok(None);
                }
            }
            for task in plan.create {
                sqlx::query(CREATE)
                    .bind(&task.id)
                    .bind(plan.service)
                    .bind(task.slot)
                    .bind(task.revision)
                    .bind(&task.node_id)
                    .bind(now)
                    .execute(&mut *tx)
                    .await?;
            }
            if let Some(step) = plan.step {
                sqlx::query(STEP)
                    .bind(step.id)
                    .bind(step.state)
                    .bind(&step.reason)
                    .bind(step.is_final.then_some(now))
                    .execute(&mut *tx)
                    .await?;
                if let Some((revision, replicas)) = step.target {
                    sqlx::query(TARGET)
                        .bind(plan.service)
                        .bind(revision)
                        .bind(replicas)
                        .execute(&mut *tx)
                        .await?;
                }
                if let Some(stable) = step.stable {
                    sqlx::query(STABLE)
                        .bind(plan.service)
                        .bind(stable)
                        .execute(&mut *tx)
                        .await?;
                }
            }
            Some(touched)
        }))
    }

    /// Takes over what a node reports of its own tasks, the newest of each; what is older than what is known, or of
    /// tasks of other nodes, changes nothing. Returns whether anything changed, and whether the node's document did,
    /// since tasks that have ended as wished leave it.
    pub async fn task_report(
        &self,
        node_id: &str,
        reports: &[ReportRow<'_>],
    ) -> Result<(bool, bool), DbError> {
        const SQL: &str = "UPDATE task SET sequence = $3, state = $4, attempt = $5, container_id = $6,
            started_at_ms = $7, exit_code = $8, reason = $9, updated_at_ms = $10,
            starting_at_ms = CASE WHEN $11 THEN COALESCE(starting_at_ms, $10) ELSE starting_at_ms END
            WHERE id = $1 AND node_id = $2 AND sequence < $3
            RETURNING (desired = 'stop' AND state IN ('stopped', 'failed', 'rejected'))";
        let now = now_ms();
        Ok(write!(self, |tx| {
            let mut is_changed = false;
            let mut has_left = false;
            for report in reports {
                let row: Option<(bool,)> = sqlx::query_as(SQL)
                    .bind(report.id)
                    .bind(node_id)
                    .bind(report.sequence)
                    .bind(report.state)
                    .bind(report.attempt)
                    .bind(report.container_id)
                    .bind(report.started_at_ms)
                    .bind(report.exit_code)
                    .bind(report.reason)
                    .bind(now)
                    .bind(report.has_started)
                    .fetch_optional(&mut *tx)
                    .await?;
                is_changed |= row.is_some();
                has_left |= row.is_some_and(|(is_gone,)| is_gone);
            }
            if has_left {
                sqlx::query(GENERATION_BUMP)
                    .bind(node_id)
                    .execute(&mut *tx)
                    .await?;
            }
            (is_changed, has_left)
        }))
    }

    /// Forgets tasks that ended as wished before `before_ms`; returns how many.
    pub async fn task_prune(&self, before_ms: i64) -> Result<u64, DbError> {
        const SQL: &str =
            "DELETE FROM task WHERE desired = 'stop' AND state IN ('stopped', 'failed', 'rejected')
            AND updated_at_ms < $1";
        Ok(write!(self, |tx| sqlx::query(SQL)
            .bind(before_ms)
            .execute(&mut *tx)
            .await?
            .rows_affected()))
    }
}
