//! Deployments: the way of a service from one revision to the next.

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::service::ServiceName;

/// A deployment as listed by `GET /api/v1/deployments[?service=NAME]` and `GET /api/v1/deployments/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Number, growing over the cluster.
    pub id: u64,
    /// Service.
    pub service: ServiceName,
    /// Revision that it brings.
    pub revision: u64,
    /// Revision that it leaves; `None` for a new service.
    pub from_revision: Option<u64>,
    /// Digest that it brings.
    pub digest: Digest,
    /// What caused it.
    pub cause: DeploymentCause,
    /// Where it is.
    pub state: DeploymentState,
    /// Copies of the new revision that are ready.
    pub ready: u32,
    /// Copies wanted.
    pub replicas: u32,
    /// Why it failed or was replaced.
    pub reason: Option<String>,
    /// When it began.
    pub created_at_ms: i64,
    /// When it ended.
    pub finished_at_ms: Option<i64>,
}

/// What caused a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentCause {
    /// The operator's command.
    Command,
    /// A push moved the followed tag.
    Push,
}

/// The state of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentState {
    /// New copies are starting, old ones go as new ones become ready.
    Rolling,
    /// Every copy is of the new revision and ready.
    Succeeded,
    /// New copies did not become ready; they are being removed and the old revision is kept.
    RollingBack,
    /// The old revision runs as before.
    RolledBack,
    /// There was no old revision to go back to, or going back did not work.
    Failed,
    /// A newer deployment took over.
    Superseded,
}

impl DeploymentState {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Rolling | Self::RollingBack)
    }

    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::Succeeded => "succeeded",
            Self::RollingBack => "rolling_back",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }
}
