//! Debian's podman and dockerd with this runtime in place of their own.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::binary;

/// Limits that need no privilege: engines raise them beyond what this test may have.
const LIMITS: [&str; 2] = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];

/// A tar of a root with one busybox.
fn image(place: &Path) -> PathBuf {
    let root = place.join("image");
    fs::create_dir_all(root.join("bin")).expect("makes a directory");
    fs::create_dir_all(root.join("etc")).expect("makes a directory");
    fs::create_dir_all(root.join("tmp")).expect("makes a directory");
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("writes");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("apt-get install busybox-static");
    for applet in [
        "cat", "echo", "id", "ls", "mount", "readlink", "sh", "sleep", "stat", "tty", "touch",
    ] {
        symlink("busybox", root.join("bin").join(applet)).expect("links an applet");
    }
    let file = place.join("image.tar");
    let mut archive = tar::Builder::new(File::create(&file).expect("makes a file"));
    archive.follow_symlinks(false);
    archive.append_dir_all(".", &root).expect("packs");
    archive.finish().expect("packs");
    file
}

/// An engine's client, which is all that the cases need.
trait Engine {
    fn command(&self, args: &[&str]) -> Command;

    /// Options of every `run`.
    fn options(&self) -> Vec<&str>;

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("starts")
    }

    fn must(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {}: {error}", output.status);
        String::from_utf8(output.stdout).expect("is UTF-8")
    }

    fn run(&self, options: &[&str], program: &[&str]) -> Output {
        let mut args = vec!["run", "--rm"];
        args.extend(self.options());
        args.extend(options);
        args.push("busybox");
        args.extend(program);
        self.output(&args)
    }

    /// Runs on a terminal that script(1) makes, and returns what showed there.
    fn on_terminal(&self, args: &[&str]) -> (Option<i32>, String) {
        let command = self.command(args);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<String> = words
            .map(|word| format!("'{}'", word.to_str().expect("is UTF-8")))
            .collect();
        let mut script = Command::new("script")
            .args(["-qec", &line.join(" "), "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts script(1)");
        // Open until the end: script types an end-of-file character, which shows, when its own input ends.
        let _input = script.stdin.take();
        let output = script.wait_with_output().expect("waits for script(1)");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).replace('\r', ""),
        )
    }
}

struct Podman(TempDir);

impl Podman {
    fn new() -> Self {
        let podman = Self(tempfile::tempdir().expect("makes a directory"));
        let tar = image(podman.0.path());
        podman.must(&["import", tar.to_str().expect("is UTF-8"), "busybox"]);
        podman
    }
}

impl Engine for Podman {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.0.path().join(name));
        }
        command
            .args([
                "--cgroup-manager=cgroupfs",
                "--storage-driver=vfs",
                "--events-backend=file",
                "--runtime",
            ])
            .arg(binary())
            .args(args);
        command
    }

    fn options(&self) -> Vec<&str> {
        let mut options = LIMITS.to_vec();
        options.extend(["--network=none", "--log-driver=k8s-file"]);
        options
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What a failed case left must not outlive it; the directory is removed after.
        let _ = self.command(&["rm", "--all", "--force", "--time=0"]).output();
    }
}

struct Dockerd {
    place: TempDir,
    daemon: Child,
}

impl Dockerd {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("makes a directory");
        let at = |name: &str| place.path().join(name);
        let log = File::create(at("log")).expect("makes a file");
        let config = r#"{"default-ulimits": {"nofile": {"Name": "nofile", "Hard": 1024, "Soft": 1024}}}"#;
        fs::write(at("daemon.json"), config).expect("writes");
        let daemon = Command::new("dockerd")
            .arg("--config-file")
            .arg(at("daemon.json"))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg(format!("--host=unix://{}", at("docker.sock").display()))
            .arg(format!("--add-runtime=pierhead={}", binary().display()))
            .args([
                "--iptables=false",
                "--ip-forward=false",
                "--ip-masq=false",
                "--bridge=none",
                "--storage-driver=vfs",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("copies"))
            .stderr(log)
            .spawn()
            .expect("apt-get install docker.io");
        let dockerd = Self { place, daemon };
        blackbox::wait_for("dockerd", Duration::from_secs(60), || {
            if dockerd.output(&["version"]).status.success() {
                return Ok(());
            }
            Err(fs::read_to_string(dockerd.place.path().join("log")).unwrap_or_default())
        });
        let tar = image(dockerd.place.path());
        dockerd.must(&["import", tar.to_str().expect("is UTF-8"), "busybox"]);
        dockerd
    }
}

impl Engine for Dockerd {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .arg("--host")
            .arg(format!(
                "unix://{}",
                self.place.path().join("docker.sock").display()
            ))
            .args(args);
        command
    }

    fn options(&self) -> Vec<&str> {
        vec!["--runtime=pierhead", "--network=none"]
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let containers = self.output(&["ps", "--all", "--quiet"]).stdout;
        for id in String::from_utf8_lossy(&containers).split_whitespace() {
            self.output(&["rm", "--force", id]);
        }
        // Asked to end rather than killed, so that it ends its containerd.
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}

/// What both engines must be able to do.
fn contract(engine: &impl Engine) {
    let output = engine.run(&[], &["echo", "hello"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "hello\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(engine.run(&[], &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(engine.run(&[], &["/no/such/program"]).status.code(), Some(127));
    assert_eq!(engine.run(&[], &["no-such-program"]).status.code(), Some(127));
    assert_eq!(engine.run(&[], &["/etc/passwd"]).status.code(), Some(126));

    let output = engine.run(
        &[
            "--user=1000:1000",
            "--read-only",
            "--security-opt=no-new-privileges",
            "--tmpfs=/tmp:size=64k",
        ],
        &[
            "sh",
            "-c",
            "id -u; touch /tmp/x; touch /x 2>&1; echo by name > /dev/stdout",
        ],
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("1000\n") && text.contains("Read-only") && text.ends_with("by name\n"),
        "{text}"
    );

    let mut args = vec!["run", "--rm", "--interactive", "--tty"];
    args.extend(engine.options());
    args.extend([
        "busybox",
        "sh",
        "-c",
        "tty; test -c /dev/console && echo console; exit 3",
    ]);
    let (code, text) = engine.on_terminal(&args);
    assert!(
        code == Some(3) && text.contains("/dev/pts/0\nconsole\n"),
        "{code:?}: {text}"
    );

    let mut args = vec![
        "run",
        "--detach",
        "--name=first",
        "--memory=64m",
        "--pids-limit=20",
    ];
    args.extend(engine.options());
    args.extend(["busybox", "sleep", "100"]);
    engine.must(&args);
    let limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null";
    assert_eq!(
        engine.must(&["exec", "first", "sh", "-c", &format!("{limits}; true")]),
        "67108864\n20\n"
    );
    engine.must(&["update", "--memory=128m", "--memory-swap=128m", "first"]);
    assert!(
        engine
            .must(&["exec", "first", "sh", "-c", &format!("{limits}; true")])
            .starts_with("134217728\n")
    );
    let (code, text) = engine.on_terminal(&[
        "exec",
        "--interactive",
        "--tty",
        "first",
        "sh",
        "-c",
        "tty; exit 4",
    ]);
    assert!(
        code == Some(4) && text.contains("/dev/pts/0\n"),
        "{code:?}: {text}"
    );

    let status = || engine.must(&["ps", "--all", "--format={{.Status}}"]);
    engine.must(&["pause", "first"]);
    assert!(status().contains("Paused"), "{}", status());
    engine.must(&["unpause", "first"]);
    assert!(status().contains("Up"), "{}", status());
    assert!(engine.must(&["top", "first"]).contains("sleep 100"));
    engine.must(&["kill", "first"]);
    blackbox::wait_for("the end", Duration::from_secs(20), || {
        let status = status();
        if status.contains("Exited (137)") {
            Ok(())
        } else {
            Err(status)
        }
    });
    engine.must(&["start", "first"]);
    engine.must(&["rm", "--force", "first"]);
    assert_eq!(status(), "");
}

#[test]
fn podman_runs_containers_with_it() {
    let podman = Podman::new();
    contract(&podman);

    let shared = podman.0.path().join("volume");
    fs::create_dir(&shared).expect("makes a directory");
    fs::write(shared.join("file"), "content\n").expect("writes");
    let volume = format!("--volume={}:/data:ro", shared.display());
    let script =
        "cat /proc/self/uid_map; cat /data/file; touch /data/x 2>&1; touch /tmp/made && stat -c %u /tmp/made";
    let output = podman.run(&["--uidmap=0:100000:65536", &volume], &["sh", "-c", script]);
    let text = String::from_utf8_lossy(&output.stdout);
    let map: Vec<&str> = text.split_whitespace().take(3).collect();
    assert_eq!(
        map,
        ["0", "100000", "65536"],
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("content\n") && text.contains("Read-only") && text.ends_with("0\n"),
        "{text}"
    );
    let output = podman.run(&["--privileged"], &["stat", "-c", "%t", "/dev/kmsg"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "1\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = podman.run(
        &["--pid=host", "--ipc=host", "--uts=host"],
        &["readlink", "/proc/self/ns/pid"],
    );
    let own = fs::read_link("/proc/self/ns/pid").expect("reads");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        own.to_str().expect("is UTF-8")
    );
}

#[test]
fn dockerd_runs_containers_with_it() {
    contract(&Dockerd::start());
}
