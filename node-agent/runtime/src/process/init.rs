//! Init of a container: a flat list of steps in execution order, from the clone to execve.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{
    Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, sethostname, setresgid, setresuid, setsid, write,
};
use oci_spec::runtime::LinuxNamespaceType;

use super::messages::{Channel, Proceed, Report};
use super::{credentials, gate};
use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::failure::{Context, Failure, Result};
use crate::rootfs;
use crate::seccomp::compile::Program;
use crate::sys;

/// Everything init needs, prepared by the parent.
#[derive(Debug)]
pub(super) struct Init<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) cgroup: &'a Cgroup,
    pub(super) filter: Option<&'a Program>,
    pub(super) channel: &'a Channel,
    pub(super) gate: &'a UnixListener,
    pub(super) stdio: &'a [Option<OwnedFd>; 3],
    /// A mount namespace to join, opened by the parent.
    pub(super) mount_namespace: Option<&'a OwnedFd>,
}

/// Runs init. Returns, with an exit code, only when the program was not executed.
pub(super) fn run(init: &Init<'_>) -> i32 {
    let path = match prepare(init) {
        Ok(path) => path,
        Err(failure) => {
            // Without a parent to tell there is nothing left to do but to end.
            let _ = init.channel.send(&Report::Failed(failure));
            return 1;
        }
    };
    if init.channel.send(&Report::Ready).is_err() {
        return 1;
    }
    let stream = match gate::wait(init.gate) {
        Ok(stream) => stream,
        Err(_) => return 1,
    };
    let process = match init.bundle.process() {
        Ok(process) => process,
        Err(_) => return 1,
    };
    let failure = match credentials::assume(process, init.filter) {
        Ok(()) => credentials::execute(&path, process),
        Err(failure) => failure,
    };
    gate::report(&stream, &failure);
    match failure.errno {
        Some(libc::ENOENT) => 127,
        _ => 126,
    }
}

fn prepare(init: &Init<'_>) -> Result<std::path::PathBuf> {
    let bundle = init.bundle;
    let process = bundle.process()?;
    // Descriptors of whoever called the runtime must not reach the program (CVE-2024-21626).
    sys::process::close_on_exec_from(3).step("descriptors", || "mark descriptors close-on-exec")?;
    // The parent answers once this process is in its cgroup and its ids are mapped.
    if init.channel.receive::<Proceed>()?.is_none() {
        return Err(Failure::new("clone", "the parent has ended"));
    }
    setsid().step("session", || "make a session")?;
    sys::process::reset_signals().step("signals", || "reset signals")?;
    stdio(init.stdio)?;
    // Ids first in a new user namespace: until then every file this process makes belongs to nobody.
    if bundle.namespace(LinuxNamespaceType::User).is_some() {
        let (root, wheel) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(wheel, wheel, wheel).step("user", || "become group 0 of the namespace")?;
        setresuid(root, root, root).step("user", || "become user 0 of the namespace")?;
    }
    // After being placed, so that the container's own directory is the root it sees.
    if bundle.namespace(LinuxNamespaceType::Cgroup) == Some(None) {
        unshare(CloneFlags::CLONE_NEWCGROUP).step("namespaces", || "make a cgroup namespace")?;
    }
    if let Some(namespace) = init.mount_namespace {
        setns(namespace, CloneFlags::CLONE_NEWNS).step("namespaces", || "join the mount namespace")?;
    }
    if bundle.namespace(LinuxNamespaceType::Network) == Some(None) {
        sys::net::loopback_up().step("network", || "set the loopback interface up")?;
    }
    let root = rootfs::build(bundle, init.cgroup)?;
    rootfs::enter(root.as_fd())?;
    if let Some(hostname) = bundle.spec.hostname().as_deref().filter(|name| !name.is_empty()) {
        sethostname(hostname).step("hostname", || format!("set the host name {hostname:?}"))?;
    }
    sysctls(bundle)?;
    credentials::limits(process)?;
    // Kernels without keyrings have no keys to share.
    drop(sys::process::new_session_keyring("_ses"));
    credentials::enter_directory(process)?;
    credentials::executable(process)
}

/// Standard streams of the program: the given ones, else those of the runtime.
pub(super) fn stdio(streams: &[Option<OwnedFd>; 3]) -> Result<()> {
    let [input, output, error] = streams;
    let tried = || "set the standard streams";
    input.as_ref().map_or(Ok(()), dup2_stdin).step("stdio", tried)?;
    output.as_ref().map_or(Ok(()), dup2_stdout).step("stdio", tried)?;
    error.as_ref().map_or(Ok(()), dup2_stderr).step("stdio", tried)
}

/// Kernel parameters, through a procfs of our own that the image has never touched (CVE-2025-52881).
fn sysctls(bundle: &Bundle) -> Result<()> {
    let Some(wanted) = bundle
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref())
    else {
        return Ok(());
    };
    if wanted.is_empty() {
        return Ok(());
    }
    let proc =
        sys::mount::new_filesystem("proc", "proc", &[], 0).step("sysctl", || "make a private procfs")?;
    for (key, value) in wanted {
        let is_namespaced = [
            ("kernel.msg", LinuxNamespaceType::Ipc),
            ("kernel.sem", LinuxNamespaceType::Ipc),
            ("kernel.shm", LinuxNamespaceType::Ipc),
            ("fs.mqueue.", LinuxNamespaceType::Ipc),
            ("net.", LinuxNamespaceType::Network),
            ("kernel.domainname", LinuxNamespaceType::Uts),
        ]
        .iter()
        .any(|(prefix, kind)| key.starts_with(prefix) && bundle.namespace(*kind).is_some());
        if !is_namespaced || key.contains("..") {
            return Err(
                Failure::new("sysctl", format!("sysctl {key:?} is not the container's own"))
                    .advise("it would change the host"),
            );
        }
        let path = format!("sys/{}", key.replace('.', "/"));
        let tried = || format!("set sysctl {key} to {value:?}");
        let path = CString::new(path).step("sysctl", tried)?;
        let file = openat(
            &proc,
            path.as_c_str(),
            OFlag::O_WRONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .step("sysctl", tried)?;
        write(&file, value.as_bytes()).step("sysctl", tried)?;
    }
    Ok(())
}
