//! The shim: one small process per container that holds its output and remembers how it ended.
//!
//! Entry is [`main`]. The shim leads its own session, is the subreaper of everything in the container, and
//! owes its parent nothing after the one line it prints: a parent that is killed changes nothing. It ends
//! only after the exit record is on disk and everything of the container is gone.

mod log;
pub mod protocol;
mod record;
mod serve;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, pipe2, setsid};

use self::log::{Log, Stream};
use self::protocol::{Announcement, ShimRecord};
use self::serve::Shim;
use crate::bundle::Bundle;
use crate::container::{self, ContainerId};
use crate::failure::{Context, Failure, Result};
use crate::{lifecycle, seal, sys};

/// Runs a shim to its end. Arguments: `--id ID --bundle DIR --dir DIR --root DIR [--log FILE
/// --log-max-size BYTES --log-max-files N]`.
pub fn main(args: &[String]) -> ExitCode {
    match create(args) {
        Ok(shim) => {
            // The agent may be gone before it read the line; the container is there all the same, and its standard
            // streams go in either case, because somebody may wait for them to be let go.
            drop(announce(&Announcement::Created { pid: shim.pid() }));
            drop(detach());
            match shim.serve() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(failure) => {
            // When nobody reads standard output, the exit code still tells.
            let _ = announce(&Announcement::Error(failure));
            ExitCode::FAILURE
        }
    }
}

struct Options {
    id: ContainerId,
    bundle: PathBuf,
    directory: PathBuf,
    root: PathBuf,
    log: Option<PathBuf>,
    log_max_size: u64,
    log_max_files: u32,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let (mut id, mut bundle, mut directory, mut root, mut log) = (None, None, None, None, None);
        let (mut log_max_size, mut log_max_files) = (10 * 1024 * 1024, 3);
        let mut words = args.iter();
        while let Some(option) = words.next() {
            let bad = |why: &str| Failure::new("arguments", format!("{option} {why}"));
            let value = words.next().ok_or_else(|| bad("needs a value"))?;
            match option.as_str() {
                "--id" => id = Some(ContainerId::parse(value)?),
                "--bundle" => bundle = Some(PathBuf::from(value)),
                "--dir" => directory = Some(PathBuf::from(value)),
                "--root" => root = Some(PathBuf::from(value)),
                "--log" => log = Some(PathBuf::from(value)),
                "--log-max-size" => {
                    log_max_size = value.parse().map_err(|_| bad("needs a number of bytes"))?
                }
                "--log-max-files" => log_max_files = value.parse().map_err(|_| bad("needs a number"))?,
                _ => return Err(bad("is not an option of the shim")),
            }
        }
        let missing = |name: &str| Failure::new("arguments", format!("the shim needs {name}"));
        Ok(Self {
            id: id.ok_or_else(|| missing("--id"))?,
            bundle: bundle.ok_or_else(|| missing("--bundle"))?,
            directory: directory.ok_or_else(|| missing("--dir"))?,
            root: root.ok_or_else(|| missing("--root"))?,
            log,
            log_max_size,
            log_max_files,
        })
    }
}

fn create(args: &[String]) -> Result<Shim> {
    let options = Options::parse(args)?;
    // Nothing of the agent's stays open here but the three standard streams.
    sys::process::close_inherited_from(3).step("descriptors", || "close inherited descriptors")?;
    seal::ensure()?;
    // A session leader already when the agent made it one.
    let _ = setsid();
    prctl::set_child_subreaper(true).step("shim", || "become subreaper")?;

    let directory = options.directory.clone();
    let made = std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
        .create(&directory);
    made.step("shim", || format!("make {}", directory.display()))?;
    let me = container::identify(std::process::id().cast_signed())?;
    let mut record = ShimRecord {
        id: options.id.as_str().to_owned(),
        shim: me,
        init: None,
    };
    record::write(&directory, protocol::SHIM_FILE_NAME, &record)?;

    let log = options
        .log
        .as_ref()
        .map(|path| Log::open(path, options.log_max_size, options.log_max_files));
    let log = log.transpose()?;
    let owner = owner(&options)?;
    let (output, output_end) = stream(owner)?;
    let (error, error_end) = stream(owner)?;
    let input = File::open("/dev/null").step("stdio", || "open /dev/null")?;
    let stdio = [Some(OwnedFd::from(input)), Some(output_end), Some(error_end)];
    let (container, pidfd) = lifecycle::create(&options.root, &options.id, &options.bundle, &stdio)?;
    // The container holds the writing ends now; end-of-file comes when it has let go of them.
    drop(stdio);
    record.init = Some(container.record.init);
    let ready =
        record::write(&directory, protocol::SHIM_FILE_NAME, &record).and_then(|()| serve::listen(&directory));
    match ready {
        Ok(listener) => Ok(Shim::new(
            directory,
            container,
            pidfd,
            listener,
            log,
            [(Stream::Err, error), (Stream::Out, output)],
        )),
        Err(failure) => {
            container.remove()?;
            Err(failure)
        }
    }
}

/// A pipe of which the container's user owns the writing end, so that it may open /dev/stdout by name.
fn stream((uid, gid): (Uid, Gid)) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).step("stdio", || "make a pipe")?;
    fchown(&write, Some(uid), Some(gid)).step("stdio", || "give the pipe to the container's user")?;
    Ok((read, write))
}

fn owner(options: &Options) -> Result<(Uid, Gid)> {
    let bundle = Bundle::load(&options.bundle)?;
    let user = bundle.process()?.user().clone();
    let linux = bundle.spec.linux().as_ref();
    let host = |id: u32, maps: Option<&[oci_spec::runtime::LinuxIdMapping]>| {
        let maps = maps.unwrap_or(&[]);
        let map = maps
            .iter()
            .find(|map| id >= map.container_id() && id - map.container_id() < map.size());
        map.map_or(id, |map| map.host_id() + (id - map.container_id()))
    };
    let uid = host(
        user.uid(),
        linux.and_then(|linux| linux.uid_mappings().as_deref()),
    );
    let gid = host(
        user.gid(),
        linux.and_then(|linux| linux.gid_mappings().as_deref()),
    );
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn announce(announcement: &Announcement) -> Result<()> {
    let mut line = serde_json::to_vec(announcement).step("shim", || "encode the announcement")?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output
        .write_all(&line)
        .and_then(|()| output.flush())
        .step("shim", || "announce")
}

/// Lets go of the agent's pipes: whoever waits for their end must not wait for the container.
fn detach() -> Result<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .step("shim", || "open /dev/null")?;
    dup2_stdin(&null).step("shim", || "close standard input")?;
    dup2_stdout(&null).step("shim", || "close standard output")?;
    dup2_stderr(&null).step("shim", || "close standard error")
}
