//! The agent's channel: join, watch, beat, report. The agent dials out; the server never calls it.
//!
//! ```text
//! POST /api/v1/join                      JoinRequest -> JoinResponse           (authorised by the token in it)
//! GET  /api/v1/nodes/self/watch          -> stream of WatchEvent, one JSON object a line
//! POST /api/v1/nodes/self/beat           BeatRequest -> BeatResponse           every `interval_ms`
//! POST /api/v1/nodes/self/report         ReportRequest -> 204
//! POST /api/v1/nodes/self/sessions/{id}  stream of LogLine, one JSON object a line -> 204
//! ```
//! All but `join` carry `Authorization: Bearer JWT`: EdDSA, signed by the node's own key, `kid` and `sub` the node
//! id, `iss` `pierhead-node`, `aud` `pierhead`, expiring within five minutes. The same token pulls from `/v2/`.

use std::collections::BTreeMap;

use oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::log::LogQuery;
use crate::task::{TaskAssignment, TaskReport};

/// What [`NodeFacts`] and keys of a joining machine are presented with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The one-use token.
    pub token: String,
    /// The node's Ed25519 public key: 32 raw bytes in base64url without padding.
    pub public_key: String,
    /// Name wished for; unique in the cluster.
    pub name: String,
    /// What the machine is.
    pub facts: NodeFacts,
}

/// Answer to a [`JoinRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinResponse {
    /// The node's id: `sha256` of its public key, first 16 bytes, in hexadecimal.
    pub node_id: String,
    /// The cluster, fixed for its life; an agent refuses documents of another.
    pub cluster_id: String,
    /// The name given.
    pub name: String,
}

/// Answer to `POST /api/v1/join-tokens`. The token is shown once; only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// `PIER1-` and 32 random bytes in base64url.
    pub token: String,
    /// When it stops working; it also does after its first use.
    pub expires_at_ms: i64,
}

/// Answer to `GET /api/v1/cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// The cluster, fixed for its life.
    pub id: String,
    /// Version of the server.
    pub version: String,
}

/// What a machine is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFacts {
    /// Architecture in Go's naming.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// `v2`, `v1` or `hybrid`.
    pub cgroup: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Version of the agent.
    pub agent_version: String,
}

/// A node as listed by `GET /api/v1/nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Whether it is heard of.
    pub status: NodeStatus,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What it is.
    pub facts: NodeFacts,
    /// Tasks that should run on it.
    pub tasks: u32,
    /// Generation of its desired state.
    pub generation: u64,
    /// Generation that it has applied.
    pub applied_generation: u64,
    /// When it was last heard of.
    pub last_seen_ms: Option<i64>,
    /// When it joined.
    pub joined_at_ms: i64,
}

/// Whether a node is heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Its beats arrive.
    Ready,
    /// No beat for 9 s: it gets no new tasks.
    Suspect,
    /// No beat for 15 s.
    Down,
}

/// One line of the watch stream: an object with one field, named after the kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchEvent {
    /// The whole desired state: sent first, and after every change.
    Document(DesiredState),
    /// Nothing new; sent every 5 s so that a dead connection is noticed.
    Ping {
        /// The server's clock.
        server_time_ms: i64,
    },
    /// Somebody wants logs of a task: post them to `sessions/{id}`.
    Logs {
        /// The session to answer.
        session_id: String,
        /// The task.
        task_id: String,
        /// What of it.
        query: LogQuery,
    },
}

/// All that a node should do, as one versioned document. The hash covers the tasks' exact bytes, so a cut or
/// altered document is noticed before anything is stopped, and fields that the agent does not know are covered too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DesiredState {
    /// The cluster.
    pub cluster_id: String,
    /// Grows when another server takes over; an agent refuses lower ones.
    pub epoch: u64,
    /// Grows with every change for this node; an agent refuses lower ones of the same epoch.
    pub generation: u64,
    /// `sha256` of the bytes of `tasks`.
    pub hash: Digest,
    /// A JSON list of [`TaskAssignment`].
    tasks: Box<RawValue>,
}

/// Why a document is not to be acted on.
#[derive(Debug, thiserror::Error)]
pub enum DesiredStateError {
    /// The bytes are not those that were hashed.
    #[error("the document says its tasks hash to {expected}, but they hash to {actual}")]
    Hash {
        /// What the document says.
        expected: Digest,
        /// What its bytes say.
        actual: Digest,
    },
    /// The tasks cannot be read.
    #[error("the document's tasks cannot be read: {0}")]
    Tasks(serde_json::Error),
}

impl DesiredState {
    /// Seals `tasks` into a document.
    ///
    /// # Errors
    /// When a task cannot be expressed in JSON, which only happens to maps with keys that are no strings.
    pub fn seal(
        cluster_id: &str,
        epoch: u64,
        generation: u64,
        tasks: &[TaskAssignment],
    ) -> Result<Self, serde_json::Error> {
        let tasks = serde_json::value::to_raw_value(tasks)?;
        let hash = Digest::sha256(tasks.get().as_bytes());
        Ok(Self {
            cluster_id: cluster_id.to_owned(),
            epoch,
            generation,
            hash,
            tasks,
        })
    }

    /// Checks the hash and reads the tasks.
    ///
    /// # Errors
    /// When the hash does not fit or the tasks cannot be read; nothing may be done then.
    pub fn open(&self) -> Result<Vec<TaskAssignment>, DesiredStateError> {
        let actual = Digest::sha256(self.tasks.get().as_bytes());
        if actual != self.hash {
            return Err(DesiredStateError::Hash {
                expected: self.hash.clone(),
                actual,
            });
        }
        serde_json::from_str(self.tasks.get()).map_err(DesiredStateError::Tasks)
    }
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatRequest {
    /// Made anew at each start of the agent; two living ones with one key are a cloned disk.
    pub incarnation: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Generation whose tasks the agent has taken over.
    pub applied_generation: u64,
}

/// Answer to a [`BeatRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatResponse {
    /// The server's clock.
    pub server_time_ms: i64,
    /// Pause until the next beat.
    pub interval_ms: u64,
}

/// Observations, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRequest {
    /// At most 1,000.
    pub reports: Vec<TaskReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_survives_the_wire_and_a_changed_one_is_refused() {
        let document = DesiredState::seal("c", 1, 7, &[]).unwrap();
        let line = serde_json::to_string(&WatchEvent::Document(document)).unwrap();
        let WatchEvent::Document(document) = serde_json::from_str(&line).unwrap() else {
            panic!("{line}")
        };
        assert!(document.open().unwrap().is_empty());
        let altered = line.replace("\"tasks\":[]", "\"tasks\":[1]");
        let WatchEvent::Document(document) = serde_json::from_str(&altered).unwrap() else {
            panic!("{line}")
        };
        assert!(matches!(document.open(), Err(DesiredStateError::Hash { .. })));
    }
}
