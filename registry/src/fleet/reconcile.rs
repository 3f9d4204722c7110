//! The reconciler: one task in one process that compares what is with what should be, and writes the next step.
//!
//! It is woken by every change and by a timer, has no input and keeps nothing between two passes that it could not
//! lose: a crash at any point is repaired by the next pass, of this process or of another. Whoever holds the lease
//! plans; every write names the lease's epoch, so one who lost it without noticing writes nothing.

use std::time::{Duration, Instant};

use api::{DeploymentState, DesiredTask, NodeStatus, TaskState};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::plan::{Outcome, Plan, TaskView, plan};
use super::snapshot::{Planned, Snapshot};
use super::{Fleet, FleetError, signed};
use crate::app::TagMoved;
use crate::db::{DeploymentRow, DeploymentStep, NewTaskRow, PlanWrite, now_ms};

/// How often nodes and leases are looked at.
const TICK: Duration = Duration::from_secs(1);
/// The longest time between two passes.
const PASS: Duration = Duration::from_secs(5);
/// The shortest time between two passes, so that a burst of reports is one.
const GAP: Duration = Duration::from_millis(20);
/// How often a lease is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// How often old rows are removed, and how old they are.
const PRUNE: Duration = Duration::from_secs(60);
const PRUNE_AGE_MS: i64 = 3600 * 1000;
/// Rounds of one pass: a step makes the next one possible.
const ROUNDS: usize = 8;
/// How long a deployment may stand still.
const STANDSTILL_MS: i64 = 10 * 60 * 1000;

/// What the reconciler knows between two passes.
#[derive(Debug)]
struct Leader {
    holder: String,
    epoch: Option<i64>,
    has_led: bool,
    renewed: Instant,
    passed: Option<Instant>,
    pruned: Instant,
    is_busy: bool,
    has_failed: bool,
    statuses: Vec<(String, NodeStatus)>,
}

impl Fleet {
    /// Reconciles until the server stops. Moves of tags only wake it: what they mean is read from the database, so a
    /// move that was missed costs at most a few seconds.
    pub async fn run(self, mut tag_moves: broadcast::Receiver<TagMoved>) {
        let now = Instant::now();
        let mut leader = Leader {
            holder: Uuid::new_v4().to_string(),
            epoch: None,
            has_led: false,
            renewed: now,
            passed: None,
            pruned: now,
            is_busy: false,
            has_failed: false,
            statuses: Vec::new(),
        };
        let mut is_woken = true;
        while !self.0.stopping.is_cancelled() {
            match self.turn(&mut leader, is_woken).await {
                Ok(()) => leader.has_failed = false,
                Err(error) => {
                    leader.has_failed = true;
                    tracing::warn!(error = chain(&error), "the fleet cannot be reconciled now");
                }
            }
            // All are cancel safe: a wake-up that is not taken here is kept.
            is_woken = tokio::select! {
                () = self.0.stopping.cancelled() => break,
                () = tokio::time::sleep(TICK) => false,
                () = self.0.wake.notified() => true,
                moved = tag_moves.recv() => !matches!(moved, Err(broadcast::error::RecvError::Closed)),
            };
            if is_woken {
                tokio::time::sleep(GAP).await;
            }
        }
        if let Some(epoch) = leader.epoch
            && let Err(error) = self.0.db.lease_release(epoch).await
        {
            tracing::warn!(%error, "the lease could not be given back; it ends by itself");
        }
    }

    async fn turn(&self, leader: &mut Leader, is_woken: bool) -> Result<(), FleetError> {
        let Some(epoch) = self.lead(leader).await? else {
            return Ok(());
        };
        if leader.has_failed {
            // While the database was away, beats could not be taken either.
            self.liveness().reset(Instant::now());
        }
        let statuses = self.statuses(&leader.statuses);
        let is_due = is_woken
            || leader.is_busy
            || statuses != leader.statuses
            || leader.passed.is_none_or(|at| at.elapsed() >= PASS);
        if !is_due {
            return Ok(());
        }
        let snapshot = self.pass(epoch).await?;
        leader.is_busy = snapshot.services.iter().any(|s| s.deployment.is_some());
        let ids = snapshot
            .nodes
            .into_iter()
            .map(|n| (n.id, NodeStatus::Ready))
            .collect::<Vec<_>>();
        leader.statuses = self.statuses(&ids);
        leader.passed = Some(Instant::now());
        if leader.pruned.elapsed() >= PRUNE {
            self.0.db.task_prune(now_ms() - PRUNE_AGE_MS).await?;
            leader.pruned = Instant::now();
        }
        Ok(())
    }

    fn statuses(&self, nodes: &[(String, NodeStatus)]) -> Vec<(String, NodeStatus)> {
        let now = Instant::now();
        let liveness = self.liveness();
        nodes
            .iter()
            .map(|(id, _)| (id.clone(), liveness.shown(id, now)))
            .collect()
    }

    /// The epoch of the lease, if this process holds it or can take it.
    async fn lead(&self, leader: &mut Leader) -> Result<Option<i64>, FleetError> {
        if let Some(epoch) = leader.epoch {
            if leader.renewed.elapsed() < RENEW {
                return Ok(Some(epoch));
            }
            if self.0.db.lease_renew(epoch).await? {
                leader.renewed = Instant::now();
                return Ok(Some(epoch));
            }
            tracing::warn!(epoch, "another process has taken over the planning of the fleet");
            leader.epoch = None;
            return Ok(None);
        }
        if leader.has_led && !self.0.db.is_shared() {
            // Two processes on one file would take the lease from each other without end.
            return Ok(None);
        }
        let before = Instant::now();
        leader.epoch = self.0.db.lease_take(&leader.holder).await?;
        if let Some(epoch) = leader.epoch {
            tracing::info!(epoch, "this process plans the fleet, epoch {epoch}");
            leader.has_led = true;
            leader.renewed = before;
            self.liveness().reset(before);
        }
        Ok(leader.epoch)
    }

    /// One pass: follows tags, then plans every service until nothing more is to be written. Returns what it saw
    /// last.
    pub(super) async fn pass(&self, epoch: i64) -> Result<Snapshot, FleetError> {
        for drift in self.0.db.tag_drifts().await? {
            self.follow(&drift, epoch).await?;
        }
        let mut snapshot = self.snapshot().await?;
        for _ in 0..ROUNDS {
            if !self.round(&mut snapshot, epoch).await? {
                break;
            }
            snapshot = self.snapshot().await?;
        }
        Ok(snapshot)
    }

    /// Plans every service once; whether anything was written or has changed meanwhile.
    async fn round(&self, snapshot: &mut Snapshot, epoch: i64) -> Result<bool, FleetError> {
        let mut is_changed = false;
        let Snapshot {
            services,
            tasks,
            nodes,
        } = snapshot;
        for service in services {
            let now = now_ms();
            let mut planned = plan(&service.view, tasks, nodes, now);
            if let Some(outcome) = standstill(service, &planned, now) {
                planned.outcome = Some(outcome);
            }
            if service.row.target_revision.is_none()
                && planned == Plan::default()
                && !tasks.iter().any(|t| t.service == service.view.name)
            {
                let is_removed = self
                    .0
                    .db
                    .service_remove(&service.row.name, service.row.version, epoch)
                    .await?;
                if is_removed {
                    tracing::info!("service {} is gone", service.view.name);
                }
                continue;
            }
            if planned == Plan::default() {
                continue;
            }
            is_changed = true;
            self.write(service, &planned, tasks, epoch).await?;
        }
        Ok(is_changed)
    }

    /// Writes the plan of one service and keeps `tasks` in step, for the services that are planned after it.
    async fn write(
        &self,
        service: &Planned,
        planned: &Plan,
        tasks: &mut Vec<TaskView>,
        epoch: i64,
    ) -> Result<(), FleetError> {
        let revision = service.view.target.as_ref().map_or(0, |t| t.number);
        let create: Vec<NewTaskRow> = planned
            .create
            .iter()
            .map(|task| NewTaskRow {
                id: Uuid::now_v7().simple().to_string(),
                slot: i64::from(task.slot),
                revision: signed(revision),
                node_id: task.node_id.clone(),
            })
            .collect();
        let step = match (&service.deployment, &planned.outcome) {
            (Some(deployment), Some(outcome)) => Some(step(deployment, outcome)),
            _ => None,
        };
        let write = PlanWrite {
            service: &service.row.name,
            version: service.row.version,
            epoch,
            create: &create,
            stop: &planned.stop,
            step: step.as_ref(),
        };
        let Some(touched) = self.0.db.plan_write(&write).await? else {
            tracing::debug!("{} has changed since it was planned", service.view.name);
            return Ok(());
        };
        touched.iter().for_each(|node| self.0.channels.changed(node));
        if let Some(step) = &step {
            let (name, id) = (&service.view.name, step.id);
            let reason = step.reason.as_deref().unwrap_or("all copies are as wanted");
            tracing::info!(
                deployment_id = id,
                "deployment {id} of {name} is {}: {reason}",
                step.state
            );
        }
        for task in tasks.iter_mut().filter(|t| planned.stop.contains(&t.id)) {
            task.desired = DesiredTask::Stop;
        }
        let ports = service
            .view
            .target
            .as_ref()
            .map(|t| t.ports.clone())
            .unwrap_or_default();
        tasks.extend(planned.create.iter().zip(&create).map(|(task, row)| TaskView {
            id: row.id.clone(),
            service: service.view.name.clone(),
            slot: task.slot,
            revision,
            node_id: task.node_id.clone(),
            desired: DesiredTask::Run,
            state: TaskState::Assigned,
            attempt: 0,
            starting_at_ms: None,
            reason: None,
            ports: ports.clone(),
        }));
        Ok(())
    }
}

/// Ends a deployment that stands still: nothing was planned for it or heard of its tasks for long, as when a node is
/// gone without being replaceable, or an image never arrives.
fn standstill(service: &Planned, planned: &Plan, now_ms: i64) -> Option<Outcome> {
    let deployment = service.deployment.as_ref()?;
    let moved_at_ms = service.moved_at_ms.max(deployment.created_at_ms);
    let is_still = *planned == Plan::default() && now_ms - moved_at_ms > STANDSTILL_MS;
    is_still.then(|| Outcome::Failed {
        reason: format!(
            "nothing was heard of its tasks for {} minutes",
            STANDSTILL_MS / 60_000
        ),
    })
}

/// What the planner's verdict makes of a deployment: it goes back once, and never back from going back.
fn step(deployment: &DeploymentRow, outcome: &Outcome) -> DeploymentStep {
    let is_rolling_back = deployment.state == DeploymentState::RollingBack.as_str();
    let way_back = deployment.from_revision.zip(deployment.from_replicas);
    let is_elsewhere = way_back.is_some_and(|way| way != (deployment.revision, deployment.replicas));
    let (state, reason, target, stable) = match outcome {
        Outcome::Done if is_rolling_back => (DeploymentState::RolledBack, None, None, None),
        Outcome::Done => (DeploymentState::Succeeded, None, None, Some(deployment.revision)),
        Outcome::Failed { reason } if is_rolling_back => {
            let first = deployment.reason.as_deref().unwrap_or("it failed");
            let reason = format!("{first}; going back did not work either: {reason}");
            (DeploymentState::Failed, Some(reason), None, None)
        }
        Outcome::Failed { reason } if is_elsewhere => {
            (DeploymentState::RollingBack, Some(reason.clone()), way_back, None)
        }
        Outcome::Failed { reason } => (DeploymentState::Failed, Some(reason.clone()), None, None),
    };
    DeploymentStep {
        id: deployment.id,
        state: state.as_str(),
        is_final: state.is_final(),
        reason,
        target,
        stable,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain = format!("{chain}: {cause}");
        source = cause.source();
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(state: &str, from: Option<(i64, i64)>) -> DeploymentRow {
        DeploymentRow {
            id: 1,
            service: "acme/web".to_owned(),
            revision: 2,
            digest: String::new(),
            from_revision: from.map(|f| f.0),
            from_replicas: from.map(|f| f.1),
            cause: "command".to_owned(),
            state: state.to_owned(),
            replicas: 3,
            reason: Some("first".to_owned()),
            created_at_ms: 0,
            finished_at_ms: None,
            ready: 0,
        }
    }

    fn failed() -> Outcome {
        Outcome::Failed {
            reason: "why".to_owned(),
        }
    }

    #[test]
    fn a_failed_deployment_goes_back_once() {
        let first = step(&deployment("rolling", Some((1, 2))), &failed());
        assert_eq!(
            (first.state, first.is_final, first.target),
            ("rolling_back", false, Some((1, 2)))
        );
        let second = step(&deployment("rolling_back", Some((1, 2))), &failed());
        assert_eq!(
            (second.state, second.is_final, second.target),
            ("failed", true, None)
        );
        let reason = second.reason.unwrap();
        assert!(reason.contains("first") && reason.contains("why"), "{reason}");
    }

    #[test]
    fn without_another_revision_it_fails_where_it_is() {
        for from in [None, Some((2, 3))] {
            let step = step(&deployment("rolling", from), &failed());
            assert_eq!((step.state, step.target), ("failed", None), "{from:?}");
        }
    }

    #[test]
    fn only_a_success_makes_a_revision_stable() {
        assert_eq!(step(&deployment("rolling", None), &Outcome::Done).stable, Some(2));
        let back = step(&deployment("rolling_back", Some((1, 1))), &Outcome::Done);
        assert_eq!((back.state, back.stable), ("rolled_back", None));
    }
}
