//! Tasks and their reconciler on containers that only exist in memory.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::{
    ContainerSpec, DesiredState, DesiredTask, PinnedImage, PortMapping, Protocol, Resources, RestartPolicy,
    TaskAssignment, TaskState,
};
use oci::Digest;
use runtime::container::ContainerId;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::containers::{Containers, Ended, Found, Phase, Trouble};
use super::ledger::{Desired, Ledger};
use super::ports::Ports;
use super::reconcile::Reconciler;
use super::reports::{Observation, Reports};
use super::retry::Backoff;
use super::task::{Pace, Surroundings};
use crate::durable;

pub(super) fn assignment(id: &str, desired: DesiredTask) -> TaskAssignment {
    TaskAssignment {
        id: id.to_owned(),
        service: "acme/web".parse().unwrap(),
        slot: 1,
        revision: 1,
        desired,
        image: PinnedImage {
            repository: "acme/web".parse().unwrap(),
            digest: Digest::sha256(b"image"),
        },
        container: ContainerSpec::default(),
        ports: Vec::new(),
        resources: Resources::default(),
        restart: RestartPolicy::Always,
        stop_grace_ms: 10,
        min_ready_ms: 0,
    }
}

fn with_port(mut task: TaskAssignment) -> TaskAssignment {
    task.ports = vec![PortMapping {
        host_ip: None,
        host_port: 8080,
        container_port: 80,
        protocol: Protocol::Tcp,
    }];
    task
}

/// Containers in memory. Clones share them.
#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    /// By task.
    containers: BTreeMap<String, Found>,
    /// What was done, in order.
    log: Vec<String>,
    /// What the next pull, start or publication answers, one each, before all go well.
    pulls: Vec<Trouble>,
    starts: Vec<Trouble>,
    publications: Vec<Trouble>,
    /// Whether the ports of containers do not answer.
    is_silent: bool,
    /// Where the ports of each service lead.
    published: HashMap<String, ContainerId>,
    ends: HashMap<String, watch::Sender<Option<Ended>>>,
    created: i64,
}

impl Fake {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// The process of a task's container ends by itself.
    fn exit(&self, task_id: &str, exit_code: i32) {
        let mut world = self.world();
        let found = world.containers.get_mut(task_id).unwrap();
        let ended = Ended {
            exit_code,
            reason: format!("exit code {exit_code}"),
        };
        found.phase = Phase::Exited(ended.clone());
        let id = found.id.as_str().to_owned();
        world.ends[&id].send_replace(Some(ended));
    }

    fn run(&self, task_id: &str) {
        let mut world = self.world();
        let found = world.containers.get_mut(task_id).unwrap();
        found.phase = Phase::Running {
            started_at_ms: 1,
            uptime: Duration::ZERO,
            address: Some(Ipv4Addr::LOCALHOST),
        };
        let id = found.id.as_str().to_owned();
        world.ends.insert(id, watch::channel(None).0);
    }

    fn make(&self, task_id: &str) {
        let mut world = self.world();
        world.created += 1;
        let found = Found {
            id: ContainerId::parse(&format!("c-{task_id}")).unwrap(),
            created_at_ms: world.created,
            phase: Phase::Created,
        };
        world.containers.insert(task_id.to_owned(), found);
    }

    fn log(&self) -> Vec<String> {
        self.world().log.clone()
    }
}

impl Containers for Fake {
    async fn pull(&self, _: &PinnedImage) -> Result<(), Trouble> {
        let mut world = self.world();
        world.log.push("pull".to_owned());
        world.pulls.pop().map_or(Ok(()), Err)
    }

    async fn find(&self, task_id: &str) -> Option<Found> {
        self.world().containers.get(task_id).cloned()
    }

    async fn of_tasks(&self) -> Vec<(String, bool)> {
        let world = self.world();
        let is_running = |found: &Found| matches!(found.phase, Phase::Running { .. });
        let all = world.containers.iter();
        all.map(|(id, found)| (id.clone(), is_running(found))).collect()
    }

    async fn create(&self, task: &TaskAssignment) -> Result<(), Trouble> {
        self.world().log.push(format!("create {}", task.id));
        self.make(&task.id);
        Ok(())
    }

    async fn start(&self, id: &ContainerId) -> Result<(), Trouble> {
        let task_id = id.as_str().trim_start_matches("c-").to_owned();
        {
            let mut world = self.world();
            world.log.push(format!("start {task_id}"));
            if let Some(trouble) = world.starts.pop() {
                return Err(trouble);
            }
        }
        self.run(&task_id);
        Ok(())
    }

    async fn wait(&self, id: &ContainerId) -> Option<Ended> {
        let mut end = self.world().ends.get(id.as_str())?.subscribe();
        end.wait_for(Option::is_some).await.ok()?.clone()
    }

    async fn stop(&self, id: &ContainerId, _: Duration) -> Result<(), Trouble> {
        let task_id = id.as_str().trim_start_matches("c-").to_owned();
        let port = self.world().published.get("acme/web").cloned();
        let holder = port.map_or("nobody".to_owned(), |id| id.as_str().to_owned());
        self.world().log.push(format!("stop {task_id}, port at {holder}"));
        self.exit(&task_id, 143);
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), Trouble> {
        let task_id = id.as_str().trim_start_matches("c-").to_owned();
        let mut world = self.world();
        world.log.push(format!("remove {task_id}"));
        world.containers.remove(&task_id);
        world.published.retain(|_, holder| holder != id);
        Ok(())
    }

    async fn last_lines(&self, _: &ContainerId) -> String {
        "no such table: users\n".to_owned()
    }

    async fn is_answering(&self, _: Ipv4Addr, ports: &[u16]) -> Result<(), u16> {
        if self.world().is_silent {
            Err(ports[0])
        } else {
            Ok(())
        }
    }

    async fn publish(&self, task: &TaskAssignment, id: &ContainerId) -> Result<(), Trouble> {
        let mut world = self.world();
        if let Some(trouble) = world.publications.pop() {
            return Err(trouble);
        }
        world.log.push(format!("publish {}", task.id));
        world
            .published
            .insert(task.service.as_str().to_owned(), id.clone());
        Ok(())
    }
}

/// An agent on fake containers.
struct Agent {
    fake: Fake,
    reports: Reports,
    reconciler: Reconciler<Fake>,
    place: TempDir,
    generation: u64,
}

impl Agent {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        durable::make_private_directory(&place.path().join("fleet")).unwrap();
        Self::on(Fake::default(), place)
    }

    fn on(fake: Fake, place: TempDir) -> Self {
        let reports = Reports::load(place.path()).unwrap();
        let (ports, serving) = Ports::new(fake.clone());
        tokio::spawn(serving);
        let around = Surroundings {
            containers: fake.clone(),
            ports,
            reports: reports.clone(),
            pace: Pace {
                backoff: Backoff {
                    first: Duration::from_millis(300),
                    longest: Duration::from_millis(400),
                    healthy_after: Duration::from_millis(100),
                },
                probe: Duration::from_millis(1),
                again: Duration::from_millis(5),
            },
        };
        Self {
            fake,
            reports,
            reconciler: Reconciler::new(around),
            place,
            generation: 0,
        }
    }

    /// The agent ends, the containers stay, another agent begins.
    async fn restart(self) -> Self {
        self.reports.save().await.unwrap();
        drop(self.reconciler);
        Self::on(self.fake, self.place)
    }

    async fn wish(&mut self, tasks: &[TaskAssignment]) {
        self.generation += 1;
        let document = DesiredState::seal("c", 1, self.generation, tasks).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        durable::make_private_directory(&scratch.path().join("fleet")).unwrap();
        let desired = Ledger::load(scratch.path(), "c").take_over(&document, &Default::default());
        let desired: Arc<Desired> = desired.unwrap().unwrap();
        self.reconciler.pass(&desired).await;
    }

    async fn until(&self, task_id: &str, what: &str, is_so: impl Fn(&Observation) -> bool) -> Observation {
        let began = Instant::now();
        loop {
            let last = self.reports.last(task_id);
            match last {
                Some(last) if is_so(&last) => return last,
                last if began.elapsed() > Duration::from_secs(10) => {
                    panic!("{task_id} is not {what}: {last:?}; {:?}", self.fake.log())
                }
                _ => sleep(Duration::from_millis(1)).await,
            }
        }
    }

    async fn until_state(&self, task_id: &str, state: TaskState) -> Observation {
        self.until(task_id, state.as_str(), |last| last.state == state)
            .await
    }
}

#[tokio::test]
async fn a_task_is_prepared_started_and_stopped() {
    let mut agent = Agent::new();
    agent.wish(&[assignment("a", DesiredTask::Prepare)]).await;
    agent.until_state("a", TaskState::Prepared).await;
    assert_eq!(agent.fake.log(), ["pull"], "nothing is started yet");
    agent.wish(&[assignment("a", DesiredTask::Run)]).await;
    let ready = agent.until_state("a", TaskState::Ready).await;
    assert_eq!(ready.attempt, 1);
    assert_eq!(ready.container_id.as_deref(), Some("c-a"));
    assert!(ready.started_at_ms.is_some());
    agent.wish(&[assignment("a", DesiredTask::Stop)]).await;
    let stopped = agent.until_state("a", TaskState::Stopped).await;
    assert_eq!(stopped.exit_code, Some(143));
    let expected = [
        "pull",
        "pull",
        "create a",
        "start a",
        "stop a, port at nobody",
        "remove a",
    ];
    assert_eq!(agent.fake.log(), expected);
    // It stays stopped for as long as the document names it.
    agent.wish(&[assignment("a", DesiredTask::Stop)]).await;
    assert_eq!(agent.fake.log(), expected);
}

#[tokio::test]
async fn a_crash_is_followed_by_another_attempt_that_says_why() {
    let mut agent = Agent::new();
    agent.wish(&[assignment("a", DesiredTask::Run)]).await;
    agent.until_state("a", TaskState::Ready).await;
    agent.fake.exit("a", 3);
    let backoff = agent.until_state("a", TaskState::Backoff).await;
    assert_eq!(backoff.exit_code, Some(3));
    let reason = backoff.reason.unwrap();
    assert!(
        reason.contains("exit code 3") && reason.contains("no such table"),
        "{reason}"
    );
    let ready = agent.until_state("a", TaskState::Ready).await;
    assert_eq!(ready.attempt, 2);
}

#[tokio::test]
async fn policies_decide_what_follows_an_exit() {
    let mut agent = Agent::new();
    let of = |id: &str, restart| TaskAssignment {
        restart,
        ..assignment(id, DesiredTask::Run)
    };
    let tasks = [
        of("never-0", RestartPolicy::Never),
        of("never-1", RestartPolicy::Never),
        of("fail-0", RestartPolicy::OnFailure),
        of("fail-1", RestartPolicy::OnFailure),
        of("always-0", RestartPolicy::Always),
    ];
    agent.wish(&tasks).await;
    for task in &tasks {
        agent.until_state(&task.id, TaskState::Ready).await;
        let exit_code = i32::from(task.id.ends_with('1'));
        agent.fake.exit(&task.id, exit_code);
    }
    agent.until_state("never-0", TaskState::Stopped).await;
    agent.until_state("never-1", TaskState::Failed).await;
    agent.until_state("fail-0", TaskState::Stopped).await;
    for again in ["fail-1", "always-0"] {
        agent
            .until(again, "ready again", |last| {
                last.state == TaskState::Ready && last.attempt == 2
            })
            .await;
    }
    // An end stays an end, also for the next agent.
    let mut agent = agent.restart().await;
    agent.wish(&tasks).await;
    agent.until_state("always-0", TaskState::Ready).await;
    let again = |line: &String| line.starts_with("start never");
    assert_eq!(agent.fake.log().iter().filter(|line| again(line)).count(), 2);
    // Its container goes when it is to stop, and the report of its end is not taken back.
    agent.wish(&[assignment("never-1", DesiredTask::Stop)]).await;
    timeout(Duration::from_secs(10), async {
        while agent.fake.find("never-1").await.is_some() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(agent.reports.last("never-1").unwrap().state, TaskState::Failed);
}

#[tokio::test]
async fn what_fails_for_a_while_is_tried_again_and_what_cannot_be_is_rejected() {
    let mut agent = Agent::new();
    agent.fake.world().pulls = vec![Trouble::Failed("no answer".to_owned())];
    agent.fake.world().starts = vec![Trouble::Failed("no such file".to_owned())];
    agent.wish(&[assignment("a", DesiredTask::Run)]).await;
    agent
        .until("a", "waiting for the registry", |last| {
            last.state == TaskState::Pulling && last.reason.as_deref() == Some("no answer")
        })
        .await;
    let backoff = agent.until_state("a", TaskState::Backoff).await;
    assert!(backoff.reason.unwrap().contains("no such file"));
    let ready = agent.until_state("a", TaskState::Ready).await;
    assert_eq!(ready.attempt, 2);
    agent.fake.world().pulls = vec![Trouble::Refused("no such manifest".to_owned())];
    agent
        .wish(&[
            assignment("a", DesiredTask::Run),
            assignment("b", DesiredTask::Prepare),
        ])
        .await;
    let rejected = agent.until_state("b", TaskState::Rejected).await;
    assert_eq!(rejected.reason.as_deref(), Some("no such manifest"));
}

#[tokio::test]
async fn a_port_of_somebody_else_rejects_the_task_and_leaves_nothing() {
    let mut agent = Agent::new();
    let held = "port 8080/tcp on :: is already published by service acme/other";
    agent.fake.world().publications = vec![Trouble::Refused(held.to_owned())];
    agent.wish(&[with_port(assignment("a", DesiredTask::Run))]).await;
    let rejected = agent.until_state("a", TaskState::Rejected).await;
    assert_eq!(rejected.reason.as_deref(), Some(held));
    assert!(agent.fake.find("a").await.is_none());
}

#[tokio::test]
async fn a_silent_port_keeps_a_task_from_being_ready() {
    let mut agent = Agent::new();
    agent.fake.world().is_silent = true;
    agent.wish(&[with_port(assignment("a", DesiredTask::Run))]).await;
    agent.until_state("a", TaskState::Running).await;
    let told = agent.until("a", "explained", |last| last.reason.is_some()).await;
    assert_eq!(told.state, TaskState::Running);
    assert!(told.reason.unwrap().contains("80/tcp"));
    agent.fake.world().is_silent = false;
    agent.until_state("a", TaskState::Ready).await;
}

#[tokio::test]
async fn a_younger_task_takes_the_ports_and_gives_them_back_before_it_stops() {
    let mut agent = Agent::new();
    let (old, new) = (
        with_port(assignment("old", DesiredTask::Run)),
        with_port(assignment("new", DesiredTask::Run)),
    );
    agent.wish(std::slice::from_ref(&old)).await;
    agent.until_state("old", TaskState::Ready).await;
    agent.wish(&[old.clone(), new.clone()]).await;
    agent.until_state("new", TaskState::Ready).await;
    let holder = |agent: &Agent| agent.fake.world().published["acme/web"].as_str().to_owned();
    assert_eq!(holder(&agent), "c-new");
    // A crash of the younger leads to the older, and its return back.
    agent.fake.exit("new", 1);
    agent.until_state("new", TaskState::Backoff).await;
    assert_eq!(holder(&agent), "c-old");
    agent.until_state("new", TaskState::Ready).await;
    assert_eq!(holder(&agent), "c-new");
    // A crash of the older must not take them.
    agent.fake.exit("old", 1);
    agent
        .until("old", "ready again", |last| {
            last.state == TaskState::Ready && last.attempt == 2
        })
        .await;
    assert_eq!(holder(&agent), "c-new");
    // A rollback.
    let stop = TaskAssignment {
        desired: DesiredTask::Stop,
        ..new
    };
    agent.wish(&[old, stop]).await;
    agent.until_state("new", TaskState::Stopped).await;
    let log = agent.fake.log();
    assert!(
        log.contains(&"stop new, port at c-old".to_owned()),
        "the port moves first: {log:?}"
    );
}

#[tokio::test]
async fn a_crashed_task_has_its_ports_back_before_it_counts_as_ready() {
    let mut agent = Agent::new();
    let slow = TaskAssignment {
        min_ready_ms: 60_000,
        ..with_port(assignment("a", DesiredTask::Run))
    };
    let quick = TaskAssignment {
        min_ready_ms: 0,
        ..slow.clone()
    };
    agent.wish(&[quick]).await;
    agent.until_state("a", TaskState::Ready).await;
    agent.wish(std::slice::from_ref(&slow)).await;
    agent.fake.world().published.clear();
    agent.fake.exit("a", 1);
    timeout(Duration::from_secs(10), async {
        while agent.fake.world().published.is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    let last = agent.reports.last("a").unwrap();
    assert_eq!((last.state, last.attempt), (TaskState::Running, 2));
    // One that never was ready waits its time.
    let mut agent = Agent::new();
    agent.wish(&[slow]).await;
    agent.until_state("a", TaskState::Running).await;
    sleep(Duration::from_millis(200)).await;
    assert!(agent.fake.world().published.is_empty());
}

#[tokio::test]
async fn a_restarted_agent_adopts_what_runs_and_restarts_what_died() {
    let mut agent = Agent::new();
    let tasks = [
        with_port(assignment("a", DesiredTask::Run)),
        assignment("b", DesiredTask::Run),
    ];
    agent.wish(&tasks).await;
    let before = agent.until_state("a", TaskState::Ready).await;
    agent.until_state("b", TaskState::Ready).await;
    let mut agent = {
        let fake = agent.fake.clone();
        let agent = agent.restart().await;
        fake.exit("b", 9);
        fake.world().log.clear();
        agent
    };
    agent.wish(&tasks).await;
    agent
        .until("b", "ready again", |last| {
            last.state == TaskState::Ready && last.attempt == 2
        })
        .await;
    timeout(Duration::from_secs(10), async {
        while !agent.fake.log().contains(&"publish a".to_owned()) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(agent.reports.last("a"), Some(before), "it was ready all along");
    let mut log = agent.fake.log();
    log.sort();
    assert_eq!(log, ["publish a", "start b"]);
}

#[tokio::test]
async fn what_a_document_does_not_name_goes_and_without_a_document_nothing_does() {
    let mut agent = Agent::new();
    agent
        .wish(&[
            assignment("a", DesiredTask::Run),
            assignment("b", DesiredTask::Run),
        ])
        .await;
    agent.until_state("a", TaskState::Ready).await;
    agent.until_state("b", TaskState::Ready).await;
    agent.wish(&[assignment("b", DesiredTask::Run)]).await;
    agent.until_state("a", TaskState::Stopped).await;
    // A container of a task that this agent was never told of.
    agent.fake.make("orphan");
    agent.fake.run("orphan");
    let mut agent = agent.restart().await;
    assert!(agent.fake.find("orphan").await.is_some());
    agent.wish(&[assignment("b", DesiredTask::Run)]).await;
    timeout(Duration::from_secs(10), async {
        while agent.fake.find("orphan").await.is_some() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert!(agent.fake.find("b").await.is_some());
}
