//! Init of a container: a flat list of steps in execution order, from the clone to execve.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{
    Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, getpid, sethostname, setresgid, setresuid, setsid,
};
use oci_spec::runtime::{LinuxNamespaceType, Process};
use serde_json::Value;

use super::messages::{Channel, Proceed, Report};
use super::parent::{Plan, has_creation_hooks, hook_state};
use super::{credentials, gate, scheduling, sysctl};
use crate::failure::{Context, Failure, Result};
use crate::rootfs::{self, Sources};
use crate::seccomp::compile::Program;
use crate::{hooks, label, sys, tty};

/// Everything init needs, prepared by the parent.
#[derive(Debug)]
pub(super) struct Init<'a> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) sources: &'a Sources,
    pub(super) filter: Option<&'a Program>,
    pub(super) channel: &'a Channel,
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
    let stream = match gate::wait(init.plan.gate) {
        Ok(stream) => stream,
        Err(_) => return 1,
    };
    let failure = match become_program(init) {
        Ok(process) => credentials::execute(&path, process),
        Err(failure) => failure,
    };
    gate::report(&stream, &failure);
    match failure.errno {
        Some(libc::ENOENT) => 127,
        _ => 126,
    }
}

/// What is left to do between the start and execve.
fn become_program<'a>(init: &Init<'a>) -> Result<&'a Process> {
    let bundle = init.plan.bundle;
    let process = bundle.process()?;
    let hooks = bundle.spec.hooks().as_ref();
    if let Some(hooks) = hooks.and_then(|hooks| hooks.start_container().as_deref()) {
        hooks::run("startContainer", Some(hooks), &own_state(init, "created"))?;
    }
    credentials::assume(process, init.filter)?;
    Ok(process)
}

/// The state as hooks in the container's namespaces get it: with init's number in there.
fn own_state(init: &Init<'_>, status: &str) -> Value {
    hook_state(init.plan.bundle, init.plan.id, status, getpid().as_raw())
}

fn prepare(init: &Init<'_>) -> Result<std::path::PathBuf> {
    let Plan {
        bundle,
        cgroup,
        streams,
        ..
    } = init.plan;
    let process = bundle.process()?;
    let linux = bundle.spec.linux().as_ref();
    streams.close_others()?;
    // The parent answers once this process is in its cgroup and its ids are mapped.
    if init.channel.receive::<Proceed>()?.is_none() {
        return Err(Failure::new("clone", "the parent has ended"));
    }
    setsid().step("session", || "make a session")?;
    sys::process::reset_signals().step("signals", || "reset signals")?;
    stdio(streams.stdio)?;
    if let Some(namespace) = init.mount_namespace {
        setns(namespace, CloneFlags::CLONE_NEWNS).step("namespaces", || "join the mount namespace")?;
    }
    // While this process still owns what the host's root owns.
    let under = rootfs::locate(bundle)?;
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
    if bundle.namespace(LinuxNamespaceType::Network) == Some(None) {
        sys::net::loopback_up().step("network", || "set the loopback interface up")?;
    }
    // While the host's /proc shows: the kernel gives a user namespace no procfs that would show more than it can see.
    let (labels, parameters) = (label::procfs(process)?, sysctl::procfs(bundle)?);
    let root = rootfs::build(bundle, cgroup, init.sources, under.as_fd())?;
    let terminal = streams.terminal(root.as_fd(), process, true)?;
    if has_creation_hooks(bundle) {
        init.channel.send(&Report::Mounted)?;
        if init.channel.receive::<Proceed>()?.is_none() {
            return Err(Failure::new("hooks", "the parent has ended"));
        }
    }
    let hooks = bundle.spec.hooks().as_ref();
    if let Some(hooks) = hooks.and_then(|hooks| hooks.create_container().as_deref()) {
        hooks::run("createContainer", Some(hooks), &own_state(init, "creating"))?;
    }
    rootfs::enter(root.as_fd())?;
    rootfs::settle(bundle)?;
    if let Some(terminal) = terminal {
        tty::adopt(&terminal.replica)?;
    }
    if let Some(hostname) = bundle.spec.hostname().as_deref().filter(|name| !name.is_empty()) {
        sethostname(hostname).step("hostname", || format!("set the host name {hostname:?}"))?;
    }
    if let Some(name) = bundle
        .spec
        .domainname()
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        sys::process::set_domain_name(name).step("domainname", || format!("set the domain name {name:?}"))?;
    }
    if let Some(parameters) = parameters {
        sysctl::apply(bundle, parameters.as_fd())?;
    }
    credentials::limits(process)?;
    scheduling::apply(process)?;
    scheduling::personality(linux.and_then(|linux| linux.personality().as_ref()))?;
    label::apply(process, labels.as_ref())?;
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
