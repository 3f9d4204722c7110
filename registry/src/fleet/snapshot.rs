//! What the planner sees: rows of the database and the assessment of nodes, read at the start of a round.

use std::collections::HashMap;
use std::time::Instant;

use api::{PortMapping, ServiceSpec};

use super::plan::{ActiveDeployment, NodeView, ServiceView, TargetRevision, TaskView};
use super::{Fleet, FleetError, count, json, signed, unsigned, word};
use crate::db::{DbError, DeploymentRow, ServiceRow, TaskRow};

/// A service with what is needed to write its plan.
#[derive(Debug)]
pub(super) struct Planned {
    pub row: ServiceRow,
    pub view: ServiceView,
    pub deployment: Option<DeploymentRow>,
    /// When something was last planned for or heard of one of its tasks.
    pub moved_at_ms: i64,
}

/// Everything that one round of planning looks at.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub services: Vec<Planned>,
    pub tasks: Vec<TaskView>,
    pub nodes: Vec<NodeView>,
}

impl Fleet {
    /// Reads a snapshot. Rows are read one table after the other; what changes in between is caught by the versions
    /// that a plan is written with, or is a report, which the next round sees.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, FleetError> {
        let db = &self.0.db;
        let nodes = db.node_list().await?;
        let services = db.service_list().await?;
        let mut active: HashMap<_, _> = db
            .deployment_list_active()
            .await?
            .into_iter()
            .map(|d| (d.service.clone(), d))
            .collect();
        let tasks = db.task_list(None).await?;
        let mut revisions = HashMap::new();
        for row in db.revision_list_used().await? {
            let spec: ServiceSpec = json("spec", &row.spec)?;
            revisions.insert((row.service, row.number), spec);
        }
        let ids: Vec<&str> = nodes.iter().map(|n| n.id.as_str()).collect();
        let assessed = self.liveness().assess(&ids, Instant::now());
        let nodes = nodes.iter().zip(assessed).map(|(row, assessment)| NodeView {
            id: row.id.clone(),
            name: row.name.clone(),
            is_ready: assessment.is_ready,
            is_down: assessment.is_down,
        });
        let mut moved: HashMap<&str, i64> = HashMap::new();
        for task in &tasks {
            let at = moved.entry(&task.service).or_default();
            *at = task.updated_at_ms.max(*at);
        }
        let mut planned = Vec::new();
        for row in services {
            let deployment = active.remove(&row.name);
            let target = row.target_revision.and_then(|number| {
                let spec = revisions.get(&(row.name.clone(), number))?;
                Some(TargetRevision {
                    number: unsigned(number),
                    ports: spec.ports.clone(),
                    ready_deadline_ms: signed(spec.ready_deadline_ms),
                })
            });
            if target.is_none() && row.target_revision.is_some() {
                // It was deployed anew between the two looks; nothing may be stopped for that.
                continue;
            }
            let view = ServiceView {
                name: DbError::parse("service name", &row.name)?,
                replicas: count(row.replicas),
                target,
                deployment: deployment.as_ref().map(|d| ActiveDeployment {
                    id: unsigned(d.id),
                    is_rolling_back: d.state == api::DeploymentState::RollingBack.as_str(),
                    from_revision: d.from_revision.map(unsigned),
                }),
            };
            planned.push(Planned {
                moved_at_ms: moved.get(row.name.as_str()).copied().unwrap_or(0),
                row,
                view,
                deployment,
            });
        }
        let task_views = tasks.iter().map(|task| {
            let spec = revisions.get(&(task.service.clone(), task.revision));
            task_view(task, spec.map(|s| s.ports.clone()).unwrap_or_default())
        });
        Ok(Snapshot {
            services: planned,
            tasks: task_views.collect::<Result<_, _>>()?,
            nodes: nodes.collect(),
        })
    }
}

fn task_view(row: &TaskRow, ports: Vec<PortMapping>) -> Result<TaskView, DbError> {
    Ok(TaskView {
        id: row.id.clone(),
        service: DbError::parse("service name", &row.service)?,
        slot: count(row.slot),
        revision: unsigned(row.revision),
        node_id: row.node_id.clone(),
        desired: word("desired", &row.desired)?,
        state: word("state of a task", &row.state)?,
        attempt: count(row.attempt),
        starting_at_ms: row.starting_at_ms,
        reason: row.reason.clone(),
        ports,
    })
}
