//! The promises of the fleet's rows; part of the contract suite that both databases keep.

use super::*;
use crate::db::{Db, now_ms};

fn service(name: &str, version: i64) -> ServiceRow {
    ServiceRow {
        name: name.to_owned(),
        repository: format!("{name}-image"),
        tag: Some("main".to_owned()),
        follows_tag: true,
        tag_digest: Some("sha256:one".to_owned()),
        replicas: 2,
        target_revision: None,
        stable_revision: None,
        version,
    }
}

fn deployment(service: &ServiceRow) -> NewDeployment<'_> {
    NewDeployment {
        service,
        revision: RevisionChoice::New { spec: "{}" },
        digest: "sha256:one",
        from: None,
        cause: "command",
        epoch: None,
    }
}

fn report<'a>(id: &'a str, sequence: i64, state: &'static str) -> ReportRow<'a> {
    ReportRow {
        id,
        sequence,
        state,
        has_started: true,
        attempt: 1,
        container_id: Some("c"),
        started_at_ms: Some(5),
        exit_code: Some(137),
        reason: Some("why"),
    }
}

async fn join(db: &Db, token: &str, id: &str, name: &str) -> Joining {
    db.node_join(token, id, &format!("key of {id}"), name, "{}")
        .await
        .unwrap()
}

async fn a_token_lets_one_node_in(db: &Db) {
    db.join_token_put("t-1", now_ms() + 60_000).await.unwrap();
    db.join_token_put("t-2", now_ms() + 60_000).await.unwrap();
    db.join_token_put("t-old", now_ms() - 1).await.unwrap();
    assert_eq!(join(db, "t-0", "n-1", "one").await, Joining::TokenUnknown);
    assert_eq!(join(db, "t-old", "n-1", "one").await, Joining::TokenExpired);
    for _ in 0..2 {
        assert_eq!(
            join(db, "t-1", "n-1", "one").await,
            Joining::Joined("one".to_owned())
        );
    }
    assert_eq!(join(db, "t-1", "n-2", "two").await, Joining::TokenUsed);
    assert_eq!(join(db, "t-2", "n-2", "one").await, Joining::NameTaken);
    assert_eq!(
        join(db, "t-2", "n-2", "two").await,
        Joining::Joined("two".to_owned())
    );
    assert_eq!(db.node_public_key("n-2").await.unwrap().unwrap(), "key of n-2");
    assert_eq!(db.node_delete("n-2", false).await.unwrap(), Some(0));
    assert_eq!(
        join(db, "t-2", "n-2", "two").await,
        Joining::TokenUsed,
        "a removed node stays out"
    );
    assert_eq!(db.node_delete("n-2", false).await.unwrap(), None);
}

async fn the_lease_has_an_epoch(db: &Db) -> i64 {
    let id = db.cluster_ensure("cluster-1").await.unwrap();
    assert_eq!(db.cluster_ensure("cluster-2").await.unwrap(), id);
    let first = db.lease_take("a").await.unwrap().unwrap();
    if db.is_shared() {
        assert_eq!(db.lease_take("b").await.unwrap(), None, "it is held");
    }
    assert!(db.lease_renew(first).await.unwrap());
    db.lease_release(first).await.unwrap();
    let second = db.lease_take("b").await.unwrap().unwrap();
    assert!(second > first);
    assert!(!db.lease_renew(first).await.unwrap());
    db.lease_release(first).await.unwrap();
    assert!(
        db.lease_renew(second).await.unwrap(),
        "only the holder gives it back"
    );
    second
}

async fn a_deployment_takes_over_from_the_one_under_way(db: &Db, epoch: i64) {
    let new = service("acme/web", 0);
    let (revision, first) = db.deployment_begin(&deployment(&new)).await.unwrap().unwrap();
    assert_eq!(revision, 1);
    assert!(
        db.deployment_begin(&deployment(&new)).await.unwrap().is_none(),
        "it exists by now"
    );
    let seen = db.service_get("acme/web").await.unwrap().unwrap();
    assert_eq!((seen.target_revision, seen.version), (Some(1), 1));
    let stale = NewDeployment {
        epoch: Some(epoch - 1),
        ..deployment(&seen)
    };
    assert!(
        db.deployment_begin(&stale).await.unwrap().is_none(),
        "the epoch has passed"
    );
    let (revision, second) = db.deployment_begin(&deployment(&seen)).await.unwrap().unwrap();
    assert_eq!(revision, 2);
    assert!(
        db.deployment_begin(&deployment(&seen)).await.unwrap().is_none(),
        "the version has passed"
    );
    let ended = db.deployment_get(first).await.unwrap().unwrap();
    assert_eq!(ended.state, "superseded");
    assert!(ended.finished_at_ms.is_some());
    let active = db.deployment_list_active().await.unwrap();
    assert_eq!(active.iter().map(|d| d.id).collect::<Vec<_>>(), [second]);
    let last = db
        .deployment_last_of("acme/web", "sha256:one")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(last, (second, "rolling".to_owned()));
}

fn plan<'a>(epoch: i64, version: i64, create: &'a [NewTaskRow], stop: &'a [String]) -> PlanWrite<'a> {
    PlanWrite {
        service: "acme/web",
        version,
        epoch,
        create,
        stop,
        step: None,
    }
}

async fn plans_are_written_whole_or_not_at_all(db: &Db, epoch: i64) {
    let task = |id: &str, node: &str| NewTaskRow {
        id: id.to_owned(),
        slot: 1,
        revision: 2,
        node_id: node.to_owned(),
    };
    let version = async || db.service_get("acme/web").await.unwrap().unwrap().version;
    let tasks = async || db.task_list(Some("acme/web")).await.unwrap();
    let good = [task("k-1", "n-1")];
    for (epoch, version) in [(epoch - 1, version().await), (epoch, version().await - 1)] {
        assert!(
            db.plan_write(&plan(epoch, version, &good, &[]))
                .await
                .unwrap()
                .is_none()
        );
    }
    let to_nowhere = [task("k-1", "n-1"), task("k-2", "n-none")];
    assert!(
        db.plan_write(&plan(epoch, version().await, &to_nowhere, &[]))
            .await
            .unwrap()
            .is_none()
    );
    assert!(tasks().await.is_empty());
    assert_eq!(db.node_generation("n-1").await.unwrap(), Some(0));
    let touched = db
        .plan_write(&plan(epoch, version().await, &good, &[]))
        .await
        .unwrap();
    assert_eq!(touched.unwrap(), ["n-1"]);
    assert_eq!(db.node_generation("n-1").await.unwrap(), Some(1));
    assert!(db.node_uses("n-1", "acme/web-image").await.unwrap());
    assert!(!db.node_uses("n-1", "acme/web").await.unwrap());
    let document = db.assignment_list("n-1").await.unwrap();
    assert_eq!(document.len(), 1);
    assert_eq!((document[0].epoch, document[0].generation), (epoch, 1));
    assert_eq!(document[0].id.as_deref(), Some("k-1"));
    assert!(db.assignment_list("n-none").await.unwrap().is_empty());
}

async fn reports_are_taken_in_their_order(db: &Db, epoch: i64) {
    let state = async || db.task_list(None).await.unwrap()[0].state.clone();
    assert_eq!(
        db.task_report("n-1", &[report("k-1", 2, "ready")]).await.unwrap(),
        (true, false)
    );
    for late in [
        report("k-1", 1, "starting"),
        report("k-1", 2, "failed"),
        report("k-none", 9, "ready"),
    ] {
        assert_eq!(db.task_report("n-1", &[late]).await.unwrap(), (false, false));
    }
    assert_eq!(
        db.task_report("n-9", &[report("k-1", 9, "failed")])
            .await
            .unwrap(),
        (false, false)
    );
    assert_eq!(state().await, "ready");
    let row = &db.task_list(None).await.unwrap()[0];
    let started = row.starting_at_ms.unwrap();
    assert_eq!(
        (row.exit_code, row.reason.as_deref(), row.node.as_str()),
        (Some(137), Some("why"), "one")
    );
    db.task_report("n-1", &[report("k-1", 3, "ready")]).await.unwrap();
    assert_eq!(
        db.task_list(None).await.unwrap()[0].starting_at_ms,
        Some(started),
        "only the first start counts"
    );
    assert_eq!(db.node_delete("n-1", false).await.unwrap(), Some(1));
    let version = db.service_get("acme/web").await.unwrap().unwrap().version;
    let stop = ["k-1".to_owned()];
    db.plan_write(&plan(epoch, version, &[], &stop))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        db.assignment_list("n-1").await.unwrap()[0].desired.as_deref(),
        Some("stop")
    );
    assert_eq!(
        db.task_report("n-1", &[report("k-1", 4, "stopped")])
            .await
            .unwrap(),
        (true, true)
    );
    assert_eq!(
        db.node_generation("n-1").await.unwrap(),
        Some(3),
        "made, stopped, gone"
    );
    assert_eq!(db.assignment_list("n-1").await.unwrap()[0].id, None);
    assert!(!db.node_uses("n-1", "acme/web-image").await.unwrap());
    assert_eq!(db.task_prune(now_ms() - 60_000).await.unwrap(), 0);
    assert_eq!(db.task_prune(now_ms() + 60_000).await.unwrap(), 1);
}

async fn steps_of_a_deployment_move_the_service(db: &Db, epoch: i64) {
    let id = db.deployment_list_active().await.unwrap()[0].id;
    let mut step = DeploymentStep {
        id,
        state: "rolling_back",
        is_final: false,
        reason: Some("first".to_owned()),
        target: Some((1, 5)),
        stable: None,
    };
    let row = async || db.service_get("acme/web").await.unwrap().unwrap();
    for _ in 0..2 {
        let version = row().await.version;
        let write = PlanWrite {
            step: Some(&step),
            ..plan(epoch, version, &[], &[])
        };
        db.plan_write(&write).await.unwrap().unwrap();
        step = DeploymentStep {
            id,
            state: "rolled_back",
            is_final: true,
            reason: None,
            target: None,
            stable: Some(1),
        };
    }
    let service = row().await;
    assert_eq!(
        (service.target_revision, service.stable_revision, service.replicas),
        (Some(1), Some(1), 5)
    );
    let ended = db.deployment_get(id).await.unwrap().unwrap();
    assert_eq!(
        (ended.state.as_str(), ended.reason.as_deref()),
        ("rolled_back", Some("first"))
    );
    assert!(ended.finished_at_ms.is_some());
    assert!(
        !db.service_remove("acme/web", service.version, epoch - 1)
            .await
            .unwrap()
    );
    assert!(db.service_retire("acme/web").await.unwrap());
    assert!(!db.service_retire("acme/web").await.unwrap());
    assert!(
        db.service_remove("acme/web", row().await.version, epoch)
            .await
            .unwrap()
    );
    assert!(db.service_get("acme/web").await.unwrap().is_none());
    assert_eq!(
        db.deployment_list(Some("acme/web"), 10).await.unwrap().len(),
        2,
        "its history stays"
    );
}

pub(in crate::db) async fn keeps_its_promises(db: &Db) {
    a_token_lets_one_node_in(db).await;
    let epoch = the_lease_has_an_epoch(db).await;
    a_deployment_takes_over_from_the_one_under_way(db, epoch).await;
    plans_are_written_whole_or_not_at_all(db, epoch).await;
    reports_are_taken_in_their_order(db, epoch).await;
    steps_of_a_deployment_move_the_service(db, epoch).await;
}
