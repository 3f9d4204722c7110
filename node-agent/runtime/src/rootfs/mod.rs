//! The container's file system: mounts, devices, masks, and the change of root.
//!
//! Every path of the image is resolved once, beneath a descriptor of the root, with the kernel refusing to
//! leave it (`openat2`, RESOLVE_IN_ROOT); what was opened is then used by descriptor. Runs in init, inside
//! the new mount namespace. runtime-spec `config.md`, Mounts, and `config-linux.md`.

mod beneath;
pub mod console;
mod copy;
mod devices;
mod mounts;
pub(crate) mod options;
mod sources;

pub use sources::Sources;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{fchdir, pivot_root};

use crate::bundle::Bundle;
use crate::cgroup::Cgroup;
use crate::failure::{Context, Failure, Result};
use crate::sys::mount as kernel;

/// How mounts travel between host and container: `linux.rootfsPropagation`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Propagation {
    /// From the host into the container; what a bundle gets that does not choose.
    Slave,
    /// Not at all.
    Private,
    /// Both ways, as far as single mounts ask for it.
    Shared,
    /// Not at all, and the root cannot be bound elsewhere.
    Unbindable,
}

fn propagation(bundle: &Bundle) -> Result<Propagation> {
    let linux = bundle.spec.linux().as_ref();
    match linux.and_then(|linux| linux.rootfs_propagation().as_deref()) {
        None | Some("" | "rslave" | "slave") => Ok(Propagation::Slave),
        Some("rprivate" | "private") => Ok(Propagation::Private),
        Some("rshared" | "shared") => Ok(Propagation::Shared),
        Some("runbindable" | "unbindable") => Ok(Propagation::Unbindable),
        Some(other) => Err(
            Failure::new("rootfs", format!("rootfsPropagation {other:?} is not known"))
                .advise("use private, slave, shared or unbindable"),
        ),
    }
}

/// Opens the place where the root is to be attached: its own directory, so that hooks find what is mounted there.
/// Before ids change, as the directories above it may be closed to the container's root user.
///
/// # Errors
/// When it is gone.
pub fn locate(bundle: &Bundle) -> Result<OwnedFd> {
    open_path(&bundle.rootfs)
}

/// Builds the file system of `bundle` on top of `under`, and returns its root, not yet entered.
///
/// # Errors
/// With the mount, device or path that failed.
pub fn build(bundle: &Bundle, cgroup: &Cgroup, sources: &Sources, under: BorrowedFd<'_>) -> Result<OwnedFd> {
    let linux = bundle.spec.linux().as_ref();
    // Before anything else, so that nothing mounted here ever shows on the host.
    isolate(bundle)?;

    // A root must be a mount, so the directory becomes one on top of itself.
    let root = match sources.root() {
        Some(root) => root.try_clone().step("rootfs", || "copy the root's descriptor")?,
        None => {
            let tried = || format!("clone {}", bundle.rootfs.display());
            kernel::clone_tree(&bundle.rootfs, true).step("rootfs", tried)?
        }
    };
    if propagation(bundle)? == Propagation::Shared {
        // The kernel changes to no root that is somebody's peer; it becomes shared once it is entered.
        kernel::set_attributes(root.as_fd(), 0, 0, libc::MS_PRIVATE, false)
            .step("rootfs", || "make the root private")?;
    }
    kernel::attach(root.as_fd(), under).step("rootfs", || "attach the root")?;

    // Device nodes that came with the image open nothing; those of the container are on its own /dev.
    let has_dev = bundle
        .spec
        .mounts()
        .iter()
        .flatten()
        .any(|entry| entry.destination() == Path::new("/dev"));
    if has_dev {
        kernel::set_attributes(root.as_fd(), kernel::MOUNT_ATTR_NODEV, 0, 0, false)
            .step("rootfs", || "make the root nodev")?;
    }
    let place = mounts::Place {
        root: root.as_fd(),
        bundle,
        cgroup,
        sources,
    };
    for (index, entry) in bundle.spec.mounts().iter().flatten().enumerate() {
        mounts::add(&place, index, entry)?;
    }
    let asked = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or(&[]);
    devices::make(root.as_fd(), asked)?;
    beneath::make_directory(root.as_fd(), bundle.process()?.cwd())?;
    for path in linux
        .and_then(|linux| linux.readonly_paths().as_deref())
        .unwrap_or(&[])
    {
        make_readonly(root.as_fd(), Path::new(path))?;
    }
    for path in linux
        .and_then(|linux| linux.masked_paths().as_deref())
        .unwrap_or(&[])
    {
        mask(root.as_fd(), Path::new(path))?;
    }
    if bundle.spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
        kernel::set_attributes(root.as_fd(), kernel::MOUNT_ATTR_RDONLY, 0, 0, false)
            .step("rootfs", || "make the root read-only")?;
    }
    Ok(root)
}

/// Makes `root` the root of this mount namespace and lets go of the old one.
///
/// # Errors
/// When the kernel refuses, as on a host whose root is a ramfs.
pub fn enter(root: BorrowedFd<'_>) -> Result<()> {
    let old = open_path(Path::new("/"))?;
    fchdir(root).step("pivot_root", || "enter the root")?;
    pivot_root(".", ".").step("pivot_root", || "change the root")?;
    // The old root now lies on top of the new one at the same place. Its mounts may still be peers of the host's,
    // which must not follow when they are taken away here.
    fchdir(&old).step("pivot_root", || "enter the old root")?;
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, ".", None::<&str>, flags, None::<&str>)
        .step("pivot_root", || "cut the old root off the host")?;
    umount2(".", MntFlags::MNT_DETACH).step("pivot_root", || "detach the old root")?;
    nix::unistd::chdir("/").step("pivot_root", || "enter the new root")
}

/// Gives the root the propagation that `bundle` asks for, which it could not have while it was entered.
///
/// # Errors
/// When the kernel refuses.
pub fn settle(bundle: &Bundle) -> Result<()> {
    let flags = match propagation(bundle)? {
        Propagation::Slave | Propagation::Private => return Ok(()),
        Propagation::Shared => MsFlags::MS_SHARED,
        Propagation::Unbindable => MsFlags::MS_UNBINDABLE,
    };
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .step("rootfs", || "change the propagation of the root")
}

/// Cuts the mounts this namespace was born with off the host's, unless the bundle shares mounts with it; then only
/// the one under the root is, so that the root itself does not show on the host.
fn isolate(bundle: &Bundle) -> Result<()> {
    let change = |path: &Path, flags| mount(None::<&str>, path, None::<&str>, flags, None::<&str>);
    let recursive = match propagation(bundle)? {
        Propagation::Slave => MsFlags::MS_SLAVE | MsFlags::MS_REC,
        Propagation::Private | Propagation::Unbindable => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        Propagation::Shared => {
            for path in bundle.rootfs.ancestors() {
                match change(path, MsFlags::MS_PRIVATE) {
                    Ok(()) => return Ok(()),
                    // Not a mount; the one it lies on is further up.
                    Err(nix::errno::Errno::EINVAL) => {}
                    Err(error) => {
                        return Err(error).step("rootfs", || format!("make {} private", path.display()));
                    }
                }
            }
            return Err(Failure::new("rootfs", "the root lies on no mount"));
        }
    };
    change(Path::new("/"), recursive).step("rootfs", || "change the propagation of /")
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).step("rootfs", || format!("open {}", path.display()))
}

fn make_readonly(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let Some(target) = beneath::find(root, path)? else {
        return Ok(());
    };
    check_procfs(target.as_fd(), path)?;
    let tried = || format!("make {} read-only", path.display());
    let tree = kernel::clone_tree_at(target.as_fd(), true).step("readonly", tried)?;
    kernel::set_attributes(tree.as_fd(), kernel::MOUNT_ATTR_RDONLY, 0, 0, true).step("readonly", tried)?;
    kernel::attach(tree.as_fd(), target.as_fd()).step("readonly", tried)
}

fn mask(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let Some(target) = beneath::find(root, path)? else {
        return Ok(());
    };
    check_procfs(target.as_fd(), path)?;
    let tried = || format!("mask {}", path.display());
    let status = fstat(&target).step("mask", tried)?;
    let cover = if status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
        kernel::new_filesystem(
            "tmpfs",
            "tmpfs",
            &["size=0".to_owned(), "nr_inodes=1".to_owned()],
            kernel::MOUNT_ATTR_RDONLY,
        )
    } else {
        // The host's null device, verified by number on the very descriptor that is mounted from: the
        // image's own /dev/null could be anything (CVE-2025-31133).
        let null = open_path(Path::new("/dev/null"))?;
        let device = fstat(&null).step("mask", tried)?.st_rdev;
        if device != nix::sys::stat::makedev(1, 3) {
            return Err(Failure::new(
                "mask",
                "/dev/null of the host is not the null device",
            ));
        }
        kernel::clone_tree_at(null.as_fd(), false)
    };
    kernel::attach(cover.step("mask", tried)?.as_fd(), target.as_fd()).step("mask", tried)
}

/// A path below /proc must lie on procfs: an image or a racing container may have put something else there
/// (CVE-2025-52881).
fn check_procfs(target: BorrowedFd<'_>, path: &Path) -> Result<()> {
    if !path.starts_with("/proc") {
        return Ok(());
    }
    let status = fstatfs(target).step("mask", || format!("look at {}", path.display()))?;
    if status.filesystem_type() == PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(Failure::new(
        "mask",
        format!("{} does not lie on procfs", path.display()),
    ))
}
