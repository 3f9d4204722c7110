//! One task, kept as the server wishes by an actor of its own.
//!
//! Level-triggered: each turn looks at what is wished and at what the container is, and takes the next step from
//! there, so it does not matter whether the agent has seen the way to it. Waiting is interrupted when the wish changes;
//! steps that change something are not. A task whose end was reported stays ended: only a new task starts again.

use std::future::pending;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::{DesiredTask, RestartPolicy, TaskAssignment, TaskState};
use runtime::container::ContainerId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::containers::{Containers, Found, Phase, Trouble};
use super::ports::Ports;
use super::readiness;
use super::reports::{Observation, Reports};
use super::retry::Backoff;

/// Between SIGTERM and SIGKILL for a task that is rejected after it was started.
const REJECTED_GRACE: Duration = Duration::from_millis(500);

/// How fast things are done again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Pauses between starts, and between pulls that fail.
    pub(super) backoff: Backoff,
    /// Between two probes of readiness.
    pub(super) probe: Duration,
    /// Before a step that failed and must succeed in the end is done again.
    pub(super) again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            probe: Duration::from_millis(50),
            again: Duration::from_secs(1),
        }
    }
}

/// What all tasks share.
#[derive(Clone, Debug)]
pub(super) struct Surroundings<C> {
    pub(super) containers: C,
    pub(super) ports: Ports,
    pub(super) reports: Reports,
    pub(super) pace: Pace,
}

/// The actor.
#[derive(Debug)]
pub(super) struct Task<C> {
    around: Surroundings<C>,
    wish: watch::Receiver<Arc<TaskAssignment>>,
    /// Starts so far.
    attempt: u32,
    /// Ends in a row without being ready for long.
    failures: u32,
    /// Whether it has been ready since the actor began, or before a restart of the agent.
    was_ready: bool,
}

/// Why an actor's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Something else is wished.
    Told,
    /// There is nothing to do until something else is wished.
    Settled,
}

/// What a running container is attended with.
struct Running {
    started_at_ms: i64,
    uptime: Duration,
    address: Option<Ipv4Addr>,
}

impl<C: Containers> Task<C> {
    pub(super) fn new(around: Surroundings<C>, wish: watch::Receiver<Arc<TaskAssignment>>) -> Self {
        let last = around.reports.last(&wish.borrow().id);
        Self {
            attempt: last.as_ref().map_or(0, |last| last.attempt),
            was_ready: last.is_some_and(|last| last.state == TaskState::Ready),
            failures: 0,
            around,
            wish,
        }
    }

    /// Does what is wished until the task has been stopped.
    pub(super) async fn run(mut self) {
        loop {
            let task = self.wish.borrow_and_update().clone();
            let turn = match task.desired {
                DesiredTask::Prepare => self.prepare(&task).await,
                DesiredTask::Run => self.keep(&task).await,
                DesiredTask::Stop => return self.stop(&task).await,
            };
            if turn == Turn::Settled {
                told(&mut self.wish, |wished| wished != task.desired).await;
            }
        }
    }

    async fn prepare(&mut self, task: &TaskAssignment) -> Turn {
        if self.has_ended(task) || self.around.containers.find(&task.id).await.is_some() {
            return Turn::Settled;
        }
        if let Some(turn) = self.fetch(task).await {
            return turn;
        }
        self.observe(task, Observation::new(TaskState::Prepared, self.attempt));
        Turn::Settled
    }

    async fn keep(&mut self, task: &TaskAssignment) -> Turn {
        if self.has_ended(task) {
            return Turn::Settled;
        }
        loop {
            // Anew each time: policies may change while the task goes on.
            let task = &self.wish.borrow().clone();
            if task.desired != DesiredTask::Run {
                return Turn::Told;
            }
            let Some(found) = self.around.containers.find(&task.id).await else {
                if let Some(turn) = self.make(task).await {
                    return turn;
                }
                continue;
            };
            let turn = match &found.phase {
                Phase::Created => self.launch(task, &found.id).await,
                Phase::Running {
                    started_at_ms,
                    uptime,
                    address,
                } => {
                    let running = Running {
                        started_at_ms: *started_at_ms,
                        uptime: *uptime,
                        address: *address,
                    };
                    self.attend(task, &found, running).await
                }
                Phase::Exited(ended) => {
                    let (exit_code, reason) = (Some(ended.exit_code), ended.reason.clone());
                    match self.ended(task, &found.id, exit_code, reason).await {
                        Some(turn) => Some(turn),
                        None => self.launch(task, &found.id).await,
                    }
                }
            };
            if let Some(turn) = turn {
                return turn;
            }
        }
    }

    /// Brings the image. Only a stop interrupts it: what is on its way is needed to prepare and to run alike.
    async fn fetch(&mut self, task: &TaskAssignment) -> Option<Turn> {
        let is_news = self
            .around
            .reports
            .last(&task.id)
            .is_none_or(|last| last.state <= TaskState::Pulling);
        if is_news {
            self.observe(task, Observation::new(TaskState::Pulling, self.attempt));
        }
        let mut failures = 0;
        loop {
            let pulled = tokio::select! {
                pulled = self.around.containers.pull(&task.image) => pulled,
                () = told(&mut self.wish, |wished| wished == DesiredTask::Stop) => return Some(Turn::Told),
            };
            let reason = match pulled {
                Ok(()) => return None,
                Err(Trouble::Refused(reason)) => {
                    self.observe(
                        task,
                        Observation::new(TaskState::Rejected, self.attempt).because(reason),
                    );
                    return Some(Turn::Settled);
                }
                Err(Trouble::Failed(reason)) => reason,
            };
            failures += 1;
            self.observe(
                task,
                Observation::new(TaskState::Pulling, self.attempt).because(reason),
            );
            tokio::select! {
                () = sleep(self.around.pace.backoff.pause(failures)) => {}
                () = told(&mut self.wish, |wished| wished == DesiredTask::Stop) => return Some(Turn::Told),
            }
        }
    }

    /// Makes the container of a task that has none.
    async fn make(&mut self, task: &TaskAssignment) -> Option<Turn> {
        if let Some(turn) = self.fetch(task).await {
            return Some(turn);
        }
        // Told to stop while the last byte came: nothing is made that would be removed at once.
        if self.wish.borrow().desired != DesiredTask::Run {
            return Some(Turn::Told);
        }
        match self.around.containers.create(task).await {
            Ok(()) => None,
            Err(Trouble::Refused(reason)) => {
                self.observe(
                    task,
                    Observation::new(TaskState::Rejected, self.attempt).because(reason),
                );
                Some(Turn::Settled)
            }
            Err(Trouble::Failed(reason)) => self.pause(task, None, None, reason).await,
        }
    }

    /// Starts the container, with pauses until it starts.
    async fn launch(&mut self, task: &TaskAssignment, id: &ContainerId) -> Option<Turn> {
        loop {
            self.attempt += 1;
            self.observe(task, Observation::new(TaskState::Starting, self.attempt).of(id));
            let Err(trouble) = self.around.containers.start(id).await else {
                return None;
            };
            if let Some(turn) = self.ended(task, id, None, trouble.to_string()).await {
                return Some(turn);
            }
        }
    }

    /// Watches over a running container until it ends, which the next look at it tells more about.
    async fn attend(&mut self, task: &Arc<TaskAssignment>, found: &Found, running: Running) -> Option<Turn> {
        let Surroundings {
            containers,
            ports,
            reports,
            pace,
        } = self.around.clone();
        // A container that runs was started, even if no report of it is left.
        let attempt = self.attempt.max(1);
        self.attempt = attempt;
        let seen = |state| {
            let mut seen = Observation::new(state, attempt).of(&found.id);
            seen.started_at_ms = Some(running.started_at_ms);
            seen
        };
        // Adopted as ready: its clients have never noticed that the agent was away, and neither does the server.
        let is_known = reports.last(&task.id) == Some(seen(TaskState::Ready));
        if !is_known {
            reports.observe(&task.id, seen(TaskState::Running));
        }
        let not_yet = |reason| reports.observe(&task.id, seen(TaskState::Running).because(reason));
        let was_ready = self.was_ready;
        let is_up_long_enough = Instant::now() + readiness::remaining(task, running.uptime);
        let mut becomes_ready = pin!(async {
            if !is_known {
                readiness::answering(&containers, task, running.address, pace.probe, not_yet).await;
                if was_ready && let Err(trouble) = ports.claim_early(task, found).await {
                    not_yet(trouble.to_string());
                }
                sleep_until(is_up_long_enough).await;
            }
            loop {
                match ports.claim(task, found).await {
                    Ok(()) => return Ok(()),
                    Err(Trouble::Refused(reason)) if !was_ready => return Err(reason),
                    // It has served there before, so whoever holds the port now is waited for.
                    Err(trouble) if is_known => {
                        tracing::warn!(task_id = task.id, %trouble, "ports of task {} wait", task.id);
                    }
                    Err(trouble) => not_yet(trouble.to_string()),
                }
                sleep(pace.again).await;
            }
        });
        let mut ends = pin!(containers.wait(&found.id));
        let mut ready_since = None;
        loop {
            // Cancel safe: the first two are only looked at again, the third has no effect.
            tokio::select! {
                _ = &mut ends => {
                    ports.leave(task).await;
                    let before = if is_known { running.uptime } else { Duration::ZERO };
                    let healthy = ready_since.map(|since: Instant| since.elapsed() + before);
                    if healthy.is_some_and(|healthy| healthy >= pace.backoff.healthy_after) {
                        self.failures = 0;
                    }
                    return None;
                }
                outcome = &mut becomes_ready, if ready_since.is_none() => match outcome {
                    Ok(()) => {
                        ready_since = Some(Instant::now());
                        self.was_ready = true;
                        reports.observe(&task.id, seen(TaskState::Ready));
                    }
                    Err(reason) => {
                        // It has never served anybody, so there is nothing to end gracefully.
                        self.end(task, REJECTED_GRACE).await;
                        let rejected = Observation::new(TaskState::Rejected, self.attempt);
                        self.observe(task, rejected.because(reason));
                        return Some(Turn::Settled);
                    }
                },
                () = told(&mut self.wish, |wished| wished != DesiredTask::Run) => return Some(Turn::Told),
            }
        }
    }

    /// Decides what follows an end that was not wished: another start after a pause, or nothing.
    async fn ended(
        &mut self,
        task: &TaskAssignment,
        id: &ContainerId,
        exit_code: Option<i32>,
        reason: String,
    ) -> Option<Turn> {
        let lines = self.around.containers.last_lines(id).await;
        let reason = if lines.is_empty() {
            reason
        } else {
            format!("{reason}; its last lines:\n{lines}")
        };
        let is_tried_again = match task.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != Some(0),
            RestartPolicy::Never => false,
        };
        if is_tried_again {
            return self.pause(task, Some(id), exit_code, reason).await;
        }
        let state = if exit_code == Some(0) {
            TaskState::Stopped
        } else {
            TaskState::Failed
        };
        let mut seen = Observation::new(state, self.attempt).of(id).because(reason);
        seen.exit_code = exit_code;
        self.observe(task, seen);
        Some(Turn::Settled)
    }

    async fn pause(
        &mut self,
        task: &TaskAssignment,
        id: Option<&ContainerId>,
        exit_code: Option<i32>,
        reason: String,
    ) -> Option<Turn> {
        self.failures = self.failures.saturating_add(1);
        let mut seen = Observation::new(TaskState::Backoff, self.attempt).because(reason);
        seen.container_id = id.map(|id| id.as_str().to_owned());
        seen.exit_code = exit_code;
        self.observe(task, seen);
        tokio::select! {
            () = sleep(self.around.pace.backoff.pause(self.failures)) => None,
            () = told(&mut self.wish, |wished| wished != DesiredTask::Run) => Some(Turn::Told),
        }
    }

    async fn stop(&mut self, task: &TaskAssignment) {
        let exit_code = self.end(task, Duration::from_millis(task.stop_grace_ms)).await;
        if !self.has_ended(task) {
            let mut seen = Observation::new(TaskState::Stopped, self.attempt);
            seen.exit_code = exit_code;
            self.observe(task, seen);
        }
    }

    /// Stops and removes whatever there is of the task, and does not rest before it is gone: only then are its ports
    /// free, which the report of its end promises. Returns the exit code, if one was seen.
    async fn end(&mut self, task: &TaskAssignment, grace: Duration) -> Option<i32> {
        let containers = self.around.containers.clone();
        let has_ended = self.has_ended(task);
        let mut exit_code = None;
        // First, so that new connections go to the task that stays.
        self.around.ports.leave(task).await;
        while let Some(found) = containers.find(&task.id).await {
            let stopping = Observation::new(TaskState::Stopping, self.attempt).of(&found.id);
            if !has_ended {
                self.observe(task, stopping.clone());
            }
            let outcome = match &found.phase {
                Phase::Running { .. } => containers.stop(&found.id, grace).await,
                Phase::Exited(ended) => {
                    exit_code = Some(ended.exit_code);
                    containers.remove(&found.id).await
                }
                Phase::Created => containers.remove(&found.id).await,
            };
            if let Err(trouble) = outcome {
                if has_ended {
                    tracing::warn!(task_id = task.id, %trouble, "cannot remove task {}", task.id);
                } else {
                    self.observe(task, stopping.because(trouble.to_string()));
                }
                sleep(self.around.pace.again).await;
            }
        }
        exit_code
    }

    fn has_ended(&self, task: &TaskAssignment) -> bool {
        let last = self.around.reports.last(&task.id);
        last.is_some_and(|last| last.state.is_final())
    }

    fn observe(&self, task: &TaskAssignment, seen: Observation) {
        self.around.reports.observe(&task.id, seen);
    }
}

/// Waits until what is wished is so; forever when the agent is stopping, which ends the actor from outside.
///
/// # Cancel safety
/// Changes nothing.
async fn told(wish: &mut watch::Receiver<Arc<TaskAssignment>>, is_so: impl Fn(DesiredTask) -> bool) {
    if wish.wait_for(|task| is_so(task.desired)).await.is_err() {
        pending().await
    }
}
