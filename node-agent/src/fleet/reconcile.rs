//! From the desired state to tasks: every task that it names has an actor, every actor that it does not name is told to
//! stop, and containers of tasks that nobody knows are removed.
//!
//! Idempotent, woken by every document and each second. Without a document nothing is done at all.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::{DesiredTask, TaskAssignment};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::containers::{Containers, Phase};
use super::ledger::Desired;
use super::task::{Surroundings, Task};

/// How often everything is looked at without being asked.
const PERIOD: Duration = Duration::from_secs(1);
/// Between SIGTERM and SIGKILL for containers whose task nobody knows any more.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);

pub(super) struct Reconciler<C> {
    around: Surroundings<C>,
    actors: HashMap<String, Actor>,
    /// Containers without a task on their way out.
    orphans: HashMap<String, AbortOnDropHandle<()>>,
}

struct Actor {
    wish: watch::Sender<Arc<TaskAssignment>>,
    running: AbortOnDropHandle<()>,
}

impl<C: Containers> Reconciler<C> {
    pub(super) fn new(around: Surroundings<C>) -> Self {
        Self {
            around,
            actors: HashMap::new(),
            orphans: HashMap::new(),
        }
    }

    /// Reconciles until the desired state has no sender any more; tells `applied` each generation once its tasks have
    /// been taken over. Actors end with it, containers do not.
    ///
    /// # Cancel safety
    /// May be dropped at any time; the next one begins from what is.
    pub(super) async fn run(
        mut self,
        mut desired: watch::Receiver<Option<Arc<Desired>>>,
        applied: watch::Sender<u64>,
    ) {
        loop {
            let newest = desired.borrow_and_update().clone();
            if let Some(newest) = newest {
                self.pass(&newest).await;
                applied.send_replace(newest.generation);
            }
            if let Ok(Err(_)) = timeout(PERIOD, desired.changed()).await {
                return;
            }
        }
    }

    /// Brings the actors to what `desired` says.
    pub(super) async fn pass(&mut self, desired: &Desired) {
        let containers: BTreeSet<String> = self
            .around
            .containers
            .of_tasks()
            .await
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        self.actors.retain(|_, actor| !actor.running.is_finished());
        self.orphans.retain(|_, clearing| !clearing.is_finished());
        for task in &desired.tasks {
            match self.actors.get(&task.id) {
                Some(actor) => actor.tell(task),
                None if self.is_done(task, containers.contains(&task.id)) => {}
                None => self.begin(task.clone()),
            }
        }
        let named: HashSet<&str> = desired.tasks.iter().map(|task| task.id.as_str()).collect();
        for (_, actor) in self.actors.iter().filter(|(id, _)| !named.contains(id.as_str())) {
            let stop = TaskAssignment {
                desired: DesiredTask::Stop,
                ..TaskAssignment::clone(&actor.wish.borrow())
            };
            actor.tell(&stop);
        }
        for id in containers {
            if !named.contains(id.as_str()) && !self.actors.contains_key(&id) {
                self.clear(id);
            }
        }
        let actors = &self.actors;
        self.around
            .reports
            .forget(|id| named.contains(id) || actors.contains_key(id));
    }

    /// Whether a task without an actor needs none: it was to stop, and did.
    fn is_done(&self, task: &TaskAssignment, has_container: bool) -> bool {
        let last = self.around.reports.last(&task.id);
        let has_ended = last.is_some_and(|last| last.state.is_final());
        task.desired == DesiredTask::Stop && has_ended && !has_container
    }

    fn begin(&mut self, task: TaskAssignment) {
        let id = task.id.clone();
        let (wish, wished) = watch::channel(Arc::new(task));
        let actor = Task::new(self.around.clone(), wished);
        let running = AbortOnDropHandle::new(tokio::spawn(actor.run()));
        self.actors.insert(id, Actor { wish, running });
    }

    fn clear(&mut self, task_id: String) {
        if self.orphans.contains_key(&task_id) {
            return;
        }
        tracing::warn!(
            task_id,
            "task {task_id} is not known any more; its container is removed"
        );
        let containers = self.around.containers.clone();
        let id = task_id.clone();
        let clearing = tokio::spawn(async move {
            if let Some(found) = containers.find(&id).await {
                let stopped = match found.phase {
                    Phase::Running { .. } => containers.stop(&found.id, ORPHAN_GRACE).await,
                    Phase::Created | Phase::Exited(_) => Ok(()),
                };
                let removed = match stopped {
                    Ok(()) => containers.remove(&found.id).await,
                    failed => failed,
                };
                // The next pass finds it again.
                if let Err(trouble) = removed {
                    tracing::warn!(task_id = id, %trouble, "cannot remove the container of task {id}");
                }
            }
        });
        self.orphans.insert(task_id, AbortOnDropHandle::new(clearing));
    }
}

impl Actor {
    fn tell(&self, task: &TaskAssignment) {
        self.wish.send_if_modified(|wish| {
            let is_new = **wish != *task;
            if is_new {
                *wish = Arc::new(task.clone());
            }
            is_new
        });
    }
}
