//! Containers: what they are, where each is in its life, and what becomes of them when the agent or the host goes away.
//!
//! Owns the records below DATA and what they stand for: shims and bundles (through `supervise`), addresses (through
//! `network`), mounted root file systems (through a [`RootFilesystems`]). Leaves restart policies and service ports to
//! `fleet`; restarts nothing by itself.
//!
//! Invariants: a record is on disk before what it announces exists and until it is gone, so [`Engine::open`] completes
//! or undoes whatever was cut off; operations on one container take turns; containers never depend on this process,
//! which may be killed at any moment; names are unique; an exit is announced once.

mod adopt;
mod bundle;
mod error;
mod lifecycle;
mod logs;
mod names;
mod record;
mod roots;
mod spec;
mod store;
mod user;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::{ContainerSpec, LogQuery, Resources};
use futures::stream::Stream;
use oci::Digest;
use runtime::container::ContainerId;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use self::logs::Reader;
use self::record::{Phase, Record};
use self::store::Store;
use crate::image::Image;
use crate::network::{Network, PortRequest, PublishedPort};
use crate::supervise::{Shim, Supervisor};

pub use self::error::{EngineError, RootError};
pub use self::logs::LogEntry;
pub use self::record::{ContainerState, Exit};
pub use self::roots::RootFilesystems;
pub use self::spec::{Program, SpecError, signal};
pub use self::user::UserError;

/// Events that a slow receiver may be behind before it misses some. More than a full node's containers, all of which
/// may end at once.
const EVENT_BACKLOG: usize = 4096;

/// A handle to the engine; clones share it.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

/// What [`Engine::open`] needs.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Directory of records and logs; survives a reboot.
    pub data: PathBuf,
    /// RUN: shims, bundles and the runtime's state below it.
    pub run: PathBuf,
    /// The control group that holds those of the containers, relative to each hierarchy's root. This agent's alone.
    pub cgroup_parent: String,
}

/// A container to make.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// Unique among containers.
    pub name: String,
    /// Its image. It must be kept at least until the container has been started once; from then on its root keeps it.
    pub image: Arc<Image>,
    /// What whoever asked calls the image, where that is not its digest.
    pub image_name: Option<String>,
    /// Whether it is removed when its program ends, or cannot be started.
    pub is_removed_at_end: bool,
    /// How it runs.
    pub container: ContainerSpec,
    /// Its limits.
    pub resources: Resources,
    /// Ports published in the container's own name whenever it starts.
    pub ports: Vec<PortRequest>,
}

/// A container, as it is at one moment.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// 64 hexadecimal digits.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// The image, by the digest it was pulled by.
    pub image: Digest,
    /// What whoever asked calls the image.
    pub image_name: Option<String>,
    /// Whether it is removed when its program ends.
    pub is_removed_at_end: bool,
    /// The image's labels and its own.
    pub labels: BTreeMap<String, String>,
    /// RFC 3339 with nanoseconds, UTC.
    pub created_at: String,
    /// Where it is in its life.
    pub state: ContainerState,
    /// How it ended last, also while it runs again.
    pub last_exit: Option<Exit>,
    /// Its address while it runs.
    pub address: Option<Ipv4Addr>,
    /// Ports that lead to it while it runs, its own and services'.
    pub ports: Vec<PublishedPort>,
    /// Ports to publish whenever it starts.
    pub asked_ports: Vec<PortRequest>,
    /// What runs in it.
    pub program: Program,
    /// What was asked for.
    pub container: ContainerSpec,
    /// Its limits.
    pub resources: Resources,
    /// The current file of its log.
    pub log_path: PathBuf,
}

/// Something that happened to a container.
#[derive(Clone, Debug)]
pub struct Event {
    /// The container.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: Digest,
    /// What whoever asked calls the image.
    pub image_name: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it happened. RFC 3339 with nanoseconds, UTC.
    pub time: String,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was made.
    Created,
    /// Its program was executed.
    Started,
    /// Its program ended.
    Exited(Exit),
    /// It is gone.
    Removed,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    supervisor: Supervisor,
    roots: Arc<dyn RootFilesystems>,
    network: Network,
    cgroup_parent: PathBuf,
    boot_id: String,
    containers: Mutex<Containers>,
    events: broadcast::Sender<Event>,
    /// Holds what happened before anybody asked for events, above all the exits that `open` found.
    first_events: Mutex<Option<broadcast::Receiver<Event>>>,
}

#[derive(Debug, Default)]
struct Containers {
    by_id: BTreeMap<String, Arc<Container>>,
    /// Also names of containers that are just being made.
    by_name: HashMap<String, String>,
}

#[derive(Debug)]
struct Container {
    id: ContainerId,
    /// Held by whoever changes the container.
    turn: tokio::sync::Mutex<()>,
    record: watch::Sender<Record>,
    /// While it runs.
    shim: Mutex<Option<Shim>>,
    /// Held for reading by each attached reader of its output, who are waited for before it is removed at its end.
    readers: Arc<tokio::sync::RwLock<()>>,
    /// Cancelled when it is gone.
    removed: CancellationToken,
}

impl Engine {
    /// Reads the store, adopts every container whose shim lives, settles those that ended meanwhile or whose host was
    /// rebooted, and completes or undoes what was cut off. Restarts nothing. `/proc/self/exe` must be the node
    /// agent's program. Relative paths are those of this moment.
    ///
    /// # Errors
    /// When the store cannot be read or another agent works on it. What goes wrong with a single container is logged,
    /// and is tried again when that container is started or removed.
    ///
    /// # Cancel safety
    /// May be repeated.
    pub async fn open(
        config: EngineConfig,
        roots: impl RootFilesystems,
        network: Network,
    ) -> Result<Self, EngineError> {
        Self::open_with(PathBuf::from("/proc/self/exe"), config, roots, network).await
    }

    /// As [`Engine::open`], for a process that is not the node agent itself: `program` is executed as the shim.
    ///
    /// # Errors
    /// As [`Engine::open`].
    ///
    /// # Cancel safety
    /// May be repeated.
    pub async fn open_with(
        program: PathBuf,
        config: EngineConfig,
        roots: impl RootFilesystems,
        network: Network,
    ) -> Result<Self, EngineError> {
        adopt::open(program, config, Arc::new(roots), network).await
    }

    /// Makes a container. It is durable when this returns, and not started.
    ///
    /// # Errors
    /// When the name is taken, or what is asked for cannot be; nothing is left then.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn create(&self, new: NewContainer) -> Result<ContainerId, EngineError> {
        let inner = Arc::clone(&self.0);
        tracked(async move { inner.create(new).await }).await
    }

    /// Starts a container that does not run; again after an exit, with what it wrote to its root file system. Returns
    /// when its program has been executed.
    ///
    /// # Errors
    /// [`EngineError::AlreadyRunning`]; or [`EngineError::Start`] with the step that failed, and the container is as
    /// it was before.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let (inner, container) = (Arc::clone(&self.0), self.0.find(id)?);
        tracked(async move { inner.start(&container).await }).await
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`] and [`EngineError::NoSignal`]; or the shim cannot be asked.
    ///
    /// # Cancel safety
    /// The signal may have been sent.
    pub async fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), EngineError> {
        let container = self.0.find(id)?;
        self.0.kill(&container, signal).await
    }

    /// Asks the program to end with its stop signal, and kills it when it has not after `grace`. Returns how it ended.
    ///
    /// # Errors
    /// [`EngineError::NotRunning`]; or [`EngineError::DoesNotEnd`] when even SIGKILL does not help.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<Exit, EngineError> {
        let (inner, container) = (Arc::clone(&self.0), self.0.find(id)?);
        tracked(async move { inner.stop(&container, grace).await }).await
    }

    /// Waits for the end of the container's program: at once when it has ended and not been started again, else for
    /// its next end.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] when the container is removed without having run.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait(&self, id: &ContainerId) -> Result<Exit, EngineError> {
        let records = self.0.find(id)?.record.subscribe();
        lifecycle::exit_in(id, records).await
    }

    /// Waits for the end of the run that is on, or of the next one; counted from this call, not from the first poll.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], at once, or when the container is removed before it ends.
    ///
    /// # Cancel safety
    /// Safe.
    pub fn next_exit(
        &self,
        id: &ContainerId,
    ) -> Result<impl Future<Output = Result<Exit, EngineError>> + Send + 'static + use<>, EngineError> {
        let records = self.0.find(id)?.record.subscribe();
        let count = records.borrow().exit_count;
        let id = id.clone();
        Ok(async move { lifecycle::exit_after(&id, records, count).await })
    }

    /// Waits until nothing of an ended run is left: its network and the mount of its root.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], at once.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn released(&self, id: &ContainerId) -> Result<(), EngineError> {
        let mut records = self.0.find(id)?.record.subscribe();
        // An error means that the container has been removed, and all of it with it.
        let _ = records.wait_for(|record| record.phase == Phase::Idle).await;
        Ok(())
    }

    /// Waits until the container is gone, and tells how it ended last.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], at once.
    ///
    /// # Cancel safety
    /// Safe.
    pub fn removal(
        &self,
        id: &ContainerId,
    ) -> Result<impl Future<Output = Option<Exit>> + Send + 'static + use<>, EngineError> {
        let container = self.0.find(id)?;
        let (removed, records) = (container.removed.clone(), container.record.subscribe());
        Ok(async move {
            removed.cancelled().await;
            records.borrow().last_exit.clone()
        })
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// When the name cannot be one or is taken.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn rename(&self, id: &ContainerId, name: &str) -> Result<(), EngineError> {
        let (inner, container) = (Arc::clone(&self.0), self.0.find(id)?);
        let name = name.to_owned();
        tracked(async move { inner.rename(&container, name).await }).await
    }

    /// Removes a container and everything of it; kills it before if `is_forced`.
    ///
    /// # Errors
    /// [`EngineError::RemoveRunning`]; or [`EngineError::Teardown`] with every step that failed, which a further call
    /// tries again.
    ///
    /// # Cancel safety
    /// The work runs on when the future is dropped.
    pub async fn remove(&self, id: &ContainerId, is_forced: bool) -> Result<(), EngineError> {
        let (inner, container) = (Arc::clone(&self.0), self.0.find(id)?);
        tracked(async move { inner.remove(&container, is_forced).await }).await
    }

    /// One container.
    pub async fn get(&self, id: &ContainerId) -> Option<ContainerView> {
        let container = self.0.find(id).ok()?;
        Some(self.0.view(&container).await)
    }

    /// All containers, in the order of their ids.
    pub async fn list(&self) -> Vec<ContainerView> {
        let containers: Vec<_> = self.0.lock().by_id.values().cloned().collect();
        let mut views = Vec::with_capacity(containers.len());
        for container in containers {
            views.push(self.0.view(&container).await);
        }
        views
    }

    /// Finds a container by its name, its id or the beginning of its id, in this order.
    ///
    /// # Errors
    /// When there is none, or several ids begin so.
    pub fn resolve(&self, query: &str) -> Result<ContainerId, EngineError> {
        let containers = self.0.lock();
        let named = containers
            .by_name
            .get(query)
            .and_then(|id| containers.by_id.get(id));
        if let Some(container) = named.or_else(|| containers.by_id.get(query)) {
            return Ok(container.id.clone());
        }
        let query = query.to_owned();
        let mut begun = containers
            .by_id
            .range(query.clone()..)
            .take_while(|(id, _)| !query.is_empty() && id.starts_with(&query));
        match (begun.next(), begun.count()) {
            (None, _) => Err(EngineError::NotFound { query }),
            (Some((_, container)), 0) => Ok(container.id.clone()),
            (Some(_), more) => Err(EngineError::Ambiguous {
                query,
                count: more + 1,
            }),
        }
    }

    /// What happens from now on. The first receiver also gets what happened since [`Engine::open`] began, such as the
    /// exits that no agent saw. Whoever must not miss anything compares with [`Engine::list`] after a lag.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        let mut first = self
            .0
            .first_events
            .lock()
            .expect("nothing panics while it holds the receiver");
        first.take().unwrap_or_else(|| self.0.events.subscribe())
    }

    /// The container's output, oldest first, rotated files included; with `follow`, until it does not run any more.
    /// The stream owns all it needs and may be dropped at any moment.
    pub fn logs(
        &self,
        id: &ContainerId,
        query: &LogQuery,
    ) -> impl Stream<Item = Result<LogEntry, EngineError>> + Send + 'static + use<> {
        let records = self.0.find(id).map(|container| container.record.subscribe());
        match records {
            Ok(records) => {
                let reader = Reader::new(self.0.store.log(id.as_str()));
                let is_live = |record: &Record| matches!(record.phase, Phase::Starting | Phase::Running(_));
                futures::future::Either::Left(logs::read(reader, query, records, is_live))
            }
            Err(error) => futures::future::Either::Right(futures::stream::iter([Err(error)])),
        }
    }

    /// The container's output from this call on, until the end of the run that is on, or of the next one; with
    /// `is_past_wanted`, after all that is kept of its output before. A container that is removed at its end waits for
    /// the stream to be read.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], or the log cannot be read.
    ///
    /// # Cancel safety
    /// Safe; the stream may be dropped at any moment.
    pub async fn attach(
        &self,
        id: &ContainerId,
        is_past_wanted: bool,
    ) -> Result<impl Stream<Item = Result<LogEntry, EngineError>> + Send + 'static + use<>, EngineError> {
        let container = self.0.find(id)?;
        let reading = Arc::clone(&container.readers).read_owned().await;
        let records = container.record.subscribe();
        let count = records.borrow().exit_count;
        let path = self.0.store.log(id.as_str());
        let reader = match is_past_wanted {
            true => Reader::new(path),
            // Now, because whoever asks may start the container next.
            false => self.0.blocking(move |_| Reader::at_end(path)).await?,
        };
        let query = LogQuery {
            follow: true,
            ..LogQuery::default()
        };
        let is_live = move |record: &Record| {
            // Captured, so that the removal waits for as long as this lives.
            let _ = &reading;
            record.exit_count == count
        };
        Ok(logs::read(reader, &query, records, is_live))
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Containers> {
        self.containers
            .lock()
            .expect("nothing panics while it holds the containers")
    }

    fn find(&self, id: &ContainerId) -> Result<Arc<Container>, EngineError> {
        self.lock()
            .by_id
            .get(id.as_str())
            .cloned()
            .ok_or_else(|| EngineError::NotFound {
                query: id.as_str().to_owned(),
            })
    }

    async fn view(&self, container: &Container) -> ContainerView {
        let record = container.record.borrow().clone();
        let state = record.state();
        let attachment = match state {
            ContainerState::Running { .. } => self.network.attachment(&container.id).await,
            ContainerState::Created | ContainerState::Exited(_) => None,
        };
        ContainerView {
            id: container.id.clone(),
            name: record.name,
            image: record.image,
            image_name: record.image_name,
            is_removed_at_end: record.is_removed_at_end,
            labels: record.labels,
            created_at: record.created_at,
            state,
            last_exit: record.last_exit,
            address: attachment.as_ref().map(|attachment| attachment.address),
            ports: attachment.map(|attachment| attachment.ports).unwrap_or_default(),
            asked_ports: record.ports,
            program: record.program,
            container: record.container,
            resources: record.resources,
            log_path: self.store.log(&record.id),
        }
    }

    /// Tells everybody who listens.
    fn announce(&self, container: &Container, kind: EventKind) {
        let record = container.record.borrow().clone();
        // An error means that nobody listens.
        let _ = self.events.send(Event {
            id: container.id.clone(),
            name: record.name,
            image: record.image,
            image_name: record.image_name,
            labels: record.labels,
            time: match &kind {
                EventKind::Exited(exit) => exit.finished_at.clone(),
                EventKind::Created | EventKind::Started | EventKind::Removed => runtime::clock::now(),
            },
            kind,
        });
    }

    /// Makes `record` the truth, on disk first.
    async fn save(self: &Arc<Self>, container: &Container, record: Record) -> Result<(), EngineError> {
        let record = self
            .blocking(move |inner| inner.store.save(&record).map(|()| record))
            .await?;
        container.record.send_replace(record);
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let inner = Arc::clone(self);
        joined(tokio::task::spawn_blocking(move || work(&inner)).await)
    }
}

impl Container {
    fn new(id: ContainerId, record: Record) -> Arc<Self> {
        Arc::new(Self {
            id,
            turn: tokio::sync::Mutex::new(()),
            record: watch::Sender::new(record),
            shim: Mutex::new(None),
            readers: Arc::default(),
            removed: CancellationToken::new(),
        })
    }

    fn shim(&self) -> Option<Shim> {
        self.shim
            .lock()
            .expect("nothing panics while it holds the shim")
            .clone()
    }

    fn set_shim(&self, shim: Option<Shim>) {
        *self.shim.lock().expect("nothing panics while it holds the shim") = shim;
    }
}

/// Runs `work` to its end even if the caller goes away.
async fn tracked<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    joined(tokio::spawn(work).await)
}

fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    result.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => panic!("the async runtime shut down under an operation"),
    })
}
