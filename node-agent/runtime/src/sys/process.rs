//! Processes: clone, pidfds, descriptors at exec, signals, sessions.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::check;

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Make the child a child of the caller's parent.
pub const CLONE_PARENT: u64 = libc::CLONE_PARENT as u64;

/// A process just made by [`clone`].
#[derive(Debug)]
pub struct Child {
    /// Its number in the caller's pid namespace.
    pub pid: i32,
    /// A descriptor that stays with this very process.
    pub pidfd: OwnedFd,
}

/// Forks with namespace `flags`; runs `body` in the child, which ends with the code it
/// returns and without the caller's exit handlers.
///
/// # Errors
/// When the kernel refuses, for example a namespace it lacks.
pub fn clone(flags: u64, body: impl FnOnce() -> i32) -> io::Result<Child> {
    assert_eq!(
        thread_count()?,
        1,
        "a process with several threads must not fork without exec"
    );
    let mut pidfd: libc::c_int = -1;
    let is_sibling = flags & CLONE_PARENT != 0;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        // A sibling's exit signal is the caller's own; clone3 wants it to be zero then.
        exit_signal: if is_sibling { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and without a stack clone3(2) behaves as fork(2): the child has its own
    // copy of this single-threaded process, so no lock can be held by a thread that is missing there.
    // The kernel writes the pidfd to `pidfd`, which is alive.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        exit_now(body());
    }
    // SAFETY: in the parent the kernel has stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child {
        pid: pid as i32,
        pidfd,
    })
}

/// Number of threads of this process.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Ends the process at once, without the exit handlers, which belong to the parent's image.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor from `first` on as close-on-exec.
///
/// # Errors
/// On kernels before 5.11.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: close_range(2) takes numbers; with CLOEXEC it closes nothing now.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Closes every descriptor from `first` on. Only at entry, before any `OwnedFd` exists.
///
/// # Errors
/// On kernels before 5.9.
pub fn close_inherited_from(first: RawFd) -> io::Result<()> {
    // SAFETY: called at entry only, when no owner of a descriptor above `first` exists in this process.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) })?;
    Ok(())
}

/// A descriptor that stays with process `pid`.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes numbers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: on success the kernel returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Sends `signal` to the process behind `pidfd`.
///
/// # Errors
/// `ESRCH` when it has ended.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal(2) accepts a null siginfo.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) })?;
    Ok(())
}

/// Gives every signal its default action and unblocks all, as a fresh program expects. The standard
/// library ignores `SIGPIPE`, and an ignored signal stays ignored across exec.
///
/// # Errors
/// When the signal mask cannot be set.
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; signals that cannot be changed report an error only.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Joins a new, empty session keyring, so that the container does not share its parent's keys.
///
/// # Errors
/// `ENOSYS` on kernels without keyrings.
pub fn new_session_keyring(name: &str) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let name = CString::new(name)?;
    // SAFETY: keyctl(2) reads a NUL-terminated name.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })?;
    Ok(())
}

/// Sets the execution domain (`personality(2)`).
///
/// # Errors
/// When the kernel does not know it.
pub fn personality(domain: libc::c_ulong) -> io::Result<()> {
    // SAFETY: personality(2) takes a number.
    check(libc::c_long::from(unsafe { libc::personality(domain) }))?;
    Ok(())
}

/// Sets the NIS domain name of the uts namespace.
///
/// # Errors
/// `EINVAL` when it is longer than 64 bytes.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: setdomainname(2) reads `len` bytes at `name`, which is what the string holds.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    check(libc::c_long::from(result))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_pidfd_signals_its_process() {
        let me = pidfd_open(std::process::id() as i32).expect("this process exists");
        pidfd_signal(me.as_fd(), 0).expect("signal 0 only asks");
    }
}
