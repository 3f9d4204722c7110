//! Mounting and unmounting overlays (kernel, filesystems/overlayfs.rst), from any thread of a daemon with many.
//!
//! Layers are handed to the kernel as `/proc/self/fd/N`: short whatever the store's path is, and already resolved. The
//! descriptor-based interface takes them one by one (`lowerdir+`, Linux 6.5), so their number is limited by the kernel
//! alone; before that, mount(2) takes as many as fit into a page, which are more than two hundred.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use runtime::sys::mount as kernel;

/// What goes into an overlay.
#[derive(Debug)]
pub(super) struct Overlay {
    /// Base first; at least one.
    pub(super) lower: Vec<PathBuf>,
    pub(super) upper: PathBuf,
    /// Empty, on the file system of `upper`.
    pub(super) work: PathBuf,
}

impl Overlay {
    /// Mounts the overlay at `target`.
    ///
    /// # Errors
    /// When the kernel refuses, as for an upper directory on a file system that cannot hold one.
    pub(super) fn mount(&self, target: &Path) -> io::Result<()> {
        let opened = Opened::of(self)?;
        let refusal = match opened.mount(target) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        // A kernel before 6.5 does not know the options of the first try. Where both fail, the first says more.
        opened.mount_in_one_call(target).map_err(|_| refusal)
    }
}

/// The directories of an overlay, by descriptor for as long as the kernel resolves their names.
struct Opened {
    lower: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

impl Opened {
    fn of(overlay: &Overlay) -> io::Result<Self> {
        Ok(Self {
            lower: overlay
                .lower
                .iter()
                .map(|path| open_path(path))
                .collect::<io::Result<_>>()?,
            upper: open_path(&overlay.upper)?,
            work: open_path(&overlay.work)?,
        })
    }

    fn mount(&self, target: &Path) -> io::Result<()> {
        // The kernel wants the topmost layer first.
        let mut options: Vec<String> = self
            .lower
            .iter()
            .rev()
            .map(|layer| format!("lowerdir+={}", name(layer)))
            .collect();
        options.push(format!("upperdir={}", name(&self.upper)));
        options.push(format!("workdir={}", name(&self.work)));
        options.extend(["index=off".to_owned(), "metacopy=off".to_owned()]);
        let overlay = kernel::new_filesystem("overlay", "overlay", &options, 0)?;
        kernel::attach(overlay.as_fd(), open_path(target)?.as_fd())
    }

    fn mount_in_one_call(&self, target: &Path) -> io::Result<()> {
        let lower: Vec<String> = self.lower.iter().rev().map(name).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off,metacopy=off",
            lower.join(":"),
            name(&self.upper),
            name(&self.work)
        );
        let kind = Some("overlay");
        Ok(mount(
            kind,
            target,
            kind,
            MsFlags::empty(),
            Some(options.as_str()),
        )?)
    }
}

/// Whether something is mounted at `path`.
///
/// # Errors
/// When it cannot be looked at.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(path.symlink_metadata()?.dev() != parent.symlink_metadata()?.dev())
}

/// Takes away whatever is mounted at `path`. Who still uses it keeps it to the end; it has no name any more.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    while is_mounted(path)? {
        umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(())
}

/// Makes everything on the file system of `directory` durable.
///
/// # Errors
/// When the disk does.
pub(super) fn sync_filesystem(directory: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(directory)?)?)
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

fn name(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn place(layers: usize) -> (tempfile::TempDir, Overlay, PathBuf) {
        let place = tempfile::tempdir().expect("a directory");
        let make = |name: String| {
            let path = place.path().join(name);
            fs::create_dir(&path).expect("makes");
            path
        };
        let lower: Vec<PathBuf> = (0..layers).map(|at| make(format!("lower{at}"))).collect();
        for (at, path) in lower.iter().enumerate() {
            fs::write(path.join("topmost"), at.to_string()).expect("writes");
        }
        let overlay = Overlay {
            lower,
            upper: make("upper".to_owned()),
            work: make("work".to_owned()),
        };
        let target = make("target".to_owned());
        (place, overlay, target)
    }

    fn check(layers: usize, mount: impl FnOnce(&Opened, &Path) -> io::Result<()>) {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (_place, overlay, target) = place(layers);
        mount(&Opened::of(&overlay).expect("opens"), &target).expect("mounts");
        let seen = fs::read_to_string(target.join("topmost"));
        let is_mounted_now = is_mounted(&target).expect("looks");
        unmount(&target).expect("unmounts");
        assert_eq!(seen.expect("reads"), (layers - 1).to_string());
        assert!(is_mounted_now && !is_mounted(&target).expect("looks"));
    }

    #[test]
    fn more_layers_than_fit_into_a_page_are_stacked() {
        check(400, Opened::mount);
    }

    #[test]
    fn older_kernels_stack_two_hundred() {
        check(200, Opened::mount_in_one_call);
    }
}
