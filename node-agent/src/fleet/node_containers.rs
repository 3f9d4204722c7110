//! [`Containers`] as this node has them: engine, image store and network.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{LogQuery, PinnedImage, Protocol, TaskAssignment};
use client::distribution::{ClientError, RegistryClient};
use futures::{Stream, StreamExt};
use runtime::container::ContainerId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::containers::{Containers, Ended, Found, Phase, Trouble};
use crate::chain::Chain;
use crate::engine::{ContainerState, ContainerView, Engine, EngineError, Exit, LogEntry, NewContainer};
use crate::image::{ImageError, ImageStore};
use crate::network::{self, Holder, Network, NetworkError, PortRequest};

/// Labels that tie a container to its task.
const LABEL_TASK: &str = "io.pierhead.task";
const LABEL_SERVICE: &str = "io.pierhead.service";
const LABEL_SLOT: &str = "io.pierhead.slot";
const LABEL_REVISION: &str = "io.pierhead.revision";
/// How long a container may take to accept a connection; it is on this machine.
const CONNECT: Duration = Duration::from_secs(1);
/// Lines of a container that died, and their bytes, that go into the report.
const LAST_LINES: u64 = 20;
const LAST_LINES_MAX_BYTES: usize = 4096;

/// A handle; clones share what is behind it.
#[derive(Clone, Debug)]
pub(super) struct NodeContainers {
    engine: Engine,
    images: ImageStore,
    network: Network,
    registry: RegistryClient,
    /// Where the container of a task was found last, so that not all are looked through each time.
    known: Arc<Mutex<HashMap<String, ContainerId>>>,
}

impl NodeContainers {
    pub(super) fn new(
        engine: Engine,
        images: ImageStore,
        network: Network,
        registry: RegistryClient,
    ) -> Self {
        Self {
            engine,
            images,
            network,
            registry,
            known: Arc::default(),
        }
    }

    /// What the container of a task has written; nothing when there is none.
    pub(super) async fn logs(
        &self,
        task_id: &str,
        query: &LogQuery,
    ) -> impl Stream<Item = Result<LogEntry, EngineError>> + Send + 'static + use<> {
        match self.view(task_id).await {
            Some(view) => self.engine.logs(&view.id, query).left_stream(),
            None => futures::stream::empty().right_stream(),
        }
    }

    async fn view(&self, task_id: &str) -> Option<ContainerView> {
        let known = self.known().get(task_id).cloned();
        if let Some(id) = known
            && let Some(view) = self.engine.get(&id).await
        {
            return Some(view);
        }
        let is_its = |view: &ContainerView| view.labels.get(LABEL_TASK).is_some_and(|id| id == task_id);
        let found = self.engine.list().await.into_iter().find(is_its);
        let mut known = self.known();
        match &found {
            Some(view) => known.insert(task_id.to_owned(), view.id.clone()),
            None => known.remove(task_id),
        };
        found
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, ContainerId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Containers for NodeContainers {
    async fn pull(&self, image: &PinnedImage) -> Result<(), Trouble> {
        let pulled = self
            .images
            .pull(&self.registry, &image.repository, &image.digest)
            .await;
        pulled.map(drop).map_err(|error| {
            let text = Chain(&error).to_string();
            if error.is_retryable() || is_unauthorized(&error) {
                Trouble::Failed(text)
            } else {
                Trouble::Refused(text)
            }
        })
    }

    async fn find(&self, task_id: &str) -> Option<Found> {
        let view = self.view(task_id).await?;
        let phase = match view.state {
            ContainerState::Created => Phase::Created,
            ContainerState::Running { started_at, .. } => {
                let started_at =
                    OffsetDateTime::parse(&started_at, &Rfc3339).unwrap_or(OffsetDateTime::now_utc());
                let uptime = OffsetDateTime::now_utc() - started_at;
                Phase::Running {
                    started_at_ms: milliseconds(started_at),
                    // A clock that was set back makes it negative.
                    uptime: uptime.try_into().unwrap_or_default(),
                    address: view.address,
                }
            }
            ContainerState::Exited(exit) => Phase::Exited(ended(exit)),
        };
        let created_at = OffsetDateTime::parse(&view.created_at, &Rfc3339);
        Some(Found {
            id: view.id,
            created_at_ms: created_at.map(milliseconds).unwrap_or_default(),
            phase,
        })
    }

    async fn of_tasks(&self) -> Vec<(String, bool)> {
        let of_task = |view: ContainerView| {
            let is_running = matches!(view.state, ContainerState::Running { .. });
            Some((view.labels.get(LABEL_TASK)?.clone(), is_running))
        };
        self.engine.list().await.into_iter().filter_map(of_task).collect()
    }

    async fn create(&self, task: &TaskAssignment) -> Result<(), Trouble> {
        let image = self.images.get(&task.image.digest).await;
        let image = image
            .map_err(|error| Trouble::Failed(Chain(&error).to_string()))?
            .ok_or_else(|| Trouble::Failed(format!("image {} is gone from this node", task.image.digest)))?;
        let mut container = task.container.clone();
        container.labels.extend([
            (LABEL_TASK.to_owned(), task.id.clone()),
            (LABEL_SERVICE.to_owned(), task.service.to_string()),
            (LABEL_SLOT.to_owned(), task.slot.to_string()),
            (LABEL_REVISION.to_owned(), task.revision.to_string()),
        ]);
        let new = NewContainer {
            name: format!("{}.{}.{}", task.service.service(), task.slot, task.id),
            image,
            image_name: None,
            is_removed_at_end: false,
            container,
            resources: task.resources.clone(),
            // They belong to the service, and are published when the task is ready.
            ports: Vec::new(),
        };
        match self.engine.create(new).await {
            Ok(id) => {
                self.known().insert(task.id.clone(), id);
                Ok(())
            }
            Err(error @ (EngineError::Spec { .. } | EngineError::NameMalformed { .. })) => {
                Err(Trouble::Refused(Chain(&error).to_string()))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    async fn start(&self, id: &ContainerId) -> Result<(), Trouble> {
        match self.engine.start(id).await {
            Ok(()) | Err(EngineError::AlreadyRunning { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn wait(&self, id: &ContainerId) -> Option<Ended> {
        self.engine.wait(id).await.ok().map(ended)
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), Trouble> {
        match self.engine.stop(id, grace).await {
            Ok(_) | Err(EngineError::NotRunning { .. } | EngineError::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), Trouble> {
        match self.engine.remove(id, true).await {
            Ok(()) | Err(EngineError::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn last_lines(&self, id: &ContainerId) -> String {
        let query = LogQuery {
            tail: Some(LAST_LINES),
            ..LogQuery::default()
        };
        let lines = self.engine.logs(id, &query);
        let lines: Vec<_> = lines.filter_map(|line| async { line.ok() }).collect().await;
        let text: String = lines.into_iter().map(|line| line.log).collect();
        newest(&text, LAST_LINES_MAX_BYTES).to_owned()
    }

    async fn is_answering(&self, address: Ipv4Addr, ports: &[u16]) -> Result<(), u16> {
        for &port in ports {
            let connected = timeout(CONNECT, TcpStream::connect((address, port))).await;
            if !matches!(connected, Ok(Ok(_))) {
                return Err(port);
            }
        }
        Ok(())
    }

    async fn publish(&self, task: &TaskAssignment, id: &ContainerId) -> Result<(), Trouble> {
        let request = |port: &api::PortMapping| PortRequest {
            protocol: match port.protocol {
                Protocol::Tcp => network::Protocol::Tcp,
                Protocol::Udp => network::Protocol::Udp,
            },
            host_address: port.host_ip,
            host_port: port.host_port,
            container_port: port.container_port,
        };
        let ports: Vec<PortRequest> = task.ports.iter().map(request).collect();
        let holder = Holder::service(task.service.as_str());
        match self.network.publish(&holder, id, &ports).await {
            Ok(_) => Ok(()),
            Err(
                error @ (NetworkError::PortTaken { .. }
                | NetworkError::PortHeld { .. }
                | NetworkError::AddressNotHere { .. }
                | NetworkError::UdpUnavailable { .. }),
            ) => Err(Trouble::Refused(Chain(&error).to_string())),
            Err(error) => Err(Trouble::Failed(Chain(&error).to_string())),
        }
    }
}

/// Whether the registry did not know us. It knows every node that may have been told of this image, so it is not to
/// be blamed on the image: clocks that differ do this.
fn is_unauthorized(error: &ImageError) -> bool {
    match error {
        ImageError::Fetch { source, .. } => {
            matches!(**source, ClientError::Status { status, .. } if status.as_u16() == 401)
        }
        _ => false,
    }
}

fn failed(error: &EngineError) -> Trouble {
    Trouble::Failed(Chain(error).to_string())
}

fn ended(exit: Exit) -> Ended {
    let reason = match exit {
        Exit { oom_killed: true, .. } => {
            "out of memory: the kernel killed a process at the container's limit".to_owned()
        }
        Exit {
            reason: Some(reason), ..
        } => reason,
        Exit {
            signal: Some(signal), ..
        } => format!("killed by signal {signal}"),
        Exit { exit_code, .. } => format!("exit code {exit_code}"),
    };
    Ended {
        exit_code: exit.exit_code,
        reason,
    }
}

fn milliseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

/// The end of `text`, at most `limit` bytes of it, beginning with a whole character.
fn newest(text: &str, limit: usize) -> &str {
    let from = text.len().saturating_sub(limit);
    let from = (from..=text.len()).find(|&at| text.is_char_boundary(at));
    &text[from.unwrap_or(text.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_text_begins_with_a_whole_character() {
        assert_eq!(newest("short", 10), "short");
        assert_eq!(newest("0123456789", 4), "6789");
        assert_eq!(newest("aüb", 2), "b");
        assert_eq!(newest("", 2), "");
    }

    #[test]
    fn an_end_says_what_matters_most() {
        let exit = Exit {
            exit_code: 137,
            signal: Some(9),
            oom_killed: false,
            started_at: None,
            finished_at: "2026-01-01T00:00:00Z".to_owned(),
            reason: None,
        };
        assert_eq!(ended(exit.clone()).reason, "killed by signal 9");
        let killed = Exit {
            oom_killed: true,
            ..exit.clone()
        };
        assert!(ended(killed).reason.starts_with("out of memory"));
        let lost = Exit {
            reason: Some("the host was rebooted".to_owned()),
            signal: None,
            ..exit
        };
        assert_eq!(ended(lost).reason, "the host was rebooted");
    }
}
