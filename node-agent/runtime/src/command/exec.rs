//! `exec`.

use std::fs;
use std::path::PathBuf;

use oci_spec::runtime::{ContainerState, Process};

use super::Done;
use super::arguments::{Arguments, Global, unknown};
use super::create::{wait, write_pid_file};
use crate::bundle::{self, Bundle};
use crate::capabilities;
use crate::failure::{Context, Failure};
use crate::lifecycle::Container;
use crate::process::exec::spawn;
use crate::seal;

pub(super) fn exec(global: &Global, mut arguments: Arguments) -> Done {
    let (mut file, mut cwd, mut user, mut pid_file) = (None, None, None, None);
    let (mut environment, mut is_detached) = (Vec::new(), false);
    while let Some(option) = arguments.option() {
        match option.as_str() {
            "--process" | "-p" => file = Some(PathBuf::from(arguments.value(&option)?)),
            "--cwd" => cwd = Some(PathBuf::from(arguments.value(&option)?)),
            "--env" | "-e" => environment.push(arguments.value(&option)?),
            "--user" | "-u" => user = Some(arguments.value(&option)?),
            "--pid-file" => pid_file = Some(PathBuf::from(arguments.value(&option)?)),
            "--detach" | "-d" => is_detached = true,
            _ => return Err(unknown(&option)),
        }
    }
    let id = arguments.id()?;
    seal::ensure()?;
    let container = Container::find(&global.root, &id)?;
    let status = container.status();
    if !matches!(status, ContainerState::Running | ContainerState::Created) {
        return Err(Failure::new(
            "exec",
            format!("container {} is {status}", id.as_str()),
        ));
    }
    let bundle = Bundle::load(&container.record.bundle)?;
    let mut process: Process = match file {
        Some(file) => {
            let text = fs::read(&file).step("exec", || format!("read {}", file.display()))?;
            serde_json::from_slice(&text).step("exec", || format!("parse {}", file.display()))?
        }
        None => {
            let mut process: Process = bundle.process()?.clone();
            process
                .set_args(Some(arguments.remaining()))
                .set_terminal(Some(false));
            let mut all = process.env().clone().unwrap_or_default();
            for entry in environment {
                let key = entry.split('=').next().unwrap_or_default().to_owned() + "=";
                all.retain(|known| !known.starts_with(&key));
                all.push(entry);
            }
            process.set_env(Some(all));
            if let Some(cwd) = cwd {
                process.set_cwd(cwd);
            }
            if let Some(user) = user {
                set_user(&mut process, &user)?;
            }
            process
        }
    };
    bundle::check_process(&process)?;
    capabilities::withhold_mknod(&mut process, &container.record.cgroup);
    if process.terminal() == Some(true) {
        return Err(Failure::new("exec", "process.terminal is not supported").advise("set it to false"));
    }
    let seccomp = bundle
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    let record = &container.record;
    let created = spawn(
        &record.init,
        &process,
        seccomp,
        &record.cgroup,
        &[None, None, None],
    )?;
    write_pid_file(pid_file.as_deref(), created.pid)?;
    if is_detached { Ok(0) } else { wait(created.pid) }
}

fn set_user(process: &mut Process, text: &str) -> Result<(), Failure> {
    let bad = || {
        Failure::new(
            "arguments",
            format!("--user {text}: give UID or UID:GID as numbers"),
        )
    };
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    let uid = uid.parse().map_err(|_| bad())?;
    let gid = gid.parse().map_err(|_| bad())?;
    process.user_mut().set_uid(uid).set_gid(gid);
    Ok(())
}
