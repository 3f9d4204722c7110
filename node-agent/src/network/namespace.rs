//! Named network namespaces: files below RUN that keep a namespace alive by a bind mount, as `ip netns` does.
//!
//! A thread that changes its namespace is never given back to the async runtime: each piece of work gets a
//! short-lived thread of its own, which ends with it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{FsType, statfs};
use tokio::sync::oneshot;

use super::NetworkError;
use super::link;

const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// `NSFS_MAGIC` of linux/magic.h, which libc does not carry for every target.
const NSFS: FsType = FsType(0x6e73_6673);

/// Makes the namespace `path` and, inside it, what `plan` says. The file exists only if all of it worked.
///
/// # Errors
/// When the file exists already, or the kernel refuses a step.
///
/// # Cancel safety
/// The work goes on when the future is dropped.
pub(super) async fn create(path: PathBuf, plan: link::ContainerEnd) -> Result<(), NetworkError> {
    let (done, result) = oneshot::channel();
    let subject = path.clone();
    let failed = move |source| NetworkError::Namespace {
        step: "start a thread for",
        path: subject,
        source,
    };
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            // The receiver is gone only when nobody waits any more; the caller's clean-up finds the file.
            let _ = done.send(create_here(&path, &plan));
        })
        .map_err(failed.clone())?;
    result
        .await
        .map_err(|_| failed(io::Error::other("the thread panicked")))?
}

/// Runs on a thread of its own, which lives in the new namespace from the first step on.
fn create_here(path: &Path, plan: &link::ContainerEnd) -> Result<(), NetworkError> {
    let failed = |step| {
        move |source: io::Error| NetworkError::Namespace {
            step,
            path: path.to_owned(),
            source,
        }
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    }
    let outside: OwnedFd = fs::File::open(OWN_NAMESPACE)
        .map_err(failed("open the agent's own beside"))?
        .into();
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
        .map_err(failed("make the file of"))?;
    let made = (|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed("make")(errno.into()))?;
        mount(
            Some(OWN_NAMESPACE),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|errno| failed("mount")(errno.into()))?;
        // Netlink sockets belong to the namespace of the thread that opens them, so this runtime's talk to the new one.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed("start a runtime in"))?;
        runtime.block_on(plan.apply(outside.as_fd()))
    })();
    if let Err(error) = made {
        if let Err(leftover) = remove(path) {
            tracing::warn!(error = %leftover, path = %path.display(), "a failed namespace could not be removed");
        }
        return Err(error);
    }
    Ok(())
}

/// Whether `path` holds a namespace, not the empty file that a reboot leaves on a disk.
pub(super) fn is_alive(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS)
}

/// Unmounts and removes the file; one that is absent is no error. Processes inside keep the namespace alive.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn remove(path: &Path) -> Result<(), NetworkError> {
    let failed = |step| {
        move |source: io::Error| NetworkError::Namespace {
            step,
            path: path.to_owned(),
            source,
        }
    };
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(failed("unmount")(errno.into())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the file of")(error)),
        _ => Ok(()),
    }
}
