//! Removing trees that others wrote: as deep as they like, renamed while we look, never through a link.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Removes `name` from the directory `parent`, with everything below it; absence is no error.
///
/// A directory that is not empty is emptied by moving its own directories up to the top, so the work needs neither a
/// stack nor more than a handful of descriptors, however deep a container made it.
///
/// # Errors
/// When the kernel refuses, as for a mount point.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        // POSIX has EPERM for a directory, Linux EISDIR.
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    let mut moved = 0u64;
    loop {
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let top = open_directory(parent, name)?;
        each(top.as_fd(), |entry| {
            if is_removed(top.as_fd(), entry)? {
                return Ok(());
            }
            let below = open_directory(top.as_fd(), entry)?;
            each(below.as_fd(), |deeper| {
                if is_removed(below.as_fd(), deeper)? {
                    return Ok(());
                }
                lift(below.as_fd(), deeper, top.as_fd(), &mut moved)
            })?;
            unlinkat(top.as_fd(), entry, UnlinkatFlags::RemoveDir).or_else(|error| match error {
                // Somebody still writes here; the next round sees it.
                Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT => Ok(()),
                error => Err(error.into()),
            })
        })?;
    }
}

/// [`remove`] for a path whose parent is ours.
///
/// # Errors
/// As [`remove`].
pub(super) fn remove_path(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match std::fs::File::open(parent) {
        Ok(parent) => remove(parent.as_fd(), name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes everything in the directory at `path`, which stays.
///
/// # Errors
/// As [`remove`].
pub(super) fn empty(path: &Path) -> io::Result<()> {
    let directory = std::fs::File::open(path)?;
    for entry in std::fs::read_dir(path)? {
        remove(directory.as_fd(), &entry?.file_name())?;
    }
    Ok(())
}

/// Removes `name` if it is anything but a directory with something in it.
fn is_removed(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves the directory `name` up to `top` under a name that is free there.
fn lift(from: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match renameat(from, name, top, format!("~{moved}").as_str()) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::EEXIST | Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn open_directory<N: ?Sized + nix::NixPath>(parent: BorrowedFd<'_>, name: &N) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn each(directory: BorrowedFd<'_>, mut work: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
    let mut listing = Dir::from_fd(directory.try_clone_to_owned()?)?;
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            work(name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_goes_and_what_its_links_lead_to_stays() {
        let place = tempfile::tempdir().expect("a directory");
        let (tree, canary) = (place.path().join("tree"), place.path().join("canary"));
        fs::create_dir_all(tree.join("a/b/c")).expect("makes");
        fs::write(tree.join("a/b/file"), "x").expect("writes");
        fs::create_dir_all(tree.join("~1")).expect("makes");
        fs::write(tree.join("~2"), "a name that the removal would choose").expect("writes");
        fs::create_dir(&canary).expect("makes");
        fs::write(canary.join("alive"), "x").expect("writes");
        symlink(&canary, tree.join("a/link")).expect("links");
        remove_path(&tree).expect("removes");
        assert!(!tree.exists());
        assert!(canary.join("alive").exists());
        remove_path(&tree).expect("absence is no error");
    }

    #[test]
    fn depth_beyond_any_path_limit_is_removed() {
        let place = tempfile::tempdir().expect("a directory");
        let root = fs::File::open(place.path()).expect("opens");
        let mut current: OwnedFd = root.as_fd().try_clone_to_owned().expect("a descriptor");
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(current.as_fd(), "deep", Mode::from_bits_truncate(0o700)).expect("makes");
            current = open_directory(current.as_fd(), "deep").expect("opens");
        }
        drop(current);
        remove_path(&place.path().join("deep")).expect("removes");
        assert_eq!(fs::read_dir(place.path()).expect("lists").count(), 0);
    }
}
