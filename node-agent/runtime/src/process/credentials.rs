//! The last steps before execve, shared by init and exec: who the program is and what it may ask.

use std::ffi::{CString, OsStr};
use std::io::{stderr, stdin, stdout};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{
    AccessFlags, Gid, Uid, access, chdir, execve, fchown, getcwd, setgroups, setresgid, setresuid,
};
use oci_spec::runtime::{PosixRlimitType, Process};

use crate::capabilities::{self, Masks};
use crate::failure::{Context, Failure, Result};
use crate::seccomp::compile::Program;
use crate::sys;

/// Applies the process's limits.
pub(super) fn limits(process: &Process) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let resource = match limit.typ() {
            PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
            PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
            PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
            PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
            PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
            PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
            PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
            PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
            PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
            PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
            PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
            PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
            PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
            PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
            PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
            PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
        };
        setrlimit(resource, limit.soft(), limit.hard())
            .step("rlimits", || {
                format!("set {} to {}:{}", limit.typ(), limit.soft(), limit.hard())
            })
            .map_err(|failure| match failure.errno {
                Some(libc::EPERM) => failure.advise("raising a hard limit needs CAP_SYS_RESOURCE"),
                _ => failure,
            })?;
    }
    Ok(())
}

/// Enters the working directory and verifies that it lies within the root (CVE-2024-21626).
pub(super) fn enter_directory(process: &Process) -> Result<()> {
    let cwd = process.cwd();
    chdir(cwd).step("cwd", || format!("enter {}", cwd.display()))?;
    let reached = getcwd().step("cwd", || format!("verify {}", cwd.display()))?;
    if reached.is_absolute() {
        return Ok(());
    }
    Err(Failure::new(
        "cwd",
        format!("{} leads out of the container", cwd.display()),
    ))
}

/// The program's path, found as a shell would.
pub(super) fn executable(process: &Process) -> Result<PathBuf> {
    let args = process.args().as_deref().unwrap_or(&[]);
    let name = args
        .first()
        .ok_or_else(|| Failure::new("exec", "process.args is empty"))?;
    if name.contains('/') {
        let path = PathBuf::from(name);
        // Told now, while creating: an engine reports it better than from a start that failed.
        return match access(&path, AccessFlags::F_OK) {
            Ok(()) if path.is_file() => Ok(path),
            Ok(()) => Err(refused(&path, Errno::EACCES)),
            Err(error) => Err(refused(&path, error)),
        };
    }
    let environment = process.env().as_deref().unwrap_or(&[]);
    let path = environment
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or("/bin:/usr/bin");
    for directory in path.split(':').filter(|directory| !directory.is_empty()) {
        let candidate = Path::new(directory).join(name);
        if access(&candidate, AccessFlags::X_OK).is_ok() && candidate.is_file() {
            return Ok(candidate);
        }
    }
    Err(Failure {
        errno: Some(libc::ENOENT),
        ..Failure::new(
            "exec",
            format!("{name:?}: executable file not found in the container's PATH {path}"),
        )
    })
}

/// Becomes the user, gives up capabilities, loads the filter.
pub(super) fn assume(process: &Process, filter: Option<&Program>) -> Result<()> {
    let user = process.user();
    own_pipes(user.uid())?;
    let masks = process.capabilities().as_ref().map(Masks::of).unwrap_or_default();
    masks.bound()?;
    capabilities::keep(true)?;
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    match setgroups(&groups) {
        // A user namespace without mapped groups denies this call; then there are none to give up either.
        Err(Errno::EPERM) if groups.is_empty() => {}
        other => other.step("user", || "set the supplementary groups")?,
    }
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    setresgid(gid, gid, gid).step("user", || format!("become group {gid}"))?;
    setresuid(uid, uid, uid).step("user", || format!("become user {uid}"))?;
    capabilities::keep(false)?;
    umask(Mode::from_bits_truncate(user.umask().unwrap_or(0o022)));
    let load = |filter: &Program| sys::seccomp::load(filter).step("seccomp", || "load the filter");
    if process.no_new_privileges() == Some(true) {
        masks.apply()?;
        prctl::set_no_new_privs().step("no_new_privs", || "set no_new_privs")?;
        filter.map_or(Ok(()), load)
    } else {
        // Without no_new_privs only CAP_SYS_ADMIN may load a filter, so it goes before the drop.
        capabilities::regain()?;
        filter.map_or(Ok(()), load)?;
        masks.apply()
    }
}

/// Gives the pipes among the standard streams to the user, who may then open `/dev/stdout` by name. Files and
/// terminals of the caller are left alone.
fn own_pipes(uid: u32) -> Result<()> {
    for fd in [stdin().as_fd(), stdout().as_fd(), stderr().as_fd()] {
        // A stream may be closed.
        let Ok(status) = fstat(fd) else { continue };
        let is_pipe = status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFIFO.bits();
        if !is_pipe || status.st_uid == uid {
            continue;
        }
        match fchown(fd, Some(Uid::from_raw(uid)), None) {
            // Not ours to give, or a user that is not mapped; what is inherited works without.
            Ok(()) | Err(Errno::EPERM | Errno::EINVAL | Errno::EROFS) => {}
            Err(error) => return Err(error).step("stdio", || "give the standard streams to the user"),
        }
    }
    Ok(())
}

/// Executes the program; returns only with the reason why not.
pub(super) fn execute(path: &Path, process: &Process) -> Failure {
    let strings = |texts: &[String]| -> Vec<CString> {
        // A text with a NUL inside cannot reach a program; such an entry is left out.
        texts
            .iter()
            .filter_map(|text| CString::new(OsStr::new(text).as_bytes()).ok())
            .collect()
    };
    let Ok(program) = CString::new(path.as_os_str().as_bytes()) else {
        return Failure::new("exec", format!("{path:?} holds a NUL"));
    };
    let args = strings(process.args().as_deref().unwrap_or(&[]));
    let environment = strings(process.env().as_deref().unwrap_or(&[]));
    match execve(&program, &args, &environment) {
        Ok(never) => match never {},
        Err(error) => refused(path, error),
    }
}

/// Why a program is not executed, with the words by which engines tell a missing one from a forbidden one.
fn refused(path: &Path, error: Errno) -> Failure {
    let why = match error {
        Errno::ENOENT => "no such file or directory",
        Errno::EACCES => "permission denied",
        other => other.desc(),
    };
    Failure {
        errno: Some(error as i32),
        chain: vec![error.to_string()],
        ..Failure::new("exec", format!("execute {:?}: {why}", path.display().to_string()))
    }
}
