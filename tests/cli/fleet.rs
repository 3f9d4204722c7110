//! The command against a server: without a node, and with one that is played.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use api::{LogLine, LogStream, TaskState, WatchEvent};
use blackbox::image::layout;
use blackbox::registry::Registry;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::played_node::{Node, SOON};
use crate::{Ran, fail, pierhead, succeed};

/// The command as the registry's admin.
fn operator(registry: &Registry, arguments: &[&str]) -> Command {
    let mut command = pierhead(registry.scratch());
    command
        .args(arguments)
        .env("PIERHEAD_SERVER", registry.url())
        .env("PIERHEAD_USERNAME", "admin")
        .env("PIERHEAD_PASSWORD", registry.password());
    command
}

/// Pushes an image that differs by `content`, and writes a compose file for it.
fn prepare(registry: &Registry, tag: &str, content: &str) {
    let home = registry.scratch();
    let source = home.join(tag);
    layout(&source, &[("f", content.as_bytes())]);
    let image = format!("{}/acme/web:{tag}", registry.address());
    succeed(&mut operator(
        registry,
        &[
            "image",
            "copy",
            &format!("oci:{}:latest", source.display()),
            &image,
        ],
    ));
    compose(home, tag);
}

fn compose(home: &Path, tag: &str) {
    let text = format!("name: acme\nservices:\n  web:\n    image: acme/web:{tag}\n    ports: ['18080:80']\n");
    fs::write(home.join("compose.yaml"), text).unwrap();
}

/// A command that goes on while the test plays the node.
fn start(command: &mut Command) -> std::process::Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: std::process::Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn without_a_node_the_reason_is_told() {
    let registry = Registry::with_accounts();
    prepare(&registry, "v1", "one");
    let error = fail(&mut operator(&registry, &["deploy"]), 1);
    assert!(error.contains("no node is ready"), "{error}");
    assert!(error.contains("acme/web r1 failed"), "{error}");

    let listed = succeed(&mut operator(&registry, &["ps"]));
    assert!(listed.out.starts_with("TASK"), "{}", listed.out);
    assert!(listed.err.contains("pierhead node token"), "{}", listed.err);
    assert_eq!(
        succeed(&mut operator(&registry, &["ps", "--output", "json"])).out,
        "[]\n"
    );
    let listed = succeed(&mut operator(&registry, &["deploys", "--output", "json"])).out;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["state"], "failed");
    let token = succeed(&mut operator(&registry, &["node", "token"])).out;
    let join = format!("pierhead-node join --server {} --token PIER1-", registry.url());
    assert!(token.starts_with(&join) && token.lines().count() == 1, "{token}");

    compose(registry.scratch(), "v9");
    let error = fail(&mut operator(&registry, &["deploy"]), 1);
    assert!(
        error.contains("deploy acme/web with acme/web:v9: image acme/web:v9"),
        "{error}"
    );
    let error = fail(&mut operator(&registry, &["rollback", "web"]), 1);
    assert!(error.contains("roll acme/web back"), "{error}");
    let error = fail(&mut operator(&registry, &["logs", "db"]), 1);
    assert!(error.contains("no service db"), "{error}");
    let error = fail(
        operator(&registry, &["ps"]).env("PIERHEAD_PASSWORD", "swordfish"),
        1,
    );
    assert!(
        error.contains("list the tasks") && !error.contains("swordfish"),
        "{error}"
    );
    succeed(&mut operator(&registry, &["service", "rm", "web"]));
}

#[test]
fn a_deployment_is_followed_to_its_end_and_seen_by_every_listing() {
    let registry = Registry::with_accounts();
    prepare(&registry, "v1", "one");
    let mut node = Node::join(&registry, "n1");
    node.beat(&registry);
    let watch = node.watch(&registry);

    let deploying = start(&mut operator(&registry, &["deploy", "--output", "json"]));
    let task = watch.run(1);
    node.report(&registry, &task, TaskState::Ready, None);
    let deployed = end(deploying);
    assert_eq!(deployed.code, Some(0), "{}", deployed.err);
    assert!(
        deployed.err.contains("acme/web r1: succeeded after"),
        "{}",
        deployed.err
    );
    let deployments: Value = serde_json::from_str(&deployed.out).unwrap();
    assert_eq!(deployments[0]["state"], "succeeded");

    let again = succeed(&mut operator(&registry, &["deploy", "web"]));
    assert!(again.err.contains("acme/web r1: unchanged"), "{}", again.err);
    let listed = succeed(&mut operator(&registry, &["ps", "web"])).out;
    let row = listed.lines().nth(1).unwrap();
    assert!(row.starts_with("acme/web.1  r1        n1    ready"), "{listed}");
    assert!(row.contains("18080->80"), "{listed}");
    let listed = succeed(&mut operator(&registry, &["service", "ls"])).out;
    assert!(listed.contains("acme/web  1/1    r1"), "{listed}");
    let listed = succeed(&mut operator(&registry, &["node", "ls"])).out;
    assert!(listed.lines().nth(1).unwrap().starts_with("n1    "), "{listed}");
    let error = fail(&mut operator(&registry, &["node", "rm", "n1"]), 1);
    assert!(error.contains("remove node n1"), "{error}");

    // A newer image that does not become ready: the old one is kept, and the command says why.
    prepare(&registry, "v2", "two");
    let deploying = start(&mut operator(&registry, &["deploy"]));
    let newer = watch.run(2);
    node.report(
        &registry,
        &newer,
        TaskState::Failed,
        Some("exit code 1\nno such table: users"),
    );
    let failed = end(deploying);
    assert_eq!(failed.code, Some(1), "{}", failed.err);
    assert!(failed.err.contains("rolled back"), "{}", failed.err);
    assert!(failed.err.contains("no such table: users"), "{}", failed.err);
}

#[test]
fn ctrl_c_ends_the_watching_and_not_the_deployment() {
    let registry = Registry::with_accounts();
    prepare(&registry, "v1", "one");
    let mut node = Node::join(&registry, "n1");
    node.beat(&registry);
    let watch = node.watch(&registry);
    let mut deploying = start(&mut operator(&registry, &["deploy"]));
    let mut lines = BufReader::new(deploying.stderr.take().unwrap()).lines();
    let is_rolling = |line: std::io::Result<String>| line.unwrap().contains("rolling out");
    assert!(lines.by_ref().any(is_rolling), "it is followed");
    succeed(Command::new("kill").args(["-INT", &deploying.id().to_string()]));
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(deploying.wait().unwrap().code(), Some(1));
    assert!(rest.join("\n").contains("pierhead deploys --follow"), "{rest:?}");

    let following = start(&mut operator(&registry, &["deploys", "--follow"]));
    let task = watch.run(1);
    node.report(&registry, &task, TaskState::Ready, None);
    let followed = end(following);
    assert_eq!(followed.code, Some(0), "{}", followed.err);
    assert!(
        followed.out.contains("acme/web r1: succeeded"),
        "{}",
        followed.out
    );
}

#[test]
fn logs_name_their_copy_and_keep_the_streams_apart() {
    let registry = Registry::with_accounts();
    prepare(&registry, "v1", "one");
    let mut node = Node::join(&registry, "n1");
    node.beat(&registry);
    let watch = node.watch(&registry);
    let deploying = start(&mut operator(&registry, &["deploy"]));
    let task = watch.run(1);
    node.report(&registry, &task, TaskState::Ready, None);
    assert_eq!(end(deploying).code, Some(0));

    let reading = start(&mut operator(&registry, &["logs", "--tail", "2", "web"]));
    let session_id = loop {
        match watch.next() {
            Some(WatchEvent::Logs {
                session_id, query, ..
            }) => {
                assert_eq!((query.tail, query.follow), (Some(2), false));
                break session_id;
            }
            Some(_) => {}
            None => panic!("logs were not asked for within {SOON:?}"),
        }
    };
    let line = |stream, log: &str| {
        let line = LogLine {
            task_id: task.id.clone(),
            stream,
            time: "2026-01-01T00:00:00.000000000Z".to_owned(),
            log: log.to_owned(),
        };
        format!("{}\n", serde_json::to_string(&line).unwrap())
    };
    let body = line(LogStream::Stdout, "hello\n") + &line(LogStream::Stderr, "oh no\n");
    let posted = node
        .request(&registry, Method::POST, &format!("sessions/{session_id}"))
        .body(body)
        .send();
    assert_eq!(posted.unwrap().status(), StatusCode::NO_CONTENT);
    let read = end(reading);
    assert_eq!(read.code, Some(0), "{}", read.err);
    assert_eq!(read.out, "web.1 | hello\n");
    assert_eq!(read.err, "web.1 | oh no\n");
}
