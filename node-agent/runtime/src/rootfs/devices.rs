//! Device nodes and the links every program expects below /dev.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::beneath;
use crate::failure::{Context, Failure, Result};
use crate::sys::mount as kernel;

const STEP: &str = "devices";

/// runtime-spec `config-linux.md`, Default Devices.
const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Makes the default devices, those `asked` for, and the links.
pub(super) fn make(root: BorrowedFd<'_>, asked: &[LinuxDevice]) -> Result<()> {
    for (path, major, minor) in DEFAULT {
        if asked.iter().any(|device| device.path() == Path::new(path)) {
            continue;
        }
        node(
            root,
            Path::new(path),
            SFlag::S_IFCHR,
            makedev(major, minor),
            0o666,
            (0, 0),
        )?;
    }
    for device in asked {
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
            LinuxDeviceType::B => SFlag::S_IFBLK,
            LinuxDeviceType::P => SFlag::S_IFIFO,
            LinuxDeviceType::A => {
                return Err(Failure::new(
                    STEP,
                    format!("{} has no type", device.path().display()),
                ));
            }
        };
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        let id = makedev(number(device.major()), number(device.minor()));
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        node(
            root,
            device.path(),
            kind,
            id,
            device.file_mode().unwrap_or(0o666) & 0o7777,
            owner,
        )?;
    }
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    let directory = beneath::make_directory(root, Path::new("/dev"))?;
    for (to, name) in links {
        match symlinkat(to, directory.as_fd(), name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).step(STEP, || format!("link /dev/{name}")),
        }
    }
    Ok(())
}

fn node(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: SFlag,
    id: libc::dev_t,
    mode: u32,
    (uid, gid): (u32, u32),
) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Failure::new(
            STEP,
            format!("{} is not a device path", path.display()),
        ));
    };
    let tried = || format!("make device {}", path.display());
    let directory = beneath::make_directory(root, parent)?;
    let mode = Mode::from_bits_truncate(mode);
    match mknodat(directory.as_fd(), name, kind, mode, id) {
        Ok(()) => {
            // Again, without the umask.
            fchmodat(directory.as_fd(), name, mode, FchmodatFlags::FollowSymlink).step(STEP, tried)?;
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchownat(directory.as_fd(), name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).step(STEP, tried)
        }
        // In a user namespace nodes cannot be made; the host's own is mounted instead.
        Err(Errno::EPERM) => {
            let tree = kernel::clone_tree(path, false).step(STEP, tried)?;
            let status = fstat(&tree).step(STEP, tried)?;
            if status.st_rdev != id || status.st_mode & SFlag::S_IFMT.bits() != kind.bits() {
                return Err(Failure::new(
                    STEP,
                    format!("{} of the host is another device", path.display()),
                ));
            }
            let target = beneath::make_file(root, path)?;
            kernel::attach(tree.as_fd(), target.as_fd()).step(STEP, tried)
        }
        // A /dev that came with the image or was mounted from the host keeps what it has.
        Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).step(STEP, tried),
    }
}
