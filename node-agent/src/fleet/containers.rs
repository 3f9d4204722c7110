//! The seam between deciding about tasks and running containers, so that the decisions can be tested alone.

use std::net::Ipv4Addr;
use std::time::Duration;

use api::{PinnedImage, TaskAssignment};
use runtime::container::ContainerId;

/// Why something could not be done with a container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// Doing it again on this node would not help.
    #[error("{0}")]
    Refused(String),
    /// It may work another time.
    #[error("{0}")]
    Failed(String),
}

/// A task's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: ContainerId,
    /// When it was created; orders the containers of one service.
    pub(super) created_at_ms: i64,
    pub(super) phase: Phase,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Never started.
    Created,
    /// Its process runs.
    Running {
        /// When it started.
        started_at_ms: i64,
        /// For how long it has.
        uptime: Duration,
        /// Where it is reached.
        address: Option<Ipv4Addr>,
    },
    /// Its process has ended.
    Exited(Ended),
}

/// How a container's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// 128 + signal where a signal ended it.
    pub(super) exit_code: i32,
    /// Why, for people.
    pub(super) reason: String,
}

/// What tasks need of containers. Calls for one task do not overlap; each runs to its end even when its future is
/// dropped, except [`Self::pull`], which is given up, and [`Self::wait`] and [`Self::is_answering`], which change
/// nothing.
pub(super) trait Containers: Clone + Send + Sync + 'static {
    /// Brings the image onto the node; returns at once when it is there.
    fn pull(&self, image: &PinnedImage) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// The container of a task.
    fn find(&self, task_id: &str) -> impl Future<Output = Option<Found>> + Send;

    /// Every container of a task: the task's id and whether it runs.
    fn of_tasks(&self) -> impl Future<Output = Vec<(String, bool)>> + Send;

    /// Makes the task's container.
    fn create(&self, task: &TaskAssignment) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Starts a container, also again.
    fn start(&self, id: &ContainerId) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Waits for the end of a running container; `None` when there is none any more.
    fn wait(&self, id: &ContainerId) -> impl Future<Output = Option<Ended>> + Send;

    /// Ends a container, first politely.
    fn stop(&self, id: &ContainerId, grace: Duration) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Removes a container and all that it had.
    fn remove(&self, id: &ContainerId) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// The last lines that a container wrote.
    fn last_lines(&self, id: &ContainerId) -> impl Future<Output = String> + Send;

    /// Whether every one of the TCP `ports` takes connections at `address`; if not, the first that does not.
    fn is_answering(&self, address: Ipv4Addr, ports: &[u16]) -> impl Future<Output = Result<(), u16>> + Send;

    /// Leads the service's host ports to a container, in one step where they led elsewhere.
    fn publish(
        &self,
        task: &TaskAssignment,
        id: &ContainerId,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;
}
