//! Tasks: one copy of a service on one node. The server makes and moves them, the agent keeps them alive.

use std::collections::BTreeMap;

use oci::{Digest, RepositoryName};
use serde::{Deserialize, Serialize};

use crate::service::{ContainerSpec, PortMapping, Resources, RestartPolicy, ServiceName};

/// What a node must do with a task. Part of [`crate::DesiredState`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskAssignment {
    /// Identifier, unique in the cluster: lower-case letters, digits and `-`, at most 40 bytes.
    pub id: String,
    /// Service that it is a copy of.
    pub service: ServiceName,
    /// Which copy, from 1.
    pub slot: u32,
    /// Revision of the service.
    pub revision: u64,
    /// What the node must do.
    pub desired: DesiredTask,
    /// What to run, by digest.
    pub image: PinnedImage,
    /// How to run it.
    pub container: ContainerSpec,
    /// Ports to publish. A host port belongs to the service on that node, not to one container: it is bound once
    /// the task is ready, and when a task of the same service already holds it, it is re-pointed to this one in
    /// one step, so that a newer revision takes over without a refused connection. Readiness is therefore probed
    /// on the container's own address. A port held by anybody else rejects the task, naming the holder.
    pub ports: Vec<PortMapping>,
    /// Limits.
    pub resources: Resources,
    /// What to do when it exits by itself.
    pub restart: RestartPolicy,
    /// Time between SIGTERM and SIGKILL.
    pub stop_grace_ms: u64,
    /// How long it must stay up to count as ready.
    pub min_ready_ms: u64,
}

/// An image by digest in this cluster's registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// Repository.
    pub repository: RepositoryName,
    /// Digest of the manifest or index.
    pub digest: Digest,
}

/// The server's wish for one task. A task that is absent from the document is removed once stopped; absence of
/// the document itself changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredTask {
    /// Pull, verify and unpack, but do not start.
    Prepare,
    /// Run it.
    Run,
    /// Stop and remove it.
    Stop,
}

/// What a task is observed to be. The order is monotonic per attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Known to the server, not yet to the node.
    Assigned,
    /// The image is on its way.
    Pulling,
    /// Everything is there; not started.
    Prepared,
    /// Being started.
    Starting,
    /// Its process runs.
    Running,
    /// It runs and answers.
    Ready,
    /// Waiting before the next attempt after an exit.
    Backoff,
    /// Told to end.
    Stopping,
    /// Ended as wished.
    Stopped,
    /// Ended otherwise and will not be tried again.
    Failed,
    /// The node cannot run it: reason says why.
    Rejected,
}

impl TaskState {
    /// Whether nothing of the task is left to stop.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed | Self::Rejected)
    }

    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Pulling => "pulling",
            Self::Prepared => "prepared",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Backoff => "backoff",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
        }
    }
}

/// One observation of a task by its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task_id: String,
    /// Starts of the container so far, from 1; 0 before the first.
    pub attempt: u32,
    /// Grows with every report of this task; the server keeps the highest.
    pub sequence: u64,
    /// Its state.
    pub state: TaskState,
    /// Id of the container on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// When the container's process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<i64>,
    /// Exit code of the last attempt; 128 + signal where a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it is in this state, for people: the error, the out-of-memory kill, the last log lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A task as listed by `GET /api/v1/tasks` (`pierhead ps`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// Identifier.
    pub id: String,
    /// Service.
    pub service: ServiceName,
    /// Which copy.
    pub slot: u32,
    /// Revision.
    pub revision: u64,
    /// Image.
    pub image: PinnedImage,
    /// Name of the node.
    pub node: String,
    /// The server's wish.
    pub desired: DesiredTask,
    /// Last observation.
    pub state: TaskState,
    /// Starts so far.
    pub attempt: u32,
    /// Container on the node.
    pub container_id: Option<String>,
    /// When the process started.
    pub started_at_ms: Option<i64>,
    /// Last exit code.
    pub exit_code: Option<i32>,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Labels of its container.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}
