//! `create`, `start` and `run`.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::Done;
use super::arguments::{Arguments, Global, Inherited, unknown};
use super::foreground::{self, Console};
use crate::bundle::Bundle;
use crate::failure::{Context, Failure, Result};
use crate::lifecycle::{self, Container};
use crate::process::Streams;
use crate::seal;

struct Options {
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    preserved: u32,
    is_detached: bool,
    is_kept: bool,
}

impl Options {
    fn parse(arguments: &mut Arguments) -> Result<Self> {
        let mut options = Self {
            bundle: PathBuf::from("."),
            pid_file: None,
            console_socket: None,
            preserved: 0,
            is_detached: false,
            is_kept: false,
        };
        while let Some(option) = arguments.option() {
            match option.as_str() {
                "--bundle" | "-b" => options.bundle = PathBuf::from(arguments.value(&option)?),
                "--pid-file" => options.pid_file = Some(PathBuf::from(arguments.value(&option)?)),
                "--console-socket" => options.console_socket = Some(PathBuf::from(arguments.value(&option)?)),
                "--preserve-fds" => options.preserved = arguments.number(&option)?,
                "--detach" | "-d" => options.is_detached = true,
                "--keep" => options.is_kept = true,
                // Every container has a keyring and a reaper of its own here, with or without.
                "--no-new-keyring" | "--no-subreaper" => {}
                "--no-pivot" => {
                    return Err(Failure::new(
                        "arguments",
                        "--no-pivot is refused: a container could leave a root that was only moved",
                    ));
                }
                _ => return Err(unknown(&option)),
            }
        }
        Ok(options)
    }
}

pub(super) fn create(global: &Global, mut arguments: Arguments) -> Done {
    let options = Options::parse(&mut arguments)?;
    make(global, &options, &mut arguments, true)?;
    Ok(0)
}

pub(super) fn start(global: &Global, mut arguments: Arguments) -> Done {
    Container::find(&global.root, &arguments.id()?)?.start()?;
    Ok(0)
}

pub(super) fn run(global: &Global, mut arguments: Arguments) -> Done {
    let options = Options::parse(&mut arguments)?;
    let (container, pidfd, terminal) = make(global, &options, &mut arguments, options.is_detached)?;
    let pid = container.record.init.pid;
    if let Err(failure) = container.start() {
        let _ = waitpid(Pid::from_raw(pid), None);
        container.remove()?;
        return Err(failure);
    }
    if options.is_detached {
        return Ok(0);
    }
    let code = foreground::stay(pid, pidfd.as_fd(), terminal)?;
    if !options.is_kept {
        container.remove()?;
    }
    Ok(code)
}

pub(super) fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    // Whoever waits for the file must not read half a number.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&temporary, pid.to_string())
        .and_then(|()| fs::rename(&temporary, path))
        .step("pid file", || format!("write {}", path.display()))
}

fn make(
    global: &Global,
    options: &Options,
    arguments: &mut Arguments,
    is_detached: bool,
) -> Result<(Container, OwnedFd, Option<OwnedFd>)> {
    let id = arguments.id()?;
    seal::ensure()?;
    let inherited = Inherited::new(options.preserved)?;
    let mut bundle = Bundle::load(&options.bundle)?;
    if let Some(process) = bundle.spec.process_mut() {
        inherited.announce(process);
    }
    let console = Console::of(bundle.process()?, options.console_socket.as_deref(), is_detached)?;
    let streams = Streams {
        stdio: &[None, None, None],
        console: console.far(),
        preserved: inherited.count(),
    };
    let (container, pidfd) = lifecycle::create_from(&global.root, &id, bundle, streams)?;
    let ready =
        write_pid_file(options.pid_file.as_deref(), container.record.init.pid).and_then(|()| console.take());
    match ready {
        Ok(terminal) => Ok((container, pidfd, terminal)),
        Err(failure) => {
            container.remove()?;
            Err(failure)
        }
    }
}
