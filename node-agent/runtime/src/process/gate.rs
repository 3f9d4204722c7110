//! The start gate: a socket in the container's state directory at which init waits.
//!
//! Whoever starts the container connects. Init accepts, removes nothing, and executes; the connection closes
//! by exec, so end-of-file means success, and a line of JSON before it is the failure.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::Mode;

use crate::container::Directory;
use crate::failure::{Context, Failure, Result};

const STEP: &str = "start";

/// Makes the gate of a container that is being created.
///
/// # Errors
/// When the socket cannot be made.
pub fn make(directory: &Directory) -> Result<UnixListener> {
    let path = directory.gate();
    let (_held, short) = short_path(&path)?;
    UnixListener::bind(short).step(STEP, || format!("listen at {}", path.display()))
}

/// Opens the gate: init executes the program. Returns when it has, or with why it could not.
///
/// # Errors
/// When the container was started before, or its program cannot be executed.
pub fn open_gate(directory: &Directory) -> Result<()> {
    let path = directory.gate();
    if !path.exists() {
        return Err(Failure::new(STEP, "the container has been started already"));
    }
    let (_held, short) = short_path(&path)?;
    let mut stream = UnixStream::connect(short).step(STEP, || format!("connect to {}", path.display()))?;
    // From here on nobody else can start it: the file is the mark of a container not yet started.
    std::fs::remove_file(&path).step(STEP, || format!("remove {}", path.display()))?;
    let mut text = Vec::new();
    stream
        .read_to_end(&mut text)
        .step(STEP, || "wait for the program to be executed")?;
    if text.is_empty() {
        return Ok(());
    }
    let failure: Failure = serde_json::from_slice(&text).step(STEP, || "decode init's failure")?;
    Err(failure)
}

/// Init's side: waits for somebody to open the gate.
pub(super) fn wait(listener: &UnixListener) -> Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept().step(STEP, || "wait at the gate")?;
        let peer = getsockopt(&stream.as_fd(), PeerCredentials).step(STEP, || "look at who starts")?;
        // Seen from the container's user namespace the starter may be anyone mapped or nobody; the socket
        // lies in a directory only its owner can enter, so a process of another user never gets here.
        if peer.pid() >= 0 {
            return Ok(stream);
        }
    }
}

/// Init's side: tells the starter why the program was not executed.
pub(super) fn report(mut stream: &UnixStream, failure: &Failure) {
    let text = serde_json::to_vec(failure).unwrap_or_default();
    // The starter may be gone; then nobody is left to tell.
    let _ = stream.write_all(&text);
}

/// A socket's path may have 107 bytes; through the directory's descriptor any path is short.
pub(crate) fn short_path(path: &Path) -> Result<(OwnedFd, PathBuf)> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default();
    let directory = open(
        parent,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .step(STEP, || format!("open {}", parent.display()))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, short))
}
