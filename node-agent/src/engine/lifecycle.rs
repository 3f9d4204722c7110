//! What is done to a container, step by step.

use std::sync::Arc;
use std::time::Duration;

use runtime::container::ContainerId;
use runtime::shim::protocol::ExitRecord;
use tokio::sync::watch;
use tokio::time::timeout;

use super::bundle::{self, Plan};
use super::record::{Exit, Phase, Record, Running};
use super::spec::{self, Program};
use super::{Container, ContainerState, EngineError, EventKind, Inner, NewContainer};
use crate::chain::Chain;
use crate::supervise::{Shim, ShimError};

const SIGKILL: i32 = 9;
/// How long the end of a killed container may take: its shim gives up before.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the removal of an ended container waits for those who read its output.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_NAME: usize = 255;

/// How much of a container goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// What exists for a run.
    Run,
    /// That and what it wrote.
    All,
}

impl Inner {
    pub(super) async fn create(self: &Arc<Self>, new: NewContainer) -> Result<ContainerId, EngineError> {
        check_name(&new.name)?;
        let id = new_id();
        let spec_error = |source| EngineError::Spec {
            name: new.name.clone(),
            source,
        };
        let program = Program::new(&new.image.config, &new.container, id.as_str()).map_err(spec_error)?;
        spec::capabilities(&new.container).map_err(spec_error)?;
        spec::check_resources(&new.resources).map_err(spec_error)?;
        let mut labels = new.image.config.labels.clone();
        labels.extend(new.container.labels.clone());
        let record = Record {
            id: id.as_str().to_owned(),
            name: new.name.clone(),
            image: new.image.digest.clone(),
            image_name: new.image_name,
            is_removed_at_end: new.is_removed_at_end,
            created_at: runtime::clock::now(),
            labels,
            program,
            container: new.container,
            resources: new.resources,
            ports: new.ports,
            phase: Phase::Idle,
            last_exit: None,
            exit_count: 0,
        };
        {
            let mut containers = self.lock();
            if let Some(holder) = containers.by_name.get(&new.name) {
                let holder = holder.clone();
                return Err(EngineError::NameTaken {
                    name: new.name,
                    holder,
                });
            }
            containers.by_name.insert(new.name.clone(), record.id.clone());
        }
        let made = self.blocking({
            let record = record.clone();
            move |inner| {
                inner.store.create(&record).inspect_err(|_| {
                    if let Err(error) = inner.store.remove(&record.id) {
                        tracing::warn!(container_id = record.id, error = %Chain(&error), "a failed creation is not undone; the next start of the agent does it");
                    }
                })
            }
        });
        let made = made.await;
        let mut containers = self.lock();
        if let Err(error) = made {
            containers.by_name.remove(&new.name);
            return Err(error);
        }
        let container = Container::new(id.clone(), record);
        containers
            .by_id
            .insert(id.as_str().to_owned(), Arc::clone(&container));
        drop(containers);
        self.announce(&container, EventKind::Created);
        Ok(id)
    }

    pub(super) async fn start(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        let _turn = container.turn.lock().await;
        self.enter(container).await?;
        let mut record = container.record.borrow().clone();
        if record.phase == Phase::Releasing {
            // An earlier release failed; a start on top of what it left would be one on sand.
            self.release(container).await?;
            record = container.record.borrow().clone();
        }
        let name = record.name.clone();
        let starting = record.begin_start()?;
        self.save(container, starting.clone()).await?;
        let failure = match self.start_steps(container, &starting).await {
            Ok((shim, running)) => match self.save(container, starting.run(running)).await {
                Ok(()) => {
                    container.set_shim(Some(shim.clone()));
                    self.announce(container, EventKind::Started);
                    self.watch(container, shim);
                    return Ok(());
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let leftovers = match self.undo_start(container, starting.give_up()).await {
            Ok(()) => Vec::new(),
            Err(EngineError::Teardown { failures, .. }) => failures,
            Err(error) => vec![error],
        };
        if starting.is_removed_at_end {
            let (inner, container) = (Arc::clone(self), Arc::clone(container));
            tokio::spawn(async move { inner.remove_ended(&container).await });
        }
        Err(EngineError::Start {
            name,
            source: Box::new(failure),
            leftovers,
        })
    }

    async fn start_steps(
        self: &Arc<Self>,
        container: &Container,
        record: &Record,
    ) -> Result<(Shim, Running), EngineError> {
        let id = &container.id;
        let (root, attachment) = tokio::join!(
            self.roots.mount(&record.image, id),
            self.network.attach(id, &record.ports)
        );
        let root = root.map_err(|source| EngineError::Root {
            step: "mount",
            container: record.id.clone(),
            source,
        })?;
        let attachment = attachment.map_err(|source| EngineError::Network {
            step: "attach",
            container: record.id.clone(),
            source,
        })?;
        let shim_error = |step| {
            move |source: ShimError| EngineError::Shim {
                step,
                container: record.id.clone(),
                source,
            }
        };
        self.blocking({
            let (id, record) = (id.clone(), record.clone());
            move |inner| {
                let directory = inner
                    .supervisor
                    .prepare(&id)
                    .map_err(|source| EngineError::Shim {
                        step: "prepare",
                        container: record.id.clone(),
                        source,
                    })?;
                bundle::write(&Plan {
                    record: &record,
                    directory: &directory,
                    root: &root,
                    attachment: &attachment,
                    cgroup: &bundle::cgroup(&inner.cgroup_parent, &record.id),
                })
            }
        })
        .await?;
        let log = self.store.log(&record.id);
        let shim = self
            .supervisor
            .create(id, &log)
            .await
            .map_err(shim_error("create"))?;
        let started_at = shim.start().await.map_err(shim_error("start"))?;
        let init = shim.init().ok_or(ShimError::Gone).map_err(shim_error("start"))?;
        let running = Running {
            boot_id: self.boot_id.clone(),
            shim: shim.process(),
            init,
            started_at,
        };
        Ok((shim, running))
    }

    async fn undo_start(
        self: &Arc<Self>,
        container: &Container,
        releasing: Record,
    ) -> Result<(), EngineError> {
        // Even when the disk refuses the record, what was made goes.
        let saved = self.save(container, releasing.clone()).await;
        if saved.is_err() {
            container.record.send_replace(releasing);
        }
        self.release(container).await.and(saved)
    }

    /// Settles the container once its shim has ended.
    pub(super) fn watch(self: &Arc<Self>, container: &Arc<Container>, shim: Shim) {
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            let told = shim.ended().await;
            {
                let _turn = container.turn.lock().await;
                inner.settle(&container, told).await;
            }
            inner.remove_at_end(&container);
        });
    }

    /// Removes an ended container if that was asked for, once those who are attached to it have read its output.
    pub(super) fn remove_at_end(self: &Arc<Self>, container: &Arc<Container>) {
        let is_due = {
            let record = container.record.borrow();
            record.is_removed_at_end && matches!(record.state(), ContainerState::Exited(_))
        };
        if is_due {
            let (inner, container) = (Arc::clone(self), Arc::clone(container));
            tokio::spawn(async move {
                // A reader that does not read is not waited for.
                let _ = timeout(READ_TIMEOUT, container.readers.write()).await;
                inner.remove_ended(&container).await;
            });
        }
    }

    async fn remove_ended(self: &Arc<Self>, container: &Arc<Container>) {
        match self.remove(container, false).await {
            // Somebody else removed it or started it again; then it is removed at the end of that run.
            Ok(()) | Err(EngineError::NotFound { .. } | EngineError::RemoveRunning { .. }) => {}
            Err(error) => {
                let id = container.id.as_str();
                tracing::warn!(container_id = id, error = %Chain(&error), "container {id} is not removed at its end");
            }
        }
    }

    pub(super) async fn rename(
        self: &Arc<Self>,
        container: &Arc<Container>,
        name: String,
    ) -> Result<(), EngineError> {
        check_name(&name)?;
        let _turn = container.turn.lock().await;
        self.find(&container.id)?;
        let record = container.record.borrow().clone();
        let old = record.name.clone();
        {
            let mut containers = self.lock();
            if let Some(holder) = containers.by_name.get(&name) {
                let holder = holder.clone();
                return Err(EngineError::NameTaken { name, holder });
            }
            containers.by_name.insert(name.clone(), record.id.clone());
        }
        let renamed = Record {
            name: name.clone(),
            ..record
        };
        let saved = self.save(container, renamed).await;
        let freed = if saved.is_ok() { &old } else { &name };
        self.lock().by_name.remove(freed);
        saved
    }

    /// Records and announces the end of a running container, then releases what it had. The caller holds its turn.
    pub(super) async fn settle(self: &Arc<Self>, container: &Container, told: Option<ExitRecord>) {
        let record = container.record.borrow().clone();
        let Phase::Running(running) = &record.phase else {
            return;
        };
        let exit = told.map_or_else(
            || {
                let reason = if running.boot_id == self.boot_id {
                    "the container's shim was killed, and with it went the exit code"
                } else {
                    "the host was restarted"
                };
                Exit::unknown(Some(running.started_at.clone()), reason)
            },
            Exit::from,
        );
        container.set_shim(None);
        let ended = record.end(exit.clone());
        let saved = self.save(container, ended.clone()).await;
        if let Err(error) = &saved {
            tracing::error!(container_id = record.id, error = %Chain(error), "cannot record the exit of container {}", record.name);
            container.record.send_replace(ended);
        }
        self.announce(container, EventKind::Exited(exit));
        if saved.is_err() {
            // Nothing is released, because the shim's record of the exit goes with it: the next open reads it again.
            return;
        }
        if let Err(error) = self.release(container).await {
            tracing::warn!(container_id = record.id, error = %Chain(&error), "container {} has ended, but not all of it is gone", record.name);
        }
    }

    pub(super) async fn kill(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: i32,
    ) -> Result<(), EngineError> {
        if !(1..=64).contains(&signal) {
            return Err(EngineError::NoSignal { signal });
        }
        // Not while it starts or ends, so that the answer is about a definite state.
        let _turn = container.turn.lock().await;
        self.enter(container).await?;
        container.record.borrow().running("kill")?;
        self.signal(container, "kill", signal).await
    }

    pub(super) async fn stop(
        self: &Arc<Self>,
        container: &Arc<Container>,
        grace: Duration,
    ) -> Result<Exit, EngineError> {
        let (records, count, name) = {
            let _turn = container.turn.lock().await;
            self.enter(container).await?;
            let records = container.record.subscribe();
            let (name, count, signal) = {
                let record = records.borrow();
                record.running("stop")?;
                (record.name.clone(), record.exit_count, record.program.stop_signal)
            };
            self.signal(container, "stop", signal).await?;
            (records, count, name)
        };
        let ended = exit_after(&container.id, records.clone(), count);
        if let Ok(exit) = timeout(grace, ended).await {
            return exit;
        }
        tracing::info!(
            container_id = container.id.as_str(),
            "container {name} did not end within its grace of {} ms and is killed",
            grace.as_millis()
        );
        {
            let _turn = container.turn.lock().await;
            // It may have ended and been started again while this waited for its turn.
            if container.record.borrow().exit_count == count {
                self.signal(container, "kill", SIGKILL).await?;
            }
        }
        killed(container, records, count, name).await
    }

    /// The end of the container may be on its way; then there is nothing to signal, and that is no error.
    async fn signal(
        &self,
        container: &Container,
        step: &'static str,
        signal: i32,
    ) -> Result<(), EngineError> {
        let Some(shim) = container.shim() else {
            return Ok(());
        };
        match shim.kill(signal).await {
            Ok(()) => Ok(()),
            Err(_) if shim.is_ending() => Ok(()),
            Err(source) => Err(EngineError::Shim {
                step,
                container: container.id.as_str().to_owned(),
                source,
            }),
        }
    }

    pub(super) async fn remove(
        self: &Arc<Self>,
        container: &Arc<Container>,
        is_forced: bool,
    ) -> Result<(), EngineError> {
        let _turn = loop {
            let turn = container.turn.lock().await;
            self.find(&container.id)?;
            match self.resume(container).await {
                Err(error) if is_forced => self.abandon(container, error).await,
                other => other?,
            }
            let records = container.record.subscribe();
            let (is_running, count, name) = {
                let record = records.borrow();
                let is_running = matches!(record.phase, Phase::Running(_));
                (is_running, record.exit_count, record.name.clone())
            };
            if !is_forced || !is_running {
                break turn;
            }
            self.signal(container, "kill", SIGKILL).await?;
            // Its end is recorded by whoever watches it, and needs the turn.
            drop(turn);
            killed(container, records, count, name).await?;
        };
        let removing = container.record.borrow().begin_removal()?;
        self.save(container, removing).await?;
        self.finish_removal(container).await
    }

    /// Takes everything back and forgets the container. The caller holds its turn.
    pub(super) async fn finish_removal(self: &Arc<Self>, container: &Container) -> Result<(), EngineError> {
        let name = container.record.borrow().name.clone();
        let failures = self.take_back(&container.id, Extent::All).await;
        if !failures.is_empty() {
            return Err(EngineError::Teardown { name, failures });
        }
        let id = container.id.as_str().to_owned();
        self.blocking(move |inner| inner.store.remove(&id)).await?;
        {
            let mut containers = self.lock();
            containers.by_id.remove(container.id.as_str());
            containers.by_name.remove(&name);
        }
        self.announce(container, EventKind::Removed);
        container.removed.cancel();
        Ok(())
    }

    /// Releases what an ended or failed run had; the record says so before and after. The caller holds its turn.
    pub(super) async fn release(self: &Arc<Self>, container: &Container) -> Result<(), EngineError> {
        let record = container.record.borrow().clone();
        let failures = self.take_back(&container.id, Extent::Run).await;
        if failures.is_empty() {
            return self.save(container, record.rest()).await;
        }
        Err(EngineError::Teardown {
            name: record.name,
            failures,
        })
    }

    /// Every step, whatever becomes of the others: processes first, because they hold the rest.
    pub(super) async fn take_back(&self, id: &ContainerId, extent: Extent) -> Vec<EngineError> {
        let mut failures = Vec::new();
        let named = || id.as_str().to_owned();
        let cgroup = bundle::cgroup(&self.cgroup_parent, id.as_str());
        if let Err(source) = self.supervisor.clear(id, &cgroup).await {
            failures.push(EngineError::Shim {
                step: "clear",
                container: named(),
                source,
            });
        }
        if let Err(source) = self.network.detach(id).await {
            failures.push(EngineError::Network {
                step: "detach",
                container: named(),
                source,
            });
        }
        let (step, root) = match extent {
            Extent::Run => ("unmount", self.roots.unmount(id).await),
            Extent::All => ("remove", self.roots.remove(id).await),
        };
        if let Err(source) = root {
            failures.push(EngineError::Root {
                step,
                container: named(),
                source,
            });
        }
        failures
    }

    /// With the turn in hand: the container may have been removed while it was waited for, and one that is said to start
    /// or run without being watched is one that `open` could not settle.
    async fn enter(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), EngineError> {
        self.find(&container.id)?;
        self.resume(container).await
    }
}

/// The last end when nothing runs, else the end of the run that is on, or is about to be.
pub(super) async fn exit_in(id: &ContainerId, records: watch::Receiver<Record>) -> Result<Exit, EngineError> {
    let (state, is_starting, count) = {
        let record = records.borrow();
        (record.state(), record.phase == Phase::Starting, record.exit_count)
    };
    match state {
        ContainerState::Exited(exit) if !is_starting => Ok(exit),
        _ => exit_after(id, records, count).await,
    }
}

/// The end after `count` ends, even if the container runs again by now.
pub(super) async fn exit_after(
    id: &ContainerId,
    mut records: watch::Receiver<Record>,
    count: u64,
) -> Result<Exit, EngineError> {
    let ended = records.wait_for(|record| record.exit_count > count).await;
    ended
        .ok()
        .and_then(|record| record.last_exit.clone())
        .ok_or_else(|| EngineError::NotFound {
            query: id.as_str().to_owned(),
        })
}

async fn killed(
    container: &Container,
    records: watch::Receiver<Record>,
    count: u64,
    name: String,
) -> Result<Exit, EngineError> {
    match timeout(KILL_TIMEOUT, exit_after(&container.id, records, count)).await {
        Ok(exit) => exit,
        Err(_) => Err(EngineError::DoesNotEnd {
            name,
            seconds: KILL_TIMEOUT.as_secs(),
        }),
    }
}

fn check_name(name: &str) -> Result<(), EngineError> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins_well && (2..=LONGEST_NAME).contains(&name.len()) && name.chars().all(is_good) {
        return Ok(());
    }
    Err(EngineError::NameMalformed {
        name: name.to_owned(),
    })
}

/// 64 hexadecimal digits, as Docker's clients expect them.
fn new_id() -> ContainerId {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    ContainerId::parse(&hex::encode(bytes)).expect("hexadecimal digits are an id")
}
