//! Hooks: programs of the engine that run at fixed points of a container's life. runtime-spec `config.md`,
//! POSIX-platform Hooks.
//!
//! ```text
//! create   prestart, createRuntime   by the runtime, once the mounts are there and before the change of root
//!          createContainer           by init, at the same point, in the container's namespaces
//! start    startContainer            by init, in the container's root, before the program
//!          poststart                 by the runtime, once the program runs
//! delete   poststop                  by the runtime, once everything of the container is gone
//! ```
//! The state goes in and the output comes out through files in memory: a hook that reads or writes nothing, or
//! leaves a child behind that holds its streams, cannot hold up the container.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::Hook;
use serde_json::Value;

use crate::failure::{Context, Failure, Result};
use crate::sys::process::pidfd_open;

const STEP: &str = "hooks";
/// How much of a failed hook's output is told.
const LONGEST_EXCERPT: u64 = 4096;

/// Runs `hooks` one after the other with `state` on their standard input; the first failure ends the row.
///
/// # Errors
/// When a hook cannot be executed, fails, or does not end within its timeout; `kind` names it.
pub fn run(kind: &str, hooks: Option<&[Hook]>, state: &Value) -> Result<()> {
    hooks
        .unwrap_or(&[])
        .iter()
        .try_for_each(|hook| run_one(kind, hook, state))
}

/// Runs `hooks` whatever happens to those before, and tells failures on standard error only: at this point of the
/// life cycle nothing can be undone any more.
pub fn run_all(kind: &str, hooks: Option<&[Hook]>, state: &Value) {
    for hook in hooks.unwrap_or(&[]) {
        if let Err(failure) = run_one(kind, hook, state) {
            eprintln!("pierhead-runtime: warning: {failure}");
        }
    }
}

fn run_one(kind: &str, hook: &Hook, state: &Value) -> Result<()> {
    let path = hook.path();
    let tried = || format!("run {kind} hook {}", path.display());
    let mut input = memory_file().step(STEP, tried)?;
    input
        .write_all(state.to_string().as_bytes())
        .and_then(|()| input.seek(SeekFrom::Start(0)).map(drop))
        .step(STEP, tried)?;
    let mut output = memory_file().step(STEP, tried)?;
    let copy = || output.try_clone().step(STEP, tried);

    let mut command = Command::new(path);
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    let environment = hook.env().as_deref().unwrap_or(&[]);
    command
        .env_clear()
        .envs(environment.iter().filter_map(|entry| entry.split_once('=')))
        .stdin(input)
        .stdout(copy()?)
        .stderr(copy()?);
    let mut child = command.spawn().step(STEP, tried)?;
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let status = wait(&mut child, timeout.map(Duration::from_secs)).step(STEP, tried)?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            let how = match status.signal() {
                Some(signal) => format!("was ended by signal {signal}"),
                None => format!("ended with status {}", status.code().unwrap_or(-1)),
            };
            Err(Failure::new(
                STEP,
                format!("{kind} hook {} {how}{}", path.display(), excerpt(&mut output)),
            ))
        }
        None => Err(Failure::new(
            STEP,
            format!(
                "{kind} hook {} did not end within {} s and was killed",
                path.display(),
                timeout.unwrap_or_default()
            ),
        )),
    }
}

/// Waits for `child`; kills it and returns `None` when it takes longer than `timeout`.
fn wait(child: &mut Child, timeout: Option<Duration>) -> std::io::Result<Option<ExitStatus>> {
    let Some(timeout) = timeout else {
        return child.wait().map(Some);
    };
    let deadline = Instant::now() + timeout;
    let pidfd = pidfd_open(child.id().cast_signed())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, patience) {
            Ok(0) if left.is_zero() => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return child.wait().map(Some),
            Err(error) => return Err(error.into()),
        }
    }
}

fn memory_file() -> std::io::Result<File> {
    Ok(memfd_create(c"hook", MFdFlags::MFD_CLOEXEC)?.into())
}

fn excerpt(output: &mut File) -> String {
    let mut text = Vec::new();
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    let read = output
        .seek(SeekFrom::Start(length.saturating_sub(LONGEST_EXCERPT)))
        .and_then(|_| output.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    match read {
        Ok(_) if !text.trim().is_empty() => format!(": {}", text.trim()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shell(script: &str, timeout: Option<i64>) -> Vec<Hook> {
        let mut hook = Hook::default();
        hook.set_path("/bin/sh".into())
            .set_args(Some(vec!["sh".into(), "-c".into(), script.into()]))
            .set_env(Some(vec!["COLOUR=red".into()]))
            .set_timeout(timeout);
        vec![hook]
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_own_environment_only() {
        let script = r#"read state; [ "$state" = '{"id":"x"}' ] && [ "$COLOUR" = red ] && [ -z "$HOME" ]"#;
        run("poststart", Some(&shell(script, None)), &json!({"id": "x"})).expect("succeeds");
    }

    #[test]
    fn a_failing_hook_is_named_with_what_it_said() {
        let failure =
            run("prestart", Some(&shell("echo no >&2; exit 3", None)), &json!({})).expect_err("fails");
        assert!(failure.message.contains("prestart"), "{failure}");
        assert!(failure.message.contains("status 3: no"), "{failure}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let started = Instant::now();
        let failure = run("prestart", Some(&shell("exec sleep 60", Some(1))), &json!({})).expect_err("fails");
        assert!(failure.message.contains("within 1 s"), "{failure}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
