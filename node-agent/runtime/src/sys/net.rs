//! Sockets: a new network namespace gets its loopback up, and a descriptor comes in over a local socket.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::cmsg_space;
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socket};

use super::check;

/// Sets the loopback interface of the current network namespace up.
///
/// # Errors
/// When the namespace does not belong to this process.
pub fn loopback_up() -> io::Result<()> {
    let control = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut name = [0; libc::IFNAMSIZ];
    name[0] = b'l' as libc::c_char;
    name[1] = b'o' as libc::c_char;
    let flags = (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOOPBACK) as libc::c_short;
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which is alive.
    check(libc::c_long::from(unsafe {
        libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    }))?;
    Ok(())
}

/// Receives one message with one descriptor; the text beside it is dropped.
///
/// # Errors
/// `UnexpectedEof` when the other side closes without sending one.
pub fn receive_descriptor(from: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut text = [0u8; 64];
    let mut slices = [IoSliceMut::new(&mut text)];
    let mut space = cmsg_space!(libc::c_int);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part
            && let Some(descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just installed this descriptor for this message and nobody else owns it; the
            // buffer has room for one only, so none is lost.
            return Ok(unsafe { OwnedFd::from_raw_fd(*descriptor) });
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, sendmsg};

    #[test]
    fn a_descriptor_comes_through_and_its_absence_is_told() {
        let (sender, receiver) = UnixStream::pair().expect("makes a pair");
        let file = std::fs::File::open("/dev/null").expect("opens");
        let descriptors = [file.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&descriptors)];
        let text = [IoSlice::new(b"x")];
        sendmsg::<()>(sender.as_raw_fd(), &text, &message, MsgFlags::empty(), None).expect("sends");
        receive_descriptor(receiver.as_fd()).expect("receives");
        drop(sender);
        let error = receive_descriptor(receiver.as_fd()).expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
