//! How the child gives up everything but its directory, in the order of its steps.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilitiesBuilder, LinuxSeccomp, LinuxSeccompAction,
    LinuxSeccompBuilder, LinuxSyscallBuilder,
};
use runtime::capabilities::Masks;
use runtime::failure::{Context, Failure, Result};
use runtime::rootfs;
use runtime::seccomp::compile::compile;
use runtime::sys::{self, mount as kernel};
use std::os::fd::AsFd;

use super::Limits;

const STEP: &str = "confine";

/// Address space: a zstd window of 128 MiB, what is buffered, and this program.
const MEMORY_MAX_BYTES: u64 = 1 << 30;
/// A listing of a tree that is replaced, the parents of an entry, the streams.
const DESCRIPTORS_MAX: u64 = 64;

/// What writing other users' files takes. CAP_SYS_ADMIN is here for `trusted.overlay.opaque` alone: the filter refuses
/// every other call that asks for it.
const CAPABILITIES: [Capability; 7] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Mknod,
    Capability::Setfcap,
    Capability::SysAdmin,
];

/// Everything that reading a pipe, decompressing and writing files takes. No sockets, no processes, no mounts, nothing
/// that opens a file by a handle or another process's memory.
const SYSTEM_CALLS: [&str; 58] = [
    "brk",
    "clock_gettime",
    "close",
    "dup",
    "exit",
    "exit_group",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fcntl",
    "fsetxattr",
    "fstat",
    "fstatfs",
    "ftruncate",
    "futex",
    "getdents64",
    "getpid",
    "getrandom",
    "gettid",
    "linkat",
    "lseek",
    "madvise",
    "mkdirat",
    "mknodat",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "newfstatat",
    "openat",
    "openat2",
    "poll",
    "ppoll",
    "pread64",
    "pwrite64",
    "read",
    "readlinkat",
    "readv",
    "renameat",
    "renameat2",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "sigaltstack",
    "statx",
    "symlinkat",
    "tgkill",
    "umask",
    "unlinkat",
    "utimensat",
    "write",
    "writev",
];

/// Confines this process to its working directory, which becomes its root, and returns that.
pub(super) fn enter(limits: &Limits) -> Result<OwnedFd> {
    let threads = sys::process::thread_count().step(STEP, || "count threads")?;
    if threads != 1 {
        return Err(Failure::new(
            STEP,
            format!("{threads} threads run, which would stay outside"),
        ));
    }
    // The daemon may die without a word.
    prctl::set_pdeathsig(Some(Signal::SIGKILL)).step(STEP, || "ask to end with the daemon")?;
    sys::process::close_inherited_from(3).step(STEP, || "close inherited descriptors")?;
    umask(Mode::empty());
    bound(limits)?;

    // The directory becomes the root of a mount namespace of our own; nothing of the host has a name here any more.
    unshare(CloneFlags::CLONE_NEWNS).step(STEP, || "leave the mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).step(STEP, || "keep mounts to itself")?;
    let tree = kernel::clone_tree(Path::new("."), false).step(STEP, || "clone the mount of the layer")?;
    let attributes = kernel::MOUNT_ATTR_NODEV | kernel::MOUNT_ATTR_NOEXEC | kernel::MOUNT_ATTR_NOSUID;
    kernel::set_attributes(tree.as_fd(), attributes, 0, 0, false)
        .step(STEP, || "restrict the layer's mount")?;
    let here = open(".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(STEP, || "open the layer")?;
    kernel::attach(tree.as_fd(), here.as_fd()).step(STEP, || "mount the layer")?;
    drop(here);
    rootfs::enter(tree.as_fd())?;

    // Capabilities before the filter, which does not let them be set; the filter last, as it forbids everything above.
    capabilities()?;
    prctl::set_no_new_privs().step(STEP, || "set no_new_privs")?;
    let program = compile(&filter()?).step(STEP, || "compile the filter of system calls")?;
    sys::seccomp::load(&program).step(STEP, || "load the filter of system calls")?;
    Ok(tree)
}

fn bound(limits: &Limits) -> Result<()> {
    for (resource, value) in [
        (Resource::RLIMIT_AS, MEMORY_MAX_BYTES),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX),
        (Resource::RLIMIT_CORE, 0),
        // Our own checks come first and say which entry; this one holds if they are wrong.
        (Resource::RLIMIT_FSIZE, limits.unpacked_bytes),
    ] {
        setrlimit(resource, value, value).step(STEP, || format!("limit {resource:?} to {value}"))?;
    }
    Ok(())
}

fn capabilities() -> Result<()> {
    let set: Capabilities = CAPABILITIES.into_iter().collect();
    let wanted = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .step(STEP, || "name the capabilities")?;
    let masks = Masks::of(&wanted);
    masks.bound()?;
    masks.apply()
}

fn filter() -> Result<LinuxSeccomp> {
    let allowed = LinuxSyscallBuilder::default()
        .names(SYSTEM_CALLS.map(str::to_owned).to_vec())
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()
        .step(STEP, || "name the system calls")?;
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .syscalls(vec![allowed])
        .build()
        .step(STEP, || "name the system calls")
}
