//! Docker's own client and daemon, the latter only as what pulls and pushes.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use blackbox::process::{Process, run, succeed};
use blackbox::registry::Registry;
use blackbox::wait_for;
use tempfile::TempDir;

const SIGTERM: i32 = 15;

/// A dockerd that runs nothing and touches no network. Stopped when dropped.
struct Docker {
    daemon: Option<Process>,
    // Sockets have short paths.
    directory: TempDir,
}

impl Docker {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("dk").tempdir().unwrap();
        let within = |name: &str| directory.path().join(name);
        let mut command = Command::new("dockerd");
        command
            .args([
                "--iptables=false",
                "--bridge=none",
                "--storage-driver=vfs",
                "--data-root",
            ])
            .arg(within("data"))
            .arg("--exec-root")
            .arg(within("exec"))
            .arg("--pidfile")
            .arg(within("pid"))
            .arg("--host")
            .arg(format!("unix://{}", within("socket").display()))
            .arg("--config-file")
            .arg(within("none.json"));
        std::fs::write(within("none.json"), "{}").unwrap();
        let docker = Self {
            daemon: Some(Process::start(command)),
            directory,
        };
        wait_for("dockerd to answer", Duration::from_secs(90), || {
            let output = run(docker.command().arg("version"));
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            }
        });
        docker
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.directory.path().join("socket").display()),
            )
            .env("DOCKER_CONFIG", self.directory.path().join("config"));
        command
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let output = succeed(self.command().args(arguments));
        String::from_utf8(output).unwrap().trim().to_owned()
    }

    fn log_in(&self, registry: &Registry, password: &str) -> Output {
        let mut command = self.command();
        command.args([
            "login",
            "--username",
            "admin",
            "--password-stdin",
            registry.address(),
        ]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(password.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    /// A file system to make an image of, as the path of its archive.
    fn archive(&self, registry: &Registry) -> PathBuf {
        let content = blackbox::image::noise(8_000_000, 61);
        let root = registry.scratch().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("data"), content).unwrap();
        let archive = registry.scratch().join("root.tar");
        succeed(
            Command::new("tar")
                .arg("-C")
                .arg(&root)
                .arg("-cf")
                .arg(&archive)
                .arg("."),
        );
        archive
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        daemon.signal(SIGTERM);
        // It ends its containerd and its mounts before it goes, and removes this last.
        let pid = self.directory.path().join("pid");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while pid.exists() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn docker_logs_in_pushes_and_pulls_with_equal_digests() {
    let registry = Registry::with_accounts();
    let docker = Docker::start();
    let archive = docker.archive(&registry);
    let image = format!("{}/acme/imported:v1", registry.address());
    let id = docker.docker(&["import", archive.to_str().unwrap(), &image]);
    let refused = run(docker.command().args(["push", &image]));
    assert!(!refused.status.success(), "nobody is logged in");
    let wrong = docker.log_in(&registry, "wrong");
    assert!(!wrong.status.success());
    let text = String::from_utf8_lossy(&wrong.stderr).to_lowercase();
    assert!(
        text.contains("password is wrong") || text.contains("unauthorized"),
        "{text}"
    );
    let right = docker.log_in(&registry, registry.password());
    assert!(right.status.success(), "{right:?}");
    let pushed = docker.docker(&["push", &image]);
    let digest = pushed
        .split("digest: ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(super::raw_digest(&registry, &image).as_str(), digest);
    docker.docker(&["rmi", &image]);
    assert!(
        !run(docker.command().args(["image", "inspect", &image]))
            .status
            .success()
    );
    docker.docker(&["pull", &image]);
    let told = docker.docker(&[
        "image",
        "inspect",
        "--format",
        "{{.Id}} {{index .RepoDigests 0}}",
        &image,
    ]);
    assert_eq!(
        told,
        format!("{id} {}/acme/imported@{digest}", registry.address())
    );
    // Layers that are there already are mounted from the repository that docker knows them in.
    let copy = format!("{}/acme/copy:v1", registry.address());
    docker.docker(&["tag", &image, &copy]);
    let pushed = docker.docker(&["push", &copy]);
    assert!(pushed.contains("Mounted from acme/imported"), "{pushed}");
    docker.docker(&["pull", &format!("{}/acme/copy@{digest}", registry.address())]);
}
