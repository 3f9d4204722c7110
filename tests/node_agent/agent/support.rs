//! An agent with private directories.

use std::path::PathBuf;
use std::process::{Command, Output};

use blackbox::process::{self, Process};
use tempfile::TempDir;

/// Directories of one agent. Agents started on them are stopped by whoever holds them.
pub struct Place {
    directory: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("makes a directory");
        Self { directory }
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file into the private directory.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("writes a file");
        path
    }

    /// `pierhead-node serve` on these directories, in a network namespace of its own.
    pub fn serve(&self, flags: &[&str]) -> Command {
        self.command("serve", flags)
    }

    /// A command of `pierhead-node` on these directories, in a network namespace of its own.
    pub fn command(&self, name: &str, flags: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
            .arg(blackbox::binary("pierhead-node"))
            .arg(name)
            .arg("--data")
            .arg(self.data())
            .arg("--run")
            .arg(self.path("run"))
            .arg("--socket")
            .arg(self.path("docker.sock"))
            .args(flags)
            .env("PIERHEAD_LOG", "warn");
        command
    }

    /// Starts an agent without a server, and waits until it is ready.
    pub fn standalone(&self) -> Process {
        let process = Process::start(self.serve(&["--standalone"]));
        process.line_after("pierhead-node: ready");
        process
    }
}

/// Runs `pierhead-node` to its end.
pub fn node(args: &[&str]) -> Output {
    process::run(Command::new(blackbox::binary("pierhead-node")).args(args))
}

/// What a command that must fail with status 1 says.
pub fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}
