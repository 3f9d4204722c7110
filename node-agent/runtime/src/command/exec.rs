//! `exec`.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use oci_spec::runtime::{Capability, ContainerState, Process};

use super::Done;
use super::arguments::{Arguments, Global, Inherited, unknown};
use super::create::write_pid_file;
use super::foreground::{self, Console};
use crate::bundle::{self, Bundle};
use crate::capabilities;
use crate::failure::{Context, Failure, Result};
use crate::lifecycle::Container;
use crate::process::Streams;
use crate::process::exec::spawn;
use crate::seal;

/// What the command line says about the process.
#[derive(Default)]
struct Options {
    file: Option<PathBuf>,
    cwd: Option<PathBuf>,
    user: Option<String>,
    groups: Vec<u32>,
    environment: Vec<String>,
    capabilities: Vec<Capability>,
    apparmor: Option<String>,
    label: Option<String>,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    preserved: u32,
    has_terminal: bool,
    is_detached: bool,
    has_no_new_privileges: bool,
    is_paused_ignored: bool,
}

impl Options {
    fn parse(arguments: &mut Arguments) -> Result<Self> {
        let mut options = Self::default();
        while let Some(option) = arguments.option() {
            match option.as_str() {
                "--process" | "-p" => options.file = Some(PathBuf::from(arguments.value(&option)?)),
                "--cwd" => options.cwd = Some(PathBuf::from(arguments.value(&option)?)),
                "--env" | "-e" => options.environment.push(arguments.value(&option)?),
                "--user" | "-u" => options.user = Some(arguments.value(&option)?),
                "--additional-gids" | "-g" => options.groups.push(arguments.number(&option)?),
                "--cap" | "-c" => options.capabilities.push(capability(&arguments.value(&option)?)?),
                "--apparmor" => options.apparmor = Some(arguments.value(&option)?),
                "--process-label" => options.label = Some(arguments.value(&option)?),
                "--pid-file" => options.pid_file = Some(PathBuf::from(arguments.value(&option)?)),
                "--console-socket" => options.console_socket = Some(PathBuf::from(arguments.value(&option)?)),
                "--preserve-fds" => options.preserved = arguments.number(&option)?,
                "--tty" | "-t" => options.has_terminal = true,
                "--detach" | "-d" => options.is_detached = true,
                "--no-new-privs" => options.has_no_new_privileges = true,
                "--ignore-paused" => options.is_paused_ignored = true,
                "--no-subreaper" => {}
                _ => return Err(unknown(&option)),
            }
        }
        Ok(options)
    }

    /// The process to execute: read from a file, or the container's own with what was asked for in its place.
    fn process(&self, bundle: &Bundle, args: Vec<String>) -> Result<Process> {
        if let Some(file) = &self.file {
            let text = fs::read(file).step("exec", || format!("read {}", file.display()))?;
            return serde_json::from_slice(&text).step("exec", || format!("parse {}", file.display()));
        }
        let mut process: Process = bundle.process()?.clone();
        process
            .set_args(Some(args))
            .set_terminal(Some(self.has_terminal))
            .set_console_size(None);
        let mut all = process.env().clone().unwrap_or_default();
        for entry in &self.environment {
            let key = entry.split('=').next().unwrap_or_default().to_owned() + "=";
            all.retain(|known| !known.starts_with(&key));
            all.push(entry.clone());
        }
        process.set_env(Some(all));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(user) = &self.user {
            set_user(&mut process, user)?;
        }
        if !self.groups.is_empty() {
            let mut groups = process.user().additional_gids().clone().unwrap_or_default();
            groups.extend(&self.groups);
            process.user_mut().set_additional_gids(Some(groups));
        }
        if self.has_no_new_privileges {
            process.set_no_new_privileges(Some(true));
        }
        if self.apparmor.is_some() {
            process.set_apparmor_profile(self.apparmor.clone());
        }
        if self.label.is_some() {
            process.set_selinux_label(self.label.clone());
        }
        capabilities::grant(&mut process, &self.capabilities);
        Ok(process)
    }
}

pub(super) fn exec(global: &Global, mut arguments: Arguments) -> Done {
    let options = Options::parse(&mut arguments)?;
    let id = arguments.id()?;
    seal::ensure()?;
    let inherited = Inherited::new(options.preserved)?;
    let container = Container::find(&global.root, &id)?;
    let record = &container.record;
    let status = container.status();
    if !matches!(status, ContainerState::Running | ContainerState::Created) {
        return Err(Failure::new(
            "exec",
            format!("container {} is {status}", id.as_str()),
        ));
    }
    if record.cgroup.is_frozen() && !options.is_paused_ignored {
        return Err(
            Failure::new("exec", format!("container {} is paused", id.as_str()))
                .advise("resume it first, or use --ignore-paused"),
        );
    }
    let bundle = Bundle::load(&record.bundle)?;
    let mut process = options.process(&bundle, arguments.remaining())?;
    bundle::check_process(&process)?;
    capabilities::withhold_mknod(&mut process, &record.cgroup);
    let console = Console::of(&process, options.console_socket.as_deref(), options.is_detached)?;
    let linux = bundle.spec.linux().as_ref();
    let seccomp = linux.and_then(|linux| linux.seccomp().as_ref());
    let streams = Streams {
        stdio: &[None, None, None],
        console: console.far(),
        preserved: inherited.count(),
    };
    let created = spawn(&record.init, &process, seccomp, &record.cgroup, streams)?;
    write_pid_file(options.pid_file.as_deref(), created.pid)?;
    if options.is_detached {
        return Ok(0);
    }
    foreground::stay(created.pid, created.pidfd.as_fd(), console.take()?)
}

fn capability(text: &str) -> Result<Capability> {
    let name = text.strip_prefix("CAP_").unwrap_or(text);
    name.parse()
        .map_err(|_| Failure::new("arguments", format!("--cap {text}: there is no such capability")))
}

fn set_user(process: &mut Process, text: &str) -> Result<()> {
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
