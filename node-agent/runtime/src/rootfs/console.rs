//! The terminal of a container, made from its own devpts.
//!
//! Everything goes by descriptor: `/dev/pts/ptmx` is opened beneath the root and verified to be the multiplexer of a
//! devpts, its other end comes from the kernel, and that very end is bound on `/dev/console`. An image that puts
//! something else in one of these places gets an error and never a mount on the host (CVE-2025-52565).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{Uid, fchown};

use super::beneath;
use crate::failure::{Context, Failure, Result};
use crate::sys::{mount as kernel, tty};
use crate::tty::Terminal;

const STEP: &str = "terminal";
const MULTIPLEXER: &str = "/dev/pts/ptmx";

/// Opens a new terminal of the devpts beneath `root`, with `size` (rows, columns) unless both are zero. Its program
/// side belongs to `owner`, who may then open it by name.
///
/// # Errors
/// When there is no devpts at `/dev/pts`.
pub fn open(root: BorrowedFd<'_>, size: (u16, u16), owner: u32) -> Result<Terminal> {
    let tried = || format!("open {MULTIPLEXER} in the root");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let master = beneath::open_existing(root, Path::new(MULTIPLEXER), flags)
        .map_err(|failure| failure.advise("a terminal needs a devpts mounted at /dev/pts"))?;
    let status = fstat(&master).step(STEP, tried)?;
    let is_devpts = fstatfs(&master).step(STEP, tried)?.filesystem_type() == DEVPTS_SUPER_MAGIC;
    let is_multiplexer = (major(status.st_rdev), minor(status.st_rdev)) == (5, 2)
        && status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits();
    if !is_devpts || !is_multiplexer {
        return Err(Failure::new(
            STEP,
            format!("{MULTIPLEXER} is not the multiplexer of a devpts"),
        ));
    }
    let replica = tty::replica(master.as_fd()).step(STEP, || "open the other end of the terminal")?;
    if size != (0, 0) {
        tty::set_size(master.as_fd(), size).step(STEP, || "set the terminal's size")?;
    }
    match fchown(&replica, Some(Uid::from_raw(owner)), None) {
        // A user that is not mapped owns nothing; the descriptors it is given work all the same.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(error) => return Err(error).step(STEP, || "give the terminal to the program's user"),
    }
    // Opened without waiting, as a fifo in its place would have waited for ever; from here on reads wait.
    nix::fcntl::fcntl(&master, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_RDWR))
        .step(STEP, || "make the terminal blocking")?;
    Ok(Terminal { master, replica })
}

/// Binds the program's side on `/dev/console`.
///
/// # Errors
/// When the place cannot be made.
pub fn bind(root: BorrowedFd<'_>, terminal: &Terminal) -> Result<()> {
    let tried = || "bind the terminal on /dev/console";
    let tree = kernel::clone_tree_at(terminal.replica.as_fd(), false).step(STEP, tried)?;
    let target = beneath::make_file(root, Path::new("/dev/console"))?;
    kernel::attach(tree.as_fd(), target.as_fd()).step(STEP, tried)
}
