//! What the server is told about tasks: the newest report of each, kept on disk before it is sent, until the task is
//! forgotten.
//!
//! ```text
//! DATA/fleet/reports.json   {TASK: TaskReport}, replaced and synced before a batch is sent
//! ```
//! Sequences and attempts go on from there after a restart. A report that was never sent may be lost with the machine;
//! its sequence is then used again, which nobody can notice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{ReportRequest, TaskReport, TaskState};
use client::control::node::NodeClient;
use runtime::container::ContainerId;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::retry::Retry;
use crate::chain::Chain;
use crate::durable;

/// Reports within this time go out together.
const BATCH: Duration = Duration::from_millis(100);
/// As many as the server takes at once.
const BATCH_MAX: usize = 1000;

/// The newest report of each task. A handle; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Reports(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    kept: Mutex<Kept>,
    has_news: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    newest: BTreeMap<String, TaskReport>,
    /// Tasks whose newest report the server has not acknowledged.
    unsent: BTreeSet<String>,
}

/// What is observed of a task, without what [`Reports`] adds by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observation {
    pub(super) state: TaskState,
    pub(super) attempt: u32,
    pub(super) container_id: Option<String>,
    pub(super) started_at_ms: Option<i64>,
    pub(super) exit_code: Option<i32>,
    pub(super) reason: Option<String>,
}

impl Observation {
    pub(super) fn new(state: TaskState, attempt: u32) -> Self {
        Self {
            state,
            attempt,
            container_id: None,
            started_at_ms: None,
            exit_code: None,
            reason: None,
        }
    }

    pub(super) fn of(mut self, container: &ContainerId) -> Self {
        self.container_id = Some(container.as_str().to_owned());
        self
    }

    pub(super) fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl From<&TaskReport> for Observation {
    fn from(report: &TaskReport) -> Self {
        Self {
            state: report.state,
            attempt: report.attempt,
            container_id: report.container_id.clone(),
            started_at_ms: report.started_at_ms,
            exit_code: report.exit_code,
            reason: report.reason.clone(),
        }
    }
}

impl Reports {
    /// Reads what was kept; all of it is sent again, which the server does not mind.
    ///
    /// # Errors
    /// When the file cannot be read. Starting without it would send sequences that the server has seen.
    pub(super) fn load(data: &Path) -> io::Result<Self> {
        let path = data.join("fleet/reports.json");
        let newest: BTreeMap<String, TaskReport> = match durable::read(&path)? {
            Some(content) => serde_json::from_slice(&content)?,
            None => BTreeMap::new(),
        };
        let unsent = newest.keys().cloned().collect();
        let inner = Inner {
            path,
            kept: Mutex::new(Kept { newest, unsent }),
            has_news: Notify::new(),
        };
        inner.has_news.notify_one();
        Ok(Self(Arc::new(inner)))
    }

    /// Takes note of what is observed; what is known already is no news.
    pub(super) fn observe(&self, task_id: &str, seen: Observation) {
        {
            let mut kept = self.lock();
            let last = kept.newest.get(task_id);
            if last.is_some_and(|last| Observation::from(last) == seen) {
                return;
            }
            tracing::info!(
                task_id,
                state = seen.state.as_str(),
                attempt = seen.attempt,
                reason = seen.reason.as_deref().unwrap_or_default(),
                "task {task_id} is {}",
                seen.state.as_str()
            );
            let report = TaskReport {
                task_id: task_id.to_owned(),
                attempt: seen.attempt,
                sequence: last.map_or(1, |last| last.sequence + 1),
                state: seen.state,
                container_id: seen.container_id,
                started_at_ms: seen.started_at_ms,
                exit_code: seen.exit_code,
                reason: seen.reason,
            };
            kept.newest.insert(task_id.to_owned(), report);
            kept.unsent.insert(task_id.to_owned());
        }
        self.0.has_news.notify_one();
    }

    /// What was last observed of a task.
    pub(super) fn last(&self, task_id: &str) -> Option<Observation> {
        self.lock().newest.get(task_id).map(Observation::from)
    }

    /// Forgets tasks for which `is_wanted` says no, once the server knows their end.
    pub(super) fn forget(&self, is_wanted: impl Fn(&str) -> bool) {
        let mut kept = self.lock();
        let Kept { newest, unsent } = &mut *kept;
        newest.retain(|id, report| !report.state.is_final() || unsent.contains(id) || is_wanted(id));
    }

    /// Sends what is new until the future is dropped.
    ///
    /// # Cancel safety
    /// What was not acknowledged is sent again by the next call.
    pub(super) async fn send(&self, client: &NodeClient) {
        let mut retry = Retry::new();
        loop {
            self.0.has_news.notified().await;
            while let Some(batch) = self.batch() {
                let outcome = self.send_batch(client, &batch).await;
                match outcome {
                    Ok(()) => {
                        retry.reset();
                        self.acknowledge(&batch);
                    }
                    Err(error) => {
                        let pause = retry.next_pause();
                        // The first failure is told; the beat says that the server is away for as long as it is.
                        if retry.is_first() {
                            tracing::warn!(error, "reports wait");
                        }
                        sleep(pause).await;
                    }
                }
            }
            sleep(BATCH).await;
        }
    }

    async fn send_batch(&self, client: &NodeClient, batch: &[TaskReport]) -> Result<(), String> {
        self.save().await.map_err(|error| Chain(&error).to_string())?;
        let request = ReportRequest {
            reports: batch.to_vec(),
        };
        let sent = client.report(&request).await;
        sent.map_err(|error| Chain(&error).to_string())
    }

    fn batch(&self) -> Option<Vec<TaskReport>> {
        let kept = self.lock();
        let unsent = kept.unsent.iter().take(BATCH_MAX);
        let batch: Vec<_> = unsent.filter_map(|id| kept.newest.get(id).cloned()).collect();
        (!batch.is_empty()).then_some(batch)
    }

    fn acknowledge(&self, batch: &[TaskReport]) {
        let mut kept = self.lock();
        for report in batch {
            let is_newest = kept
                .newest
                .get(&report.task_id)
                .is_some_and(|newest| newest.sequence == report.sequence);
            if is_newest {
                kept.unsent.remove(&report.task_id);
            }
        }
    }

    pub(super) async fn save(&self) -> io::Result<()> {
        let content = serde_json::to_vec(&self.lock().newest)?;
        let path = self.0.path.clone();
        tokio::task::spawn_blocking(move || durable::replace(&path, &content))
            .await
            .map_err(io::Error::other)?
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(place: &Path) -> Reports {
        durable::make_private_directory(&place.join("fleet")).unwrap();
        Reports::load(place).unwrap()
    }

    fn seen(state: TaskState) -> Observation {
        Observation::new(state, 1)
    }

    #[tokio::test]
    async fn sequences_grow_across_restarts() {
        let place = tempfile::tempdir().unwrap();
        let first = reports(place.path());
        first.observe("a", seen(TaskState::Starting));
        first.observe("a", seen(TaskState::Running));
        first.observe("a", seen(TaskState::Running));
        assert_eq!(first.batch().unwrap()[0].sequence, 2, "what is known is no news");
        first.save().await.unwrap();
        let second = reports(place.path());
        assert_eq!(second.last("a"), Some(seen(TaskState::Running)));
        assert_eq!(
            second.batch().unwrap()[0].sequence,
            2,
            "it is sent again after a restart"
        );
        second.observe("a", seen(TaskState::Ready));
        assert_eq!(second.batch().unwrap()[0].sequence, 3);
    }

    #[test]
    fn a_report_that_changed_on_its_way_is_sent_again() {
        let place = tempfile::tempdir().unwrap();
        let reports = reports(place.path());
        reports.observe("a", seen(TaskState::Starting));
        let batch = reports.batch().unwrap();
        reports.observe("a", seen(TaskState::Running));
        reports.acknowledge(&batch);
        let batch = reports.batch().unwrap();
        assert_eq!(batch[0].state, TaskState::Running);
        reports.acknowledge(&batch);
        assert!(reports.batch().is_none());
    }

    #[test]
    fn a_task_is_forgotten_once_its_end_is_known() {
        let place = tempfile::tempdir().unwrap();
        let reports = reports(place.path());
        reports.observe("a", seen(TaskState::Stopped));
        reports.observe("b", seen(TaskState::Running));
        reports.forget(|_| false);
        assert!(reports.last("a").is_some(), "the server does not know yet");
        let batch = reports.batch().unwrap();
        reports.acknowledge(&batch);
        reports.forget(|id| id == "a");
        assert!(reports.last("a").is_some(), "it is named still");
        reports.forget(|_| false);
        assert!(reports.last("a").is_none());
        assert!(reports.last("b").is_some(), "it has not ended");
    }
}
