//! The machine: what it is, and whether it can run containers.

use std::fmt;
use std::fs;
use std::path::Path;

use api::NodeFacts;
use runtime::cgroup;

/// Controllers without which limits cannot be kept.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Namespaces that every container has.
const NAMESPACES: [&str; 6] = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// What the machine is, as the server is told at the join.
pub fn facts() -> NodeFacts {
    let platform = oci::Platform::host();
    NodeFacts {
        architecture: platform.architecture,
        os: platform.os,
        kernel: setting("kernel/osrelease").unwrap_or_default(),
        cgroup: cgroup_mode().unwrap_or_default(),
        cpus: std::thread::available_parallelism()
            .ok()
            .and_then(|count| u32::try_from(count.get()).ok())
            .unwrap_or_default(),
        memory_bytes: memory_bytes().unwrap_or_default(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The kernel's boot id, which changes with every boot.
pub fn boot_id() -> String {
    setting("kernel/random/boot_id").unwrap_or_default()
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// How it is.
    pub verdict: Verdict,
}

/// How something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good(String),
    /// Containers run, but with less.
    Lesser(String),
    /// No container runs: what to do.
    Missing(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, text) = match &self.verdict {
            Verdict::Good(text) => ("ok     ", text),
            Verdict::Lesser(text) => ("warning", text),
            Verdict::Missing(text) => ("missing", text),
        };
        write!(formatter, "{mark}  {:<12} {text}", self.subject)
    }
}

/// Looks at everything that containers need of the machine.
pub fn check() -> Vec<Finding> {
    let finding = |subject, verdict| Finding { subject, verdict };
    vec![
        finding("privilege", privilege()),
        finding("namespaces", namespaces()),
        finding("cgroups", cgroups()),
        finding("overlay", overlay()),
        finding("seccomp", seccomp()),
        finding("forwarding", forwarding()),
    ]
}

fn privilege() -> Verdict {
    if nix::unistd::geteuid().is_root() {
        Verdict::Good("root".to_owned())
    } else {
        Verdict::Missing("run the agent as root".to_owned())
    }
}

fn namespaces() -> Verdict {
    let absent = |name: &&&str| !Path::new("/proc/self/ns").join(name).exists();
    let absent: Vec<&str> = NAMESPACES.iter().filter(absent).copied().collect();
    if absent.is_empty() {
        Verdict::Good(NAMESPACES.join(" "))
    } else {
        Verdict::Missing(format!(
            "this kernel has no {} namespaces: use one that has",
            absent.join(", ")
        ))
    }
}

fn cgroups() -> Verdict {
    let hierarchies = match cgroup::hierarchies() {
        Ok(hierarchies) => hierarchies,
        Err(error) => return Verdict::Missing(error.to_string()),
    };
    let has = |controller: &&&str| {
        hierarchies
            .iter()
            .any(|h| h.controllers.iter().any(|c| c == **controller))
    };
    let absent: Vec<&str> = CONTROLLERS.iter().filter(|c| !has(c)).copied().collect();
    let mode = cgroup_mode().unwrap_or_default();
    if absent.is_empty() {
        Verdict::Good(format!("{mode}, with {}", CONTROLLERS.join(" ")))
    } else {
        Verdict::Lesser(format!(
            "{mode}, without {}: limits of that kind are refused",
            absent.join(", ")
        ))
    }
}

fn overlay() -> Verdict {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.split_whitespace().last() == Some("overlay"))
    {
        return Verdict::Good("known to the kernel".to_owned());
    }
    let release = setting("kernel/osrelease").unwrap_or_default();
    let module = Path::new("/lib/modules")
        .join(release)
        .join("kernel/fs/overlayfs");
    if module.exists() {
        return Verdict::Good("a module, loaded when it is first used".to_owned());
    }
    Verdict::Missing("this kernel has no overlayfs: `modprobe overlay`, or use one that has".to_owned())
}

fn seccomp() -> Verdict {
    match setting("kernel/seccomp/actions_avail") {
        Some(actions) if actions.split(' ').any(|action| action == "errno") => {
            Verdict::Good("filters".to_owned())
        }
        _ => Verdict::Missing("this kernel has no seccomp filters: use one that has".to_owned()),
    }
}

fn forwarding() -> Verdict {
    match setting("net/ipv4/ip_forward").as_deref() {
        Some("1") => Verdict::Good("on".to_owned()),
        Some(_) => Verdict::Good("off, turned on by the agent".to_owned()),
        None => Verdict::Missing("this kernel has no IPv4: use one that has".to_owned()),
    }
}

fn cgroup_mode() -> Option<String> {
    let hierarchies = cgroup::hierarchies().ok()?;
    let has_v1 = hierarchies.iter().any(|h| !h.is_v2);
    let has_v2 = hierarchies.iter().any(|h| h.is_v2);
    let mode = match (has_v1, has_v2) {
        (true, true) => "hybrid",
        (false, _) => "v2",
        (true, false) => "v1",
    };
    Some(mode.to_owned())
}

fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let facts = facts();
        assert!(facts.cpus > 0 && facts.memory_bytes > 1 << 20, "{facts:?}");
        assert!(
            !facts.kernel.is_empty() && !facts.architecture.is_empty(),
            "{facts:?}"
        );
        assert!(
            ["v1", "v2", "hybrid"].contains(&facts.cgroup.as_str()),
            "{facts:?}"
        );
        assert_eq!(boot_id().len(), 36);
    }

    #[test]
    fn every_finding_reads_as_one_line() {
        for finding in check() {
            assert_eq!(finding.to_string().lines().count(), 1, "{finding}");
        }
    }
}
