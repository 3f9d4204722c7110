//! One entry of the configuration's `mounts`: made detached, then attached onto an open descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::{SFlag, fstat};
use oci_spec::runtime::{LinuxNamespaceType, Mount};

use super::beneath;
use super::options::Options;
use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::failure::{Context, Failure, Result};
use crate::sys::mount as kernel;

const STEP: &str = "mount";

/// Mounts `entry` beneath `root`.
pub(super) fn add(root: BorrowedFd<'_>, entry: &Mount, bundle: &Bundle, cgroup: &Cgroup) -> Result<()> {
    let options = Options::parse(entry.options().as_deref().unwrap_or(&[]))?;
    if entry.uid_mappings().is_some() || entry.gid_mappings().is_some() {
        return Err(Failure::new(
            STEP,
            format!(
                "idmapped mount at {} is not supported",
                entry.destination().display()
            ),
        ));
    }
    let destination = entry.destination().as_path();
    let kind = entry.typ().as_deref().unwrap_or("none");
    if options.is_bind || kind == "bind" {
        return bind(root, entry, &options, bundle);
    }
    if kind == "cgroup" || kind == "cgroup2" {
        return control_groups(root, destination, &options, bundle, cgroup);
    }
    let source = entry
        .source()
        .as_ref()
        .map_or_else(|| kind.to_owned(), |path| path.to_string_lossy().into_owned());
    let tried = || format!("mount {kind} on {}", destination.display());
    let made = kernel::new_filesystem(kind, &source, &options.data, options.set).step(STEP, tried)?;
    let target = beneath::make_directory(root, destination)?;
    kernel::attach(made.as_fd(), target.as_fd()).step(STEP, tried)?;
    spread(made.as_fd(), &options, destination)
}

fn bind(root: BorrowedFd<'_>, entry: &Mount, options: &Options, bundle: &Bundle) -> Result<()> {
    let destination = entry.destination().as_path();
    let Some(source) = entry.source() else {
        return Err(Failure::new(
            STEP,
            format!("bind mount on {} has no source", destination.display()),
        ));
    };
    let source: PathBuf = bundle.path.join(source);
    let tried = || format!("bind {} on {}", source.display(), destination.display());
    let tree: OwnedFd = kernel::clone_tree(&source, options.is_recursive).step(STEP, tried)?;
    if options.set | options.clear != 0 {
        kernel::set_attributes(tree.as_fd(), options.set, options.clear, 0, false).step(STEP, tried)?;
    }
    if options.set_below != 0 {
        kernel::set_attributes(tree.as_fd(), options.set_below, 0, 0, true).step(STEP, tried)?;
    }
    let is_directory =
        fstat(&tree).step(STEP, tried)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    let target = if is_directory {
        beneath::make_directory(root, destination)?
    } else {
        beneath::make_file(root, destination)?
    };
    kernel::attach(tree.as_fd(), target.as_fd()).step(STEP, tried)?;
    spread(tree.as_fd(), options, destination)
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
fn control_groups(
    root: BorrowedFd<'_>,
    destination: &Path,
    options: &Options,
    bundle: &Bundle,
    cgroup: &Cgroup,
) -> Result<()> {
    let has_namespace = bundle.namespace(LinuxNamespaceType::Cgroup).is_some();
    let tried = || format!("mount cgroups on {}", destination.display());
    let one = |directory: &crate::cgroup::Directory| -> Result<OwnedFd> {
        if !has_namespace {
            let tree = kernel::clone_tree(&directory.path, false).step(STEP, tried)?;
            kernel::set_attributes(tree.as_fd(), options.set, 0, 0, false).step(STEP, tried)?;
            return Ok(tree);
        }
        let (kind, data) = if directory.is_v2 {
            ("cgroup2", Vec::new())
        } else {
            ("cgroup", directory.controllers.clone())
        };
        kernel::new_filesystem(kind, "cgroup", &data, options.set).step(STEP, tried)
    };
    let target = beneath::make_directory(root, destination)?;
    if let [only] = cgroup.directories.as_slice()
        && only.is_v2
    {
        return kernel::attach(one(only)?.as_fd(), target.as_fd()).step(STEP, tried);
    }
    let data = ["mode=755".to_owned()];
    let attributes = options.set & !kernel::MOUNT_ATTR_RDONLY;
    let base = kernel::new_filesystem("tmpfs", "cgroup", &data, attributes).step(STEP, tried)?;
    kernel::attach(base.as_fd(), target.as_fd()).step(STEP, tried)?;
    for directory in &cgroup.directories {
        let name = if directory.is_v2 {
            "unified".to_owned()
        } else {
            directory.controllers.join(",")
        };
        let place = beneath::make_directory(root, &destination.join(name))?;
        kernel::attach(one(directory)?.as_fd(), place.as_fd()).step(STEP, tried)?;
    }
    kernel::set_attributes(base.as_fd(), options.set & kernel::MOUNT_ATTR_RDONLY, 0, 0, false)
        .step(STEP, tried)
}
