//! Passes of the reconciler over a database of their own, with nodes that only report.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use api::{
    BeatRequest, Deployment, DeploymentState, DesiredTask, ServiceName, ServiceSpec, TaskState, TaskSummary,
};
use oci::{Digest, RepositoryName, Tag};
use tokio_util::sync::CancellationToken;

use super::image::ResolvedImage;
use super::liveness::Liveness;
use super::{Fleet, FleetError};
use crate::db::{Db, NewManifest, ReportRow, now_ms};

/// A fleet with two nodes, planned by whoever calls [`World::pass`].
struct World {
    fleet: Fleet,
    db: Db,
    epoch: i64,
    sequence: AtomicI64,
    _directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::connect(&format!("sqlite:{}", directory.path().join("test.db").display()))
            .await
            .unwrap();
        let fleet = Fleet::open(db.clone(), CancellationToken::new()).await.unwrap();
        for node in ["n1", "n2"] {
            db.join_token_put(node, now_ms() + 60_000).await.unwrap();
            db.node_join(node, node, "key", node, "{}").await.unwrap();
        }
        let epoch = db.lease_take("test").await.unwrap().unwrap();
        Self {
            fleet,
            db,
            epoch,
            sequence: AtomicI64::new(1),
            _directory: directory,
        }
    }

    async fn deploy(&self, image: &str, replicas: u32) -> Option<u64> {
        let text = format!(
            r#"{{"repository":"acme/web","tag":"main","replicas":{replicas},"container":{{}},
                "stop_grace_ms":1000,"min_ready_ms":0,"ready_deadline_ms":60000}}"#
        );
        let spec: ServiceSpec = serde_json::from_str(&text).unwrap();
        let image = ResolvedImage {
            digest: Digest::sha256(image.as_bytes()),
            architectures: Default::default(),
            is_cached: false,
        };
        self.fleet
            .deploy(&name(), &spec, &image)
            .await
            .unwrap()
            .deployment_id
    }

    /// What a push of `content` as `main` does to the database.
    async fn push(&self, content: &str) -> Digest {
        let digest = Digest::sha256(content.as_bytes());
        let repository: RepositoryName = "acme/web".parse().unwrap();
        let tags: [Tag; 1] = ["main".parse().unwrap()];
        let manifest = NewManifest {
            digest: &digest,
            media_type: "application/vnd.oci.image.manifest.v1+json",
            body: content.as_bytes(),
            subject: None,
            artifact_type: None,
            annotations: "{}",
            children: &[],
            tags: &tags,
            condition: None,
        };
        self.db.manifest_put(&repository, &manifest).await.unwrap();
        digest
    }

    async fn pass(&self) -> Vec<TaskSummary> {
        self.fleet.pass(self.epoch).await.unwrap();
        self.fleet.tasks(None).await.unwrap()
    }

    /// Every task does what is wanted of it, until nothing changes any more.
    async fn settle(&self, state_of_new: TaskState) -> Vec<TaskSummary> {
        for _ in 0..20 {
            let tasks = self.pass().await;
            let mut is_quiet = true;
            for task in &tasks {
                let state = match task.desired {
                    DesiredTask::Stop => TaskState::Stopped,
                    _ if task.state == TaskState::Assigned => state_of_new,
                    _ => continue,
                };
                is_quiet = false;
                self.report(task, state).await;
            }
            if is_quiet {
                return tasks;
            }
        }
        panic!("it does not settle: {:#?}", self.fleet.tasks(None).await.unwrap())
    }

    async fn report(&self, task: &TaskSummary, state: TaskState) {
        let row = ReportRow {
            id: &task.id,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            state: state.as_str(),
            has_started: true,
            attempt: 1,
            container_id: None,
            started_at_ms: None,
            exit_code: None,
            reason: Some("as the test says"),
        };
        self.db.task_report(&task.node, &[row]).await.unwrap();
    }

    async fn last(&self) -> Deployment {
        self.fleet.deployments(Some(&name())).await.unwrap().remove(0)
    }
}

fn name() -> ServiceName {
    "acme/web".parse().unwrap()
}

fn running(tasks: &[TaskSummary]) -> Vec<(u32, &str)> {
    tasks.iter().map(|t| (t.slot, t.node.as_str())).collect()
}

#[tokio::test]
async fn copies_are_spread_and_a_change_of_scale_is_no_new_revision() {
    let world = World::new().await;
    world.deploy("one", 2).await.unwrap();
    assert_eq!(
        running(&world.settle(TaskState::Ready).await),
        [(1, "n1"), (2, "n2")]
    );
    assert_eq!(world.last().await.state, DeploymentState::Succeeded);
    assert_eq!(world.deploy("one", 2).await, None);
    world.deploy("one", 3).await.unwrap();
    assert_eq!(world.settle(TaskState::Ready).await.len(), 3);
    world.deploy("one", 1).await.unwrap();
    let left = world.settle(TaskState::Ready).await;
    assert_eq!(running(&left), [(1, "n1")]);
    assert_eq!(
        (left[0].revision, world.last().await.state),
        (1, DeploymentState::Succeeded)
    );
}

#[tokio::test]
async fn a_push_that_nobody_told_of_is_followed_and_a_failed_digest_is_not_tried_again() {
    let world = World::new().await;
    let one = world.push("one").await;
    world.deploy("one", 1).await.unwrap();
    world.settle(TaskState::Ready).await;
    let bad = world.push("bad").await;
    let tasks = world.settle(TaskState::Backoff).await;
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].image.digest, one);
    let failed = world.last().await;
    assert_eq!(
        (&failed.digest, failed.state),
        (&bad, DeploymentState::RolledBack)
    );
    for content in ["one", "bad"] {
        world.push(content).await;
        world.settle(TaskState::Ready).await;
        assert_eq!(world.last().await.id, failed.id, "{content} begins nothing");
    }
    world
        .deploy("bad", 1)
        .await
        .expect("by command it is tried again");
}

#[tokio::test]
async fn a_first_revision_that_fails_is_tried_again_by_the_same_command() {
    let world = World::new().await;
    world.deploy("one", 1).await.unwrap();
    world.settle(TaskState::Failed).await;
    assert_eq!(world.last().await.state, DeploymentState::Failed);
    world.deploy("one", 1).await.expect("another attempt");
    let tasks = world.settle(TaskState::Ready).await;
    assert_eq!((tasks.len(), tasks[0].revision), (1, 2));
    assert_eq!(world.last().await.state, DeploymentState::Succeeded);
}

#[tokio::test]
async fn one_who_lost_the_lease_writes_nothing() {
    let world = World::new().await;
    world.deploy("one", 1).await.unwrap();
    world.db.lease_take("another").await.unwrap().unwrap();
    assert!(world.pass().await.is_empty());
}

#[tokio::test]
async fn copies_of_a_silent_node_are_replaced_and_drained_when_it_returns() {
    let world = World::new().await;
    world.deploy("one", 2).await.unwrap();
    world.settle(TaskState::Ready).await;
    let now = Instant::now();
    let beat = BeatRequest {
        incarnation: "i".to_owned(),
        boot_id: "b".to_owned(),
        applied_generation: 0,
    };
    {
        let mut liveness = world.fleet.liveness();
        *liveness = Liveness::new(now - Duration::from_secs(60));
        for age in (1..60).rev() {
            let then = now - Duration::from_secs(age);
            liveness.beat("n1", &beat, then, 0);
            if age > 20 {
                liveness.beat("n2", &beat, then, 0);
            }
            liveness.assess(&["n1", "n2"], then);
        }
    }
    let tasks = world.pass().await;
    assert_eq!(running(&tasks), [(1, "n1"), (2, "n2"), (2, "n1")]);
    world.report(&tasks[2], TaskState::Ready).await;
    let tasks = world.pass().await;
    assert_eq!(
        tasks[1].desired,
        DesiredTask::Stop,
        "it goes once its replacement is ready"
    );
    assert_eq!(tasks[2].desired, DesiredTask::Run);
}

#[tokio::test]
async fn a_specification_is_refused_with_all_that_is_wrong() {
    let world = World::new().await;
    let text = r#"{"repository":"acme/web","replicas":9999,"container":{},"stop_grace_ms":1,"min_ready_ms":0,
        "ready_deadline_ms":1}"#;
    let image = ResolvedImage {
        digest: Digest::sha256(b""),
        architectures: Default::default(),
        is_cached: false,
    };
    let refused = world
        .fleet
        .deploy(&name(), &serde_json::from_str(text).unwrap(), &image)
        .await;
    assert!(matches!(refused, Err(FleetError::SpecInvalid(wrong)) if wrong.len() == 2));
}
