//! Running from a file no container can write (CVE-2019-5736).
//!
//! A process of this program inside a container is reachable as `/proc/PID/exe`. So before any namespace is
//! touched the program executes itself again from a detached, read-only mount of its own file: writing
//! through the link then fails with EROFS, and unlike a copy in memory the pages stay shared.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::fexecve;

use crate::failure::{Context, Failure, Result};
use crate::sys::mount as kernel;

const MARK: &str = "PIERHEAD_RUNTIME_SEALED";

/// Returns when this process runs from a read-only mount; executes itself from one when it does not yet.
/// Takes the arguments from the process itself, so that any binary with this library may call it.
///
/// # Errors
/// When the kernel cannot make the mount.
pub fn ensure() -> Result<()> {
    let exe = Path::new("/proc/self/exe");
    let flags = statvfs(exe).step("seal", || "look at /proc/self/exe")?.flags();
    if flags.contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    if std::env::var_os(MARK).is_some() {
        return Err(Failure::new(
            "seal",
            format!("{MARK} is set, yet this program's file can be written"),
        ));
    }
    let tree = kernel::clone_tree(exe, false).step("seal", || "clone the mount of /proc/self/exe")?;
    kernel::set_attributes(tree.as_fd(), kernel::MOUNT_ATTR_RDONLY, 0, 0, false)
        .step("seal", || "make it read-only")?;
    let text = |bytes: &[u8]| CString::new(bytes).step("seal", || "copy an argument");
    let args = std::env::args_os()
        .map(|arg| text(arg.as_bytes()))
        .collect::<Result<Vec<_>>>()?;
    let mut environment = Vec::new();
    for (key, value) in std::env::vars_os() {
        environment.push(text(&[key.as_bytes(), b"=", value.as_bytes()].concat())?);
    }
    environment.push(text(format!("{MARK}=1").as_bytes())?);
    match fexecve(&tree, &args, &environment) {
        Ok(never) => match never {},
        Err(error) => Err(error).step("seal", || "execute the sealed program"),
    }
}
