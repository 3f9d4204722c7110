//! Types on the wire between server, nodes and command line (`/api/v1`). No I/O.
//!
//! Everything is JSON; streams are JSON lines. Readers ignore fields they do not know, so that an old agent
//! lives beside a new server; writers never change a field's meaning. Times are UTC milliseconds since 1970.

pub mod collection;
pub mod deployment;
pub mod error;
pub mod log;
pub mod node;
pub mod service;
pub mod task;

pub use collection::{BlobTotal, CollectionPass, CollectionStatus};
pub use deployment::{Deployment, DeploymentCause, DeploymentState};
pub use error::ApiError;
pub use log::{LogEvent, LogLine, LogQuery, LogStream};
pub use node::{
    BeatRequest, BeatResponse, ClusterInfo, DesiredState, DesiredStateError, JoinRequest, JoinResponse,
    JoinToken, NodeFacts, NodeStatus, NodeSummary, ReportRequest, WatchEvent,
};
pub use service::{
    ContainerSpec, DeployRequest, DeployResponse, PortMapping, Protocol, Resources, RestartPolicy,
    RollbackRequest, ServiceName, ServiceSpec, ServiceSummary, Trigger,
};
pub use task::{DesiredTask, PinnedImage, TaskAssignment, TaskReport, TaskState, TaskSummary};
