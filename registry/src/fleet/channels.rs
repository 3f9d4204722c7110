//! Who listens in this process: watch streams of nodes, and log sessions that wait for a node's answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use api::{LogEvent, LogQuery};
use tokio::sync::{Notify, mpsc};

/// Requests for logs that may wait for one node's stream; an operator asks for at most a service's tasks at a time.
const REQUESTS_MAX: usize = 256;

/// A request for logs, on its way to a node.
#[derive(Clone, Debug)]
pub(super) struct LogsWanted {
    pub session_id: String,
    pub task_id: String,
    pub query: LogQuery,
}

/// A session that a node may answer.
#[derive(Debug)]
pub(super) struct PendingSession {
    pub node_id: String,
    pub task_id: String,
    pub lines: mpsc::Sender<LogEvent>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    listeners: HashMap<String, Vec<Listener>>,
    sessions: HashMap<String, PendingSession>,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    changed: Arc<Notify>,
    logs: mpsc::Sender<LogsWanted>,
}

/// All listeners, cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Channels(Arc<Mutex<State>>);

/// The receiving side of a node's stream; dropping it ends the subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    channels: Channels,
    node_id: String,
    number: u64,
    pub changed: Arc<Notify>,
    pub logs: mpsc::Receiver<LogsWanted>,
}

impl Channels {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is one statement, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Listens for a node.
    pub fn subscribe(&self, node_id: &str) -> Subscription {
        let changed = Arc::new(Notify::new());
        let (sender, logs) = mpsc::channel(REQUESTS_MAX);
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        let listener = Listener {
            number,
            changed: changed.clone(),
            logs: sender,
        };
        state
            .listeners
            .entry(node_id.to_owned())
            .or_default()
            .push(listener);
        Subscription {
            channels: self.clone(),
            node_id: node_id.to_owned(),
            number,
            changed,
            logs,
        }
    }

    /// Tells a node's streams that its document may have changed.
    pub fn changed(&self, node_id: &str) {
        if let Some(listeners) = self.state().listeners.get(node_id) {
            listeners.iter().for_each(|l| l.changed.notify_one());
        }
    }

    /// Asks a node for logs through its newest stream; `false` when it has none here.
    pub fn ask(&self, node_id: &str, wanted: LogsWanted) -> bool {
        let state = self.state();
        let listener = state.listeners.get(node_id).and_then(|l| l.last());
        listener.is_some_and(|l| l.logs.try_send(wanted).is_ok())
    }

    /// Opens a session for a node to answer.
    pub fn session_open(&self, id: &str, session: PendingSession) {
        self.state().sessions.insert(id.to_owned(), session);
    }

    /// Takes a session that waits for `node_id`; each is answered once.
    pub fn session_take(&self, id: &str, node_id: &str) -> Option<PendingSession> {
        let mut state = self.state();
        state.sessions.get(id).filter(|s| s.node_id == node_id)?;
        state.sessions.remove(id)
    }

    /// Ends a session; `true` when no node had answered it.
    pub fn session_close(&self, id: &str) -> bool {
        self.state().sessions.remove(id).is_some()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.channels.state();
        if let Some(listeners) = state.listeners.get_mut(&self.node_id) {
            listeners.retain(|l| l.number != self.number);
            if listeners.is_empty() {
                state.listeners.remove(&self.node_id);
            }
        }
    }
}
