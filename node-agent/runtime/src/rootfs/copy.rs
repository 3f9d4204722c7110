//! Copying a directory of the image into a new file system, by descriptor and without following a link.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstat, fstatat, mkdirat, mknodat, utimensat,
};
use nix::sys::stat::{FileStat, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

/// Deeper than any image; a bound so that a hostile one cannot exhaust the stack.
const DEEPEST: u32 = 256;

/// Copies what is below `from` into `to`, with owners, modes and times; `to` itself gets those of `from`.
///
/// # Errors
/// When something cannot be read or does not fit.
pub(super) fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // A mount just made is known by location only.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let to = openat(to, c".", flags, Mode::empty())?;
    directory(from, c".", to.as_fd(), 0)
}

fn directory(parent: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut from = Dir::openat(parent, name, flags, Mode::empty())?;
    let names: Vec<_> = from
        .iter()
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect::<Result<_, _>>()?;
    let status = fstat(&from)?;
    for name in names
        .iter()
        .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
    {
        entry(from.as_fd(), name, to, depth)?;
    }
    // Last, because every entry made above changes the directory's times.
    fchown(
        to,
        Some(Uid::from_raw(status.st_uid)),
        Some(Gid::from_raw(status.st_gid)),
    )?;
    fchmod(to, permissions(&status))?;
    Ok(nix::sys::stat::futimens(
        to,
        &accessed(&status),
        &modified(&status),
    )?)
}

fn entry(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    let status = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    let open = |at: BorrowedFd<'_>, flags: OFlag| {
        openat(
            at,
            name,
            flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::from_bits_truncate(0o600),
        )
    };
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::from_bits_truncate(0o700))?;
            let made = open(to, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            return directory(from, name, made.as_fd(), depth + 1);
        }
        SFlag::S_IFREG => {
            let mut read = File::from(open(from, OFlag::O_RDONLY)?);
            let mut written = File::from(open(to, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)?);
            io::copy(&mut read, &mut written)?;
        }
        SFlag::S_IFLNK => symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?,
        // A socket has nobody behind it here, and is made anew like a device or a fifo.
        _ => mknodat(to, name, kind, Mode::from_bits_truncate(0o600), status.st_rdev)?,
    }
    fchownat(to, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != SFlag::S_IFLNK {
        // After the owner, whose change takes the set-id bits away. What was just made here is no link.
        fchmodat(to, name, permissions(&status), FchmodatFlags::FollowSymlink)?;
    }
    utimensat(
        to,
        name,
        &accessed(&status),
        &modified(&status),
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}

fn permissions(status: &FileStat) -> Mode {
    Mode::from_bits_truncate(status.st_mode & 0o7777)
}

fn accessed(status: &FileStat) -> TimeSpec {
    TimeSpec::new(status.st_atime, status.st_atime_nsec)
}

fn modified(status: &FileStat) -> TimeSpec {
    TimeSpec::new(status.st_mtime, status.st_mtime_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn content_modes_and_links_are_copied() {
        let place = std::env::temp_dir().join(format!("pierhead-copy-{}", std::process::id()));
        let (from, to) = (place.join("from"), place.join("to"));
        std::fs::create_dir_all(from.join("deep/er")).expect("makes");
        std::fs::create_dir_all(&to).expect("makes");
        std::fs::write(from.join("deep/file"), "content").expect("writes");
        std::fs::set_permissions(from.join("deep/file"), std::fs::Permissions::from_mode(0o4711))
            .expect("sets");
        symlink("/etc/passwd", from.join("deep/er/link")).expect("links");
        let open = |path: &std::path::Path| File::open(path).expect("opens");
        tree(open(&from).as_fd(), open(&to).as_fd()).expect("copies");
        assert_eq!(std::fs::read(to.join("deep/file")).expect("is there"), b"content");
        assert_eq!(
            std::fs::metadata(to.join("deep/file")).expect("is there").mode() & 0o7777,
            0o4711
        );
        let link = std::fs::read_link(to.join("deep/er/link")).expect("is a link");
        assert_eq!(link, std::path::Path::new("/etc/passwd"));
        let times = |path: std::path::PathBuf| std::fs::metadata(path).expect("is there").mtime_nsec();
        assert_eq!(times(from.join("deep")), times(to.join("deep")));
        std::fs::remove_dir_all(&place).expect("removes");
    }
}
