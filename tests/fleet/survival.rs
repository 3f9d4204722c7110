//! What dies and what must not die with it.

use std::fs;
use std::time::Duration;

use api::TaskState;
use blackbox::cluster::{Cluster, PATIENCE, fetch, free_port};
use blackbox::wait_for;

fn web(port: u16) -> String {
    format!(
        "services:\n  web:\n    image: acme/web:main\n    command: httpd -f -p 80 -h /www\n    \
         ports: [\"127.0.0.1:{port}:80\"]\n    stop_grace_period: 1s\n"
    )
}

#[test]
fn an_agent_killed_and_started_again_finds_its_container_as_it_was() {
    let cluster = Cluster::start();
    let mut node = cluster.node("n1");
    cluster.push("acme/web:main", &[("www/version", b"one")]);
    let port = free_port();
    cluster.deployed(&web(port));
    let before = cluster.ready_task("acme/web");
    node.kill();
    // 127.0.0.1 is served by the kernel's translation, which needs no agent.
    assert_eq!(fetch(port, "version").unwrap(), "one");
    node.start();
    let after = wait_for("the agent to report again", PATIENCE, || {
        let task = cluster.ready_task("acme/web");
        let nodes: Vec<api::NodeSummary> = cluster.get("nodes");
        match nodes.as_slice() {
            [node] if node.status == api::NodeStatus::Ready => Ok(task),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(after.container_id, before.container_id);
    assert_eq!(after.started_at_ms, before.started_at_ms);
    assert_eq!(after.attempt, 1);
    assert_eq!(fetch(port, "version").unwrap(), "one");
}

#[test]
fn a_program_that_dies_is_started_again_with_the_server_down() {
    let mut cluster = Cluster::start();
    let _node = cluster.node("n1");
    cluster.push("acme/web:main", &[("www/version", b"one")]);
    let port = free_port();
    cluster.deployed(&web(port));
    let container = cluster.ready_task("acme/web").container_id.expect("it runs");
    cluster.registry.kill();
    let init = init_of(&container);
    blackbox::process::succeed(std::process::Command::new("kill").args(["-KILL", &init.to_string()]));
    wait_for("the service to answer again", Duration::from_secs(20), || {
        let now = init_of(&container);
        match fetch(port, "version") {
            Ok(text) if text == "one" && now != init => Ok(()),
            other => Err(format!("init {now}, {other:?}")),
        }
    });
    cluster.registry.restart();
    wait_for("the server to hear of the second attempt", PATIENCE, || {
        let task = cluster.ready_task("acme/web");
        if task.state == TaskState::Ready && task.attempt == 2 {
            Ok(())
        } else {
            Err(format!("{task:?}"))
        }
    });
}

#[test]
fn a_server_killed_in_the_middle_of_an_upload_has_lost_nothing_it_acknowledged() {
    use blackbox::registry::header;
    use reqwest::{Method, StatusCode};

    let mut cluster = Cluster::start();
    let content = blackbox::image::noise(3 << 20, 11);
    let held = cluster.registry.push_blob("acme/web", &content);
    let upload = cluster.registry.begin_upload("acme/web");
    let request = cluster.registry.request(Method::PATCH, &upload);
    let response = request.body(content[..1 << 20].to_vec()).send().unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(header(&response, "range"), format!("0-{}", (1 << 20) - 1));
    cluster.registry.restart();
    let blob = cluster
        .registry
        .send(Method::GET, &format!("/v2/acme/web/blobs/{held}"));
    assert_eq!(blob.bytes().unwrap(), content);
    let status = cluster.registry.send(Method::GET, &upload);
    assert_eq!(header(&status, "range"), format!("0-{}", (1 << 20) - 1));
}

/// The process id of the container's init on this machine, by the hash in its cgroup; 0 while there is none.
fn init_of(container: &str) -> u32 {
    let processes = fs::read_dir("/proc").expect("/proc is there");
    let mut found: Vec<u32> = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(container))
        })
        .collect();
    found.sort_unstable();
    found.first().copied().unwrap_or(0)
}
