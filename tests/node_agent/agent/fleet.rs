//! A real agent in the fleet of a real server: join, deploy, push, and what must survive what.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use blackbox::process::{self, Process};
use blackbox::registry::Registry;
use blackbox::{image, wait_for};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Place, complaint, node};

const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that has joined. Everything of it is removed when it is dropped.
struct Node {
    place: Place,
    agent: Option<Process>,
}

impl Node {
    fn join(registry: &Registry) -> Self {
        let place = Place::new();
        let token = place.write("token", &join_token(registry));
        let mut command = Command::new(blackbox::binary("pierhead-node"));
        command.args(["join", "--name", "one", "--server", &registry.url()]);
        command.arg("--token-file").arg(token);
        command.arg("--data").arg(place.data());
        process::succeed(&mut command);
        let mut node = Self { place, agent: None };
        node.start();
        node
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(blackbox::binary("pierhead-node"));
        command.arg(name).env("PIERHEAD_LOG", "info");
        command.arg("--data").arg(self.place.data());
        command.arg("--run").arg(self.place.path("run"));
        command.arg("--socket").arg(self.place.path("docker.sock"));
        command
    }

    fn start(&mut self) {
        let agent = Process::start(self.command("serve"));
        agent.line_after("pierhead-node: ready");
        self.agent = Some(agent);
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.agent.take().expect("an agent runs").kill();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.agent.take());
        let output = process::run(self.command("purge").arg("--yes"));
        if !thread::panicking() {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "something is left behind: {said}");
        }
    }
}

fn join_token(registry: &Registry) -> String {
    let response = registry.send(Method::POST, "/api/v1/join-tokens");
    assert!(response.status().is_success(), "{}", response.status());
    let token: Value = response.json().expect("is JSON");
    token["token"].as_str().expect("a token").to_owned()
}

/// Pushes an image that serves `version` over HTTP at port 8080. `mark` tells its processes from others'.
fn push(registry: &Registry, version: &str, mark: &str) {
    let busybox = fs::read("/bin/busybox").expect("apt-get install busybox-static");
    let files: [(&str, &[u8]); 2] = [("bin/busybox", &busybox), ("www/index.html", version.as_bytes())];
    push_running(
        registry,
        version,
        &files,
        &[
            "/bin/busybox",
            "httpd",
            "-f",
            "-p",
            "8080",
            "-r",
            mark,
            "-h",
            "/www",
        ],
    );
}

fn push_running(registry: &Registry, version: &str, files: &[(&str, &[u8])], command: &[&str]) {
    let directory = registry.scratch().join(version);
    image::layout_running(&directory, files, command);
    process::succeed(
        Command::new("skopeo")
            .args(["copy", "--dest-tls-verify=false", "--dest-creds"])
            .arg(format!("admin:{}", registry.password()))
            .arg(format!("oci:{}:latest", directory.display()))
            .arg(format!("docker://{}/acme/web:main", registry.address())),
    );
}

fn deploy(registry: &Registry, host_port: u16) {
    let spec = json!({
        "repository": "acme/web", "tag": "main", "replicas": 1, "container": {},
        "ports": [{"host_port": host_port, "container_port": 8080}],
        "stop_grace_ms": 500, "min_ready_ms": 200, "ready_deadline_ms": 30_000,
    });
    let request = registry.request(Method::PUT, "/api/v1/services/acme/web");
    let response = request.json(&json!({"spec": spec})).send().expect("an answer");
    let status = response.status();
    assert!(
        status.is_success(),
        "{status}: {}",
        response.text().unwrap_or_default()
    );
}

/// The tasks, newest revision first.
fn tasks(registry: &Registry) -> Vec<Value> {
    let response = registry.send(Method::GET, "/api/v1/tasks");
    assert_eq!(response.status(), StatusCode::OK);
    let mut tasks: Vec<Value> = response.json().expect("is JSON");
    tasks.sort_by_key(|task| std::cmp::Reverse(task["revision"].as_u64()));
    tasks
}

fn ready_task(registry: &Registry, revision: u64) -> Value {
    wait_for("a ready task", PATIENCE, || {
        let tasks = tasks(registry);
        let is_it = |task: &&Value| task["revision"] == revision && task["state"] == "ready";
        tasks.iter().find(is_it).cloned().ok_or(json!(tasks))
    })
}

/// The body of an answer with status 200, over a connection of its own.
fn get(port: u16) -> io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.0 200 ") || head.starts_with("HTTP/1.1 200 ") => {
            Ok(body.to_owned())
        }
        _ => Err(io::Error::other(format!("answered {answer:?}"))),
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Kills the program whose command line holds `mark` with SIGKILL.
fn kill_marked(mark: &str) {
    let is_marked = |path: &Path| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        line.starts_with(b"/bin/busybox\0")
            && line.split(|&byte| byte == 0).any(|word| word == mark.as_bytes())
    };
    let pids = fs::read_dir("/proc").expect("lists").flatten();
    let pids = pids.filter(|entry| is_marked(&entry.path()));
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // It forks for each connection; the first is the one that all others go with.
    let first = pids.min().expect("the program runs");
    process::succeed(Command::new("kill").args(["-KILL", &first.to_string()]));
}

/// Asks a port again and again, each time over a new connection.
struct Load {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u32, Vec<String>)>,
}

impl Load {
    fn on(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = stop.clone();
        let thread = thread::spawn(move || {
            let (mut good, mut bad) = (0, Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                match get(port) {
                    Ok(_) => good += 1,
                    Err(error) => bad.push(error.to_string()),
                }
            }
            (good, bad)
        });
        Self { stop, thread }
    }

    /// Ends it; nothing may have failed.
    fn was_served(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (good, bad) = self.thread.join().expect("it did not panic");
        assert!(
            bad.is_empty(),
            "{} of {} failed: {:?}",
            bad.len(),
            good,
            bad.first()
        );
        assert!(good > 10, "only {good} requests were made");
    }
}

#[test]
fn a_service_outlives_its_agent_follows_a_push_and_is_kept_alive_without_the_server() {
    let mut registry = Registry::with_accounts();
    let (port, mark) = (free_port(), format!("blackbox-{}", std::process::id()));
    let mut node = Node::join(&registry);
    push(&registry, "one", &mark);
    deploy(&registry, port);
    let first = ready_task(&registry, 1);
    assert_eq!(get(port).expect("it is ready"), "one");

    // SIGKILL of the agent: nobody notices, and the next agent goes on with the same container.
    let load = Load::on(port);
    node.kill();
    thread::sleep(Duration::from_millis(300));
    node.start();
    load.was_served();
    let adopted = ready_task(&registry, 1);
    assert_eq!(adopted["container_id"], first["container_id"]);
    assert_eq!(adopted["attempt"], 1);

    // A push is a deployment, and loses no request.
    let load = Load::on(port);
    push(&registry, "two", &mark);
    ready_task(&registry, 2);
    wait_for("the end of the older task", PATIENCE, || match tasks(&registry) {
        tasks
            if tasks
                .iter()
                .all(|task| task["revision"] == 2 || task["state"] == "stopped") =>
        {
            Ok(())
        }
        tasks => Err(json!(tasks)),
    });
    load.was_served();
    assert_eq!(get(port).expect("it is ready"), "two");

    // A push that does not work is taken back.
    let load = Load::on(port);
    let busybox = fs::read("/bin/busybox").expect("apt-get install busybox-static");
    push_running(
        &registry,
        "three",
        &[("bin/busybox", &busybox)],
        &["/bin/busybox", "false"],
    );
    let deployment = wait_for("the end of the deployment", PATIENCE, || {
        let response = registry.send(Method::GET, "/api/v1/deployments");
        let all: Vec<Value> = response.json().expect("is JSON");
        let is_it = |d: &&Value| d["revision"] == 3 && !d["finished_at_ms"].is_null();
        all.iter().find(is_it).cloned().ok_or(json!(all))
    });
    assert_eq!(deployment["state"], "rolled_back", "{deployment}");
    load.was_served();

    // A crash while the server is away.
    registry.kill();
    kill_marked(&mark);
    let began = Instant::now();
    wait_for("the restarted container", PATIENCE, || get(port));
    // 0.5 s of pause and the start; the rest is for a busy machine.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // An agent that starts without a server goes on as well.
    node.kill();
    kill_marked(&mark);
    node.start();
    wait_for("the restarted container", PATIENCE, || get(port));
}

#[test]
fn a_node_joins_once_with_each_token_and_stays() {
    let registry = Registry::with_accounts();
    let place = Place::new();
    let data = place.data();
    let (url, data) = (registry.url(), data.to_str().expect("is UTF-8"));
    let join = |token: &str, data: &str| {
        node(&[
            "join", "--server", &url, "--name", "one", "--token", token, "--data", data,
        ])
    };
    let said = complaint(&join("PIER1-wrong", data));
    assert!(said.contains("token"), "{said}");
    let token = join_token(&registry);
    let output = join(&token, data);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let again = join("unused", data);
    assert!(again.status.success(), "joining again changes nothing");
    let nodes: Vec<Value> = registry
        .send(Method::GET, "/api/v1/nodes")
        .json()
        .expect("is JSON");
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    let other = place.path("other");
    let said = complaint(&join(&token, other.to_str().expect("is UTF-8")));
    assert!(said.contains("used"), "{said}");
    let elsewhere = [
        "join",
        "--server",
        "http://127.0.0.1:9",
        "--token",
        "x",
        "--data",
        data,
    ];
    let said = complaint(&node(&elsewhere));
    assert!(
        said.contains("has joined") && said.contains("node.json"),
        "{said}"
    );
}
