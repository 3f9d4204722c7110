//! The parent's side of a container's creation: prepares, clones, places, maps, waits for "ready".

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::sched::CloneFlags;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, LinuxIdMapping, LinuxNamespaceType, LinuxSeccomp};
use serde_json::Value;

use super::Streams;
use super::init::{self, Init};
use super::intermediate;
use super::messages::{Channel, Proceed, Report};
use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::container::{self, ContainerId};
use crate::failure::{Context, Failure, Result};
use crate::hooks;
use crate::rootfs::Sources;
use crate::seccomp::compile::{Program, compile};
use crate::sys::process::{clone, pidfd_open, pidfd_signal};

/// A child that waits at the gate.
#[derive(Debug)]
pub struct Created {
    /// Its number here.
    pub pid: i32,
    /// Its descriptor.
    pub pidfd: OwnedFd,
}

/// A container that is being made.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Its id.
    pub id: &'a ContainerId,
    /// Its bundle.
    pub bundle: &'a Bundle,
    /// Its cgroup, which exists.
    pub cgroup: &'a Cgroup,
    /// Where init waits to be started.
    pub gate: &'a UnixListener,
    /// What reaches the program through descriptors.
    pub streams: Streams<'a>,
}

/// Makes init of a container, waiting at the gate.
///
/// # Errors
/// With the step of parent or init, or the hook, that failed; no process is left then.
pub fn create(plan: &Plan<'_>) -> Result<Created> {
    let bundle = plan.bundle;
    let linux = bundle.spec.linux().as_ref();
    let filter = filter(linux.and_then(|linux| linux.seccomp().as_ref()))?;
    let sources = Sources::prepare(bundle)?;
    let (ours, theirs) = Channel::pair()?;
    let mut joined: Vec<(CloneFlags, OwnedFd)> = Vec::new();
    let mut mount_namespace = None;
    let mut clocks = None;
    let mut flags = CloneFlags::empty();
    for namespace in linux
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or(&[])
    {
        let flag = flag_of(namespace.typ());
        match namespace.path() {
            // Made by init itself, once it has been placed.
            None if namespace.typ() == LinuxNamespaceType::Cgroup => {}
            // Made by the intermediate: a time namespace takes its offsets before anybody is inside.
            None if namespace.typ() == LinuxNamespaceType::Time => {
                clocks = Some(
                    linux
                        .and_then(|linux| linux.time_offsets().clone())
                        .unwrap_or_default(),
                );
            }
            None => flags |= flag,
            Some(path) => {
                let file =
                    File::open(path).step("namespaces", || format!("open namespace {}", path.display()))?;
                let fd = OwnedFd::from(file);
                match namespace.typ() {
                    LinuxNamespaceType::Mount => mount_namespace = Some(fd),
                    // First, because it may own the others.
                    LinuxNamespaceType::User => joined.insert(0, (flag, fd)),
                    _ => joined.push((flag, fd)),
                }
            }
        }
    }
    let flags = u64::from(flags.bits().cast_unsigned());
    let init = Init {
        plan,
        sources: &sources,
        filter: filter.as_ref(),
        channel: &theirs,
        mount_namespace: mount_namespace.as_ref(),
    };
    let created = if joined.is_empty() && clocks.is_none() {
        let child = clone(flags, || init::run(&init)).step("clone", || "clone init")?;
        Created {
            pid: child.pid,
            pidfd: child.pidfd,
        }
    } else {
        through_intermediate(&ours, || {
            intermediate::run(&joined, clocks.as_ref(), flags, &theirs, || init::run(&init))
        })?
    };
    // Init holds its own copy; with ours closed its end shows as end-of-file.
    drop(theirs);
    match supervise(&ours, plan, created.pid) {
        Ok(()) => Ok(created),
        Err(failure) => {
            // It may have ended by itself already.
            let _ = pidfd_signal(created.pidfd.as_fd(), libc::SIGKILL);
            let _ = waitpid(Pid::from_raw(created.pid), None);
            Err(failure)
        }
    }
}

/// Runs `body` as an intermediate and returns the grandchild it reports, now a child of this process.
pub(super) fn through_intermediate(channel: &Channel, body: impl FnOnce() -> i32) -> Result<Created> {
    let child = clone(0, body).step("clone", || "clone the intermediate process")?;
    let report = channel.receive::<Report>();
    let _ = waitpid(Pid::from_raw(child.pid), None);
    match report? {
        Some(Report::Cloned(pid)) => {
            let pidfd = pidfd_open(pid).step("clone", || "open init's pidfd")?;
            Ok(Created { pid, pidfd })
        }
        Some(Report::Failed(failure)) => Err(failure),
        Some(Report::Ready | Report::Mounted) | None => Err(Failure::new(
            "clone",
            "the intermediate process ended unexpectedly",
        )),
    }
}

/// Waits for the child's last report before the program.
pub(super) fn await_ready(channel: &Channel, pid: i32) -> Result<()> {
    match await_report(channel, pid)? {
        Report::Ready => Ok(()),
        Report::Cloned(_) | Report::Mounted | Report::Failed(_) => Err(unexpected()),
    }
}

fn unexpected() -> Failure {
    Failure::new("clone", "unexpected report")
}

/// The next report of the child, unless it failed or ended.
fn await_report(channel: &Channel, pid: i32) -> Result<Report> {
    match channel.receive::<Report>()? {
        Some(Report::Failed(failure)) => Err(failure),
        Some(report) => Ok(report),
        None => {
            let how = match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::empty())) {
                Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
                Ok(WaitStatus::Exited(_, code)) => format!("ended with status {code}"),
                _ => "ended".to_owned(),
            };
            Err(Failure::new(
                "clone",
                format!("the container's process {how} before it was ready"),
            )
            .advise("a memory limit below a few megabytes has this effect"))
        }
    }
}

/// Compiles a bundle's filter.
pub(super) fn filter(wanted: Option<&LinuxSeccomp>) -> Result<Option<Program>> {
    wanted
        .map(compile)
        .transpose()
        .step("seccomp", || "compile the filter")
}

fn supervise(channel: &Channel, plan: &Plan<'_>, pid: i32) -> Result<()> {
    let bundle = plan.bundle;
    plan.cgroup.add(pid)?;
    if let Some(linux) = bundle.spec.linux()
        && bundle.namespace(LinuxNamespaceType::User) == Some(None)
    {
        map_ids(pid, "uid_map", linux.uid_mappings().as_deref())?;
        map_ids(pid, "gid_map", linux.gid_mappings().as_deref())?;
    }
    if let Some(value) = bundle.process()?.oom_score_adj() {
        let path = format!("/proc/{pid}/oom_score_adj");
        fs::write(&path, value.to_string()).step("oom_score_adj", || format!("write {value} to {path}"))?;
    }
    channel.send(&Proceed)?;
    if has_creation_hooks(bundle) {
        let Report::Mounted = await_report(channel, pid)? else {
            return Err(unexpected());
        };
        run_creation_hooks(plan, pid)?;
        channel.send(&Proceed)?;
    }
    await_ready(channel, pid)
}

/// Whether the runtime has hooks to run while init waits with the old root.
pub(super) fn has_creation_hooks(bundle: &Bundle) -> bool {
    creation_hooks(bundle)
        .iter()
        .any(|(_, hooks)| hooks.is_some_and(|hooks| !hooks.is_empty()))
}

fn run_creation_hooks(plan: &Plan<'_>, pid: i32) -> Result<()> {
    let state = hook_state(plan.bundle, plan.id, "creating", pid);
    creation_hooks(plan.bundle)
        .iter()
        .try_for_each(|(kind, hooks)| hooks::run(kind, *hooks, &state))
}

// prestart is deprecated, and what dockerd sets up its networks with.
fn creation_hooks(bundle: &Bundle) -> [(&'static str, Option<&[Hook]>); 2] {
    let hooks = bundle.spec.hooks().as_ref();
    [
        ("prestart", hooks.and_then(|hooks| hooks.prestart().as_deref())),
        (
            "createRuntime",
            hooks.and_then(|hooks| hooks.create_runtime().as_deref()),
        ),
    ]
}

/// The state hooks get while there is no record yet.
pub(super) fn hook_state(bundle: &Bundle, id: &ContainerId, status: &str, pid: i32) -> Value {
    let none = HashMap::new();
    let annotations = bundle.spec.annotations().as_ref().unwrap_or(&none);
    container::state(id.as_str(), status, pid, &bundle.path, annotations)
}

pub(crate) fn map_ids(pid: i32, file: &str, mappings: Option<&[LinuxIdMapping]>) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    let lines: String = mappings
        .unwrap_or(&[])
        .iter()
        .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
        .collect();
    fs::write(&path, &lines).step("user", || format!("write {lines:?} to {path}"))
}

/// The clone flag of a namespace type.
pub(super) fn flag_of(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => CloneFlags::from_bits_retain(0x80),
    }
}
