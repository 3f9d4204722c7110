//! Pseudo-terminals by descriptor, so that no path of an image is followed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// The other end of the pseudo-terminal whose controlling end is `master`, unlocked first. Found by the kernel, not by
/// a name in a file system (`TIOCGPTPEER`, Linux 4.13).
///
/// # Errors
/// `ENOTTY` when `master` is no such thing.
pub fn replica(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which is alive.
    check(libc::c_long::from(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked)
    }))?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags as a number.
    let fd = check(libc::c_long::from(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)
    }))?;
    // SAFETY: on success the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Makes the terminal `fd` the controlling terminal of this session.
///
/// # Errors
/// When the process is not a session leader.
pub fn set_controlling(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check(libc::c_long::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0)
    }))?;
    Ok(())
}

/// Rows and columns of a terminal.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn size(fd: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which is alive.
    check(libc::c_long::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size)
    }))?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets rows and columns of a terminal; the programs on it get SIGWINCH.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn set_size(fd: BorrowedFd<'_>, (rows, columns): (u16, u16)) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one `winsize`, which is alive.
    check(libc::c_long::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size)
    }))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_pair_shares_its_size_and_a_file_is_no_terminal() {
        let master = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/ptmx")
            .expect("opens");
        let replica = replica(master.as_fd()).expect("has another end");
        set_size(master.as_fd(), (24, 80)).expect("sets");
        assert_eq!(size(replica.as_fd()).expect("reads"), (24, 80));
        let file = std::fs::File::open("/dev/null").expect("opens");
        assert!(size(file.as_fd()).is_err());
    }
}
