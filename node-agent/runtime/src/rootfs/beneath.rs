//! Finding and making paths of the image beneath the root's descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{Mode, mkdirat};

use crate::failure::{Context, Failure, Result};

const STEP: &str = "rootfs";
/// As many links in a row as the kernel follows.
const LINKS_MAX: usize = 40;

/// Opens `path` by location only (`O_PATH`), or `None` when it is not there.
///
/// # Errors
/// When it is there but cannot be reached.
pub(super) fn find(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match open(root, path, OFlag::O_PATH, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error).step(STEP, || format!("open {} in the root", path.display())),
    }
}

/// Opens the object at `path` itself.
///
/// # Errors
/// When it is not there or cannot be opened this way.
pub(super) fn open_existing(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    open(root, path, flags, Mode::empty()).step(STEP, || format!("open {} in the root", path.display()))
}

/// Opens the directory `path`, making what is missing of it.
///
/// # Errors
/// When a part is not a directory or cannot be made.
pub(super) fn make_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let tried = || format!("make directory {} in the root", path.display());
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open(root, path, flags, Mode::empty()) {
        Err(Errno::ENOENT) => {}
        other => return other.step(STEP, tried),
    }
    let mut reached = PathBuf::from("/");
    let mut current = open(root, &reached, flags, Mode::empty()).step(STEP, tried)?;
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Failure::new(
                    STEP,
                    format!("{} must not contain ..", path.display()),
                ));
            }
        };
        reached.push(name);
        current = match open(root, &reached, flags, Mode::empty()) {
            Err(Errno::ENOENT) => {
                match mkdirat(current.as_fd(), name, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error).step(STEP, tried),
                }
                open(root, &reached, flags, Mode::empty()).step(STEP, tried)?
            }
            other => other.step(STEP, tried)?,
        };
    }
    Ok(current)
}

/// Opens `path`, making it an empty file when it is not there. Where it is a link to nothing, as `/etc/resolv.conf` is
/// in images made from machines, what it points at is made.
///
/// # Errors
/// When it cannot be made.
pub(super) fn make_file(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let tried = || format!("make file {} in the root", path.display());
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        if let Some(found) = find(root, &target)? {
            return Ok(found);
        }
        if let Some(parent) = target.parent() {
            make_directory(root, parent)?;
        }
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
        match open(root, &target, flags, Mode::from_bits_truncate(0o644)) {
            Err(Errno::EEXIST) => target = link_target(root, &target).step(STEP, tried)?,
            other => return other.step(STEP, tried),
        }
    }
    Err(Errno::ELOOP).step(STEP, tried)
}

/// Where the link `path` points, as a path of the root. Only the name is followed here: whatever it says, it is looked
/// up beneath the root like any other.
fn link_target(root: BorrowedFd<'_>, path: &Path) -> nix::Result<PathBuf> {
    let link = open(root, path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
    let points_at = PathBuf::from(readlinkat(&link, "")?);
    let mut target = PathBuf::from("/");
    // An absolute one replaces all that was before it.
    let joined = path.parent().unwrap_or(Path::new("/")).join(points_at);
    for part in joined.components() {
        match part {
            Component::Normal(name) => target.push(name),
            Component::ParentDir => drop(target.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(target)
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(resolve);
    // The kernel answers EAGAIN when a rename elsewhere makes it unsure that it has not left the root.
    for _ in 0..64 {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let place = std::env::temp_dir().join(format!("pierhead-beneath-{}", std::process::id()));
        let outside = place.join("outside");
        let inside = place.join("root");
        std::fs::create_dir_all(&outside).expect("makes");
        std::fs::create_dir_all(&inside).expect("makes");
        symlink(&outside, inside.join("absolute")).expect("links");
        symlink("../outside", inside.join("relative")).expect("links");
        let root = std::fs::File::open(&inside).expect("opens");
        for link in ["/absolute/x", "/relative/x"] {
            // Either it fails or it lands inside; never outside.
            drop(make_directory(root.as_fd(), Path::new(link)));
            drop(make_file(root.as_fd(), Path::new(link)));
        }
        assert_eq!(std::fs::read_dir(&outside).expect("lists").count(), 0);
        std::fs::remove_dir_all(&place).expect("removes");
    }

    #[test]
    fn a_file_is_made_where_a_link_to_nothing_points() {
        let place = std::env::temp_dir().join(format!("pierhead-dangling-{}", std::process::id()));
        let inside = place.join("root");
        std::fs::create_dir_all(inside.join("etc")).expect("makes");
        symlink("../run/systemd/resolv.conf", inside.join("etc/resolv.conf")).expect("links");
        symlink("/../../../outside", inside.join("etc/hosts")).expect("links");
        symlink("loop", inside.join("etc/loop")).expect("links");
        let root = std::fs::File::open(&inside).expect("opens");
        make_file(root.as_fd(), Path::new("/etc/resolv.conf")).expect("makes");
        assert!(inside.join("run/systemd/resolv.conf").is_file());
        make_file(root.as_fd(), Path::new("/etc/hosts")).expect("makes");
        assert!(inside.join("outside").is_file() && !place.join("outside").exists());
        make_file(root.as_fd(), Path::new("/etc/loop")).expect_err("a loop");
        std::fs::remove_dir_all(&place).expect("removes");
    }
}
