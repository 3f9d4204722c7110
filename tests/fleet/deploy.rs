//! From a compose file to an answering service, and on to the next version by a push.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use api::{Deployment, DeploymentCause, DeploymentState};
use blackbox::cluster::{Cluster, PATIENCE, fetch, free_port};
use blackbox::process::succeed;
use blackbox::wait_for;

/// A web server whose page is the file `www/version` of its image.
fn web(port: u16) -> String {
    format!(
        "services:\n  web:\n    image: acme/web:main\n    command: httpd -f -v -p 80 -h /www\n    \
         environment:\n      GREETING: hello\n    ports: [\"127.0.0.1:{port}:80\"]\n    \
         stop_grace_period: 1s\n"
    )
}

#[test]
fn a_service_is_deployed_reached_and_moved_by_a_push_without_a_failed_request() {
    let cluster = Cluster::start();
    let _node = cluster.node("n1");
    let first = cluster.push("acme/web:main", &[("www/version", b"one")]);
    let port = free_port();
    cluster.deployed(&web(port));
    assert_eq!(fetch(port, "version").unwrap(), "one");
    let before = cluster.ready_task("acme/web");
    assert_eq!(before.image.digest, first);

    let (is_over, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let visitor = thread::spawn({
        let (is_over, failures) = (Arc::clone(&is_over), Arc::clone(&failures));
        move || {
            while !is_over.load(Ordering::Relaxed) {
                if fetch(port, "version").is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let second = cluster.push("acme/web:main", &[("www/version", b"two")]);
    wait_for("the new version to answer", PATIENCE, || {
        match fetch(port, "version") {
            Ok(text) if text == "two" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    cluster.deployment_is("acme/web", DeploymentState::Succeeded);
    is_over.store(true, Ordering::Relaxed);
    visitor.join().unwrap();
    assert_eq!(
        failures.load(Ordering::Relaxed),
        0,
        "requests failed while versions changed"
    );

    let after = cluster.ready_task("acme/web");
    assert_eq!(after.image.digest, second);
    assert_ne!(after.container_id, before.container_id);
    let deployments: Vec<Deployment> = cluster.get("deployments?service=acme/web");
    let causes: Vec<_> = deployments.iter().map(|d| d.cause).collect();
    assert!(
        causes.contains(&DeploymentCause::Command) && causes.contains(&DeploymentCause::Push),
        "{causes:?}"
    );
}

#[test]
fn ps_logs_and_deploys_show_what_runs() {
    let cluster = Cluster::start();
    let _node = cluster.node("n1");
    cluster.push("acme/job:main", &[]);
    cluster.deployed(
        "services:\n  job:\n    image: acme/job:main\n    \
         command: [sh, -c, 'echo to the log; echo $$GREETING >&2; exec sleep 1000']\n    \
         environment: [GREETING=hello]\n    stop_grace_period: 0s\n",
    );
    let text = |arguments: &[&str]| String::from_utf8(succeed(&mut cluster.pierhead(arguments))).unwrap();
    let ps = text(&["ps"]);
    assert!(
        ps.contains("acme/job") && ps.contains("n1") && ps.contains("ready"),
        "{ps}"
    );
    let logs = text(&["logs", "acme/job"]);
    assert!(logs.contains("to the log"), "{logs}");
    let deploys = text(&["deploys", "acme/job"]);
    assert!(deploys.contains("succeeded"), "{deploys}");
    let nodes = text(&["node", "ls"]);
    assert!(nodes.contains("n1") && nodes.contains("ready"), "{nodes}");
}

#[test]
fn deploying_the_same_again_changes_nothing() {
    let cluster = Cluster::start();
    let _node = cluster.node("n1");
    cluster.push("acme/web:main", &[("www/version", b"one")]);
    let compose = web(free_port());
    cluster.deployed(&compose);
    let before = cluster.ready_task("acme/web");
    cluster.deployed(&compose);
    let deployments: Vec<Deployment> = cluster.get("deployments?service=acme/web");
    assert_eq!(deployments.len(), 1);
    assert_eq!(cluster.ready_task("acme/web").container_id, before.container_id);
}

#[test]
fn a_version_that_does_not_stay_up_is_rolled_back_and_says_why() {
    let cluster = Cluster::start();
    let _node = cluster.node("n1");
    cluster.push(
        "acme/web:main",
        &[
            ("www/version", b"one"),
            ("start", b"#!/bin/sh\nexec httpd -f -p 80 -h /www\n"),
        ],
    );
    let port = free_port();
    let compose = format!(
        "services:\n  web:\n    image: acme/web:main\n    command: /start\n    \
         ports: [\"127.0.0.1:{port}:80\"]\n    stop_grace_period: 1s\n"
    );
    cluster.deployed(&compose);
    let before = cluster.ready_task("acme/web");
    cluster.push(
        "acme/web:main",
        &[("start", b"#!/bin/sh\necho no such table: users >&2\nexit 3\n")],
    );
    let reason = cluster.deployment_is("acme/web", DeploymentState::RolledBack);
    let reason = reason.expect("a reason");
    assert!(
        reason.contains('3') && reason.contains("no such table: users"),
        "{reason}"
    );
    assert_eq!(fetch(port, "version").unwrap(), "one");
    assert_eq!(cluster.ready_task("acme/web").container_id, before.container_id);
}

#[test]
fn copies_are_spread_over_nodes_and_scaled_down_again() {
    let cluster = Cluster::start();
    let _nodes = [cluster.node("n1"), cluster.node("n2")];
    cluster.push("acme/job:main", &[]);
    let compose = |replicas: u32| {
        format!(
            "services:\n  job:\n    image: acme/job:main\n    command: sleep 1000\n    \
             stop_grace_period: 0s\n    deploy: {{replicas: {replicas}}}\n"
        )
    };
    cluster.deployed(&compose(4));
    let mut nodes: Vec<String> = cluster.tasks().into_iter().map(|t| t.node).collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n1", "n2", "n2"]);
    cluster.deployed(&compose(1));
    cluster.ready_task("acme/job");
    succeed(&mut cluster.pierhead(&["service", "rm", "acme/job"]));
    wait_for("no task to be left", PATIENCE, || {
        match cluster.tasks().as_slice() {
            [] => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
}

#[test]
fn what_is_pushed_while_the_server_is_down_for_a_moment_is_deployed_when_it_is_back() {
    let mut cluster = Cluster::start();
    let _node = cluster.node("n1");
    cluster.push("acme/web:main", &[("www/version", b"one")]);
    let port = free_port();
    cluster.deployed(&web(port));
    // The push is acknowledged, and the server dies before it can have acted upon it.
    cluster.push("acme/web:main", &[("www/version", b"two")]);
    cluster.registry.restart();
    wait_for(
        "the new version to answer",
        Duration::from_secs(60),
        || match fetch(port, "version") {
            Ok(text) if text == "two" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}
