//! Opening the engine: every record is brought together with what exists.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::stream::{self, StreamExt};
use runtime::container::{self, ContainerId};
use runtime::shim::protocol::Status;
use tokio::sync::broadcast;

use super::lifecycle::Extent;
use super::record::{Phase, Record, Running};
use super::store::{Entry, Store, failed};
use super::{
    Container, Containers, EVENT_BACKLOG, Engine, EngineConfig, EngineError, EventKind, Inner,
    RootFilesystems,
};
use crate::chain::Chain;
use crate::network::Network;
use crate::supervise::{Found, Shim, Supervisor};

/// Containers settled at the same time.
const AT_ONCE: usize = 8;

pub(super) async fn open(
    program: PathBuf,
    config: EngineConfig,
    roots: Arc<dyn RootFilesystems>,
    network: Network,
) -> Result<Engine, EngineError> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(failed("find", path));
    let (data, run) = (absolute(&config.data)?, absolute(&config.run)?);
    let opened = tokio::task::spawn_blocking(move || {
        let store = Store::open(&data)?;
        let entries = store.list()?;
        Ok::<_, EngineError>((store, entries, boot_id()?))
    });
    let (store, entries, boot_id) = super::joined(opened.await)?;
    let (events, first) = broadcast::channel(EVENT_BACKLOG);
    let inner = Arc::new(Inner {
        store,
        supervisor: Supervisor::new(program, run),
        roots,
        network,
        cgroup_parent: PathBuf::from(config.cgroup_parent),
        boot_id,
        containers: Mutex::new(Containers::default()),
        events,
        first_events: Mutex::new(Some(first)),
    });
    let mut known = HashSet::new();
    let mut found = Vec::new();
    for entry in entries {
        match entry {
            Entry::Container(record) => {
                known.insert(record.id.clone());
                found.extend(inner.enlist(*record));
            }
            // Without a record nobody was told of it: it goes, as what no record names below.
            Entry::Leftover(id) => inner.sweep(&id).await,
            Entry::Unreadable(id, error) => {
                tracing::error!(container_id = id.as_str(), error = %Chain(&error), "a container is left alone, because its record is unreadable");
                known.insert(id.as_str().to_owned());
            }
        }
    }
    inner.sweep_strangers(&known).await;
    stream::iter(found)
        .for_each_concurrent(AT_ONCE, |container| {
            let inner = Arc::clone(&inner);
            async move {
                inner.adopt(&container).await;
                inner.remove_at_end(&container);
            }
        })
        .await;
    Ok(Engine(inner))
}

fn boot_id() -> Result<String, EngineError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(text.trim().to_owned())
}

impl Inner {
    fn enlist(&self, record: Record) -> Option<Arc<Container>> {
        let id = ContainerId::parse(&record.id).ok()?;
        let mut containers = self.lock();
        containers.by_name.insert(record.name.clone(), record.id.clone());
        let container = Container::new(id, record);
        containers
            .by_id
            .insert(container.id.as_str().to_owned(), Arc::clone(&container));
        Some(container)
    }

    /// Brings one container to a phase that agrees with what exists. Failures are logged: they must not keep the
    /// others from being adopted, and the container's next operation meets them again.
    async fn adopt(self: &Arc<Self>, container: &Arc<Container>) {
        let _turn = container.turn.lock().await;
        let record = container.record.borrow().clone();
        let settled = match &record.phase {
            Phase::Idle => Ok(()),
            Phase::Starting | Phase::Running(_) => self.resume(container).await,
            Phase::Releasing => self.release(container).await,
            Phase::Removing => self.finish_removal(container).await,
        };
        if let Err(error) = settled {
            tracing::error!(container_id = record.id, error = %Chain(&error), "container {} is not settled", record.name);
        }
    }

    /// Brings a container that is said to start or run, and that nobody watches, together with its shim. The caller
    /// holds its turn, so nobody is just starting it.
    pub(super) async fn resume(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let record = container.record.borrow().clone();
        match &record.phase {
            Phase::Starting => self.adopt_starting(container, &record).await,
            Phase::Running(running) if container.shim().is_none() => {
                self.adopt_running(container, running).await
            }
            Phase::Running(_) | Phase::Idle | Phase::Releasing | Phase::Removing => Ok(()),
        }
    }

    /// Gives up on bringing a container together with its shim, because it is to go in any case; whatever runs of it is
    /// ended by its control group.
    pub(super) async fn abandon(self: &Arc<Self>, container: &Container, error: EngineError) {
        let record = container.record.borrow().clone();
        tracing::warn!(container_id = record.id, error = %Chain(&error), "container {} is ended without its shim", record.name);
        match record.phase {
            Phase::Running(_) => self.settle(container, None).await,
            Phase::Starting => drop(container.record.send_replace(record.give_up())),
            Phase::Idle | Phase::Releasing | Phase::Removing => {}
        }
    }

    async fn adopt_running(
        self: &Arc<Self>,
        container: &Arc<Container>,
        running: &Running,
    ) -> Result<(), EngineError> {
        let found = self.find_shim(container).await?;
        match found {
            Some(Found::Alive(shim)) if shim.process() == running.shim => {
                tracing::info!(
                    container_id = container.id.as_str(),
                    pid = running.init.pid,
                    "container adopted"
                );
                container.set_shim(Some(shim.clone()));
                self.watch(container, shim);
            }
            // The record of another run says nothing about this one.
            Some(Found::Ended(Some(exit))) if exit.pid == running.init.pid => {
                self.settle(container, Some(exit)).await;
            }
            Some(Found::Alive(_) | Found::Ended(_)) | None => self.settle(container, None).await,
        }
        Ok(())
    }

    /// An agent before this one was cut off within a start. Where the program runs, the start is completed; else undone.
    async fn adopt_starting(
        self: &Arc<Self>,
        container: &Arc<Container>,
        record: &Record,
    ) -> Result<(), EngineError> {
        match self.find_shim(container).await? {
            Some(Found::Alive(shim)) => {
                if let Some(running) = self.is_started(&shim).await {
                    self.save(container, record.run(running)).await?;
                    container.set_shim(Some(shim.clone()));
                    self.announce(container, EventKind::Started);
                    self.watch(container, shim);
                    return Ok(());
                }
                // It may have ended while it was asked.
                if let Some(Found::Ended(Some(exit))) = self.find_shim(container).await?
                    && exit.started_at.is_some()
                {
                    return self.complete(container, record, exit).await;
                }
            }
            Some(Found::Ended(Some(exit))) if exit.started_at.is_some() => {
                return self.complete(container, record, exit).await;
            }
            Some(Found::Ended(_)) | None => {}
        }
        self.save(container, record.give_up()).await?;
        self.release(container).await
    }

    /// A whole run that no agent saw the beginning of.
    async fn complete(
        self: &Arc<Self>,
        container: &Container,
        record: &Record,
        exit: runtime::shim::protocol::ExitRecord,
    ) -> Result<(), EngineError> {
        let gone = runtime::shim::protocol::ProcessRecord {
            pid: exit.pid,
            start_ticks: 0,
        };
        let running = Running {
            boot_id: self.boot_id.clone(),
            shim: gone,
            init: gone,
            started_at: exit.started_at.clone().unwrap_or_default(),
        };
        container.record.send_replace(record.run(running));
        self.announce(container, EventKind::Started);
        self.settle(container, Some(exit)).await;
        Ok(())
    }

    /// Asks a shim whether its program was executed.
    async fn is_started(&self, shim: &Shim) -> Option<Running> {
        let state = shim.state().await.ok()?;
        let init = shim.init().filter(container::is_alive)?;
        let started_at = state.started_at.filter(|_| state.status == Status::Running)?;
        Some(Running {
            boot_id: self.boot_id.clone(),
            shim: shim.process(),
            init,
            started_at,
        })
    }

    async fn find_shim(&self, container: &Container) -> Result<Option<Found>, EngineError> {
        self.supervisor
            .find(&container.id)
            .await
            .map_err(|source| EngineError::Shim {
                step: "find",
                container: container.id.as_str().to_owned(),
                source,
            })
    }

    /// Whoever holds something without having a record is removed.
    async fn sweep_strangers(self: &Arc<Self>, known: &HashSet<String>) {
        let mut strangers: HashSet<String> = self.network.attached().await.into_iter().collect();
        match self.roots.list().await {
            Ok(ids) => strangers.extend(ids.iter().map(|id| id.as_str().to_owned())),
            Err(error) => {
                tracing::warn!(error = %Chain(&*error), "cannot look for root file systems without a container")
            }
        }
        match self.supervisor.list() {
            Ok(ids) => strangers.extend(ids),
            Err(error) => tracing::warn!(error = %Chain(&error), "cannot look for shims without a container"),
        }
        for stranger in strangers.difference(known) {
            if let Ok(id) = ContainerId::parse(stranger) {
                self.sweep(&id).await;
            }
        }
    }

    async fn sweep(self: &Arc<Self>, id: &ContainerId) {
        let mut failures = self.take_back(id, Extent::All).await;
        if failures.is_empty() {
            let id = id.as_str().to_owned();
            failures.extend(self.blocking(move |inner| inner.store.remove(&id)).await.err());
        }
        if failures.is_empty() {
            tracing::info!(
                container_id = id.as_str(),
                "removed what an unfinished creation or removal left"
            );
        }
        for error in failures {
            tracing::warn!(container_id = id.as_str(), error = %Chain(&error), "a leftover stays");
        }
    }
}
