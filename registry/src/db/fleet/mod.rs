//! Rows of the fleet: the cluster and its lease, nodes, services with revisions and deployments, tasks.
//!
//! Whatever changes the tasks of a node raises its generation in the same transaction. Writes of the planner name the
//! epoch they were planned in and the version of the service they saw; when either has moved on, nothing is written.

mod cluster;
#[cfg(test)]
pub(super) mod contract;
mod nodes;
mod services;
mod tasks;

pub use nodes::{Joining, NodeRow};
pub use services::{DeploymentRow, NewDeployment, RevisionChoice, RevisionRow, ServiceRow, TagDrift};
pub use tasks::{AssignmentRow, DeploymentStep, NewTaskRow, PlanWrite, ReportRow, TaskRow};

/// Raises the generation of a node; for use inside a caller's transaction.
const GENERATION_BUMP: &str = "UPDATE node SET generation = generation + 1 WHERE id = $1";

/// Changes one row if the planner's epoch still holds, and keeps others from taking over until the caller's
/// transaction ends.
const EPOCH_GUARD: &str = "UPDATE cluster SET epoch = epoch WHERE epoch = $1";
