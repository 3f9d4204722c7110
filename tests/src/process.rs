//! Processes that end with the test.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A process in a group of its own, killed when dropped. Its standard error is read line by line.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Mutex<Receiver<String>>,
    /// How long a line may take.
    patience: Duration,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let stderr = child.stderr.take().expect("it was asked for");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines: Mutex::new(lines),
            patience: Duration::from_secs(30),
        }
    }

    /// The same for a program that may take minutes until its first line.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_slow(command: Command) -> Self {
        let mut process = Self::start(command);
        process.patience = Duration::from_secs(600);
        process
    }

    /// Sends `signal` to the whole process group, as a terminal does.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, signal: i32) {
        succeed(
            Command::new("kill")
                .arg(format!("-{signal}"))
                .arg("--")
                .arg(format!("-{}", self.pid())),
        );
    }

    /// Waits for a line of standard error that begins with `prefix`, and returns what follows it.
    ///
    /// # Panics
    /// When it does not come in time, printing what came instead.
    pub fn line_after(&self, prefix: &str) -> String {
        self.find_line(prefix, |line| line.strip_prefix(prefix))
    }

    /// Waits for a line of standard error that contains `mark`, and returns what follows it.
    ///
    /// # Panics
    /// When it does not come in time, printing what came instead.
    pub fn line_with(&self, mark: &str) -> String {
        self.find_line(mark, |line| line.split_once(mark).map(|(_, rest)| rest))
    }

    fn find_line(&self, wanted: &str, matches: impl Fn(&str) -> Option<&str>) -> String {
        let mut seen = Vec::new();
        let lines = self.lines.lock().expect("no reader panicked");
        while let Ok(line) = lines.recv_timeout(self.patience) {
            if let Some(rest) = matches(&line) {
                return rest.to_owned();
            }
            seen.push(line);
        }
        panic!("no line {wanted:?}; it said:\n{}", seen.join("\n"));
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait(mut self) -> ExitStatus {
        let child = &mut self.child;
        crate::wait_for("the end of a process", self.patience, || {
            match child.try_wait().expect("it is our child") {
                Some(status) => Ok(status),
                None => Err("it runs"),
            }
        })
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Its children are of its group. All fail when it has ended already.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill")
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    command
        .output()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"))
}

/// Runs a command that must succeed and returns its standard output.
///
/// # Panics
/// When it fails, printing what it said.
pub fn succeed(command: &mut Command) -> Vec<u8> {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
