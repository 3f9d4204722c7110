//! One entry of the configuration's `mounts`: made detached, then attached onto an open descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::{SFlag, fstat};
use oci_spec::runtime::{LinuxNamespaceType, Mount};

use super::options::{Attributes, Options};
use super::sources::{self, Sources};
use super::{beneath, copy};
use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::failure::{Context, Failure, Result};
use crate::label;
use crate::sys::mount as kernel;

const STEP: &str = "mount";

/// What every mount needs to know.
pub(super) struct Place<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) bundle: &'a Bundle,
    pub(super) cgroup: &'a Cgroup,
    pub(super) sources: &'a Sources,
}

/// Mounts `entry`, the one at `index`, beneath the root.
pub(super) fn add(place: &Place<'_>, index: usize, entry: &Mount) -> Result<()> {
    let options = Options::parse(entry.options().as_deref().unwrap_or(&[]));
    let destination = entry.destination().as_path();
    let kind = entry.typ().as_deref().unwrap_or("none");
    if options.is_remount {
        return change(place.root, destination, &options);
    }
    if options.is_bind || kind == "bind" {
        return bind(place, index, entry, &options);
    }
    if kind == "cgroup" || kind == "cgroup2" {
        return control_groups(place, destination, &options);
    }
    let source = entry
        .source()
        .as_ref()
        .map_or_else(|| kind.to_owned(), |path| path.to_string_lossy().into_owned());
    let tried = || format!("mount {kind} on {}", destination.display());
    let mut data = options.data.clone();
    data.extend(label::mount_option(place.bundle, kind)?);
    let made = match place.sources.of(index) {
        // Made by the parent, because mapping its ids takes privilege over the file system.
        Some(made) => made.try_clone().step(STEP, tried)?,
        None => kernel::new_filesystem(kind, &source, &data, options.here.set).step(STEP, tried)?,
    };
    if options.is_copied_up {
        copy_up(place.root, destination, kind, made.as_fd())?;
    }
    let target = beneath::make_directory(place.root, destination)?;
    kernel::attach(made.as_fd(), target.as_fd()).step(STEP, tried)?;
    spread(made.as_fd(), &options, destination)
}

fn bind(place: &Place<'_>, index: usize, entry: &Mount, options: &Options) -> Result<()> {
    let destination = entry.destination().as_path();
    let own;
    let tree = match place.sources.of(index) {
        Some(tree) => tree,
        None => {
            own = sources::clone(place.bundle, entry, options)?;
            &own
        }
    };
    let tried = || format!("bind on {}", destination.display());
    for (attributes, is_recursive) in [(options.here, false), (options.below, true)] {
        if !attributes.is_empty() {
            let Attributes { set, clear } = attributes;
            kernel::set_attributes(tree.as_fd(), set, clear, 0, is_recursive).step(STEP, tried)?;
        }
    }
    let is_directory = fstat(tree).step(STEP, tried)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    let target = if is_directory {
        beneath::make_directory(place.root, destination)?
    } else {
        beneath::make_file(place.root, destination)?
    };
    kernel::attach(tree.as_fd(), target.as_fd()).step(STEP, tried)?;
    spread(tree.as_fd(), options, destination)
}

/// `remount`: the attributes of what is mounted there already.
fn change(root: BorrowedFd<'_>, destination: &Path, options: &Options) -> Result<()> {
    let tried = || format!("remount {}", destination.display());
    if let Some(option) = options.data.first() {
        return Err(Failure::new(
            STEP,
            format!("option {option:?} cannot be changed at {}", destination.display()),
        )
        .advise("a remount changes how this mount is used, not the file system under it"));
    }
    let Some(target) = beneath::find(root, destination)? else {
        return Err(Failure::new(
            STEP,
            format!("nothing is mounted on {}", destination.display()),
        ));
    };
    for (attributes, is_recursive) in [(options.here, false), (options.below, true)] {
        let Attributes { set, clear } = attributes;
        kernel::set_attributes(target.as_fd(), set, clear, 0, is_recursive).step(STEP, tried)?;
    }
    spread(target.as_fd(), options, destination)
}

/// `tmpcopyup`: fills the new file system with what it is going to hide.
fn copy_up(root: BorrowedFd<'_>, destination: &Path, kind: &str, made: BorrowedFd<'_>) -> Result<()> {
    if kind != "tmpfs" {
        return Err(Failure::new(
            STEP,
            format!("tmpcopyup is for tmpfs, {} is {kind}", destination.display()),
        ));
    }
    match beneath::find(root, destination)? {
        Some(hidden) => {
            copy::tree(hidden.as_fd(), made).step(STEP, || format!("copy {} up", destination.display()))
        }
        None => Ok(()),
    }
}

fn spread(mount: BorrowedFd<'_>, options: &Options, destination: &Path) -> Result<()> {
    if options.propagation == 0 {
        return Ok(());
    }
    kernel::set_attributes(mount, 0, 0, options.propagation, options.is_propagation_recursive)
        .step(STEP, || {
            format!("set the propagation of {}", destination.display())
        })
}

/// The container's own view of its control groups: the unified hierarchy alone, or a small tmpfs with one
/// directory per hierarchy. Always its own subtree, never the host's: by the cgroup namespace, or by binding
/// its directories when there is none.
fn control_groups(place: &Place<'_>, destination: &Path, options: &Options) -> Result<()> {
    let Place {
        root, bundle, cgroup, ..
    } = place;
    let has_namespace = bundle.namespace(LinuxNamespaceType::Cgroup).is_some();
    let tried = || format!("mount cgroups on {}", destination.display());
    let set = options.here.set;
    let one = |directory: &crate::cgroup::Directory| -> Result<OwnedFd> {
        if !has_namespace {
            let tree = kernel::clone_tree(&directory.path, false).step(STEP, tried)?;
            kernel::set_attributes(tree.as_fd(), set, 0, 0, false).step(STEP, tried)?;
            return Ok(tree);
        }
        let (kind, data) = if directory.is_v2 {
            ("cgroup2", Vec::new())
        } else {
            ("cgroup", directory.controllers.clone())
        };
        kernel::new_filesystem(kind, "cgroup", &data, set).step(STEP, tried)
    };
    let target = beneath::make_directory(*root, destination)?;
    if let [only] = cgroup.directories.as_slice()
        && only.is_v2
    {
        return kernel::attach(one(only)?.as_fd(), target.as_fd()).step(STEP, tried);
    }
    let data = ["mode=755".to_owned()];
    let attributes = set & !kernel::MOUNT_ATTR_RDONLY;
    let base = kernel::new_filesystem("tmpfs", "cgroup", &data, attributes).step(STEP, tried)?;
    kernel::attach(base.as_fd(), target.as_fd()).step(STEP, tried)?;
    for directory in &cgroup.directories {
        let name = if directory.is_v2 {
            "unified".to_owned()
        } else {
            directory.controllers.join(",")
        };
        let place = beneath::make_directory(*root, &destination.join(name))?;
        kernel::attach(one(directory)?.as_fd(), place.as_fd()).step(STEP, tried)?;
    }
    kernel::set_attributes(base.as_fd(), set & kernel::MOUNT_ATTR_RDONLY, 0, 0, false).step(STEP, tried)
}
