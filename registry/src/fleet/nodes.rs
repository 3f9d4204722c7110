//! Nodes: listing and removing, and the agent's side: watch, beat, report.

use std::time::{Duration, Instant};

use api::{
    BeatRequest, BeatResponse, DesiredState, NodeSummary, ReportRequest, TaskAssignment, TaskReport,
    TaskState, WatchEvent,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use oci::Digest;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::channels::Subscription;
use super::liveness::Beat;
use super::{Fleet, FleetError, count, json, signed, unsigned, word};
use crate::db::{AssignmentRow, DbError, ReportRow, now_ms};

/// The most reports of one request.
pub(super) const REPORTS_MAX: usize = 1000;
/// The longest reason kept, in bytes: an error with some last log lines.
const REASON_MAX_BYTES: usize = 8 * 1024;
/// Pause between two beats of a node.
const BEAT_INTERVAL_MS: u64 = 3000;
/// How often a stream says that it lives.
const PING: Duration = Duration::from_secs(5);
/// How often a stream looks for changes that other processes made.
const POLL: Duration = Duration::from_secs(2);

/// The id of the node with a public key in base64url: `sha256` of it, the first 16 bytes, in hexadecimal.
pub(super) fn public_node_id(public_key: &str) -> Option<String> {
    let key = BASE64_URL_SAFE_NO_PAD.decode(public_key).ok()?;
    (key.len() == 32).then(|| Digest::sha256(&key).hex()[..32].to_owned())
}

impl Fleet {
    /// All nodes, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn nodes(&self) -> Result<Vec<NodeSummary>, FleetError> {
        let rows = self.0.db.node_list().await?;
        let now = Instant::now();
        let liveness = self.liveness();
        let summary = |row: crate::db::NodeRow| {
            let last = liveness.last(&row.id);
            Ok(NodeSummary {
                status: liveness.shown(&row.id, now),
                labels: Default::default(),
                facts: json("facts", &row.facts)?,
                tasks: count(row.tasks),
                generation: unsigned(row.generation),
                applied_generation: last.map_or(0, |(_, generation)| generation),
                last_seen_ms: last.map(|(at_ms, _)| at_ms),
                joined_at_ms: row.joined_at_ms,
                id: row.id,
                name: row.name,
            })
        };
        rows.into_iter().map(summary).collect()
    }

    /// Forgets a node and its key. Its tasks are given up if `is_forced`, and planned elsewhere.
    ///
    /// # Errors
    /// [`FleetError::NodeUnknown`], or [`FleetError::NodeBusy`] while it holds tasks and is not forced.
    pub async fn node_remove(&self, id: &str, is_forced: bool) -> Result<(), FleetError> {
        match self.0.db.node_delete(id, is_forced).await? {
            None => return Err(FleetError::NodeUnknown(id.to_owned())),
            Some(0) => {}
            Some(tasks) => {
                return Err(FleetError::NodeBusy {
                    id: id.to_owned(),
                    tasks,
                });
            }
        }
        tracing::info!(node_id = id, "node {id} removed");
        self.liveness().forget(id);
        // Its stream finds that there is no such node, and ends.
        self.0.channels.changed(id);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Takes a sign of life.
    pub fn beat(&self, node_id: &str, beat: &BeatRequest) -> BeatResponse {
        let now_ms = now_ms();
        let told = self.liveness().beat(node_id, beat, Instant::now(), now_ms);
        match told {
            Beat::Plain => {}
            Beat::Back => self.0.wake.notify_one(),
            Beat::Cloned => {
                tracing::error!(
                    node_id,
                    incarnation = beat.incarnation,
                    "two machines beat with the key of node {node_id}, as a cloned disk does; it gets no new tasks"
                );
            }
        }
        BeatResponse {
            server_time_ms: now_ms,
            interval_ms: BEAT_INTERVAL_MS,
        }
    }

    /// Takes observations of a node's own tasks.
    ///
    /// # Errors
    /// [`FleetError::TooManyReports`], or when the database fails.
    pub async fn report(&self, node_id: &str, request: &ReportRequest) -> Result<(), FleetError> {
        if request.reports.len() > REPORTS_MAX {
            return Err(FleetError::TooManyReports(request.reports.len()));
        }
        let rows: Vec<_> = request.reports.iter().map(report_row).collect();
        let (is_changed, has_left) = self.0.db.task_report(node_id, &rows).await?;
        if has_left {
            self.0.channels.changed(node_id);
        }
        if is_changed {
            self.0.wake.notify_one();
        }
        Ok(())
    }

    /// A node's stream.
    pub fn watch(&self, node_id: &str) -> Watch {
        let every = |period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval.reset();
            interval
        };
        Watch {
            fleet: self.clone(),
            node_id: node_id.to_owned(),
            subscription: self.0.channels.subscribe(node_id),
            sent: None,
            is_due: true,
            ping: every(PING),
            poll: every(if self.0.db.is_shared() { POLL } else { PING }),
        }
    }

    /// Everything that a node should do; `None` when there is no such node.
    async fn document(&self, node_id: &str) -> Result<Option<DesiredState>, FleetError> {
        let rows = self.0.db.assignment_list(node_id).await?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let (epoch, generation) = (unsigned(first.epoch), unsigned(first.generation));
        let tasks = rows
            .iter()
            .filter_map(assignment)
            .collect::<Result<Vec<_>, _>>()?;
        let sealed = DesiredState::seal(&self.0.cluster_id, epoch, generation, &tasks);
        Ok(Some(sealed.map_err(|error| DbError::Corrupt {
            what: "tasks",
            value: error.to_string(),
        })?))
    }
}

fn report_row(report: &TaskReport) -> ReportRow<'_> {
    let reason = report.reason.as_deref().map(|reason| {
        let end = reason.floor_char_boundary(REASON_MAX_BYTES);
        &reason[..end]
    });
    ReportRow {
        id: &report.task_id,
        sequence: signed(report.sequence),
        state: report.state.as_str(),
        // The clock of the first start runs on the server, from the first that it hears of it.
        has_started: report.attempt > 0 || report.state == TaskState::Starting,
        attempt: i64::from(report.attempt),
        container_id: report.container_id.as_deref(),
        started_at_ms: report.started_at_ms,
        exit_code: report.exit_code.map(i64::from),
        reason,
    }
}

/// The task in a line of a document, if there is one.
fn assignment(row: &AssignmentRow) -> Option<Result<TaskAssignment, DbError>> {
    let (Some(id), Some(service), Some(slot), Some(revision), Some(desired), Some(spec), Some(digest)) = (
        &row.id,
        &row.service,
        row.slot,
        row.revision,
        &row.desired,
        &row.spec,
        &row.digest,
    ) else {
        return None;
    };
    Some((|| {
        let spec: api::ServiceSpec = json("spec", spec)?;
        Ok(TaskAssignment {
            id: id.clone(),
            service: DbError::parse("service name", service)?,
            slot: count(slot),
            revision: unsigned(revision),
            desired: word("desired", desired)?,
            image: api::PinnedImage {
                repository: spec.repository,
                digest: DbError::parse("digest", digest)?,
            },
            container: spec.container,
            ports: spec.ports,
            resources: spec.resources,
            restart: spec.restart,
            stop_grace_ms: spec.stop_grace_ms,
            min_ready_ms: spec.min_ready_ms,
        })
    })())
}

/// A node's stream of events: its document first and whenever it has changed, requests for logs, and signs of life.
#[derive(Debug)]
pub struct Watch {
    fleet: Fleet,
    node_id: String,
    subscription: Subscription,
    /// Epoch and generation of the document that was sent last.
    sent: Option<(u64, u64)>,
    /// Whether to look for a newer document.
    is_due: bool,
    ping: Interval,
    poll: Interval,
}

impl Watch {
    /// The next event; `None` when the node was removed or the server stops. While the database cannot be asked, the
    /// stream goes on without documents: nothing stops for lack of information.
    ///
    /// # Cancel safety
    /// Not cancel safe: a request for logs may be lost.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        let stopping = self.fleet.0.stopping.clone();
        loop {
            if self.is_due {
                self.is_due = false;
                match self.fleet.document(&self.node_id).await {
                    Ok(None) => return None,
                    Ok(Some(document)) => {
                        let version = (document.epoch, document.generation);
                        if self.sent != Some(version) {
                            self.sent = Some(version);
                            return Some(WatchEvent::Document(document));
                        }
                    }
                    Err(error) => {
                        let node_id = &self.node_id;
                        tracing::warn!(node_id, %error, "cannot look up what node {node_id} should do");
                    }
                }
            }
            // All are cancel safe; what an arm that lost has seen is kept in its permit, channel or timer.
            tokio::select! {
                () = stopping.cancelled() => return None,
                () = self.subscription.changed.notified() => self.is_due = true,
                Some(wanted) = self.subscription.logs.recv() => return Some(WatchEvent::Logs {
                    session_id: wanted.session_id,
                    task_id: wanted.task_id,
                    query: wanted.query,
                }),
                _ = self.poll.tick() => self.is_due = true,
                _ = self.ping.tick() => return Some(WatchEvent::Ping { server_time_ms: now_ms() }),
            }
        }
    }
}
