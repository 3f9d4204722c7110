//! containerd's `ctr`, with a daemon of the test's own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use blackbox::process::{Process, run, succeed};
use blackbox::registry::Registry;
use blackbox::wait_for;

use super::{pushed, raw_digest};

/// A containerd that knows no more than images. Stopped when dropped.
struct Containerd {
    _daemon: Process,
    socket: PathBuf,
}

impl Containerd {
    fn start(registry: &Registry) -> Self {
        let directory = registry.scratch().join("containerd");
        std::fs::create_dir(&directory).unwrap();
        let socket = directory.join("socket");
        let config = directory.join("config.toml");
        // CRI wants a network of its own, and the monitor wants cgroups.
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.monitor.v1.cgroups\"]\n\
             [grpc]\naddress = {socket:?}\n",
            root = directory.join("root"),
            state = directory.join("state"),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config);
        let containerd = Self {
            _daemon: Process::start(command),
            socket,
        };
        wait_for("containerd to answer", Duration::from_secs(60), || {
            let output = run(containerd.ctr().arg("version"));
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            }
        });
        containerd
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket);
        command
    }
}

#[test]
fn ctr_pulls_and_pushes_with_equal_digests() {
    let registry = Registry::with_accounts();
    let (image, digest) = pushed(&registry);
    let containerd = Containerd::start(&registry);
    let user = format!("admin:{}", registry.password());
    let wrong =
        run(containerd
            .ctr()
            .args(["images", "pull", "--plain-http", "--user", "admin:wrong", &image]));
    assert!(!wrong.status.success());
    // The native snapshotter needs no file system of a certain kind.
    succeed(containerd.ctr().args([
        "images",
        "pull",
        "--plain-http",
        "--snapshotter",
        "native",
        "--user",
        &user,
        &image,
    ]));
    let listed = succeed(containerd.ctr().args(["images", "ls"]));
    assert!(String::from_utf8(listed).unwrap().contains(digest.as_str()));
    let copy = format!("{}/acme/copy:v2", registry.address());
    succeed(
        containerd
            .ctr()
            .args(["images", "push", "--plain-http", "--user", &user, &copy, &image]),
    );
    assert_eq!(raw_digest(&registry, &copy), digest);
}
