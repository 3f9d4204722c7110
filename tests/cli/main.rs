//! The operator's command as people and scripts use it: exit statuses, what goes where, files it keeps.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod deploy;
mod fleet;
mod login;
#[path = "../fleet/played_node.rs"]
#[expect(
    dead_code,
    reason = "the suite of the fleet plays more of a node than these tests need"
)]
mod played_node;
mod usage;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use blackbox::binary;

/// What a run of the command left.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// `pierhead` with a home of its own and nothing of the caller's environment that it would read.
fn pierhead(home: &Path) -> Command {
    let mut command = Command::new(binary("pierhead"));
    command.env_clear().env("HOME", home).current_dir(home);
    command
}

fn run(command: &mut Command, stdin: &str) -> Ran {
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that does not read it may have ended already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    Ran {
        code: status.code(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// Runs a command that must succeed.
fn succeed(command: &mut Command) -> Ran {
    let ran = run(command, "");
    assert_eq!(ran.code, Some(0), "{command:?}\n{}{}", ran.out, ran.err);
    ran
}

/// Runs a command that must fail with `code`, and returns what it said.
fn fail(command: &mut Command, code: i32) -> String {
    let ran = run(command, "");
    assert_eq!(ran.code, Some(code), "{command:?}\n{}{}", ran.out, ran.err);
    assert_eq!(ran.out, "", "nothing of a failure is data");
    ran.err
}
