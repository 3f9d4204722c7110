//! The processes that make a container: the parent that prepares, the intermediate that joins namespaces,
//! and init, which becomes the program.

mod credentials;
pub mod exec;
pub mod gate;
mod init;
mod intermediate;
mod messages;
pub mod parent;
mod scheduling;
mod sysctl;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use oci_spec::runtime::Process;

use crate::failure::{Context, Result};
use crate::{sys, tty};

/// What reaches a program through descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Streams<'a> {
    /// Its standard streams, those of this process where absent. Not looked at when it has a terminal.
    pub stdio: &'a [Option<OwnedFd>; 3],
    /// Where the controlling side of its terminal is sent.
    pub console: Option<&'a UnixStream>,
    /// How many descriptors after the standard ones it inherits (`--preserve-fds`).
    pub preserved: u32,
}

impl Streams<'_> {
    /// Closes every other descriptor when the program is executed (CVE-2024-21626).
    fn close_others(&self) -> Result<()> {
        let first = i32::try_from(self.preserved)
            .unwrap_or(i32::MAX)
            .saturating_add(3);
        sys::process::close_on_exec_from(first).step("descriptors", || "mark descriptors close-on-exec")
    }

    /// Makes a terminal in `root` when `process` wants one, and sends its other side away. Without `is_console` it is
    /// not put on `/dev/console`.
    fn terminal(
        &self,
        root: std::os::fd::BorrowedFd<'_>,
        process: &Process,
        is_console: bool,
    ) -> Result<Option<tty::Terminal>> {
        let Some(console) = self.console.filter(|_| process.terminal() == Some(true)) else {
            return Ok(None);
        };
        let number = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
        let size = process
            .console_size()
            .map_or((0, 0), |size| (number(size.height()), number(size.width())));
        let terminal = crate::rootfs::console::open(root, size, process.user().uid())?;
        if is_console {
            crate::rootfs::console::bind(root, &terminal)?;
        }
        tty::send(console, std::os::fd::AsFd::as_fd(&terminal.master))?;
        Ok(Some(terminal))
    }
}
