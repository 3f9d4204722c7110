//! Log sessions: the server asks over the watch stream, the agent dials back with the lines.

use std::sync::Arc;

use api::{LogLine, LogQuery};
use client::control::node::NodeClient;
use futures::StreamExt;
use tokio::sync::Semaphore;

use super::node_containers::NodeContainers;
use crate::chain::Chain;

/// Sessions at once. Each holds a connection and a file.
const SESSIONS_MAX: usize = 64;

/// A handle; clones share the limit.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    client: NodeClient,
    containers: NodeContainers,
    places: Arc<Semaphore>,
}

impl Sessions {
    pub(super) fn new(client: NodeClient, containers: NodeContainers) -> Self {
        Self {
            client,
            containers,
            places: Arc::new(Semaphore::new(SESSIONS_MAX)),
        }
    }

    /// Begins to answer a session, and goes on in the background until the lines or the asker's interest end.
    pub(super) fn answer(&self, session_id: String, task_id: String, query: LogQuery) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            tracing::warn!(
                session_id,
                task_id,
                "too many log sessions; session {session_id} is not answered"
            );
            return;
        };
        let sessions = self.clone();
        tokio::spawn(async move {
            let _place = place;
            let of_task = task_id.clone();
            let entries = sessions.containers.logs(&task_id, &query).await;
            // A file that cannot be read ends the lines; whoever asked sees the ones before.
            let lines = entries.filter_map(move |entry| {
                let task_id = of_task.clone();
                async move {
                    match entry {
                        Ok(entry) => Some(LogLine {
                            task_id,
                            stream: entry.stream,
                            time: entry.time,
                            log: entry.log,
                        }),
                        Err(error) => {
                            tracing::warn!(task_id, error = %Chain(&error), "cannot read the log of task {task_id}");
                            None
                        }
                    }
                }
            });
            if let Err(error) = sessions.client.post_session(&session_id, lines).await {
                // Whoever asked has left, mostly.
                tracing::debug!(session_id, error = %Chain(&error), "session {session_id} broke off");
            }
        });
    }
}
