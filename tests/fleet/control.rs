//! Join, deploy, follow a push, go back, and go on after SIGKILL, with nodes that are played.

use std::io::{BufRead, BufReader, Read};

use api::{
    ApiError, DeployResponse, Deployment, DeploymentCause, DeploymentState, LogEvent, LogLine, LogStream,
    NodeStatus, NodeSummary, ServiceSummary, TaskReport, TaskState, TaskSummary, WatchEvent,
};
use blackbox::registry::Registry;
use blackbox::wait_for;
use oci::{Digest, media_type};
use reqwest::blocking::Response;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::played_node::{Key, Node, SOON, join, join_token};

/// Pushes an image that differs by `seed`.
pub fn push(registry: &Registry, repository: &str, tag: &str, seed: &str) -> Digest {
    push_for(
        registry,
        repository,
        tag,
        seed,
        &oci::Platform::host().architecture,
    )
}

fn push_for(registry: &Registry, repository: &str, tag: &str, seed: &str, architecture: &str) -> Digest {
    let config = json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
        "config": {"Env": [format!("SEED={seed}")]}});
    let config = config.to_string().into_bytes();
    let digest = registry.push_blob(repository, &config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": digest, "size": config.len()},
        "layers": [],
    });
    let manifest = manifest.to_string();
    let request = registry.request(Method::PUT, &format!("/v2/{repository}/manifests/{tag}"));
    let response = request
        .header("content-type", media_type::OCI_MANIFEST)
        .body(manifest.clone())
        .send()
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::CREATED);
    Digest::sha256(manifest.as_bytes())
}

fn spec(replicas: u32) -> Value {
    json!({
        "repository": "acme/web", "tag": "main", "replicas": replicas, "container": {},
        "stop_grace_ms": 1000, "min_ready_ms": 0, "ready_deadline_ms": 60_000,
    })
}

fn put(registry: &Registry, spec: &Value) -> Response {
    let request = registry.request(Method::PUT, "/api/v1/services/acme/web");
    request.json(&json!({"spec": spec})).send().expect("an answer")
}

fn deploy(registry: &Registry, spec: &Value) -> DeployResponse {
    let response = put(registry, spec);
    let status = response.status();
    let text = response.text().expect("a text");
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).expect("an answer to a deployment")
}

fn code(response: Response) -> (StatusCode, String, String) {
    let status = response.status();
    let error: ApiError = response.json().expect("an error body");
    (status, error.code, error.error)
}

fn get<T: serde::de::DeserializeOwned>(registry: &Registry, path: &str) -> T {
    let response = registry.send(Method::GET, path);
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    response.json().expect("a JSON body")
}

fn wait_state(registry: &Registry, id: u64, state: DeploymentState) -> Deployment {
    wait_for(&format!("deployment {id} to be {}", state.as_str()), SOON, || {
        let deployment: Deployment = get(registry, &format!("/api/v1/deployments/{id}"));
        if deployment.state == state {
            Ok(deployment)
        } else {
            Err(format!("{deployment:?}"))
        }
    })
}

/// A service of one copy that runs well, its node, the node's stream, and its task.
fn running() -> (Registry, Node, crate::played_node::Watch, api::TaskAssignment) {
    let registry = Registry::with_accounts();
    push(&registry, "acme/web", "main", "one");
    let mut node = Node::join(&registry, "n1");
    let watch = node.watch(&registry);
    let deployed = deploy(&registry, &spec(1));
    let task = watch.run(1);
    node.report(&registry, &task, TaskState::Ready, None);
    wait_state(
        &registry,
        deployed.deployment_id.expect("a deployment"),
        DeploymentState::Succeeded,
    );
    (registry, node, watch, task)
}

#[test]
fn a_join_token_lets_one_node_in_and_says_why_it_refuses() {
    let registry = Registry::with_accounts();
    let (token, key) = (join_token(&registry), Key::new());
    let first: Value = join(&registry, &token, &key, "n1").json().unwrap();
    let again: Value = join(&registry, &token, &key, "n1").json().unwrap();
    assert_eq!(first, again, "a lost answer can be asked for again");
    let (status, name, _) = code(join(&registry, &token, &Key::new(), "n2"));
    assert_eq!(
        (status, name.as_str()),
        (StatusCode::FORBIDDEN, "join_token_used")
    );
    let (_, name, _) = code(join(&registry, "PIER1-never", &Key::new(), "n2"));
    assert_eq!(name, "join_token_unknown");
    let second = join_token(&registry);
    let (status, name, _) = code(join(&registry, &second, &Key::new(), "n1"));
    assert_eq!((status, name.as_str()), (StatusCode::CONFLICT, "node_name_taken"));
    let refused = join(&registry, &second, &Key::new(), "n 2");
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let joined = join(&registry, &second, &Key::new(), "n2");
    assert_eq!(
        joined.status(),
        StatusCode::OK,
        "a refused join does not use the token up"
    );
    let nodes: Vec<NodeSummary> = get(&registry, "/api/v1/nodes");
    assert_eq!(
        nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(),
        ["n1", "n2"]
    );
}

#[test]
fn a_node_is_known_by_its_key_until_it_is_removed() {
    let registry = Registry::with_accounts();
    let node = Node::join(&registry, "n1");
    let watch = node.watch(&registry);
    let document = watch.document();
    assert_eq!(document.cluster_id, node.cluster_id);
    assert!(document.open().unwrap().is_empty());
    assert_eq!(node.beat(&registry).interval_ms, 3000);
    let nodes: Vec<NodeSummary> = get(&registry, "/api/v1/nodes");
    assert_eq!(nodes[0].status, NodeStatus::Ready);
    let beat = json!({"incarnation": "i", "boot_id": "b", "applied_generation": 0});
    let with_token = |token: String| {
        let client = reqwest::blocking::Client::new();
        let request = client.post(format!("{}/api/v1/nodes/self/beat", registry.url()));
        request.bearer_auth(token).json(&beat).send().unwrap().status()
    };
    assert_eq!(with_token(Key::new().token(&node.id)), StatusCode::UNAUTHORIZED);
    assert_eq!(with_token(node.key.token(&node.id)), StatusCode::OK);
    let path = format!("/api/v1/nodes/{}", node.id);
    assert_eq!(
        registry.send(Method::DELETE, &path).status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(with_token(node.key.token(&node.id)), StatusCode::UNAUTHORIZED);
    let (status, name, _) = code(registry.send(Method::DELETE, &path));
    assert_eq!((status, name.as_str()), (StatusCode::NOT_FOUND, "node_unknown"));
    assert!(watch.next().is_none(), "the stream of a removed node ends");
}

#[test]
fn a_service_is_deployed_and_scaled_copy_by_copy() {
    let (registry, mut node, watch, first) = running();
    let same = deploy(&registry, &spec(1));
    assert_eq!((same.revision, same.deployment_id), (1, None));
    let scaled = deploy(&registry, &spec(2));
    assert_eq!(scaled.revision, 1, "more copies are no new revision");
    let tasks = watch.tasks("a second copy", |tasks| tasks.iter().any(|t| t.slot == 2));
    let second = tasks.iter().find(|t| t.slot == 2).unwrap();
    node.report(&registry, second, TaskState::Ready, None);
    let deployment = wait_state(
        &registry,
        scaled.deployment_id.unwrap(),
        DeploymentState::Succeeded,
    );
    assert_eq!((deployment.ready, deployment.replicas), (2, 2));
    let listed: Vec<TaskSummary> = get(&registry, "/api/v1/tasks?service=acme/web");
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].id, first.id);
    let services: Vec<ServiceSummary> = get(&registry, "/api/v1/services");
    assert_eq!((services[0].replicas, services[0].ready), (2, 2));
}

#[test]
fn removing_a_service_stops_its_tasks_and_then_it_is_gone() {
    let (registry, mut node, watch, task) = running();
    let busy = registry.send(Method::DELETE, &format!("/api/v1/nodes/{}", node.id));
    assert_eq!(code(busy).1, "node_busy");
    let removed = registry.send(Method::DELETE, "/api/v1/services/acme/web");
    assert_eq!(removed.status(), StatusCode::ACCEPTED);
    let stopping = watch.stop(&task.id);
    node.report(&registry, &stopping, TaskState::Stopped, None);
    let left = watch.tasks("nothing", |tasks| tasks.is_empty());
    assert!(left.is_empty());
    let (status, name, _) = code(registry.send(Method::GET, "/api/v1/services/acme/web"));
    assert_eq!(
        (status, name.as_str()),
        (StatusCode::NOT_FOUND, "service_unknown")
    );
    push(&registry, "acme/web", "main", "two");
    assert_eq!(deploy(&registry, &spec(1)).revision, 1, "it begins anew");
}

#[test]
fn a_push_is_a_deployment_that_keeps_the_old_copy_until_the_new_one_is_ready() {
    let (registry, mut node, watch, old) = running();
    let digest = push(&registry, "acme/web", "main", "two");
    let new = watch.run(2);
    assert_eq!(new.image.digest, digest);
    let deployments: Vec<Deployment> = get(&registry, "/api/v1/deployments?service=acme/web");
    assert_eq!(
        (deployments[0].cause, deployments[0].state),
        (DeploymentCause::Push, DeploymentState::Rolling)
    );
    let tasks: Vec<TaskSummary> = get(&registry, "/api/v1/tasks");
    assert!(
        tasks.iter().all(|t| t.desired == api::DesiredTask::Run),
        "{tasks:?}"
    );
    node.report(&registry, &new, TaskState::Ready, None);
    let stopping = watch.stop(&old.id);
    node.report(&registry, &stopping, TaskState::Stopped, None);
    wait_state(&registry, deployments[0].id, DeploymentState::Succeeded);
}

#[test]
fn a_failing_image_is_taken_back_once_and_not_deployed_by_itself_again() {
    let (registry, mut node, watch, old) = running();
    let bad = push(&registry, "acme/web", "main", "bad");
    let new = watch.run(2);
    node.report(
        &registry,
        &new,
        TaskState::Backoff,
        Some("exit code 1: no such table: users"),
    );
    let stopping = watch.stop(&new.id);
    node.report(&registry, &stopping, TaskState::Stopped, None);
    let deployments: Vec<Deployment> = get(&registry, "/api/v1/deployments");
    let deployment = wait_state(&registry, deployments[0].id, DeploymentState::RolledBack);
    let reason = deployment.reason.unwrap();
    assert!(reason.contains("no such table"), "{reason}");
    let tasks: Vec<TaskSummary> = get(&registry, "/api/v1/tasks");
    assert_eq!(
        tasks.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(),
        [old.id.as_str()]
    );
    // Moved away and back: the bad one is known by now, the good one runs already.
    push(&registry, "acme/web", "main", "one");
    assert_eq!(push(&registry, "acme/web", "main", "bad"), bad);
    let good = push(&registry, "acme/web", "main", "three");
    let next = watch.run(3);
    assert_eq!(next.image.digest, good);
    let deployments: Vec<Deployment> = get(&registry, "/api/v1/deployments");
    assert_eq!(deployments.len(), 3, "{deployments:?}");
}

#[test]
fn a_rollout_goes_on_after_sigkill_of_the_server() {
    let (mut registry, mut node, watch, old) = running();
    push(&registry, "acme/web", "main", "two");
    let new = watch.run(2);
    drop(watch);
    registry.restart();
    node.beat(&registry);
    let watch = node.watch(&registry);
    let document = watch.document();
    assert!(document.epoch > 1, "another epoch");
    let ids: Vec<String> = document.open().unwrap().into_iter().map(|t| t.id).collect();
    assert!(ids.contains(&old.id) && ids.contains(&new.id), "{ids:?}");
    node.report(&registry, &new, TaskState::Ready, None);
    let stopping = watch.stop(&old.id);
    node.report(&registry, &stopping, TaskState::Stopped, None);
    let deployments: Vec<Deployment> = get(&registry, "/api/v1/deployments");
    wait_state(&registry, deployments[0].id, DeploymentState::Succeeded);
    let tasks: Vec<TaskSummary> = get(&registry, "/api/v1/tasks");
    assert_eq!(tasks.len(), 1, "no copy was made twice: {tasks:?}");
}

#[test]
fn reports_that_are_older_or_of_others_change_nothing() {
    let (registry, node, _watch, task) = running();
    let other = Node::join(&registry, "n2");
    let report = |sequence, state| TaskReport {
        task_id: task.id.clone(),
        attempt: 1,
        sequence,
        state,
        container_id: None,
        started_at_ms: None,
        exit_code: None,
        reason: None,
    };
    node.send(&registry, report(9, TaskState::Ready));
    node.send(&registry, report(8, TaskState::Failed));
    other.send(&registry, report(10, TaskState::Failed));
    let tasks: Vec<TaskSummary> = get(&registry, "/api/v1/tasks");
    assert_eq!(tasks[0].state, TaskState::Ready);
}

#[test]
fn an_operator_goes_back_by_hand() {
    let (registry, mut node, watch, first) = running();
    let refused = registry
        .request(Method::POST, "/api/v1/services/acme/web/rollback")
        .json(&json!({}));
    assert_eq!(code(refused.send().unwrap()).1, "nothing_to_go_back_to");
    push(&registry, "acme/web", "main", "two");
    let second = watch.run(2);
    node.report(&registry, &second, TaskState::Ready, None);
    let stopping = watch.stop(&first.id);
    node.report(&registry, &stopping, TaskState::Stopped, None);
    let deployments: Vec<Deployment> = get(&registry, "/api/v1/deployments");
    wait_state(&registry, deployments[0].id, DeploymentState::Succeeded);
    let back = registry
        .request(Method::POST, "/api/v1/services/acme/web/rollback")
        .json(&json!({}));
    let back: DeployResponse = back.send().unwrap().json().unwrap();
    assert_eq!(back.revision, 1);
    let third = watch.run(1);
    assert_ne!(third.id, first.id);
    node.report(&registry, &third, TaskState::Ready, None);
    let stopping = watch.stop(&second.id);
    node.report(&registry, &stopping, TaskState::Stopped, None);
    wait_state(&registry, back.deployment_id.unwrap(), DeploymentState::Succeeded);
    let unknown = registry.request(Method::POST, "/api/v1/services/acme/web/rollback");
    assert_eq!(
        code(unknown.json(&json!({"revision": 9})).send().unwrap()).1,
        "revision_unknown"
    );
}

#[test]
fn what_is_wrong_with_a_request_is_told_by_field() {
    let registry = Registry::with_accounts();
    let (status, name, text) = code(put(&registry, &spec(1)));
    assert_eq!(
        (status, name.as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "image_unknown")
    );
    assert!(text.contains("acme/web:main") && text.contains("push"), "{text}");
    push(&registry, "acme/web", "stable", "one");
    let (_, _, text) = code(put(&registry, &spec(1)));
    assert!(text.contains("stable"), "{text}");
    push_for(&registry, "acme/web", "main", "odd", "sparc");
    Node::join(&registry, "n1");
    let (_, name, text) = code(put(&registry, &spec(1)));
    assert_eq!(name, "platform_missing");
    assert!(text.contains("sparc"), "{text}");
    push(&registry, "acme/web", "main", "one");
    let mut wrong = spec(1);
    wrong["container"]["working_dir"] = json!("srv");
    wrong["replicas"] = json!(100_000);
    let (status, name, text) = code(put(&registry, &wrong));
    assert_eq!(
        (status, name.as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "spec_invalid")
    );
    assert!(
        text.contains("working_dir") && text.contains("replicas"),
        "{text}"
    );
    wrong["replicas"] = json!("two");
    let (status, name, text) = code(put(&registry, &wrong));
    assert_eq!((status, name.as_str()), (StatusCode::BAD_REQUEST, "body_invalid"));
    assert!(text.contains("spec.replicas"), "{text}");
    let request = registry
        .request(Method::PUT, "/api/v1/services/Acme/web")
        .json(&json!({"spec": spec(1)}));
    assert_eq!(code(request.send().unwrap()).1, "parameter_invalid");
    let missing = registry.send(Method::GET, "/api/v1/services/acme/none");
    assert_eq!(code(missing).1, "service_unknown");
    assert_eq!(
        code(registry.send(Method::GET, "/api/v1/nothing")).1,
        "endpoint_unknown"
    );
}

#[test]
fn logs_come_from_nodes_that_are_connected_with_a_notice_for_the_others() {
    let (registry, node, watch, task) = running();
    let path = "/api/v1/services/acme/web/logs?tail=10&slot=1";
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| registry.send(Method::GET, path).text().unwrap());
        let (session, query) = loop {
            match watch.next() {
                Some(WatchEvent::Logs {
                    session_id,
                    task_id,
                    query,
                }) => {
                    assert_eq!(task_id, task.id);
                    break (session_id, query);
                }
                Some(_) => {}
                None => panic!("nobody asked for logs"),
            }
        };
        assert_eq!(query.tail, Some(10));
        let line = LogLine {
            task_id: task.id.clone(),
            stream: LogStream::Stdout,
            time: "2026-01-01T00:00:00Z".to_owned(),
            log: "hello\n".to_owned(),
        };
        let foreign = LogLine {
            task_id: "another".to_owned(),
            ..line.clone()
        };
        let body = [line, foreign]
            .map(|l| serde_json::to_string(&l).unwrap() + "\n")
            .concat();
        let other = Node::join(&registry, "n2");
        let stolen = other
            .request(&registry, Method::POST, &format!("sessions/{session}"))
            .send()
            .unwrap();
        assert_eq!(stolen.status(), StatusCode::NOT_FOUND);
        let request = node.request(&registry, Method::POST, &format!("sessions/{session}"));
        assert_eq!(
            request.body(body).send().unwrap().status(),
            StatusCode::NO_CONTENT
        );
        let text = reading.join().unwrap();
        let events: Vec<LogEvent> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(
            matches!(&events[..], [LogEvent::Line(line)] if line.log == "hello\n"),
            "{text}"
        );
    });
    drop(watch);
    // The server notices the closed connection when it next writes to it.
    wait_for("a notice about the node that left", SOON, || {
        let mut line = String::new();
        let response = registry.send(Method::GET, path);
        let _ = BufReader::new(response.take(64 * 1024))
            .read_line(&mut line)
            .unwrap();
        match serde_json::from_str(&line) {
            Ok(LogEvent::Notice { notice }) if notice.contains("n1") => Ok(()),
            _ => Err(line),
        }
    });
}
