//! Labels of the kernel's security modules: an AppArmor profile or an SELinux context for the program, and an SELinux
//! context for the container's file systems. runtime-spec `config.md`, Linux Process; `config-linux.md`, Mount Label.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, statfs};
use nix::unistd::write;
use oci_spec::runtime::Process;

use crate::bundle::Bundle;
use crate::failure::{Context, Failure, Result};
use crate::sys::mount as kernel;

const STEP: &str = "label";
const SELINUX_MAGIC: FsType = FsType(libc::SELINUX_MAGIC as _);

/// Whether the kernel enforces AppArmor profiles.
pub fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// Whether the kernel has SELinux and a policy: its file system is where policies are loaded.
pub fn has_selinux() -> bool {
    statfs("/sys/fs/selinux").is_ok_and(|status| status.filesystem_type() == SELINUX_MAGIC)
}

/// Refuses labels that this kernel would not enforce: who asks for one relies on it.
///
/// # Errors
/// Names the kernel option that is missing.
pub fn check(process: &Process) -> Result<()> {
    if wanted(process.apparmor_profile()).is_some_and(|profile| profile != "unconfined") && !has_apparmor() {
        return Err(Failure::new(
            STEP,
            "process.apparmorProfile is set, but AppArmor is not enabled in this kernel",
        )
        .advise("it needs CONFIG_SECURITY_APPARMOR and apparmor in the boot parameter lsm="));
    }
    if wanted(process.selinux_label()).is_some() && !has_selinux() {
        return Err(no_selinux("process.selinuxLabel"));
    }
    Ok(())
}

/// The option that labels a new file system of type `kind`, when the bundle asks for one.
///
/// # Errors
/// Names the kernel option that is missing.
pub fn mount_option(bundle: &Bundle, kind: &str) -> Result<Option<String>> {
    let linux = bundle.spec.linux().as_ref();
    let Some(label) = linux.and_then(|linux| wanted(linux.mount_label())) else {
        return Ok(None);
    };
    if !has_selinux() {
        return Err(no_selinux("linux.mountLabel"));
    }
    // Those that have labels of their own refuse the option.
    let takes_label = !matches!(kind, "proc" | "sysfs" | "cgroup" | "cgroup2");
    Ok(takes_label.then(|| format!("context={label}")))
}

/// A procfs nobody else has touched, when writing the labels of `process` takes one (CVE-2025-52881).
///
/// # Errors
/// When the kernel refuses to mount it.
pub fn procfs(process: &Process) -> Result<Option<OwnedFd>> {
    let is_needed = wanted(process.apparmor_profile()).is_some() && has_apparmor()
        || wanted(process.selinux_label()).is_some();
    if !is_needed {
        return Ok(None);
    }
    private_procfs().map(Some)
}

/// A detached procfs of this process's pid namespace.
///
/// # Errors
/// When the kernel refuses to mount it.
pub fn private_procfs() -> Result<OwnedFd> {
    kernel::new_filesystem("proc", "proc", &[], 0).step(STEP, || "make a private procfs")
}

/// Gives this process the labels of `process` at its next execve.
///
/// # Errors
/// When a label is not known to the loaded policy.
pub fn apply(process: &Process, procfs: Option<&OwnedFd>) -> Result<()> {
    let Some(procfs) = procfs else { return Ok(()) };
    if let Some(profile) = wanted(process.apparmor_profile()).filter(|_| has_apparmor()) {
        let text = format!("exec {profile}");
        let written = match write_attribute(procfs.as_fd(), "thread-self/attr/apparmor/exec", &text) {
            // Before Linux 5.1 the modules shared one file. A profile that is not loaded gives the same error.
            Err(Errno::ENOENT) => write_attribute(procfs.as_fd(), "thread-self/attr/exec", &text),
            other => other,
        };
        written
            .step(STEP, || format!("set AppArmor profile {profile:?}"))
            .map_err(|failure| failure.advise("is the profile loaded? see aa-status"))?;
    }
    if let Some(label) = wanted(process.selinux_label()) {
        write_attribute(procfs.as_fd(), "thread-self/attr/exec", label)
            .step(STEP, || format!("set SELinux label {label:?}"))?;
    }
    Ok(())
}

fn write_attribute(procfs: BorrowedFd<'_>, path: &str, text: &str) -> nix::Result<()> {
    let file = openat(
        procfs,
        Path::new(path),
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    write(&file, text.as_bytes()).map(drop)
}

fn wanted(label: &Option<String>) -> Option<&str> {
    label.as_deref().filter(|label| !label.is_empty())
}

fn no_selinux(setting: &str) -> Failure {
    Failure::new(
        STEP,
        format!("{setting} is set, but SELinux is not enabled in this kernel"),
    )
    .advise("it needs CONFIG_SECURITY_SELINUX, selinux in the boot parameter lsm=, and a loaded policy")
}
