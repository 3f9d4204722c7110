//! The process between parent and init when namespaces are joined: joining a pid namespace only affects
//! children, so somebody has to join and then clone; the same goes for making a time namespace. It ends at once; init
//! becomes the parent's own child.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::LinuxTimeOffset;

use super::messages::{Channel, Report};
use crate::failure::{Context, Result};
use crate::sys::process::{CLONE_PARENT, clone};

/// Clocks of a new time namespace and how far they are ahead of the host's.
pub(super) type Clocks = HashMap<String, LinuxTimeOffset>;

/// Joins `namespaces` in order, makes a time namespace when there are `clocks`, clones `body` with the new ones of `flags`, and reports its pid.
pub(super) fn run(
    namespaces: &[(CloneFlags, OwnedFd)],
    clocks: Option<&Clocks>,
    flags: u64,
    channel: &Channel,
    body: impl FnOnce() -> i32,
) -> i32 {
    let report = match join_and_clone(namespaces, clocks, flags, body) {
        Ok(pid) => Report::Cloned(pid),
        Err(failure) => Report::Failed(failure),
    };
    i32::from(channel.send(&report).is_err())
}

fn join_and_clone(
    namespaces: &[(CloneFlags, OwnedFd)],
    clocks: Option<&Clocks>,
    flags: u64,
    body: impl FnOnce() -> i32,
) -> Result<i32> {
    if let Some(clocks) = clocks {
        make_time_namespace(clocks)?;
    }
    for (kind, namespace) in namespaces {
        setns(namespace, *kind).step("namespaces", || format!("join a namespace ({kind:?})"))?;
    }
    Ok(clone(flags | CLONE_PARENT, body)
        .step("clone", || "clone init")?
        .pid)
}

/// Before joining others, while this process has its privileges over the host's clocks.
fn make_time_namespace(clocks: &Clocks) -> Result<()> {
    const CLONE_NEWTIME: libc::c_int = 0x80;
    unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME))
        .step("namespaces", || "make a time namespace")
        .map_err(|failure| match failure.errno {
            Some(libc::EINVAL) => failure.advise("it needs Linux 5.6 with CONFIG_TIME_NS"),
            _ => failure,
        })?;
    let lines: String = clocks
        .iter()
        .map(|(clock, offset)| {
            let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            format!("{clock} {seconds} {nanoseconds}\n")
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    std::fs::write("/proc/self/timens_offsets", &lines).step("namespaces", || {
        format!("write {lines:?} to /proc/self/timens_offsets")
    })
}
