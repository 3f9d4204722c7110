//! Typed messages between the parent and the processes it makes, over a sequenced-packet socket pair.
//!
//! ```text
//! intermediate → parent   Cloned       (only when namespaces are joined)
//! parent → init           Proceed      placed in its cgroup, ids mapped
//! init → parent           Mounted      (only when the runtime has hooks to run then)
//! parent → init           Proceed      they have run
//! init → parent           Ready | Failed
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};

/// What a child reports.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Report {
    /// The intermediate made init; the number is in the parent's pid namespace.
    Cloned(i32),
    /// Namespaces and mounts are there, the root is not changed yet.
    Mounted,
    /// Everything that can fail before the start has been done.
    Ready,
    /// It could not be done; the child ends.
    Failed(Failure),
}

/// What the parent lets init do.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Proceed;

/// One end of the pair.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    pub(super) fn pair() -> Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .step("clone", || "make a socket pair")?;
        Ok((Self(a), Self(b)))
    }

    pub(super) fn send<T: Serialize>(&self, message: &T) -> Result<()> {
        let text = serde_json::to_vec(message).step("clone", || "encode a message")?;
        sendmsg::<()>(
            self.0.as_raw_fd(),
            &[IoSlice::new(&text)],
            &[],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .step("clone", || "send a message")?;
        Ok(())
    }

    /// The next message, or `None` when the other side has ended.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let mut buffer = vec![0u8; 64 * 1024];
        let length = loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            match recvmsg::<()>(self.0.as_raw_fd(), &mut slices, None, MsgFlags::empty()) {
                Ok(message) => break message.bytes,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).step("clone", || "receive a message"),
            }
        };
        if length == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&buffer[..length])
            .map(Some)
            .step("clone", || "decode a message")
    }
}
