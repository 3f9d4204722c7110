//! Terminals: passing one on, and standing between a container's and the caller's. runtime-spec `config.md`, Process.
//!
//! The pair is made by init, from the container's own devpts (`rootfs::console`). The controlling side leaves the
//! container over a socket: to the engine (`--console-socket`), which gets the one message that runc sends, or to
//! the runtime itself when it stays in the foreground.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::failure::{Context, Result};
use crate::process::gate::short_path;
use crate::sys;

const STEP: &str = "terminal";

/// A pair of pseudo-terminal ends.
#[derive(Debug)]
pub struct Terminal {
    /// The side of whoever controls it.
    pub master: OwnedFd,
    /// The side of the program.
    pub replica: OwnedFd,
}

/// Connects to the socket an engine waits at for the terminal.
///
/// # Errors
/// When nobody listens there.
pub fn connect(path: &Path) -> Result<UnixStream> {
    let (_held, short) = short_path(path)?;
    UnixStream::connect(short).step(STEP, || format!("connect to console socket {}", path.display()))
}

/// Sends the controlling side over `socket`.
///
/// # Errors
/// When the other side has gone.
pub fn send(socket: &UnixStream, master: BorrowedFd<'_>) -> Result<()> {
    let descriptors = [master.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&descriptors)];
    // The text is what other runtimes send; engines use it as the name of the file they make of the descriptor.
    let text = [IoSlice::new(b"/dev/ptmx")];
    sendmsg::<()>(socket.as_raw_fd(), &text, &message, MsgFlags::MSG_NOSIGNAL, None)
        .step(STEP, || "send the terminal to the console socket")?;
    Ok(())
}

/// Receives what [`send`] sent.
///
/// # Errors
/// When the sender ended first.
pub fn receive(socket: &UnixStream) -> Result<OwnedFd> {
    sys::net::receive_descriptor(socket.as_fd()).step(STEP, || "receive the container's terminal")
}

/// Makes `replica` the controlling terminal of this session and its three standard streams.
///
/// # Errors
/// When this process leads no session.
pub fn adopt(replica: &OwnedFd) -> Result<()> {
    let tried = || "make the terminal the program's own";
    sys::tty::set_controlling(replica.as_fd()).step(STEP, tried)?;
    dup2_stdin(replica).step(STEP, tried)?;
    dup2_stdout(replica).step(STEP, tried)?;
    dup2_stderr(replica).step(STEP, tried)
}
