//! `create`, `start` and `run`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Done;
use super::arguments::{Arguments, Global, unknown};
use crate::failure::{Context, Result};
use crate::lifecycle::{self, Container};
use crate::seal;

struct Options {
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    is_detached: bool,
}

impl Options {
    fn parse(arguments: &mut Arguments) -> Result<Self> {
        let mut options = Self {
            bundle: PathBuf::from("."),
            pid_file: None,
            is_detached: false,
        };
        while let Some(option) = arguments.option() {
            match option.as_str() {
                "--bundle" | "-b" => options.bundle = PathBuf::from(arguments.value(&option)?),
                "--pid-file" => options.pid_file = Some(PathBuf::from(arguments.value(&option)?)),
                "--detach" | "-d" => options.is_detached = true,
                _ => return Err(unknown(&option)),
            }
        }
        Ok(options)
    }
}

pub(super) fn create(global: &Global, mut arguments: Arguments) -> Done {
    let options = Options::parse(&mut arguments)?;
    make(global, &options, &mut arguments)?;
    Ok(0)
}

pub(super) fn start(global: &Global, mut arguments: Arguments) -> Done {
    Container::find(&global.root, &arguments.id()?)?.start()?;
    Ok(0)
}

pub(super) fn run(global: &Global, mut arguments: Arguments) -> Done {
    let options = Options::parse(&mut arguments)?;
    let container = make(global, &options, &mut arguments)?;
    let pid = container.record.init.pid;
    if let Err(failure) = container.start() {
        let _ = waitpid(Pid::from_raw(pid), None);
        container.remove()?;
        return Err(failure);
    }
    if options.is_detached {
        return Ok(0);
    }
    let code = wait(pid)?;
    container.remove()?;
    Ok(code)
}

/// Waits for a child and returns what a shell would.
pub(super) fn wait(pid: i32) -> Result<u8> {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, code)) => return Ok((code & 0xff) as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as u8),
            Ok(_) => {}
            Err(error) => return Err(error).step("wait", || format!("wait for process {pid}")),
        }
    }
}

pub(super) fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<()> {
    path.map_or(Ok(()), |path| {
        fs::write(path, pid.to_string()).step("pid file", || format!("write {}", path.display()))
    })
}

fn make(global: &Global, options: &Options, arguments: &mut Arguments) -> Result<Container> {
    let id = arguments.id()?;
    seal::ensure()?;
    let (container, _pidfd) = lifecycle::create(&global.root, &id, &options.bundle, &[None, None, None])?;
    if let Err(failure) = write_pid_file(options.pid_file.as_deref(), container.record.init.pid) {
        container.remove()?;
        return Err(failure);
    }
    Ok(container)
}
