//! Kernel parameters of a container, through a procfs of our own that the image has never touched (CVE-2025-52881).
//! runtime-spec `config-linux.md`, Sysctl.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::write;
use oci_spec::runtime::LinuxNamespaceType;

use crate::bundle::Bundle;
use crate::failure::{Context, Failure, Result};
use crate::label::private_procfs;

const STEP: &str = "sysctl";

/// Parameters that belong to a namespace, by the beginning of their name.
const NAMESPACED: [(&str, LinuxNamespaceType); 8] = [
    ("kernel.msg", LinuxNamespaceType::Ipc),
    ("kernel.sem", LinuxNamespaceType::Ipc),
    ("kernel.shm", LinuxNamespaceType::Ipc),
    ("fs.mqueue.", LinuxNamespaceType::Ipc),
    ("net.", LinuxNamespaceType::Network),
    ("kernel.domainname", LinuxNamespaceType::Uts),
    ("kernel.hostname", LinuxNamespaceType::Uts),
    ("user.", LinuxNamespaceType::User),
];

/// The procfs to write through, when `bundle` sets parameters.
///
/// # Errors
/// When the kernel refuses to mount it.
pub(super) fn procfs(bundle: &Bundle) -> Result<Option<OwnedFd>> {
    let linux = bundle.spec.linux().as_ref();
    let wanted = linux.and_then(|linux| linux.sysctl().as_ref());
    match wanted {
        Some(wanted) if !wanted.is_empty() => private_procfs().map(Some),
        _ => Ok(None),
    }
}

/// Sets the parameters.
///
/// # Errors
/// When one does not belong to a namespace of the container, or the kernel refuses its value.
pub(super) fn apply(bundle: &Bundle, procfs: BorrowedFd<'_>) -> Result<()> {
    let linux = bundle.spec.linux().as_ref();
    for (key, value) in linux
        .and_then(|linux| linux.sysctl().as_ref())
        .into_iter()
        .flatten()
    {
        let path = path(key);
        let name = path.replace('/', ".");
        let is_namespaced = NAMESPACED
            .iter()
            .any(|(prefix, kind)| name.starts_with(prefix) && bundle.namespace(*kind).is_some());
        if !is_namespaced || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(
                Failure::new(STEP, format!("sysctl {key:?} is not the container's own"))
                    .advise("it would change the host"),
            );
        }
        let tried = || format!("set sysctl {key} to {value:?}");
        let path = CString::new(format!("sys/{path}")).step(STEP, tried)?;
        let file = openat(
            procfs,
            path.as_c_str(),
            OFlag::O_WRONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .step(STEP, tried)?;
        write(&file, value.as_bytes()).step(STEP, tried)?;
    }
    Ok(())
}

/// Dots separate directories, unless the first separator is a slash: then dots belong to names, as in the interface
/// `eth0.100` (`sysctl(8)`).
fn path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'/' => key.to_owned(),
        _ => key.replace('/', "\n").replace('.', "/").replace('\n', "."),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_come_in_two_forms() {
        assert_eq!(super::path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(
            super::path("net/ipv4/conf/eth0.100/forwarding"),
            "net/ipv4/conf/eth0.100/forwarding"
        );
        assert_eq!(
            super::path("net.ipv4.conf.eth0/100.forwarding"),
            "net/ipv4/conf/eth0.100/forwarding"
        );
    }
}
