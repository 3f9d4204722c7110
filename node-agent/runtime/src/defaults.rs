//! What a container gets when nobody asks for more: the parts of a bundle that decide its isolation.
//!
//! The agent writes these into `config.json`; the runtime itself adds nothing to a bundle. The values are
//! those images on public registries are tested with (Docker's), so that programs find what they expect.

use std::path::PathBuf;
use std::sync::OnceLock;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxSeccomp, Mount, MountBuilder,
};

use crate::seccomp::profile::Profile;

/// The default profile's text, as shipped in `config/seccomp.json`.
pub const SECCOMP_PROFILE: &str = include_str!("../../../config/seccomp.json");

/// The default system call filter for a container with the default capabilities.
pub fn seccomp() -> LinuxSeccomp {
    seccomp_for(&capability_set())
}

/// The default system call filter for a container whose bounding set is `granted`: some calls come with
/// the capability that guards them.
pub fn seccomp_for(granted: &Capabilities) -> LinuxSeccomp {
    static PROFILE: OnceLock<Profile> = OnceLock::new();
    PROFILE
        .get_or_init(|| Profile::parse(SECCOMP_PROFILE).expect("config/seccomp.json is checked by a test"))
        .resolve(granted)
}

/// The default capabilities as a set.
pub fn capability_set() -> Capabilities {
    [
        Capability::AuditWrite,
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fowner,
        Capability::Fsetid,
        Capability::Kill,
        Capability::Mknod,
        Capability::NetBindService,
        Capability::NetRaw,
        Capability::Setfcap,
        Capability::Setgid,
        Capability::Setpcap,
        Capability::Setuid,
        Capability::SysChroot,
    ]
    .into_iter()
    .collect()
}

/// The default capability sets: bounding, effective and permitted. Inheritable and ambient stay empty, so
/// that a program started as an ordinary user has none.
pub fn capabilities() -> LinuxCapabilities {
    capabilities_of(capability_set())
}

/// Capability sets that grant exactly `set` to root and bound everyone by it.
pub fn capabilities_of(set: Capabilities) -> LinuxCapabilities {
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .expect("every field has a value")
}

/// Paths whose content must not be seen.
pub fn masked_paths() -> Vec<String> {
    [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ]
    .map(str::to_owned)
    .into()
}

/// Paths that must not be written.
pub fn readonly_paths() -> Vec<String> {
    [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ]
    .map(str::to_owned)
    .into()
}

/// The mounts every container has, in mounting order.
pub fn mounts() -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
        ),
    ]
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(PathBuf::from(destination))
        .typ(kind)
        .source(PathBuf::from(source))
        .options(
            options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .expect("a destination is all a mount needs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_guarded_by_a_capability_come_with_it() {
        let names = |filter: &LinuxSeccomp| -> Vec<String> {
            filter
                .syscalls()
                .iter()
                .flatten()
                .flat_map(|rule| rule.names().clone())
                .collect()
        };
        let default = names(&seccomp());
        assert!(default.contains(&"read".to_owned()));
        assert!(default.contains(&"chroot".to_owned()));
        for denied in [
            "mount",
            "bpf",
            "keyctl",
            "io_uring_setup",
            "unshare",
            "kexec_load",
            "userfaultfd",
        ] {
            assert!(
                !default.contains(&denied.to_owned()),
                "{denied} is in the default filter"
            );
        }
        let mut granted = capability_set();
        granted.insert(Capability::SysAdmin);
        assert!(names(&seccomp_for(&granted)).contains(&"mount".to_owned()));
    }
}
