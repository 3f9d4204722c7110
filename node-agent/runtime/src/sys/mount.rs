//! The descriptor-based mount interface (`open_tree`, `fsopen`, `mount_setattr`, `move_mount`), Linux 5.12.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr;

use super::check;

pub use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME,
};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const AT_EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A detached copy of the mount at `path` (with everything below it when `is_recursive`).
///
/// # Errors
/// When the path does not exist or lies outside the caller's mount namespace.
pub fn clone_tree(path: &Path, is_recursive: bool) -> io::Result<OwnedFd> {
    open_tree(libc::AT_FDCWD, &cstring(path)?, is_recursive, 0)
}

/// A detached copy of the mount under `fd`, seen from the object `fd` refers to.
///
/// # Errors
/// As [`clone_tree`].
pub fn clone_tree_at(fd: BorrowedFd<'_>, is_recursive: bool) -> io::Result<OwnedFd> {
    open_tree(fd.as_raw_fd(), c"", is_recursive, AT_EMPTY_PATH)
}

fn open_tree(dir: libc::c_int, path: &CStr, is_recursive: bool, at: libc::c_uint) -> io::Result<OwnedFd> {
    let recursive = if is_recursive { AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive | at;
    // SAFETY: open_tree(2) reads a NUL-terminated path, which `CStr` guarantees, and no other memory.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })?;
    // SAFETY: on success the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Attaches the detached mount `tree` on top of what `target` refers to.
///
/// # Errors
/// When the target cannot be a mount point.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    let (tree, target, empty) = (tree.as_raw_fd(), target.as_raw_fd(), c"".as_ptr());
    // SAFETY: move_mount(2) reads two NUL-terminated strings, both static here.
    check(unsafe { libc::syscall(libc::SYS_move_mount, tree, empty, target, empty, flags) })?;
    Ok(())
}

/// Sets and clears `MOUNT_ATTR_*` of the mount under `fd`, and its propagation when not zero.
///
/// # Errors
/// When the kernel refuses an attribute.
pub fn set_attributes(
    fd: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    is_recursive: bool,
) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: 0,
    };
    set_attr(fd, &attr, is_recursive)
}

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// Maps the ids of the detached mount `fd` through the user namespace `user`.
///
/// # Errors
/// `EINVAL` when the file system does not support it.
pub fn idmap(fd: BorrowedFd<'_>, user: BorrowedFd<'_>, is_recursive: bool) -> io::Result<()> {
    let userns_fd = u64::try_from(user.as_raw_fd()).unwrap_or(u64::MAX);
    set_attr(
        fd,
        &MountAttr {
            attr_set: MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd,
        },
        is_recursive,
    )
}

fn set_attr(fd: BorrowedFd<'_>, attr: &MountAttr, is_recursive: bool) -> io::Result<()> {
    let flags = AT_EMPTY_PATH | if is_recursive { AT_RECURSIVE } else { 0 };
    let (size, empty) = (size_of::<MountAttr>(), c"".as_ptr());
    let attr = ptr::from_ref(attr);
    // SAFETY: mount_setattr(2) reads `size` bytes at `attr`, a live value of exactly that size.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), empty, flags, attr, size) })?;
    Ok(())
}

/// A new file system of type `kind` as a detached mount: every `options` pair is `key` or `key=value`.
///
/// # Errors
/// When the kernel lacks the file system or refuses an option; the option is named.
pub fn new_filesystem(kind: &str, source: &str, options: &[String], attributes: u64) -> io::Result<OwnedFd> {
    let name = CString::new(kind)?;
    // SAFETY: fsopen(2) reads a NUL-terminated name.
    let fd = check(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) })?;
    // SAFETY: on success the kernel returned a new descriptor that nobody else owns.
    let context = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
    if !source.is_empty() {
        configure(context.as_fd(), FSCONFIG_SET_STRING, Some("source"), Some(source))?;
    }
    for option in options {
        let done = match option.split_once('=') {
            Some((key, value)) => configure(context.as_fd(), FSCONFIG_SET_STRING, Some(key), Some(value)),
            None => configure(context.as_fd(), FSCONFIG_SET_FLAG, Some(option), None),
        };
        done.map_err(|error| with_option(&error, option))?;
    }
    configure(context.as_fd(), FSCONFIG_CMD_CREATE, None, None)?;
    let (raw, attributes) = (context.as_raw_fd(), attributes as libc::c_uint);
    // SAFETY: fsmount(2) takes numbers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_fsmount, raw, FSMOUNT_CLOEXEC, attributes) })?;
    // SAFETY: on success the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn configure(
    fd: BorrowedFd<'_>,
    command: libc::c_uint,
    key: Option<&str>,
    value: Option<&str>,
) -> io::Result<()> {
    let key = key.map(CString::new).transpose()?;
    let value = value.map(CString::new).transpose()?;
    let key = key.as_ref().map_or(ptr::null(), |key| key.as_ptr());
    let value = value.as_ref().map_or(ptr::null(), |value| value.as_ptr());
    // SAFETY: fsconfig(2) reads the NUL-terminated key and value, which outlive the call, or nothing.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fd.as_raw_fd(), command, key, value, 0) })?;
    Ok(())
}

fn with_option(error: &io::Error, option: &str) -> io::Error {
    io::Error::other(OptionRefused {
        option: option.to_owned(),
        errno: error.raw_os_error().unwrap_or(0),
    })
}

/// A mount option the file system does not accept.
#[derive(Debug, thiserror::Error)]
#[error("option {option:?} refused: {}", io::Error::from_raw_os_error(*errno))]
struct OptionRefused {
    option: String,
    errno: i32,
}

fn cstring(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_tmpfs_can_be_made_and_an_unknown_option_is_named() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let options = ["mode=755".to_owned()];
        new_filesystem("tmpfs", "t", &options, MOUNT_ATTR_NOSUID).expect("tmpfs can be made");
        let options = ["colour=red".to_owned()];
        let error = new_filesystem("tmpfs", "t", &options, 0).expect_err("no such option");
        assert!(error.to_string().contains("colour=red"));
    }
}
