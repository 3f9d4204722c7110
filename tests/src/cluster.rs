//! A registry with joined nodes, all on this machine, and the operator's command against them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use api::{DeploymentState, JoinToken, TaskState, TaskSummary};
use oci::Digest;
use reqwest::Method;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::image;
use crate::process::{Process, run, succeed};
use crate::registry::Registry;
use crate::{binary, wait_for};

/// How long a deployment of a small image may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A registry with accounts and a directory for what the test writes.
#[derive(Debug)]
pub struct Cluster {
    /// The server.
    pub registry: Registry,
}

impl Cluster {
    /// Starts a server with accounts.
    pub fn start() -> Self {
        Self {
            registry: Registry::with_accounts(),
        }
    }

    /// The operator's command, as the administrator.
    pub fn pierhead(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("pierhead"));
        command
            .args(arguments)
            .env("PIERHEAD_SERVER", self.registry.url())
            .env("PIERHEAD_USERNAME", "admin")
            .env("PIERHEAD_PASSWORD", self.registry.password())
            .current_dir(self.registry.scratch());
        command
    }

    /// A one-use join token.
    pub fn token(&self) -> String {
        let response = self.registry.send(Method::POST, "/api/v1/join-tokens");
        assert!(response.status().is_success(), "{response:?}");
        response.json::<JoinToken>().expect("a token").token
    }

    /// Joins a node and starts its agent.
    pub fn node(&self, name: &str) -> Node {
        let mut node = Node::new(name);
        let joined = node.join(&self.registry.url(), &self.token());
        assert!(
            joined.status.success(),
            "{}",
            String::from_utf8_lossy(&joined.stderr)
        );
        node.start();
        node
    }

    /// Pushes an image of a busybox with `files` to `place` (`acme/web:v1`) and returns its digest.
    pub fn push(&self, place: &str, files: &[(&str, &[u8])]) -> Digest {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let digest = image::busybox(directory.path(), files);
        self.push_layout(place, directory.path());
        digest
    }

    /// Pushes the image of an OCI layout to `place`.
    pub fn push_layout(&self, place: &str, layout: &Path) {
        let source = format!("oci:{}", layout.display());
        let destination = format!("{}/{place}", self.registry.address());
        succeed(&mut self.pierhead(&["image", "copy", &source, &destination]));
    }

    /// `pierhead deploy` of this compose file, as project `acme`.
    pub fn deploy(&self, compose: &str) -> Output {
        let path = self.registry.scratch().join("compose.yaml");
        std::fs::write(&path, compose).expect("write the compose file");
        run(&mut self.pierhead(&["deploy", "-f", "compose.yaml", "--project", "acme"]))
    }

    /// As [`Self::deploy`], which must succeed.
    pub fn deployed(&self, compose: &str) {
        let output = self.deploy(compose);
        assert!(
            output.status.success(),
            "deploy ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// What `GET` of `path` below `/api/v1` answers.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let response = self.registry.send(Method::GET, &format!("/api/v1/{path}"));
        assert!(response.status().is_success(), "{path}: {response:?}");
        response.json().expect("the documented type")
    }

    /// All tasks that are not over.
    pub fn tasks(&self) -> Vec<TaskSummary> {
        let mut tasks: Vec<TaskSummary> = self.get("tasks");
        tasks.retain(|task| !task.state.is_final());
        tasks
    }

    /// The only running task of `service`, once there is one and it is ready.
    pub fn ready_task(&self, service: &str) -> TaskSummary {
        wait_for(&format!("one ready task of {service}"), PATIENCE, || {
            let tasks = self.tasks();
            let own: Vec<_> = tasks.iter().filter(|t| t.service.as_str() == service).collect();
            match own.as_slice() {
                [task] if task.state == TaskState::Ready => Ok((*task).clone()),
                _ => Err(format!("{own:?}")),
            }
        })
    }

    /// Waits until the newest deployment of `service` is in `state`, and returns its reason.
    pub fn deployment_is(&self, service: &str, state: DeploymentState) -> Option<String> {
        wait_for(
            &format!("a deployment that is {}", state.as_str()),
            PATIENCE,
            || {
                let all: Vec<api::Deployment> = self.get(&format!("deployments?service={service}"));
                let newest = all.iter().max_by_key(|d| d.id);
                match newest {
                    Some(deployment) if deployment.state == state => Ok(deployment.reason.clone()),
                    _ => Err(format!("{newest:?}")),
                }
            },
        )
    }
}

/// An agent with directories of its own. Whatever it runs ends when it is dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    directory: TempDir,
    process: Option<Process>,
}

impl Node {
    /// Directories for an agent; nothing is started.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            directory: tempfile::tempdir().expect("a temporary directory"),
            process: None,
        }
    }

    /// `pierhead-node join`.
    pub fn join(&self, server: &str, token: &str) -> Output {
        run(self
            .command("join")
            .args(["--server", server, "--name", &self.name])
            .env("PIERHEAD_JOIN_TOKEN", token))
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(binary("pierhead-node"));
        command.arg(verb).arg("--data").arg(self.data());
        command
    }

    /// Starts the agent and waits until it has adopted what runs.
    pub fn start(&mut self) {
        let mut command = self.command("serve");
        command
            .arg("--run")
            .arg(self.run())
            .arg("--socket")
            .arg(self.directory.path().join("docker.sock"));
        let process = Process::start(command);
        process.line_after("pierhead-node: ready");
        self.process = Some(process);
    }

    /// Kills the agent alone with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// State that survives a reboot.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// State that does not.
    pub fn run(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// The API socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let purged = run(self.command("purge").arg("--run").arg(self.run()).arg("--yes"));
        if !purged.status.success() && !std::thread::panicking() {
            panic!("purge: {}", String::from_utf8_lossy(&purged.stderr));
        }
    }
}

/// A port of this machine that was free a moment ago.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// What `http://127.0.0.1:PORT/PATH` answers now.
///
/// # Errors
/// When nothing answers.
pub fn fetch(port: u16, path: &str) -> Result<String, reqwest::Error> {
    let client = reqwest::blocking::Client::builder()
        .timeout(Duration::from_secs(5))
        .pool_max_idle_per_host(0)
        .build()?;
    client
        .get(format!("http://127.0.0.1:{port}/{path}"))
        .send()?
        .error_for_status()?
        .text()
}
