//! Extended attributes of open files.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// The longest value the kernel takes.
const VALUE_MAX_BYTES: usize = 64 * 1024;

/// Sets attribute `name` of the file behind `fd`, which must be open for more than its location.
///
/// # Errors
/// `EPERM` without the capability that the attribute's class asks for; `EOPNOTSUPP` where the file system has none.
pub fn set(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    let (raw, name, bytes, length) = (fd.as_raw_fd(), name.as_ptr(), value.as_ptr(), value.len());
    // SAFETY: fsetxattr(2) reads a NUL-terminated name and `length` bytes of the value, both alive here.
    check(unsafe { libc::syscall(libc::SYS_fsetxattr, raw, name, bytes, length, 0) })?;
    Ok(())
}

/// The value of attribute `name` of the file behind `fd`; `None` when it has no such attribute.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has none.
pub fn get(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; VALUE_MAX_BYTES];
    let (raw, name, bytes, length) = (fd.as_raw_fd(), name.as_ptr(), value.as_mut_ptr(), value.len());
    // SAFETY: fgetxattr(2) reads a NUL-terminated name and writes at most `length` bytes, which `value` has.
    match check(unsafe { libc::syscall(libc::SYS_fgetxattr, raw, name, bytes, length) }) {
        Ok(length) => {
            value.truncate(usize::try_from(length).unwrap_or(0));
            Ok(Some(value))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn an_attribute_that_was_set_can_be_read() {
        let path = std::env::temp_dir().join(format!("pierhead-xattr-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("makes a file");
        std::fs::remove_file(&path).expect("removes it");
        assert_eq!(get(file.as_fd(), c"user.none").ok().flatten(), None);
        match set(file.as_fd(), c"user.some", b"a\0b") {
            // A temporary directory on a tmpfs of an old kernel.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            other => {
                other.expect("sets");
                let value = get(file.as_fd(), c"user.some").expect("reads");
                assert_eq!(value.as_deref(), Some(b"a\0b".as_slice()));
            }
        }
    }
}
