//! Which task of a service holds the service's host ports on this node: the one whose container is youngest among
//! those that are ready.
//!
//! A task that has been ready before and was started again may have them back before it counts as ready, but only while
//! nobody else is: that shortens an outage and never causes one.
//!
//! During a rollout two tasks of a service run side by side. The younger takes the ports when it is ready; when it is
//! told to stop before the older one, as in a rollback, the ports go back before it is. One task serialises this, so
//! the youngest wins whoever asks first.

use std::collections::HashMap;
use std::sync::Arc;

use api::{ServiceName, TaskAssignment};
use runtime::container::ContainerId;
use tokio::sync::{mpsc, oneshot};

use super::containers::{Containers, Found, Trouble};

/// Every task asks at most once at a time, so this never holds up more than a burst.
const QUEUE: usize = 64;

/// A handle; clones share the work behind it, which ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Ports(mpsc::Sender<Request>);

#[derive(Debug)]
enum Request {
    Claim {
        candidate: Candidate,
        /// Whether this is only to be granted while nobody of the service is ready.
        is_early: bool,
        answer: oneshot::Sender<Result<(), Trouble>>,
    },
    Leave {
        service: ServiceName,
        task_id: String,
        done: oneshot::Sender<()>,
    },
}

#[derive(Clone, Debug)]
struct Candidate {
    task: Arc<TaskAssignment>,
    container: ContainerId,
    created_at_ms: i64,
}

impl Candidate {
    fn age(&self) -> (i64, &str) {
        (self.created_at_ms, &self.task.id)
    }
}

impl Ports {
    /// A handle, and the work that must run behind it.
    pub(super) fn new(containers: impl Containers) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, requests) = mpsc::channel(QUEUE);
        (Self(sender), serve(containers, requests))
    }

    /// Says that the task is ready. Its service's ports lead to it when this returns, or to a younger one.
    ///
    /// # Cancel safety
    /// The claim may or may not stand; [`Self::leave`] takes it back.
    pub(super) async fn claim(&self, task: &Arc<TaskAssignment>, found: &Found) -> Result<(), Trouble> {
        self.ask(task, found, false).await
    }

    /// Says that the task takes connections and will be ready soon. Its service's ports lead to it when this returns
    /// if no task of the service is ready.
    ///
    /// # Cancel safety
    /// As [`Self::claim`].
    pub(super) async fn claim_early(&self, task: &Arc<TaskAssignment>, found: &Found) -> Result<(), Trouble> {
        self.ask(task, found, true).await
    }

    async fn ask(&self, task: &Arc<TaskAssignment>, found: &Found, is_early: bool) -> Result<(), Trouble> {
        if task.ports.is_empty() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let candidate = Candidate {
            task: task.clone(),
            container: found.id.clone(),
            created_at_ms: found.created_at_ms,
        };
        let gone = || Trouble::Failed("the agent is stopping".to_owned());
        let request = Request::Claim {
            candidate,
            is_early,
            answer,
        };
        self.0.send(request).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Says that the task is not ready any more. If its service's ports led to it and another task of the service is
    /// ready, they lead there when this returns; if none is, they stay until its container goes.
    pub(super) async fn leave(&self, task: &TaskAssignment) {
        let (done, is_done) = oneshot::channel();
        let request = Request::Leave {
            service: task.service.clone(),
            task_id: task.id.clone(),
            done,
        };
        if self.0.send(request).await.is_ok() {
            // An error means that the agent is stopping, and containers keep what they have then.
            let _ = is_done.await;
        }
    }
}

async fn serve(containers: impl Containers, mut requests: mpsc::Receiver<Request>) {
    let mut ready: HashMap<ServiceName, Vec<Candidate>> = HashMap::new();
    while let Some(request) = requests.recv().await {
        match request {
            Request::Claim {
                candidate,
                is_early,
                answer,
            } => {
                let others = ready.entry(candidate.task.service.clone()).or_default();
                others.retain(|other| other.task.id != candidate.task.id);
                let is_granted = if is_early {
                    others.is_empty()
                } else {
                    others.iter().all(|other| other.age() < candidate.age())
                };
                let outcome = if is_granted {
                    containers.publish(&candidate.task, &candidate.container).await
                } else {
                    Ok(())
                };
                // Whoever comes early is not ready yet, so nobody's place is measured by it.
                if outcome.is_ok() && !is_early {
                    others.push(candidate);
                }
                // Whoever asked may have been told something else meanwhile, and leaves then.
                let _ = answer.send(outcome);
            }
            Request::Leave {
                service,
                task_id,
                done,
            } => {
                if let Some(candidates) = ready.get_mut(&service) {
                    let youngest =
                        |all: &[Candidate]| all.iter().max_by(|a, b| a.age().cmp(&b.age())).cloned();
                    let held = youngest(candidates).is_some_and(|holder| holder.task.id == task_id);
                    candidates.retain(|candidate| candidate.task.id != task_id);
                    match youngest(candidates) {
                        None => {
                            ready.remove(&service);
                        }
                        Some(next) if held => {
                            if let Err(error) = containers.publish(&next.task, &next.container).await {
                                tracing::warn!(
                                    task_id = next.task.id,
                                    %error,
                                    "the ports of {service} do not lead to its remaining task"
                                );
                            }
                        }
                        Some(_) => {}
                    }
                }
                let _ = done.send(());
            }
        }
    }
}
