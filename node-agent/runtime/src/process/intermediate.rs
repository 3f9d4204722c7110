//! The process between parent and init when namespaces are joined: joining a pid namespace only affects
//! children, so somebody has to join and then clone. It ends at once; init becomes the parent's own child.

use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns};

use super::messages::{Channel, Report};
use crate::failure::{Context, Result};
use crate::sys::process::{CLONE_PARENT, clone};

/// Joins `namespaces` in order, clones `body` with the new ones of `flags`, and reports its pid.
pub(super) fn run(
    namespaces: &[(CloneFlags, OwnedFd)],
    flags: u64,
    channel: &Channel,
    body: impl FnOnce() -> i32,
) -> i32 {
    let report = match join_and_clone(namespaces, flags, body) {
        Ok(pid) => Report::Cloned(pid),
        Err(failure) => Report::Failed(failure),
    };
    i32::from(channel.send(&report).is_err())
}

fn join_and_clone(
    namespaces: &[(CloneFlags, OwnedFd)],
    flags: u64,
    body: impl FnOnce() -> i32,
) -> Result<i32> {
    for (kind, namespace) in namespaces {
        setns(namespace, *kind).step("namespaces", || format!("join a namespace ({kind:?})"))?;
    }
    Ok(clone(flags | CLONE_PARENT, body)
        .step("clone", || "clone init")?
        .pid)
}
