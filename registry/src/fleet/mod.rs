//! The fleet: which nodes there are, what should run on them, and how a service goes from one revision to the next.
//!
//! Operators and pushes write desired state; one process, the holder of the lease, plans (`reconcile`) and writes
//! tasks; nodes are told committed rows only. The planner (`plan`) decides from a snapshot and does no I/O. Whether a
//! node is heard of (`liveness`) and who listens (`channels`) is kept in memory: a restart forgets it and waits 30 s
//! before it believes any node to be down.

mod channels;
pub mod image;
mod join;
mod liveness;
mod logs;
mod nodes;
pub mod plan;
mod reconcile;
mod services;
mod snapshot;
mod spec;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use api::ServiceName;
use serde::de::DeserializeOwned;
use serde::de::value::{Error as WordError, StrDeserializer};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::content::ContentError;
use crate::db::{Db, DbError};
use crate::upstream::UpstreamError;
use channels::Channels;
pub use image::ResolvedImage;
use liveness::Liveness;
pub use logs::{LogSession, LogStreams, SESSION_LINE_MAX_BYTES};
pub use nodes::Watch;
use nodes::public_node_id;

/// Why a request about the fleet fails.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A join token that never was, or was forgotten.
    #[error("the join token is not known here; make one with `pierhead node token`")]
    JoinTokenUnknown,
    /// A join token that somebody has used.
    #[error("the join token has been used; each lets one node in, make another with `pierhead node token`")]
    JoinTokenUsed,
    /// A join token that is too old.
    #[error("the join token has expired; make another with `pierhead node token`")]
    JoinTokenExpired,
    /// Another node has the name.
    #[error("another node is called {0}; join with another name, or remove that node first")]
    NodeNameTaken(String),
    /// Something about a joining node that cannot be accepted.
    #[error("{field}: {reason}")]
    NodeInvalid {
        /// Field of the request.
        field: &'static str,
        /// What is wrong and what to write.
        reason: String,
    },
    /// No such node.
    #[error("node {0} is not known here; `pierhead node ls` shows those that are")]
    NodeUnknown(String),
    /// A node that still holds tasks.
    #[error(
        "{tasks} tasks are on node {id}; remove their services or stop the node's agent first, or force it: then \
         they are given up and started elsewhere, while they may still run there"
    )]
    NodeBusy {
        /// The node.
        id: String,
        /// How many tasks it holds.
        tasks: i64,
    },
    /// More reports in one request than are accepted.
    #[error("{0} reports in one request; send at most {max}", max = nodes::REPORTS_MAX)]
    TooManyReports(usize),
    /// No such service.
    #[error("service {0} is not known here; `pierhead service ls` shows those that are")]
    ServiceUnknown(ServiceName),
    /// No such deployment.
    #[error("deployment {0} is not known here")]
    DeploymentUnknown(u64),
    /// No such revision.
    #[error("service {service} has no revision {revision}")]
    RevisionUnknown {
        /// The service.
        service: ServiceName,
        /// The revision.
        revision: u64,
    },
    /// Nothing to go back to.
    #[error("service {0} has no earlier revision that ran well")]
    NothingToGoBackTo(ServiceName),
    /// A specification that cannot be accepted: all that is wrong with it.
    #[error("{}", .0.join("; "))]
    SpecInvalid(Vec<String>),
    /// An image that is not here.
    #[error("image {image} is not in this registry: {known}")]
    ImageUnknown {
        /// `repository:tag` or `repository@digest`.
        image: String,
        /// What there is instead.
        known: String,
    },
    /// An image for other machines than there are.
    #[error("image {image} is for {}, but the nodes are {}; build it for one of these", .offered.join(", "), .wanted.join(", "))]
    PlatformMissing {
        /// `repository:tag` or `repository@digest`.
        image: String,
        /// Architectures of the image.
        offered: Vec<String>,
        /// Architectures of the nodes.
        wanted: Vec<String>,
    },
    /// A service that others keep changing.
    #[error("service {0} is being changed by others at the same time; look at it and try again")]
    Contended(ServiceName),
    /// No such session for this node.
    #[error("log session {0} is not known here; whoever asked may have left")]
    SessionUnknown(String),
    /// The image cannot be read.
    #[error("read the image")]
    Content(#[source] ContentError),
    /// The image cannot be had from its upstream.
    #[error("{0}")]
    Upstream(UpstreamError),
    /// The system has no randomness to make secrets of.
    #[error("make a secret")]
    Randomness(#[from] getrandom::Error),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The fleet, cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    cluster_id: String,
    liveness: Mutex<Liveness>,
    channels: Channels,
    /// Asks the reconciler for a pass.
    wake: Notify,
    stopping: CancellationToken,
}

impl Fleet {
    /// The fleet of `db`; the first start gives the cluster its id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open(db: Db, stopping: CancellationToken) -> Result<Self, DbError> {
        let cluster_id = db.cluster_ensure(&uuid::Uuid::new_v4().to_string()).await?;
        Ok(Self(Arc::new(Inner {
            db,
            cluster_id,
            liveness: Mutex::new(Liveness::new(Instant::now())),
            channels: Channels::default(),
            wake: Notify::new(),
            stopping,
        })))
    }

    /// The cluster's id, fixed for its life.
    pub fn cluster_id(&self) -> &str {
        &self.0.cluster_id
    }

    fn liveness(&self) -> std::sync::MutexGuard<'_, Liveness> {
        // What it holds is whole between two statements, so a panic elsewhere does no harm.
        self.0
            .liveness
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The public key (32 bytes in base64url) of a node that has joined.
///
/// # Errors
/// When the database fails.
pub async fn node_public_key(db: &Db, node_id: &str) -> Result<Option<String>, DbError> {
    db.node_public_key(node_id).await
}

/// Whether a task assigned to the node runs an image of `repository`.
///
/// # Errors
/// When the database fails.
pub async fn node_may_pull(db: &Db, node_id: &str, repository: &str) -> Result<bool, DbError> {
    db.node_uses(node_id, repository).await
}

/// Reads a word of the wire, such as a state, as the database keeps it.
fn word<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, DbError> {
    T::deserialize(StrDeserializer::<WordError>::new(text)).map_err(|_| corrupt(what, text))
}

/// Reads JSON that the database keeps.
fn json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|_| corrupt(what, text))
}

fn corrupt(what: &'static str, text: &str) -> DbError {
    DbError::Corrupt {
        what,
        value: text.chars().take(200).collect(),
    }
}

/// Numbers of the database are never negative where the wire has unsigned ones.
fn unsigned(number: i64) -> u64 {
    number.unsigned_abs()
}

/// Small counts, such as copies.
fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Numbers of the wire, which may be larger than the database's.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
