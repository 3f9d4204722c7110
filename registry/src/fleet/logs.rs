//! Logs of a service's tasks: the nodes are asked through their streams and dial back; lines are merged as they come.
//!
//! A node that cannot be asked, does not answer, or breaks off is a notice among the lines of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{LogEvent, LogLine, LogQuery, ServiceName};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::channels::{Channels, LogsWanted, PendingSession};
use super::{Fleet, FleetError};

/// Lines that may wait for a slow reader; the node waits then.
const LINES_MAX: usize = 256;
/// How long a node may take to dial back.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line that a node may send, in bytes.
pub const SESSION_LINE_MAX_BYTES: usize = 256 * 1024;

/// Merged lines of several tasks. Dropping it tells the nodes to stop.
#[derive(Debug)]
pub struct LogStreams {
    channels: Channels,
    /// Sessions that were asked for, with what to say when nobody answers.
    asked: BTreeMap<String, String>,
    notices: Vec<String>,
    lines: mpsc::Receiver<LogEvent>,
    deadline: Option<Instant>,
    stopping: tokio_util::sync::CancellationToken,
}

/// The node's side of a session.
#[derive(Debug)]
pub struct LogSession {
    task_id: String,
    lines: mpsc::Sender<LogEvent>,
}

impl Fleet {
    /// The log lines of a service's tasks, those of one copy if `query` says so.
    ///
    /// # Errors
    /// [`FleetError::ServiceUnknown`], or when the database fails.
    pub async fn logs(&self, name: &ServiceName, query: &LogQuery) -> Result<LogStreams, FleetError> {
        if self.0.db.service_get(name.as_str()).await?.is_none() {
            return Err(FleetError::ServiceUnknown(name.clone()));
        }
        let tasks = self.0.db.task_list(Some(name.as_str())).await?;
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let mut streams = LogStreams {
            channels: self.0.channels.clone(),
            asked: BTreeMap::new(),
            notices: Vec::new(),
            lines,
            deadline: Some(Instant::now() + PATIENCE),
            stopping: self.0.stopping.clone(),
        };
        let is_wanted = |slot: i64| query.slot.is_none_or(|wanted| slot == i64::from(wanted));
        for task in tasks.into_iter().filter(|t| is_wanted(t.slot)) {
            let session_id = Uuid::new_v4().simple().to_string();
            let subject = format!("slot {} (task {}) on node {}", task.slot, task.id, task.node);
            let session = PendingSession {
                node_id: task.node_id.clone(),
                task_id: task.id.clone(),
                lines: sender.clone(),
            };
            // Before the node is asked, since it may answer at once.
            self.0.channels.session_open(&session_id, session);
            let wanted = LogsWanted {
                session_id: session_id.clone(),
                task_id: task.id.clone(),
                query: query.clone(),
            };
            if self.0.channels.ask(&task.node_id, wanted) {
                let text = format!(
                    "no lines of {subject}: the node did not answer within {} s",
                    PATIENCE.as_secs()
                );
                streams.asked.insert(session_id, text);
            } else {
                self.0.channels.session_close(&session_id);
                let text = format!("no lines of {subject}: the node is not connected");
                streams.notices.push(text);
            }
        }
        if streams.asked.is_empty() && streams.notices.is_empty() {
            streams
                .notices
                .push(format!("no task of {name} is there to have lines"));
        }
        Ok(streams)
    }

    /// Takes a session that the node was asked to answer.
    ///
    /// # Errors
    /// [`FleetError::SessionUnknown`] when it is not known, of another node, answered, or given up.
    pub fn log_session(&self, node_id: &str, session_id: &str) -> Result<LogSession, FleetError> {
        let session = self.0.channels.session_take(session_id, node_id);
        let session =
            session.ok_or_else(|| FleetError::SessionUnknown(session_id.chars().take(64).collect()))?;
        Ok(LogSession {
            task_id: session.task_id,
            lines: session.lines,
        })
    }
}

impl LogStreams {
    /// The next line or notice; `None` when every node has ended its session.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<LogEvent> {
        loop {
            if let Some(notice) = self.notices.pop() {
                return Some(LogEvent::Notice { notice });
            }
            let deadline = self.deadline;
            let patience = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            // All are cancel safe.
            tokio::select! {
                () = self.stopping.cancelled() => return None,
                event = self.lines.recv() => return event,
                () = patience => {
                    self.deadline = None;
                    let channels = &self.channels;
                    let silent = self.asked.iter().filter(|(id, _)| channels.session_close(id));
                    self.notices.extend(silent.map(|(_, notice)| notice.clone()));
                }
            }
        }
    }
}

impl Drop for LogStreams {
    fn drop(&mut self) {
        for id in self.asked.keys() {
            self.channels.session_close(id);
        }
    }
}

impl LogSession {
    /// Passes a line on, waiting while the reader is slow; `false` when nobody reads any more. Lines that are not of
    /// the session's task are left out.
    ///
    /// # Cancel safety
    /// The line may be lost.
    pub async fn pass(&self, line: &str) -> bool {
        match serde_json::from_str::<LogLine>(line) {
            Ok(line) if line.task_id == self.task_id => self.lines.send(LogEvent::Line(line)).await.is_ok(),
            Ok(_) | Err(_) => !self.lines.is_closed(),
        }
    }

    /// Tells the reader that lines are missing; `false` when nobody reads any more.
    ///
    /// # Cancel safety
    /// The notice may be lost.
    pub async fn tell(&self, what: &str) -> bool {
        let notice = format!("lines of task {} are missing: {what}", self.task_id);
        self.lines.send(LogEvent::Notice { notice }).await.is_ok()
    }

    /// Waits until nobody reads any more.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn abandoned(&self) {
        self.lines.closed().await;
    }
}
