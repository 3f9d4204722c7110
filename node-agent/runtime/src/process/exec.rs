//! A further process inside a container that runs.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::setsid;
use oci_spec::runtime::{LinuxSeccomp, Process};

use super::messages::{Channel, Proceed, Report};
use super::parent::{self, Created};
use super::{Streams, credentials, init, intermediate, scheduling};
use crate::cgroup::Cgroup;
use crate::container;
use crate::failure::{Context, Failure, Result};
use crate::seccomp::compile::Program;
use crate::shim::protocol::ProcessRecord;
use crate::{label, sys, tty};

/// Executes `process` in the namespaces and the cgroup of the container whose init is `target`.
///
/// # Errors
/// With the step that failed. A program that cannot be executed ends with 126 or 127 and says why on its
/// standard error.
pub fn spawn(
    target: &ProcessRecord,
    process: &Process,
    seccomp: Option<&LinuxSeccomp>,
    cgroup: &Cgroup,
    streams: Streams<'_>,
) -> Result<Created> {
    let filter = parent::filter(seccomp)?;
    let (joined, mounts) = namespaces(target)?;
    let (ours, theirs) = Channel::pair()?;
    let created = parent::through_intermediate(&ours, || {
        intermediate::run(&joined, None, 0, &theirs, || {
            run(process, filter.as_ref(), &theirs, &mounts, streams)
        })
    })?;
    drop(theirs);
    let ready = cgroup
        .add(created.pid)
        .and_then(|()| ours.send(&Proceed))
        .and_then(|()| parent::await_ready(&ours, created.pid))
        // End-of-file is the channel closing by exec.
        .and_then(|()| match ours.receive::<Report>()? {
            Some(Report::Failed(failure)) => Err(failure),
            _ => Ok(()),
        });
    match ready {
        Ok(()) => Ok(created),
        Err(failure) => {
            // It may have ended by itself already.
            let _ = sys::process::pidfd_signal(created.pidfd.as_fd(), libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(created.pid), None);
            Err(failure)
        }
    }
}

fn run(
    process: &Process,
    filter: Option<&Program>,
    channel: &Channel,
    mounts: &OwnedFd,
    streams: Streams<'_>,
) -> i32 {
    let failure = match enter(process, channel, mounts, streams) {
        Ok(path) => match channel
            .send(&Report::Ready)
            .and_then(|()| credentials::assume(process, filter))
        {
            Ok(()) => credentials::execute(&path, process),
            Err(failure) => failure,
        },
        Err(failure) => failure,
    };
    // Without a parent to tell there is nothing left to do but to end.
    let _ = channel.send(&Report::Failed(failure));
    1
}

fn enter(
    process: &Process,
    channel: &Channel,
    mounts: &OwnedFd,
    streams: Streams<'_>,
) -> Result<std::path::PathBuf> {
    // Processes of the container share its pid namespace with this one and must not trace it or open its
    // executable until it is theirs (CVE-2019-5736).
    prctl::set_dumpable(false).step("exec", || "make the process undumpable")?;
    streams.close_others()?;
    if channel.receive::<Proceed>()?.is_none() {
        return Err(Failure::new("exec", "the parent has ended"));
    }
    setsid().step("session", || "make a session")?;
    sys::process::reset_signals().step("signals", || "reset signals")?;
    init::stdio(streams.stdio)?;
    setns(mounts, CloneFlags::CLONE_NEWNS).step("namespaces", || "join the mount namespace")?;
    {
        // Closed again before the working directory is entered, as everything that is a directory.
        let root = File::open("/").step("exec", || "open the container's root")?;
        if let Some(terminal) = streams.terminal(root.as_fd(), process, false)? {
            tty::adopt(&terminal.replica)?;
        }
    }
    let labels = label::procfs(process)?;
    credentials::limits(process)?;
    scheduling::apply(process)?;
    label::apply(process, labels.as_ref())?;
    // Kernels without keyrings have no keys to share.
    drop(sys::process::new_session_keyring("_ses"));
    credentials::enter_directory(process)?;
    credentials::executable(process)
}

type Namespaces = (Vec<(CloneFlags, OwnedFd)>, OwnedFd);

/// Opens the namespaces of `target` that differ from ours, the mount namespace apart.
fn namespaces(target: &ProcessRecord) -> Result<Namespaces> {
    let pid = target.pid;
    let open = |name: &str| -> Result<OwnedFd> {
        let path = format!("/proc/{pid}/ns/{name}");
        Ok(File::open(&path)
            .step("namespaces", || format!("open {path}"))?
            .into())
    };
    let kinds = [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("time", CloneFlags::from_bits_retain(0x80)),
        ("pid", CloneFlags::CLONE_NEWPID),
    ];
    let mut joined = Vec::new();
    for (name, flag) in kinds {
        // Joining the user namespace one is in already is refused.
        let link = |who: &str| fs::read_link(format!("/proc/{who}/ns/{name}")).ok();
        if link("self") != link(&pid.to_string()) {
            joined.push((flag, open(name)?));
        }
    }
    let mounts = open("mnt")?;
    if !container::is_alive(target) {
        return Err(Failure::new("exec", "the container has ended"));
    }
    Ok((joined, mounts))
}
