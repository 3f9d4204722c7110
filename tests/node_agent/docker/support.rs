//! An agent with a socket, a registry with an image, and the docker command that speaks to them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use blackbox::process::{Process, run, succeed};
use blackbox::registry::Registry;
use blackbox::{binary, image};
use oci::Digest;
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An engine with a private directory. Its containers end when it is dropped.
pub struct Engine {
    directory: TempDir,
    process: Option<Process>,
    registry: Registry,
    /// The digest of the manifest of [`Self::image`].
    pub digest: Digest,
}

impl Engine {
    /// Starts an agent, and a registry that has a busybox.
    pub fn start() -> Self {
        let registry = Registry::open();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let layout = directory.path().join("layout");
        let digest = image::busybox(&layout, &[("www/hello", b"hello from a container\n")]);
        let mut engine = Self {
            directory,
            process: None,
            registry,
            digest,
        };
        succeed(
            Command::new("skopeo")
                .args(["copy", "--quiet", "--dest-tls-verify=false"])
                .arg(format!("oci:{}:latest", layout.display()))
                .arg(format!("docker://{}", engine.image())),
        );
        engine.serve();
        engine
    }

    /// As [`Self::start`], with the image pulled.
    pub fn with_image() -> Self {
        let engine = Self::start();
        engine.ok(&["pull", "--quiet", &engine.image()]);
        engine
    }

    /// Starts the agent again, after [`Self::kill`].
    pub fn serve(&mut self) {
        let mut command = self.agent("serve");
        command.arg("--standalone").env("PIERHEAD_LOG", "warn");
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

    fn agent(&self, verb: &str) -> Command {
        let mut command = Command::new(binary("pierhead-node"));
        command
            .arg(verb)
            .arg("--data")
            .arg(self.directory.path().join("data"))
            .arg("--run")
            .arg(self.directory.path().join("run"))
            .arg("--socket")
            .arg(self.socket())
            .arg("--cgroup-parent")
            .arg(self.cgroup());
        command
    }

    /// A control group of this engine's own.
    pub fn cgroup(&self) -> String {
        let name = self.directory.path().file_name().expect("it has a name");
        format!(
            "pierhead-docker-{}",
            name.to_string_lossy().trim_start_matches('.')
        )
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// `HOST:PORT` of the registry.
    pub fn registry(&self) -> &str {
        self.registry.address()
    }

    /// The image that the registry has.
    pub fn image(&self) -> String {
        format!("{}/acme/box:v1", self.registry.address())
    }

    /// The docker command, with a configuration of its own.
    pub fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(arguments)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.directory.path().join("config"));
        command
    }

    /// What a docker command prints that must succeed, without the last line end.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let printed = succeed(&mut self.docker(arguments));
        String::from_utf8(printed)
            .expect("text")
            .trim_end_matches('\n')
            .to_owned()
    }

    /// What became of a docker command.
    pub fn outcome(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.docker(arguments)).into()
    }

    /// Sends one HTTP request as it is written here; the whole answer.
    pub fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("sets a timeout");
        stream.write_all(request.as_bytes()).expect("sends");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The answer to a request without a body.
    pub fn request(&self, method: &str, path: &str) -> String {
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
        ))
    }

    /// The answer to a request with a body.
    pub fn post(&self, path: &str, body: &str) -> String {
        self.raw(&format!(
            "POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
        let purged = run(self.agent("purge").arg("--yes"));
        if !purged.status.success() && !std::thread::panicking() {
            panic!("purge: {}", String::from_utf8_lossy(&purged.stderr));
        }
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("control groups are mounted");
        for hierarchy in hierarchies.flatten() {
            let group = hierarchy.path().join(self.cgroup());
            assert!(
                !group.exists() || std::thread::panicking(),
                "{} is left",
                group.display()
            );
        }
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
