//! What the parent opens for a container, because its init may not: the trees that are mounted from the host.
//!
//! In a user namespace init is nobody on the host. It may not pass the directories above a volume, the mounts it was
//! born with are locked onto each other, and mapping the ids of a mount takes privilege over the file system. So the
//! parent clones these trees in its own namespace, maps their ids, and init attaches them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::pipe2;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount};

use super::options::{Idmap, Options};
use super::{Propagation, propagation};
use crate::bundle::Bundle;
use crate::failure::{Context, Failure, Result};
use crate::label;
use crate::sys::mount as kernel;
use crate::sys::process::{clone as fork, pidfd_signal};

const STEP: &str = "mount";

/// Trees opened ahead.
#[derive(Debug, Default)]
pub struct Sources {
    /// The root, when init could not reach it.
    root: Option<OwnedFd>,
    /// Mounts by their place in the configuration.
    mounts: BTreeMap<usize, OwnedFd>,
}

impl Sources {
    /// Opens what init of `bundle` cannot; nothing when it can do everything itself, which saves the time.
    ///
    /// # Errors
    /// When a source is not there or its ids cannot be mapped.
    pub fn prepare(bundle: &Bundle) -> Result<Self> {
        let mut sources = Self::default();
        let has_users = bundle.namespace(LinuxNamespaceType::User).is_some();
        if has_users {
            let tried = || format!("clone {}", bundle.rootfs.display());
            let root = kernel::clone_tree(&bundle.rootfs, true).step("rootfs", tried)?;
            detach(&root, bundle).step("rootfs", tried)?;
            sources.root = Some(root);
        }
        for (index, entry) in bundle.spec.mounts().iter().flatten().enumerate() {
            let options = Options::parse(entry.options().as_deref().unwrap_or(&[]));
            let idmap = wanted_idmap(entry, &options);
            let is_bind = options.is_bind || entry.typ().as_deref() == Some("bind");
            if options.is_remount || !(idmap.is_some() || is_bind && has_users) {
                continue;
            }
            let destination = entry.destination().display();
            let tree = if is_bind {
                clone(bundle, entry, &options)?
            } else {
                let kind = entry.typ().as_deref().unwrap_or("none");
                let tried = || format!("mount {kind} on {destination}");
                let mut data = options.data.clone();
                data.extend(label::mount_option(bundle, kind)?);
                kernel::new_filesystem(kind, kind, &data, options.here.set).step(STEP, tried)?
            };
            detach(&tree, bundle).step(STEP, || format!("detach the mount for {destination}"))?;
            if let Some(idmap) = idmap {
                let users = user_namespace(bundle, entry)?;
                kernel::idmap(tree.as_fd(), users.as_fd(), idmap == Idmap::Below)
                    .step(STEP, || format!("map the ids of the mount on {destination}"))
                    .map_err(|failure| match failure.errno {
                        Some(libc::EINVAL) => failure.advise(
                            "its file system has to support id-mapped mounts: ext4, xfs and btrfs do, tmpfs and overlay since Linux 6.3",
                        ),
                        _ => failure,
                    })?;
            }
            sources.mounts.insert(index, tree);
        }
        Ok(sources)
    }

    pub(super) fn root(&self) -> Option<&OwnedFd> {
        self.root.as_ref()
    }

    pub(super) fn of(&self, index: usize) -> Option<&OwnedFd> {
        self.mounts.get(&index)
    }
}

/// A detached clone of what a bind mount shows.
pub(super) fn clone(bundle: &Bundle, entry: &Mount, options: &Options) -> Result<OwnedFd> {
    let destination = entry.destination().display();
    let Some(source) = entry.source() else {
        return Err(Failure::new(
            STEP,
            format!("bind mount on {destination} has no source"),
        ));
    };
    let source = bundle.path.join(source);
    kernel::clone_tree(&source, options.is_recursive)
        .step(STEP, || format!("bind {} on {destination}", source.display()))
}

/// What init does to every mount it was born with, done to one that it was not.
fn detach(tree: &OwnedFd, bundle: &Bundle) -> Result<()> {
    let flags = match propagation(bundle)? {
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Private | Propagation::Unbindable => libc::MS_PRIVATE,
        Propagation::Shared => return Ok(()),
    };
    kernel::set_attributes(tree.as_fd(), 0, 0, flags, true).step(STEP, || "change its propagation")
}

fn wanted_idmap(entry: &Mount, options: &Options) -> Option<Idmap> {
    let has_mappings = entry.uid_mappings().is_some() || entry.gid_mappings().is_some();
    options.idmap.or_else(|| has_mappings.then_some(Idmap::Here))
}

/// The user namespace whose maps a mount is to have: one made for its own, else the container's.
fn user_namespace(bundle: &Bundle, entry: &Mount) -> Result<OwnedFd> {
    let destination = entry.destination().display();
    let linux = bundle.spec.linux().as_ref();
    let (uids, gids) = match (entry.uid_mappings(), entry.gid_mappings()) {
        (Some(uids), Some(gids)) => (Some(uids), Some(gids)),
        (None, None) => {
            if let Some(Some(path)) = bundle.namespace(LinuxNamespaceType::User) {
                let file =
                    File::open(path).step(STEP, || format!("open user namespace {}", path.display()))?;
                return Ok(file.into());
            }
            (
                linux.and_then(|linux| linux.uid_mappings().as_ref()),
                linux.and_then(|linux| linux.gid_mappings().as_ref()),
            )
        }
        _ => {
            return Err(Failure::new(
                STEP,
                format!("the mount on {destination} has only one of uidMappings and gidMappings"),
            ));
        }
    };
    match (uids, gids) {
        (Some(uids), Some(gids)) => mapped(uids, gids),
        _ => Err(Failure::new(
            STEP,
            format!("the mount on {destination} is to be id-mapped, but there are no mappings"),
        )
        .advise("give uidMappings and gidMappings, or a user namespace that has them")),
    }
}

/// A user namespace with these maps. It lives as long as the descriptor; the process that made it is ended here.
fn mapped(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd> {
    let tried = || "make a user namespace for an id-mapped mount";
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).step(STEP, tried)?;
    let flags = u64::from(nix::sched::CloneFlags::CLONE_NEWUSER.bits().cast_unsigned());
    let child = fork(flags, || {
        drop(write);
        // Ends by itself, too, when the parent does: the pipe closes then.
        i32::from(nix::unistd::read(&read, &mut [0]).is_err())
    })
    .step(STEP, tried)?;
    let opened = crate::process::parent::map_ids(child.pid, "uid_map", Some(uids))
        .and_then(|()| crate::process::parent::map_ids(child.pid, "gid_map", Some(gids)))
        .and_then(|()| File::open(format!("/proc/{}/ns/user", child.pid)).step(STEP, tried));
    // It may have ended by itself already.
    let _ = pidfd_signal(child.pidfd.as_fd(), libc::SIGKILL);
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.pid), None);
    Ok(opened?.into())
}
